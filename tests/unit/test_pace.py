"""How much may be under way: a fast network is filled, a thin one is not flooded."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.pace import Pace


def carry(pace: Pace, rate: float, latency: float, seconds: float) -> tuple[float, float]:
    """Send all that the pace allows over a line of `rate` bytes a second; give bytes carried and the longest delay
    in the second half."""
    now, free_at, carried, longest, flying = 0.0, 0.0, 0.0, 0.0, 0
    under_way: deque[tuple[float, float, int]] = deque()  # acknowledged at, sent at, size
    while now < seconds:
        size = min(256_000, pace.message)
        while not flying or flying + size <= pace.allowance:
            free_at = max(now, free_at) + size / rate
            under_way.append((free_at + latency, now, size))
            flying += size
        now, sent, size = under_way.popleft()
        flying -= size
        carried += size
        pace.acknowledged(size, sent, now)
        if now > seconds / 2:
            longest = max(longest, now - sent)
    return carried, longest


@pytest.mark.parametrize(("rate", "latency"), [(1e9, 0.0005), (1e7, 0.02), (1e6, 0.1), (1e5, 0.05), (2e4, 0.1)])
def test_a_line_is_used_well_and_nothing_waits_long(rate: float, latency: float) -> None:
    pace = Pace(16 << 10, 8_000_000)
    carried, longest = carry(pace, rate, latency, 60.0)
    most = min(rate, 8_000_000 / max(latency, 1e-9)) * 60
    assert carried > 0.6 * most
    assert longest < max(1.0, 2 * (16 << 10) / rate)


def test_a_line_that_recovers_is_used_again() -> None:
    pace = Pace(16 << 10, 8_000_000)
    carry(pace, 2e4, 0.1, 60.0)
    assert pace.allowance < 100_000
    carried, _ = carry(pace, 1e7, 0.02, 60.0)
    assert carried > 0.6 * 60e7


def test_the_allowance_stays_in_its_bounds() -> None:
    pace = Pace(1000, 5000, allowance=2000)
    for turn in range(50):
        pace.acknowledged(1000, turn, turn + 5.0)
    assert pace.allowance == 1000
    for turn in range(1000):
        pace.acknowledged(1000, 100 + turn, 100.1 + turn)
    assert pace.allowance == 5000
