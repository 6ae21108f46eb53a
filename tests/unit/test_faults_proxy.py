"""The fault proxy: what a test asks of the network is what the two ends see."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulators.faults import FaultProxy, Mode


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """A server that sends back what it gets."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()


@pytest.fixture
async def proxy(echo: int) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", echo) as running:
        yield running


class Peer:
    """A client of the proxy; every wait has a deadline."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, port: int) -> Peer:
        peer = cls()
        peer.reader, peer.writer = await asyncio.open_connection("127.0.0.1", port)
        return peer

    async def ask(self, octets: bytes) -> bytes:
        self.writer.write(octets)
        return await asyncio.wait_for(self.reader.readexactly(len(octets)), 30)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 30)


@pytest.fixture
async def peer(proxy: FaultProxy) -> AsyncIterator[Peer]:
    peer = await Peer.to(proxy.port)
    yield peer
    peer.writer.transport.abort()


@pytest.mark.parametrize("turns", range(7))  # of the event loop, between its connecting and the end
async def test_a_client_that_is_just_accepted_is_cut_too(echo: int, turns: int) -> None:
    proxy = FaultProxy("127.0.0.1", echo)
    with socket.create_connection(("127.0.0.1", await proxy.up())) as client:
        client.settimeout(20)
        for _ in range(turns):
            await asyncio.sleep(0)
        await proxy.down()
        await asyncio.sleep(0)  # what is aborted is closed a turn later
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    await proxy.close()


async def test_bytes_pass_both_ways_unchanged(peer: Peer, proxy: FaultProxy) -> None:
    content = bytes(range(256)) * 4096
    assert await peer.ask(content) == content
    assert (proxy.to_server, proxy.to_client) == (len(content), len(content))


async def test_delayed_bytes_arrive_in_order_and_not_before_their_time(peer: Peer, proxy: FaultProxy) -> None:
    proxy.delay = 0.1
    start = asyncio.get_running_loop().time()
    for number in range(20):
        peer.writer.write(bytes([number]))
        await peer.writer.drain()
    assert await asyncio.wait_for(peer.reader.readexactly(20), 30) == bytes(range(20))
    assert asyncio.get_running_loop().time() - start >= 0.2


async def test_bandwidth_makes_a_transfer_last(peer: Peer, proxy: FaultProxy) -> None:
    proxy.bandwidth = 100_000
    start = asyncio.get_running_loop().time()
    await peer.ask(bytes(20_000))
    assert asyncio.get_running_loop().time() - start >= 0.2


async def test_a_held_connection_stays_open_silent_and_goes_on_afterwards(peer: Peer, proxy: FaultProxy) -> None:
    """The link that is silent with its sockets open: no error may show, and no byte may move."""
    assert await peer.ask(b"before") == b"before"
    proxy.mode = Mode.HOLD
    peer.writer.write(b"during")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.reader.read(1), 0.3)
    assert not peer.reader.at_eof()
    proxy.mode = Mode.FORWARD
    assert await asyncio.wait_for(peer.reader.readexactly(6), 30) == b"during"


async def test_a_connection_made_while_held_is_accepted_and_served_later(proxy: FaultProxy) -> None:
    proxy.mode = Mode.HOLD
    late = await Peer.to(proxy.port)
    late.writer.write(b"hello")
    proxy.mode = Mode.FORWARD
    assert await asyncio.wait_for(late.reader.readexactly(5), 30) == b"hello"
    late.writer.transport.abort()


async def test_a_cut_ends_the_stream_and_a_new_connection_works(peer: Peer, proxy: FaultProxy) -> None:
    await peer.ask(b"x")
    proxy.cut()
    assert await peer.rest() == b""
    again = await Peer.to(proxy.port)
    assert await again.ask(b"y") == b"y"
    again.writer.transport.abort()


async def test_a_reset_is_an_error_to_the_client(peer: Peer, proxy: FaultProxy) -> None:
    await peer.ask(b"x")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await peer.rest()


async def test_a_reset_loses_what_was_held(peer: Peer, proxy: FaultProxy) -> None:
    """A modem that was dead and then redials: what the sender took for sent is gone."""
    await peer.ask(b"x")
    proxy.mode = Mode.HOLD
    peer.writer.write(b"lost")
    await peer.writer.drain()
    proxy.reset()
    proxy.mode = Mode.FORWARD
    with pytest.raises(ConnectionResetError):
        await peer.rest()
    assert proxy.to_server == 1


async def test_discarded_bytes_never_arrive(peer: Peer, proxy: FaultProxy) -> None:
    proxy.mode = Mode.DISCARD
    peer.writer.write(b"gone")
    async with asyncio.timeout(30):
        while proxy.discarded < 4:
            await asyncio.sleep(0.01)
    proxy.mode = Mode.FORWARD
    assert await peer.ask(b"here") == b"here"


async def test_garbled_answers_are_not_what_the_server_said(peer: Peer, proxy: FaultProxy) -> None:
    proxy.mode = Mode.GARBLE
    assert await peer.ask(b"\x00\x01") == b"\xff\xfe"


async def test_injected_bytes_reach_the_client(peer: Peer, proxy: FaultProxy) -> None:
    await peer.ask(b"x")
    proxy.inject(b"\xde\xad")
    assert await asyncio.wait_for(peer.reader.readexactly(2), 30) == b"\xde\xad"


async def test_while_down_connections_are_refused_and_up_serves_at_the_same_port(peer: Peer, proxy: FaultProxy) -> None:
    await peer.ask(b"x")
    port = proxy.port
    await proxy.down()
    with pytest.raises(ConnectionRefusedError):
        await Peer.to(port)
    assert await proxy.up() == port
    again = await Peer.to(port)
    assert await again.ask(b"y") == b"y"
    again.writer.transport.abort()


async def test_without_a_server_the_clients_connection_ends(echo: int) -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        peer = await Peer.to(proxy.port)
        assert await peer.rest() == b""
        peer.writer.transport.abort()


async def test_as_a_process_it_obeys_lines(echo: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.faults", f"127.0.0.1:{echo}",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    streams: Any = process

    async def tell(line: str) -> str:
        streams.stdin.write(f"{line}\n".encode())
        answer: bytes = await asyncio.wait_for(streams.stdout.readline(), 30)
        return answer.decode().strip()

    peer = await Peer.to(int(await asyncio.wait_for(process.stdout.readline(), 30)))
    assert await peer.ask(b"x") == b"x"
    assert await tell("mode garble") == "ok"
    assert await peer.ask(b"\x00") == b"\xff"
    assert await tell("counts") == "1 1 2 2"
    assert await tell("nonsense") == "error: no such command: nonsense"
    assert await tell("cut") == "ok"
    assert await peer.rest() == b""
    peer.writer.transport.abort()
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_what_is_stranded_is_overtaken_and_arrives_after_its_client_has_left(proxy: FaultProxy) -> None:
    slow = await Peer.to(proxy.port)
    assert await slow.ask(b"before") == b"before"
    proxy.strand()
    slow.writer.write(b"late")
    await slow.writer.drain()
    fast = await Peer.to(proxy.port)
    assert await fast.ask(b"overtakes") == b"overtakes"
    slow.writer.close()
    before = proxy.to_server
    proxy.arrive()
    async with asyncio.timeout(30):
        while proxy.to_server < before + 4:
            await asyncio.sleep(0.01)
    assert await fast.ask(b"goes on") == b"goes on"
    slow.writer.transport.abort()
    fast.writer.transport.abort()
