"""An asyncua server with changing numeric nodes, its own process: python -m bench.opcua_server PORT NODES SECONDS."""

from __future__ import annotations

import asyncio
import datetime
import logging
import sys

from asyncua import Server, ua

NAMESPACE = "urn:bench"


async def main(port: int, nodes: int, change: float) -> None:
    """Serve until killed; every `change` seconds all values change (0: never)."""
    logging.disable(logging.CRITICAL)
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/bench")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(NAMESPACE)
    variables = [
        await server.nodes.objects.add_variable(ua.NodeId(f"N{n}", index), ua.QualifiedName(f"N{n}", index), float(n))
        for n in range(nodes)
    ]
    async with server:
        print("ready", flush=True)
        round_ = 0
        while True:
            await asyncio.sleep(change or 3600)
            round_ += 1
            now = datetime.datetime.now(datetime.UTC)
            for number, variable in enumerate(variables):
                value = ua.DataValue(ua.Variant(float(number + round_), ua.VariantType.Double), SourceTimestamp=now)
                await server.write_attribute_value(variable.nodeid, value)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
