"""A broker that takes what nobody listens to: MQTT 5 tells, and the journal keeps the readings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.contracts import Delivery
from gateway.errors import SinkUnavailable
from gateway.model import Message
from gateway.mqtt import Arrived, Connection
from gateway.options import MqttOptions, PublisherOptions
from gateway.sinks.mqtt import MqttSink
from tests.servers import Mosquitto, mosquitto

__all__ = ["mosquitto"]

READINGS = Message("plantbridge/demo/columns", b"...", 1, 1, 1)
TABLE = Message("plantbridge/demo/tables/j/1", b"{}", 0, 0, 0, retain=True)


@contextlib.asynccontextmanager
async def sink(broker: Mosquitto, **options: object) -> AsyncIterator[MqttSink]:
    made = MqttSink("cloud", PublisherOptions.model_validate({"url": broker.url, **options}), "demo")
    await made.connect()
    try:
        yield made
    finally:
        await made.close()


async def test_readings_that_nobody_is_subscribed_to_are_not_delivered(mosquitto: Mosquitto) -> None:
    """At go-live the gateway often runs before the cloud does."""
    async with sink(mosquitto) as made:
        assert await made.send(TABLE) is Delivery.ACCEPTED  # the broker retains it
        with pytest.raises(SinkUnavailable, match="nobody is subscribed"):
            await made.send(READINGS)


async def test_readings_for_a_subscriber_who_is_away_are_delivered(mosquitto: Mosquitto) -> None:
    arrived: list[Arrived] = []
    away = Connection(
        MqttOptions(url=mosquitto.url), client_id="ingest", clean=False, session_expiry=600, on_message=arrived.append
    )
    await away.open()
    await away.subscribe(["plantbridge/+/columns"], timeout=10)
    await away.close()
    async with sink(mosquitto) as made:
        assert await made.send(READINGS) is Delivery.ACCEPTED


@pytest.mark.parametrize("options", [{"unheard": "deliver"}, {"format": "json"}, {"version": "3.1.1"}])
async def test_where_it_is_meant_or_cannot_be_told_they_count_as_delivered(
    mosquitto: Mosquitto, options: dict[str, str]
) -> None:
    async with sink(mosquitto, **options) as made:
        assert await made.send(READINGS) is Delivery.ACCEPTED
