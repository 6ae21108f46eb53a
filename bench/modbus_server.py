"""A Modbus TCP device that costs next to nothing, so that a benchmark measures the client beside it.

Every register holds a byte pattern that is fixed when the process starts; the answer to each (unit, function, address,
count) is built once. Prints its port on the first line of its output and serves until it is ended.

    python -m bench.modbus_server [PORTS]
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

FLOATS = np.arange(32768, dtype=">f4").tobytes()  # register pair k holds the float k


class Device(asyncio.Protocol):
    """One connection."""

    answers: dict[bytes, bytes] = {}  # noqa: RUF012 - shared on purpose: answers depend on nothing but the request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), 12):
            request = data[at + 6 : at + 12]
            answer = self.answers.get(request)
            if answer is None:
                size = (request[4] << 8 | request[5]) * 2
                start = (request[2] << 8 | request[3]) * 2
                body = request[:2] + bytes((size,)) + FLOATS[start : start + size]
                answer = self.answers[request] = b"\0\0" + len(body).to_bytes(2, "big") + body
            self.transport.write(data[at : at + 2] + answer)  # type: ignore[attr-defined]


async def main(ports: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Device, "127.0.0.1", 0, backlog=1000) for _ in range(ports)]
    print(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
