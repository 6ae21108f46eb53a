"""The journal: packing, appending and committing, on the disk of the system's directory for temporary files.

Records are scans of float32 tags. `power` syncs each commit: what comes of that is the disk's affair.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gateway.codec import pack, pack_gap, unpack
from gateway.journal import Journal
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.options import JournalOptions


def scans(size: int, count: int) -> tuple[TagTable, list[Batch]]:
    """Make scans of signals with 12 bits that wander by a step or none."""
    rng = np.random.default_rng(1)
    table = TagTable("plant", "all", Kind.FLOAT, tuple(Tag(f"t{n}", "a", type="float32") for n in range(size)))
    level, span = rng.integers(0, 4096, size), rng.choice([10.0, 16.0, 100.0, 250.0, 1000.0], size)
    made = []
    for number in range(count):
        level = np.clip(level + rng.integers(-1, 2, size) * (rng.random(size) < 0.5), 0, 4095)
        value = (level / 4096 * span).astype(np.float32).astype(np.float64)
        made.append(Batch.full(table, value, 1_795_000_000_000_000_000 + number * 1_000_000_000))
    return table, made


def per_call(work: Callable[[], Any], seconds: float = 0.5) -> float:
    """Give CPU seconds per call: the median of several rounds."""
    work()
    began, calls = time.process_time(), 0
    while time.process_time() - began < seconds / 10:
        work()
        calls += 1
    rounds = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(max(1, calls)):
            work()
        rounds.append((time.process_time() - began) / max(1, calls))
    return sorted(rounds)[3]


def packing() -> list[dict[str, Any]]:
    rows = []
    for size in (100, 1000, 10_000):
        table, (batch,) = scans(size, 1)
        record = pack(batch, 1)
        ns = per_call(lambda batch=batch: pack(batch, 1)) / size * 1e9  # type: ignore[misc]
        back = per_call(lambda record=record, table=table: unpack(record, lambda _: table)) / size * 1e9  # type: ignore[misc]
        rows += [
            {"name": f"pack, {size} tags", "value": ns, "unit": "ns/reading", "goal": "100 with the stages"},
            {"name": f"unpack, {size} tags", "value": back, "unit": "ns/reading", "goal": ""},
            {"name": f"record, {size} tags", "value": len(record) / size, "unit": "bytes/reading", "goal": ""},
        ]
    return rows


async def writing(durability: str, size: int, total: int) -> dict[str, Any]:
    """Append `total` bytes of records of `size` bytes as fast as they are committed, acknowledged as they go."""
    rng = np.random.default_rng(1)
    record = rng.bytes(size)
    with tempfile.TemporaryDirectory() as directory:
        options = JournalOptions(durability=durability)
        journal = await Journal.open(Path(directory), options, ["cloud"], pack_gap)
        count, began, cpu, appending = total // size, time.perf_counter(), time.process_time(), 0.0
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(count // 20):
                journal.append(record, 100)
            appending += time.perf_counter() - start
            await journal.flush()
            journal.acknowledge("cloud", 1, journal.committed, 0)
        spent, cpu = time.perf_counter() - began, time.process_time() - cpu
        await journal.close()
    done = count // 20 * 20
    return {
        "mb": done * size / spent / 1e6,
        "records": done / spent,
        "append": appending / done * 1e6,
        "cpu": cpu / done * 1e6,
    }


async def commits(durability: str, count: int = 100) -> float:
    """Give the median ms from append to the news of its commit, when nothing is waited for."""
    with tempfile.TemporaryDirectory() as directory:
        options = JournalOptions(durability=durability)
        journal = await Journal.open(Path(directory), options, ["cloud"], pack_gap)
        took = []
        for _ in range(count):
            began = time.perf_counter()
            journal.append(bytes(30_000), 10_000)
            await journal.flush()
            took.append(time.perf_counter() - began)
        await journal.close()
    return sorted(took)[count // 2] * 1000


def run() -> list[dict[str, Any]]:
    rows = packing()
    for durability in ("power", "process"):
        for size, total in ((50_000, 200_000_000), (500, 20_000_000)):
            found = asyncio.run(writing(durability, size, total))
            what = f"{durability}, records of {size / 1000:g} kB"
            rows += [
                {"name": f"write, {what}", "value": found["mb"], "unit": "MB/s", "goal": ""},
                {"name": f"write, {what}", "value": found["records"], "unit": "records/s", "goal": ""},
                {"name": f"append, {what}", "value": found["append"], "unit": "us/record", "goal": ""},
                {"name": f"CPU, {what}", "value": found["cpu"], "unit": "us/record", "goal": ""},
            ]
        rows.append(
            {
                "name": f"commit of 30 kB, {durability}",
                "value": asyncio.run(commits(durability)),
                "unit": "ms",
                "goal": "",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:45} {row['value']:12.2f} {row['unit']}")
