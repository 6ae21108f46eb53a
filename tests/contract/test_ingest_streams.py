"""Ingest takes readings from a stream of NATS JetStream, which gateways fill over MQTT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from test_ingest_flow import OF, Edge, Stubborn, count, database, running, until

from gateway.errors import SinkUnavailable, StoreUnavailable
from gateway.model import Gap
from gateway.mqtt import Arrived, Connection
from gateway.options import IngestOptions, MqttOptions
from gateway.sources.jetstream import JetStream, to_subject, to_topic
from gateway.stores.duckdb import DuckdbStore
from tests.native import T0, block, gaps_message
from tests.nats_servers import Nats


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    with Nats(tmp_path / "nats") as server:
        yield server


def settings(nats: Nats, **more: Any) -> dict[str, Any]:
    return {"version": "3.1.1", "stream": {"url": nats.urls, "redeliver": "1 s"}, **more}


@asynccontextmanager
async def edge(nats: Nats) -> AsyncIterator[Edge]:
    connection = Connection(MqttOptions(url=nats.url, version="3.1.1"), client_id="edge")
    await connection.open()
    try:
        yield Edge(connection)
    finally:
        await connection.close()


async def test_readings_and_gaps_come_from_the_stream_and_definitions_from_mqtt(nats: Nats, tmp_path: Path) -> None:
    async with edge(nats) as plant:
        await plant.define()
        async with running(nats, DuckdbStore(database(tmp_path)), tmp_path, **settings(nats)) as side:
            await plant.send("plantbridge/demo/status", b"{}", retain=True)
            await plant.scans(20)
            await plant.send(
                "plantbridge/demo/gaps", gaps_message(block(Gap("press-1", "", T0, T0 + 1, "x"), first=99))
            )
            await until(lambda: side.stored() == 200, "all to be stored")
            assert side.dead() == []
    assert count(tmp_path) == (200, 200)


async def test_what_comes_while_no_worker_runs_waits_in_the_stream(nats: Nats, tmp_path: Path) -> None:
    """Also where the server itself was killed in the meantime."""
    async with running(nats, DuckdbStore(database(tmp_path)), tmp_path, **settings(nats)):
        pass
    async with edge(nats) as plant:
        await plant.define()
        await plant.scans(50)
    nats.kill(0)
    await asyncio.to_thread(nats.start, 0)
    async with running(nats, DuckdbStore(database(tmp_path)), tmp_path, **settings(nats)) as side:
        await until(lambda: side.stored() == 500, "the backlog")
        assert side.duplicates() == 0


async def test_workers_share_the_stream_whatever_they_are_called(nats: Nats, tmp_path: Path) -> None:
    one, other = Stubborn(), Stubborn()
    async with (
        edge(nats) as plant,
        running(nats, one, tmp_path / "one", **settings(nats, client_id="worker-1", in_flight=5)),
        running(nats, other, tmp_path / "other", **settings(nats, client_id="worker-2", in_flight=5)),
    ):
        await plant.define()
        await plant.scans(200)
        await until(lambda: len({*one.taken, *other.taken}) >= 200, "all to be taken")
    assert one.taken
    assert other.taken
    # one that ends gives back what it holds, also what it has just stored: twice is allowed, and stores drop it
    assert sorted({*one.taken, *other.taken}) == list(range(1, 201))


async def test_a_store_that_is_away_is_waited_for_with_messages_in_hand(nats: Nats, tmp_path: Path) -> None:
    """Longer than `redeliver`: what a live worker holds is not given out a second time, and no more is taken in."""
    store = Stubborn([StoreUnavailable("no")] * 20)
    held = settings(nats, in_flight=7, retry_first="200 ms")
    async with edge(nats) as plant, running(nats, store, tmp_path, **held) as side:
        await plant.define()
        await plant.scans(30)
        await until(lambda: len(store.taken) == 30, "all to be stored")
    assert sorted(store.taken) == list(range(1, 31))
    assert side.dead() == []


async def test_a_defect_ends_the_session_rather_than_stand_still(nats: Nats) -> None:
    """Else ingest would look connected and take nothing more in."""

    def defective(_: Arrived) -> None:
        raise ZeroDivisionError("a defect")

    session = JetStream(IngestOptions(url=nats.url, **settings(nats)), on_message=defective)
    async with edge(nats) as plant:
        await session.open()
        plant.numbers[OF.fingerprint] = 0
        await plant.scans(1)
    await until(session.lost.is_set, "the session's end")
    assert session.reason == f"{session}: ZeroDivisionError: a defect"
    await session.close()


async def test_a_worker_that_falls_silent_is_not_waited_for(nats: Nats) -> None:
    """What it was given comes to another; acknowledged there, it comes no more."""
    silent: list[Arrived] = []
    options = IngestOptions(url=nats.url, in_flight=10, **settings(nats))
    first = JetStream(options, on_message=silent.append)
    async with edge(nats) as plant:
        await first.open()
        plant.numbers[OF.fingerprint] = 0
        await plant.scans(10)
    await until(lambda: len(silent) == 10, "its messages")
    for task in first._tasks:  # as a kill would end it: no word to the server
        task.cancel()
    got: list[Arrived] = []
    second = JetStream(options, on_message=got.append)
    await second.open()
    await until(lambda: len(got) == 10, "the same messages")
    assert sorted(each.payload for each in got) == sorted(each.payload for each in silent)
    for each in got:
        second.acknowledge(each)
    await second.close()
    await second.close()
    third = JetStream(options, on_message=got.append)
    await third.open()
    async with edge(nats) as plant:
        plant.sequence, plant.numbers[OF.fingerprint] = 10, 0
        await plant.scans(1)
    await until(lambda: len(got) == 11, "the new message")
    assert len({each.payload for each in got}) == 11
    await third.close()
    await first.close()


async def test_a_session_ends_with_the_server_and_says_so(nats: Nats, tmp_path: Path) -> None:
    stream = JetStream(IngestOptions(url=nats.url, **settings(nats)), on_message=lambda _: None)
    async with edge(nats):
        await stream.open()
    nats.kill(0)
    async with asyncio.timeout(30):
        await stream.lost.wait()
    assert nats.urls[0] in stream.reason
    await stream.close()
    with pytest.raises(SinkUnavailable, match="the stream of nats://"):
        await JetStream(IngestOptions(url=nats.url, **settings(nats)), on_message=lambda _: None).open()


async def test_without_mqtt_in_the_server_it_is_said_what_is_missing(tmp_path: Path) -> None:
    with Nats(tmp_path) as server:
        stream = JetStream(IngestOptions(url=server.url, **settings(server)), on_message=lambda _: None)
        with pytest.raises(SinkUnavailable, match="no MQTT client has connected"):
            await stream.open()


@pytest.mark.parametrize("topic", ["plantbridge/demo/columns", "a.b/c", "plantbridge/v1.2/x.y"])
def test_subjects_are_topics_with_dots(topic: str) -> None:
    assert to_topic(to_subject(topic)) == topic


def test_subjects_are_written_as_nats_server_does() -> None:
    assert to_subject("plantbridge/+/columns") == "plantbridge.*.columns"
    assert to_subject("v1.2/x") == "v1//2.x"
