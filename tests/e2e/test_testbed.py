"""The testbed as a user runs it: this gateway through a fault, and a stranger's that does well or does not."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from tests.servers import Mosquitto, free_port, mosquitto

ROOT = Path(__file__).resolve().parents[2]
SITE = """
gateway: {gateway}
data: data
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:{port}
    timeout: 500 ms
    retry_first: 200 ms
    retry_longest: 1 s
    devices:
      press:
        interval: 500 ms
        tags:
          pressure: {{address: holding:0 float32 ABCD, min: 0, max: 320, simulate: {{signal: ramp, period: 30 s}}}}
          strokes: {{address: "holding:2 uint32 ABCD", simulate: {{signal: counter}}}}
publish: {{cloud: {{url: "mqtt://127.0.0.1:1"}}}}
"""

__all__ = ["mosquitto"]
pytestmark = pytest.mark.e2e


def started(folder: Path, gateway: str, scenario: str, *words: str, port: int = 1) -> subprocess.Popen[str]:
    """Start a testbed of this scenario."""
    folder.mkdir()
    (folder / "site.yaml").write_text(SITE.format(gateway=gateway, port=port))
    (folder / "scenario.yaml").write_text("site: site.yaml\n" + scenario)
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "testbed", str(folder / "scenario.yaml"), "--json", *words,
         "--data", str(folder / "run")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, str], str]:
    """Give exit code, the verdict on each requirement, and everything that was said."""
    out, said = process.communicate(timeout=150)
    body = json.loads(out) if out.startswith("{") else {"requirements": []}
    return process.returncode, {each["id"]: each["verdict"] for each in body["requirements"]}, f"{out}\n{said}"


def test_a_link_that_drops_is_survived_and_each_requirement_has_its_verdict(tmp_path: Path) -> None:
    scenario = (
        "lasts: 8 s\nsteps: [{at: 1 s, for: 5 s, link: line, fault: drop}]\n"
        "expect: [PB-DATA-01, PB-DATA-02, PB-DATA-03, PB-DATA-04, PB-FAULT-01]\n"
        "allow: {late: 2 s, recover: 20 s, age: 30 s}\n"
    )
    report = tmp_path / "report.html"
    code, verdicts, said = ended(started(tmp_path / "own", "own", scenario, "--report", str(report)))
    assert code == 0, said
    assert {verdicts[id_] for id_ in ("PB-DATA-01", "PB-DATA-02", "PB-DATA-03", "PB-FAULT-01")} == {"passed"}
    assert verdicts["PB-QUAL-01"] == "not exercised"
    assert "PB-FAULT-01" in report.read_text()


def test_a_strangers_gateway_is_judged_by_its_messages(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """One publisher reads well; the other is silent for a while, and adds a thousand to a value."""
    scenario = (
        "lasts: 8 s\nexpect: [PB-DATA-02, PB-DATA-03]\nallow: {late: 2 s, age: 60 s}\n"
        "watch: {device: topic 2, tag: name, value: v, time: ts, readings: readings}\n"
    )

    def lossy(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """After a second and a half: a thousand too much, then nothing for more than four seconds."""
        since = time.monotonic() - first.setdefault("bad", time.monotonic())
        if 1.5 < since < 2.1:
            return [{**each, "v": each["v"] + 1000} for each in readings]
        return [] if 2.5 < since < 7 else readings

    first: dict[str, float] = {}
    ways: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {"good": lambda each: each, "bad": lossy}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, change in ways.items():
            port = free_port()
            stack.enter_context(publisher(port, mosquitto, name, change))
            url = f"mqtt://127.0.0.1:{mosquitto.port}/{name}/#"
            running[name] = started(tmp_path / name, name, scenario, "--watch", url, port=port)
        results = {name: ended(process) for name, process in running.items()}
    code, verdicts, said = results["good"]
    assert code == 0, said
    assert (verdicts["PB-DATA-02"], verdicts["PB-DATA-03"], verdicts["PB-DATA-01"]) == (
        "passed",
        "passed",
        "not exercised",
    )
    code, verdicts, said = results["bad"]
    assert code == 1, said
    assert (verdicts["PB-DATA-02"], verdicts["PB-DATA-03"], verdicts["PB-DATA-04"]) == ("failed", "failed", "passed"), (
        said
    )


@contextlib.contextmanager
def publisher(
    port: int, broker: Mosquitto, root: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> Iterator[None]:
    """Poll the press at this port as a stranger would, twice a second, and publish what `change` leaves of it."""
    stop = threading.Event()

    def run() -> None:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        while not stop.wait(0.1):
            with contextlib.suppress(OSError, struct.error), socket.create_connection(("127.0.0.1", port), 5) as device:
                while not stop.wait(0.4):
                    device.sendall(struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 0, 4))
                    pressure, strokes = struct.unpack(">fI", device.recv(100)[9:])
                    now = time.time_ns() // 10**6
                    readings = change(
                        [{"name": "pressure", "v": pressure, "ts": now}, {"name": "strokes", "v": strokes, "ts": now}]
                    )
                    if readings:
                        client.publish(f"{root}/press", json.dumps({"readings": readings}), qos=1)
        client.loop_stop()
        client.disconnect()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(10)
