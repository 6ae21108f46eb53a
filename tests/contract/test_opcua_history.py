"""What was missed is filled from the server's history: between what was given before and what is live again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from opcua_server import NAMESPACE, Listener, Plant, Proxy, driver, link, lose, plant

from drivers.opcua import history, missed
from drivers.opcua.driver import OpcuaDriver
from gateway.errors import ConfigError

OPTIONS: dict[str, Any] = {
    "mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s", "fill_gaps": True,
    "queue_size": 100,
}  # fmt: skip
ADDRESSES: list[Any] = [f"nsu={NAMESPACE};s={name}" for name in ("A", "B", "Missing")]
START = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed, "SETTLE", 0.2)


class Archive:
    """A plant whose node A is historizing, and B is not. `tell` changes A; its time is START and the number in ms."""

    def __init__(self, served: Plant, ahead: datetime.timedelta = datetime.timedelta()) -> None:
        self.served = served
        self.ahead = ahead
        self.storage: Any = served.server.iserver.history_manager.storage
        self.service: Any = served.server.iserver.subscription_service
        self.its_own: set[int] = set()

    async def prepare(self) -> None:
        for name in ("A", "B"):
            node = await self.served.add(name, 0.0)
            await self.tell(name, 0)
            if name == "A":
                await self.served.server.historize_node_data_change(node, count=1000)
        self.its_own = set(self.service.subscriptions)

    def at(self, number: int) -> datetime.datetime:
        return START + self.ahead + datetime.timedelta(milliseconds=number)

    def ns(self, number: int) -> int:
        return round(self.at(number).timestamp() * 1000) * 10**6

    async def tell(self, name: str, number: int) -> None:
        await self.served.change(name, float(number), moment=self.at(number))

    async def kept(self, number: int) -> None:
        """Wait until the history has a value: it listens as a subscriber, and would skip."""
        kept = self.storage._datachanges[self.served.nodes["A"].nodeid]
        async with asyncio.timeout(30):
            while not kept or kept[-1].Value.Value != number:
                await asyncio.sleep(0.001)

    async def tell_all(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            await self.tell("A", number)
            await self.kept(number)

    async def forget(self) -> None:
        """Drop the clients' subscriptions, as after their lifetime."""
        await self.service.delete_subscriptions(
            [each for each in self.service.subscriptions if each not in self.its_own]
        )


@contextlib.asynccontextmanager
async def archive(ahead: datetime.timedelta = datetime.timedelta()) -> AsyncIterator[Archive]:
    async with plant() as served:
        made = Archive(served, ahead)
        await made.prepare()
        yield made


@contextlib.asynccontextmanager
async def interrupted(made: Archive, last: int) -> AsyncIterator[tuple[Proxy, Any, Any]]:
    """A driver that listened, missed the changes 1 to `last` with its subscription, and is connected again."""
    async with Proxy(made.served.port) as proxy, driver(proxy.url, ADDRESSES[:1], device=OPTIONS) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.batches))
            await lose(proxy, listener, opened)
        await made.forget()
        await made.tell_all(1, last)
        await opened.connect()
        yield proxy, opened, plan


def wanted(made: Archive, first: int, last: int) -> list[tuple[int, float]]:
    return [(made.ns(number), float(number)) for number in range(first, last + 1)]


@pytest.mark.parametrize("hours", [0, 3, -3])
async def test_a_long_interruption_is_filled_from_history_without_duplicates(hours: int) -> None:
    """In source time, whatever the server's clock says. Its answers are cut to pieces of five values."""
    async with archive(datetime.timedelta(hours=hours)) as made:
        made.storage.max_history_data_response_size = 5
        async with Proxy(made.served.port) as proxy, driver(proxy.url, ADDRESSES, device=OPTIONS) as (opened, plan):
            async with Listener(opened, plan) as listener:
                await made.tell_all(1, 1)
                await listener.until(lambda: 1.0 in listener.values("t0"))
                await lose(proxy, listener, opened)
            await made.forget()
            await made.tell_all(2, 39)
            await made.tell("B", 5)
            await opened.connect()
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.gaps) and 39.0 in listener.values("t0"))
                await made.tell_all(40, 41)
                await listener.until(lambda: listener.last()["t0"][0] == 41.0)
    (gap,) = listener.gaps  # for B
    assert "the history of 1 of 3 nodes could not be had" in gap.reason
    assert (gap.device, gap.group) == ("dev", "g")
    came = listener.readings("t0", backfill=True)
    assert sorted(came) == wanted(made, 2, 38 if hours > 0 else 39)
    live = [reading for reading in listener.readings("t0") if reading not in came]
    assert [value for _, value in live] == [39.0, 40.0, 41.0]
    if hours > 0:  # its time is later than the interruption's end: it comes as it is
        assert live[0] == (made.ns(39), 39.0)


async def test_a_server_that_cuts_its_answer_without_a_word_is_asked_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No continuation point, though there is more: the full answer shows it."""
    monkeypatch.setattr(history, "VALUES", 4)
    monkeypatch.setattr(history, "LEAST", 4)
    async with archive() as made:
        async with interrupted(made, 22) as (_, opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: len(listener.readings("t0", backfill=True)) >= 22)
                assert sorted(listener.readings("t0", backfill=True)) == wanted(made, 1, 22)
                assert listener.gaps == []


async def test_live_data_and_history_meet_without_an_overlap_while_both_go_on() -> None:
    """Changes do not wait for the history to be read: none may fall between the two, none come twice."""
    async with archive() as made:
        made.storage.max_history_data_response_size = 3
        async with interrupted(made, 30) as (_, opened, plan):
            going_on = asyncio.create_task(made.tell_all(31, 200))
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: len(listener.values("t0")) > 0 and listener.last()["t0"][0] == 200.0)
                await going_on
                await listener.until(lambda: (made.ns(1), 1.0) in listener.readings("t0", backfill=True))
                await listener.until_true(lambda: not opened._watcher.items.seam)
            own_time = [reading for reading in listener.readings("t0") if reading[0] <= made.ns(200)]
            assert sorted(own_time) == wanted(made, 1, 200)
            assert listener.gaps == []


async def test_a_server_that_refuses_its_history_costs_a_declared_gap_and_nothing_else() -> None:
    async with archive() as made:

        async def refuse(_parameters: Any) -> Any:
            raise ServiceError(ua.StatusCodes.BadHistoryOperationUnsupported)

        made.served.server.iserver.history_manager.read_history = refuse
        async with interrupted(made, 3) as (_, opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.gaps))
                await made.tell("A", 4)
                await listener.until(lambda: listener.last()["t0"][0] == 4.0)
                assert len(listener.gaps) == 1
                assert listener.readings("t0", backfill=True) in ([], wanted(made, 3, 3))


async def test_a_fill_that_an_interruption_ends_is_gone_on_with_behind_it() -> None:
    async with archive() as made:
        made.storage.max_history_data_response_size = 5
        manager = made.served.server.iserver.history_manager
        real, answered, held = manager.read_history, [0], asyncio.Event()

        async def slow(parameters: Any) -> Any:
            answered[0] += 1
            if answered[0] == 3:
                held.set()
                await asyncio.Event().wait()
            return await real(parameters)

        manager.read_history = slow
        async with interrupted(made, 20) as (proxy, opened, plan):
            async with Listener(opened, plan) as second:
                await asyncio.wait_for(held.wait(), 30)
                await lose(proxy, second, opened)
            await made.forget()
            await made.tell_all(21, 30)
            await opened.connect()
            async with Listener(opened, plan) as third:
                await third.until(lambda: bool(third.batches))
                await third.until_true(lambda: not opened._watcher.items.seam)
            came = second.readings("t0", backfill=True) + third.readings("t0", backfill=True)
            assert sorted(set(came)) == wanted(made, 1, 30)
            assert third.gaps == []


async def test_what_was_missed_between_two_runs_of_the_gateway_is_filled() -> None:
    """The mark that one run leaves tells the next from where."""
    async with archive() as made:
        compiled = link(made.served.url, {"g": ADDRESSES[:2]}, device=OPTIONS)

        async def run(mark: bytes, until: float) -> tuple[Listener, bytes]:
            opened = OpcuaDriver(compiled)
            plan = opened.plan(compiled.devices[0].groups[0].tables)
            assert opened.recall(mark) == ({("dev", "g")} if mark else set())
            await opened.connect()
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: until in listener.values("t0"))
                await listener.until_true(lambda: not opened._watcher.items.seam)
                assert opened.recall(b"nonsense") == set()
            left = opened.mark()
            await opened.close()
            return listener, left

        await made.tell_all(1, 1)
        _, mark = await run(b"", 1.0)
        await made.tell_all(2, 12)
        second, mark = await run(mark, 12.0)
        assert second.readings("t0", backfill=True) == wanted(made, 2, 11)
        assert second.readings("t0", backfill=False) == wanted(made, 12, 12)
        assert second.gaps == []
        third, mark = await run(mark, 12.0)
        assert third.readings("t0", backfill=True) == []
        await made.tell("B", 7)
        opened = OpcuaDriver(compiled)
        plan = opened.plan(compiled.devices[0].groups[0].tables)
        opened.recall(mark)
        await opened.connect()
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: bool(listener.gaps))  # B has no history
            assert "the gateway was not running; the history of 1 of 2 nodes" in listener.gaps[0].reason
        await opened.close()
        changed = link(made.served.url, {"g": ADDRESSES}, device=OPTIONS)
        assert OpcuaDriver(changed).recall(mark) == set()  # other nodes: the times have no place


@pytest.mark.parametrize("clock", ["server", "arrival"])
def test_history_does_not_mix_with_times_of_another_clock(clock: str) -> None:
    compiled = link("opc.tcp://127.0.0.1:1", {"g": ADDRESSES}, device={**OPTIONS, "time": clock})
    with pytest.raises(ConfigError, match=f"the group has time: {clock}"):
        OpcuaDriver(compiled).plan(compiled.devices[0].groups[0].tables)
