"""The long tests: `make soak`. Each prints its seed and its figures; how long and how often is in the environment.

PLANTBRIDGE_SOAK_SECONDS   how long the plant runs whose memory is watched; 7200 where nothing is said
PLANTBRIDGE_SOAK_ROUNDS    how many processes are killed; 200
PLANTBRIDGE_SOAK_SEED      what the random moments come from; today's date is as good as any
PLANTBRIDGE_SOAK_FIGURES   a folder for the figures as CSV; else they are printed only
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.soak)


def asked(name: str, otherwise: int) -> int:
    """Give a number from the environment: `asked("ROUNDS", 200)` looks at PLANTBRIDGE_SOAK_ROUNDS."""
    return int(os.environ.get(f"PLANTBRIDGE_SOAK_{name}", otherwise))
