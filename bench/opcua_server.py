"""The OPC UA simulator with numeric nodes that all change: python -m bench.opcua_server PORT NODES SECONDS.

Every node is a Double of its own, s=N0, s=N1, ... in urn:bench, a ramp that changes with each tick of SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from drivers.opcua.address import parse
from drivers.opcua.spec import OpcuaDevice, OpcuaLink
from gateway.model import Device, Group, Link, Tag, split_by_kind
from gateway.options import SignalOptions
from simulators.opcua import OpcuaServer

NAMESPACE = "urn:bench"


async def main(port: int, nodes: int, change: float) -> None:
    """Serve until killed."""
    logging.disable(logging.CRITICAL)
    ramp = SignalOptions(signal="ramp", low=0, high=4096, period="600 s")  # type: ignore[arg-type]
    tags = [
        Tag(f"t{n}", "", parse(f"nsu={NAMESPACE};s=N{n}").sources()[0][0], type="float64", simulate=ramp)
        for n in range(nodes)
    ]
    options = OpcuaLink.model_validate({"driver": "opcua", "url": f"opc.tcp://127.0.0.1:{port}/bench"})
    group = Group("d", "g", 10**9, 0, split_by_kind("d", "g", tags))
    device = Device("d", OpcuaDevice.model_validate({}), (group,))
    async with OpcuaServer(Link("l", "opcua", options, (device,)), tick=round(change * 1e9)) as server:
        print(await server.start("127.0.0.1", port, "/bench"), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
