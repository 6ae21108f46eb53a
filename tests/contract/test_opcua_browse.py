"""Browsing a real server, and making a site from what was found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import ua
from opcua_server import Plant, link, plant, rows
from typer.testing import CliRunner

from drivers.opcua.driver import OpcuaDriver
from gateway.cli.browse import fragment, select, tag_names
from gateway.config import load_site
from gateway.contracts import Browsable, Found

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        objects, index = running.server.nodes.objects, running.index
        for boiler in ("Boiler 1", "Boiler 2"):
            folder = await objects.add_folder(ua.NodeId(boiler, index), ua.QualifiedName(boiler, index))
            steam = await folder.add_folder(ua.NodeId(f"{boiler}.Steam", index), ua.QualifiedName("Steam", index))
            node = await steam.add_variable(ua.NodeId(f"{boiler}.Steam.T", index), ua.QualifiedName("T", index), 180.5)
            unit = ua.EUInformation(DisplayName=ua.LocalizedText("°C"))
            await node.add_property(index, "EngineeringUnits", unit)
            await node.add_property(index, "EURange", ua.Range(Low=0.0, High=250.0))
            stage_id = ua.NodeId(f"{boiler}.Stage", index)
            stage = await folder.add_variable(stage_id, ua.QualifiedName("Stage", index), 1, ua.VariantType.UInt32)
            await stage.add_property(index, "EnumStrings", [ua.LocalizedText("off"), ua.LocalizedText("low")])
            await folder.add_variable(ua.NodeId(f"{boiler}.On", index), ua.QualifiedName("On", index), True)
            array = ua.NodeId(f"{boiler}.Flue", index)
            await folder.add_variable(array, ua.QualifiedName("Flue", index), [1.0, 2.0, 3.0])
            space = running.server.iserver.aspace._nodes  # a loop, which the library would not make
            (down,) = [each for each in space[objects.nodeid].references if each.NodeId == folder.nodeid]
            space[steam.nodeid].references.append(down)
        many = await objects.add_folder(ua.NodeId("Many", index), ua.QualifiedName("Many", index))
        for number in range(1200):
            name = f"V{number}"
            await many.add_variable(ua.NodeId(f"Many.{name}", index), ua.QualifiedName(name, index), number)
        yield running


async def found_in(url: str, start: str = "", limit: int = 100_000) -> list[Found]:
    opened = OpcuaDriver(link(url, {"g": ["i=2258 text"]}))
    assert isinstance(opened, Browsable)
    await opened.connect()
    try:
        return [each async for each in opened.browse(start, limit)]
    finally:
        await opened.close()


async def test_variables_are_listed_with_type_unit_value_and_access(served: Plant) -> None:
    found = {"/".join(each.path): each for each in await found_in(served.url)}
    assert found["Boiler 1/Steam/T"] == Found(
        ("Boiler 1", "Steam", "T"), "nsu=urn:test:plant;s=Boiler 1.Steam.T", "float64", "°C", "180.5", "r", (0.0, 250.0)
    )
    assert found["Boiler 2/Flue"].type == "float64[3]"
    assert found["Boiler 1/Steam"].type == ""
    assert sum(path.startswith("Many/") for path in found) == 1200


async def test_browsing_begins_where_it_is_told_and_is_bounded(served: Plant) -> None:
    """A server with a million nodes, or one whose folders form loops, must not hold a person up for ever."""
    below = await found_in(served.url, f"/Objects/{served.index}:Boiler 1")
    assert sorted("/".join(each.path) for each in below) == ["Flue", "On", "Stage", "Steam", "Steam/T"]
    assert len(await found_in(served.url, "", 50)) == 50
    with pytest.raises(ValueError, match="there is no node"):
        await found_in(served.url, "ns=2;s=Nothing")


async def test_the_fragment_is_a_site_that_reads(served: Plant, tmp_path: Path) -> None:
    wanted = select(await found_in(served.url), "Boiler*", standard=False)
    (tmp_path / "boilers.yaml").write_text(fragment(served.url, wanted), encoding="utf-8")
    (tmp_path / "site.yaml").write_text("gateway: g\ninclude: [boilers.yaml]\n", encoding="utf-8")
    (compiled,) = load_site(tmp_path / "site.yaml").links
    opened = OpcuaDriver(compiled)
    await opened.connect()
    try:
        found = {}
        for device in compiled.devices:
            for group in device.groups:
                batches = await opened.read(opened.plan(group.tables))
                found |= {f"{device.name}/{name}": entry[:2] for name, entry in rows(batches).items()}
    finally:
        await opened.close()
    assert found["boiler-1/t"] == (180.5, 0)
    assert found["boiler-2/on"] == (True, 0)
    assert found["boiler-2/flue[2]"] == (3.0, 0)
    assert len(found) == 12
    tags = {tag.name: tag for table in compiled.tables if table.device == "boiler-1" for tag in table.tags}
    assert (tags["t"].unit, tags["t"].minimum, tags["t"].maximum) == ("°C", 0.0, 250.0)
    assert tags["stage"].states == ((0, "off"), (1, "low"))


async def test_the_command_prints_a_tree_and_a_fragment(served: Plant) -> None:
    import typer

    from gateway.cli.browse import browse

    app = typer.Typer()
    app.command()(browse)
    shown = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Boiler 1/*"])
    assert shown.exit_code == 0, shown.output
    assert "180.5 °C  float64 r  nsu=urn:test:plant;s=Boiler 1.Steam.T" in shown.output
    written = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Boiler 1/*", "--yaml"])
    assert "boiler-1:" in written.output
    nothing = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Nothing"])
    assert nothing.exit_code == 1


async def test_names_are_unique_and_as_short_as_they_can_be() -> None:
    found = [Found(tuple(path.split("/")), "", "float64") for path in ("A/B/T", "A/C/T", "A/C/P", "A/C/P ", "A/Größe")]
    assert tag_names(found) == ["b-t", "c-t", "a-c-p", "a-c-p-2", "größe"]
