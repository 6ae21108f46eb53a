"""Every measurement can be run: what one borrows from another is there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

PARTS = sorted(path.stem for path in (Path(__file__).parents[2] / "bench").glob("*.py") if path.stem != "__main__")


@pytest.mark.parametrize("part", PARTS)
def test_each_measurement_can_be_imported(part: str) -> None:
    import_module(f"bench.{part}")
