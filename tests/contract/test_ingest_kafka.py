"""Ingest takes readings from a topic of Kafka, into which an MQTT broker's bridge writes what gateways publish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from test_ingest_flow import Edge, Stubborn, count, database, running, until

from gateway.errors import SinkUnavailable, StoreUnavailable
from gateway.mqtt import Arrived, Connection
from gateway.options import IngestOptions, MqttOptions
from gateway.sources.kafka import Kafka
from gateway.stores.duckdb import DuckdbStore
from tests.kafka_server import KafkaServer
from tests.servers import Mosquitto, mosquitto

__all__ = ["mosquitto"]

pytestmark = pytest.mark.timeout(300)  # the first test fetches the server


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
async def topic(kafka: KafkaServer, request: pytest.FixtureRequest) -> str:
    """A topic of two partitions for one test."""
    name = f"plant-{abs(hash(request.node.name))}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.server)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])
    finally:
        await admin.close()
    return name


class Bridged(Edge):
    """A gateway behind a broker with a bridge: what is retained stays there, the rest goes to Kafka too."""

    producer: AIOKafkaProducer
    topic: str
    header = ""

    async def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        if retain:
            await super().send(topic, payload, retain=True)
        named: dict[str, Any] = {"key": topic.encode()}
        if self.header:
            named = {"headers": [(self.header, topic.encode())]}
        await self.producer.send_and_wait(self.topic, payload, **named)


@asynccontextmanager
async def edge(broker: Mosquitto, kafka: KafkaServer, topic: str, header: str = "") -> AsyncIterator[Bridged]:
    connection = Connection(MqttOptions(url=broker.url), client_id="edge")
    await connection.open()
    async with AIOKafkaProducer(bootstrap_servers=kafka.server, acks="all", compression_type="zstd") as producer:
        plant = Bridged(connection)
        plant.producer, plant.topic, plant.header = producer, topic, header
        yield plant
    await connection.close()


def settings(server: KafkaServer, topic: str, where: str = "key", **more: Any) -> dict[str, Any]:
    place = {"servers": server.server, "topic": topic, "redeliver": "2 s", "mqtt_topic": where}
    return {"kafka": place, "share": topic, **more}


@pytest.mark.parametrize("header", ["", "mqtt"])
async def test_readings_come_from_kafka_and_definitions_from_mqtt(
    mosquitto: Mosquitto, kafka: KafkaServer, topic: str, tmp_path: Path, header: str
) -> None:
    """Whether the bridge puts the MQTT topic into the key or into a header."""
    place = settings(kafka, topic, f"header:{header}" if header else "key")
    async with edge(mosquitto, kafka, topic, header) as plant:
        await plant.define()
        await plant.scans(10)
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path, **place) as side:
            await plant.send("plantbridge/demo/status", b"{}", retain=True)
            await plant.send("elsewhere/else/columns", b"of another program")
            await plant.scans(10)
            await until(lambda: side.stored() == 200, "all to be stored")
            assert side.dead() == []
        await plant.scans(5)  # while nobody listens
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path, **place) as side:
            await until(lambda: side.stored() == 50, "what came meanwhile, and nothing twice")
            assert side.duplicates() == 0
    assert count(tmp_path) == (250, 250)


async def test_a_store_that_is_away_is_waited_for_with_records_in_hand(
    mosquitto: Mosquitto, kafka: KafkaServer, topic: str, tmp_path: Path
) -> None:
    store = Stubborn([StoreUnavailable("no")] * 20)
    held = settings(kafka, topic, in_flight=7, retry_first="200 ms")
    async with edge(mosquitto, kafka, topic) as plant, running(mosquitto, store, tmp_path, **held) as side:
        await plant.define()
        await plant.scans(30)
        await until(lambda: len(store.taken) == 30, "all to be stored")
    assert sorted(store.taken) == list(range(1, 31))
    assert side.dead() == []


async def test_what_was_not_acknowledged_comes_to_another_worker(
    mosquitto: Mosquitto, kafka: KafkaServer, topic: str
) -> None:
    """Acknowledged in any order; what is committed is only that before which all is acknowledged."""
    options = IngestOptions(url=mosquitto.url, **settings(kafka, topic, "header:mqtt"))
    one: list[Arrived] = []
    first = Kafka(options, "worker-1", on_message=one.append)
    await first.open()
    async with edge(mosquitto, kafka, topic, "mqtt") as plant:  # without a key, over both partitions
        for number in range(40):
            await plant.send("plantbridge/demo/columns", b"%d" % number)
        await plant.producer.send_and_wait(topic, b"from nobody")
    await until(lambda: len(one) == 41, "all of them")
    for message in one[:0:-1]:  # the newest first, and not the very first
        first.acknowledge(message)
    await first.close()
    other: list[Arrived] = []
    second = Kafka(options, "worker-2", on_message=other.append)
    await second.open()
    await until(lambda: one[0].payload in {each.payload for each in other}, "what was not acknowledged")
    for message in other:
        second.acknowledge(message)
    await second.close()
    await second.close()
    third = Kafka(options, "worker-3", on_message=other.append)
    await third.open()
    before = len(other)
    async with edge(mosquitto, kafka, topic, "mqtt") as plant:
        await plant.send("plantbridge/demo/columns", b"last")
    await until(lambda: len(other) > before, "what is new")
    assert [each.payload for each in other[before:]] == [b"last"]
    assert f"{topic}/" in next(each.topic for each in one if each.payload == b"from nobody")
    await third.close()


async def test_workers_share_the_partitions(
    mosquitto: Mosquitto, kafka: KafkaServer, topic: str, tmp_path: Path
) -> None:
    """And one that goes while the other works costs nothing."""
    one, other = Stubborn(), Stubborn()
    place = settings(kafka, topic, "header:mqtt")
    async with (
        edge(mosquitto, kafka, topic, "mqtt") as plant,
        running(mosquitto, one, tmp_path / "one", **place, client_id="worker-1"),
    ):
        await plant.define()
        async with running(mosquitto, other, tmp_path / "other", **place, client_id="worker-2"):
            for _ in range(60):  # until both have had a share
                await plant.scans(5)
                if one.taken and other.taken:
                    break
            await until(lambda: len({*one.taken, *other.taken}) == plant.sequence, "all to be taken")
            assert one.taken
            assert other.taken
        await plant.scans(20)
        await until(lambda: len({*one.taken, *other.taken}) == plant.sequence, "the rest to come to who is left")


async def test_a_session_ends_with_the_cluster_and_says_so(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with KafkaServer(tmp_path) as server:
        options = IngestOptions(
            url=mosquitto.url, keep_alive="1 s", connect_timeout="3 s", **settings(server, "nothing")
        )
        with pytest.raises(SinkUnavailable, match="there is no topic nothing"):
            await Kafka(options, "w", on_message=lambda _: None).open()
        admin = AIOKafkaAdminClient(bootstrap_servers=server.server)
        await admin.start()
        await admin.create_topics([NewTopic("nothing", num_partitions=1, replication_factor=1)])
        await admin.close()
        session = Kafka(options, "w", on_message=lambda _: None)
        await session.open()
        server.kill()
        async with asyncio.timeout(60):
            await session.lost.wait()
        assert server.server in session.reason
        await session.close()
        with pytest.raises(SinkUnavailable, match="kafka://127"):
            await Kafka(options, "w", on_message=lambda _: None).open()
