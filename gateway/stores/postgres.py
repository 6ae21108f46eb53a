"""PostgreSQL or TimescaleDB as a store: rows by COPY in binary form, built in columns.

    series    id, gateway, device, tag, kind, unit (these five identify), "group", type, description, address, minimum,
              maximum, states jsonb: those of the newest definition; described: its newest reading, ns since 1970
    samples   series, time timestamptz, nanos smallint (0..999, below the microsecond), value double precision,
              exact numeric(20) of 64-bit integers, text, quality bigint; primary key (series, time, nanos)
    gaps      gateway, journal, sequence, device, "group", "start", "end", start_ns, end_ns, reason, readings, scans
    readings  view of samples with the names of series, and status: Good, Uncertain or Bad
    latest    view: the newest row of each series, in the form of `readings`

All in one schema (store.schema). Where TimescaleDB is installed in the database, `samples` is a hypertable by time. A
row of Bad quality has no value. A row that comes twice stays as it was (ON CONFLICT DO NOTHING) and is counted;
several ingests may write at once. Rows are committed, and on the server's disk, when `write` returns. What it cannot
hold: the character NUL in texts, which becomes ␀.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from gateway import quality as q
from gateway.contracts import Block, StoreReport
from gateway.errors import StoreUnavailable
from gateway.model import Batch, Gap, Kind, Tag, TagTable
from gateway.options import PostgresOptions

_EPOCH: Final = 946_684_800_000_000  # us from 1970 to 2000, where PostgreSQL's times begin
_LAYOUT: Final = 75_318_009  # an advisory lock: two ingests that start at once make the tables one after the other

_TABLES: Final = """
    CREATE SCHEMA IF NOT EXISTS {schema};
    SET search_path TO {schema}, public;
    CREATE TABLE IF NOT EXISTS series (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gateway text NOT NULL, device text NOT NULL,
        tag text NOT NULL, kind text NOT NULL, unit text NOT NULL, "group" text NOT NULL, type text NOT NULL,
        description text NOT NULL, address text NOT NULL, minimum double precision, maximum double precision,
        states jsonb NOT NULL, described bigint NOT NULL, UNIQUE (gateway, device, tag, kind, unit));
    CREATE TABLE IF NOT EXISTS samples (
        series integer NOT NULL, time timestamptz NOT NULL, nanos smallint NOT NULL, value double precision,
        exact numeric(20), text text, quality bigint NOT NULL, PRIMARY KEY (series, time, nanos));
    CREATE TABLE IF NOT EXISTS gaps (
        gateway text, journal text, sequence numeric(20), device text NOT NULL, "group" text NOT NULL,
        "start" timestamptz NOT NULL, "end" timestamptz NOT NULL, start_ns bigint NOT NULL, end_ns bigint NOT NULL,
        reason text NOT NULL, readings numeric(20) NOT NULL, scans numeric(20) NOT NULL,
        PRIMARY KEY (gateway, journal, sequence));
    CREATE OR REPLACE VIEW readings AS
        SELECT s.gateway, s.device, s."group", s.tag, s.unit, r.time, r.nanos, r.value, r.exact,
               coalesce(r.text, CASE WHEN r.value = trunc(r.value) THEN s.states ->> r.value::text END) AS text,
               r.quality, CASE WHEN r.quality >= 2147483648 THEN 'Bad' WHEN r.quality >= 1073741824 THEN 'Uncertain'
                               ELSE 'Good' END AS status, s.kind, r.series
        FROM samples r JOIN series s ON s.id = r.series;
    CREATE OR REPLACE VIEW latest AS
        SELECT newest.* FROM series s CROSS JOIN LATERAL
            (SELECT * FROM readings r WHERE r.series = s.id ORDER BY time DESC, nanos DESC LIMIT 1) newest;
"""
_HYPERTABLE: Final = "SELECT create_hypertable('samples', 'time', if_not_exists => TRUE, migrate_data => TRUE)"
_INCOMING: Final = """
    CREATE TEMP TABLE IF NOT EXISTS incoming (
        series integer, time timestamptz, nanos smallint, quality bigint, value double precision, whole bigint,
        text text)
    ON COMMIT DELETE ROWS
"""
_INSERT: Final = """
    INSERT INTO samples
    SELECT series, time, nanos, {value}, {exact}, text, quality FROM incoming ORDER BY series, time, nanos
    ON CONFLICT DO NOTHING
"""
_WHOLE: Final = {
    Kind.INT: "whole::numeric",
    Kind.UINT: "CASE WHEN whole < 0 THEN whole::numeric + 18446744073709551616 ELSE whole::numeric END",
}
_DESCRIBE: Final = """
    INSERT INTO series (gateway, device, tag, kind, unit, "group", type, description, address, minimum, maximum, states,
                        described)
    SELECT %s, %s, t.tag, %s, t.unit, %s, t.type, t.description, t.address, t.minimum, t.maximum, t.states::jsonb, %s
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[], %s::float8[], %s::text[])
         AS t (tag, unit, type, description, address, minimum, maximum, states) ORDER BY t.tag, t.unit
    ON CONFLICT (gateway, device, tag, kind, unit) DO UPDATE SET "group" = excluded."group", type = excluded.type,
        description = excluded.description, address = excluded.address, minimum = excluded.minimum,
        maximum = excluded.maximum, states = excluded.states, described = excluded.described
    WHERE series.described < excluded.described
"""

T = TypeVar("T")

Rows = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[Any], NDArray[np.uint32]]
"""Parallel columns: series, time, value, quality."""


class PostgresStore:
    """One schema of a database as a Store."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="postgres")
        self._connection: psycopg.Connection[Any] | None = None
        self._forget()

    async def open(self) -> None:
        """Connect, and make the tables where there are none. Raises StoreUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._translated, self._opened)

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        """Store readings and gaps in one transaction, committed when it returns."""
        work = asyncio.get_running_loop().run_in_executor(
            self._worker, self._translated, lambda: self._write(self._opened(), blocks)
        )
        return await work

    async def close(self) -> None:
        """Wait for the write in hand, and close the connection."""
        with contextlib.suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._worker, self._shut)
        self._worker.shutdown()

    # ---------------------------------------------------------------- in the worker thread from here on

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except psycopg.Error as error:
            permanent = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
            self._shut()  # whatever it was, the next write begins anew
            reason = str(error).strip().replace("\n", " ")
            raise StoreUnavailable(f"{self._where()}: {reason}", permanent=permanent) from error

    def _where(self) -> str:
        """Name the database without its password."""
        parts = psycopg.conninfo.conninfo_to_dict(self._options.url)
        return f"PostgreSQL at {parts.get('host', 'this machine')}, database {parts.get('dbname', '')}"

    def _forget(self) -> None:
        self._ids: dict[tuple[str, bytes], NDArray[np.int32]] = {}
        self._current: dict[tuple[str, str, str, Kind], tuple[bytes, int]] = {}  # the newest definition, and until when

    def _shut(self) -> None:
        connection, self._connection = self._connection, None
        self._forget()
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _opened(self) -> psycopg.Connection[Any]:
        if self._connection is not None:
            return self._connection
        options = self._options
        settings: dict[str, Any] = {"connect_timeout": max(2, round(options.timeout))}
        if options.password:
            settings["password"] = options.password
        connection = psycopg.connect(options.url, application_name="plantbridge", **settings)
        try:
            with connection.transaction():
                connection.execute("SET synchronous_commit = on")
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LAYOUT])
                connection.execute("SET client_min_messages = warning")
                schema = sql.Identifier(options.db_schema)
                for statement in _TABLES.split(";")[:-1]:
                    connection.execute(sql.SQL(statement).format(schema=schema))
                if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone():
                    connection.execute(_HYPERTABLE)
                connection.execute(_INCOMING)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _write(self, connection: psycopg.Connection[Any], blocks: Sequence[Block]) -> StoreReport:
        total = stored = gaps = 0
        with connection.transaction():
            for kind, rows in self._columns(connection, blocks).items():
                total += len(rows[0])
                stored += _insert(connection, kind, rows)
            for block in blocks:
                for sequence, content in zip(block.sequences, block.contents, strict=True):
                    if isinstance(content, Gap):
                        gaps += _insert_gap(connection, block, sequence, content)
        return StoreReport(stored, total - stored, gaps)

    def _columns(self, connection: psycopg.Connection[Any], blocks: Sequence[Block]) -> dict[Kind, Rows]:
        parts: defaultdict[Kind, list[Rows]] = defaultdict(list)
        for block in blocks:
            for batch in block.contents:
                if isinstance(batch, Batch) and len(batch):
                    series = self._series(connection, block.gateway, batch)[batch.tag]
                    parts[batch.table.kind].append((series, batch.time, batch.value, batch.quality))
        return {
            kind: tuple(np.concatenate(column) for column in zip(*rows, strict=True))  # type: ignore[misc]
            for kind, rows in parts.items()
        }

    def _series(self, connection: psycopg.Connection[Any], gateway: str, batch: Batch) -> NDArray[np.int32]:
        """Give the series of a batch's tags; describe them anew where another definition came between."""
        table = batch.table
        key, place = (gateway, table.fingerprint), (gateway, table.device, table.group, table.kind)
        newest = int(batch.time.max())
        fingerprint, until = self._current.get(place, (b"", newest - 1))
        if fingerprint != table.fingerprint and (newest > until or key not in self._ids):
            _describe(connection, gateway, table, newest)
        if newest > until:
            self._current[place] = (table.fingerprint, newest)
        if key not in self._ids:
            found = connection.execute(
                "SELECT tag, unit, id FROM series WHERE gateway = %s AND device = %s AND kind = %s",
                [gateway, table.device, table.kind.value],
            )
            ids = {(tag, unit): number for tag, unit, number in found}
            self._ids[key] = np.array([ids[_clean(tag.name), _clean(tag.unit)] for tag in table.tags], dtype=np.int32)
        return self._ids[key]


def _describe(connection: psycopg.Connection[Any], gateway: str, table: TagTable, newest: int) -> None:
    tags = {(tag.name, tag.unit): tag for tag in table.tags}.values()
    columns = zip(*map(_description, tags), strict=True)
    connection.execute(_DESCRIBE, [gateway, table.device, table.kind.value, table.group, newest, *map(list, columns)])


def _description(tag: Tag) -> tuple[Any, ...]:
    texts = (tag.name, tag.unit, tag.type, tag.description, tag.address)
    limits = (None if math.isinf(limit) else limit for limit in (tag.minimum, tag.maximum))
    return (*map(_clean, texts), *limits, _clean(orjson.dumps({str(n): text for n, text in tag.states}).decode()))


def _clean(text: str) -> str:
    return text.replace("\0", "␀").replace("\\u0000", "␀")


def _insert(connection: psycopg.Connection[Any], kind: Kind, rows: Rows) -> int:
    """Copy rows in and insert those that are not there; give how many those are."""
    exact = _WHOLE.get(kind, "NULL::numeric")
    value = f"({exact})::double precision" if kind in _WHOLE else "value"
    with connection.cursor() as cursor:
        columns = "series, time, nanos, quality, " + (
            "text" if kind is Kind.TEXT else "whole" if kind in _WHOLE else "value"
        )
        with cursor.copy(f"COPY incoming ({columns}) FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for piece in _copied(kind, rows):
                copy.write(piece)
            copy.write(b"\xff\xff")
        cursor.execute(_INSERT.format(value=value, exact=exact))
        stored = cursor.rowcount
        cursor.execute("DELETE FROM incoming")
        return stored


def _copied(kind: Kind, rows: Rows) -> list[bytes]:
    """Give rows in COPY's binary form: those with a value, then those without."""
    series, time, value, quality = rows
    bad = q.is_bad(quality)
    pieces = [_head(series[bad], time[bad], quality[bad], b"\xff\xff\xff\xff")]
    good = ~bad
    head, kept = (series[good], time[good], quality[good]), value[good]
    if kind is Kind.TEXT:
        texts = [_clean(text).encode() for text in kept]
        fixed = _head(*head, b"")
        size = len(fixed) // max(1, len(texts))
        pieces += [
            fixed[place * size : (place + 1) * size] + len(text).to_bytes(4, "big") + text
            for place, text in enumerate(texts)
        ]
    else:
        wide = kept.astype(np.float64) if kind in (Kind.FLOAT, Kind.BOOL) else kept
        column = np.empty(len(kept), dtype=[("size", ">i4"), ("bits", ">u8")])
        column["size"], column["bits"] = 8, wide.view(np.uint64)
        pieces.append(_head(*head, column))
    return pieces


def _head(
    series: NDArray[np.int32], time: NDArray[np.int64], quality: NDArray[np.uint32], last: bytes | NDArray[Any]
) -> bytes:
    """Give rows of five fields; `last` is the same bytes for all of them, or a column."""
    tail = [("last", last.dtype)] if isinstance(last, np.ndarray) else [("last", f"V{len(last)}")] if last else []
    made = np.empty(
        len(series),
        dtype=[
            ("fields", ">i2"), ("s1", ">i4"), ("series", ">i4"), ("s2", ">i4"), ("time", ">i8"),
            ("s3", ">i4"), ("nanos", ">i2"), ("s4", ">i4"), ("quality", ">i8"), *tail,
        ],
    )  # fmt: skip
    made["fields"], made["s1"], made["s2"], made["s3"], made["s4"] = 5, 4, 8, 2, 8
    made["series"], made["quality"] = series, quality
    made["time"], made["nanos"] = time // 1000 - _EPOCH, time % 1000
    if tail:
        made["last"] = last if isinstance(last, np.ndarray) else np.void(last)
    return made.tobytes()


def _insert_gap(connection: psycopg.Connection[Any], block: Block, sequence: int, gap: Gap) -> int:
    found = connection.execute(
        """INSERT INTO gaps VALUES (%s, %s, %s, %s, %s, 'epoch'::timestamptz + %s * interval '1 us',
           'epoch'::timestamptz + %s * interval '1 us', %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        [block.gateway, block.journal, sequence, gap.device, gap.group, gap.start // 1000, gap.end // 1000, gap.start,
         gap.end, _clean(gap.reason), gap.readings, gap.scans],
    )  # fmt: skip
    return found.rowcount
