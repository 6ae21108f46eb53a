"""What the end-to-end tests share: every plant is proven whole, true and single-stored when it is shut down."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import proof
from tests.e2e.plant import Plant

LONGEST = ("test_a_link_that_goes_silent", "test_an_edge_killed_at_twenty", "test_one_silent_unit_of_eight")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: not item.name.startswith(LONGEST))  # begun last they would run alone at the end


def prove(plant: Plant, tolerance: float = 2.0) -> proof.Evidence:
    """Shut the plant down in order and hold the store against the simulator and the clock."""
    plant.down()
    evidence = plant.evidence()
    account = plant.account()
    print(f"stored {evidence.count}, gaps {len(evidence.holes)}, journal: {account}")
    assert evidence.count == account.appended - account.dropped > 0
    assert proof.duplicates(evidence) == 0
    assert proof.undeclared(evidence, plant.site) == {}
    assert proof.wrong(evidence, plant.site, tolerance) == []
    return evidence
