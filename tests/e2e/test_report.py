"""Ten devices are listed and seven simulated: the connection rate is 0.70, and 0.50 when two of them stop."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.plant import CONNECTED, PLANTBRIDGE, Process, environment, wait_until
from tests.servers import Mosquitto, free_port

pytestmark = pytest.mark.e2e

LINK = """
  {name}:
    driver: modbus
    url: tcp://127.0.0.1:{port}
    timeout: 500 ms
    retry_first: 200 ms
    retry_longest: 1 s
    devices:
"""
DEVICE = "      {name}: {{unit_id: {unit}, interval: 200 ms, tags: {{load: holding:100}}}}\n"


def link(name: str, port: int, devices: range) -> str:
    return LINK.format(name=name, port=port) + "".join(DEVICE.format(name=f"m-{n}", unit=n) for n in devices)


class Line:
    """The processes of this test."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        ports, self.metrics = [free_port() for _ in range(3)], free_port()
        links = [link(*each) for each in zip("abc", ports, (range(1, 6), range(6, 8), range(8, 9)), strict=True)]
        url = f"mqtt://127.0.0.1:{broker.port}"
        head = "gateway: ten\ndata: ./edge\nlinks:"
        tail = (
            "inventory: {m-9: planned, m-10: not-connectable}\n"
            f'publish: {{cloud: {{url: "{url}"}}}}\nmetrics: {{listen: "127.0.0.1:{self.metrics}"}}\n'
        )
        (folder / "site.yaml").write_text(head + "".join(links) + tail)
        for name, each in zip("ab", links, strict=False):
            (folder / f"{name}.yaml").write_text(f"gateway: {name}\nlinks:{each}")
        (folder / "cloud.yaml").write_text(
            f'data: ./cloud\nbroker: {{url: "{url}", client_id: ingest}}\nmetrics: {{listen: null}}\n'
        )
        self.folder = folder
        self.ingest = self._process("ingest", "cloud.yaml")
        self.first = self._process("simulate", "a.yaml")
        self.second = self._process("simulate", "b.yaml")
        self.edge = self._process("run", "site.yaml")

    def _process(self, command: str, file: str) -> Process:
        return Process(f"{command}-{file}", [*PLANTBRIDGE, command, file], self.folder)

    def report(self, *more: str) -> dict[str, Any]:
        """Give the rates by name."""
        done = subprocess.run(
            [*PLANTBRIDGE, "report", "site.yaml", *more, "--json"],
            cwd=self.folder, env=environment(), stdout=subprocess.PIPE, check=False,
        )  # fmt: skip
        assert done.returncode == 1, "m-8 is listed as connected and gives nothing"
        return {each["rate"]: each for each in orjson.loads(done.stdout)["rates"]}

    def counted(self, name: str) -> int:
        """Give the value of a metric."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Mosquitto(tmp_path / "broker") as broker:
        yield from _running(Line(tmp_path, broker))


def _running(made: Line) -> Iterator[Line]:
    every = (made.edge, made.ingest, made.first, made.second)
    try:
        for process in (made.ingest, made.first, made.second):
            process.start()
            wait_until(lambda process=process: process.said("READY"), process.name)  # type: ignore[misc]
        made.edge.start()
        wait_until(lambda: made.edge.said(CONNECTED), "the edge's session")
        yield made
    finally:
        for process in every:
            if process.running:
                process.kill()


def test_the_rate_follows_the_devices_within_one_window(line: Line) -> None:
    store = ("--store", "cloud.yaml", "--last", "4 s")

    def measured() -> float:
        value: float = line.report(*store)["measured"]["value"]
        return value

    wait_until(lambda: measured() == 0.7, "seven of ten")
    rates = line.report("--live")
    assert (rates["live"]["value"], rates["configured"]["value"]) == (0.7, 0.8), "what is said, and what is so"
    assert (line.counted("plantbridge_devices_answering"), line.counted("plantbridge_devices_listed")) == (7, 10)
    line.second.kill()
    wait_until(lambda: measured() == 0.5, "two fewer")
    assert line.report("--live")["live"]["counted"] == ["m-1", "m-2", "m-3", "m-4", "m-5"]
    assert line.counted("plantbridge_devices_answering") == 5
