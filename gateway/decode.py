"""Messages of the native format `columns` back into readings: the receiving half of gateway.encoders.columns.

Topics, under a prefix that names the gateway (docs/guide/columns.md has the format in full):

    {prefix}/tables/{journal}/{table id}   a table definition, JSON
    {prefix}/columns                       readings: a zstd frame around an Arrow IPC stream
    {prefix}/gaps                          declared holes, JSON

Bytes come from the network: whatever they are, these functions give a result, or raise ValueError saying what is
wrong with them, or UnknownTable. Sizes are bounded before memory is taken. The batches of a message are slices of its
columns: there is no Python object per reading, but for text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import nanoarrow as na
import numpy as np
import orjson
import zstandard
from nanoarrow.ipc import InputStream
from numpy.typing import NDArray

from gateway.contracts import Block
from gateway.model import Batch, Gap, Kind, TagTable

MAX_DECOMPRESSED: Final = 64 << 20  # bytes; the largest message of a publisher is far below
VERSION: Final = 1

_KINDS: Final = {
    "float": Kind.FLOAT,
    "double": Kind.FLOAT,
    "int64": Kind.INT,
    "uint64": Kind.UINT,
    "bool": Kind.BOOL,
    "string": Kind.TEXT,
}
_DTYPES: Final = {"float": np.float32, "double": np.float64, "int64": np.int64, "uint64": np.uint64}
_COLUMNS: Final = {"tag": "uint32", "value": "", "quality": "uint32", "time": "timestamp"}
_LARGEST: Final = np.iinfo(np.int64).max

Tables = Callable[[str, str, int], TagTable | None]
"""Gives the table that a gateway's journal calls by this id, or None where its definition has not come yet."""


class UnknownTable(Exception):
    """A message uses a table whose definition has not come yet."""

    def __init__(self, gateway: str, journal: str, table: int) -> None:
        self.gateway, self.journal, self.table = gateway, journal, table
        super().__init__(f"table {table} of journal {journal} of gateway {gateway} is not known")


@dataclass(frozen=True, slots=True)
class TableTopic:
    """What the topic of a table definition says."""

    prefix: str
    journal: str
    table: int


def parse_table_topic(topic: str) -> TableTopic | None:
    """Read `{prefix}/tables/{journal}/{table id}`; None where it is another topic."""
    parts = topic.rsplit("/", 3)
    if len(parts) != 4 or parts[1] != "tables" or not parts[3].isascii() or not parts[3].isdigit():
        return None
    if len(parts[3]) > 9:
        return None
    return TableTopic(parts[0], parts[2], int(parts[3]))


def decode_table(payload: bytes) -> TagTable:
    """Read a table definition. Raises ValueError."""
    try:
        table = TagTable.from_definition(payload)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a table definition: {error}") from error
    texts = [table.device, table.group]
    for tag in table.tags:
        texts += (tag.name, tag.address, tag.type, tag.unit, tag.description, *(text for _, text in tag.states))
        _expect(all(abs(number) < 2**63 for number, _ in tag.states), "a state's number out of range")
    _expect(all(isinstance(text, str) for text in texts), "not a table definition: numbers where names are expected")
    _expect(len(set(table.names)) == len(table), "not a table definition: a tag occurs twice")
    return table


def decode_gaps(payload: bytes) -> Block:
    """Read a message of gaps. Raises ValueError."""
    try:
        body = orjson.loads(payload)
        gateway, journal = _origin(body)
        sequences, gaps = [], []
        for entry in body["gaps"]:
            fields = {name: entry[name] for name in _GAP_FIELDS if name in entry}
            for name, value in fields.items():
                _expect(isinstance(value, _GAP_FIELDS[name]) and not isinstance(value, bool), f"{name} = {value!r}")
            gap = Gap(**fields)
            _expect(all(abs(when) < _LARGEST for when in (gap.start, gap.end)), "a time out of range")
            _expect(gap.readings >= 0 and gap.scans >= 0, "a negative count")
            sequences.append(_count(entry["sequence"]))
            gaps.append(gap)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a message of gaps: {error!r}") from error
    return Block(gateway, journal, tuple(sequences), tuple(gaps))


def decode_columns(payload: bytes, tables: Tables) -> Block:
    """Read a message of readings. Raises ValueError, and UnknownTable where a definition is still to come."""
    try:
        stream = na.ArrayStream(InputStream.from_readable(_decompress(payload)))
        schema = stream.schema
        header = _header(schema)
        gateway, journal = _origin(header)
        kind, dtype = _value_type(schema)
        columns = _read(stream, kind, dtype)
    except (
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        OverflowError,
        EOFError,
        MemoryError,
        zstandard.ZstdError,
    ) as error:
        raise ValueError(f"not a message of columns: {error}") from error
    return _split(gateway, journal, header, kind, columns, tables)


_GAP_FIELDS: Final = {
    "device": str, "group": str, "start": int, "end": int, "reason": str, "readings": int, "scans": int,
}  # fmt: skip

_Columns = tuple[NDArray[np.uint32], NDArray[Any], NDArray[np.uint32], NDArray[np.int64]]


def _decompress(payload: bytes) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(payload) as reader:
        data = reader.read(MAX_DECOMPRESSED + 1)
    _expect(len(data) <= MAX_DECOMPRESSED, f"more than {MAX_DECOMPRESSED} bytes when decompressed")
    return data


def _header(schema: na.Schema) -> dict[str, Any]:
    for key, value in (schema.metadata or {}).items():
        if key == b"plantbridge":
            header = orjson.loads(value)
            _expect(isinstance(header, dict), "its header is no object")
            return dict(header)
    raise ValueError("the schema's metadata has no key plantbridge")


def _origin(body: dict[str, Any]) -> tuple[str, str]:
    _expect(body["v"] == VERSION, f"version {body['v']!r}; this program reads version {VERSION}")
    gateway, journal = body["gateway"], body["journal"]
    _expect(
        isinstance(gateway, str) and isinstance(journal, str) and bool(gateway), "gateway and journal are to be text"
    )
    return gateway, journal


def _value_type(schema: na.Schema) -> tuple[Kind, Any]:
    fields = {field.name: field for field in schema.fields}
    _expect(list(fields) == list(_COLUMNS), f"columns {list(fields)} where {list(_COLUMNS)} are expected")
    for name, wanted in _COLUMNS.items():
        _expect(not wanted or fields[name].type.name.lower() == wanted, f"column {name} is {fields[name].type.name}")
    _expect(fields["time"].unit is na.TimeUnit.NANO, "times are to be in nanoseconds")
    name = fields["value"].type.name.lower()
    _expect(name in _KINDS, f"values of type {name}")
    return _KINDS[name], _DTYPES.get(name)


def _read(stream: na.ArrayStream, kind: Kind, dtype: Any) -> _Columns:
    tags, values, qualities, times = [], [], [], []
    for chunk in stream.iter_chunks():
        rows = na.c_array(chunk)
        _expect(rows.null_count == 0 and rows.offset == 0, "rows without content")
        view, size = rows.view(), rows.length
        tags.append(_numbers(view.child(0), np.uint32, size))
        values.append(_values(view.child(1), kind, dtype, size))
        qualities.append(_numbers(view.child(2), np.uint32, size))
        times.append(_numbers(view.child(3), np.int64, size))
    _expect(sum(map(len, tags)) > 0, "no rows")
    time = _one(times)
    _expect(int(time.min()) > -_LARGEST and int(time.max()) < _LARGEST, "a time out of range")
    return _one(tags), _one(values), _one(qualities), time


def _one(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _numbers(view: Any, dtype: Any, size: int) -> NDArray[Any]:
    """Give a column of fixed width that has no nulls."""
    _expect(view.null_count == 0, "nulls in a column that has none")
    return _plain(view, 1, dtype, size)


def _plain(view: Any, buffer: int, dtype: Any, size: int) -> NDArray[Any]:
    """Give `size` items of a buffer; what the peer says of lengths is believed only where the bytes are there."""
    _expect(view.offset == 0, "a column that does not begin at its begin")
    _expect(view.buffer(buffer).size_bytes >= size * np.dtype(dtype).itemsize, "a column that is too short")
    # copied, because a view of nanoarrow's does not keep the memory it shows
    return np.frombuffer(view.buffer(buffer), dtype=dtype, count=size).copy()


def _values(view: Any, kind: Kind, dtype: Any, size: int) -> NDArray[Any]:
    """Give the value column in its Kind's dtype; a null becomes the value that stands for none."""
    if kind is Kind.TEXT:
        column = _texts(view, size)
    elif kind is Kind.BOOL:
        column = _bits(view, 1, size)
    else:
        column = _plain(view, 1, dtype, size).astype(kind.dtype, copy=False)
    if view.null_count:
        column = np.where(_bits(view, 0, size), column, kind.nothing).astype(kind.dtype, copy=False)
    return column


def _bits(view: Any, buffer: int, size: int) -> NDArray[np.bool_]:
    return np.unpackbits(_plain(view, buffer, np.uint8, -(-size // 8)), count=size, bitorder="little").view(np.bool_)


def _texts(view: Any, size: int) -> NDArray[Any]:
    offsets = _plain(view, 1, np.int32, size + 1)
    data = bytes(view.buffer(2))
    _expect(int(offsets[0]) >= 0 and bool((np.diff(offsets) >= 0).all()), "texts that overlap")
    _expect(int(offsets[-1]) <= len(data), "texts that are too short")
    ends = offsets.tolist()
    column = np.empty(size, dtype=object)
    column[:] = [data[start:end].decode() for start, end in pairwise(ends)]
    return column


def _split(gateway: str, journal: str, header: dict[str, Any], kind: Kind, columns: _Columns, tables: Tables) -> Block:
    """Cut the columns into the batches of the journal's records."""
    tag, value, quality, time = columns
    backfill = header.get("backfill") is True
    sequences, batches, start = [], [], 0
    records = header.get("records")
    _expect(isinstance(records, list), "records is no list")
    for record in records if isinstance(records, list) else ():
        _expect(isinstance(record, list) and len(record) == 3, f"a record {record!r}")
        sequence, number, size = (_count(item) for item in record)
        table = tables(gateway, journal, number)
        if table is None:
            raise UnknownTable(gateway, journal, number)
        end = start + size
        _expect(end <= len(tag), "records that are longer than the columns")
        _expect(table.kind is kind, f"values of kind {kind} for table {number}, which holds {table.kind}")
        _expect(not size or int(tag[start:end].max()) < len(table), f"a tag that table {number} has not")
        rows = slice(start, end)
        batches.append(Batch(table, tag[rows], value[rows], quality[rows], time[rows], backfill))
        sequences.append(sequence)
        start = end
    _expect(start == len(tag), "columns that are longer than the records")
    return Block(gateway, journal, tuple(sequences), tuple(batches))


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise ValueError(f"{value!r} where a count is expected")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
