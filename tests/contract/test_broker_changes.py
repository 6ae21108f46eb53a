"""Journal, publisher and sink while brokers change: another one, an empty one, one that takes its permission back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import deadletters
from gateway.options import MqttOptions, PublisherOptions
from tests.contract.test_publish_flow import DATA, READER, Cloud, Edge, allow, cloud, edge, options, until
from tests.fakes.mqtt5 import Peer, disconnect, mqtt5
from tests.servers import Mosquitto

QUICK = {"retry_first": "20 ms", "retry_longest": "200 ms"}


@asynccontextmanager
async def brokers(directory: Path) -> AsyncIterator[tuple[Mosquitto, Mosquitto]]:
    with Mosquitto(directory / "a") as a, Mosquitto(directory / "b") as b:
        yield a, b


def letters(here: Edge) -> list[Any]:
    return [*deadletters.read(here.letters / "cloud")]


async def test_what_a_broker_had_not_surely_kept_is_published_again_at_the_next_of_the_list(tmp_path: Path) -> None:
    """Whoever reads at B must get what A took with it into its grave, and what was under way to it."""
    async with brokers(tmp_path) as (a, b), cloud(b) as there, edge(tmp_path) as here:
        async with cloud(a) as first:
            here.publish("cloud", PublisherOptions(url=[a.url, b.url], settle="1 h", **QUICK))
            here.scan(20)
            await until(lambda: len(first.readings) == len(here.expected))
            assert here.journal.pending("cloud") == [(1, 60)]  # taken, and not believed yet
            a.pause()
            here.scan(20)
            a.kill()
            await until(lambda: len(there.readings) == len(here.expected))
        assert there.readings == here.expected  # its definitions too: without them nothing is decoded
        here.scan(5)
        await until(lambda: len(there.readings) == len(here.expected))
        assert there.duplicates == 0
        assert not letters(here)
        assert here.up("cloud")


async def test_the_first_broker_is_gone_back_to_at_the_next_connection_only(tmp_path: Path) -> None:
    async with brokers(tmp_path) as (a, b), edge(tmp_path) as here, cloud(b) as there:
        a.kill()
        here.publish("cloud", PublisherOptions(url=[a.url, b.url], settle="0 s", **QUICK))
        here.scan(5)
        await here.acknowledged()
        a.start()
        async with cloud(a) as first:
            here.scan(5)
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert not first.readings
            b.kill()
            await until(lambda: "plantbridge/demo/status" in {message.topic for message in first.messages})
            here.scan(5)
            await here.acknowledged()
            await until(lambda: len(first.readings) == len(here.expected) // 3)
            assert not letters(here)


async def test_an_empty_broker_at_the_same_address_gets_the_definitions_again(tmp_path: Path) -> None:
    """A broker that was set up anew knows nothing: what is retained must come again, or nobody can read the data."""
    old, new = Mosquitto(tmp_path / "old", persistence=True), Mosquitto(tmp_path / "new", persistence=True)
    with old:
        async with edge(tmp_path) as here:
            async with cloud(old) as before:
                here.publish("cloud", options(old))
                here.scan(10)
                await here.acknowledged()
                await until(lambda: len(before.readings) == len(here.expected))
            old.kill()
            new.port = old.port
            here.scan(10)
            with new:
                async with cloud(new) as after:
                    here.scan(10)
                    await here.acknowledged()
                    await until(lambda: len(after.readings) == len(here.expected) * 2 // 3)
                    assert after.readings.items() <= here.expected.items()
                async with cloud(new) as late:  # comes when all is over: definitions are retained
                    await until(lambda: len(late._tables) == 3)
                assert not letters(here)


async def test_a_permission_that_is_taken_back_and_given_again_loses_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", acl=DATA + READER) as broker:
        async with cloud(broker, username="cloud") as there, edge(tmp_path) as here:
            with capture_logs() as logs:
                here.publish("cloud", options(broker, retry_longest="300 ms"))
                here.scan(10)
                await here.acknowledged()
                await until(lambda: len(there.readings) == len(here.expected))
                allow(broker, "topic write plantbridge/demo/status\n" + READER)
                await until(lambda: _refused(here))
                first = len(there.readings)
                here.scan(10)
                await here.journal.flush()
                await until(lambda: len(here.journal.pending("cloud")) > 0)
                allow(broker, DATA + READER)
                await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected
            assert first < len(here.expected)
            assert not letters(here)
            await until(lambda: here.health.report()["problems"] == [])
            assert 1 <= sum(each["log_level"] == "error" for each in logs) <= 4  # one a topic, and not one a message


def _refused(here: Edge) -> bool:
    here.scan(1)
    return "Not authorized" in str(here.health.report()["problems"])


@pytest.mark.parametrize("code", [0x97, 0x87, 0x80])
async def test_a_quota_that_is_used_up_or_a_refusal_for_now_keeps_the_readings_until_it_is_over(
    code: int, tmp_path: Path
) -> None:
    over = asyncio.Event()

    def answer(topic: str, _: bytes) -> int:
        return code if topic.endswith("/columns") and not over.is_set() else 0

    async with mqtt5(answer=answer) as peer, edge(tmp_path) as here:
        here.publish("cloud", PublisherOptions(url=peer.url, settle="0 s", unheard="deliver", **QUICK))
        here.scan(5)
        await until(lambda: sum(packet.count(b"columns") for packet in peer.packets) >= 3)
        await until(lambda: here.health.report()["problems"])
        assert here.journal.pending("cloud")
        over.set()
        await here.acknowledged()
        assert _decoded(peer) == here.expected
        assert not letters(here)


def _decoded(peer: Peer) -> dict[Any, Any]:
    reader = Cloud(MqttOptions(url=peer.url))
    for topic, payload in peer.taken:
        reader.take(_Arrived(topic, payload))  # type: ignore[arg-type]
    return reader.readings


class _Arrived:
    def __init__(self, topic: str, payload: bytes) -> None:
        self.topic, self.payload = topic, payload


async def test_messages_are_split_to_what_the_broker_takes_before_they_are_sent(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", lines=["max_packet_size 8000"]) as broker:
        async with cloud(broker) as there, edge(tmp_path) as here:
            here.scan(400)
            await here.journal.flush()
            here.publish("cloud", options(broker))
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected
            assert not letters(here)
            assert "Oversize" not in broker.log
            assert max(len(message.payload) for message in there.messages) < 8000


async def test_a_broker_that_ends_sessions_over_large_messages_without_naming_a_limit_gets_smaller_ones(
    tmp_path: Path,
) -> None:
    def answer(topic: str, payload: bytes) -> int | bytes:
        return disconnect(0x95) if topic.endswith("/columns") and len(payload) > 6000 else 0

    async with mqtt5(answer=answer) as peer, edge(tmp_path) as here:
        here.scan(400)
        await here.journal.flush()
        here.publish("cloud", PublisherOptions(url=peer.url, settle="0 s", unheard="deliver", **QUICK))
        await here.acknowledged()
        assert _decoded(peer) == here.expected
        assert not letters(here)


async def test_two_daemons_with_one_client_id_do_not_take_turns(tmp_path: Path) -> None:
    """A copied site file: the second says what is wrong, the first does not notice."""
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there, edge(tmp_path / "1") as one, edge(tmp_path / "2") as two:
            one.publish("cloud", options(broker))
            one.scan(1)
            await one.acknowledged()
            two.publish("cloud", options(broker, retry_longest="200 ms"))
            await until(lambda: "client id plantbridge-demo-cloud" in str(two.health.report()["problems"]))
            two.scan(5)
            one.scan(5)
            await one.acknowledged()
            await until(lambda: len(there.readings) == len(one.expected))
            assert one.up("cloud")
            assert broker.log.count("New client connected") == 2  # the reader and the first
            await one.stop()
            await two.acknowledged()  # it takes over when the first is gone
