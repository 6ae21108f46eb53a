"""An Arrow IPC stream, as far as the native format uses it, read from bytes that nobody vouches for.

nanoarrow writes our streams, but its reader does not check the flatbuffers in them, and a damaged one ends the
process (a broker would deliver it again, and end it again). Here every offset is checked before it is followed: bytes
give columns or ValueError, nothing else.

    stream    message*, each: 0xFFFFFFFF, int32 size of the metadata, metadata (a flatbuffer), body
              a size of 0, or the end of the bytes, ends the stream
    first     a Schema: fields with name and type, custom metadata
    then      RecordBatches: per field a node (length, nulls) and its buffers (offset, length in the body)

Arrow columnar format 1.x, "IPC streaming format", and format/{Message,Schema}.fbs of apache/arrow. Fixed-width numbers,
timestamps, booleans and utf8, without dictionaries, nesting or compression inside (the whole is compressed); else
ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_CONTINUATION: Final = 0xFFFFFFFF
_SCHEMA: Final = 1
_RECORD_BATCH: Final = 3
_UNITS: Final = ("s", "ms", "us", "ns")
_FLOATS: Final = ("float16", "float32", "float64")
_MOST_FIELDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Field:
    """A column's name, and its type as pyarrow writes it: uint32, double is float64, bool, string, timestamp[ns]."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column of one record batch. Its buffers may be shorter than `length` needs: `items` and `bits` check."""

    length: int
    nulls: int
    buffers: tuple[memoryview, ...]  # validity, values; of texts validity, offsets, bytes

    def items(self, buffer: int, dtype: Any, count: int) -> NDArray[Any]:
        """Give the first `count` items of a buffer, without copying."""
        if len(self.buffers[buffer]) < count * np.dtype(dtype).itemsize:
            raise ValueError("a column that is too short")
        return np.frombuffer(self.buffers[buffer], dtype=dtype, count=count)

    def bits(self, buffer: int) -> NDArray[np.bool_]:
        """Give a buffer of bits as booleans."""
        octets = self.items(buffer, np.uint8, -(-self.length // 8))
        return np.unpackbits(octets, count=self.length, bitorder="little").view(np.bool_)

    def texts(self) -> list[str]:
        """Give a column of texts."""
        offsets = self.items(1, np.int32, self.length + 1)
        if int(offsets[0]) < 0 or bool((np.diff(offsets) < 0).any()) or int(offsets[-1]) > len(self.buffers[2]):
            raise ValueError("texts that are not where they are said to be")
        data, ends = bytes(self.buffers[2]), offsets.tolist()
        return [data[ends[place] : ends[place + 1]].decode() for place in range(self.length)]


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream holds: one entry of `batches` per record batch, in it one column per field."""

    metadata: dict[str, bytes]
    fields: tuple[Field, ...]
    batches: tuple[tuple[Column, ...], ...]


def read_stream(data: bytes) -> Stream:
    """Read a whole stream. Raises ValueError."""
    try:
        messages = _messages(memoryview(data))
        kind, header, _ = next(messages, (0, None, None))
        if kind != _SCHEMA or header is None:
            raise ValueError("it does not begin with a schema")
        fields = tuple(_field(table) for table in header.tables(1))
        metadata = {table.text(0): table.octets(1) for table in header.tables(2)}
        batches = tuple(_batch(kind, header, body, fields) for kind, header, body in messages)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"not an Arrow stream: {error}") from error
    return Stream(metadata, fields, batches)


def _messages(data: memoryview) -> Iterator[tuple[int, _Table, memoryview]]:
    """Give type, header and body of each message."""
    place = 0
    while place < len(data):
        mark, size = struct.unpack_from("<Ii", data, place)
        if mark != _CONTINUATION or size < 0:
            raise ValueError("not an Arrow stream")
        if size == 0:
            return
        start = place + 8
        body = start + size
        if body > len(data):
            raise ValueError("an Arrow stream that was cut off")
        message = _Table.root(data[start:body])
        length = message.number("q", 3)
        if not 0 <= length <= len(data) - body:
            raise ValueError("an Arrow stream that was cut off")
        header = message.table(2)
        if header is None:
            raise ValueError("an Arrow message without header")
        yield message.number("B", 1), header, data[body : body + length]
        place = body + length


def _field(table: _Table) -> Field:
    kind, type_ = table.number("B", 2), table.table(3)
    if table.table(4) is not None or type_ is None:
        raise ValueError("dictionaries are not read here")
    name = table.text(0)
    if kind == 2:
        return Field(name, f"{'int' if type_.number('B', 1) else 'uint'}{type_.number('i', 0)}")
    if kind == 3:
        return Field(name, _named(_FLOATS, type_.number("h", 0)))
    if kind == 5:
        return Field(name, "string")
    if kind == 6:
        return Field(name, "bool")
    if kind == 10:
        return Field(name, f"timestamp[{_named(_UNITS, type_.number('h', 0))}]")
    raise ValueError(f"column {name!r} has a type that is not read here ({kind})")


def _named(names: tuple[str, ...], number: int) -> str:
    if 0 <= number < len(names):
        return names[number]
    raise ValueError("an Arrow type that does not exist")


def _batch(kind: int, header: _Table, body: memoryview, fields: tuple[Field, ...]) -> tuple[Column, ...]:
    if kind != _RECORD_BATCH:
        raise ValueError("an Arrow message that is no record batch")
    if header.table(3) is not None:
        raise ValueError("compression inside the stream is not read here")
    length = header.number("q", 0)
    nodes, buffers = header.pairs(1), header.pairs(2)
    counts = [3 if field.type == "string" else 2 for field in fields]
    if length < 0 or len(nodes) != len(fields) or len(buffers) != sum(counts):
        raise ValueError("a record batch that does not fit its schema")
    columns, used = [], 0
    for (rows, nulls), count in zip(nodes, counts, strict=True):
        parts = []
        for start, size in buffers[used : used + count]:
            if start < 0 or size < 0 or start + size > len(body):
                raise ValueError("a buffer outside its record batch")
            parts.append(body[start : start + size])
        if rows != length or not 0 <= nulls <= length:
            raise ValueError("columns of different length")
        columns.append(Column(length, nulls, tuple(parts)))
        used += count
    return tuple(columns)


class _Table:
    """A flatbuffer table: fields by number, each absent or at an offset. struct checks that reads stay inside."""

    __slots__ = ("_data", "_fields", "_place")

    def __init__(self, data: memoryview, place: int) -> None:
        (back,) = struct.unpack_from("<i", data, place)
        start = place - back
        if start < 0:  # struct would count from the end
            raise ValueError("a flatbuffer that points outside itself")
        (size,) = struct.unpack_from("<H", data, start)
        if size < 4 or size % 2:
            raise ValueError("a flatbuffer without fields")
        self._fields = struct.unpack_from(f"<{size // 2 - 2}H", data, start + 4)
        self._data, self._place = data, place

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def number(self, form: str, field: int) -> int:
        """Give a number, 0 where it is absent."""
        offset = self._fields[field] if field < len(self._fields) else 0
        return int(struct.unpack_from("<" + form, self._data, self._place + offset)[0]) if offset else 0

    def table(self, field: int) -> _Table | None:
        place = self._follow(field)
        return _Table(self._data, place) if place else None

    def octets(self, field: int) -> bytes:
        place = self._follow(field)
        if not place:
            return b""
        (size,) = struct.unpack_from("<I", self._data, place)
        if place + 4 + size > len(self._data):
            raise ValueError("a text outside its flatbuffer")
        return bytes(self._data[place + 4 : place + 4 + size])

    def text(self, field: int) -> str:
        return self.octets(field).decode()

    def tables(self, field: int) -> list[_Table]:
        place, size = self._vector(field)
        if size > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} columns")
        offsets = struct.unpack_from(f"<{size}I", self._data, place)
        return [_Table(self._data, place + 4 * number + offset) for number, offset in enumerate(offsets)]

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """Give a vector of structs of two int64."""
        place, size = self._vector(field)
        if size > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} columns")
        numbers = struct.unpack_from(f"<{2 * size}q", self._data, place)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _vector(self, field: int) -> tuple[int, int]:
        place = self._follow(field)
        return (place + 4, struct.unpack_from("<I", self._data, place)[0]) if place else (0, 0)

    def _follow(self, field: int) -> int:
        """Give the place a field points to, 0 where it is absent."""
        offset = self._fields[field] if field < len(self._fields) else 0
        return self._place + offset + self.number("I", field) if offset else 0
