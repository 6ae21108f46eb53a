"""The simulator of a Modbus device with float32 tags, in a process of its own. Prints its port.

python -m bench.modbus_simulator TAGS
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from bench.modbus import link_of
from simulators.modbus import ModbusServer


async def main(tags: int) -> None:
    server = ModbusServer(link_of("bench", 1, tags))
    print(await server.listen(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
