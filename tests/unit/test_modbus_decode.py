"""Bytes become the values that an independent encoder put in: every type, byte order and alignment."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modbus.address import TYPES, orders
from drivers.modbus.encode import encode
from drivers.modbus.scan import Scan
from gateway import quality as q
from gateway.model import Kind, Link
from tests.modbus_links import link_to, rows, tables_of

FORMATS = {"float16": ">e", "float32": ">f", "float64": ">d"}


def big_endian(kind: str, value: Any) -> bytes:
    """Encode without numpy and without the driver: bytes of the value, most significant first."""
    width = TYPES[kind].width
    if kind in FORMATS:
        return struct.pack(FORMATS[kind], value)
    if kind.startswith("bcd"):
        return bytes.fromhex(str(value).zfill(2 * width))
    return bytes((value >> 8 * (width - 1 - at)) & 0xFF for at in range(width))


def arrange(data: bytes, order: str) -> bytes:
    """Put the bytes where the letters say: A is the most significant."""
    return bytes(data[ord(letter) - ord("A")] for letter in order)


def scan_of(link: Link, memory: bytes, first: int = 0) -> dict[str, tuple[Any, int]]:
    """Decode a link's tags from a memory of holding registers that begins at address `first`."""
    from drivers.modbus.driver import ModbusDriver

    scan = Scan(ModbusDriver(link).plan(tables_of(link)))
    scan.begin(0)
    for block in scan.plan.blocks:
        request = block.request
        start = (request.address - first) * 2
        scan.buffer[request.place : request.place + request.count * 2] = np.frombuffer(
            memory[start : start + request.count * 2], np.uint8
        )
    return rows(scan.batches(1))


def values(kind: str) -> st.SearchStrategy[Any]:
    width = TYPES[kind].width
    if kind in FORMATS:
        return st.floats(width=8 * width, allow_nan=False)  # type: ignore[arg-type]
    if kind.startswith("bcd"):
        return st.integers(0, 10 ** (2 * width) - 1)
    if kind.startswith("u"):
        return st.integers(0, 2 ** (8 * width) - 1)
    return st.integers(-(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1)


NUMBERS = [name for name, each in TYPES.items() if each.kind in (Kind.FLOAT, Kind.INT, Kind.UINT) and each.width > 1]
CASES = [(kind, order) for kind in NUMBERS for order in orders(TYPES[kind].width)]


@pytest.mark.parametrize(("kind", "order"), CASES, ids=[f"{kind} {order}" for kind, order in CASES])
@settings(max_examples=25)
@given(data=st.data())
def test_every_type_in_every_order_at_every_alignment_is_what_was_encoded(
    kind: str, order: str, data: st.DataObject
) -> None:
    """Byte order is the most frequent support case of every Modbus gateway."""
    width = TYPES[kind].width // 2
    drawn = data.draw(st.lists(st.tuples(st.integers(0, 3), values(kind)), min_size=1, max_size=6))
    memory, tags, expected, at = b"", {}, {}, 0
    for number, (gap, value) in enumerate(drawn):
        memory += b"\xa5\x5a" * gap + arrange(big_endian(kind, value), order)
        at += gap
        tags[f"t{number}"] = f"holding:{at} {kind} {order}"
        expected[f"t{number}"] = value
        at += width
    found = scan_of(link_to("tcp://127.0.0.1", tags), memory)
    assert {name: quality for name, (_, quality) in found.items()} == dict.fromkeys(tags, q.GOOD)
    assert {name: value for name, (value, _) in found.items()} == expected


@settings(max_examples=60)
@given(data=st.data())
def test_a_mixture_of_types_decodes_as_each_alone(data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.sampled_from(CASES), min_size=1, max_size=30))
    memory, tags, expected = b"", {}, {}
    for number, (kind, order) in enumerate(drawn):
        value = data.draw(values(kind))
        tags[f"t{number}"] = f"holding:{len(memory) // 2} {kind} {order}"
        expected[f"t{number}"] = (value, q.GOOD)
        memory += arrange(big_endian(kind, value), order)
    assert scan_of(link_to("tcp://127.0.0.1", tags), memory) == expected


@settings(max_examples=20)
@given(data=st.data())
@pytest.mark.parametrize(("kind", "order"), CASES, ids=[f"{kind} {order}" for kind, order in CASES])
def test_what_a_write_sends_is_what_the_independent_encoder_gives(kind: str, order: str, data: st.DataObject) -> None:
    value = data.draw(values(kind).filter(math.isfinite))
    source = tables_of(link_to("tcp://h", {"t": f"holding:0 {kind} {order}"}))[0].tags[0].source
    assert encode(source, value) == arrange(big_endian(kind, value), order)


@given(word=st.integers(0, 0xFFFF), first=st.integers(0, 15), size=st.integers(1, 16))
def test_bits_are_cut_out_of_a_register(word: int, first: int, size: int) -> None:
    last = min(first + size - 1, 15)
    tags = {"bits": f"holding:0 bits {first}..{last}", "bit": f"holding:0 bit {first}", "all": "holding:0"}
    found = scan_of(link_to("tcp://h", tags), word.to_bytes(2, "big"))
    assert found["bits"][0] == word >> first & ((1 << (last - first + 1)) - 1)
    assert found["bit"][0] is bool(word >> first & 1)
    assert found["all"][0] == word


def test_bits_of_a_swapped_double_register_are_those_of_its_value() -> None:
    memory = bytes.fromhex("5678 1234")
    tags = {"low": "holding:0 uint32 CDAB bits 0..7", "high": "holding:0 uint32 CDAB bits 24..31"}
    assert scan_of(link_to("tcp://h", tags), memory) == {"low": (0x78, q.GOOD), "high": (0x12, q.GOOD)}


def test_halves_of_a_register_are_signed_or_not() -> None:
    tags = {
        "a": "holding:0 int8 high", "b": "holding:0 int8 low", "c": "holding:0 uint8 high", "d": "holding:0 uint8 low",
        "e": "holding:0 uint8[4] high",
    }  # fmt: skip
    found = scan_of(link_to("tcp://h", tags), bytes.fromhex("fe7f 0180"))
    assert {name: value for name, (value, _) in found.items()} == {
        "a": -2, "b": 127, "c": 254, "d": 127, "e[0]": 254, "e[1]": 127, "e[2]": 1, "e[3]": 128,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "data", "expected"),
    [
        ("text 8", b"PRESS-1\0", "PRESS-1"),
        ("text 8", b"PRESS   ", "PRESS"),
        ("text 8", b"AB\0garbage"[:8], "AB"),
        ("text 7", b"ABCDEFGH", "ABCDEFG"),
        ("text 8 BA", b"RPSE-S\x001", "PRES" + "S-1"),
        ("text 6 gbk", "厂云桥".encode("gbk"), "厂云桥"),
        ("text 9 utf-8", "厂云桥".encode() + b"\0", "厂云桥"),
        ("text 4 low", b"\0A\0B\0C\0 ", "ABC"),
        ("text 4 high", b"A\0B\0C\0D\0", "ABCD"),
        ("text 4", b"0012", "0012"),  # a number in a text stays the text it is
        ("unix32", (1764000000).to_bytes(4, "big"), "2025-11-24T16:00:00Z"),
        ("unix32 CDAB", bytes.fromhex("8100 6924"), "2025-11-24T16:00:00Z"),
        ("bcd-time", bytes.fromhex("261122 011218"), "2026-11-22T01:12:18"),
        ("bcd-time FEDCBA", bytes.fromhex("181201 221126"), "2026-11-22T01:12:18"),
        # IEC 60870-5-4: year 26, month 11, day 22 (a Sunday), 01:12, 18.500 s
        ("iec-time", bytes((0, 26, 11, 7 << 5 | 22, 1, 12)) + (18500).to_bytes(2, "big"), "2026-11-22T01:12:18.500"),
        ("iec-time HGFEDCBA", (18500).to_bytes(2, "little") + bytes((12, 1, 22, 11, 26, 0)), "2026-11-22T01:12:18.500"),
    ],
)
def test_texts_and_times_are_read_as_people_write_them(address: str, data: bytes, expected: str) -> None:
    found = scan_of(link_to("tcp://h", {"t": f"holding:0 {address}"}), data.ljust(40, b"\0"))
    assert found == {"t": (expected, q.GOOD)}


@pytest.mark.parametrize(
    ("address", "data"),
    [
        ("text 4", b"\xff\xfe\0\0"),
        ("text 4 utf-8", b"\xc3\x28\0\0"),
        ("bcd16", bytes.fromhex("1a23")),
        ("bcd-time", bytes.fromhex("26ff22 011218")),
        ("bcd-time", bytes.fromhex("261322 011218")),
        ("iec-time", bytes((0, 26, 11, 22, 1, 12 | 0x80, 0, 0))),  # the clock says of itself that it is not set
        ("iec-time", bytes((0, 26, 2, 30, 1, 12, 0, 0))),
    ],
)
def test_what_is_no_value_of_its_type_is_bad(address: str, data: bytes) -> None:
    ((value, quality),) = scan_of(link_to("tcp://h", {"t": f"holding:0 {address}"}), data).values()
    assert quality == q.BAD_DECODING_ERROR
    assert value in ("", 0) or math.isnan(value)


@pytest.mark.parametrize(
    ("tag", "data", "absent"),
    [
        ({"address": "holding:0 int16", "absent": "sunspec"}, "8000", True),
        ({"address": "holding:0 int16", "absent": "sunspec"}, "8001", False),
        ({"address": "holding:0 uint32 CDAB", "absent": "sunspec"}, "ffff ffff", True),
        ({"address": "holding:0 uint32 CDAB", "absent": [0x12345678]}, "5678 1234", True),
        ({"address": "holding:0 uint64", "absent": "sunspec"}, "ffff ffff ffff ffff", True),
        # one less than the pattern: as a float64 the two are the same number
        ({"address": "holding:0 uint64", "absent": "sunspec"}, "ffff ffff ffff fffe", False),
        ({"address": "holding:0 int64", "absent": [0x7FFFFFFFFFFFFFFF]}, "7fff ffff ffff fffe", False),
        ({"address": "holding:0 float32", "absent": "sunspec"}, "7fc0 0000", True),
        ({"address": "holding:0 text 4", "absent": "sunspec"}, "0000 0000", True),
        ({"address": "holding:0 text 4", "absent": "sunspec"}, "5300 0000", False),
        ({"address": "holding:0 text 4"}, "0000 0000", False),
        ({"address": "holding:0 unix32", "absent": [0xFFFFFFFF]}, "ffff ffff", True),
        ({"address": "holding:0 int16", "absent": [0x7FFF, 0x8000]}, "7fff", True),
    ],
)
def test_patterns_that_mean_no_value_are_compared_exactly(tag: dict[str, Any], data: str, absent: bool) -> None:
    ((_, quality),) = scan_of(link_to("tcp://h", {"t": tag}), bytes.fromhex(data)).values()
    assert quality == (q.BAD_NO_DATA if absent else q.GOOD)


def test_one_tag_without_patterns_beside_one_with_them_keeps_every_value() -> None:
    tags = {"a": {"address": "holding:0 uint16", "absent": [0xFFFF]}, "b": "holding:1 uint16"}
    found = scan_of(link_to("tcp://h", tags), bytes.fromhex("ffff ffff"))
    assert found["a"][1] == q.BAD_NO_DATA
    assert found["b"] == (65535, q.GOOD)


@pytest.mark.parametrize(
    ("raw", "power", "expected"), [(231, -1, 23.1), (-4567, -3, -4.567), (12, 3, 12000.0), (7, 0, 7.0), (1, -22, 1e-22)]
)
def test_a_scale_factor_from_a_register_leaves_no_decimal_noise(raw: int, power: int, expected: float) -> None:
    tags = {"t": {"address": "holding:0 int16", "scale_power": "holding:5"}}
    memory = struct.pack(">hhhhhh", raw, 0, 0, 0, 0, power)
    assert scan_of(link_to("tcp://h", tags), memory) == {"t": (expected, q.GOOD)}


@pytest.mark.parametrize(("power", "status"), [(-32768, q.BAD_NO_DATA), (400, q.BAD_DECODING_ERROR)])
def test_a_scale_factor_that_is_none_makes_the_value_bad(power: int, status: int) -> None:
    tags = {"t": {"address": "holding:0 int16", "scale_power": "holding:1"}, "u": "holding:0 int16"}
    found = scan_of(link_to("tcp://h", tags), struct.pack(">hh", 5, power))
    assert found["t"][1] == status
    assert found["u"] == (5, q.GOOD)


def test_flag_words_become_the_names_of_their_bits() -> None:
    tags = {"t": {"address": "holding:0", "flags": {0: "overload", 3: "door open"}}}
    assert scan_of(link_to("tcp://h", tags), bytes.fromhex("0009")) == {"t": ("overload, door open", q.GOOD)}
    assert scan_of(link_to("tcp://h", tags), bytes.fromhex("0000")) == {"t": ("", q.GOOD)}
    assert scan_of(link_to("tcp://h", tags), bytes.fromhex("0011")) == {"t": ("overload, bit 4", q.GOOD)}


def test_64_bit_counters_are_exact_above_2_to_the_53() -> None:
    """Elsewhere energy counters lose increments because they travel as floats."""
    tags = {"u": "holding:0 uint64", "i": "holding:4 int64 CDAB"}
    memory = (2**64 - 3).to_bytes(8, "big") + arrange((-(2**62) - 1).to_bytes(8, "big", signed=True), "GHEFCDAB")
    assert scan_of(link_to("tcp://h", tags), memory) == {"u": (2**64 - 3, q.GOOD), "i": (-(2**62) - 1, q.GOOD)}


EVERYTHING: dict[str, Any] = {
    **{f"{kind} {order}": f"holding:{4 * number} {kind} {order}" for number, (kind, order) in enumerate(CASES)},
    "scaled": {"address": "holding:400 float64", "scale_power": "holding:404"},
    "absent": {"address": "holding:400 uint64", "absent": "sunspec"},
    "flags": {"address": "holding:401", "flags": {0: "a"}},
    **{words: f"holding:{410 + 10 * number} {words}" for number, words in enumerate((
        "text 20", "text 20 gbk BA", "text 10 utf-8 low", "iec-time", "unix32", "bcd-time", "int8",
        "bits 3..9", "bit 2",
    ))},
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), fill=st.sampled_from([None, 0x00, 0x7F, 0x80, 0xFF]))
def test_arbitrary_registers_become_rows_without_raising_or_warning(seed: int, fill: int | None) -> None:
    """A device may hold anything; a defect here would take a whole link down at every scan."""
    memory = np.random.default_rng(seed).bytes(1200) if fill is None else bytes((fill,)) * 1200
    found = scan_of(link_to("tcp://h", EVERYTHING), memory)
    assert set(found) == set(EVERYTHING)


def test_signalling_nans_and_overflowing_factors_are_values_like_any_other() -> None:
    tags = {"nan": "holding:0 float32", "big": {"address": "holding:2 float64", "scale_power": "holding:6"}}
    memory = bytes.fromhex("7f800001") + struct.pack(">d", 1e300) + struct.pack(">h", 22)
    found = scan_of(link_to("tcp://h", tags), memory)
    assert math.isnan(found["nan"][0])
    assert math.isinf(found["big"][0])
