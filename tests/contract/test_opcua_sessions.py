"""Sessions that a server does not give, or takes away."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua
from opcua_server import NAMESPACE, driver, plant, rows

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
