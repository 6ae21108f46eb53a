"""Parts of values, read and reported: elements and slices of arrays, fields of structures; a deadband of EURange."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.structures104 import new_struct, new_struct_field
from asyncua.server.monitored_item_service import MonitoredItemService
from opcua_server import NAMESPACE, Plant, driver, plant, rows
from test_opcua_subscribe import Listener

from gateway import quality as q

pytestmark = pytest.mark.asyncio(loop_scope="module")
V = ua.VariantType
SUBSCRIBE: dict[str, Any] = {"mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s"}
BAD_INDEX_RANGE_NO_DATA = 0x80370000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        speed, _ = await new_struct(
            running.server, running.index, "PumpSpeed", [new_struct_field("actual", V.Float)],
        )  # fmt: skip
        await new_struct(
            running.server, running.index, "Pump",
            [new_struct_field("speed", speed), new_struct_field("on", V.Boolean)],
        )  # fmt: skip
        await running.server.load_data_type_definitions()
        await running.add("Pump", ua.Pump(speed=ua.PumpSpeed(actual=1.5), on=True))
        await running.add("Curve", [float(number) for number in range(8)], V.Double)
        await running.add("Names", ["a", "b", "c"], V.String)
        await running.add("Big", [1, 2**63 + 1], V.UInt64)
        await running.add("Flags", [True, False], V.Boolean)
        for name in ("Ranged", "Free"):
            await running.add(name, 50.0, V.Double)
        await running.nodes["Ranged"].add_property(0, "EURange", ua.Range(Low=0.0, High=200.0))
        yield running


Seen = Callable[[Callable[[dict[str, Any]], bool]], Any]


@contextlib.asynccontextmanager
async def seen(served: Plant, mode: str, addresses: list[Any]) -> AsyncIterator[Seen]:
    """Give a function that waits until what was read, or reported, fits."""
    options = {"mode": "read"} if mode == "read" else SUBSCRIBE
    async with contextlib.AsyncExitStack() as stack:
        opened, plan = await stack.enter_async_context(driver(served.url, addresses, device=options))
        if mode == "read":

            async def read(fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
                found = rows(await opened.read(plan))
                assert fits(found)
                return found

            yield read
            return
        listener = await stack.enter_async_context(Listener(opened, plan))

        async def reported(fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            await listener.until(lambda: fits(listener.last()))
            return listener.last()

        yield reported


@pytest.mark.parametrize("mode", ["read", "subscribe"])
async def test_elements_slices_and_whole_arrays_follow_the_array(served: Plant, mode: str) -> None:
    node = f"nsu={NAMESPACE};s="
    addresses = [
        f"{node}Curve [3]", f"{node}Curve [2:5]", f"{node}Curve text", f"{node}Names [1] text", f"{node}Big [1] uint64",
        f"{node}Flags [0] bool", f"{node}Names [0]", f"{node}Curve",
    ]  # fmt: skip
    async with seen(served, mode, addresses) as until:
        found = await until(lambda found: len(found) == 11)
        assert found["t0"][:2] == (3.0, 0)
        assert [found[f"t1[{n}]"][:2] for n in range(2, 6)] == [(2.0, 0), (3.0, 0), (4.0, 0), (5.0, 0)]
        assert found["t2"][0] == "[0.0,1.0,2.0,3.0,4.0,5.0,6.0,7.0]"
        assert (found["t3"][0], found["t4"][0], found["t5"][0]) == ("b", 2**63 + 1, True)
        assert (found["t6"][1], found["t7"][1]) == (q.BAD_TYPE_MISMATCH, q.BAD_TYPE_MISMATCH)
        await served.change("Curve", [10.0, 11.0, 12.0, 13.0])  # shorter: what is not there any more is Bad
        found = await until(lambda found: found["t0"][0] == 13.0)
        assert [found[f"t1[{n}]"][1] for n in range(2, 6)] == [0, 0, *[BAD_INDEX_RANGE_NO_DATA] * 2]
        await served.change("Curve", [float(number) for number in range(8)])
        await until(lambda found: found["t1[5]"][:2] == (5.0, 0))


@pytest.mark.parametrize("mode", ["read", "subscribe"])
async def test_a_server_that_ignores_index_ranges_gives_the_right_elements(served: Plant, mode: str) -> None:
    """As the library's does. Three elements are asked for, and an array of three comes: it is not them."""
    async with seen(served, mode, [f"nsu={NAMESPACE};s=Curve [2:4]"]) as until:
        found = await until(lambda found: len(found) == 3)
        assert [found[f"t0[{n}]"][:2] for n in range(2, 5)] == [(2.0, 0), (3.0, 0), (4.0, 0)]
        await served.change("Curve", [10.0, 11.0, 12.0])
        found = await until(lambda found: found["t0[2]"][0] == 12.0)
        assert [found[f"t0[{n}]"][1] for n in (3, 4)] == [BAD_INDEX_RANGE_NO_DATA] * 2
        await served.change("Curve", [float(number) for number in range(8)])


@pytest.mark.parametrize("mode", ["read", "subscribe"])
async def test_fields_of_structures_follow_the_structure(served: Plant, mode: str) -> None:
    node = f"nsu={NAMESPACE};s=Pump"
    async with seen(served, mode, [f"{node} #speed.actual float", f"{node} #on bool", f"{node} #speed.none"]) as until:
        found = await until(lambda found: len(found) == 3)
        assert (found["t0"][:2], found["t1"][:2], found["t2"][1]) == ((1.5, 0), (True, 0), 0x806F0000)
        pump = ua.Pump(speed=ua.PumpSpeed(actual=2.5), on=False)
        await served.change("Pump", pump, V.ExtensionObject)
        found = await until(lambda found: found["t0"][0] == 2.5)
        assert found["t1"][:2] == (False, 0)
        await served.change("Pump", pump, V.ExtensionObject, status=0x808C0000)
        await until(lambda found: found["t0"][1] == found["t1"][1] == 0x808C0000)
        await served.change("Pump", ua.Pump(speed=ua.PumpSpeed(actual=1.5), on=True), V.ExtensionObject)


@pytest.fixture
def percent(monkeypatch: pytest.MonkeyPatch, served: Plant) -> None:
    """Let the library's server do what Part 8, 6.2 says of a percent deadband; it takes and ignores it."""
    ranges = {served.nodes["Ranged"].nodeid: 200.0}
    create, exceeded = (
        MonitoredItemService._create_data_change_monitored_item,
        MonitoredItemService._is_deadband_exceeded,
    )

    def is_percent(filter_: Any) -> bool:
        return getattr(filter_, "DeadbandType", None) == ua.DeadbandType.Percent

    async def checked(self: Any, params: ua.MonitoredItemCreateRequest) -> ua.MonitoredItemCreateResult:
        if is_percent(params.RequestedParameters.Filter) and params.ItemToMonitor.NodeId not in ranges:
            refusal = ua.StatusCode(ua.StatusCodes.BadMonitoredItemFilterUnsupported)
            return ua.MonitoredItemCreateResult(StatusCode=refusal)
        return await create(self, params)

    def beyond(self: Any, values: Any, filter_: Any) -> bool:
        old, new = values.get_old_datavalue(), values.get_current_datavalue()
        if not is_percent(filter_) or old is None:
            return exceeded(self, values, filter_)
        moved = abs(new.Value.Value - old.Value.Value) > filter_.DeadbandValue / 100 * 200.0
        if not moved:
            values.current_dvalue = old  # what was reported last is what counts
        return bool(moved)

    monkeypatch.setattr(MonitoredItemService, "_create_data_change_monitored_item", checked)
    monkeypatch.setattr(MonitoredItemService, "_is_deadband_exceeded", beyond)


@pytest.mark.usefixtures("percent")
async def test_a_percent_deadband_is_the_server_s_where_it_has_a_range(served: Plant) -> None:
    """2 % of 200 is 4. A node without EURange is reported in full rather than not at all, and the plan says so."""
    options = {**SUBSCRIBE, "server_deadband": "2 %", "queue_size": 100}
    addresses: list[Any] = [f"nsu={NAMESPACE};s=Ranged", f"nsu={NAMESPACE};s=Free"]
    async with driver(served.url, addresses, device=options) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 2)
            for value in (53.0, 54.0, 54.5, 58.0, 59.0):
                await served.change("Ranged", value)
                await served.change("Free", value)
            await listener.until(lambda: listener.last()["t1"][0] == 59.0)
            assert listener.values("t1") == [50.0, 53.0, 54.0, 54.5, 58.0, 59.0]
            await served.change("Ranged", 70.0)
            await listener.until(lambda: listener.last()["t0"][0] == 70.0)
            assert listener.values("t0") == [50.0, 54.5, 59.0, 70.0]
        told = {(each.what, each.got) for each in await opened.agree([plan])}
        assert ("filter", "not taken for 1 nodes") in told


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [("status", [50.0, 52.0]), ("value", [50.0, 51.0, 52.0, 52.0]), ("timestamp", [50.0, 51.0, 51.0, 52.0, 52.0])],
)
async def test_the_trigger_says_what_counts_as_a_change(served: Plant, trigger: str, expected: list[float]) -> None:
    options = {**SUBSCRIBE, "trigger": trigger, "queue_size": 100}
    await served.change("Free", 50.0)
    async with driver(served.url, [f"nsu={NAMESPACE};s=Free"], device=options) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            await served.change("Free", 51.0)
            await served.change("Free", 51.0)
            if trigger != "status":
                await served.change("Free", 52.0)
            await served.change("Free", 52.0, status=0x40900000)
            await listener.until(lambda: listener.last()["t0"][1] == 0x40900000)
            assert listener.values("t0") == expected


async def test_items_are_asked_for_a_thousand_at_once_and_several_publish_requests_wait(
    served: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server names no limit. A server that has one request only is silent while its answer is on the way."""
    sizes: list[int] = []
    create = MonitoredItemService.create_monitored_items

    async def noted(self: Any, params: Any) -> Any:
        sizes.append(len(params.ItemsToCreate))
        return await create(self, params)

    monkeypatch.setattr(MonitoredItemService, "create_monitored_items", noted)
    await served.change("Free", 50.0)
    addresses: list[Any] = [f"nsu={NAMESPACE};s=Free", *(f"nsu={NAMESPACE};s=No{number}" for number in range(1099))]
    async with driver(served.url, addresses, device=SUBSCRIBE) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 1100)
            assert sizes == [1000, 100]
            qualities = [entry[1] for entry in listener.last().values()]
            assert qualities.count(0) == 1  # and 1,099 bad neighbours
            await listener.until_true(lambda: len(opened._watcher._outstanding) >= 3)
