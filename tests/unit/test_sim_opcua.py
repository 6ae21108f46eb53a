"""The simulated OPC UA server: what asyncua's client reads under each address is what the signals say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import Client, ua

from gateway.config import load_site
from gateway.model import Link
from simulators.opcua import OpcuaServer, signals
from simulators.signals import TICK

NOW = 1_764_000_000_000_000_000
SITE = """
gateway: test
links:
  house:
    driver: opcua
    url: opc.tcp://127.0.0.1:4840
    devices:
      boiler:
        namespace: urn:boiler
        tags:
          pressure: {address: s=Pressure float32, unit: bar, min: 0, max: 16}
          level: ns=4;i=77 int16
          total: nsu=urn:meter;s=Total uint64
          count: g=09087e75-8e5e-499b-954f-f2a9603db28a int64
          raw: b=AAEC uint8
          on: s=On bool
          batch: s=Batch text
          since: s=Since datetime
          id: s=Id guid
          blob: s=Blob bytestring
          path: /Objects/2:Plant/2:House 1/3:T1 double
          profile: s=Profile [0:3] int32
          later: s=Profile [5] int32
          clock: ns=0;i=2258 datetime
          again: {address: s=Pressure float32, scale: 2}
          otherwise: s=Pressure int32
          mode: {address: s=Mode uint16, states: {0: off, 1: on, 5: fault}}
        groups:
          slow: {interval: 10 s, tags: {power: {address: s=Power double, writable: true}}}
publish: {cloud: {url: "mqtt://127.0.0.1"}}
"""


@pytest.fixture
def link(tmp_path: Path) -> Link:
    (tmp_path / "site.yaml").write_text(SITE)
    return load_site(tmp_path / "site.yaml").links[0]


def raw(link: Link, tag: str) -> Any:
    signal = signals(link)["boiler", tag]
    assert signal is not None
    return signal.raw(np.array([NOW]))[0]


async def node_of(client: Client, address: str) -> Any:
    if address.startswith("/"):
        return await client.nodes.objects.get_child(address.split("/")[2:])
    prefix, _, name = address.rpartition(";")
    uri = prefix.removeprefix("nsu=") if prefix.startswith("nsu=") else ""
    index = await client.get_namespace_index(uri) if uri else int(prefix.removeprefix("ns="))
    return client.get_node(ua.NodeId.from_string(f"ns={index};{name}"))


async def test_a_client_reads_each_node_with_its_type_value_and_the_tick_as_source_time(link: Link) -> None:
    addresses = {
        "pressure": ("nsu=urn:boiler;s=Pressure", ua.VariantType.Float),
        "level": ("ns=4;i=77", ua.VariantType.Int16),
        "total": ("nsu=urn:meter;s=Total", ua.VariantType.UInt64),
        "count": ("nsu=urn:boiler;g=09087e75-8e5e-499b-954f-f2a9603db28a", ua.VariantType.Int64),
        "raw": ("nsu=urn:boiler;b=AAEC", ua.VariantType.Byte),
        "on": ("nsu=urn:boiler;s=On", ua.VariantType.Boolean),
        "batch": ("nsu=urn:boiler;s=Batch", ua.VariantType.String),
        "path": ("/Objects/2:Plant/2:House 1/3:T1", ua.VariantType.Double),
        "mode": ("nsu=urn:boiler;s=Mode", ua.VariantType.UInt16),
        "power": ("nsu=urn:boiler;s=Power", ua.VariantType.Double),
    }
    async with asyncio.timeout(60), OpcuaServer(link, clock=lambda: NOW + 7) as server:
        port = await server.start()
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            for tag, (address, type_) in addresses.items():
                value = await (await node_of(client, address)).read_data_value()
                assert (tag, value.Value.Value, value.Value.VariantType) == (tag, raw(link, tag), type_)
                assert value.SourceTimestamp == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=NOW / 1e9)
            profile = await (await node_of(client, "nsu=urn:boiler;s=Profile")).read_value()
            assert profile == [raw(link, f"profile[{n}]") for n in range(4)] + [0, raw(link, "later")]
            unit = await (await node_of(client, "nsu=urn:boiler;s=Pressure")).get_child("0:EngineeringUnits")
            assert (await unit.read_value()).DisplayName.Text == "bar"
            identity = await (await node_of(client, "nsu=urn:boiler;s=Id")).read_value()
            assert str(identity) == raw(link, "id")
            since = await (await node_of(client, "nsu=urn:boiler;s=Since")).read_value()
            assert f"{since:%Y-%m-%dT%H:%M:%S.%f}0Z" == raw(link, "since")


def test_tags_on_one_node_share_its_signal_and_what_cannot_be_compared_has_none(link: Link) -> None:
    shown = signals(link)
    pressure, again = shown["boiler", "pressure"], shown["boiler", "again"]
    assert pressure is not None
    assert again is not None
    times = np.arange(100) * TICK + NOW
    assert (again.value(times) == 2 * pressure.value(times)).all()
    assert shown["boiler", "otherwise"] is None
    assert shown["boiler", "clock"] is None


async def test_a_subscription_gets_each_change_with_its_tick(link: Link) -> None:
    now = NOW
    seen: asyncio.Queue[ua.DataValue] = asyncio.Queue()

    class Notes:
        def datachange_notification(self, _node: Any, _value: Any, data: Any) -> None:
            seen.put_nowait(data.monitored_item.Value)

    async with asyncio.timeout(60), OpcuaServer(link, clock=lambda: now) as server:
        port = await server.start()
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            subscription = await client.create_subscription(50, Notes())
            await subscription.subscribe_data_change(await node_of(client, "nsu=urn:meter;s=Total"), queuesize=100)
            signal = signals(link)["boiler", "total"]
            assert signal is not None
            for _ in range(3):
                value = await seen.get()
                moment = round(value.SourceTimestamp.timestamp() * 1e9)
                assert value.Value.Value == signal.raw(np.array([moment]))[0]
                now += TICK
            await subscription.delete()


async def test_a_written_value_stays_and_a_spoilt_node_says_so(link: Link) -> None:
    now = NOW
    async with asyncio.timeout(60), OpcuaServer(link, clock=lambda: now) as server:
        port = await server.start()
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            power = await node_of(client, "nsu=urn:boiler;s=Power")
            await power.write_value(ua.DataValue(ua.Variant(42.5, ua.VariantType.Double)))
            now += 50 * TICK
            assert await power.read_value() == 42.5
            server.spoil("nsu=urn:boiler;s=Pressure", ua.StatusCodes.BadSensorFailure)
            spoilt = await node_of(client, "nsu=urn:boiler;s=Pressure")
            value = await spoilt.read_data_value(raise_on_bad_status=False)
            assert value.StatusCode.value == ua.StatusCodes.BadSensorFailure
