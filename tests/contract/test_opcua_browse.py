"""Browsing a real server, and making a site from what was found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import typer
import yaml
from asyncua import ua
from opcua_server import Plant, link, plant, rows
from typer.testing import CliRunner

from drivers.opcua.driver import OpcuaDriver
from gateway.cli.browse import fragment, names_in, select, tag_names
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


async def test_the_command_prints_a_tree_and_a_fragment(served: Plant, tmp_path: Path) -> None:
    from gateway.cli.browse import browse

    app = typer.Typer()
    app.command()(browse)
    shown = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Boiler 1/*"])
    assert shown.exit_code == 0, shown.output
    assert "180.5 °C  float64 r  nsu=urn:test:plant;s=Boiler 1.Steam.T" in shown.output
    written = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Boiler 1/*", "--yaml"])
    assert "boiler-1:" in written.output
    (tmp_path / "earlier.yaml").write_text(written.output.replace("boiler-1:", "east:"), encoding="utf-8")
    kept = ["--keep", str(tmp_path / "earlier.yaml")]
    again = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Boiler 1/*", "--yaml", *kept])
    assert again.output == written.output.replace("boiler-1:", "east:")
    refused = await asyncio.to_thread(CliRunner().invoke, app, [served.url, *kept])
    assert refused.exit_code == 2
    nothing = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--match", "Nothing"])
    assert nothing.exit_code == 1


async def test_a_file_that_is_there_keeps_its_words_and_gets_what_is_new(served: Plant, tmp_path: Path) -> None:
    """Somebody has named, commented and tuned it: browsing again must cost nothing of that."""
    from gateway.cli.browse import browse

    app = typer.Typer()
    app.command()(browse)
    path = tmp_path / "plant.yaml"

    async def into(match: str) -> str:
        arguments = [served.url, "--match", match, "--into", str(path)]
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert done.exit_code == 0, f"{done.output}{done.exception}"
        return done.output

    assert "nodes added, 0 were there" in await into("Boiler 1/*")
    first = path.read_text(encoding="utf-8")
    assert ": 0 nodes added" in await into("Boiler 1/*")
    assert path.read_text(encoding="utf-8") == first
    edited = first.replace("boiler-1:", "east:  # the eastern one").replace(
        "        t: {", "        heat: {deadband: 0.5, "
    )
    assert edited.count("heat") == 1
    path.write_text(edited, encoding="utf-8")
    said = await into("*")
    assert ": 0 nodes added" not in said
    text = path.read_text(encoding="utf-8")
    assert "east:  # the eastern one" in text
    devices = yaml.safe_load(text)["links"]["opcua"]["devices"]
    before = yaml.safe_load(edited)["links"]["opcua"]["devices"]["east"]["tags"]
    assert devices["east"]["tags"]["heat"] == before["heat"]
    assert before.items() <= devices["east"]["tags"].items()
    assert set(named(text)) > set(named(edited))
    (tmp_path / "site.yaml").write_text('gateway: g\ninclude: [plant.yaml]\npublish: {c: {url: "mqtt://h"}}\n')
    load_site(tmp_path / "site.yaml")
    path.write_text("links: {}")
    refused = await asyncio.to_thread(CliRunner().invoke, app, [served.url, "--into", str(path)])
    assert refused.exit_code == 2
    assert path.read_text(encoding="utf-8") == "links: {}"


async def test_progress_is_shown_on_a_terminal_and_nowhere_else(served: Plant, tmp_path: Path) -> None:
    """The bar is for a person: what the command prints into a file or a pipe has no trace of it."""
    leader, follower = pty.openpty()
    program = "from gateway.cli.app import make_app; make_app()()"
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, "browse", served.url, "--match", "Boiler 1/*",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "PLANTBRIDGE_LANG": "en"},
        )  # fmt: skip
        os.close(follower)
        seen = bytearray()

        def look() -> None:
            with contextlib.suppress(OSError):  # the end of a terminal is an error
                while some := os.read(leader, 65536):
                    seen.extend(some)

        async with asyncio.timeout(60):
            (out, _), _ = await asyncio.gather(process.communicate(), asyncio.to_thread(look))
    finally:
        os.close(leader)
    assert process.returncode == 0
    shown = seen.decode(errors="replace")
    counts = [int(number) for number in re.findall(r"(\d+) nodes", shown)]
    assert counts
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert "\x1b[2K" in shown  # and it is wiped at the end
    assert b"nodes" not in out
    assert b"\x1b" not in out
    assert b"Boiler 1" in out


async def test_names_are_unique_and_as_short_as_they_can_be() -> None:
    found = [Found(tuple(path.split("/")), "", "float64") for path in ("A/B/T", "A/C/T", "A/C/P", "A/C/P ", "A/Größe")]
    assert tag_names(found) == ["b-t", "c-t", "a-c-p", "a-c-p-2", "größe"]


def plant_of(*paths: str) -> list[Found]:
    found = [Found(tuple(path.split("/")), f"nsu=urn:test:plant;s={path}", "float64") for path in paths]
    return select(found, "*", standard=False)


def named(text: str) -> dict[str, str]:
    """Give device/tag by address of a fragment."""
    devices = yaml.safe_load(text)["links"]["opcua"]["devices"]
    return {tag["address"]: f"{name}/{each}" for name, keys in devices.items() for each, tag in keys["tags"].items()}


URL = "opc.tcp://127.0.0.1:4840"


async def test_names_of_an_earlier_fragment_stay_whatever_comes_to_the_server(tmp_path: Path) -> None:
    """A name is that of a series in the store: a second pump must not rename the first, nor take over a dead one's."""
    earlier = tmp_path / "earlier.yaml"
    first = fragment(URL, plant_of("Hall/Pump 1/T", "Hall/Pump 1/P", "Hall/Old/Q"))
    earlier.write_text(first, encoding="utf-8")
    grown = plant_of("Hall/Fan/T", "Hall/Pump 1/T", "Hall/Pump 1/P", "Hall/New/Q")
    before, now = named(first), named(fragment(URL, grown, None, names_in(earlier, URL)))
    assert before["nsu=urn:test:plant;s=Hall/Pump 1/T"] == "hall/t"
    assert {address: now[address] for address in before if address in now} == {
        address: name for address, name in before.items() if "Old" not in address
    }
    assert now["nsu=urn:test:plant;s=Hall/Fan/T"] == "hall/fan-t"
    assert now["nsu=urn:test:plant;s=Hall/New/Q"] == "hall/new-q"  # hall/q was another node's
    assert named(fragment(URL, grown))["nsu=urn:test:plant;s=Hall/Pump 1/T"] == "hall/pump-1-t"  # without the file


async def test_names_are_kept_from_a_file_that_somebody_has_edited(tmp_path: Path) -> None:
    """Names, devices, groups and the short way to write a tag are the integrator's; the node says which tag it is."""
    site = tmp_path / "site.yaml"
    site.write_text(
        "links:\n  other: {url: 'opc.tcp://h', devices: {x: {tags: {wrong: nsu=urn:test:plant;s=Hall/A}}}}\n"
        f"  hall:\n    url: {URL}\n    devices:\n      press:\n        namespace: urn:test:plant\n"
        "        tags: {heat: s=Hall/A float}\n        groups: {fast: {tags: {force: {address: s=Hall/B}}}}\n",
        encoding="utf-8",
    )
    now = named(fragment(URL, plant_of("Hall/A", "Hall/B", "Hall/C"), None, names_in(site, URL)))
    assert list(now.values()) == ["press/heat", "press/force", "hall/c"]


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "has no link to"), ("links: {a: {url: 'opc.tcp://h'}}", "has no link to"), ("a: [", "cannot be read")],
)
async def test_a_file_without_names_of_the_server_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """Such as the file that the shell has just emptied, because the output goes there."""
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(typer.BadParameter, match=why):
        names_in(tmp_path / "f.yaml", URL)
