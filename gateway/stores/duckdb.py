"""The embedded store: one DuckDB file, held open by one process, durable at each return of `write`.

Readings go in as Arrow columns, one INSERT per kind and write, in arrival order: there is no Python object per
reading. (series, time) is unique without an index: what is later than the series' mark is new, the rest is
anti-joined against the file (gateway.stores.once). Where two readings of one series have one time, the first stays.
All work happens in one thread of its own. The tables are described in gateway.stores.layout.

DuckDB lets one process open a file. Others ask this one, over the socket that it opens beside the file
(gateway.stores.inquiry).

Roll-ups of minutes and hours follow behind the writes, and what the retention has done with is deleted
(gateway.stores.rollups): in a task of its own, a bounded piece at a time in the same thread.

It refuses a file of another layout version, and it does not repair: a file that DuckDB cannot open is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time_ns
from typing import Any, Final, TypeVar

import duckdb
import nanoarrow as na
import numpy as np
import structlog
from numpy.typing import NDArray

from gateway import quality as q
from gateway.contracts import Block, StoreReport
from gateway.errors import StoreUnavailable, first_line
from gateway.model import Batch, Gap, Kind
from gateway.ranges import Ranges, runs
from gateway.stores import layout, rollups
from gateway.stores.catalog import Catalog, Wanted
from gateway.stores.inquiry import Desk
from gateway.stores.once import NEVER, Marks
from gateway.stores.rollups import DAY, Rollups

log = structlog.get_logger()

SETTINGS: Final[Mapping[str, Any]] = {
    # nothing is fetched from the net, and a query sees the file, not the variables of this program
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}

KEEP_UP: Final = 10.0  # s between two looks for what is to be rolled up
MEMORY: Final = 256_000_000  # bytes; DuckDB itself would take up to 80 % of the machine's for pages of the file
_SWEEP: Final = 3600.0  # s between two looks for days to delete
_LEDGER_LONGEST: Final = 100_000  # rows after which the ledger is written anew, merged

_ARROW: Final = {
    Kind.FLOAT: na.float64(),
    Kind.INT: na.int64(),
    Kind.UINT: na.uint64(),
    Kind.BOOL: na.bool_(),
    Kind.TEXT: na.string(),
}

_PASSING: Final = (
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.TransactionException,
    duckdb.InterruptException,
    duckdb.ConnectionException,
    duckdb.FatalException,
    duckdb.InternalException,
)
"""Errors of the machine rather than of the data: the same blocks may well be stored later."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retention:
    """How long readings and roll-ups are kept, in seconds; None: for ever."""

    readings: float | None = None
    minutes: float | None = None
    hours: float | None = None


FOREVER: Final = Retention()

Rows = tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[Any], NDArray[np.uint32]]
"""Parallel columns: series, time, value, quality."""


class DuckdbStore:
    """One DuckDB file as a Store. `desk=False` answers no queries of others, `rollups=False` makes no roll-ups;
    `settings` are DuckDB's own. Whole UTC days older than the retentions (s) are deleted once an hour, and `about` says
    from which day on readings, minutes and hours are kept. `memory` (bytes) bounds what it keeps
    of its file, and what queries take before they use temporary files."""

    def __init__(
        self,
        path: Path,
        *,
        desk: bool = True,
        settings: Mapping[str, Any] = SETTINGS,
        retention: Retention = FOREVER,
        rollups: bool = True,
        memory: int = MEMORY,
    ) -> None:
        self.path = path
        self._retention = retention
        self._swept = -math.inf  # when old days were deleted last, monotonic
        self._settings = {"memory_limit": f"{memory}B", **settings}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="duckdb")
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._with_desk = desk
        self._desk: Desk | None = None
        self._with_rollups = rollups
        self._rollups: Rollups | None = None
        self._keeping_up: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open or make the file. Raises StoreUnavailable: locked by another process, damaged, of another version."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._opened)
        if self._keeping_up is None and self._with_rollups:
            self._keeping_up = asyncio.create_task(self._keep_up())

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        """Store readings and gaps in one transaction."""
        await self.open()
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._write, blocks)

    async def settle(self) -> None:
        """Bring the roll-ups up to date, and delete what is too old, as it is done every KEEP_UP seconds.

        Raises StoreUnavailable.
        """
        while await asyncio.get_running_loop().run_in_executor(self._worker, self._settle):
            pass

    async def transact(self, work: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Do something in the store's thread, in one transaction. Raises StoreUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._transact, work)

    async def close(self) -> None:
        """Wait for the write in hand, and close the file."""
        if self._keeping_up is not None:
            self._keeping_up.cancel()
            await asyncio.gather(self._keeping_up, return_exceptions=True)
            self._keeping_up = None
        with contextlib.suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._worker, self._shut)
        self._worker.shutdown()

    async def _keep_up(self) -> None:
        """Settle now and then, until cancelled."""
        failed = False
        while True:
            await asyncio.sleep(KEEP_UP)
            try:
                await self.settle()
                failed = False
            except StoreUnavailable as error:
                if not failed:
                    log.warning("roll-ups and retention wait; readings are stored meanwhile", reason=str(error))
                failed = True

    # ---------------------------------------------------------------- in the worker thread from here on

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self._connection is not None:
            return self._connection
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = duckdb.connect(str(self.path), config=self._settings)
        except (OSError, duckdb.Error) as error:
            raise StoreUnavailable(f"cannot open {self.path}: {first_line(error)}") from error
        try:
            _prepare(connection, self.path)
            self._marks = _marks(connection)
            self._catalog = Catalog(connection, self._marks)
            self._ledger = Ledger(connection)
            self._rollups = Rollups(connection) if self._with_rollups else None
            if self._with_desk:
                self._desk = Desk(self.path, connection.cursor())
        except (OSError, duckdb.Error) as error:
            connection.close()
            raise StoreUnavailable(f"cannot use {self.path}: {first_line(error)}") from error
        except StoreUnavailable:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _shut(self) -> None:
        if self._desk is not None:
            self._desk.close()
            self._desk = None
        if self._connection is not None:
            with contextlib.suppress(duckdb.Error):  # it has said so before, when it mattered
                self._connection.close()
            self._connection = None

    def _write(self, blocks: Sequence[Block]) -> StoreReport:
        report, new = self._transact(lambda connection: self._store(connection, blocks))
        for series, time in new:
            self._marks.raise_to(series, time)
        return report

    def _settle(self) -> bool:
        """Do a step of what follows behind the writes; False where nothing is left to do."""
        if self._rollups is None:
            return False
        self._opened()
        rollups, newest, now = self._rollups, self._marks.latest, time_ns()
        if rollups.behind(newest, now):
            self._transact(lambda _: rollups.step(newest, now, self._catalog.size))
            return True
        if monotonic() - self._swept > _SWEEP:
            self._transact(lambda connection: _sweep(connection, self._retention, rollups, now))
            self._swept = monotonic()
        return False

    def _transact(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        connection = self._opened()
        try:
            connection.execute("BEGIN")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                self._undo(connection)
                raise
        except (OSError, duckdb.Error) as error:
            passing = isinstance(error, (OSError, *_PASSING))
            raise StoreUnavailable(f"{self.path}: {first_line(error)}", permanent=not passing) from error
        return result

    def _undo(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute("ROLLBACK")
            self._catalog.forget()
            self._ledger.forget()
            if self._rollups is not None:
                self._rollups.forget()
        except duckdb.Error:  # the database gave up: the next write opens it anew
            self._shut()

    def _store(
        self, connection: duckdb.DuckDBPyConnection, blocks: Sequence[Block]
    ) -> tuple[StoreReport, list[tuple[NDArray[np.uint32], NDArray[np.int64]]]]:
        self._catalog.resolve(_tables(blocks))
        stored = 0
        total = sum(len(content) for block in blocks for content in block.contents if isinstance(content, Batch))
        new = []
        for kind, (series, time, value, quality) in self._columns(blocks):
            fresh, doubtful = self._marks.sort_out(series, time)
            if len(doubtful):
                rows = (series[doubtful], time[doubtful], value[doubtful], quality[doubtful])
                stored += _insert_missing(connection, kind, rows, self._rollups)
            if fresh is not None:
                series, time, value, quality = series[fresh], time[fresh], value[fresh], quality[fresh]
            _insert(connection, kind, (series, time, value, quality), self._rollups)
            stored += len(series)
            new.append((series, time))
        gaps = sum(_insert_gap(connection, *entry) for entry in _gaps(blocks))
        self._ledger.enter(blocks)
        return StoreReport(stored, total - stored, gaps), new

    def _is_rolled_up(self, block: Block, sequence: int, batch: Batch) -> bool:
        """Whether a record comes again whose readings the retention has deleted: a roll-up would count it twice."""
        if self._rollups is None or self._rollups.kept == rollups.NEVER or block.parts:
            return False
        return int(batch.time.max()) < self._rollups.kept and self._ledger.has(block, sequence)

    def _columns(self, blocks: Sequence[Block]) -> Iterator[tuple[Kind, Rows]]:
        parts: defaultdict[Kind, list[Rows]] = defaultdict(list)
        for block in blocks:
            for sequence, batch in zip(block.sequences, block.contents, strict=True):
                if isinstance(batch, Batch) and len(batch) and not self._is_rolled_up(block, sequence, batch):
                    series = self._catalog.ids(block.gateway, batch.table)[batch.tag]
                    parts[batch.table.kind].append((series, batch.time, batch.value, batch.quality))
        for kind, rows in parts.items():
            series, time, value, quality = (np.concatenate(column) for column in zip(*rows, strict=True))
            yield kind, (series, time, value, quality)


def _sweep(connection: duckdb.DuckDBPyConnection, retention: Retention, rollups: Rollups, now: int) -> None:
    """Delete whole days that are older than the retention, and say so in `about`; nothing that is not rolled up."""

    def begin(kept: float) -> int:
        return min(now - round(kept * 1e9), rollups.until) // DAY * DAY

    if retention.readings is not None:
        _forget_before(connection, begin(retention.readings))
    if retention.hours is not None:
        connection.execute('DELETE FROM gaps WHERE "end" < make_timestamp_ns($1)', [begin(retention.hours)])
    for table, kept in (("minutes", retention.minutes), ("hours", retention.hours)):
        if kept is not None and (deleted := rollups.delete_before(table, begin(kept))):
            log.info(f"deleted {table} that are older than store.retention_{table}", rows=deleted)
    rollups.forget()


def _forget_before(connection: duckdb.DuckDBPyConnection, before: int) -> None:
    """Delete what is older than a day's begin (ns), and say so in `about`."""
    deleted = 0
    for table, _ in layout.TABLES.values():
        count = connection.execute(f"DELETE FROM {table} WHERE time < make_timestamp_ns($1)", [before]).fetchone()
        deleted += int(count[0]) if count else 0
    if deleted:
        day = datetime.fromtimestamp(before // 10**9, UTC).date()
        connection.execute("DELETE FROM about WHERE key = 'kept from'")
        connection.execute("INSERT INTO about VALUES ('kept from', $1)", [str(day)])
        log.info("deleted what is older than store.retention", kept_from=str(day), rows=deleted)


class Ledger:
    """Which sequences of which journal are stored. Appended to at each write, merged when it has grown long."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.forget()

    def forget(self) -> None:
        """Read it again from the file."""
        self._stored: defaultdict[tuple[str, str], Ranges] = defaultdict(Ranges)
        rows = self._connection.execute("SELECT gateway, journal, first, last FROM ledger").fetchall()
        for gateway, journal, first, last in rows:
            self._stored[gateway, journal].add(first, last)
        self._length = len(rows)

    def has(self, block: Block, sequence: int) -> bool:
        """Whether a record of this block's journal is stored."""
        return sequence in self._stored[block.gateway, block.journal]

    def enter(self, blocks: Sequence[Block]) -> None:
        """Note the sequences of these blocks."""
        arrived: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for block in blocks:
            stored = self._stored[block.gateway, block.journal]
            arrived[block.gateway, block.journal] += [number for number in block.sequences if number not in stored]
        entries = [(*whose, *run) for whose, numbers in arrived.items() for run in runs(numbers)]
        for gateway, journal, first, last in entries:
            self._stored[gateway, journal].add(first, last)
        if self._length + len(entries) > _LEDGER_LONGEST:
            self._connection.execute("DELETE FROM ledger")
            self._length = 0
            entries = [(*whose, *run) for whose, stored in self._stored.items() for run in stored]
        if entries:
            columns = [list(column) for column in zip(*entries, strict=True)]
            self._connection.execute(
                "INSERT INTO ledger SELECT unnest($1), unnest($2), unnest($3), unnest($4)", columns
            )
            self._length += len(entries)


def _prepare(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make the layout where there is none, and refuse another version."""
    for statement in [*layout.statements(), *rollups.statements()]:
        connection.execute(statement)
    found = connection.execute("SELECT value FROM about WHERE key = 'layout'").fetchone()
    if found is None:
        connection.execute("INSERT INTO about VALUES ('layout', $1)", [str(layout.VERSION)])
    elif found[0] == "1":  # it had no roll-ups: they are made behind the writes
        connection.execute("UPDATE about SET value = $1 WHERE key = 'layout'", [str(layout.VERSION)])
    elif found[0] != str(layout.VERSION):
        raise StoreUnavailable(f"{path} has layout version {found[0]}; this program knows version {layout.VERSION}")
    # a query may come from elsewhere (inquiry.Desk): it reads tables, not files, and changes no setting
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _marks(connection: duckdb.DuckDBPyConnection) -> Marks:
    """Restore the marks from what is stored."""
    marks = Marks()
    for table, _ in layout.TABLES.values():
        columns = connection.execute(
            f"SELECT series, max(epoch_ns(time)) AS newest FROM {table} GROUP BY series"
        ).fetchnumpy()
        series = np.asarray(columns["series"], dtype=np.uint32)
        if len(series):
            marks.reserve(int(series.max()) + 1)
            marks.raise_to(series, np.asarray(columns["newest"], dtype=np.int64))
    return marks


def _tables(blocks: Sequence[Block]) -> list[Wanted]:
    """Give each table once, with the time of its newest reading."""
    newest: dict[tuple[str, bytes], Wanted] = {}
    for block in blocks:
        for batch in block.contents:
            if isinstance(batch, Batch) and len(batch):
                key = (block.gateway, batch.table.fingerprint)
                time = max(int(batch.time.max()), newest[key][2] if key in newest else NEVER)
                newest[key] = (block.gateway, batch.table, time)
    return list(newest.values())


def _gaps(blocks: Sequence[Block]) -> Iterator[tuple[str, str, int, Gap]]:
    for block in blocks:
        for sequence, content in zip(block.sequences, block.contents, strict=True):
            if isinstance(content, Gap):
                yield block.gateway, block.journal, sequence, content


def _insert_gap(connection: duckdb.DuckDBPyConnection, gateway: str, journal: str, sequence: int, gap: Gap) -> int:
    count = connection.execute(
        """INSERT INTO gaps SELECT $1, $2, $3, $4, $5, make_timestamp_ns($6), make_timestamp_ns($7), $8, $9, $10
           WHERE NOT EXISTS (SELECT 1 FROM gaps WHERE gateway = $1 AND journal = $2 AND sequence = $3)""",
        [gateway, journal, sequence, gap.device, gap.group, gap.start, gap.end, gap.reason, gap.readings, gap.scans],
    ).fetchone()
    return int(count[0]) if count else 0


def _insert(connection: duckdb.DuckDBPyConnection, kind: Kind, rows: Rows, rollups: Rollups | None) -> None:
    if len(rows[0]):
        with _incoming(connection, kind, rows):
            connection.execute(f"INSERT INTO {layout.TABLES[kind][0]} FROM incoming")
            if rollups is not None and rows[1].min() < rollups.until:
                rollups.note()


def _insert_missing(connection: duckdb.DuckDBPyConnection, kind: Kind, rows: Rows, rollups: Rollups | None) -> int:
    """Insert those of these rows whose (series, time) is not there; give how many. Their times bound the look-up."""
    table = layout.TABLES[kind][0]
    with _incoming(connection, kind, rows):
        count = connection.execute(
            f"""INSERT INTO {table} SELECT * FROM incoming ANTI JOIN
                (SELECT series, time FROM {table} WHERE time BETWEEN make_timestamp_ns($1) AND make_timestamp_ns($2))
                USING (series, time)""",
            [int(rows[1].min()), int(rows[1].max())],
        ).fetchone()
        stored = int(count[0]) if count else 0
        if stored and rollups is not None and rows[1].min() < rollups.until:
            rollups.note()
    return stored


@contextlib.contextmanager
def _incoming(connection: duckdb.DuckDBPyConnection, kind: Kind, rows: Rows) -> Iterator[None]:
    """Show the rows to SQL as `incoming`, without copying them. A Bad row has no value."""
    series, time, value, quality = rows
    bad = q.is_bad(quality)
    mask = np.packbits(~bad, bitorder="little") if bad.any() else None
    size = len(series)
    if kind is Kind.TEXT:
        values = na.c_array([None if void else text for text, void in zip(value, bad, strict=True)], na.string())
    else:
        column = np.packbits(value, bitorder="little") if kind is Kind.BOOL else np.ascontiguousarray(value)
        values = na.c_array_from_buffers(_ARROW[kind], size, [mask, column])
    columns = {
        "series": na.c_array_from_buffers(na.uint32(), size, [None, series]),
        "time": na.c_array_from_buffers(na.timestamp("ns"), size, [None, time]),
        "value": values,
        "quality": na.c_array_from_buffers(na.uint32(), size, [None, quality]),
    }
    types = {name: column.schema for name, column in columns.items()}
    array = na.c_array_from_buffers(na.struct(types), size, [None], children=list(columns.values()))
    connection.register("incoming", na.Array(array))
    try:
        yield
    finally:
        connection.unregister("incoming")
