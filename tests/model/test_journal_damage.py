"""A journal whose file was cut off or has bits turned tells the truth, or loudly nothing. tests/soak has all of it.

Every single byte of a file and every bit takes minutes: here are the beginnings and ends of pages and frames, where
things change, and a seeded choice of the rest.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.model.journal_damage import Bench, bench

PAGE = 4096
FRAME = PAGE + 24  # of the WAL, after a header of 32 bytes
SEED = 20261122


def edges(name: str, size: int) -> list[int]:
    """Give the offsets around each page or frame."""
    starts = range(0, size, PAGE) if name == "journal.sqlite" else range(32, size, FRAME)
    return sorted({at for start in starts for at in (start - 1, start, start + 1, start + 100) if 0 <= at < size})


async def wrong(made: Bench, spoilt: list[tuple[str, dict[str, object]]]) -> dict[str, str]:
    found = {}
    for name, how in spoilt:
        if said := await made.spoilt(name, **how):  # type: ignore[arg-type]
            found[f"{name} {how}"] = said
    return found


@pytest.mark.parametrize("wal", [True, False], ids=["killed", "closed"])
async def test_a_journal_file_that_was_cut_off_gives_a_true_part_or_is_set_aside_loudly(
    tmp_path: Path, wal: bool
) -> None:
    made, chance = await bench(tmp_path, wal=wal), random.Random(SEED)
    cuts = [(name, cut) for name, size in made.sizes().items() for cut in edges(name, size)]
    tail = [("journal.sqlite", made.sizes()["journal.sqlite"] - back) for back in range(1, 200, 7)]
    spoilt = [(name, {"cut": cut}) for name, cut in chance.sample(cuts, min(70, len(cuts))) + tail]
    assert await wrong(made, spoilt) == {}


@pytest.mark.parametrize("wal", [True, False], ids=["killed", "closed"])
async def test_a_journal_file_with_a_turned_bit_gives_a_true_part_or_is_set_aside_loudly(
    tmp_path: Path, wal: bool
) -> None:
    made, chance = await bench(tmp_path, wal=wal), random.Random(SEED)
    spoilt: list[tuple[str, dict[str, object]]] = []
    for name, size in made.sizes().items():
        spoilt += [(name, {"flips": (chance.randrange(size * 8),)}) for _ in range(50)]
        spoilt += [(name, {"flips": (chance.randrange(min(size, 600) * 8),)}) for _ in range(15)]
    assert await wrong(made, spoilt) == {}


async def test_a_file_that_was_emptied_is_set_aside_and_said(tmp_path: Path) -> None:
    """SQLite takes an empty file for a new one."""
    made = await bench(tmp_path, wal=True)
    for left in (0, 1, 99, 511):
        assert await made.spoilt("journal.sqlite", cut=left) == ""
