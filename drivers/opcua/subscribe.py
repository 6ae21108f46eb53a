"""Subscriptions: the server says what changed, and this module sees to it that it really does.

One subscription per publishing interval (made by drivers.opcua.monitor), several PublishRequests outstanding,
notifications decoded in columns. A monitored item per node, however many tags use it.

What can go wrong, and what happens:
- an item is refused (unknown node, ...): Bad rows of its tags, asked for again every RETRY seconds.
- the server forgets the subscription (BadSubscriptionIdInvalid, BadNoSubscription, a StatusChange): it is made again,
  in full, in the same session.
- a notification is missing (sequence numbers): Republish; where the server has it no more, all nodes are read again,
  and drivers.opcua.missed fills what it can.
- the session was lost: in the next one TransferSubscriptions and Republish fetch what was missed, marked as backfill;
  where the server did not keep the subscriptions, drivers.opcua.missed fills what it can.
- neither data nor keep-alive within one and a half keep-alive periods and a timeout: NotConnected.
- a notifier without events: the group's tags are Bad with the server's reason; asked for again too.
- conditions are asked for by ConditionRefresh at each start, and where they may have changed without a word.
- a subscription is alive but empty, a tag silent for its max_silence: drivers.opcua.freshness.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from drivers.opcua import events, freshness, monitor, wire
from drivers.opcua.decode import Columns, decode
from drivers.opcua.events import Events, refresh_request
from drivers.opcua.items import Forgotten, Items, News, Watched, Wish
from drivers.opcua.missed import Hole
from drivers.opcua.monitor import Subscription
from drivers.opcua.names import Limits
from drivers.opcua.session import Refused, Session, status_name
from gateway import quality as q
from gateway.contracts import Agreed
from gateway.errors import NotConnected, ProtocolError
from gateway.model import Batch

RETRY: Final = 30.0  # s; refused items are asked for again this often
REFRESH_AGAIN: Final = 10.0  # s; conditions are asked for again at most this often
_DATA_CHANGE: Final = 811
_EVENTS: Final = 916
_STATUS_CHANGE: Final = 820
_FORGOTTEN: Final = {
    int(ua.StatusCodes.BadSubscriptionIdInvalid), int(ua.StatusCodes.BadNoSubscription),
    int(ua.StatusCodes.BadSequenceNumberUnknown),
}  # fmt: skip


class Watcher:
    """All subscriptions of one session."""

    def __init__(self, session: Session, limits: Limits, watched: Sequence[Watched]) -> None:
        self._session = session
        self.origin = session.origin
        self._limits = limits
        self._watched = watched
        self.items = Items(watched)
        self.events = Events([each for each in watched if each.events is not None], len(self.items))
        self._refresh_at = 0.0
        self.hole = Hole(self.items)
        self._subscriptions: dict[int, Subscription] = {}
        self._acknowledge: list[tuple[int, int]] = []
        self._outstanding: list[tuple[int, asyncio.Future[Any]]] = []  # as they were sent, with their generation
        self._generation = 0
        self._most = 0
        self._retry_at = 0.0
        self._look_at = 0.0
        self._heard_at = 0  # ns of the wall clock; of the last answer, and of the last data
        self._told_at = 0
        self._taken_over = False  # and nothing heard since
        self._idle = False  # all that is known was given
        self._given = self.items.known.delivered, 0  # as it was when that was last so, and when
        self._given_at = 0.0

    # ---------------------------------------------------------------------------------------------- running

    async def run(self, resumed: list[News] | None = None) -> AsyncIterator[News]:
        """Give batches until the session ends, after those that `resume` gave. Raises as the session does."""
        try:
            while True:
                try:
                    first, resumed = resumed, None
                    for batch in await self._begin() if first is None else first:
                        yield batch
                    while True:
                        async for batch in self._next():
                            yield batch
                except Forgotten as error:
                    await self._drop()
                    since = self._told_at if error.lies else self._heard_at
                    for gap in self.hole.open(since, str(error), self._watched):
                        yield gap
        finally:
            self.hole.pause()

    def delivered(self) -> tuple[NDArray[np.int64], int]:
        """Give the source time up to which each item was given, and when (ns) that was so. Never too late a time."""
        return (self.items.known.delivered, self._heard_at) if self._idle else self._given

    def _all_given(self) -> None:
        """Keep for `delivered` what is known, now that all of it was given; now and then, as it costs a copy."""
        self._idle = True
        if time.monotonic() - self._given_at > monitor.KEEP_ALIVE:
            self._given, self._given_at = (self.items.known.delivered, self._heard_at), time.monotonic()

    async def agree(self) -> list[Agreed]:
        """Make the subscriptions, tell what the server made of each group's wishes, and end them."""
        await self._begin()
        agreed: list[Agreed] = []
        for each in self._watched:
            (made,) = (one for one in self._subscriptions.values() if one.wish.publishing == each.wish.publishing)
            agreed += monitor.agreed(each, made, self.items, self.events)
        await self._drop()
        return agreed

    def fits(self, watched: Sequence[Watched]) -> bool:
        """Say whether the same nodes are wanted, under the same node ids, as this one watches."""
        return len(watched) == len(self._watched) and all(
            new.plan is old.plan and new.ids == old.ids and new.events == old.events
            for new, old in zip(watched, self._watched, strict=True)
        )

    def follows(self, watched: Sequence[Watched]) -> bool:
        """Say whether the same groups are wanted, whatever their nodes are called today."""
        return [each.plan for each in watched] == [each.plan for each in self._watched]

    def follow(self, before: Watcher) -> list[News]:
        """Go on behind `before`, of an earlier session whose subscriptions are gone; give what is declared at once."""
        self.items.known.go_on_from(before.items.known)
        self.hole.follow(before.hole)
        return self.hole.open(before._heard_at, "the server did not keep the subscription", self._watched)

    def recall(self, delivered: Mapping[Watched, NDArray[np.int64]], start: int, reason: str) -> None:
        """Go on behind an earlier run, which gave these groups up to these source times."""
        for group, times in delivered.items():
            self.items.known.time[self.items.of_group(group)] = times
        self._heard_at = start
        self.hole.open(start, reason, delivered)

    def _publishing(self, subscription: Subscription) -> list[Watched]:
        return [each for each in self._watched if each.wish.publishing == subscription.wish.publishing]

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
        self._idle = False
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
            given = self.items.known.time.copy()
            for subscription, result in zip(list(self._subscriptions.values()), results, strict=True):
                batches += await self._missed(subscription, result.AvailableSequenceNumbers or [])
        except Refused:
            return None
        except Forgotten:  # half way: what came is not given, but filled with the rest
            self.items.known.time[:] = given
            return None
        now = time.monotonic()
        self.items.known.heard[:] = now
        self._retry_at, self._look_at = now + RETRY, now + 1.0
        good = [handle for handle in range(len(self.items)) if not self.items[handle].refused]
        self.items.known.owed[:] = True
        batches += await self._resync(good)
        batches += self.items.bad(self.items.refused())
        batches += self.events.first()
        self._taken_over = True
        self.hole.go_on()
        self._fill()
        await self._refresh()
        return batches

    async def _missed(self, subscription: Subscription, available: Sequence[int]) -> list[News]:
        """Fetch the notifications that the server sent, or would have sent, while there was no session."""
        batches: list[News] = []
        for sequence in available:
            ahead = (sequence - subscription.expected) % 2**32
            if ahead >= 2**31:
                continue  # it came before
            lost = self._publishing(subscription)
            if ahead:
                batches += self.hole.open(self._heard_at, "notifications were lost", lost)
            found = await self._again(subscription, sequence, backfill=True)
            if found is None:
                found = self.hole.open(self._heard_at, "notifications were lost", lost)
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
        self.items.known.heard[:] = now
        self.items.known.suspect[:] = False
        self.items.known.owed[:] = True
        for publishing, wish in wishes.items():
            made = await monitor.create(self._session, wish)
            self._subscriptions[made.id] = made
            await self._monitor(made, self.items.of(publishing))
            await monitor.monitor_events(self._session, made, self.events.of(publishing))
        self._most = 2 + 2 * len(self._subscriptions)
        self._retry_at = now + RETRY
        self._look_at = now + 1.0
        self._fill()
        await self._refresh()
        return [*self.items.bad(self.items.refused()), *self.events.first()]

    async def _monitor(self, subscription: Subscription, handles: Sequence[int]) -> None:
        await monitor.monitor(self._session, self._limits, subscription, self.items, handles)

    async def _refresh(self) -> None:
        """Let the server tell of the conditions that are so now. One without conditions refuses: there are none."""
        self.events.refresh = False
        self._refresh_at = time.monotonic() + REFRESH_AGAIN
        for subscription in self._subscriptions.values():
            if all(item.refused for item in self.events.of(subscription.wish.publishing)):
                continue
            try:
                answer = await self._session.service(
                    refresh_request(subscription.id), ua.CallResponse, "asking for the conditions"
                )
                self.events.conditions = answer.Results[0].StatusCode.value
            except Refused as error:
                self.events.conditions = error.status
            except NotConnected as error:
                if error.status != q.BAD_TIMEOUT:
                    raise
                self.events.conditions = error.status  # nothing to lose the values for: a dead link is silent too
            self.events.refresh |= self.events.conditions == ua.StatusCodes.BadRefreshInProgress

    def _fill(self) -> None:
        """Keep several PublishRequests with the server, so that it never waits for one."""
        while len(self._outstanding) < self._most:
            acknowledge, self._acknowledge = self._acknowledge, []
            tail = struct.pack("<i", len(acknowledge)) + b"".join(struct.pack("<II", *pair) for pair in acknowledge)
            self._outstanding.append((self._generation, self._session.post(wire.PUBLISH_REQUEST, tail)))

    async def _next(self) -> AsyncIterator[News]:
        """Wait for the next answer or the next thing to see to, and give what it brought."""
        now = time.monotonic()
        late = min(self._late(each) for each in self._subscriptions.values())
        wake = min(self._retry_at, self._look_at, self.hole.wake, late)
        waiting = [*(future for _, future in self._outstanding), *self.hole.page]
        self._all_given()
        await asyncio.wait(waiting, timeout=max(0.0, wake - now), return_when=asyncio.FIRST_COMPLETED)
        self._idle = False
        done = [each for each in self._outstanding if each[1].done()]  # the server answers first come, first served
        self._outstanding = [each for each in self._outstanding if not each[1].done()]
        for generation, future in done:
            for batch in await self._published(future, generation):  # given before the next one can fail
                yield batch
        for batch in self.hole.next(self._session, self._limits):
            yield batch
        self._fill()
        now = time.monotonic()
        for each in self._subscriptions.values():
            if now > self._late(each):
                raise NotConnected(f"{self._session.url}: the subscription is silent", status=q.BAD_TIMEOUT)
        if now >= self._retry_at:
            self._retry_at = now + RETRY
            for batch in await self._retry():
                yield batch
        if self.events.refresh and now >= self._refresh_at:
            await self._refresh()
        if now >= self._look_at:
            self._look_at = now + 1.0
            for batch in await freshness.look(self._session, self._limits, self.items, now):
                yield batch

    def _late(self, subscription: Subscription) -> float:
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
                raise Forgotten from error
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
            complete = True
            if 0 < missed < 2**31:
                found, complete = await self._republish(subscription, sequence)
                batches += found
            if not complete:
                why = "notifications were lost"
                self.events.refresh = True
                batches += self.hole.open(self._told_at, why, self._publishing(subscription))
            subscription.expected = sequence % (2**32 - 1) + 1
            self._acknowledge.append((subscription.id, sequence))
            before = time.monotonic()
            batches += self._message(body, at)
            if not complete:
                batches += await self._resync(self._unheard(subscription, before))
            self._told_at = self._heard_at
        return batches

    def _message(self, body: bytes, at: int, backfill: bool = False) -> list[News]:
        """Read a NotificationMessage's data. Raises Forgotten where it says that the subscription ended."""
        batches: list[News] = []
        count = wire.int32(body, at + 12)
        at += 16
        for _ in range(count):
            kind = wire.numeric_id(body, at)
            at = wire.skip_node_id(body, at) + 1
            end = at + 4 + max(wire.int32(body, at), 0)
            if kind == _DATA_CHANGE:
                batches += self.items.changed(_notified(body, at + 4), backfill)
            elif kind == _EVENTS:
                batches += self.events.notified(body, at + 4, backfill)
            elif kind == _STATUS_CHANGE:
                raise Forgotten(f"the subscription ended: {status_name(wire.uint32(body, at + 4))}")
            at = end
        return batches

    # ------------------------------------------------------------------------------------- what may be amiss

    async def _republish(self, subscription: Subscription, until: int) -> tuple[list[News], bool]:
        """Fetch the notifications that are missing before `until`; say whether the server had all of them."""
        batches: list[News] = []
        while subscription.expected != until:
            found = await self._again(subscription, subscription.expected)
            if found is None:
                return batches, False
            batches += found
            subscription.expected = subscription.expected % (2**32 - 1) + 1
        return batches, True

    def _unheard(self, subscription: Subscription, since: float) -> list[int]:
        """Give the items that were not heard of since a time (monotonic)."""
        heard = self.items.known.heard
        members = self.items.of(subscription.wish.publishing)
        return [handle for handle in members if not self.items[handle].refused and heard[handle] < since]

    async def _again(self, subscription: Subscription, sequence: int, backfill: bool = False) -> list[News] | None:
        """Ask for a notification once more; None where the server has it no more. Raises Forgotten."""
        tail = struct.pack("<II", subscription.id, sequence)
        try:
            body, at = await self._session.exchange(
                wire.REPUBLISH_REQUEST, wire.REPUBLISH_RESPONSE, tail, self._session.options.timeout
            )
        except Refused as error:
            if error.status in _FORGOTTEN:
                raise Forgotten from error
            return None
        try:
            if wire.uint32(body, at) != sequence:
                return None  # some servers give an empty message instead of BadMessageNotAvailable
            self._acknowledge.append((subscription.id, sequence))
            return self._message(body, at, backfill)
        except wire.Malformed as error:
            raise ProtocolError(f"{self._session.url}: a notification that makes no sense: {error}") from error

    async def _retry(self) -> list[News]:
        """Ask again for items that were refused."""
        back: list[events.Item] = []
        for subscription in self._subscriptions.values():
            refused = [handle for handle in self.items.of(subscription.wish.publishing) if self.items[handle].refused]
            if refused:
                await self._monitor(subscription, refused)
            silent = [item for item in self.events.of(subscription.wish.publishing) if item.refused]
            await monitor.monitor_events(self._session, subscription, silent)
            back += [item for item in silent if not item.refused]
        self.events.refresh |= bool(back)
        return [batch for item in back for batch in item.first(time.time_ns())]

    async def _resync(self, handles: Sequence[int]) -> list[Batch]:
        """Read items and give what they hold."""
        if not handles:
            return []
        every = np.array(handles, dtype=np.intp)
        return await freshness.resync(self._session, self._limits, self.items, every)


def _notified(body: bytes, at: int) -> Columns:
    """Read a DataChangeNotification's values, each under its client handle. Raises Malformed."""
    size = wire.int32(body, at)
    if not 0 <= size <= len(body):
        raise wire.Malformed(f"{size} notifications")
    columns = Columns.empty(size)
    decode(body, at + 4, columns, 0, size, handles=True)
    return columns
