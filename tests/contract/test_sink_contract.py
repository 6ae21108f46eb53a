"""What every sink promises the publisher, against a real peer. A new sink is one entry in SINKS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.contracts import Delivery, Sink
from gateway.errors import SinkUnavailable
from gateway.model import Message
from gateway.mqtt import Arrived, Connection
from gateway.options import MqttOptions, PublisherOptions
from gateway.sinks import sink_for
from tests.servers import Mosquitto, certificates


@dataclass
class Peer:
    """A real peer, and what it has got."""

    make: Callable[..., Sink]
    got: list[Arrived]
    server: Mosquitto
    refused_topic: str = "plant/refused"
    tls: dict[str, str] | None = None

    async def wait(self, count: int) -> list[bytes]:
        deadline = time.monotonic() + 30
        while len(self.payloads()) < count:
            assert time.monotonic() < deadline, f"{len(self.payloads())} of {count} arrived"
            await asyncio.sleep(0.02)
        return self.payloads()

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.got if message.topic.startswith("plant/")]


@asynccontextmanager
async def mqtt_5(directory: Path, **more: Any) -> AsyncIterator[Peer]:
    acl = "topic write plantbridge/#\ntopic readwrite plant/ok\nuser reader\ntopic read #\n"
    with Mosquitto(directory / "mosquitto", acl=acl, **more) as broker:
        got: list[Arrived] = []
        tls = {"ca": more["tls"].ca} if "tls" in more else None
        async with reading(broker, got, tls):

            def make(name: str = "cloud", **more: Any) -> Sink:
                settings = {"unheard": "deliver", "tls": tls, **more}
                return sink_for(name, PublisherOptions(url=broker.url, **settings), "demo")

            yield Peer(make, got, broker, tls=tls)


@asynccontextmanager
async def mqtt_5_wss(directory: Path) -> AsyncIterator[Peer]:
    async with mqtt_5(directory, tls=certificates(directory / "pki"), websockets=True) as peer:
        yield peer


@asynccontextmanager
async def reading(
    broker: Mosquitto, got: list[Arrived], tls: dict[str, str] | None = None
) -> AsyncIterator[Connection]:
    """Collect all that the broker gets, over restarts too."""
    options = MqttOptions(url=broker.url, username="reader", tls=tls)

    async def listen() -> None:
        while True:
            connection = Connection(options, client_id="reader", clean=False, session_expiry=600, on_message=take)
            current[:] = [connection]
            try:
                await connection.open()
                await connection.subscribe(["#"], timeout=20)
                ready.set()
                await connection.lost.wait()
            except SinkUnavailable:
                await asyncio.sleep(0.05)
            finally:
                await connection.close()

    def take(message: Arrived) -> None:
        got.append(message)
        current[0].acknowledge(message)

    current: list[Connection] = []
    ready = asyncio.Event()
    task = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(30):
            await ready.wait()
        yield current[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


SINKS = {"mqtt": mqtt_5, "mqtt over wss": mqtt_5_wss}


@pytest.fixture(params=sorted(SINKS))
async def peer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Peer]:
    async with SINKS[request.param](tmp_path) as made:
        yield made


def message(payload: bytes, topic: str = "plant/ok") -> Message:
    return Message(topic, payload, 1, 1, 1)


async def test_what_was_accepted_has_arrived(peer: Peer) -> None:
    sink = peer.make()
    await sink.connect()
    assert await sink.send(message(b"one")) is Delivery.ACCEPTED
    await sink.close()
    assert await peer.wait(1) == [b"one"]


async def test_messages_arrive_in_the_order_of_the_calls(peer: Peer) -> None:
    sink = peer.make()
    await sink.connect()
    sent = [b"%d" % number * 1000 for number in range(50)]
    deliveries = await asyncio.gather(*(sink.send(message(payload)) for payload in sent))
    await sink.close()
    assert set(deliveries) == {Delivery.ACCEPTED}
    assert await peer.wait(50) == sent


async def test_a_refused_message_is_a_result(peer: Peer) -> None:
    """The publisher sets it aside and goes on; it must not take it for an outage and send it for ever."""
    sink = peer.make()
    await sink.connect()
    assert await sink.send(message(b"y", "plant/#")) is Delivery.REJECTED  # nobody can publish there
    assert await sink.send(message(b"z")) is Delivery.ACCEPTED
    assert await sink.send(message(b"x", peer.refused_topic)) is Delivery.NOT_NOW  # access rules change
    assert peer.refused_topic in sink.peer.refusal
    await sink.close()  # the peer may have ended the session by now
    await sink.connect()
    assert await sink.send(message(b"z")) is Delivery.ACCEPTED
    await sink.close()


async def test_a_status_that_is_forbidden_does_not_keep_data_back(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto", acl="topic write plant/#\n") as broker:
        sink = sink_for("cloud", PublisherOptions(url=broker.url, unheard="deliver"), "demo")
        with pytest.raises(SinkUnavailable, match="goes on without"):
            await sink.connect()
        await sink.connect()
        assert await sink.send(message(b"z")) is Delivery.ACCEPTED
        await sink.close()


async def test_a_peer_that_goes_away_is_unavailable_for_all_that_waits(peer: Peer) -> None:
    sink = peer.make()
    await sink.connect()
    peer.server.pause()
    waiting = [asyncio.ensure_future(sink.send(message(b"x"))) for _ in range(3)]
    await asyncio.sleep(0)
    peer.server.kill()
    for each in waiting:
        with pytest.raises(SinkUnavailable):
            await each
    with pytest.raises(SinkUnavailable):
        await sink.send(message(b"x"))
    await sink.close()
    with pytest.raises(SinkUnavailable):
        await sink.connect()
    peer.server.start()
    await sink.connect()
    assert await sink.send(message(b"again")) is Delivery.ACCEPTED
    await sink.close()


async def test_a_silent_peer_is_unavailable_within_the_timeout(peer: Peer) -> None:
    sink = peer.make(ack_timeout="300 ms", connect_timeout="2 s")
    await sink.connect()
    peer.server.pause()
    with pytest.raises(SinkUnavailable):
        await sink.send(message(b"x"))
    await sink.close()
    with pytest.raises(SinkUnavailable):
        await sink.connect()
    peer.server.resume()


async def test_the_end_of_an_idle_session_is_noticed(peer: Peer) -> None:
    sink = peer.make()
    await sink.connect()
    peer.server.kill()
    async with asyncio.timeout(30):
        assert await sink.peer.ended()
    await sink.close()


async def test_closing_is_idempotent_and_needs_no_session(peer: Peer) -> None:
    sink = peer.make()
    await sink.close()
    await sink.connect()
    await sink.close()
    await sink.close()
    with pytest.raises(SinkUnavailable):
        await sink.send(message(b"x"))


async def test_cancelling_a_send_leaves_the_sink_usable(peer: Peer) -> None:
    sink = peer.make()
    await sink.connect()
    cancelled = asyncio.ensure_future(sink.send(message(b"x" * 100_000)))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await sink.close()
    await sink.connect()
    assert await sink.send(message(b"y")) is Delivery.ACCEPTED
    await sink.close()


async def test_others_see_whether_the_gateway_is_there(peer: Peer) -> None:
    """Of MQTT: retained status, set offline by a shutdown in order and by the will."""

    def statuses() -> list[bool]:
        return [b'"online":true' in each.payload for each in peer.got if each.topic == "plantbridge/demo/status"]

    async def wait_for(wanted: list[bool]) -> None:
        async with asyncio.timeout(30):
            while statuses() != wanted:
                await asyncio.sleep(0.02)

    sink = peer.make()
    await sink.connect()
    await wait_for([True])
    await sink.close()
    await wait_for([True, False])
    await sink.connect()
    taker = Connection(
        MqttOptions(url=peer.server.url, tls=peer.tls), client_id="plantbridge-demo-cloud", exclusive=False
    )
    await taker.open()  # takes the session over: the first ends without a farewell
    await wait_for([True, False, True, False])
    await sink.close()
    await taker.close()
