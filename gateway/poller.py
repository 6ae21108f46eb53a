"""One task per link: scan by the clock, and own all trouble of the link and its devices.

Drivers try once and say what happened; this module decides what follows, the same way for every protocol:

- Scans sit on multiples of their interval. One that comes too late for its slot is skipped, counted and declared as a
  gap; never bunched.
- NoAnswer concerns one device: after its retries each of its tags gets one Bad row, and the device leaves the
  rotation. It is probed with one group, in pauses that double, and are long against what a probe costs the
  neighbours. When it answers, all its groups are scanned at once and reported in full.
- NotConnected concerns the link: each tag of each device gets one Bad row, once, and the link is made again after a
  pause that doubles, with jitter. A link all of whose devices are silent is treated so too: it may be half-open.
- A defect in a driver (an exception of any kind, a call that does not come back) costs that link a restart, never the
  daemon. Only a driver that blocks the event loop's thread cannot be helped.
- What is to be written goes between two scans, one value at a time, so that a flood of writes does not hold up the
  reading. Nothing waits for a link that is down: such a write is refused at once. No write is ever repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from prometheus_client import Counter, Gauge

from gateway import quality as q
from gateway.contracts import Adaptable, Describing, Driver, Plan, Resuming, Said, Subscribing, Writable, Write, Written
from gateway.errors import DeviceError, JournalError, NoAnswer, NotConnected
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Batch, Device, Gap, Group, Link
from gateway.pipeline import Pipeline
from gateway.schedule import Backoff, missed, next_instant

log = structlog.get_logger()

_T = TypeVar("_T")

Clock = Callable[[], int]
"""Gives the time in ns: a clock that makes no step of which `Poller.moved` is not told."""

SHARE: Final = 30  # a probe of a silent device may take 1/SHARE of the link's time from its neighbours
LONGEST_SLEEP: Final = 3600.0  # s
SECOND: Final = 1_000_000_000
NEVER: Final = 2**62  # ns
PATIENCE: Final = 10.0  # s beyond a driver's own deadline before it counts as stuck; and what `close` may take
MARK: Final = 10.0  # s; how far a driver has given its data is kept this often
LET_GO: Final = 1.0  # s that a stuck call has to take its cancellation; then it is left behind
ROOM: Final = 0.05  # s between looks for writes while the journal is full
ASK: Final = 60.0  # s beyond connecting that a peer may take to say what its tags are
WRITE: Final = 30.0  # s; the driver has its own deadlines, this one only guards against a driver that forgets


Room = Callable[[], Awaitable[None]]
"""Waits while the journal is full and holds scans."""

Pipelines = Mapping[tuple[str, str], Pipeline]
"""The pipelines of poll groups, by device and name."""

Keep = Callable[[str, bytes], None]
"""Keeps a link's mark: how far its driver has given data, for the next run."""


Learn = Callable[[Sequence[Said]], bool]
"""Takes what a peer says of its tags; true where something is new: then this poller is ended, and another one made."""


def _forgets(_link: str, _mark: bytes) -> None:
    return


def forgets(_said: Sequence[Said]) -> bool:
    """Learn nothing."""
    return False


@dataclass(slots=True, eq=False)
class _Wish:
    """A value that waits for its turn on the link. `permit` is asked right before it is written, and may raise."""

    write: Write
    permit: Callable[[], None]
    answer: asyncio.Future[Written]


@dataclass(slots=True, eq=False)
class _Peer:
    """A device in the rotation. `up` is None until it was first tried in this session."""

    device: Device
    backoff: Backoff
    up: bool | None = None
    declared: bool = False  # its tags have their Bad row
    retry_at: int = 0
    turns: list[_Turn] = field(default_factory=list)

    @property
    def probe(self) -> _Turn | None:
        """The group by which a silent device is tried."""
        return next((turn for turn in self.turns if not turn.subscribed), None)


@dataclass(slots=True, eq=False)
class _Turn:
    """A poll group in the rotation; `due` is its next scan instant in ns."""

    peer: _Peer
    group: Group
    plan: Plan
    pipeline: Pipeline
    deadline: float  # s; the driver has its own, this one only guards against a driver that forgets
    scans: Counter
    skipped: Counter
    seconds: Gauge
    subscribed: bool = False  # the peer reports it; it has no scan instants
    due: int = 0
    began: int = 0  # ns; of the last scan
    took: float = 0.0  # s
    outcome: str = ""  # of the last scan: empty where it was answered, else why not

    def slot(self, now: int) -> int:
        """Give the scan instant whose slot `now` lies in."""
        if self.subscribed:
            return NEVER
        return next_instant(now, self.group.interval, self.group.phase) - self.group.interval

    def when(self) -> int:
        """Give the time at which this turn wants the link; a silent device has one turn, its probe."""
        if self.peer.up is False:
            return self.peer.retry_at if self.peer.probe is self else NEVER
        return self.due


class Poller:
    """The task of one link."""

    def __init__(
        self,
        link: Link,
        driver: Driver,
        pipelines: Pipelines,
        metrics: Metrics,
        health: Health,
        room: Room,
        clock: Clock = time.time_ns,
        keep: Keep = _forgets,
        learn: Learn = forgets,
    ) -> None:
        self._keep = keep
        self._learn = learn
        self._link = link
        self._driver = driver
        self._metrics = metrics
        self._health = health
        self._room = room
        self._clock = clock
        self._log = log.bind(link=link.name)
        options = link.options
        self.connecting = PATIENCE + 2.0 * options.connect_timeout  # s; the driver has its own deadline, as for reads
        self.closing = PATIENCE  # s
        self._told: set[tuple[str, str]] = set()  # defects that were logged
        self._backoff = Backoff(options.retry_first, options.retry_longest)
        self._set([self._peer(device, pipelines) for device in link.devices])
        self._changes: deque[tuple[Link, Pipelines, asyncio.Future[None]]] = deque()
        self._wishes: deque[_Wish] = deque()
        self._wished = asyncio.Event()
        self._ended = 0  # sessions that are over; a call left behind in one must not go on in the next
        self._stuck: asyncio.Future[None] | None = None
        self._down = "not connected yet"  # why nothing can be written; empty in a session

    def _peer(self, device: Device, pipelines: Pipelines) -> _Peer:
        """Make a device with its turns. Raises ConfigError where the driver cannot plan it."""
        options, metrics = self._link.options, self._metrics
        peer = _Peer(device, Backoff(options.retry_first, options.retry_longest))
        for group in device.groups:
            plan = self._driver.plan(group.tables)
            timeout = device.options.timeout or options.timeout
            requests = plan.requests()
            line = sum(request.seconds for request in requests)
            turn = _Turn(
                peer,
                group,
                plan,
                pipelines[group.device, group.name],
                10.0 + 2.0 * line + 4.0 * timeout * max(1, len(requests)),
                metrics.scans.labels(group.device, group.name),
                metrics.skipped.labels(group.device, group.name),
                metrics.scan_seconds.labels(group.device, group.name),
            )
            turn.subscribed = isinstance(self._driver, Subscribing) and self._driver.subscribes(plan)
            peer.turns.append(turn)
        return peer

    def _set(self, peers: list[_Peer]) -> None:
        self._peers = peers
        self._turns = [turn for peer in peers for turn in peer.turns]
        self._subscribed = [turn for turn in self._turns if turn.subscribed]
        self._polled = [turn for turn in self._turns if not turn.subscribed]

    # ------------------------------------------------------------------------------------------ other devices

    @property
    def answering(self) -> set[str]:
        """The devices that have answered since they were last changed, and have not been lost since."""
        return {peer.device.name for peer in self._peers if peer.up}

    @property
    def subscribed(self) -> set[tuple[str, str]]:
        """The groups that the peer reports itself."""
        return {(turn.group.device, turn.group.name) for turn in self._subscribed}

    @property
    def dues(self) -> dict[tuple[str, str], int]:
        """The next scan instant (ns) of each polled group that is not declared Bad, for who polls it after us."""
        return {
            (turn.group.device, turn.group.name): turn.due
            for turn in self._polled
            if turn.due and not turn.peer.declared
        }

    def resume(self, dues: Mapping[tuple[str, str], int]) -> None:
        """Go on at these scan instants, before `run`: what passes until the first scan is declared as skipped."""
        for turn in self._turns:
            turn.due = dues.get((turn.group.device, turn.group.name), 0)

    def owe_since(self, moment: int) -> None:
        """Owe all scans from this moment on (ns), before `run`: a start may take longer than an interval."""
        for turn in self._turns:
            turn.due = turn.slot(moment)

    async def adapt(self, link: Link, pipelines: Pipelines) -> None:
        """Poll the devices of `link` instead, within the session; returns when that is so.

        The driver must be Adaptable. Devices that are the same objects go on untouched; `pipelines` needs to have
        those of the others' groups. A write that waits is carried out all the same.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append((link, pipelines, done))
        if self._down:
            self._change()
        else:
            self._wished.set()
        await done

    def _change(self) -> None:
        """Carry out what waits, between two scans."""
        while self._changes:
            link, pipelines, done = self._changes.popleft()
            try:
                self._adapt(link, pipelines)
            except Exception as error:  # noqa: BLE001  it is the caller's
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(None)

    def _adapt(self, link: Link, pipelines: Pipelines) -> None:
        assert isinstance(self._driver, Adaptable)
        now, before = self._clock(), {peer.device.name: peer for peer in self._peers}
        same = {each.name for each in link.devices if each.name in before and before[each.name].device is each}
        self._driver.adopt(link)
        try:
            fresh = {each.name: self._peer(each, pipelines) for each in link.devices if each.name not in same}
        except BaseException:
            self._driver.adopt(self._link)
            raise
        self._link = link
        for name, peer in fresh.items():
            self._replaced(before.get(name), peer, now)
        for name, peer in before.items():
            if name not in same and name not in fresh:
                self._owed(peer.turns, now)
        self._set([fresh.get(each.name) or before[each.name] for each in link.devices])

    def _replaced(self, old: _Peer | None, peer: _Peer, now: int) -> None:
        """Let a new definition of a device go on where the old one was."""
        turns = {} if old is None or old.declared else {turn.group.name: turn for turn in old.turns}
        peer.declared = old is not None and old.declared
        for turn in peer.turns:
            same, turn.due = turns.get(turn.group.name), turn.slot(now)
            if same is not None and (same.group.interval, same.group.phase) == (turn.group.interval, turn.group.phase):
                turn.due = same.due
                del turns[turn.group.name]
        self._owed(turns.values(), now)

    def _owed(self, turns: Iterable[_Turn], now: int) -> None:
        """Declare the scans that turns which end here have missed."""
        for turn in turns:
            if not turn.peer.declared and not turn.subscribed:
                self._skip(turn, now)

    # ------------------------------------------------------------------------------------------ the task

    @property
    def driver(self) -> Driver:
        """The link's driver, for what asks nothing of the device."""
        return self._driver

    def account(self) -> dict[str, Any]:
        """Tell how the link and its devices are: why it is down, and of each poll group its last scan. Times in ns."""
        return {
            "down": self._down,
            "devices": {
                peer.device.name: {
                    "up": peer.up,
                    "declared": peer.declared,
                    "retry_at": peer.retry_at if peer.up is False else 0,
                    "groups": [
                        {
                            "group": turn.group.name,
                            "interval": turn.group.interval,
                            "tags": sum(map(len, turn.group.tables)),
                            "bad": turn.pipeline.bad_tags,
                            "subscribed": turn.subscribed,
                            "began": turn.began,
                            "took": turn.took,
                            "outcome": turn.outcome,
                            "due": 0 if turn.subscribed else turn.due,
                        }
                        for turn in peer.turns
                    ],
                }
                for peer in self._peers
            },
        }

    def moved(self, shift: int) -> None:
        """Hear that the clock was set by `shift` ns: scans go on as they were, and soon on the new clock's instants.

        The first one comes up to an interval early for that.
        """
        for turn in self._turns:
            turn.began += shift if turn.began else 0
            if turn.due and not turn.subscribed:
                turn.due = turn.slot(turn.due + shift)
        for peer in self._peers:
            peer.retry_at += shift
        self._wished.set()

    def find(self, device: str, tag: str) -> tuple[Plan, Pipeline, Group, int, int] | None:
        """Give plan, pipeline, group, number of the table and row of a tag; None where the link does not have it."""
        for turn in (turn for turn in self._turns if turn.group.device == device):
            for number, table in enumerate(turn.group.tables):
                if tag in table.names:
                    return turn.plan, turn.pipeline, turn.group, number, table.names.index(tag)
        return None

    def newest(self) -> list[Batch]:
        """Give the last full scan of each table that is scanned."""
        return [batch for turn in self._turns for batch in turn.pipeline.newest()]

    async def write(self, write: Write, permit: Callable[[], None]) -> Written:
        """Write one value between two scans, and read it back. Raises NotConnected where the device was asked nothing.

        `permit` is called right before the device is asked; what it raises comes out of here. Whatever became of a
        write that was begun is in the result: a link that ends during it makes a result, no exception.
        """
        if self._down:
            raise NotConnected(self._down, write.device)
        if any(peer.up is False and peer.device.name == write.device for peer in self._peers):
            raise NotConnected("the device does not answer", write.device)
        wish = _Wish(write, permit, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self._wished.set()
        return await wish.answer

    async def run(self) -> None:
        """Poll until cancelled. Raises JournalError only."""
        for turn in self._turns:
            turn.due = turn.due or turn.slot(self._clock())
        while True:
            try:
                await _within(self.connecting, self._driver.connect(), "connect")
                self._linked()
                await self._ask()
                self._down = ""
                await self._session()
            except NotConnected as error:
                self._lost(error)
            except BaseException as error:  # a third party's driver may raise anything
                if isinstance(error, JournalError | KeyboardInterrupt) or _ending():
                    raise
                self._defect("A defect in the driver; the link is started again.", error)
                self._lost(NotConnected(f"defect in the driver: {error!r}"))
            finally:
                self._refuse_wishes()
                await self._close()
            await asyncio.sleep(self._backoff.pause())

    async def _ask(self) -> None:
        """Let the peer say what the file leaves open, before anything is recorded. Raises NotConnected."""
        if not isinstance(self._driver, Describing):
            return
        try:
            described = self._driver.describe([turn.plan for turn in self._turns])
            said = await _within(self.connecting + ASK, described, "describe")
        except NoAnswer as error:
            self._log.warning("The server does not say what its tags are; the file alone does.", error=str(error))
            return
        except Exception as error:
            if isinstance(error, NotConnected | JournalError):
                raise
            self._defect("A defect in the driver: what its peer says of its tags is left out.", error)
            return
        if said and self._learn(said):
            await asyncio.sleep(ASK)  # ended meanwhile; where that fails, what the file says goes on

    async def _close(self) -> None:
        try:
            await _within(self.closing, self._driver.close(), "close")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or _ending():
                raise
            self._defect("A defect in the driver: it did not close.", error)

    def _defect(self, event: str, error: BaseException) -> None:
        """Log a defect with its traceback, once until another one or a good answer."""
        if (event, repr(error)) not in self._told:
            self._told.add((event, repr(error)))
            self._log.error(event, exc_info=error)

    async def _session(self) -> None:
        """Poll and listen until something ends the session. Raises NotConnected, or what a defect raises.

        Both run in tasks of their own: what a driver does to the task that calls it does not reach this one.
        """
        stuck = self._stuck = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(_contained(self._poll()), name=f"{self._link.name} scans")]
        if self._subscribed:
            tasks.append(asyncio.create_task(_contained(self._listen()), name=f"{self._link.name} changes"))
        try:
            await asyncio.wait([*tasks, stuck], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ended += 1
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
                task.add_done_callback(_looked_at)
            await asyncio.wait(tasks, timeout=self.closing)
            self._change()
        errors = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for error in sorted(filter(None, errors), key=lambda error: not isinstance(error, JournalError)):
            raise error
        if not ended:
            raise NotConnected("the driver did not come back in time, and does not let itself be ended")
        raise NotConnected(f"the driver gave up by itself: {ended[0].get_name()}")

    async def _listen(self) -> None:
        """Take what the peer reports."""
        assert isinstance(self._driver, Subscribing)
        turns = {id(table): turn for turn in self._subscribed for table in turn.group.tables}
        marked = asyncio.get_running_loop().time()
        try:
            async for batch in self._driver.changes([turn.plan for turn in self._subscribed]):
                if isinstance(batch, Gap):
                    self._missed(batch)
                    continue
                turn = turns[id(batch.table)]
                if not turn.peer.up:
                    self._answers(turn, self._clock())
                turn.pipeline.take([batch])
                turn.began = self._clock()
                turn.scans.inc()
                await self._room()
                if asyncio.get_running_loop().time() - marked > MARK:
                    marked = asyncio.get_running_loop().time()
                    self._mark()
        except NoAnswer as error:
            raise NotConnected(str(error), status=error.status) from error
        finally:
            self._mark()
        raise NotConnected("the peer ended the subscription")

    def _mark(self) -> None:
        if isinstance(self._driver, Resuming) and (mark := self._driver.mark()):
            self._keep(self._link.name, mark)

    def _missed(self, gap: Gap) -> None:
        for turn in self._subscribed:
            if gap.device in ("", turn.group.device) and gap.group in ("", turn.group.name):
                turn.pipeline.gap(gap.start, gap.end, gap.reason, gap.scans, gap.readings)

    async def _poll(self) -> None:
        """Scan when it is time, and write in between: the only place that calls the driver for either."""
        while True:
            if self._changes:
                self._change()
            if self._wishes:
                await self._write_one()
            now = self._clock()
            turn = min(self._polled, key=_Turn.when, default=None)
            wait = turn.when() - now if turn is not None else NEVER
            if turn is None or wait > 0:
                await self._idle(min(wait / SECOND, LONGEST_SLEEP))
                continue
            await self._have_room()
            if not self._changes:  # which may have waited for the room, and concern this very turn
                await self._scan(turn)

    async def _idle(self, seconds: float) -> None:
        """Wait for this long, or until something is to be written."""
        if self._wishes or self._changes:
            return
        self._wished.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._wished.set)
        try:
            await self._wished.wait()
        finally:
            timer.cancel()

    async def _have_room(self) -> None:
        """Wait while a full journal holds scans; writes are not held by it."""
        while True:
            try:
                async with asyncio.timeout(ROOM):
                    return await self._room()
            except TimeoutError:
                if self._changes:
                    return None
                if self._wishes:
                    await self._write_one()

    async def _write_one(self) -> None:
        """Write what has waited longest. Raises NotConnected, or what a defect raises, after it was answered."""
        wish = self._wishes.popleft()
        if wish.answer.done():  # nobody waits for it any more
            return
        assert isinstance(self._driver, Writable)
        written = Written(None, None, q.BAD, "the session ended during the write: it may or may not have happened")
        try:
            wish.permit()
        except Exception as error:  # noqa: BLE001  it is the caller's, and is told to the caller
            wish.answer.set_exception(error)
            return
        try:
            (written,) = await self._in_time(WRITE, self._driver.write([wish.write]))
        except NoAnswer as error:
            written = _unknown(error.status, error)
        except NotConnected as error:
            written = _unknown(error.status, error)
            raise
        except TimeoutError as error:
            written = _unknown(q.BAD_TIMEOUT, f"the driver did not come back within {WRITE:g} s")
            raise NotConnected("the driver did not come back in time", wish.write.device) from error
        except Exception as error:
            written = _unknown(q.BAD_INTERNAL_ERROR, f"a defect in the driver: {error!r}")
            raise
        finally:
            if not wish.answer.done():
                wish.answer.set_result(written)

    def _refuse_wishes(self) -> None:
        """Answer what waited for a session that is over."""
        self._down = self._down or "the link is down"
        while self._wishes:
            wish = self._wishes.popleft()
            if not wish.answer.done():
                wish.answer.set_exception(NotConnected(self._down, wish.write.device))

    async def _scan(self, turn: _Turn) -> None:
        peer, group = turn.peer, turn.group
        now = self._clock()
        if not peer.declared:
            self._skip(turn, now)
        started = asyncio.get_running_loop().time()
        turn.began = now
        try:
            batches = await self._read(turn)
        except DeviceError as error:
            turn.outcome, turn.took = str(error), asyncio.get_running_loop().time() - started
            if not isinstance(error, NoAnswer):
                raise
            self._silent(peer, error, turn.took)
            return
        turn.due = next_instant(turn.began, group.interval, group.phase)  # not `now`: the clock may have been set
        if not peer.up:
            self._answers(turn, turn.began)
        turn.pipeline.take(batches)
        turn.scans.inc()
        turn.outcome, turn.took = "", asyncio.get_running_loop().time() - started
        turn.seconds.set(turn.took)

    async def _read(self, turn: _Turn) -> list[Batch]:
        """Read a group, again where the device is believed to be well and did not answer."""
        tries = 1 + (turn.peer.device.options.retries if turn.peer.up is not False else 0)
        while True:
            tries -= 1
            try:
                return await self._in_time(turn.deadline, self._driver.read(turn.plan))
            except NoAnswer:
                if not tries:
                    raise
            except TimeoutError as error:
                raise NotConnected("the driver did not come back in time", turn.group.device) from error

    async def _in_time(self, seconds: float, call: Awaitable[_T]) -> _T:
        """Await a driver's call. Raises TimeoutError where it was cancelled for taking too long.

        One that does not come back even then ends the session, and is itself ended when it does come back.
        """
        session, stuck = self._ended, self._stuck
        timer = asyncio.get_running_loop().call_later(seconds + LET_GO, _settle, stuck)
        try:
            async with asyncio.timeout(seconds):
                return await call
        finally:
            timer.cancel()
            if session != self._ended:
                raise asyncio.CancelledError

    def _skip(self, turn: _Turn, now: int) -> None:
        """Declare the scan instants of a turn whose slots have passed."""
        group, start = turn.group, turn.due
        scans = missed(start, now, group.interval)
        if not scans:
            return
        turn.due += scans * group.interval
        turn.pipeline.gap(start, turn.due, "skipped scan", scans=scans)
        turn.skipped.inc(scans)

    # ------------------------------------------------------------------------------------------ transitions

    def _linked(self) -> None:
        now = self._clock()
        for peer in self._peers:
            peer.up = None
            for turn in peer.turns:
                if peer.declared:  # scan at once; what is not declared Bad still owes its passed instants
                    turn.due = turn.slot(now)

    def _answers(self, turn: _Turn, now: int) -> None:
        """A device gave its first answer, or its first after a silence."""
        peer = turn.peer
        name = peer.device.name
        if peer.up is False or peer.declared:
            for other in peer.turns:
                other.pipeline.forget()
            self._log.info("The device answers again.", device=name)
        if peer.declared:
            for other in peer.turns:
                if other is not turn:
                    other.due = other.slot(now)
        peer.up, peer.declared = True, False
        peer.backoff.reset()
        self._backoff.reset()
        self._told.clear()
        self._metrics.device_up.labels(name).set(1)
        self._health.device(name, up=True)
        self._metrics.link_up.labels(self._link.name).set(1)
        if self._health.link(self._link.name, up=True):
            self._log.info("The link is up.")

    def _silent(self, peer: _Peer, error: NoAnswer, cost: float) -> None:
        """Take a device out of the rotation until its next probe."""
        neighbours = len(self._peers) > 1
        pause = max(peer.backoff.pause(), SHARE * cost if neighbours else 0.0)
        peer.retry_at = self._clock() + int(pause * SECOND)
        peer.up = False
        self._declare(peer, error)
        if all(other.up is False for other in self._peers):
            raise NotConnected("no device on this link answers", status=error.status)

    def _lost(self, error: NotConnected) -> None:
        self._down = f"the link is down: {error}"
        for peer in self._peers:
            self._declare(peer, error)
            peer.up = None
        if self._health.link(self._link.name, up=False, reason=str(error)):
            self._log.warning("The link is down; trying again.", reason=str(error))
        self._metrics.link_up.labels(self._link.name).set(0)

    def _declare(self, peer: _Peer, error: DeviceError) -> None:
        """Give each tag of a device its one Bad row."""
        name = peer.device.name
        if peer.declared:
            return
        peer.declared = True
        now = self._clock()
        for turn in peer.turns:
            self._skip(turn, now)
            turn.pipeline.bad(error.status, now)
        self._metrics.device_up.labels(name).set(0)
        self._health.device(name, up=False, reason=str(error))
        if isinstance(error, NoAnswer):
            self._log.warning("The device does not answer; its tags are Bad.", device=name, reason=str(error))


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _ending() -> bool:
    """Say whether this task was asked to end: a driver may raise CancelledError for reasons of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _contained(call: Coroutine[Any, Any, _T]) -> _T:
    """Await a call into a driver; SystemExit, which would pass through the event loop, becomes a defect like others."""
    try:
        return await call
    except SystemExit as error:
        raise RuntimeError(f"the driver wanted to end the process: {error!r}") from error


async def _within(seconds: float, call: Coroutine[Any, Any, _T], name: str) -> _T:
    """Await a driver's call in a task of its own, so that one that hangs, or swallows its cancellation, can be left.

    Raises what the call raises, NotConnected where it did not come back in time.
    """
    task = asyncio.create_task(_contained(call), name=f"driver {name}")
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=LET_GO)
        task.add_done_callback(_looked_at)
    raise NotConnected(f"the driver did not come back from {name} within {seconds:g} s")


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Look at a call that was left behind, so that how it ends is not reported as forgotten."""
    if not task.cancelled():
        task.exception()


def _unknown(status: int, reason: object) -> Written:
    return Written(None, None, status, f"{reason}: the write may or may not have happened, and is not repeated")
