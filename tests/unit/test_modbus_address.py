"""The address grammar: what is meant, what is refused, and that the refusal helps."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drivers.modbus.endpoint import parse_url
from drivers.modbus.spec import ModbusDevice, ModbusLink, ModbusTag, resolve
from gateway.model import Kind

LINK = ModbusLink.model_validate({"driver": "modbus", "url": "tcp://h"})


def resolved(tag: Any, **device: Any) -> list[Any]:
    return resolve(ModbusTag.model_validate(tag), ModbusDevice.model_validate(device), LINK)


@pytest.mark.parametrize(
    ("line", "expected", "kind"),
    [
        ("holding:100", "holding:100 uint16", Kind.FLOAT),
        ("holding:100 float32 CDAB", "holding:100 float32 CDAB", Kind.FLOAT),
        ("holding:0x2102", "holding:8450 uint16", Kind.FLOAT),
        ("input:2102H int16", "input:8450 int16", Kind.FLOAT),
        ("40101", "holding:100 uint16", Kind.FLOAT),
        ("400101", "holding:100 uint16", Kind.FLOAT),
        ("465536", "holding:65535 uint16", Kind.FLOAT),
        ("30001 float32", "input:0 float32", Kind.FLOAT),
        ("10001", "discrete:0", Kind.BOOL),
        ("00001", "coil:0", Kind.BOOL),
        ("holding:40101", "holding:40101 uint16", Kind.FLOAT),  # with an area the number is meant exactly
        ("holding:1 uint64", "holding:1 uint64", Kind.UINT),
        ("holding:1 int64 CDAB", "holding:1 int64 GHEFCDAB", Kind.INT),
        ("holding:1 float64 EFGHABCD", "holding:1 float64 EFGHABCD", Kind.FLOAT),
        ("holding:10 bit 3", "holding:10 uint16 bit 3", Kind.BOOL),
        ("holding:10 bits 4..7", "holding:10 uint16 bits 4..7", Kind.FLOAT),
        ("holding:200 text 20 gbk BA", "holding:200 text 20 gbk BA", Kind.TEXT),
        ("holding:200 iec-time", "holding:200 iec-time", Kind.TEXT),
    ],
)
def test_an_address_means_one_place(line: str, expected: str, kind: Kind) -> None:
    (found,) = resolved(line)
    assert (str(found.source), found.kind) == (expected, kind)


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("101", ["holding:101", "holding:100", "could mean"]),
        ("40000", ["holding:0", "holding:40000", "could mean"]),
        ("0x2102", ["holding:0x2102", "input:0x2102", "could mean"]),
        ("2102H", ["holding:0x2102", "input:0x2102"]),
        ("%MW100", ["holding:100"]),
        ("hodling:1", ["did you mean holding?"]),
        ("hr:1", ["did you mean holding?"]),
        ("HR100", ["holding:100"]),
        ("50001", ["begins with 0 (coil)"]),
        ("holding:10A0", ["0x10A0 or 10A0H"]),
        ("holding:70000", ["holding:65535"]),
        ("holding:65535 float32", ["65536"]),
        ("holding:1 flaot32", ["did you mean float32?"]),
        ("holding:1 real", ["did you mean float32?"]),
        ("holding:1 float32 cdab", ["did you mean CDAB?"]),
        ("holding:1 float32 CDBA", ["ABCD BADC CDAB DCBA"]),
        ("holding:1 uint16 CDAB", ["4 bytes", "has 2"]),
        ("holding:1 float32 ABCD DCBA", ["order twice"]),
        ("holding:1 float32 little-endian", ["did you mean DCBA?"]),
        ("coil:1 uint16", ["single bit"]),
        ("holding:1 bool", ["bit N"]),
        ("holding:1 bit 16", ["bits 0 to 15"]),
        ("holding:1 bits 7..4", ["bits 4..7"]),
        ("holding:1 float32 bit 3", ["not from float32"]),
        ("holding:1 text", ["length"]),
        ("holding:1 text 400", ["250"]),
        ("holding:1 20", ["belongs to text"]),
        ("holding:1 float32[0]", ["1 to 2000"]),
        ("", ["expected an address"]),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused_with_what_was_expected(
    line: str, fragments: list[str]
) -> None:
    """A misspelt byte order that is accepted in silence gives absurd values months later."""
    with pytest.raises(ValueError) as refusal:
        resolved(line)
    for fragment in fragments:
        assert fragment in str(refusal.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_sentence(line: str) -> None:
    with suppress(ValueError):
        assert resolved({"address": line})


@given(
    st.sampled_from(["holding", "input"]), st.integers(0, 65000), st.sampled_from(["uint16", "float32 CDAB", "int64"])
)
def test_a_source_written_out_reads_back_as_itself(area: str, address: int, type_: str) -> None:
    (found,) = resolved(f"{area}:{address} {type_}")
    (again,) = resolved(str(found.source))
    assert again == found


def test_the_long_form_says_the_same_as_the_line() -> None:
    (line,) = resolved("holding:100 float32 CDAB")
    (keys,) = resolved({"address": "holding:100", "type": "float32", "order": "CDAB"})
    assert keys == line
    (line,) = resolved("holding:200 text 20 gbk BA")
    (keys,) = resolved({"address": "holding:200", "type": "text", "length": 20, "encoding": "gbk", "order": "BA"})
    assert keys == line


def test_line_and_keys_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="type twice"):
        resolved({"address": "holding:100 float32", "type": "int32"})


def test_a_reference_that_yaml_reads_as_a_number_is_the_reference() -> None:
    (found,) = resolved(40101)
    assert str(found.source) == "holding:100 uint16"
    (found,) = resolved({"address": 40101, "scale": 0.1})
    assert str(found.source) == "holding:100 uint16"


def test_a_devices_byte_order_holds_for_tags_without_one() -> None:
    orders = {
        "holding:0 float32": "CDAB", "holding:0 uint64": "GHEFCDAB", "holding:0 uint16": "AB",
        "holding:0 float32 ABCD": "ABCD", "holding:0 text 4": "AB",
    }  # fmt: skip
    for line, order in orders.items():
        (found,) = resolved(line, order="CDAB")
        assert found.source.order == order
    (found,) = resolved("holding:0 uint16", order="DCBA")
    assert found.source.order == "BA"


def test_arrays_make_one_tag_per_element() -> None:
    found = resolved("holding:100 float32[3] CDAB")
    assert [(each.suffix, each.source.address) for each in found] == [("[0]", 100), ("[1]", 102), ("[2]", 104)]
    assert [each.source.address for each in resolved("coil:8 bool[3]")] == [8, 9, 10]


def test_scaled_64_bit_integers_are_held_as_floats_and_unscaled_ones_exactly() -> None:
    assert resolved("holding:0 uint64")[0].kind is Kind.UINT
    assert resolved({"address": "holding:0 uint64", "scale": 0.001})[0].kind is Kind.FLOAT
    assert resolved({"address": "holding:0 int64", "scale_power": "holding:9"})[0].kind is Kind.FLOAT


def test_read_only_areas_cannot_be_writable() -> None:
    for line in ("input:1", "discrete:1"):
        with pytest.raises(ValueError, match="read-only"):
            resolved({"address": line, "writable": True})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("tcp://192.168.1.20", "192.168.1.20:502"),
        ("tcp://[fe80::1%25eth0]:1502", "[fe80::1%eth0]:1502"),
        ("tls://plc.example", "plc.example:802"),
        ("udp://h:5020", "h:5020"),
        ("rtu:///dev/ttyUSB0?baud=19200&parity=E&stop=2", "/dev/ttyUSB0 19200 8E2"),
        ("ascii:///dev/ttyS1?bits=7&parity=O", "/dev/ttyS1 9600 7O1"),
        ("rtu+tcp://10.0.0.9:4001", "10.0.0.9:4001"),
        ("ascii+tcp://10.0.0.9:4001", "10.0.0.9:4001"),
    ],
)
def test_urls_say_transport_place_and_line(url: str, shown: str) -> None:
    assert str(parse_url(url)) == shown


@pytest.mark.parametrize(
    ("url", "fragment"),
    [
        ("tpc://h", "did you mean tcp://?"), ("192.168.1.20:502", "did you mean tcp://192.168.1.20:502?"),
        ("rtu://", "serial port"), ("rtu+tcp://h", "4001"), ("tcp://", "expected a host"),
        ("tcp://h/1", "unit_id"), ("tcp://h:0x5", "port"), ("rtu:///dev/x?buad=9600", "did you mean baud?"),
        ("rtu:///dev/x?parity=X", "N or E or O"), ("rtu:///dev/x?bits=7", "8 data bits"),
        ("tcp://h?baud=9600", "do not belong"), ("rtu:///dev/x?baud=fast", "9600"),
    ],
)  # fmt: skip
def test_a_url_that_is_none_says_what_was_expected(url: str, fragment: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ModbusLink.model_validate({"driver": "modbus", "url": url})
    assert fragment in str(refusal.value)


def test_loading_the_spec_imports_no_protocol_library() -> None:
    """`check` on a machine without the libraries, and 75 MB with 10,000 tags."""
    code = "import sys, drivers.modbus.spec; sys.exit('pymodbus' in sys.modules or 'numpy.testing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
