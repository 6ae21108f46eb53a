"""NATS servers for tests: one, or a cluster on loopback ports, each with MQTT over JetStream and its own directory."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.servers import need, wait_for_port

CONFIGURATION = """
server_name: {name}
listen: 127.0.0.1:{client}
http: 127.0.0.1:{http}
jetstream {{ store_dir: "{directory}", max_mem: 256MB, max_file: 2GB }}
mqtt {{ listen: 127.0.0.1:{mqtt}, stream_replicas: {replicas} }}
"""
CLUSTER = """
cluster {{ name: plant, listen: 127.0.0.1:{route}, routes: [{routes}] }}
"""


def free_ports(count: int) -> list[int]:
    """Give different TCP ports of 127.0.0.1 that nobody uses now."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Nats:
    """`size` servers that form a cluster (or one alone); started again a server has the same ports and data."""

    def __init__(self, directory: Path, size: int = 1) -> None:
        self._program = need("nats-server", "/usr/sbin/nats-server")
        self.directory = directory
        self.size = size
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * size
        ports = free_ports(4 * size)
        self.clients, self.mqtts, self._https, routes = (ports[at : at + size] for at in range(0, 4 * size, size))
        for number in range(size):
            place = self._place(number)
            place.mkdir(parents=True, exist_ok=True)
            text = CONFIGURATION.format(
                name=f"n{number}", client=self.clients[number], directory=place, mqtt=self.mqtts[number],
                http=self._https[number], replicas=size,
            )  # fmt: skip
            if size > 1:
                others = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
                text += CLUSTER.format(route=routes[number], routes=others)
            (place / "nats.conf").write_text(text)

    @property
    def urls(self) -> list[str]:
        """NATS clients connect there."""
        return [f"nats://127.0.0.1:{port}" for port in self.clients]

    @property
    def url(self) -> str:
        """MQTT clients connect there, to the first server."""
        return self.mqtt_urls[0]

    @property
    def mqtt_urls(self) -> list[str]:
        """MQTT clients connect there."""
        return [f"mqtt://127.0.0.1:{port}" for port in self.mqtts]

    def _place(self, number: int) -> Path:
        return self.directory / f"n{number}"

    def start(self, number: int) -> None:
        """Start one server; returns when it accepts connections."""
        place = self._place(number)
        with (place / "log").open("ab") as log:
            process = subprocess.Popen([self._program, "-c", str(place / "nats.conf")], stdout=log, stderr=log)
        self.processes[number] = process
        if not wait_for_port(self.mqtts[number], process):
            pytest.fail(f"nats-server {number} does not start:\n{self.log(number)[-2000:]}")

    def log(self, number: int) -> str:
        """All that a server has said."""
        return (self._place(number) / "log").read_text(errors="replace")

    def healthy(self, number: int) -> bool:
        """Say whether a server has caught up with its cluster."""
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self._https[number]}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """End one server as a power cut of its process would."""
        process, self.processes[number] = self.processes[number], None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    def __enter__(self) -> Self:
        for number in range(self.size):
            self.start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(self.size):
            self.kill(number)
