"""How many scan instants of each device and hour are covered: in columns, from runs of stored rows and declared gaps.

A run is rows of one tag of the same class (good, uncertain, bad) that hold on to each other. Instants of a group lie at
phase + n x interval; the slot of one ends an interval later, and that end E is where it is looked at: it belongs to the
run whose half-open time (first row, end] it lies in. Runs come chunk by chunk in order of time; what holds at the end
of a chunk is carried into the next. Of a tag that leaves a row at each scan no more instants of a chunk are good than
it has good rows there, and one that may have come late. Times are ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

GOOD: Final = 0
UNCERTAIN: Final = 1
BAD: Final = 2
NONE: Final = -1  # the class of a tag of which nothing is known
FOREVER: Final = 2**62
SETTLE: Final = 10_000_000_000  # ns that a reading may be on its way: no instant of the last seconds is expected

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lane:
    """One poll group: its grid, and its tags as a range of the tags' numbers. An interval of 0 has no instants."""

    device: int  # its number
    interval: int
    phase: int
    first: int
    last: int  # not included


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of rows as parallel columns, ordered by tag and time."""

    tag: NDArray[np.int64]
    quality: NDArray[np.int64]  # GOOD, UNCERTAIN, BAD
    first: Times
    last: Times
    rows: NDArray[np.int64]


@dataclass(slots=True)
class Count:
    """Instants of a device in a time, and the rows that are stored of it."""

    expected: int = 0
    good: int = 0
    uncertain: int = 0
    bad: int = 0
    gap: int = 0
    rows: int = 0  # good ones

    @property
    def unknown(self) -> int:
        return self.expected - self.good - self.uncertain - self.bad - self.gap

    def add(self, other: Count) -> None:
        """Add what is in another count."""
        for name in Count.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Holes:
    """The declared gaps of one group, as numbers of its slots' ends."""

    def __init__(self, lane: Lane, gaps: Sequence[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for start, end in sorted(gaps):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            elif end > start:
                merged.append([start, end])
        self._lane = lane
        # an instant in [start, end) has its slot's end in (start + interval - 1, end + interval - 1]
        self._start = np.array([each[0] for each in merged], dtype=np.int64) + lane.interval - 1
        self._end = np.array([each[1] for each in merged], dtype=np.int64) + lane.interval - 1
        self._sum = np.concatenate(([0], np.cumsum(ends(lane, self._end) - ends(lane, self._start))))

    def upto(self, time: Any) -> Any:
        """Count the slots in gaps that end at these times or before."""
        index = np.searchsorted(self._end, time)
        whole = self._sum[index]
        if not len(self._start):
            return whole
        start = self._start[np.minimum(index, len(self._start) - 1)]
        partly = (index < len(self._start)) & (time > start)
        return whole + np.where(partly, ends(self._lane, time) - ends(self._lane, start), 0)


def ends(lane: Lane, time: Any) -> Any:
    """Count the ends of slots up to and with these times."""
    return (time - lane.phase) // lane.interval


class Coverage:
    """What is known of each tag, from chunk to chunk.

    `hold`: how long a row of it holds; FOREVER: till the next. `each`: whether it leaves a row at each scan.
    """

    def __init__(self, lanes: Sequence[Lane], hold: Times, each: NDArray[np.bool_]) -> None:
        self._lanes = lanes
        self._hold = hold
        self._each = each
        self.time = np.full(len(hold), -FOREVER, dtype=np.int64)
        self.quality = np.full(len(hold), NONE, dtype=np.int64)

    def carry(self, tag: NDArray[np.int64], quality: NDArray[np.int64], time: Times) -> None:
        """Take the newest rows of tags."""
        self.time[tag], self.quality[tag] = time, quality

    def forget(self, lanes: Sequence[int]) -> None:
        """Take what was known of these lanes for unknown: records were lost."""
        for number in lanes:
            self.quality[self._lanes[number].first : self._lanes[number].last] = NONE

    def holding(self, lane: Lane, time: int) -> NDArray[np.bool_]:
        """Say which tags of a lane have a good value that holds at a time."""
        tags = slice(lane.first, lane.last)
        holds: NDArray[np.bool_] = (self.quality[tags] == GOOD) & (time - self.time[tags] <= self._hold[tags])
        return holds

    def take(
        self, runs: Runs, begin: int, end: int, holes: Sequence[Holes | None], heard: int, count: int
    ) -> list[Count]:
        """Count the instants in [begin, end), by device. Nothing is known beyond `heard`. Takes the carry on."""
        known = np.flatnonzero(self.quality != NONE)
        tag = np.concatenate((known, runs.tag))
        first = np.concatenate((self.time[known], runs.first))
        last = np.concatenate((self.time[known], runs.last))
        quality = np.concatenate((self.quality[known], runs.quality))
        order = np.lexsort((first, tag))
        tag, first, last, quality = tag[order], first[order], last[order], quality[order]
        following = np.append(first[1:], FOREVER)
        final = np.append(tag[1:] != tag[:-1], True) if len(tag) else np.zeros(0, dtype=np.bool_)
        following[final] = FOREVER
        hold = np.where(quality == BAD, FOREVER, self._hold[tag])
        until = np.minimum(following, np.where(hold >= FOREVER, FOREVER, last + hold))
        good_rows = np.bincount(runs.tag[runs.quality == GOOD], runs.rows[runs.quality == GOOD], len(self._hold))
        most = np.where(self._each, good_rows + 1, np.inf)
        counts = [Count() for _ in range(count)]
        for lane, hole in zip(self._lanes, holes, strict=True):
            at = counts[lane.device]
            at.rows += int(good_rows[lane.first : lane.last].sum())
            if lane.interval and hole is not None:
                part = slice(*np.searchsorted(tag, (lane.first, lane.last)))
                found = _Found(tag[part] - lane.first, quality[part], first[part], until[part])
                _instants(at, lane, hole, found, most[lane.first : lane.last], (begin, end, heard))
        self.carry(tag[final], quality[final], last[final])
        return counts


@dataclass(frozen=True, slots=True)
class _Found:
    """What holds in one lane: its tag from 0, its class, and from when until when."""

    tag: NDArray[np.int64]
    quality: NDArray[np.int64]
    first: Times
    until: Times


def _instants(
    at: Count, lane: Lane, hole: Holes, found: _Found, most: NDArray[np.float64], times: tuple[int, int, int]
) -> None:
    """Add the instants of one lane to a count; of each tag no more good ones than `most`."""
    begin, end, heard = times
    low, high = begin + lane.interval - 1, end + lane.interval - 1
    if high <= low:
        return
    tags = lane.last - lane.first
    at.expected += tags * int(ends(lane, high) - ends(lane, low))
    at.gap += tags * int(hole.upto(high) - hole.upto(low))
    start = np.maximum(found.first, low)
    stop = np.maximum(np.minimum(found.until, min(high, heard + lane.interval)), start)
    covered = (ends(lane, stop) - ends(lane, start)) - (hole.upto(stop) - hole.upto(start))
    by_class = np.bincount(found.quality, covered, 3)
    good = found.quality == GOOD
    at.good += int(np.minimum(np.bincount(found.tag[good], covered[good], tags), most).sum())
    at.uncertain += int(by_class[UNCERTAIN])
    at.bad += int(by_class[BAD])
