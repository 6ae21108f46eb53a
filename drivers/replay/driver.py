"""The replay driver: what a recording says now, or what a pattern gives now, as if a device had been asked.

What a driver is, in one example: `plan` computes all that follows from the configuration; `connect` makes the
session, here the loaded recording; `read` gives one batch per table with one row per tag; `close` ends the session.
A series that the recording does not have makes Bad rows and nothing else. A file that is gone is a device that is
gone: NotConnected. Whatever is to be tried again, waited for or logged is not done here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.replay.patterns import Generator
from drivers.replay.recording import Recording, Series, load
from drivers.replay.spec import GENERATED, ReplayLink
from gateway import quality as q
from gateway.contracts import Plan, PlannedRequest
from gateway.errors import NotConnected, ProtocolError
from gateway.model import Batch, Link, TagTable

PER_READING: Final = 1e-7  # s, for `plantbridge plan`
NONE: Final = Series(np.zeros(0, np.int64), np.zeros(0, object), np.zeros(0, np.uint32))
LAST: Final = Series(np.zeros(1, np.int64), np.full(1, ""), np.full(1, q.BAD_NO_DATA, np.uint32))
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


class ReplayDriver:
    """One link: one recording, or patterns."""

    def __init__(self, link: Link, clock: Callable[[], int] = time.time_ns) -> None:
        self._options: ReplayLink = link.options
        self._path = Path(link.where.file).parent / link.options.url.partition(":")[2]
        self._clock = clock
        self._connected = False
        self._started = 0
        self._recording: Recording | None = None
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
        played = round((now - self._started) * self._options.speed)
        round_, position = divmod(played, self._recording.length)
        if round_ and self._options.at_end == "stop":
            raise NotConnected(f"{self._path} has come to its end")
        begin = self._started + round(round_ * self._recording.length / self._options.speed)
        return [self._said(table, self._recording, position, begin, now) for table in plan.tables]

    async def close(self) -> None:
        """Forget the recording."""
        self._connected = False
        self._recording = None
        self._columns.clear()

    def _generator(self, table: TagTable) -> Generator:
        if table not in self._generators:
            self._generators[table] = Generator(table)
        return self._generators[table]

    def _said(self, table: TagTable, recording: Recording, position: int, begin: int, now: int) -> Batch:
        """Give the newest row of each series that is not later than `position` (ns since the recording began)."""
        if table not in self._columns:
            self._columns[table] = join(table, recording)
        columns = self._columns[table]
        moments = recording.moments
        moment = np.searchsorted(moments, recording.first + position, side="right") - 1
        rows = np.searchsorted(columns.key, np.arange(len(table)) * len(moments) + moment, side="right") - 1
        early = rows < columns.starts
        value, quality = columns.value[rows], columns.quality[rows]
        value[early] = table.kind.nothing
        quality[early] = q.BAD_WAITING_FOR_INITIAL_DATA
        quality[columns.ends == columns.starts] = q.BAD_NODE_ID_UNKNOWN
        times = np.full(len(table), now, np.int64)
        if self._options.times != "scan":
            stored = columns.time[rows]
            shifted = begin + ((stored - recording.first) / self._options.speed).astype(np.int64)
            times = np.where(early, times, stored if self._options.times == "stored" else shifted)
        return Batch(table, table.every, value, quality, times)


def join(table: TagTable, recording: Recording) -> Columns:
    """Put the table's series behind each other, in the table's dtype; a series that is not there has no rows."""
    found = [recording.series.get(tag.source.series, NONE) for tag in table.tags]
    sizes = np.array([len(series.time) for series in found], np.int64)
    time = np.concatenate([series.time for series in (*found, LAST)])
    values, qualities = zip(*(series.values(table.kind) for series in (*found, LAST)), strict=True)
    ends = np.cumsum(sizes)
    number = np.repeat(np.arange(len(found)), sizes)
    key = number * len(recording.moments) + np.searchsorted(recording.moments, time[:-1])
    return Columns(ends - sizes, ends, key, time, np.concatenate(values), np.concatenate(qualities))
