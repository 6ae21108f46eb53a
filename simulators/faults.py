"""A TCP proxy that misbehaves on demand: between a gateway and its device, its broker, its store.

    delay      seconds that each direction takes longer; order is kept, and many bytes can be on their way
    bandwidth  bytes per second in each direction; 0: no limit
    mode       forward · hold: sockets stay open and nothing moves (a dead modem, a cable pulled) · discard: bytes are
               taken and thrown away · garble: what comes from the server is inverted on its way to the client
    strand     what is open now is held up on its way, and what is opened later overtakes it · arrive: it goes on, also
               where the client has left meanwhile
    cut        end all connections orderly · reset: end them with RST · inject: send the clients bytes of one's own
    down, up   stop listening (connections are refused) and listen again at the same port

In a test it is an object; as a process (`python -m simulators.faults HOST:PORT`) it prints its port and then takes the
same words as lines on standard input, one answer line each: `delay 0.2`, `mode hold`, `reset`, `counts`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from simulators.listening import stop_listening

CHUNK: Final = 65536
INVERTED: Final = bytes(255 - octet for octet in range(256))


class Mode(StrEnum):
    """What becomes of bytes."""

    FORWARD = "forward"
    HOLD = "hold"
    DISCARD = "discard"
    GARBLE = "garble"


@dataclass(slots=True, eq=False)
class _Connection:
    """A client's connection and ours to the server, once there is one."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    passing: asyncio.Event = field(default_factory=asyncio.Event)  # cleared while it is held up

    def __post_init__(self) -> None:
        self.passing.set()

    def writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self.client, self.server) if writer is not None]


class FaultProxy:
    """One listening port in front of one server. `async with` starts and closes it."""

    def __init__(self, host: str, port: int, *, listen: str = "127.0.0.1", listen_port: int = 0) -> None:
        self.host = host
        self.target = port
        self.port = listen_port
        self.delay = 0.0
        self.bandwidth = 0.0
        self.accepted = 0
        self.to_server = 0  # bytes forwarded
        self.to_client = 0
        self.discarded = 0
        self._listen = listen
        self._mode = Mode.FORWARD
        self._moving = asyncio.Event()
        self._moving.set()
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def mode(self) -> Mode:
        """What becomes of bytes now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        self._mode = Mode(mode)
        if self._mode is Mode.HOLD:
            self._moving.clear()
        else:
            self._moving.set()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def up(self) -> int:
        """Listen; give the port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self._listen, self.port)
            self.port = int(self._listener.sockets[0].getsockname()[1])
        return self.port

    async def down(self) -> None:
        """Refuse new connections and reset those there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await stop_listening(listener)
        self.reset()

    def cut(self) -> None:
        """End all connections orderly (FIN), whatever was still on its way."""
        for connection in tuple(self._connections):
            self._end(connection)

    def reset(self) -> None:
        """End all connections with RST."""
        for connection in tuple(self._connections):
            for writer in connection.writers():
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._end(connection)

    def strand(self) -> None:
        """Hold up all connections there are; later ones overtake them."""
        for connection in self._connections:
            connection.passing.clear()

    def arrive(self) -> None:
        """Let what was held up go on, in its order."""
        for connection in self._connections:
            connection.passing.set()

    def inject(self, octets: bytes) -> None:
        """Send these bytes to every client, as if the server had."""
        for connection in self._connections:
            connection.client.write(octets)

    async def close(self) -> None:
        """Stop listening and end all connections."""
        await self.down()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---------------------------------------------------------------------------------------- connections

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(writer)
        self._connections.add(connection)
        connection.tasks.add(self._run(self._serve(connection, reader)))

    async def _serve(self, connection: _Connection, client: asyncio.StreamReader) -> None:
        """Connect to the server and pump both ways until one side ends."""
        try:
            await self._moving.wait()
            await connection.passing.wait()
            server, connection.server = await asyncio.open_connection(self.host, self.target)
            ways = (
                self._run(self._pump(connection, client, connection.server, to_client=False)),
                self._run(self._pump(connection, server, connection.client, to_client=True)),
            )
            connection.tasks.update(ways)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is not there: the client sees its connection end
        finally:
            self._end(connection)

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        """Move bytes one way: read here, write in `_deliver` when they are due."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        loop = asyncio.get_running_loop()
        delivering = self._run(self._deliver(connection, waiting, writer, to_client=to_client))
        try:
            try:
                while data := await reader.read(CHUNK):
                    await waiting.put((loop.time() + self.delay, data))
            except OSError:
                if connection.passing.is_set():
                    raise  # else what is on its way arrives all the same
            await waiting.put((loop.time() + self.delay, b""))
            await delivering
        except OSError:
            return
        finally:
            delivering.cancel()

    async def _deliver(
        self,
        connection: _Connection,
        waiting: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        *,
        to_client: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await waiting.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._moving.wait()
            await connection.passing.wait()
            if not data:
                return
            if self._mode is Mode.DISCARD:
                self.discarded += len(data)
                continue
            if self._mode is Mode.GARBLE and to_client:
                data = data.translate(INVERTED)
            try:
                await self._write(writer, data)
            except OSError:
                return
            if to_client:
                self.to_client += len(data)
            else:
                self.to_server += len(data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Write at the bandwidth there is."""
        step = max(1, int(self.bandwidth / 20)) if self.bandwidth else len(data)
        for start in range(0, len(data), step):
            part = data[start : start + step]
            if self.bandwidth:
                await asyncio.sleep(len(part) / self.bandwidth)
            writer.write(part)
            await writer.drain()

    def _end(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        for writer in connection.writers():
            writer.transport.abort() if _lingers_not(writer) else writer.close()
        for task in connection.tasks:
            task.cancel()


def _lingers_not(writer: asyncio.StreamWriter) -> bool:
    """Say whether the socket was told to end with RST."""
    try:
        option = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    except OSError:
        return True
    return bool(struct.unpack("ii", option) == (1, 0))


# ---------------------------------------------------------------------------------------------- a process


async def obey(proxy: FaultProxy, line: str) -> str:
    """Carry out one command line; give the answer. Raises ValueError where there is no such command."""
    word, _, rest = line.strip().partition(" ")
    match word:
        case "delay":
            proxy.delay = float(rest)
        case "bandwidth":
            proxy.bandwidth = float(rest)
        case "mode":
            proxy.mode = Mode(rest)
        case "cut":
            proxy.cut()
        case "reset":
            proxy.reset()
        case "strand":
            proxy.strand()
        case "arrive":
            proxy.arrive()
        case "inject":
            proxy.inject(bytes.fromhex(rest))
        case "down":
            await proxy.down()
        case "up":
            await proxy.up()
        case "counts":
            return f"{proxy.accepted} {proxy.connections} {proxy.to_server} {proxy.to_client}"
        case _:
            raise ValueError(f"no such command: {word}")
    return "ok"


async def serve(target: str, port: int) -> None:
    """Proxy `target` (HOST:PORT), take commands from standard input until it ends."""
    host, _, number = target.rpartition(":")
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with FaultProxy(host, int(number), listen_port=port) as proxy:
        print(proxy.port, flush=True)
        while line := await lines.readline():
            try:
                print(await obey(proxy, line.decode()), flush=True)
            except ValueError as error:
                print(f"error: {error}", flush=True)


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="A TCP proxy that misbehaves on demand.")
    parser.add_argument("target", help="HOST:PORT of the server")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; one of the system's choice by default")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.target, arguments.port))


if __name__ == "__main__":
    main()
