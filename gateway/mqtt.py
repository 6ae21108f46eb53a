"""One MQTT connection on the event loop: the only place that knows paho-mqtt.

    connection = Connection(options, client_id="demo-cloud")
    await connection.open()                                # or SinkUnavailable, with a sentence for a person
    answer = await connection.publish("a/b", b"...")       # PUBACK: Answer(code, name); code >= 0x80 is a refusal
    await connection.close()

- QoS 1, and QoS 0 by `hand_over`. A Connection is used for one session and thrown away: nothing is queued, resent or
  reconnected in here, the journal is the only retry. When the session ends, everything that waits raises
  SinkUnavailable, and so does all that is asked later; `lost` is set, `reason` says why.
- No thread of its own: paho's socket is read and written by the event loop (add_reader: every loop but Windows'
  proactor loop, where the selector loop is to be used). Only name look-up, TCP and TLS are made on a thread.
- Every wait has a deadline. A silent broker ends the session after twice the keep-alive at the latest.
- The broker's limits (receive maximum, maximum packet size) are kept: `publish` waits for room, and refuses what is
  too large as the broker would (code 0x95).
- Incoming messages are acknowledged by `acknowledge` only, never on their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.errors import SinkUnavailable
from gateway.options import MqttOptions, TlsOptions

REFUSED: Final = 0x80  # reason codes from here on are refusals
TOO_LARGE: Final = 0x95
QUOTA_EXCEEDED: Final = 0x97

_MISC_EVERY: Final = 1.0  # seconds between paho's looks at the keep-alive
_STALE: Final = 3.0  # seconds between looks after which what is read may have lain there: it is no sign of life
_CLOSING: Final = 2.0  # seconds for DISCONNECT to leave the machine
_SEND_BUFFER: Final = 1 << 20  # a window of messages goes to the kernel in few pieces

# What to do about a refused connection. Codes of MQTT 5; those of 3.1.1 are translated by paho.
_ADVICE: Final = {
    0x80: "see the broker's log",
    0x84: "it does not speak this version of MQTT: set version: 3.1.1",
    0x85: "the client id is not allowed: set client_id",
    0x86: "wrong user name or password: check username and password",
    0x87: "not authorised: check username, password and the broker's access rules",
    0x88: "it is not ready yet",
    0x89: "it is overloaded",
    0x8A: "this client is banned: see the broker's settings",
    0x8E: "another client took over the session: each client needs a client_id of its own",
    0x95: "a message was too large: lower max_message",
    0x97: "a quota of the broker is used up: see the broker's settings",
    0x9F: "too many connections in a short time",
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker is."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"


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


def endpoint(options: MqttOptions) -> Endpoint:
    """Read the URL. Raises ValueError with a message for the integrator."""
    parts = urlsplit(options.url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise ValueError(f"expected mqtt://host:1883 or mqtts://host:8883, got {options.url!r}")
    if parts.path not in ("", "/") or parts.query or parts.username or parts.password:
        raise ValueError("the URL has host and port only; user name, password and topic have keys of their own")
    tls = parts.scheme == "mqtts" or options.tls is not None
    return Endpoint(parts.hostname, parts.port or (8883 if tls else 1883), tls)


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
    ) -> None:
        """Prepare; no I/O. Raises ValueError for a bad URL.

        `clean`: start without what the broker kept for this client id. `session_expiry`: seconds that the broker
        keeps the session after its end (MQTT 5; under 3.1.1 it is kept as long as the broker likes where not
        `clean`). `receive_maximum`: messages the broker may have outstanding to us (MQTT 5). `on_message` is called
        on the loop for each arrival.
        """
        self.endpoint = endpoint(options)
        self.lost = asyncio.Event()
        self.reason = f"{self.endpoint}: not connected"
        self.session_present = False
        self.heard = 0.0  # when the broker gave the last sign of life, by the loop's clock
        self._asked = 0.0
        self._looked = 0.0  # when the loop last turned
        self._options = options
        self._client_id = options.client_id or client_id
        self._will = will
        self._clean = clean
        self._expiry = session_expiry
        self._receive_maximum = receive_maximum
        self._on_arrived = on_message
        self._client: Client | None = None
        self._opened: asyncio.Future[None] | None = None
        self._answers: dict[int, asyncio.Future[list[Answer]]] = {}  # by packet id; a list for SUBACK, one for PUBACK
        self._room = asyncio.Semaphore(65535)
        self._max_packet = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self._client is not None and not self.lost.is_set()

    # ------------------------------------------------------------------------------------------------ session

    async def open(self) -> None:
        """Make the session within `connect_timeout`. Raises SinkUnavailable."""
        loop = asyncio.get_running_loop()
        timeout = self._options.connect_timeout
        self._opened = loop.create_future()
        client = self._make_client()
        try:
            async with asyncio.timeout(timeout):
                await _on_a_thread(lambda: self._dial(client), abandoned=lambda _: _drop(client))
                self._client = client
                self._attach(client, loop)
                await self._opened
        except TimeoutError as error:
            self._end(f"{self.endpoint}: no answer within {timeout:g} s: is it a broker, is a firewall in the way?")
            raise SinkUnavailable(self.reason) from error
        except (OSError, ValueError) as error:
            self._end(_dial_failure(self.endpoint, error, self._options.tls))
            raise SinkUnavailable(self.reason) from error
        except BaseException:
            self._end(f"{self.endpoint}: connecting was given up")
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
        if self._max_packet and len(payload) + len(topic.encode()) + 32 > self._max_packet:
            return Answer(TOO_LARGE, f"Packet too large (the broker takes {self._max_packet} bytes)")
        try:
            async with asyncio.timeout(timeout):
                async with self._room:
                    info = self._alive().publish(topic, payload, 1, retain, self._user_properties(properties))
                    if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                        raise SinkUnavailable(self.reason)
                    return (await self._answer(info.mid))[0]
        except TimeoutError as error:
            self._end(f"{self.endpoint}: a message was not acknowledged within {timeout:g} s")
            raise SinkUnavailable(self.reason) from error

    def hand_over(self, topic: str, payload: bytes, *, retain: bool = False) -> Answer:
        """Publish at QoS 0, where a format prescribes it: nobody says whether it arrives. Raises SinkUnavailable.

        What the broker answers later on this connection says that it has got this. Leaves in the order of the calls.
        """
        if self._max_packet and len(payload) + len(topic.encode()) + 32 > self._max_packet:
            return Answer(TOO_LARGE, f"Packet too large (the broker takes {self._max_packet} bytes)")
        if self._alive().publish(topic, payload, 0, retain).rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
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

    def ask(self) -> None:
        """Have the broker give a sign of life, which moves `heard`; one question at a time."""
        if self._client is not None and not self.lost.is_set() and self._asked <= self.heard:
            self._asked = asyncio.get_running_loop().time()
            self._client._send_pingreq()  # paho has no other way to ping before the keep-alive is over

    # ------------------------------------------------------------------------------------------------ inside

    @property
    def _is_5(self) -> bool:
        return self._options.version == "5"

    def _make_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if self._is_5 else self._clean,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = self._options.connect_timeout
        client.max_inflight_messages = 65535  # paho is to queue nothing: `_room` does
        if self._options.username is not None:
            client.username_pw_set(self._options.username, self._options.password)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=self._will.retain)
        return client

    def _dial(self, client: Client) -> None:
        """Connect and write CONNECT; blocks. No callback of ours is set yet, so nothing touches the loop from here."""
        context = None
        if self.endpoint.tls:
            context = _tls_context(self._options.tls or TlsOptions())
            client.tls_set_context(context)
        arguments: dict[str, Any] = {}
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(int(self._expiry), 0xFFFFFFFF)
            properties.ReceiveMaximum = self._receive_maximum
            arguments = {"clean_start": self._clean, "properties": properties}
        keep_alive = max(1, min(65535, round(self._options.keep_alive)))
        try:
            client.connect(self.endpoint.host, self.endpoint.port, keep_alive, **arguments)
        except BaseException:
            if context is not None and context.made is not None:
                context.made.close()
            raise

    def _attach(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        sock: Any = client.socket()
        if sock is None:
            raise ConnectionError
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_message = self._arrived
        client.on_socket_close = lambda _client, _data, closing: _forget(loop, closing)
        client.on_socket_register_write = lambda _client, _data, open_: loop.add_writer(open_, self._write)
        client.on_socket_unregister_write = lambda _client, _data, open_: _remove_writer(loop, open_)
        self._looked = loop.time()
        loop.add_reader(sock, self._read)
        if client.want_write():
            loop.add_writer(sock, self._write)
        self._timer = loop.call_later(_MISC_EVERY, self._misc)

    def _read(self) -> None:
        client = self._client
        if client is None:
            return
        self._guarded(client.loop_read)
        now = asyncio.get_running_loop().time()
        if not self.lost.is_set():
            self.heard, self._asked = (now, self._asked) if now - self._looked < _STALE else (self.heard, 0.0)
        while not self.lost.is_set():  # TLS: what is decrypted already makes no socket readable
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
        self._guarded(self._client.loop_misc)

    def _guarded(self, step: Callable[[], MQTTErrorCode]) -> None:
        try:
            code = step()
        except Exception as error:  # noqa: BLE001  paho's decoders raise many things on a peer that is no MQTT broker
            self._end(f"{self.endpoint}: the peer does not speak MQTT ({error!r})")
        else:
            if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._end(self._why_lost())

    def _alive(self) -> Client:
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

    def _user_properties(self, given: Mapping[str, str] | None) -> Properties | None:
        if not given or not self._is_5:
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = list(given.items())
        return properties

    def _why_lost(self) -> str:
        if self._opened is not None and not self._opened.done():
            hint = "does it expect TLS?" if not self.endpoint.tls else "does it speak this version of MQTT?"
            return f"{self.endpoint}: closed the connection before it answered: {hint}"
        return f"{self.endpoint}: the connection was lost"

    def _end(self, reason: str) -> None:
        """End the session in whatever state it is and tell everyone who waits. Idempotent."""
        if self.lost.is_set():
            return
        self.reason = reason
        self.lost.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._client is not None:
            loop = asyncio.get_running_loop()
            sock = self._client.socket()
            if sock is not None:
                _forget(loop, sock)
            _drop(self._client)
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
            advice = _ADVICE.get(code.value, "see the broker's log")
            said = getattr(properties, "ReasonString", "")
            self._end(f"{self.endpoint} refused the connection ({code}{': ' + said if said else ''}): {advice}")
            return
        if getattr(properties, "MaximumQoS", 2) < 1:
            self._end(f"{self.endpoint} takes QoS 0 only, by which readings would be lost: allow QoS 1 in the broker")
            return
        self.session_present = bool(flags.session_present)
        self._room = asyncio.Semaphore(getattr(properties, "ReceiveMaximum", 65535))
        self._max_packet = getattr(properties, "MaximumPacketSize", 0)
        self._opened.set_result(None)

    def _disconnected(
        self, _client: Client, _data: Any, flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            advice = _ADVICE.get(code.value)
            self._end(f"{self.endpoint} ended the session ({code}){': ' + advice if advice else ''}")
        elif self.reason.endswith(": closed"):
            self._end(self.reason)
        else:
            self._end(self._why_lost())

    def _published(
        self, _client: Client, _data: Any, mid: int, code: ReasonCode, properties: Properties | None
    ) -> None:
        future = self._answers.get(mid)
        if future is not None and not future.done():
            said = getattr(properties, "ReasonString", "")
            future.set_result([Answer(code.value, f"{code}: {said}" if said else str(code))])

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


async def _on_a_thread(work: Callable[[], _T], abandoned: Callable[[_T], None]) -> _T:
    """Run blocking work on a daemon thread, which a hanging name server cannot make the daemon's shutdown wait for.

    Where the wait is cancelled, `abandoned` gets the result when it comes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            if error is None:
                abandoned(result)  # type: ignore[arg-type]
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  handed over to the loop as it is
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    return await future


def _forget(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0:
        loop.remove_reader(sock)
        loop.remove_writer(sock)


def _remove_writer(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0:
        loop.remove_writer(sock)


def _drop(client: Client) -> None:
    """Close the socket under a client that is not used any more."""
    for name in ("on_connect", "on_disconnect", "on_publish", "on_subscribe", "on_message"):
        setattr(client, name, None)
    client.on_socket_close = client.on_socket_register_write = client.on_socket_unregister_write = None
    sock = client.socket()
    if sock is not None:
        sock.close()


class _TlsContext(ssl.SSLContext):
    """Paho offers no way to name the server otherwise than the URL does, and leaks the socket of a failed handshake."""

    server_name: str | None = None
    made: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **settings: Any) -> ssl.SSLSocket:
        if self.server_name is not None:
            settings["server_hostname"] = self.server_name
        self.made = super().wrap_socket(*args, **settings)
        return self.made


def _tls_context(options: TlsOptions) -> _TlsContext:
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = options.server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.ca is not None:
        context.load_verify_locations(options.ca)
    else:
        context.load_default_certs()
    if options.certificate is not None:
        context.load_cert_chain(options.certificate, options.key)
    return context


def _dial_failure(where: Endpoint, error: Exception, tls: TlsOptions | None) -> str:
    """Say why no connection came about, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"{where}: the host name is not known: check url and the name server"
    if isinstance(error, ConnectionRefusedError):
        return f"{where}: nothing listens there: is the broker running, are host and port right?"
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "check the date" if "expired" in error.verify_message else "check tls.ca and tls.server_name"
        return f"{where}: the broker's certificate is not accepted ({error.verify_message}): {advice}"
    if isinstance(error, ssl.SSLError):
        return f"{where}: TLS failed ({error.reason or error}): does it expect TLS on this port, and a certificate?"
    if isinstance(error, FileNotFoundError | PermissionError):
        files = [name for name in (tls.ca, tls.certificate, tls.key) if name] if tls else []
        return f"{where}: a TLS file cannot be read ({error.strerror}): {', '.join(files) or error}"
    if isinstance(error, TimeoutError):
        return f"{where}: no answer to the connection attempt: is the host up, is a firewall in the way?"
    if isinstance(error, ConnectionError):
        hint = "is it a broker, and does it expect TLS on this port?" if where.tls else "is it a broker?"
        return f"{where}: the connection was closed while it was made: {hint}"
    return f"{where}: {error}"
