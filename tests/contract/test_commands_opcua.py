"""A command to an OPC UA server whose nodes report themselves: written beside a running subscription, and read back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
from asyncua import ua
from opcua_server import NAMESPACE, plant

from gateway.audit import read, verify
from gateway.config import load_site
from gateway.mqtt import Arrived, Connection
from tests.in_process import daemon, listening
from tests.servers import Mosquitto, mosquitto

__all__ = ["mosquitto"]

SITE = """
gateway: gw1
data: ./data
commands: {{tag_interval: 10 ms, rate: 100}}
links:
  server:
    driver: opcua
    url: {server}
    devices:
      boiler:
        interval: 100 ms
        mode: {mode}
        tags:
          target: {{address: "nsu={namespace};s=Target", writable: {{min: 0, max: 100}}}}
          temperature: "nsu={namespace};s=Temperature"
publish:
  cloud: {{url: "{broker}", unheard: deliver, retry_first: 20 ms}}
metrics: {{listen: null}}
"""


async def test_a_command_sets_a_node_whether_its_group_is_read_or_subscribed(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    async with plant() as running:
        node = await running.add("Target", 1.0, ua.VariantType.Double)
        await node.set_writable()
        await running.add("Temperature", 20.0, ua.VariantType.Double)
        for mode, value in (("read", 42.5), ("subscribe", 43.5)):
            directory = tmp_path / mode
            directory.mkdir()
            site = directory / "site.yaml"
            text = SITE.format(server=running.url, namespace=NAMESPACE, mode=mode, broker=mosquitto.url)
            site.write_text(text)
            replies: list[dict[str, object]] = []

            def take(message: Arrived, into: list[dict[str, object]] = replies) -> None:
                into.append(orjson.loads(message.payload))

            async with listening(mosquitto, "plantbridge/gw1/replies", take) as host, daemon(load_site(site)):
                reply = await ask(host, replies, value)
                assert reply["ok"], reply
                assert reply["values"]["target"]["after"] == value  # type: ignore[index]
                assert await node.read_value() == value
                refused = await ask(host, replies, 101.0)
                assert "from 0 to 100" in str(refused["reason"])
                assert await node.read_value() == value
            assert verify(directory / "data" / "audit").broken is None
            assert any(entry["event"] == "outcome" for entry in read(directory / "data" / "audit"))


async def ask(host: Connection, replies: list[dict[str, object]], value: float) -> dict[str, object]:
    """Send a command until the link is up, and give its reply."""
    deadline = time.monotonic() + 60
    for number in range(10_000):
        key = f"{value}-{number}"
        body = {"gateway": "gw1", "id": key, "time": time.time_ns() // 10**6, "device": "boiler"}
        await host.publish("plantbridge/gw1/commands", orjson.dumps({**body, "values": {"target": value}}), timeout=20)
        again = time.monotonic() + 1
        while time.monotonic() < again:
            await asyncio.sleep(0.01)
            found = next((reply for reply in replies if reply["id"] == key), None)
            if found is not None and not any(word in str(found.get("reason")) for word in ("down", "not connected")):
                return found
            if found is not None:
                break
        assert time.monotonic() < deadline, replies
    raise AssertionError
