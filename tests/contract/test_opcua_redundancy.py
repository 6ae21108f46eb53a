"""Two servers that stand in for each other: the healthier one is used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asyncua import ua
from opcua_server import NAMESPACE, Listener, Plant, driver, free_port, plant, rows

from drivers.opcua import session
from gateway.errors import NotConnected


async def level(served: Plant, value: int) -> None:
    node = served.server.get_node(ua.ObjectIds.Server_ServiceLevel)
    await node.write_value(ua.Variant(value, ua.VariantType.Byte))


async def test_the_healthier_of_two_servers_is_used_and_left_when_it_degrades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LOOK_AT_LEVEL", 0.05)
    address: list[Any] = [f"nsu={NAMESPACE};s=Which"]
    async with plant() as first, plant() as second:
        await first.add("Which", 1.0)
        await second.add("Which", 2.0)
        await level(first, 100)
        await level(second, 255)
        async with driver(first.url, address, redundant=[second.url]) as (opened, plan):
            assert rows(await opened.read(plan))["t0"][0] == 2.0
            await level(second, 50)
            async with asyncio.timeout(30):
                while opened._session.alive:
                    await asyncio.sleep(0.01)
            with pytest.raises(NotConnected, match="ServiceLevel"):
                await opened.read(plan)
            await opened.connect()
            assert rows(await opened.read(plan))["t0"][0] == 1.0
            await opened.close()
            await level(second, 255)
            await opened.connect()  # the one that serves is kept only while it is healthy
            assert rows(await opened.read(plan))["t0"][0] == 2.0


async def test_a_subscription_moves_to_the_healthier_server_and_asks_for_nothing_under_numbers_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are up; the one that serves degrades. Its subscription ids are another client's at the other server."""
    monkeypatch.setattr(session, "LOOK_AT_LEVEL", 0.05)
    address: list[Any] = [f"nsu={NAMESPACE};s=Which"]
    options = {"mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s"}
    async with plant() as first, plant() as second:
        await first.add("Which", 1.0)
        await second.add("Which", 2.0)
        await level(first, 255)
        await level(second, 220)
        asked: list[Any] = []
        service = second.server.iserver.subscription_service
        real = service.transfer_subscriptions

        async def look(parameters: Any, *more: Any) -> Any:
            asked.append(parameters.SubscriptionIds)
            return await real(parameters, *more)

        service.transfer_subscriptions = look
        async with (
            driver(second.url, address, device=options) as (other, plan_of_other),
            Listener(other, plan_of_other) as another_client,
            driver(first.url, address, redundant=[second.url], device=options) as (opened, plan),
        ):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: listener.last().get("t0", (None,))[0] == 1.0)
                await level(first, 10)
                with pytest.raises(NotConnected, match="ServiceLevel fell to 10"):
                    await listener.until(lambda: False)
            await opened.connect()
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: listener.last().get("t0", (None,))[0] == 2.0)
                await second.change("Which", 3.0)
                await listener.until(lambda: listener.last()["t0"][0] == 3.0)
                await another_client.until(lambda: another_client.last()["t0"][0] == 3.0)
                assert [gap.reason for gap in listener.gaps] == ["the server did not keep the subscription"]
        assert asked == []


async def test_a_server_that_is_gone_is_replaced_by_the_other() -> None:
    async with plant() as second:
        await second.add("Which", 2.0)
        gone = f"opc.tcp://127.0.0.1:{free_port()}/plant"
        async with driver(gone, [f"nsu={NAMESPACE};s=Which"], redundant=[second.url]) as (opened, plan):
            assert rows(await opened.read(plan))["t0"][0] == 2.0
