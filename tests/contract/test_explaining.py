"""What drivers tell of a tag's last answer is what they gave as its reading: never a better story than the data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from opcua_server import NAMESPACE, Listener, Plant, driver, plant

from gateway import quality as q
from gateway.contracts import Answer, Explaining
from gateway.names import driver_spec
from simulators.modbus import ModbusServer
from tests.modbus_links import link_to

pytestmark = pytest.mark.asyncio(loop_scope="module")
SUBSCRIBED: dict[str, Any] = {"mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s"}
READ: dict[str, Any] = {"mode": "read"}
ADDRESSES: list[Any] = [
    f"nsu={NAMESPACE};s={each}" for each in ("Level", "Level bool", "Gone", "Text text", "Big uint64")
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        await running.add("Level", 1.5, ua.VariantType.Double)
        await running.add("Text", "an")
        await running.add("Big", 2**63, ua.VariantType.UInt64)
        yield running


def all_of(opened: Explaining, plan: Any) -> dict[str, Answer]:
    return {
        tag.name: opened.explain(plan, number, row)
        for number, table in enumerate(plan.tables)
        for row, tag in enumerate(table.tags)
    }


async def test_a_polled_node_is_told_as_it_was_read(served: Plant) -> None:
    async with driver(served.url, ADDRESSES, device=READ) as (opened, plan):
        assert isinstance(opened, Explaining)
        assert all_of(opened, plan)["t0"].note == "nothing has come yet"
        given = {
            batch.table.tags[row].name: (value, code)
            for batch in await opened.read(plan)
            for row, (value, code) in enumerate(zip(batch.value.tolist(), batch.quality.tolist(), strict=True))
        }
        told = all_of(opened, plan)
    assert {name: answer.quality for name, answer in told.items()} == {name: code for name, (_, code) in given.items()}
    assert told["t0"].value == 1.5
    assert told["t0"].data.startswith("Double 1.5, status Good, source time 20")
    assert "sends Double, which this tag's type does not hold" in told["t1"].note
    assert told["t2"].quality == q.BAD_NODE_ID_UNKNOWN
    assert told["t3"].value == "an"
    assert told["t4"].value == 2**63


async def test_a_subscribed_node_is_told_as_it_was_reported(served: Plant) -> None:
    async with driver(served.url, ADDRESSES, device=SUBSCRIBED) as (opened, plan):
        assert isinstance(opened, Explaining)
        assert all_of(opened, plan)["t0"].note == "nothing is subscribed yet"
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == len(ADDRESSES))
            given, told = listener.last(), all_of(opened, plan)
    for name in ("t0", "t1", "t2", "t4"):
        assert told[name].quality == given[name][1], name
    assert (told["t0"].value, told["t1"].value, told["t4"].value) == (1.5, None, 2**63)
    assert "sends Double" in told["t1"].note
    assert told["t2"].note == "the server refuses to monitor it: BadNodeIdUnknown"
    assert told["t3"].value is None
    assert "values of this type are not kept" in told["t3"].note


async def test_registers_are_told_as_they_came_and_a_refused_one_as_refused() -> None:
    tags = {"pressure": "holding:0 float32 CDAB", "gone": "holding:2 uint16", "level": "holding:3 uint16"}
    async with ModbusServer(link_to("tcp://127.0.0.1:1", tags)) as server:
        server.faults[1].refused.add(("holding", 2))
        link = link_to(f"tcp://127.0.0.1:{await server.listen()}", tags)
        opened = driver_spec("modbus").open(link)
        assert isinstance(opened, Explaining)
        plan = opened.plan(link.devices[0].groups[0].tables)
        assert all_of(opened, plan)["pressure"].note == "not asked for yet"
        try:
            await opened.connect()
            (batch,) = await opened.read(plan)
            told = all_of(opened, plan)
        finally:
            await opened.close()
    assert told["pressure"].value == batch.value[0]
    assert told["pressure"].time == batch.time[0]
    assert len(bytes.fromhex(told["pressure"].data)) == 4
    assert told["gone"].quality == batch.quality[1] == q.BAD_CONFIGURATION_ERROR
    assert "refuses this address" in told["gone"].note
    assert told["level"].value == batch.value[2]
