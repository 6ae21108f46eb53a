"""What an OPC UA reading costs the gateway: our driver beside asyncua as it comes, same server, same machine.

CPU is that of this process alone; the server is another one.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import Any

NODES = 10_000
ROUNDS = 30


def run() -> list[dict[str, Any]]:
    """Measure and give rows of name, value, unit, goal."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.opcua_server", str(port), str(NODES), "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        url = f"opc.tcp://127.0.0.1:{port}/bench"
        plain = asyncio.run(read_plain(url))
        ours = asyncio.run(read_ours(url))
    finally:
        server.kill()
        server.wait()
    return [
        {"name": "opcua read, asyncua as it comes", "value": plain * 1e6, "unit": "us CPU/value", "goal": None},
        {"name": "opcua read, this driver", "value": ours * 1e6, "unit": "us CPU/value", "goal": 0.5},
        {"name": "opcua read, ratio", "value": plain / ours, "unit": "x", "goal": 24},
    ]


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


async def read_ours(url: str) -> float:
    """CPU seconds a value from socket to batch with the driver."""
    from drivers.opcua.address import parse
    from drivers.opcua.driver import OpcuaDriver
    from drivers.opcua.spec import OpcuaDevice, OpcuaLink
    from gateway.model import Device, Group, Link, Tag, split_by_kind

    tags = [Tag(f"t{n}", "", parse(f"nsu=urn:bench;s=N{n}").sources()[0][0]) for n in range(NODES)]
    group = Group("d", "g", 10**9, 0, split_by_kind("d", "g", tags))
    options = OpcuaLink.model_validate({"driver": "opcua", "url": url, "timeout": "60 s"})
    driver = OpcuaDriver(Link("l", "opcua", options, (Device("d", OpcuaDevice(), (group,)),)))
    plan = driver.plan(group.tables)
    await driver.connect()
    try:
        await driver.read(plan)
        before = time.process_time()
        for _ in range(ROUNDS):
            batches = await driver.read(plan)
        assert batches[0].value[-1] == NODES - 1
        return (time.process_time() - before) / ROUNDS / NODES
    finally:
        await driver.close()


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:40} {row['value']:10.3f} {row['unit']:14} goal {row['goal']}")
