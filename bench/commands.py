"""From a command at the broker to the reply there, while the daemon reads 10,000 values a second.

A Modbus TCP device of 10,000 float32 tags at 1 s on one link and the device that is commanded on another, both stood
in for by a fast server; a mosquitto broker; the daemon as a process. Each command is written to the audit log and
synced before the device is asked, and again before the reply: the disk of this machine is part of the figure, and so
is told what two such lines and some turns of the CPU took meanwhile. What the daemon itself took, from a command's
arrival to its result, is from its metrics.

The broker is measured with `set_tcp_nodelay true` and as it comes, where its kernel gathers small messages. The sender
acknowledges at once what it read, as the daemon does; one that does not waits up to 40 ms longer in the second case.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from bench.edge import TAGS, _device, _modbus
from gateway.mqtt.client import got_it
from tests.servers import Mosquitto, free_port

COMMANDS = 300
PAUSE = 0.05  # s between commands
_NODELAY = ("set_tcp_nodelay true",)

_FRAME = """
gateway: bench
data: ./data
commands: {{tag_interval: 1 ms, rate: 1000}}
links:
{links}
  machine:
    driver: modbus
    url: tcp://127.0.0.1:{machine}
    devices:
      press:
        unit_id: 1
        interval: 100 ms
        tags:
          setpoint: {{address: holding:10 float32, writable: {{min: 0, max: 1000}}, simulate: {{signal: constant}}}}
publish:
  cloud: {{url: "mqtt://127.0.0.1:{broker}"}}
metrics: {{listen: "127.0.0.1:{metrics}"}}
"""


class _Cloud:
    """Sends commands and times their replies."""

    def __init__(self, port: int) -> None:
        self.readings = 0
        self._answered = threading.Event()
        self._reply: dict[str, Any] = {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("plantbridge/#", qos=1)
        self.client.on_message = self._take
        self.client.on_publish = self._got_it
        self.client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _got_it(self, *_: Any) -> None:
        got_it(self.client.socket())

    def _take(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._got_it()
        if message.topic.endswith("/columns"):
            self.readings += 1
        elif message.topic.endswith("/replies"):
            self._reply = json.loads(message.payload)
            self._answered.set()

    def ask(self, number: int) -> tuple[float, dict[str, Any]]:
        self._answered.clear()
        body = {"gateway": "bench", "id": f"c{number}", "time": time.time_ns() // 10**6, "device": "press"}
        began = time.perf_counter()
        self.client.publish(
            "plantbridge/bench/commands", json.dumps({**body, "values": {"setpoint": number % 1000}}), qos=1
        )
        self._answered.wait(10)
        return time.perf_counter() - began, self._reply

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def _of_the_machine(path: Path) -> float:
    """Time what cannot be done without: two lines synced to the disk, and some turns of the CPU."""
    began = time.perf_counter()
    with path.open("ab", buffering=0) as file:
        for _ in range(2):
            file.write(b"x" * 500)
            os.fsync(file.fileno())
    for _ in range(8):
        time.sleep(0)
        os.sched_yield()
    return time.perf_counter() - began


def _in_the_daemon(port: int, share: float) -> float:
    """Give the time from a command's arrival to its result that this share of the commands did not exceed."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.split('"')[1::2] + line.split()[-1:] for line in lines if "command_seconds_bucket" in line]
    counts = [(float(border), float(count)) for border, count in found]
    below, before = 0.0, 0.0
    for border, count in counts:
        if count >= share * counts[-1][1]:
            return below + (border - below) * (share * counts[-1][1] - before) / max(1.0, count - before)
        below, before = border, count
    return below


def _measure(directory: Path, load: bool, lines: Sequence[str]) -> tuple[list[float], list[float], float]:
    with (
        Mosquitto(directory / "broker", lines=lines) as broker,
        _device("bench.modbus_server") as port,
    ):
        machine, metrics = free_port(), free_port()
        device = directory / "device.yaml"
        site = directory / "site.yaml"
        links = _modbus(port) if load else ""
        site.write_text(_FRAME.format(links=links, machine=machine, broker=broker.port, metrics=metrics))
        device.write_text(_FRAME.format(links="", machine=machine, broker=broker.port, metrics=metrics))
        simulator = subprocess.Popen(
            [sys.executable, "-m", "gateway", "simulate", str(device)], stdout=subprocess.DEVNULL
        )
        daemon = subprocess.Popen([sys.executable, "-m", "gateway", "run", str(site)])
        cloud = _Cloud(broker.port)
        try:
            deadline = time.monotonic() + 90
            while not cloud.ask(-1)[1].get("id") or cloud.readings < 5:
                if time.monotonic() > deadline:
                    raise RuntimeError("the edge daemon does not answer")
            taken, yardstick = [], []
            for number in range(COMMANDS):
                seconds, reply = cloud.ask(number)
                if not reply.get("ok"):
                    raise RuntimeError(f"a command was refused: {reply}")
                taken.append(seconds)
                yardstick.append(_of_the_machine(directory / "yardstick"))
                time.sleep(PAUSE)
            return sorted(taken), sorted(yardstick), _in_the_daemon(metrics, 0.99)
        finally:
            cloud.close()
            for process in (daemon, simulator):
                process.terminate()
                process.wait(30)


def run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for load, lines, how in (
        (False, _NODELAY, ""),
        (True, _NODELAY, ""),
        (True, (), ", broker that gathers"),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            taken, yardstick, inside = _measure(Path(scratch), load, lines)
        what = (f"under {TAGS:,} readings/s" if load else "without load") + how
        for share, goal in ((50, ""), (95, ""), (99, "100")):
            value = taken[len(taken) * share // 100] * 1e3
            rows.append({"name": f"command to reply, {what}, p{share}", "value": value, "unit": "ms", "goal": goal})
        rows.append({"name": f"of it in the daemon, {what}, p99", "value": inside * 1e3, "unit": "ms", "goal": ""})
        most = yardstick[len(yardstick) * 99 // 100] * 1e3
        rows.append(
            {"name": f"two fsyncs and turns of the CPU meanwhile, {what}, p99", "value": most, "unit": "ms", "goal": ""}
        )
    return rows
