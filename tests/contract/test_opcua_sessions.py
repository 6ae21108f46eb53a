"""Sessions that a server does not give, or takes away."""

from __future__ import annotations

import asyncio
import copy
import datetime
import time
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.connection import SecureConnection
from asyncua.common.utils import ServiceError
from opcua_server import NAMESPACE, Listener, Proxy, driver, plant, rows

from gateway import quality as q
from gateway.errors import NotConnected

NODE: list[Any] = [f"nsu={NAMESPACE};s=N"]


async def test_too_many_sessions_is_said_as_the_server_says_it_and_the_next_connect_works() -> None:
    async with plant() as served:
        await served.add("N", 1.0)
        real = served.server.iserver.create_session
        full = [True]

        def refuse(*arguments: Any, **keys: Any) -> Any:
            if full[0]:
                raise ua.UaStatusCodeError(ua.StatusCodes.BadTooManySessions)
            return real(*arguments, **keys)

        async with driver(served.url, NODE) as (opened, plan):
            await opened.close()
            served.server.iserver.create_session = refuse
            with pytest.raises(NotConnected) as caught:
                await opened.connect()
            assert caught.value.status == ua.StatusCodes.BadTooManySessions
            full[0] = False
            await opened.connect()
            assert rows(await opened.read(plan))["t0"][0] == 1.0


async def test_a_session_that_the_server_ended_is_lost_and_the_next_connect_works() -> None:
    """As after a session timeout at the server: the channel lives, the session is gone."""
    async with plant() as served:
        await served.add("N", 1.0)
        async with driver(served.url, NODE) as (opened, plan):
            await opened.read(plan)
            sessions = [each.session for each in served.server.bserver.clients if hasattr(each, "session")]
            processors = [each.processor for each in served.server.bserver.clients if hasattr(each, "processor")]
            for session in [*sessions, *(each.session for each in processors)]:
                if session is not None:
                    await session.close_session(True)
            with pytest.raises(NotConnected):
                await opened.read(plan)
            await opened.connect()
            assert rows(await opened.read(plan))["t0"][0] == 1.0


SUBSCRIBED: dict[str, Any] = {
    "mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s", "queue_size": 100,
}  # fmt: skip


async def test_a_session_that_timed_out_at_the_server_is_lost_and_the_next_connect_works() -> None:
    """The link was silent for longer than the server waits; then it is there again, with the same sockets."""
    async with plant() as served:
        await served.add("N", 1.0)
        iserver = served.server.iserver
        iserver.min_session_timeout_ms = 400
        async with Proxy(served.port) as proxy:
            async with driver(proxy.url, NODE, session_timeout="400 ms", timeout="20 s") as (opened, plan):
                await opened.read(plan)
                assert opened._session.client.session_timeout == 400
                proxy.silence()
                waiting = asyncio.create_task(opened.read(plan))
                async with asyncio.timeout(30):
                    while any(each.is_activated() for each in external(served.server)):
                        await asyncio.sleep(0.01)
                proxy.resume()
                with pytest.raises(NotConnected):
                    await waiting
                await opened.connect()
                assert rows(await opened.read(plan))["t0"][0] == 1.0


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_server_whose_clock_is_wrong_is_read_and_its_channel_renewed(
    hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dates the channel's keys by its own clock: by ours they are long expired, or not yet made."""
    off = datetime.timedelta(hours=hours)
    real = SecureConnection.open

    def dated(self: Any, *arguments: Any) -> Any:
        answer = copy.deepcopy(real(self, *arguments))
        answer.SecurityToken.CreatedAt += off
        return answer

    monkeypatch.setattr(SecureConnection, "open", dated)
    async with plant() as served:
        await served.add("N", 1.0)
        await served.change("N", 1.0, moment=datetime.datetime.now(datetime.UTC) + off)
        for clock in ("source", "arrival"):
            options: dict[str, Any] = {"channel_lifetime": "400 ms", "device": {"time": clock}}
            async with driver(served.url, NODE, **options) as (opened, plan):
                session, connection = opened._session, opened._session.client.uaclient.protocol._connection
                first = connection.security_token.TokenId
                _, _, moment = rows(await opened.read(plan))["t0"]
                while connection.security_token.TokenId < first + 3:
                    # an answer that is under way while the keys change comes under the old ones
                    found = await asyncio.gather(*(opened.read(plan) for _ in range(5)))
                assert opened._session is session
                assert session.alive
                value, status, _ = rows(found[-1])["t0"]
                assert (value, status) == (1.0, 0)
                distance = (moment - time.time_ns()) / 3.6e12
                assert abs(distance - (hours if clock == "source" else 0)) < 0.2


async def test_a_request_that_a_service_times_out_costs_that_read_and_not_the_session() -> None:
    async with plant() as served:
        await served.add("N", 1.0)
        async with driver(served.url, NODE, device=SUBSCRIBED) as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.batches))
                session = opened._session
                with served.refusing(ua.StatusCodes.BadTimeout), pytest.raises(Exception, match="BadTimeout"):
                    await opened.read(plan)
                await served.change("N", 2.0)
                await listener.until(lambda: listener.last()["t0"][0] == 2.0)
                assert rows(await opened.read(plan))["t0"][0] == 2.0
                assert opened._session is session


@pytest.mark.parametrize("status", [ua.StatusCodes.BadSubscriptionIdInvalid, ua.StatusCodes.BadNoSubscription])
async def test_a_server_that_does_not_know_the_subscription_gets_a_new_one_in_the_same_session(status: int) -> None:
    async with plant() as served:
        await served.add("N", 1.0)
        async with driver(served.url, NODE, device=SUBSCRIBED) as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.batches))
                session, service = opened._session, served.server.iserver.subscription_service
                real, refused = service.publish, []

                def publish(acknowledgements: Any) -> Any:
                    if not refused:
                        refused.append(acknowledgements)
                        raise ServiceError(status)
                    return real(acknowledgements)

                service.publish = publish
                await served.change("N", 2.0)  # its notification lets a PublishRequest go out
                await listener.until(lambda: bool(refused) and bool(listener.gaps))
                await served.change("N", 3.0)
                await listener.until(lambda: listener.last()["t0"][0] == 3.0)
                assert opened._session is session
                assert listener.last()["t0"][1] == q.GOOD


async def test_subscriptions_go_on_at_a_server_that_comes_back_with_other_namespace_indexes() -> None:
    """The gap is declared; what is known of a node is known of it under its new id too."""
    async with plant() as served:
        await served.add("N", 1.0)
        port, index = served.port, served.index
        async with driver(served.url, NODE, device=SUBSCRIBED) as (opened, plan):
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: bool(listener.batches))
                await served.server.stop()
                with pytest.raises(NotConnected):
                    await listener.until(lambda: False)
            async with plant(port, before=["urn:test:other", "urn:test:more"]) as again:
                assert again.index == index + 2
                await again.add("N", 2.0)
                await opened.connect()
                async with Listener(opened, plan) as listener:
                    await listener.until(lambda: bool(listener.batches) and listener.last()["t0"][0] == 2.0)
                    await again.change("N", 3.0)
                    await listener.until(lambda: listener.last()["t0"][0] == 3.0)
                    assert len(listener.gaps) == 1


def external(server: Any) -> list[Any]:
    """The sessions of clients, as the server has them."""
    found = [getattr(each, "processor", each) for each in server.bserver.clients]
    return [each.session for each in found if getattr(each, "session", None) is not None]
