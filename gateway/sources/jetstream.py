"""Readings from a stream of NATS JetStream, as one durable pull consumer that all workers share.

    gateway ──MQTT 3.1.1──▶ nats-server ──▶ stream $MQTT_msgs ──▶ consumer ──▶ worker, worker, ...

- A PUBACK of nats-server says that the message is in the stream `$MQTT_msgs`, on a majority of its replicas. That is
  why this stream is read and no other: a stream of one's own beside it hears the same messages, but no PUBACK waits
  for it.
- The stream keeps a message until every consumer that asks for it has acknowledged it, and keeps none that nobody asks
  for: the consumer is durable and is made at the first start; from then on nothing is lost while ingest is away.
- A worker asks for as many messages as it has room for (`in_flight`). What it holds it says to be in progress, so that
  a store that is away does not make the server deliver it to another; when it is killed that ends, and the others get
  it after `redeliver`.
- Subjects are topics with `.` for `/`, and `//` for a `.` inside a level.

A session is used once and thrown away, as an MQTT connection is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import nats
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from gateway.errors import SinkUnavailable
from gateway.mqtt import Arrived, tls_context
from gateway.options import IngestOptions
from gateway.sources import tasks
from gateway.sources.kinds import KINDS

STREAM: Final = "$MQTT_msgs"
_PREFIX: Final = "$MQTT.msgs."
_UNLIMITED: Final = -1
_FETCH: Final = 1.0  # s that a request for messages stands


class JetStream:
    """One session with a NATS cluster, from `open` to `close` or loss. Message ids are -1, -2, ..."""

    def __init__(self, options: IngestOptions, *, on_message: Callable[[Arrived], None]) -> None:
        assert options.stream is not None
        self.lost = asyncio.Event()
        self.reason = "not connected"
        self._options = options
        self._stream = options.stream
        self._on_message = on_message
        self._connection: Any = None
        self._held: dict[int, Any] = {}  # not acknowledged yet, by our id
        self._room = asyncio.Event()
        self._last = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._answers: set[asyncio.Task[None]] = set()

    def __str__(self) -> str:
        return ", ".join(self._stream.url)

    async def open(self) -> None:
        """Connect, and begin to take messages. Raises SinkUnavailable."""
        options = self._options
        try:
            async with asyncio.timeout(options.connect_timeout * len(self._stream.url)):
                self._connection = await nats.connect(
                    list(self._stream.url),
                    allow_reconnect=False,
                    connect_timeout=options.connect_timeout,
                    max_reconnect_attempts=1,  # tries of each server of the list before the others' turn is over
                    reconnect_time_wait=0.1,
                    ping_interval=max(1, round(options.keep_alive)),
                    max_outstanding_pings=2,
                    user=options.username,
                    password=options.password,
                    tls=tls_context(options.tls) if options.tls is not None else None,
                    tls_hostname=options.tls.server_name if options.tls is not None else None,
                    closed_cb=self._closed,
                    disconnected_cb=self._closed,
                    error_cb=self._failed,
                )
                subscription = await self._subscription()
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            reason = _said(error)
            await self.close()
            self.reason = f"{self}: {reason}"
            raise SinkUnavailable(f"the stream of {self.reason}") from error
        self._tasks = tasks.start(self._end, self._take(subscription), self._keep())

    async def _subscription(self) -> Any:
        """Make the workers' common consumer, or find it made. Raises NatsError."""
        pattern = _PREFIX + to_subject(f"{self._options.topic}/+")  # 2.9 takes one filter for a consumer
        name = f"plantbridge-{self._options.share or 'ingest'}"
        context = self._connection.jetstream(timeout=self._options.connect_timeout)
        wanted = ConsumerConfig(
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._stream.redeliver,
            deliver_policy=DeliverPolicy.ALL,
            filter_subject=pattern,
            max_ack_pending=_UNLIMITED,
            max_deliver=_UNLIMITED,
        )
        await context.add_consumer(STREAM, wanted)
        return await context.pull_subscribe_bind(name, stream=STREAM)

    async def close(self) -> None:
        """End the session; what was not acknowledged comes again. Idempotent; never raises."""
        running, self._tasks = self._tasks, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, *self._answers, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            for held in self._held.values():  # at once, and not after `redeliver`
                with contextlib.suppress(NatsError, OSError):
                    await held.nak()
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await connection.close()
        self._held.clear()
        self._end("closed")

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for a message of this session."""
        held = self._held.pop(message.mid, None)
        if held is None or self._connection is None or self.lost.is_set():
            return
        self._room.set()
        self._answer(held)

    def _answer(self, held: Any) -> None:
        task = asyncio.create_task(self._acknowledge(held))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _acknowledge(self, held: Any) -> None:
        with contextlib.suppress(NatsError, OSError):  # then it comes again, and the store drops it
            await held.ack()

    # ------------------------------------------------------------------------------------------------ inside

    async def _take(self, subscription: Any) -> None:
        """Fetch messages while there is room for them."""
        while True:
            room = self._options.in_flight - len(self._held)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                found = await subscription.fetch(room, timeout=_FETCH)
            except TimeoutError:
                continue
            except (NatsError, OSError) as error:
                self._end(_said(error))
                return
            for message in found:
                if message.subject.rpartition(".")[2] not in KINDS:  # a gateway's status
                    self._answer(message)
                    continue
                self._last -= 1
                self._held[self._last] = message
                topic = to_topic(message.subject.removeprefix(_PREFIX))
                self._on_message(Arrived(topic, message.data, retained=False, duplicate=False, mid=self._last, qos=1))

    async def _keep(self) -> None:
        """Say of what is in hand that it is being worked on."""
        while True:
            await asyncio.sleep(self._stream.redeliver / 3)
            for held in list(self._held.values()):
                with contextlib.suppress(NatsError, OSError):
                    await held.in_progress()

    async def _closed(self) -> None:
        self._end("the connection was closed")

    async def _failed(self, error: Exception) -> None:
        if not self.lost.is_set():
            self.reason = f"{self}: {_said(error)}"

    def _end(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = f"{self}: {reason}"
            self.lost.set()


def _said(error: Exception) -> str:
    """Say what is wrong, and what to do where we know."""
    if isinstance(error, NotFoundError):
        return f"there is no stream {STREAM}: no MQTT client has connected to this server, or it has no mqtt listener"
    return str(error) or type(error).__name__


def to_subject(topic: str) -> str:
    """Write an MQTT topic or filter as a NATS subject."""
    return topic.replace(".", "\0").replace("/", ".").replace("\0", "//").replace("+", "*")


def to_topic(subject: str) -> str:
    """Write a subject of nats-server's MQTT as the topic that it was."""
    return subject.replace("//", "\0").replace(".", "/").replace("\0", ".")
