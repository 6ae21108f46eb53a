"""The Journal as the event loop sees it: append, wait, read, acknowledge. Nothing here blocks the loop on the disk.

One writer thread owns the file. It gathers what is appended for `commit_interval`, or until `commit_size` bytes are
together, and commits it with everything else there is to do (acknowledgements, trimming, dropping) in one transaction.
All methods but `open`, `read`, `flush`, `close` and the waits are plain calls of the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gateway.errors import JournalError
from gateway.journal.disk import Foreign, Lock, Reserve, is_damage, is_disk_full
from gateway.journal.file import (
    TILL_NOW,
    Dated,
    Entry,
    JournalFile,
    Loss,
    Outcome,
    Work,
    checksum,
    connect_to_read,
)
from gateway.journal.opening import mark_damaged, open_file
from gateway.metrics import Metrics
from gateway.model import Gap
from gateway.ranges import Range, Ranges

if TYPE_CHECKING:
    from gateway.options import JournalOptions

log = structlog.get_logger()

NEARLY_FULL: Final = 0.95  # of max_size
_IDLE: Final = 1.0  # s; acknowledgements that come without readings are written this much later
_PATIENCE: Final = 10.0  # s that `close` tries to write to a full disk
_PIECE: Final = 256 << 10  # bytes of records that go to a full disk in one transaction
_PENDING: Final = 16 << 20  # bytes that may wait for a disk that takes nothing; then the oldest of them give way


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records `first`..`through` read in order: what is missing in `records` is not in the journal."""

    first: int
    through: int
    records: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Totals:
    """The account since the journal was made, as committed. `delivered` counts readings by publisher."""

    appended: int
    dropped: int
    delivered: dict[str, int]
    records: int  # kept now
    bytes: int


class Journal:
    """The one buffer between devices and brokers. Make it with `open`."""

    def __init__(
        self,
        directory: Path,
        lock: Lock,
        file: JournalFile,
        options: JournalOptions,
        pack_gap: Callable[[Gap], bytes],
        metrics: Metrics | None,
        clock: Callable[[], int],
    ) -> None:
        self.id = file.id
        self.options = options
        self.committed = self._began_after = file.state.last
        self.marks = file.marks  # as the last run left them
        self._directory = directory
        self._lock_file = lock
        self._file = file
        self._pack_gap = pack_gap
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reserve = Reserve(directory, options.max_size)
        self._known = dict(file.definitions)
        self._definitions: dict[int, bytes] = {}
        self._acknowledged = file.publishers
        self._state = file.state  # as of the last commit the loop heard of
        self._reader = connect_to_read(file.path)
        self._reading = ThreadPoolExecutor(1, "journal-read")
        self._reader_lock = threading.Lock()
        self._news = asyncio.Event()
        self._failure: JournalError | None = None
        self._full = False
        self._told_damage = False
        self._declared: set[int] = set()  # losses whose gap record was appended
        # shared with the writer thread, under `_shared`
        self._shared = threading.Condition()
        self._next = file.state.last + 1
        self._pending: deque[Entry] = deque()
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._new_definitions: list[tuple[int, bytes, bytes]] = []
        self._marks: dict[str, bytes] = {}
        self._marked_since = 0.0
        self._touched: dict[str, float] = {}  # publishers with news, and since when
        self._damaged: set[int] = set()
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []  # with the sequence that is waited for
        self._roster: tuple[list[str], asyncio.Future[None]] | None = None  # publishers from now on
        self._closing = False
        self._stuck = False  # the disk takes nothing
        self._ceiling = options.max_size
        self._trimming = False
        self._oldest: int | None = None  # when the oldest record was appended, where max_age asks for it
        self._aged = 0.0
        self._writer = threading.Thread(target=self._write, name="journal-write")

    @classmethod
    async def open(
        cls,
        directory: Path,
        options: JournalOptions,
        publishers: Iterable[str],
        pack_gap: Callable[[Gap], bytes],
        metrics: Metrics | None = None,
        clock: Callable[[], int] = time.time_ns,
        dated: Dated | None = None,
        begin: Callable[[Journal], None] | None = None,
    ) -> Journal:
        """Open the journal, for exactly these publishers; those it knew besides are forgotten.

        `pack_gap` makes the record of a gap that the journal itself must declare. `clock` may give times that mean
        nothing yet, which `dated` understands; `begin` is called before the clock is first asked. Raises JournalError
        where another process has it (naming its pid) or the directory cannot be used. A damaged or foreign file is set
        aside.
        """
        lock, file = await asyncio.to_thread(_open, directory, options, list(publishers))
        file.dated = dated or file.dated
        journal = cls(directory, lock, file, options, pack_gap, metrics, clock)
        if begin is not None:
            begin(journal)
        journal._declare(file.state.owed)
        journal._count()
        journal._writer.start()
        return journal

    # ------------------------------------------------------------------------------------------------ writing

    def define(self, fingerprint: bytes, definition: bytes) -> int:
        """Give the id of a definition; stored, if new, in the same transaction as the first record that uses it."""
        number = self._known.get(fingerprint)
        if number is None:
            number = self._known[fingerprint] = max(self._known.values(), default=0) + 1
            with self._shared:
                self._new_definitions.append((number, fingerprint, definition))
        self._definitions[number] = definition
        return number

    def definition(self, number: int) -> bytes:
        """Give a definition by its id. Raises LookupError, JournalError."""
        found = self._definitions.get(number)
        if found is None and number in self._file.spoilt:
            raise LookupError(f"definition {number} is damaged")
        if found is None:
            query = "SELECT definition FROM definitions WHERE id = ?"
            try:
                with self._reader_lock:  # of an earlier run; once per publisher, some microseconds
                    row = self._reader.execute(query, (number,)).fetchone()
            except sqlite3.Error as error:
                raise self._broken(error) from error
            if row is None:
                raise LookupError(f"the journal has no definition {number}")
            found = row[0]
        return found

    def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int:
        """Take a record; on disk after the next commit. Gives its sequence.

        `start` and `end` are the oldest and newest time inside (ns), for the gap record should it have to be dropped.
        Raises JournalError once the disk has failed or the journal is closed.
        """
        if self._closing:
            raise JournalError("the journal is closed")
        return self._append(record, readings, start, end)

    def _append(self, record: bytes, readings: int, start: int, end: int, lost: int = 0, settles: int = 0) -> int:
        if self._failure is not None:
            raise self._failure
        size = len(record)
        with self._shared:
            sequence = self._next
            self._next += 1
            before = self._pending_bytes
            self._pending.append(Entry(sequence, record, readings, start, end, self._clock(), lost, settles))
            self._pending_bytes = before + size
            if not before:
                self._pending_since = time.monotonic()
                self._shared.notify()
            elif before < self.options.commit_size <= before + size:
                self._shared.notify()
        if self._pending_bytes > _PENDING + self.options.commit_size:
            self._shed()
        return sequence

    def mark(self, name: str, mark: bytes) -> None:
        """Keep how far a driver has given its data, for the next run's `marks`.

        It is committed with, or after, all that was appended before it: it never tells of more than the journal has.
        """
        with self._shared:
            if not self._marks:
                self._marked_since = time.monotonic()
                self._shared.notify()
            self._marks[name] = mark

    async def flush(self) -> None:
        """Commit now; return when all that was appended and acknowledged before is on disk. Raises JournalError."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._shared:
            if self._failure is not None:
                raise self._failure
            self._flushes.append((self._next - 1, done))
            self._shared.notify()
        await done

    async def publish_to(self, names: Iterable[str]) -> None:
        """Know exactly these publishers from now on, as `open` does: a new one begins with all that is kept.

        Raises JournalError where the disk does not take it; then all is as before.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        with self._shared:
            if self._failure is not None:
                raise self._failure
            self._roster = list(names), done
            self._shared.notify()
        await done

    async def close(self) -> None:
        """Commit everything, end the thread, close the file. Idempotent; what cannot be written is said in the log."""
        with self._shared:
            self._closing = True
            self._shared.notify()
        if self._writer.is_alive():
            await asyncio.to_thread(self._writer.join)
        if self._failure is None:
            self._fail(JournalError("the journal is closed"))
        self._reading.shutdown(wait=True)
        with self._reader_lock:
            self._reader.close()
        await asyncio.to_thread(self._file.close)
        self._lock_file.release()

    @property
    def trouble(self) -> str:
        """Why the journal cannot keep what is read, and what to do; empty where it can. For any thread."""
        if self._stuck:
            return f"the disk of {self._directory} is full, readings cannot be written: make room on it"
        if self._full:
            return "the journal is full and scans are held until a publisher has sent some of it"
        if self._state.bytes >= NEARLY_FULL * self.options.max_size:
            what = "the oldest readings give way" if self.options.when_full == "drop-oldest" else "scans will be held"
            return f"the journal is nearly full, then {what}: see why its publishers do not send, or raise max_size"
        return ""

    @property
    def room(self) -> bool:
        """False while a full journal holds scans."""
        return not self._full

    async def wait_room(self) -> None:
        """Wait while a full journal holds scans. Raises JournalError."""
        while self._full:
            await self._hear()

    # ------------------------------------------------------------------------------------------------ reading

    async def wait_committed(self, after: int) -> int:
        """Wait until a record later than `after` is committed; give the last committed. Raises JournalError."""
        while self.committed <= after:
            await self._hear()
        return self.committed

    async def read(self, first: int, last: int, max_bytes: int) -> Chunk:
        """Read committed records first..last in order, as many as fit in `max_bytes`, at least one.

        A damaged record, or one that is gone, is left out and declared by a gap record. Raises JournalError.
        """
        if self._failure is not None:
            raise self._failure
        try:
            chunk, damaged = await self._loop.run_in_executor(self._reading, self._read, first, last, max_bytes)
            valid = {sequence for sequence, _ in chunk.records}
            # one may say that it is another; what lies behind the chunk is met again
            damaged = [sequence for sequence in damaged if sequence not in valid and sequence <= chunk.through]
            there = len(valid.union(damaged))
            if there < chunk.through - first + 1:
                absent = await self._loop.run_in_executor(self._reading, self._absent, first, chunk.through)
            else:
                absent = []
        except sqlite3.Error as error:
            raise self._broken(error) from error
        if damaged:
            self.give_up(damaged, "the checksum is wrong")
        if absent and absent[-1] > self._began_after:
            raise self._broken(Foreign("what was just written is not there"))
        if absent:
            self.give_up(absent, "they are missing from the file")
        return chunk

    def give_up(self, sequences: Iterable[int], reason: str) -> None:
        """Remove records that nobody can read; a gap record declares the loss."""
        lost = list(sequences)
        if not self._told_damage:
            self._told_damage = True
            log.error(
                "Records of the journal are damaged: their readings are lost.", sequences=lost[:10], reason=reason
            )
        with self._shared:
            self._damaged.update(lost)
            self._shared.notify()

    def _read(self, first: int, last: int, max_bytes: int) -> tuple[Chunk, list[int]]:
        records: list[tuple[int, bytes]] = []
        damaged: list[int] = []
        size = 0
        query = "SELECT sequence, crc, record FROM records WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
        with self._reader_lock, contextlib.closing(self._reader.execute(query, (first, last))) as found:
            for sequence, crc, record in found:
                if not isinstance(sequence, int) or not first <= sequence <= last:
                    continue  # from a page of rubbish
                if type(record) is not bytes or checksum(sequence, record) != crc:
                    damaged.append(sequence)
                    continue
                if records and size + len(record) > max_bytes:
                    return Chunk(first, sequence - 1, records), damaged
                records.append((sequence, record))
                size += len(record)
        return Chunk(first, last, records), damaged

    def _absent(self, first: int, last: int) -> list[int]:
        """Give the sequences that ought to be in the file and are not, at one moment."""
        run = self._reader.execute
        with self._reader_lock:
            run("BEGIN")
            try:
                newest, count = run("SELECT last, records FROM journal").fetchone()
                known = Ranges(run("SELECT first, last FROM holes"))
                first, last = max(first, newest + 1 - count - known.count), min(last, newest)
                for (sequence,) in run("SELECT sequence FROM records WHERE sequence BETWEEN ? AND ?", (first, last)):
                    known.add(sequence, sequence)
            finally:
                run("COMMIT")
        return [number for begin, end in known.missing(first, last) for number in range(begin, end + 1)]

    # ------------------------------------------------------------------------------------------------ acknowledging

    def pending(self, name: str) -> list[Range]:
        """Give the ranges of committed sequences that the publisher has not acknowledged, oldest first."""
        with self._shared:
            return self._acknowledged[name][0].missing(self._state.first, self.committed)

    def acknowledge(self, name: str, first: int, last: int, readings: int) -> None:
        """Note that the publisher's peer has taken over first..last with so many readings. On disk a little later."""
        with self._shared:
            ranges, total = self._acknowledged[name]
            ranges.add(first, last)
            self._acknowledged[name] = ranges, total + readings
            self._touched.setdefault(name, time.monotonic())
            if len(self._touched) == 1 and not self._pending:
                self._shared.notify()

    # ------------------------------------------------------------------------------------------------ account

    @property
    def following(self) -> int:
        """The sequence that the next record gets."""
        return self._next

    @property
    def first(self) -> int:
        """The lowest sequence that may still be there."""
        return self._state.first

    @property
    def last_time(self) -> int:
        """The gateway's clock (ns) when the newest committed record was appended; 0 in a new journal."""
        return self._state.last_time

    def totals(self) -> Totals:
        """Give the account as of the last commit; `delivered` as of now."""
        state = self._state
        delivered = {name: readings for name, (_, readings) in dict(self._acknowledged).items()}
        return Totals(state.appended, state.dropped, delivered, state.records, state.bytes)

    # ------------------------------------------------------------------------------------------------ on the loop

    async def _hear(self) -> None:
        if self._failure is not None:
            raise self._failure
        await self._news.wait()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _committed(self, outcome: Outcome, flushed: list[asyncio.Future[None]]) -> None:
        """Take in what the writer has committed."""
        self._state = self._file.state
        self.committed = self._state.last
        self._declared &= {loss.number for loss in self._state.owed}
        for loss in outcome.losses:
            if self._metrics is not None:
                self._metrics.dropped.labels(loss.reason).inc(loss.fresh)
        self._declare(outcome.losses)
        self._count()
        for done in flushed:
            _answer(done)
        self._tell()

    def _declare(self, losses: Iterable[Loss]) -> None:
        """Append the gap records of losses, which settle them."""
        for loss in losses:
            if loss.number in self._declared or self._failure is not None:
                continue
            self._declared.add(loss.number)
            end = self._clock() if loss.end == TILL_NOW else loss.end
            gap = Gap("", "", loss.start, end, loss.reason, loss.readings, 0, loss.first, loss.last)
            self._append(self._pack_gap(gap), 0, loss.start, end, loss.readings, loss.number)

    def _count(self) -> None:
        state = self._state
        if self._metrics is not None:
            self._metrics.depth.set(state.records)
            self._metrics.bytes.set(state.bytes)
        if self.options.when_full == "hold-scans":
            limit = self.options.max_size * (0.95 if self._full else 1.0)  # not in and out at each commit
            full = self._stuck or state.bytes + self._pending_bytes >= limit
            if full and not self._full:
                log.warning("The journal is full: scans are held until the publishers have made room.")
            elif self._full and not full:
                log.info("The journal has room again: scanning goes on.")
            self._full = full

    def _shed(self) -> None:
        """The disk takes nothing and memory is not without end: drop the oldest of what waits, and declare it."""
        shed: list[Entry] = []
        kept: list[Entry] = []
        with self._shared:
            while self._pending_bytes > _PENDING and self._pending:
                entry = self._pending.popleft()
                if entry.settles:
                    kept.append(entry)
                    continue
                shed.append(entry)
                self._pending_bytes -= len(entry.record)
            self._pending.extendleft(reversed(kept))
        if not shed:
            return
        readings = sum(entry.readings + entry.lost for entry in shed)
        start, end = min(entry.start for entry in shed), max(entry.end for entry in shed)
        if self._metrics is not None:
            self._metrics.dropped.labels("disk full").inc(sum(entry.readings for entry in shed))
        gap = Gap("", "", start, end, "disk full", readings, 0, shed[0].sequence, shed[-1].sequence)
        self._append(self._pack_gap(gap), 0, start, end, lost=readings)

    def _fail(self, failure: JournalError) -> None:
        self._failure = failure
        for _, done in [*self._flushes, *filter(None, [self._roster])]:
            _answer(done, failure)
        self._tell()

    def _broken(self, error: sqlite3.Error) -> JournalError:
        """Make the error that ends the process; leave a mark where a restart alone would not help."""
        if is_damage(error):
            with contextlib.suppress(OSError):
                mark_damaged(self._directory, str(error))
        return JournalError(f"the journal in {self._directory} failed: {error}")

    # ------------------------------------------------------------------------------------------------ writer thread

    def _write(self) -> None:
        self._reserve.take()
        self._look_at_age()
        failed_since = 0.0
        try:
            while self._wait(failed_since):
                self._call_roll()
                work = self._take(_PIECE if failed_since else 2 * self.options.commit_size)
                try:
                    outcome = self._commit(work)
                except sqlite3.Error as error:
                    if not is_disk_full(error, self._directory):
                        raise
                    failed_since = failed_since or time.monotonic()
                    self._put_back(work)
                    self._report_stuck(stuck=True)
                    if self._closing and time.monotonic() - failed_since > _PATIENCE:
                        self._give_up()
                        break
                else:
                    failed_since = 0.0
                    self._report_stuck(stuck=False)
                    self._trimming = outcome.trimming
                    self._look_at_age()
                    self._on_loop(self._committed, outcome, self._flushed())
        except sqlite3.Error as error:
            self._on_loop(self._fail, self._broken(error))
        except BaseException as error:
            self._on_loop(self._fail, JournalError(f"the journal in {self._directory} failed: {error!r}"))
            raise

    def _call_roll(self) -> None:
        """Begin and forget publishers."""
        with self._shared:
            roster, self._roster = self._roster, None
        if roster is None:
            return
        names, done = roster
        try:
            forgotten = self._file.publish_to(names)
        except sqlite3.Error as error:
            self._on_loop(_answer, done, JournalError(f"the publishers cannot be changed in the journal: {error}"))
            if not is_disk_full(error, self._directory):
                raise
            return
        with self._shared:
            for name in forgotten:
                self._touched.pop(name, None)
        _tell_forgotten(forgotten)
        self._on_loop(_answer, done)

    def _look_at_age(self) -> None:
        if self.options.max_age is not None:
            self._oldest, self._aged = self._file.oldest(), time.monotonic()

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _wait(self, failed_since: float) -> bool:
        """Wait until there is something to commit; False when the journal closes and nothing is left."""
        with self._shared:
            if failed_since:
                self._shared.wait_for(lambda: False, min(1.0, max(0.05, self.options.commit_interval)))
                return True
            while True:
                if self._flushes or self._damaged or self._trimming or self._roster:
                    return True
                if self._closing:
                    return bool(self._pending or self._touched or self._new_definitions or self._marks)
                due = self._due()
                now = time.monotonic()
                if due is not None and (due <= now or self._pending_bytes >= self.options.commit_size):
                    return True
                self._shared.wait(None if due is None else due - now)

    def _due(self) -> float | None:
        times = [since + _IDLE for since in self._touched.values()]
        if self._marks:
            times.append(self._marked_since + _IDLE)
        if self._pending:
            times.append(self._pending_since + self.options.commit_interval)
        if self._oldest is not None and self.options.max_age is not None:
            age = max(0.0, (self._clock() - self._oldest) / 1e9)  # the clock may have been set, or not be known
            times.append(max(time.monotonic() + self.options.max_age - age, self._aged + 1.0))
        return min(times, default=None)

    def _take(self, limit: int) -> Work:
        """Take what there is to do, and of the records as many as fit in `limit` bytes."""
        max_age = self.options.max_age
        with self._shared:
            for ranges, _ in self._acknowledged.values():
                ranges.add(1, self._file.state.first - 1)  # what was dropped is nobody's any more
            touched = {name: self._acknowledged[name] for name in self._touched}
            delivered = [ranges.through(self._file.state.first) for ranges, _ in self._acknowledged.values()]
            work = Work(
                entries=self._take_entries(limit),
                definitions=self._new_definitions,
                acknowledged={name: (list(ranges), readings) for name, (ranges, readings) in touched.items()},
                delivered=min(delivered, default=0),
                damaged=sorted(self._damaged),
                ceiling=self._ceiling if self.options.when_full == "drop-oldest" else 1 << 62,
                oldest=-(1 << 62) if max_age is None else self._clock() - round(max_age * 1e9),
            )
            if not self._pending:  # all that came before them goes along
                work.marks, self._marks = self._marks, {}
            self._new_definitions = []
            self._touched.clear()
            self._damaged.clear()
        return work

    def _take_entries(self, limit: int) -> list[Entry]:
        if self._pending_bytes <= limit:
            entries = list(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            return entries
        entries, size = [], 0
        while self._pending and (not entries or size + len(self._pending[0].record) <= limit):
            entries.append(self._pending.popleft())
            size += len(entries[-1].record)
        self._pending_bytes -= size
        return entries

    def _flushed(self) -> list[asyncio.Future[None]]:
        """Give, and forget, the flushes that got what they wait for."""
        last = self._file.state.last
        with self._shared:
            done = [future for wanted, future in self._flushes if wanted <= last]
            self._flushes = [(wanted, future) for wanted, future in self._flushes if wanted > last]
        return done

    def _put_back(self, work: Work) -> None:
        with self._shared:
            self._pending.extendleft(reversed(work.entries))
            self._pending_bytes += sum(len(entry.record) for entry in work.entries)
            self._new_definitions[:0] = work.definitions
            self._marks = {**work.marks, **self._marks}
            now = time.monotonic()
            for name in work.acknowledged:
                self._touched.setdefault(name, now)
            self._damaged.update(work.damaged)

    def _commit(self, work: Work) -> Outcome:
        """Commit; on a full disk make room as the policy says, and try again. Raises sqlite3.Error."""
        if self._ceiling < self.options.max_size and self._reserve.take():
            self._ceiling = self.options.max_size
        full = "journal full" if self._ceiling == self.options.max_size else "disk full"
        try:
            return self._file.commit(work, full)
        except sqlite3.Error as error:
            if not is_disk_full(error, self._directory):
                raise
        self._reserve.release()
        with contextlib.suppress(sqlite3.Error):
            self._file.checkpoint()
        surplus = len(work.entries)
        while surplus > 1 and sum(len(entry.record) for entry in work.entries[:surplus]) > _PIECE:
            surplus //= 2
        if surplus < len(work.entries):  # marks wait for all that came before them
            self._put_back(Work(entries=work.entries[surplus:], marks=work.marks))
            work.entries, work.marks = work.entries[:surplus], {}
        there = self._file.state.bytes
        self._ceiling = max(2 * _PIECE, min(self._ceiling, there) - 2 * _PIECE - there // 20)
        if self.options.when_full == "drop-oldest":
            work.ceiling = self._ceiling
        return self._file.commit(work, "disk full")

    def _report_stuck(self, *, stuck: bool) -> None:
        if stuck == self._stuck:
            return
        self._stuck = stuck
        if stuck:
            log.error("The disk is full: readings cannot be written.", directory=str(self._directory))
        else:
            log.info("The disk takes readings again.", directory=str(self._directory))
        self._on_loop(self._count)

    def _give_up(self) -> None:
        readings = sum(entry.readings for entry in self._pending)
        log.error("The disk is full: the last readings could not be written and are lost.", readings=readings)


def _open(directory: Path, options: JournalOptions, publishers: list[str]) -> tuple[Lock, JournalFile]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"the journal's directory {directory} cannot be made: {error.strerror}") from error
    lock = Lock(directory)
    try:
        file = open_file(directory, options)
        try:
            forgotten = file.publish_to(publishers)
        except sqlite3.Error as error:
            file.close()
            if not is_damage(error):
                raise JournalError(f"the journal in {directory} cannot be written: {error}") from error
            mark_damaged(directory, str(error))
            file = open_file(directory, options)
            forgotten = file.publish_to(publishers)
    except BaseException:
        lock.release()
        raise
    _tell_forgotten(forgotten)
    return lock, file


def _tell_forgotten(forgotten: Mapping[str, int]) -> None:
    for name, unsent in forgotten.items():
        if unsent:
            log.warning(
                "A publisher is no longer configured; what it had not sent is dropped.", publisher=name, records=unsent
            )


def _answer(done: asyncio.Future[None], error: JournalError | None = None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()  # whoever asked may be gone
