"""`plantbridge probe` against simulated devices whose site file is wrong in the ways that site files are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import make_app
from gateway.config import load_site
from simulators.modbus import ModbusServer
from tests.contract import opcua_server

TRUE = """
gateway: demo
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1
    timeout: 500 ms
    devices:
      press:
        retries: 0
        tags:
          pressure: {address: holding:0 float32 ABCD, unit: bar, min: 100, max: 320}
          flow: {address: holding:2 float32 CDAB, unit: L/min, min: 10, max: 90}
          state: {address: holding:4 uint16, states: {0: stopped, 1: running}, simulate: {signal: states}}
          parts: holding:8 uint64
      oven:
        unit_id: 2
        retries: 0
        tags: {heat: "holding:0 int16"}
metrics: {listen: null}
"""


@contextlib.asynccontextmanager
async def plant(folder: Path, *changes: tuple[str, str]) -> AsyncIterator[tuple[Path, ModbusServer]]:
    """Simulate the true site; give a site file in which some of it is written otherwise."""
    path = folder / "site.yaml"
    path.write_text(TRUE)
    async with ModbusServer(load_site(path).links[0]) as server:
        text = TRUE.replace("127.0.0.1:1", f"127.0.0.1:{await server.listen()}")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        yield path, server


async def invoke(*words: Any) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, make_app(), [str(word) for word in words])


async def verdicts(site: Path, *words: str) -> tuple[int, dict[str, tuple[str, str]]]:
    result = await invoke("probe", site, *words, "--json")
    body = json.loads(result.stdout)
    tags = (tag for device in body["devices"] for tag in device["tags"])
    return result.exit_code, {tag["name"]: (tag["verdict"], tag["note"]) for tag in tags}


async def test_a_site_file_that_is_true_passes(tmp_path: Path) -> None:
    async with plant(tmp_path) as (site, _):
        code, found = await verdicts(site)
    assert {verdict for verdict, _ in found.values()} == {"plausible"}
    assert len(found) == 5
    assert code == 0


async def test_a_wrong_word_order_is_recognised_and_the_right_one_named(tmp_path: Path) -> None:
    async with plant(
        tmp_path, ("float32 ABCD", "float32 CDAB"), ("float32 CDAB, unit: L", "float32 ABCD, unit: L")
    ) as (
        site,
        _,
    ):
        code, found = await verdicts(site, "press")
    assert code == 1
    assert found["press/pressure"][0] == found["press/flow"][0] == "wrong word order?"
    assert "try ABCD" in found["press/pressure"][1]
    assert "try CDAB" in found["press/flow"][1]
    assert found["press/parts"][0] == "plausible"
    assert "oven/heat" not in found


COUNTERS = """
          energy: {address: holding:20 uint64, scale: 0.001, simulate: {signal: constant, low: 12345, high: 12345}}
          hours: {address: holding:24 uint32, simulate: {signal: constant, low: 4711, high: 4711}}
          serial: holding:8 uint64
"""


async def test_a_device_that_swaps_words_is_judged_as_a_whole_and_the_way_to_mend_it_named(tmp_path: Path) -> None:
    """A counter may hold anything; beside floats that all say CDAB it is not plausible as it stands."""
    true = TRUE.replace("ABCD", "CDAB").replace("\n          parts: holding:8 uint64", COUNTERS.rstrip())
    true = true.replace("      press:\n", "      press:\n        order: CDAB\n").replace("float32 CDAB", "float32")
    path = tmp_path / "site.yaml"
    path.write_text(true)
    async with ModbusServer(load_site(path).links[0]) as server:
        true = true.replace("127.0.0.1:1", f"127.0.0.1:{await server.listen()}")
        path.write_text(true)
        code, found = await verdicts(path, "press")
        assert {verdict for verdict, _ in found.values()} == {"plausible"}, found
        path.write_text(true.replace("        order: CDAB\n", ""))
        code, found = await verdicts(path, "press")
        result = await invoke("probe", path, "press", "--report", tmp_path / "report.md")
    assert code == 1
    assert found["press/energy"][0] == found["press/hours"][0] == found["press/flow"][0] == "wrong word order?"
    assert found["press/hours"][1] == "CDAB makes it 4711, raw"
    assert found["press/state"][0] == "plausible"
    mend = f"plantbridge import LIST --into {path} --device press --order CDAB"
    assert mend in result.output.replace("\n", " ")
    assert "`order: CDAB` at the device press" in (tmp_path / "report.md").read_text()
    assert str(0x5EA8_00BC_0000_0000) in result.output  # raw, as it is read: none of its 64 bits is rounded


async def test_a_refused_address_and_a_value_out_of_range_leave_their_neighbours_plausible(tmp_path: Path) -> None:
    limits = ("holding:4 uint16, states: {0: stopped, 1: running}", "holding:4 uint16, states: {7: stopped}")
    async with plant(tmp_path, limits) as (site, server):
        server.faults[1].refused.add(("holding", 8))
        code, found = await verdicts(site)
    assert code == 1
    assert found["press/parts"][0] == "illegal address"
    assert "exception 01, 02 or 03" in found["press/parts"][1]
    assert found["press/state"][0] == "out of range"
    assert found["press/pressure"][0] == found["oven/heat"][0] == "plausible"


async def test_a_silent_device_does_not_keep_its_neighbour_from_being_read(tmp_path: Path) -> None:
    async with plant(tmp_path) as (site, server):
        server.faults[1].silent = True
        code, found = await verdicts(site)
    assert code == 1
    assert found["press/pressure"][0] == "not answering"
    assert "unit 1 did not answer" in found["press/pressure"][1]
    assert found["oven/heat"][0] == "plausible"


async def test_a_link_that_cannot_be_reached_says_so_for_each_of_its_devices(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(TRUE)
    result = await invoke("probe", path)
    assert result.exit_code == 1
    assert "press: " in result.output
    assert "Not passed: 5 of 5 tags of 2 devices" in result.output


async def test_the_table_shows_what_is_off_with_its_line(tmp_path: Path) -> None:
    async with plant(tmp_path, ("float32 ABCD", "float32 CDAB")) as (site, _):
        result = await invoke("probe", site, "press", "--off")
    assert "pressure" in result.output
    assert "flow" not in result.output
    assert "try ABCD" in " ".join(result.output.replace("│", " ").split())
    assert "Not passed: 1 of 4 tags of 1 device is not as the site file says." in result.output


@pytest.mark.parametrize("name", ["report.html", "report.md"])
async def test_the_report_says_who_read_what_where_and_the_verdict(tmp_path: Path, name: str) -> None:
    async with plant(tmp_path, ("float32 ABCD", "float32 CDAB")) as (site, _):
        await invoke("probe", site, "--report", tmp_path / name, "--by", "Maria & Co")
    text = (tmp_path / name).read_text()
    assert "site.yaml" in text
    assert "Not passed: 1 of 5 tags of 2 devices" in text
    assert "looks like the wrong word order: try ABCD" in text
    assert "holding:4 uint16" in text
    assert ("Maria &amp; Co" if name.endswith("html") else "Maria & Co") in text
    assert "<script" not in text
    assert "http" not in text


async def test_another_form_of_report_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    result = await invoke("probe", tmp_path / "site.yaml", "--report", "report.docx")
    assert result.exit_code == 2
    assert "expected FILE.html or FILE.md" in " ".join(result.output.split())


async def test_a_device_that_is_not_there_is_answered_with_the_one_that_is(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(TRUE)
    result = await invoke("probe", path, "pres")
    assert result.exit_code == 2
    assert "did you mean press?" in " ".join(result.output.split())


def test_an_opcua_server_is_read_too_subscribed_groups_among_them(tmp_path: Path) -> None:
    """What is subscribed in the running gateway is read here: the integrator wants a value now."""

    async def populate(running: opcua_server.Plant) -> None:
        await running.add("Level", 1.5)
        await running.add("Name", "an")

    server = opcua_server.Background(populate)
    path = tmp_path / "site.yaml"
    path.write_text(
        f"""
gateway: demo
links:
  house:
    driver: opcua
    url: opc.tcp://127.0.0.1:{server.port}
    devices:
      boiler:
        namespace: {opcua_server.NAMESPACE}
        tags:
          level: {{address: s=Level double, unit: m, min: 0, max: 1}}
          name: s=Name double
          gone: s=Gone double
"""
    )
    result = CliRunner().invoke(make_app(), ["probe", str(path), "--json"])
    tags = {tag["name"]: tag for tag in json.loads(result.stdout)["devices"][0]["tags"]}
    assert result.exit_code == 1
    assert tags["boiler/level"]["verdict"] == "out of range"
    assert (tags["boiler/name"]["verdict"], tags["boiler/gone"]["verdict"]) == ("wrong type", "illegal address")
