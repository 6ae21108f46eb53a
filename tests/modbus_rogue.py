"""A Modbus peer that does what a test tells it to, wrong things above all.

Register a of every unit holds a + `step`; coil a is a's lowest bit. So a value tells where it comes from, and when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from simulators.listening import stop_listening


def crc(data: bytes) -> bytes:
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
    return register.to_bytes(2, "little")


class Asked:
    """One request, and the ways to answer it."""

    def __init__(self, rogue: Rogue, connection: _Connection, transaction: int, unit: int, pdu: bytes) -> None:
        self.rogue, self.transaction, self.unit, self.pdu = rogue, transaction, unit, pdu
        self._connection = connection
        self.number = len(rogue.asked)
        self.address, self.count = int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")

    def truth(self) -> bytes:
        """Give the right answer's PDU."""
        function, step = self.pdu[0], self.rogue.step
        if function > 2:
            data = b"".join(
                (a + step & 0xFFFF).to_bytes(2, "big") for a in range(self.address, self.address + self.count)
            )
        else:
            word = sum(((self.address + bit) & 1) << bit for bit in range(self.count))
            data = word.to_bytes((self.count + 7) // 8, "little")
        return bytes((function, len(data))) + data

    def frame(self, pdu: bytes, transaction: int | None = None, unit: int | None = None) -> bytes:
        body = bytes((self.unit if unit is None else unit,)) + pdu
        if self.rogue.framing == "rtu":
            return body + crc(body)
        number = self.transaction if transaction is None else transaction
        return number.to_bytes(2, "big") + b"\0\0" + len(body).to_bytes(2, "big") + body

    def reply(self, pdu: bytes | None = None, transaction: int | None = None, unit: int | None = None) -> None:
        self.raw(self.frame(self.truth() if pdu is None else pdu, transaction, unit))

    def refuse(self, code: int) -> None:
        self.reply(bytes((self.pdu[0] | 0x80, code)))

    def raw(self, data: bytes) -> None:
        transport = self._connection.transport
        if not transport.is_closing():
            transport.write(data)

    def later(self, seconds: float, data: bytes) -> None:
        asyncio.get_running_loop().call_later(seconds, self.raw, data)

    def close(self) -> None:
        self._connection.transport.close()

    def abort(self) -> None:
        self._connection.transport.abort()


class Rogue:
    """The server. `behave` is called with each request; by default it answers rightly."""

    def __init__(self, behave: Callable[[Asked], None] = Asked.reply, framing: str = "mbap") -> None:
        self.behave = behave
        self.framing = framing
        self.asked: list[Asked] = []
        self.times: list[float] = []
        self.connections: list[_Connection] = []
        self.one_client = False
        self.step = 0
        self.port = 0

    @property
    def url(self) -> str:
        scheme = "tcp" if self.framing == "mbap" else "rtu+tcp"
        return f"{scheme}://127.0.0.1:{self.port}" + ("" if self.framing == "mbap" else "?baud=115200")

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_listening(self._server)
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.sleep(0)  # what is aborted is closed a turn later
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    def __init__(self, rogue: Rogue) -> None:
        self.rogue = rogue
        self.buffer = bytearray()
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if self.rogue.one_client and any(each.open for each in self.rogue.connections):
            transport.close()
        self.open = True
        self.rogue.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        tcp = self.rogue.framing == "mbap"
        while len(self.buffer) >= 8:
            size = 6 + self.buffer[5] if tcp else 8  # an RTU rogue is only asked to read
            if len(self.buffer) < size:
                return
            frame = bytes(self.buffer[:size])
            del self.buffer[:size]
            body = frame[6:] if tcp else frame[:-2]
            asked = Asked(self.rogue, self, int.from_bytes(frame[:2], "big"), body[0], body[1:])
            self.rogue.asked.append(asked)
            self.rogue.times.append(asyncio.get_running_loop().time())
            self.rogue.behave(asked)
