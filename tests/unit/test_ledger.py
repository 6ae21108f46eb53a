"""The account: whatever order messages come in, however often, and wherever a process dies, it says what is missing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.contracts import Block
from gateway.ledger import HOUR, Ledger, Standing
from gateway.model import Batch, Gap, Kind, Tag, TagTable
from gateway.statements import Summary

TABLE = TagTable("press", "g", Kind.FLOAT, (Tag("a", ""), Tag("b", "")))
NOW = 500_000 * HOUR


def scan(rows: int = 2, time: int = NOW) -> Batch:
    tags = np.arange(rows, dtype=np.uint32) % 2
    return Batch(TABLE, tags, np.zeros(rows), np.zeros(rows, np.uint32), np.full(rows, time, np.int64))


def block(*numbers: int) -> Block:
    return Block("g", "j", numbers, tuple(scan() for _ in numbers))


def summary(committed: int, waiting: list[tuple[int, int]], *, complete: bool = True) -> Summary:
    return Summary("g", "j", "cloud", NOW, committed, 2 * committed, waiting, complete)


def heard(ledger: Ledger, *summaries: Summary) -> Standing:
    ledger.hear(summaries)
    return ledger.standing("g", "j")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "account.sqlite"


def test_what_is_settled_but_not_stored_is_undeclared(path: Path) -> None:
    """This is the alarm: the gateway has let go of readings that the store never got."""
    ledger = Ledger(path)
    ledger.note([block(1, 2, 5, 9)])
    standing = heard(ledger, summary(10, [(10, 10)]))
    assert standing.undeclared == ((3, 4), (6, 8))
    assert (standing.stored, standing.waiting) == (4, 1)
    ledger.note([block(4, 3, 8, 7, 6)])
    assert ledger.standing("g", "j").undeclared == ()


def test_what_a_gap_record_explains_is_no_loss(path: Path) -> None:
    ledger = Ledger(path)
    gap = Gap("", "", NOW, NOW + 5, "journal full", 7, 0, 2, 3)
    ledger.note([block(1), Block("g", "j", (4,), (gap,))])
    standing = heard(ledger, summary(4, []))
    assert standing.undeclared == ()
    assert (standing.stored, standing.declared) == (2, 2)


def test_a_publisher_that_tells_a_part_of_the_tags_leaves_holes_by_right(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note([block(1, 4)])
    assert heard(ledger, summary(4, [], complete=False)).undeclared == ()


def test_what_another_worker_has_stored_is_no_loss_here(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note([block(1, 4)])
    assert heard(ledger, summary(4, [])).undeclared == ((2, 3),)
    ledger.stored_elsewhere([("g", "j", [(1, 3)])])
    assert ledger.standing("g", "j").undeclared == ()
    assert ledger.newest("g", "j", 5) == [(1, 4)]


def test_what_was_settled_before_this_account_began_is_not_its_business(path: Path) -> None:
    """A store that is set up later, or a second one, must not cry over the past."""
    ledger = Ledger(path)
    assert heard(ledger, summary(100, [])).undeclared == ()
    ledger.note([block(101)])
    assert heard(ledger, summary(103, [])).undeclared == ((102, 103),)


def test_a_record_in_parts_is_stored_when_all_its_rows_are(path: Path) -> None:
    """Confirming it at the first part would let the gateway forget the others."""
    ledger = Ledger(path)

    def part(first: int, rows: int) -> Block:
        return Block("g", "j", (1,), (scan(rows),), {0: (first, 10)})

    assert not len(ledger.note([part(0, 4)])["g", "j"])
    assert not len(ledger.note([part(0, 4), part(7, 3)])["g", "j"])
    ledger.close()
    ledger = Ledger(path)
    assert list(ledger.note([part(4, 3)])["g", "j"]) == [(1, 1)]
    (hour,) = ledger.hours(NOW, NOW + 1)
    assert (hour.delivered, hour.duplicates) == (10, 4)
    ledger.note([part(4, 3)])
    assert ledger.hours(NOW, NOW + 1)[0].duplicates == 7


def test_readings_are_counted_in_the_hour_of_their_own_time(path: Path) -> None:
    ledger = Ledger(path)
    both = Batch(TABLE, *(np.concatenate([getattr(x, n) for x in (scan(), scan(2, NOW + HOUR))]) for n in
                          ("tag", "value", "quality", "time")))  # fmt: skip
    ledger.note([Block("g", "j", (1,), (both,))])
    assert [(each.hour, each.delivered) for each in ledger.hours(NOW, NOW + HOUR + 1)] == [(NOW, 2), (NOW + HOUR, 2)]
    assert [each.hour for each in ledger.hours(NOW + HOUR, NOW + HOUR + 1)] == [NOW + HOUR]


def test_lost_numbers_are_dated_by_their_neighbours(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note([Block("g", "j", (1, 9), (scan(), scan(2, NOW + 3 * HOUR)))])
    assert ledger.when("g", "j", 2, 8) == (NOW, NOW + 4 * HOUR)


@pytest.mark.parametrize("how", ["ABORT", "ROLLBACK"])
def test_a_note_that_fails_is_not_remembered(path: Path, how: str) -> None:
    """Else the account would say stored of what the file does not have. On a full disk SQLite itself rolls back."""
    ledger = Ledger(path)
    ledger.note([block(1)])
    ledger._connection.execute(f"CREATE TRIGGER no BEFORE INSERT ON runs BEGIN SELECT RAISE({how}, 'full'); END")
    with pytest.raises(sqlite3.Error, match="full"):
        ledger.note([block(2)])
    ledger._connection.execute("DROP TRIGGER no")
    assert ledger.standing("g", "j").stored == 1
    assert list(ledger.note([block(2)])["g", "j"]) == [(2, 2)]
    assert ledger.standing("g", "j").stored == 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_order_of_messages_and_restarts_gives_the_same_account(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "account.sqlite"
    ledger = Ledger(path)
    ledger.note([block(1)])
    heard(ledger, summary(1, []))
    stored, settled, notes = {1}, {1}, 1
    for step in data.draw(st.lists(st.sampled_from(["note", "hear", "restart"]), max_size=12)):
        if step == "note":
            numbers = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
            done = ledger.note([block(*numbers)])["g", "j"]
            assert {n for a, b in done for n in range(a, b + 1)} == set(numbers)
            stored |= set(numbers)
            notes += len(numbers)
        elif step == "hear":
            committed = data.draw(st.integers(1, 30))
            heard(ledger, summary(committed, []))
            settled |= set(range(1, committed + 1))
        else:
            ledger.close()
            ledger = Ledger(path)
        standing = ledger.standing("g", "j")
        assert {n for a, b in standing.undeclared for n in range(a, b + 1)} == settled - stored
        assert standing.stored == len(stored)
        (hour,) = ledger.hours(NOW, NOW + 1)
        assert (hour.delivered, hour.duplicates) == (2 * len(stored), 2 * (notes - len(stored)))
    ledger.close()
