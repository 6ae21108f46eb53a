"""The questions that `plantbridge query` asks of the DuckDB store: which tags, their newest rows, their rows in a time.

Answers are Arrow streams (gateway.stores.inquiry). What they become is decided here as far as DuckDB is needed for
it: Parquet, CSV, plain text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import nanoarrow as na

from gateway.errors import GatewayError
from gateway.stores import folder, layout
from gateway.stores.inquiry import read

_COLUMNS: Final = 'gateway, device, "group", tag, unit, {time}, value, text, quality, status, kind'


@dataclass(frozen=True, slots=True)
class Row:
    """One reading as a person sees it. `value` is None where there is none; `text` is exact where `value` is not."""

    gateway: str
    device: str
    group: str
    tag: str
    unit: str
    time: int  # ns
    value: float | None
    text: str | None
    quality: int
    status: str
    kind: str


class NoSuchTag(GatewayError):
    """A name or pattern that no stored tag has."""


def find(database: Path, patterns: Sequence[str], gateway: str = "") -> list[int] | None:
    """Give the series of DEVICE/TAG patterns (* and ? as in file names); None where all are meant.

    Raises NoSuchTag with the nearest names.
    """
    if not patterns and not gateway:
        return None
    sql = "SELECT id, device || '/' || tag AS name FROM series WHERE $gateway IN ('', gateway) AND {}"
    found: list[int] = []
    for pattern in patterns or ["*"]:
        matching = "($pattern = device || '/' || tag OR device || '/' || tag GLOB $pattern)"
        ids = [row["id"] for row in _rows(database, sql.format(matching), pattern=pattern, gateway=gateway)]
        if not ids:
            names = {row["name"] for row in _rows(database, sql.format("true"), gateway=gateway)}
            near = difflib.get_close_matches(pattern, sorted(names), 3, 0.5)
            of = f" of gateway {gateway}" if gateway else ""
            hint = f"; did you mean {', '.join(near)}?" if near else f"; {len(names)} tags are stored{of}"
            raise NoSuchTag(f"no tag{of} is named {pattern}{hint}")
        found += ids
    return sorted(set(found))


def _rows(database: Path, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    with read(database, sql, parameters) as answer:
        return [row for chunk in answer.iter_chunks() for row in chunk.iter_py()]


def newest(ids: Sequence[int] | None) -> str:
    """Give SQL for the newest row of each series, by name."""
    return f"SELECT * FROM ({layout.named(layout.newest(_among(ids)))}) ORDER BY gateway, device, tag"


def between(ids: Sequence[int] | None, start: int | None, end: int | None, limit: int | None = None) -> str:
    """Give SQL for the rows with start <= time < end (ns), in the order of time; with a limit, the newest of them."""
    conditions = [_among(ids)]
    if start is not None:
        conditions.append(f"time >= make_timestamp_ns({start:d})")
    if end is not None:
        conditions.append(f"time < make_timestamp_ns({end:d})")
    where = " AND ".join(conditions)
    source = {kind: f"(SELECT * FROM {table} WHERE {where})" for kind, (table, _) in layout.TABLES.items()}
    sql = f"SELECT * FROM ({layout.named(source)})"
    if limit is not None:
        sql = f"SELECT * FROM ({sql} ORDER BY time DESC, gateway, device, tag LIMIT {limit:d})"
    return f"{sql} ORDER BY time, gateway, device, tag"


def _among(ids: Sequence[int] | None) -> str:
    return "true" if ids is None else f"series IN ({', '.join(map(str, ids))})"


def rows(database: Path, sql: str) -> Iterator[Row]:
    """Give the answer to `newest` or `between`, row by row."""
    columns = _COLUMNS.format(time="epoch_ns(time) AS time")
    with read(database, f"SELECT {columns} FROM ({sql})") as answer:
        for chunk in answer.iter_chunks():
            yield from (Row(*row) for row in chunk.iter_tuples())


def columns(sql: str) -> str:
    """Give SQL for the columns of `newest` or `between` as files are to have them."""
    return f"SELECT {_COLUMNS.format(time='time')} FROM ({sql})"


def write_file(stream: na.ArrayStream, path: Path, form: str) -> None:
    """Write an answer as a file of form `parquet` or `csv`; it appears whole or not at all. Times are UTC."""
    partial = path.with_name(path.name + ".partial")
    with duckdb.connect() as connection:
        connection.register("answer", stream)
        options = "FORMAT parquet, COMPRESSION zstd" if form == "parquet" else "FORMAT csv, HEADER"
        try:
            connection.execute(f"COPY (FROM answer) TO '{str(partial).replace(chr(39), chr(39) * 2)}' ({options})")
            partial.replace(path)
        except (duckdb.Error, OSError) as error:
            partial.unlink(missing_ok=True)
            raise GatewayError(f"cannot write {path}: {error}") from error


def export(database: Path, directory: Path, start: int | None, end: int | None, gateway: str) -> int:
    """Add the readings and gaps with start <= time < end (ns) to a folder of Parquet files (gateway.stores.folder).

    Gives how many were not there yet. Raises GatewayError.
    """
    within = {"begin": -(2**63) + 2 if start is None else start, "end": 2**63 - 2 if end is None else end}
    added = 0
    with read(database, folder.partitions_sql(), within) as answer:
        found = [tuple(row.values()) for row in answer.read_all().iter_py()]
    with duckdb.connect() as files:
        for kind, owner, day in found:
            if gateway not in ("", owner):
                continue
            begin, until = day * folder.DAY, (day + 1) * folder.DAY
            part = folder.Partition(kind, owner, day, max(begin, within["begin"]), min(until, within["end"]))
            with read(database, part.sql, part.parameters) as rows:
                try:
                    added += folder.add(files, part, rows, directory)
                except (duckdb.Error, OSError) as error:
                    raise GatewayError(f"cannot write to {directory}: {error}") from error
    return added


def emptiness(database: Path, ids: Sequence[int] | None) -> str:
    """Say why an answer about these series is empty."""
    ((stored,),) = (row.values() for row in _rows(database, "SELECT count(*) FROM series"))
    if not stored:
        return f"nothing is stored in {database} yet: is ingest running, and has a gateway published to its broker?"
    newest_of_all = max((row.time for row in rows(database, newest(ids))), default=None)
    if newest_of_all is None:
        (kept, *_) = [*_rows(database, "SELECT value FROM about WHERE key = 'kept from'"), {"value": ""}]
        older = f"; what was older than {kept['value']} was deleted (store.retention)" if kept["value"] else ""
        return f"no readings of these tags are stored{older}"
    when = datetime.fromtimestamp(newest_of_all // 10**9, UTC).astimezone().isoformat(sep=" ")
    return f"no readings in this time; the newest is of {when}"


def texts(stream: na.ArrayStream) -> tuple[list[str], Iterator[tuple[str | None, ...]]]:
    """Give the names of an answer's columns, and its rows as text."""
    names = [str(field.name) for field in stream.schema.fields]

    def each() -> Iterator[tuple[str | None, ...]]:
        with duckdb.connect() as connection:
            connection.register("answer", stream)
            # a cursor of its own would not see the stream
            found = connection.execute("SELECT COLUMNS(*)::VARCHAR FROM answer")
            while batch := found.fetchmany(10_000):
                yield from batch

    return names, each()
