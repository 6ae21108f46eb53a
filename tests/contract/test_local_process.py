"""The daemon as a process: its socket over kill -9 and a restart, who looks on and does not read, and what it loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.errors import GatewayError
from gateway.local import place
from gateway.local.client import NotRunning, ask

PATIENCE = 60.0
SITE = """
gateway: demo
data: ./data
links:
  old:
    driver: replay
    url: replay:press.csv
    devices: {press: {interval: 50 ms, tags: {pressure: pressure}}}
metrics: {listen: null}
"""
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "press.csv").write_text("time,series,value\n1,pressure,2.5\n")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    begun: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "gateway", "run", "site.yaml"]
        begun.append(subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.DEVNULL))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def status(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Ask until this very process answers and has scanned."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = ask(folder / "data", {"ask": "status", "over": 0})
            if answer["pid"] == process.pid and scans(answer) > 0:
                return answer
        except GatewayError:
            assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def scans(answer: dict[str, Any]) -> int:
    found: int = answer["links"][0]["devices"][0]["groups"][0]["scans"]
    return found


def test_after_kill_9_the_socket_that_was_left_is_replaced_and_after_an_end_in_order_gone(
    folder: Path, start: Start
) -> None:
    first = start()
    status(folder, first)
    first.kill()
    first.wait()
    assert (folder / "data" / place.NAME).exists()
    with pytest.raises(NotRunning):
        ask(folder / "data", {"ask": "status"})
    second = start()
    status(folder, second)
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0
    assert not (folder / "data" / place.NAME).exists()


def test_who_looks_on_and_never_reads_does_not_slow_the_daemon(folder: Path, start: Start) -> None:
    process = start()
    status(folder, process)
    with place.dial(folder / "data") as sock:
        sock.sendall(orjson.dumps({"ask": "tail"}) + b"\n")
        before = scans(status(folder, process))
        deadline = time.monotonic() + PATIENCE
        while scans(status(folder, process)) < before + 20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
