"""Readings from a topic of Kafka, as one consumer group that all workers share.

    gateway ──MQTT──▶ broker ──its bridge──▶ topic, partitions 0..n ──▶ worker, worker, ...

- A record is a message: its key, or a header, has the MQTT topic. The bridge gives records of one gateway one partition
  where the key says so; nothing here depends on it.
- An offset is committed when all records before it in its partition are acknowledged: a worker that is killed costs
  nothing, and its partitions go to others after `redeliver`. What was acknowledged behind something that was not comes
  again then, and the store drops it.
- A worker holds `in_flight` records. It pauses its partitions while it has no room, and says that it lives.
- When partitions move to another worker, what is acknowledged is committed first, and the rest is forgotten.
- Where there is neither key nor header the record goes to ingest under the name TOPIC/PARTITION@OFFSET, to be found
  among the dead letters.

The library finds brokers that moved or came back by itself. A session ends where none answers, or where they refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final, NoReturn

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from gateway.errors import SinkUnavailable
from gateway.mqtt import Arrived, tls_context
from gateway.options import IngestOptions
from gateway.sources import tasks
from gateway.sources.kinds import KINDS

_FETCH: Final = 0.5  # s that a request for records stands
_TOGETHER: Final = 0.05  # s in which acknowledgements are committed together


class Kafka:
    """One session with a cluster, from `open` to `close` or loss. Message ids are -1, -2, ..."""

    def __init__(self, options: IngestOptions, client_id: str, *, on_message: Callable[[Arrived], None]) -> None:
        assert options.kafka is not None
        self.lost = asyncio.Event()
        self.reason = "not connected"
        self._options = options
        self._kafka = options.kafka
        self._client_id = client_id
        self._on_message = on_message
        self._consumer: Any = None
        self._held: dict[int, tuple[Any, int]] = {}  # partition and offset of what is not acknowledged, by our id
        self._parts: dict[Any, _Part] = {}
        self._settled = asyncio.Event()
        self._last = 0
        self._tasks: list[asyncio.Task[None]] = []

    def __str__(self) -> str:
        return f"kafka://{','.join(self._kafka.servers)}/{self._kafka.topic}"

    async def open(self) -> None:
        """Connect, and begin to take records. Raises SinkUnavailable."""
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what matters of it is said by us
        kafka = self._kafka
        try:
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=list(kafka.servers),
                client_id=self._client_id,
                group_id=f"plantbridge-{self._options.share or 'ingest'}",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=round(kafka.redeliver * 1000),
                heartbeat_interval_ms=round(kafka.redeliver * 250),
                max_poll_interval_ms=round(max(60.0, 2 * kafka.redeliver) * 1000),
                request_timeout_ms=round(max(self._options.connect_timeout, kafka.redeliver + 5) * 1000),
                security_protocol=("SASL_" if kafka.username else "") + ("PLAINTEXT" if kafka.tls is None else "SSL"),
                ssl_context=None if kafka.tls is None else tls_context(kafka.tls),
                sasl_mechanism=kafka.mechanism,
                sasl_plain_username=kafka.username,
                sasl_plain_password=kafka.password,
            )
            async with asyncio.timeout(self._options.connect_timeout):
                await self._consumer.start()
                topics = await self._consumer.topics()
        except (KafkaError, OSError, TimeoutError, ValueError) as error:
            await self._refuse(_said(error), error)
        if kafka.topic not in topics:
            await self._refuse(f"there is no topic {kafka.topic}, or we may not read it")
        self._consumer.subscribe([kafka.topic], listener=_Moves(self))
        self._tasks = tasks.start(self._end, self._take(), self._settle(), self._look())

    async def _refuse(self, reason: str, error: Exception | None = None) -> NoReturn:
        await self.close()
        self.reason = f"{self}: {reason}"
        raise SinkUnavailable(self.reason) from error

    async def close(self) -> None:
        """End the session; what was not acknowledged comes again. Idempotent; never raises."""
        running, self._tasks = self._tasks, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        consumer = self._consumer
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(5.0):
                    await self.commit()
            self._consumer = None
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5.0):
                    await consumer.stop()
        self._held.clear()
        self._end("closed")

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for a record of this session."""
        place, offset = self._held.pop(message.mid, (None, 0))
        if place in self._parts:
            self._parts[place].done(offset)
            self._settled.set()

    async def commit(self) -> None:
        """Commit what is acknowledged. Raises KafkaError."""
        offsets = {place: part.through for place, part in self._parts.items() if part.through > part.committed}
        if not offsets or self._consumer is None:
            return
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):  # partitions have moved: they come again, to us or another
            return
        for place, offset in offsets.items():
            if place in self._parts:
                self._parts[place].committed = offset

    def forget(self, places: set[Any]) -> None:
        """Have done with partitions that go to another worker."""
        for place in places:
            self._parts.pop(place, None)
        self._held = {mid: each for mid, each in self._held.items() if each[0] not in places}

    # ------------------------------------------------------------------------------------------------ inside

    async def _take(self) -> None:
        """Fetch records while there is room for them; without room ask for nothing, which still says that we live."""
        while True:
            room = self._options.in_flight - len(self._held)
            try:
                if room <= 0:
                    self._consumer.pause(*self._consumer.assignment())
                elif self._consumer.paused():
                    self._consumer.resume(*self._consumer.paused())
                found = await self._consumer.getmany(timeout_ms=round(_FETCH * 1000), max_records=max(1, room))
            except (KafkaError, OSError) as error:
                self._end(_said(error))
                return
            for place, records in found.items():
                for record in records:
                    self._arrived(place, record)

    def _arrived(self, place: Any, record: Any) -> None:
        part = self._parts.setdefault(place, _Part())
        part.given(record.offset)
        topic = self._topic(record)
        if topic and not (topic.rpartition("/")[2] in KINDS and self._ours(topic)):  # a gateway's status, or another's
            part.done(record.offset)
            self._settled.set()
            return
        self._last -= 1
        self._held[self._last] = (place, record.offset)
        name, payload = topic or f"{place.topic}/{place.partition}@{record.offset}", record.value or b""
        self._on_message(Arrived(name, payload, retained=False, duplicate=False, mid=self._last, qos=1))

    def _topic(self, record: Any) -> str:
        """Give the MQTT topic of a record, or nothing."""
        kind, _, header = self._kafka.mqtt_topic.partition(":")
        raw = record.key if kind == "key" else dict(record.headers).get(header)
        return raw.decode("utf-8", "replace") if raw else ""

    def _ours(self, topic: str) -> bool:
        wanted, levels = self._options.topic.split("/"), topic.split("/")[:-1]
        return len(wanted) == len(levels) and all(map(lambda want, level: want in ("+", level), wanted, levels))

    async def _settle(self) -> None:
        """Commit soon what was acknowledged."""
        while True:
            await self._settled.wait()
            await asyncio.sleep(_TOGETHER)
            self._settled.clear()
            try:
                await self.commit()
            except (KafkaError, OSError) as error:
                self._end(_said(error))
                return

    async def _look(self) -> None:
        """End the session where no broker answers any more."""
        while True:
            await asyncio.sleep(self._options.keep_alive / 2)
            try:
                async with asyncio.timeout(self._options.connect_timeout):
                    await self._consumer.topics()
            except (KafkaError, OSError, TimeoutError) as error:
                self._end(_said(error))
                return

    def _end(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = f"{self}: {reason}"
            self.lost.set()


class _Part:
    """How far a partition is: what was given out of it, and what of that is acknowledged."""

    def __init__(self) -> None:
        self.committed = -1
        self._open: dict[int, None] = {}  # offsets given out and not acknowledged, in order
        self._next = 0

    @property
    def through(self) -> int:
        """The offset before which all is acknowledged."""
        return next(iter(self._open), self._next)

    def given(self, offset: int) -> None:
        if not self._next:
            self.committed = offset
        self._open[offset] = None
        self._next = offset + 1

    def done(self, offset: int) -> None:
        self._open.pop(offset, None)


class _Moves(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hears of partitions that come and go."""

    def __init__(self, session: Kafka) -> None:
        self._session = session

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        with contextlib.suppress(KafkaError, OSError):
            await self._session.commit()
        self._session.forget(revoked)

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        self._session.forget(assigned)


def _said(error: BaseException) -> str:
    """Say what is wrong."""
    if isinstance(error, TimeoutError):
        return "no broker answers"
    return str(error) or type(error).__name__
