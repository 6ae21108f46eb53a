"""Where ingest takes messages from: the session with an MQTT broker, alone or beside a stream.

    mqtt alone     everything comes over the session; workers share it with a shared subscription (MQTT 5)
    with a stream  readings and gaps come from the stream, as one consumer that the workers share; what is retained
                   (definitions, summaries) comes over the session, where each worker hears all of it

What a source owes ingest:

- It hands a message to `on_message` on the loop, and holds no more than `in_flight` that are not acknowledged. Where
  its peer sends more all the same (mosquitto 2.0.11 under MQTT 5), `hold` stops it while the store is at work.
- `acknowledge` is called in any order, after the store has committed. What is not acknowledged comes again after the
  session's end, to this worker or another, whatever ended it. Twice is allowed, never is not.
- `open` and `publish` raise SinkUnavailable; when the session ends `lost` is set and `reason` says why. Nothing is
  reconnected in here: ingest makes another session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.mqtt import Answer, Arrived, Connection, Endpoint
from gateway.options import IngestOptions

__all__ = ["Source", "source"]


class Source(Protocol):
    """One session, used once."""

    lost: asyncio.Event
    endpoint: Endpoint

    @property
    def reason(self) -> str:
        """Why the session ended."""
        ...

    @property
    def session_present(self) -> bool:
        """Whether what was not acknowledged in the last session is still there."""
        ...

    async def open(self) -> None:
        """Connect. Raises SinkUnavailable."""
        ...

    async def subscribe(self, filters: Sequence[str], *, timeout: float, qos: int = 1) -> list[Answer]:
        """Subscribe to topics over the MQTT session."""
        ...

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        timeout: float,
        retain: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> Answer:
        """Publish over the MQTT session."""
        ...

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for a message of this session."""
        ...

    def hold(self, held: bool) -> None:
        """Take no more from the MQTT session, or go on."""
        ...

    async def close(self) -> None:
        """End the session. Idempotent; never raises."""
        ...


def source(options: IngestOptions, client_id: str, on_message: Callable[[Arrived], None]) -> Source:
    """Prepare a session; no I/O."""
    connection = Connection(
        options,
        client_id=client_id,
        clean=False,
        session_expiry=options.session_expiry,
        receive_maximum=options.in_flight,
        on_message=on_message,
    )
    if options.kafka is not None:
        from gateway.sources.kafka import Kafka  # a client library is loaded where it is used only

        return Streamed(connection, Kafka(options, client_id, on_message=on_message))
    if options.stream is not None:
        from gateway.sources.jetstream import JetStream

        return Streamed(connection, JetStream(options, on_message=on_message))
    return connection


class Stream(Protocol):
    """One session with a stream, used once. Its messages have ids below 0."""

    lost: asyncio.Event
    reason: str

    async def open(self) -> None:
        """Connect, and begin to take messages. Raises SinkUnavailable."""
        ...

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for a message of this session."""
        ...

    async def close(self) -> None:
        """End the session; what was not acknowledged comes again. Idempotent; never raises."""
        ...


class Streamed:
    """A stream, and the MQTT session beside it: open while both are."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self.lost = asyncio.Event()
        self.session_present = True  # the stream keeps what matters; what is retained comes with each subscription
        self.endpoint = connection.endpoint
        self.subscribe = connection.subscribe
        self.publish = connection.publish
        self.hold = connection.hold
        self._connection = connection
        self._stream = stream
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def reason(self) -> str:
        return self._stream.reason if self._stream.lost.is_set() else self._connection.reason

    async def open(self) -> None:
        """Connect to both. Raises SinkUnavailable."""
        await self._connection.open()
        self.endpoint = self._connection.endpoint
        await self._stream.open()
        self._watchers = [asyncio.create_task(self._end_with(each.lost)) for each in (self._connection, self._stream)]

    async def _end_with(self, event: asyncio.Event) -> None:
        await event.wait()
        self.lost.set()

    def acknowledge(self, message: Arrived) -> None:
        """Answer the one that the message came from."""
        (self._stream if message.mid < 0 else self._connection).acknowledge(message)

    async def close(self) -> None:
        """End both. Idempotent; never raises."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._stream.close()
        await self._connection.close()
        self.lost.set()
