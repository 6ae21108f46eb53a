"""A Modbus server for one link of a site: every unit, area, type and byte order that its tags mention.

    FC 1-4 read · 5, 6, 15, 16, 22 write · 23 read and write · 43/14 device identification; anything else: exception 01
    an address outside the mapped range: exception 02 · an unknown unit: exception 0B over TCP and UDP, silence in RTU
    and ASCII frames

It listens on TCP (Modbus TCP, or RTU or ASCII frames in the stream), UDP, TLS and pseudo terminals, several at once.
Requests may be pipelined; answers come in order. Values are those of the signals at the moment of the answer.
`faults[unit]` changes a unit's behaviour while it runs. It never logs and never retries: it is a device.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import time
import tty
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self, cast

from gateway.model import Link
from simulators.listening import stop_listening
from simulators.modbus_frames import FRAMES
from simulators.modbus_map import entries
from simulators.playing import SILENCE, Playing
from simulators.registers import Registers
from simulators.signals import TICK

AREAS: Final = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}

Send = Callable[[bytes], None]


@dataclass(slots=True)
class Fault:
    """How a unit misbehaves. `refused` are addresses that answer exception 02 to any request that covers them."""

    silent: bool = False
    exception: int = 0
    delay: float = 0.0
    hang_up: bool = False  # close the connection at each request
    refused: set[tuple[str, int]] = field(default_factory=set)
    most_registers: int = 125  # more than this many: exception 03


class ModbusServer:
    """All units of one link. `async with` closes it."""

    def __init__(
        self,
        link: Link,
        *,
        tick: int = TICK,
        clock: Callable[[], int] = time.time_ns,
        holes: bool = True,
        playing: Playing | None = None,
    ) -> None:
        self.link = link
        self.entries = entries(link, tick, playing)
        self.registers = Registers(self.entries, tick, holes=holes)
        self.clock = clock
        self.units = {device.options.unit_id for device in link.devices}
        self.faults: defaultdict[int, Fault] = defaultdict(Fault)
        self.requests = 0
        self.connections = 0
        self.port = 0  # of the last TCP listener
        self._servers: list[asyncio.Server] = []
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._terminals: list[tuple[int, int]] = []
        self._streams: set[asyncio.Transport] = set()

    async def listen(
        self, host: str = "127.0.0.1", port: int = 0, framing: str = "mbap", tls: ssl.SSLContext | None = None
    ) -> int:
        """Listen on TCP; give the port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Stream(self, framing), host, port, ssl=tls)
        self._servers.append(server)
        self.port = int(server.sockets[0].getsockname()[1])
        return self.port

    async def listen_udp(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen on UDP; give the port."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(host, port))
        self._datagrams.append(transport)
        return int(transport.get_extra_info("sockname")[1])

    def listen_terminal(self, framing: str = "rtu") -> str:
        """Open a pseudo terminal in the place of a serial line; give the path of the gateway's end."""
        ours, theirs = os.openpty()
        tty.setraw(ours)
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        self._terminals.append((ours, theirs))
        buffer = bytearray()

        def arrived() -> None:
            try:
                buffer.extend(os.read(ours, 4096))
            except OSError:
                return
            self.take(buffer, framing, lambda answer: _write(ours, answer), lambda: None)

        asyncio.get_running_loop().add_reader(ours, arrived)
        return os.ttyname(theirs)

    def drop_connections(self) -> None:
        """Cut every connection without a word, as a device does that restarts."""
        for stream in tuple(self._streams):
            stream.abort()

    async def restart(self, *, reindex: bool = False) -> None:
        """Be as a device that begins anew: connections are gone, and what was written is forgotten."""
        self.drop_connections()
        self.registers.release()

    async def close(self) -> None:
        """Stop listening and cut what is connected."""
        for server in self._servers:
            await stop_listening(server)
        self.drop_connections()
        await asyncio.sleep(0)  # what is aborted is closed a turn later
        for transport in self._datagrams:
            transport.close()
        for ours, theirs in self._terminals:
            asyncio.get_running_loop().remove_reader(ours)
            os.close(ours)
            os.close(theirs)
        for server in self._servers:
            await server.wait_closed()
        self._servers, self._datagrams, self._terminals = [], [], []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------ answering

    def take(self, buffer: bytearray, framing: str, send: Send, hang_up: Callable[[], None]) -> None:
        """Answer all complete frames in the buffer and remove them from it."""
        for unit, pdu, wrap in FRAMES[framing](buffer):
            self.requests += 1
            fault = self.faults[unit]
            if fault.hang_up:
                hang_up()
                return
            answer = None if fault.silent else self._answer(unit, pdu, fault, silent=framing != "mbap")
            if answer is None:
                continue
            frame = wrap(answer)
            if fault.delay:
                asyncio.get_running_loop().call_later(fault.delay, send, frame)
            else:
                send(frame)

    def _answer(self, unit: int, pdu: bytes, fault: Fault, *, silent: bool) -> bytes | None:
        function = pdu[0]
        if unit not in self.units:
            return None if silent else bytes((function | 0x80, 0x0B))
        if fault.exception:
            return bytes((function | 0x80, fault.exception))
        try:
            self.registers.at(self.clock())
            return self._execute(unit, function, pdu, fault)
        except _Refused as refusal:
            if refusal.code == SILENCE:
                return None
            return bytes((function | 0x80, refusal.code))
        except (struct.error, IndexError):
            return bytes((function | 0x80, 0x03))

    def _execute(self, unit: int, function: int, pdu: bytes, fault: Fault) -> bytes:
        if function in AREAS:
            address, count = struct.unpack(">HH", pdu[1:5])
            return self._read(unit, function, address, count, fault)
        if function in (5, 6):
            address, number = struct.unpack(">HH", pdu[1:5])
            if function == 5 and number not in (0, 0xFF00):
                raise _Refused(3)
            content: bytes | list[bool] = [number != 0] if function == 5 else pdu[3:5]
            self._write(unit, "coil" if function == 5 else "holding", address, content, fault)
            return pdu[:5]
        if function in (15, 16):
            address, count, size = struct.unpack(">HHB", pdu[1:6])
            data = pdu[6 : 6 + size]
            if function == 15:
                content = [bool(data[bit // 8] >> bit % 8 & 1) for bit in range(count)]
            elif size == 2 * count == len(data):
                content = data
            else:
                raise _Refused(3)
            self._write(unit, "coil" if function == 15 else "holding", address, content, fault)
            return pdu[:5]
        if function == 22:
            address, keep, put = struct.unpack(">HHH", pdu[1:7])
            (held,) = struct.unpack(">H", self._registers(unit, "holding", address, 1, fault))
            self._write(unit, "holding", address, struct.pack(">H", held & keep | put & ~keep), fault)
            return pdu[:7]
        if function == 23:
            address, count, where, _, size = struct.unpack(">HHHHB", pdu[1:10])
            self._write(unit, "holding", where, pdu[10 : 10 + size], fault)
            return b"\x17" + self._read(unit, 3, address, count, fault)[1:]
        if function == 43 and pdu[1] == 14:
            return _identification(pdu[2])
        raise _Refused(1)

    def _read(self, unit: int, function: int, address: int, count: int, fault: Fault) -> bytes:
        most = min(125, fault.most_registers) if function > 2 else 2000
        if not 1 <= count <= most:
            raise _Refused(3)
        content = self._registers(unit, AREAS[function], address, count, fault)
        return bytes((function, len(content))) + content

    def _registers(self, unit: int, area: str, address: int, count: int, fault: Fault) -> bytes:
        self._check(area, address, count, fault)
        content = self.registers.read(unit, area, address, count)
        if content is None:
            raise _Refused(2)
        if trouble := self.registers.trouble(unit, area, address, count):
            raise _Refused(trouble)
        return content

    def _write(self, unit: int, area: str, address: int, content: bytes | list[bool], fault: Fault) -> None:
        self._check(area, address, len(content) // 2 if isinstance(content, bytes) else len(content), fault)
        if not self.registers.write(unit, area, address, content):
            raise _Refused(2)

    def _check(self, area: str, address: int, count: int, fault: Fault) -> None:
        if fault.refused and any((area, each) in fault.refused for each in range(address, address + count)):
            raise _Refused(2)


class _Refused(Exception):
    """The request is answered with an exception code."""

    def __init__(self, code: int) -> None:
        self.code = code


def _identification(level: int) -> bytes:
    """Answer FC 43/14 at the basic level: vendor, product, revision (Application Protocol V1.1b3, 6.21)."""
    names = (b"PlantBridge", b"SIM", b"1.0")
    objects = b"".join(bytes((number, len(name))) + name for number, name in enumerate(names))
    return bytes((43, 14, level, 0x01, 0x00, 0x00, len(names))) + objects


# ---------------------------------------------------------------------------------------------- transports


class _Stream(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, server: ModbusServer, framing: str) -> None:
        self._server = server
        self._framing = framing
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not one by inheritance
        self._server.connections += 1
        self._server._streams.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections -= 1
        self._server._streams.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._server.take(self._buffer, self._framing, self._send, self._transport.abort)

    def _send(self, frame: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame)


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP socket: each datagram is one Modbus TCP frame."""

    def __init__(self, server: ModbusServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._server.take(bytearray(data), "mbap", lambda frame: self._transport.sendto(frame, address), lambda: None)


def _write(terminal: int, answer: bytes) -> None:
    """Write to a pseudo terminal; what it does not take is lost, as on a line nobody listens to."""
    try:
        os.write(terminal, answer)
    except OSError:
        return
