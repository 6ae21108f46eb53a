"""Messages of the native format `columns` back into readings: the receiving half of gateway.encoders.columns.

Topics, under a prefix that names the gateway (docs/guide/formats/columns.md has the format in full):

    {prefix}/tables/{journal}/{table id}   a table definition, JSON
    {prefix}/columns                       readings: a zstd frame around an Arrow IPC stream
    {prefix}/gaps                          declared holes, JSON

Bytes come from the network: whatever they are, these functions give a result, or raise ValueError saying what is
wrong with them, or UnknownTable. Sizes are bounded before memory is taken. The batches of a message are slices of its
columns: there is no Python object per reading, but for text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from gateway.arrow import Column, Stream, read_stream
from gateway.contracts import Block
from gateway.model import Batch, Gap, Kind, TagTable

MAX_DECOMPRESSED: Final = 64 << 20  # bytes; the largest message of a publisher is far below
VERSION: Final = 1

_KINDS: Final = {
    "float32": (Kind.FLOAT, np.float32),
    "float64": (Kind.FLOAT, np.float64),
    "int64": (Kind.INT, np.int64),
    "uint64": (Kind.UINT, np.uint64),
    "bool": (Kind.BOOL, None),
    "string": (Kind.TEXT, None),
}
_TYPES: Final = {"tag": ("uint32",), "value": tuple(_KINDS), "quality": ("uint32",), "time": ("timestamp[ns]",)}
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
            _expect(0 <= gap.first <= gap.last < _LARGEST, "sequences out of order")
            sequences.append(_count(entry["sequence"]))
            gaps.append(gap)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a message of gaps: {error!r}") from error
    return Block(gateway, journal, tuple(sequences), tuple(gaps))


def decode_columns(payload: bytes, tables: Tables) -> Block:
    """Read a message of readings. Raises ValueError, and UnknownTable where a definition is still to come."""
    try:
        stream = read_stream(_decompress(payload))
        header = _header(stream)
        gateway, journal = _origin(header)
        kind, columns = _columns(stream)
    except (ValueError, KeyError, TypeError, MemoryError, zstandard.ZstdError) as error:
        raise ValueError(f"not a message of columns: {error}") from error
    return _split(gateway, journal, header, kind, columns, tables)


_GAP_FIELDS: Final = {
    "device": str, "group": str, "start": int, "end": int, "reason": str, "readings": int, "scans": int, "first": int,
    "last": int,
}  # fmt: skip

_Columns = tuple[NDArray[np.uint32] | None, NDArray[Any], NDArray[np.uint32], NDArray[np.int64]]


def _decompress(payload: bytes) -> bytes:
    size = zstandard.frame_content_size(payload)  # -1 where the sender did not say
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    data = b""
    if size < 0:
        with decompressor.stream_reader(payload) as reader:
            data = reader.read(MAX_DECOMPRESSED + 1)
        size = len(data)
    _expect(size <= MAX_DECOMPRESSED, f"more than {MAX_DECOMPRESSED} bytes when decompressed")
    return data if data else decompressor.decompress(payload)


def _header(stream: Stream) -> dict[str, Any]:
    _expect("plantbridge" in stream.metadata, "the schema's metadata has no key plantbridge")
    header = orjson.loads(stream.metadata["plantbridge"])
    _expect(isinstance(header, dict), "its header is no object")
    return dict(header)


def _origin(body: dict[str, Any]) -> tuple[str, str]:
    _expect(body["v"] == VERSION, f"version {body['v']!r}; this program reads version {VERSION}")
    gateway, journal = body["gateway"], body["journal"]
    _expect(
        isinstance(gateway, str) and isinstance(journal, str) and bool(gateway), "gateway and journal are to be text"
    )
    return gateway, journal


def _columns(stream: Stream) -> tuple[Kind, _Columns]:
    types = {field.name: field.type for field in stream.fields}
    whole = "tag" not in types  # every record is a whole scan
    expected = list(_TYPES)[whole:]
    _expect(list(types) == expected, f"columns {list(types)} where {expected} are expected")
    for name, type_ in types.items():
        _expect(type_ in _TYPES[name], f"column {name} of type {type_}")
    kind, dtype = _KINDS[types["value"]]
    batches = [batch for batch in stream.batches if batch[0].length]
    _expect(bool(batches), "no rows")
    nulls = any(column.nulls for batch in batches for name, column in zip(types, batch, strict=True) if name != "value")
    _expect(not nulls, "nulls where none may be")
    time = _joined(batch[-1].items(1, np.int64, batch[-1].length) for batch in batches)
    _expect(int(time.min()) > -_LARGEST and int(time.max()) < _LARGEST, "a time out of range")
    return kind, (
        None if whole else _joined(batch[0].items(1, np.uint32, batch[0].length) for batch in batches),
        _joined(_values(batch[-3], kind, dtype) for batch in batches),
        _joined(batch[-2].items(1, np.uint32, batch[-2].length) for batch in batches),
        time,
    )


def _joined(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    first, *others = parts
    return np.concatenate([first, *others]) if others else first


def _values(column: Column, kind: Kind, dtype: Any) -> NDArray[Any]:
    """Give the value column in its Kind's dtype; a null becomes the value that stands for none."""
    values: NDArray[Any]
    if kind is Kind.TEXT:
        values = np.empty(column.length, dtype=object)
        values[:] = column.texts()
    elif kind is Kind.BOOL:
        values = column.bits(1)
    else:
        values = column.items(1, dtype, column.length).astype(kind.dtype, copy=False)
    if column.nulls:
        values = np.where(column.bits(0), values, kind.nothing).astype(kind.dtype, copy=False)
    return values


def _split(gateway: str, journal: str, header: dict[str, Any], kind: Kind, columns: _Columns, tables: Tables) -> Block:
    """Cut the columns into the batches of the journal's records."""
    tag, value, quality, time = columns
    backfill = header.get("backfill") is True
    sequences, start = list[int](), 0
    batches: list[Batch | Gap] = []
    parts: dict[int, tuple[int, int]] = {}
    records = header.get("records")
    _expect(isinstance(records, list), "records is no list")
    for record in records if isinstance(records, list) else ():
        _expect(isinstance(record, list) and len(record) in (3, 5), f"a record {record!r}")
        sequence, number, size, *part = (_count(item) for item in record)
        if part:
            _expect(part[0] + size <= part[1], f"rows {part[0]} to {part[0] + size} of a record of {part[1]}")
            parts[len(batches)] = (part[0], part[1])
        table = tables(gateway, journal, number)
        if table is None:
            raise UnknownTable(gateway, journal, number)
        end = start + size
        _expect(end <= len(value), "records that are longer than the columns")
        _expect(table.kind is kind, f"values of kind {kind} for table {number}, which holds {table.kind}")
        rows = slice(start, end)
        if tag is None:
            _expect(size == len(table), f"{size} rows for the whole of table {number}, which has {len(table)} tags")
        else:
            _expect(not size or int(tag[rows].max()) < len(table), f"a tag that table {number} has not")
        batches.append(
            Batch(table, table.every if tag is None else tag[rows], value[rows], quality[rows], time[rows], backfill)
        )
        sequences.append(sequence)
        start = end
    _expect(start == len(value), "columns that are longer than the records")
    return Block(gateway, journal, tuple(sequences), tuple(batches), parts)


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise ValueError(f"{value!r} where a count is expected")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
