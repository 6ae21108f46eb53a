"""Power cuts: what a program did to its files is written down (power.c), and disks are made that lost their power.

A disk of the moment `cut` has every write that was synced before, and of the others any: none, all, or some of them,
whole or by sectors of 512 bytes. A name (made, moved, removed) is there when its directory was synced; of the later
ones the first few, because file systems keep their order. This is what ALICE does (Pillai et al., 2014).
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers import need

SECTOR = 512
HEAD = struct.Struct("<cIIQ")
MODES = ("nothing", "everything", "writes", "sectors")


@dataclass(frozen=True, slots=True)
class Act:
    """One entry of the log."""

    what: str  # O W T S D R U
    path: str
    offset: int
    data: bytes


def record(program: str, root: Path, scratch: Path, *arguments: str) -> list[Act]:
    """Run a Python program beneath the shim; give what it did to the files beneath `root`, in order."""
    if sys.platform != "linux":
        pytest.skip("the shim that records writes is for Linux")
    shim, log = scratch / "power.so", scratch / "power.log"
    source = Path(__file__).with_name("power.c")
    subprocess.run([need("gcc"), "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl", "-lpthread"], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "POWER_ROOT": str(root),
        "POWER_LOG": str(log),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run([sys.executable, "-c", program, str(root), *arguments], check=True, env=environment, timeout=120)
    return list(_acts(log.read_bytes()))


def _acts(log: bytes) -> Iterator[Act]:
    at = 0
    while at < len(log):
        what, length, size, offset = HEAD.unpack_from(log, at)
        at += HEAD.size
        path, data = log[at : at + length].decode(), log[at + length : at + length + size]
        at += length + size
        yield Act(what.decode(), path, offset, data)


@dataclass
class Disk:
    """What is on the disk for certain, and what is on its way there. `play` it forward, `lose` power at any moment."""

    files: list[bytearray] = field(default_factory=list)  # what was synced, by number
    names: dict[str, int] = field(default_factory=dict)  # where the directory was synced
    seen: dict[str, int] = field(default_factory=dict)  # as the program sees it
    writes: dict[int, list[Act]] = field(default_factory=dict)  # not synced, by number of the file
    moves: list[tuple[str, str, int]] = field(default_factory=list)  # of names, not synced: what, name, number

    def play(self, act: Act) -> None:
        if act.what == "O":
            if act.path not in self.seen:
                self.files.append(bytearray())
                self.seen[act.path] = len(self.files) - 1
                self.moves.append(("made", act.path, len(self.files) - 1))
        elif act.what in "WT":
            self.writes.setdefault(self.seen[act.path], []).append(act)
        elif act.what == "S":
            if act.path in self.seen:
                number = self.seen[act.path]
                for each in self.writes.pop(number, ()):
                    _apply(self.files[number], each)
        elif act.what == "D":
            later = []
            for move in self.moves:
                if os.path.dirname(move[1]) == act.path:
                    _move(self.names, move)
                else:
                    later.append(move)
            self.moves = later
        elif act.what == "U":
            self.moves.append(("removed", act.path, self.seen.pop(act.path)))
        elif act.what == "R":
            number = self.seen.pop(act.path)
            self.seen[act.data.decode()] = number
            self.moves += [("made", act.data.decode(), number), ("removed", act.path, number)]

    def lose(self, mode: str, chance: random.Random) -> dict[str, bytes]:
        """Give the files as they are found when the power is back."""
        names = dict(self.names)
        kept = {"nothing": 0, "everything": len(self.moves)}.get(mode, chance.randint(0, len(self.moves)))
        for move in self.moves[:kept]:
            _move(names, move)
        found = {}
        for name, number in names.items():
            octets = bytearray(self.files[number])
            for act in self.writes.get(number, ()):
                for piece in _survivors(act, mode, chance):
                    _apply(octets, piece)
            found[name] = bytes(octets)
        return found


def _survivors(act: Act, mode: str, chance: random.Random) -> Sequence[Act]:
    if mode == "nothing":
        return ()
    if mode == "everything":
        return (act,)
    if mode == "writes" or act.what == "T":
        return (act,) if chance.random() < 0.5 else ()
    pieces, at = [], 0
    while at < len(act.data):
        end = min(len(act.data), at + SECTOR - (act.offset + at) % SECTOR)
        if chance.random() < 0.5:
            pieces.append(Act("W", act.path, act.offset + at, act.data[at:end]))
        at = end
    return pieces


def _apply(octets: bytearray, act: Act) -> None:
    if act.what == "T":
        del octets[act.offset :]
        octets.extend(bytes(act.offset - len(octets)))
        return
    octets.extend(bytes(max(0, act.offset - len(octets))))
    octets[act.offset : act.offset + len(act.data)] = act.data


def _move(names: dict[str, int], move: tuple[str, str, int]) -> None:
    what, name, number = move
    if what == "made":
        names[name] = number
    elif names.get(name) == number:
        del names[name]
