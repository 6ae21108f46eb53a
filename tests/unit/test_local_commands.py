"""`plantbridge status`, `tail` and `explain` against a daemon with a simulated device, and without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import make_app
from tests.local_plant import SITE, Local, running


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    async with running(tmp_path) as found:
        await found.until(lambda answer: answer["links"][0]["up"], ask="status", over=0)
        yield found


async def invoke(*words: Any) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, make_app(), [str(word) for word in words])


async def test_status_shows_the_plant_and_what_to_do_about_the_broker_that_is_away(local: Local) -> None:
    await local.until(lambda answer: answer["publishers"][0]["up"] is False, ask="status", over=0)
    result = await invoke("status", local.path, "--over", "100 ms")
    assert result.exit_code == 1
    assert "press" in result.output
    assert "publisher cloud (mqtt://127.0.0.1:1) cannot send" in result.output
    assert "to do: is the broker up" in result.output


async def test_status_for_programs_holds_the_same(local: Local) -> None:
    result = await invoke("status", local.path, "--over", "0 s", "--json")
    body = json.loads(result.stdout)
    assert body["running"]
    assert body["links"][0]["devices"][0]["device"] == "press"
    assert [each for each in body["problems"] if "cloud" in each["what"]]


async def test_tail_prints_a_line_for_each_reading_with_unit_state_and_time(local: Local) -> None:
    result = await invoke("tail", local.path, "press/state", "press/temperature", "--for", "1 s")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any(" press/temperature " in line and line.endswith("°C Good") for line in lines)
    assert any(" press/state " in line and ("(stopped)" in line or "(running)" in line) for line in lines)


async def test_tail_for_programs_is_a_line_of_json_for_each_reading(local: Local) -> None:
    result = await invoke("tail", local.path, "press/parts", "--for", "1 s", "--json")
    first = json.loads(result.stdout.splitlines()[0])
    assert (first["name"], first["quality"], first["backfill"]) == ("press/parts", "Good", False)
    assert isinstance(first["value"], int)


async def test_explain_says_where_a_value_comes_from_and_where_it_has_come_to(local: Local) -> None:
    await local.until(lambda answer: answer["passed"]["sequence"], ask="explain", tag="press/temperature")
    result = await invoke("explain", local.path, "press/temperature")
    text = " ".join(result.output.split())
    assert result.exit_code == 1  # the broker is away
    assert "press/temperature is read and Good:" in text
    assert "site.yaml:16:11" in text
    assert "FC3 holding 0..11 of unit 1" in text
    assert "raw x 0.1 - 40" in text
    assert "Publisher cloud is not sending" in text
    assert "Next:" in text


async def test_explain_of_a_refused_address_names_the_line_to_compare_with_the_manual(tmp_path: Path) -> None:
    """The simulator answers this one address with exception 02; its neighbours stay as they are."""
    async with running(tmp_path) as local:
        local.server.faults[1].refused.add(("holding", 8))
        await local.until(lambda answer: answer["answer"]["quality"] == 0x80890000, ask="explain", tag="press/parts")
        result = await invoke("explain", local.path, "press/parts")
        assert result.exit_code == 1
        assert "refuses this address" in " ".join(result.output.split())
        assert "site.yaml:18:11" in result.output.replace("\n", "")
        fine = json.loads((await invoke("explain", local.path, "press/pressure", "--json")).stdout)
        assert fine["said"][0].startswith("press/pressure is read and Good")


async def test_a_wrong_name_is_answered_with_the_right_one(local: Local) -> None:
    result = await invoke("explain", local.path, "press/temprature")
    assert "did you mean press/temperature" in str(result.exception)


async def test_without_a_daemon_status_says_so_and_how_to_start_it(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    result = await invoke("status", site)
    assert result.exit_code == 1
    assert "no daemon answers" in result.output
    assert f"plantbridge run {site}" in result.output
    assert json.loads((await invoke("status", site, "--json")).stdout)["running"] is False


async def test_after_a_daemon_status_tells_what_its_journal_holds(tmp_path: Path) -> None:
    async with running(tmp_path) as local:
        await local.until(lambda answer: answer["journal"]["records"] > 0, ask="status", over=0)
    result = await invoke("status", local.path)
    assert "Its journal holds" in result.output
    assert "Publisher cloud has" in result.output


async def test_without_a_daemon_explain_tells_the_definition_and_the_requests(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    result = await invoke("explain", site, "press/pressure")
    assert result.exit_code == 1
    assert "press/pressure does not update: no daemon answers" in result.output
    assert "site.yaml:15:11" in result.output
    assert "FC3 holding 0..11" in result.output


async def test_a_site_file_that_was_broken_since_does_not_hide_the_daemon(local: Local) -> None:
    """It goes on with what it was started with; its data directory reaches it."""
    local.path.write_text("links: [")
    assert "name its data directory instead" in (await invoke("status", local.path)).output
    result = await invoke("status", local.site.data, "--over", "0 s", "--json")
    assert json.loads(result.stdout)["gateway"] == "demo"
    assert "is read and Good" in (await invoke("explain", local.site.data, "press/parts")).output
