"""The journal and a small file before power cuts: what is done, and what must be there afterwards."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.journal import Journal
from gateway.options import JournalOptions
from tests.model.power import Act, Disk

NAMES = ("cloud", "plant")
TOLD = "told"  # a file of the program's words: `committed N`, `acknowledging N`, `state N`

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from gateway import durable
from gateway.journal import Journal
from gateway.options import JournalOptions
from tests.model.power_journal import NAMES, TOLD, content

async def main(root, durability, commits):
    told = os.open(root / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    options = JournalOptions(commit_interval="1 h", durability=durability, max_size="2 MB")
    journal = await Journal.open(root / "journal", options, NAMES, lambda gap: b"gap")
    os.write(told, b"identity " + journal.id.encode() + b"\\n")
    last = 0
    for commit in range(commits):
        for _ in range(1 + commit % 4):
            last = journal.append(content(last + 1), 1, last + 1, last + 1)
        await journal.flush()
        os.write(told, b"committed %d\\n" % last)
        if commit % 3 == 2 and commit > 20:
            os.write(told, b"acknowledging %d\\n" % (last - 30))
            for name in NAMES:
                journal.acknowledge(name, 1, last - 30, 1)
        if commit % 10 == 9:
            durable.write(root / "state" / "file.json", b"version %d " % commit * 100)
            os.write(told, b"state %d\\n" % commit)
    await journal.close()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def content(sequence: int) -> bytes:
    """Give the record of that number."""
    chance = random.Random(sequence)
    return chance.randbytes(chance.choice((50, 300, 1500, 6000)))


def pack_gap(_gap: object) -> bytes:
    return b"gap"


@dataclass
class Told:
    """What the program had been told, and said."""

    identity: str = ""
    committed: int = 0
    acknowledging: int = 0
    state: int = 0

    def hear(self, words: bytes) -> None:
        what, value = words.decode().split()
        setattr(self, what, value if what == "identity" else int(value))


@dataclass
class Verdict:
    images: int = 0
    lost: int = 0  # records that had been told committed, at most
    wrong: tuple[str, ...] = ()


async def cut_everywhere(
    acts: Sequence[Act], root: Path, place: Path, modes: Iterable[str], every: int, chance: random.Random
) -> Verdict:
    """Cut the power before each sync and at some other moments (one in `every`), and look at what is left."""
    disk, told, verdict = Disk(), Told(), Verdict()
    moments = [n for n, act in enumerate(acts) if act.what in "SDRU" or n % 5 == 0]
    chosen = {n for n in moments if chance.randrange(every) == 0}
    for number, act in enumerate(acts):
        if act.path == str(root / TOLD):
            if act.what == "W":
                told.hear(act.data)
            continue
        if number in chosen:
            for mode in modes:
                found = disk.lose(mode, chance)
                said, lost = await look(found, root, place, told)
                verdict.images += 1
                verdict.lost = max(verdict.lost, lost)
                if said:
                    verdict.wrong += (f"cut before act {number} ({act.what} {act.path}), {mode} of the rest: {said}",)
        disk.play(act)
    return verdict


async def look(found: dict[str, bytes], root: Path, place: Path, told: Told) -> tuple[str, int]:
    """Open what a power cut has left; give what is wrong with it, and how many records are gone that were committed."""
    for name, octets in found.items():
        path = place / Path(name).relative_to(root)
        if path.name.endswith("-shm"):  # SQLite never believes one that it finds
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)
    try:
        return await _judge(place, told)
    finally:
        shutil.rmtree(place)


async def _judge(place: Path, told: Told) -> tuple[str, int]:
    place.mkdir(exist_ok=True)
    state = place / "state" / "file.json"
    version = state.read_bytes() if state.exists() else b""
    words = version.split(b" ")
    if told.state and (len(version) < 100 or int(words[1]) < told.state or version != b"version %s " % words[1] * 100):
        return f"the small file holds {version[:20]!r}, and version {told.state} had been written", 0
    options = JournalOptions(commit_interval="1 h", durability="process")
    with structlog.testing.capture_logs() as logs:
        journal = await Journal.open(place / "journal", options, NAMES, pack_gap)
        try:
            there, at = {}, 0
            while at < journal.committed:
                chunk = await journal.read(at + 1, journal.committed, 100_000)
                there.update(chunk.records)
                at = chunk.through
        finally:
            await journal.close()
    if told.identity and journal.id != told.identity:
        return "it is another journal", 0
    if errors := [entry for entry in logs if entry["log_level"] == "error"]:
        return f"it says {errors}", 0
    for sequence, record in there.items():
        if record != content(sequence):
            return f"record {sequence} is wrong", 0
    wanted = range(told.acknowledging + 1, told.committed + 1)
    missing = [sequence for sequence in wanted if sequence not in there]
    if missing and missing != list(range(missing[0], told.committed + 1)):
        return f"records {missing[:5]} are missing, and later ones are there", len(missing)
    return "", len(missing)
