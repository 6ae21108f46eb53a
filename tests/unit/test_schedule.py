"""Scan instants and pauses."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule import Backoff, missed, next_instant

times = st.integers(0, 2**62)
intervals = st.integers(1_000_000, 10**13)


@given(times, intervals, st.integers(0, 10**12))
def test_scans_sit_on_multiples_of_their_interval_with_a_stable_phase(now: int, interval: int, phase: int) -> None:
    instant = next_instant(now, interval, phase)
    assert (instant - phase) % interval == 0
    assert now < instant <= now + interval


@given(times, intervals, st.integers(0, 10**14))
def test_a_scan_in_its_slot_is_not_skipped_and_a_later_one_lands_in_the_present_slot(
    due: int, interval: int, late: int
) -> None:
    skipped = missed(due, due + late, interval)
    executed = due + skipped * interval
    assert executed <= due + late < executed + interval


def test_a_clock_that_was_set_back_skips_nothing() -> None:
    assert missed(1_000, 500, 100) == 0


def test_pauses_double_up_to_the_longest_and_start_again_after_success() -> None:
    backoff = Backoff(0.5, 30.0, random.Random(1))
    pauses = [backoff.pause() for _ in range(12)]
    for number, pause in enumerate(pauses):
        full = min(30.0, 0.5 * 2**number)
        assert full / 2 <= pause <= full
    backoff.reset()
    assert backoff.pause() <= 0.5


def test_gateways_that_lost_power_together_do_not_come_back_together() -> None:
    pauses = {Backoff(0.5, 30.0).pause() for _ in range(50)}
    assert len(pauses) > 40
    assert min(pauses) < 0.35 < 0.4 < max(pauses)
