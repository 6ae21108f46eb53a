"""Sparkplug DATA metrics in columns: a batch of readings becomes the bytes of its metrics, without an object each.

A metric of a DATA message has an alias and no name, so all metrics of a table have one shape and differ in a few
bytes. `Shape` makes the constant bytes once per table; a batch becomes a matrix of bytes, one row a metric, put
together from segments, and the bytes that a row does not need are masked out:

    0x12 length | 0x10 alias | 0x18 timestamp | [0x20 datatype] | [0x28 1] | [0x38 1] | [0x4a properties] | [value]

Numbers are in the shortest form of a varint, as any protobuf library would write them. Text goes metric by metric.
The format itself is in gateway.encoders.sparkplug_payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.encoders.sparkplug_payload import (
    DataType,
    Metric,
    datatype,
    metric_field,
    milliseconds,
    properties_field,
    quality_properties,
    varint,
)
from gateway.model import Batch, Kind, TagTable

_MILLISECOND: Final = 1_000_000

_Bytes = NDArray[np.uint8]
_Segment = tuple[_Bytes, _Bytes | None]  # a matrix, and how many bytes of each row count; None: all


def varints(column: NDArray[Any]) -> _Segment:
    """Write a column of integers as varints; negative ones as 64-bit two's complement."""
    left = column.astype(np.int64, copy=False).view(np.uint64)
    width = max(1, (int(left.max()).bit_length() + 6) // 7) if len(left) else 1
    matrix = np.empty((len(left), width), dtype=np.uint8)
    lengths = np.ones(len(left), dtype=np.uint8)
    for place in range(width):
        rest = left >> np.uint64(7)
        more = rest != 0
        matrix[:, place] = (left & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
        lengths += more
        left = rest
    return matrix, None if bool((lengths == width).all()) else lengths


def _constant(content: bytes, rows: int) -> _Segment:
    return np.broadcast_to(np.frombuffer(content, dtype=np.uint8), (rows, len(content))), None


def _where(mask: NDArray[np.bool_], segment: _Segment) -> _Segment:
    """Keep a segment in the marked rows only."""
    matrix, lengths = segment
    return matrix, np.where(mask, np.uint8(matrix.shape[1]) if lengths is None else lengths, np.uint8(0))


def _join(segments: Sequence[_Segment]) -> tuple[_Bytes, NDArray[np.intp]]:
    """Put segments side by side, row after row; give the bytes and the length of each row's part."""
    rows = len(segments[0][0])
    total = sum(matrix.shape[1] for matrix, _ in segments)
    whole = np.empty((rows, total), dtype=np.uint8)
    keep: NDArray[np.bool_] | None = None
    widths = np.zeros(rows, dtype=np.intp)
    at = 0
    for matrix, lengths in segments:
        width = matrix.shape[1]
        whole[:, at : at + width] = matrix
        if lengths is None:
            widths += width
        else:
            if keep is None:
                keep = np.ones((rows, total), dtype=np.bool_)
            keep[:, at : at + width] = np.arange(width, dtype=np.uint8) < lengths[:, None]
            widths += lengths
        at += width
    return whole.reshape(-1) if keep is None else whole[keep], widths


@dataclass(frozen=True, slots=True)
class Metrics:
    """Encoded metrics, ready to stand in a payload: all their bytes, and where each ends."""

    octets: memoryview
    ends: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.ends)

    def part(self, start: int, stop: int) -> memoryview:
        """Give the bytes of metrics start..stop."""
        return self.octets[int(self.ends[start - 1]) if start else 0 : int(self.ends[stop - 1]) if stop else 0]

    def fits(self, start: int, room: int) -> int:
        """Give the largest `stop` for which part(start, stop) has at most `room` bytes, at least start + 1."""
        begin = int(self.ends[start - 1]) if start else 0
        return max(start + 1, int(np.searchsorted(self.ends, begin + room, side="right")))


class Shape:
    """The metrics of one table in DATA messages. `alias` 0 marks tags that are not published."""

    def __init__(self, table: TagTable, alias: NDArray[np.uint32], with_datatype: bool = False) -> None:
        self.alias = alias
        self.types = np.array([datatype(tag) for tag in table.tags], dtype=np.uint8)
        self._kind = table.kind
        self._present = sorted(set(self.types.tolist()))
        self._alias, self._alias_lengths = varints(alias)
        self._with_datatype = with_datatype
        self.published = bool((alias != 0).all())

    def encode(self, batch: Batch, historical: bool = False) -> Metrics:
        """Write a batch of the table, in row order."""
        if not len(batch):
            return Metrics(memoryview(b""), np.zeros(0, dtype=np.intp))
        if self._kind is Kind.TEXT:
            return self._texts(batch, historical)
        rows, tag = len(batch), batch.tag
        types = self.types[tag]
        value, impossible = self._values(batch.value, types)
        status = batch.quality
        if impossible is not None and impossible.any():
            status = np.where(impossible & (status < q.BAD), np.uint32(q.BAD_OUT_OF_RANGE), status)
        segments = [*self._head(tag), *_times(batch.time)]
        if self._with_datatype:
            segments += [_constant(b"\x20", rows), (types[:, None], None)]
        segments += _flags(historical, status)
        segments.append(_where(status < q.BAD, value) if (status >= q.BAD).any() else value)
        octets, widths = _join(segments)
        ends = np.cumsum(widths)
        # the second byte of each metric is its length, without the tag and the length itself
        starts = ends - widths
        octets[starts + 1] = (widths - 2).astype(np.uint8)
        return Metrics(octets.data, ends)

    def _head(self, tag: NDArray[np.uint32]) -> list[_Segment]:
        lengths = None if self._alias_lengths is None else self._alias_lengths[tag]
        return [_constant(b"\x12\x00\x10", len(tag)), (self._alias[tag], lengths)]

    def _values(self, column: NDArray[Any], types: _Bytes) -> tuple[_Segment, NDArray[np.bool_] | None]:
        """Write the value fields; mark the rows whose value their type cannot hold."""
        if self._kind is Kind.BOOL:
            return (np.stack([np.full(len(column), 0x70, np.uint8), column.astype(np.uint8)], axis=1), None), None
        if self._kind in (Kind.INT, Kind.UINT):
            return _tagged(b"\x58", varints(np.ascontiguousarray(column).view(np.int64))), None
        if len(self._present) == 1:
            return _floats(column, DataType(self._present[0]))
        matrix = np.zeros((len(column), 11), dtype=np.uint8)
        lengths = np.zeros(len(column), dtype=np.uint8)
        impossible = np.zeros(len(column), dtype=np.bool_)
        for each in self._present:
            rows = np.flatnonzero(types == each)
            if len(rows):
                (part, sizes), wrong = _floats(column[rows], DataType(each))
                matrix[rows, : part.shape[1]] = part
                lengths[rows] = part.shape[1] if sizes is None else sizes
                if wrong is not None:
                    impossible[rows] = wrong
        return (matrix, lengths), impossible

    def _texts(self, batch: Batch, historical: bool) -> Metrics:
        parts = []
        columns = (batch.tag.tolist(), batch.value, batch.quality.tolist(), batch.time.tolist())
        for tag, value, status, time in zip(*columns, strict=True):
            metric = Metric(
                alias=int(self.alias[tag]),
                timestamp=milliseconds(time),
                datatype=DataType.STRING if self._with_datatype else None,
                value=None if status >= q.BAD else str(value),
                historical=historical,
                properties=quality_properties(status),
            )
            parts.append(metric_field(metric))
        return Metrics(memoryview(b"".join(parts)), np.cumsum([len(part) for part in parts]))


def _times(time: NDArray[np.int64]) -> list[_Segment]:
    rows = len(time)
    first, last = milliseconds(int(time[0])), milliseconds(int(time[-1]))
    if first == last and bool((time == time[0]).all()):
        return [_constant(b"\x18" + varint(first), rows)]
    return [_constant(b"\x18", rows), varints(np.maximum(time, 0) // _MILLISECOND)]


def _flags(historical: bool, status: NDArray[np.uint32]) -> list[_Segment]:
    """Write is_historical, is_null and the properties, where a row needs them."""
    rows = len(status)
    segments = [_constant(b"\x28\x01", rows)] if historical else []
    if not status.any():
        return segments
    bad = status >= q.BAD
    if bad.any():
        segments.append(_where(bad, _constant(b"\x38\x01", rows)))
    return [*segments, _properties(status)]


def _properties(status: NDArray[np.uint32]) -> _Segment:
    """Write the properties of the rows that are not plainly Good: few rows as a rule, and few codes among them."""
    rows = np.flatnonzero(status)
    codes, which = np.unique(status[rows], return_inverse=True)
    fields = [properties_field(quality_properties(int(code))) for code in codes]
    width = max(map(len, fields))
    padded = np.frombuffer(b"".join(each.ljust(width, b"\0") for each in fields), dtype=np.uint8).reshape(-1, width)
    matrix = np.empty((len(status), width), dtype=np.uint8)
    lengths = np.zeros(len(status), dtype=np.uint8)
    matrix[rows] = padded[which]
    lengths[rows] = np.array([len(each) for each in fields], dtype=np.uint8)[which]
    return matrix, lengths


def _floats(column: NDArray[np.float64], kind: DataType) -> tuple[_Segment, NDArray[np.bool_] | None]:
    """Write the values of a float64 table that have one type."""
    if kind is DataType.DOUBLE:
        return _fixed(b"\x69", column.astype("<f8")), None
    if kind is DataType.FLOAT:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return _fixed(b"\x65", column.astype("<f4")), None
    most = float(2**31 if kind is DataType.INT32 else 2**63)
    with np.errstate(invalid="ignore"):
        possible = (column >= -most) & (column < most) & (column == np.floor(column))
    whole = np.where(possible, column, 0.0).astype(np.int64)
    if kind is DataType.INT32:
        return _tagged(b"\x50", varints(whole & 0xFFFFFFFF)), ~possible
    return _tagged(b"\x58", varints(whole)), ~possible


def _fixed(tag: bytes, column: NDArray[Any]) -> _Segment:
    width = column.dtype.itemsize
    matrix = np.empty((len(column), width + 1), dtype=np.uint8)
    matrix[:, 0] = tag[0]
    matrix[:, 1:] = np.ascontiguousarray(column).view(np.uint8).reshape(-1, width)
    return matrix, None


def _tagged(tag: bytes, segment: _Segment) -> _Segment:
    matrix, lengths = segment
    front = np.full((len(matrix), 1), tag[0], dtype=np.uint8)
    return np.concatenate([front, matrix], axis=1), None if lengths is None else lengths + np.uint8(1)
