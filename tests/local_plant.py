"""A gateway's daemon in this process, with a simulated Modbus device, and how tests ask it over its socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import load_site
from gateway.errors import GatewayError
from gateway.local.client import ask
from gateway.site import Site
from simulators.modbus import ModbusServer
from tests.in_process import daemon

SITE = """
gateway: demo
data: ./data
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1
    timeout: 500 ms
    retry_first: 50 ms
    retry_longest: 200 ms
    devices:
      press:
        interval: 100 ms
        tags:
          pressure: {address: holding:0 float32 ABCD, unit: bar, min: 0, max: 320, deadband: 0}
          temperature: {address: holding:2 int16, scale: 0.1, offset: -40, unit: °C}
          state: {address: holding:3 uint16, states: {0: stopped, 1: running}, simulate: {signal: states}}
          parts: holding:8 uint64
publish:
  cloud: {url: "mqtt://127.0.0.1:1", retry_first: 20 ms, retry_longest: 50 ms}
metrics: {listen: null}
"""


@dataclass(frozen=True, slots=True)
class Local:
    """A daemon that runs, and its device."""

    site: Site
    path: Path
    server: ModbusServer

    async def ask(self, **question: Any) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.site.data, question)

    async def until(self, condition: Callable[[dict[str, Any]], object], **question: Any) -> dict[str, Any]:
        """Ask until the answer is as it should be."""
        answer: dict[str, Any] = {}
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(GatewayError):  # not up yet
                    answer = await self.ask(**question)
                    if condition(answer):
                        return answer
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(folder: Path, text: str = SITE) -> AsyncIterator[Local]:
    """Run the daemon of this site file against a simulator of its first link."""
    path = folder / "site.yaml"
    path.write_text(text)
    async with ModbusServer(load_site(path).links[0]) as server:
        port = await server.listen()
        path.write_text(text.replace("tcp://127.0.0.1:1\n", f"tcp://127.0.0.1:{port}\n"))
        site = load_site(path)
        async with daemon(site):
            yield Local(site, path, server)
