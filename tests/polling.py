"""A link as the gateway polls it: real driver, Poller and Pipelines, before a journal in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Link
from gateway.names import driver_spec
from gateway.pipeline import Pipeline
from gateway.poller import Poller
from tests.memory_journal import MemoryJournal


@contextlib.asynccontextmanager
async def polling(link: Link, journal: MemoryJournal) -> AsyncIterator[None]:
    metrics = Metrics()
    pipelines = {
        (group.device, group.name): Pipeline(group, journal, metrics)
        for device in link.devices
        for group in device.groups
    }

    async def room() -> None:
        return

    poller = Poller(link, driver_spec(link.driver).open(link), pipelines, metrics, Health(), room)
    task = asyncio.create_task(poller.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
