"""Sparkplug payloads: our columns against Google's protobuf library and against npm's reader."""

from __future__ import annotations

import contextlib
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import sparkplug_objects
from gateway import quality as q
from gateway.encoders.sparkplug_columns import Shape, varints
from gateway.encoders.sparkplug_payload import (
    DataType,
    Metric,
    Payload,
    datatype,
    decode,
    metric_field,
    payload,
    signed,
    varint,
)
from gateway.model import Batch, Kind, Tag, TagTable
from tests import npm_reader

NOW = 1_735_689_600_123_456_789
FLOAT_TYPES = ("int16", "uint16", "int32", "uint32", "float32", "float64")
LIMITS = {
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}


def table(*types: str, kind: Kind = Kind.FLOAT) -> TagTable:
    tags = tuple(Tag(f"t{index}", "x", kind=kind, type=type_) for index, type_ in enumerate(types))
    return TagTable("press-1", "default", kind, tags)


def shape(of: TagTable, first: int = 1, with_datatype: bool = False) -> Shape:
    return Shape(of, np.arange(first, first + len(of), dtype=np.uint32), with_datatype)


def read(of: TagTable, batch: Batch, **settings: Any) -> list[Metric]:
    """Our own reader, which is told each metric's type as a host knows it from the birth."""
    metrics = decode(payload(1, 7, shape(of, **settings).encode(batch).octets)).metrics
    types = [datatype(of.tags[tag]) for tag in batch.tag.tolist()]
    return [
        metric if metric.value is None else Metric(**{**_fields(metric), "value": signed(kind, metric.value)})
        for metric, kind in zip(metrics, types, strict=True)
    ]


def _fields(metric: Metric) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in Metric.__slots__}


# ------------------------------------------------------------------------------------------------ against protobuf


@st.composite
def scans(draw: st.DrawFn) -> tuple[TagTable, Batch]:
    types = draw(st.lists(st.sampled_from(FLOAT_TYPES), min_size=1, max_size=40))
    values = []
    for type_ in types:
        if type_ in LIMITS:
            values.append(float(draw(st.integers(*LIMITS[type_]))))
        else:
            values.append(draw(st.floats(width=32 if type_ == "float32" else 64, allow_nan=False)))
    times = draw(st.lists(st.integers(0, 4 * 10**18), min_size=len(types), max_size=len(types)))
    if draw(st.booleans()):
        times = [times[0]] * len(types)
    of = table(*types)
    quality = np.zeros(len(types), dtype=np.uint32)
    return of, Batch(of, of.every, np.array(values), quality, np.array(times, dtype=np.int64))


@settings(max_examples=150, deadline=None)
@given(scan=scans(), first=st.sampled_from([1, 100, 127, 16_300, 2**20, 2**31]))
def test_columns_are_byte_for_byte_what_googles_library_writes(scan: tuple[TagTable, Batch], first: int) -> None:
    """Any host's protobuf must read it, so it must be what a protobuf library would have written."""
    of, batch = scan
    ours = payload(NOW // 1_000_000, 7, shape(of, first).encode(batch).octets)
    types = [datatype(tag) for tag in of.tags]
    theirs = sparkplug_objects.encode(batch, list(range(first, first + len(of))), types, NOW // 1_000_000, 7)
    assert ours == theirs


@settings(max_examples=100, deadline=None)
@given(
    scan=scans(),
    statuses=st.lists(st.sampled_from([0, 0, 0, 0x00300000, 0x40940000, q.BAD_TIMEOUT, 0xFFFFFFFF, 1]), min_size=40),
    historical=st.booleans(),
    with_datatype=st.booleans(),
)
def test_googles_library_reads_statuses_nulls_and_history(
    scan: tuple[TagTable, Batch], statuses: list[int], historical: bool, with_datatype: bool
) -> None:
    of, batch = scan
    batch.quality = np.array(statuses[: len(of)], dtype=np.uint32)
    metrics = shape(of, 5, with_datatype).encode(batch, historical)
    message = sparkplug_objects.Payload.FromString(payload(1, 7, metrics.octets))
    assert len(message.metrics) == len(metrics.ends) == len(of)
    for row, (metric, tag) in enumerate(zip(message.metrics, of.tags, strict=True)):
        status = statuses[row]
        assert metric.alias == 5 + row
        assert metric.timestamp == batch.time[row] // 1_000_000
        assert metric.is_historical is historical
        assert metric.HasField("datatype") is with_datatype
        assert metric.is_null is (status >= q.BAD)
        assert (metric.WhichOneof("value") is None) is (status >= q.BAD)
        assert metric.HasField("properties") is bool(status)
        if status < q.BAD:
            kind = datatype(tag)
            value = signed(kind, getattr(metric, metric.WhichOneof("value")))
            assert value == (np.float32(batch.value[row]) if kind is DataType.FLOAT else batch.value[row])
        if status:
            values = dict(zip(metric.properties.keys, metric.properties.values, strict=True))
            assert values["Quality"].type == DataType.INT32
            assert values["Quality"].int_value == {0: 192, 1: 500, 2: 0, 3: 0}[status >> 30]
            assert values["StatusCode"].long_value == status


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Kind.INT, [0, 1, -1, 2**63 - 1, -(2**63)]),
        (Kind.UINT, [0, 1, 2**53 + 1, 2**63, 2**64 - 1]),
        (Kind.BOOL, [True, False]),
        (Kind.TEXT, ["", "停机", "a" * 300]),
    ],
)
def test_every_kind_comes_back_as_it_was(kind: Kind, values: list[Any]) -> None:
    of = table(*(["text"] * len(values)), kind=kind)
    batch = Batch.full(of, np.array(values, dtype=kind.dtype), NOW)
    assert [metric.value for metric in read(of, batch)] == values
    message = sparkplug_objects.Payload.FromString(payload(1, 7, shape(of).encode(batch).octets))
    carried = [getattr(metric, metric.WhichOneof("value")) for metric in message.metrics]
    assert [signed(datatype(of.tags[0]), value) for value in carried] == values


def test_text_without_a_value_is_null_and_says_why() -> None:
    of = table("text", "text", kind=Kind.TEXT)
    batch = Batch.bad(of, q.BAD_TIMEOUT, NOW)
    metrics = decode(payload(1, 7, shape(of).encode(batch, True).octets)).metrics
    assert [metric.value for metric in metrics] == [None, None]
    assert all(metric.historical for metric in metrics)
    assert metrics[0].properties["StatusCode"][1] == q.BAD_TIMEOUT


# ------------------------------------------------------------------------------------------------ against npm


@npm_reader.PATIENT
def test_npms_reader_reads_the_same_values() -> None:
    """An Int16 of -2 that a host shows as 65534, or a uint32 that it shows as nothing: the traps of this format."""
    of = table(*FLOAT_TYPES)
    numbers = np.array([-2, 65535, -(2**31), 2**32 - 1, np.float32(0.1), 1e300])
    live = Batch.full(of, numbers.astype(np.float64), NOW)
    doubtful = Batch.full(of, numbers.astype(np.float64), NOW)
    doubtful.quality = np.array([0, q.UNCERTAIN, q.BAD_TIMEOUT, 0, 0, 0], dtype=np.uint32)
    wide = table("int64", "int64", kind=Kind.INT)
    wide_batch = Batch.full(wide, np.array([-5, 2**53 + 1]), NOW)
    unsigned = table("uint64", kind=Kind.UINT)
    unsigned_batch = Batch.full(unsigned, np.array([2**64 - 1], dtype=np.uint64), NOW)
    truth = table("bool", "bool", kind=Kind.BOOL)
    truth_batch = Batch.full(truth, np.array([True, False]), NOW)
    texts = table("text", kind=Kind.TEXT)
    text_batch = Batch.full(texts, np.array(["压力 bar"], dtype=object), NOW)
    batches = [live, doubtful, wide_batch, unsigned_batch, truth_batch, text_batch]
    found = npm_reader.read(
        [payload(5, 7, shape(each.table, with_datatype=True).encode(each, index == 1).octets)
         for index, each in enumerate(batches)]
    )  # fmt: skip
    values = [[metric["value"] for metric in each["metrics"]] for each in found]
    assert values[0] == [-2, 65535, -(2**31), 2**32 - 1, float(np.float32(0.1)), 1e300]
    assert values[1][0] == -2
    assert values[1][2] is None
    assert values[2] == [-5, 2**53 + 1]
    assert values[3] == [2**64 - 1]
    assert values[4:] == [[True, False], ["压力 bar"]]
    doubts = [metric.get("properties") for metric in found[1]["metrics"]]
    assert doubts[1]["Quality"] == {"type": "Int32", "value": 500}
    assert doubts[2]["Quality"] == {"type": "Int32", "value": 0}
    assert doubts[2]["StatusCode"] == {"type": "Int64", "value": q.BAD_TIMEOUT}
    assert all(metric["isHistorical"] for metric in found[1]["metrics"])
    assert {each["seq"] for each in found} == {7}
    assert found[0]["metrics"][0]["timestamp"] == NOW // 1_000_000


# ------------------------------------------------------------------------------------------------ types


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        (Tag("x", "x", type="int8"), DataType.INT32),
        (Tag("x", "x", type="uint16"), DataType.INT32),
        (Tag("x", "x", type="int32"), DataType.INT32),
        (Tag("x", "x", type="uint32"), DataType.INT64),
        (Tag("x", "x", type="bcd32"), DataType.INT64),
        (Tag("x", "x", type="int16", scale=Fraction(10)), DataType.INT64),
        (Tag("x", "x", type="int16", scale=Fraction("0.1")), DataType.DOUBLE),
        (Tag("x", "x", type="uint16", maximum=10.5, out_of_range="clamp"), DataType.DOUBLE),
        (Tag("x", "x", type="float32"), DataType.FLOAT),
        (Tag("x", "x", type="float32", scale=Fraction("0.1")), DataType.DOUBLE),
        (Tag("x", "x", type="float32", maximum=0.1), DataType.DOUBLE),
        (Tag("x", "x", type="float64"), DataType.DOUBLE),
        (Tag("x", "x", type="dint"), DataType.DOUBLE),
        (Tag("x", "x", type="int64", kind=Kind.INT), DataType.INT64),
        (Tag("x", "x", type="uint64", kind=Kind.UINT), DataType.UINT64),
        (Tag("x", "x", type="bool", kind=Kind.BOOL), DataType.BOOLEAN),
        (Tag("x", "x", type="text", kind=Kind.TEXT), DataType.STRING),
    ],
)
def test_no_type_is_written_that_readers_understand_in_different_ways(tag: Tag, kind: DataType) -> None:
    assert datatype(tag) is kind
    assert kind not in (DataType.INT8, DataType.INT16, DataType.UINT8, DataType.UINT16, DataType.UINT32)


def test_a_number_that_its_type_cannot_hold_is_null_and_bad_not_another_number() -> None:
    of = table("int16", "uint32", "float64")
    batch = Batch.full(of, np.array([1.5, math.inf, 2.5]), NOW)
    metrics = read(of, batch)
    assert [metric.value for metric in metrics] == [None, None, 2.5]
    assert metrics[0].properties["StatusCode"][1] == q.BAD_OUT_OF_RANGE


def test_a_time_before_1970_is_1970() -> None:
    """The field is unsigned; a device that lost its clock must not send us to the year 584 million."""
    of = table("float64")
    batch = Batch(of, of.every, np.array([1.0]), np.zeros(1, np.uint32), np.array([-5_000_000_000]))
    assert read(of, batch)[0].timestamp == 0


# ------------------------------------------------------------------------------------------------ parts, and reading


def test_metrics_are_cut_to_fit_and_lose_nothing() -> None:
    of = table(*FLOAT_TYPES * 20)
    batch = Batch.full(of, np.zeros(len(of)), NOW)
    metrics = shape(of).encode(batch)
    start, parts = 0, []
    while start < len(metrics):
        stop = metrics.fits(start, 100)
        parts.append(bytes(metrics.part(start, stop)))
        start = stop
    assert b"".join(parts) == bytes(metrics.octets)
    assert max(map(len, parts)) <= 100
    assert sum(len(decode(part).metrics) for part in parts) == len(of)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_varints_in_columns_are_varints(numbers: list[int]) -> None:
    matrix, lengths = varints(np.array(numbers, dtype=np.int64))
    for row, number in enumerate(numbers):
        size = matrix.shape[1] if lengths is None else int(lengths[row])
        assert matrix[row, :size].tobytes() == varint(number & 0xFFFFFFFFFFFFFFFF)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_a_value_error(octets: bytes) -> None:
    """A command comes from the network: it must not be able to raise anything else in the daemon."""
    with contextlib.suppress(ValueError):
        assert isinstance(decode(octets), Payload)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_payload_is_a_payload_or_a_value_error(data: st.DataObject) -> None:
    whole = payload(
        5,
        1,
        metric_field(Metric("Node Control/Rebirth", None, 5, DataType.BOOLEAN, True)),
        metric_field(Metric("x", 7, 5, DataType.INT32, -3, properties={"Quality": (DataType.INT32, 0)})),
    )
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    with contextlib.suppress(ValueError):
        decode(damaged)


def test_what_a_host_writes_is_read() -> None:
    message = sparkplug_objects.Payload(timestamp=5, seq=3)
    metric = message.metrics.add(name="setpoint", alias=9, timestamp=4, datatype=DataType.INT16)
    metric.int_value = 0xFFFE  # an Int16 of -2 in the form of one library
    metric.properties.keys.append("Quality")
    metric.properties.values.add(type=3, int_value=192)
    other = message.metrics.add(name="speed", datatype=DataType.INT16)
    other.int_value = 0xFFFFFFFE  # and in that of another
    unsigned = message.metrics.add(name="count", datatype=DataType.UINT32)
    unsigned.long_value = 2**32 - 1
    found = decode(message.SerializeToString())
    assert (found.timestamp, found.seq) == (5, 3)
    assert [(each.name, each.value) for each in found.metrics] == [
        ("setpoint", -2),
        ("speed", -2),
        ("count", 2**32 - 1),
    ]
    assert found.metrics[0].properties == {"Quality": (DataType.INT32, 192)}
    assert (found.metrics[0].alias, found.metrics[0].timestamp) == (9, 4)
