"""What a real server says of its variables, and where a site file says otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from asyncua import Node, ua
from asyncua.common.structures104 import new_enum
from opcua_server import NAMESPACE, Listener, Plant, driver, link, plant, rows
from typer.testing import CliRunner

from drivers.opcua.driver import OpcuaDriver
from gateway import quality as q
from gateway.contracts import Comparing

pytestmark = pytest.mark.asyncio(loop_scope="module")
V = ua.VariantType
TEXTS = [ua.LocalizedText("stopped"), ua.LocalizedText("running")]
VALUES = [
    ua.EnumValueType(Value=number, DisplayName=ua.LocalizedText(text)) for number, text in ((0, "off"), (7, "on"))
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        index = running.index

        async def enumeration(name: str, **properties: Any) -> Node:
            kind = await running.server.nodes.enum_data_type.add_data_type(index, name)
            for key, value in properties.items():
                await kind.add_property(0, key, value)
            return kind

        async def variable(name: str, kind: Node) -> None:
            wanted = ua.NodeId(name, index), ua.QualifiedName(name, index)
            await running.server.nodes.objects.add_variable(*wanted, 1, V.Int32, kind.nodeid)

        await variable("ByStrings", await enumeration("Strings", EnumStrings=TEXTS))
        await variable("ByValues", await enumeration("Values", EnumValues=VALUES))
        await variable("ByDefinition", await new_enum(running.server, index, "Defined", ["idle", "busy"]))
        await variable("Plain", running.server.get_node(ua.ObjectIds.Int32))
        bits = running.server.get_node(ua.ObjectIds.UInt32)
        wanted = ua.NodeId("Bits", index), ua.QualifiedName("Bits", index)
        options = await bits.add_data_type(index, "Options")
        await options.add_property(0, "EnumStrings", TEXTS)
        await running.server.nodes.objects.add_variable(*wanted, 1, V.UInt32, options.nodeid)
        node = await running.add("T", 180.5, V.Double)
        await node.add_property(0, "EngineeringUnits", ua.EUInformation(DisplayName=ua.LocalizedText("°C")))
        await node.add_property(0, "EURange", ua.Range(Low=0.0, High=250.0))
        own = await running.add("Own", 1, V.UInt32)
        await own.add_property(0, "EnumStrings", TEXTS)
        await running.add("Long", 5, V.Int64)
        await running.add("Word", "7")
        values = await enumeration("More", EnumValues=VALUES)
        wanted = ua.NodeId("States", index), ua.QualifiedName("States", index)
        await running.server.nodes.objects.add_variable(*wanted, [0, 7], V.Int32, values.nodeid)
        await running.add("Curve", [1.0, 2.0], V.Double)
        yield running


async def test_an_enumeration_s_names_come_from_its_variable_or_its_data_type(served: Plant) -> None:
    opened = OpcuaDriver(link(served.url, {"g": ["i=2258 text"]}))
    await opened.connect()
    try:
        found = {each.path[-1]: each async for each in opened.browse()}
    finally:
        await opened.close()
    assert found["ByStrings"].states == ((0, "stopped"), (1, "running"))
    assert found["ByValues"].states == ((0, "off"), (7, "on"))
    assert found["ByDefinition"].states == ((0, "idle"), (1, "busy"))
    assert found["Own"].states == ((0, "stopped"), (1, "running"))
    assert found["Plain"].states == found["Bits"].states == ()  # the names of an OptionSet are those of bits
    assert {found[name].type for name in ("ByStrings", "ByValues", "ByDefinition")} == {"int32"}


async def test_an_enumeration_is_read_as_a_number(served: Plant) -> None:
    """Its names are in the definition, and are put in where somebody looks (ADR 002)."""
    async with driver(served.url, [f"nsu={NAMESPACE};s=ByValues", f"nsu={NAMESPACE};s=ByStrings int32"]) as (
        opened, plan,
    ):  # fmt: skip
        assert [entry[:2] for entry in rows(await opened.read(plan)).values()] == [(1.0, 0), (1.0, 0)]


ENUMERATIONS = ("ByStrings", "ByValues", "ByDefinition", "Own")


@pytest.mark.parametrize("mode", ["read", "subscribe"])
async def test_a_text_tag_on_an_enumeration_holds_the_server_s_name(served: Plant, mode: str) -> None:
    """Somebody who asks for text wants "on", not "7"; a number that has no name is not passed off as one."""
    nodes = (*ENUMERATIONS, "Plain", "Bits", "States", "Word")
    addresses: list[Any] = [f"nsu={NAMESPACE};s={name} text" for name in nodes]
    addresses.append({"address": f"nsu={NAMESPACE};s=States", "type": "text", "select": "[1]"})
    for name, value in zip(ENUMERATIONS, (0, 7, 1, 1), strict=True):
        kind = V.UInt32 if name == "Own" else V.Int32
        await served.server.get_node(ua.NodeId(name, served.index)).write_value(value, kind)
    options = {"mode": mode, "publishing_interval": "50 ms", "sampling_interval": "0 s"}
    async with driver(served.url, addresses, device=options) as (opened, plan), contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(Listener(opened, plan)) if mode == "subscribe" else None

        async def now(tag: str, expected: str) -> list[Any]:
            if listener is None:
                return [entry[:2] for entry in rows(await opened.read(plan)).values()]
            await listener.until(lambda: tag in listener.last() and listener.last()[tag][0] == expected)
            return [listener.last()[name][:2] for name in sorted(listener.last())]

        names = [("stopped", 0), ("on", 0), ("busy", 0), ("running", 0), ("1", 0), ("1", 0), ("[0,7]", 0), ("7", 0)]
        assert await now("t8", "on") == [*names, ("on", 0)]
        unknown = served.server.get_node(ua.NodeId("ByValues", served.index))
        await unknown.write_value(5, V.Int32)
        assert (await now("t1", "5"))[1] == ("5", q.UNCERTAIN)
        await served.change("Own", 0, V.UInt32, status=0x80050000)
        assert (await now("t3", ""))[3] == ("", 0x80050000)
    await served.change("Own", 1, V.UInt32)
    await unknown.write_value(1, V.Int32)
    await served.server.get_node(ua.NodeId("ByStrings", served.index)).write_value(1, V.Int32)


async def test_names_of_states_are_asked_for_again_at_each_connect(served: Plant) -> None:
    """After a change of the server's program a state may have another name."""
    kind = await served.server.nodes.enum_data_type.add_data_type(served.index, "Renamed")
    strings = await kind.add_property(0, "EnumStrings", TEXTS)
    wanted = ua.NodeId("ByRenamed", served.index), ua.QualifiedName("ByRenamed", served.index)
    await served.server.nodes.objects.add_variable(*wanted, 1, V.Int32, kind.nodeid)
    async with driver(served.url, [f"nsu={NAMESPACE};s=ByRenamed text"]) as (opened, plan):
        assert rows(await opened.read(plan))["t0"][0] == "running"
        await strings.write_value([ua.LocalizedText("halt"), ua.LocalizedText("run")])
        await opened.close()
        await opened.connect()
        assert rows(await opened.read(plan))["t0"][:2] == ("run", 0)


async def test_a_text_tag_on_a_string_costs_one_attribute_more(served: Plant) -> None:
    """Only what may be an enumeration is asked about its states; numbers are not asked at all."""
    asked = {}
    for address in ("ByValues", "Word text"):
        async with driver(served.url, [f"nsu={NAMESPACE};s={address}"]) as (opened, plan):
            before = len(served.reads)
            await opened.read(plan)
            asked[address] = served.reads[before:]
    assert asked == {"ByValues": [1], "Word text": [1, 1]}


async def differ(served: Plant, tags: str, tmp_path: Path) -> Any:
    """Give what `plan --online --json` says of a file with these tags."""
    import orjson
    import typer

    from gateway.cli.plan import plan

    (tmp_path / "site.yaml").write_text(
        f"gateway: g\nlinks:\n  l:\n    driver: opcua\n    url: {served.url}\n    devices:\n      d:\n"
        f"        namespace: {NAMESPACE}\n        mode: read\n        tags:\n" + tags
    )
    app = typer.Typer()
    app.command()(plan)
    done = await asyncio.to_thread(CliRunner().invoke, app, [str(tmp_path / "site.yaml"), "--online", "--json"])
    assert done.exit_code == 0, done.output
    (answer,) = orjson.loads(done.stdout)["online"]
    return [(each["tag"], each["what"], each["file"], each["server"]) for each in answer["differ"]]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("{address: s=T, unit: °C, min: 0, max: 250}", []),
        ("{address: s=T, unit: bar, min: 0, max: 200}",
         [("t", "unit", "bar", "°C"), ("t", "range", "0 to 200", "0 to 250")]),
        ("{address: s=T}", [("t", "unit", "", "°C"), ("t", "range", "", "0 to 250")]),
        ("{address: s=T, scale: 0.1, unit: x, min: 0, max: 25}", []),
        ("{address: s=ByValues, states: {0: off, 7: on}}", []),
        ("{address: s=ByValues, states: {0: off, 1: on}}", [("t", "states", "0: off, 1: on", "0: off, 7: on")]),
        ("{address: s=ByStrings}", [("t", "states", "", "0: stopped, 1: running")]),
        ("s=ByStrings text", []),
        ("s=Long", [("t", "type", "float64", "int64")]),
        ("s=Long int64", []),
        ("{address: s=Long int64, scale: 0.1}", []),
        ("s=Curve", [("t", "type", "float64", "float64[2]")]),
        ("s=Curve [1]", []),
        ("s=Curve text", []),
        ("s=Nothing", [("t", "node", "s=Nothing", "BadNodeIdUnknown (0x80340000)")]),
    ],
)  # fmt: skip
async def test_what_the_server_says_otherwise_is_told(
    served: Plant, tag: str, expected: list[Any], tmp_path: Path
) -> None:
    """A range or a unit that was changed at the server, or a type that makes a tag Bad, is seen before it is missed."""
    assert await differ(served, f"          t: {tag}\n", tmp_path) == expected


async def test_a_table_of_differences_is_printed(served: Plant, tmp_path: Path) -> None:
    import typer

    from gateway.cli.plan import plan

    await differ(served, "          t: {address: s=T, unit: bar, min: 0, max: 250}\n", tmp_path)
    app = typer.Typer()
    app.command()(plan)
    done = await asyncio.to_thread(CliRunner().invoke, app, [str(tmp_path / "site.yaml"), "--online"])
    assert done.exit_code == 0, done.output
    assert "the server says otherwise" in done.output
    assert "d/t" in done.output
    assert "°C" in done.output


async def test_a_driver_compares(served: Plant) -> None:
    async with driver(served.url, ["i=2258 text"]) as (opened, plan):
        assert isinstance(opened, Comparing)
        assert await opened.compare([plan]) == []


async def test_what_the_file_does_not_say_is_written_into_it(served: Plant, tmp_path: Path) -> None:
    """Units, ranges and names of states without typing; what a person wrote, and the comments, stay."""
    import typer

    from gateway.cli.plan import plan

    tags = (
        "          # the boiler\n          t: s=T  # feed\n          own: {address: s=T, unit: bar}\n"
        "          state: {address: s=ByStrings}\n"
    )
    await differ(served, tags, tmp_path)
    app = typer.Typer()
    app.command()(plan)
    file = tmp_path / "site.yaml"
    asked = [str(file), "--online", "--write"]
    done = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert done.exit_code == 0, done.output
    text = file.read_text()
    assert "# the boiler" in text
    assert "# feed" in text
    site = yaml.safe_load(text)
    assert site["links"]["l"]["devices"]["d"]["tags"] == {
        "t": {"address": "s=T", "unit": "°C", "min": 0.0, "max": 250.0},
        "own": {"address": "s=T", "unit": "bar", "min": 0.0, "max": 250.0},
        "state": {"address": "s=ByStrings", "states": {0: "stopped", 1: "running"}},
    }
    again = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert again.exit_code == 0, again.output
    assert file.read_text() == text
