"""What an OPC UA reading costs the gateway: our driver beside asyncua as it comes, same server, same machine.

CPU is that of this process alone; the server is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

NODES = 10_000
ROUNDS = 30
CHANGES = 3


def run() -> list[dict[str, Any]]:
    """Measure and give rows of name, value, unit, goal."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    with serving(600) as url:
        plain = asyncio.run(read_plain(url))
        ours = asyncio.run(read_ours(url))
        at_once = asyncio.run(read_ours(url, at_once=True))
        looked = asyncio.run(browse_ours(url))
    with serving(1) as url:
        plain_changes = asyncio.run(subscribe_plain(url))
        our_changes, made = asyncio.run(subscribe_ours(url))
    return [
        {"name": "read, asyncua as it comes", "value": plain * 1e6, "unit": "us CPU/value", "goal": None},
        {"name": "read, this driver", "value": ours * 1e6, "unit": "us CPU/value", "goal": 0.5},
        {"name": "read, ratio", "value": plain / ours, "unit": "x", "goal": 24},
        {"name": "read, all nodes in one request", "value": at_once * 1e6, "unit": "us CPU/value",
         "goal": 0.5},
        {"name": "changes, asyncua as it comes", "value": plain_changes * 1e6, "unit": "us CPU/value", "goal": None},
        {"name": "changes, this driver", "value": our_changes * 1e6, "unit": "us CPU/value", "goal": 1},
        {"name": "changes, ratio", "value": plain_changes / our_changes, "unit": "x", "goal": 17},
        {"name": f"subscribing {NODES:,} items", "value": made, "unit": "s", "goal": 5},
        {"name": f"browsing {NODES:,} nodes with type, value, access", "value": looked, "unit": "s", "goal": 30},
    ]  # fmt: skip


@contextlib.contextmanager
def serving(change: float) -> Iterator[str]:
    """Run the server in a process of its own; give its URL."""
    command = [sys.executable, "-m", "bench.opcua_server", "0", str(NODES), str(change)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"opc.tcp://127.0.0.1:{int(server.stdout.readline())}/bench"
    finally:
        server.kill()
        server.wait()


async def read_plain(url: str) -> float:
    """CPU seconds a value with asyncua's client, 1,000 nodes a request."""
    from asyncua import Client, ua

    async with Client(url, timeout=60) as client:
        index = await client.get_namespace_index("urn:bench")
        nodes = [ua.NodeId(f"N{n}", index) for n in range(NODES)]
        before = time.process_time()
        for _ in range(2):
            for first in range(0, NODES, 1000):
                await client.uaclient.read_attributes(nodes[first : first + 1000], ua.AttributeIds.Value)
        return (time.process_time() - before) / 2 / NODES


def our_driver(url: str, **keys: Any) -> tuple[Any, Any]:
    """Make the driver and the plan of one group of all nodes."""
    from drivers.opcua.address import parse
    from drivers.opcua.driver import OpcuaDriver
    from drivers.opcua.spec import OpcuaDevice, OpcuaLink
    from gateway.model import Device, Group, Link, Tag, split_by_kind

    tags = [Tag(f"t{n}", "", parse(f"nsu=urn:bench;s=N{n}").sources()[0][0]) for n in range(NODES)]
    group = Group("d", "g", 10**9, 0, split_by_kind("d", "g", tags))
    options = OpcuaLink.model_validate({"driver": "opcua", "url": url, "timeout": "60 s"})
    device = OpcuaDevice.model_validate(keys)
    driver = OpcuaDriver(Link("l", "opcua", options, (Device("d", device, (group,)),)))
    return driver, driver.plan(group.tables)


async def read_ours(url: str, *, at_once: bool = False) -> float:
    """CPU seconds a value from socket to batch with the driver, 1,000 nodes a request (or all of them)."""
    driver, plan = our_driver(url)
    await driver.connect()
    if at_once:
        driver._chunk = NODES
    try:
        await driver.read(plan)
        before = time.process_time()
        for _ in range(ROUNDS):
            batches = await driver.read(plan)
        assert len(batches[0]) == NODES
        assert not batches[0].quality.any()
        return (time.process_time() - before) / ROUNDS / NODES
    finally:
        await driver.close()


async def browse_ours(url: str) -> float:
    """Seconds to list everything, as `plantbridge browse` does."""
    driver, _ = our_driver(url)
    await driver.connect()
    try:
        started = time.monotonic()
        found = [each async for each in driver.browse()]
        assert sum(bool(each.type) for each in found) >= NODES
        return time.monotonic() - started
    finally:
        await driver.close()


async def subscribe_ours(url: str) -> tuple[float, float]:
    """CPU seconds a changed value with the driver, and seconds until all items have given their first."""
    driver, plan = our_driver(url, mode="subscribe", publishing_interval="500 ms")
    await driver.connect()
    started, made, before, rows = time.monotonic(), 0.0, 0.0, 0
    try:
        async for batch in driver.changes([plan]):
            rows += len(batch)
            if not made and rows >= NODES:
                made = time.monotonic() - started
                before, rows = time.process_time(), 0
            elif made and rows >= CHANGES * NODES:
                break
        return (time.process_time() - before) / rows, made
    finally:
        await driver.close()


async def subscribe_plain(url: str) -> float:
    """CPU seconds a changed value with asyncua's client and a handler that does nothing."""
    from asyncua import Client, ua

    class Handler:
        rows = 0

        def datachange_notification(self, *_change: Any) -> None:
            self.rows += 1

    handler = Handler()
    async with Client(url, timeout=60) as client:
        index = await client.get_namespace_index("urn:bench")
        subscription = await client.create_subscription(500, handler)
        nodes = [client.get_node(ua.NodeId(f"N{n}", index)) for n in range(NODES)]
        for first in range(0, NODES, 1000):
            await subscription.subscribe_data_change(nodes[first : first + 1000], queuesize=2)
        while handler.rows < NODES:
            await asyncio.sleep(0.1)
        begun, before = handler.rows, time.process_time()
        while handler.rows < begun + CHANGES * NODES:
            await asyncio.sleep(0.1)
        return (time.process_time() - before) / (handler.rows - begun)


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:40} {row['value']:10.3f} {row['unit']:14} goal {row['goal']}")
