"""The journal's file cut off at every offset, and with every bit turned of every byte that may matter."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.model.journal_damage import bench
from tests.soak.conftest import asked

SEED = asked("SEED", 20261122)
STEP = asked("STEP", 1)  # of the offsets and bytes; 1 is each


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("wal", [True, False], ids=["killed", "closed"])
async def test_cut_off_at_every_offset_and_with_a_bit_of_every_byte_turned(tmp_path: Path, wal: bool) -> None:
    made, chance, began = await bench(tmp_path, wal=wal, commits=6), random.Random(SEED), time.monotonic()
    cuts, flips = 0, 0
    found: dict[str, str] = {}
    for name, size in made.sizes().items():
        for at in range(chance.randrange(STEP), size, STEP):
            for how in ({"cut": at}, {"flips": (8 * at + chance.randrange(8),)}):
                if said := await made.spoilt(name, **how):  # type: ignore[arg-type]
                    found[f"{name} {how}"] = said
            cuts, flips = cuts + 1, flips + 1
    print(f"seed {SEED}, {made.sizes()}: {cuts} cuts, {flips} turned bits, {time.monotonic() - began:.0f} s: {found}")
    assert found == {}
