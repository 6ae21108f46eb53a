"""The broker configuration that compose.yaml uses, under a real mosquitto: who may do what, and what a kill costs."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.servers import free_port, need, wait_for_port

SHIPPED = Path(__file__).resolve().parents[2] / "edge_deploy/compose/mosquitto"
PATIENCE = 30.0


class Broker:
    """mosquitto with the shipped files, moved to a directory and a port of the test."""

    def __init__(self, directory: Path) -> None:
        self._program = need("mosquitto", "/usr/sbin/mosquitto")
        self.port = free_port()
        text = (SHIPPED / "mosquitto.conf").read_text()
        text = text.replace("listener 1883", f"listener {self.port} 127.0.0.1")
        text = text.replace("/mosquitto/data", str(directory)).replace("/mosquitto/config", str(directory))
        (directory / "mosquitto.conf").write_text(("user root\n" if os.getuid() == 0 else "") + text)
        (directory / "acl").write_text((SHIPPED / "acl").read_text())
        (directory / "acl").chmod(0o600)
        passwords = directory / "passwords"
        passwords.touch(mode=0o600)
        for user in ("edge", "ingest"):
            subprocess.run([need("mosquitto_passwd"), "-b", passwords, user, f"{user}-word"], check=True)
        self._directory = directory
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._program, "-c", self._directory / "mosquitto.conf"], stderr=subprocess.DEVNULL
        )
        assert wait_for_port(self.port, self.process)

    def saved(self) -> None:
        """Wait until it has saved what it has taken by now."""
        begin, file = time.time(), self._directory / "mosquitto.db"
        while not file.exists() or file.stat().st_mtime <= begin:
            assert time.time() < begin + PATIENCE, "mosquitto does not save"
            self.wake()
            time.sleep(0.05)

    def wake(self) -> None:
        """Have it take a message that nobody wants, since it saves when something changes."""
        peer = Peer(self, "edge")
        peer.publish("plantbridge/g/status", b"{}")
        peer.leave()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    found = Broker(tmp_path)
    yield found
    found.kill()


class Peer:
    """An MQTT 5 client that remembers what it was told."""

    def __init__(self, broker: Broker, user: str, client_id: str = "", expiry: int = 0) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        if user:
            self.client.username_pw_set(user, f"{user}-word")
        self.connected, self.refusal = threading.Event(), ""
        self.got: list[bytes] = []
        self.more = threading.Condition()
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry
        self.client.connect("127.0.0.1", broker.port, clean_start=False, properties=properties)
        self.client.loop_start()
        assert self.connected.wait(PATIENCE)

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: mqtt.ReasonCode, *_: object) -> None:
        self.refusal = str(reason) if reason.is_failure else ""
        self.connected.set()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self.more:
            self.got.append(message.payload)
            self.more.notify_all()

    def publish(self, topic: str, payload: bytes) -> str:
        """Give the broker's reason code."""
        answered, reasons = threading.Event(), []

        def on_publish(_client: object, _data: object, _mid: int, reason: mqtt.ReasonCode, *_: object) -> None:
            reasons.append(str(reason))
            answered.set()

        self.client.on_publish = on_publish
        self.client.publish(topic, payload, qos=1)
        assert answered.wait(PATIENCE)
        return reasons[0]

    def subscribe(self, topic: str) -> None:
        granted = threading.Event()
        self.client.on_subscribe = lambda *_: granted.set()
        self.client.subscribe(topic, qos=1)
        assert granted.wait(PATIENCE)

    def wait(self, count: int) -> list[bytes]:
        with self.more:
            self.more.wait_for(lambda: len(self.got) >= count, PATIENCE)
            return list(self.got)

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_nobody_connects_without_a_password(broker: Broker) -> None:
    peer = Peer(broker, "")
    assert peer.refusal == "Not authorized"
    peer.leave()


def test_the_edge_publishes_and_ingest_reads_and_neither_does_the_other(broker: Broker) -> None:
    """A stolen gateway cannot read the other gateways' data."""
    edge, ingest, spy = Peer(broker, "edge"), Peer(broker, "ingest"), Peer(broker, "edge")
    ingest.subscribe("$share/ingest/plantbridge/+/columns")
    spy.subscribe("plantbridge/#")
    assert edge.publish("elsewhere/x", b"no") == "Not authorized"
    assert edge.publish("plantbridge/g/columns", b"yes") == "Success"
    assert ingest.wait(1) == [b"yes"]
    assert ingest.publish("plantbridge/g/columns", b"no") == "Not authorized"
    assert spy.got == []
    for peer in (edge, ingest, spy):
        peer.leave()


def test_what_the_broker_acknowledged_survives_its_kill_beyond_the_default_limit_of_1000(broker: Broker) -> None:
    """With Debian's defaults the kill costs up to half an hour of acknowledged messages, and the 1,001st vanishes."""
    count = 1100
    ingest = Peer(broker, "ingest", client_id="ingest", expiry=3600)
    ingest.subscribe("plantbridge/+/columns")
    ingest.leave()
    edge = Peer(broker, "edge")
    acknowledged = threading.Semaphore(0)
    edge.client.on_publish = lambda *_: acknowledged.release()
    for number in range(count):
        edge.client.publish("plantbridge/g/columns", str(number).encode(), qos=1)
    for _ in range(count):
        assert acknowledged.acquire(timeout=PATIENCE)
    broker.saved()  # it acknowledges a moment before it saves: ADR 009
    broker.kill()
    edge.leave()
    broker.start()
    again = Peer(broker, "ingest", client_id="ingest", expiry=3600)
    assert again.wait(count) == [str(number).encode() for number in range(count)]
    again.leave()
