"""The account of every reading: which records of which journal are stored, and how many readings that was.

A journal numbers its records 1, 2, 3, ... and a number is never used again. So what is missing shows as a hole in the
numbers, whatever was lost on the way; no reading has to be counted twice for that. Ingest notes each message here after
its store has committed it and before the broker is acknowledged, in one transaction; what comes twice is seen by its
number. What a gateway says of itself (its summary) is kept beside it, so that both can be compared:

    stored     numbers noted here
    declared   numbers of which the gateway said, in a gap record, that they were lost
    settled    numbers that the gateway need not keep any more for this publisher, which tells everything
    undeclared settled, but neither stored nor declared: still on the way, or lost. Must come to nothing.
    waiting    numbers that are not settled yet: the backlog

A SQLite file beside the store, one per ingest worker:

    journals   id, gateway, journal, since (ns), base: numbers up to it were settled before this account began
    runs       journal, kind (stored, declared, settled), first, last: the numbers, as runs that do not touch
    parts      journal, number, row, rows, whole: of records that came in several messages, until they are complete
    hours      journal, device, hour (of the readings' time), delivered, duplicates, gaps, first, last (numbers)
    summaries  journal, publisher, heard (ns, our clock), at (ns, its clock), committed, readings, waiting, complete,
               version

Workers that share a subscription tell each other what they have stored (`stored_elsewhere`): each has all numbers, and
the hours of what it took in itself.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from gateway.contracts import Block
from gateway.model import THINNED, Batch, Gap
from gateway.ranges import Range, Ranges
from gateway.statements import Summary

HOUR: Final = 3600 * 10**9  # ns
_APPLICATION: Final = 0x50424C47
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS journals (
    id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, journal TEXT NOT NULL, since INTEGER NOT NULL, base INTEGER,
    UNIQUE (gateway, journal));
CREATE TABLE IF NOT EXISTS runs (
    journal INTEGER NOT NULL, kind TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (journal, kind, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    journal INTEGER NOT NULL, number INTEGER NOT NULL, row INTEGER NOT NULL, rows INTEGER NOT NULL,
    whole INTEGER NOT NULL, PRIMARY KEY (journal, number, row)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hours (
    journal INTEGER NOT NULL, device TEXT NOT NULL, hour INTEGER NOT NULL, delivered INTEGER NOT NULL,
    duplicates INTEGER NOT NULL, gaps INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (journal, device, hour)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS summaries (
    journal INTEGER NOT NULL, publisher TEXT NOT NULL, heard INTEGER NOT NULL, at INTEGER NOT NULL,
    committed INTEGER NOT NULL, readings INTEGER NOT NULL, waiting INTEGER NOT NULL, complete INTEGER NOT NULL,
    version TEXT NOT NULL, PRIMARY KEY (journal, publisher)) WITHOUT ROWID;
"""

Runs = Sequence[Range]


@dataclass(frozen=True, slots=True)
class Hour:
    """What was noted of a device's readings of one hour."""

    gateway: str
    journal: str
    device: str
    hour: int  # ns, its beginning
    delivered: int  # readings, each once
    duplicates: int  # readings that came again
    gaps: int  # gap records


@dataclass(frozen=True, slots=True)
class Standing:
    """How a journal stands: what ought to be here, and is not."""

    gateway: str
    journal: str
    since: int
    stored: int  # records
    declared: int
    undeclared: tuple[tuple[int, int], ...]  # runs of numbers that are lost
    waiting: int  # records that the gateway still has
    heard: int  # ns: when the gateway last summed up; 0: never
    appended: int = 0  # readings that the gateway took, as it said then
    before: int = 0  # records that it had settled before this account began


@dataclass(slots=True)
class _Journal:
    id: int
    base: int | None
    sets: dict[str, Ranges] = field(default_factory=lambda: defaultdict(Ranges))

    @property
    def accounted(self) -> Ranges:
        """The numbers of which something is known: stored, here or elsewhere, or declared lost."""
        both = Ranges(self.sets["stored"])
        for first, last in self.sets["declared"]:
            both.add(first, last)
        return both


class Ledger:
    """One account file. `note` and `hear` write, and may be called from any one thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._connection.executescript(_SCHEMA)
        self._journals: dict[tuple[str, str], _Journal] = {}
        # by journal and kind: a set, and what was put into it since the last save
        self._changed: dict[tuple[int, str], tuple[Ranges, Ranges]] = {}
        self._load()

    def _load(self) -> None:
        run = self._connection.execute
        self._journals = {
            (gateway, journal): _Journal(number, base)
            for number, gateway, journal, base in run("SELECT id, gateway, journal, base FROM journals")
        }
        by_id = {each.id: each for each in self._journals.values()}
        for number, kind, first, last in run("SELECT journal, kind, first, last FROM runs"):
            by_id[number].sets[kind].add(first, last)
        self._changed.clear()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._save()
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    self._connection.execute("ROLLBACK")
                self._load()  # what is in memory is what is in the file
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # ------------------------------------------------------------------------------------------------ writing

    def note(self, blocks: Iterable[Block]) -> dict[tuple[str, str], Ranges]:
        """Note what a store has committed; give the numbers that are complete with it, by gateway and journal.

        Raises sqlite3.Error; nothing of it is noted then.
        """
        done: dict[tuple[str, str], Ranges] = defaultdict(Ranges)
        with self._transaction():
            for block in blocks:
                self._note(block, done[block.gateway, block.journal])
        return done

    def _note(self, block: Block, done: Ranges) -> None:
        journal = self._journal(block.gateway, block.journal)
        stored = journal.sets["stored"]
        hours: dict[tuple[str, int], list[int]] = {}
        for index, (number, content) in enumerate(zip(block.sequences, block.contents, strict=True)):
            known, complete = number in stored, True
            if isinstance(content, Gap):
                complete = content.reason != THINNED  # which bears the number of a record that was told in part
                gaps = 0 if known and complete else 1
                _tally(hours, (content.device, content.start // HOUR * HOUR), number, gaps=gaps)
                if content.first:
                    self._put(journal, "declared", content.first, content.last)
                    done.add(content.first, content.last)  # nobody needs to keep them any more
            else:
                if (part := block.parts.get(index)) is not None:
                    known, complete = self._part(journal.id, number, part, len(content), known)
                for hour, rows in _by_hour(content):
                    new, again = (0, rows) if known else (rows, 0)
                    _tally(hours, (content.table.device, hour), number, new, again)
            if complete:
                self._put(journal, "stored", number, number)
                done.add(number, number)
        self._connection.executemany(
            "INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " delivered = delivered + excluded.delivered, duplicates = duplicates + excluded.duplicates,"
            " gaps = gaps + excluded.gaps, first = min(first, excluded.first), last = max(last, excluded.last)",
            [(journal.id, device, hour, *counts) for (device, hour), counts in hours.items()],
        )

    def _part(self, journal: int, number: int, part: tuple[int, int], rows: int, known: bool) -> tuple[bool, bool]:
        """Note a part of a record: whether it was known, and whether the record is complete with it."""
        if known:
            return True, True
        run = self._connection.execute
        query = "SELECT 1 FROM parts WHERE journal = ? AND number = ? AND row <= ? AND row + rows >= ?"
        again = run(query, (journal, number, part[0], part[0] + rows)).fetchone() is not None
        run("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)", (journal, number, part[0], rows, part[1]))
        have = Ranges()
        query = "SELECT row, rows FROM parts WHERE journal = ? AND number = ?"
        for first, size in run(query, (journal, number)).fetchall():
            have.add(first, first + size - 1)
        complete = list(have) == [(0, part[1] - 1)]
        if complete:
            run("DELETE FROM parts WHERE journal = ? AND number = ?", (journal, number))
        return again, complete

    def stored_elsewhere(self, told: Iterable[tuple[str, str, Runs]]) -> None:
        """Note what other workers have stored: gateway, journal, runs. Raises sqlite3.Error."""
        with self._transaction():
            for gateway, name, runs in told:
                journal = self._journal(gateway, name)
                for first, last in runs:
                    self._put(journal, "stored", first, last)

    def newest(self, gateway: str, name: str, most: int) -> list[Range]:
        """Give the last runs of what is stored, here or elsewhere."""
        with self._lock:
            found = self._journals.get((gateway, name))
            return list(found.accounted)[-most:] if found is not None else []

    def hear(self, summaries: Iterable[Summary]) -> None:
        """Note what gateways say of themselves. Raises sqlite3.Error."""
        with self._transaction():
            for summary in summaries:
                self._hear(summary)

    def _hear(self, summary: Summary) -> None:
        journal, run = self._journal(summary.gateway, summary.journal), self._connection.execute
        settled = _complement(summary.waiting, summary.committed)
        if journal.base is None:
            # settled before the first summary, and never seen here: by another ingest, or before there was one
            stored = list(journal.sets["stored"])
            journal.base = stored[0][0] - 1 if stored else (settled[-1][1] if settled else 0)
            run("UPDATE journals SET base = ? WHERE id = ?", (journal.base, journal.id))
        for first, last in settled if summary.complete else ():
            self._put(journal, "settled", first, last)
        waiting = sum(last - first + 1 for first, last in summary.waiting)
        row = (journal.id, summary.publisher, time.time_ns(), summary.at, summary.committed, summary.readings, waiting)
        values = (*row, summary.complete, summary.version)
        run("INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _journal(self, gateway: str, name: str) -> _Journal:
        found = self._journals.get((gateway, name))
        if found is None:
            insert = "INSERT INTO journals (gateway, journal, since) VALUES (?, ?, ?)"
            number = self._connection.execute(insert, (gateway, name, time.time_ns())).lastrowid
            found = self._journals[gateway, name] = _Journal(int(number or 0), None)
        return found

    def _put(self, journal: _Journal, kind: str, first: int, last: int) -> None:
        numbers = journal.sets[kind]
        if not numbers.missing(first, last):
            return
        numbers.add(first, last)
        self._changed.setdefault((journal.id, kind), (numbers, Ranges()))[1].add(first, last)

    def _save(self) -> None:
        """Write the runs that have changed."""
        delete = "DELETE FROM runs WHERE journal = ? AND kind = ? AND first BETWEEN ? AND ?"
        for key, (numbers, changed) in self._changed.items():
            for first, _ in changed:  # each is inside one run of the set
                run = (*key, *numbers.around(first))
                self._connection.execute(delete, run)
                self._connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", run)
        self._changed.clear()

    # ------------------------------------------------------------------------------------------------ reading

    def standing(self, gateway: str, name: str) -> Standing:
        """Compare what a gateway has settled with what is here. Raises KeyError."""
        with self._lock:
            journal = self._journals[gateway, name]
            accounted, settled = journal.accounted, list(journal.sets["settled"])
            stored, declared = journal.sets["stored"].count, journal.sets["declared"].count
            query = "SELECT since FROM journals WHERE id = ?"
            (since,) = self._connection.execute(query, (journal.id,)).fetchone()
            query = (
                "SELECT coalesce(max(heard), 0), coalesce(min(waiting), 0), coalesce(max(readings), 0) FROM summaries"
                " WHERE journal = ?"
            )
            heard, waiting, appended = self._connection.execute(query, (journal.id,)).fetchone()
        base = journal.base or 0
        lost = [hole for first, last in settled for hole in accounted.missing(max(first, base + 1), last)]
        return Standing(gateway, name, since, stored, declared, tuple(lost), waiting, heard, appended, base)

    def standings(self) -> list[Standing]:
        """Give how every journal stands."""
        return [self.standing(*key) for key in sorted(self._journals)]

    def hours(self, start: int, end: int) -> list[Hour]:
        """Give the hours that touch start..end (ns), by gateway, device and time."""
        query = (
            "SELECT gateway, journals.journal, device, hour, delivered, duplicates, gaps FROM hours"
            " JOIN journals ON journals.id = hours.journal WHERE hour > ? AND hour < ? ORDER BY 1, 3, 4, 2"
        )
        with self._lock:
            return [Hour(*row) for row in self._connection.execute(query, (start - HOUR, end))]

    def when(self, gateway: str, name: str, first: int, last: int) -> tuple[int, int]:
        """Bound the time of lost numbers by the hours of their neighbours (ns); 0 where there is none."""
        journal = self._journals[gateway, name]
        query = (
            "SELECT (SELECT max(hour) FROM hours WHERE journal = :j AND first < :a),"
            " (SELECT min(hour) + :h FROM hours WHERE journal = :j AND last > :b)"
        )
        with self._lock:
            row = self._connection.execute(query, {"j": journal.id, "a": first, "b": last, "h": HOUR}).fetchone()
        return row[0] or 0, row[1] or 0


def _complement(waiting: Runs, committed: int) -> list[Range]:
    """Give the numbers 1..committed that are not waiting."""
    return Ranges(waiting).missing(1, committed)


def _by_hour(batch: Batch) -> list[tuple[int, int]]:
    """Give (hour, rows) of a batch's times; nearly always one."""
    first, last = int(batch.time.min()) // HOUR, int(batch.time.max()) // HOUR
    if first == last:
        return [(first * HOUR, len(batch))]
    hours, counts = np.unique(batch.time // HOUR, return_counts=True)
    return [(int(hour) * HOUR, int(count)) for hour, count in zip(hours, counts, strict=True)]


def _tally(
    hours: dict[tuple[str, int], list[int]],
    key: tuple[str, int],
    number: int,
    new: int = 0,
    again: int = 0,
    gaps: int = 0,
) -> None:
    counts = hours.setdefault(key, [0, 0, 0, number, number])
    for place, count in enumerate((new, again, gaps)):
        counts[place] += count
    counts[3], counts[4] = min(counts[3], number), max(counts[4], number)
