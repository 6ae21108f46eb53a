"""`acknowledge: store`: the journal lets go of what ingest says is stored, and of nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from gateway.options import PublisherOptions
from gateway.ranges import Ranges
from gateway.unconfirmed import Unconfirmed
from tests.unit.test_publisher import bench
from tests.unit.test_publisher_doubt import _sent


def test_what_is_not_stored_while_later_records_are_is_sent_again_ever_less_often() -> None:
    """It was lost behind the broker; but a store that never takes it must not be flooded."""
    waiting = Unconfirmed(60.0)
    waiting.took(1, 5, 50, 0.0)
    waiting.took(8, 9, 20, 40.0)
    assert waiting.confirmed(Ranges([(8, 9)])) == [(8, 9, 20)]
    assert waiting.overdue(9, 59.0) == []
    assert waiting.overdue(9, 60.0) == [(1, 5)]
    waiting.took(1, 5, 50, 61.0)
    assert waiting.overdue(9, 180.0) == []
    assert waiting.overdue(9, 181.0) == [(1, 5)]
    assert waiting.tried == 2


def test_while_nothing_later_is_stored_nothing_is_sent_again() -> None:
    """Ingest is away, and the broker keeps it."""
    waiting = Unconfirmed(60.0)
    waiting.took(1, 5, 50, 0.0)
    assert waiting.overdue(0, 1e6) == []
    assert waiting.overdue(5, 1e6) == []


def test_a_day_without_ingest_takes_little_memory() -> None:
    waiting = Unconfirmed(60.0)
    for number in range(86_400):
        waiting.took(number + 1, number + 1, 10, float(number))
    assert len(waiting) == 86_400
    assert len(waiting._entries) <= 86_400 / 30 + 1


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=12), st.sets(st.integers(1, 45)))
def test_each_record_is_let_go_of_once_when_it_is_stored(taken: list[tuple[int, int]], stored: set[int]) -> None:
    waiting, model = Unconfirmed(60.0), set[int]()
    for first, more in taken:
        numbers = set(range(first, first + more + 1))
        if numbers & model:
            continue
        waiting.took(first, first + more, len(numbers), 0.0)
        model |= numbers
    gone = waiting.confirmed(Ranges((number, number) for number in sorted(stored)))
    assert sorted(number for first, last, _ in gone for number in range(first, last + 1)) == sorted(model & stored)
    assert {number for first, last in waiting.ranges for number in range(first, last + 1)} == model - stored
    gone += waiting.confirmed(Ranges([(1, 50)]))
    assert sum(readings for _, _, readings in gone) == len(model)


def test_what_is_sent_again_and_stored_in_part_meanwhile_is_counted_once() -> None:
    """The account of delivered readings must not grow by what comes twice."""
    waiting = Unconfirmed(60.0)
    waiting.took(1, 5, 50, 0.0)
    assert waiting.overdue(9, 60.0) == [(1, 5)]
    assert waiting.confirmed(Ranges([(1, 1)])) == [(1, 1, 0)]
    waiting.took(1, 5, 50, 61.0)
    assert list(waiting.ranges) == [(2, 5)]
    assert waiting.confirmed(Ranges([(1, 5)])) == [(2, 5, 50)]
    assert len(waiting) == 0


async def test_the_journal_keeps_what_the_broker_took_until_it_is_stored(tmp_path: Path) -> None:
    async with bench(tmp_path, settle="0 s", acknowledge="store") as b:
        b.start()
        b.append(3)
        await b.until(partial(_sent, b, [1, 2, 3]))
        await b.until(lambda: b.publisher.account()["settling"] == 3)
        assert b.journal.pending("cloud") == [(1, 3)]
        b.publisher.stored([(1, 1), (3, 3)])
        assert b.journal.pending("cloud") == [(2, 2)]
        b.publisher.stored([(2, 2)])
        assert b.journal.pending("cloud") == []
        assert b.sent() == [1, 2, 3]


async def test_what_a_broker_lost_is_sent_again_once_later_records_are_stored(tmp_path: Path) -> None:
    """A broker that acknowledges and forgets costs nothing."""
    async with bench(tmp_path, settle="0 s", acknowledge="store", patience="1 s") as b:
        b.start()
        b.append(1)
        await b.until(partial(_sent, b, [1]))
        await b.until(lambda: b.publisher.account()["settling"] == 1)
        b.append(1)
        await b.until(partial(_sent, b, [1, 2]))

        def again() -> bool:
            b.publisher.stored([(2, 2)])  # ingest goes on telling what it has
            return _sent(b, [1, 2, 1])

        await b.until(again)
        assert b.journal.pending("cloud") == [(1, 1)]
        b.publisher.stored([(1, 1)])
        assert b.journal.pending("cloud") == []


async def test_stopping_does_not_wait_for_the_store(tmp_path: Path) -> None:
    """What is at the broker is safe there and in the journal; a stop while ingest is away would last its whole time."""
    async with bench(tmp_path, settle="0 s", acknowledge="store") as b:
        b.start()
        b.append(3)
        await b.journal.flush()
        with capture_logs() as logs:
            await b.publisher.drain(20)
        assert [entry["event"] for entry in logs] == [
            "Connected, and messages are taken."
        ]  # not: stopped before all was
        assert b.sent() == [1, 2, 3]
        assert b.journal.pending("cloud") == [(1, 3)]


async def test_what_is_stored_already_is_not_sent_after_a_restart(tmp_path: Path) -> None:
    async with bench(tmp_path, settle="0 s", acknowledge="store") as b:
        b.append(3)
        await b.journal.flush()
        b.publisher.stored([(1, 2)])
        assert b.journal.pending("cloud") == [(3, 3)]
        b.start()
        await b.until(partial(_sent, b, [3]))


@pytest.mark.parametrize("other", [{"format": "json"}, {"tags": ["press-1/*"]}])
def test_a_store_that_is_not_told_everything_cannot_acknowledge(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="acknowledge: store needs"):
        PublisherOptions.model_validate({"url": "mqtt://h", "acknowledge": "store", **other})
