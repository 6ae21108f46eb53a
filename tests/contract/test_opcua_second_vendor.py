"""The driver against a server of another make (node-opcua, tests/npm/opcua_server.js): all else here is asyncua."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from opcua_server import Listener, Proxy, driver, lose, rows

from drivers.opcua import browse, missed, pki
from gateway import quality as q
from gateway.contracts import Write
from gateway.errors import NotConnected
from tests import npm_reader

pytestmark = [pytest.mark.asyncio(loop_scope="module"), npm_reader.PATIENT]
NODE = "nsu=urn:other:plant;s="
MANY = 650
MOMENT = 1_772_600_767_890_000_000
SUBSCRIBE: dict[str, Any] = {"mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s"}


class Other:
    """The running server."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self.folder = folder
        self.port = 0

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant"

    async def said(self) -> dict[str, Any]:
        """Give the next line that the server means for us; its library talks too."""
        assert self._process.stdout is not None
        heard = b""
        async with asyncio.timeout(100):
            while line := await self._process.stdout.readline():
                heard += line
                if line.startswith(b"{"):
                    found: dict[str, Any] = json.loads(line)
                    return found
        raise AssertionError(heard.decode())

    async def do(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()
        assert await self.said() == {"done": next(iter(command))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Other]:
    place, folder = await asyncio.to_thread(npm_reader.installed), tmp_path_factory.mktemp("other")
    process = await asyncio.create_subprocess_exec(
        "node", "opcua_server.js", str(folder), cwd=place, limit=2**20,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        made = Other(process, folder)
        made.port = (await made.said())["port"]
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("mode", ["read", "subscribe"])
async def test_types_times_and_bad_nodes_arrive_as_from_any_server(other: Other, mode: str) -> None:
    expected: dict[str, Any] = {
        "Float float": 1.5, "UInt32 uint32": 2**32 - 1, "Int64 int64": -9007199254740993,
        "UInt64 uint64": 2**64 - 1, "Boolean bool": True, "DateTime datetime": "2026-03-04T05:06:07.8900000Z",
        "Guid guid": "09087e75-8e5e-499b-954f-f2a9603db28a", "ByteString bytestring": "cGxhbnQ=",
        "Curve [3]": 3.0, "Names [1] text": "b", "Names text": '["a","b","c"]', "Mode text": "on", "Mode int32": 1.0,
    }  # fmt: skip
    addresses: list[Any] = [f"{NODE}{each}" for each in expected] + [f"{NODE}Nothing", "/Objects/2:Boiler/2:Float"]
    options = {"mode": "read"} if mode == "read" else SUBSCRIBE
    async with driver(other.url, addresses, device=options) as (opened, plan):
        if mode == "read":
            await opened.read(plan)
            found = rows(await opened.read(plan))
        else:
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: len(listener.last()) == len(addresses))
                found = listener.last()
    assert [found[f"t{number}"][0] for number in range(len(expected))] == list(expected.values())
    assert {found[f"t{number}"][1:] for number in range(10)} == {(q.GOOD, MOMENT)} or mode == "read"
    assert found[f"t{len(expected)}"][1] == q.BAD_NODE_ID_UNKNOWN
    assert found[f"t{len(expected) + 1}"][:2] == (1.5, q.GOOD)


async def test_requests_keep_to_the_limits_that_the_server_names(other: Other) -> None:
    """It takes 300 nodes in a Read and 200 monitored items in a call, and refuses more."""
    addresses: list[Any] = [f"{NODE}N{number}" for number in range(MANY)]
    async with driver(other.url, addresses, device={"mode": "read"}) as (opened, plan):
        assert (opened._limits.read, opened._limits.monitor, opened._limits.browse) == (300, 200, 100)
        for _ in range(2):
            (batch,) = await opened.read(plan)
            assert batch.value.tolist() == list(range(MANY))
    async with driver(other.url, addresses, device=SUBSCRIBE) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == MANY)
        assert all(listener.last()[f"t{number}"][:2] == (number, 0) for number in range(MANY))


@pytest.mark.parametrize("mode", ["read", "subscribe"])
async def test_elements_are_asked_for_by_index_range(other: Other, mode: str) -> None:
    """This server knows ranges. What is not there any more is Bad, as where the array is cut here."""
    addresses: list[Any] = [f"{NODE}Curve [3:5]", f"{NODE}Names [1] text", f"{NODE}Names [2] text"]
    async with driver(other.url, addresses, device={"mode": "read"} if mode == "read" else SUBSCRIBE) as (opened, plan):
        if mode == "read":
            await opened.read(plan)
            cut = opened._prepared[plan].cut
            found = rows(await opened.read(plan))
            await other.do(set=["Curve", [10, 11, 12, 13]])
            shrunk = rows(await opened.read(plan))
        else:
            async with Listener(opened, plan) as listener:
                await listener.until(lambda: len(listener.last()) == 5)
                found = listener.last()
                cut = opened._watcher.items.watched[0].cut
                await other.do(set=["Curve", [10, 11, 12, 13]])
                await listener.until(lambda: listener.last()["t0[3]"][0] == 13)
                shrunk = listener.last()
    assert [cut.range(node) for node in range(2)] == ["3:5", "1:2"]
    assert [found[f"t0[{n}]"][:2] for n in (3, 4, 5)] == [(3.0, 0), (4.0, 0), (5.0, 0)]
    assert (found["t1"][0], found["t2"][0]) == ("b", "c")
    assert [shrunk[f"t0[{n}]"][1] for n in (3, 4, 5)] == [0, 0x80370000, 0x80370000]
    await other.do(set=["Curve", list(range(8))])


async def test_changes_statuses_and_a_cut_link(other: Other) -> None:
    await other.do(set=["Double", 1])
    addresses: list[Any] = [f"{NODE}Double", f"{NODE}Curve [2]"]
    async with Proxy(other.port) as proxy, driver(proxy.url, addresses, device=SUBSCRIBE) as (opened, plan):
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.last()) == 2)
            for value in (2, 3, 4):
                await other.do(set=["Double", value])
                await listener.until(lambda value=value: listener.last()["t0"][0] == value)
            await other.do(spoil="Double")
            await listener.until(lambda: listener.last()["t0"][1] == ua.StatusCodes.BadSensorFailure)
            await lose(proxy, listener, opened)
        await other.do(set=["Double", 5])
        await opened.connect()
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: listener.last().get("t0", (0,))[0] == 5)
            await other.do(set=["Double", 6])
            await listener.until(lambda: listener.last()["t0"][0] == 6)
    await other.do(set=["Double", 0.1])


async def test_a_long_cut_is_filled_from_its_history(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed, "SETTLE", 0.2)
    options = {**SUBSCRIBE, "fill_gaps": True}
    async with Proxy(other.port) as proxy, driver(proxy.url, [f"{NODE}History"], device=options) as (opened, plan):
        await other.do(set=["History", 1])
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: listener.values("t0")[-1:] == [1.0])
            await lose(proxy, listener, opened)
        opened._watcher.origin = "", "another start"  # as if it had been restarted: nothing is taken over
        for value in range(2, 8):
            await other.do(set=["History", value])
        await opened.connect()
        async with Listener(opened, plan) as listener:
            await listener.until(lambda: len(listener.readings("t0", backfill=True)) >= 6)
            filled = sorted(listener.readings("t0", backfill=True))
            assert [value for _, value in filled] == [
                2,
                3,
                4,
                5,
                6,
                7,
            ]  # what is live again too
            assert len({moment for moment, _ in filled}) == 6
            assert not listener.gaps


async def test_browsing_follows_continuation_points_to_the_end(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "_REFERENCES", 100)
    async with driver(other.url, [f"{NODE}Double"]) as (opened, _plan):
        asked: list[str] = []
        service = opened._session.service

        async def noted(request: Any, answer: Any, doing: str) -> Any:
            asked.append(type(request).__name__)
            return await service(request, answer, doing)

        opened._session.service = noted
        found = {each.address: each async for each in opened.browse()}
        assert asked.count("BrowseNextRequest") >= MANY // 100 - 1
        many = [found[f"{NODE}N{number}"] for number in range(MANY)]
        assert {(each.type, each.value) for each in many} == {("float64", str(float(n))) for n in range(MANY)}
        pressure = found[f"{NODE}Pressure"]
        assert (pressure.unit, pressure.range, pressure.path) == ("bar", (0.0, 16.0), ("Boiler", "Pressure"))
        assert found[f"{NODE}Mode"].states == ((0, "off"), (1, "on"), (5, "fault"))
        asked.clear()
        some = [each async for each in opened.browse(f"{NODE}Many", 250)]
        assert len(some) == 250
        assert asked.count("BrowseNextRequest") <= 3  # and the last of them gives the rest up
        assert [each async for each in opened.browse(f"{NODE}Many")]  # points that were given up are free again


async def test_browsing_loses_nothing_where_continuation_points_are_few(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This server has three of them; asked for 15 references a node it needs more at once."""
    async with driver(other.url, [f"{NODE}Double"]) as (opened, _plan):
        whole = {each.address async for each in opened.browse()}
        refused: list[int] = []
        service = opened._session.service

        async def noted(request: Any, answer: Any, doing: str) -> Any:
            found = await service(request, answer, doing)
            if isinstance(found, ua.BrowseResponse):
                refused.extend(each.StatusCode.value for each in found.Results if not each.StatusCode.is_good())
            return found

        opened._session.service = noted
        monkeypatch.setattr(browse, "_REFERENCES", 15)
        assert {each.address async for each in opened.browse()} == whole
        assert ua.StatusCodes.BadNoContinuationPoints in refused


async def test_units_and_ranges_are_said_by_the_server(other: Other) -> None:
    async with driver(other.url, [f"{NODE}Pressure", f"{NODE}Double"]) as (opened, plan):
        (said,) = await opened.describe([plan])
        assert (said.tag, said.unit, said.range) == ("t0", "bar", (0.0, 16.0))
        assert await opened.describe([plan]) == []  # said once


async def test_what_is_written_is_read_back_and_refusals_are_the_server_s(other: Other) -> None:
    writable = [f"{NODE}Double", f"{NODE}Int16 int16", f"{NODE}String text", f"{NODE}Curve [4]", f"{NODE}Float"]
    addresses: list[Any] = [{"address": each, "writable": True} for each in writable]
    async with driver(other.url, addresses) as (opened, plan):
        tags = {tag.name: tag for table in plan.tables for tag in table.tags}

        async def put(name: str, value: Any) -> tuple[Any, int]:
            (done,) = await opened.write([Write("dev", tags[name], value)])
            return done.after, done.quality

        assert await put("t0", 2.5) == (2.5, 0)
        assert await put("t1", -7.0) == (-7.0, 0)
        assert await put("t2", "热") == ("热", 0)
        assert await put("t3", 40.0) == (40.0, 0)
        assert (await put("t4", 1.0))[1] in (ua.StatusCodes.BadNotWritable, ua.StatusCodes.BadUserAccessDenied)
        await put("t0", 0.1)
        await put("t3", 4.0)


async def test_an_alarm_is_a_row_per_field(other: Other) -> None:
    fields: list[Any] = ["event:SourceName", "event:Severity", "event:Message", "event:ActiveState/Id"]
    options = {"publishing_interval": "50 ms", "events": {"severity": 200, "types": ["i=2915"]}}
    async with driver(other.url, fields, device=options) as (opened, plan), Listener(opened, plan) as listener:
        await listener.until(lambda: len(listener.last()) == 4)
        await other.do(**{"raise": "hot"})
        await listener.until(lambda: listener.last()["t2"][:2] == ("hot", 0))
        assert [listener.last()[f"t{number}"][0] for number in (0, 1, 3)] == ["2:Boiler", 700.0, True]


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        ("Basic256Sha256", "SignAndEncrypt"),
        ("Aes128_Sha256_RsaOaep", "Sign"),
        ("Aes256_Sha256_RsaPss", "SignAndEncrypt"),
    ],
)
async def test_security_with_its_certificate_a_password_and_a_renewal(
    other: Other, tmp_path: Path, policy: str, mode: str
) -> None:
    options: dict[str, Any] = {
        "security_policy": policy, "security_mode": mode, "pki": str(tmp_path),
        "user": "operator", "password": "secret", "allow_plaintext_password": mode == "Sign",
    }  # fmt: skip
    with pytest.raises(NotConnected, match="is not known"):
        async with driver(other.url, [f"{NODE}Double"], **options):
            pass
    ((_, certificate),) = pki.certificates(tmp_path / "rejected")
    pki.trust(pki.fingerprint(certificate), tmp_path)
    async with driver(other.url, [f"{NODE}Double"], channel_lifetime="2 s", **options) as (opened, plan):
        connection = opened._session.client.uaclient.protocol._connection
        first = connection.security_token.TokenId
        async with asyncio.timeout(30):
            while connection.security_token.TokenId == first:
                assert rows(await opened.read(plan))["t0"][:2] == (0.1, 0)
                await asyncio.sleep(0.05)
    with pytest.raises(NotConnected):
        async with driver(other.url, [f"{NODE}Double"], **{**options, "password": "wrong"}):
            pass
