"""Completeness counts scan instants: the same, whatever way the rows of a time come in, as asking of each instant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.inventory.coverage import BAD, FOREVER, GOOD, UNCERTAIN, Count, Coverage, Holes, Lane, Runs

Row = tuple[int, int]  # time, class

TICK = 10  # ns; a grid for times in these tests


def runs_of(rows: Sequence[Sequence[Row]], hold: Sequence[int], begin: int, end: int) -> Runs:
    """Join rows to runs, as the store does it."""
    found: list[list[int]] = []
    for tag, each in enumerate(rows):
        before: Row | None = None
        for time, quality in each:
            if not begin <= time < end:
                continue
            late = before is not None and quality != BAD and time - before[0] > hold[tag]
            if before is None or before[1] != quality or late:
                found.append([tag, quality, time, time, 0])
            found[-1][3] = time
            found[-1][4] += 1
            before = (time, quality)
    return Runs(*np.array(found, dtype=np.int64).reshape(-1, 5).T)


def by_asking(
    rows: Sequence[Sequence[Row]], lane: Lane, hold: Sequence[int], time: tuple[int, int], gaps: Sequence[Row],
    heard: int, each: Sequence[bool],
) -> Count:  # fmt: skip
    """Count the same by asking of each tag at each instant."""
    found = Count()
    instants = [at for at in range(0, time[1], lane.interval) if time[0] <= at]
    for tag in range(lane.first, lane.last):
        good_rows = sum(quality == GOOD and time[0] <= when < time[1] for when, quality in rows[tag])
        good = 0
        found.rows += good_rows
        for at in instants:
            end = at + lane.interval
            found.expected += 1
            if any(first <= at < last for first, last in gaps):
                found.gap += 1
                continue
            newest = max(((when, quality) for when, quality in rows[tag] if when < end), default=None)
            if newest is None or at > heard or (newest[1] != BAD and end - newest[0] > hold[tag]):
                continue
            good += newest[1] == GOOD
            found.uncertain += newest[1] == UNCERTAIN
            found.bad += newest[1] == BAD
        found.good += min(good, good_rows + 1) if each[tag] else good
    return found


row = st.tuples(st.integers(1, 59).map(lambda at: at * TICK + 1), st.sampled_from([GOOD, UNCERTAIN, BAD]))
tags = st.lists(st.lists(row, max_size=12, unique_by=lambda each: each[0]).map(sorted), min_size=2, max_size=2)
gap = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda at: (at[0] * TICK, (at[0] + at[1]) * TICK))


@settings(deadline=None, max_examples=300)
@given(
    tags,
    st.lists(st.sampled_from([5 * TICK, 15 * TICK, FOREVER]), min_size=2, max_size=2),
    st.sampled_from([TICK, 2 * TICK, 5 * TICK]),
    st.lists(gap, max_size=4),
    st.integers(0, 70).map(lambda at: at * TICK),
    st.sets(st.sampled_from([10, 20, 30, 40, 50]).map(lambda at: at * TICK)),
    st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_instants_are_counted_as_if_each_were_asked(
    rows: list[list[Row]], hold: list[int], interval: int, gaps: list[Row], heard: int, cuts: set[int],
    each: list[bool],
) -> None:  # fmt: skip
    lane = Lane(0, interval, 0, 0, 2)
    coverage = Coverage([lane], np.array(hold, dtype=np.int64), np.array(each))
    whole, asked = Count(), Count()
    for begin, end in pairwise(sorted({0, 60 * TICK, *cuts})):
        (count,) = coverage.take(runs_of(rows, hold, begin, end), begin, end, [Holes(lane, gaps)], heard, 1)
        whole.add(count)
        asked.add(by_asking(rows, lane, hold, (begin, end), gaps, heard, each))
    assert whole == asked


def test_what_was_known_is_not_known_after_records_were_lost() -> None:
    """A Bad row may have been among them: the good value of before must not speak for the time after."""
    lane, hold = Lane(0, TICK, 0, 0, 1), [FOREVER]
    coverage = Coverage([lane], np.array(hold, dtype=np.int64), np.zeros(1, dtype=np.bool_))
    lost = Holes(lane, [(20 * TICK, 30 * TICK)])
    rows = [[(1, GOOD), (45 * TICK + 1, GOOD)]]
    (before,) = coverage.take(runs_of(rows, hold, 0, 30 * TICK), 0, 30 * TICK, [lost], FOREVER, 1)
    coverage.forget([0])
    (after,) = coverage.take(runs_of(rows, hold, 30 * TICK, 60 * TICK), 30 * TICK, 60 * TICK, [lost], FOREVER, 1)
    assert (before.good, before.gap, before.unknown) == (20, 10, 0)
    assert (after.good, after.gap, after.unknown) == (15, 0, 15)
