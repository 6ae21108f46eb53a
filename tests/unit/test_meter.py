"""Rates and budgets: what is new goes first, nothing is exceeded, and a restart does not forget what was spent."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from gateway.meter import (
    BEGINNING,
    CONNECTING,
    PORTION,
    RESERVE,
    STEP,
    Account,
    Bucket,
    Ceiling,
    Rates,
    on_the_wire,
    packet,
    period,
)
from gateway.options import PublisherOptions, budget, rate
from gateway.rates import Rate, VolumeBudget

DAY = 86_400.0
NOON = datetime.datetime(2026, 11, 22, 12, 0).timestamp()
MIDNIGHT = NOON - DAY / 2


class Kept:
    """A file that survives."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.writes = 0

    def load(self) -> dict[str, Any]:
        return dict(self.state)

    def save(self, state: dict[str, Any]) -> None:
        self.state = dict(state)
        self.writes += 1


def account(kept: Kept, text: str = "50 MB/day", now: float = NOON, keep_alive: float = 3600.0) -> Account:
    made = Account(budget(text), keep_alive, kept)
    made.look(now, 0.0)
    return made


# ------------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("64 kB/s", Rate(octets=64_000)),
        ("512 kbit/s", Rate(octets=64_000)),
        ("9600 bit/s", Rate(octets=1200)),
        ("20 messages/s", Rate(messages=20)),
        ("0.5 messages / s", Rate(messages=0.5)),
    ],
)
def test_rates_are_read_with_their_unit(text: str, meant: Rate) -> None:
    assert rate(text) == meant


@pytest.mark.parametrize("text", ["64", "64 kB", "64 kB/min", "0 kB/s", "fast", "", 64, None])
def test_a_rate_without_a_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a rate such as 64 kB/s"):
        rate(text)


def test_budgets_are_read_with_their_period() -> None:
    assert budget("50 MB/day") == VolumeBudget(50_000_000, "day", "50 MB/day")
    assert (budget("1 GB / month").octets, budget("1 GB / month").per) == (10**9, "month")
    for text in ("50 MB", "50/day", "50 MB/year", "", 3):
        with pytest.raises(ValueError, match="expected a budget such as 50 MB/day"):
            budget(text)


def test_a_budget_that_keep_alives_eat_up_is_refused() -> None:
    with pytest.raises(ValidationError, match="too small"):
        PublisherOptions.model_validate({"url": "mqtt://b", "budget": "300 kB/day"})
    PublisherOptions.model_validate({"url": "mqtt://b", "budget": "300 kB/day", "keep_alive": "10 min"})
    with pytest.raises(ValidationError, match="widen needs a budget"):
        PublisherOptions.model_validate({"url": "mqtt://b", "widen": 4})


# ------------------------------------------------------------------------------------------------ sizes


def test_a_packet_has_the_size_that_mqtt_gives_it() -> None:
    """MQTT 5, 3.3: fixed header, topic, packet identifier, properties, payload."""
    assert packet(3, 0) == 1 + 1 + 2 + 3 + 2 + 1
    for payload, octets in ((100, 1), (200, 2), (20_000, 3), (3_000_000, 4)):
        assert packet(10, payload) == 1 + octets + 2 + 10 + 2 + 1 + payload


def test_the_wire_is_more_than_the_packet() -> None:
    assert on_the_wire("a/b", 100) == packet(3, 100) + 40 + 4 + 80
    assert on_the_wire("a/b", 14_000) > packet(3, 14_000) + 10 * 40


# ------------------------------------------------------------------------------------------------ rates


@given(
    speed=st.sampled_from([500.0, 64_000.0, 1e6]),
    sizes=st.lists(st.tuples(st.integers(1, 100_000), st.booleans()), min_size=1, max_size=80),
)
def test_a_rate_is_never_exceeded_for_long(speed: float, sizes: list[tuple[int, bool]]) -> None:
    """Over any time: not more than the rate, a second's worth at the beginning, and the message under way."""
    bucket, now, sent = Bucket(speed), 100.0, 0
    for size, backlog in sizes:
        while pause := bucket.pause(size, now, backlog=backlog):
            now += pause
        bucket.take(size)
        sent += size
        assert sent <= speed * (now - 100.0) + speed + size + 1


def test_the_backlog_leaves_half_a_second_for_what_is_new() -> None:
    bucket, now = Bucket(10_000.0), 0.0
    for _ in range(100):
        while pause := bucket.pause(1000, now, backlog=True):
            now += pause
        bucket.take(1000)
        assert bucket.pause(4000, now, backlog=False) == 0


def test_the_platform_and_the_site_file_both_count() -> None:
    rates = Rates(Rate(octets=1000.0), Rate(messages=2.0))
    assert rates
    assert rates.second == 1000.0
    rates.take(100, 0.0)
    rates.take(100, 0.0)
    assert rates.pause(100, 0.0, backlog=False) == pytest.approx(RESERVE)
    assert rates.pause(1000, RESERVE, backlog=False) == 0
    rates.take(1000, RESERVE)
    assert rates.pause(500, RESERVE, backlog=False) == pytest.approx(0.5)
    assert not Rates(Rate(), Rate())
    assert Rates(Rate()).second == math.inf


@given(
    most=st.sampled_from([1, 2, 10, 50]),
    turns=st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=120),
)
def test_a_platform_never_gets_more_messages_in_any_second(most: int, turns: list[tuple[float, bool]]) -> None:
    ceiling, now, left = Ceiling(Rate(messages=most)), 100.0, []
    for idle, backlog in turns:
        now += idle if idle > 1 else 0  # mostly there is no rest
        while pause := ceiling.pause(now, backlog=backlog):
            now += pause
        ceiling.take(10, now)
        left.append(now)
    assert all(later - earlier >= 1.09 for earlier, later in zip(left, left[most:], strict=False))


def test_a_platform_is_used_to_the_full_and_the_backlog_leaves_a_gap_at_every_turn() -> None:
    ceiling, now, gaps = Ceiling(Rate(messages=10)), 0.0, []
    for _ in range(100):
        while pause := ceiling.pause(now, backlog=True):
            now += pause
        gaps.append(ceiling.pause(now, backlog=False))
        ceiling.take(10, now)
    assert now < 100 / 10 * RESERVE
    assert max(gaps) == 0


def test_bytes_leave_one_after_the_other_at_a_platform_that_counts_them() -> None:
    ceiling = Ceiling(Rate(octets=1000.0))
    ceiling.take(500, 0.0)
    ceiling.take(500, 0.0)
    assert ceiling.pause(0.0, backlog=False) == pytest.approx(RESERVE)
    assert ceiling.pause(RESERVE, backlog=True) == 0


# ------------------------------------------------------------------------------------------------ budgets


@pytest.mark.parametrize(
    ("per", "begin", "end"),
    [
        ("hour", (2026, 11, 22, 12), (2026, 11, 22, 13)),
        ("day", (2026, 11, 22), (2026, 11, 23)),
        ("week", (2026, 11, 16), (2026, 11, 23)),
        ("month", (2026, 11, 1), (2026, 12, 1)),
    ],
)
def test_periods_are_those_of_the_local_calendar(per: str, begin: tuple[int, ...], end: tuple[int, ...]) -> None:
    for now in (NOON, NOON + 1799.5):
        found = period(now, per)
        assert found == (datetime.datetime(*begin).timestamp(), datetime.datetime(*end).timestamp())  # type: ignore[arg-type]


def test_december_ends_with_the_year() -> None:
    now = datetime.datetime(2026, 12, 31, 23, 59).timestamp()
    assert period(now, "month")[1] == period(now, "day")[1] == datetime.datetime(2027, 1, 1).timestamp()


def test_live_data_may_take_all_and_the_backlog_its_share_of_the_time() -> None:
    spending = account(Kept(), now=MIDNIGHT)
    assert spending.pause(MIDNIGHT, backlog=False) == 0
    assert spending.pause(MIDNIGHT, backlog=True) == 0  # the beginning
    spending.spend(10_000_000)
    assert spending.pause(MIDNIGHT, backlog=False) == 0
    pause = spending.pause(MIDNIGHT, backlog=True)
    assert pause == pytest.approx((0.2 + PORTION - BEGINNING) / (1 - BEGINNING) * DAY)
    assert spending.pause(MIDNIGHT + pause + 1, backlog=True) == 0
    spending.spend(39_500_000)
    assert spending.pause(MIDNIGHT + 1000, backlog=False) == DAY - 1000
    assert spending.pause(MIDNIGHT + 1000, backlog=True) == DAY - 1000


def test_live_data_below_the_line_never_waits_for_a_backlog() -> None:
    """The backlog takes all it may, at each moment, before each live message."""
    spending, now = account(Kept(), "10 MB/day", MIDNIGHT, keep_alive=600.0), MIDNIGHT
    live = 9_000_000 / 1440
    while now < MIDNIGHT + DAY:
        spending.look(now, now)
        while not spending.pause(now, backlog=True):
            spending.spend(10_000)
        assert spending.pause(now, backlog=False) == 0, (now - MIDNIGHT) / DAY
        spending.spend(round(live))
        now += 60
    assert 9_000_000 < spending.spent <= 10_000_000


def test_what_is_spent_is_spent_after_a_kill() -> None:
    kept = Kept()
    before = account(kept)
    for _ in range(3000):
        before.spend(1000)
    after = account(kept)  # nothing was closed
    assert 3_000_000 <= after.spent <= 3_000_000 + STEP * 50_000_000
    assert kept.writes < 100
    before.close()
    assert account(kept).spent == 3_000_000


def test_a_new_day_begins_a_new_count_and_a_clock_set_back_does_not() -> None:
    kept = Kept()
    spending = account(kept)
    spending.spend(1_000_000)
    spending.look(NOON - 2 * DAY, 10.0)
    assert spending.spent == 1_000_000
    booted_in_1970 = account(kept, now=1000.0)
    assert booted_in_1970.spent >= 1_000_000
    booted_in_1970.look(NOON, 100.0)
    assert booted_in_1970.spent >= 1_000_000
    spending.look(NOON + DAY, 20.0)
    assert spending.spent == 0


def test_a_clock_that_was_far_ahead_once_does_not_end_publishing_for_years() -> None:
    kept = Kept()
    spending = account(kept, now=NOON + 3650 * DAY)
    spending.spend(49_999_999)
    spending.look(NOON, 60.0)
    assert spending.pause(NOON, backlog=False) > 0
    spending.look(NOON + DAY, 60.0 + DAY)
    assert spending.spent == 0


def test_keep_alives_are_counted_and_kept_in_reserve() -> None:
    spending = account(Kept(), "1 MB/day", MIDNIGHT, keep_alive=60.0)
    reserve = 84 * 1440
    assert spending.limit(MIDNIGHT) == 1_000_000 - reserve
    spending.keep(0.0, connected=False)
    spending.keep(5.0, connected=False)
    spending.keep(665.0, connected=True)
    assert spending.spent == 84 * 11
    spending.spend(1_000_000 - reserve)
    assert spending.pause(MIDNIGHT + 665, backlog=False) > 0


def test_nearly_spent_is_when_little_is_left_for_much_time() -> None:
    spending = account(Kept(), now=NOON)
    spending.spend(39_000_000)
    assert not spending.nearly_spent(NOON)
    spending.spend(2_000_000)
    assert spending.nearly_spent(NOON)
    assert not spending.nearly_spent(MIDNIGHT + 0.9 * DAY)


def test_it_says_when_it_goes_on() -> None:
    assert account(Kept()).resets(NOON) == "2026-11-23 00:00"
    assert CONNECTING < 1000


@pytest.mark.parametrize(
    "state", [{}, {"begin": "x", "spent": 5}, {"spent": 5}, {"begin": 1.0}, {"begin": 1, "spent": "y"}]
)
def test_an_account_that_cannot_be_read_begins_anew(state: dict[str, Any]) -> None:
    kept = Kept()
    kept.state = state
    assert account(kept).spent == 0


def test_a_full_disk_does_not_end_publishing() -> None:
    class Full(Kept):
        def save(self, state: dict[str, Any]) -> None:
            raise OSError(28, "No space left on device")

    with capture_logs() as logs:
        spending = account(Full())
        for _ in range(1000):
            spending.spend(1000)
        spending.close()
    assert spending.spent == 1_000_000
    assert [line["log_level"] for line in logs] == ["warning"]
