"""Subscriptions of a simulated OPC UA server, in columns: 20,000 changing nodes must not make the simulator slow.

asyncua keeps the subscriptions, their items and the publishing; of each item on a simulated node we keep a row. At each
tick the rows that are due are compared in one go, and those that changed become the bytes of a DataChangeNotification
(Part 6, 5.2.2.17) by a structured array per type. Texts and arrays are compared and encoded one by one.

Sampling intervals are honoured, as are triggers and deadbands, absolute and in percent of EURange. What is not fetched
in time is kept for as many samplings as the longest queue of the subscription; then the oldest go. A written node is
asyncua's own matter: it tells of the write, and there is no change after it.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from asyncua import ua
from asyncua.common.callback import CallbackType
from asyncua.ua.ua_binary import struct_to_binary
from numpy.typing import NDArray

from simulators.opcua_space import TYPES, WIRE, Variable
from simulators.signals import floats

if TYPE_CHECKING:
    from simulators.opcua import OpcuaServer

TICKS_AT_1970: Final = 116_444_736_000_000_000  # 100 ns since 1601
_DATA_CHANGE: Final = ua.NodeId(ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary)


@dataclass(frozen=True, slots=True)
class Item:
    """A monitored item on a simulated node."""

    handle: int
    variable: Variable
    interval: int  # ns
    queue: int
    trigger: int  # ua.DataChangeTrigger
    band: float  # 0 where there is no deadband
    shown: tuple[int, ...]  # what its first notification told


@dataclass(slots=True, eq=False)
class _Watch:
    """The items of one subscription, and what waits to be published."""

    items: dict[int, Item] = field(default_factory=dict)  # by id
    stale: bool = True
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)  # notifications: how many, encoded
    numbers: _Numbers | None = None
    others: list[tuple[Item, list[Any]]] = field(default_factory=list)  # and what was told last


class _Numbers:
    """Items on numbers of a fixed width, as columns."""

    def __init__(self, items: list[Item], old: _Numbers | None) -> None:
        known: dict[int, tuple[int, ...]] = {} if old is None else old.told()
        last = [known.get(item.handle, item.shown) for item in items]
        self.handle: NDArray[np.uint32] = np.array([item.handle for item in items], np.uint32)
        self.variable = np.array([item.variable.index for item in items], np.intp)
        self.row = np.array([item.variable.row for item in items], np.intp)
        self.interval = np.array([item.interval for item in items], np.int64)
        self.always = np.array([item.trigger == 2 for item in items], bool)
        self.valued = np.array([item.trigger != 0 for item in items], bool)
        self.band = np.array([item.band for item in items], np.float64)
        self.last: NDArray[np.uint64] = np.array([pattern for pattern, _ in last], np.uint64)
        self.status: NDArray[np.uint32] = np.array([status for _, status in last], np.uint32)
        self.due = np.zeros(len(items), np.int64)
        words = list(dict.fromkeys(item.variable.type for item in items))
        of_word = {word: number for number, word in enumerate(words)}
        self.word = np.array([of_word[item.variable.type] for item in items], np.intp)
        self.words = words

    def told(self) -> dict[int, tuple[int, ...]]:
        """Give what each item was told last, by handle."""
        entries = zip(self.handle.tolist(), self.last.tolist(), self.status.tolist(), strict=True)
        return {handle: (last, status) for handle, last, status in entries}


class Publication:
    """All subscriptions of one server."""

    def __init__(self, server: OpcuaServer) -> None:
        self._of = server
        self._service = server.server.iserver.subscription_service
        self._watches: dict[int, _Watch] = {}
        self.written = np.zeros(len(server.variables), bool)
        for event, listener in (
            (CallbackType.ItemSubscriptionCreated, self._created),
            (CallbackType.ItemSubscriptionDeleted, self._deleted),
            (CallbackType.PostWrite, self._wrote),
        ):
            server.server.subscribe_server_callback(event, listener)

    # ------------------------------------------------------------------------------------------------ items

    def _created(self, event: Any, _service: Any) -> None:
        """Take note of new items; let the answer say what their sampling interval is."""
        parameters = event.request_params
        subscription = self._service.subscriptions.get(parameters.SubscriptionId)
        if subscription is None or not event.is_external:
            return
        watch = self._watches.get(parameters.SubscriptionId)
        if watch is None:
            watch = self._watches[parameters.SubscriptionId] = _Watch()
            _publish_also(subscription, watch)
        for request, result in zip(parameters.ItemsToCreate, event.response_params, strict=True):
            index = self._of.index.get(request.ItemToMonitor.NodeId)
            monitored = request.ItemToMonitor.AttributeId == ua.AttributeIds.Value
            if not result.StatusCode.is_good() or index is None or not monitored:
                continue
            asked = request.RequestedParameters
            sampling = asked.SamplingInterval if asked.SamplingInterval >= 0 else result.RevisedSamplingInterval
            interval = max(round(sampling * 1e6), self._of.tick)
            result.RevisedSamplingInterval = interval / 1e6
            if request.MonitoringMode == ua.MonitoringMode.Reporting:
                variable = self._of.variables[index]
                trigger, band = _filter(asked.Filter, variable)
                watch.items[result.MonitoredItemId] = Item(
                    asked.ClientHandle, variable, interval, max(result.RevisedQueueSize, 1), trigger, band,
                    self._shown(variable),
                )  # fmt: skip
                watch.stale = True

    def _deleted(self, event: Any, _service: Any) -> None:
        watch = self._watches.get(event.request_params.SubscriptionId)
        if watch is not None:
            watch.stale = True
            for number in event.request_params.MonitoredItemIds:
                watch.items.pop(number, None)

    def _wrote(self, event: Any, _service: Any) -> None:
        for asked, status in zip(event.request_params.NodesToWrite, event.response_params, strict=True):
            index = self._of.index.get(asked.NodeId)
            if index is not None and status.is_good() and asked.AttributeId == ua.AttributeIds.Value:
                self.written[index] = True

    def _shown(self, variable: Variable) -> tuple[int, ...]:
        """Give what tells whether a variable has changed."""
        status = int(self._of.status[variable.index])
        if variable.row >= 0:
            return int(self._of.patterns[variable.row]), status
        return (*(int(self._of.patterns[row]) for row in variable.rows if row >= 0), status)

    # --------------------------------------------------------------------------------------------- notifying

    def collect(self) -> None:
        """Put what has changed by now into the subscriptions' queues."""
        for number in [number for number in self._watches if number not in self._service.subscriptions]:
            del self._watches[number]
        for watch in self._watches.values():
            if watch.stale:
                self._arrange(watch)
            count, parts = 0, list[bytes]()
            if watch.numbers is not None:
                count, parts = self._numbers(watch.numbers)
            for item, told in watch.others:
                shown = self._shown(item.variable)
                due = told[1] <= self._of.moment
                if due and not self.written[item.variable.index] and (shown != told[0] or item.trigger == 2):
                    told[:] = shown, self._of.moment // item.interval * item.interval + item.interval
                    parts.append(struct.pack("<I", item.handle) + struct_to_binary(self._of.read(item.variable)))
                    count += 1
            if count:
                watch.waiting.append((count, b"".join(parts)))
                while len(watch.waiting) > max(item.queue for item in watch.items.values()):
                    watch.waiting.popleft()

    def _arrange(self, watch: _Watch) -> None:
        watch.stale = False
        numbers = [item for item in watch.items.values() if item.variable.row >= 0]
        watch.numbers = _Numbers(numbers, watch.numbers) if numbers else None
        told = {item.handle: last for item, last in watch.others}
        watch.others = [
            (item, told.get(item.handle, [item.shown, 0])) for item in watch.items.values() if item.variable.row < 0
        ]

    def _numbers(self, items: _Numbers) -> tuple[int, list[bytes]]:
        """Encode the items that are due and have changed."""
        now = self._of.moment
        due = (items.due <= now) & ~self.written[items.variable]
        if not due.any():
            return 0, []
        items.due[due] = now // items.interval[due] * items.interval[due] + items.interval[due]
        patterns, status = self._of.patterns[items.row], self._of.status[items.variable]
        other = patterns != items.last
        if items.band.any():
            quantum = self._of.bank.quantum[items.row]
            own = np.abs(floats(patterns, quantum) - floats(items.last, quantum))  # of recorded floats
            wide = np.abs(patterns.view(np.int64) - items.last.view(np.int64)) * quantum
            wide = np.where(quantum == 0, own, wide)
            other &= wide >= np.nextafter(items.band, math.inf)
        changed = np.flatnonzero(due & (other & items.valued | (status != items.status) | items.always))
        items.last[changed] = patterns[changed]
        items.status[changed] = status[changed]
        parts = []
        for number, word in enumerate(items.words):
            rows = changed[items.word[changed] == number]
            for rows_ in (rows[status[rows] == 0], rows[status[rows] != 0]):
                if len(rows_):
                    values = value_bytes(word, patterns[rows_], self._of.bank.quantum[items.row[rows_]])
                    sources = self._of.sources[items.variable[rows_]]
                    parts.append(encoded(word, values, status[rows_], sources, self._of.stamp, items.handle[rows_]))
        return len(changed), parts


def value_bytes(word: str, patterns: NDArray[np.uint64], quantum: NDArray[np.float64]) -> NDArray[Any]:
    """Turn whole numbers (64-bit patterns) into values of a type."""
    if word.startswith("float"):
        return floats(patterns, quantum).astype(WIRE[word])
    return (patterns != 0).astype("u1") if word == "bool" else patterns.astype(WIRE[word])


def encoded(
    word: str, values: NDArray[Any], status: NDArray[np.uint32], source: Any, server: Any, handle: Any = None
) -> bytes:
    """Encode DataValues of one type with both times (ns), behind their handles where these are given."""
    coded = bool(status.any())
    fields = [("handle", "<u4")] if handle is not None else []
    fields += [("mask", "u1"), ("type", "u1"), ("value", WIRE[word])]
    fields += [("status", "<u4")] if coded else []
    made = np.zeros(len(values), np.dtype([*fields, ("source", "<i8"), ("server", "<i8")]))
    made["mask"], made["type"], made["value"] = (0x0F if coded else 0x0D), TYPES[word].value, values
    made["source"], made["server"] = source // 100 + TICKS_AT_1970, server // 100 + TICKS_AT_1970
    if coded:
        made["status"] = status
    if handle is not None:
        made["handle"] = handle
    return made.tobytes()


def _filter(asked: Any, variable: Variable) -> tuple[int, float]:
    """Give trigger and deadband (in the node's own units) of an item."""
    if not hasattr(asked, "DeadbandType"):  # no filter is an empty ExtensionObject
        return int(ua.DataChangeTrigger.StatusValue), 0.0
    band = float(asked.DeadbandValue) if asked.DeadbandType else 0.0
    if asked.DeadbandType == ua.DeadbandType.Percent:
        width = float(variable.tag.maximum) - float(variable.tag.minimum)
        band = band / 100 * width if math.isfinite(width) else 0.0
    return int(asked.Trigger), band


def _publish_also(subscription: Any, watch: _Watch) -> None:
    """Let a subscription publish what waits, behind what asyncua has found itself."""
    pop, has = subscription._pop_triggered_datachanges, subscription.has_published_results

    def pop_all(result: Any) -> None:
        pop(result)
        if watch.waiting:
            count = sum(number for number, _ in watch.waiting)
            body = struct.pack("<i", count) + b"".join(part for _, part in watch.waiting) + struct.pack("<i", -1)
            watch.waiting.clear()
            result.NotificationMessage.NotificationData.append(ua.ExtensionObject(TypeId=_DATA_CHANGE, Body=body))

    def has_any() -> bool:
        return bool(watch.waiting and subscription._publishing_enabled) or bool(has())

    subscription._pop_triggered_datachanges = pop_all
    subscription.has_published_results = has_any
