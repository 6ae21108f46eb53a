"""A small journal, its file spoilt in some way, and what the journal then says: the truth, or loudly nothing.

What must hold of a spoilt file that is opened (`judge`): the journal opens; each record that it gives was appended,
with the same number and the same bytes; of what is missing there is a gap record that tells the time of it, or nothing
later has survived either (the gap of the gateway's own absence begins with the last record that has); nothing is taken
for acknowledged that was not. Or the file is set aside, with an error in the log and a gap record.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import structlog

from gateway.errors import JournalError
from gateway.journal import Journal
from gateway.journal.disk import RESERVE
from gateway.journal.file import sealed
from gateway.model import Gap
from gateway.options import JournalOptions

NAMES = ("cloud", "plant")
SECOND = 10**9
T0 = 1_700_000_000 * SECOND
FILES = ("journal.sqlite", "journal.sqlite-wal")
OPTIONS = JournalOptions(commit_interval="1 h", durability="process")


def pack_gap(gap: Gap) -> bytes:
    return b"gap" + orjson.dumps([gap.start, gap.end, gap.readings, gap.first, gap.last, gap.reason])


@dataclass
class Truth:
    """What was appended and acknowledged: record and time by sequence."""

    records: dict[int, bytes] = field(default_factory=dict)
    acknowledged: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in NAMES})
    definitions: dict[int, bytes] = field(default_factory=dict)
    identity: str = ""

    @staticmethod
    def time(sequence: int) -> int:
        return T0 + sequence * SECOND


async def make(directory: Path, commits: int = 12, *, wal: bool = True) -> Truth:
    """Write a journal, and leave its files as a kill would (or, without `wal`, as an orderly end does)."""
    truth, work = Truth(), directory.with_name(directory.name + "-work")
    clock = [T0]
    journal = await Journal.open(work, OPTIONS, NAMES, pack_gap, clock=lambda: clock[0])
    truth.identity = journal.id
    with contextlib.closing(sqlite3.connect(work / FILES[0], isolation_level=None)) as made:
        made.execute("UPDATE journal SET created = ?", (T0,))
        made.execute("UPDATE seals SET crc = ? WHERE name = 'id'", (sealed(journal.id, T0),))
    for commit in range(commits):
        number = journal.define(bytes([commit % 3]) * 8, f"definition {commit % 3}".encode() * 8)
        truth.definitions[number] = f"definition {commit % 3}".encode() * 8
        for place in range(3):
            record = f"record {commit}.{place} of definition {number} ".encode() * (1 + 7 * ((commit + place) % 4))
            sequence = journal.committed + 1 + place
            clock[0] = truth.time(sequence)
            assert journal.append(record, 1, clock[0], clock[0] + SECOND // 2) == sequence
            truth.records[sequence] = record
        await journal.flush()
        for name, first, last in (("cloud", 3 * commit - 3, 3 * commit - 1), ("plant", 3 * commit - 9, 3 * commit - 8)):
            if first > 0:
                journal.acknowledge(name, first, last, last - first + 1)
                truth.acknowledged[name].update(range(first, last + 1))
    await journal.flush()
    if wal:
        shutil.copytree(work, directory)
    await journal.close()
    if not wal:
        shutil.copytree(work, directory)
    shutil.rmtree(work)
    return truth


async def judge(directory: Path, truth: Truth) -> str:
    """Open the spoilt files, and give what is wrong with what is seen; nothing where all is as it must be."""
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):  # damage that shows only later ends the process, which is started again
            try:
                return await _judged(directory, truth, logs)
            except JournalError as error:
                reason = str(error)
    return f"three starts, three failures: {reason}"


async def _judged(directory: Path, truth: Truth, logs: list[structlog.typing.EventDict]) -> str:
    journal = await Journal.open(directory, OPTIONS, NAMES, pack_gap)
    try:
        last = journal.committed
        survived = journal.last_time
        found = await _read(journal)
        for _ in range(3):  # damage is declared by the commit after, and its gap record by the next
            await journal.flush()
        found |= {number: record for number, record in (await _read(journal)).items() if number not in found}
        pending = {name: _numbers(journal.pending(name)) for name in NAMES}
        definitions = {number: _definition(journal, number) for number in truth.definitions}
    finally:
        await journal.close()
    gaps = [orjson.loads(record[3:]) for number, record in found.items() if number > last and record[:3] == b"gap"]
    loud = any(entry["log_level"] == "error" for entry in logs)
    if journal.id != truth.identity:
        if not loud or not gaps:
            return f"set aside, but loud: {loud}, gaps {gaps}"
        least = min(gap[0] for gap in gaps)
        oldest = min(set(truth.records) - (truth.acknowledged["cloud"] & truth.acknowledged["plant"]))
        return (
            ""
            if least <= truth.time(oldest + 2)
            else f"set aside, and the gap begins {least - truth.time(oldest)} ns late"
        )
    for number, record in found.items():
        if number <= last and truth.records.get(number) != record:
            return f"record {number} is wrong"
    for number, definition in definitions.items():
        if definition not in (truth.definitions[number], None):
            return f"definition {number} is wrong: {definition!r}"
    for name in NAMES:
        for number in set(truth.records) - truth.acknowledged[name]:
            declared = any(gap[0] <= truth.time(number) <= gap[1] for gap in gaps) and loud
            if number in found and number not in pending[name]:
                return f"record {number} counts as acknowledged by {name}"
            if number not in found and not declared and truth.time(number) <= survived:
                return f"record {number} is missing, undeclared (loud: {loud}, gaps {gaps})"
    return ""


def _definition(journal: Journal, number: int) -> bytes | None:
    try:
        return journal.definition(number)
    except LookupError:
        return None


async def _read(journal: Journal) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < journal.committed:
        chunk = await journal.read(at + 1, journal.committed, 1000)
        found.update(chunk.records)
        at = chunk.through
    return found


def _numbers(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, min(last, first + 10_000) + 1)}


@dataclass
class Bench:
    """A made journal, and copies of it to spoil."""

    root: Path
    origin: Path
    truth: Truth
    count: int = 0

    def sizes(self) -> dict[str, int]:
        return {name: (self.origin / name).stat().st_size for name in FILES if (self.origin / name).exists()}

    async def spoilt(self, name: str, *, cut: int | None = None, flips: tuple[int, ...] = ()) -> str:
        """Cut a file at an offset, or turn bits (given as byte * 8 + bit), and judge."""
        self.count += 1
        copy = self.root / f"copy-{self.count}"
        copy.mkdir()
        for each in FILES:
            if (self.origin / each).exists():
                shutil.copyfile(self.origin / each, copy / each)
        (copy / RESERVE).touch()  # laid by when the journal was begun
        os.utime(copy / RESERVE, ns=(T0, T0))
        octets = bytearray((copy / name).read_bytes())
        for flip in flips:
            octets[flip // 8] ^= 1 << flip % 8
        (copy / name).write_bytes(octets if cut is None else octets[:cut])
        try:
            return await judge(copy, self.truth)
        finally:
            shutil.rmtree(copy)


async def bench(root: Path, *, wal: bool, commits: int = 12) -> Bench:
    origin = root / ("killed" if wal else "closed")
    return Bench(root, origin, await make(origin, commits, wal=wal))
