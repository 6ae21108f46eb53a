"""An MQTT session that holds a conversation: who we are, the will and the subscriptions come from a Dialogue.

Messages of a format that prescribes QoS 0 (Sparkplug) have no acknowledgement of their own. `send` then returns when
the broker has answered something that was sent after the message: a SUBSCRIBE for a topic we are subscribed to anyway.
A broker reads a connection in order, so that answer says that it has got all before it. One such question serves all
messages that wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from gateway.contracts import Delivery
from gateway.dialects import Subscription
from gateway.dialects.dialogue import Dialogue
from gateway.model import Message
from gateway.mqtt import TOO_LARGE, Answer, Arrived, Connection, Envelope, Will
from gateway.options import PublisherOptions
from gateway.sinks.answers import Denied, delivery, refusal
from gateway.sinks.sessions import Sessions

_ARRIVALS: Final = 1000  # incoming messages that may wait; more are not acknowledged until these are dealt with

Arrivals = asyncio.Queue[tuple[Arrived, int]]
"""What came, and when (ns)."""


class DialogueSink:
    """One broker and one Dialogue. A connection lives for one session."""

    def __init__(self, name: str, options: PublisherOptions, gateway: str, dialogue: Dialogue) -> None:
        """Prepare; no I/O. Raises ValueError for a URL that is none."""
        self.refusal = ""
        self.denied: list[str] = []  # subscriptions that the broker refused in this session
        self.overflowed = 0  # arrivals that had no room
        self.arrivals = Arrivals(_ARRIVALS)
        self._options = options
        self._dialogue = dialogue
        self._client_id = f"plantbridge-{gateway}-{name}"
        self._connection = Connection(options, client_id=self._client_id)
        self._question = ""  # a filter to ask for where an answer is needed
        self._handed = 0  # messages of QoS 0 in this session
        self._known = 0  # how many of them the broker has got
        self._asking: asyncio.Future[None] | None = None
        self._forbidden = False  # something that all depends on was refused in this session
        self._sessions = Sessions()
        self._envelope = Envelope(options.expiry, options.content_type, options.user_properties)

    async def connect(self) -> None:
        """Make the session and subscribe. Raises SinkUnavailable."""
        self.arrivals = Arrivals(_ARRIVALS)
        self._handed = self._known = 0
        self._asking = None
        self.denied = []
        self._connection = self._make()
        self._forbidden = False
        await self._connection.open()
        self._sessions.began()
        try:
            await self.subscribe(self._dialogue.subscriptions())
        except BaseException:
            self._sessions.over(self._connection)
            await self._connection.close()
            raise

    async def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe; what the broker refuses is in `denied`. Raises SinkUnavailable."""
        for qos in sorted({each.qos for each in subscriptions}):
            filters = [each.filter for each in subscriptions if each.qos == qos]
            answers = await self._connection.subscribe(filters, timeout=self._options.ack_timeout, qos=qos)
            self.denied += [name for name, answer in zip(filters, answers, strict=True) if answer.refused]
            self._question = self._question or filters[0]

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for an arrival."""
        self._connection.acknowledge(message)

    async def send(self, message: Message) -> Delivery:
        """Publish; return when the broker has it or refuses it. Raises SinkUnavailable."""
        limits, topic = self._dialogue.limits, message.topic
        self._sessions.sent()
        if limits.qos and not topic.startswith(limits.qos_0 or ("\0",)):
            answer = await self._publish(message)
        else:
            answer = self._connection.hand_over(topic, message.payload, retain=message.retain)
            if not answer.refused and message.readings:
                await self._got_it()
        try:
            result = delivery(self._connection, message, answer)
        except Denied:
            self._forbidden = True
            raise
        if result is Delivery.ACCEPTED:
            self._sessions.took()
        else:
            self._sessions.sent(refused=True)
            self.refusal = refusal(self._connection, message, answer)
        return result

    async def _publish(self, message: Message) -> Answer:
        try:
            return await self._connection.publish(
                message.topic, message.payload, timeout=self._options.ack_timeout, retain=message.retain
            )
        except ValueError as error:
            return Answer(0x90, f"topic {message.topic!r}: {error}")

    async def _got_it(self) -> None:
        """Return when the broker has all that was handed over until now."""
        self._handed += 1
        mine = self._handed
        while self._known < mine:
            if self._asking is None:
                self._asking = asyncio.ensure_future(self._ask(self._handed))
            await asyncio.shield(self._asking)

    async def _ask(self, handed: int) -> None:
        try:
            await self._connection.subscribe([self._question], timeout=self._options.ack_timeout)
            self._known = handed
        finally:
            self._asking = None

    @property
    def act(self) -> bool:
        """Whether what ended the session will not pass by itself."""
        return self._forbidden or self._sessions.act(self._connection)

    @property
    def largest(self) -> int:
        """The largest payload that the broker takes; 0 where it names no limit."""
        return self._connection.largest

    @property
    def overrun(self) -> bool:
        """Whether the broker ended the session over a message that was too large."""
        return self._connection.code == TOO_LARGE

    @property
    def heard(self) -> float:
        """When the broker gave the last sign of life, by the event loop's clock."""
        return self._connection.heard

    def ask(self) -> None:
        """Ask the broker for a sign of life."""
        self._connection.ask()

    @property
    def connected(self) -> bool:
        """Whether the session lives; also after a SinkUnavailable by which we leave it."""
        return self._connection.connected

    async def ended(self) -> str:
        """Return, with the reason, when the session has ended."""
        await self._connection.lost.wait()
        return self._sessions.reason(self._connection)

    async def close(self) -> None:
        """Disconnect. Idempotent; never raises.

        Where it is us who leave (the primary host is not there), the next session begins with the next broker.
        """
        self._sessions.over(self._connection, elsewhere=self._connection.connected)
        await self._connection.close()

    def _make(self) -> Connection:
        """Prepare a session with fresh credentials and a fresh will."""
        credentials, will = self._dialogue.credentials(), self._dialogue.will()
        options, client_id = self._options, self._client_id
        limits = self._dialogue.limits
        changes: dict[str, object] = {}
        if credentials is not None:
            client_id = credentials.client_id
            changes = {"client_id": None, "username": credentials.username, "password": credentials.password}
        if options.version not in limits.versions:
            changes["version"] = limits.versions[0]
        changes["keep_alive"] = min(max(options.keep_alive, limits.keep_alive[0]), limits.keep_alive[1])
        return Connection(
            options.model_copy(update=changes),
            client_id=client_id,
            will=None if will is None or not limits.will else Will(will.topic, will.payload, will.retain),
            on_message=self._arrived,
            envelope=self._envelope,
            first=self._sessions.first,
        )

    def _arrived(self, message: Arrived) -> None:
        try:
            self.arrivals.put_nowait((message, time.time_ns()))
        except asyncio.QueueFull:  # not acknowledged: the broker stops, or sends it again
            self.overflowed += 1
