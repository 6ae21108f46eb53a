"""The embedded broker: what a subscriber that acknowledges late needs of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import paho.mqtt.client as paho
import pytest

from simulators.broker import EmbeddedBroker


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as running:
        yield running


class Client:
    """A paho client in its own thread; messages arrive in a queue, acknowledged only when the test says so."""

    def __init__(self, name: str, port: int) -> None:
        self.messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._name = name
        self._port = port

    async def connect(self) -> None:
        """Connect with a client of its own: paho leaks sockets when one is started twice."""
        loop = asyncio.get_running_loop()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self._name, clean_session=False, manual_ack=True, protocol=paho.MQTTv311
        )
        self._client.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(self.messages.put_nowait, message)
        self._client.on_connect = lambda *_: loop.call_soon_threadsafe(self._ready.set)
        self._client.on_subscribe = lambda *_: loop.call_soon_threadsafe(self._ready.set)
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        await self._wait()

    async def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        await self._wait()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        await asyncio.to_thread(info.wait_for_publish, 30)
        assert info.is_published()

    async def next(self) -> paho.MQTTMessage:
        return await asyncio.wait_for(self.messages.get(), 30)

    def acknowledge(self, message: paho.MQTTMessage) -> None:
        self._client.ack(message.mid, message.qos)

    async def disconnect(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def _wait(self) -> None:
        await asyncio.wait_for(self._ready.wait(), 30)
        self._ready.clear()


async def test_a_message_waits_for_its_acknowledgement_as_long_as_it_takes(broker: EmbeddedBroker) -> None:
    """amqtt by itself forgets it after five seconds: ingest would lose what its store takes long to commit."""
    slow, source = Client("slow", broker.port), Client("source", broker.port)
    await slow.connect()
    await slow.subscribe("t/#")
    await source.connect()
    await source.publish("t/1", b"one")
    message = await slow.next()
    async with asyncio.timeout(30):
        start = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - start < 5.5:
            await asyncio.sleep(0.1)
    await slow.disconnect()
    await slow.connect()
    again = await slow.next()
    assert (again.payload, again.dup) == (message.payload, True)
    slow.acknowledge(again)
    await source.publish("t/2", b"two")
    assert (await slow.next()).payload == b"two"
    await slow.disconnect()
    await source.disconnect()


async def test_a_returning_subscriber_gets_what_it_missed_in_order_and_hears_its_subscribe(
    broker: EmbeddedBroker,
) -> None:
    subscriber, source = Client("subscriber", broker.port), Client("source", broker.port)
    await subscriber.connect()
    await subscriber.subscribe("t/#")
    await source.connect()
    await source.publish("kept/a", b"definition", retain=True)
    await source.publish("t/1", b"0")
    assert (await subscriber.next()).payload == b"0"  # not acknowledged
    await subscriber.disconnect()
    for number in range(1, 20):
        await source.publish("t/1", str(number).encode())
    await subscriber.connect()
    await subscriber.subscribe("kept/#")
    got = [(await subscriber.next()).payload for _ in range(21)]
    assert got[:20] == [str(number).encode() for number in range(20)]
    assert b"definition" in got
    await subscriber.disconnect()
    await source.disconnect()


async def test_as_a_process_it_prints_its_port_and_ends_on_a_signal() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators.broker", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    port = int(await asyncio.wait_for(process.stdout.readline(), 60))
    client = Client("c", port)
    await client.connect()
    await client.disconnect()
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 60) == 0
