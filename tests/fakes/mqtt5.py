"""A peer that speaks just enough MQTT 5 to say what no broker at hand says: reason codes as the test wants them.

It takes CONNECT, SUBSCRIBE, PINGREQ and PUBLISH at QoS 1; `answer(topic, payload)` gives the reason code of each
PUBACK, or bytes to send in its place. Messages that were answered with a code below 0x80 are in `taken`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14


@dataclass
class Peer:
    url: str = ""
    connack: bytes = b"\x00"  # reason code, then properties are added
    properties: bytes = b""
    answer: Callable[[str, bytes], int | bytes] = lambda _topic, _payload: 0
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)  # PUBLISH, as they came
    sessions: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        aliases: dict[int, str] = {}
        try:
            while True:
                kind, _, body = await packet(reader)
                if kind == CONNECT:
                    self.sessions += 1
                    writer.write(_framed(0x20, b"\x00" + self.connack + _sized(self.properties)))
                elif kind == SUBSCRIBE:
                    writer.write(_framed(0x90, body[:2] + b"\x00\x01"))
                elif kind == PINGREQ:
                    writer.write(b"\xd0\x00")
                elif kind == DISCONNECT:
                    break
                else:
                    self.packets.append(body)
                    writer.write(self._puback(body, aliases))
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    def _puback(self, body: bytes, aliases: dict[int, str]) -> bytes:
        size = struct.unpack_from("!H", body)[0]
        topic, mid = body[2 : 2 + size].decode(), body[2 + size : 4 + size]
        extra = body[4 + size]
        properties, payload = body[5 + size : 5 + size + extra], body[5 + size + extra :]
        if properties[:1] == b"\x23":  # Topic Alias, where it comes first
            alias = struct.unpack_from("!H", properties, 1)[0]
            topic = aliases.setdefault(alias, topic)
        said = self.answer(topic, payload)
        if isinstance(said, bytes):
            return said
        if said < 0x80:
            self.taken.append((topic, payload))
        return _framed(0x40, mid + bytes([said, 0]))


async def packet(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Give kind, head (first byte and length) and body of the next packet, of any version of MQTT."""
    head = await reader.readexactly(1)
    size = shift = 0
    while True:
        head += (octet := await reader.readexactly(1))
        size |= (octet[0] & 0x7F) << shift
        shift += 7
        if octet[0] < 0x80:
            return head[0] >> 4, head, await reader.readexactly(size)


def _sized(properties: bytes) -> bytes:
    assert len(properties) < 128
    return bytes([len(properties)]) + properties


def _framed(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _sized(body)


def text(identifier: int, value: str) -> bytes:
    """A property that is a string."""
    return bytes([identifier]) + struct.pack("!H", len(value.encode())) + value.encode()


def disconnect(code: int, properties: bytes = b"") -> bytes:
    """A DISCONNECT of the server."""
    return _framed(0xE0, bytes([code]) + _sized(properties))


@asynccontextmanager
async def mqtt5(**settings: object) -> AsyncIterator[Peer]:
    """Serve a Peer."""
    peer = Peer(**settings)  # type: ignore[arg-type]
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    async with server:
        peer.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield peer
