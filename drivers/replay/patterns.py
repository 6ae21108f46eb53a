"""Made-up columns for benchmarks and demonstrations: cheap, and the same for the same time.

A table's patterns are compiled to a few arrays; a scan of 10,000 tags is one gather. Tags of one pattern differ in
phase, so that a column does not compress to nothing. Values look like measurements: sine and walk have steps of 1/64,
so float32 holds them exactly.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.replay.spec import PATTERNS, Source
from gateway.model import Kind, TagTable

STEPS: Final = 4096
STEP: Final = 100_000_000  # ns


@cache
def _waves() -> NDArray[np.float64]:
    """Give one line of STEPS values per pattern; counter, and what has to look random, are added when read."""
    angle = np.arange(STEPS) * (2 * np.pi / STEPS)
    random = np.random.Generator(np.random.PCG64(20260101))
    lines = {
        "sine": np.rint((50 + 40 * np.sin(angle)) * 64) / 64,
        "walk": np.rint(64 * (50 + np.cumsum(random.choice((-1, 1), STEPS)) / 8)) / 64,
        "noise": random.random(STEPS) * 100,
        "on-off": (angle < np.pi).astype(np.float64),
        "constant": np.full(STEPS, 21.5),
    }
    return np.stack([lines.get(pattern, np.arange(STEPS, dtype=np.float64)) for pattern in PATTERNS])


class Generator:
    """The patterns of one table."""

    def __init__(self, table: TagTable) -> None:
        sources: list[Source] = [tag.source for tag in table.tags]
        self._kind = table.kind
        lines = np.array([PATTERNS.index(source.series) for source in sources])
        self._waves = _waves()
        self._counters = np.flatnonzero(lines == PATTERNS.index("counter"))
        self._start = lines * STEPS
        self._phase = np.arange(len(sources), dtype=np.int64) * 37
        self._narrow = np.array([source.type == "float32" for source in sources])

    def values(self, time: int) -> NDArray[Any]:
        """Give the column at this time (ns), in the table's dtype."""
        step = time // STEP
        values: NDArray[Any] = self._waves.ravel()[self._start + (self._phase + step) % STEPS]
        values[self._counters] = (self._phase[self._counters] + step).astype(np.float64)
        if self._kind is Kind.FLOAT:
            if self._narrow.any():
                values = np.where(self._narrow, values.astype(np.float32), values)
            return values
        if self._kind is Kind.TEXT:
            return np.array([f"{value:g}" for value in values.tolist()], dtype=object)
        return values.astype(np.bool_ if self._kind is Kind.BOOL else self._kind.dtype)
