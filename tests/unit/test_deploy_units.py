"""systemd units, shell scripts, container files: what cannot be started here is at least read by its own checker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import need

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "edge_deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))
SCRIPTS = (".ci/run", ".ci/venv", ".ci/servers", "edge_deploy/install.sh", "edge_deploy/compose/mosquitto/start.sh")


def settings(unit: str) -> dict[str, list[str]]:
    """All settings of a unit, repeated ones in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


# ------------------------------------------------------------------------------------------------ systemd


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    """A misspelt setting is only a warning to systemd, and a hole in the hardening to us."""
    program = need("systemd-analyze")
    text = (DEPLOY / unit).read_text()
    copy = tmp_path / unit
    copy.write_text(re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", text, flags=re.M))
    done = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    about_us = [line for line in (done.stdout + done.stderr).splitlines() if unit in line]
    assert not about_us, about_us


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_rated_safe(unit: str) -> None:
    """systemd's own rating, 0 (safe) to 10: a plain service has 9.2."""
    program = need("systemd-analyze")
    done = subprocess.run(
        [program, "security", "--offline=yes", "--threshold=20", DEPLOY / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_supervises_and_does_not_restart_on_bad_configuration(unit: str) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert int(found["WatchdogSec"][0]) >= 20, "three times the loop's own limit of 10 s, or nearly"
    assert found["Restart"] == ["always"]
    assert found["RestartPreventExitStatus"] == ["2"]
    assert found["User"] == ["plantbridge"]
    assert found["StateDirectory"] == ["plantbridge"]
    assert found["ExecStart"][0].startswith("/opt/plantbridge/current/bin/plantbridge ")


def test_serial_lines_are_open_to_the_edge_daemon_only() -> None:
    edge, ingest = settings("plantbridge.service"), settings("plantbridge-ingest.service")
    assert edge["DevicePolicy"] == ["closed"]
    assert {"char-ttyUSB rw", "char-ttyACM rw", "char-ttyS rw", "char-ttyAMA rw"} == set(edge["DeviceAllow"])
    assert "PrivateDevices" not in edge, "it would hide the serial lines"
    assert edge["SupplementaryGroups"] == ["dialout"]
    assert ingest["PrivateDevices"] == ["yes"]


# ------------------------------------------------------------------------------------------------ scripts


def test_shell_scripts_pass_shellcheck() -> None:
    program = need("shellcheck")
    scripts = [ROOT / script for script in SCRIPTS]
    done = subprocess.run([program, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ci_runs_make_test_and_nothing_else() -> None:
    text = (ROOT / ".ci/run").read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make test </dev/null")


def test_wheels_are_resolved_for_another_machine() -> None:
    """A marker evaluated for the machine that collects gives the wrong numpy to the machine that installs."""
    sys.path.insert(0, str(DEPLOY))
    try:
        import wheels
    finally:
        sys.path.remove(str(DEPLOY))
    old, new = (wheels.resolved(DEPLOY / "edge.lock", "aarch64", python) for python in ("3.11", "3.13"))
    assert ";" not in old + new
    for text in (old, new):
        assert text.count("numpy==") == 1
        assert "uvloop==" in text
        assert "colorama" not in text, "Windows only"
    assert re.findall("numpy==.*", old) != re.findall("numpy==.*", new)


# ------------------------------------------------------------------------------------------------ containers


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def test_compose_names_only_what_exists() -> None:
    content = compose()
    for name, service in content["services"].items():
        assert "image" in service or "build" in service, name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in content["volumes"], f"{name}: {source}"
        for other, how in service.get("depends_on", {}).items():
            assert other in content["services"]
            if how["condition"] == "service_healthy":
                assert "test" in content["services"][other]["healthcheck"], f"{name} waits for {other} for ever"


def test_compose_pins_its_images_and_drops_what_it_does_not_need() -> None:
    """`latest` is another program each month."""
    for name, service in compose()["services"].items():
        image = service["image"]
        if image == "plantbridge":
            assert service["cap_drop"] == ["ALL"], name
            assert service["read_only"] is True, name
        else:
            assert re.search(r":v?\d+(\.\d+)+$", image), f"{name}: {image}"
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name


def test_compose_takes_every_secret_from_the_environment_and_refuses_to_start_without() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    offered = {line.split("=")[0] for line in (DEPLOY / ".env.example").read_text().splitlines() if "=" in line}
    assert used == offered
    assert all(re.search(rf"\${{{name}:\?", text) for name in used)


def test_only_the_broker_listens_beyond_this_machine() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert name == "mosquitto" or port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_compose_itself_agrees(tmp_path: Path) -> None:
    """`docker compose config` needs no engine, only the client with its plug-in."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose on this machine (it is in no registry that CI reaches)")
    shutil.copytree(DEPLOY, tmp_path / "edge_deploy")
    shutil.copy(DEPLOY / ".env.example", tmp_path / "edge_deploy/.env")
    done = subprocess.run(
        [docker, "compose", "-f", tmp_path / "edge_deploy/compose.yaml", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def test_the_image_runs_as_a_user_and_says_whether_it_is_well() -> None:
    found = instructions()
    stages = [index for index, (word, _) in enumerate(found) if word == "FROM"]
    assert len(stages) == 2, "what builds is not in what runs"
    last = dict(found[stages[-1] :])
    assert last["USER"] == "10001:10001"
    assert "/healthz" in last["HEALTHCHECK"]
    assert json.loads(last["ENTRYPOINT"]) == ["plantbridge"]
    assert json.loads(last["CMD"]) == ["run", "/etc/plantbridge/site.yaml"]


def test_the_image_installs_only_what_is_locked() -> None:
    runs = [text for word, text in instructions() if word == "RUN"]
    for text in runs:
        for part in re.findall(r"pip (?:install|wheel)[^&]*", text):
            assert "--require-hashes" in part or "--no-index" in part, part


def test_the_image_is_given_what_it_copies() -> None:
    """A file that .dockerignore hides makes the build fail at the customer's."""
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        part
        for word, text in instructions()
        if word == "COPY" and not text.startswith("--from")
        for part in text.split()[:-1]
    }
    assert copied == shown
    assert all((ROOT / part).exists() for part in copied)
