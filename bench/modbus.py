"""Modbus: from the socket to batches, beside the plain-pymodbus way of the same; sustained rate; many links.

The device is a process of its own: bench.modbus_server, which costs next to nothing, or the simulator.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvloop
from pymodbus.client import AsyncModbusTcpClient

from drivers.modbus.driver import ModbusDriver
from drivers.modbus.spec import ModbusDevice, ModbusLink, ModbusTag, resolve
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Device, Group, Link, Tag, split_by_kind
from gateway.pipeline import Pipeline
from gateway.poller import Poller

TAGS = 10_000
BLOCK = 124  # registers of 62 floats
SECOND = 1_000_000_000


def run() -> list[dict[str, Any]]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return [*uvloop.run(_one_link()), uvloop.run(_simulated()), *uvloop.run(_many_links(500, 30))]


@contextmanager
def device(*arguments: str) -> Iterator[list[int]]:
    """Run a device in another process; give its ports."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.kill()


def link_of(name: str, port: int, tags: int) -> Link:
    options = ModbusLink.model_validate({"driver": "modbus", "url": f"tcp://127.0.0.1:{port}", "max_registers": BLOCK})
    keys = ModbusDevice()
    made = []
    for number in range(tags):
        tag = ModbusTag(address=f"holding:{2 * number} float32")
        (found,) = resolve(tag, keys, options)
        made.append(Tag(f"t{number}", tag.address, found.source, found.kind, found.type))
    group = Group(name, "default", SECOND, 0, split_by_kind(name, "default", made))
    return Link(name, "modbus", options, (Device(name, keys, (group,)),))


async def _cpu(*works: Callable[[], Awaitable[object]], rounds: int = 8) -> list[tuple[float, float]]:
    """Give the CPU and the wall seconds of one call of each, in turns: the best round, as the machine is shared."""
    best = [(float("inf"), float("inf"))] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            await work()
            calls, cpu, wall = 0, time.process_time(), time.perf_counter()
            while time.perf_counter() - wall < 0.3:
                await work()
                calls += 1
            took = ((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)
            best[number] = min(best[number], took)
    return best


async def _sustained(work: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Give the wall seconds of one call over a while, with everything that comes in between."""
    calls, wall = 0, time.perf_counter()
    while time.perf_counter() - wall < seconds:
        await work()
        calls += 1
    return (time.perf_counter() - wall) / calls


async def _one_link() -> list[dict[str, Any]]:
    with device("bench.modbus_server") as (port,):
        link = link_of("bench", port, TAGS)
        driver = ModbusDriver(link)
        plan = driver.plan(link.tables)
        await driver.connect()
        client = AsyncModbusTcpClient("127.0.0.1", port=port)
        await client.connect()
        (ours, wall), (plain, _) = await _cpu(lambda: driver.read(plan), lambda: _plain(client))
        await driver.close()
        client.close()
    return [
        {
            "name": "socket to Batch, 10,000 float32",
            "value": ours / TAGS * 1e6,
            "unit": "us CPU/reading",
            "goal": "0.5",
        },
        {"name": "the same with plain pymodbus", "value": plain / TAGS * 1e6, "unit": "us CPU/reading"},
        {"name": "ratio, pymodbus to ours", "value": plain / ours, "unit": "x"},
        {"name": "one link as fast as it goes", "value": TAGS / wall, "unit": "readings/s", "goal": "100,000"},
    ]


async def _plain(client: AsyncModbusTcpClient) -> list[Any]:
    """Read and convert as pymodbus' own documentation does."""
    values: list[Any] = []
    for start in range(0, 2 * TAGS, BLOCK):
        count = min(BLOCK, 2 * TAGS - start)
        answer = await client.read_holding_registers(start, count=count, device_id=1)
        floats = client.convert_from_registers(answer.registers, client.DATATYPE.FLOAT32)
        values += floats if isinstance(floats, list) else [floats]
    return values


async def _simulated() -> dict[str, Any]:
    """Read the simulator, whose values are computed anew ten times a second."""
    with device("bench.modbus_simulator", str(TAGS)) as (port,):
        link = link_of("bench", port, TAGS)
        driver = ModbusDriver(link)
        plan = driver.plan(link.tables)
        await driver.connect()
        wall = await _sustained(lambda: driver.read(plan), 3.0)
        await driver.close()
    return {"name": "from the simulator, sustained", "value": TAGS / wall, "unit": "readings/s", "goal": "100,000"}


class _Nowhere:
    """A journal that counts and forgets."""

    def __init__(self) -> None:
        self.readings = 0

    def define(self, fingerprint: bytes, definition: bytes) -> int:
        return 1

    def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int:
        self.readings += readings
        return 1


async def _many_links(links: int, tags: int) -> list[dict[str, Any]]:
    """Poll many small devices with everything that the daemon does up to the journal."""
    seconds = 8.0
    journal, metrics, health = _Nowhere(), Metrics(), Health()
    with device("bench.modbus_server", str(links)) as ports:
        pollers = []
        for number, port in enumerate(ports):
            link = link_of(f"plc{number}", port, tags)
            (group,) = link.devices[0].groups
            pipelines = {(group.device, group.name): Pipeline(group, journal, metrics)}
            pollers.append(Poller(link, ModbusDriver(link), pipelines, metrics, health, _no_wait))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(poller.run()) for poller in pollers]
            await asyncio.sleep(3.0)  # all connected and scanning
            before, cpu, wall = journal.readings, time.process_time(), time.perf_counter()
            await asyncio.sleep(seconds)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            read = journal.readings - before
            for task in running:
                task.cancel()
    expected = links * tags * wall
    return [
        {
            "name": f"{links} links x {tags} tags at 1 s",
            "value": cpu / wall * 100,
            "unit": "% of a core",
            "goal": "100",
        },
        {"name": "  of their scans done", "value": read / expected * 100, "unit": "%", "goal": "100"},
    ]


async def _no_wait() -> None:
    return
