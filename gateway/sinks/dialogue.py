"""An MQTT session that holds a conversation: who we are, the will and the subscriptions come from a Dialogue.

Messages of a format that prescribes QoS 0 (Sparkplug) have no acknowledgement of their own. `send` then returns when
the broker has answered something that was sent after the message: a SUBSCRIBE for a topic we are subscribed to anyway.
A broker reads a connection in order, so that answer says that it has got all before it. One such question serves all
messages that wait.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.contracts import Delivery
from gateway.dialects.dialogue import Dialogue
from gateway.model import Message
from gateway.mqtt import Connection, Envelope, Will
from gateway.sinks.broker import Broker

if TYPE_CHECKING:
    from gateway.options import PublisherOptions


class DialogueSink:
    """One broker and one Dialogue. A connection lives for one session."""

    def __init__(self, name: str, options: PublisherOptions, gateway: str, dialogue: Dialogue) -> None:
        """Prepare; no I/O. Raises ValueError for a URL that is none."""
        self._options = options
        self._dialogue = dialogue
        self._client_id = f"plantbridge-{gateway}-{name}"
        self.peer = Broker(Connection(options, client_id=self._client_id))
        self._handed = 0  # messages of QoS 0 in this session
        self._known = 0  # how many of them the broker has got
        self._asking: asyncio.Future[None] | None = None
        self._envelope = Envelope(options.expiry, options.content_type, options.user_properties)

    async def connect(self) -> None:
        """Make the session and subscribe. Raises SinkUnavailable."""
        self._handed = self._known = 0
        self._asking = None
        await self.peer.open(self._make(), self._options.ack_timeout)
        try:
            await self.peer.subscribe(self._dialogue.subscriptions())
        except BaseException:
            await self.peer.close()
            raise

    async def send(self, message: Message) -> Delivery:
        """Publish; return when the broker has it or refuses it. Raises SinkUnavailable."""
        limits, topic = self._dialogue.limits, message.topic
        self.peer.sending()
        if limits.qos and not topic.startswith(limits.qos_0 or ("\0",)):
            answer = await self.peer.publish(message)
        else:
            answer = self.peer.connection.hand_over(topic, message.payload, retain=message.retain)
            if not answer.refused and message.readings:
                await self._got_it()
        return self.peer.judge(message, answer)

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
            await self.peer.connection.subscribe([self.peer.asked], timeout=self._options.ack_timeout)
            self._known = handed
        finally:
            self._asking = None

    async def close(self) -> None:
        """Disconnect. Idempotent; never raises.

        Where it is us who leave (the primary host is not there), the next session begins with the next broker.
        """
        await self.peer.close(elsewhere=self.peer.connected)

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
            on_message=self.peer.arrived,
            envelope=self._envelope,
            first=self.peer.first,
        )
