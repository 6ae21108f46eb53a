"""The journal's file: its schema, and one transaction that does all there is to do. Knows no threads and no loop.

    {directory}/journal.sqlite      SQLite 3 in WAL mode, application id PLBJ, user version 1
    {directory}/journal.lock        held by the process that writes; holds its pid
    {directory}/journal.reserve     room kept for the day when the disk is full

    journal      one row: id, created, last (sequence), appended, dropped (readings), last_time, owed (JSON list),
                 losses (number of the last one), records and bytes (kept now)
    definitions  id, fingerprint (unique), definition: what records refer to by id; ids are never used again
    records      sequence, crc (CRC-32 of sequence and record), readings, lost, start, end, at, record
    publishers   name, acknowledged (JSON list of [first, last]), readings
    marks        name, mark: how far a driver had given its data when all that is in the file before was appended

Sequences are dense from 1 and are given out before the commit; what is not committed when the process dies never was.
`at` is the gateway's clock when the record was appended; `start` and `end` are the times of its content. Each may be
undated (gateway.clock): then `dated` tells what `at` means. `last_time` is `at` of the newest record. `lost` is how
many readings a gap record of the journal's own stands for, so that dropping a gap does not forget what it declared.
`owed` are losses whose gap record is not in the file yet: a crash between the two does not hide a loss.

`max_size` bounds the records' bytes; pages of dropped records are used again, so the file stays below about twice
that. Durability "power" is synchronous=FULL (the WAL is synced at each commit), "process" is NORMAL (at checkpoints).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
import structlog

from gateway.errors import JournalError
from gateway.journal.disk import Foreign, is_damage, wal_size
from gateway.ranges import Ranges

if TYPE_CHECKING:
    from gateway.options import JournalOptions

log = structlog.get_logger()

APPLICATION_ID: Final = 0x504C424A
VERSION: Final = 1
NAME: Final = "journal.sqlite"
DAMAGED_MARK: Final = "journal.damaged"
_PAGE: Final = 4096
_TRIM_BYTES: Final = 8 << 20  # most that one transaction removes of what is acknowledged: live data must not wait
_TRIM_ROWS: Final = 5000

_STATE: Final = "last, appended, dropped, last_time, losses, records, bytes"

_MARKS: Final = "CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, mark BLOB NOT NULL)"  # files may lack it
_SCHEMA: Final = f"""
    CREATE TABLE journal (
        one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, created INTEGER NOT NULL, last INTEGER NOT NULL,
        appended INTEGER NOT NULL, dropped INTEGER NOT NULL, last_time INTEGER NOT NULL, owed TEXT NOT NULL,
        losses INTEGER NOT NULL, records INTEGER NOT NULL, bytes INTEGER NOT NULL);
    CREATE TABLE definitions (id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE, definition BLOB NOT NULL);
    CREATE TABLE records (
        sequence INTEGER PRIMARY KEY, crc INTEGER NOT NULL, readings INTEGER NOT NULL, lost INTEGER NOT NULL,
        start INTEGER NOT NULL, end INTEGER NOT NULL, at INTEGER NOT NULL, record BLOB NOT NULL);
    CREATE TABLE publishers (name TEXT PRIMARY KEY, acknowledged TEXT NOT NULL, readings INTEGER NOT NULL);
    {_MARKS};
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {VERSION};
"""


Dated = Callable[[int, int], int]
"""Gives when (ns) a record was appended, from its sequence and its `at`."""


def _as_it_is(_sequence: int, at: int) -> int:
    return at


@dataclass(frozen=True, slots=True)
class Loss:
    """Readings that are gone and must be declared. `number` tells losses apart until their gap record is written.

    `readings` counts those of dropped gap records too, which were counted before; `fresh` does not.
    """

    number: int
    reason: str
    start: int
    end: int
    readings: int
    fresh: int
    first: int = 0  # sequences; 0 where they are not known
    last: int = 0


@dataclass(slots=True)
class Entry:
    """A record on its way into the file. `settles` is the number of the loss that it declares, or 0."""

    sequence: int
    record: bytes
    readings: int
    start: int
    end: int
    at: int
    lost: int = 0
    settles: int = 0


@dataclass(slots=True)
class Work:
    """What one transaction is to do."""

    entries: Sequence[Entry] = ()
    definitions: Sequence[tuple[int, bytes, bytes]] = ()
    acknowledged: Mapping[str, tuple[list[tuple[int, int]], int]] = field(default_factory=dict)
    delivered: int = 0  # every publisher has acknowledged what is up to here
    marks: Mapping[str, bytes] = field(default_factory=dict)
    damaged: Sequence[int] = ()
    ceiling: int = 1 << 62  # most bytes of records; older ones give way
    oldest: int = -(1 << 62)  # records appended before this time give way


@dataclass(slots=True)
class State:
    """The file's counters after the last commit. `first` is the lowest sequence that may still be there."""

    last: int = 0
    appended: int = 0
    dropped: int = 0
    last_time: int = 0
    owed: tuple[Loss, ...] = ()
    losses: int = 0
    records: int = 0
    bytes: int = 0
    first: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did besides its work."""

    losses: tuple[Loss, ...]
    trimming: bool  # there is more to trim, soon


class _Sums(NamedTuple):
    records: int
    bytes: int
    readings: int
    declared: int  # readings that were lost before, of which gap records among these told
    start: int
    end: int
    first: int = 0
    last: int = 0


class JournalFile:
    """The write connection. Used by one thread at a time."""

    def __init__(self, directory: Path, options: JournalOptions) -> None:
        """Open or create the file. Raises sqlite3.Error where it is damaged or foreign, OSError."""
        self.path = directory / NAME
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
        self.dated: Dated = _as_it_is
        self._connection.create_function("dated", 2, lambda sequence, at: self.dated(sequence, at))
        try:
            self._prepare(options)
            self._load()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, options: JournalOptions) -> None:
        run = self._connection.execute
        application, version = run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0]
        empty = run("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not empty and (application, version) != (APPLICATION_ID, VERSION):
            raise Foreign(f"not a journal of version {VERSION} (application {application:#x}, version {version})")
        run(f"PRAGMA page_size = {_PAGE}")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if options.durability == 'power' else 'NORMAL'}")
        run("PRAGMA secure_delete = OFF")  # on in Debian's build: it would write each dropped page once more
        run(f"PRAGMA wal_autocheckpoint = {wal_size(self.path.parent, options.max_size) // _PAGE}")
        run("PRAGMA journal_size_limit = 67108864")
        if empty:
            row = (1, os.urandom(8).hex(), time.time_ns(), 0, 0, 0, 0, "[]", 0, 0, 0)
            run("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                run(statement)
            run("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            run("COMMIT")
            self.checkpoint()  # who it is does not depend on the WAL
        else:
            run(_MARKS)

    def _load(self) -> None:
        run = self._connection.execute
        row = run(f"SELECT id, {_STATE}, owed FROM journal").fetchone()
        if row is None:
            raise Foreign("the journal has lost its head")
        self.id: str = row[0]
        first = run("SELECT min(sequence) FROM records").fetchone()[0]
        try:
            last, appended, dropped, last_time, losses, records, octets = map(int, row[1:8])
            owed = tuple(Loss(*item) for item in orjson.loads(row[8]))
            self.publishers: dict[str, tuple[Ranges, int]] = {
                name: (Ranges(map(tuple, orjson.loads(ranges))), readings)
                for name, ranges, readings in run("SELECT name, acknowledged, readings FROM publishers")
            }
        except (TypeError, ValueError) as error:
            raise Foreign(f"the journal's head makes no sense: {error}") from error
        self.state = State(last, appended, dropped, last_time, owed, losses, records, octets, first or last + 1)
        self.marks: dict[str, bytes] = dict(run("SELECT name, mark FROM marks").fetchall())
        self.definitions: dict[bytes, int] = dict(run("SELECT fingerprint, id FROM definitions").fetchall())

    def publish_to(self, names: Iterable[str]) -> dict[str, int]:
        """Know exactly these publishers. Gives how many records each forgotten one had not acknowledged."""
        wanted, state = list(dict.fromkeys(names)), self.state
        forgotten = {
            name: sum(last - first + 1 for first, last in ranges.missing(state.first, state.last))
            for name, (ranges, _) in self.publishers.items()
            if name not in wanted
        }
        fresh = [name for name in wanted if name not in self.publishers]
        before = [[1, state.first - 1]] if state.first > 1 else []
        if not forgotten and not fresh:
            return {}
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            for name in forgotten:
                run("DELETE FROM publishers WHERE name = ?", (name,))
            for name in fresh:
                run("INSERT INTO publishers VALUES (?, ?, 0)", (name, orjson.dumps(before).decode()))
            run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            raise
        for name in forgotten:
            del self.publishers[name]
        self.publishers |= {name: (Ranges((a, b) for a, b in before), 0) for name in fresh}
        return forgotten

    # ------------------------------------------------------------------------------------------------ the transaction

    def commit(self, work: Work, full: str = "journal full") -> Outcome:
        """Do the work in one transaction; durable when it returns. Raises sqlite3.Error with nothing done.

        `full` is the reason given for what is dropped to keep to the ceiling.
        """
        state = replace(self.state)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT INTO definitions VALUES (?, ?, ?)", work.definitions)
            losses = self._drop_damaged(state, work.damaged)  # first: acknowledging them does not make them delivered
            trimming = self._trim(state, work.delivered)
            losses += self._drop_old(state, work)
            losses += self._drop_to_fit(state, work, full)
            self._insert(state, work.entries)
            self._connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", work.marks.items())
            settled = {entry.settles for entry in work.entries}
            state.owed = tuple(loss for loss in (*state.owed, *losses) if loss.number not in settled)
            state.dropped += sum(loss.fresh for loss in losses)
            self._save(state, work)
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back itself after some errors
                self._connection.execute("ROLLBACK")
            raise
        self.state = state
        return Outcome(tuple(losses), trimming)

    def owe(self, reason: str, start: int, end: int) -> None:
        """Note a loss of unknown size that happened outside the file, to be declared."""
        state = replace(self.state)
        state.owed = (*state.owed, self._loss(state, reason, _Sums(0, 0, 0, 0, start, end)))
        self._save(state, Work())
        self.state = state

    def _save(self, state: State, work: Work) -> None:
        run = self._connection.execute
        for name, (ranges, readings) in work.acknowledged.items():
            text = orjson.dumps(ranges).decode()
            run("UPDATE publishers SET acknowledged = ?, readings = ? WHERE name = ?", (text, readings, name))
        owed = [
            [loss.number, loss.reason, loss.start, loss.end, loss.readings, 0, loss.first, loss.last]
            for loss in state.owed
        ]
        run(
            f"UPDATE journal SET ({_STATE}, owed) = (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                state.last,
                state.appended,
                state.dropped,
                state.last_time,
                state.losses,
                state.records,
                state.bytes,
                orjson.dumps(owed).decode(),
            ),
        )

    def _insert(self, state: State, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        self._connection.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (e.sequence, checksum(e.sequence, e.record), e.readings, e.lost, e.start, e.end, e.at, e.record)
                for e in entries
            ],
        )
        if state.first > state.last:  # it was empty, and what was given out may have been dropped before it got here
            state.first = entries[0].sequence
        state.last = entries[-1].sequence
        state.records += len(entries)
        state.bytes += sum(len(entry.record) for entry in entries)
        shed = sum(entry.lost for entry in entries if not entry.settles)  # given up before they got here
        state.appended += shed + sum(entry.readings for entry in entries)
        state.dropped += shed
        state.last_time = entries[-1].at

    def _trim(self, state: State, delivered: int) -> bool:
        """Remove what everybody has; a bounded piece at a time. Gives whether more is to be removed."""
        if state.first > min(delivered, state.last):
            return False
        found = self._connection.execute(
            "SELECT sequence, length(record) FROM records WHERE sequence <= ? ORDER BY sequence LIMIT ?",
            (delivered, _TRIM_ROWS),
        )
        through, count, size = min(delivered, state.last), 0, 0
        for sequence, length in found:
            count, size = count + 1, size + length
            if size > _TRIM_BYTES or count == _TRIM_ROWS:
                through = sequence
                break
        self._remove(state, through, count, size)
        return through < min(delivered, state.last)

    def _drop_damaged(self, state: State, damaged: Sequence[int]) -> list[Loss]:
        losses: list[Loss] = []
        for sequence in damaged:
            found = self._sums(sequence, sequence)
            if found is not None:
                losses.append(self._loss(state, "a damaged record", found))
                self._connection.execute("DELETE FROM records WHERE sequence = ?", (sequence,))
                state.records -= 1
                state.bytes -= found.bytes
        return losses

    def _drop_old(self, state: State, work: Work) -> list[Loss]:
        run = self._connection.execute
        oldest = self.oldest() if state.records else None
        if oldest is None or oldest >= work.oldest:
            return []
        query = "SELECT sequence FROM records WHERE dated(sequence, at) >= ? ORDER BY sequence LIMIT 1"
        newer = run(query, (work.oldest,)).fetchone()
        return self._drop(state, newer[0] - 1 if newer else state.last, work.delivered, "older than max_age")

    def _drop_to_fit(self, state: State, work: Work, reason: str) -> list[Loss]:
        surplus = state.bytes + sum(len(entry.record) for entry in work.entries) - work.ceiling
        if surplus <= 0 or not state.records:
            return []
        surplus += work.ceiling // 100  # not one gap record per commit
        through = state.last
        found = self._connection.execute("SELECT sequence, length(record) FROM records ORDER BY sequence")
        for sequence, length in found:
            surplus -= length
            if surplus <= 0:
                through = sequence
                break
        found.close()
        return self._drop(state, through, work.delivered, reason)

    def _drop(self, state: State, through: int, delivered: int, reason: str) -> list[Loss]:
        """Remove what is up to `through`; what is not delivered of it is a loss."""
        lost = self._sums(max(state.first, delivered + 1), through)
        gone = self._sums(state.first, through)
        if gone is not None:
            self._remove(state, through, gone.records, gone.bytes)
        if lost is None or (lost.readings + lost.declared == 0 and lost.start >= lost.end):
            return []
        return [self._loss(state, reason, lost)]

    def _sums(self, first: int, last: int) -> _Sums | None:
        """Sum up the records first..last; None where there are none."""
        sums = "count(*), sum(length(record)), sum(readings), sum(lost), min(start), max(end)"
        row = self._connection.execute(
            f"SELECT {sums}, min(sequence), max(sequence) FROM records WHERE sequence BETWEEN ? AND ?", (first, last)
        ).fetchone()
        return _Sums(*row) if row[0] else None

    def _loss(self, state: State, reason: str, found: _Sums) -> Loss:
        state.losses += 1
        readings = found.readings + found.declared
        return Loss(state.losses, reason, found.start, found.end, readings, found.readings, found.first, found.last)

    def _remove(self, state: State, through: int, count: int, size: int) -> None:
        self._connection.execute("DELETE FROM records WHERE sequence <= ?", (through,))
        state.first = through + 1
        state.records -= count
        state.bytes -= size

    # ------------------------------------------------------------------------------------------------ the rest

    def oldest(self) -> int | None:
        """Give when the oldest record was appended (ns). Raises sqlite3.Error."""
        row = self._connection.execute("SELECT dated(sequence, at) FROM records ORDER BY sequence LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def checkpoint(self) -> None:
        """Move the WAL into the file, so that the WAL's space is used again. Raises sqlite3.Error."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        self._connection.close()


def checksum(sequence: int, record: bytes) -> int:
    """Give the CRC-32 that is stored beside a record."""
    return zlib.crc32(record, zlib.crc32(struct.pack("<q", sequence)))


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a second connection that only reads, beside the writer or without one. Raises sqlite3.Error."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        connection.close()  # nobody writes, and we may not make the files that WAL mode needs
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return connection


def open_file(directory: Path, options: JournalOptions) -> JournalFile:
    """Open the journal's file. One that is damaged or foreign is set aside, loudly, and a new one owes the loss.

    Raises JournalError where the directory cannot be used.
    """
    mark = directory / DAMAGED_MARK
    try:
        reason = _marked(mark)
        if not reason:
            try:
                return JournalFile(directory, options)
            except sqlite3.DatabaseError as error:
                missing = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR  # no such table, no such column
                if not is_damage(error) and not missing:
                    raise
                reason = str(error)
        start, told = _set_aside(directory, reason)
        mark.unlink(missing_ok=True)
        file = JournalFile(directory, options)
        file.owe(told, start, time.time_ns())
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal in {directory} cannot be opened: {error}") from error
    return file


def _marked(mark: Path) -> str:
    """Give what the last run said of the file's damage, or nothing."""
    try:
        return mark.read_text() or "found damaged in the last run"
    except FileNotFoundError:
        return ""


def _set_aside(directory: Path, reason: str) -> tuple[int, str]:
    """Move the file away; give the time of the oldest that it held, and a sentence for the gap record."""
    path = directory / NAME
    start = _oldest_time(path)
    aside = f"{NAME}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 10**6:06d}"
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{directory / aside}{suffix}")
    log.error(
        "The journal is damaged or none of ours. It was set aside and a new one begun; what it held was not delivered.",
        reason=reason,
        file=str(directory / aside),
    )
    return start, f"the journal was damaged ({reason}) and set aside as {aside}"


def _oldest_time(path: Path) -> int:
    """Give the time of the oldest record in a damaged file, or when it was last written, as far as it can be told."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect_to_read(path)) as connection:
        row = connection.execute("SELECT start FROM records ORDER BY sequence LIMIT 1").fetchone()
        if row and isinstance(row[0], int):
            return row[0]
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return time.time_ns()
