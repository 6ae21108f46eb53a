"""The replay driver: what a recording says now, or what a pattern gives now, as if a device had been asked.

What a driver is, in one example: `plan` computes all that follows from the configuration; `connect` makes the
session, here the loaded recording; `read` gives one batch per table with one row per tag; `close` ends the session.
A series that the recording does not have makes Bad rows and nothing else. A file that is gone is a device that is
gone: NotConnected. Whatever is to be tried again, waited for or logged is not done here. With `rows: all` nothing is
asked: the recording reports each of its rows when its moment has come, as a peer with subscriptions does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.replay.patterns import Generator
from drivers.replay.spec import GENERATED, ReplayLink
from gateway import quality as q
from gateway.contracts import Plan, PlannedRequest
from gateway.errors import NotConnected, ProtocolError
from gateway.model import Batch, Gap, Kind, Link, TagTable
from gateway.trace import Series, Trace, load

PER_READING: Final = 1e-7  # s, for `plantbridge plan`
NONE: Final = Series(Kind.TEXT, np.zeros(0, np.int64), np.zeros(0, object), np.zeros(0, np.uint32))
LAST: Final = Series(Kind.TEXT, np.zeros(1, np.int64), np.full(1, ""), np.full(1, q.BAD_NO_DATA, np.uint32))
"""A row behind all others, so that there is one where a series has none yet."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplayPlan:
    """The tables of one poll group. A recording's columns are joined to them when it is loaded, not at each scan."""

    tables: tuple[TagTable, ...]
    url: str

    def requests(self) -> Sequence[PlannedRequest]:
        size = sum(len(table) for table in self.tables)
        return [PlannedRequest(f"{size} series of {self.url}", size, size, size * PER_READING)]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A table's series in a recording, one behind the other in table order; series i has rows starts[i] to ends[i].

    `key` makes them one sorted column: the number of the series, then that of the moment among all the recording's.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    key: NDArray[np.int64]
    time: NDArray[np.int64]
    value: NDArray[Any]
    quality: NDArray[np.uint32]

    def newest(self, recording: Trace, position: int) -> NDArray[np.int64]:
        """Give each series' newest row at `position` (ns since the recording began); the one before its first: none."""
        moment = np.searchsorted(recording.moments, recording.first + position, side="right") - 1
        wanted = np.arange(len(self.starts)) * len(recording.moments) + moment
        return np.searchsorted(self.key, wanted, side="right") - 1


class ReplayDriver:
    """One link: one recording, or patterns."""

    def __init__(self, link: Link, clock: Callable[[], int] = time.time_ns) -> None:
        self._options: ReplayLink = link.options
        self._path = Path(link.where.file).parent / link.options.url.partition(":")[2]
        self._clock = clock
        self._connected = False
        self._started = 0
        self._reporting = False
        self._recording: Trace | None = None
        self._columns: dict[TagTable, Columns] = {}
        self._generators: dict[TagTable, Generator] = {}

    def plan(self, tables: Sequence[TagTable]) -> ReplayPlan:
        """Compile a poll group."""
        return ReplayPlan(tuple(tables), self._options.url)

    async def connect(self) -> None:
        """Load the recording. Raises NotConnected where it is not there, ProtocolError where it makes no sense."""
        if self._options.url != GENERATED:
            try:
                self._recording = await asyncio.to_thread(load, self._path)
            except OSError as error:
                raise NotConnected(f"{self._path} cannot be read: {error.strerror}") from error
            except ValueError as error:
                raise ProtocolError(str(error)) from error
        self._started = self._started or self._clock()
        self._connected = True

    async def read(self, plan: Plan) -> list[Batch]:
        """Give what is said now. Raises NotConnected after the end of a recording that does not repeat."""
        if not self._connected:
            raise NotConnected("the recording is not loaded")
        now = self._clock()
        if self._recording is None:
            return [Batch.full(table, self._generator(table).values(now), now) for table in plan.tables]
        if not self._path.exists():
            raise NotConnected(f"{self._path} is gone")
        recording = self._recording
        round_, position, over = self._position(recording, now)
        if over and self._options.at_end == "stop":
            raise NotConnected(f"{self._path} has come to its end")
        begin = self._begin(recording, round_)
        return [self._said(table, recording, position, begin, now) for table in plan.tables]

    def subscribes(self, plan: Plan) -> bool:
        """Say whether all rows are reported, and not the newest ones at each scan."""
        return self._options.rows == "all" and self._options.url != GENERATED

    async def changes(self, plans: Sequence[Plan]) -> AsyncIterator[Batch | Gap]:
        """Report a row per tag, then each row of the recording at its moment. Raises as `read` does."""
        if self._recording is None:
            raise NotConnected("the recording is not loaded")
        recording, now = self._recording, self._clock()
        if not self._reporting:  # the first row is the first, however long connecting took
            self._started, self._reporting = now, True
        round_, position, _ = self._position(recording, now)
        given: dict[TagTable, NDArray[np.int64]] = {}
        for table in (table for plan in plans for table in plan.tables):
            columns = self._joined(table, recording)
            rows = np.maximum(columns.newest(recording, position), columns.starts)
            yield self._batch(table, recording, table.every, rows, self._begin(recording, round_), now)
            given[table] = np.minimum(rows + 1, columns.ends)
        while True:
            now = self._clock()
            arrived, position, over = self._position(recording, now)
            for table, done in given.items():
                columns = self._joined(table, recording)
                due = columns.ends if arrived > round_ else columns.newest(recording, position) + 1
                tags, rows = ranges(done, np.maximum(done, due))
                if len(rows):
                    yield self._batch(table, recording, tags, rows, self._begin(recording, round_), now)
                given[table] = columns.starts if arrived > round_ else np.maximum(done, due)
            if arrived > round_:
                round_ += 1
                continue
            if over and self._options.at_end == "stop":
                raise NotConnected(f"{self._path} has come to its end")
            if not self._path.exists():
                raise NotConnected(f"{self._path} is gone")
            await asyncio.sleep(self._until_next(recording))

    async def close(self) -> None:
        """Forget the recording."""
        self._connected = False
        self._recording = None
        self._columns.clear()

    def _generator(self, table: TagTable) -> Generator:
        if table not in self._generators:
            self._generators[table] = Generator(table)
        return self._generators[table]

    def _position(self, recording: Trace, now: int) -> tuple[int, int, bool]:
        """Give the round, how far it is (ns of the recording), and whether a recording that ends has ended."""
        played = round((now - self._started) * self._options.speed)
        if self._options.at_end == "repeat":
            return *divmod(played, recording.length), False
        return 0, min(played, recording.length - 1), played >= recording.length

    def _begin(self, recording: Trace, round_: int) -> int:
        """Say when a round began (ns)."""
        return self._started + round(round_ * recording.length / self._options.speed)

    def _until_next(self, recording: Trace) -> float:
        """Say how many seconds it is until the recording goes on; at most one, for its file may go."""
        round_, position, over = self._position(recording, self._clock())
        index = int(np.searchsorted(recording.moments, recording.first + position, side="right"))
        next_ = recording.length if index == len(recording.moments) else int(recording.moments[index]) - recording.first
        due = self._begin(recording, round_) + next_ / self._options.speed
        return 1.0 if over else min(max(due - self._clock(), 0.0) / 1e9, 1.0)

    def _joined(self, table: TagTable, recording: Trace) -> Columns:
        if table not in self._columns:
            self._columns[table] = join(table, recording)
        return self._columns[table]

    def _said(self, table: TagTable, recording: Trace, position: int, begin: int, now: int) -> Batch:
        """Give the newest row of each series that is not later than `position` (ns since the recording began)."""
        rows = self._joined(table, recording).newest(recording, position)
        return self._batch(table, recording, table.every, rows, begin, now)

    def _batch(
        self, table: TagTable, recording: Trace, tags: NDArray[np.uint32], rows: NDArray[np.int64], begin: int, now: int
    ) -> Batch:
        """Give these rows of the recording as readings; what stands before a series' first row has no value yet."""
        columns = self._joined(table, recording)
        early = rows < columns.starts[tags]
        value, quality = columns.value[rows], columns.quality[rows]
        value[early] = table.kind.nothing
        quality[early] = q.BAD_WAITING_FOR_INITIAL_DATA
        none = columns.ends[tags] == columns.starts[tags]
        value[none] = table.kind.nothing
        quality[none] = q.BAD_NODE_ID_UNKNOWN
        times = np.full(len(rows), now, np.int64)
        if self._options.times != "scan":
            stored = columns.time[rows]
            shifted = begin + ((stored - recording.first) / self._options.speed).astype(np.int64)
            times = np.where(early | none, times, stored if self._options.times == "stored" else shifted)
        return Batch(table, tags, value, quality, times)


def ranges(first: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Give the rows first[i] to end[i] for each i, one behind the other, and the i of each."""
    sizes = end - first
    tags = np.repeat(np.arange(len(first), dtype=np.uint32), sizes)
    return tags, np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)


def join(table: TagTable, recording: Trace) -> Columns:
    """Put the table's series behind each other, in the table's dtype; a series that is not there has no rows."""
    found = [recording.series.get(tag.source.series, NONE) for tag in table.tags]
    sizes = np.array([len(series.time) for series in found], np.int64)
    time = np.concatenate([series.time for series in (*found, LAST)])
    values, qualities = zip(*(series.values(table.kind) for series in (*found, LAST)), strict=True)
    ends = np.cumsum(sizes)
    number = np.repeat(np.arange(len(found)), sizes)
    key = number * len(recording.moments) + np.searchsorted(recording.moments, time[:-1])
    return Columns(ends - sizes, ends, key, time, np.concatenate(values), np.concatenate(qualities))
