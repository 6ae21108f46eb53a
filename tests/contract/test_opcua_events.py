"""Events and alarms against a real server: each is a row per tag, none is lost in silence."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.server.monitored_item_service import MonitoredItemService
from opcua_events import Alarms, nanoseconds
from opcua_server import NAMESPACE, Listener, Proxy, driver, lose, losing, plant
from test_opcua_poller import Running, until

from drivers.opcua import subscribe
from drivers.opcua.driver import OpcuaDriver
from drivers.opcua.events import BAD_NOT_FOUND
from gateway import quality as q
from gateway.config import load_site
from gateway.contracts import PlannedRequest
from gateway.errors import ConfigError
from gateway.stores.duckdb import DuckdbStore
from gateway.stores.inquiry import read
from tests.memory_journal import MemoryJournal
from tests.native import block
from tests.polling import polling

pytestmark = pytest.mark.asyncio(loop_scope="module")
SAMPLE = Path(__file__).parents[2] / "drivers" / "opcua" / "sample-alarms.yaml"
OPTIONS: dict[str, Any] = {"publishing_interval": "50 ms", "events": {}}
FIELDS: list[Any] = [
    "event:SourceName", "event:Severity", "event:Message", "event:ActiveState/Id", "event:AckedState/Id",
    "event:ConditionName",
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Alarms]:
    async with plant() as running:
        await running.add("N", 1.0)
        yield await Alarms(running).start()


@pytest.fixture
def alarms(served: Alarms) -> Alarms:
    served.retained.clear()
    return served


def told(listener: Listener, name: str = "t5") -> list[Any]:
    """Give what a tag was, in the order of arrival, without the row by which the group began."""
    return [value for batch in listener.batches if q.BAD_NO_DATA not in batch.quality
            for tag, value in zip(batch.tag.tolist(), batch.value.tolist(), strict=True)
            if batch.table.names[tag] == name]  # fmt: skip


async def test_each_event_is_one_row_per_tag_at_its_own_time(alarms: Alarms) -> None:
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        assert {quality for _, quality, _ in listener.last().values()} == {q.BAD_NO_DATA}  # listens; nothing said yet
        await alarms.raise_alarm("High", 5, severity=700)
        await listener.until(lambda: told(listener) == ["High"])
        at = nanoseconds(5)
        assert listener.last() == {
            "t0": ("Boiler", 0, at), "t1": (700.0, 0, at), "t2": ("High is active", 0, at), "t3": (True, 0, at),
            "t4": (False, 0, at), "t5": ("High", 0, at),
        }  # fmt: skip
        await alarms.raise_alarm("High", 6, active=False, acked=True)
        await listener.until(lambda: told(listener) == ["High", "High"])
        assert (listener.last()["t3"], listener.last()["t4"]) == ((False, 0, at + 1000), (True, 0, at + 1000))


async def test_a_field_that_an_event_does_not_have_is_bad_and_not_the_last_one(alarms: Alarms) -> None:
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        await alarms.raise_alarm("High", 1)
        await alarms.event(tick=2)
        await listener.until(lambda: len(told(listener)) == 2)
        last = listener.last()
        assert last["t2"] == ("said", 0, nanoseconds(2))
        assert {last[name][1] for name in ("t3", "t4", "t5")} == {BAD_NOT_FOUND}
        assert last["t5"][0] == ""


async def test_events_of_one_time_do_not_overwrite_each_other(alarms: Alarms) -> None:
    """A store keeps one row per series and time: a PLC stamps a burst of alarms with the time of its cycle."""
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        for name in ("A", "B", "C"):
            await alarms.raise_alarm(name, 9)
        await listener.until(lambda: told(listener) == ["A", "B", "C"])
        times = sorted({moment for batch in listener.batches for moment in batch.time.tolist()})[:3]
        assert times == [nanoseconds(9), nanoseconds(9) + 1, nanoseconds(9) + 2]
        await opened._watcher._refresh()
        await listener.until(lambda: len(told(listener)) == 6)
        again = [batch.time[0] for batch in listener.batches if "t5" in batch.table.names][-3:]
        assert again == times  # told again, not anew


async def test_active_conditions_are_known_again_after_a_cut(alarms: Alarms) -> None:
    async with Proxy(alarms.plant.port) as proxy, driver(proxy.url, FIELDS, device=OPTIONS) as (opened, plan):
        await alarms.raise_alarm("Old", 1)
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: told(listener) == ["Old"])  # from before we came
            await lose(proxy, listener, opened)
        service = alarms.plant.server.iserver.subscription_service
        await service.delete_subscriptions(list(service.subscriptions))
        await alarms.raise_alarm("Meanwhile", 2)
        await alarms.raise_alarm("Missed", 3, active=False, acked=True)
        before = time.time_ns()
        await opened.connect()
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: told(listener) == ["Old", "Meanwhile"])
            (gap,) = listener.gaps
            assert gap.start < before < gap.end
            assert listener.last()["t5"][2] == nanoseconds(2)


async def test_events_of_a_short_cut_are_fetched(alarms: Alarms) -> None:
    async with Proxy(alarms.plant.port) as proxy, driver(proxy.url, FIELDS, device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 6)
            await lose(proxy, listener, opened)
        await alarms.raise_alarm("Missed", 3, active=False, acked=True)
        await opened.connect()
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: told(listener) == ["Missed"])
            assert not listener.gaps


async def test_severity_and_type_are_chosen_by_the_server(alarms: Alarms) -> None:
    wanted = {"severity": 600, "types": [f"i={ua.ObjectIds.AlarmConditionType}"]}
    options = {**OPTIONS, "events": wanted}
    async with driver(alarms.plant.url, FIELDS, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        await alarms.raise_alarm("Low", 1, severity=599)
        await alarms.event(tick=2, severity=900)
        await alarms.raise_alarm("High", 3, severity=600)
        await listener.until(lambda: bool(told(listener)))
        assert told(listener) == ["High"]


async def test_an_overflow_of_the_servers_queue_is_a_gap(alarms: Alarms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribe, "REFRESH_AGAIN", 0.0)
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await alarms.raise_alarm("Here", 1)
        await listener.until(lambda: "Here" in told(listener))
        seen = alarms.refreshes
        await alarms.event(ua.ObjectIds.EventQueueOverflowEventType, 2)
        await listener.until_true(lambda: bool(listener.gaps) and alarms.refreshes > seen)
        assert "overflow" in listener.gaps[0].reason


async def test_a_doubtful_condition_is_uncertain(alarms: Alarms) -> None:
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        await alarms.raise_alarm("Doubtful", 1, quality=0x40900000)
        await listener.until(lambda: told(listener) == ["Doubtful"])
        assert listener.last()["t3"] == (True, 0x40900000, nanoseconds(1))


async def test_a_notifier_without_events_concerns_its_group_only(alarms: Alarms) -> None:
    from opcua_server import link

    made = link(alarms.plant.url, {"bad": FIELDS, "good": FIELDS, "n": [f"nsu={NAMESPACE};s=N"]})
    groups = made.devices[0].groups
    spec = type(made.devices[0].options)
    notifiers = {"bad": f"nsu={NAMESPACE};s=N", "good": "i=2253"}
    for group in groups:
        events = {"notifier": notifiers[group.name]} if group.name in notifiers else None
        object.__setattr__(group, "options", spec.model_validate({**OPTIONS, "interval": "1 s", "events": events}))
    opened = OpcuaDriver(made)
    plans = [opened.plan(group.tables) for group in groups]
    await opened.connect()
    seen: dict[str, set[int]] = {}
    try:
        await alarms.raise_alarm("Here", 1)
        async for batch in opened.changes(plans):
            seen.setdefault(batch.table.group, set()).update(batch.quality.tolist())
            if 0 in seen.get("good", ()) and 0 in seen.get("n", ()):
                break
        assert seen["bad"] == {ua.StatusCodes.BadServiceUnsupported}
        agreed = {(each.group, each.what): each.got for each in await opened.agree(plans)}
        assert "BadServiceUnsupported" in agreed["bad", "events"]
        assert agreed["good", "events"].startswith("i=2253")
    finally:
        await opened.close()


async def test_values_and_events_do_not_mix(alarms: Alarms) -> None:
    for addresses, options in ((FIELDS, {}), ([*FIELDS, "i=2258"], OPTIONS)):
        with pytest.raises(ConfigError, match="event"):
            async with driver(alarms.plant.url, addresses, device=options):
                pass


async def test_a_plan_shows_the_events(alarms: Alarms) -> None:
    wanted = {"severity": 600, "types": ["i=2915"]}
    async with driver(alarms.plant.url, FIELDS, device={**OPTIONS, "events": wanted}) as (_, plan):
        text = "Events of i=2253 of type i=2915, severity 600 or more: 6 fields"
        assert plan.requests() == [PlannedRequest(text, 6, 6, 0.0)]


async def test_what_the_server_puts_in_a_field_s_place_is_its_quality(alarms: Alarms) -> None:
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        await alarms.raise_alarm(
            "Hidden", 1, without={"AckedState/Id": ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)}
        )
        await listener.until(lambda: told(listener) == ["Hidden"])
        assert listener.last()["t4"][1] == ua.StatusCodes.BadUserAccessDenied
        assert listener.last()["t3"][:2] == (True, 0)


async def test_conditions_are_asked_for_again_where_the_server_says_so(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribe, "REFRESH_AGAIN", 0.0)
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        seen = alarms.refreshes
        await alarms.event(ua.ObjectIds.RefreshRequiredEventType, 2)
        await listener.until_true(lambda: alarms.refreshes > seen)
        assert told(listener) == []  # neither that, nor the start and the end of a refresh, is a row


async def test_a_filter_that_the_server_cannot_do_is_done_here(alarms: Alarms, monkeypatch: pytest.MonkeyPatch) -> None:
    create = MonitoredItemService._create_events_monitored_item

    def refusing(self: Any, params: ua.MonitoredItemCreateRequest) -> ua.MonitoredItemCreateResult:
        if params.RequestedParameters.Filter.WhereClause.Elements:
            refusal = ua.StatusCode(ua.StatusCodes.BadFilterOperatorUnsupported)
            return ua.MonitoredItemCreateResult(StatusCode=refusal)
        return create(self, params)

    monkeypatch.setattr(MonitoredItemService, "_create_events_monitored_item", refusing)
    options = {**OPTIONS, "events": {"severity": 600}}
    async with driver(alarms.plant.url, FIELDS, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        await alarms.raise_alarm("Low", 1, severity=599)
        await alarms.raise_alarm("High", 2, severity=600)
        await listener.until(lambda: bool(told(listener)))
        assert told(listener) == ["High"]
    options = {**OPTIONS, "events": {"types": ["i=2915"]}}  # which types are subtypes, only the server knows
    async with driver(alarms.plant.url, FIELDS, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        assert {entry[1] for entry in listener.last().values()} == {ua.StatusCodes.BadFilterOperatorUnsupported}


async def test_a_notifier_that_has_no_events_yet_is_asked_again(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribe, "RETRY", 0.3)
    node = alarms.plant.server.nodes.objects
    options = {**OPTIONS, "events": {"notifier": "/Objects"}}
    await node.set_event_notifier([])
    async with driver(alarms.plant.url, FIELDS, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        assert listener.last()["t0"][1] == ua.StatusCodes.BadServiceUnsupported
        await node.set_event_notifier([ua.EventNotifier.SubscribeToEvents])
        await listener.until(lambda: listener.last()["t0"][1] == q.BAD_NO_DATA)


async def test_an_event_that_did_not_arrive_is_fetched_again(alarms: Alarms) -> None:
    """Republish: a notification of events that was lost on the way is not lost."""
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        await alarms.raise_alarm("First", 1)
        await listener.until(lambda: told(listener) == ["First"])
        dropped = losing(opened, lambda body: b"Second" in body)
        await alarms.raise_alarm("Second", 2)
        await listener.until_true(lambda: bool(dropped))
        await alarms.raise_alarm("Third", 3)
        await listener.until(lambda: len(told(listener)) == 3)
        assert told(listener) == ["First", "Second", "Third"]
        assert not listener.gaps


async def test_the_simulator_leaves_events_out() -> None:
    """A site with alarms can be tried without the plant: its values are simulated."""
    from simulators.opcua import OpcuaServer

    (link,) = load_site(SAMPLE).links
    async with OpcuaServer(link) as server:
        await server.start()
        assert [variable.tag.name for variable in server.variables] == ["steam-temperature"]


async def test_the_gateway_stores_each_alarm_once_through_a_cut(alarms: Alarms, tmp_path: Path) -> None:
    """Poller and pipeline as they run: a Bad row for the cut, then that it listens again, then what is active."""
    (tmp_path / "site.yaml").write_text(
        "gateway: g\npublish: {c: {url: mqtt://127.0.0.1}}\nlinks:\n  l:\n    driver: opcua\n    retry_first: 50 ms\n"
        "    url: opc.tcp://127.0.0.1:1/plant\n    devices:\n      boiler:\n        interval: 100 ms\n"
        "        deadband: 0\n        events: {}\n"
        "        tags: {condition: event:ConditionName, active: event:ActiveState/Id}\n"
    )
    async with Proxy(alarms.plant.port) as proxy:
        (link,) = load_site(tmp_path / "site.yaml", links={"l": proxy.url}).links
        made = Running(None, link, None, MemoryJournal(list(link.tables)))  # type: ignore[arg-type]
        async with polling(link, made.journal):
            await until(lambda: made.bad("default", "condition") == 1)
            await alarms.raise_alarm("High", 5)
            await alarms.raise_alarm("Low", 5)
            await until(lambda: made.good("default", "condition") == 2)
            await proxy.gone()
            await until(lambda: made.bad("default", "condition") == 2)
            await proxy.listen()
            await until(lambda: made.good("default", "condition") == 4)
    rows = made.rows("default")["condition"]
    assert [row[1:] for row in rows] == [
        ("", q.BAD_NO_DATA), ("High", 0), ("Low", 0), ("", rows[3][2]), ("", q.BAD_NO_DATA), ("High", 0), ("Low", 0),
    ]  # fmt: skip
    assert rows[3][2] >= q.BAD
    assert rows[1][0] == rows[5][0] == nanoseconds(5)  # the same row of a store, and not a second one
    assert rows[2][0] == rows[6][0] == nanoseconds(5) + 1
    assert rows[4][0] > rows[3][0]
    assert [row[1] for row in made.rows("default")["active"] if row[2] == 0] == [True] * 4  # equal ones too


@pytest.mark.parametrize(
    ("kind", "status"),
    [("i=99999", ua.StatusCodes.BadNodeIdUnknown), ("i=2253", 0x80630000), ("nsu=urn:no;i=1", q.BAD_NODE_ID_UNKNOWN)],
)
async def test_an_event_type_that_is_not_there_is_told(alarms: Alarms, kind: str, status: int) -> None:
    """Elsewhere: connected, and no alarm for ever."""
    options = {**OPTIONS, "events": {"types": ["i=2915", kind]}, "namespace": NAMESPACE}
    async with driver(alarms.plant.url, FIELDS, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 6)
        assert {entry[1] for entry in listener.last().values()} == {status}


async def test_the_standard_s_nodes_need_no_namespace(alarms: Alarms) -> None:
    options = {**OPTIONS, "events": {"types": ["i=2915"]}, "namespace": NAMESPACE}
    async with driver(alarms.plant.url, FIELDS, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await alarms.raise_alarm("Here", 1)
        await listener.until(lambda: told(listener)[-1:] == ["Here"])


async def test_a_refresh_that_is_not_answered_does_not_cost_the_events(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and events of the link go on; a link that is dead is silent too, and noticed by that."""
    answer = asyncio.Event()

    async def hang() -> None:
        await answer.wait()

    monkeypatch.setattr(alarms, "before_refresh", hang)
    async with driver(alarms.plant.url, FIELDS, device=OPTIONS, timeout="1 s") as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 6)
            assert opened._watcher.events.conditions == q.BAD_TIMEOUT
            answer.set()
            await alarms.raise_alarm("Here", 1)
            await listener.until(lambda: told(listener)[-1:] == ["Here"])


async def test_a_refresh_that_is_refused_is_told_by_the_plan(alarms: Alarms, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise ua.UaStatusCodeError(ua.StatusCodes.BadUserAccessDenied)

    async with driver(alarms.plant.url, FIELDS, device=OPTIONS) as (opened, plan):
        agreed = {each.what: each.got for each in await opened.agree([plan])}
        assert agreed["active conditions"] == "asked for"
        monkeypatch.setattr(alarms, "before_refresh", refuse)
        agreed = {each.what: each.got for each in await opened.agree([plan])}
        assert agreed["active conditions"].startswith("refused: Bad")


@pytest.mark.filterwarnings("ignore:.*nanoseconds discarded")
async def test_the_questions_of_the_readme_are_answered_by_a_store(alarms: Alarms, tmp_path: Path) -> None:
    """Stored twice, as after a reconnect: each event is there once, also those of one Time."""
    readme = (SAMPLE.parent / "README.md").read_text(encoding="utf-8")
    everything, active = re.findall(r"^```sql\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (link,) = load_site(SAMPLE, links={"boiler-house": alarms.plant.url}).links
    opened = OpcuaDriver(link)
    plan = opened.plan(link.devices[0].groups[1].tables)
    await opened.connect()
    try:
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 6)
            await alarms.raise_alarm("High", 5)
            await alarms.raise_alarm("Low", 5)
            await alarms.raise_alarm("High", 6, active=False, acked=True)
            await listener.until(lambda: len(told(listener, "condition")) == 3)
            await opened._watcher._refresh()
            await listener.until(lambda: len(told(listener, "condition")) == 4)
    finally:
        await opened.close()
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    await store.write([block(*listener.batches)])
    with read(store.path, everything) as answer:
        rows = [row for row in answer.read_all().iter_py() if row["condition"]]
    with read(store.path, active) as answer:
        now = list(answer.read_all().iter_py())
    await store.close()
    assert [(row["condition"], row["active"]) for row in rows] == [("High", False), ("Low", True), ("High", True)]
    assert [(row["source"], row["condition"]) for row in now] == [("Boiler", "Low")]
