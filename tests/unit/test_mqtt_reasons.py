"""What goes with a message under MQTT 5, and what is made of what a broker answers."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.contracts import Delivery
from gateway.errors import SinkUnavailable
from gateway.model import Message
from gateway.mqtt import Connection, Envelope
from gateway.options import MqttOptions, PublisherOptions
from gateway.sinks.mqtt import MqttSink
from tests.fakes.mqtt5 import disconnect, mqtt5, text
from tests.servers import Mosquitto, mosquitto
from tests.unit.test_mqtt_connection import Inbox, connected, refusal, speaking, until

__all__ = ["mosquitto"]

TOPIC_ALIAS_MAXIMUM, MAXIMUM_PACKET_SIZE, SERVER_REFERENCE, RECEIVE_MAXIMUM = 0x22, 0x27, 0x1C, 0x21


def sink_to(url: str, **more: Any) -> MqttSink:
    return MqttSink("cloud", PublisherOptions(url=url, **{"unheard": "deliver", **more}), "demo")


def message(payload: bytes = b"x", topic: str = "plant/a", **more: Any) -> Message:
    return Message(topic, payload, 1, 1, more.pop("readings", 1), **more)


# ------------------------------------------------------------------------------------------------ properties


async def test_expiry_content_type_and_user_properties_reach_the_subscriber(mosquitto: Mosquitto) -> None:
    got: list[Any] = []
    ready, more = threading.Event(), threading.Event()
    reader = paho.Client(CallbackAPIVersion.VERSION2, "reader", protocol=paho.MQTTv5)
    reader.on_subscribe = lambda *_: ready.set()

    def take(_client: Any, _data: Any, arrived: Any) -> None:
        got.append(arrived)
        if len(got) == 2:
            more.set()

    reader.on_message = take
    reader.connect("127.0.0.1", mosquitto.port)
    reader.loop_start()
    try:
        reader.subscribe("plant/#", 1)
        assert await asyncio.to_thread(ready.wait, 30)
        sink = sink_to(
            mosquitto.url, message_expiry="10 min", content_type="application/json", user_properties={"site": "north"}
        )
        await sink.connect()
        await sink.send(message(properties={"batch": "7"}))
        await sink.send(message(retain=True))
        await sink.close()
        assert await asyncio.to_thread(more.wait, 30)
    finally:
        reader.loop_stop()
        reader.disconnect()
    first, second = (each.properties for each in got)
    assert first.ContentType == second.ContentType == "application/json"
    assert first.UserProperty == [("site", "north"), ("batch", "7")]
    assert 590 <= first.MessageExpiryInterval <= 600
    assert not hasattr(second, "MessageExpiryInterval")  # what is retained is for whoever comes later


@pytest.mark.parametrize("given", [{"message_expiry": "1 h"}, {"content_type": "a/b"}, {"user_properties": {"a": "b"}}])
def test_properties_of_mqtt_5_are_refused_under_3_1_1(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need MQTT 5"):
        PublisherOptions(url="mqtt://b", version="3.1.1", **given)
    PublisherOptions(url="mqtt://b", **given)


async def test_a_topic_is_sent_once_and_its_alias_after_that() -> None:
    async with mqtt5(properties=bytes([TOPIC_ALIAS_MAXIMUM, 0, 1])) as peer:
        async with connected(peer.url) as connection:
            for topic in ("long/topic/one", "long/topic/two") * 3:
                assert not (await connection.publish(topic, b"x", timeout=20)).refused
            await connection.publish("long/topic/one", b"retained", retain=True, timeout=20)
        assert [topic for topic, _ in peer.taken] == ["long/topic/one", "long/topic/two"] * 3 + ["long/topic/one"]
        carried = [packet[2 : 2 + packet[1]] for packet in peer.packets]
        one, two = b"long/topic/one", b"long/topic/two"
        assert carried == [one, two, b"", two, b"", two, one]


async def test_aliases_are_for_one_session_and_a_real_broker_understands_them(mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    async with connected(mosquitto, "reader", on_message=inbox) as reader:
        inbox.acknowledge = reader.acknowledge
        await reader.subscribe(["t/#"], timeout=20)
        topics = [f"t/{n}" for n in range(15)] * 3  # mosquitto takes ten aliases
        for _ in range(2):
            async with connected(mosquitto, "writer") as writer:
                await asyncio.gather(*(writer.publish(topic, topic.encode(), timeout=20) for topic in topics))
        arrived = await inbox.wait(len(topics) * 2)
        assert [each.topic for each in arrived] == topics * 2
        assert all(each.payload == each.topic.encode() for each in arrived)


async def test_a_topic_whose_first_message_was_refused_is_sent_in_full_again() -> None:
    codes = iter([0x87, 0, 0])
    async with mqtt5(properties=bytes([TOPIC_ALIAS_MAXIMUM, 0, 9]), answer=lambda *_: next(codes)) as peer:
        async with connected(peer.url) as connection:
            assert (await connection.publish("a/b", b"x", timeout=20)).refused
            for _ in range(2):
                await connection.publish("a/b", b"y", timeout=20)
        assert [packet[1] for packet in peer.packets] == [3, 3, 0]
        assert peer.taken == [("a/b", b"y")] * 2


# ------------------------------------------------------------------------------------------------ reason codes


@pytest.mark.parametrize(
    ("code", "words", "act"),
    [
        (0x84, "set version: 3.1.1", True),
        (0x85, "set client_id", True),
        (0x86, "check username and password", True),
        (0x87, "not authorised", True),
        (0x88, "not ready", False),
        (0x89, "overloaded", False),
        (0x8A, "banned", True),
        (0x97, "quota", False),
        (0x9C, "another server for now: other.example:1883", False),
        (0x9D, "moved for good: other.example:1883: change url", True),
        (0x9F, "too many connections", False),
    ],
)
async def test_a_refused_connection_says_what_to_do_and_whether_it_will_pass(code: int, words: str, act: bool) -> None:
    reference = text(SERVER_REFERENCE, "other.example:1883") if code in (0x9C, 0x9D) else b""
    async with mqtt5(connack=bytes([code]), properties=reference) as peer:
        connection = Connection(MqttOptions(url=peer.url), client_id="t")
        with pytest.raises(SinkUnavailable) as caught:
            await connection.open()
        assert words in str(caught.value)
        assert connection.act is act


@pytest.mark.parametrize(
    ("code", "words", "act"),
    [
        (0x87, "not authorised", True),
        (0x8B, "shutting down", False),
        (0x8E, "took over the session", True),
        (0x93, "more messages were under way", False),
        (0x95, "lower max_message", False),
        (0x9C, "another server for now: b2", False),
        (0x9D, "moved for good: b2", True),
    ],
)
async def test_a_session_that_the_broker_ends_says_why(code: int, words: str, act: bool) -> None:
    said = disconnect(code, text(SERVER_REFERENCE, "b2") if code in (0x9C, 0x9D) else b"")
    async with mqtt5(answer=lambda topic, _: 0 if topic.endswith("status") else said) as peer:
        sink = sink_to(peer.url)
        await sink.connect()
        with pytest.raises(SinkUnavailable):
            await sink.send(message())
        assert words in await sink.peer.ended()
        assert (sink.peer.act, sink.peer.overrun) == (act, code == 0x95)
        await sink.close()


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (0x00, Delivery.ACCEPTED),
        (0x10, Delivery.ACCEPTED),
        (0x80, Delivery.NOT_NOW),
        (0x83, Delivery.NOT_NOW),
        (0x87, Delivery.NOT_NOW),
        (0x90, Delivery.REJECTED),
        (0x99, Delivery.REJECTED),
        (0x91, None),
        (0x97, None),
    ],
)
async def test_what_a_broker_answers_to_a_message_is_taken_kept_set_aside_or_waited_for(
    code: int, wanted: Delivery | None
) -> None:
    """Only what no broker would ever take may leave the journal without having been taken."""
    async with mqtt5(answer=lambda topic, _: 0 if topic.endswith("status") else code) as peer:
        sink = sink_to(peer.url)
        await sink.connect()
        if wanted is None:
            with pytest.raises(SinkUnavailable, match="takes no more now"):
                await sink.send(message())
            assert not sink.peer.act
        else:
            assert await sink.send(message()) is wanted
        if code == 0x87:
            with pytest.raises(SinkUnavailable, match="Not authorized"):
                await sink.send(message(retain=True, readings=0))  # a definition: nothing can be read without
            assert sink.peer.act
        await sink.close()


async def test_the_brokers_limits_are_known_before_anything_is_sent() -> None:
    limit = bytes([MAXIMUM_PACKET_SIZE, 0, 0, 0x10, 0, RECEIVE_MAXIMUM, 0, 2])
    async with mqtt5(properties=limit) as peer:
        sink = sink_to(peer.url, user_properties={"site": "n" * 100})
        await sink.connect()
        assert 0 < sink.peer.largest < 4096 - 100
        assert await sink.send(message(b"x" * sink.peer.largest)) is Delivery.ACCEPTED
        packets = len(peer.packets)
        assert await sink.send(message(b"x" * 4096)) is Delivery.REJECTED
        assert len(peer.packets) == packets
        assert all(len(packet) + 3 <= 4096 for packet in peer.packets)
        await sink.close()


async def test_no_more_messages_are_under_way_than_the_broker_takes() -> None:
    release = asyncio.Event()
    async with mqtt5(
        properties=bytes([RECEIVE_MAXIMUM, 0, 3]), answer=lambda *_: b"" if not release.is_set() else 0
    ) as peer:
        async with connected(peer.url) as connection:
            sending = [asyncio.ensure_future(connection.publish("a", b"x", timeout=1)) for _ in range(8)]
            await until(lambda: len(peer.packets) == 3)
            connection.ask()
            before = connection.heard
            await until(lambda: connection.heard > before)  # an answer to a later question: no fourth came before it
            assert len(peer.packets) == 3
            await asyncio.gather(*sending, return_exceptions=True)


# ------------------------------------------------------------------------------------------------ sessions


async def test_sessions_that_are_cut_off_again_and_again_name_their_likely_cause(mosquitto: Mosquitto) -> None:
    """mosquitto 2.0 says nothing when a session is taken over; the reason must all the same be in the health."""
    sink = sink_to(mosquitto.url)
    for time in (1, 2, 3):
        await sink.connect()
        await sink.send(message())
        other = Connection(MqttOptions(url=mosquitto.url), client_id="plantbridge-demo-cloud", exclusive=False)
        await other.open()
        reason = await sink.peer.ended()
        await other.close()
        await sink.close()
        assert ("another client connected with the client id plantbridge-demo-cloud" in reason) is (time == 3)
        assert sink.peer.act is (time == 3)


async def test_a_broker_that_lets_us_in_and_no_more_is_left_for_the_next_of_the_list(mosquitto: Mosquitto) -> None:
    async with mqtt5(answer=lambda topic, _: 0 if topic.endswith("status") else disconnect(0x89)) as peer:
        sink = sink_to([peer.url, mosquitto.url])  # type: ignore[arg-type]
        await sink.connect()
        with pytest.raises(SinkUnavailable):
            await sink.send(message())
        await sink.close()
        await sink.connect()
        assert await sink.send(message()) is Delivery.ACCEPTED
        await sink.close()
        sessions = peer.sessions
        await sink.connect()  # that one worked: the next connection begins with the first again
        await sink.close()
        assert peer.sessions == sessions + 1


async def test_a_peer_that_is_no_broker_is_told_by_its_name() -> None:
    async with speaking(b"220 mail.example ESMTP\r\n" * 5) as url:
        assert url in await refusal(url, connect_timeout="5 s")


async def test_an_envelope_is_left_out_under_3_1_1(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        envelope = Envelope(60, "a/b", {"c": "d"})
        async with connected(broker, version="3.1.1", envelope=envelope) as connection:
            assert not (await connection.publish("a", b"x", timeout=20)).refused
