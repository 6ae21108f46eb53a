"""Sparkplug B payloads (protobuf, Sparkplug 3.0 chapter 6.4), metric by metric: births, commands, and the reader.

    payload   1 timestamp varint (ms)   2 metric*   3 seq varint
    metric    1 name   2 alias varint   3 timestamp varint (ms)   4 datatype varint   5 is_historical   7 is_null
              9 properties   10 int_value varint   11 long_value varint   12 float_value f32   13 double_value f64
              14 boolean_value   15 string_value                  (16 bytes, 17 dataset, 18 template: never written)
    properties 1 key*   2 value*: 1 type   2 is_null   3 int   4 long   5 float   6 double   7 boolean   8 string

Written are Int32, Int64, UInt64, Float, Double, Boolean and String only. Not Int8 and Int16, whose negative numbers
readers take in different ways; not UInt32, which one widespread reader takes from long_value and the standard puts into
int_value: a uint32 is an Int64. A row without a value is_null. A row that is not plainly Good has the property Quality
(192, 500, 0 as OPC UA's Good, Uncertain, Bad) and the property StatusCode (Int64: OPC UA's 32 bits).

`decode` takes bytes that nobody vouches for: it gives a Payload or raises ValueError. DATA messages are written by
gateway.encoders.sparkplug_columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np

from gateway.encoders.texts import Form, form
from gateway.model import Kind, Tag

QUALITY: Final = "Quality"
STATUS_CODE: Final = "StatusCode"
_MILLISECOND: Final = 1_000_000


class DataType(IntEnum):
    """Sparkplug's data types; readers meet them all, we write those in bold type: 3, 4, 8, 9, 10, 11, 12."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13
    TEXT = 14


_FLOATING: Final = {Form.DOUBLE: DataType.DOUBLE, Form.SINGLE: DataType.FLOAT}
_WIDE: Final = ("uint32", "bcd32")
_OF_KIND: Final = {
    Kind.INT: DataType.INT64,
    Kind.UINT: DataType.UINT64,
    Kind.BOOL: DataType.BOOLEAN,
    Kind.TEXT: DataType.STRING,
}


def datatype(tag: Tag) -> DataType:
    """Give the type in which a tag is published."""
    if tag.kind is not Kind.FLOAT:
        return _OF_KIND[tag.kind]
    look = form(tag)
    if look is not Form.WHOLE:
        return _FLOATING[look]
    if any(np.isfinite(end) and end != int(end) for end in (tag.minimum, tag.maximum)):
        return DataType.DOUBLE  # the value may be moved to such an end
    return DataType.INT32 if tag.type not in _WIDE and tag.scale == 1 and tag.offset == 0 else DataType.INT64


Value = float | int | bool | str
Property = tuple[DataType, Value]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, for births, for commands, and for whoever reads payloads in tests. A null metric has value None."""

    name: str | None = None
    alias: int | None = None
    timestamp: int | None = None  # ms
    datatype: int | None = None
    value: Any = None
    historical: bool = False
    properties: Mapping[str, Property] = field(default_factory=dict)
    carrier: str = ""  # which field the value was read from; decoder only


@dataclass(frozen=True, slots=True)
class Payload:
    """A decoded payload."""

    timestamp: int | None
    seq: int | None
    metrics: tuple[Metric, ...]


def milliseconds(time: int) -> int:
    """Give ns since 1970 as ms; what was before 1970 is 1970, for the field is unsigned."""
    return max(0, time) // _MILLISECOND


_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """Write an unsigned integer."""
    if number < 0x80:
        return _ONE_BYTE[number]
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def message_field(number: int, content: bytes) -> bytes:
    """Write a message or a text as a field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def quality_number(status: int) -> int:
    """Give Sparkplug's quality for a StatusCode."""
    return (192, 500, 0, 0)[status >> 30]


def quality_properties(status: int) -> dict[str, Property]:
    """Give the properties of a reading with this StatusCode."""
    if not status:
        return {}
    return {QUALITY: (DataType.INT32, quality_number(status)), STATUS_CODE: (DataType.INT64, status)}


def _scalar(kind: int, value: Value, first: int) -> bytes:
    """Write a value in the field its type asks for; fields are numbered from `first` as int, long, float, ..."""
    if kind in (DataType.INT64, DataType.UINT64, DataType.DATETIME):
        return varint((first + 1) << 3) + varint(int(value) & 0xFFFFFFFFFFFFFFFF)
    if kind == DataType.FLOAT:
        return varint((first + 2) << 3 | 5) + struct.pack("<f", value)
    if kind == DataType.DOUBLE:
        return varint((first + 3) << 3 | 1) + struct.pack("<d", value)
    if kind == DataType.BOOLEAN:
        return varint((first + 4) << 3) + (b"\x01" if value else b"\x00")
    if kind in (DataType.STRING, DataType.TEXT):
        return message_field(first + 5, str(value).encode(errors="replace"))
    return varint(first << 3) + varint(int(value) & 0xFFFFFFFF)


def properties_field(properties: Mapping[str, Property]) -> bytes:
    """Write a metric's properties; nothing where there are none."""
    if not properties:
        return b""
    keys = b"".join(message_field(1, key.encode()) for key in properties)
    values = b"".join(
        message_field(2, b"\x08" + varint(kind) + _scalar(kind, value, 3)) for kind, value in properties.values()
    )
    return message_field(9, keys + values)


def value_field(kind: int, value: Value) -> bytes:
    """Write a metric's value."""
    return _scalar(kind, value, 10)


def metric_field(metric: Metric, kind: int | None = None) -> bytes:
    """Write a metric as a field of a payload. `kind` is its type where the metric itself is not to say it."""
    kind = metric.datatype if kind is None else kind
    parts = []
    if metric.name is not None:
        parts.append(message_field(1, metric.name.encode()))
    if metric.alias is not None:
        parts.append(b"\x10" + varint(metric.alias))
    if metric.timestamp is not None:
        parts.append(b"\x18" + varint(metric.timestamp))
    if metric.datatype is not None:
        parts.append(b"\x20" + varint(metric.datatype))
    if metric.historical:
        parts.append(b"\x28\x01")
    if metric.value is None:
        parts.append(b"\x38\x01")
    parts.append(properties_field(metric.properties))
    if metric.value is not None:
        parts.append(_scalar(DataType.STRING if kind is None else kind, metric.value, 10))
    return message_field(2, b"".join(parts))


def payload(timestamp: int, seq: int | None, *metrics: bytes | memoryview) -> bytes:
    """Put encoded metrics into a payload; `timestamp` in ms."""
    end = b"" if seq is None else b"\x18" + varint(seq)
    return b"".join((b"\x08", varint(timestamp), *metrics, end))


OVERHEAD: Final = 1 + 10 + 3
"""Bytes of a payload that are not metrics, at most."""


# ------------------------------------------------------------------------------------------------ reading


class _Cursor:
    """Reads protobuf fields; ValueError for everything that is not protobuf."""

    def __init__(self, octets: memoryview) -> None:
        self._octets = octets
        self._at = 0

    def fields(self) -> Iterator[tuple[int, int, int | memoryview]]:
        """Give (number, wire type, value) of each field; a value is an int or a memoryview."""
        while self._at < len(self._octets):
            key = self.varint()
            number, wire = key >> 3, key & 7
            if number == 0:
                raise ValueError("a field without a number")
            if wire == 0:
                yield number, wire, self.varint()
            elif wire == 2:
                yield number, wire, self._take(self.varint())
            elif wire in (1, 5):
                yield number, wire, self._take(8 if wire == 1 else 4)
            else:
                raise ValueError(f"a field of wire type {wire}")

    def varint(self) -> int:
        result = 0
        for shift in range(0, 70, 7):
            if self._at >= len(self._octets):
                break
            octet = self._octets[self._at]
            self._at += 1
            result |= (octet & 0x7F) << shift
            if octet < 0x80:
                return result & 0xFFFFFFFFFFFFFFFF
        raise ValueError("a number without an end")

    def _take(self, size: int) -> memoryview:
        if size > len(self._octets) - self._at:
            raise ValueError("the payload is cut short")
        part = self._octets[self._at : self._at + size]
        self._at += size
        return part


_CARRIERS: Final = ("int", "long", "float", "double", "boolean", "string")
_CARRIER_WIRES: Final = (0, 0, 5, 1, 0, 2)
_SIGNED: Final = {
    DataType.INT8: 8,
    DataType.INT16: 16,
    DataType.INT32: 32,
    DataType.INT64: 64,
}


def decode(octets: bytes) -> Payload:
    """Read a payload. Raises ValueError for anything that is not one; fields that we have no use for are skipped."""
    timestamp: int | None = None
    seq: int | None = None
    metrics: list[Metric] = []
    for number, wire, value in _Cursor(memoryview(octets)).fields():
        if number == 1:
            timestamp = _number(wire, value)
        elif number == 2:
            metrics.append(_decode_metric(_message(wire, value)))
        elif number == 3:
            seq = _number(wire, value)
    return Payload(timestamp, seq, tuple(metrics))


def _number(wire: int, value: Any) -> int:
    if wire != 0:
        raise ValueError("expected a number")
    return int(value)


def _message(wire: int, value: Any) -> memoryview:
    if wire != 2 or not isinstance(value, memoryview):
        raise ValueError("expected a message or a text")
    return value


def _decode_metric(octets: memoryview) -> Metric:
    found: dict[int, Any] = {}
    carrier = ""
    raw: Value | None = None
    properties: Mapping[str, Property] = {}
    for number, wire, content in _Cursor(octets).fields():
        if number == 1:
            found[1] = _text(_message(wire, content))
        elif number in (2, 3, 4, 5, 7):
            found[number] = _number(wire, content)
        elif number == 9:
            properties = _decode_properties(_message(wire, content))
        elif 10 <= number <= 15:
            carrier, raw = _CARRIERS[number - 10], _carried(number - 10, wire, content)
        elif 16 <= number <= 19:
            raise ValueError("bytes, datasets, templates and extensions are not understood")
    kind = found.get(4)
    value = None if found.get(7) or raw is None else _interpret(kind, raw)
    return Metric(found.get(1), found.get(2), found.get(3), kind, value, bool(found.get(5)), properties, carrier)


def _carried(index: int, wire: int, value: Any) -> Value:
    if wire != _CARRIER_WIRES[index]:
        raise ValueError("a value of the wrong wire type")
    if index == 2:
        return float(struct.unpack("<f", value)[0])
    if index == 3:
        return float(struct.unpack("<d", value)[0])
    if index == 4:
        return bool(value)
    return _text(value) if index == 5 else int(value)


def _interpret(kind: int | None, raw: Value) -> Value:
    """Give an integer its sign."""
    bits = _SIGNED.get(kind) if kind is not None else None  # type: ignore[call-overload]
    if bits is None or isinstance(raw, str | bool | float):
        return raw
    low = raw & ((1 << bits) - 1)
    return int(low - (1 << bits) if low >> (bits - 1) else low)


def signed(kind: int, raw: Value) -> Value:
    """Give a decoded value as one of type `kind`, for a command whose metric did not name its type."""
    return _interpret(kind, raw)


def _text(octets: memoryview) -> str:
    return bytes(octets).decode()


def _decode_properties(octets: memoryview) -> Mapping[str, Property]:
    keys: list[str] = []
    values: list[Property] = []
    for number, wire, value in _Cursor(octets).fields():
        if number == 1:
            keys.append(_text(_message(wire, value)))
        elif number == 2:
            values.append(_decode_property(_message(wire, value)))
    if len(keys) != len(values):
        raise ValueError("as many property keys as values are needed")
    return dict(zip(keys, values, strict=True))


def _decode_property(octets: memoryview) -> Property:
    kind = 0
    value: Value = ""
    for number, wire, content in _Cursor(octets).fields():
        if number == 1:
            kind = _number(wire, content)
        elif 3 <= number <= 8:
            value = _carried(number - 3, wire, content)
    return _known(kind), _interpret(kind, value)


def _known(kind: int) -> DataType:
    try:
        return DataType(kind)
    except ValueError:
        return DataType.UNKNOWN
