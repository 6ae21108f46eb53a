"""A cloud's front door before a real broker: it reads every MQTT packet of the gateway and lets a fake judge it.

    gateway ──▶ Front ──▶ mosquitto        CONNECT: signature, will, keep-alive; PUBLISH: topic, body, size, rate, flags
                  └─ fake (tests.fakes)    what the platform refuses ends the connection, as the platform would

The fake's answers are published through the broker, by a client of its own. `cut` is an outage of the line: connections
end without a word and new ones are refused until `mend`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

from gateway.dialects import Credentials, Subscription
from gateway.model import Message
from gateway.mqtt import Connection
from gateway.options import MqttOptions
from tests.fakes.cloud import Platform, Refuses, Reply
from tests.fakes.mqtt5 import CONNECT, PUBLISH, SUBSCRIBE, packet

_NOT_AUTHORISED: Final = {4: b"\x20\x02\x00\x05", 5: b"\x20\x03\x00\x87\x00"}


class Front:
    """Listens on a port of its own; `broken` is what the platform would not take."""

    def __init__(self, broker: str, platform: Platform, tls: ssl.SSLContext | None = None) -> None:
        self.broken: list[str] = []
        self.sessions = 0
        self.will = True  # whether the platform has wills
        self.keep_alive = (1, 65535)
        self.port = 0
        self._broker, self._platform, self._tls = broker, platform, tls
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._replies: asyncio.Queue[Reply] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Front:
        self._tasks = [asyncio.create_task(self._answer())]
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def mend(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End all connections, and take no more."""
        if self._server is not None:
            self._server.close()
        for line in [*self._lines]:
            line.transport.abort()

    def say(self, reply: Reply) -> None:
        """Publish something from the platform."""
        self._replies.put_nowait(reply)

    async def _answer(self) -> None:
        connection = Connection(MqttOptions(url=self._broker), client_id="platform")
        await connection.open()
        try:
            while True:
                topic, payload = await self._replies.get()
                await connection.publish(topic, payload, timeout=20)
        finally:
            await connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        host, port = self._broker.removeprefix("mqtt://").split(":")
        back: asyncio.Task[None] | None = None
        up: asyncio.StreamWriter | None = None
        version = 4
        aliases: dict[int, str] = {}
        try:
            kind, head, body = await packet(reader)
            version = body[6]
            self._require(kind == CONNECT, "a connection begins with CONNECT")
            self._connect(body)
            self.sessions += 1
            down, up = await asyncio.open_connection(host, int(port))
            up.write(head + body)
            back = asyncio.create_task(_copy(down, writer))
            while True:
                kind, head, body = await packet(reader)
                if kind == PUBLISH:
                    self._publish(head[0], body, version, aliases)
                elif kind == SUBSCRIBE:
                    for wanted in _filters(body, version):
                        self._platform.subscribe(wanted)
                up.write(head + body)
                await up.drain()
        except Refuses as error:
            self.broken.append(str(error))
            if back is None:
                with contextlib.suppress(OSError):
                    writer.write(_NOT_AUTHORISED[version])
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._lines.discard(writer)
            if back is not None:
                back.cancel()
            for each in (writer, up):
                if each is not None:
                    each.close()

    def _require(self, kept: object, what: str) -> None:
        self._platform.require(kept, what)

    def _connect(self, body: bytes) -> None:
        flags, keep_alive, rest = body[7], int.from_bytes(body[8:10], "big"), body[10:]
        if body[6] == 5:
            rest = _without_properties(rest)
        fields = _texts(rest)
        client_id = next(fields).decode()
        self._require(self.will or not flags & 4, "there are no wills")
        if flags & 4:
            assert body[6] == 4  # of a will's own properties this front knows nothing
            next(fields), next(fields)
        low, high = self.keep_alive
        self._require(low <= keep_alive <= high, f"the keep-alive {keep_alive}")
        username = next(fields).decode() if flags & 0x80 else None
        password = next(fields).decode() if flags & 0x40 else None
        credentials = Credentials(client_id, username, password)
        self._platform.connect(credentials, time.time_ns(), tls=self._tls is not None)

    def _publish(self, first: int, body: bytes, version: int, aliases: dict[int, str]) -> None:
        qos, retain = first >> 1 & 3, bool(first & 1)
        size = int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + size].decode(), body[2 + size + (2 if qos else 0) :]
        if version == 5:
            whole, rest = rest, _without_properties(rest)
            alias = _alias(whole[1 : len(whole) - len(rest)])
            if alias and topic:
                aliases[alias] = topic
            topic = topic or aliases.get(alias, "")
        message = Message(topic, rest, 0, 0, 0, retain)
        for reply in self._platform.publish(message, time.time_ns(), qos):
            self.say(reply)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _without_properties(rest: bytes) -> bytes:
    size = shift = used = 0
    while True:
        octet = rest[used]
        size |= (octet & 0x7F) << shift
        shift, used = shift + 7, used + 1
        if octet < 0x80:
            return rest[used + size :]


def _alias(properties: bytes) -> int:
    """Give a message's topic alias; the gateway's messages to platforms have no other property."""
    assert not properties or (properties[0] == 0x23 and len(properties) == 3)
    return int.from_bytes(properties[1:], "big")


def _texts(rest: bytes) -> Iterator[bytes]:
    while rest:
        size = int.from_bytes(rest[:2], "big")
        yield rest[2 : 2 + size]
        rest = rest[2 + size :]


def _filters(body: bytes, version: int) -> Iterator[Subscription]:
    rest: Any = _without_properties(body[2:]) if version == 5 else body[2:]
    while rest:
        size = int.from_bytes(rest[:2], "big")
        yield Subscription(rest[2 : 2 + size].decode(), rest[2 + size] & 3)
        rest = rest[3 + size :]
