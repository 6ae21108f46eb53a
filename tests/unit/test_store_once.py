"""What makes a store take each reading once, against the plainest model of it: a set."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.ranges import Ranges, runs
from gateway.stores.once import Marks

few = st.integers(0, 3)
writes = st.lists(st.lists(st.tuples(few, st.integers(0, 12)), min_size=1, max_size=40), max_size=8)


@given(writes)
def test_each_row_is_new_once_whatever_the_order(written: list[list[tuple[int, int]]]) -> None:
    marks, stored = Marks(), set[tuple[int, int]]()
    for rows in written:
        series = np.array([row[0] for row in rows], dtype=np.uint32)
        time = np.array([row[1] for row in rows], dtype=np.int64)
        fresh, doubtful = marks.sort_out(series, time)
        certain = list(range(len(rows))) if fresh is None else fresh.tolist()
        assert certain == sorted(certain)
        for row in certain:
            assert rows[row] not in stored, "a row called new was stored before"
            stored.add(rows[row])
        for row in doubtful.tolist():  # the store looks these up
            stored.add(rows[row])
        taken = [rows[row] for row in (*certain, *doubtful.tolist())]
        assert len(taken) == len(set(taken)), "one row twice"
        assert set(rows) <= stored, "a row was dropped that nobody has"
        if certain:
            marks.raise_to(series[certain], time[certain])


def test_of_two_rows_with_one_time_the_first_is_taken() -> None:
    series, time = np.array([0, 1, 0], dtype=np.uint32), np.array([5, 5, 5], dtype=np.int64)
    fresh, doubtful = Marks().sort_out(series, time)
    assert fresh is not None
    assert fresh.tolist() == [0, 1]
    assert not len(doubtful)


def test_scans_in_their_order_need_no_look_up() -> None:
    """The running case must stay cheap: nothing is sorted out, nothing is looked up."""
    marks = Marks()
    series = np.tile(np.arange(5_000, dtype=np.uint32), 3)
    marks.reserve(5_000)
    for now in (0, 100):
        time = np.repeat(np.arange(now, now + 3, dtype=np.int64), 5_000)
        fresh, doubtful = marks.sort_out(series, time)
        assert fresh is None
        assert not len(doubtful)
        marks.raise_to(series, time)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12))), st.integers(0, 80))
def test_intervals_are_a_set(added: list[tuple[int, int]], asked: int) -> None:
    intervals, model = Ranges(), set[int]()
    for first, length in added:
        intervals.add(first, first + length)
        model |= set(range(first, first + length + 1))
    assert (asked in intervals) == (asked in model)
    spans = list(intervals)
    assert {number for first, last in spans for number in range(first, last + 1)} == model
    assert all(one[1] + 1 < other[0] for one, other in pairwise(spans)), "runs that touch"
    assert len(intervals) == len(spans)
    assert intervals.newest == max(model, default=0)
    inside = {number for first, last in intervals.within(20, asked) for number in range(first, last + 1)}
    assert inside == {number for number in model if 20 <= number <= asked}
    outside = {number for first, last in intervals.missing(20, asked) for number in range(first, last + 1)}
    assert outside == set(range(20, asked + 1)) - model


def test_runs_of_numbers_in_any_order() -> None:
    assert list(runs([7, 1, 2, 9, 3, 8])) == [(1, 3), (7, 9)]
