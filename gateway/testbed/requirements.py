"""Requirements on a gateway, each with an id, and what decides it: what devices showed against what arrived.

docs/conformance/requirements.md says the same for people. A requirement that a run has no occasion for is "not
exercised", never passed. What is judged of each is counted, so that "passed" can be weighed.

A tag is left out of a judgement while another fault than the one that is judged acts on it, and for the time that it
has to recover; the values of a wrong word order are judged by their quality only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Kind
from gateway.site import Site
from gateway.testbed.account import Compared, compare
from gateway.testbed.arrivals import Arrivals, Name, Rows
from gateway.testbed.truth import UNREADABLE, Shown, Spell, differs

NOTHING: Final = Rows(np.zeros(0, np.int64), np.zeros(0, object), np.zeros(0, np.uint32))
SECOND: Final = 10**9


@dataclass(frozen=True, slots=True)
class Allowed:
    """How much time (s) a gateway has for things."""

    late: float
    recover: float
    age: float


@dataclass(frozen=True)
class Run:
    """What is judged. Times in ns."""

    site: Site
    truth: Mapping[Name, Shown]
    arrivals: Arrivals
    begin: int  # everything was up
    end: int  # the gateway was asked to end
    allowed: Allowed
    spells: Sequence[Spell] = ()
    outages: Sequence[tuple[int, int]] = ()  # of the broker
    appended: int | None = None  # readings that the journal has on its account; None: it cannot be read
    ages: Sequence[tuple[int, int]] = ()  # when somebody looked, and how old the newest reading was
    whole: bool = True  # whether all that arrived since the beginning is seen: a store, and not a subscription

    @property
    def late(self) -> int:
        return round(self.allowed.late * SECOND)

    @property
    def recover(self) -> int:
        return round(self.allowed.recover * SECOND)

    @cached_property
    def compared(self) -> Compared:
        """Every value against what was shown; two requirements ask, and a long run has many."""
        return compare(self.arrivals, self.truth)

    def tags(self) -> Iterator[tuple[Shown, Rows]]:
        """Give each tag that can be compared, with its rows."""
        for name, shown in self.truth.items():
            yield shown, self.arrivals.rows.get(name, NOTHING)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is found of one requirement: how many cases were judged, and those that failed, in words."""

    judged: int = 0
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A requirement, and what became of it."""

    id: str
    text: str
    outcome: str  # passed, failed, not exercised
    judged: int
    failures: tuple[str, ...] = field(default=())
    expected: bool = False

    @property
    def off(self) -> bool:
        """Whether the run is not as it should be: a failure, or an expected requirement that had no occasion."""
        return self.outcome == "failed" or (self.expected and self.outcome != "passed")


def judge(run: Run, expected: Sequence[str] = ()) -> list[Verdict]:
    """Decide every requirement."""
    verdicts = []
    for id_, requirement in REQUIREMENTS.items():
        finding = requirement.decide(run)
        outcome = "failed" if finding.failures else "passed" if finding.judged else "not exercised"
        text = requirement.text
        verdicts.append(Verdict(id_, text, outcome, finding.judged, finding.failures, id_ in expected))
    return verdicts


# ------------------------------------------------------------------------------------------------ the data


def _committed(run: Run) -> Finding:
    if run.appended is None:
        return Finding()
    missing = max(0, run.appended - run.arrivals.distinct)
    return Finding(run.appended, (f"{missing} of {run.appended} readings are not in the store",) if missing else ())


def _values(run: Run) -> Finding:
    compared = run.compared
    return Finding(compared.right + len(compared.misplaced) + len(compared.wrong), compared.wrong)


def _followed(run: Run) -> Finding:
    failures, judged = [], 0
    for shown, rows in run.tags():
        judged += 1
        found = missed(run, shown, rows, run.begin, run.end, _excused(run, shown))
        failures += [f"{shown.name} is not followed {_when(*each)}" for each in found]
    return Finding(judged, tuple(failures))


def _once(run: Run) -> Finding:
    failures = [
        f"{device}/{tag}: {len(rows.time) - rows.distinct} rows more than times"
        for (device, tag), rows in run.arrivals.rows.items()
        if rows.distinct < len(rows.time)
    ]
    return Finding(run.arrivals.total, tuple(failures))


# ------------------------------------------------------------------------------------------------ time, quality


def _times(run: Run) -> Finding:
    compared = run.compared
    return Finding(compared.right + len(compared.misplaced), compared.misplaced)


def _silence(run: Run) -> Finding:
    failures, judged = [], 0
    for shown, rows in run.tags():
        allowed = shown.tag.max_silence + shown.group.interval + run.late
        if not shown.tag.max_silence or run.end - run.begin <= allowed:
            continue
        judged += 1
        excused = _excused(run, shown)
        edges = np.unique(np.concatenate([[run.begin], rows.time, [run.end]]))
        edges = edges[(edges >= run.begin) & (edges <= run.end)]
        for one, two in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if two - one > allowed and not any(begin < two and end > one for begin, end in excused):
                failures.append(f"{shown.name} has no row {_when(one, two)}")
    return Finding(judged, tuple(failures))


def _statuses(run: Run) -> Finding:
    failures, judged = [], 0
    for shown, rows in run.tags():
        for spell in shown.of("status"):
            first, last = spell.begin + shown.tick, min(spell.end, run.end) - shown.tick
            settled = first + shown.group.interval + run.late
            if last <= settled or _overlap(run, shown, spell):
                continue
            judged += 1
            code = spell.step.options.status or 0
            within = (rows.time >= first) & (rows.time < last)
            others = within & (rows.quality != code)
            if not (within & (rows.quality == code)).any():
                failures.append(f"{shown.name} has no row with {q.name(code)} {_when(first, last)}")
            elif others.any():
                failures.append(
                    f"{shown.name} has {int(others.sum())} rows without {q.name(code)} {_when(first, last)}"
                )
    return Finding(judged, tuple(failures))


def _limits(run: Run) -> Finding:
    failures, judged = [], 0
    for shown, rows in run.tags():
        tag = shown.tag
        if tag.kind is Kind.TEXT or not (np.isfinite(tag.minimum) or np.isfinite(tag.maximum)):
            continue
        strained = shown.of("ramp") + (shown.of("word-order") if shown.wide else [])
        for spell in strained:
            within = spell.during(rows.time) & ~rows.bad
            value = rows.value[within].astype(np.float64)
            outside = (value < tag.minimum) | (value > tag.maximum)
            good = outside & q.is_good(rows.quality[within])
            judged += int(outside.sum())
            if good.any():
                failures.append(
                    f"{shown.name} has {int(good.sum())} Good values outside its limits, first {value[good][0]!r}"
                )
            elif spell.step.fault == "ramp":  # a Bad row in the place of such a value is as good
                judged += int((spell.during(rows.time) & rows.bad).sum())
    return Finding(judged, tuple(failures))


# ------------------------------------------------------------------------------------------------ faults


def _lost(run: Run) -> Finding:
    """A link or device that cannot be read: one Bad row, in time; no Good one meanwhile; Good again soon."""
    failures, judged = [], 0
    for shown, rows in run.tags():
        for spell in shown.of("drop", "hang", "silence"):
            deadline = spell.begin + shown.group.interval + shown.patience + run.late
            healed = spell.end + run.recover
            if deadline >= spell.end or spell.end > run.end or _overlap(run, shown, spell):
                continue
            judged += 1
            early = spell.begin - shown.tick
            bad = rows.time[rows.bad & (rows.time >= early) & (rows.time < spell.end)]
            if not len(bad) or bad[0] > deadline:
                failures.append(f"{shown.name} has no Bad row {_when(spell.begin, deadline)}")
            elif len(bad) > 1:
                failures.append(f"{shown.name} has {len(bad)} Bad rows {_when(spell.begin, spell.end)}")
            if not shown.exact:  # with times of its own a source can be asked afterwards
                lag = spell.begin + shown.patience + run.late
                good = ~rows.bad & (rows.time > lag) & (rows.time < spell.end)
                if good.any():
                    failures.append(f"{shown.name} has {int(good.sum())} values from a time when nobody could read it")
            if healed <= run.end and not (~rows.bad & (rows.time >= spell.end) & (rows.time <= healed)).any():
                failures.append(f"{shown.name} has no value {_when(spell.end, healed)}")
    return Finding(judged, tuple(failures))


def _neighbours(run: Run) -> Finding:
    """A fault of one device, or of one of its tags, leaves the others alone."""
    failures, judged = [], 0
    for spell in run.spells:
        if not spell.step.device or spell.step.fault not in ("silence", "exception", "status", "word-order", "freeze"):
            continue
        begin, end = spell.begin, min(spell.end, run.end)
        for shown, rows in run.tags():
            if shown.link.name != spell.step.link or spell in shown.spells or _touched(run, shown, begin, end):
                continue
            if shown.device.name == spell.step.device and not spell.step.tag:
                continue
            judged += 1
            bad = rows.bad & (rows.time >= begin) & (rows.time < end)
            if bad.any():
                failures.append(f"{shown.name} is Bad {_when(int(rows.time[bad][0]), end)} while {spell.step}")
            # a line waits for the silent one: its neighbours may be late by that
            wait = shown.patience if spell.step.fault == "silence" else 0
            found = missed(run, shown, rows, begin, end, _excused(run, shown), wait)
            failures += [f"{shown.name} is not followed {_when(*each)} while {spell.step}" for each in found]
    return Finding(judged, tuple(failures))


def _outages(run: Run) -> Finding:
    failures, judged = [], 0
    for begin, end in run.outages:
        for shown, rows in run.tags():
            ticks = np.arange(begin, min(end, run.end), shown.tick)
            if not len(ticks) or _touched(run, shown, begin, end):
                continue
            values = shown.value(ticks)
            if not differs(values, np.full(len(values), values[0], values.dtype), shown.tag).any():
                continue
            judged += 1
            found = missed(run, shown, rows, begin, min(end, run.end), _excused(run, shown))
            failures += [f"{shown.name} is not followed {_when(*each)}, while the broker was away" for each in found]
    return Finding(judged, tuple(failures))


def _age(run: Run) -> Finding:
    limit = round(run.allowed.age * SECOND)
    away = [(begin, end + run.recover) for begin, end in run.outages]
    away += [
        (spell.begin, spell.end + run.recover) for spell in run.spells if spell.step.fault in (*UNREADABLE, "clock")
    ]
    judged = [(at, age) for at, age in run.ages if not any(begin <= at < end for begin, end in away)]
    failures = [f"the newest reading was {age / 1e9:.1f} s old at {at}" for at, age in judged if age > limit]
    return Finding(len(judged), tuple(failures))


# ------------------------------------------------------------------------------------------------ what they share


def missed(
    run: Run, shown: Shown, rows: Rows, begin: int, end: int, excused: Sequence[tuple[int, int]], wait: int = 0
) -> list[tuple[int, int]]:
    """Give the times (begin, end) in which what is held by the rows is not what the device showed, for too long.

    Held is the newest row's value until the next row. It may differ, by more than the deadband, for one interval and
    what the run allows: after that a scan has seen the change, and there is a row of it. Under a Bad row, in a declared
    gap and where `excused`, nothing is held.
    """
    slow = max((round((spell.step.options.delay or 0.0) * 1e9) for spell in shown.of("slow")), default=0)
    allowed = shown.group.interval + run.late + wait + slow
    ticks = np.arange(begin, end, shown.tick, dtype=np.int64)
    if not len(ticks):
        return []
    index = np.searchsorted(rows.time, ticks, side="right") - 1
    off = _off(run, shown, rows, ticks, index)
    for first, last in excused:
        off &= (ticks < first) | (ticks >= last)
    for hole in run.arrivals.gaps:
        if hole.covers(shown.device.name, shown.group.name):
            off &= (ticks < hole.start - shown.group.interval) | (ticks >= hole.end + shown.group.interval)
    edge = np.flatnonzero(np.r_[True, (off[1:] != off[:-1]) | (index[1:] != index[:-1])])
    found = []
    for first, last in zip(edge.tolist(), [*edge[1:].tolist(), len(off)], strict=True):
        more = run.recover if index[first] < 0 else 0  # a first row takes a connection
        if off[first] and (last - first) * shown.tick > allowed + more:
            found.append((int(ticks[first]), int(ticks[last - 1]) + shown.tick))
    return found


def _off(run: Run, shown: Shown, rows: Rows, ticks: NDArray[np.int64], index: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Mark the ticks at which the rows hold another value than is shown."""
    values = shown.value(ticks)
    if not len(rows.time):
        still = values == values[0]
        return np.ones(len(ticks), np.bool_) if run.whole else ~still
    held = rows.value[np.maximum(index, 0)].astype(values.dtype)
    off = differs(values, held, shown.tag) & ~rows.bad[np.maximum(index, 0)]
    early = index < 0
    off[early] = True if run.whole else (values != values[0])[early]
    off &= ~shown.garbled(ticks)
    return off


def _excused(run: Run, shown: Shown) -> list[tuple[int, int]]:
    """Give the times in which a tag cannot be followed: it could not be read, or its source's clock was off."""
    spells = shown.of(*UNREADABLE, "clock", "word-order")
    return [(spell.begin, spell.end + run.recover + _skew(spell)) for spell in spells] + [
        (spell.begin - _skew(spell), spell.begin) for spell in spells
    ]


def _skew(spell: Spell) -> int:
    return abs(round((spell.step.options.by or 0.0) * 1e9))


def _touched(run: Run, shown: Shown, begin: int, end: int) -> bool:
    """Whether the tag cannot be followed at some time between."""
    return any(first < end and last > begin for first, last in _excused(run, shown))


def _overlap(run: Run, shown: Shown, spell: Spell) -> bool:
    """Whether another fault acts on the tag while this one does, or just before."""
    others = [each for each in shown.of(*UNREADABLE, "clock", "status", "word-order") if each is not spell]
    return any(each.begin < spell.end + run.recover and each.end + run.recover > spell.begin for each in others)


def _when(begin: int, end: int) -> str:
    return f"from {begin} for {(end - begin) / 1e9:.1f} s"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A statement about a gateway, and what decides it."""

    text: str
    decide: Callable[[Run], Finding]


REQUIREMENTS: Final[dict[str, Requirement]] = {
    "PB-DATA-01": Requirement("Every reading that is committed to the journal is in the store", _committed),
    "PB-DATA-02": Requirement("No value differs from what the device showed", _values),
    "PB-DATA-03": Requirement(
        "What is stored follows the device within one interval, or a Bad row or declared gap says that it does not",
        _followed,
    ),
    "PB-DATA-04": Requirement("No reading is there twice", _once),
    "PB-TIME-01": Requirement(
        "A reading has its source's time, or that of the answer: its value was shown at its time, or just before",
        _times,
    ),
    "PB-TIME-02": Requirement("A tag with max_silence has a row at least that often", _silence),
    "PB-QUAL-01": Requirement("A StatusCode that the device gives is stored with its readings", _statuses),
    "PB-QUAL-02": Requirement("No value outside a tag's limits is Good", _limits),
    "PB-FAULT-01": Requirement(
        "A lost link or silent device gives each tag one Bad row in time, no value meanwhile, and values soon after",
        _lost,
    ),
    "PB-FAULT-02": Requirement(
        "A fault of one device, or tag, leaves its neighbours on the link Good and in time", _neighbours
    ),
    "PB-FAULT-03": Requirement("What is read while the broker is away arrives afterwards", _outages),
    "PB-LAT-01": Requirement("The newest reading that arrived is never older than allowed", _age),
}
