"""What the store has of a gateway's tags in a time: runs of rows, gaps, and how far the gateway was heard at all.

Asked of the DuckDB store by way of gateway.stores.inquiry, so ingest may be writing: an hour at a time, in which DuckDB
joins rows to runs, so that what comes here is small. Tags that were well all the hour, which are most, are one run
each; only the rows of the others are looked at in their order.
What was reported before is looked for up to LOOK_BACK days before the time; a value that nobody reported for longer is
not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.clock import BACK, NOT_KNOWN
from gateway.inventory.coverage import FOREVER, GOOD, NONE, SETTLE, Count, Coverage, Holes, Runs
from gateway.inventory.listing import Tags
from gateway.model import THINNED
from gateway.stores import layout
from gateway.stores.inquiry import read

HOUR: Final = 3_600_000_000_000  # ns
DAY: Final = 24 * HOUR
LOOK_BACK: Final = 31  # days
NO_HOLE: Final = (THINNED, BACK, NOT_KNOWN)
"""Reasons of gap records over which rows are there all the same."""
AT_ONCE: Final = 20_000  # tags that one question is about

_CLASS: Final = f"CASE WHEN quality >= {q.BAD} THEN 2 WHEN quality >= {q.UNCERTAIN} THEN 1 ELSE 0 END"
_WANTED: Final = """wanted AS (SELECT unnest($series::UINTEGER[]) AS series, unnest($tags::INTEGER[]) AS tag,
                                      unnest($hold::BIGINT[]) AS hold)"""
_RUNS: Final = """
    WITH {wanted}, found AS ({rows}),
    marked AS (SELECT tag, t, class, coalesce(class <> lag(class) OVER w
                                              OR (class < 2 AND t - lag(t) OVER w > hold), true) AS fresh
               FROM found WINDOW w AS (PARTITION BY tag ORDER BY t)),
    numbered AS (SELECT tag, t, class, sum(fresh::INTEGER) OVER (PARTITION BY tag ORDER BY t
                                                                 ROWS UNBOUNDED PRECEDING) AS run FROM marked)
    SELECT tag::BIGINT AS tag, class::BIGINT AS class, min(t) AS first, max(t) AS last, count(*)::BIGINT AS rows
    FROM numbered GROUP BY tag, run, class ORDER BY tag, first
"""
_WHOLE: Final = """
    WITH {wanted}, found AS ({rows})
    SELECT tag::BIGINT AS tag, min(class)::BIGINT AS class, max(class)::BIGINT AS worst, min(t) AS first,
           max(t) AS last, count(*)::BIGINT AS rows
    FROM found GROUP BY tag ORDER BY tag
"""
_NEWEST: Final = """
    WITH {wanted}, found AS ({rows})
    SELECT tag::BIGINT AS tag, arg_max(class, t)::BIGINT AS class, max(t) AS last,
           coalesce(max(t) FILTER (class = 0), 0) AS good
    FROM found GROUP BY tag ORDER BY tag
"""
_SPAN: Final = """
    WITH {wanted}, found AS ({rows})
    SELECT coalesce(min(t), 4611686018427387904) AS first, coalesce(max(t), 0) AS last FROM found
"""
_ROWS: Final = f"""SELECT w.tag, w.hold, epoch_ns(r.time) AS t, {_CLASS} AS class
                   FROM {{table}} r JOIN wanted w ON w.series = r.series
                   WHERE r.time >= make_timestamp_ns($begin) AND r.time < make_timestamp_ns($end)"""
_GAPS: Final = """
    SELECT device, "group", epoch_ns("start") AS "start", epoch_ns("end") AS "end", reason,
           readings::BIGINT AS readings
    FROM gaps WHERE gateway = $gateway AND "end" > make_timestamp_ns($begin) AND "start" < make_timestamp_ns($end)
          AND ($every OR readings > 0 OR device = '')
    ORDER BY "start"
"""


@dataclass(slots=True)
class Seen:
    """What the store has of one device."""

    last_good: int = 0  # ns; of its newest good row before the end of the time, LOOK_BACK days back at most
    held: int = 0  # tags whose good value of before still held when the time began
    hours: list[Count] = field(default_factory=list)
    total: Count = field(default_factory=Count)  # of all hours

    @property
    def connected(self) -> bool:
        """Whether there were good data in the time."""
        return bool(self.total.rows or self.held)

    def add(self, hour: int, count: Count) -> None:
        """Add what was counted in a part of an hour, by the hour's number."""
        self.hours[hour].add(count)
        self.total.add(count)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the store has of one gateway. `hours` are the begins (ns) of the hours that `Seen.hours` count."""

    devices: dict[str, Seen]
    hours: tuple[int, ...]
    heard: int  # ns: the newest sign of the gateway in the time, 0: none
    thinned: int  # readings that a publisher left out to keep its budget


@dataclass(frozen=True, slots=True)
class _Gap:
    device: str
    group: str
    start: int
    end: int
    reason: str
    readings: int

    @property
    def lossy(self) -> bool:
        """Whether records were lost, so that what was said before says nothing of what comes after."""
        return self.readings > 0 or not self.device


def hours_of(begin: int, end: int) -> list[int]:
    """Give the begins of the hours, by the clock on the wall, that [begin, end) touches."""
    from datetime import UTC, datetime

    offset = datetime.fromtimestamp(begin // 10**9, UTC).astimezone().utcoffset()
    shift = round(offset.total_seconds() * 1e9) % HOUR if offset is not None else 0
    first = (begin + shift) // HOUR * HOUR - shift
    return list(range(first, end, HOUR))


def evidence(database: Path, tags: Tags, begin: int, end: int, now: int, told: int = 0) -> Evidence:
    """Ask the store about a gateway's tags in [begin, end). Raises StoreUnavailable, Refused.

    `told`: until when (ns) ingest knows that the gateway had nothing more to say, whatever is stored.
    """
    asked = _Question(database, tags)
    declared = asked.gaps(begin, end)
    inside = [gap for gap in declared if gap.reason not in NO_HOLE]
    thinned = sum(gap.readings for gap in declared if gap.reason == THINNED)
    settled = min(end, now - SETTLE)
    first, last = asked.span(begin, end)
    heard = min(end, max([last, told, *(gap.end for gap in inside)]))
    seen = {device: Seen() for device in tags.devices}
    coverage = Coverage(tags.lanes, tags.hold, tags.each)
    _before(asked, coverage, seen, begin, inside, heard)
    matching = [[gap for gap in inside if _meant(gap, names)] for names in tags.groups]
    holes = [
        Holes(lane, [(gap.start, gap.end) for gap in found]) if lane.interval else None
        for lane, found in zip(tags.lanes, matching, strict=True)
    ]
    hours = hours_of(begin, end)
    for each in seen.values():
        each.hours = [Count() for _ in hours]
    for hour, (start, stop) in _chunks(hours, begin, end, [gap.end for gap in inside if gap.lossy]):
        runs = asked.runs(start, stop) if start <= last and first < stop else Runs(*[_EMPTY] * 5)
        for device, newest in asked.newest_good(runs).items():
            seen[device].last_good = max(seen[device].last_good, newest)
        counts = coverage.take(runs, start, max(start, min(stop, settled)), holes, heard, len(tags.devices))
        for name, count in zip(tags.devices, counts, strict=True):
            seen[name].add(hour, count)
        coverage.forget([n for n, found in enumerate(matching) if any(gap.lossy and gap.end == stop for gap in found)])
    return Evidence(seen, tuple(hours), heard, thinned)


def _meant(gap: _Gap, names: Sequence[tuple[str, str]]) -> bool:
    return not gap.device or (gap.device, gap.group) in names


def _chunks(hours: Sequence[int], begin: int, end: int, cuts: Sequence[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Give the parts of the time: no longer than an hour, and one ends wherever what was known is to be forgotten."""
    for number, hour in enumerate(hours):
        start, stop = max(hour, begin), min(hour + HOUR, end)
        edges = sorted({start, stop, *(cut for cut in cuts if start < cut < stop)})
        yield from ((number, part) for part in pairwise(edges))


def _before(
    asked: _Question, coverage: Coverage, seen: dict[str, Seen], begin: int, inside: Sequence[_Gap], heard: int
) -> None:
    """Find what was known of each tag when the time began, going back further for those that hold longer."""
    tags = asked.tags
    losses = [gap for gap in asked.gaps(begin - LOOK_BACK * DAY, begin, lossy=True) if gap.end <= begin]
    missing = np.ones(len(tags.hold), dtype=np.bool_)
    good = np.zeros(len(tags.hold), dtype=np.int64)
    until = begin
    for back in (HOUR, DAY, LOOK_BACK * DAY):
        tag, quality, time, best = asked.newest(begin - back, until, missing)
        coverage.carry(tag, quality, time)
        good[tag] = best
        missing[tag] = False
        until = begin - back
        missing &= tags.hold > back
    for number, (lane, names) in enumerate(zip(tags.lanes, tags.groups, strict=True)):
        part, name = slice(lane.first, lane.last), tags.devices[lane.device]
        lost = max((gap.end for gap in losses if gap.reason not in NO_HOLE and _meant(gap, names)), default=0)
        old = coverage.time[part] < lost
        if old.all():
            coverage.forget([number])
        elif old.any():
            coverage.quality[np.flatnonzero(old) + lane.first] = NONE
        absent = any(_meant(gap, names) and gap.start <= begin for gap in inside)
        if heard >= begin and not absent and lane.interval:
            seen[name].held += int(coverage.holding(lane, begin).sum())
        if lane.last > lane.first:
            seen[name].last_good = max(seen[name].last_good, int(good[part].max()))
    silent = {name for name, each in seen.items() if not each.last_good}
    for device, last in asked.last_good(begin - LOOK_BACK * DAY, begin, silent).items():
        seen[device].last_good = last


_EMPTY: Final = np.zeros(0, dtype=np.int64)


def _columns(parts: Iterator[dict[str, NDArray[np.int64]]], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Put the parts of an answer together."""
    every = list(parts)
    return {name: np.concatenate([_EMPTY, *(part[name] for part in every)]) for name in names}


class _Question:
    """Asks one store about the tags of one gateway."""

    def __init__(self, database: Path, tags: Tags) -> None:
        self.tags = tags
        self._database = database
        rows = self._rows("SELECT id, device, tag FROM series WHERE gateway = $gateway", {"gateway": tags.gateway})
        found = [(row["id"], tags.names[row["device"], row["tag"]]) for row in rows if self._known(row)]
        self._series = np.array([series for series, _ in found], dtype=np.int64)
        self._tag = np.array([tag for _, tag in found], dtype=np.int64)
        device = np.zeros(len(tags.hold), dtype=np.int64)
        interval = np.zeros(len(tags.hold), dtype=np.int64)
        for lane in tags.lanes:
            device[lane.first : lane.last] = lane.device
            interval[lane.first : lane.last] = lane.interval
        self._device, self._interval = device, interval

    def _known(self, row: dict[str, Any]) -> bool:
        return (row["device"], row["tag"]) in self.tags.names

    def gaps(self, begin: int, end: int, *, lossy: bool = False) -> list[_Gap]:
        """Give the gaps that touch a time, all of them or the lossy ones."""
        asked = {"gateway": self.tags.gateway, "begin": begin, "end": end, "every": not lossy}
        return [_Gap(**row) for row in self._rows(_GAPS, asked)]

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """Give the times of the first and the last row; FOREVER and 0 where there is none."""
        found = _columns(self._ask(_SPAN, begin, end), ("first", "last"))
        return int(min(found["first"], default=FOREVER)), int(max(found["last"], default=0))

    def runs(self, begin: int, end: int) -> Runs:
        """Give the runs of all tags in a time, of at most an hour."""
        names = ("tag", "class", "first", "last", "rows")
        whole = _columns(self._ask(_WHOLE, begin, end), (*names, "worst"))
        tag, first, last, rows = whole["tag"], whole["first"], whole["last"], whole["rows"]
        unbroken = self.tags.each[tag] & (rows * self._interval[tag] >= last - first)
        simple = (whole["class"] == whole["worst"]) & (unbroken | (self.tags.hold[tag] >= FOREVER))
        others = np.zeros(len(self.tags.hold), dtype=np.bool_)
        others[tag[~simple]] = True
        parts = _columns(self._ask(_RUNS, begin, end, others), names) if others.any() else {}
        found = [np.concatenate((whole[name][simple], parts.get(name, _EMPTY))) for name in names]
        order = np.argsort(found[0], kind="stable")
        return Runs(*(column[order] for column in found))

    def newest(self, begin: int, end: int, which: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
        """Give tag, class, time and time of the newest good row, of these tags that have any."""
        return tuple(_columns(self._ask(_NEWEST, begin, end, which), ("tag", "class", "last", "good")).values())

    def newest_good(self, runs: Runs) -> dict[str, int]:
        """Give the newest good row of each device, by name."""
        good = runs.quality == GOOD
        return self._by_device(runs.tag[good], runs.last[good])

    def last_good(self, begin: int, end: int, devices: set[str]) -> dict[str, int]:
        """Give the newest good row of each of these devices, by name."""
        which = np.isin(self._device, [n for n, name in enumerate(self.tags.devices) if name in devices])
        tag, _, _, good = self.newest(begin, end, which)
        return self._by_device(tag, good)

    def _by_device(self, tag: NDArray[np.int64], time: NDArray[np.int64]) -> dict[str, int]:
        """Give the newest of these times of each device that has one, by name."""
        newest = np.zeros(len(self.tags.devices), dtype=np.int64)
        np.maximum.at(newest, self._device[tag], time)
        return {self.tags.devices[number]: int(newest[number]) for number in np.flatnonzero(newest)}

    def _ask(
        self, form: str, begin: int, end: int, which: NDArray[np.bool_] | None = None
    ) -> Iterator[dict[str, NDArray[np.int64]]]:
        """Ask about the tags, so many at a time."""
        chosen = np.arange(len(self._series)) if which is None else np.flatnonzero(which[self._tag])
        every = " UNION ALL ".join(_ROWS.format(table=table) for table, _ in layout.TABLES.values())
        for at in range(0, len(chosen), AT_ONCE):
            part = chosen[at : at + AT_ONCE]
            asked = {
                "series": self._series[part].tolist(),
                "tags": self._tag[part].tolist(),
                "hold": self.tags.hold[self._tag[part]].tolist(),
                "begin": max(begin, -FOREVER),
                "end": end,
            }
            with read(self._database, form.format(wanted=_WANTED, rows=every), asked) as answer:
                whole = answer.read_all()
                names = [str(each.name) for each in whole.schema.fields]
                values = [np.asarray(list(child.iter_py()), dtype=np.int64) for child in whole.iter_children()]
                yield dict(zip(names, values, strict=True))

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        with read(self._database, sql, parameters) as answer:
            return [row for chunk in answer.iter_chunks() for row in chunk.iter_py()]
