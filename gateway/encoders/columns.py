"""The native format: readings as Arrow columns, many journal records to a message, compressed as a whole.

    {prefix}/tables/{journal}/{table}   the table's definition, JSON (gateway.model.TagTable.definition); retained;
                                        sent in each session before its first use
    {prefix}/columns                    a zstd frame around one Arrow IPC stream with one record batch
    {prefix}/gaps                       {"v": 1, "gateway", "journal", "gaps": [{"sequence", fields of Gap}, ...]}

    prefix    the publisher's `topic`, default plantbridge/{gateway}
    columns   tag uint32 (index into the table), value, quality uint32 (OPC UA StatusCode), time timestamp[ns, UTC];
              none has nulls. value is float32 where that is exact, else float64; int64, uint64, bool or utf8: one
              type per message. The value of a Bad row means nothing. There is no column tag where every record has
              all tags of its table in order: it is half of a message's bytes, and says nothing there.
    metadata  the schema's key "plantbridge": {"v": 1, "gateway", "journal", "records": [[sequence, table, rows], ...],
              "backfill"}: rows follow each other in the order of `records`. A record too large for one message is
              spread over several, each with [sequence, table, rows, first row, rows of the whole record]. "backfill"
              marks data that is late on purpose.

docs/guide/formats/columns.md tells it to strangers, with ten lines that read it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import nanoarrow as na
import numpy as np
import orjson
import zstandard
from nanoarrow.ipc import StreamWriter
from numpy.typing import NDArray

from gateway.contracts import Record
from gateway.floats import single_if_exact
from gateway.model import Batch, Gap, Kind, Message, TagTable

VERSION: Final = 1
_LEVEL: Final = 3  # of zstd: 4 to 15 ns a reading; higher levels win little on fresh values
_TYPES: Final = {
    "float32": na.float32(nullable=False),
    "float64": na.float64(nullable=False),
    "int64": na.int64(nullable=False),
    "uint64": na.uint64(nullable=False),
    "bool": na.bool_(nullable=False),
    "text": na.string(nullable=False),
}
_RATIO: Final = 0.5  # bytes of a message to bytes of its columns, before anything is known

_Part = tuple[int, Batch, int, int]  # a record's sequence, some or all of its rows, the first of them, how many it has
_Sort = tuple[str, bool, bool]  # what messages are made of: value type, backfill, whole scans


class Columns:
    """Encodes journal records in the native format. `know` tells the tables' numbers before records that use them."""

    def __init__(self, gateway: str, journal: str, prefix: str, max_message: int, most: int | None = None) -> None:
        """`most`: readings in a message; any number where None."""
        self.max_message = max_message
        self._rows = most or sys.maxsize
        self._gateway = gateway
        self._journal = journal
        self._prefix = prefix
        self._numbers: dict[bytes, int] = {}
        self._told: set[int] = set()
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._ratios: dict[_Sort, float] = {}

    def know(self, number: int, table: TagTable) -> None:
        """Take note that the journal calls this table by this number."""
        self._numbers[table.fingerprint] = number

    def reset(self) -> None:
        """Send definitions again before their next use."""
        self._told.clear()

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Give the messages: definitions, gaps, then readings by type of value."""
        if not records:
            return []
        gaps = [(record.sequence, record.content) for record in records if isinstance(record.content, Gap)]
        batches = [
            (record.sequence, record.content, 0, len(record.content))
            for record in records
            if isinstance(record.content, Batch)
        ]
        messages = [*self._tables(batches), *self._gaps(gaps)]
        sorts: dict[_Sort, list[_Part]] = {}
        for part in batches:
            batch = part[1]
            sorts.setdefault((_type(batch), batch.backfill, _whole(batch)), []).append(part)
        for sort, parts in sorts.items():
            for few in self._portions(sort, parts):
                messages += self._columns(sort, few)
        return messages

    def _tables(self, batches: list[_Part]) -> Iterator[Message]:
        for sequence, batch, *_ in batches:
            number = self._numbers[batch.table.fingerprint]
            if number not in self._told:
                self._told.add(number)
                topic = f"{self._prefix}/tables/{self._journal}/{number}"
                yield Message(topic, batch.table.definition, sequence, sequence, 0, retain=True)

    def _gaps(self, gaps: list[tuple[int, Gap]]) -> list[Message]:
        if not gaps:
            return []
        entries = [
            {
                "sequence": sequence,
                "device": gap.device,
                "group": gap.group,
                "start": gap.start,
                "end": gap.end,
                "reason": gap.reason,
                "readings": gap.readings,
                "scans": gap.scans,
                **({"first": gap.first, "last": gap.last} if gap.first else {}),
            }
            for sequence, gap in gaps
        ]
        body = {"v": VERSION, "gateway": self._gateway, "journal": self._journal, "gaps": entries}
        payload = orjson.dumps(body)
        if len(payload) > self.max_message and len(gaps) > 1:
            half = len(gaps) // 2
            return [*self._gaps(gaps[:half]), *self._gaps(gaps[half:])]
        return [Message(f"{self._prefix}/gaps", payload, gaps[0][0], gaps[-1][0], 0)]

    def _portions(self, sort: _Sort, parts: list[_Part]) -> Iterator[list[_Part]]:
        """Put as many records together as are likely to fit into a message."""
        most = self.max_message / self._ratios.get(sort, _RATIO)
        size, rows, gathered = 0, 0, list[_Part]()
        for part in parts:
            coming = _size(part[1])
            if gathered and (size + coming > most or rows + len(part[1]) > self._rows):
                yield gathered
                size, rows, gathered = 0, 0, []
            gathered.append(part)
            size += coming
            rows += len(part[1])
        yield gathered

    def _columns(self, sort: _Sort, parts: list[_Part]) -> list[Message]:
        rows = sum(len(batch) for _, batch, *_ in parts)
        payload = b""
        if rows <= self._rows:
            payload = self._zstd.compress(self._stream(sort, parts))
            self._ratios[sort] = max(0.01, 1.05 * len(payload) / sum(_size(batch) for _, batch, *_ in parts))
        if rows > 1 and (len(payload) > self.max_message or rows > self._rows):
            one, other = _halves(parts)
            sort = (*sort[:2], sort[2] and len(parts) > 1)
            return [*self._columns(sort, one), *self._columns(sort, other)]
        oldest = min(int(batch.time.min()) for _, batch, *_ in parts)
        topic = f"{self._prefix}/columns"
        return [Message(topic, payload, parts[0][0], parts[-1][0], rows, oldest=oldest)]

    def _entry(self, part: _Part) -> list[int]:
        sequence, batch, first, rows = part
        entry = [sequence, self._numbers[batch.table.fingerprint], len(batch)]
        return entry if len(batch) == rows else [*entry, first, rows]

    def _stream(self, sort: _Sort, parts: list[_Part]) -> bytes:
        kind, backfill, whole = sort
        batches = [part[1] for part in parts]
        tag, quality, time = (
            _joined([getattr(batch, name) for batch in batches]) for name in ("tag", "quality", "time")
        )
        rows = len(time)
        header = {
            "v": VERSION,
            "gateway": self._gateway,
            "journal": self._journal,
            "records": [self._entry(part) for part in parts],
            "backfill": backfill,
        }
        schema = _SCHEMAS[kind, whole].modify(metadata={"plantbridge": orjson.dumps(header)})
        fields = [
            *([] if whole else [_array(na.uint32(nullable=False), rows, tag)]),
            _values(kind, _joined([batch.value for batch in batches])),
            _array(na.uint32(nullable=False), rows, quality),
            _array(_TIME, rows, time),
        ]
        out = io.BytesIO()
        with StreamWriter.from_writable(out) as writer:
            writer.write_array(na.c_array_from_buffers(schema, rows, [None], children=fields, null_count=0))
        return out.getvalue()


_TIME: Final = na.timestamp("ns", "UTC", nullable=False)
_TAG: Final = {"tag": na.uint32(nullable=False)}
_REST: Final = {"quality": na.uint32(nullable=False), "time": _TIME}
_SCHEMAS: Final = {
    (name, whole): na.c_schema(na.struct({**({} if whole else _TAG), "value": value, **_REST}))
    for name, value in _TYPES.items()
    for whole in (False, True)
}


def _type(batch: Batch) -> str:
    """Give the type of the value column that this batch needs."""
    if batch.table.kind is not Kind.FLOAT:
        return batch.table.kind.value
    return "float64" if single_if_exact(batch.value) is None else "float32"


def _whole(batch: Batch) -> bool:
    """Say whether a batch has a row for every tag of its table, in order."""
    every = batch.table.every
    return batch.tag is every or (len(batch) == len(every) and np.array_equal(batch.tag, every))


def _size(batch: Batch) -> int:
    """Give the bytes of a batch's columns; of texts, roughly."""
    return 16 * len(batch) + (8 if batch.table.kind is not Kind.TEXT else 16) * len(batch)


def _halves(parts: list[_Part]) -> tuple[list[_Part], list[_Part]]:
    """Cut in two: between records, or one record's rows."""
    if len(parts) > 1:
        half = len(parts) // 2
        return parts[:half], parts[half:]
    sequence, batch, first, of = parts[0]
    half = len(batch) // 2
    rows = np.arange(len(batch))
    return [(sequence, batch.take(rows[:half]), first, of)], [(sequence, batch.take(rows[half:]), first + half, of)]


def _joined(columns: list[NDArray[Any]]) -> NDArray[Any]:
    return np.ascontiguousarray(columns[0]) if len(columns) == 1 else np.concatenate(columns)


def _array(of: Any, rows: int, *buffers: Any) -> Any:
    return na.c_array_from_buffers(of, rows, [None, *buffers], null_count=0)


def _values(kind: str, column: NDArray[Any]) -> Any:
    rows = len(column)
    if kind == "bool":
        return _array(_TYPES[kind], rows, np.packbits(column, bitorder="little"))
    if kind == "text":
        texts = [str(text).encode(errors="replace") for text in column]
        ends = np.zeros(rows + 1, dtype=np.int32)
        np.cumsum(np.fromiter(map(len, texts), np.int32, rows), out=ends[1:])
        return _array(_TYPES[kind], rows, ends, b"".join(texts))
    return _array(_TYPES[kind], rows, column.astype(kind, copy=False))
