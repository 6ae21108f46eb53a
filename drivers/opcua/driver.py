"""The OPC UA driver: one session, read in columns.

Each poll group's ReadRequests are encoded once a session and sent again at each scan with a new header. After the first
answer of a session the nodes are put in the order of their types, so that the answers fall into long runs.

Quality is the server's StatusCode, all 32 bits. Time is the source's, else the server's, else that of arrival; a
device's option `time` can leave out the first or both. A node that is not there, or holds a type that its tag cannot
hold, is a Bad row of that tag.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_to_binary
from numpy.typing import NDArray

from drivers.opcua import described, explain, names, ranges, rows, wire
from drivers.opcua.address import parse_node
from drivers.opcua.browse import browse
from drivers.opcua.decode import Columns
from drivers.opcua.events import QUEUE, Told, known_types, select
from drivers.opcua.items import Watched, Wish
from drivers.opcua.mark import Mark, group_key, pack, unpack
from drivers.opcua.plan import CHUNK, EventWish, OpcuaPlan, plan
from drivers.opcua.ranges import Cut
from drivers.opcua.session import HEALTHY, TOO_MUCH, Refused, Session
from drivers.opcua.subscribe import Watcher
from drivers.opcua.write import write
from gateway import quality as q
from gateway.contracts import Agreed, Answer, Differs, Found, Plan, Said, Write, Written
from gateway.errors import ConfigError, DeviceError, NoAnswer, NotConnected, Problem, ProtocolError
from gateway.model import Batch, Gap, Group, Link, TagTable

if TYPE_CHECKING:
    from drivers.opcua.spec import EventOptions, OpcuaGroup, OpcuaLink

AHEAD: Final = 8  # requests of a scan that are under way at once
LOOK_AGAIN: Final = 30.0  # s; nodes without a node id are looked up again this often


@dataclass(slots=True, eq=False)
class _Prepared:
    """A plan as this session asks for it: encoded requests, and which row of the answer is which node."""

    asked: list[bytes]  # encoded ReadValueIds, in the order in which they are asked for
    tails: list[tuple[bytes, int]]
    row: NDArray[np.intp]  # node of the plan -> row of the answer
    missing: list[tuple[int, int]]  # rows behind those asked for, of nodes that have no node id, and their status
    at: float
    cut: Cut
    settled: bool = field(default=False)


def _time_of(options: Any) -> str:
    return str(getattr(options, "time", "source"))


def wish_of(device: Any, group: Group) -> Wish | None:
    """Give how a poll group wants to be told of changes; None where it is read."""
    options: OpcuaGroup = group.options or device
    if getattr(options, "mode", "read") == "read":
        return None
    interval = group.interval / 1e9
    publishing = options.publishing_interval or interval
    clock = _time_of(device)
    if options.events is not None:
        return Wish(publishing, 0.0, options.queue_size or QUEUE, options.discard == "oldest", clock=clock)
    sampling = interval if options.sampling_interval is None else options.sampling_interval
    queue = options.queue_size or max(2, 2 * math.ceil(publishing / sampling) if sampling else 10)
    band = options.server_deadband
    kind, size = ("none", 0.0) if band is None else ("percent", band[0]) if band[1] else ("absolute", band[0])
    return Wish(
        publishing, sampling, queue, options.discard == "oldest", size, kind, options.trigger, options.freshness,
        clock, options.fill_gaps,
    )  # fmt: skip


def events_of(device: Any, group: Group) -> EventWish | None:
    """Give which events a poll group takes in; None where it has values."""
    wanted: EventOptions | None = getattr(group.options or device, "events", None)
    if wanted is None:
        return None
    types = tuple(parse_node(each) for each in wanted.types)
    return EventWish(parse_node(wanted.notifier), wanted.severity, types)


class OpcuaDriver:
    """One link to one server."""

    def __init__(self, link: Link) -> None:
        self._options: OpcuaLink = link.options
        self._timeouts = {device.name: device.options.timeout or link.options.timeout for device in link.devices}
        self._times = {device.name: _time_of(device.options) for device in link.devices}
        self._wishes = {
            (device.name, group.name): wish_of(device.options, group)
            for device in link.devices
            for group in device.groups
        }
        self._events = {
            (device.name, group.name): events_of(device.options, group)
            for device in link.devices
            for group in device.groups
        }
        self._told: dict[OpcuaPlan, Told] = {}
        self._fields = any(tag.source.field for table in link.tables for tag in table.tags)
        self._groups = [group for device in link.devices for group in device.groups]
        self._recalled = b""  # the mark of an earlier run
        self._watcher: Watcher | None = None  # kept across sessions: the server may keep its subscriptions too
        self._session: Session | None = None
        self._url = link.options.url  # of the server that served last
        self._learnt: dict[str, tuple[list[str], names.Limits]] = {}
        self._namespaces: list[str] = []
        self._limits = names.Limits()
        self._chunk = CHUNK
        self._ahead = AHEAD
        self._took_many = False  # the server has answered requests that were sent ahead
        self._prepared: dict[OpcuaPlan, _Prepared] = {}
        self._troubled = False
        self._answers: dict[OpcuaPlan, explain.Answered] = {}  # the last ones of polled groups, for `explain`
        self._given: dict[OpcuaPlan, NDArray[np.int64]] = {}  # each node's source and server time in the last answer
        self._asked: tuple[str, str] | None = None  # the server that has said what the file leaves open
        self._lost = 0  # ns of the wall clock; when the last interruption was over

    def plan(self, tables: Sequence[TagTable]) -> OpcuaPlan:
        """Compile the tables of one poll group of one device. Raises ConfigError."""
        wish = self._wishes.get((tables[0].device, tables[0].group))
        if wish is not None and wish.fill_gaps and wish.clock != "source":
            where = tables[0].tags[0].where
            reason = f"fill_gaps gives history the time of its source, and the group has time: {wish.clock}"
            hint = "leave out one of the two"
            path = f"{tables[0].device}.groups.{tables[0].group}"
            raise ConfigError([Problem(where.file, where.line, where.column, path, reason, hint)])
        return plan(tables, self._events.get((tables[0].device, tables[0].group)))

    async def connect(self) -> None:
        """Make the session, learn the server's namespaces and limits. Raises NotConnected.

        Of a redundant set the first healthy server is taken, beginning with the one that served last; where none is
        healthy, the one with the highest ServiceLevel.
        """
        await self.close()
        urls = sorted((self._options.url, *self._options.redundant), key=lambda url: url != self._url)
        try:
            best = await self._choose(urls)
        except BaseException:
            await self.close()
            self._troubled = True
            raise
        if self._troubled:
            self._lost = time.time_ns()
        self._troubled = True  # any other connect is behind an interruption
        assert self._session is not None
        if len(urls) > 1:
            self._session.floor = min(best, HEALTHY)
        self._url = self._session.url
        self._namespaces, self._limits = self._learnt[self._url]
        self._chunk = self._limits.read

    async def _choose(self, urls: Sequence[str]) -> int:
        """Make a session with the best of these servers; give its ServiceLevel. Raises NotConnected."""
        failure = NotConnected(f"{self._options.url}: no session")
        best = -1
        for url in urls:
            session = Session(self._options, url)
            try:
                level = await self._open(session, ask=len(urls) > 1)
            except BaseException as error:
                await session.close()
                if not isinstance(error, NotConnected):
                    raise
                failure = error
                continue
            if level <= best:
                await session.close()
                continue
            if self._session is not None:
                await self._session.close()
            self._session, best = session, level
            if level >= HEALTHY:
                break
        if self._session is None:
            raise failure
        return best

    async def _open(self, session: Session, *, ask: bool) -> int:
        """Make one session and learn what it needs to be used; give its ServiceLevel. Raises NotConnected."""
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await session.open()
                level = await session.service_level() if ask else 255
                namespaces = await names.read_namespaces(session)
                limits = await names.read_limits(session)
                session.origin = session.url, await names.read_start(session)
                if self._fields:
                    await names.read_structures(session, self._options.connect_timeout)
        except TimeoutError as error:
            raise NotConnected(f"{session.url}: not connected in time", status=q.BAD_TIMEOUT) from error
        except Refused as error:
            raise NotConnected(str(error), status=error.status) from error
        self._learnt[session.url] = namespaces, limits
        return level

    async def read(self, plan: Plan) -> list[Batch]:
        """Read a poll group: one batch per table. Raises NoAnswer, NotConnected, ProtocolError."""
        assert isinstance(plan, OpcuaPlan)
        session = self._connected()
        if plan.events is not None:  # events happen; there is nothing to read
            return [Batch.bad(table, q.BAD_NOT_SUPPORTED, time.time_ns()) for table in plan.tables]
        prepared = self._prepared.get(plan)
        if prepared is None or (prepared.missing and time.monotonic() - prepared.at > LOOK_AGAIN):
            prepared = self._prepared[plan] = await self._prepare(session, plan)
        while True:
            try:
                columns = await self._read(session, prepared, self._timeouts.get(plan.device, self._options.timeout))
                break
            except Refused as error:
                if error.status not in TOO_MUCH or self._chunk <= 1:
                    error.device = plan.device
                    raise
                self._chunk = max(1, self._chunk // 2)
                prepared.tails = self._tails(prepared.asked)
        arrival, clock = time.time_ns(), self._times.get(plan.device, "source")
        self._answers[plan] = explain.Answered(columns, prepared.row, arrival, prepared.cut)
        self._date(plan, prepared, columns, clock)
        batches = [
            rows.batch(part, columns, prepared.row[part.node], part.table.every, arrival, clock, prepared.cut)
            for part in plan.parts
        ]
        if not prepared.settled:
            self._settle(prepared, columns)
        return batches

    def _connected(self) -> Session:
        """Give the session. Raises NotConnected where there is none."""
        if self._session is None:
            raise NotConnected(f"{self._options.url}: no session")
        return self._session

    def subscribes(self, plan: Plan) -> bool:
        """Say whether the server reports this poll group."""
        assert isinstance(plan, OpcuaPlan)
        return self._wishes[plan.device, plan.group] is not None

    async def changes(self, plans: Sequence[Plan]) -> AsyncIterator[Batch | Gap]:
        """Give what the server reports, first one row per tag; each batch holds a tag at most once.

        A Gap says what an interruption cost that neither the server's queues nor its history bring back.
        """
        session = self._connected()
        watched = []
        for each in plans:
            assert isinstance(each, OpcuaPlan)
            watched.append(await self._watched(session, each))
        watcher, resumed = self._watcher, None
        if watcher is not None:
            watcher.items.lost = self._lost
        if watcher is not None and watcher.fits(watched) and watcher.origin == session.origin:
            resumed = await watcher.resume(session)
        if watcher is None or resumed is None:
            before, watcher = watcher, Watcher(session, self._limits, watched)
            watcher.items.lost = self._lost
            if before is not None and before.follows(watched):
                for gap in watcher.follow(before):
                    yield gap
            elif before is None:
                self._go_on_from_earlier_run(watcher, watched)
        self._watcher = watcher
        async for batch in watcher.run(resumed):
            yield batch

    def mark(self) -> bytes:
        """Say how far the subscribed groups that are to be filled were given; `recall` reads it in a later run."""
        if self._watcher is None:
            return self._recalled
        items = self._watcher.items
        times, heard = self._watcher.delivered()
        return pack(Mark(heard, {each.key: times[items.of_group(each)] for each in items.watched if each.key}))

    def recall(self, mark: bytes) -> set[tuple[str, str]]:
        """Take a mark of an earlier run; give the groups whose hole since then is filled, or declared, from here."""
        self._recalled = mark
        earlier = unpack(mark)
        return {
            (group.device, group.name)
            for group in self._groups
            if (wish := self._wishes[group.device, group.name]) is not None
            and wish.fill_gaps
            and group_key(self.plan(group.tables)) in earlier.groups
        }

    def _go_on_from_earlier_run(self, watcher: Watcher, watched: Sequence[Watched]) -> None:
        earlier = unpack(self._recalled)
        delivered = {}
        for each in watched:
            times = earlier.groups.get(each.key)
            if times is not None and len(times) == len(each.plan.nodes):
                delivered[each] = times
        if delivered:
            watcher.recall(delivered, earlier.heard, "the gateway was not running")

    async def agree(self, plans: Sequence[Plan]) -> list[Agreed]:
        """Subscribe, tell what the server made of it, and end it again. Raises NotConnected, NoAnswer."""
        session = self._connected()
        watched = [await self._watched(session, each) for each in plans if isinstance(each, OpcuaPlan)]
        return await Watcher(session, self._limits, watched).agree()

    def explain(self, plan: Plan, table: int, row: int) -> Answer:
        """Say how a tag's node is asked for, and what came last."""
        assert isinstance(plan, OpcuaPlan)
        if self.subscribes(plan):
            return explain.reported(plan, self._watcher, table, row)
        return explain.read(plan, self._answers.get(plan), table, row)

    async def compare(self, plans: Sequence[Plan]) -> list[Differs]:
        """Tell where the server's types, units, ranges and states are not those of the file. Raises as `read` does."""
        session = self._connected()
        differ: list[Differs] = []
        for each in plans:
            assert isinstance(each, OpcuaPlan)
            if each.events is not None:
                continue
            found = await names.resolve(session, each.nodes, self._namespaces, self._limits.translate)
            nodes = [node for node in found if isinstance(node, ua.NodeId)]
            there = iter(await described.describe(session, nodes, self._limits))
            said = [
                next(there) if isinstance(node, ua.NodeId) else described.Description(status=node) for node in found
            ]
            differ += described.differences(each, said)
        return differ

    async def describe(self, plans: Sequence[Plan]) -> list[Said]:
        """Ask for units and ranges that the file leaves open: once, and again of a server that was restarted.

        Another server of a redundant set has the same address space.
        """
        session = self._connected()
        asked, origin = self._asked, session.origin
        if asked is not None and (asked[0] != origin[0] or asked == origin):
            return []
        try:
            found = await self._said(session, plans)
        except ProtocolError as error:
            self._asked = origin  # what could not be decoded will not be the next time
            raise NoAnswer(str(error)) from error
        self._asked = origin
        return found

    async def _said(self, session: Session, plans: Sequence[Plan]) -> list[Said]:
        found: list[Said] = []
        for each in plans:
            assert isinstance(each, OpcuaPlan)
            wanted = described.open_nodes(each) if each.events is None else []
            names_of = [each.nodes[node] for node in wanted]
            ids = await names.resolve(session, names_of, self._namespaces, self._limits.translate)
            there = [(node, one) for node, one in zip(wanted, ids, strict=True) if isinstance(one, ua.NodeId)]
            about = await described.describe_numbers(session, [one for _, one in there], self._limits)
            found += described.said(each, dict(zip((node for node, _ in there), about, strict=True)))
        return found

    async def _watched(self, session: Session, plan: OpcuaPlan) -> Watched:
        wish = self._wishes[plan.device, plan.group]
        assert wish is not None
        if plan.events is not None:
            nodes = [plan.events.notifier, *plan.events.types]
            found = await names.resolve(session, nodes, self._namespaces, self._limits.translate)
            found[1:] = await known_types(session, found[1:], self._limits)
            asked = select(plan, found, self._namespaces, self._told.setdefault(plan, Told()))
            return Watched(plan, wish, [], {}, events=asked)
        found = await names.resolve(session, plan.nodes, self._namespaces, self._limits.translate)
        await described.learn_names(session, plan, found, self._limits)
        ids = [nodeid_to_binary(each) if isinstance(each, ua.NodeId) else None for each in found]
        missing = {node: each for node, each in enumerate(found) if not isinstance(each, ua.NodeId)}
        cut = await ranges.learn(session, plan, found, self._limits)
        return Watched(plan, wish, ids, missing, group_key(plan) if wish.fill_gaps else "", cut)

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Set values, one after the other, each read back. Raises NotConnected, ProtocolError."""
        session = self._connected()
        nodes = [each.tag.source.node for each in writes]
        found = await names.resolve(session, nodes, self._namespaces, self._limits.translate)
        return [await write(session, node, each) for node, each in zip(found, writes, strict=True)]

    async def browse(self, start: str = "", limit: int = 100_000) -> AsyncIterator[Found]:
        """List what the server has below a node. Raises NotConnected, ValueError."""
        session = self._connected()
        async for found in browse(session, self._namespaces, self._limits, start, limit):
            yield found

    async def close(self) -> None:
        """End the session. Never raises."""
        session, self._session = self._session, None
        self._prepared.clear()
        if session is not None:
            await session.close(keep=self._watcher is not None)

    async def _prepare(self, session: Session, plan: OpcuaPlan) -> _Prepared:
        found = await names.resolve(session, plan.nodes, self._namespaces, self._limits.translate)
        await described.learn_names(session, plan, found, self._limits)
        cut = await ranges.learn(session, plan, found, self._limits)
        asked: list[bytes] = []
        row = np.empty(len(found), dtype=np.intp)
        absent: list[tuple[int, int]] = []
        for node, identified in enumerate(found):
            if isinstance(identified, ua.NodeId):
                row[node] = len(asked)
                asked.append(nodeid_to_binary(identified) + wire.value(cut.range(node)))
            else:
                absent.append((node, identified))
        missing = []
        for position, (node, status) in enumerate(absent):
            row[node] = len(asked) + position
            missing.append((len(asked) + position, status))
        return _Prepared(asked, self._tails(asked), row, missing, time.monotonic(), cut)

    def _tails(self, asked: list[bytes]) -> list[tuple[bytes, int]]:
        chunks = (asked[first : first + self._chunk] for first in range(0, len(asked), self._chunk))
        return [(wire.read_tail(chunk), len(chunk)) for chunk in chunks]

    async def _read(self, session: Session, prepared: _Prepared, timeout: float) -> Columns:
        """Ask for all nodes, some requests ahead of the answers: a scan then wakes up once a request, not twice."""
        columns = Columns.empty(len(prepared.row))
        row = 0
        ahead = deque(prepared.tails)
        asked: deque[tuple[asyncio.Future[Buffer], int]] = deque()
        while ahead or asked:
            if len(asked) <= self._ahead // 2:
                while ahead and len(asked) < self._ahead:
                    tail, count = ahead.popleft()
                    # the server counts its time from when it got the request, also while it works on those before
                    asked.append((session.post(wire.READ_REQUEST, tail, timeout * (1 + len(asked))), count))
            future, count = asked.popleft()
            try:
                body, at = await session.answer(future, wire.READ_RESPONSE, timeout)
            except DeviceError:
                if asked and not self._took_many:
                    self._ahead = 1  # it may be the many at once that the server does not take
                raise
            session.unpack(body, at, columns, row, count)
            row += count
        self._took_many |= self._ahead > 1 and len(prepared.tails) > 1
        for absent, status in prepared.missing:
            columns.status[absent] = status
        return columns

    def _date(self, plan: OpcuaPlan, prepared: _Prepared, columns: Columns, clock: str) -> None:
        """Let a value whose source time was given already be dated anew: it is so still."""
        if clock != "source":
            return
        given = self._given.get(plan)
        times = np.stack((columns.source, columns.server))[:, prepared.row]
        self._given[plan] = times
        known = np.zeros_like(columns.server)
        still = np.zeros(len(known), dtype=bool)
        still[prepared.row] = (times[0] != 0) & (times[0] <= self._lost)
        if given is not None:
            still[prepared.row] |= (given[0] == times[0]) & (times[0] != 0)
            known[prepared.row] = given[1]
        rows.redate(columns, still, np.maximum(known, self._lost))

    def _settle(self, prepared: _Prepared, columns: Columns) -> None:
        """Put the nodes in the order of what they answered, once a session, so that equal shapes stand together."""
        asked = len(prepared.asked)
        shape = columns.type[:asked].astype(np.int64) * 8
        shape += (columns.status[:asked] != 0) * 4 + (columns.source[:asked] == 0) * 2 + (columns.server[:asked] == 0)
        order = np.argsort(shape, kind="stable")
        prepared.settled = True
        if np.count_nonzero(np.diff(shape)) <= 2 * len(np.unique(shape)):
            return
        new_row = np.arange(len(prepared.row))
        new_row[order] = np.arange(asked)
        prepared.row = new_row[prepared.row]
        prepared.asked = [prepared.asked[old] for old in order.tolist()]
        prepared.tails = self._tails(prepared.asked)
