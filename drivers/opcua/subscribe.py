"""Subscriptions: the server says what changed, and this module sees to it that it really does.

One subscription per publishing interval, its monitored items made in chunks of the server's size, several
PublishRequests outstanding, notifications decoded in columns. A monitored item per node, however many tags use it.

What can go wrong, and what happens:
- an item is refused (unknown node, ...): Bad rows of its tags, asked for again every RETRY seconds. A filter that the
  server refuses for an item is left out for that item.
- the server forgets the subscription (BadSubscriptionIdInvalid, BadNoSubscription, a StatusChange): it is made again,
  in full, in the same session.
- a notification is missing (sequence numbers): Republish; where the server has it no more, all nodes are read again.
- the session was lost: in the next one TransferSubscriptions and Republish fetch what was missed, marked as backfill.
- it was lost for longer than the server keeps subscriptions: with `fill_gaps`, the raw history of the time between.
- neither data nor keep-alive within one and a half keep-alive periods and a timeout: NotConnected.
- a subscription that is alive but empty: nodes that were silent for `freshness` are read; one whose value differs twice
  from what the subscription last said shows that it lies: what was read is given, and the subscription made again.
- a tag silent for its max_silence is read and given, as of now.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from drivers.opcua import history, rows, wire
from drivers.opcua.decode import Columns, decode
from drivers.opcua.names import Limits
from drivers.opcua.plan import OpcuaPlan, Part
from drivers.opcua.session import Refused, Session, status_name
from gateway import quality as q
from gateway.contracts import Agreed
from gateway.errors import NotConnected, ProtocolError
from gateway.model import Batch, Gap

RETRY: Final = 30.0  # s; refused items are asked for again this often
KEEP_ALIVE: Final = 5.0  # s; a subscription without changes is heard of about this often
LIFETIME: Final = 60.0  # s; how long the server keeps a subscription that nobody asks for
HISTORY_NODES: Final = 100  # whose history is asked for at once
_CREATE_ITEMS: Final = (b"\x01\x00\xef\x02", b"\x01\x00\xf2\x02")  # i=751, i=754
_DATA_CHANGE: Final = 811
_STATUS_CHANGE: Final = 820
_DEADBANDS: Final = {"none": 0, "absolute": 1, "percent": 2}
TRIGGERS: Final = {"status": 0, "value": 1, "timestamp": 2}
_FORGOTTEN: Final = {
    int(ua.StatusCodes.BadSubscriptionIdInvalid), int(ua.StatusCodes.BadNoSubscription),
    int(ua.StatusCodes.BadSequenceNumberUnknown),
}  # fmt: skip
_FILTER_REFUSED: Final = {
    int(ua.StatusCodes.BadFilterNotAllowed), int(ua.StatusCodes.BadMonitoredItemFilterUnsupported),
    int(ua.StatusCodes.BadMonitoredItemFilterInvalid), int(ua.StatusCodes.BadDeadbandFilterInvalid),
}  # fmt: skip


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
            return b"\0\0\0"
        body = struct.pack("<IId", TRIGGERS[self.trigger], _DEADBANDS[self.deadband_type], self.deadband)
        return b"\x01\x00\xd4\x02\x01" + struct.pack("<i", len(body)) + body  # i=724


@dataclass(slots=True, eq=False)
class Watched:
    """A plan that is subscribed, with its nodes' ids on this server (None: not there, and why in `missing`)."""

    plan: OpcuaPlan
    wish: Wish
    ids: list[bytes | None]
    missing: dict[int, int]
    timeout: float


@dataclass(slots=True, eq=False)
class _Item:
    """A node that is monitored. Its client handle is its place in the list of items."""

    owner: Watched
    node: int
    refused: int = 0
    plain: bool = False  # the server does not take the filter for this one


@dataclass(slots=True, eq=False)
class _Subscription:
    """One subscription at the server, as it revised it."""

    wish: Wish
    id: int = 0
    interval: float = 0.0
    keep_alive: float = KEEP_ALIVE
    expected: int = 1  # sequence number of the next notification
    heard: float = 0.0
    lifetime: float = LIFETIME


class _Forgotten(Exception):
    """The server does not know a subscription any more, or it lies: make all of them again."""

    def __init__(self, reason: str = "the server forgot the subscription", *, lies: bool = False) -> None:
        super().__init__(reason)
        self.lies = lies


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of each item: when it was last heard of, and the value it had."""

    heard: NDArray[np.float64]
    number: NDArray[np.float64]
    bits: NDArray[np.int64]
    status: NDArray[np.uint32]
    time: NDArray[np.int64] = field(init=False)  # the latest source time, ns
    server: NDArray[np.int64] = field(init=False)  # the latest server time, ns
    suspect: NDArray[np.bool_] = field(init=False)
    owed: NDArray[np.bool_] = field(init=False)  # not heard of since the subscriptions were made

    def __post_init__(self) -> None:
        self.time = np.zeros(len(self.heard), dtype=np.int64)
        self.server = np.zeros(len(self.heard), dtype=np.int64)
        self.suspect = np.zeros(len(self.heard), dtype=bool)
        self.owed = np.ones(len(self.heard), dtype=bool)


class Watcher:
    """All subscriptions of one session."""

    def __init__(self, session: Session, limits: Limits, watched: Sequence[Watched]) -> None:
        self._session = session
        self._limits = limits
        self._watched = watched
        self._items = [_Item(each, node) for each in watched for node in range(len(each.plan.nodes))]
        self._parts: list[tuple[Part, str]] = []
        self._map()
        self._subscriptions: dict[int, _Subscription] = {}
        self._acknowledge: list[tuple[int, int]] = []
        self._outstanding: list[tuple[int, asyncio.Future[Any]]] = []  # as they were sent, with their generation
        self._generation = 0
        self._most = 0
        size = len(self._items)
        self._known = _Known(np.zeros(size), np.full(size, np.nan), np.zeros(size, np.int64), np.zeros(size, np.uint32))
        self.sampling = np.zeros(size)  # as the server revised it, s
        self.queue = np.zeros(size, dtype=np.int64)
        self._retry_at = 0.0
        self._look_at = 0.0
        self._heard_at = 0  # ns of the wall clock; of the last answer, and of the last data
        self._told_at = 0
        self._taken_over = False  # and nothing heard since
        self.lost = 0  # ns of the wall clock; when the last interruption was over

    def _map(self) -> None:
        """Note for each handle the tags it feeds: target[start[handle]:start[handle] + count[handle]] = (part, tag)."""
        first = {id(each): 0 for each in self._watched}
        position = 0
        for each in self._watched:
            first[id(each)] = position
            position += len(each.plan.nodes)
        targets: list[list[tuple[int, int]]] = [[] for _ in range(position)]
        silences = [np.inf] * position
        for each in self._watched:
            for part in each.plan.parts:
                self._parts.append((part, each.wish.clock))
                for tag, node in enumerate(part.node.tolist()):
                    handle = first[id(each)] + node
                    targets[handle].append((len(self._parts) - 1, tag))
                    silence = part.table.tags[tag].max_silence
                    if silence:
                        silences[handle] = min(silences[handle], silence / 1e9)
        self._count = np.array([len(entry) for entry in targets], dtype=np.intp)
        self._start = np.cumsum(self._count) - self._count
        flat = [pair for entry in targets for pair in entry]
        self._target_part = np.array([pair[0] for pair in flat], dtype=np.intp)
        self._target_tag = np.array([pair[1] for pair in flat], dtype=np.uint32)
        self._silence = np.array(silences)
        self._freshness = np.array([item.owner.wish.freshness for item in self._items])

    # ---------------------------------------------------------------------------------------------- running

    async def run(self, resumed: list[News] | None = None) -> AsyncIterator[News]:
        """Give batches until the session ends, after those that `resume` gave. Raises as the session does."""
        while True:
            try:
                first, resumed = resumed, None
                for batch in await self._begin() if first is None else first:
                    yield batch
                while True:
                    for batch in await self._next():
                        yield batch
            except _Forgotten as error:
                await self._drop()
                for each in await self.fill(self, str(error), self._told_at if error.lies else self._heard_at):
                    yield each

    async def agree(self) -> list[Agreed]:
        """Make the subscriptions, tell what the server made of each group's wishes, and end them."""
        await self._begin()
        agreed: list[Agreed] = []
        for each in self._watched:
            wish, name = each.wish, (each.plan.device, each.plan.group)
            (made,) = (one for one in self._subscriptions.values() if one.wish.publishing == wish.publishing)
            mine = [n for n, item in enumerate(self._items) if item.owner is each and not item.refused]
            refused = sum(item.owner is each and item.refused != 0 for item in self._items)
            plain = sum(item.owner is each and item.plain for item in self._items)
            agreed += [
                Agreed(*name, "publishing interval", _span([wish.publishing]), _span([made.interval])),
                Agreed(*name, "lifetime", _span([max(LIFETIME, wish.publishing)]), _span([made.lifetime])),
                Agreed(*name, "keep-alive", _span([max(KEEP_ALIVE, wish.publishing)]), _span([made.keep_alive])),
                Agreed(*name, "sampling interval", _span([wish.sampling]), _span(self.sampling[mine].tolist())),
                Agreed(*name, "queue size", str(wish.queue), _counts(self.queue[mine].tolist())),
            ]
            if refused:
                agreed.append(Agreed(*name, "nodes", str(len(mine) + refused), f"{len(mine)}, {refused} refused"))
            if plain:
                agreed.append(Agreed(*name, "filter", "deadband, trigger", f"not taken for {plain} nodes"))
        await self._drop()
        return agreed

    def fits(self, watched: Sequence[Watched]) -> bool:
        """Say whether the same nodes are wanted, under the same node ids, as this one watches."""
        return len(watched) == len(self._watched) and all(
            new.plan is old.plan and new.ids == old.ids for new, old in zip(watched, self._watched, strict=True)
        )

    def follows(self, watched: Sequence[Watched]) -> bool:
        """Say whether the same groups are wanted, whatever their nodes are called today."""
        return [each.plan for each in watched] == [each.plan for each in self._watched]

    async def fill(self, before: Watcher, reason: str = "", since: int = 0) -> list[News]:
        """Give the history of what `before` did not hear any more, as backfill, and as gaps what has none.

        What is current stays out: the subscription's first notification brings it. What was given before is known here
        from now on.
        """
        known = before._known
        self._known.time[:], self._known.number[:] = known.time, known.number
        self._known.bits[:], self._known.status[:] = known.bits, known.status
        there = [
            handle
            for handle, item in enumerate(self._items)
            if item.owner.ids[item.node] is not None and not item.refused
        ]
        wanted = [handle for handle in there if self._items[handle].owner.wish.fill_gaps and known.time[handle] > 0]
        now = time.time_ns()
        batches, filled = await self._history(np.array(wanted, dtype=np.intp), now) if wanted else ([], set())
        lost = {id(self._items[handle].owner): 0 for handle in there if handle not in filled}
        start = since or before._heard_at
        if not start:
            return batches
        for each in self._watched:
            if id(each) in lost:
                why = reason or "the server did not keep the subscription"
                why += "; not all of its nodes have a history" if each.wish.fill_gaps else ""
                batches.append(Gap(each.plan.device, each.plan.group, start, max(start, now), why))
        return batches

    async def _history(self, wanted: NDArray[np.intp], now: int) -> tuple[list[News], set[int]]:
        """Give the history of items since they were last heard of, and which of them have one."""
        since_all = self._known.time[wanted]
        present, _ = await self._read(wanted, given=np.zeros(len(wanted), dtype=bool))
        batches: list[News] = []
        filled: set[int] = set()
        for first in range(0, len(wanted), HISTORY_NODES):
            some = wanted[first : first + HISTORY_NODES]
            since = since_all[first : first + HISTORY_NODES]
            ids = [self._items[handle].owner.ids[self._items[handle].node] or b"" for handle in some.tolist()]
            try:
                found = await history.fetch(self._session, ids, int(since.min()), now)
            except Refused:
                return batches, filled  # this server keeps no history
            for place, handle in enumerate(some.tolist()):
                until = present.source[first + place] or now
                if found[place]:
                    filled.add(handle)
                for columns in found[place]:
                    inside = (columns.source > since[place]) & (columns.source < until)
                    picked = _rows_of(columns, np.flatnonzero(inside))
                    if len(picked):
                        every = np.full(len(picked), handle, dtype=np.intp)
                        batches += self._batches(picked, every, now, backfill=True)
        return batches, filled

    def _gap(self, subscription: _Subscription, reason: str) -> list[News]:
        """Declare what a subscription missed since it was last heard of."""
        now = time.time_ns()
        start = min(self._told_at or now, now)
        return [
            Gap(each.plan.device, each.plan.group, start, now, reason)
            for each in self._watched
            if each.wish.publishing == subscription.wish.publishing
        ]

    async def resume(self, session: Session) -> list[News] | None:
        """Take the subscriptions of a session that was lost over into a new one.

        Gives what was missed meanwhile, marked as backfill, then one row per tag as of now; None where the server does
        not have the subscriptions any more. Raises as the session does.
        """
        self._session = session
        if self._taken_over:
            await self._drop()  # this server hands subscriptions over and then forgets to serve them
            return None
        self._generation += 1
        self._outstanding.clear()
        self._acknowledge.clear()
        request = ua.TransferSubscriptionsRequest()
        request.Parameters.SubscriptionIds = list(self._subscriptions)
        request.Parameters.SendInitialValues = False
        try:
            answer = await session.service(request, ua.TransferSubscriptionsResponse, "taking subscriptions over")
            results = answer.Parameters.Results
            if not results or not all(result.StatusCode.is_good() for result in results):
                await self._drop()
                return None
            batches: list[News] = []
            for subscription, result in zip(list(self._subscriptions.values()), results, strict=True):
                batches += await self._missed(subscription, result.AvailableSequenceNumbers or [])
        except (Refused, _Forgotten):
            return None
        now = time.monotonic()
        self._known.heard[:] = now
        self._retry_at, self._look_at = now + RETRY, now + 1.0
        good = [handle for handle, item in enumerate(self._items) if not item.refused]
        self._known.owed[:] = True
        batches += await self._resync(np.array(good, dtype=np.intp))
        batches += self._bad([handle for handle, item in enumerate(self._items) if item.refused])
        self._taken_over = True
        self._fill()
        return batches

    async def _missed(self, subscription: _Subscription, available: Sequence[int]) -> list[News]:
        """Fetch the notifications that the server sent, or would have sent, while there was no session."""
        batches: list[News] = []
        for sequence in available:
            if (sequence - subscription.expected) % 2**32 < 2**31:
                found = await self._again(subscription, sequence, backfill=True)
                if found is not None:
                    batches += found
                    subscription.expected = sequence % (2**32 - 1) + 1
        subscription.heard = time.monotonic()
        return batches

    async def _begin(self) -> list[News]:
        """Make all subscriptions and items; give Bad rows for those that are refused."""
        self._generation += 1
        self._subscriptions.clear()
        self._acknowledge.clear()
        wishes: dict[float, Wish] = {}
        for each in self._watched:
            wishes.setdefault(each.wish.publishing, each.wish)
        now = time.monotonic()
        self._known.heard[:] = now
        self._known.suspect[:] = False
        self._known.owed[:] = True
        for publishing, wish in wishes.items():
            subscription = await self._create(wish)
            members = [handle for handle, item in enumerate(self._items) if item.owner.wish.publishing == publishing]
            await self._monitor(subscription, members)
        self._most = 2 + 2 * len(self._subscriptions)
        self._retry_at = now + RETRY
        self._look_at = now + 1.0
        self._fill()
        refused = [handle for handle, item in enumerate(self._items) if item.refused]
        return list(self._bad(refused))

    async def _create(self, wish: Wish) -> _Subscription:
        request = ua.CreateSubscriptionRequest()
        parameters = request.Parameters
        parameters.RequestedPublishingInterval = wish.publishing * 1000
        parameters.RequestedMaxKeepAliveCount = max(1, round(KEEP_ALIVE / wish.publishing))
        parameters.RequestedLifetimeCount = max(
            3 * parameters.RequestedMaxKeepAliveCount + 1, round(LIFETIME / wish.publishing)
        )
        parameters.MaxNotificationsPerPublish = 0
        parameters.PublishingEnabled = True
        parameters.Priority = 0
        answer = await self._session.service(request, ua.CreateSubscriptionResponse, "making a subscription")
        revised = answer.Parameters
        interval = revised.RevisedPublishingInterval / 1000
        made = _Subscription(
            wish, revised.SubscriptionId, interval, max(revised.RevisedMaxKeepAliveCount, 1) * interval,
            1, time.monotonic(), revised.RevisedLifetimeCount * interval,
        )  # fmt: skip
        self._subscriptions[made.id] = made
        return made

    async def _monitor(self, subscription: _Subscription, handles: Sequence[int]) -> None:
        """Make monitored items; the status of each that is refused is left in it."""
        again: list[int] = []
        ready = []
        for handle in handles:
            item = self._items[handle]
            identified = item.owner.ids[item.node]
            if identified is None:
                item.refused = item.owner.missing[item.node]
            else:
                ready.append((handle, item, identified))
        for first in range(0, len(ready), self._limits.monitor):
            some = ready[first : first + self._limits.monitor]
            tail = struct.pack("<III", subscription.id, 2, len(some)) + b"".join(
                _item(identified, handle, item) for handle, item, identified in some
            )
            body, at = await self._session.exchange(*_CREATE_ITEMS, tail, self._session.options.timeout)
            for (handle, item, _), made in zip(some, _created(body, at, len(some)), strict=True):
                status, self.sampling[handle], self.queue[handle] = made
                item.refused = status if status >= q.BAD else 0
                if status in _FILTER_REFUSED and not item.plain:
                    item.plain = True
                    again.append(handle)
        if again:
            await self._monitor(subscription, again)

    def _fill(self) -> None:
        """Keep several PublishRequests with the server, so that it never waits for one."""
        while len(self._outstanding) < self._most:
            acknowledge, self._acknowledge = self._acknowledge, []
            tail = struct.pack("<i", len(acknowledge)) + b"".join(struct.pack("<II", *pair) for pair in acknowledge)
            self._outstanding.append((self._generation, self._session.post(wire.PUBLISH_REQUEST, tail)))

    async def _next(self) -> list[News]:
        """Wait for the next answer or the next thing to see to, and give what it brought."""
        now = time.monotonic()
        wake = min(self._retry_at, self._look_at, *(self._late(each) for each in self._subscriptions.values()))
        waiting = [future for _, future in self._outstanding]
        await asyncio.wait(waiting, timeout=max(0.0, wake - now), return_when=asyncio.FIRST_COMPLETED)
        batches: list[News] = []
        done = [each for each in self._outstanding if each[1].done()]  # the server answers first come, first served
        self._outstanding = [each for each in self._outstanding if not each[1].done()]
        for generation, future in done:
            batches += await self._published(future, generation)
        self._fill()
        now = time.monotonic()
        for each in self._subscriptions.values():
            if now > self._late(each):
                raise NotConnected(f"{self._session.url}: the subscription is silent", status=q.BAD_TIMEOUT)
        if now >= self._retry_at:
            self._retry_at = now + RETRY
            await self._retry()
        if now >= self._look_at:
            self._look_at = now + 1.0
            batches += await self._look(now)
        return batches

    def _late(self, subscription: _Subscription) -> float:
        return subscription.heard + 1.5 * subscription.keep_alive + self._session.options.timeout

    async def _drop(self) -> None:
        """Forget the subscriptions, here and at the server."""
        ids = list(self._subscriptions)
        self._subscriptions.clear()
        request = ua.DeleteSubscriptionsRequest()
        request.Parameters.SubscriptionIds = ids
        try:
            if ids:
                await self._session.service(request, ua.DeleteSubscriptionsResponse, "ending a subscription")
        except Refused:
            pass

    # ---------------------------------------------------------------------------------------------- answers

    async def _published(self, future: asyncio.Future[Any], generation: int) -> list[News]:
        try:
            body, at = self._session.taken(future, wire.PUBLISH_RESPONSE)
        except Refused as error:
            if error.status in _FORGOTTEN:
                if generation < self._generation:
                    return []  # sent before the present subscriptions were made
                raise _Forgotten from error
            if error.status == ua.StatusCodes.BadTooManyPublishRequests and self._most > 1:
                self._most -= 1
                return []
            if error.status == ua.StatusCodes.BadTimeout:
                return []
            raise
        try:
            return await self._notified(body, at)
        except wire.Malformed as error:
            raise ProtocolError(f"{self._session.url}: a notification that makes no sense: {error}") from error

    async def _notified(self, body: bytes, at: int) -> list[News]:
        subscription = self._subscriptions.get(wire.uint32(body, at))
        if subscription is None:
            return []  # of a subscription that was given up
        self._taken_over = False
        subscription.heard = time.monotonic()
        self._heard_at = time.time_ns()
        at += 8 + 4 * max(wire.int32(body, at + 4), 0) + 1  # behind AvailableSequenceNumbers and MoreNotifications
        sequence = wire.uint32(body, at)
        batches: list[News] = []
        if wire.int32(body, at + 12) > 0:
            missed = (sequence - subscription.expected) % 2**32
            if 0 < missed < 2**31:
                batches += await self._republish(subscription, sequence)
            subscription.expected = sequence % (2**32 - 1) + 1
            self._acknowledge.append((subscription.id, sequence))
            batches += self._message(body, at)
            self._told_at = self._heard_at
        return batches

    def _message(self, body: bytes, at: int, backfill: bool = False) -> list[News]:
        """Read a NotificationMessage's data. Raises _Forgotten where it says that the subscription ended."""
        batches: list[News] = []
        count = wire.int32(body, at + 12)
        at += 16
        for _ in range(count):
            kind = wire.numeric_id(body, at)
            at = wire.skip_node_id(body, at) + 1
            end = at + 4 + max(wire.int32(body, at), 0)
            if kind == _DATA_CHANGE:
                batches += self._changed(body, at + 4, backfill)
            elif kind == _STATUS_CHANGE:
                raise _Forgotten(f"the subscription ended: {status_name(wire.uint32(body, at + 4))}")
            at = end
        return batches

    def _changed(self, body: bytes, at: int, backfill: bool) -> list[Batch]:
        size = wire.int32(body, at)
        if not 0 <= size <= len(body):
            raise wire.Malformed(f"{size} notifications")
        columns = Columns.empty(size)
        decode(body, at + 4, columns, 0, size, handles=True)
        if size and columns.handle.max() >= len(self._items):
            raise wire.Malformed("a client handle that was never given")
        handles = columns.handle.astype(np.intp)
        columns, handles = self._news(columns, handles)
        known = self._known
        known.heard[handles] = time.monotonic()
        known.suspect[handles] = False
        before = self._note(columns, handles, backfill)
        return before + self._batches(columns, handles, time.time_ns(), backfill=backfill)

    def _news(self, columns: Columns, handles: NDArray[np.intp]) -> tuple[Columns, NDArray[np.intp]]:
        """Leave out what was given already: the same value, status and source time, unless a first row is owed."""
        known = self._known
        again = (columns.source != 0) & (columns.source == known.time[handles]) & ~known.owed[handles]
        if again.any():
            again &= (columns.number == known.number[handles]) | (
                np.isnan(columns.number) & np.isnan(known.number[handles])
            )
            again &= (columns.bits == known.bits[handles]) & (columns.status == known.status[handles])
            again[list(columns.spans)] = False  # texts and arrays are not compared
        if not again.any():
            return columns, handles
        fresh = np.flatnonzero(~again)
        return _rows_of(columns, fresh), handles[fresh]

    def _note(self, columns: Columns, handles: NDArray[np.intp], backfill: bool = False) -> list[Batch]:
        """Keep what is given. What is owed and older than the interruption is dated anew (rows.redate).

        Where such a value was not given before the interruption, it is given with its own time too, as backfill.
        """
        known = self._known
        owed = known.owed[handles] & (columns.source != 0) & (not backfill)
        given = columns.source == known.time[handles]
        still = owed & (given | (columns.source <= self.lost))
        untold = np.flatnonzero(still & ~given) if self.lost else np.flatnonzero(still & False)
        before = self._batches(_rows_of(columns, untold), handles[untold], time.time_ns(), backfill=True)
        server = known.server[handles]
        if not backfill:
            known.owed[handles] = False
        known.number[handles] = columns.number
        known.bits[handles] = columns.bits
        known.status[handles] = columns.status
        np.maximum.at(known.time, handles, columns.source)
        np.maximum.at(known.server, handles, columns.server)
        rows.redate(columns, still, np.maximum(server, self.lost))
        return before

    def _batches(
        self, columns: Columns, handles: NDArray[np.intp], arrival: int, clock: str = "", backfill: bool = False
    ) -> list[Batch]:
        """Give the batches of rows whose client handles are these; a tag at most once in each, but for backfill."""
        count = self._count[handles]
        row = np.repeat(np.arange(len(handles)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        target = np.repeat(self._start[handles], count) + within
        part_of, tags = self._target_part[target], self._target_tag[target]
        batches: list[Batch] = []
        for number in np.unique(part_of).tolist():
            part, own_clock = self._parts[number]
            mine = np.flatnonzero(part_of == number)
            whole = rows.batch(part, columns, row[mine], tags[mine], arrival, clock or own_clock)
            whole.backfill = backfill
            batches += [whole] if backfill else rows.once_each(whole)
        return batches

    def _bad(self, handles: Sequence[int]) -> list[Batch]:
        """Give Bad rows for the tags of items that the server refused."""
        if not handles:
            return []
        columns = Columns.empty(len(handles))
        columns.status[:] = [self._items[handle].refused for handle in handles]
        return self._batches(columns, np.array(handles, dtype=np.intp), time.time_ns())

    # ------------------------------------------------------------------------------------- what may be amiss

    async def _republish(self, subscription: _Subscription, until: int) -> list[News]:
        """Fetch the notifications that are missing before `until`; read all nodes where they are gone for good."""
        batches: list[News] = []
        while subscription.expected != until:
            found = await self._again(subscription, subscription.expected)
            if found is None:
                members = [
                    handle
                    for handle, item in enumerate(self._items)
                    if item.owner.wish.publishing == subscription.wish.publishing and not item.refused
                ]
                batches += self._gap(subscription, "notifications were lost")
                return batches + await self._resync(np.array(members, dtype=np.intp))
            batches += found
            subscription.expected = subscription.expected % (2**32 - 1) + 1
        return batches

    async def _again(self, subscription: _Subscription, sequence: int, backfill: bool = False) -> list[News] | None:
        """Ask for a notification once more; None where the server has it no more. Raises _Forgotten."""
        tail = struct.pack("<II", subscription.id, sequence)
        try:
            body, at = await self._session.exchange(
                wire.REPUBLISH_REQUEST, wire.REPUBLISH_RESPONSE, tail, self._session.options.timeout
            )
        except Refused as error:
            if error.status in _FORGOTTEN:
                raise _Forgotten from error
            return None
        if wire.uint32(body, at) != sequence:
            return None  # some servers give an empty message instead of BadMessageNotAvailable
        self._acknowledge.append((subscription.id, sequence))
        return self._message(body, at, backfill)

    async def _resync(self, handles: NDArray[np.intp]) -> list[Batch]:
        """Read items and give what they hold."""
        columns, _ = await self._read(handles, given=np.zeros(len(handles), dtype=bool))
        self._known.owed[handles] = True
        before = self._note(columns, handles)
        return before + self._batches(columns, handles, time.time_ns())

    async def _retry(self) -> None:
        """Ask again for items that were refused."""
        for subscription in self._subscriptions.values():
            refused = [
                handle
                for handle, item in enumerate(self._items)
                if item.refused and item.owner.wish.publishing == subscription.wish.publishing
            ]
            if refused:
                await self._monitor(subscription, refused)

    async def _look(self, now: float) -> list[Batch]:
        """Read what was silent for too long: for its max_silence, or to see whether the subscription still works."""
        known = self._known
        silent = now - known.heard
        quiet = silent >= self._silence
        stale = np.flatnonzero(quiet | (silent >= self._freshness))
        stale = stale[[self._items[handle].refused == 0 for handle in stale.tolist()]] if len(stale) else stale
        if not len(stale):
            return []
        before = known.number[stale], known.bits[stale], known.status[stale]
        suspected = known.suspect[stale].copy()
        heard = known.heard[stale].copy()
        columns, batches = await self._read(stale, given=quiet[stale])
        differs = ~((columns.number == before[0]) | (np.isnan(columns.number) & np.isnan(before[0])))
        deadband = np.array([self._items[handle].owner.wish.deadband_type != "none" for handle in stale.tolist()])
        differs &= ~deadband
        differs |= (columns.bits != before[1]) | (columns.status != before[2])
        differs &= known.heard[stale] == heard  # else a notification came while we were reading
        known.suspect[stale] = differs
        known.heard[stale] = np.where(differs, heard, now)
        if (differs & suspected).any():
            raise _Forgotten("the subscription was alive but did not tell of changes", lies=True)
        return batches

    async def _read(
        self, handles: NDArray[np.intp], given: NDArray[np.bool_] | None = None
    ) -> tuple[Columns, list[Batch]]:
        """Read items; give the columns, and as batches, as of now, those that are `given`."""
        ids = []
        for handle in handles.tolist():
            item = self._items[handle]
            ids.append(item.owner.ids[item.node] or b"\0\0")
        columns = Columns.empty(len(ids))
        for first in range(0, len(ids), self._limits.read):
            some = ids[first : first + self._limits.read]
            body, at = await self._session.exchange(
                wire.READ_REQUEST, wire.READ_RESPONSE, wire.read_tail(some), self._session.options.timeout
            )
            if wire.int32(body, at) != len(some):
                raise ProtocolError(f"{self._session.url}: {wire.int32(body, at)} values in answer to {len(some)}")
            decode(body, at + 4, columns, first, len(some))
        chosen = np.arange(len(ids)) if given is None else np.flatnonzero(given)
        if not len(chosen):
            return columns, []
        picked = _rows_of(columns, chosen)
        known = self._known
        stands = picked.server <= known.server[handles[chosen]]  # a server that does not date its answers
        np.maximum.at(known.server, handles[chosen], picked.server)
        picked.server[stands] = 0
        return columns, self._batches(picked, handles[chosen], time.time_ns(), clock="server")


def _span(seconds: Sequence[float]) -> str:
    """Write a duration, or the least and the greatest of many, in ms."""
    low, high = min(seconds, default=0.0) * 1000, max(seconds, default=0.0) * 1000
    return f"{low:g} ms" if low == high else f"{low:g} to {high:g} ms"


def _counts(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _rows_of(columns: Columns, chosen: NDArray[np.intp]) -> Columns:
    spans = {new: columns.spans[old] for new, old in enumerate(chosen.tolist()) if old in columns.spans}
    return Columns(
        columns.type[chosen], columns.number[chosen], columns.bits[chosen], columns.status[chosen],
        columns.source[chosen], columns.server[chosen], columns.handle[chosen], spans,
    )  # fmt: skip


def _item(identified: bytes, handle: int, item: _Item) -> bytes:
    """Encode a MonitoredItemCreateRequest."""
    wish = item.owner.wish
    return b"".join(
        (
            identified,
            struct.pack("<IiHi", 13, -1, 0, -1),
            struct.pack("<IId", 2, handle, wish.sampling * 1000),
            b"\0\0\0" if item.plain else wish.filter(),
            struct.pack("<I?", wish.queue, wish.discard_oldest),
        )
    )


def _created(body: bytes, at: int, expected: int) -> Iterator[tuple[int, float, int]]:
    """Give status, revised sampling interval (s) and queue size of each MonitoredItemCreateResult."""
    try:
        if wire.int32(body, at) != expected:
            raise ProtocolError(f"{wire.int32(body, at)} monitored items in answer to {expected}")
        at += 4
        for _ in range(expected):
            sampling, queue = struct.unpack_from("<dI", body, at + 8)
            yield wire.uint32(body, at), sampling / 1000, queue
            at = wire.skip_scalar(body, at + 20, wire.EXTENSION_OBJECT)
    except (wire.Malformed, struct.error) as error:
        raise ProtocolError(f"an answer that makes no sense: {error}") from error
