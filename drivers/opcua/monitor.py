"""Making subscriptions and their monitored items at a server, and what the server made of each group's wishes.

Requests and answers only (Part 4, 5.12 and 5.13); when something is made, made again or given up is the matter of
drivers.opcua.subscribe. Items are made in chunks of the server's size. The status of each that is refused is left in
it; where it is the filter that the server refuses, the item is asked for once more: values without any, events with
their second filter.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from drivers.opcua import events, wire
from drivers.opcua.events import Events
from drivers.opcua.items import Items, Watched, Wish
from drivers.opcua.names import Limits
from drivers.opcua.session import Session, status_name
from gateway import quality as q
from gateway.contracts import Agreed
from gateway.errors import ProtocolError

KEEP_ALIVE: Final = 5.0  # s; a subscription without changes is heard of about this often
LIFETIME: Final = 60.0  # s; how long the server keeps a subscription that nobody asks for
_CREATE_ITEMS: Final = (b"\x01\x00\xef\x02", b"\x01\x00\xf2\x02")  # i=751, i=754
_FILTER_REFUSED: Final = {
    int(ua.StatusCodes.BadFilterNotAllowed), int(ua.StatusCodes.BadMonitoredItemFilterUnsupported),
    int(ua.StatusCodes.BadMonitoredItemFilterInvalid), int(ua.StatusCodes.BadDeadbandFilterInvalid),
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscription at the server, as it revised it."""

    wish: Wish
    id: int
    interval: float
    keep_alive: float
    lifetime: float
    heard: float  # monotonic
    expected: int = 1  # sequence number of the next notification


async def create(session: Session, wish: Wish) -> Subscription:
    """Make a subscription without items. Raises as the session does."""
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
    revised = (await session.service(request, ua.CreateSubscriptionResponse, "making a subscription")).Parameters
    interval = revised.RevisedPublishingInterval / 1000
    return Subscription(
        wish, revised.SubscriptionId, interval, max(revised.RevisedMaxKeepAliveCount, 1) * interval,
        revised.RevisedLifetimeCount * interval, time.monotonic(),
    )  # fmt: skip


async def monitor(
    session: Session, limits: Limits, subscription: Subscription, items: Items, handles: Sequence[int]
) -> None:
    """Make monitored items of values. Raises as the session does."""
    again: list[int] = []
    ready = []
    for handle in handles:
        item = items[handle]
        identified = items.id(handle)
        if identified is None:
            item.refused = item.owner.missing[item.node]
        else:
            ready.append((handle, item, identified))
    for first in range(0, len(ready), limits.monitor):
        some = ready[first : first + limits.monitor]
        tail = struct.pack("<III", subscription.id, 2, len(some)) + b"".join(
            items.request(handle, identified) for handle, _, identified in some
        )
        body, at = await session.exchange(*_CREATE_ITEMS, tail, session.options.timeout)
        for (handle, item, _), made in zip(some, _created(body, at, len(some)), strict=True):
            status, items.sampling[handle], items.queue[handle], _ = made
            item.refused = status if status >= q.BAD else 0
            if status in _FILTER_REFUSED and not item.plain:
                item.plain = True
                again.append(handle)
    if again:
        await monitor(session, limits, subscription, items, again)


async def monitor_events(session: Session, subscription: Subscription, items: Sequence[events.Item]) -> None:
    """Make monitored items of notifiers. Raises as the session does."""
    for item in items:
        item.refused = item.select.status
        if item.refused:
            continue
        for request in item.requests():
            tail = struct.pack("<III", subscription.id, 2, 1) + request
            body, at = await session.exchange(*_CREATE_ITEMS, tail, session.options.timeout)
            ((status, _, queue, after),) = _created(body, at, 1)
            item.made(status, queue, body, after)
            if item.refused not in events.FILTER_REFUSED:
                break


def _created(body: bytes, at: int, expected: int) -> Iterator[tuple[int, float, int, int]]:
    """Give status, revised sampling interval (s), queue size and filter result of each MonitoredItemCreateResult."""
    try:
        if wire.int32(body, at) != expected:
            raise ProtocolError(f"{wire.int32(body, at)} monitored items in answer to {expected}")
        at += 4
        for _ in range(expected):
            sampling, queue = struct.unpack_from("<dI", body, at + 8)
            yield wire.uint32(body, at), sampling / 1000, queue, at + 20
            at = wire.skip_scalar(body, at + 20, wire.EXTENSION_OBJECT)
    except (wire.Malformed, struct.error) as error:
        raise ProtocolError(f"an answer that makes no sense: {error}") from error


# -------------------------------------------------------------------------------------------------- what was agreed


def agreed(group: Watched, made: Subscription, items: Items, told: Events) -> list[Agreed]:
    """Tell what the server made of a group's wishes."""
    wish, name = group.wish, (group.plan.device, group.plan.group)
    found = [
        Agreed(*name, "publishing interval", _span([wish.publishing]), _span([made.interval])),
        Agreed(*name, "lifetime", _span([max(LIFETIME, wish.publishing)]), _span([made.lifetime])),
        Agreed(*name, "keep-alive", _span([max(KEEP_ALIVE, wish.publishing)]), _span([made.keep_alive])),
    ]
    return found + (_agreed_values(group, items) if group.events is None else _agreed_events(group, told))


def _agreed_events(group: Watched, told: Events) -> list[Agreed]:
    name = group.plan.device, group.plan.group
    (event,) = (item for item in told.items if item.owner is group)
    got = f"refused: {status_name(event.refused)}" if event.refused else str(group.plan.events)
    found = [
        Agreed(*name, "events", str(group.plan.events), got),
        Agreed(*name, "queue size", str(group.wish.queue), str(event.queue)),
    ]
    if not event.refused:
        why = told.conditions
        got = f"refused: {status_name(why)}" if why >= q.BAD else "asked for"
        found.append(Agreed(*name, "active conditions", "asked for", got))
    return found


def _agreed_values(group: Watched, items: Items) -> list[Agreed]:
    wish, name = group.wish, (group.plan.device, group.plan.group)
    handles = items.of_group(group)
    mine = [handle for handle in handles if not items[handle].refused]
    plain = sum(items[handle].plain for handle in handles)
    found = [
        Agreed(*name, "sampling interval", _span([wish.sampling]), _span(items.sampling[mine].tolist())),
        Agreed(*name, "queue size", str(wish.queue), _counts(items.queue[mine].tolist())),
    ]
    if len(mine) < len(handles):
        got = f"{len(mine)}, {len(handles) - len(mine)} refused"
        found.append(Agreed(*name, "nodes", str(len(handles)), got))
    if plain:
        found.append(Agreed(*name, "filter", "deadband, trigger", f"not taken for {plain} nodes"))
    return found


def _span(seconds: Sequence[float]) -> str:
    """Write a duration, or the least and the greatest of many, in ms."""
    low, high = min(seconds, default=0.0) * 1000, max(seconds, default=0.0) * 1000
    return f"{low:g} ms" if low == high else f"{low:g} to {high:g} ms"


def _counts(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"
