"""The edge daemon as a process, from socket to PUBACK: CPU a reading, memory, bytes on the wire.

10,000 tags at 1 s: float32 from `replay` and from a Modbus TCP device, doubles that all change from an OPC UA server
(subscribed), to a mosquitto broker over QoS 1 with the journal on this machine's disk. CPU is the daemon's own (user
and system), read from /proc over a window that begins after its start-up, for each reading that the broker delivered;
memory is its resident set at the end and at its highest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import zstandard

from tests.servers import Mosquitto

TAGS = 10_000
WINDOW = 20.0  # s
TICKS = os.sysconf("SC_CLK_TCK")

_FRAME = """
gateway: bench
data: ./data
links:
{links}
publish:
  cloud: {{url: "mqtt://127.0.0.1:{broker}"}}
metrics: {{listen: null}}
"""


def _replay() -> str:
    series = ("sine", "walk", "counter", "on-off")
    lines = [f"          t{number}: {series[number % 4]} float32" for number in range(TAGS)]
    head = ["  plant:", "    driver: replay", "    url: replay:generated", "    devices:", "      all:"]
    return "\n".join([*head, "        interval: 1 s", "        tags:", *lines])


def _modbus(port: int) -> str:
    lines = [f"          t{number}: holding:{number * 2} float32" for number in range(TAGS)]
    head = ["  plant:", "    driver: modbus", f"    url: tcp://127.0.0.1:{port}", "    devices:", "      all:"]
    return "\n".join([*head, "        unit_id: 1", "        interval: 1 s", "        tags:", *lines])


def _opcua(port: int) -> str:
    lines = [f"          t{number}: s=N{number}" for number in range(TAGS)]
    head = ["  plant:", "    driver: opcua", f"    url: opc.tcp://127.0.0.1:{port}/bench", "    devices:", "      all:"]
    return "\n".join([*head, "        namespace: urn:bench", "        interval: 1 s", "        tags:", *lines])


class _Subscriber:
    """Counts what arrives under plantbridge/#."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self.rows = 0
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("plantbridge/#", qos=1)
        self.client.on_message = self._count
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _count(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith("/columns"):
            self.bytes += len(message.payload)
            stream = zstandard.ZstdDecompressor().decompressobj().decompress(message.payload)
            text = stream[stream.index(b'{"v":1') :].decode("utf-8", "replace")
            self.rows += sum(rows for _, _, rows in json.JSONDecoder().raw_decode(text)[0]["records"])

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6  # "kB" of /proc are 1024 bytes
    return 0.0


@contextmanager
def _device(*arguments: str) -> Iterator[int]:
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as device:
        try:
            assert device.stdout is not None
            yield int(device.stdout.readline())
        finally:
            device.kill()


def _measure(links: str, directory: Path) -> dict[str, float]:
    with Mosquitto(directory / "broker") as broker:
        subscriber = _Subscriber(broker.port)
        site = directory / "site.yaml"
        site.write_text(_FRAME.format(links=links, broker=broker.port))
        daemon = subprocess.Popen([sys.executable, "-m", "gateway", "run", str(site)])
        try:
            deadline = time.monotonic() + 60
            while not subscriber.bytes:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the edge daemon did not publish")
                time.sleep(0.1)
            time.sleep(3.0)
            cpu, octets, rows = _cpu(daemon.pid), subscriber.bytes, subscriber.rows
            time.sleep(WINDOW)
            readings = subscriber.rows - rows
            return {
                "cpu": (_cpu(daemon.pid) - cpu) / readings * 1e6,
                "rate": readings / WINDOW,
                "wire": (subscriber.bytes - octets) / readings,
                "rss": _memory(daemon.pid, "VmRSS"),
                "peak": _memory(daemon.pid, "VmHWM"),
            }
        finally:
            daemon.terminate()
            daemon.wait(30)
            subscriber.close()


def run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        replay = _measure(_replay(), Path(scratch) / "replay")
        with _device("bench.modbus_server") as port:
            modbus = _measure(_modbus(port), Path(scratch) / "modbus")
        with _device("bench.opcua_server", "0", str(TAGS), "1") as port:
            opcua = _measure(_opcua(port), Path(scratch) / "opcua")
    kinds = (
        ("replay", replay, "", ""), ("Modbus TCP", modbus, "1.5", "75"), ("OPC UA subscribed", opcua, "10", "150"),
    )  # fmt: skip
    for name, figures, goal, memory in kinds:
        rows.append({"name": f"{name} to PUBACK, CPU", "value": figures["cpu"], "unit": "us/reading", "goal": goal})
        rows.append({"name": f"{name}, readings delivered", "value": figures["rate"], "unit": "1/s"})
        rows.append({"name": f"{name}, resident memory", "value": figures["rss"], "unit": "MB", "goal": memory})
        rows.append({"name": f"{name}, highest memory", "value": figures["peak"], "unit": "MB"})
    rows.append({"name": "wire, replay", "value": replay["wire"], "unit": "B/reading", "goal": "2"})
    return rows
