"""Power cuts before every sync and every write that the journal makes; what was not synced is gone in several ways."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.model.power import MODES, record
from tests.model.power_journal import PROGRAM, cut_everywhere
from tests.soak.conftest import asked

SEED = asked("SEED", 20261122)


@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("durability", ["power", "process"])
async def test_power_cut_at_every_moment(tmp_path: Path, durability: str) -> None:
    root, began = tmp_path / "root", time.monotonic()
    root.mkdir()
    acts = record(PROGRAM, root, tmp_path, durability, "300")
    modes = (*MODES, "writes", "sectors", "sectors")
    verdict = await cut_everywhere(acts, root, tmp_path / "image", modes, every=1, chance=random.Random(SEED))
    print(
        f"seed {SEED}, {durability}: {len(acts)} writes and syncs, {verdict.images} power cuts,"
        f" {verdict.lost} committed records lost at most, wrong: {len(verdict.wrong)}, {time.monotonic() - began:.0f} s"
    )
    print(*verdict.wrong[:20], sep="\n")
    assert verdict.wrong == ()
    assert (verdict.lost == 0) is (durability == "power")
