"""The columnar decoder against asyncua's own on arbitrary DataValues, and against Part 6 where asyncua errs."""

from __future__ import annotations

import struct
import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, variant_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.opcua import values, wire
from drivers.opcua.decode import Columns, decode
from gateway import quality as q
from gateway.model import Kind

V = ua.VariantType
TEXTS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8))
NODE_IDS = st.one_of(
    st.builds(ua.NodeId, st.integers(0, 2**32 - 1), st.integers(0, 65535)),
    st.builds(lambda text: ua.NodeId(text, 3), st.text("abc", max_size=5)),
    st.builds(lambda guid: ua.NodeId(guid, 4), st.uuids()),
)
SCALARS: dict[ua.VariantType, st.SearchStrategy[Any]] = {
    V.Boolean: st.booleans(),
    V.SByte: st.integers(-128, 127),
    V.Byte: st.integers(0, 255),
    V.Int16: st.integers(-(2**15), 2**15 - 1),
    V.UInt16: st.integers(0, 2**16 - 1),
    V.Int32: st.integers(-(2**31), 2**31 - 1),
    V.UInt32: st.integers(0, 2**32 - 1),
    V.Int64: st.integers(-(2**63), 2**63 - 1),
    V.UInt64: st.integers(0, 2**64 - 1),
    V.Float: st.floats(width=32),
    V.Double: st.floats(),
    V.String: TEXTS,
    V.DateTime: st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    V.XmlElement: st.builds(ua.XmlElement, st.text("ab<>é", max_size=8)),
    V.ExpandedNodeId: NODE_IDS,
    V.Guid: st.uuids(),
    V.ByteString: st.one_of(st.none(), st.binary(max_size=8)),
    V.NodeId: NODE_IDS,
    V.StatusCode: st.builds(ua.StatusCode, st.integers(0, 2**32 - 1)),
    V.QualifiedName: st.builds(ua.QualifiedName, st.text("ab", max_size=3), st.integers(0, 9)),
    V.LocalizedText: st.builds(ua.LocalizedText, TEXTS, TEXTS),
    V.ExtensionObject: st.builds(ua.Range, st.floats(allow_nan=False), st.floats(allow_nan=False)),
    V.DiagnosticInfo: st.builds(
        lambda *fields: ua.DiagnosticInfo(SymbolicId=fields[0], AdditionalInfo=fields[1]),
        st.one_of(st.none(), st.integers(0, 9)), TEXTS,
    ),
}  # fmt: skip


@st.composite
def variants(draw: st.DrawFn) -> bytes:
    """The bytes of a Variant: any type, scalar, array, matrix, nested, or null."""
    form = draw(st.sampled_from(["scalar", "scalar", "scalar", "array", "matrix", "variants", "null"]))
    if form == "null":
        return b"\0"
    kind = draw(st.sampled_from(list(SCALARS)))
    if form == "scalar":
        return variant_to_binary(ua.Variant(draw(SCALARS[kind]), kind))
    if form == "matrix":
        rows = [[draw(SCALARS[V.Int16]) for _ in range(2)] for _ in range(3)]
        return variant_to_binary(ua.Variant(rows, V.Int16, Dimensions=[3, 2]))
    array = draw(st.lists(SCALARS[kind], max_size=4))
    inner = variant_to_binary(ua.Variant(array, kind, is_array=True))
    if form == "array":
        return inner
    return b"\x98" + struct.pack("<i", 1) + inner


@st.composite
def data_values(draw: st.DrawFn, variant: st.SearchStrategy[bytes] | None = None) -> bytes:
    """The bytes of a DataValue in the order of Part 6, 5.2.2.17, under any mask."""
    mask = draw(st.integers(0, 0x3F))
    parts = [bytes((mask,))]
    if mask & 0x01:
        parts.append(draw(variant if variant is not None else variants()))
    if mask & 0x02:
        parts.append(struct.pack("<I", draw(st.one_of(st.integers(0, 2**32 - 1), st.just(0), st.just(q.BAD_TIMEOUT)))))
    ticks = st.one_of(st.integers(wire.EPOCH, wire.EPOCH + 2**53), st.integers(-(2**63), 2**63 - 1))
    for bit, strategy, code in (
        (0x04, ticks, "<q"),
        (0x10, st.integers(0, 65535), "<H"),
        (0x08, ticks, "<q"),
        (0x20, st.integers(0, 65535), "<H"),
    ):
        if mask & bit:
            parts.append(struct.pack(code, draw(strategy)))
    return b"".join(parts)


def same_float(a: float, b: float) -> bool:
    return struct.pack("<d", a) == struct.pack("<d", b) or (np.isnan(a) and np.isnan(b))


def check_row(columns: Columns, row: int, raw: bytes) -> None:
    """Compare one row with what asyncua makes of the same bytes (times only where asyncua keeps their order)."""
    expected = struct_from_binary(ua.DataValue, Buffer(raw))
    mask = raw[0]
    assert columns.status[row] == (expected.StatusCode.value if mask & 0x02 else 0)
    if not (mask & 0x10 and mask & 0x08):
        for column, moment in ((columns.source, expected.SourceTimestamp), (columns.server, expected.ServerTimestamp)):
            if moment is None:
                assert column[row] == 0
            elif column[row]:
                assert int(column[row]) // 1000 == round(moment.timestamp() * 1_000_000)
    variant = expected.Value
    if not mask & 0x01 or variant.VariantType is V.Null:
        assert columns.type[row] == 0
        return
    is_array = bool(columns.type[row] & wire.ARRAY)
    assert is_array == bool(variant.is_array)
    assert columns.type[row] & 0x3F == variant.VariantType.value
    kind = variant.VariantType
    if row in columns.spans:
        assert kind not in (V.Double, V.Int32, V.Int64) or is_array
        assert repr(values.variant(columns.spans[row])) == repr(variant)
    elif kind in (V.Int64, V.UInt64):
        assert int(columns.bits[row]) % 2**64 == variant.Value % 2**64
    elif kind is V.StatusCode:
        assert columns.number[row] == variant.Value.value
    else:
        assert same_float(float(columns.number[row]), float(variant.Value))


@given(st.lists(data_values(), max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_decoder_equals_asyncua_s_for_arbitrary_values(raws: list[bytes], handles: bool) -> None:
    """Any mask, any type, arrays, diagnostics, nested variants: what is not a run is read on its own, never guessed."""
    columns = Columns.empty(len(raws))
    parts = [(struct.pack("<I", row * 7) if handles else b"") + raw for row, raw in enumerate(raws)]
    body = b"\xee" * 5 + b"".join(parts) + b"tail"
    assert decode(body, 5, columns, 0, len(raws), handles) == len(body) - 4
    for row, raw in enumerate(raws):
        check_row(columns, row, raw)
        assert columns.handle[row] == (row * 7 if handles else 0)


@given(st.lists(st.tuples(data_values(), st.integers(1, 90)), min_size=1, max_size=5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_runs_of_any_length_and_their_borders_are_exact(runs: list[tuple[bytes, int]], handles: bool) -> None:
    """The borders between runs are where a stride-based reader would go wrong in silence."""
    raws = [raw for raw, length in runs for _ in range(length)]
    columns = Columns.empty(len(raws))
    body = b"".join((b"\1\0\0\0" if handles else b"") + raw for raw in raws)
    assert decode(body, 0, columns, 0, len(raws), handles) == len(body)
    row = 0
    for raw, length in runs:
        check_row(columns, row, raw)
        check_row(columns, row + length - 1, raw)
        if row not in columns.spans:
            rows = slice(row, row + length)
            assert len(set(columns.status[rows].tolist())) == 1
            assert len({struct.pack("<d", number) for number in columns.number[rows].tolist()}) == 1
            assert len(set(columns.bits[rows].tolist())) == 1
            assert len(set(columns.source[rows].tolist())) == 1
        row += length


@given(st.lists(st.tuples(data_values(), st.integers(1, 20)), min_size=1, max_size=3), st.data())
@settings(max_examples=200, deadline=None)
def test_a_message_that_ends_early_is_malformed(runs: list[tuple[bytes, int]], data: st.DataObject) -> None:
    """A cut message must never become readings."""
    raws = [raw for raw, length in runs for _ in range(length)]
    body = b"".join(raws)
    cut = data.draw(st.integers(0, len(body) - 1))
    columns = Columns.empty(len(raws))
    with pytest.raises(wire.Malformed):
        decode(body[:cut], 0, columns, 0, len(raws))


@given(st.binary(max_size=200), st.integers(1, 20))
@settings(max_examples=500, deadline=None)
def test_garbage_is_decoded_or_malformed_and_nothing_else(body: bytes, count: int) -> None:
    columns = Columns.empty(count)
    try:
        decode(body, 0, columns, 0, count)
    except wire.Malformed:
        return
    for kind in Kind:
        values.gather(columns, kind, np.arange(count))


def test_picoseconds_lie_behind_their_own_time() -> None:
    """Part 6, 5.2.2.17. asyncua reads both times first and so shifts the server's time by two bytes."""
    ticks = wire.EPOCH + 10_000_000
    raw = b"\x3c" + struct.pack("<qHqH", ticks, 4200, ticks + 1, 900)
    columns = Columns.empty(40)
    assert decode(raw * 40, 0, columns, 0, 40) == len(raw) * 40
    assert set(columns.source.tolist()) == {1_000_000_042}
    assert set(columns.server.tolist()) == {1_000_000_109}
    single = Columns.empty(1)
    decode(raw, 0, single, 0, 1)
    assert (single.source[0], single.server[0]) == (1_000_000_042, 1_000_000_109)


@given(st.lists(variants(), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_walking_over_a_value_ends_where_decoding_it_ends(raws: list[bytes]) -> None:
    body, at = b"".join(raws), 0
    for raw in raws:
        at += len(raw)
        assert wire.skip_variant(body, at - len(raw)) == at


@given(
    st.builds(
        ua.DiagnosticInfo, SymbolicId=st.one_of(st.none(), st.integers(0, 9)), AdditionalInfo=TEXTS,
        InnerStatusCode=st.one_of(st.none(), st.just(ua.StatusCode(5))),
    ),
    st.lists(st.text("ab", max_size=3), max_size=3), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_response_s_header_is_read_with_diagnostics_and_strings(
    diagnostics: ua.DiagnosticInfo, strings: list[str], result: int
) -> None:
    header = ua.ResponseHeader(ServiceResult=ua.StatusCode(result), ServiceDiagnostics=diagnostics, StringTable=strings)
    body = wire.READ_RESPONSE + struct_to_binary(header)
    assert wire.response(body + b"rest", 4) == (result, len(body))


def columns_of(*raws: bytes) -> Columns:
    columns = Columns.empty(len(raws))
    decode(b"".join(raws), 0, columns, 0, len(raws))
    return columns


def scalar(kind: ua.VariantType, value: Any, status: int = 0) -> bytes:
    return (
        (b"\x03" if status else b"\x01")
        + variant_to_binary(ua.Variant(value, kind))
        + (struct.pack("<I", status) if status else b"")
    )


def test_a_type_the_kind_cannot_hold_exactly_is_a_mismatch_even_for_a_small_value() -> None:
    """Else a counter would be exact today and rounded once it has grown past 2^53."""
    columns = columns_of(scalar(V.Int64, 5), scalar(V.Double, 1.5), scalar(V.String, "x"), scalar(V.UInt32, 7))
    value, status = values.gather(columns, Kind.FLOAT, np.arange(4))
    assert status.tolist() == [q.BAD_TYPE_MISMATCH, q.GOOD, q.BAD_TYPE_MISMATCH, q.GOOD]
    assert value[1] == 1.5
    assert value[3] == 7.0
    assert np.isnan(value[[0, 2]]).all()
    value, status = values.gather(columns, Kind.INT, np.arange(4))
    assert status.tolist() == [q.GOOD, q.BAD_TYPE_MISMATCH, q.BAD_TYPE_MISMATCH, q.GOOD]
    assert value.tolist() == [5, 0, 0, 7]
    assert value.dtype == np.int64


def test_64_bit_integers_are_exact() -> None:
    columns = columns_of(scalar(V.Int64, 2**53 + 1), scalar(V.Int64, -(2**63)), scalar(V.UInt64, 2**64 - 1))
    assert values.gather(columns, Kind.INT, np.array([0, 1]))[0].tolist() == [2**53 + 1, -(2**63)]
    value, status = values.gather(columns, Kind.UINT, np.array([0, 2]))
    assert value.tolist() == [0, 2**64 - 1]
    assert status.tolist() == [q.BAD_TYPE_MISMATCH, q.GOOD]


def test_a_value_under_a_bad_code_is_no_value_and_an_uncertain_one_is_kept() -> None:
    """The last good value under a Bad code must not be drawn as if it were measured."""
    sensor = 0x808C0400  # BadSensorFailure with limit bits: kept to the 32nd bit
    columns = columns_of(
        scalar(V.Double, 1.0, sensor), scalar(V.Double, 2.0, 0x40920000), b"\x02" + struct.pack("<I", sensor), b"\x00",
        scalar(V.String, "old", sensor),
    )  # fmt: skip
    value, status = values.gather(columns, Kind.FLOAT, np.arange(4))
    assert status.tolist() == [sensor, 0x40920000, sensor, q.BAD_NO_DATA]
    assert np.isnan(value).tolist() == [True, False, True, True]
    assert values.gather(columns, Kind.TEXT, np.array([4]))[0].tolist() == [""]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (V.String, "dampf 蒸汽", "dampf 蒸汽"),
        (V.String, None, ""),
        (V.LocalizedText, ua.LocalizedText("läuft", "de"), "läuft"),
        (V.Float, np.float32(0.1).item(), "0.1"),
        (V.Double, 0.1, "0.1"),
        (V.UInt64, 2**64 - 1, "18446744073709551615"),
        (V.Int64, -5, "-5"),
        (V.Int32, -5, "-5"),
        (V.Boolean, True, "true"),
        (V.ByteString, b"hello", "aGVsbG8="),
        (V.Guid, uuid.UUID("09087e75-8e5e-499b-954f-f2a9603db28a"), "09087e75-8e5e-499b-954f-f2a9603db28a"),
        (V.QualifiedName, ua.QualifiedName("x", 2), "2:x"),
        (V.ExtensionObject, ua.Range(1.0, 2.5), '{"Low":1.0,"High":2.5}'),
    ],
)
def test_every_type_can_be_held_as_text(kind: ua.VariantType, value: Any, text: str) -> None:
    assert values.gather(columns_of(scalar(kind, value)), Kind.TEXT, np.array([0]))[0].tolist() == [text]


def test_a_date_as_text_keeps_its_100_ns() -> None:
    ticks = wire.EPOCH + 1_700_000_000 * 10_000_000 + 1234567
    columns = columns_of(b"\x01\x0d" + struct.pack("<q", ticks))
    assert values.gather(columns, Kind.TEXT, np.array([0]))[0].tolist() == ["2023-11-14T22:13:20.1234567Z"]


def test_arrays_are_json_as_text_and_numbers_by_element() -> None:
    columns = columns_of(
        b"\x01" + variant_to_binary(ua.Variant([1.5, 2.5], V.Double, is_array=True)),
        b"\x01" + variant_to_binary(ua.Variant([2**63, 1], V.UInt64, is_array=True)),
        b"\x01" + variant_to_binary(ua.Variant(["a", "b"], V.String, is_array=True)),
    )
    assert values.gather(columns, Kind.TEXT, np.arange(2))[0].tolist() == ["[1.5,2.5]", "[9223372036854775808,1]"]
    assert values.element(values.elements(columns, 0), 1, Kind.FLOAT) == (2.5, q.GOOD)
    assert values.element(values.elements(columns, 0), 2, Kind.FLOAT)[1] == values.BAD_INDEX_RANGE_NO_DATA
    assert values.element(values.elements(columns, 1), 0, Kind.UINT) == (2**63, q.GOOD)
    assert values.element(values.elements(columns, 1), 0, Kind.FLOAT)[1] == q.BAD_TYPE_MISMATCH
    assert values.element(values.elements(columns, 2), 1, Kind.TEXT) == ("b", q.GOOD)
    assert (
        values.element(values.elements(columns_of(scalar(V.Double, 1.0)), 0), 0, Kind.FLOAT)[1] == q.BAD_TYPE_MISMATCH
    )
