"""One MQTT connection: a session with the first broker of the list that takes it.

    connection = Connection(options, client_id="demo-cloud")
    await connection.open()                                # or SinkUnavailable, with a sentence for a person
    answer = await connection.publish("a/b", b"...")       # PUBACK: Answer(code, name); code >= 0x80 is a refusal
    await connection.close()

- QoS 1, and QoS 0 by `hand_over`. A Connection is used for one session and thrown away: nothing is queued, resent or
  reconnected in here, the journal is the only retry. When the session ends, everything that waits raises
  SinkUnavailable, and so does all that is asked later; `lost` is set, `reason` says why, and `act` whether it is
  something that will not pass by itself.
- No thread of its own: paho's socket is read and written by the event loop (add_reader: every loop but Windows'
  proactor loop, where the selector loop is to be used). Only name look-up, TCP, TLS and WebSocket are made on a thread.
- Every wait has a deadline. A silent broker ends the session after twice the keep-alive at the latest.
- The broker's limits (receive maximum, maximum packet size) are kept: `publish` waits for room, and refuses what is
  too large as the broker would (code 0x95).
- Incoming messages are acknowledged by `acknowledge` only, never on their own. `hold` stops reading, and keeps the
  session alive meanwhile: there are brokers that send more than they may.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.errors import SinkUnavailable
from gateway.mqtt.claim import claim
from gateway.mqtt.client import SocketClient, close, drop, forget, got_it, on_a_thread, remove_writer
from gateway.mqtt.dial import dial, failure, needs_somebody
from gateway.mqtt.envelope import Envelope, Outgoing
from gateway.mqtt.places import endpoints
from gateway.mqtt.reasons import NEEDS_SOMEBODY, REFUSED, TOO_LARGE, advice, told

if TYPE_CHECKING:
    from gateway.options import MqttOptions

_MISC_EVERY: Final = 1.0  # seconds between paho's looks at the keep-alive
_STALE: Final = 3.0  # seconds between looks after which what is read may have lain there: it is no sign of life
_CLOSING: Final = 2.0  # seconds for DISCONNECT to leave the machine


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes at QoS 1 when the session ends without a DISCONNECT."""

    topic: str
    payload: bytes
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The peer's reason code for one publish or one subscription filter."""

    code: int
    name: str

    @property
    def refused(self) -> bool:
        return self.code >= REFUSED


@dataclass(frozen=True, slots=True)
class Arrived:
    """An incoming message, not yet acknowledged. `properties` are MQTT 5 user properties."""

    topic: str
    payload: bytes
    retained: bool
    duplicate: bool
    mid: int
    qos: int
    properties: Mapping[str, str] = field(default_factory=dict)


class Connection:
    """One session with a broker, from `open` to `close` or loss. Belongs to the thread of its event loop."""

    def __init__(
        self,
        options: MqttOptions,
        *,
        client_id: str,
        will: Will | None = None,
        clean: bool = True,
        session_expiry: float = 0.0,
        receive_maximum: int = 65535,
        on_message: Callable[[Arrived], None] | None = None,
        envelope: Envelope | None = None,
        first: int = 0,
        exclusive: bool = True,
    ) -> None:
        """Prepare; no I/O.

        `clean`: start without what the broker kept for this client id. `session_expiry`: seconds that the broker
        keeps the session after its end (MQTT 5; under 3.1.1 it is kept as long as the broker likes where not
        `clean`). `receive_maximum`: messages the broker may have outstanding to us (MQTT 5). `on_message` is called
        on the loop for each arrival. `envelope`: what goes with each message that we publish (MQTT 5). `first`: the
        broker of the list to begin with; after the last comes the first. `exclusive`: let no other connection of this
        machine use the client id at that broker.
        """
        self._endpoints = endpoints(options)
        self.number = first % len(self._endpoints)  # of the broker in the list
        self.endpoint = self._endpoints[self.number]
        self.lost = asyncio.Event()
        self.reason = f"{self.endpoint}: not connected"
        self.act = False  # what ended the session will not pass by itself
        self.code = 0  # the reason code with which the broker ended it
        self.cut = False  # the session ended without a word
        self.session_present = False
        self.heard = 0.0  # when the broker gave the last sign of life, by the loop's clock
        self._asked = 0.0
        self._looked = 0.0  # when the loop last turned
        self._held = False  # nothing is read
        self._pinged = 0.0  # when we last asked while nothing was read
        self._options = options
        self.client_id = options.client_id or client_id
        self._will = will
        self._clean = clean
        self._expiry = session_expiry
        self._receive_maximum = receive_maximum
        self._on_arrived = on_message
        self._envelope = envelope or Envelope()
        self._outgoing = Outgoing(self._envelope, version_5=self._is_5, aliases=0, largest=0)
        self._exclusive = exclusive
        self._claim: socket.socket | None = None
        self._client: SocketClient | None = None
        self._opened: asyncio.Future[None] | None = None
        self._answers: dict[int, asyncio.Future[list[Answer]]] = {}  # by packet id; a list for SUBACK, one for PUBACK
        self._room = asyncio.Semaphore(65535)
        self._max_packet = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self._client is not None and not self.lost.is_set()

    @property
    def largest(self) -> int:
        """The largest payload that this broker takes, leaving 500 bytes for the topic; 0 where it names no limit."""
        return max(1, self._max_packet - self._outgoing.weight - 500) if self._max_packet else 0

    # ------------------------------------------------------------------------------------------------ session

    async def open(self) -> None:
        """Make the session with the first broker that takes it, each in `connect_timeout`. Raises SinkUnavailable."""
        reasons: list[str] = []
        for number in range(self.number, self.number + len(self._endpoints)):
            self.number = number % len(self._endpoints)
            self.endpoint = self._endpoints[self.number]
            self.lost.clear()
            self.act, self._client = False, None
            try:
                return await self._open()
            except SinkUnavailable:
                reasons.append(self.reason)
        if len(reasons) > 1:
            self.reason = "no broker of the list takes us: " + "; ".join(reasons)
        raise SinkUnavailable(self.reason)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        timeout = self._options.connect_timeout
        self._opened = loop.create_future()
        where = self.endpoint
        try:
            async with asyncio.timeout(timeout):
                sock = await on_a_thread(lambda: dial(where, self._options), abandoned=close)
                self._attach(sock, loop)
                await self._opened
        except TimeoutError as error:
            self._end(f"{where}: no answer within {timeout:g} s: is it a broker, is a firewall in the way?")
            raise SinkUnavailable(self.reason) from error
        except (OSError, ValueError) as error:
            self._end(failure(where, self.client_id, self._options, error), act=needs_somebody(error))
            raise SinkUnavailable(self.reason) from error
        except BaseException:
            self._end(f"{where}: connecting was given up")
            raise

    async def close(self) -> None:
        """Send DISCONNECT and end the session; the will is not published. Idempotent; never raises."""
        client = self._client
        if client is None or self.lost.is_set():
            return
        self.reason = f"{self.endpoint}: closed"
        client.disconnect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await self.lost.wait()
        self._end(self.reason)

    # ------------------------------------------------------------------------------------------------ verbs

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        timeout: float,
        retain: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> Answer:
        """Publish at QoS 1 and wait for the PUBACK. Messages leave in the order of the calls.

        Raises SinkUnavailable when the session ends or no PUBACK comes within `timeout` seconds (the session is then
        ended, for a broker that does not answer is of no use); ValueError for a topic that cannot be published to.
        """
        if not topic or len(topic.encode()) > 65535 or any(wrong in topic for wrong in "+#\0"):
            raise ValueError("an empty topic, or one with + or # or over 65535 bytes, cannot be published to")
        if not self._outgoing.room(topic, payload, properties):
            return Answer(TOO_LARGE, f"Packet too large (the broker takes {self._max_packet} bytes)")
        try:
            async with asyncio.timeout(timeout):
                async with self._room:
                    client = self._alive()
                    name, extra = self._outgoing(topic, retain=retain, user=properties)
                    info = client.publish(name, payload, 1, retain, extra)
                    if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                        raise SinkUnavailable(self.reason)
                    answer = (await self._answer(info.mid))[0]
                    if answer.refused:
                        self._outgoing.forget(topic)
                    return answer
        except TimeoutError as error:
            self._end(f"{self.endpoint}: a message was not acknowledged within {timeout:g} s")
            raise SinkUnavailable(self.reason) from error

    def hand_over(self, topic: str, payload: bytes, *, retain: bool = False) -> Answer:
        """Publish at QoS 0, where a format prescribes it: nobody says whether it arrives. Raises SinkUnavailable.

        What the broker answers later on this connection says that it has got this. Leaves in the order of the calls.
        """
        if not self._outgoing.room(topic, payload, None):
            return Answer(TOO_LARGE, f"Packet too large (the broker takes {self._max_packet} bytes)")
        client = self._alive()
        name, extra = self._outgoing(topic, retain=retain, user=None)
        if client.publish(name, payload, 0, retain, extra).rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise SinkUnavailable(self.reason)
        return Answer(0, "handed over")

    async def subscribe(self, filters: Sequence[str], *, timeout: float, qos: int = 1) -> list[Answer]:
        """Subscribe to topic filters; one answer per filter, in order. Raises SinkUnavailable.

        At QoS 0 messages arrive that the broker's limit of unacknowledged ones would hold back.
        """
        client = self._alive()
        wanted: list[tuple[str, Any]] = (
            [(name, SubscribeOptions(qos=qos)) for name in filters] if self._is_5 else [(name, qos) for name in filters]
        )
        code, mid = client.subscribe(wanted)
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise SinkUnavailable(self.reason)
        try:
            async with asyncio.timeout(timeout):
                return await self._answer(mid)
        except TimeoutError as error:
            self._end(f"{self.endpoint}: a subscription was not acknowledged within {timeout:g} s")
            raise SinkUnavailable(self.reason) from error

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for a message that arrived in this session. After the session's end: nothing happens,
        the broker sends the message again."""
        if self._client is not None and not self.lost.is_set() and message.qos:
            self._client.ack(message.mid, message.qos)

    def hold(self, held: bool) -> None:
        """Read nothing more from the socket, or go on. What the broker sends waits in its memory and the kernel's."""
        sock = self._client.socket() if self._client is not None and not self.lost.is_set() else None
        if sock is None or held == self._held:
            return
        self._held = held
        loop = asyncio.get_running_loop()
        if held:
            loop.remove_reader(sock)
            return
        loop.add_reader(sock, self._read)
        if getattr(sock, "pending", lambda: 0)():  # decrypted already: it makes no socket readable
            loop.call_soon(self._read)
        if self._timer is not None:  # what has come must be read before paho asks whether anything came
            self._timer.cancel()
        self._timer = loop.call_later(_MISC_EVERY, self._misc)

    def ask(self) -> None:
        """Have the broker give a sign of life, which moves `heard`; one question at a time."""
        if self._client is not None and not self.lost.is_set() and self._asked <= self.heard:
            self._asked = asyncio.get_running_loop().time()
            self._client.ping()

    # ------------------------------------------------------------------------------------------------ inside

    @property
    def _is_5(self) -> bool:
        return self._options.version == "5"

    def _attach(self, sock: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Claim the client id, give paho the socket, and send CONNECT. Raises Claimed, OSError, ValueError."""
        try:
            if self._exclusive:
                self._claim = claim(sock.getpeername(), self.client_id)
            client = self._make_client(sock)
        except BaseException:
            sock.close()
            raise
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_message = self._arrived
        client.on_socket_close = lambda _client, _data, closing: forget(loop, closing)
        client.on_socket_register_write = lambda _client, _data, open_: loop.add_writer(open_, self._write)
        client.on_socket_unregister_write = lambda _client, _data, open_: remove_writer(loop, open_)
        self._client = client
        arguments: dict[str, Any] = {}
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(int(self._expiry), 0xFFFFFFFF)
            properties.ReceiveMaximum = self._receive_maximum
            arguments = {"clean_start": self._clean, "properties": properties}
        keep_alive = max(1, min(65535, round(self._options.keep_alive)))
        client.connect(self.endpoint.host, self.endpoint.port, keep_alive, **arguments)
        self._looked = loop.time()
        loop.add_reader(sock, self._read)
        self._timer = loop.call_later(_MISC_EVERY, self._misc)

    def _make_client(self, sock: Any) -> SocketClient:
        client = SocketClient(
            sock,
            client_id=self.client_id,
            clean_session=None if self._is_5 else self._clean,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311,
        )
        if self._options.username is not None:
            client.username_pw_set(self._options.username, self._options.password)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=self._will.retain)
        return client

    def _read(self) -> None:
        client = self._client
        if client is None:
            return
        self._guarded(client.loop_read)
        got_it(client.socket())
        now = asyncio.get_running_loop().time()
        if not self.lost.is_set():
            self.heard, self._asked = (now, self._asked) if now - self._looked < _STALE else (self.heard, 0.0)
        while not self.lost.is_set() and not self._held:  # TLS: what is decrypted already makes no socket readable
            pending = getattr(client.socket(), "pending", None)
            if pending is None or not pending():
                return
            self._guarded(client.loop_read)

    def _write(self) -> None:
        if self._client is not None:
            self._guarded(self._client.loop_write)

    def _misc(self) -> None:
        if self._client is None or self.lost.is_set():
            return
        loop = asyncio.get_running_loop()
        self._looked = loop.time()
        self._timer = loop.call_later(_MISC_EVERY, self._misc)
        if not self._held:
            self._guarded(self._client.loop_misc)
        elif self._looked - self._pinged > self._options.keep_alive / 2:
            self._pinged = self._looked
            self._client.ping()

    def _guarded(self, step: Callable[[], MQTTErrorCode]) -> None:
        try:
            code = step()
        except Exception as error:  # noqa: BLE001  paho's decoders raise many things on a peer that is no MQTT broker
            self._end(f"{self.endpoint}: the peer does not speak MQTT ({error!r})")
        else:
            if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._end(self._why_lost())

    def _alive(self) -> SocketClient:
        if self._client is None or self.lost.is_set():
            raise SinkUnavailable(self.reason)
        return self._client

    async def _answer(self, mid: int) -> list[Answer]:
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._answers[mid] = future
        try:
            return await future
        finally:
            self._answers.pop(mid, None)

    def _why_lost(self) -> str:
        if self._opened is not None and not self._opened.done():
            hint = "does it expect TLS?" if not self.endpoint.tls else "a client certificate? This version of MQTT?"
            if self.endpoint.tls:
                hint = f"does it want {hint}"
            return f"{self.endpoint}: closed the connection before it answered: {hint}"
        self.cut = True
        return f"{self.endpoint}: the connection was lost"

    def _end(self, reason: str, *, act: bool = False) -> None:
        """End the session in whatever state it is and tell everyone who waits. Idempotent."""
        if self.lost.is_set():
            return
        self.reason, self.act = reason, act
        self.lost.set()
        if self._claim is not None:
            self._claim.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._client is not None:
            loop = asyncio.get_running_loop()
            sock = self._client.socket()
            if sock is not None:
                forget(loop, sock)
            drop(self._client)
        for future in (*self._answers.values(), self._opened):
            if future is not None and not future.done():
                future.set_exception(SinkUnavailable(reason))
                future.exception()  # told to whoever waits; nobody need be waiting

    # ------------------------------------------------------------------------------------------------ callbacks

    def _connected(
        self, _client: Client, _data: Any, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if self._opened is None or self._opened.done():
            return
        if code.is_failure:
            todo = advice(code.value, properties, self.client_id) or "see the broker's log"
            reason = f"{self.endpoint} refused the connection ({told(code, properties)}): {todo}"
            self._end(reason, act=code.value in NEEDS_SOMEBODY)
            return
        if getattr(properties, "MaximumQoS", 2) < 1:
            self._end(
                f"{self.endpoint} takes QoS 0 only, by which readings would be lost: allow QoS 1 in the broker",
                act=True,
            )
            return
        self.session_present = bool(flags.session_present)
        self._room = asyncio.Semaphore(getattr(properties, "ReceiveMaximum", 65535))
        self._max_packet = getattr(properties, "MaximumPacketSize", 0)
        self._outgoing = Outgoing(
            self._envelope,
            version_5=self._is_5,
            aliases=getattr(properties, "TopicAliasMaximum", 0),
            largest=self._max_packet,
        )
        self._opened.set_result(None)

    def _disconnected(
        self, _client: Client, _data: Any, flags: DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.code = code.value
            todo = advice(code.value, properties, self.client_id)
            reason = f"{self.endpoint} ended the session ({told(code, properties)}){': ' + todo if todo else ''}"
            self._end(reason, act=code.value in NEEDS_SOMEBODY)
        elif self.reason.endswith(": closed"):
            self._end(self.reason)
        else:
            self._end(self._why_lost())

    def _published(
        self, _client: Client, _data: Any, mid: int, code: ReasonCode, properties: Properties | None
    ) -> None:
        future = self._answers.get(mid)
        if future is not None and not future.done():
            future.set_result([Answer(code.value, told(code, properties))])

    def _subscribed(
        self, _client: Client, _data: Any, mid: int, codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        future = self._answers.get(mid)
        if future is not None and not future.done():
            future.set_result([Answer(code.value, str(code)) for code in codes])

    def _arrived(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            client.ack(message.mid, message.qos)  # forbidden by MQTT; nobody could ever handle it
            return
        if self._on_arrived is not None:
            pairs = getattr(message.properties, "UserProperty", ())
            self._on_arrived(
                Arrived(
                    topic,
                    bytes(message.payload),
                    bool(message.retain),
                    bool(message.dup),
                    message.mid,
                    message.qos,
                    dict(pairs),
                )
            )
