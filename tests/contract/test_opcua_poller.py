"""Subscribed and read groups as the gateway runs them: real Poller and Pipeline, simulator, and a link that is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opcua_server import Proxy

from drivers.opcua.spec import OpcuaGroup
from gateway import quality as q
from gateway.config import Site, load_site
from gateway.model import Batch, Link
from simulators.opcua import OpcuaServer
from simulators.site import expected
from tests.memory_journal import MemoryJournal
from tests.polling import polling

SITE = """
gateway: g
publish: {c: {url: mqtt://127.0.0.1}}
links:
  house:
    driver: opcua
    url: opc.tcp://127.0.0.1:1
    retry_first: 50 ms
    retry_longest: 200 ms
    devices:
      boiler:
        namespace: urn:house
        interval: 200 ms
        tags:
          sine: {address: s=Sine double, simulate: {signal: sine, low: 0, high: 10, period: 2 s}}
          count: {address: s=Count uint64, simulate: {signal: ramp, low: 0, high: 90, period: 3 s}}
          text: s=Text text
          on: s=On bool
          still: {address: s=Still int16, simulate: {signal: constant, low: 7, high: 7}}
        groups:
          polled:
            mode: read
            tags:
              level: {address: s=Level float, simulate: {signal: sine, low: 0, high: 4, period: 2 s}}
              lid: {address: s=Lid int32, simulate: {signal: constant, low: 3, high: 3}}
"""


@dataclass
class Running:
    site: Site
    link: Link
    server: OpcuaServer
    journal: MemoryJournal

    def rows(self, group: str) -> dict[str, list[tuple[int, Any, int]]]:
        """Give (time, value, quality) by tag, in the journal's order."""
        found: dict[str, list[tuple[int, Any, int]]] = {}
        for batch in self.journal.batches("boiler"):
            if batch.table.group == group:
                for tag, *row in zip(batch.tag, batch.time, batch.value, batch.quality, strict=True):
                    found.setdefault(batch.table.names[tag], []).append((int(row[0]), row[1], int(row[2])))
        return found

    def good(self, group: str, tag: str) -> int:
        return sum(quality < q.BAD for _, _, quality in self.rows(group).get(tag, ()))

    def bad(self, group: str, tag: str) -> int:
        return sum(quality >= q.BAD for _, _, quality in self.rows(group).get(tag, ()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def true_and_once(site: Site, batches: list[Batch]) -> None:
    """Every Good row has the value that the signal had at that very time, and no series has a time twice."""
    checks = expected(site)
    seen: set[tuple[str, int]] = set()
    for batch in batches:
        for tag, moment, value, quality in zip(batch.tag, batch.time, batch.value, batch.quality, strict=True):
            name = batch.table.names[tag]
            assert (name, int(moment)) not in seen
            seen.add((name, int(moment)))
            if quality < q.BAD:
                column = np.array([value], dtype=batch.table.kind.dtype)
                check = checks["boiler", name]
                assert check.signal.matches(np.array([moment]), column, check.tolerance).all(), (name, moment, value)


async def test_through_a_cut_and_a_restart_values_are_true_and_each_comes_once(tmp_path: Path) -> None:
    """Subscribing is the default; a group may say `mode: read`. Both share the session and its troubles."""
    (tmp_path / "site.yaml").write_text(SITE)
    site = load_site(tmp_path / "site.yaml")
    server = OpcuaServer(site.links[0])
    port = await server.start()
    async with Proxy(port) as proxy:
        (link,) = load_site(tmp_path / "site.yaml", links={"house": f"opc.tcp://127.0.0.1:{proxy.port}"}).links
        modes = {group.name: group.options.mode for group in link.devices[0].groups}
        assert modes == {"default": "subscribe", "polled": "read"}
        made = Running(site, link, server, MemoryJournal(list(link.tables)))
        try:
            async with polling(link, made.journal):
                await until(lambda: made.good("default", "sine") > 10 and made.good("polled", "level") > 3)
                assert made.good("default", "still") == 1  # the others are reported as they change
                await proxy.gone()
                await until(lambda: made.bad("default", "sine") == 1 and made.bad("polled", "level") == 1)
                await proxy.listen()
                await until(lambda: made.good("default", "still") > 1)
                known = made.good("default", "sine"), made.good("polled", "lid")
                await until(lambda: made.good("default", "sine") > known[0] + 5)
                await until(lambda: made.good("polled", "lid") > known[1] + 3)
                await server.close()
                await until(lambda: made.bad("default", "sine") == 2)
                server = OpcuaServer(site.links[0])
                await server.start(port=port)
                still = made.good("default", "still")
                await until(lambda: made.good("default", "still") > still and made.good("polled", "lid") > known[1] + 6)
                known = made.good("default", "sine"), 0
                await until(lambda: made.good("default", "sine") > known[0] + 5)
        finally:
            await server.close()
    for group in ("default", "polled"):
        for tag, found in made.rows(group).items():
            bad = [number for number, row in enumerate(found) if row[2] >= q.BAD]
            assert len(bad) == 2, tag  # one for the cut, one for the restart
            for first, behind in zip(bad, [*bad[1:], len(found)], strict=True):
                newest = max(found[first:behind])  # by time: the Bad row must not stay, also where no value changed
                assert newest[2] < q.BAD, (tag, found[first:behind])
    true_and_once(site, made.journal.batches("boiler"))
    assert [gap.group for gap in made.journal.gaps() if "subscription" in gap.reason] == ["default"]  # the restart


async def test_a_group_has_its_devices_options_where_it_says_none(tmp_path: Path) -> None:
    text = SITE.replace("interval: 200 ms", "interval: 200 ms\n        queue_size: 50\n        server_deadband: 2 %")
    (tmp_path / "site.yaml").write_text(text.replace("mode: read", "queue_size: 3\n            trigger: timestamp"))
    (link,) = load_site(tmp_path / "site.yaml").links
    default, polled = (group.options for group in link.devices[0].groups)
    assert isinstance(default, OpcuaGroup)
    assert isinstance(polled, OpcuaGroup)
    assert (default.queue_size, default.trigger, default.server_deadband) == (50, "value", (2.0, True))
    assert (polled.queue_size, polled.trigger, polled.server_deadband) == (3, "timestamp", (2.0, True))


@pytest.mark.parametrize("key", ["unit_id: 1", "mode: poll", "server_deadband: -1"])
async def test_what_a_group_cannot_say_is_refused(tmp_path: Path, key: str) -> None:
    from gateway.errors import ConfigError

    (tmp_path / "site.yaml").write_text(SITE.replace("mode: read", key))
    with pytest.raises(ConfigError) as caught:
        load_site(tmp_path / "site.yaml")
    assert "polled" in caught.value.problems[0].path


def test_plan_online_tells_what_the_server_made_of_each_subscription(tmp_path: Path) -> None:
    import orjson
    from opcua_server import Background, Plant
    from typer.testing import CliRunner

    from gateway.cli.app import make_app

    async def populate(running: Plant) -> None:
        await running.add("Sine", 1.0)

    app, server = make_app(), Background(populate)
    text = SITE.replace("opc.tcp://127.0.0.1:1", f"opc.tcp://127.0.0.1:{server.port}/plant")
    (tmp_path / "site.yaml").write_text(text.replace("urn:house", "urn:test:plant"))
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "site.yaml"), "--online", "--json"])
    assert result.exit_code == 0, result.output
    (answer,) = orjson.loads(result.stdout)["online"]
    got = {each["what"]: (each["asked"], each["got"]) for each in answer["agreed"]}
    assert {each["group"] for each in answer["agreed"]} == {"default"}
    assert got["publishing interval"] == ("200 ms", "200 ms")
    assert got["sampling interval"][0] == "200 ms"
    assert got["nodes"] == ("5", "1, 4 refused")
    (tmp_path / "site.yaml").write_text(SITE)
    assert CliRunner().invoke(app, ["plan", str(tmp_path / "site.yaml"), "--online"]).exit_code == 1
