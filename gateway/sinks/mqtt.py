"""Messages to an MQTT broker at QoS 1, with a status that tells others whether the gateway is there.

    {prefix}/status    retained: {"online": true, "version": "1.0", "since": "2026-11-20T08:15:00Z"}; the will, and a
                       shutdown in order, set online false

Each session starts clean: what was not acknowledged is sent again from the journal, not by the broker or the library.
A broker that forbids the status gets none from then on; mosquitto ends the session over a forbidden topic. Where
commands are on it also listens: `peer.arrivals` are what came on the topics to be listened to.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway import __version__
from gateway.contracts import Delivery
from gateway.dialects import Subscription
from gateway.errors import SinkUnavailable
from gateway.model import Message
from gateway.mqtt import NO_MATCHING_SUBSCRIBERS, Answer, Connection, Envelope, Will
from gateway.sinks.broker import Broker

if TYPE_CHECKING:
    from gateway.options import PublisherOptions

_FAREWELL: Final = 2.0  # seconds for the last word before DISCONNECT


class MqttSink:
    """The brokers of one publisher, one at a time. A connection lives for one session."""

    def __init__(self, name: str, options: PublisherOptions, gateway: str, listen: Sequence[Subscription] = ()) -> None:
        """Prepare; no I/O."""
        self._listen = tuple(listen)
        self._options = options
        self._client_id = f"plantbridge-{gateway}-{name}"
        self._status = f"{options.prefix.replace('{gateway}', gateway)}/status"
        self._keep = (options.unheard or ("keep" if options.format == "columns" else "deliver")) == "keep"
        self._since = ""
        self._mute = False  # the status is forbidden
        self._envelope = Envelope(options.expiry, options.content_type, options.user_properties)
        self.peer = Broker(Connection(options, client_id=self._client_id))

    async def connect(self) -> None:
        """Make the session and tell that we are there. Raises SinkUnavailable."""
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        await self.peer.open(self._make(), self._options.ack_timeout)
        try:
            answer = await self._tell(online=True, timeout=self._options.ack_timeout)
            await self.peer.subscribe(self._listen)
        except BaseException:
            await self.peer.close()
            raise
        if answer is not None and answer.refused:
            self._mute = True
            self.peer.took()
            await self.close()
            raise SinkUnavailable(
                f"{self.peer.connection.endpoint} does not allow {self._status} ({answer.name}): the gateway goes on"
                " without telling its status"
            )

    async def send(self, message: Message) -> Delivery:
        """Publish and wait for the PUBACK. Raises SinkUnavailable.

        A reason code from 0x80 on is a refusal of this message (`peer.refusal` says why), for good or for now; but
        "quota exceeded" says that the broker cannot take anything now. The broker may end the session after a refusal.
        """
        self.peer.sending()
        answer = await self.peer.publish(message)
        if answer.code == NO_MATCHING_SUBSCRIBERS and self._keep and not message.retain and message.last:
            raise SinkUnavailable(
                f"nobody is subscribed to {message.topic} on {self.peer.connection.endpoint}: is ingest running?"
                " The journal keeps the readings. Set unheard: deliver where that is meant"
            )
        return self.peer.judge(message, answer)

    async def close(self) -> None:
        """Tell that we go, and disconnect. Idempotent; never raises."""
        if self.peer.connected:
            with contextlib.suppress(SinkUnavailable):
                await self._tell(online=False, timeout=_FAREWELL)
        await self.peer.close()

    def _make(self) -> Connection:
        will = None if self._mute else Will(self._status, self._body(online=False))
        return Connection(
            self._options,
            client_id=self._client_id,
            will=will,
            envelope=self._envelope,
            first=self.peer.first,
            on_message=self.peer.arrived,
        )

    async def _tell(self, *, online: bool, timeout: float) -> Answer | None:
        if self._mute:
            return None
        return await self.peer.connection.publish(self._status, self._body(online=online), timeout=timeout, retain=True)

    def _body(self, *, online: bool) -> bytes:
        body: dict[str, Any] = {"online": online, "version": __version__}
        return orjson.dumps({**body, "since": self._since} if online else body)
