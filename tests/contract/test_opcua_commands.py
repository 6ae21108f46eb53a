"""The command line against the OPC UA simulator: browse makes a site that is checked, write keeps the rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from gateway.cli.app import make_app
from gateway.cli.browse import fragment
from gateway.config import load_site
from gateway.contracts import Found
from simulators.site import SiteSimulator

SITE = """
gateway: test
links:
  house:
    driver: opcua
    url: opc.tcp://192.0.2.1:4840
    devices:
      boiler:
        namespace: urn:boiler
        mode: read
        tags:
          pressure: {address: s=Pressure float32, unit: bar, min: 0, max: 16}
          mode: {address: s=Mode uint16, states: {0: off, 1: on, 5: fault}}
          name: s=Name text
          curve: s=Curve [0:3] int32
          on: s=On bool
          set-point: {address: s=Setpoint float32, unit: bar, writable: {min: 2, max: 12}}
          level: {address: s=Level int16, scale: 0.1, writable: true}
      meter: {namespace: urn:meter, mode: read, tags: {total: s=Total uint64, on: s=On bool}}
publish: {cloud: {url: "mqtt://127.0.0.1"}}
"""


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Path, str]]:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    async with asyncio.timeout(120), SiteSimulator(load_site(path), own_addresses=False) as simulator:
        yield path, simulator.urls["house"]


async def command(*arguments: Any) -> tuple[int, str]:
    done = await asyncio.to_thread(CliRunner().invoke, make_app(), [str(each) for each in arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"


async def test_a_browsed_server_is_a_site_that_is_checked_and_read(served: tuple[Path, str]) -> None:
    path, url = served
    code, text = await command("browse", url, "--yaml")
    assert code == 0, text
    (path.parent / "found.yaml").write_text(text)
    site = path.parent / "new.yaml"
    site.write_text('gateway: new\ninclude: [found.yaml]\npublish: {cloud: {url: "mqtt://127.0.0.1"}}\n')
    code, said = await command("check", site)
    assert code == 0, said
    (link,) = load_site(site).links
    tags = {f"{table.device}/{tag.name}": tag for table in link.tables for tag in table.tags}
    assert set(tags) == {
        "boiler/pressure", "boiler/mode", "boiler/name", "boiler/on", "boiler/set-point", "boiler/level",
        *(f"boiler/curve[{n}]" for n in range(4)), "meter/total", "meter/on",
    }  # fmt: skip
    assert (tags["boiler/pressure"].unit, tags["boiler/pressure"].maximum) == ("bar", 16.0)
    assert tags["boiler/mode"].states == ((0, "off"), (1, "on"), (5, "fault"))
    assert not any(tag.writable for tag in tags.values())  # allowing to write is a person's decision
    code, again = await command("browse", url, "--yaml")
    assert again == text
    code, part = await command("browse", url, "--match", "meter/*")
    assert code == 0
    assert "1 variables" not in part
    assert "Total" in part or "total" in part
    assert "pressure" not in part


async def test_writing_keeps_limits_and_types_and_reads_back(served: tuple[Path, str]) -> None:
    path, url = served
    at = ("--url", url)
    code, said = await command("write", path, "boiler", "set-point=7.5", "level=-12.3", *at)
    assert code == 0, said
    assert "is 7.5 bar" in said
    assert "is -12.3" in said
    for wanted, why in (
        ("set-point=12.5", "12"), ("set-point=high", "number"), ("pressure=3", "writable"), ("level=99999", ""),
    ):  # fmt: skip
        code, said = await command("write", path, "boiler", wanted, *at)
        assert code != 0, (wanted, said)
        assert why in said
    code, said = await command("write", path, "boiler", "set-point=8", "pressure=3", *at)
    assert code != 0  # all are checked before the first is written
    code, said = await command("write", path, "boiler", "set-point=9", *at)
    assert "was 7.5 bar, is 9 bar" in said


def test_what_a_tag_may_not_have_is_left_out_of_the_fragment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range on a Boolean, names on a text, an array of a million: servers have them, `check` would refuse them."""
    found = [
        Found(("A", "On"), "ns=2;s=On", "bool", range=(0.0, 1.0)),
        Found(("A", "Word"), "ns=2;s=Word", "text", states=((0, "off"),)),
        Found(("A", "Long"), "ns=2;s=Long", "float64[1000000]"),
        Found(("A", "none"), "ns=2;s=None", "float64[0]"),
    ]
    text = fragment("opc.tcp://h", found, {"security_policy": "Basic256Sha256", "user": "me", "password": "${env:PW}"})
    (tmp_path / "found.yaml").write_text(text)
    (tmp_path / "site.yaml").write_text("gateway: g\ninclude: [found.yaml]\n")
    monkeypatch.setenv("PW", "secret")
    (link,) = load_site(tmp_path / "site.yaml").links
    assert link.options.user == "me"
    assert sum(len(table) for table in link.tables) == 10_003
