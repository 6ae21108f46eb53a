"""Units and ranges that the file leaves open are the server's from the first record on: a daemon, a server, a disk."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from asyncua import Node, ua
from opcua_server import NAMESPACE, Plant, free_port, plant
from test_reload import contents

from gateway import quality as q
from gateway.config import Site, load_site
from gateway.contracts import Said
from gateway.folded import dump
from gateway.learned import Learned
from gateway.local.client import ask
from gateway.memory import FileMemory, Forgetful
from gateway.model import Batch, Tag
from tests import in_process

V = ua.VariantType
TAGS = """
          pressure: s=Pressure
          level: {address: s=Level, scale: 0.1}
          given: {address: s=Given, unit: mbar, min: 0, max: 5}
          element: 's=Curve [1]'
          name: s=Name text
"""
SITE = """
gateway: g
data: ./data
publish: {{keeper: {{url: 'mqtt://127.0.0.1:1', retry_longest: 1 s}}}}
metrics: {{listen: null}}
links:
  house:
    driver: opcua
    url: opc.tcp://127.0.0.1:{port}/plant
    retry_first: 50 ms
    retry_longest: 200 ms
    devices:
      boiler:
        namespace: {namespace}
        interval: 200 ms
        tags: {tags}
        groups:
          polled: {{mode: read, tags: {{flow: s=Flow float32}}}}
"""


async def describe(node: Node, unit: str, low: float, high: float) -> None:
    name = ua.LocalizedText(unit)
    await node.add_property(0, "EngineeringUnits", ua.EUInformation(UnitId=-1, DisplayName=name, Description=name))
    await node.add_property(0, "EURange", ua.Range(Low=low, High=high))


@contextlib.asynccontextmanager
async def serving(port: int, unit: str = "bar") -> AsyncIterator[Plant]:
    async with plant(port) as running:
        for name, value in (("Pressure", 20.0), ("Level", 20.0), ("Given", 2.0), ("Flow", 1.0)):
            await describe(await running.add(name, value, V.Double if name != "Flow" else V.Float), unit, 0.0, 16.0)
        await describe(await running.add("Curve", [1.0, 2.0], V.Double), unit, 0.0, 4.0)
        await running.add("Name", "x", V.String)
        yield running


class Daemon:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.path = folder / "site.yaml"
        self.write(TAGS)

    def write(self, tags: str) -> None:
        self.path.write_text(SITE.format(port=self.port, namespace=NAMESPACE, tags=tags))

    async def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.folder / "data", what, 60.0)

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        return in_process.daemon(load_site(self.path))

    async def until(self, tag: str, **expected: Any) -> dict[str, Any]:
        """Wait until the gateway explains a tag so."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(Exception):
                    found = await self.ask({"ask": "explain", "tag": f"boiler/{tag}"})
                    about = {**found["definition"], "quality": (found["answer"] or {}).get("quality")}
                    if all(about.get(key) == value for key, value in expected.items()):
                        return found
                await asyncio.sleep(0.05)

    async def batches(self) -> list[Batch]:
        return [each for each in await contents(load_site(self.path)) if isinstance(each, Batch)]


def tags_of(batches: list[Batch], *, good: bool) -> dict[str, list[Tag]]:
    """Give the definitions under which each tag has Good, or other, rows."""
    found: dict[str, list[Tag]] = {}
    for batch in batches:
        for row, quality in zip(batch.tag.tolist(), batch.quality.tolist(), strict=True):
            tag = batch.table.tags[row]
            if (quality == q.GOOD) is good and tag not in found.setdefault(tag.name, []):
                found[tag.name].append(tag)
    return found


async def until_up_or_down(daemon: Daemon) -> None:
    """Wait until the link has failed, and so has written its Bad rows."""
    async with asyncio.timeout(60):
        while (await daemon.ask({"ask": "status", "over": 0.0}))["links"][0]["up"] is None:
            await asyncio.sleep(0.05)


async def test_no_good_reading_is_recorded_without_the_server_s_unit_and_range(tmp_path: Path) -> None:
    """EURange describes and judges nothing: 20 bar beyond its 16 stays as Good as the server says it is."""
    daemon = Daemon(tmp_path, free_port())
    async with serving(daemon.port):
        async with daemon.running():
            found = await daemon.until("pressure", quality=q.GOOD, unit="bar")
            assert (found["definition"]["min"], found["definition"]["max"]) == (0.0, 16.0)
            assert found["definition"]["said"] == ["unit", "range"]
            await daemon.until("flow", quality=q.GOOD, unit="bar")
        first = await daemon.batches()
    good = tags_of(first, good=True)
    assert {name: len(tags) for name, tags in good.items()} == dict.fromkeys(
        ("pressure", "level", "given", "element", "name", "flow"), 1
    )
    told = {name: (tag.unit, tag.minimum, tag.maximum) for name, (tag,) in good.items()}
    inf = float("inf")
    assert told == {
        "pressure": ("bar", 0.0, 16.0), "level": ("", 0.0, 1.6), "given": ("mbar", 0.0, 5.0),
        "element": ("bar", 0.0, 4.0), "name": ("", -inf, inf), "flow": ("bar", 0.0, 16.0),
    }  # fmt: skip
    async with daemon.running():  # the next start knows it, also while the server is away
        await daemon.until("pressure", unit="bar", max=16.0)
        await until_up_or_down(daemon)
    later = (await daemon.batches())[len(first) :]
    assert [(tag.unit, tag.maximum) for tag in tags_of(later, good=False)["pressure"]] == [("bar", 16.0)]


async def test_a_server_that_changes_its_mind_is_followed_and_the_file_has_the_last_word(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, free_port())
    learned = Learned(FileMemory(tmp_path / "data" / "learned.json"))
    learned.take([Said("boiler", "pressure", "s=Pressure", "bar", (0.0, 10.0))])
    async with daemon.running():
        await daemon.until("pressure", unit="bar", max=10.0)
        async with serving(daemon.port, unit="psi"):
            await daemon.until("pressure", quality=q.GOOD, unit="psi", max=16.0)
            daemon.write(TAGS.replace("pressure: s=Pressure", "pressure: {address: s=Pressure, unit: kPa, max: 3}"))
            assert (await daemon.ask({"ask": "reload"}))["outcome"] == "applied"
            found = await daemon.until("pressure", unit="kPa", max=3)
            assert "min" not in found["definition"]
            assert found["definition"]["said"] == []


def site_of(folder: Path, tags: str = TAGS) -> Site:
    (folder / "site.yaml").write_text(SITE.format(port=1, namespace=NAMESPACE, tags=tags))
    return load_site(folder / "site.yaml")


def test_another_unit_replaces_the_one_before_once_an_hour(tmp_path: Path) -> None:
    """A server whose two halves do not agree must not cost a session at each of its restarts."""
    learned, site = Learned(FileMemory(tmp_path / "learned.json")), site_of(tmp_path)
    assert learned.take([Said("boiler", "pressure", "s=Pressure", "bar", (0.0, 16.0))])
    assert not learned.take([Said("boiler", "pressure", "s=Pressure", "bar", (0.0, 16.0))])
    assert learned.take([Said("boiler", "pressure", "s=Pressure", "psi")])
    assert not learned.take([Said("boiler", "pressure", "s=Pressure", "bar")])
    again = Learned(FileMemory(tmp_path / "learned.json"))
    filled = again.fill(site)
    assert again.fill(filled) is filled
    tag = next(tag for table in filled.tables for tag in table.tags if tag.name == "pressure")
    assert (tag.unit, tag.maximum, tag.said) == ("psi", 16.0, ("unit", "range"))


def test_what_was_learned_of_another_address_or_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    entry = {"address": "s=Pressure", "unit": "bar"}
    for kept in (
        {"boiler": {"pressure": {**entry, "address": "s=Old"}}}, {"boiler": []}, {"boiler": {"pressure": 7}},
        {"boiler": {"pressure": {**entry, "unit": 7, "min": 0, "max": "high"}}}, {"other": {"pressure": entry}},
    ):  # fmt: skip
        assert Learned(Forgetful(json.loads(json.dumps(kept)))).fill(site).tables[0].tags[0].said == (), kept
    stream = io.BytesIO()
    dump(site, stream)  # as the daemon gets it
    site = pickle.loads(stream.getvalue())
    filled = Learned(Forgetful({"boiler": {"pressure": entry}})).fill(site)
    assert filled.tables[0].tags[0].unit == "bar"
    assert all(table is old for table, old in zip(filled.tables[1:], site.tables[1:], strict=True))
