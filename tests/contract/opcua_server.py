"""Small real OPC UA servers for the driver's tests, and a TCP proxy that can cut, silence and slow a link."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from asyncua import Node, Server, ua
from asyncua.common.callback import CallbackType

from drivers.opcua import wire
from drivers.opcua.driver import OpcuaDriver
from drivers.opcua.session import Refused
from drivers.opcua.spec import SPEC, OpcuaDevice, OpcuaLink, OpcuaTag
from gateway import quality as q
from gateway.errors import NotConnected
from gateway.model import Batch, Device, Gap, Group, Link, Tag, split_by_kind
from simulators.listening import stop_listening

NAMESPACE = "urn:test:plant"
MOMENT = datetime.datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=datetime.UTC)
MOMENT_NS = round(MOMENT.timestamp() * 1000) * 1_000_000


@dataclass
class Plant:
    """A running server, its nodes by name, and how many nodes each Read asked for."""

    server: Server
    port: int
    index: int
    nodes: dict[str, Node] = field(default_factory=dict)
    reads: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant"

    async def add(self, name: str, value: Any, kind: ua.VariantType | None = None) -> Node:
        objects = self.server.nodes.objects
        node = await objects.add_variable(ua.NodeId(name, self.index), ua.QualifiedName(name, self.index), value, kind)
        self.nodes[name] = node
        return node

    async def put(
        self, name: str, value: Any, kind: ua.VariantType, status: int = 0, moment: datetime.datetime | None = MOMENT
    ) -> None:
        value = ua.DataValue(ua.Variant(value, kind), ua.StatusCode(status), moment)
        self.server.iserver.aspace._nodes[self.nodes[name].nodeid].attributes[ua.AttributeIds.Value].value = value

    async def change(
        self,
        name: str,
        value: Any,
        kind: ua.VariantType = ua.VariantType.Double,
        status: int = 0,
        moment: datetime.datetime | None = None,
    ) -> None:
        """Write a value as the plant does: subscribers are told."""
        moment = moment or datetime.datetime.now(datetime.UTC)
        data = ua.DataValue(ua.Variant(value, kind), ua.StatusCode(status), moment)
        await self.server.write_attribute_value(self.nodes[name].nodeid, data)

    @contextlib.contextmanager
    def refusing(self, status: int, more_than: int = 0) -> Iterator[None]:
        """Answer Read requests for more nodes than this with a service fault."""

        async def refuse(event: Any, _dispatcher: Any) -> None:
            if len(event.request_params.NodesToRead) > more_than:
                raise ua.UaStatusCodeError(status)

        service = self.server.iserver.callback_service
        service.addListener(CallbackType.PreRead, refuse, 1)
        try:
            yield
        finally:
            service.removeListener(CallbackType.PreRead, refuse)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def plant(
    port: int = 0,
    before: Sequence[str] = (),
    setup: Callable[[Server], Any] | None = None,
    policies: Sequence[ua.SecurityPolicyType] = (ua.SecurityPolicyType.NoSecurity,),
) -> AsyncIterator[Plant]:
    """Run a server; `before` are namespaces that come before the plant's own and so move its index."""
    server = Server()
    await server.init()
    port = port or free_port()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    server.set_security_policy(list(policies))
    if setup is not None:
        await setup(server)
    for uri in before:
        await server.register_namespace(uri)
    index = await server.register_namespace(NAMESPACE)
    await server.start()
    running = Plant(server, port, index)

    async def note(event: Any, _dispatcher: Any) -> None:
        running.reads.append(len(event.request_params.NodesToRead))

    server.subscribe_server_callback(CallbackType.PreRead, note)
    try:
        yield running
    finally:
        await stop_listening(server.bserver._server)  # type: ignore[arg-type]
        await server.stop()


def link(url: str, groups: dict[str, list[str | dict[str, Any]]], **options: Any) -> Link:
    """Compile a link with one device from addresses, as the configuration does; tags are t0, t1, ..."""
    device_keys = options.pop("device", {})
    link_options = OpcuaLink.model_validate(
        {"driver": "opcua", "url": url, "timeout": "10 s", "connect_timeout": "20 s", **options}
    )
    device = OpcuaDevice.model_validate({"interval": "1 s", **device_keys})
    compiled = []
    for group, addresses in groups.items():
        tags = []
        for number, address in enumerate(addresses):
            tag = OpcuaTag.model_validate(address)
            for entry in SPEC.resolve(tag, device, link_options):
                tags.append(
                    Tag(f"t{number}{entry.suffix}", tag.address, entry.source, entry.kind, entry.type,
                        writable=tag.writable is not None)
                )  # fmt: skip
        compiled.append(Group("dev", group, 10**9, 0, split_by_kind("dev", group, tags)))
    return Link("link", "opcua", link_options, (Device("dev", device, tuple(compiled)),))


@contextlib.asynccontextmanager
async def driver(url: str, addresses: list[str | dict[str, Any]], **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A connected driver and the plan of its one group."""
    made = link(url, {"g": addresses}, **options)
    opened = OpcuaDriver(made)
    plan = opened.plan(made.devices[0].groups[0].tables)
    await opened.connect()
    try:
        yield opened, plan
    finally:
        await opened.close()


def rows(batches: Sequence[Batch]) -> dict[str, tuple[Any, int, int]]:
    """Give value, quality and time by tag name."""
    return {
        batch.table.names[tag]: (value, quality, time)
        for batch in batches
        for tag, value, quality, time in zip(
            batch.tag.tolist(), batch.value.tolist(), batch.quality.tolist(), batch.time.tolist(), strict=True
        )
    }


class Listener:
    """Takes the changes of a driver in a task, as the poller does, and lets tests wait for what they expect."""

    def __init__(self, opened: Any, plan: Any) -> None:
        self.batches: list[Batch] = []
        self.gaps: list[Gap] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._listen(opened, plan))
        self.task.add_done_callback(lambda _task: self._news.set())

    async def _listen(self, opened: Any, plan: Any) -> None:
        async for batch in opened.changes([plan]):
            if isinstance(batch, Gap):
                self.gaps.append(batch)
                self._news.set()
                continue
            assert batch.backfill or len(set(batch.tag.tolist())) == len(batch)
            self.batches.append(batch)
            self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                if self.task.done():
                    self.task.result()
                self._news.clear()
                await self._news.wait()

    def readings(self, name: str, *, backfill: bool | None = None) -> list[tuple[int, Any]]:
        """All Good readings of a tag with their times, in the order in which they came."""
        return [
            (moment, value)
            for batch in self.batches
            for tag, value, status, moment in zip(
                batch.tag, batch.value, batch.quality, batch.time.tolist(), strict=True
            )
            if batch.table.names[tag] == name and status == 0 and backfill in (None, batch.backfill)
        ]

    async def until_true(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that no batch announces."""
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    def last(self) -> dict[str, tuple[Any, int, int]]:
        return rows(self.batches)

    def values(self, name: str) -> list[Any]:
        """All values of a tag, in their order."""
        return [rows([batch])[name][0] for batch in self.batches if name in rows([batch])]

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Proxy:
    """A TCP proxy: `silence` keeps the sockets open and forwards nothing; `cut` resets what is open."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        self.connections = 0

    async def __aenter__(self) -> Proxy:
        await self.listen()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.resume()
        await self.gone()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def gone(self) -> None:
        """Refuse connections and reset what is open, until `listen`."""
        assert self._server is not None
        self._server.close()
        self.cut()
        while self._writers:
            await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant"

    def silence(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def cut(self) -> None:
        self._open.set()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, there_writer}
        self._writers |= both
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


async def lose(proxy: Proxy, listener: Listener, opened: Any) -> None:
    """Cut the link, wait until the driver notices, and close it."""
    proxy.cut()
    with pytest.raises(NotConnected):
        await listener.until(lambda: False)
    await opened.close()


def losing(opened: Any, unlucky: Callable[[bytes], bool], most: int = 1) -> list[bytes]:
    """Let notifications of this kind not arrive, at most so many; give those that did not."""
    session, real, lost = opened._session, opened._session.taken, list[bytes]()

    def lossy(future: Any, answer: bytes) -> Any:
        body, at = real(future, answer)
        if answer == wire.PUBLISH_RESPONSE and unlucky(body) and len(lost) < most:
            lost.append(body)
            raise Refused("dropped", status=q.BAD_TIMEOUT)
        return body, at

    session.taken = lossy
    return lost


def is_data_change(body: bytes) -> bool:
    return b"\x01\x00\x2b\x03" in body


def cutting_short(opened: Any, cut: bytes) -> None:
    """Let the answers of this type end where their content begins."""
    session, real = opened._session, opened._session.taken

    def taken(future: Any, answer: bytes) -> Any:
        body, at = real(future, answer)
        return (body[:at] if answer == cut else body), at

    session.taken = taken


class Background:
    """A server in a thread of its own, for tests whose event loop ends before it does."""

    def __init__(self, populate: Callable[[Plant], Coroutine[Any, Any, None]]) -> None:
        self.port = free_port()
        self.index = 0
        self._populate = populate
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True, name="opcua plant").start()
        assert self._ready.wait(60)

    async def _serve(self) -> None:
        async with plant(self.port) as running:
            self.index = running.index
            await self._populate(running)
            self._ready.set()
            await asyncio.Event().wait()
