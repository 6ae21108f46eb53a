"""One task per publisher: from the journal to a sink, in order, until the peer has taken responsibility.

    connect ──▶ live lane:    what is committed, as it is ──┐           ┌─ ACCEPTED: acknowledged in the journal
       ▲        backlog lane: what was left behind ─────────┴─▶ window ─┴─ REJECTED: dead letter, counted, goes on
       │                                                           │
       └── back-off with jitter ◀──────────────────────────── SinkUnavailable: sent again from the journal

- The journal is the only queue. When it may let go of what is another room's (gateway.acknowledgements).
- What is live goes first. Where more is waiting than goes out in about a second, the live lane leaves it to the backlog
  lane, which marks it `backfill`. The backlog lane never has the whole window, nor more bytes under way than come back
  acknowledged in half a second (gateway.pace): a backlog does not make new data late, on a modem neither.
- `rate`, `budget` and the platform's limits (gateway.meter) hold messages back, the backlog's before the live ones.
  While a budget is nearly used up readings may be thinned (gateway.thinning); records that lost some are acknowledged
  when the peer has the declaration of it.
- A message that is larger than the peer takes, and cannot be split, goes to the dead letters unsent.
- A session that ends over a message is followed by a careful one, and by smaller messages (gateway.sizing).
- What has no date yet is held (gateway.clock): passed over, and sent by the backlog lane when it has one.
- Transitions are logged, the rest is counted.
- A defect in a format or a sink ends the session, not the daemon: it is logged and tried again like a lost peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import structlog

from gateway.acknowledgements import Acknowledgements, Bundle
from gateway.clock import Clock
from gateway.contracts import Delivery, Encoder, Peer, Record, Sink
from gateway.conversation import Conversation
from gateway.deadletters import DeadLetters
from gateway.encoders import Bounded, Windowed
from gateway.errors import JournalError, SinkUnavailable
from gateway.extract import Extract
from gateway.health import Health
from gateway.journal import Chunk, Journal
from gateway.memory import Memory
from gateway.meter import on_the_wire
from gateway.metrics import Metrics
from gateway.model import Gap, Message, TagTable
from gateway.pace import Pace
from gateway.ranges import Range, Ranges
from gateway.schedule import Backoff
from gateway.selection import Selection
from gateway.sizing import SMALLEST, Sizing
from gateway.thinning import Thinning
from gateway.valve import Valve

if TYPE_CHECKING:
    from gateway.options import PublisherOptions

log = structlog.get_logger()

_SECONDS_WORTH: Final = 1 << 20  # bytes in the journal beyond which a backlog is left to its own lane
_DECLARE: Final = 60.0  # s between declarations of what was thinned
_TRIES: Final = 3  # times that a record was sent again before somebody must know
_WELL: Final = 5.0  # s after which a session in which nothing was to be sent counts as a good one


@dataclass(slots=True, eq=False)
class _Session:
    """What lives as long as one connection."""

    window: asyncio.Semaphore
    behind: asyncio.Semaphore  # the backlog's share of the window
    over: asyncio.Future[None]  # never has a result, only the reason of the end
    live: deque[Range]  # what the live lane has to send before what is committed from now on
    next: int  # and where that begins
    backlog: deque[Range] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    sent: int = 0  # messages, without definitions
    settled: int = 0  # of them the peer took or refused
    refused: int = 0  # messages
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by the one record under way, while careful
    bytes: int = 0  # in flight
    undeclared: list[Bundle] = field(default_factory=list)  # of which readings were left out
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # replaced and set when any of this has changed

    def changed(self) -> None:
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()


class Publisher:
    """Sends what is in the journal to one sink. Run it as a task; JournalError comes out of it."""

    def __init__(
        self,
        name: str,
        options: PublisherOptions,
        gateway: str,
        journal: Journal,
        sink: Sink,
        encoder: Encoder,
        metrics: Metrics,
        health: Health,
        dead_letters: Path,
        clock: Callable[[], int] = time.time_ns,
        conversation: Conversation | None = None,
        selection: Selection | None = None,
        tables: Sequence[TagTable] = (),
        memory: Memory | None = None,
        dates: Clock | None = None,
    ) -> None:
        """Prepare. `tables` are those of the configuration, `memory` keeps the account of a budget.

        `dates` says which records have no time yet.
        """
        self.name = name
        self._options = options
        self._journal = journal
        self._sink = sink
        self._dates = dates
        self._extract = Extract(name, journal, encoder, selection, dates)
        self._health = health
        self._clock = clock
        self._conversation = conversation
        self._log = log.bind(publisher=name, gateway=gateway)
        self._backoff = Backoff(options.retry_first, options.retry_longest)
        self._pace = Pace(16 << 10, options.window * options.max_message)
        limits = encoder.limits if isinstance(encoder, Bounded) else None
        self._valve = Valve(name, options, limits, memory, health, metrics, clock)
        self._sizing = Sizing(options, limits, self._extract, self._valve, sink.peer, self._log)
        if conversation is not None:
            conversation.counts, conversation.passes = self._valve.spend, self._valve.pass_on
        self._thinning = None
        if options.budget is not None and options.widen > 1:
            self._thinning = Thinning(options.widen, tables if selection is None else selection.tables(tables))
        self._draining = asyncio.Event()
        self._refused: set[str] = set()  # topics of retained messages that the peer does not want
        self._later = Ranges()  # what was refused for now, and is not tried before its time
        self._denied: dict[str, str] = {}  # topics of messages that the peer does not want now, and why
        self._said = ""  # the last reason for which somebody must act
        self._was_up: bool | None = None
        self._session: _Session | None = None
        self._selection = selection
        self._acknowledgements = Acknowledgements(name, options, journal, sink.peer, self._lost, self._log)
        self._last_taken = (0, 0)  # when the peer last took readings (ns), and the last sequence inside
        self._letters = DeadLetters(dead_letters / name, metrics)
        self._published = metrics.published.labels(name)
        self._published_bytes = metrics.published_bytes.labels(name)
        self._acknowledged = metrics.acknowledged.labels(name)
        self._rejected = metrics.rejected.labels(name)
        self._up = metrics.publisher_up.labels(name)
        self._latency = metrics.latency.labels(name)
        self._thinned = metrics.thinned.labels(name)

    @property
    def connected(self) -> bool:
        """Whether there is a session with the peer."""
        return self._session is not None

    def account(self) -> dict[str, Any]:
        """Tell how far the publisher is: what it has still to send, what waits for belief, the last PUBACK (ns)."""
        pending = self._journal.pending(self.name)
        return {
            "connected": self.connected,
            "pending": pending,
            "settling": self._acknowledgements.settling,
            "taken_at": self._last_taken[0],
            "taken": self._last_taken[1],
            "under_way": 0 if self._session is None else self._session.sent - self._session.settled,
        }

    def shows(self, name: str) -> bool:
        """Whether this publisher tells a tag (DEVICE/TAG)."""
        return self._selection is None or self._selection.allows(name)

    async def run(self) -> None:
        """Publish until cancelled. Raises JournalError."""
        self._health.publisher(self.name, up=False, reason="not connected yet")
        try:
            await self._go_on()
        finally:
            self._valve.close()

    async def _go_on(self) -> NoReturn:
        while True:
            try:
                reason = await self._attempt()
            except JournalError:
                raise
            except Exception as error:  # noqa: BLE001  a defect here must not cost what the others do
                reason = f"a defect in the gateway ({type(error).__name__}: {error}); please report it with the log"
                self._log.exception("A publisher failed over a defect; it starts again.")
            self._up.set(0)
            self._health.publisher(self.name, up=False, reason=reason)
            act = self._sink.peer.act
            if act and reason != self._said:
                self._log.error("The peer refuses us: somebody must act. The journal keeps all.", reason=reason)
            elif self._was_up is not False:
                self._log.warning("The peer is not there; the journal keeps what is to be sent.", reason=reason)
            self._was_up, self._said = False, reason if act else self._said
            self._acknowledgements.news.set()
            pause = self._backoff.pause()
            await asyncio.sleep(max(pause, self._options.retry_longest / 2) if act else pause)

    async def drain(self, deadline: float) -> None:
        """Wait until all that is committed was taken or refused, `deadline` seconds at most; not if the peer is away.

        Cancel `run` afterwards: that ends the session in order.
        """
        self._draining.set()
        waiting, news = self._waiting, self._acknowledgements.news
        try:
            async with asyncio.timeout(deadline):
                while waiting() > 0 and (self._session is not None or self._was_up is not False):
                    news.clear()
                    await news.wait()
        except TimeoutError:
            self._log.info("Stopped before all was sent; the journal keeps the rest.")
        self._acknowledgements.let_go(all_of_them=True)

    def _waiting(self) -> int:
        """Give the number of committed records that could be sent, and were not taken or refused."""
        free = self._free(self._journal.pending(self.name))
        return sum(last - first + 1 for first, last in free) - self._acknowledgements.settling

    def renew(self, reason: str) -> None:
        """Let a conversation with the peer begin anew: the times that it goes by are not right any more."""
        if self._conversation is not None:
            self._conversation.renew(reason)

    def release(self, records: Iterable[Range]) -> None:
        """Send what was held for want of a date; where there is no session, the next begins with it."""
        if self._session is not None:
            ahead = self._session.next - 1  # what follows goes out as it comes
            self._send_again([(first, min(last, ahead)) for first, last in records if first <= ahead])

    def stored(self, runs: Sequence[Range]) -> None:
        """Hear from ingest which records are in the store."""
        self._acknowledgements.stored(runs)

    def _lost(self, records: list[Range]) -> None:
        """Send again what was lost between the broker and the store."""
        self._send_again(records)
        self._tell()

    # ------------------------------------------------------------------------------------------------ sessions

    async def _attempt(self) -> str:
        """Connect, and publish until the session ends; give the reason."""
        session = None
        try:
            await self._sink.connect()
            session = self._session = self._begin()
            self._up.set(1)
            self._tell()
            await self._publish(session)
        except SinkUnavailable as error:
            if session is not None:
                self._sizing.learn(sent=session.sent, settled=session.settled, refused=session.refused)
            return str(error)
        finally:
            if session is not None:
                await self._part()
            self._session = None
            ours = session is not None and self._conversation is not None and self._conversation.left
            if not ours:  # where the end was ours, what was taken waits on in the next session
                self._acknowledgements.doubt()
            await self._sink.close()

    async def _part(self) -> None:
        if self._conversation is not None:
            await self._conversation.farewell()
        self._valve.shut()

    def _begin(self) -> _Session:
        self._sizing.begin()
        self._extract.encoder.reset()
        if self._thinning is not None:
            self._thinning.forget()
        self._valve.open()
        window = self._options.window
        return _Session(
            asyncio.Semaphore(window),
            asyncio.Semaphore(max(1, window - max(1, window // 4))),
            over=asyncio.get_running_loop().create_future(),
            live=deque(
                self._free(
                    part for first, last in self._acknowledgements.begin() for part in self._later.missing(first, last)
                )
            ),
            next=self._journal.committed + 1,
        )

    def _well(self) -> None:
        """The session does what it is for: say so if it is news, and try again at once if it ends."""
        self._backoff.reset()
        if self._was_up is not True:
            self._was_up, self._said = True, ""
            self._log.info("Connected, and messages are taken.")

    async def _publish(self, session: _Session) -> NoReturn:
        """Run both lanes until the session ends. Raises SinkUnavailable, JournalError."""
        if self._conversation is not None:
            self._spawn(session, self._conversation.run(session.next - 1), "conversation")
        self._spawn(session, self._live_lane(session), "live")
        self._spawn(session, self._backlog_lane(session), "backlog")
        if self._thinning:
            self._spawn(session, self._declare_lane(session, self._thinning), "declare")
        asyncio.get_running_loop().call_later(_WELL, self._look_after, session)
        self._spawn(session, _end_with(self._sink.peer), "watch")
        try:
            await session.over
        finally:
            for task in session.tasks:
                task.cancel()
            await asyncio.gather(*session.tasks, return_exceptions=True)
        raise AssertionError("a session ends by an exception only")

    def _look_after(self, session: _Session) -> None:
        if self._session is session and not session.sent:
            self._well()

    def _spawn(self, session: _Session, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"{self.name} {name}")
        session.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            session.tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not session.over.done():
                session.over.set_exception(error)

        task.add_done_callback(done)

    # ------------------------------------------------------------------------------------------------ lanes

    async def _live_lane(self, session: _Session) -> None:
        """Send what is committed, as it comes; leave what is too much to the backlog lane."""
        while True:
            await self._valve.afford(backlog=False)
            self._leave_behind(session)
            if session.live:
                chunk = await self._read(*session.live[0], self._sizing.piece)
                _advance(session.live, chunk.through)
            else:
                last = await self._journal.wait_committed(session.next - 1)
                if isinstance(self._extract.encoder, Windowed) and self._extract.encoder.window:
                    await self._window_ends(self._extract.encoder.window)
                    last = self._journal.committed
                free = self._free([(session.next, last)])
                if not free:
                    session.next = last + 1
                    continue
                session.next = free[0][0]  # what is released from now on is sent by the other lane
                chunk = await self._read(*free[0], self._sizing.piece)
                session.next = chunk.through + 1
            await self._dispatch(session, chunk, backlog=False)

    async def _window_ends(self, window: float) -> None:
        """Wait for the next multiple of the window on the wall clock."""
        await asyncio.sleep(window - self._clock() / 1e9 % window)

    async def _backlog_lane(self, session: _Session) -> None:
        """Send what was left behind, the oldest or the newest first."""
        take = self._take_oldest if self._options.backlog == "oldest" else self._take_newest
        while True:
            while not session.backlog:
                await session.moved.wait()
            await self._valve.afford(backlog=True)
            size = min(self._sizing.piece, self._pace.message, max(SMALLEST, self._valve.second / 4))
            await self._dispatch(session, await take(session, int(size)), backlog=True)

    async def _take_oldest(self, session: _Session, size: int) -> Chunk:
        chunk = await self._read(*session.backlog[0], size)
        _advance(session.backlog, chunk.through)
        return chunk

    async def _take_newest(self, session: _Session, size: int) -> Chunk:
        """Read about `size` bytes from the end; what turns out to be more is left as the newest range."""
        first, last = session.backlog.pop()  # others add to it meanwhile
        begin = max(first, last + 1 - max(1, int(size / max(self._mean, 1.0))))
        chunk = await self._read(begin, last, size)
        if first < begin:
            session.backlog.append((first, begin - 1))
        if chunk.through < last:
            session.backlog.append((chunk.through + 1, last))
        return chunk

    async def _declare_lane(self, session: _Session, thinning: Thinning) -> None:
        """Tell the peer now and then what was left out; the records it was left out of are settled by that."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DECLARE):
                    await (session.moved.wait() if self._draining.is_set() else self._draining.wait())
            bundles, session.undeclared = session.undeclared, []
            if not bundles:
                continue
            records = thinning.declare()
            async with self._turn(records):
                messages = self._extract.encode(records) if records else []
                bundle = Bundle(0, 0, len(messages), declares=bundles)
                if records and not messages:
                    self._log.warning("Readings were thinned, and this format has no place to tell it.")
                self._thinned.inc(sum(each.content.readings for each in records if isinstance(each.content, Gap)))
                if not messages:
                    self._acknowledgements.taken(bundle)
                await self._launch(session, bundle, messages, backlog=False)

    async def _read(self, first: int, last: int, size: int) -> Chunk:
        """Read from `first` on, but not across the end of what was taken before: that is acknowledged by itself."""
        return await self._journal.read(first, self._acknowledgements.together(first, last), size)

    def _leave_behind(self, session: _Session) -> None:
        """Where more waits than goes out in about a second, let the newest go first."""
        ahead = [*session.live]
        if session.next <= self._journal.committed:
            ahead += self._free([(session.next, self._journal.committed)])
        if self._weight(ahead) > min(_SECONDS_WORTH, 4 * self._pace.allowance, self._valve.second):
            session.backlog.extend(ahead)
            session.live.clear()
            session.next = self._journal.committed + 1
            session.changed()

    def _free(self, ranges: Iterable[Range]) -> list[Range]:
        """Give the parts of these ranges that are not held for want of a date."""
        if self._dates is None or not self._dates.holds:
            return list(ranges)
        return [part for first, last in ranges for part in self._dates.free(first, last)]

    def _weight(self, ranges: Sequence[Range]) -> float:
        """Guess the bytes of these records."""
        return self._mean * sum(last - first + 1 for first, last in ranges)

    @property
    def _mean(self) -> float:
        """Bytes of a record, on average."""
        totals = self._journal.totals()
        return totals.bytes / totals.records if totals.records else 0.0

    async def _dispatch(self, session: _Session, read: Chunk, *, backlog: bool) -> None:
        """Encode what was read, and send it as soon as the window and the pace allow."""
        if self._acknowledgements.stored_all(read.first, read.through):
            return
        records, lost = self._extract.records(read, backlog=backlog), False
        if self._thinning and not backlog and not self._sizing.careful:
            records, lost = self._thin(self._thinning, records)
        if not records and not lost:  # nothing that this publisher may tell, or nothing that can be read
            self._acknowledgements.nothing(read.first, read.through)
            return
        bundle = Bundle(read.first, read.through, int(lost), size=sum(len(packed) for _, packed in read.records))
        self._acknowledgements.expect(bundle, records)
        if not records:
            session.undeclared.append(bundle)
            return
        async with self._turn(records):
            await self._hand_out(session, bundle, records, backlog=backlog)

    def _thin(self, thinning: Thinning, records: list[Record]) -> tuple[list[Record], bool]:
        """Leave out what the budget does not allow; say whether anything was."""
        if not self._valve.scarce:
            thinning.rest()
            return records, False
        return thinning(records)

    def _turn(self, records: Sequence[Record]) -> AbstractAsyncContextManager[None]:
        """Give the time in which records may be encoded and handed over: in a conversation one speaks at a time."""
        return nullcontext() if self._conversation is None else self._conversation.turn(records)

    async def _hand_out(self, session: _Session, bundle: Bundle, records: list[Record], *, backlog: bool) -> None:
        messages = [message for message in self._extract.encode(records) if message.topic not in self._refused]
        if bundle.left:  # readings were left out; not before now, or its messages could go uncounted
            session.undeclared.append(bundle)
        bundle.left += len(messages)
        if not bundle.left:
            self._acknowledgements.nothing(bundle.first, bundle.last)
            return
        if not self._sizing.careful:
            await self._launch(session, bundle, messages, backlog=backlog)
            return
        async with session.alone:
            await self._launch(session, bundle, messages, backlog=backlog)
            while bundle.left:
                await session.moved.wait()
            self._sizing.settled()

    async def _launch(self, session: _Session, bundle: Bundle, messages: list[Message], *, backlog: bool) -> None:
        total = 0
        for message in messages:
            if backlog:
                await session.behind.acquire()
            await session.window.acquire()
            share = 1.0 if backlog else 2.0
            while session.bytes and session.bytes + len(message.payload) > share * self._pace.allowance:
                await session.moved.wait()
            size = on_the_wire(message.topic, len(message.payload))
            await self._valve.pass_on(size, backlog=backlog)
            total += size
            session.bytes += len(message.payload)
            session.sent += not message.definition
            self._spawn(session, self._send(session, bundle, message, backlog=backlog), message.topic)
        self._valve.became(bundle.size, total, len(messages))

    async def _send(self, session: _Session, bundle: Bundle, message: Message, *, backlog: bool) -> None:
        size, loop = len(message.payload), asyncio.get_running_loop()
        began = loop.time()
        too_large = size > self._sizing.most and message.readings > 0
        try:
            delivery = Delivery.REJECTED if too_large else await self._sink.send(message)
        finally:
            session.bytes -= size
            session.window.release()
            if backlog:
                session.behind.release()
            session.changed()  # whoever waits runs after what follows here
        self._pace.acknowledged(size, began, loop.time())
        session.settled += not message.definition
        self._published.inc()
        self._published_bytes.inc(size)
        if delivery is Delivery.ACCEPTED:
            if not message.definition:
                self._well()
            bundle.readings += message.readings
            if message.readings:
                self._last_taken = self._clock(), message.last
            self._acknowledged.inc(message.readings)
            if message.oldest and not backlog:
                self._latency.observe(max(0, self._clock() - message.oldest) / 1e9)
            if message.topic in self._denied:
                self._allowed(message.topic)
        elif delivery is Delivery.NOT_NOW:
            session.refused += 1
            self._put_off(bundle, message.topic)
        else:
            session.refused += 1
            bundle.refused = True
            too = f"{size} bytes in one message, and the peer takes {self._sizing.most:.0f}" if too_large else ""
            self._reject(message, too)
        self._acknowledgements.settle(bundle)

    def _put_off(self, bundle: Bundle, topic: str) -> None:
        """Be loud about a message that is refused for now, and try it later; what is for other topics goes on."""
        if not bundle.put_off:
            bundle.put_off = True
            if not self._later:
                asyncio.get_running_loop().call_later(self._options.retry_longest, self._try_again)
            for each in bundle.declares or (bundle,):  # what cannot be declared is sent in full
                each.put_off = True
                self._later.add(each.first, each.last)
        reason = self._sink.peer.refusal
        if topic not in self._denied:
            self._log.error("The peer refuses messages: somebody must act. The journal keeps them.", reason=reason)
        self._denied[topic] = reason
        self._tell()

    def _allowed(self, topic: str) -> None:
        del self._denied[topic]
        self._log.info("The peer takes again what it refused.", topic=topic)
        self._tell()

    def _tell(self) -> None:
        """Tell the health of a publisher that is connected."""
        if self._valve.spent:
            return  # it has told
        reasons = [*self._denied.values()]
        if self._acknowledgements.tried >= _TRIES:
            reasons.append("records that the broker took do not come to the store: see the log of ingest")
        reason = "; ".join(reasons)
        self._health.publisher(self.name, up=not reason, reason=reason and f"{reason}; the journal keeps it")

    def _try_again(self) -> None:
        """Send once more what was refused for now; where there is no session, the next begins with it."""
        again, self._later = self._later, Ranges()
        self._send_again(again)

    def _send_again(self, records: Iterable[Range]) -> None:
        """Have the backlog lane send these; where there is no session, the next begins with them."""
        if self._session is not None:
            self._session.backlog.extend(records)
            self._session.changed()

    def _reject(self, message: Message, reason: str = "") -> None:
        self._rejected.inc()
        self._letters.put(message.topic, message.payload, reason or self._sink.peer.refusal)
        if message.definition:  # it would be sent in each session anew, and may cost each session its life
            self._refused.add(message.topic)


def _advance(ranges: deque[Range], through: int) -> None:
    """Take what is up to `through` away from the first range."""
    _, last = ranges.popleft()
    if through < last:
        ranges.appendleft((through + 1, last))


async def _end_with(peer: Peer) -> None:
    raise SinkUnavailable(await peer.ended())
