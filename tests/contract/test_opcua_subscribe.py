"""Subscriptions against a real server: everything that changed arrives, and what goes wrong with them is noticed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError
from opcua_server import (
    NAMESPACE,
    Listener,
    Plant,
    Proxy,
    cutting_short,
    driver,
    is_data_change,
    lose,
    losing,
    plant,
    rows,
)

from drivers.opcua import monitor, subscribe, wire
from gateway import quality as q
from gateway.contracts import Subscribing
from gateway.errors import NotConnected, ProtocolError
from simulators.opcua import hand_over_wholly

pytestmark = pytest.mark.asyncio(loop_scope="module")
V = ua.VariantType


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        for number in range(200):
            await running.add(f"N{number}", float(number), V.Double)
        await running.add("Text", "an")
        await running.add("Big", 2**63, V.UInt64)
        await running.add("Curve", [1.0, 2.0, 3.0], V.Double)
        yield running


OPTIONS: dict[str, Any] = {"mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s"}


def numbers(*which: int) -> list[Any]:
    return [f"nsu={NAMESPACE};s=N{number}" for number in which]


async def test_first_comes_one_row_per_tag_then_what_changed(served: Plant) -> None:
    addresses: list[Any] = [
        *numbers(*range(100)), f"nsu={NAMESPACE};s=Text text", f"nsu={NAMESPACE};s=Big uint64",
        f"nsu={NAMESPACE};s=Curve [1:2]", f"nsu={NAMESPACE};s=Curve text", f"nsu={NAMESPACE};s=Typo",
        "nsu=urn:nowhere;s=X",
    ]  # fmt: skip
    async with driver(served.url, addresses, device=OPTIONS) as (opened, plan):
        assert isinstance(opened, Subscribing)
        assert opened.subscribes(plan)
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 107)
            last = listener.last()
            assert [last[f"t{n}"][0] for n in range(100)] == [float(n) for n in range(100)]
            assert (last["t100"][0], last["t101"][0]) == ("an", 2**63)
            assert (last["t102[1]"][0], last["t102[2]"][0], last["t103"][0]) == (2.0, 3.0, "[1.0,2.0,3.0]")
            assert (last["t104"][1], last["t105"][1]) == (q.BAD_NODE_ID_UNKNOWN, q.BAD_NODE_ID_UNKNOWN)
            await served.change("N5", 55.0)
            await served.change("Text", "aus", V.String)
            await listener.until(lambda: listener.last()["t5"][0] == 55.0 and listener.last()["t100"][0] == "aus")
            assert rows(await opened.read(plan))["t5"][0] == 55.0  # reads share the session
            await served.change("N5", 5.0)
            await served.change("Text", "an", V.String)


async def test_no_change_between_two_sendings_is_lost(served: Plant) -> None:
    """With a library's default queue of one only the newest value per interval arrives."""
    options = {**OPTIONS, "queue_size": 100, "publishing_interval": "300 ms"}
    async with driver(served.url, numbers(0), device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: bool(listener.batches))
        for value in range(1, 60):
            await served.change("N0", float(value))
        await listener.until(lambda: listener.last()["t0"][0] == 59.0)
        assert listener.values("t0") == [float(value) for value in range(60)]
        await served.change("N0", 0.0)


async def test_a_bad_status_is_reported_without_a_value(served: Plant) -> None:
    async with driver(served.url, numbers(1), device=OPTIONS) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: bool(listener.batches))
        await served.change("N1", 1.0, status=0x808C0000)
        await listener.until(lambda: listener.last()["t0"][1] == 0x808C0000)
        assert listener.last()["t0"][0] != listener.last()["t0"][0]
        await served.change("N1", 1.0)
        await listener.until(lambda: listener.last()["t0"][1] == 0)


async def test_the_server_s_deadband_holds_small_changes_back(served: Plant) -> None:
    options = {**OPTIONS, "server_deadband": 1.0}
    async with driver(served.url, numbers(2, 3), device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 2)
        await served.change("N2", 2.5)
        await served.change("N3", 13.0)
        await listener.until(lambda: listener.last()["t1"][0] == 13.0)
        assert listener.last()["t0"][0] == 2.0
        await served.change("N2", 2.0)
        await served.change("N3", 3.0)


async def test_items_are_made_in_parts_of_the_server_s_size(served: Plant) -> None:
    limit = served.server.get_node(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall)
    await limit.write_value(ua.Variant(7, V.UInt32))
    try:
        async with driver(served.url, numbers(*range(100)), device=OPTIONS) as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: len(listener.last()) == 100)
    finally:
        await limit.write_value(ua.Variant(0, V.UInt32))


async def test_a_forgotten_subscription_is_made_again_in_the_same_session(served: Plant) -> None:
    """Elsewhere: connected, and silent for ever."""
    async with driver(served.url, numbers(*range(10)), device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 10)
            session = opened._session
            known = served.server.iserver.subscription_service.subscriptions
            await served.server.iserver.subscription_service.delete_subscriptions(list(known))
            listener.batches.clear()
            await listener.until(lambda: len(listener.last()) == 10)
            await served.change("N7", 77.0)
            await listener.until(lambda: listener.last()["t7"][0] == 77.0)
            assert opened._session is session
            await served.change("N7", 7.0)


async def test_a_subscription_that_is_alive_but_empty_is_noticed(served: Plant) -> None:
    """Its keep-alives arrive, its changes do not: only reading shows it."""
    options = {**OPTIONS, "freshness": "1 s"}
    async with driver(served.url, numbers(*range(10)), device=options) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 10)
            await served.put("N4", 44.0, V.Double)  # past the subscription
            await listener.until(lambda: listener.last()["t4"][0] == 44.0)
            await served.put("N4", 4.0, V.Double)


async def test_an_unknown_node_is_asked_for_again(served: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribe, "RETRY", 0.3)
    async with driver(served.url, [f"nsu={NAMESPACE};s=Later"], device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            assert listener.last()["t0"][1] == q.BAD_NODE_ID_UNKNOWN
            await served.add("Later", 3.0)
            await listener.until(lambda: listener.last()["t0"][0] == 3.0)


async def test_a_cut_link_ends_the_changes(served: Plant) -> None:
    async with Proxy(served.port) as proxy, driver(proxy.url, numbers(0), device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            proxy.cut()
            with pytest.raises(NotConnected):
                await listener.until(lambda: False)


async def test_a_silent_link_ends_the_changes(served: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "KEEP_ALIVE", 0.2)
    async with Proxy(served.port) as proxy:
        async with driver(proxy.url, numbers(0), device=OPTIONS, timeout="500 ms") as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.batches))
                proxy.silence()
                with pytest.raises(NotConnected):
                    await listener.until(lambda: False)
            proxy.resume()


async def test_a_look_whose_answer_makes_no_sense_ends_the_changes(served: Plant) -> None:
    options = {**OPTIONS, "freshness": "100 ms"}
    async with driver(served.url, numbers(0), device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: bool(listener.batches))
        cutting_short(opened, wire.READ_RESPONSE)
        with pytest.raises(ProtocolError, match="an answer that makes no sense"):
            await listener.until(lambda: False)


async def test_a_notification_that_is_fetched_and_makes_no_sense_ends_the_changes(served: Plant) -> None:
    """In the session that takes the subscription over: what the server says of the time between is nonsense."""
    known = served.server.iserver.subscription_service.subscriptions
    async with Proxy(served.port) as proxy, driver(proxy.url, numbers(0), device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            await lose(proxy, listener, opened)
        (number,) = opened._watcher._subscriptions
        before = known[number]._notification_seq
        await served.change("N0", 1.0)
        await listener.until_true(lambda: known[number]._notification_seq > before)
        await opened.connect()
        cutting_short(opened, wire.REPUBLISH_RESPONSE)
        async with Listener(opened, plan) as listener:
            with pytest.raises(ProtocolError, match="a notification that makes no sense"):
                await listener.until(lambda: False)
        await served.change("N0", 0.0)


async def test_a_quiet_tag_is_read_after_its_max_silence(served: Plant) -> None:
    import dataclasses

    from opcua_server import link

    from drivers.opcua.driver import OpcuaDriver
    from gateway.model import split_by_kind

    made = link(served.url, {"g": numbers(0)}, device=OPTIONS)
    tag = dataclasses.replace(made.devices[0].groups[0].tables[0].tags[0], max_silence=10**9)
    opened = OpcuaDriver(made)
    plan = opened.plan(split_by_kind("dev", "g", [tag]))
    await opened.connect()
    try:
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.values("t0")) >= 3)
            times = [batch.time[0] for batch in listener.batches]
            assert times == sorted(set(times))
    finally:
        await opened.close()


async def test_a_notification_that_did_not_arrive_is_fetched_again(served: Plant) -> None:
    """Republish: what the server sent and we never saw is not lost."""
    async with driver(served.url, numbers(0), device={**OPTIONS, "queue_size": 100}) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            dropped = losing(opened, is_data_change, most=2)
            for value in (1.0, 2.0, 3.0):
                seen = len(dropped)
                await served.change("N0", value)
                await listener.until_true(lambda seen=seen: len(dropped) > seen or listener.last()["t0"][0] == 3.0)
            await listener.until(lambda: listener.last()["t0"][0] == 3.0)
            assert len(dropped) == 2
            assert listener.values("t0") == [0.0, 1.0, 2.0, 3.0]
            await served.change("N0", 0.0)


@contextlib.contextmanager
def handing_over(served: Plant) -> Iterator[None]:
    """TransferSubscriptions as it should be, for the time of one test."""
    service = served.server.iserver.subscription_service
    real = service.transfer_subscriptions
    hand_over_wholly(served.server)
    try:
        yield
    finally:
        service.transfer_subscriptions = real


@pytest.mark.parametrize("sent", [True, False])
async def test_after_a_short_cut_what_was_missed_is_fetched(served: Plant, sent: bool) -> None:
    """The server keeps a subscription for a while; a new session takes it over.

    What was sent into the cut link comes by Republish, all in one batch. What the server still holds comes behind what
    is so now, and ends with it: else the last that is heard of a tag is a value that it has no more.
    """
    options = {**OPTIONS, "queue_size": 100}
    known = served.server.iserver.subscription_service.subscriptions
    with handing_over(served):
        async with Proxy(served.port) as proxy, driver(proxy.url, numbers(*range(5)), device=options) as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: len(listener.last()) == 5)
                await lose(proxy, listener, opened)
            before = set(known)
            (number,) = opened._watcher._subscriptions
            subscription = known[number]
            if not sent:
                subscription.pub_request_callback = lambda _number: None  # no PublishRequest is left
            sequence = subscription._notification_seq
            for value in (101.0, 102.0, 103.0):
                await served.change("N1", value)
            if sent:
                await listener.until_true(
                    lambda: subscription._notification_seq > sequence and not subscription._triggered_datachanges
                )
            await opened.connect()
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: 102.0 in [value for _, value in listener.readings("t1")])
                await listener.until(lambda: len(listener.last()) == 5)
                await served.change("N1", 104.0)
                await listener.until(lambda: listener.last()["t1"][0] == 104.0)
                assert sorted({value for _, value in listener.readings("t1")}) == [101.0, 102.0, 103.0, 104.0]
                assert [value for _, value in listener.readings("t1", backfill=False)][-2:] == [103.0, 104.0]
                assert not listener.gaps
                assert set(known) == before  # taken over, not made anew
            await served.change("N1", 1.0)


async def test_a_notification_that_is_gone_for_good_is_a_gap_and_what_is_so_now_is_read(served: Plant) -> None:
    """BadMessageNotAvailable: the server kept fewer messages than were lost."""
    service = served.server.iserver.subscription_service
    real = service.republish

    def gone(_parameters: Any) -> Any:
        raise ServiceError(ua.StatusCodes.BadMessageNotAvailable)

    async with driver(served.url, numbers(0, 1), device={**OPTIONS, "queue_size": 100}) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 2)
            session, dropped = opened._session, losing(opened, is_data_change)
            service.republish = gone
            try:
                await served.change("N1", 11.0)  # lost, and never told of again
                await listener.until_true(lambda: bool(dropped))
                await served.change("N0", 10.0)
                await listener.until(lambda: listener.last()["t0"][0] == 10.0 and listener.last()["t1"][0] == 11.0)
            finally:
                service.republish = real
            (gap,) = listener.gaps
            assert gap.reason == "notifications were lost"
            assert opened._session is session
            await served.change("N0", 0.0)
            await served.change("N1", 1.0)


@pytest.mark.parametrize("kept", [3, 1, 0])
async def test_what_was_sent_into_a_dead_link_is_fetched_by_the_next_session_as_far_as_it_was_kept(
    served: Plant, kept: int
) -> None:
    """TransferSubscriptions, then Republish of what the server still has; what it dropped is a gap, not a silence."""
    with handing_over(served):
        await send_into_a_dead_link(served, kept)


async def send_into_a_dead_link(served: Plant, kept: int) -> None:
    async with Proxy(served.port) as proxy:
        options = {**OPTIONS, "queue_size": 100}
        async with driver(proxy.url, numbers(0), device=options, timeout="20 s") as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.batches))
                (number,) = opened._watcher._subscriptions
                subscription = served.server.iserver.subscription_service.subscriptions[number]
                await listener.until_true(lambda: len(opened._watcher._outstanding) == opened._watcher._most)
                proxy.silence()
                sent = subscription._notification_seq
                for value in (1.0, 2.0, 3.0):
                    before = subscription._notification_seq
                    await served.change("N0", value)
                    await listener.until_true(lambda before=before: subscription._notification_seq > before)
                await lose(proxy, listener, opened)
            messages = subscription._not_acknowledged_results
            for sequence in sorted(messages)[: len(messages) - kept]:
                del messages[sequence]
            assert subscription._notification_seq == sent + 3
            await opened.connect()
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: listener.last().get("t0", (None,))[0] == 3.0)
                await served.change("N0", 4.0)
                await listener.until(lambda: listener.last()["t0"][0] == 4.0)
                fetched = [value for _, value in listener.readings("t0", backfill=True)]
                assert sorted(set(fetched)) == {3: [1.0, 2.0, 3.0], 1: [3.0], 0: [3.0]}[kept]
                assert [gap.reason for gap in listener.gaps] == ([] if kept == 3 else ["notifications were lost"])
            await served.change("N0", 0.0)


@pytest.mark.parametrize("answer", ["refused", "unknown service"])
async def test_where_the_server_does_not_hand_subscriptions_over_they_are_made_anew(served: Plant, answer: str) -> None:
    service = served.server.iserver.subscription_service
    real = service.transfer_subscriptions

    async def refuse(parameters: Any, *_more: Any) -> Any:
        if answer == "unknown service":
            raise ServiceError(ua.StatusCodes.BadServiceUnsupported)
        status = ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)
        return [ua.TransferResult(StatusCode=status) for _ in parameters.SubscriptionIds]

    async with Proxy(served.port) as proxy, driver(proxy.url, numbers(0), device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            await lose(proxy, listener, opened)
        service.transfer_subscriptions = refuse
        try:
            await opened.connect()
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.batches) and bool(listener.gaps))
                await served.change("N0", 5.0)
                await listener.until(lambda: listener.last()["t0"][0] == 5.0)
                assert len(listener.gaps) == 1
        finally:
            service.transfer_subscriptions = real
        await served.change("N0", 0.0)


async def test_after_a_long_cut_the_subscription_is_made_anew(served: Plant) -> None:
    """What happened meanwhile is a declared gap; what did not change is reported as of now, behind the Bad rows."""
    async with Proxy(served.port) as proxy, driver(proxy.url, numbers(*range(5)), device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 5)
            await lose(proxy, listener, opened)
            lost = time.time_ns()
        service = served.server.iserver.subscription_service
        await service.delete_subscriptions(list(service.subscriptions))
        await opened.connect()
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 5)
            (gap,) = listener.gaps
            assert (gap.device, gap.group) == ("dev", "g")
            assert gap.start < lost <= gap.end
            assert all(moment >= gap.end for _, _, moment in listener.last().values())  # unchanged, and so still
            await served.change("N1", 7.0)
            await listener.until(lambda: listener.last()["t1"][0] == 7.0)
        await served.change("N1", 1.0)
