"""Reading a real OPC UA server: values, qualities, times, and what the driver does when server or link fail."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from asyncua import Server, ua
from opcua_server import MOMENT_NS, NAMESPACE, Plant, Proxy, driver, free_port, link, plant, rows

from drivers.opcua.driver import OpcuaDriver
from gateway import quality as q
from gateway.contracts import Driver
from gateway.errors import NoAnswer, NotConnected, ProtocolError
from gateway.model import Kind

pytestmark = pytest.mark.asyncio(loop_scope="module")
V = ua.VariantType


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        for kind, value in (
            (V.Boolean, True), (V.SByte, -5), (V.Byte, 200), (V.Int16, -30000), (V.UInt16, 60000), (V.Int32, -(2**31)),
            (V.UInt32, 2**32 - 1), (V.Int64, -(2**63)), (V.UInt64, 2**64 - 1), (V.Float, 1.5), (V.Double, 0.1),
            (V.String, "蒸汽"), (V.LocalizedText, ua.LocalizedText("an", "de")),
        ):  # fmt: skip
            await running.add(kind.name, value, kind)
            await running.put(kind.name, value, kind)
        await running.add("Curve", [1.0, 2.0, 3.0], V.Double)
        for number in range(1000):
            kind = (V.Double, V.Float, V.Int32, V.Int16)[number % 4]
            await running.add(f"N{number}", number, kind)
        yield running


async def test_every_scalar_type_arrives_exactly_with_its_source_time(served: Plant) -> None:
    words = {
        "Boolean": "bool", "SByte": "int8", "Byte": "uint8", "Int16": "int16", "UInt16": "uint16", "Int32": "int32",
        "UInt32": "uint32", "Int64": "int64", "UInt64": "uint64", "Float": "float", "Double": "double",
        "String": "string", "LocalizedText": "localizedtext",
    }  # fmt: skip
    addresses: list[Any] = [f"nsu={NAMESPACE};s={name} {word}" for name, word in words.items()]
    async with driver(served.url, addresses) as (opened, plan):
        assert isinstance(opened, Driver)
        batches = await opened.read(plan)
        assert [batch.table.kind for batch in batches] == [Kind.FLOAT, Kind.INT, Kind.UINT, Kind.BOOL, Kind.TEXT]
        found = rows(batches)
        expected = [True, -5, 200, -30000, 60000, -(2**31), 2**32 - 1, -(2**63), 2**64 - 1, 1.5, 0.1, "蒸汽", "an"]
        assert [found[f"t{i}"][0] for i in range(13)] == expected
        assert {entry[1:] for entry in found.values()} == {(q.GOOD, MOMENT_NS)}


async def test_a_node_is_named_by_id_by_uri_or_by_path(served: Plant) -> None:
    addresses: list[Any] = [
        f"ns={served.index};s=Double", f"nsu={NAMESPACE};s=Double", f"/Objects/{served.index}:Double",
        f"nsu={NAMESPACE};/Objects/Double", "i=2259 int32", "/Objects/Server/ServerStatus/State",
        "nsu=urn:no:such;s=Double", "/Objects/Nothing", f"nsu={NAMESPACE};s=Nothing",
    ]  # fmt: skip
    async with driver(served.url, addresses) as (opened, plan):
        found = rows(await opened.read(plan))
        assert [found[f"t{i}"][0] for i in range(6)] == [0.1, 0.1, 0.1, 0.1, 0.0, 0.0]
        assert [found[f"t{i}"][1] for i in range(6, 9)] == [q.BAD_NODE_ID_UNKNOWN, 0x806F0000, q.BAD_NODE_ID_UNKNOWN]
        assert all(np.isnan(found[f"t{i}"][0]) and found[f"t{i}"][2] > 0 for i in range(6, 9))


async def test_one_unknown_node_among_a_thousand_costs_one_tag(served: Plant) -> None:
    """Elsewhere one unknown node id stops a whole group, or every reconnect."""
    addresses: list[Any] = [f"nsu={NAMESPACE};s=N{number}" for number in range(1000)]
    addresses[500] = f"nsu={NAMESPACE};s=Typo"
    async with driver(served.url, addresses) as (opened, plan):
        for _ in range(3):  # the first answer decides the order in which the next ones are asked for
            found = rows(await opened.read(plan))
            assert found["t500"][1] == q.BAD_NODE_ID_UNKNOWN
            del found["t500"]
            assert all(value == int(name[1:]) and status == 0 for name, (value, status, _) in found.items())


async def test_status_codes_are_kept_to_the_last_bit_and_a_bad_one_has_no_value(served: Plant) -> None:
    await served.put("N0", 7.0, V.Double, 0x808C0481)
    await served.put("N4", 7.0, V.Double, 0x40920402)
    try:
        async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in (0, 4, 8)]) as (opened, plan):
            found = rows(await opened.read(plan))
            assert [found[f"t{i}"][1] for i in range(3)] == [0x808C0481, 0x40920402, 0]
            assert np.isnan(found["t0"][0])
            assert found["t1"][0] == 7.0
    finally:
        await served.put("N0", 0.0, V.Double)
        await served.put("N4", 4.0, V.Double)


async def test_a_type_that_changes_at_the_server_is_a_mismatch_of_that_tag_only(served: Plant) -> None:
    async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in range(40)]) as (opened, plan):
        await opened.read(plan)
        await served.put("N8", "text", V.String)
        try:
            found = rows(await opened.read(plan))
        finally:
            await served.put("N8", 8.0, V.Double)
        assert [name for name, entry in found.items() if entry[1]] == ["t8"]
        assert found["t8"][1] == q.BAD_TYPE_MISMATCH


async def test_elements_of_an_array_are_tags_and_the_array_is_read_once(served: Plant) -> None:
    address = f"nsu={NAMESPACE};s=Curve"
    async with driver(served.url, [f"{address} [1:4] double", f"{address} text", f"{address} [0]"]) as (opened, plan):
        await opened.read(plan)  # the first scan also asks whether the text is that of an enumeration
        served.reads.clear()
        found = rows(await opened.read(plan))
        assert served.reads == [1]
        assert [found[f"t0[{i}]"][0] for i in (1, 2)] == [2.0, 3.0]
        assert {found["t0[3]"][1], found["t0[4]"][1]} == {0x80370000}
        assert found["t1"][0] == "[1.0,2.0,3.0]"
        assert found["t2"][0] == 1.0


async def test_requests_are_no_larger_than_the_server_allows(served: Plant) -> None:
    limit = served.server.get_node(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead)
    await limit.write_value(ua.Variant(300, V.UInt32))
    try:
        async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in range(1000)]) as (opened, plan):
            served.reads.clear()
            found = rows(await opened.read(plan))
            # a slow machine may be asked in between whether the server is alive
            assert [size for size in served.reads if size != 1] == [300, 300, 300, 100]
            assert all(value == int(name[1:]) for name, (value, _, _) in found.items())
    finally:
        await limit.write_value(ua.Variant(0, V.UInt32))


async def test_a_server_without_source_times_gives_its_own_or_the_arrival(served: Plant) -> None:
    before = time.time_ns()
    await served.put("N12", 1.0, V.Double, 0, None)
    address = f"nsu={NAMESPACE};s=N12"
    async with driver(served.url, [address]) as (opened, plan):
        assert before < rows(await opened.read(plan))["t0"][2] <= time.time_ns()
    await served.put("N12", 12.0, V.Double)
    async with driver(served.url, [f"nsu={NAMESPACE};s=Double"], device={"time": "arrival"}) as (opened, plan):
        assert before < rows(await opened.read(plan))["t0"][2] <= time.time_ns()


async def test_a_cut_link_is_not_connected_and_a_new_connect_heals_it(served: Plant) -> None:
    async with Proxy(served.port) as proxy, driver(proxy.url, [f"nsu={NAMESPACE};s=Double"]) as (opened, plan):
        proxy.cut()
        await until(lambda: not opened._session.alive)
        with pytest.raises(NotConnected):
            await opened.read(plan)
        await opened.close()
        with pytest.raises(NotConnected):
            await opened.read(plan)
        await opened.connect()
        assert rows(await opened.read(plan))["t0"][0] == 0.1


async def test_a_silent_link_is_not_connected_within_the_deadline(served: Plant) -> None:
    """Half-open: the sockets stay open, nothing comes back. Waiting for TCP to notice takes a quarter of an hour."""
    async with Proxy(served.port) as proxy:
        async with driver(proxy.url, [f"nsu={NAMESPACE};s=Double"], timeout="300 ms") as (opened, plan):
            proxy.silence()
            async with asyncio.timeout(30):
                with pytest.raises(NotConnected) as caught:
                    await opened.read(plan)
                assert caught.value.status == q.BAD_TIMEOUT
                await opened.close()
                with pytest.raises(NotConnected):
                    await opened.connect()
            proxy.resume()


async def test_an_idle_session_notices_a_dead_peer_by_itself(served: Plant) -> None:
    async with Proxy(served.port) as proxy:
        options = {"timeout": "300 ms", "session_timeout": "300 ms"}
        async with driver(proxy.url, [f"nsu={NAMESPACE};s=Double"], **options) as (opened, plan):
            served.reads.clear()
            await until(lambda: len(served.reads) >= 2)  # kept alive without any scan
            proxy.silence()
            await until(lambda: not opened._session.alive)
            with pytest.raises(NotConnected):
                await opened.read(plan)
            proxy.resume()


async def test_a_channel_is_renewed_before_its_keys_expire(served: Plant) -> None:
    async with driver(served.url, [f"nsu={NAMESPACE};s=Double"], channel_lifetime="400 ms") as (opened, plan):
        connection = opened._session.client.uaclient.protocol._connection
        first = connection.security_token.TokenId
        await until(lambda: connection.security_token.TokenId >= first + 2)
        assert rows(await opened.read(plan))["t0"][0] == 0.1


async def test_a_fault_of_one_service_leaves_the_session_usable(served: Plant) -> None:
    """BadTimeout says that the server could not do it now, not that the session is gone."""
    async with driver(served.url, [f"nsu={NAMESPACE};s=Double"]) as (opened, plan):
        await opened.read(plan)
        with served.refusing(ua.StatusCodes.BadTimeout), pytest.raises(NoAnswer) as caught:
            await opened.read(plan)
        assert caught.value.status == q.BAD_TIMEOUT
        assert rows(await opened.read(plan))["t0"][0] == 0.1


async def test_a_group_too_large_for_the_server_is_asked_for_in_smaller_parts(served: Plant) -> None:
    """Servers that name no limit often have one."""
    async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in range(100)]) as (opened, plan):
        with served.refusing(ua.StatusCodes.BadTooManyOperations, 30):
            found = rows(await opened.read(plan))
        assert all(value == int(name[1:]) and not status for name, (value, status, _) in found.items())


async def test_cancelling_a_read_or_a_connect_anywhere_leaves_the_driver_usable(served: Plant) -> None:
    async with Proxy(served.port) as proxy:
        made = link(proxy.url, {"g": [f"nsu={NAMESPACE};s=N{n}" for n in range(100)]})
        opened = OpcuaDriver(made)
        plan = opened.plan(made.devices[0].groups[0].tables)

        async def once() -> int:
            await opened.connect()
            return len(rows(await opened.read(plan)))

        for steps in [*range(12), 15, 20, 30, 45]:
            task = asyncio.create_task(once())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await opened.close()
        assert await once() == 100
        await opened.close()
        await opened.close()


async def test_closing_tells_the_server(served: Plant) -> None:
    """Sessions that pile up at a server that allows ten keep everyone else out."""
    sessions = served.server.iserver._active_sessions if hasattr(served.server.iserver, "_active_sessions") else None
    async with driver(served.url, [f"nsu={NAMESPACE};s=Double"]) as (opened, plan):
        await opened.read(plan)
    await until(lambda: not served.server.bserver.clients)
    assert sessions is None or not sessions


async def test_nobody_at_the_address_is_not_connected() -> None:
    opened = OpcuaDriver(link(f"opc.tcp://127.0.0.1:{free_port()}", {"g": ["i=2258 text"]}))
    with pytest.raises(NotConnected, match="Connection refused"):
        await opened.connect()
    await opened.close()


async def test_a_peer_of_another_protocol_is_not_connected() -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = OpcuaDriver(link(f"opc.tcp://127.0.0.1:{port}", {"g": ["i=2258 text"]}, timeout="1 s"))
    async with asyncio.timeout(30):
        with pytest.raises(NotConnected):
            await opened.connect()
    await opened.close()
    server.close()


async def test_an_answer_that_makes_no_sense_is_a_protocol_error(served: Plant) -> None:
    """Better a new session than readings from the wrong bytes."""
    async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in range(8)]) as (opened, plan):
        await opened.read(plan)
        session = opened._session
        real = session.answer

        async def cut_short(*arguments: Any) -> tuple[bytes, int]:
            body, at = await real(*arguments)
            return body[: at + 4 + 20], at

        session.answer = cut_short
        with pytest.raises(ProtocolError):
            await opened.read(plan)

        async def one_less(*arguments: Any) -> tuple[bytes, int]:
            body, at = await real(*arguments)
            return body[:at] + struct.pack("<i", 7) + body[at + 4 :], at

        session.answer = one_less
        with pytest.raises(ProtocolError):
            await opened.read(plan)


async def test_a_server_that_fails_at_requests_sent_ahead_gets_one_after_the_other(served: Plant) -> None:
    """Some take one request at a time; one that took many is trusted again after a mere cut."""
    async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in range(8)]) as (opened, plan):
        opened._chunk = 2
        with served.refusing(ua.StatusCodes.BadTcpNotEnoughResources), pytest.raises(NoAnswer):
            await opened.read(plan)
        assert opened._ahead == 1
        (batch,) = await opened.read(plan)
        assert not batch.quality.any()
    async with driver(served.url, [f"nsu={NAMESPACE};s=N{n}" for n in range(8)]) as (opened, plan):
        opened._chunk = 2
        (batch,) = await opened.read(plan)
        assert not batch.quality.any()
        with served.refusing(ua.StatusCodes.BadTcpNotEnoughResources), pytest.raises(NoAnswer):
            await opened.read(plan)
        assert opened._ahead > 1


async def test_a_server_that_comes_back_with_other_namespace_indexes_is_read_on() -> None:
    """Elsewhere: BadNodeIdUnknown until the gateway is restarted, or another node's values under this tag's name."""
    port = free_port()
    made = link(f"opc.tcp://127.0.0.1:{port}/plant", {"g": [f"nsu={NAMESPACE};s=A", f"nsu={NAMESPACE};/Objects/A"]})
    opened = OpcuaDriver(made)
    plan = opened.plan(made.devices[0].groups[0].tables)
    async with plant(port) as first:
        await first.add("A", 1.0)
        await opened.connect()
        assert [entry[0] for entry in rows(await opened.read(plan)).values()] == [1.0, 1.0]
    with pytest.raises(NotConnected):
        await opened.read(plan)
    await opened.close()
    with pytest.raises(NotConnected):
        await opened.connect()

    async def other(server: Server) -> None:
        index = await server.register_namespace("urn:other")
        await server.nodes.objects.add_variable(ua.NodeId("A", index), ua.QualifiedName("A", index), 99.0)

    async with plant(port, setup=other) as second:
        await second.add("A", 2.0)
        assert second.index != first.index
        await opened.connect()
        assert [entry[0] for entry in rows(await opened.read(plan)).values()] == [2.0, 2.0]
        await opened.close()


async def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
