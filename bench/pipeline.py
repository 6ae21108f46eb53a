"""Stages and packing: ns of CPU a reading, for scans of 100, 1,000 and 10,000 tags.

The tags are what a plant has: a third plain, a third scaled with limits, a third with a deadband. Beside it the way
with an object per reading does the deadband test alone, as a ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gateway.metrics import Metrics
from gateway.model import Batch, Group, Kind, Tag, TagTable
from gateway.pipeline import Pipeline

SECOND = 1_000_000_000


class _Nowhere:
    """A journal that forgets: the pipeline's own cost is measured."""

    def define(self, fingerprint: bytes, definition: bytes) -> int:
        return 1

    def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int:
        return 1


def cpu(work: Callable[[], None], at_least: float = 0.5) -> float:
    """Give the CPU seconds of one call, from enough calls to last `at_least` seconds."""
    work()
    calls, start = 0, time.process_time()
    while time.process_time() - start < at_least:
        work()
        calls += 1
    return (time.process_time() - start) / calls


def tags(count: int) -> tuple[Tag, ...]:
    kinds = (
        lambda name: Tag(name, name),
        lambda name: Tag(name, name, scale=Fraction("0.1"), offset=Fraction("-40"), minimum=-100.0, maximum=500.0),
        lambda name: Tag(name, name, deadband=0.5),
    )
    return tuple(kinds[number % 3](f"tag{number}") for number in range(count))


def _columns(count: int) -> Callable[[], None]:
    table = TagTable("bench", "default", Kind.FLOAT, tags(count))
    pipeline = Pipeline(Group("bench", "default", SECOND, 0, (table,)), _Nowhere(), Metrics())
    generator = np.random.default_rng(1)
    scans = [np.round(generator.normal(200.0, 20.0, count), 1).astype(np.float32).astype(np.float64) for _ in range(16)]
    turn = 0

    def work() -> None:
        nonlocal turn
        turn += 1
        pipeline.take([Batch.full(table, scans[turn % 16], turn * SECOND)])

    return work


@dataclass
class _Reading:
    name: str
    value: float
    quality: int
    time: int


def _objects(count: int) -> Callable[[], None]:
    generator = np.random.default_rng(1)
    scans = [generator.normal(200.0, 20.0, count).tolist() for _ in range(16)]
    last: dict[str, _Reading] = {}
    names = [f"tag{number}" for number in range(count)]
    turn = 0

    def work() -> None:
        nonlocal turn
        turn += 1
        for name, value in zip(names, scans[turn % 16], strict=True):
            reading = _Reading(name, value, 0, turn)
            before = last.get(name)
            if before is None or before.quality != reading.quality or abs(before.value - reading.value) > 0.5:
                last[name] = reading

    return work


def run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    figures = {count: cpu(_columns(count)) / count * 1e9 for count in (100, 1_000, 10_000)}
    for count, figure in figures.items():
        goal = "100" if count == 10_000 else ""
        rows.append(
            {"name": f"stages + pack, {count:,} tags a scan", "value": figure, "unit": "ns/reading", "goal": goal}
        )
    objects = cpu(_objects(10_000)) / 10_000 * 1e9
    rows.append({"name": "deadband test with an object per reading", "value": objects, "unit": "ns/reading"})
    rows.append({"name": "objects : columns", "value": objects / figures[10_000], "unit": "x"})
    return rows
