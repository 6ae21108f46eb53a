"""Power cuts at any moment: with durability `power` nothing told committed is lost. tests/soak has all."""

from __future__ import annotations

import random
from pathlib import Path

from tests.model.power import MODES, record
from tests.model.power_journal import PROGRAM, cut_everywhere

SEED = 20261122


async def test_what_was_told_committed_is_there_after_any_power_cut(tmp_path: Path) -> None:
    """And a small file that was written as a whole has its old content or the new one."""
    root = tmp_path / "root"
    root.mkdir()
    acts = record(PROGRAM, root, tmp_path, "power", "120")
    verdict = await cut_everywhere(acts, root, tmp_path / "image", MODES, every=25, chance=random.Random(SEED))
    assert (verdict.wrong, verdict.lost) == ((), 0)
    assert verdict.images > 100


async def test_with_durability_process_a_power_cut_takes_the_latest_commits_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    acts = record(PROGRAM, root, tmp_path, "process", "120")
    verdict = await cut_everywhere(acts, root, tmp_path / "image", MODES, every=25, chance=random.Random(SEED))
    assert verdict.wrong == ()
    assert verdict.lost > 0, "a cut that loses nothing tests nothing"
