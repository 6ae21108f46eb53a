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
    holes        first, last: sequences between the records that were lost, and declared, or never got here
    seals        name, crc: CRC-32 of what else must not be believed where a bit has turned: the journal's id, each
                 definition, each mark, and what each publisher has acknowledged

Sequences are dense from 1 and are given out before the commit; what is not committed when the process dies never was.
`at` is the gateway's clock when the record was appended; `start` and `end` are the times of its content. Each may be
undated (gateway.clock): then `dated` tells what `at` means. `last_time` is `at` of the newest record. `lost` is how
many readings a gap record of the journal's own stands for, so that dropping a gap does not forget what it declared.
`owed` are losses whose gap record is not in the file yet: a crash between the two does not hide a loss.
Records and holes together leave no sequence out, so the lowest that is kept is told by the head: a record that is gone
is noticed, also at the beginning.

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

from gateway.clock import DATED
from gateway.journal.disk import Foreign, wal_size
from gateway.ranges import Range, Ranges

if TYPE_CHECKING:
    from gateway.options import JournalOptions

log = structlog.get_logger()

APPLICATION_ID: Final = 0x504C424A
VERSION: Final = 1
NAME: Final = "journal.sqlite"
TILL_NOW: Final = -1  # the end of a loss that lasts until it is declared
_PAGE: Final = 4096
_TRIM_BYTES: Final = 8 << 20  # most that one transaction removes of what is acknowledged: live data must not wait
_TRIM_ROWS: Final = 5000

_STATE: Final = "last, appended, dropped, last_time, losses, records, bytes"

_MARKS: Final = "CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, mark BLOB NOT NULL)"  # files may lack it
_HOLES: Final = "CREATE TABLE IF NOT EXISTS holes (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)"
_SEALS: Final = "CREATE TABLE IF NOT EXISTS seals (name TEXT PRIMARY KEY, crc INTEGER NOT NULL)"
_FIND_HOLES: Final = """
    INSERT INTO holes SELECT before + 1, sequence - 1
    FROM (SELECT sequence, lag(sequence) OVER (ORDER BY sequence) AS before FROM records) WHERE sequence > before + 1
"""
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
    {_HOLES};
    {_SEALS};
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
    holes: tuple[Range, ...] = ()  # within first..last


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
        self._connection.text_factory = lambda octets: octets.decode(errors="replace")  # the seals tell
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
        names = {name for (name,) in run("SELECT name FROM sqlite_schema")}
        empty = not names
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
            self._seal("id", *row[1:3])
            run("COMMIT")
            self.checkpoint()  # who it is does not depend on the WAL
        else:  # earlier versions had fewer tables
            run("BEGIN IMMEDIATE")  # holes that are not found yet would be taken for damage
            for statement in (_MARKS, _SEALS, *([] if "holes" in names else [_HOLES, _FIND_HOLES])):
                run(statement)
            run("COMMIT")

    def _seal(self, name: str, *values: object) -> None:
        self._connection.execute("INSERT OR REPLACE INTO seals VALUES (?, ?)", (name, sealed(*values)))

    def _load(self) -> None:
        run = self._connection.execute
        row = run(f"SELECT id, {_STATE}, owed, created FROM journal").fetchone()
        if row is None:
            raise Foreign("the journal has lost its head")
        self.id: str = row[0]
        seals: dict[str, int] = dict(run("SELECT name, crc FROM seals").fetchall())
        if seals.get("id", sealed(self.id, row[9])) != sealed(self.id, row[9]):
            raise Foreign("the journal does not know who it is")
        try:
            last, appended, dropped, last_time, losses, records, octets = map(int, row[1:8])
            owed = tuple(Loss(*item) for item in orjson.loads(row[8]))
            holes = tuple((int(begin), int(end)) for begin, end in run("SELECT first, last FROM holes ORDER BY first"))
            first = last + 1 - records - Ranges(holes).count
            self.state = State(last, appended, dropped, last_time, owed, losses, records, octets, first, holes)
            lowest, highest = run("SELECT min(sequence), max(sequence) FROM records").fetchone()
            if not 1 <= first <= (lowest or first) <= (highest or first) <= max(last, first) or records < 0:
                raise Foreign(f"records {lowest} to {highest} are there, and {first} to {last} ought to be")
            self.publishers = {
                str(name): self._acknowledged(seals.get(f"publisher/{name}"), name, ranges, readings)
                for name, ranges, readings in run("SELECT name, acknowledged, readings FROM publishers").fetchall()
            }
        except (TypeError, ValueError) as error:
            raise Foreign(f"the journal's head makes no sense: {error}") from error
        self.marks: dict[str, bytes] = {
            name: mark
            for name, mark in run("SELECT name, mark FROM marks").fetchall()
            if seals.get(f"mark/{name}", sealed(mark)) == sealed(mark)
        }
        self.spoilt: set[int] = set()  # definitions that must not be used
        self.definitions: dict[bytes, int] = {}
        for number, fingerprint, definition in run("SELECT id, fingerprint, definition FROM definitions"):
            found = sealed(fingerprint, definition)
            if seals.get(f"definition/{number}", found) == found:
                self.definitions[fingerprint] = number
            else:
                self.spoilt.add(number)
                self.definitions[b"spoilt %d" % number] = number  # the number is not used again
        if self.spoilt:
            log.error(
                "Definitions in the journal are damaged: readings that refer to them are lost.", numbers=self.spoilt
            )

    def _acknowledged(self, seal: int | None, name: str, ranges: str, readings: int) -> tuple[Ranges, int]:
        """Give what a publisher has acknowledged; where that is not certain, nothing of what is kept."""
        if seal is not None and seal != sealed(name, ranges, readings):
            log.error("It is not known any more what was sent: all that is kept is sent again.", publisher=name)
            return Ranges([(1, self.state.first - 1)]), 0
        return Ranges((int(first), int(last)) for first, last in orjson.loads(ranges)), int(readings)

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
                text = orjson.dumps(before).decode()
                run("INSERT INTO publishers VALUES (?, ?, 0)", (name, text))
                self._seal(f"publisher/{name}", name, text, 0)
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
            for number, fingerprint, definition in work.definitions:
                self._seal(f"definition/{number}", fingerprint, definition)
            losses = self._drop_damaged(state, work.damaged)  # first: acknowledging them does not make them delivered
            trimming = self._trim(state, work.delivered)
            losses += self._drop_old(state, work)
            losses += self._drop_to_fit(state, work, full)
            self._insert(state, work.entries)
            self._connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", work.marks.items())
            for name, mark in work.marks.items():
                self._seal(f"mark/{name}", mark)
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
            self._seal(f"publisher/{name}", name, text, readings)
        if state.holes != self.state.holes:
            run("DELETE FROM holes")
            self._connection.executemany("INSERT INTO holes VALUES (?, ?)", state.holes)
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
            state.first, state.last = entries[0].sequence, entries[0].sequence - 1
        for entry in entries:
            _dig(state, state.last + 1, entry.sequence - 1)
            state.last = entry.sequence
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
        self._remove(state, through, size)
        return through < min(delivered, state.last)

    def _drop_damaged(self, state: State, damaged: Sequence[int]) -> list[Loss]:
        losses: list[Loss] = []
        absent = Ranges()
        for sequence in damaged:
            found = self._sums(sequence, sequence)
            if found is not None:
                if not found.start or found.start > found.end:
                    times = self._around(state, sequence, sequence)
                    found = found._replace(start=times.start, end=times.end)
                losses.append(self._loss(state, "a damaged record", found))
                self._connection.execute("DELETE FROM records WHERE sequence = ?", (sequence,))
                state.records -= 1
                state.bytes -= found.bytes
                _dig(state, sequence, sequence)
            elif sequence >= state.first:
                absent.add(sequence, sequence)
        known = Ranges(state.holes)
        for first, last in [part for run in absent for part in known.missing(*run)]:
            losses.append(self._loss(state, "records missing from the file", self._around(state, first, last)))
            state.records -= last - first + 1
            _dig(state, first, last)
        return losses

    def _around(self, state: State, first: int, last: int) -> _Sums:
        """Tell what is known of records that are not there: in time they lie between those before and after."""
        run = self._connection.execute
        near = "SELECT sequence, {0} FROM records WHERE sequence {1} AND typeof({0}) = 'integer' ORDER BY 1 {2} LIMIT 3"
        before = run(near.format("start", "< ?", "DESC"), (first,)).fetchall()
        after = run(near.format("end", "> ?", "ASC"), (last,)).fetchall()
        created = run("SELECT created FROM journal").fetchone()[0]
        # of three, because in a damaged tree one may be another than it says
        start = min((start for sequence, start in before if sequence < first), default=created)
        end = max((end for sequence, end in after if sequence > last), default=max(state.last_time, start))
        return _Sums(last - first + 1, 0, 0, 0, start, end, first, last)

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
        first = max(state.first, delivered + 1)
        lost = [self._sums(first, through, part) for part in ("start >= ?", "start < ?")]  # else not to be dated
        gone = self._sums(state.first, through)
        if gone is not None:
            self._remove(state, through, gone.bytes)
        return [
            self._loss(state, reason, each)
            for each in lost
            if each is not None and (each.readings + each.declared or each.start < each.end)
        ]

    def _sums(self, first: int, last: int, which: str = "start >= ? OR 1") -> _Sums | None:
        """Sum up the records first..last of which `which` is so, compared with DATED; None where there are none."""
        sums = "count(*), sum(length(record)), sum(readings), sum(lost), min(start), max(end)"
        row = self._connection.execute(
            f"SELECT {sums}, min(sequence), max(sequence) FROM records WHERE sequence BETWEEN ? AND ? AND ({which})",
            (first, last, DATED),
        ).fetchone()
        if row[0] and not all(isinstance(value, int) for value in row):
            raise Foreign(f"record {first} makes no sense")
        return _Sums(*row) if row[0] else None

    def _loss(self, state: State, reason: str, found: _Sums) -> Loss:
        state.losses += 1
        readings = found.readings + found.declared
        return Loss(state.losses, reason, found.start, found.end, readings, found.readings, found.first, found.last)

    def _remove(self, state: State, through: int, size: int) -> None:
        self._connection.execute("DELETE FROM records WHERE sequence <= ?", (through,))
        left = Ranges(state.holes).within(through + 1, state.last)
        state.first, state.holes = through + 1, tuple(left)
        state.records = state.last - through - Ranges(left).count
        state.bytes = state.bytes - size if state.records else 0

    # ------------------------------------------------------------------------------------------------ the rest

    def oldest(self) -> int | None:
        """Give when the oldest record was appended (ns). Raises sqlite3.Error."""
        row = self._connection.execute("SELECT dated(sequence, at) FROM records ORDER BY sequence LIMIT 1").fetchone()
        if row is not None and not isinstance(row[0], int):
            raise Foreign("the oldest record makes no sense")
        return None if row is None else int(row[0])

    def checkpoint(self) -> None:
        """Move the WAL into the file, so that the WAL's space is used again. Raises sqlite3.Error."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        self._connection.close()


def _dig(state: State, first: int, last: int) -> None:
    """Note that these sequences are not among the records, and why is known."""
    if first <= last:
        holes = Ranges(state.holes)
        holes.add(first, last)
        state.holes = tuple(holes)


def sealed(*values: object) -> int:
    """Give the CRC-32 that is kept as a seal of these values."""
    return zlib.crc32(repr(values).encode())


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
