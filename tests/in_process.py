"""The daemon in this process for as long as a test needs it, hearing what it says, waiting for what it does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from gateway import app
from gateway.mqtt import Arrived, Connection
from gateway.options import MqttOptions
from gateway.site import Site
from tests.servers import Mosquitto


@contextlib.asynccontextmanager
async def daemon(site: Site) -> AsyncIterator[None]:
    """Run the daemon; stopped in order at the end, which must come soon."""
    stop = asyncio.Event()
    task = asyncio.create_task(app.run(site, stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


@contextlib.asynccontextmanager
async def listening(broker: Mosquitto, topic: str, take: Callable[[Arrived], None]) -> AsyncIterator[Connection]:
    """Hear what comes on a topic; with the connection, to say something there."""

    def acknowledged(message: Arrived) -> None:
        connection.acknowledge(message)
        take(message)

    connection = Connection(MqttOptions(url=broker.url), client_id="host", on_message=acknowledged)
    await connection.open()
    await connection.subscribe([topic], timeout=20)
    try:
        yield connection
    finally:
        await connection.close()


async def until(condition: Callable[[], object], what: str = "", seconds: float = 60) -> None:
    """Wait for a condition, with a deadline; `what` says what is missing then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what or "the condition did not come true"
        await asyncio.sleep(0.01)
