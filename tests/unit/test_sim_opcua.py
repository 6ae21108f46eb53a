"""The simulated OPC UA server: what asyncua's client reads under each address is what the signals say."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import Client, ua

from gateway.config import load_site
from gateway.errors import NotConnected
from gateway.model import Link
from gateway.names import driver_spec
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


async def test_many_nodes_at_once_are_read_as_each_alone(link: Link) -> None:
    """Large reads are answered from prepared bytes: types, statuses, times, and what was written stay the same."""
    now = NOW
    async with asyncio.timeout(90), OpcuaServer(link, clock=lambda: now) as server:
        port = await server.start()
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            numbers = [each for each in server.index if server.variables[server.index[each]].row >= 0]
            nodes = (numbers * 12)[: max(12, 2 * len(numbers))]
            for step in range(4):
                now += 3 * TICK
                if step == 1:
                    server.spoil("nsu=urn:boiler;s=Pressure", ua.StatusCodes.BadSensorFailure)
                if step == 3:
                    power = await node_of(client, "nsu=urn:boiler;s=Power")
                    await power.write_value(ua.DataValue(ua.Variant(42.5, ua.VariantType.Double)))
                together = await client.uaclient.read_attributes(nodes, ua.AttributeIds.Value)
                alone = [(await client.uaclient.read_attributes([each], ua.AttributeIds.Value))[0] for each in nodes]
                told = [
                    [(one.Value, one.StatusCode.value, one.SourceTimestamp, one.ServerTimestamp) for one in each]
                    for each in (together, alone)
                ]
                assert told[0] == told[1]
                statuses = {status for _, status, _, _ in told[0]}
                assert statuses == ({0} if step < 1 else {0, int(ua.StatusCodes.BadSensorFailure)})
            assert any(found is not None for found in server.reads._known.values())


async def test_history_gives_what_was_shown_in_portions(link: Link) -> None:
    """A gateway that fills its gaps from history must get the very values that it would have been told."""
    now = NOW
    async with asyncio.timeout(60), OpcuaServer(link, clock=lambda: now) as server:
        port = await server.start()
        now += 400 * TICK
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            pressure = await node_of(client, "nsu=urn:boiler;s=Pressure")
            assert await pressure.read_attribute(ua.AttributeIds.Historizing)
            signal = signals(link)["boiler", "pressure"]
            assert signal is not None
            times = np.arange(401) * TICK + NOW
            values = signal.value(times)
            changed = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()]
            details = ua.ReadRawModifiedDetails(
                IsReadModified=False, StartTime=datetime.fromtimestamp(NOW / 1e9 - 60, UTC),
                EndTime=datetime.fromtimestamp(NOW / 1e9 + 3600, UTC), NumValuesPerNode=30, ReturnBounds=False,
            )  # fmt: skip
            asked = ua.HistoryReadValueId(NodeId=pressure.nodeid)
            found: list[tuple[float, int]] = []
            while True:
                parameters = ua.HistoryReadParameters(HistoryReadDetails=details, NodesToRead=[asked])
                (result,) = await client.uaclient.history_read(parameters)
                result.StatusCode.check()
                data = result.HistoryData.DataValues
                assert len(data) <= 30
                found += [(each.Value.Value, round(each.SourceTimestamp.timestamp() * 1e6)) for each in data]
                if not result.ContinuationPoint:
                    break
                asked = ua.HistoryReadValueId(NodeId=pressure.nodeid, ContinuationPoint=result.ContinuationPoint)
            assert found == [(values[n], round(times[n] / 1000)) for n in changed]
            with pytest.raises(ua.UaStatusCodeError, match="History"):
                await (await node_of(client, "nsu=urn:boiler;s=Power")).read_raw_history()  # writable: keeps none


async def test_ranges_and_states_are_properties_of_the_node(link: Link) -> None:
    async with asyncio.timeout(60), OpcuaServer(link, clock=lambda: NOW) as server:
        port = await server.start()
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            pressure = await node_of(client, "nsu=urn:boiler;s=Pressure")
            range_ = await (await pressure.get_child("0:EURange")).read_value()
            assert (range_.Low, range_.High) == (0.0, 16.0)
            mode = await node_of(client, "nsu=urn:boiler;s=Mode")
            states = await (await mode.get_child("0:EnumValues")).read_value()
            assert [(each.Value, each.DisplayName.Text) for each in states] == [(0, "off"), (1, "on"), (5, "fault")]


async def test_a_subscription_s_deadband_sampling_and_statuses_are_kept(link: Link) -> None:
    now = NOW
    seen: dict[str, list[ua.DataValue]] = {"count": [], "slow": [], "wide": []}

    class Notes:
        def __init__(self, name: str) -> None:
            self.name = name

        def datachange_notification(self, _node: Any, _value: Any, data: Any) -> None:
            seen[self.name].append(data.monitored_item.Value)

    async with asyncio.timeout(90), OpcuaServer(link, clock=lambda: now) as server:
        port = await server.start()
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            total = await node_of(client, "nsu=urn:meter;s=Total")
            pressure = await node_of(client, "nsu=urn:boiler;s=Pressure")
            count = await client.create_subscription(20, Notes("count"))
            await count.subscribe_data_change(total, queuesize=1000, sampling_interval=0)
            slow = await client.create_subscription(20, Notes("slow"))
            await slow.subscribe_data_change(total, queuesize=1000, sampling_interval=1000)
            wide = await client.create_subscription(20, Notes("wide"))
            await wide.deadband_monitor(pressure, 4, deadbandtype=1, queuesize=1000)
            for _ in range(20):
                number = len(seen["count"])
                now += TICK
                while len(seen["count"]) == number:
                    await asyncio.sleep(0.01)
            server.spoil("nsu=urn:boiler;s=Pressure", ua.StatusCodes.BadSensorFailure)
            now += TICK
            while not seen["wide"] or seen["wide"][-1].StatusCode.is_good():
                await asyncio.sleep(0.01)
    assert 2 <= len(seen["slow"]) <= 4  # 20 ticks of 100 ms, looked at each second
    good = [each.Value.Value for each in seen["wide"] if each.StatusCode.is_good()]
    assert all(abs(b - a) > 4 for a, b in pairwise(good)), good
    assert seen["wide"][-1].StatusCode.value == ua.StatusCodes.BadSensorFailure


async def test_policies_certificate_and_user_are_those_of_the_link(tmp_path: Path) -> None:
    """What the site file says about security can be tried without the plant, down to trusting the certificate."""
    (tmp_path / "site.yaml").write_text("""
gateway: test
links:
  house:
    driver: opcua
    url: opc.tcp://127.0.0.1:4840
    security_policy: Basic256Sha256
    user: operator
    password: secret
    devices: {boiler: {mode: read, tags: {level: ns=2;s=Level int16}}}
publish: {cloud: {url: "mqtt://127.0.0.1"}}
""")
    link = load_site(tmp_path / "site.yaml").links[0]
    async with asyncio.timeout(90), OpcuaServer(link, pki=tmp_path / "simulator-pki") as server:
        url = f"opc.tcp://127.0.0.1:{await server.start()}"

        async def read(**options: Any) -> Any:
            here = link.options.model_copy(update={"url": url, **options})
            driver = driver_spec("opcua").open(replace(link, options=here))
            try:
                await driver.connect()
                (batch,) = await driver.read(driver.plan(link.tables))
                return batch.quality.tolist()
            finally:
                await driver.close()

        with pytest.raises(NotConnected, match="is not known"):
            await read()
        trusted = tmp_path / "pki" / "trusted"
        trusted.mkdir(exist_ok=True, parents=True)
        shutil.copy(tmp_path / "simulator-pki" / "own" / "cert.der", trusted / "simulator.der")
        assert await read() == [0]
        with pytest.raises(NotConnected):
            await read(password="wrong")
        with pytest.raises(NotConnected):
            await read(user=None, password=None)
