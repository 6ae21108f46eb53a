"""Readings as they come, for those who look on: what the daemon's path hands out, bounded, in the order it came.

A look-on costs the path a check and an append for each batch; names and JSON are made when the asker takes them. What
an asker is too slow for is dropped and counted: the path never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.local.plant import Plant, missing
from gateway.model import Batch, Kind, TagTable
from gateway.selection import matcher

ROOM: Final = 200_000  # readings that may wait for an asker
WILD: Final = "*?["


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """How one asker sees a table: under which number, and which of its tags (None: all)."""

    table: TagTable
    number: int
    wanted: NDArray[np.bool_] | None


class Watch:
    """One asker's view of what passes."""

    def __init__(self, globs: Sequence[str], room: int = ROOM) -> None:
        self._allows = matcher(globs or ["*"])
        self._views: dict[int, _View | None] = {}
        self._tables: list[TagTable] = []  # kept, so that an id stays that of its table
        self._waiting: deque[tuple[_View, Batch]] = deque()
        self._size = 0  # readings that wait
        self._room = room
        self._dropped = 0
        self._told: set[int] = set()  # numbers of tables whose tags the asker knows
        self._news = asyncio.Event()

    def take(self, batch: Batch) -> None:
        """Take readings from the path. Never waits, never raises."""
        key = id(batch.table)
        view = self._views[key] if key in self._views else self._view(key, batch.table)
        if view is None:
            return
        if self._size + len(batch) > self._room and self._waiting:
            self._dropped += len(batch) if view.wanted is None else int(view.wanted[batch.tag].sum())
            return
        self._size += len(batch)
        self._waiting.append((view, batch))
        self._news.set()

    def _view(self, key: int, table: TagTable) -> _View | None:
        wanted = np.array([self._allows(f"{table.device}/{name}") for name in table.names], dtype=bool)
        view = _View(table, len(self._views), None if wanted.all() else wanted) if wanted.any() else None
        self._views[key] = view
        self._tables.append(table)
        return view

    async def lines(self) -> AsyncGenerator[bytes]:
        """Give lines of JSON for what came, for ever."""
        while True:
            while self._waiting:
                view, batch = self._waiting.popleft()
                self._size -= len(batch)
                if view.wanted is not None:
                    batch = batch.take(view.wanted[batch.tag])
                if not len(batch):
                    continue
                if view.number not in self._told:
                    self._told.add(view.number)
                    yield _table(view)
                yield _readings(view, batch)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                yield orjson.dumps({"dropped": dropped}) + b"\n"
            self._news.clear()
            await self._news.wait()


def _table(view: _View) -> bytes:
    tags = [
        {"name": tag.name, "unit": tag.unit, "states": {str(number): text for number, text in tag.states}}
        for tag in view.table.tags
    ]
    about = {"device": view.table.device, "group": view.table.group, "kind": view.table.kind.value}
    body = {"table": view.number, **about, "tags": tags}
    return orjson.dumps(body) + b"\n"


def _readings(view: _View, batch: Batch) -> bytes:
    value: Any = batch.value.tolist() if batch.table.kind is Kind.TEXT else np.ascontiguousarray(batch.value)
    body = {
        "readings": view.number,
        "tag": np.ascontiguousarray(batch.tag),
        "value": value,
        "quality": np.ascontiguousarray(batch.quality),
        "time": np.ascontiguousarray(batch.time),
        "backfill": batch.backfill,
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"


class Watches:
    """All who look on at one place of the path; the path is tapped only while there is one."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._normalised: list[Watch] = []
        self._journalled: list[Watch] = []

    def add(self, watch: Watch, *, journalled: bool) -> None:
        """Begin to hand out; what the last scans had comes first."""
        if not journalled:
            for batch in self._plant.newest():
                watch.take(batch)
        (self._journalled if journalled else self._normalised).append(watch)
        self._connect()

    def remove(self, watch: Watch) -> None:
        """End it."""
        for watches in (self._normalised, self._journalled):
            if watch in watches:
                watches.remove(watch)
        self._connect()

    def _connect(self) -> None:
        tap = self._plant.tap
        tap.normalised = self._see if self._normalised else None
        tap.journalled = self._see_journalled if self._journalled else None

    def _see(self, batch: Batch) -> None:
        for watch in self._normalised:
            watch.take(batch)

    def _see_journalled(self, batch: Batch) -> None:
        for watch in self._journalled:
            watch.take(batch)


def refuse(globs: Sequence[str], tables: Sequence[TagTable]) -> str:
    """Say which glob matches no tag; empty where each does."""
    names = [f"{table.device}/{tag}" for table in tables for tag in table.names]
    for glob in globs:
        matches = matcher([glob])
        if not any(matches(name) for name in names):
            if any(sign in glob for sign in WILD):
                return f"no tag matches {glob}; expected DEVICE/TAG or globs such as 'press-1/*'"
            return missing(glob, list(tables))
    return ""
