"""Readings that are left out to keep a budget are counted, each of them, and told."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway import quality as q
from gateway.contracts import Record
from gateway.model import Batch, Gap, Kind, Tag, TagTable
from gateway.thinning import Thinning

T0 = 10**18
TABLE = TagTable("d", "g", Kind.FLOAT, tuple(Tag(f"t{n}", "a", deadband=0.5) for n in range(3)))
PLAIN = TagTable("d", "plain", Kind.FLOAT, (Tag("x", "a"), Tag("y", "a", deadband=0.0)))


def scan(number: int, values: list[float], table: TagTable = TABLE, codes: list[int] | None = None) -> Record:
    quality = None if codes is None else np.array(codes, dtype=np.uint32)
    return Record(number, Batch.full(table, np.array(values), T0 + number * 10**9, quality))


def values(records: list[Record]) -> list[list[float]]:
    return [record.content.value.tolist() for record in records if isinstance(record.content, Batch)]


def test_small_changes_are_left_out_and_declared() -> None:
    thin = Thinning(4, [TABLE, PLAIN])
    first, lost = thin([scan(1, [1.0, 1.0, 1.0])])
    assert (values(first), lost) == ([[1.0, 1.0, 1.0]], False)
    rest, lost = thin([scan(2, [2.0, 2.5, 1.0]), scan(3, [2.9, 9.0, 1.1])])
    assert lost
    # t1 went 1.0, 2.5 (held back), 9.0: the reading before the step comes with it
    assert values(rest) == [[2.5, 9.0]]
    assert rest[0].sequence == 3
    assert isinstance(rest[0].content, Batch)
    assert rest[0].content.table is TABLE
    assert thin.declare() == [Record(3, Gap("d", "g", T0 + 2 * 10**9, T0 + 3 * 10**9, "thinned", 4))]
    assert thin.declare() == []


def test_what_has_no_deadband_passes_as_it_is() -> None:
    thin = Thinning(4, [TABLE, PLAIN])
    records = [scan(number, [1.0, 1.0], PLAIN) for number in range(1, 5)]
    left, lost = thin(records)
    assert [a is b for a, b in zip(left, records, strict=True)] == [True] * 4
    assert not lost
    assert not Thinning(4, [PLAIN])


def test_a_change_of_quality_and_history_and_gaps_pass() -> None:
    thin = Thinning(4, [TABLE])
    thin([scan(1, [1.0, 1.0, 1.0])])
    bad, _ = thin([scan(2, [1.0, 1.0, 1.0], codes=[q.BAD, 0, 0])])
    assert isinstance(bad[0].content, Batch)
    assert bad[0].content.quality.tolist() == [q.BAD]
    history = scan(3, [1.0, 1.0, 1.0])
    assert isinstance(history.content, Batch)
    history.content.backfill = True
    gap = Record(4, Gap("d", "g", 1, 2, "away"))
    left, lost = thin([history, gap])
    assert left == [history, gap]
    assert not lost


def test_a_new_session_begins_with_every_reading() -> None:
    """What came before may not have arrived; its records come again."""
    thin = Thinning(4, [TABLE])
    thin([scan(1, [1.0, 1.0, 1.0]), scan(2, [1.0, 1.0, 1.0])])
    thin.forget()
    assert thin.declare() == []
    left, lost = thin([scan(1, [1.0, 1.0, 1.0])])
    assert (len(left), lost) == (1, False)


@given(st.lists(st.lists(st.floats(-10, 10, width=16), min_size=3, max_size=3), min_size=1, max_size=30),
       st.integers(1, 5))  # fmt: skip
def test_every_reading_is_either_passed_on_or_declared(scans: list[list[float]], often: int) -> None:
    thin = Thinning(3, [TABLE])
    passed = declared = 0
    for number, row in enumerate(scans, 1):
        left, lost = thin([scan(number, row)])
        rows = sum(len(record.content) for record in left if isinstance(record.content, Batch))
        passed += rows
        assert lost == (rows != 3)
        if number % often == 0:
            declared += sum(gap.content.readings for gap in thin.declare() if isinstance(gap.content, Gap))
    declared += sum(gap.content.readings for gap in thin.declare() if isinstance(gap.content, Gap))
    # a reading that was declared and then came with a step is counted twice, none is missing
    assert passed + declared >= 3 * len(scans)
