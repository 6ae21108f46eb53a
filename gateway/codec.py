"""Batch and Gap to bytes and back: the format of a journal record. Values come back bit for bit, NaN payloads too.

    record   = version u8 (1), kind u8, body         all numbers little-endian
    kind     = 0 gap, 1 float64, 2 int64, 3 uint64, 4 bool, 5 text
    gap body = JSON object with the fields of gateway.model.Gap
    batch body = flags u16, table u32, rows u32, size u32, columns     size: of the columns before compression
    flags    = bits 0-1  tag      0: tags are 0, 1, 2, ... rows-1    1: u16 column     2: u32 column
               bits 2-3  time     0: one i64 (ns since 1970 UTC)     1: i64 column
                                  2: i64 base, u8 exponent, u32 column; time = base + column x 10^exponent
               bit  4    quality  0: one u32 for all rows            1: u32 column
               bits 5-6  value    float64:      0: f32 column, for every value is exactly one    1: f64 column
                                  int64/uint64: u64 base, then 0: u8  1: u16  2: u32  3: u64 column;
                                                value = base + column, modulo 2^64
                                  bool:         bits, eight to a byte, first row in the lowest
                                  text:         u32 column of lengths in bytes, then all texts in UTF-8
               bit  7    backfill
               bit  8    columns are one zstd frame (level 1)
    columns  = tag, time, quality, value, in this order, without padding

zstd stays on: it takes 4 to 20 ns a reading and a third to a tenth of the bytes are left to be written to an SD card.
There is no checksum in here: the journal has one per record. `unpack` trusts nothing and raises ValueError only.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from gateway.floats import single_if_exact
from gateway.model import Batch, Gap, Kind, TagTable

VERSION: Final = 1
_GAP: Final = 0
_KINDS: Final = {Kind.FLOAT: 1, Kind.INT: 2, Kind.UINT: 3, Kind.BOOL: 4, Kind.TEXT: 5}
_KIND_OF: Final = {code: kind for kind, code in _KINDS.items()}
_HEAD: Final = struct.Struct("<BBHIII")
_QUALITY_COLUMN: Final = 1 << 4
_BACKFILL: Final = 1 << 7
_ZSTD: Final = 1 << 8
_WORTH: Final = 128  # bytes; shorter columns are not compressed
_MOST: Final = 1 << 28  # bytes of columns that anybody ever wrote in one record
_U32: Final = 0xFFFFFFFF
_WIDTHS: Final = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))
_GAP_FIELDS: Final = {
    "device": str,
    "group": str,
    "start": int,
    "end": int,
    "reason": str,
    "readings": int,
    "scans": int,
    "first": int,
    "last": int,
}
_LATER: Final = {"first": 0, "last": 0}  # fields that records of earlier versions have not


class _Zstd(threading.local):
    """Compression contexts cost 8 us to make and must not be shared between threads: one per thread."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd: Final = _Zstd()

_Column = NDArray[Any]


def pack(batch: Batch, table_id: int) -> bytes:
    """Write a batch of the table that the journal knows as `table_id`."""
    rows = len(batch.tag)
    if rows == 0:
        raise ValueError("an empty batch has nothing to record")
    kind = batch.table.kind
    tag_flag, tag = _pack_tags(batch.tag)
    time_flag, time = _pack_times(batch.time)
    quality_flag, quality = _pack_qualities(batch.quality)
    value_flag, value = _PACK[kind](batch.value)
    columns = b"".join((*tag, *time, *quality, *value))
    flags = tag_flag | time_flag << 2 | quality_flag | value_flag << 5 | (_BACKFILL if batch.backfill else 0)
    size = len(columns)
    if size >= _WORTH:
        squeezed = _zstd.compressor.compress(columns)
        if len(squeezed) < size:
            columns, flags = squeezed, flags | _ZSTD
    return _HEAD.pack(VERSION, _KINDS[kind], flags, table_id, rows, size) + columns


def pack_gap(gap: Gap) -> bytes:
    """Write a gap."""
    fields = {name: getattr(gap, name) for name in _GAP_FIELDS}
    texts = {name: text.encode(errors="replace").decode() for name, text in fields.items() if isinstance(text, str)}
    return bytes((VERSION, _GAP)) + orjson.dumps({**fields, **texts})


def unpack(record: bytes, tables: Callable[[int], TagTable]) -> Batch | Gap:
    """Read a record; `tables` gives the table for its id. Raises ValueError where the record makes no sense."""
    if len(record) < 2 or record[0] != VERSION:
        raise ValueError(f"not a record of version {VERSION}: {record[:4].hex(' ')}")
    if record[1] == _GAP:
        return _unpack_gap(record[2:])
    if len(record) < _HEAD.size:
        raise ValueError("the record is cut short")
    _, kind_code, flags, table_id, rows, size = _HEAD.unpack_from(record)
    kind = _KIND_OF.get(kind_code)
    if kind is None or flags >> 9 or rows == 0:
        raise ValueError(f"not a record: kind {kind_code}, flags {flags:#x}, {rows} rows")
    try:
        table = tables(table_id)
    except LookupError as error:
        raise ValueError(f"the record's table {table_id} is not known") from error
    if table.kind is not kind:
        raise ValueError(f"a {kind} record names table {table_id}, which holds {table.kind}")
    columns = _Reader(_columns(record, flags, size), rows)
    tag = _unpack_tags(columns, flags & 3, table)
    time = _unpack_times(columns, flags >> 2 & 3)
    quality = columns.take("<u4") if flags & _QUALITY_COLUMN else np.full(rows, columns.one("<u4"), np.uint32)
    value = _UNPACK[kind](columns, flags >> 5 & 3)
    columns.finish()
    return Batch(table, tag, value, quality, time, bool(flags & _BACKFILL))


def table_id(record: bytes) -> int | None:
    """Give the id of a record's table without unpacking it; None for a gap and for what is no record."""
    if len(record) < _HEAD.size or record[0] != VERSION or record[1] == _GAP:
        return None
    return int.from_bytes(record[4:8], "little")


# ------------------------------------------------------------------------------------------------ packing columns


def _pack_tags(tag: _Column) -> tuple[int, tuple[bytes, ...]]:
    rows = len(tag)
    # in order where the first is 0, the last is rows-1 and each is larger than the one before
    if tag[0] == 0 and tag[-1] == rows - 1 and (rows < 2 or bool((tag[1:] > tag[:-1]).all())):
        return 0, ()
    if tag.max() <= 0xFFFF:
        return 1, (tag.astype("<u2").tobytes(),)
    return 2, (tag.astype("<u4", copy=False).tobytes(),)


def _pack_times(time: _Column) -> tuple[int, tuple[bytes, ...]]:
    base = int(time.min())
    span = int(time.max()) - base
    if span == 0:
        return 0, (struct.pack("<q", base),)
    if span < 10**9 * _U32:  # else: not in 32 bits even as seconds, nor free of overflow below
        steps = time - base
        for exponent, unit in ((0, 1), (3, 10**3), (6, 10**6), (9, 10**9)):
            if span <= _U32 * unit and (unit == 1 or not (steps % unit).any()):
                return 2, (struct.pack("<qB", base, exponent), (steps // unit).astype("<u4").tobytes())
    return 1, (time.astype("<i8", copy=False).tobytes(),)


def _pack_qualities(quality: _Column) -> tuple[int, tuple[bytes, ...]]:
    first = quality[0]
    if (quality == first).all():
        return 0, (struct.pack("<I", int(first)),)
    return _QUALITY_COLUMN, (quality.astype("<u4", copy=False).tobytes(),)


def _pack_floats(value: _Column) -> tuple[int, tuple[bytes, ...]]:
    single = single_if_exact(value)
    if single is not None:
        return 0, (single.tobytes(),)
    return 1, (value.astype("<f8", copy=False).tobytes(),)


def _pack_integers(value: _Column) -> tuple[int, tuple[bytes, ...]]:
    base = int(value.min())
    span = int(value.max()) - base
    width = 0 if span < 1 << 8 else 1 if span < 1 << 16 else 2 if span < 1 << 32 else 3
    offset = np.uint64(base % (1 << 64))
    steps = np.ascontiguousarray(value).view(np.uint64) - offset
    return width, (struct.pack("<Q", int(offset)), steps.astype(_WIDTHS[width]).tobytes())


def _pack_bits(value: _Column) -> tuple[int, tuple[bytes, ...]]:
    return 0, (np.packbits(value.astype(bool, copy=False), bitorder="little").tobytes(),)


def _pack_texts(value: _Column) -> tuple[int, tuple[bytes, ...]]:
    texts = [str(text).encode(errors="replace") for text in value]
    lengths = np.fromiter(map(len, texts), "<u4", len(texts))
    return 0, (lengths.tobytes(), *texts)


_PACK: Final[dict[Kind, Callable[[_Column], tuple[int, tuple[bytes, ...]]]]] = {
    Kind.FLOAT: _pack_floats,
    Kind.INT: _pack_integers,
    Kind.UINT: _pack_integers,
    Kind.BOOL: _pack_bits,
    Kind.TEXT: _pack_texts,
}


# ------------------------------------------------------------------------------------------------ unpacking columns


class _Reader:
    """Columns one after the other out of a buffer; ValueError where it is too short or too long."""

    def __init__(self, data: bytes, rows: int) -> None:
        self.data = data
        self.rows = rows
        self._at = 0

    def take(self, dtype: str | np.dtype[Any], count: int | None = None) -> _Column:
        count = self.rows if count is None else count
        end = self._at + np.dtype(dtype).itemsize * count
        if end > len(self.data):
            raise ValueError("the record's columns are cut short")
        column = np.frombuffer(self.data, dtype, count, self._at)
        self._at = end
        return column

    def one(self, dtype: str) -> int:
        return int(self.take(dtype, 1)[0])

    def finish(self) -> None:
        if self._at != len(self.data):
            raise ValueError("the record has more bytes than its columns")


def _columns(record: bytes, flags: int, size: int) -> bytes:
    if size > _MOST:
        raise ValueError(f"the record claims {size} bytes of columns")
    data = record[_HEAD.size :]
    if flags & _ZSTD:
        try:
            if zstandard.frame_content_size(data) != size:
                raise ValueError("the record's sizes contradict each other")
            data = _zstd.decompressor.decompress(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(f"the record does not decompress: {error}") from error
    if len(data) != size:
        raise ValueError("the record's sizes contradict each other")
    return data


def _unpack_tags(columns: _Reader, flag: int, table: TagTable) -> NDArray[np.uint32]:
    if flag == 3 or (flag == 0 and columns.rows > len(table)):
        raise ValueError("the record has more tags than its table")
    if flag == 0:
        return table.every[: columns.rows]
    tag = columns.take("<u2" if flag == 1 else "<u4").astype(np.uint32, copy=False)
    if tag.max() >= len(table):
        raise ValueError("the record has tags that its table has not")
    return tag


def _unpack_times(columns: _Reader, flag: int) -> NDArray[np.int64]:
    if flag == 0:
        return np.full(columns.rows, columns.one("<i8"), np.int64)
    if flag == 1:
        return columns.take("<i8")
    if flag == 3:
        raise ValueError("the record has a form of time that does not exist")
    base, exponent = columns.one("<i8"), columns.one("<u1")
    steps = columns.take("<u4").astype(np.int64)
    if exponent > 9 or base + int(steps.max()) * 10**exponent >= 1 << 63:
        raise ValueError("the record's times are beyond all time")
    steps *= 10**exponent
    steps += base
    return steps


def _unpack_floats(columns: _Reader, flag: int) -> NDArray[np.float64]:
    if flag > 1:
        raise ValueError("the record has a form of value that does not exist")
    if flag == 1:
        return columns.take("<f8")
    with np.errstate(invalid="ignore"):  # a signalling NaN, which pack never writes
        return columns.take("<f4").astype(np.float64)


def _unpack_integers(columns: _Reader, flag: int, dtype: type[np.int64 | np.uint64]) -> _Column:
    base = np.uint64(columns.one("<u8"))
    return (columns.take(_WIDTHS[flag]).astype(np.uint64) + base).view(dtype)


def _unpack_bits(columns: _Reader, _flag: int) -> NDArray[np.bool_]:
    packed = columns.take("<u1", (columns.rows + 7) // 8)
    return np.unpackbits(packed, count=columns.rows, bitorder="little").view(np.bool_)


def _unpack_texts(columns: _Reader, _flag: int) -> NDArray[np.object_]:
    lengths = columns.take("<u4").tolist()
    blob = columns.take("<u1", sum(lengths)).tobytes()
    texts = np.empty(columns.rows, dtype=object)
    at = 0
    for row, length in enumerate(lengths):
        texts[row] = blob[at : at + length].decode()
        at += length
    return texts


_UNPACK: Final[dict[Kind, Callable[[_Reader, int], _Column]]] = {
    Kind.FLOAT: _unpack_floats,
    Kind.INT: lambda columns, flag: _unpack_integers(columns, flag, np.int64),
    Kind.UINT: lambda columns, flag: _unpack_integers(columns, flag, np.uint64),
    Kind.BOOL: _unpack_bits,
    Kind.TEXT: _unpack_texts,
}


def _unpack_gap(body: bytes) -> Gap:
    fields = orjson.loads(body)  # its error is a ValueError
    if not isinstance(fields, dict):
        raise ValueError("the gap is not a JSON object")
    fields = {**_LATER, **fields}
    for name, kind in _GAP_FIELDS.items():
        if type(fields.get(name)) is not kind:
            raise ValueError(f"the gap has no {name}")
    return Gap(**{name: fields[name] for name in _GAP_FIELDS})
