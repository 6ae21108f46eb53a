"""The peers against which the driver contract runs: one entry per driver and transport.

A new driver adds one line to PLANTS: a function that gives an async context manager of a Plant.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import opcua_server
from asyncua.ua import VariantType
from opcua_server import Background, Proxy

from gateway.config import load_site
from gateway.contracts import Driver
from gateway.model import TagTable
from gateway.names import driver_spec
from simulators.modbus import ModbusServer
from tests.modbus_links import link_to, tables_of
from tests.servers import certificates, need

Action = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plant:
    """A peer with a device of several tags of every kind, one of which, `refused`, it refuses."""

    open: Callable[[], Driver]  # a new driver of the link
    tables: tuple[TagTable, ...]
    refused: str
    silence: Action | None  # the device stops answering; its connection stays
    cut: Action  # the peer is gone
    heal: Action  # the peer is back, at the same place


MODBUS_TAGS: Final = {
    "pressure": "holding:100 float32 CDAB",
    "temperature": "holding:102 int16",
    "level": "holding:103 uint16",
    "parts": "holding:104 uint64",
    "balance": "holding:108 int64",
    "running": "coil:5",
    "serial": "holding:112 text 8",
    "flow": "input:7 float64",
}


@asynccontextmanager
async def modbus_tcp() -> AsyncIterator[Plant]:
    async with ModbusServer(link_to("tcp://127.0.0.1:1", MODBUS_TAGS)) as server:
        port = await server.listen()
        yield _modbus(server, f"tcp://127.0.0.1:{port}", server.close, lambda: server.listen(port=port))


@asynccontextmanager
async def modbus_udp() -> AsyncIterator[Plant]:
    async with ModbusServer(link_to("udp://127.0.0.1:1", MODBUS_TAGS)) as server:
        port = await server.listen_udp()
        yield _modbus(server, f"udp://127.0.0.1:{port}", server.close, lambda: server.listen_udp(port=port))


@asynccontextmanager
async def modbus_rtu_over_tcp() -> AsyncIterator[Plant]:
    async with ModbusServer(link_to("rtu+tcp://127.0.0.1:1", MODBUS_TAGS)) as server:
        port = await server.listen(framing="rtu")
        url = f"rtu+tcp://127.0.0.1:{port}?baud=115200"
        yield _modbus(server, url, server.close, lambda: server.listen(port=port, framing="rtu"))


@asynccontextmanager
async def modbus_ascii_over_tcp() -> AsyncIterator[Plant]:
    async with ModbusServer(link_to("ascii+tcp://127.0.0.1:1", MODBUS_TAGS)) as server:
        port = await server.listen(framing="ascii")
        url = f"ascii+tcp://127.0.0.1:{port}?baud=115200"
        yield _modbus(server, url, server.close, lambda: server.listen(port=port, framing="ascii"))


@asynccontextmanager
async def modbus_tls() -> AsyncIterator[Plant]:
    async with ModbusServer(link_to("tls://127.0.0.1:1", MODBUS_TAGS)) as server:
        with tempfile.TemporaryDirectory() as folder:
            made = certificates(Path(folder))
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=made.ca)
            context.load_cert_chain(made.certificate, made.key)
            context.verify_mode = ssl.CERT_REQUIRED  # Modbus/TCP Security: both sides show who they are
            port = await server.listen(tls=context)
            tls = {"ca": made.ca, "certificate": made.client_certificate, "key": made.client_key}
            url = f"tls://127.0.0.1:{port}"
            yield _modbus(server, url, server.close, lambda: server.listen(port=port, tls=context), tls=tls)


@asynccontextmanager
async def _serial(framing: str) -> AsyncIterator[Plant]:
    """A serial line: a pair of pseudo terminals joined by socat; behind one end the simulated device."""
    async with ModbusServer(link_to(f"{framing}:///dev/null", MODBUS_TAGS)) as server:
        with tempfile.TemporaryDirectory() as folder:
            port = await server.listen(framing=framing)
            wire = await _Wire(Path(folder) / "line", port).start()
            try:
                yield _modbus(server, f"{framing}://{wire.path}?baud=115200&parity=E", wire.stop, wire.start)
            finally:
                await wire.stop()


def modbus_rtu() -> AbstractAsyncContextManager[Plant]:
    return _serial("rtu")


def modbus_ascii() -> AbstractAsyncContextManager[Plant]:
    return _serial("ascii")


class _Wire:
    """socat as the serial line between a pseudo terminal and the device."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        self._command = [need("socat"), f"pty,raw,echo=0,link={path}", f"tcp:127.0.0.1:{port}"]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> Any:
        self._process = subprocess.Popen(self._command)
        async with asyncio.timeout(20):
            while not self.path.exists():
                await asyncio.sleep(0.01)
        return self

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)
            self._process = None
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def _modbus(server: ModbusServer, url: str, cut: Action, heal: Callable[[], Awaitable[Any]], **keys: Any) -> Plant:
    link = link_to(url, MODBUS_TAGS, max_registers=8, timeout="1 s", link=keys)  # several requests a scan
    server.faults[1].refused = {("holding", 103)}

    async def silence() -> None:
        server.faults[1].silent = True

    async def again() -> None:
        await heal()

    return Plant(lambda: driver_spec("modbus").open(link), tables_of(link), "level", silence, cut, again)


OPCUA_TAGS: Final = [
    "Double double",
    "Int64 int64",
    "Missing",
    "Boolean bool",
    "Text text",
    "UInt64 uint64",
    "Curve [1:2]",
]


@cache
def _opcua_server() -> Background:
    async def populate(running: opcua_server.Plant) -> None:
        for name, value in (
            ("Double", 1.5),
            ("Int64", -7),
            ("Boolean", True),
            ("Text", "an"),
            ("Curve", [1.0, 2.0, 3.0]),
        ):
            await running.add(name, value)
        await running.add("UInt64", 2**64 - 1, VariantType.UInt64)

    return Background(populate)


@asynccontextmanager
async def opcua() -> AsyncIterator[Plant]:
    async with Proxy(_opcua_server().port) as proxy:
        addresses: list[Any] = [f"nsu={opcua_server.NAMESPACE};s={tag}" for tag in OPCUA_TAGS]
        link = opcua_server.link(proxy.url, {"group": addresses}, timeout="1 s")

        async def silence() -> None:
            proxy.silence()

        tables = link.devices[0].groups[0].tables
        yield Plant(lambda: driver_spec("opcua").open(link), tables, "t2", silence, proxy.gone, proxy.listen)


@asynccontextmanager
async def replay() -> AsyncIterator[Plant]:
    """A recording; it is cut by taking the file away."""
    with tempfile.TemporaryDirectory() as folder:
        recording, away = Path(folder) / "press.csv", Path(folder) / "away.csv"
        rows = ["time,series,value", *(f"1,{name},{value}" for name, value in REPLAY_SERIES.items())]
        recording.write_text("\n".join(rows))
        tags = (
            "{pressure: pressure, parts: parts uint64, balance: balance int64, running: running bool, name: name text"
        )
        site = Path(folder) / "site.yaml"
        site.write_text(
            "gateway: g\nlinks: {old: {driver: replay, url: 'replay:press.csv',"
            f" devices: {{press: {{tags: {tags}, gone: gone}}}}}}}}}}\n"
        )
        link = load_site(site).links[0]

        async def cut() -> None:
            recording.rename(away)

        async def heal() -> None:
            away.rename(recording)

        yield Plant(lambda: driver_spec("replay").open(link), link.tables, "gone", None, cut, heal)


REPLAY_SERIES: Final = {"pressure": 4.5, "parts": 2**64 - 1, "balance": -(2**63), "running": "true", "name": "A-1"}


PLANTS: Final[dict[str, Callable[[], AbstractAsyncContextManager[Plant]]]] = {
    "modbus tcp": modbus_tcp,
    "modbus udp": modbus_udp,
    "modbus tls": modbus_tls,
    "modbus rtu": modbus_rtu,
    "modbus ascii": modbus_ascii,
    "modbus rtu over tcp": modbus_rtu_over_tcp,
    "modbus ascii over tcp": modbus_ascii_over_tcp,
    "opcua": opcua,
    "replay": replay,
}
