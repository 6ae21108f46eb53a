"""The journal against a model of a few lines: whatever is done in whatever order, both say the same.

Power cuts are played by opening a copy of the files as they are on disk at that moment, lost writes by cutting the
copy of the WAL anywhere: what is left must be what one of the commits since the start of the WAL had left.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.journal import Journal
from gateway.model import Gap
from gateway.options import JournalOptions

NAMES = ("cloud", "plant")
MAX_SIZE = 4000


@dataclass
class Model:
    """What is on disk, by the book."""

    records: dict[int, bytes] = field(default_factory=dict)
    acknowledged: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in NAMES})
    last: int = 0
    lost: int = 0

    def trim(self) -> None:
        for sequence in sorted(self.records):
            if not all(sequence in numbers for numbers in self.acknowledged.values()):
                break
            del self.records[sequence]


def pack_gap(gap: Gap) -> bytes:
    return f"gap {gap.readings}".encode()


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="journal-model-"))
        self.loop = asyncio.new_event_loop()
        self.directory = self.root / "0"
        self.copies = 0
        self.journal: Journal | None = None
        self.disk = Model()  # committed
        self.memory: list[tuple[int, bytes]] = []  # appended, not committed
        self.history = [Model()]  # what each commit since the WAL began has left

    @initialize(drop=st.booleans())
    def start(self, drop: bool) -> None:
        # one byte over anything, or room for a few records only
        self.options = JournalOptions(commit_interval="1 h", max_size=f"{MAX_SIZE if drop else 10**6} B")
        self.drop = drop
        self.open()

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 60))

    def open(self) -> None:
        self.journal = self.run(Journal.open(self.directory, self.options, NAMES, pack_gap))
        self.memory = []
        if self.drop:
            self.settle()  # gap records of the last run

    def settle(self) -> None:
        """Where records are dropped, the model learns from the journal what is left, and checks the account."""
        assert self.journal is not None
        for _ in range(3):  # a commit that drops, one for its gap record, and one that drops for that
            self.run(self.journal.flush())
        found = self.read()
        committed = dict(self.disk.records) | dict(self.memory)
        gaps = {number: record for number, record in found.items() if record.startswith(b"gap")}
        assert all(record == committed[number] for number, record in found.items() if number not in gaps)
        kept = set(found)
        gone = [number for number in committed if number not in kept]
        unknown = [
            number
            for number in gone
            if not all(number in numbers for numbers in self.disk.acknowledged.values())
            and not committed[number].startswith(b"gap")
        ]
        if unknown:
            self.lost += len(unknown)
            assert gaps
        self.disk.records = found
        self.disk.last = self.journal.committed
        self.memory = []

    lost = 0

    def read(self) -> dict[int, bytes]:
        assert self.journal is not None
        found: dict[int, bytes] = {}
        at = 0
        while at < self.journal.committed:
            chunk = self.run(self.journal.read(at + 1, self.journal.committed, 300))
            found.update(chunk.records)
            at = chunk.through
        return found

    # ------------------------------------------------------------------------------------------------ rules

    @rule(size=st.integers(1, 400))
    def append(self, size: int) -> None:
        assert self.journal is not None
        record = bytes([size % 256]) * size
        sequence = self.journal.append(record, 1, 0, 1)
        assert sequence == (self.memory[-1][0] if self.memory else self.disk.last) + 1
        self.memory.append((sequence, record))

    @rule()
    def commit(self) -> None:
        assert self.journal is not None
        if self.drop:
            self.settle()
            return
        self.run(self.journal.flush())
        self.disk.records.update(self.memory)
        if self.memory:
            self.disk.last = self.memory[-1][0]
        self.memory = []
        self.disk.trim()
        self.history.append(copy.deepcopy(self.disk))

    @precondition(lambda self: self.disk.last > 0)
    @rule(name=st.sampled_from(NAMES), data=st.data())
    def acknowledge(self, name: str, data: st.DataObject) -> None:
        """In memory at once; on disk with the next commit, which follows here so that the model stays small."""
        assert self.journal is not None
        first = data.draw(st.integers(1, self.disk.last))
        last = data.draw(st.integers(first, self.disk.last))
        self.journal.acknowledge(name, first, last, 1)
        self.disk.acknowledged[name].update(range(first, last + 1))
        self.commit()

    @rule()
    def close_and_open(self) -> None:
        assert self.journal is not None
        self.commit()
        self.run(self.journal.close())  # which empties the WAL
        self.history = [copy.deepcopy(self.disk)]
        self.open()

    @rule()
    def power_cut(self) -> None:
        """Nothing that was committed is lost; nothing that was not is there."""
        self.reopen_copy(None)

    @precondition(lambda self: not self.drop)
    @rule(data=st.data())
    def lost_writes(self, data: st.DataObject) -> None:
        """A disk that lied about what it had written: the journal opens, and is what it was some commits ago."""
        wal = self.directory / "journal.sqlite-wal"
        size = wal.stat().st_size if wal.exists() else 0
        self.reopen_copy(data.draw(st.integers(0, size)))

    def reopen_copy(self, cut: int | None) -> None:
        assert self.journal is not None
        self.copies += 1
        target = self.root / str(self.copies)
        target.mkdir()
        for suffix in ("", "-wal"):
            source = self.directory / f"journal.sqlite{suffix}"
            if source.exists():
                shutil.copy(source, target)
        if cut is not None and (target / "journal.sqlite-wal").exists():
            with (target / "journal.sqlite-wal").open("r+b") as file:
                file.truncate(cut)
        identity, history = self.journal.id, self.history
        self.run(self.journal.close())
        shutil.rmtree(self.directory)
        self.directory = target
        if cut is None:
            self.open()
        else:
            self.journal = self.run(Journal.open(target, self.options, NAMES, pack_gap))
            found, pending = self.read(), {name: self.pending(name) for name in NAMES}
            same = [
                number
                for number, model in enumerate(history)
                if (model.last, model.records) == (self.journal.committed, found)
                and all(pending[name] == set(found) - model.acknowledged[name] for name in NAMES)
            ]
            assert same, "the journal is what no commit has left"
            self.disk = copy.deepcopy(history[same[-1]])
            self.history, self.memory = history[: same[-1] + 1], []
        assert self.journal.id == identity

    def pending(self, name: str) -> set[int]:
        assert self.journal is not None
        numbers = {number for first, last in self.journal.pending(name) for number in range(first, last + 1)}
        return numbers & set(self.read())

    # ------------------------------------------------------------------------------------------------ what holds

    @invariant()
    def both_say_the_same(self) -> None:
        if self.journal is None:
            return
        assert self.journal.committed == self.disk.last
        assert self.read() == self.disk.records
        for name in NAMES:
            assert self.pending(name) == set(self.disk.records) - self.disk.acknowledged[name]
        totals = self.journal.totals()
        assert totals.records == len(self.disk.records)
        assert totals.bytes == sum(map(len, self.disk.records.values()))
        if self.drop:
            assert totals.bytes <= MAX_SIZE + 100  # the gap record of the last loss
            assert totals.dropped == self.lost

    def teardown(self) -> None:
        if self.journal is not None:
            self.run(self.journal.close())
        self.loop.close()
        shutil.rmtree(self.root)


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJournalIsWhatItsModelSays = Machine.TestCase
