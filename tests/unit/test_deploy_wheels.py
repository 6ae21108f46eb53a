"""The whole way onto a machine: collect the folder, install without a network, start the daemon as systemd would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import missing

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.xdist_group("wheels")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with PlantBridge installed below it, from a folder of wheels."""
    folder = tmp_path_factory.mktemp("folder") / "wheels"
    collect = [sys.executable, ROOT / "edge_deploy/wheels.py", folder]
    done = subprocess.run(collect, capture_output=True, text=True, check=False)
    if done.returncode and "onnection" in done.stderr:
        missing("a package registry")
    assert done.returncode == 0, done.stderr
    root = tmp_path_factory.mktemp("root")
    command = ["sh", folder / "install.sh", "--root", root, "--python", sys.executable]
    environment = {"PATH": os.environ["PATH"]}  # nothing that would lead to a registry, no HOME
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return root


def run(root: Path, *arguments: str | Path) -> str:
    """Run the installed command in an environment without anything."""
    command = [root / "usr/local/bin/plantbridge", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={}, cwd=root, check=True).stdout


def test_the_installed_command_checks_and_plans_the_sample(installed: Path) -> None:
    assert "plantbridge" in run(installed, "version").lower()
    sample = installed / "etc/plantbridge/site.yaml"
    assert "no problems" in run(installed, "check", sample)
    assert "FC3 holding 100..102" in run(installed, "plan", sample)
    assert (installed / "etc/plantbridge/site.schema.json").read_text().startswith("{")


def test_the_edge_install_has_no_cloud_parts(installed: Path) -> None:
    packages = {path.name.split("-")[0] for path in installed.glob("opt/plantbridge/current/lib/*/site-packages/*")}
    assert "pymodbus" in packages
    assert not {"duckdb", "influxdb_client", "amqtt"} & packages


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE)
        yield listener


def test_the_installed_daemon_tells_systemd_that_it_is_ready_and_alive_and_ends_in_order(
    installed: Path, tmp_path: Path, notifications: socket.socket
) -> None:
    """Neither the PLC nor the broker of the sample is there: that is no reason not to start."""
    sample = (installed / "etc/plantbridge/site.yaml").read_text()
    site = tmp_path / "site.yaml"
    site.write_text(
        sample.replace("/var/lib/plantbridge", str(tmp_path / "data"))
        .replace("192.168.1.20:502", "127.0.0.1:1")
        .replace("broker.plant.internal:1883", "127.0.0.1:1")
        + "\nmetrics: {listen: null}\n"
    )
    daemon = subprocess.Popen(
        [installed / "usr/local/bin/plantbridge", "run", site],
        env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"},
        stderr=subprocess.PIPE,
    )
    try:
        heard: list[bytes] = []
        while b"WATCHDOG=1" not in heard:
            heard += notifications.recv(4096).splitlines()
        assert heard[0] == b"READY=1"
        daemon.send_signal(signal.SIGTERM)
        while b"STOPPING=1" not in heard:
            heard += notifications.recv(4096).splitlines()
        assert daemon.wait(PATIENCE) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    assert (tmp_path / "data/journal/journal.sqlite").exists()
