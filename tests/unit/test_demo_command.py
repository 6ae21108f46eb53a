"""`plantbridge simulate` and `plantbridge demo` as a user runs them: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load_site
from gateway.errors import JournalError
from gateway.journal.survey import survey
from tests.servers import free_port, wait_for_port

ROOT = Path(__file__).resolve().parents[2]
KEYS = [
    "seconds", "appended", "delivered", "stored", "missing", "duplicates", "wrong", "gaps", "edge_cpu_seconds",
    "edge_rss_mb", "published_bytes",
]  # fmt: skip

pytestmark = pytest.mark.e2e


def plantbridge(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "gateway", *map(str, arguments)]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test starts; none outlives it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], *arguments: str | Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        plantbridge(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started.append(process)
    return process


def until_ready(process: subprocess.Popen[str]) -> str:
    """Read its output up to the line READY."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "READY\n":
            return "".join(lines)
    raise AssertionError(f"it ended before it was ready: {''.join(lines)}")


def site_at(folder: Path, port: int) -> Path:
    path = folder / "site.yaml"
    path.write_text(
        f"gateway: g\nlinks:\n  near: {{driver: modbus, url: 'tcp://127.0.0.1:{port}', devices: "
        "{plc: {tags: {a: 'holding:0'}}}}\n"
        "  far: {driver: modbus, url: 'rtu:///dev/ttyS7?baud=19200', devices: {meter: {tags: {a: 'input:0'}}}}\n"
    )
    return path


def test_simulate_says_where_each_link_is_and_ends_on_a_signal(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    port = free_port()
    site, links = site_at(tmp_path, port), tmp_path / "links.json"
    process = start(started, "simulate", site, "--map", links)
    output = until_ready(process)
    assert "near" in output
    urls = json.loads(links.read_text())
    assert urls["near"] == f"tcp://127.0.0.1:{port}"
    assert urls["far"].startswith("rtu+tcp://127.0.0.1:")
    assert wait_for_port(port)
    assert load_site(site, links=urls).links[1].options.url == urls["far"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_simulate_refuses_a_port_that_is_in_use(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    site = site_at(tmp_path, port)
    until_ready(start(started, "simulate", site))
    second = start(started, "simulate", site)
    assert second.wait(60) == 1
    assert second.stderr is not None
    message = second.stderr.read()
    assert f"127.0.0.1:{port} cannot be listened on" in message
    assert "Traceback" not in message


def test_simulate_is_back_at_the_same_place_after_a_kill(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    """A simulator that is killed and started again stands for a device that restarts."""
    port = free_port()
    site = site_at(tmp_path, port)
    first = start(started, "simulate", site)
    until_ready(first)
    first.kill()
    first.wait(60)
    until_ready(start(started, "simulate", site))
    assert wait_for_port(port)


def test_simulate_says_what_is_wrong_with_a_site_file(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "site.yaml").write_text("gateway: g\nlinks: {a: {driver: modbos}}\n")
    process = start(started, "simulate", tmp_path / "site.yaml")
    assert process.wait(60) == 2


@pytest.mark.timeout(300)
def test_the_demonstration_accounts_for_every_reading(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    """The promise of the README: nothing missing, nothing twice, nothing wrong."""
    process = start(started, "demo", "--seconds", "8", "--json", "--data", tmp_path)
    output, errors = process.communicate(timeout=280)
    assert output.count("\n") == 1, output + errors
    account: dict[str, Any] = json.loads(output)
    assert list(account) == KEYS
    assert (account["missing"], account["duplicates"], account["wrong"]) == (0, 0, 0), account
    assert account["appended"] == account["delivered"] == account["stored"] > 500
    assert account["edge_cpu_seconds"] > 0
    assert account["edge_rss_mb"] > 10
    assert account["published_bytes"] > 1000
    assert process.returncode == 0
    assert not still_running(tmp_path)


@pytest.mark.timeout(300)
def test_ctrl_c_ends_the_demonstration_in_order_with_its_account(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    process = start(started, "demo", "--data", tmp_path)
    deadline = time.monotonic() + 200
    while appended(tmp_path / "journal") < 100:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    assert "Account" in output
    assert "missing" in output
    assert "Traceback" not in errors
    assert not still_running(tmp_path)


def appended(journal: Path) -> int:
    """Give how many readings are committed."""
    try:
        return survey(journal).appended
    except JournalError:  # not there yet
        return 0


def still_running(folder: Path) -> list[str]:
    """Give the command lines of processes that work in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(entry.parent.name) != os.getpid() and "pytest" not in line:
            found.append(line)
    return found
