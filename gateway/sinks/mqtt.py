"""Messages to an MQTT broker at QoS 1, with a status that tells others whether the gateway is there.

    {prefix}/status    retained: {"online": true, "version": "1.0", "since": "2026-11-20T08:15:00Z"}; the will, and a
                       shutdown in order, set online false

Each session starts clean: what was not acknowledged is sent again from the journal, not by the broker or the library.
A broker that forbids the status gets none from then on; mosquitto ends the session over a forbidden topic. Where
commands are on it also listens: `arrivals` are what came on the topics to be listened to.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson

from gateway import __version__
from gateway.contracts import Delivery
from gateway.dialects import Subscription
from gateway.errors import SinkUnavailable
from gateway.model import Message
from gateway.mqtt import NO_MATCHING_SUBSCRIBERS, TOO_LARGE, Answer, Arrived, Connection, Envelope, Will
from gateway.options import PublisherOptions
from gateway.sinks.answers import Denied, delivery, refusal
from gateway.sinks.sessions import Sessions

_ARRIVALS: Final = 1000  # incoming messages that may wait
_FAREWELL: Final = 2.0  # seconds for the last word before DISCONNECT


class MqttSink:
    """The brokers of one publisher, one at a time. A connection lives for one session."""

    def __init__(self, name: str, options: PublisherOptions, gateway: str, listen: Sequence[Subscription] = ()) -> None:
        """Prepare; no I/O."""
        self.refusal = ""
        self.denied: list[str] = []  # subscriptions that the broker refused in this session
        self.overflowed = 0  # arrivals that had no room
        self.arrivals: asyncio.Queue[tuple[Arrived, int]] = asyncio.Queue(_ARRIVALS)
        self._listen = tuple(listen)
        self._options = options
        self._client_id = f"plantbridge-{gateway}-{name}"
        self._status = f"{options.prefix(gateway)}/status"
        self._keep = (options.unheard or ("keep" if options.format == "columns" else "deliver")) == "keep"
        self._since = ""
        self._mute = False  # the status is forbidden
        self._denied = False  # something that all depends on was refused in this session
        self._sessions = Sessions()
        self._envelope = Envelope(options.expiry, options.content_type, options.user_properties)
        self._connection = self._make()

    async def connect(self) -> None:
        """Make the session and tell that we are there. Raises SinkUnavailable."""
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._denied = False
        self.denied, self.arrivals = [], asyncio.Queue(_ARRIVALS)
        self._connection = self._make()
        await self._connection.open()
        self._sessions.began()
        try:
            answer = await self._tell(online=True, timeout=self._options.ack_timeout)
            await self.subscribe(self._listen)
        except BaseException:
            await self._connection.close()
            raise
        if answer is not None and answer.refused:
            self._mute = True
            self._sessions.took()
            await self.close()
            raise SinkUnavailable(
                f"{self._connection.endpoint} does not allow {self._status} ({answer.name}): the gateway goes on"
                " without telling its status"
            )

    async def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe; what the broker refuses is in `denied`. Raises SinkUnavailable."""
        if not subscriptions:
            return
        filters = [each.filter for each in subscriptions]
        answers = await self._connection.subscribe(filters, timeout=self._options.ack_timeout)
        self.denied += [name for name, answer in zip(filters, answers, strict=True) if answer.refused]

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for an arrival."""
        self._connection.acknowledge(message)

    async def send(self, message: Message) -> Delivery:
        """Publish and wait for the PUBACK. Raises SinkUnavailable.

        A reason code from 0x80 on is a refusal of this message (`refusal` says why), for good or for now; but "quota
        exceeded" says that the broker cannot take anything now. The broker may end the session after a refusal.
        """
        self._sessions.sent()
        try:
            answer = await self._connection.publish(
                message.topic,
                message.payload,
                timeout=self._options.ack_timeout,
                retain=message.retain,
                properties=message.properties,
            )
        except ValueError as error:
            answer = Answer(0x90, f"topic {message.topic!r}: {error}")
        if answer.code == NO_MATCHING_SUBSCRIBERS and self._keep and not message.retain and message.last:
            raise SinkUnavailable(
                f"nobody is subscribed to {message.topic} on {self._connection.endpoint}: is ingest running?"
                " The journal keeps the readings. Set unheard: deliver where that is meant"
            )
        try:
            result = delivery(self._connection, message, answer)
        except Denied:
            self._denied = True
            raise
        if result is Delivery.ACCEPTED:
            self._sessions.took()
        else:
            self._sessions.sent(refused=True)
            self.refusal = refusal(self._connection, message, answer)
        return result

    @property
    def act(self) -> bool:
        """Whether what ended the session will not pass by itself."""
        return self._denied or self._sessions.act(self._connection)

    @property
    def largest(self) -> int:
        """The largest payload that the broker takes; 0 where it names no limit."""
        return self._connection.largest

    @property
    def overrun(self) -> bool:
        """Whether the broker ended the session over a message that was too large."""
        return self._connection.code == TOO_LARGE

    @property
    def connected(self) -> bool:
        """Whether the session lives; also after a SinkUnavailable that says what the broker answered."""
        return self._connection.connected

    @property
    def heard(self) -> float:
        """When the broker gave the last sign of life, by the event loop's clock."""
        return self._connection.heard

    def ask(self) -> None:
        """Ask the broker for a sign of life."""
        self._connection.ask()

    async def ended(self) -> str:
        """Return, with the reason, when the session has ended."""
        await self._connection.lost.wait()
        return self._sessions.reason(self._connection)

    async def close(self) -> None:
        """Tell that we go, and disconnect. Idempotent; never raises."""
        if self._connection.connected:
            with contextlib.suppress(SinkUnavailable):
                await self._tell(online=False, timeout=_FAREWELL)
        self._sessions.over(self._connection)
        await self._connection.close()

    def _make(self) -> Connection:
        will = None if self._mute else Will(self._status, self._body(online=False))
        return Connection(
            self._options,
            client_id=self._client_id,
            will=will,
            envelope=self._envelope,
            first=self._sessions.first,
            on_message=self._arrived,
        )

    def _arrived(self, message: Arrived) -> None:
        try:
            self.arrivals.put_nowait((message, time.time_ns()))
        except asyncio.QueueFull:  # not acknowledged: the broker stops, or sends it again
            self.overflowed += 1

    async def _tell(self, *, online: bool, timeout: float) -> Answer | None:
        if self._mute:
            return None
        return await self._connection.publish(self._status, self._body(online=online), timeout=timeout, retain=True)

    def _body(self, *, online: bool) -> bytes:
        body: dict[str, Any] = {"online": online, "version": __version__}
        return orjson.dumps({**body, "since": self._since} if online else body)
