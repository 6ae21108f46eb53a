"""DataValues to columns, without an object per value.

A run of DataValues with one encoding mask and one type of fixed width has one stride. Such a run is one numpy view:
its masks and types are compared in one comparison, its fields are copied column by column. By induction this is
exact: where row i starts is known, and its mask and type say where row i+1 starts. A value of any other shape (text,
arrays, structures, time stamps as values) is walked over and left in the message as a span, for whoever wants it.
Nothing is guessed: what does not compare equal is read on its own.

Field order on the wire is that of Part 6, 5.2.2.17: value, status, source time, source picoseconds, server time, server
picoseconds. (asyncua 2.1.0 reads the picoseconds behind both times, which is right only where one of them is absent.)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.opcua import wire

RUN: Final = 4  # fewer rows than this in a run are cheaper one by one
_NUMBERS: Final[dict[int, tuple[str, str]]] = {
    wire.BOOLEAN: ("u1", "B"), wire.SBYTE: ("i1", "b"), wire.BYTE: ("u1", "B"), wire.INT16: ("<i2", "h"),
    wire.UINT16: ("<u2", "H"), wire.INT32: ("<i4", "i"), wire.UINT32: ("<u4", "I"), wire.INT64: ("<i8", "q"),
    wire.UINT64: ("<u8", "Q"), wire.FLOAT: ("<f4", "f"), wire.DOUBLE: ("<f8", "d"), wire.STATUS_CODE: ("<u4", "I"),
}  # fmt: skip
_LATEST: Final = (2**63 - 1) // 100 + wire.EPOCH  # the last tick that int64 nanoseconds since 1970 can hold
_FIRST: Final = wire.EPOCH + 1  # the first tick that is a time
_FIRST_WINDOW: Final = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """The layout of a row whose mask and type are known: as a numpy dtype and as a struct, both without padding."""

    mask: int
    kind: int  # built-in type; 0 without a value
    dtype: np.dtype[Any]
    scalar: struct.Struct
    width: int
    mark: int  # mask and type as they appear on the wire, one number


@lru_cache(maxsize=1024)
def shape(mask: int, kind: int, handles: bool) -> Shape | None:
    """Give the layout for a mask and an encoding byte, or None where the width is not fixed."""
    valued = bool(mask & 0x01)
    if valued and kind not in _NUMBERS and kind != 0:
        return None
    fields: list[tuple[str, str]] = [("handle", "<u4")] if handles else []
    codes = "<I" if handles else "<"
    fields.append(("mark", "<u2" if valued else "u1"))
    codes += "H" if valued else "B"
    if valued and kind:
        fields.append(("value", _NUMBERS[kind][0]))
        codes += _NUMBERS[kind][1]
    for bit, name, dtype, code in (
        (0x02, "status", "<u4", "I"),
        (0x04, "source", "<i8", "q"),
        (0x10, "source_pico", "<u2", "H"),
        (0x08, "server", "<i8", "q"),
        (0x20, "server_pico", "<u2", "H"),
    ):
        if mask & bit:
            fields.append((name, dtype))
            codes += code
    layout = np.dtype(fields)
    return Shape(mask, kind if valued else 0, layout, struct.Struct(codes), layout.itemsize, mask | kind << 8)


@dataclass(slots=True, eq=False)
class Columns:
    """Decoded DataValues. Row i is the i-th value asked for, or the i-th notification.

    type: built-in type, with 0x80 for arrays, 0 where there is no value. number: the value where it is a number of up
    to 32 bits or a Double (else NaN). bits: the value where it is an Int64 or UInt64. source, server: ns since 1970,
    0 where absent or out of range. spans: for a row of any other type, the message and where its Variant lies in it.
    """

    type: NDArray[np.uint8]
    number: NDArray[np.float64]
    bits: NDArray[np.int64]
    status: NDArray[np.uint32]
    source: NDArray[np.int64]
    server: NDArray[np.int64]
    handle: NDArray[np.uint32]
    spans: dict[int, tuple[bytes, int, int]]

    def __len__(self) -> int:
        return len(self.type)

    @classmethod
    def empty(cls, size: int) -> Columns:
        """Give columns for this many rows, all of them without a value."""
        return cls(
            np.zeros(size, np.uint8), np.full(size, np.nan), np.zeros(size, np.int64), np.zeros(size, np.uint32),
            np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.uint32), {},
        )  # fmt: skip


def nanoseconds(ticks: int, pico: int = 0) -> int:
    """Give a DateTime (100 ns since 1601) and its picoseconds (of 10 ps) as ns since 1970; 0 where it says "none"."""
    if not wire.EPOCH < ticks <= _LATEST:
        return 0
    return (ticks - wire.EPOCH) * 100 + (pico // 100 if pico < 10_000 else 0)


def decode(body: bytes, at: int, columns: Columns, row: int, count: int, handles: bool = False) -> int:
    """Decode `count` DataValues from `at` into rows `row`... of `columns`; give where they end.

    With `handles` each is a MonitoredItemNotification: a client handle, then the DataValue. Raises wire.Malformed.
    """
    prefix = 4 if handles else 0
    size = len(body)
    end = row + count
    while row < end:
        mark_at = at + prefix
        if mark_at + 1 >= size and not (mark_at < size and body[mark_at] & 0x01 == 0):
            raise wire.Malformed("the message ends early")
        mask = body[mark_at]
        kind = body[mark_at + 1] if mask & 0x01 else 0
        layout = shape(mask, kind, handles)
        if layout is None:
            at = _span(body, at, columns, row, handles)
            row += 1
            continue
        length = _run(body, at, layout, end - row, prefix)
        if length < RUN:
            for _ in range(length):
                _scalar(layout, layout.scalar.unpack_from(body, at), columns, row, handles)
                at += layout.width
                row += 1
        else:
            view = np.frombuffer(body, layout.dtype, length, at)
            _copy(layout, view, columns, slice(row, row + length), handles)
            at += layout.width * length
            row += length
    return at


def _run(body: bytes, at: int, layout: Shape, most: int, prefix: int) -> int:
    """Count the rows from `at` that have this very layout: at least one. Raises wire.Malformed."""
    width = layout.width
    most = min(most, (len(body) - at) // width)
    if most < 1:
        raise wire.Malformed("the message ends early")
    mark = bytes((layout.mark & 0xFF, layout.mark >> 8)) if layout.mask & 0x01 else bytes((layout.mark,))
    position = at + prefix
    for row in range(1, min(most, RUN)):
        position += width
        if body[position : position + len(mark)] != mark:
            return row
    if most < RUN:
        return most
    known, window = RUN, _FIRST_WINDOW
    while known < most:
        length = min(window, most - known)
        same = np.frombuffer(body, layout.dtype, length, at + known * width)["mark"] == layout.mark
        if not same.all():
            return known + int(same.argmin())
        known += length
        window *= 64
    return known


def _times(ticks: NDArray[np.int64], pico: NDArray[np.uint16] | None) -> NDArray[np.int64]:
    since = ticks - _FIRST  # one below 0 becomes a number beyond all that are allowed
    outside = since.view(np.uint64).max() > _LATEST - _FIRST
    since += 1
    since *= 100
    if pico is not None:
        since += np.where(pico < 10_000, pico // 100, 0)
    if outside:
        since[(ticks < _FIRST) | (ticks > _LATEST)] = 0
    return since


def _copy(layout: Shape, view: NDArray[Any], columns: Columns, rows: slice, handles: bool) -> None:
    mask, kind = layout.mask, layout.kind
    columns.type[rows] = kind
    if handles:
        columns.handle[rows] = view["handle"]
    if kind == wire.BOOLEAN:
        columns.number[rows] = view["value"] != 0
    elif kind in (wire.INT64, wire.UINT64):
        columns.bits[rows] = view["value"].view("<i8")
    elif kind:
        columns.number[rows] = view["value"]
    if mask & 0x02:
        columns.status[rows] = view["status"]
    if mask & 0x04:
        columns.source[rows] = _times(view["source"], view["source_pico"] if mask & 0x10 else None)
    if mask & 0x08:
        columns.server[rows] = _times(view["server"], view["server_pico"] if mask & 0x20 else None)


def _scalar(layout: Shape, fields: tuple[Any, ...], columns: Columns, row: int, handles: bool) -> None:
    mask, kind = layout.mask, layout.kind
    columns.type[row] = kind
    position = 1
    if handles:
        columns.handle[row] = fields[0]
        position = 2
    if kind:
        value = fields[position]
        position += 1
        if kind == wire.BOOLEAN:
            columns.number[row] = value != 0
        elif kind in (wire.INT64, wire.UINT64):
            columns.bits[row] = value if value < 2**63 else value - 2**64
        else:
            columns.number[row] = value
    _rest(fields[position:], mask, columns, row)


def _rest(fields: tuple[int, ...], mask: int, columns: Columns, row: int) -> None:
    """Set status and times from the fields behind the value."""
    rest = iter(fields)
    if mask & 0x02:
        columns.status[row] = next(rest)
    for bit, pico_bit, column in ((0x04, 0x10, columns.source), (0x08, 0x20, columns.server)):
        ticks = next(rest) if mask & bit else 0
        pico = next(rest) if mask & pico_bit else 0
        column[row] = nanoseconds(ticks, pico)


def _span(body: bytes, at: int, columns: Columns, row: int, handles: bool) -> int:
    """Read a row whose value has no fixed width: leave the value where it is, and note where."""
    if handles:
        columns.handle[row] = wire.uint32(body, at)
        at += 4
    mask, kind = body[at], body[at + 1]
    end = wire.skip_variant(body, at + 1)
    columns.type[row] = kind & 0x3F | (wire.ARRAY if kind & (wire.ARRAY | wire.DIMENSIONS) else 0)
    columns.spans[row] = (body, at + 1, end)
    codes = "<" + "".join(
        code for bit, code in ((0x02, "I"), (0x04, "q"), (0x10, "H"), (0x08, "q"), (0x20, "H")) if mask & bit
    )
    try:
        _rest(struct.unpack_from(codes, body, end), mask, columns, row)
    except struct.error:
        raise wire.Malformed("the message ends early") from None
    return end + struct.calcsize(codes)
