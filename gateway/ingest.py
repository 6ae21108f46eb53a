"""The cloud side: messages from the broker into the store; a message is acknowledged when its readings are committed.

    source ──▶ arrived ──decode──▶ blocks ──store.write──▶ PUBACK for all of them
                  ▲        │ table not known yet
                  └─ parked ◀┘

- The source (gateway.sources: a broker, perhaps with a stream) keeps what is not acknowledged: a kill, a lost
  connection, a store that is away cost nothing, and what was stored but not acknowledged comes again and is dropped by
  the store.
- Bounded: no more is decoded at once than MOST_READINGS and MOST_OCTETS (of texts), and while the store is at work no
  more than `in_flight` messages wait. A slow store stops the acknowledgements and with them the broker; one that
  sends on all the same (mosquitto 2.0.11 does) is not read.
- Table definitions are subscribed at QoS 0, since messages in hand that wait for them would keep them back otherwise;
  retained, they come again with each subscription.
- What cannot be decoded, or what the store will never take, goes to the dead letters and is acknowledged: it never
  stops the rest. A message whose table stays unknown is kept for `patience` seconds first.
- Order does not matter: neither between messages nor between workers that share the subscription.

One task does all of it; the store works in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from gateway.accounting import Account
from gateway.config import Cloud
from gateway.contracts import Block, Store
from gateway.deadletters import DeadLetters
from gateway.decode import UnknownTable, decode_columns, decode_gaps, decode_table, parse_table_topic
from gateway.errors import SinkUnavailable, StoreUnavailable
from gateway.fleet import Fleet
from gateway.health import Health, heartbeat, notify, serve
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.model import Batch, Kind, TagTable
from gateway.mqtt import Arrived
from gateway.options import IngestOptions
from gateway.schedule import Backoff
from gateway.sources import Source, source
from gateway.stores import open_store

MOST_READINGS: Final = 250_000  # of one write
MOST_OCTETS: Final = 64_000_000  # of the texts in one write
MANY: Final = 16  # messages in hand after which a pause of the broker means that its window is full
PAUSE: Final = 0.01  # s
OPENING: Final = 5.0  # s that the store may refuse to open at the start
STRIKES: Final = 2  # sessions that ended over what ingest told: mosquitto does that over what its ACL forbids
TELL: Final = 0.5  # s between what is told to the gateways
SAVE: Final = 1.0  # s between writes of the table of gateways
ASK_AGAIN: Final = 5.0  # s after which unknown tables are asked for once more
PATIENCE: Final = 180.0  # s after which a message whose table is unknown is set aside

log = structlog.get_logger()


async def run(cloud: Cloud, stop: asyncio.Event) -> None:
    """Run ingest until `stop` is set, then store what is in hand. Raises GatewayError where it cannot begin."""
    metrics, health = Metrics(), Health()
    dead_letters = DeadLetters(cloud.dead_letters, metrics)
    store = open_store(cloud.store, cloud.data, dead_letters.put)
    ledger = Ledger(_own_file(cloud, "account"))
    fleet = Fleet(_own_file(cloud, "fleet"))
    end_http = serve(cloud.metrics.listen, metrics, health) if cloud.metrics.listen else lambda: None
    try:
        await _open(store)
        async with asyncio.TaskGroup() as group:
            beat = group.create_task(heartbeat(health))
            keeping = group.create_task(_keep(fleet))
            worker = client_id(cloud.broker)
            account = Account(ledger, worker, cloud.broker.key, metrics, health, shared=divided(cloud.broker))
            await Ingest(cloud.broker, store, metrics, health, dead_letters, account, fleet=fleet).run(stop)
            beat.cancel()
            keeping.cancel()
    finally:
        notify("STOPPING=1")
        await store.close()
        ledger.close()
        fleet.close()
        end_http()


def client_id(options: IngestOptions) -> str:
    """Give the name by which the broker and the gateways know this worker."""
    return options.client_id or f"plantbridge-{options.share or 'ingest'}"


def _own_file(cloud: Cloud, name: str) -> Path:
    """Give this worker's file of that name in the data directory, which workers may share."""
    return cloud.data / (f"{name}-{client_id(cloud.broker)}.sqlite" if divided(cloud.broker) else f"{name}.sqlite")


def divided(options: IngestOptions) -> bool:
    """Whether there may be other workers that take a part of the readings."""
    return options.share is not None or options.stream is not None or options.kafka is not None


async def _keep(fleet: Fleet) -> None:
    """Save the table of gateways now and then, until cancelled."""
    while True:
        await asyncio.sleep(SAVE)
        if fleet.changed:
            try:
                await asyncio.to_thread(fleet.save)
            except sqlite3.Error as error:  # it is heard again
                log.warning("the table of gateways cannot be written", reason=str(error))


async def _open(store: Store) -> None:
    """Open the store; somebody may be reading the file just now. Raises StoreUnavailable."""
    backoff = Backoff(0.1, 1.0)
    deadline = asyncio.get_running_loop().time() + OPENING
    while True:
        try:
            return await store.open()
        except StoreUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(backoff.pause())


@dataclass(slots=True)
class _Parked:
    """A message that waits for the definition of a table, and since when (loop time)."""

    message: Arrived
    table: tuple[str, str, int]
    since: float


class Ingest:
    """One subscription and one store."""

    def __init__(
        self,
        options: IngestOptions,
        store: Store,
        metrics: Metrics,
        health: Health,
        dead_letters: DeadLetters,
        account: Account,
        *,
        patience: float = PATIENCE,
        fleet: Fleet | None = None,
    ) -> None:
        self._options = options
        self._store = store
        self._metrics = metrics
        self._health = health
        self._dead_letters = dead_letters
        self._account = account
        self._patience = patience
        self._fleet = fleet
        self._tables: dict[tuple[str, str, int], TagTable] = {}  # by topic prefix, journal and number
        self._arrived: deque[Arrived] = deque()
        self._parked: list[_Parked] = []
        self._source: Source | None = None
        self._storing = False
        self._news = asyncio.Event()  # something arrived, or the session or ingest is to end
        self._over = asyncio.Event()  # the session or ingest is to end
        self._refused: set[tuple[str, bytes]] = set()  # definitions that cannot be read
        self._connected_before = False
        self._told_us: list[Arrived] = []  # what gateways and other workers tell of themselves
        self._told = 0.0  # when the gateways were told what is stored, loop time
        self._telling = False  # whether something was told that the broker has not answered yet
        self._strikes = 0  # sessions that ended over it
        self._unheard = False  # whether the broker has refused it
        self._deaf = False  # the broker refuses the gateways' status
        self._asked = 0.0  # when unknown tables were asked for last, loop time

    async def run(self, stop: asyncio.Event) -> None:
        """Take in messages until `stop` is set; reconnect whenever the session is lost."""
        backoff = Backoff(self._options.retry_first, self._options.retry_longest)
        while not stop.is_set():
            try:
                async with self._session(stop) as connection:
                    backoff.reset()
                    while not self._over.is_set():
                        await self._gather()
                        await self._pass(connection)
                        await self._tell(connection)
                reason = connection.reason
            except SinkUnavailable as error:
                reason = str(error)
            notify("READY=1")  # a broker that is away is no reason for a restart
            if not stop.is_set():
                if self._health.link("broker", up=False, reason=reason):
                    log.warning("the broker is away; it keeps what was not acknowledged", reason=reason)
                await _wait(stop, backoff.pause())

    # ------------------------------------------------------------------------------------------------ session

    @contextlib.asynccontextmanager
    async def _session(self, stop: asyncio.Event) -> AsyncIterator[Source]:
        """Connect and subscribe; close in the end. Raises SinkUnavailable."""
        self._arrived.clear()  # of the last session: the broker sends it again
        self._parked.clear()
        self._told_us.clear()
        if self._telling:
            self._telling, self._strikes = False, self._strikes + 1
            if self._strikes == STRIKES:
                self._mute(f"{self._options.topic}/stored/+", "sessions end over it")
        self._over.clear()
        self._source = connection = source(self._options, client_id(self._options), self._take_in)
        watchers: list[asyncio.Task[None]] = []
        try:
            await connection.open()
            watchers = [asyncio.create_task(self._end_with(event)) for event in (connection.lost, stop)]
            if self._connected_before and not connection.session_present:
                log.error("the broker has forgotten this session, and any messages that it kept for it")
            await self._subscribe(connection)
            self._connected_before = True
            if self._health.link("broker", up=True):
                log.info("READY", broker=str(connection.endpoint))
            notify("READY=1")
            yield connection
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            await connection.close()

    async def _end_with(self, event: asyncio.Event) -> None:
        await event.wait()
        self._over.set()
        self._news.set()

    async def _subscribe(self, connection: Source) -> None:
        await self._ask_for_tables(connection)
        topic = self._options.topic
        share = self._options.share if self._options.version == "5" else None
        shared = f"$share/{share}/" if share else ""
        filters = [f"{topic}/account/+"]
        if self._options.stream is None and self._options.kafka is None:  # else they come from there
            filters += [f"{shared}{topic}/columns", f"{shared}{topic}/gaps"]
        if divided(self._options):
            filters.append(f"{topic}/stored/+")
        answers = await connection.subscribe(filters, timeout=self._options.connect_timeout)
        for name, answer in zip(filters, answers, strict=True):
            if answer.refused:
                raise SinkUnavailable(f"{connection.endpoint} refuses the subscription to {name}: {answer.name}")

    async def _ask_for_tables(self, connection: Source) -> None:
        self._asked = asyncio.get_running_loop().time()
        name = f"{self._options.topic}/tables/+/+"
        told = f"{self._options.topic}/status"
        answer, of_status = await connection.subscribe([name, told], timeout=self._options.connect_timeout, qos=0)
        if answer.refused:
            raise SinkUnavailable(f"{connection.endpoint} refuses the subscription to {name}: {answer.name}")
        if of_status.refused and not self._deaf:
            self._deaf = True
            log.warning("the broker does not let ingest hear which gateways are online", topic=told)

    def _take_in(self, message: Arrived) -> None:
        self._arrived.append(message)
        self._news.set()
        if self._storing and len(self._arrived) >= self._options.in_flight and self._source is not None:
            self._source.hold(True)

    # ------------------------------------------------------------------------------------------------ the flow

    async def _gather(self) -> None:
        """Wait until what has arrived is worth a write: for a time, or until no more comes."""
        clock = asyncio.get_running_loop().time
        while not self._arrived and not self._over.is_set():
            self._news.clear()
            soon = self._parked or self._account.waiting
            if not await _wait(self._news, min(TELL, self._patience) if soon else None):
                return
        due = clock() + self._options.batch_interval
        while not self._over.is_set() and len(self._arrived) + len(self._parked) < self._options.in_flight:
            rest = due - clock()
            many = len(self._arrived) >= MANY
            self._news.clear()
            if rest <= 0 or (not await _wait(self._news, min(rest, PAUSE) if many else rest) and many):
                return

    async def _pass(self, connection: Source) -> None:
        """Store what is in hand, in writes of bounded size. What arrives meanwhile is for the next pass."""
        if connection.lost.is_set():
            return
        await self._review(connection)
        in_hand = len(self._arrived)
        while in_hand:
            taken: list[tuple[Arrived, Block]] = []
            readings = octets = 0
            while in_hand and readings < MOST_READINGS and octets < MOST_OCTETS:
                message = self._arrived.popleft()
                in_hand -= 1
                block = await self._decoded(message, connection)
                if block is not None:
                    taken.append((message, block))
                    readings += _readings(block)
                    octets += _octets(block)
            if taken and not await self._write(taken, connection):
                return
        await self._hear(connection)

    async def _hear(self, connection: Source) -> None:
        """Take in what gateways and other workers tell of themselves."""
        told, self._told_us = self._told_us, []
        if not told:
            return
        try:
            pairs = [(message.topic, message.payload) for message in told]
            senseless = await asyncio.to_thread(self._account.hear, pairs)
        except sqlite3.Error:  # not acknowledged: it comes again with the next session, and each minute anyway
            log.exception("the account cannot be written")
            return
        for topic, payload, reason in senseless:
            await asyncio.to_thread(self._dead_letters.put, topic, payload, reason)
        wrong = {topic for topic, _, _ in senseless}
        for message in told:
            if self._kind(message) == "account" and message.topic not in wrong:
                self._hear_of(message)
            connection.acknowledge(message)

    def _kind(self, message: Arrived) -> str:
        """Give the word after the gateway's prefix, which may end like one of ours: a gateway may be called account."""
        words = message.topic.split("/")[self._options.topic.count("/") + 1 :]
        return words[0] if words else ""

    async def _decoded(self, message: Arrived, connection: Source) -> Block | None:
        """Read a message; where it holds no readings, do what is to be done about it."""
        prefix, kind = message.topic.rpartition("/")[0], self._kind(message)
        try:
            if kind == "columns":
                return decode_columns(
                    message.payload, lambda gateway, journal, number: self._tables.get((prefix, journal, number))
                )
            if kind == "gaps":
                return decode_gaps(message.payload)
            if kind in ("account", "stored"):
                self._told_us.append(message)
                return None
            if kind == "status":
                self._hear_of(message)
                connection.acknowledge(message)
                return None
            self._define(message)
        except UnknownTable as error:
            now = asyncio.get_running_loop().time()
            self._parked.append(_Parked(message, (prefix, error.journal, error.table), now))
        except ValueError as error:
            await self._set_aside(message, str(error), connection)
        else:
            connection.acknowledge(message)
        return None

    def _hear_of(self, message: Arrived) -> None:
        """Note what a gateway tells of itself. Raises ValueError."""
        if self._fleet is not None:
            self._fleet.hear(message.topic, message.payload, live=not message.retained)

    def _define(self, message: Arrived) -> None:
        """Note a table's definition, and bring back the messages that waited for it. Raises ValueError."""
        place = parse_table_topic(message.topic)
        if place is None:
            raise ValueError("a topic that nobody asked for")
        if not message.payload or (message.topic, message.payload) in self._refused:
            return  # deleted, or set aside when it came before: retained messages come with each subscription
        try:
            table = decode_table(message.payload)
        except ValueError:
            self._refused.add((message.topic, message.payload))
            raise
        self._tables[place.prefix, place.journal, place.table] = table
        for parked in self._parked:
            if parked.table in self._tables:
                self._arrived.append(parked.message)
        self._parked = [parked for parked in self._parked if parked.table not in self._tables]

    async def _review(self, connection: Source) -> None:
        """Look after the messages that wait for a table: ask once more, and give up in the end."""
        if not self._parked:
            return
        now = asyncio.get_running_loop().time()
        oldest = min(parked.since for parked in self._parked)
        if now - max(oldest, self._asked) > ASK_AGAIN and now - self._asked > ASK_AGAIN:
            log.warning("messages wait for the definition of their table", messages=len(self._parked))
            await self._ask_for_tables(connection)
        for parked in [parked for parked in self._parked if now - parked.since > self._patience]:
            self._parked.remove(parked)
            prefix, journal, number = parked.table
            reason = f"the definition {prefix}/tables/{journal}/{number} did not come within {self._patience:g} s"
            await self._set_aside(parked.message, reason, connection)

    async def _set_aside(self, message: Arrived, reason: str, connection: Source) -> None:
        await asyncio.to_thread(self._dead_letters.put, message.topic, message.payload, reason)
        connection.acknowledge(message)

    async def _write(self, taken: Sequence[tuple[Arrived, Block]], connection: Source) -> bool:
        """Store and acknowledge; try again while the store is away. False where the session ended before."""
        backoff = Backoff(self._options.retry_first, self._options.retry_longest)
        while True:
            self._storing = True
            try:
                report = await self._store.write([block for _, block in taken])
                await asyncio.to_thread(self._note, taken)
            except StoreUnavailable as error:
                if error.permanent:
                    return await self._write_one_by_one(taken, connection, str(error))
                if self._health.link("store", up=False, reason=str(error)):
                    log.warning("the store does not take readings; the broker keeps them", reason=str(error))
                if self._over.is_set() or await _wait(self._over, backoff.pause()):
                    return False
            except Exception as error:
                log.exception("the store failed in a way that it should not")
                return await self._write_one_by_one(taken, connection, repr(error))
            else:
                break
            finally:
                self._storing = False
                connection.hold(False)
        if self._health.link("store", up=True) and backoff.attempts:
            log.warning("the store takes readings again")
        for message, _ in taken:
            connection.acknowledge(message)
        if self._fleet is not None:
            self._fleet.met({message.topic.rpartition("/")[0] for message, _ in taken})
        self._metrics.stored.inc(report.stored)
        self._metrics.duplicates.inc(report.duplicates)
        return True

    def _note(self, taken: Sequence[tuple[Arrived, Block]]) -> None:
        """Put what is stored into the account. Raises StoreUnavailable."""
        try:
            self._account.note((message.topic.rpartition("/")[0], block) for message, block in taken)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the account cannot be written: {error}") from error

    async def _tell(self, connection: Source) -> None:
        """Tell the gateways what is stored. Raises SinkUnavailable."""
        now = asyncio.get_running_loop().time()
        if now - self._told < TELL and not self._over.is_set():
            return
        self._told = now
        news = self._account.news()
        if not news or self._strikes >= STRIKES:
            return
        self._telling = True
        timeout = self._options.connect_timeout
        answers = await asyncio.gather(
            *(connection.publish(topic, payload, timeout=timeout, retain=True) for topic, payload in news)
        )
        self._telling, self._strikes = False, 0
        refused = [(topic, answer.name) for (topic, _), answer in zip(news, answers, strict=True) if answer.refused]
        if refused and not self._unheard:
            self._unheard = True
            self._mute(*refused[0])

    def _mute(self, topic: str, reason: str) -> None:
        log.error(
            "the broker does not let ingest tell what is stored; gateways with acknowledge: store keep all they have",
            topic=topic,
            reason=reason,
        )

    async def _write_one_by_one(self, taken: Sequence[tuple[Arrived, Block]], connection: Source, reason: str) -> bool:
        """Find the message that the store will never take, and store the others."""
        if len(taken) == 1:
            await self._set_aside(taken[0][0], reason, connection)
            return True
        for entry in taken:
            if not await self._write([entry], connection):
                return False
        return True


def _readings(block: Block) -> int:
    return sum(len(content) for content in block.contents if isinstance(content, Batch))


def _octets(block: Block) -> int:
    """Give about how much the texts of a block take; numbers are bounded by how many they are."""
    texts = (each.value for each in block.contents if isinstance(each, Batch) and each.table.kind is Kind.TEXT)
    return sum(len(text) for column in texts for text in column)


async def _wait(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event; False where the time was up first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
