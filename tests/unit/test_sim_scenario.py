"""Scenarios: what a site file's simulators do when things go wrong, and which mistakes in the file are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua

from gateway import quality as q
from gateway.config import load_site
from gateway.errors import ConfigError, DeviceError, NoAnswer, NotConnected
from gateway.model import Batch
from gateway.names import driver_spec
from simulators.scenario import Step, load_scenario, play
from simulators.site import SiteSimulator

SITE = """
gateway: test
links:
  line:
    driver: modbus
    url: tcp://192.0.2.1:502
    timeout: 1 s
    devices:
      drive:
        unit_id: 1
        order: ABCD
        tags:
          speed: {address: holding:0 uint16, scale: 0.1, min: 0, max: 1500}
          power: {address: holding:2 float32, min: 0, max: 100}
          total: holding:4 uint32
      meter: {unit_id: 2, tags: {energy: holding:0 uint32}}
  sensor: {driver: modbus, url: "udp://192.0.2.2:502", devices: {probe: {tags: {a: "holding:0"}}}}
  house:
    driver: opcua
    url: opc.tcp://192.0.2.3:4840
    devices:
      boiler:
        namespace: urn:boiler
        mode: read
        tags:
          pressure: {address: s=Pressure float32, unit: bar, min: 0, max: 16, simulate: {signal: ramp, period: 2 s}}
          level: {address: s=Level int16, min: -100, max: 100, simulate: {signal: ramp, period: 3 s}}
          name: s=Name text
publish: {cloud: {url: "mqtt://127.0.0.1"}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Any:
    (tmp_path / "site.yaml").write_text(SITE)
    return load_site(tmp_path / "site.yaml")


def steps(site: Any, tmp_path: Path, text: str) -> tuple[Step, ...]:
    (tmp_path / "scenario.yaml").write_text(text)
    return load_scenario(tmp_path / "scenario.yaml", site)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("{at: 1 s, link: nobody, fault: drop}", "the site has no link nobody"),
        ("{at: 1 s, tag: drive/torque, fault: freeze}", "the site has no tag drive/torque"),
        ("{at: 1 s, device: drive, fault: drop}", "drop goes with link (give one link: NAME)"),
        ("{at: 1 s, link: line, device: drive, fault: drop}", "drop goes with link"),
        ("{at: 1 s, device: drive, fault: exception}", "exception needs the key code"),
        ("{at: 1 s, link: line, fault: drop, code: 3}", "code has no meaning for drop"),
        ("{at: 1 s, tag: drive/power, fault: status, status: BadTimeout}", "status is for opcua, and line is modbus"),
        ("{at: 1 s, tag: boiler/level, fault: status, status: Broken}", "BadSensorFailure"),
        ("{at: 1, link: line, fault: drop}", "expected a duration with a unit"),
        ("{at: 9 s .. 2 s, link: line, fault: drop}", "begins with its smaller end"),
        ("{at: 1 s, link: line, fault: drob}", "drop"),
        ("{at: 1 s, link: line, fault: restart, reindex: true}", "reindex is for opcua"),
        ("{at: 1 s, link: sensor, fault: drop}", "sensor is UDP"),
        ("{at: 1 s, tag: drive/power, fault: ramp, to: 1}", "ramp needs the key for"),
        ("{at: 1 s, tag: drive/power, fault: slow, delay: 1 s}", "give device: drive"),
        ("drop", "expected a step"),
    ],
)
def test_a_mistake_in_a_scenario_is_told_with_its_place(site: Any, tmp_path: Path, step: str, said: str) -> None:
    """A scenario that silently does nothing would prove a gateway that was never tried."""
    with pytest.raises(ConfigError) as caught:
        steps(site, tmp_path, f"seed: 1\nsteps:\n- {step}\n")
    assert said in str(caught.value)
    assert ":3:" in str(caught.value)


def test_ranges_are_drawn_from_the_seed_and_steps_come_in_their_order(site: Any, tmp_path: Path) -> None:
    text = "seed: {}\nsteps:\n- {{at: 5 s .. 50 s, for: 1 s .. 2 s, link: line, fault: drop}}\n"
    text += "- {{at: 1 s, link: house, fault: restart}}\n"
    first, again, other = (steps(site, tmp_path, text.format(seed)) for seed in (7, 7, 8))
    assert first == again != other
    assert [step.fault for step in first] == ["restart", "drop"]
    assert 5 <= first[1].at <= 50
    assert first[0].lasts == 0


async def test_steps_begin_and_end_at_their_times(site: Any, tmp_path: Path) -> None:
    told: list[str] = []

    async def begin(step: Step) -> Any:
        told.append(f"begin {step}")

        async def heal() -> None:
            told.append(f"end {step}")

        return heal

    text = "steps:\n- {at: 30 ms, for: 400 ms, link: line, fault: drop}\n- {at: 90 ms, link: house, fault: hang}\n"
    async with asyncio.timeout(30):
        await play(steps(site, tmp_path, text), begin)
    assert told == ["begin drop line", "begin hang house", "end drop line"]


class Place:
    """A simulated site, and drivers that read it."""

    def __init__(self, simulator: SiteSimulator, site: Any) -> None:
        self.simulator = simulator
        self._links = {link.name: link for link in site.links}
        self.drivers: dict[str, Any] = {}

    async def read(self, name: str) -> dict[str, tuple[Any, int]]:
        """Read a link (connecting where need be) and give value and quality by DEVICE/TAG."""
        link = self._links[name]
        if name not in self.drivers:
            driver = driver_spec(link.driver).open(link)
            await driver.connect()
            self.drivers[name] = driver
        found = {}
        for device in link.devices:
            tables = device.groups[0].tables
            try:
                batches: list[Batch] = await self.drivers[name].read(self.drivers[name].plan(tables))
            except NoAnswer as error:
                found |= {f"{device.name}/{tag.name}": (None, error.status) for table in tables for tag in table.tags}
                continue
            for batch in batches:
                for tag, value, quality in zip(batch.tag, batch.value.tolist(), batch.quality.tolist(), strict=True):
                    found[f"{device.name}/{batch.table.tags[tag].name}"] = (value, quality)
        return found

    async def until(self, name: str, true: Callable[[dict[str, tuple[Any, int]]], bool]) -> dict[str, tuple[Any, int]]:
        """Read until something is so."""
        while not true(found := await self.read(name)):
            await asyncio.sleep(0.02)
        return found

    async def goes_to(self, value: float, ramp: Step, highest: float) -> None:
        """Carry out a ramp: the tag gets to its end, and comes back to where its signal is, at `highest` or below."""
        tag = f"{ramp.device}/{ramp.tag}"
        heal = await self.simulator.begin(ramp)
        await self.until(ramp.link, lambda found: found[tag][0] == value)
        await heal()
        await self.until(ramp.link, lambda found: found[tag][0] <= highest)


@asynccontextmanager
async def simulated(tmp_path: Path, site: Any, text: str) -> AsyncIterator[tuple[Place, tuple[Step, ...]]]:
    """Run the site with the steps of a scenario, to be begun one by one."""
    wanted = steps(site, tmp_path, text)
    async with asyncio.timeout(100), SiteSimulator(site, own_addresses=False, steps=wanted) as simulator:
        place = Place(simulator, load_site(tmp_path / "site.yaml", links=simulator.urls))
        try:
            yield place, wanted
        finally:
            for driver in place.drivers.values():
                await driver.close()


async def test_modbus_devices_misbehave_and_recover(tmp_path: Path, site: Any) -> None:
    text = """
steps:
- {at: 1 s, device: drive, fault: exception, code: 4}
- {at: 2 s, device: drive, fault: word-order}
- {at: 3 s, device: drive, fault: freeze}
- {at: 4 s, tag: drive/speed, fault: ramp, to: 3000, for: 100 ms}
- {at: 5 s, device: meter, fault: silence}
- {at: 6 s, link: line, fault: drop}
"""
    async with simulated(tmp_path, site, text) as (place, (exception, order, freeze, ramp, silence, drop)):
        heal = await place.simulator.begin(exception)
        found = await place.read("line")
        assert found["drive/power"][1] == q.BAD_DEVICE_FAILURE
        assert found["meter/energy"][1] == q.GOOD
        await heal()
        heal = await place.simulator.begin(freeze)
        still = await place.read("line")
        swap = await place.simulator.begin(order)
        crossed = await place.read("line")
        assert crossed["drive/speed"] == still["drive/speed"]
        number = int(still["drive/total"][0])
        assert crossed["drive/total"][0] == (number & 0xFFFF) << 16 | number >> 16
        await swap()
        assert (await place.until("line", lambda found: found["meter/energy"] != still["meter/energy"]))[
            "drive/power"
        ] == still["drive/power"]
        await heal()
        await place.until("line", lambda found: found["drive/power"] != still["drive/power"])
        await place.goes_to(30_000.0, ramp, 15_000.0)  # x 0.1
        heal = await place.simulator.begin(silence)
        found = await place.read("line")
        assert found["meter/energy"][1] >= q.BAD
        assert found["drive/power"][1] == q.GOOD
        await heal()
        await place.drivers.pop("line").close()
        heal = await place.simulator.begin(drop)
        with pytest.raises(NotConnected):
            await place.read("line")
        await heal()
        assert (await place.read("line"))["drive/power"][1] == q.GOOD


async def test_opcua_nodes_misbehave_and_recover(tmp_path: Path, site: Any) -> None:
    text = """
steps:
- {at: 1 s, tag: boiler/pressure, fault: status, status: BadSensorFailure}
- {at: 2 s, tag: boiler/level, fault: freeze}
- {at: 3 s, tag: boiler/pressure, fault: ramp, to: 25, for: 100 ms}
- {at: 4 s, tag: boiler/name, fault: slow, delay: 300 ms}
- {at: 5 s, link: house, fault: clock, by: -1 h}
"""
    async with simulated(tmp_path, site, text) as (place, (status, freeze, ramp, slow, clock)):
        heal = await place.simulator.begin(status)
        found = await place.read("house")
        assert found["boiler/pressure"][1] == q.BAD_SENSOR_FAILURE
        assert found["boiler/level"][1] == q.GOOD
        await heal()
        heal = await place.simulator.begin(freeze)
        still = await place.read("house")
        later = await place.until("house", lambda found: found["boiler/pressure"] != still["boiler/pressure"])
        assert later["boiler/level"] == still["boiler/level"]
        await heal()
        await place.until("house", lambda found: found["boiler/level"] != still["boiler/level"])
        await place.goes_to(25.0, ramp, 16.0)
        loop = asyncio.get_running_loop()
        heal = await place.simulator.begin(slow)
        start = loop.time()
        await place.read("house")
        assert loop.time() - start >= 0.3  # a lower bound: a slow machine only adds to it
        await heal()
        heal = await place.simulator.begin(clock)
        async with Client(place.simulator.urls["house"]) as client:
            index = await client.get_namespace_index("urn:boiler")
            node = client.get_node(ua.NodeId("Level", index))
            behind = await node.read_data_value()
            await heal()
            right = await node.read_data_value()
        assert behind.SourceTimestamp is not None
        assert right.SourceTimestamp is not None
        assert 3500 < (right.SourceTimestamp - behind.SourceTimestamp).total_seconds() < 3700


async def test_an_opcua_server_restarts_with_other_namespace_indexes(tmp_path: Path, site: Any) -> None:
    text = "steps: [{at: 1 s, for: 1 s, link: house, fault: restart, reindex: true}]\n"
    async with simulated(tmp_path, site, text) as (place, (restart,)):
        assert (await place.read("house"))["boiler/level"][1] == q.GOOD

        async def index() -> int:
            async with Client(place.simulator.urls["house"]) as client:
                return await client.get_namespace_index("urn:boiler")

        before = await index()
        heal = await place.simulator.begin(restart)
        with pytest.raises(DeviceError):
            await place.read("house")
        await heal()
        await place.drivers["house"].close()
        await place.drivers["house"].connect()
        assert (await place.read("house"))["boiler/level"][1] == q.GOOD
        assert await index() == before + 1


async def test_a_hanging_link_answers_nothing_and_goes_on(tmp_path: Path, site: Any) -> None:
    text = "steps: [{at: 1 s, link: line, fault: hang}, {at: 2 s, link: line, fault: slow, delay: 50 ms}]\n"
    async with simulated(tmp_path, site, text) as (place, (hang, slow)):
        assert (await place.read("line"))["meter/energy"][1] == q.GOOD
        heal = await place.simulator.begin(hang)
        assert (await place.read("line"))["meter/energy"][1] >= q.BAD
        await heal()
        await place.drivers.pop("line").close()
        heal = await place.simulator.begin(slow)
        assert (await place.read("line"))["meter/energy"][1] == q.GOOD
        await heal()
