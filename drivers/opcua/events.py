"""Events and conditions (Part 4, 7.22.3; Part 9): a group's notifier is one monitored item, its tags are event fields.

- An event is one row per tag, all at the event's own Time. Times of one group are never equal: an event that has the
  Time of another is dated 1 ns later, in the order of arrival; an event that comes again has the time that it had.
- A field that the event does not have is a Bad row: the status that the server put in its place, what it said of the
  field when asked for it, else BadNotFound. Never a value of another event.
- A condition whose Quality is Uncertain gives Uncertain rows; where it is Bad they are Uncertain too: the event itself
  did happen. The exact code is the field Quality.
- RefreshStart, RefreshEnd and RefreshRequired are no rows. An overflow of the server's queue is a gap.
- Each group begins with one row per tag, BadNoData: it listens, and nothing was said yet.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import extensionobject_to_binary, nodeid_to_binary

from drivers.opcua import described, rows, wire
from drivers.opcua.address import BASE_EVENT, CONDITION, FIELDS, NodeName, field_name
from drivers.opcua.decode import Columns, decode, nanoseconds
from drivers.opcua.items import News, Watched, create_request
from drivers.opcua.names import Limits, index_of
from drivers.opcua.plan import OpcuaPlan
from drivers.opcua.session import Session
from gateway import quality as q
from gateway.model import Batch, Gap

BAD_NOT_FOUND: Final = 0x803E0000
BAD_TYPE_DEFINITION_INVALID: Final = 0x80630000
REMEMBERED: Final = 20_000  # events whose times are known
QUEUE: Final = 1000  # events that the server is asked to keep between two sendings
_REFRESH_START, _REFRESH_END, _REFRESH_REQUIRED, _OVERFLOW = 2787, 2788, 2789, 3035
_FILTER_RESULT: Final = 736
FILTER_REFUSED: Final = {
    int(ua.StatusCodes.BadEventFilterInvalid), int(ua.StatusCodes.BadContentFilterInvalid),
    int(ua.StatusCodes.BadFilterOperatorInvalid), int(ua.StatusCodes.BadFilterOperatorUnsupported),
    int(ua.StatusCodes.BadMonitoredItemFilterInvalid), int(ua.StatusCodes.BadMonitoredItemFilterUnsupported),
    int(ua.StatusCodes.BadFilterOperandInvalid), int(ua.StatusCodes.BadFilterElementInvalid),
}  # fmt: skip
_OWN: Final = ("EventId", "EventType", "Time", "ReceiveTime", "Severity", "Quality")  # selected for every group


class Told:
    """The times under which a group's events were given; kept for as long as the gateway runs."""

    def __init__(self) -> None:
        self._by_event: OrderedDict[bytes, int] = OrderedDict()
        self._taken: set[int] = set()
        self._next: dict[int, int] = {}  # of a Time that several events have, the first that is free

    def moment(self, event: bytes, at: int) -> int:
        """Give the time (ns) of an event whose own Time is `at`. An empty `event` id is never the same as another."""
        known = self._by_event.get(event) if event else None
        if known is not None:
            return known
        free = self._next.get(at, at)
        while free in self._taken:
            free += 1
        if len(self._next) > REMEMBERED:
            self._next.clear()
        self._next[at] = free + 1
        self._taken.add(free)
        self._by_event[event or struct.pack("<q", free)] = free
        if len(self._by_event) > REMEMBERED:
            _, oldest = self._by_event.popitem(last=False)
            self._taken.discard(oldest)
        return free


@dataclass(frozen=True, slots=True)
class Select:
    """How a group's events are asked for on this server: where, which, and the place of each of its fields."""

    notifier: bytes | None  # None: not there, and why in `status`
    status: int
    filters: tuple[bytes, ...]  # the second, where there is one, leaves to us what the server may not be able to do
    place: tuple[int, ...]  # of each field of the plan, in the answer; -1 where its namespace is not there
    told: Told = field(compare=False)


async def known_types(session: Session, types: Sequence[ua.NodeId | int], limits: Limits) -> list[ua.NodeId | int]:
    """Look whether event types are there: a server may take one that is not, and never send an event."""
    nodes = [each for each in types if isinstance(each, ua.NodeId)]
    classes = iter(await described.read(session, [(node, ua.AttributeIds.NodeClass) for node in nodes], limits))
    found: list[ua.NodeId | int] = []
    for each in types:
        if isinstance(each, ua.NodeId):
            said = next(classes)
            status = said.StatusCode.value if said.StatusCode is not None else 0
            right = described.content(said) == ua.NodeClass.ObjectType
            found.append(each if right else status if status >= q.BAD else BAD_TYPE_DEFINITION_INVALID)
        else:
            found.append(each)
    return found


def select(plan: OpcuaPlan, found: Sequence[ua.NodeId | int], namespaces: Sequence[str], told: Told) -> Select:
    """Compile a plan for this server; `found` are its notifier and its event types."""
    assert plan.events is not None
    wrong = next((each for each in found if not isinstance(each, ua.NodeId)), 0)
    if isinstance(wrong, int) and wrong:
        return Select(None, wrong, (), (), told)
    nodes = [each for each in found if isinstance(each, ua.NodeId)]
    wanted = ua.EventFilter()
    wanted.SelectClauses = [_operand(((0, name),), FIELDS[name][0]) for name in _OWN]
    place: list[int] = []
    for node in plan.nodes:
        path = _path(node, namespaces)
        place.append(len(wanted.SelectClauses) if path is not None else -1)
        if path is not None:
            owner = FIELDS.get(field_name(node), (BASE_EVENT, ""))[0]
            of = nodes[1] if len(nodes) == 2 and owner == BASE_EVENT and field_name(node) not in FIELDS else owner
            wanted.SelectClauses.append(_operand(path, of))
    filters = [extensionobject_to_binary(wanted)]
    if plan.events.severity > 1 or len(nodes) > 1:
        wanted.WhereClause = _where(plan.events.severity, nodes[1:])
        filters = [extensionobject_to_binary(wanted), *(filters if len(nodes) == 1 else ())]
    return Select(nodeid_to_binary(nodes[0]), 0, tuple(filters), tuple(place), told)


def _path(node: NodeName, namespaces: Sequence[str]) -> tuple[tuple[int, str], ...] | None:
    assert isinstance(node.name, tuple)
    path = [(index_of(namespace, namespaces), name) for namespace, name in node.name]
    there = tuple((index, name) for index, name in path if index is not None)
    return there if len(there) == len(path) else None


def _operand(path: Sequence[tuple[int, str]], owner: int | ua.NodeId) -> ua.SimpleAttributeOperand:
    """Select a field; ConditionId is the condition's own NodeId (Part 9, 5.5.2)."""
    made = ua.SimpleAttributeOperand()
    made.TypeDefinitionId = owner if isinstance(owner, ua.NodeId) else ua.NodeId(owner)
    if path == ((0, "ConditionId"),):
        made.AttributeId = ua.AttributeIds.NodeId
        return made
    made.AttributeId = ua.AttributeIds.Value
    made.BrowsePath = [ua.QualifiedName(name, index) for index, name in path]
    return made


def _where(severity: int, types: Sequence[ua.NodeId]) -> ua.ContentFilter:
    """Write severity >= s and (of type a or b or ...); elements come before those that they point at."""
    tests: list[Any] = []
    if severity > 1:
        literal = ua.LiteralOperand(Value=ua.Variant(severity, ua.VariantType.UInt16))
        tests.append((ua.FilterOperator.GreaterThanOrEqual, [_operand(((0, "Severity"),), BASE_EVENT), literal]))
    of = [(ua.FilterOperator.OfType, [ua.LiteralOperand(Value=ua.Variant(each))]) for each in types]
    if of:
        tests.append(_joined(ua.FilterOperator.Or, of))
    content = ua.ContentFilter()

    def put(test: Any) -> int:
        made = ua.ContentFilterElement()
        made.FilterOperator = test[0]
        at = len(content.Elements)
        content.Elements.append(made)
        for each in test[1]:
            made.FilterOperands.append(ua.ElementOperand(Index=put(each)) if isinstance(each, tuple) else each)
        return at

    if tests:
        put(_joined(ua.FilterOperator.And, tests))
    return content


def _joined(operator: ua.FilterOperator, tests: list[Any]) -> Any:
    joined = tests[-1]
    for each in reversed(tests[:-1]):
        joined = (operator, [each, joined])
    return joined


@dataclass(slots=True, eq=False)
class Item:
    """The monitored item of a group's events."""

    owner: Watched
    handle: int
    refused: int = 0
    queue: int = 0  # as the server revised it
    fields: tuple[int, ...] = ()  # what the server said of each selected field
    heard: int = 0  # ns of the wall clock

    @property
    def select(self) -> Select:
        assert isinstance(self.owner.events, Select)
        return self.owner.events

    def requests(self) -> list[bytes]:
        """Encode a MonitoredItemCreateRequest, and a second one for a server that does not take the first's filter."""
        asked, wish = self.select, self.owner.wish
        notifier = asked.notifier or b"\0\0"
        return [create_request(notifier, wire.EVENT_NOTIFIER, self.handle, wish, each) for each in asked.filters]

    def made(self, status: int, queue: int, body: bytes, at: int) -> None:
        """Take note of the answer to the request; its filter result is at `at`."""
        self.refused, self.queue, self.heard = (status if status >= q.BAD else 0), queue, time.time_ns()
        self.fields = ()
        if wire.numeric_id(body, at) == _FILTER_RESULT:
            at = wire.skip_node_id(body, at) + 5
            count = max(wire.int32(body, at), 0)
            self.fields = tuple(wire.uint32(body, at + 4 + 4 * each) for each in range(min(count, len(body))))

    def first(self, now: int) -> list[News]:
        """Give one Bad row per tag: why there are no events, or that there were none yet."""
        batches = [Batch.bad(table, self.refused or q.BAD_NO_DATA, now) for table in self.owner.plan.tables]
        for each in batches:
            each.tag = each.tag.copy()  # no full scan: that there were no events yet is nothing to warn of
        return list(batches)


class Events:
    """The event items of one session."""

    def __init__(self, watched: Sequence[Watched], first: int) -> None:
        """Number the items' client handles from `first`."""
        self._first = first
        self.items = [Item(each, first + number) for number, each in enumerate(watched)]
        self.conditions = 0  # why the server does not tell of them when it is asked
        self.refresh = False  # conditions may have changed without a word: ask for them

    def first(self) -> list[News]:
        """Give the first row of each tag."""
        now = time.time_ns()
        return [batch for item in self.items for batch in item.first(now)]

    def of(self, publishing: float) -> list[Item]:
        """Give the items that are published at this interval."""
        return [item for item in self.items if item.owner.wish.publishing == publishing]

    def notified(self, body: bytes, at: int, backfill: bool) -> list[News]:
        """Read an EventNotificationList. Raises wire.Malformed."""
        news: list[News] = []
        count = wire.int32(body, at)
        at += 4
        for _ in range(count):
            number, size = wire.uint32(body, at) - self._first, wire.int32(body, at + 4)
            at += 8
            spans = []
            for _ in range(size):
                end = wire.skip_variant(body, at)
                spans.append((at, end))
                at = end
            if not 0 <= number < len(self.items) or size < len(_OWN):
                raise wire.Malformed("an event that nobody asked for")
            news += self._event(self.items[number], body, spans, backfill)
        return news

    def _event(self, item: Item, body: bytes, spans: list[tuple[int, int]], backfill: bool) -> list[News]:
        now, plan = time.time_ns(), item.owner.plan
        kind = spans[1][0]
        what = wire.numeric_id(body, kind + 1) if body[kind] == wire.NODE_ID else -1
        if what == _OVERFLOW:
            self.refresh = True
            start, item.heard = min(item.heard, now), now
            return [Gap(plan.device, plan.group, start, now, "the server's queue of events overflowed")]
        item.heard = now
        if what in (_REFRESH_START, _REFRESH_END, _REFRESH_REQUIRED):
            self.refresh |= what == _REFRESH_REQUIRED
            return []
        columns = self._columns(item, body, spans)
        own = Columns.empty(2)
        decode(b"".join(b"\x01" + body[slice(*spans[place])] for place in (4, 5)), 0, own, 0, 2)
        assert plan.events is not None
        if own.number[0] < plan.events.severity:
            return []  # the server did not take the condition on the severity
        if own.type[1] == wire.STATUS_CODE and (doubt := int(own.number[1])) >= q.UNCERTAIN:
            columns.status[columns.status == q.GOOD] = doubt if doubt < q.BAD else q.UNCERTAIN
        at = {"source": _date(body, spans[2]), "server": _date(body, spans[3]), "arrival": now}[item.owner.wish.clock]
        moment = item.select.told.moment(_bytes(body, spans[0]), at or _date(body, spans[3]) or now)
        columns.source[:] = moment
        batches = [rows.batch(part, columns, part.node, part.table.every.copy(), now, "source") for part in plan.parts]
        for each in batches:
            each.backfill = backfill
        return list(batches)

    def _columns(self, item: Item, body: bytes, spans: list[tuple[int, int]]) -> Columns:
        """Give the plan's fields as columns; what is not there has a Bad status."""
        place = item.select.place
        columns = Columns.empty(len(place))
        there = [spans[each] if 0 <= each < len(spans) else (0, 0) for each in place]
        decode(b"".join(b"\x01" + (body[slice(*each)] or b"\0") for each in there), 0, columns, 0, len(place))
        for row in np.flatnonzero((columns.type == 0) | (columns.type == wire.STATUS_CODE)).tolist():
            said = int(columns.number[row]) if columns.type[row] else 0
            if columns.type[row] and (said < q.BAD or item.owner.plan.nodes[row].name == ((0, "Quality"),)):
                continue  # a StatusCode that is a value
            if place[row] < 0:
                said = q.BAD_NODE_ID_UNKNOWN
            elif not said and place[row] < len(item.fields):
                said = item.fields[place[row]]
            columns.status[row] = said if said >= q.BAD else BAD_NOT_FOUND
        return columns


def _date(body: bytes, span: tuple[int, int]) -> int:
    """Give a field that is a DateTime as ns; 0 where it is none."""
    start, end = span
    if body[start] != wire.DATETIME:
        return 0
    return nanoseconds(int.from_bytes(body[start + 1 : end], "little", signed=True))


def _bytes(body: bytes, span: tuple[int, int]) -> bytes:
    start, end = span
    return body[start + 5 : end] if body[start] == wire.BYTESTRING else b""


def refresh_request(subscription: int) -> ua.CallRequest:
    """Ask for the conditions that are retained (Part 9, 5.5.7)."""
    call = ua.CallMethodRequest()
    call.ObjectId = ua.NodeId(CONDITION)
    call.MethodId = ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh)
    call.InputArguments = [ua.Variant(subscription, ua.VariantType.UInt32)]
    request = ua.CallRequest()
    request.Parameters.MethodsToCall = [call]
    return request
