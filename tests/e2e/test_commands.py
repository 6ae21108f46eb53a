"""From a broker to a machine and back, with real processes: written, read back, answered, audited, and never twice."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from gateway.audit import read, verify
from tests.e2e.plant import PLANTBRIDGE, Process, environment, wait_until
from tests.servers import Mosquitto, free_port

SITE = """
gateway: shop
data: ./data
commands: {{tag_interval: 10 ms, rate: 100}}
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:{modbus}
    retry_first: 100 ms
    devices:
      press-1:
        unit_id: 1
        interval: 100 ms
        tags:
          setpoint: {{address: holding:10 float32, unit: bar, writable: {{min: 0, max: 10}}, simulate: {{signal: constant, low: 4, high: 4}}}}
          mode: {{address: holding:20, states: {{0: stopped, 1: manual}}, writable: {{}}, simulate: {{signal: constant, low: 0, high: 0}}}}
          pressure: holding:30 float32
publish:
  cloud: {{url: "mqtt://127.0.0.1:{broker}", format: json, retry_first: 100 ms, retry_longest: 500 ms}}
  partner: {{url: "mqtt://127.0.0.1:{broker}", topic: partner, unheard: deliver, commands: off}}
metrics: {{listen: "127.0.0.1:{metrics}"}}
"""  # noqa: E501


class Cloud:
    """Who sends commands: it keeps the replies."""

    def __init__(self, port: int) -> None:
        self.replies: list[dict[str, Any]] = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("plantbridge/shop/replies", qos=1)
        self.client.on_message = lambda _client, _data, message: self.replies.append(json.loads(message.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def send(
        self, body: dict[str, Any] | bytes, topic: str = "plantbridge/shop/commands", retain: bool = False
    ) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body)
        self.client.publish("plantbridge/shop/commands", payload, qos=1, retain=retain).wait_for_publish(30)

    def ask(self, key: str, device: str = "press-1", **more: Any) -> dict[str, Any]:
        """Send a command and give its reply; `more` has the values, or what else is to be said."""
        said = len(self.replies)
        values = {name: more.pop(name) for name in list(more) if name not in ("time", "isolate", "expires", "gateway")}
        body = {"gateway": "shop", "id": key, "time": datetime.now(UTC).isoformat(), **more}
        self.send({**body, "device": device, "values": values} if values else body)
        wait_until(lambda: any(reply["id"] == key for reply in self.replies[said:]), f"the reply to {key}")
        return next(reply for reply in self.replies[said:] if reply["id"] == key)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Shop:
    """A site with its simulator, daemon and broker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = Mosquitto(directory / "broker").start()
        self.metrics = free_port()
        self.site = directory / "site.yaml"
        self.site.write_text(SITE.format(modbus=free_port(), broker=self.broker.port, metrics=self.metrics))
        self.simulator = Process("simulate", [*PLANTBRIDGE, "simulate", str(self.site)], directory)
        self.daemon = Process("run", [*PLANTBRIDGE, "run", str(self.site)], directory)
        self.simulator.start()
        wait_until(lambda: self.simulator.said("READY"), "the simulator")
        self.cloud = Cloud(self.broker.port)

    @property
    def audit(self) -> Path:
        return self.directory / "data" / "audit"

    def up(self) -> None:
        """Start the daemon; return when it takes commands."""
        subscribed = self.broker.log.count("shop/commands")
        self.daemon.start()
        wait_until(lambda: self.broker.log.count("shop/commands") > subscribed, "the daemon to listen")
        wait_until(lambda: self.health()["devices"].get("press-1", {}).get("up"), "the device to answer")

    def health(self) -> dict[str, Any]:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url("healthz"), timeout=5) as answer:
            return dict(json.load(answer))
        return {"devices": {}}

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self._url("metrics"), timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.metrics}/{path}"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*PLANTBRIDGE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in read(self.audit) if entry["event"] == name]

    def close(self) -> None:
        self.cloud.close()
        for process in (self.daemon, self.simulator):
            if process.running:
                process.kill()
        self.broker.stop()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    try:
        yield made
    except BaseException:
        for log in tmp_path.glob("*.log"):
            print(log, log.read_text(errors="replace")[-3000:])
        raise
    finally:
        made.close()


def test_a_command_is_written_read_back_answered_and_audited(shop: Shop) -> None:
    shop.up()
    reply = shop.cloud.ask("a1", setpoint=6.5, mode="manual")
    assert reply["ok"], reply
    assert reply["values"] == {
        "setpoint": {"before": 4.0, "after": 6.5, "quality": "Good"},
        "mode": {"before": 0, "after": 1, "quality": "Good"},
    }
    # refused, with the reason, and nothing written
    assert "may be set from 0 to 10 bar, not to 12" in shop.cloud.ask("a2", setpoint=12)["reason"]
    assert "pressure is not writable" in shop.cloud.ask("a3", pressure=1.0)["reason"]
    assert "old by this gateway's clock" in shop.cloud.ask("a4", setpoint=5, time="2026-01-01T00:00:00Z")["reason"]
    shop.cloud.send(b"\xff not json")
    wait_until(lambda: any("not JSON" in str(reply.get("reason")) for reply in shop.cloud.replies), "its refusal")
    assert shop.cloud.ask("a5", setpoint=7)["values"]["setpoint"]["before"] == 6.5
    # a flood of nonsense fills no log, and holds up neither the reading nor what is meant later
    scans, lines = shop.metric("plantbridge_scans_total"), len(list(read(shop.audit)))
    for number in range(1500):
        shop.cloud.client.publish("plantbridge/shop/commands", f"nonsense {number}", qos=1)
    # a command right behind it may be among what came too fast to be read: its sender asks again
    wait_until(lambda: shop.metric("plantbridge_commands_refused_total") >= 1500, "the flood to be counted")
    assert shop.cloud.ask("a6", mode="stopped")["ok"]
    wait_until(lambda: shop.metric("plantbridge_scans_total") > scans + 3, "the next scans")
    assert len(list(read(shop.audit))) < lines + 10
    # a partner's publisher hears nothing, and its topic is not even listened to
    assert "partner/commands" not in shop.broker.log
    assert shop.metric("plantbridge_commands_total{") >= 6
    assert shop.daemon.stop() == 0
    proof = verify(shop.audit)
    assert proof.broken is None
    sequence, _, digest = reply["audit"].partition(":")
    assert [each["hash"] for each in read(shop.audit) if each["sequence"] == int(sequence)] == [digest]
    causes = {entry["cause"] for entry in shop.events("refused")}
    # of a flood that comes faster than it can be read, the rest is counted as too fast
    assert causes - {"too fast"} == {"out of range", "read-only", "stale", "malformed"}
    assert len(shop.events("command")) == len(shop.events("outcome")) == 3
    assert shop.run("audit-log", "verify", str(shop.site)).returncode == 0
    (path,) = shop.audit.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"setpoint":6.5', b'"setpoint":6.6', 1))
    broken = shop.run("audit-log", "verify", str(path))
    assert broken.returncode == 1
    assert f"{path.name}:2: the line was changed" in broken.stderr
    path.write_bytes(path.read_bytes().replace(b'"setpoint":6.6', b'"setpoint":6.5', 1))
    assert "press-1/setpoint=6.5" in shop.run("audit-log", "show", str(shop.site)).stdout


def test_what_was_commanded_before_a_kill_is_not_done_again_after_it(shop: Shop) -> None:
    shop.up()
    stamp = datetime.now(UTC).isoformat()
    first = shop.cloud.ask("b1", setpoint=6.0, time=stamp)
    assert first["ok"]
    shop.cloud.ask("b2", setpoint=8.0)
    shop.daemon.kill()
    shop.up()
    again = shop.cloud.ask("b1", setpoint=6.0, time=stamp)
    assert again["values"] == first["values"]
    assert again["audit"] == first["audit"]
    assert shop.cloud.ask("b3", setpoint=5.0)["values"]["setpoint"]["before"] == 8.0  # b1 was not written again
    other = shop.cloud.ask("b1", setpoint=9.0)
    assert not other["ok"]
    assert "used before, for another command" in other["reason"]
    assert verify(shop.audit).broken is None


def test_isolation_stops_all_writes_survives_a_restart_and_ends_at_the_gateway_only(shop: Shop) -> None:
    shop.up()
    assert shop.run("isolate", "status", str(shop.site)).returncode == 0
    assert shop.run("isolate", "on", str(shop.site), "--reason", "work on press-1").returncode == 0
    assert "isolated" in shop.cloud.ask("c1", setpoint=6.0)["reason"]  # the daemon was told nothing
    assert "isolated" in shop.run("write", str(shop.site), "press-1", "setpoint=6").stderr
    wait_until(lambda: shop.health().get("commands", {}).get("state") == "isolated", "health to say so")
    assert shop.metric("plantbridge_isolated") == 1
    shop.daemon.kill()
    shop.up()
    assert "isolated" in shop.cloud.ask("c2", setpoint=6.0)["reason"]
    assert not shop.cloud.ask("c3", isolate=False)["ok"]
    assert shop.run("isolate", "off", str(shop.site)).returncode == 0
    assert shop.cloud.ask("c4", setpoint=6.0)["values"]["setpoint"] == {"before": 4.0, "after": 6.0, "quality": "Good"}
    assert shop.run("write", str(shop.site), "press-1", "setpoint=6.5").returncode == 0
    assert [each["values"] for each in shop.events("local write")] == [{"setpoint": "6.5"}]
    assert shop.cloud.ask("c5", isolate=True)["isolated"]
    assert "isolated" in shop.cloud.ask("c6", setpoint=7.0)["reason"]
    assert shop.run("isolate", "status", str(shop.site)).returncode == 1
    written = shop.events("outcome")
    assert len(written) == 1
    assert verify(shop.audit).broken is None
