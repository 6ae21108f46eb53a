"""What the subscriptions of a session watch, and what is known of it: each node as an item, and the tags it feeds.

An item is a node of one poll group; its client handle is its place in the list. Columns that come in under handles
become batches here; what was given already is left out, and what an interruption lies before is dated anew.
No I/O: drivers.opcua.monitor, subscribe, freshness and missed ask the server. Events are drivers.opcua.events.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.opcua import rows, wire
from drivers.opcua.decode import Columns
from drivers.opcua.plan import OpcuaPlan, Part
from drivers.opcua.ranges import Cut
from gateway.model import Batch, Gap

_DEADBANDS: Final = {"none": 0, "absolute": 1, "percent": 2}
NO_FILTER: Final = b"\0\0\0"
TRIGGERS: Final = {"status": 0, "value": 1, "timestamp": 2}

News = Batch | Gap


@dataclass(frozen=True, slots=True)
class Wish:
    """How a poll group wants to be told of changes. Intervals in seconds."""

    publishing: float
    sampling: float
    queue: int = 10
    discard_oldest: bool = True
    deadband: float = 0.0
    deadband_type: str = "none"
    trigger: str = "value"
    freshness: float = 60.0
    clock: str = "source"
    fill_gaps: bool = False

    def filter(self) -> bytes:
        """Encode the DataChangeFilter, or none where the server's default does."""
        if self.deadband_type == "none" and self.trigger == "value":
            return NO_FILTER
        body = struct.pack("<IId", TRIGGERS[self.trigger], _DEADBANDS[self.deadband_type], self.deadband)
        return b"\x01\x00\xd4\x02\x01" + struct.pack("<i", len(body)) + body  # i=724


@dataclass(slots=True, eq=False)
class Watched:
    """A plan that is subscribed, with its nodes' ids on this server (None: not there, and why in `missing`)."""

    plan: OpcuaPlan
    wish: Wish
    ids: list[bytes | None]
    missing: dict[int, int]
    key: str = ""  # what the group is called in a mark, where it is to be filled
    cut: Cut | None = None  # which parts of its nodes are asked for; None: the whole of each
    events: Any = None  # how its events are asked for (events.Select), where it is a group of events


@dataclass(slots=True, eq=False)
class Item:
    """A node that is monitored. Its client handle is its place in the list of items."""

    owner: Watched
    node: int
    refused: int = 0
    plain: bool = False  # the server does not take the filter for this one


class Forgotten(Exception):
    """The server does not know a subscription any more, or it lies: make all of them again."""

    def __init__(self, reason: str = "the server forgot the subscription", *, lies: bool = False) -> None:
        super().__init__(reason)
        self.lies = lies


@dataclass(slots=True, eq=False)
class Known:
    """What is known of each item: when it was last heard of, and the value it had."""

    heard: NDArray[np.float64]
    number: NDArray[np.float64]
    bits: NDArray[np.int64]
    status: NDArray[np.uint32]
    type: NDArray[np.uint8] = field(init=False)  # built-in type, as in Columns
    time: NDArray[np.int64] = field(init=False)  # the latest source time, ns
    server: NDArray[np.int64] = field(init=False)  # the latest server time, ns
    suspect: NDArray[np.bool_] = field(init=False)
    owed: NDArray[np.bool_] = field(init=False)  # not heard of since the subscriptions were made
    since: NDArray[np.int64] = field(init=False)  # source time up to which all was given, where there is a hole behind
    first: NDArray[np.int64] = field(init=False)  # source time of the first value behind that hole

    def __post_init__(self) -> None:
        self.type = np.zeros(len(self.heard), dtype=np.uint8)
        self.time = np.zeros(len(self.heard), dtype=np.int64)
        self.server = np.zeros(len(self.heard), dtype=np.int64)
        self.suspect = np.zeros(len(self.heard), dtype=bool)
        self.owed = np.ones(len(self.heard), dtype=bool)
        self.since = np.zeros(len(self.heard), dtype=np.int64)
        self.first = np.zeros(len(self.heard), dtype=np.int64)

    def go_on_from(self, before: Known) -> None:
        """Know what was given before, by a session of the same items."""
        self.time[:], self.number[:], self.bits[:] = before.time, before.number, before.bits
        self.status[:], self.since[:], self.type[:] = before.status, before.since, before.type

    @property
    def delivered(self) -> NDArray[np.int64]:
        """The source time up to which all of each item was given; 0 where that cannot be told."""
        return np.where(self.since > 0, self.since, self.time)


class Items:
    """The items of a session, their tags, and what was heard of them."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = watched
        valued = [each for each in watched if each.events is None]
        self.items = [Item(each, node) for each in valued for node in range(len(each.plan.nodes))]
        self._groups: dict[int, list[int]] = {}
        for handle, item in enumerate(self.items):
            self._groups.setdefault(id(item.owner), []).append(handle)
        self._parts: list[tuple[Part, Watched]] = []
        self._map(valued)
        size = len(self.items)
        self.known = Known(np.zeros(size), np.full(size, np.nan), np.zeros(size, np.int64), np.zeros(size, np.uint32))
        self.sampling = np.zeros(size)  # as the server revised it, s
        self.queue = np.zeros(size, dtype=np.int64)
        self.lost = 0  # ns of the wall clock; when the last interruption was over
        self.seam = False  # a hole is open, and its end is looked for in what comes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, handle: int) -> Item:
        return self.items[handle]

    def request(self, handle: int, identified: bytes) -> bytes:
        """Encode the MonitoredItemCreateRequest of an item."""
        item = self.items[handle]
        wish = item.owner.wish
        asked = wire.value(self.range(handle))
        return create_request(identified, asked, handle, wish, NO_FILTER if item.plain else wish.filter())

    def range(self, handle: int) -> str:
        """Give the IndexRange under which an item is asked for; empty for the whole."""
        item = self.items[handle]
        return "" if item.owner.cut is None else item.owner.cut.range(item.node)

    def id(self, handle: int) -> bytes | None:
        """Give the encoded node id of an item; None where it is not on this server."""
        item = self.items[handle]
        return item.owner.ids[item.node]

    def of(self, publishing: float) -> list[int]:
        """Give the handles of the items that are published at this interval."""
        return [handle for handle, item in enumerate(self.items) if item.owner.wish.publishing == publishing]

    def of_group(self, group: Watched) -> list[int]:
        """Give the handles of the items of a group."""
        return self._groups.get(id(group), [])

    def refused(self) -> list[int]:
        """Give the handles of the items that the server refused."""
        return [handle for handle, item in enumerate(self.items) if item.refused]

    def _map(self, valued: Sequence[Watched]) -> None:
        """Note for each handle the tags it feeds: target[start[handle]:start[handle] + count[handle]] = (part, tag)."""
        targets: list[list[tuple[int, int]]] = [[] for _ in self.items]
        silences = [np.inf] * len(self.items)
        for each in valued:
            handles = self.of_group(each)
            for part in each.plan.parts:
                self._parts.append((part, each))
                for tag, node in enumerate(part.node.tolist()):
                    handle = handles[node]
                    targets[handle].append((len(self._parts) - 1, tag))
                    silence = part.table.tags[tag].max_silence
                    if silence:
                        silences[handle] = min(silences[handle], silence / 1e9)
        self._count = np.array([len(entry) for entry in targets], dtype=np.intp)
        self._start = np.cumsum(self._count) - self._count
        flat = [pair for entry in targets for pair in entry]
        self._target_part = np.array([pair[0] for pair in flat], dtype=np.intp)
        self._target_tag = np.array([pair[1] for pair in flat], dtype=np.uint32)
        self.silence = np.array(silences)
        self.freshness = np.array([item.owner.wish.freshness for item in self.items])

    def changed(self, columns: Columns, backfill: bool) -> list[Batch]:
        """Take what was notified, each row under its client handle; give what of it is news. Raises Malformed."""
        if len(columns.handle) and columns.handle.max() >= len(self.items):
            raise wire.Malformed("a client handle that was never given")
        handles = columns.handle.astype(np.intp)
        if columns.spans:
            self._measure(columns, handles)
        columns, handles = self._news(columns, handles)
        known = self.known
        known.heard[handles] = time.monotonic()
        known.suspect[handles] = False
        before = self.note(columns, handles, backfill)
        return before + self.batches(columns, handles, time.time_ns(), backfill=backfill)

    def _measure(self, columns: Columns, handles: NDArray[np.intp]) -> None:
        """Look whether arrays that were asked for in part come in part."""
        for row in columns.spans:
            item = self.items[int(handles[row])]
            cut = item.owner.cut
            if cut is not None and item.node in cut.unsure:
                cut.measure(item.node, columns, row)

    def _news(self, columns: Columns, handles: NDArray[np.intp]) -> tuple[Columns, NDArray[np.intp]]:
        """Leave out what was given already: the same value, status and source time, unless a first row is owed.

        Behind a row that is news nothing is left out: what is so now may have been read before the changes that led
        there were told, and the last row that is given has to be the one that is so.
        """
        known = self.known
        again = (columns.source != 0) & (columns.source == known.time[handles]) & ~known.owed[handles]
        if again.any():
            again &= (columns.number == known.number[handles]) | (
                np.isnan(columns.number) & np.isnan(known.number[handles])
            )
            again &= (columns.bits == known.bits[handles]) & (columns.status == known.status[handles])
            again[list(columns.spans)] = False  # texts and arrays are not compared
        if not again.any():
            return columns, handles
        row = np.arange(len(handles))
        first = np.full(len(self.items), len(handles))
        np.minimum.at(first, handles[~again], row[~again])
        again &= row < first[handles]
        fresh = np.flatnonzero(~again)
        return rows_of(columns, fresh), handles[fresh]

    def note(self, columns: Columns, handles: NDArray[np.intp], backfill: bool = False) -> list[Batch]:
        """Keep what is given. What is owed and older than the interruption is dated anew (rows.redate).

        Where such a value was not given before the interruption, it is given with its own time too, as backfill.
        """
        known = self.known
        owed = known.owed[handles] & (columns.source != 0) & (not backfill)
        given = columns.source == known.time[handles]
        still = owed & (given | (columns.source <= self.lost))
        untold = np.flatnonzero(still & ~given & (self.lost != 0))
        before = self.batches(rows_of(columns, untold), handles[untold], time.time_ns(), backfill=True)
        server = known.server[handles]
        if self.seam:
            ends = np.flatnonzero((columns.source != 0) & (known.first[handles] == 0))[::-1]  # the first one stays
            known.first[handles[ends]] = columns.source[ends]
        if not backfill:
            known.owed[handles] = False
        known.type[handles] = columns.type
        known.number[handles] = columns.number
        known.bits[handles] = columns.bits
        known.status[handles] = columns.status
        np.maximum.at(known.time, handles, columns.source)
        np.maximum.at(known.server, handles, columns.server)
        rows.redate(columns, still, np.maximum(server, self.lost))
        return before

    def batches(
        self,
        columns: Columns,
        handles: NDArray[np.intp],
        arrival: int,
        clock: str = "",
        backfill: bool = False,
        entire: bool = False,
    ) -> list[Batch]:
        """Give the batches of rows whose client handles are these; a tag at most once in each, but for backfill.

        Arrays are `entire` where they come from history: it is asked for without an IndexRange.
        """
        count = self._count[handles]
        row = np.repeat(np.arange(len(handles)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        target = np.repeat(self._start[handles], count) + within
        part_of, tags = self._target_part[target], self._target_tag[target]
        batches: list[Batch] = []
        for number in np.unique(part_of).tolist():
            part, group = self._parts[number]
            mine = np.flatnonzero(part_of == number)
            own_clock, cut = clock or group.wish.clock, None if entire else group.cut
            whole = rows.batch(part, columns, row[mine], tags[mine], arrival, own_clock, cut)
            whole.backfill = backfill
            batches += [whole] if backfill else rows.once_each(whole)
        return batches

    def bad(self, handles: Sequence[int]) -> list[Batch]:
        """Give Bad rows for the tags of items that the server refused."""
        if not handles:
            return []
        columns = Columns.empty(len(handles))
        columns.status[:] = [self.items[handle].refused for handle in handles]
        return self.batches(columns, np.array(handles, dtype=np.intp), time.time_ns())


def rows_of(columns: Columns, chosen: NDArray[np.intp]) -> Columns:
    spans = {new: columns.spans[old] for new, old in enumerate(chosen.tolist()) if old in columns.spans}
    return Columns(
        columns.type[chosen], columns.number[chosen], columns.bits[chosen], columns.status[chosen],
        columns.source[chosen], columns.server[chosen], columns.handle[chosen], spans,
    )  # fmt: skip


def create_request(identified: bytes, attribute: bytes, handle: int, wish: Wish, filter_: bytes) -> bytes:
    """Encode a MonitoredItemCreateRequest."""
    return b"".join(
        (
            identified,
            attribute,
            struct.pack("<IId", 2, handle, wish.sampling * 1000),
            filter_,
            struct.pack("<I?", wish.queue, wish.discard_oldest),
        )
    )
