"""A disk that is full: a small file system of its own, filled to the last byte."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.journal import Journal
from gateway.journal import journal as module
from gateway.model import Gap
from gateway.options import JournalOptions


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here (root may)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    with (disk / "others").open("ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            while True:
                try:
                    if not file.write(bytes(size)):
                        break
                except OSError:
                    break


def pack_gap(gap: Gap) -> bytes:
    return b"gap " + json.dumps([gap.reason, gap.readings]).encode()


async def open_on(disk: Path, **more: Any) -> Journal:
    options = JournalOptions(**{"commit_interval": "5 ms", "max_size": "1 GB", **more})
    return await Journal.open(disk / "journal", options, ["cloud"], pack_gap)


async def read_all(journal: Journal) -> tuple[int, int]:
    """Give how many readings are in the journal, and how many are declared lost."""
    there, lost, at = 0, 0, 0
    while at < journal.committed:
        chunk = await journal.read(at + 1, journal.committed, 1 << 20)
        for _, record in chunk.records:
            if record.startswith(b"gap "):
                lost += json.loads(record[4:])[1]
            else:
                there += 10
        at = chunk.through
    return there, lost


async def append_some(journal: Journal, count: int) -> None:
    for _ in range(count):
        journal.append(os.urandom(10_000), 10, 1, 2)
        await asyncio.sleep(0.001)


async def test_a_full_disk_makes_the_oldest_give_way_and_the_loss_is_declared(disk: Path) -> None:
    with capture_logs() as logs:
        journal = await open_on(disk)
        await append_some(journal, 200)
        await journal.flush()
        fill(disk)
        await append_some(journal, 600)
        async with asyncio.timeout(60):
            await journal.flush()
            await journal.flush()
        there, lost = await read_all(journal)
        assert there + lost == 8000
        assert lost > 0
        assert journal.totals().dropped == lost
        (disk / "others").unlink()
        await append_some(journal, 100)
        await journal.close()
    assert {line["log_level"] for line in logs} <= {"error", "info"}
    journal = await open_on(disk)
    await journal.flush()
    there, lost = await read_all(journal)
    assert there + lost == 9000
    await journal.close()


async def test_a_full_disk_from_the_start_of_a_burst_loses_nothing_undeclared(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others took the room that dropping would need: readings wait in memory, and that is bounded too."""
    monkeypatch.setattr(module, "_PENDING", 500_000)
    journal = await open_on(disk, commit_size="100 kB")
    await append_some(journal, 5)
    await journal.flush()
    fill(disk)
    for _ in range(5):  # the reserve, which the journal gives back, is taken by others too
        await append_some(journal, 50)
        fill(disk)
    (disk / "others").unlink()
    async with asyncio.timeout(60):
        await journal.flush()
        await journal.flush()
    there, lost = await read_all(journal)
    assert there + lost == 2550
    assert (journal.totals().appended, journal.totals().dropped) == (2550, lost)
    await journal.close()


async def test_a_full_disk_holds_scans_where_that_is_the_policy(disk: Path) -> None:
    journal = await open_on(disk, when_full="hold-scans")
    fill(disk)
    appended = 0
    async with asyncio.timeout(60):
        while journal.room:
            await append_some(journal, 1)
            appended += 10
        (disk / "others").unlink()
        await journal.wait_room()
        await journal.flush()
    assert await read_all(journal) == (appended, 0)
    await journal.close()


async def test_a_disk_that_stays_full_does_not_keep_the_daemon_from_ending(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    journal = await open_on(disk, when_full="hold-scans")
    await append_some(journal, 5)
    await journal.flush()
    fill(disk)
    await append_some(journal, 1000)
    fill(disk)
    with capture_logs() as logs:
        async with asyncio.timeout(60):
            await journal.close()
    assert any("are lost" in line["event"] for line in logs) or not logs
    (disk / "others").unlink()
    journal = await open_on(disk)
    assert journal.totals().appended >= 50
    await journal.close()
