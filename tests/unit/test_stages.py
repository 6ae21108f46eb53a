"""Normalise and report by exception: what a plant engineer expects to see, to the last digit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import quality as q
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.stages.normalise import normalise
from gateway.stages.report import ReportByException

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def table(*tags: Tag, kind: Kind = Kind.FLOAT) -> TagTable:
    return TagTable("press", "default", kind, tags)


def scan(of: TagTable, values: list[object], at: float = 0.0, quality: list[int] | None = None) -> Batch:
    codes = None if quality is None else np.array(quality, dtype=np.uint32)
    return Batch.full(of, np.array(values, dtype=of.kind.dtype), T0 + round(at * SECOND), codes)


def rows(batch: Batch) -> list[tuple[int, object, float]]:
    return [
        (int(tag), value, (int(time) - T0) / SECOND)
        for tag, value, time in zip(batch.tag, batch.value.tolist(), batch.time, strict=True)
    ]


def test_a_decimal_scale_gives_the_decimal_an_engineer_expects() -> None:
    scaled = table(Tag("u", "a", scale=Fraction("0.1")), Tag("t", "b", scale=Fraction("0.01"), offset=Fraction("-40")))
    batch = normalise(scaled)(scan(scaled, [231.0, 6123.0]))
    assert batch.value.tolist() == [23.1, 21.23]


@given(st.integers(-(2**31), 2**31), st.integers(0, 6), st.integers(-10_000, 10_000))
def test_scaling_an_integer_by_a_decimal_is_exact_to_the_last_bit(raw: int, digits: int, offset: int) -> None:
    scale, shift = Fraction(1, 10**digits), Fraction(offset, 10)
    one = table(Tag("x", "a", scale=scale, offset=shift))
    assert normalise(one)(scan(one, [float(raw)])).value[0] == float(raw * scale + shift)


def test_a_fraction_that_does_not_fit_is_still_computed() -> None:
    odd = table(Tag("x", "a", scale=Fraction(2**70 + 1, 3**50)))
    expected = float(Fraction(7) * Fraction(2**70 + 1, 3**50))
    assert normalise(odd)(scan(odd, [7.0])).value[0] == pytest.approx(expected, rel=1e-15)


def test_a_not_available_pattern_is_bad_and_carries_no_value() -> None:
    """0x7FFF of an ABB meter drawn as 3276.7 V would be an alarm at 3 a.m."""
    meter = table(Tag("u", "a", scale=Fraction("0.1"), not_available=(32767.0,)), Tag("i", "b"))
    batch = normalise(meter)(scan(meter, [32767.0, 32767.0]))
    assert batch.quality.tolist() == [q.BAD_NO_DATA, q.GOOD]
    assert math.isnan(batch.value[0])


def test_nan_and_infinity_are_bad() -> None:
    three = table(Tag("a", "a"), Tag("b", "b"), Tag("c", "c"))
    batch = normalise(three)(scan(three, [math.nan, math.inf, 1.0]))
    assert batch.quality.tolist() == [q.BAD_NO_DATA, q.BAD_OUT_OF_RANGE, q.GOOD]
    assert math.isnan(batch.value[1])


def test_a_value_outside_its_range_is_uncertain_bad_or_clamped_as_asked() -> None:
    limited = table(
        Tag("a", "a", maximum=10.0),
        Tag("b", "b", maximum=10.0, out_of_range="bad"),
        Tag("c", "c", minimum=0.0, maximum=10.0, out_of_range="clamp"),
        Tag("d", "d", maximum=10.0),
    )
    batch = normalise(limited)(scan(limited, [11.0, 11.0, 11.0, 9.0]))
    assert batch.quality.tolist() == [
        q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED,
        q.BAD_OUT_OF_RANGE,
        q.GOOD_CLAMPED,
        q.GOOD,
    ]
    assert batch.value[0] == 11.0
    assert math.isnan(batch.value[1])
    assert batch.value[2] == 10.0


def test_a_bad_reading_never_carries_the_value_the_driver_left_there() -> None:
    counters = table(Tag("n", "a", kind=Kind.UINT), Tag("m", "b", kind=Kind.UINT), kind=Kind.UINT)
    batch = normalise(counters)(scan(counters, [2**64 - 1, 5], quality=[q.GOOD, q.BAD_TIMEOUT]))
    assert batch.value.tolist() == [2**64 - 1, 0]
    assert batch.value.dtype == np.uint64


def test_a_number_without_a_name_in_an_enumeration_is_uncertain() -> None:
    states = ((0, "stopped"), (1, "running"), (-1, "fault"))
    modes = table(*(Tag(name, name, states=states) for name in "abcd"), Tag("free", "e"))
    batch = normalise(modes)(scan(modes, [1.0, -1.0, 2.0, 0.5, 77.0]))
    assert [q.severity(code) for code in batch.quality.tolist()] == ["Good", "Good", "Uncertain", "Uncertain", "Good"]


def test_a_tag_without_a_deadband_passes_every_reading() -> None:
    one = table(Tag("x", "a"))
    report = ReportByException(one)
    assert sum(len(report(scan(one, [1.0], at))) for at in range(5)) == 5


def test_only_changes_beyond_the_deadband_are_reported() -> None:
    one = table(Tag("x", "a", deadband=0.5))
    report = ReportByException(one)
    given_values = [10.0, 10.4, 10.5, 10.6, 10.7]
    told = [row for at, value in enumerate(given_values) for row in rows(report(scan(one, [value], at)))]
    assert [value for _, value, _ in told] == [10.0, 10.6]


def test_a_step_after_silence_also_sends_the_last_reading_before_it() -> None:
    """Without it a trend draws a ramp from an hour ago to now."""
    one = table(Tag("x", "a", deadband=0.5))
    report = ReportByException(one)
    for at in range(10):
        report(scan(one, [20.0 + at / 100], at))
    assert rows(report(scan(one, [90.0], 10))) == [(0, 20.09, 9.0), (0, 90.0, 10.0)]


def test_a_slow_drift_does_not_send_the_reading_before() -> None:
    one = table(Tag("x", "a", deadband=0.5))
    report = ReportByException(one)
    told = [row for at in range(10) for row in rows(report(scan(one, [at * 0.2], at)))]
    assert [value for _, value, _ in told] == [0.0, pytest.approx(0.6), pytest.approx(1.2), pytest.approx(1.8)]


def test_a_change_of_quality_is_news_whatever_the_value() -> None:
    one = table(Tag("x", "a", deadband=100.0))
    report, norm = ReportByException(one), normalise(one)
    codes = [q.GOOD, q.GOOD, q.BAD_TIMEOUT, q.BAD_TIMEOUT, q.GOOD]
    told = [report(norm(scan(one, [5.0], at, [code]))) for at, code in enumerate(codes)]
    assert [batch.quality.tolist() for batch in told] == [
        [q.GOOD],
        [],
        [q.GOOD, q.BAD_TIMEOUT],
        [],
        [q.BAD_TIMEOUT, q.GOOD],
    ]


def test_max_silence_is_kept_when_the_clock_was_set_back() -> None:
    """Else a tag would be silent for the hour that comes twice."""
    one = table(Tag("x", "a", deadband=1.0, max_silence=60 * SECOND))
    report = ReportByException(one)
    assert len(report(scan(one, [5.0])))
    report.lost(T0 + SECOND)
    report.stepped()
    assert rows(report(scan(one, [5.0], at=-3600))) == [(0, 5.0, -3600.0)]
    assert not len(report(scan(one, [5.0], at=-3541)))
    assert len(report(scan(one, [5.0], at=-3540)))


def test_silence_is_broken_after_max_silence() -> None:
    one = table(Tag("x", "a", deadband=0.0, max_silence=3 * SECOND))
    report = ReportByException(one)
    assert [len(report(scan(one, [1.0], at))) for at in range(8)] == [1, 0, 0, 1, 0, 0, 1, 0]


def test_after_forget_everything_is_reported_once_more() -> None:
    two = table(Tag("x", "a", deadband=1.0), Tag("y", "b", deadband=1.0))
    report = ReportByException(two)
    report(scan(two, [1.0, 2.0], 0))
    report(scan(two, [1.1, 2.1], 1))
    report.forget()
    assert rows(report(scan(two, [1.2, 2.2], 2))) == [(0, 1.2, 2.0), (1, 2.2, 2.0)]


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [(Kind.INT, -(2**63), 2**63 - 1), (Kind.UINT, 2**63 + 1, 2**63 + 2), (Kind.INT, 2**60, 2**60 + 1)],
)
def test_large_counters_are_compared_without_rounding(kind: Kind, first: int, second: int) -> None:
    one = table(Tag("n", "a", kind=kind, deadband=0.0), kind=kind)
    report = ReportByException(one)
    assert [len(report(scan(one, [value], at))) for at, value in enumerate([first, first, second])] == [1, 0, 2]


def test_text_and_booleans_are_reported_when_they_change() -> None:
    texts = table(Tag("s", "a", kind=Kind.TEXT, deadband=0.0), kind=Kind.TEXT)
    report = ReportByException(texts)
    told = [row for at, text in enumerate(["自动", "自动", "手动"]) for row in rows(report(scan(texts, [text], at)))]
    assert [value for _, value, _ in told] == ["自动", "自动", "手动"]


def test_several_readings_of_one_tag_in_a_batch_are_taken_in_their_order() -> None:
    two = table(Tag("x", "a", deadband=0.5), Tag("y", "b"))
    batch = Batch(
        two,
        np.array([0, 1, 0, 0], dtype=np.uint32),
        np.array([1.0, 7.0, 1.2, 9.0]),
        np.zeros(4, dtype=np.uint32),
        T0 + np.arange(4, dtype=np.int64) * SECOND,
    )
    assert sorted(rows(ReportByException(two)(batch))) == [(0, 1.0, 0.0), (0, 1.2, 2.0), (0, 9.0, 3.0), (1, 7.0, 1.0)]


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=60),
    st.floats(0, 20),
)
def test_what_is_reported_is_never_further_than_the_deadband_from_what_was_read(
    values: list[float], deadband: float
) -> None:
    """A reader who holds the last reported value is never wrong by more than the deadband."""
    one = table(Tag("x", "a", deadband=deadband))
    report = ReportByException(one)
    held = math.nan
    for at, value in enumerate(values):
        told = report(scan(one, [value], at))
        if len(told):
            held = told.value[-1]
        assert abs(held - value) <= deadband


@pytest.mark.parametrize("deadband", [math.nan, 0.5])
def test_the_same_reading_read_again_is_not_reported_again(deadband: float) -> None:
    """An OPC UA node that stands still keeps its source time: one point, however often it is polled."""
    two = table(Tag("still", "a", deadband=deadband), Tag("moving", "b", deadband=math.nan))
    report = ReportByException(two)
    assert len(report(scan(two, [1.0, 2.0], 5.0))) == 2
    again = scan(two, [1.0, 3.0], 5.0)
    again.time[1] += SECOND
    assert rows(report(again)) == [(1, 3.0, 6.0)]


def test_another_value_under_the_same_source_time_is_reported() -> None:
    one = table(Tag("x", "a"))
    report = ReportByException(one)
    assert [len(report(scan(one, [value], 5.0))) for value in (1.0, 1.0, 2.0)] == [1, 0, 1]


def test_what_comes_back_after_a_loss_is_later_than_the_bad_row_though_its_source_time_is_not() -> None:
    """Else the store would drop it for the reading before the loss, and show Bad for ever."""
    one = table(Tag("x", "a"))
    report = ReportByException(one)
    report(scan(one, [1.0], 5.0))
    report.lost(T0 + 9 * SECOND)
    back = report(scan(one, [1.0], 5.0))
    assert back.time.tolist() == [T0 + 9 * SECOND + 1]
    assert len(report(scan(one, [1.0], 11.0))) == 1


def test_history_passes_untouched() -> None:
    one = table(Tag("x", "a", deadband=10.0))
    report = ReportByException(one)
    report(scan(one, [1.0], 50.0))
    past = scan(one, [1.1], 5.0)
    past.backfill = True
    assert report(past) is past
