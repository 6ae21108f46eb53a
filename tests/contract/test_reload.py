"""A reload of the running gateway, against real Modbus servers and a real broker: what changes, and what must not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.sparkplug_objects import Payload
from gateway import app, codec
from gateway import quality as q
from gateway.config import Site, load_site
from gateway.definitions import stored_table
from gateway.errors import GatewayError
from gateway.journal import Journal
from gateway.local.client import ask
from gateway.local.problems import troubles
from gateway.model import Batch, Gap
from gateway.mqtt import Arrived
from gateway.versions import APPLIED, PROBATION, REPLACED, ROLLED_BACK, Versions
from simulators.modbus import ModbusServer
from tests.in_process import listening, until
from tests.modbus_links import link_of
from tests.servers import Mosquitto, mosquitto

__all__ = ["mosquitto"]  # a fixture

SECOND = 10**9
SITE = """
gateway: gw1
data: ./data
probation: {probation}
links:
  line-1:
    driver: modbus
    url: tcp://127.0.0.1:{line_1}
    retry_first: 100 ms
    devices:
      press:
        unit_id: {unit}
        tags: {press}
      oven: {{unit_id: 2, tags: {{heat: holding:0 float32}}}}
  line-2:
    driver: modbus
    url: tcp://127.0.0.1:{line_2}
    devices:
      pump: {{tags: {{flow: holding:0 float32}}}}
publish: {publish}
metrics: {{listen: null}}
"""
KEEPER = "keeper: {url: 'mqtt://127.0.0.1:1', retry_longest: 1 s}"  # is never there, so that the journal keeps all
PRESS = "{pressure: holding:0 float32, strokes: holding:2 uint16}"


@dataclass
class Bench:
    """A site file, the servers of its two links, and the gateway that runs on it."""

    folder: Path
    line_1: ModbusServer
    line_2: ModbusServer
    press: str = PRESS
    unit: int = 1
    publish: str = f"{{{KEEPER}}}"
    probation: str = "20 s"
    extra: str = ""
    task: asyncio.Task[None] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> Path:
        return self.folder / "site.yaml"

    def write(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)
        text = SITE.format(
            line_1=self.line_1.port, line_2=self.line_2.port, press=self.press, unit=self.unit,
            publish=self.publish, probation=self.probation,
        )  # fmt: skip
        self.path.write_text(text + self.extra)

    async def reload(self) -> tuple[str, list[str]]:
        answer = await asyncio.to_thread(ask, self.folder / "data", {"ask": "reload"}, 120.0)
        return answer["outcome"], answer["lines"]

    async def status(self) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.folder / "data", {"ask": "status", "over": 0.0}, 60.0)

    def sessions(self) -> tuple[set[Any], set[Any]]:
        """The connections that each server has now."""
        return set(self.line_1._streams), set(self.line_2._streams)

    async def devices(self) -> dict[str, bool | None]:
        return {each["device"]: each["up"] for link in (await self.status())["links"] for each in link["devices"]}

    async def until_up(self, *devices: str) -> None:
        async def up() -> bool:
            with contextlib.suppress(GatewayError):
                return {*devices} <= {name for name, up in (await self.devices()).items() if up}
            return False

        async with asyncio.timeout(60):
            while not await up():
                await asyncio.sleep(0.05)

    async def end(self) -> list[Batch | Gap]:
        """Stop the gateway; give what its journal holds, in order."""
        self.stop.set()
        assert self.task is not None
        async with asyncio.timeout(60):
            await self.task
        return await contents(load_site(self.path))


async def contents(site: Site) -> list[Batch | Gap]:
    journal = await Journal.open(site.data / "journal", site.journal, [*site.publishers, "keeper"], codec.pack_gap)
    try:
        chunk = await journal.read(1, journal.committed, 1 << 30)
        return [codec.unpack(record, lambda n: stored_table(journal.definition(n))) for _, record in chunk.records]
    finally:
        await journal.close()


@contextlib.asynccontextmanager
async def bench(folder: Path, **settings: Any) -> AsyncIterator[Bench]:
    tags = {f"t{number}": f"holding:{number} uint16" for number in range(20)}
    units = {f"unit-{unit}": {"unit_id": unit, "tags": tags} for unit in (1, 2)}
    async with (
        ModbusServer(link_of("tcp://127.0.0.1:1", units)) as line_1,
        ModbusServer(link_of("tcp://127.0.0.1:1", {"pump": {"tags": tags}})) as line_2,
    ):
        await line_1.listen()
        await line_2.listen()
        made = Bench(folder, line_1, line_2)
        made.write(**settings)
        made.task = asyncio.create_task(app.run(load_site(made.path), made.stop))
        try:
            await made.until_up("press", "oven", "pump")
            yield made
        finally:
            made.stop.set()
            await asyncio.wait([made.task], timeout=60)


def scans(found: list[Batch | Gap], device: str) -> list[int]:
    """Give the slots (of a second) in which a device was read well."""
    times = [int(b.time[0]) for b in found if isinstance(b, Batch) and b.table.device == device and not b.quality.any()]
    return sorted({time // SECOND for time in times})


def assert_nothing_missed(found: list[Batch | Gap], *devices: str) -> None:
    """Every scan instant of these devices has its readings: none is absent, none is declared as skipped, none Bad."""
    for device in devices:
        slots = scans(found, device)
        assert slots == list(range(slots[0], slots[-1] + 1)), (device, slots)
        assert not [gap for gap in found if isinstance(gap, Gap) and gap.device in ("", device)]
        assert not [b for b in found if isinstance(b, Batch) and b.table.device == device and b.quality.any()]


async def test_a_device_changes_and_its_neighbours_on_the_link_and_elsewhere_miss_no_scan(tmp_path: Path) -> None:
    """A register list is mended while the line produces: only what was mended may show in the data."""
    async with bench(tmp_path) as plant:
        sessions = plant.sessions()
        plant.write(press="{pressure: holding:4 float32, level: holding:3 uint16}")
        outcome, lines = await plant.reload()
        assert (outcome, lines) == ("applied", ["device press: changed"])
        seen = plant.line_1.requests
        await until(lambda: plant.line_1.requests > seen + 6)
        assert plant.sessions() == sessions, "the sessions stayed"
        found = await plant.end()
    assert_nothing_missed(found, "oven", "pump")
    slots = scans(found, "press")
    assert slots == list(range(slots[0], slots[-1] + 1)), "nor has the device itself missed one"
    press = [b for b in found if isinstance(b, Batch) and b.table.device == "press"]
    assert {"pressure", "strokes"} == set(press[0].table.names)
    assert {"pressure", "level"} == {name for batch in press[-2:] for name in batch.table.names}
    (last,) = [b for b in press if b.quality.any()]
    assert [last.table.names[tag] for tag in last.tag] == ["strokes"], "only the tag that is gone ends"
    assert last.quality.tolist() == [q.BAD_OUT_OF_SERVICE]
    assert last.time[0] > max(b.time[0] for b in press if "strokes" in b.table.names and b is not last)


async def test_devices_and_links_come_and_go_while_the_others_are_read(tmp_path: Path) -> None:
    async with bench(tmp_path) as plant:
        text = plant.path.read_text()
        grown = text.replace("  line-2:", "      mill: {unit_id: 1, tags: {speed: holding:8 uint16}}\n  line-2:")
        plant.path.write_text(grown.replace("line-2", "line-3").replace("pump", "fan"))
        outcome, lines = await plant.reload()
        assert outcome == "applied"
        assert set(lines) == {
            "link line-3: added", "link line-2: removed", "device mill: added", "device fan: added",
            "device pump: removed",
        }  # fmt: skip
        await plant.until_up("press", "oven", "mill", "fan")
        assert set(await plant.devices()) == {"press", "oven", "mill", "fan"}
        found = await plant.end()
    assert_nothing_missed(found, "press", "oven")
    pump = [b for b in found if isinstance(b, Batch) and b.table.device == "pump"]
    assert pump[-1].quality.tolist() == [q.BAD_OUT_OF_SERVICE]


async def test_a_link_with_other_keys_is_made_again_and_the_other_link_does_not_notice(tmp_path: Path) -> None:
    async with bench(tmp_path) as plant:
        before = plant.sessions()
        plant.path.write_text(plant.path.read_text().replace("retry_first: 100 ms", "retry_first: 200 ms"))
        assert await plant.reload() == ("applied", ["link line-1: changed"])
        seen = plant.line_1.requests
        await until(lambda: plant.line_1.requests > seen + 4)
        assert (before[0] & plant.sessions()[0], plant.sessions()[1]) == (set(), before[1])
        found = await plant.end()
    assert_nothing_missed(found, "pump")
    declared = {g.start // SECOND for g in found if isinstance(g, Gap) and g.device == "oven"}
    slots = sorted({*scans(found, "oven"), *declared})
    assert slots == list(range(slots[0], slots[-1] + 1)), "what the new session cost is declared"


async def test_a_changed_device_that_does_not_come_up_gets_its_old_definition_back(tmp_path: Path) -> None:
    """A typing error in a unit id on Friday evening must not cost the weekend's readings."""
    async with bench(tmp_path, probation="1500 ms") as plant:
        plant.write(unit=9)
        outcome, lines = await plant.reload()
        assert outcome == "rolled back"
        assert "press: " in lines[0]
        assert lines[-1] == "the configuration before it runs again"
        await plant.until_up("press")
        problem = (await plant.status())["configuration"]
        assert "taken back" in problem
        assert any("taken back" in each.what for each in troubles(await plant.status(), "site.yaml"))
        assert "press" in problem
        plant.write(unit=1)
        outcome, _ = await plant.reload()
        assert outcome == "unchanged"
        assert not (await plant.status())["configuration"]
        found = await plant.end()
    assert_nothing_missed(found, "pump")
    press = [b for b in found if isinstance(b, Batch) and b.table.device == "press"]
    assert [b for b in press if b.quality.all()], "meanwhile its tags were Bad"
    assert not press[-1].quality.any()


async def test_a_new_device_that_does_not_answer_stays(tmp_path: Path) -> None:
    """It is mounted tomorrow. Only what worked before can get worse by a reload."""
    async with bench(tmp_path, probation="500 ms") as plant:
        plant.path.write_text(
            plant.path.read_text().replace("  line-2:", "      mill: {unit_id: 9, tags: {a: holding:8}}\n  line-2:")
        )
        assert await plant.reload() == ("applied", ["device mill: added"])


async def test_what_does_not_check_or_needs_a_restart_is_refused_by_name_and_the_old_one_stays(tmp_path: Path) -> None:
    async with bench(tmp_path) as plant:
        plant.write(press="{pressure: holding:70000 float32}")
        outcome, lines = await plant.reload()
        assert outcome == "refused"
        assert "site.yaml:13:" in lines[0], lines
        assert "70000" in lines[0]
        plant.write(press="{pressure: holding:4 float32}", extra="journal: {max_size: 5 MB}\n")
        outcome, lines = await plant.reload()
        assert outcome == "needs a restart"
        assert "journal.max_size" in lines[0]
        assert "restart" in (await plant.status())["configuration"]
        found = await plant.end()
    assert_nothing_missed(found, "press", "oven", "pump")
    (table,) = {b.table.fingerprint for b in found if isinstance(b, Batch) and b.table.device == "press"}
    assert table


async def test_publishers_come_go_and_change_alone_with_their_cursors(tmp_path: Path, mosquitto: Mosquitto) -> None:
    heard: dict[str, list[Arrived]] = {}

    def take(message: Arrived) -> None:
        heard.setdefault(message.topic.partition("/")[0], []).append(message)

    own = f'own: {{url: "{mosquitto.url}", unheard: deliver, topic: "own"}}'
    late = f'late: {{url: "{mosquitto.url}", unheard: deliver, topic: "late"}}'
    async with listening(mosquitto, "#", take), bench(tmp_path, publish=f"{{{own}, {KEEPER}}}") as plant:
        await until(lambda: "own" in heard)
        plant.write(publish=f"{{{own}, {late}, {KEEPER}}}")
        assert await plant.reload() == ("applied", ["publisher late: added"])
        await until(lambda: "late" in heard)
        plant.write(publish="{" + late.replace('topic: "late"', 'topic: "later"') + f", {KEEPER}" + "}")
        assert set((await plant.reload())[1]) == {"publisher own: removed", "publisher late: changed"}
        await until(lambda: "later" in heard)
        assert {each["publisher"] for each in (await plant.status())["publishers"]} == {"late", "keeper"}
        found = await plant.end()
    assert_nothing_missed(found, "press", "oven", "pump")


async def test_births_tell_the_tags_as_they_are_now(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """A Sparkplug host knows no tag but by a birth."""
    births: list[set[str]] = []

    def take(message: Arrived) -> None:
        if "/DBIRTH/" in message.topic and message.topic.endswith("/press"):
            births.append({metric.name for metric in Payload.FromString(message.payload).metrics})

    publish = f'{{host: {{url: "{mosquitto.url}", format: sparkplug}}, {KEEPER}}}'
    async with listening(mosquitto, "spBv1.0/#", take), bench(tmp_path, publish=publish) as plant:
        await until(lambda: births)
        assert births[-1] == {"pressure", "strokes"}
        plant.write(press="{pressure: holding:0 float32, level: holding:3 uint16}")
        outcome, lines = await plant.reload()
        assert outcome == "applied"
        assert "publisher host: starts again, it names tags that changed" in lines
        await until(lambda: births[-1] == {"pressure", "level"})


async def test_a_reload_during_a_probation_is_held_against_what_ran_before_both(tmp_path: Path) -> None:
    """Who mends a typing error at once need not wait for its probation; who makes another one has not got rid of it."""
    async with bench(tmp_path, probation="60 s") as plant:
        plant.write(unit=9)
        first = asyncio.create_task(plant.reload())
        await until(lambda: Versions(tmp_path / "data").all()[-1].outcome == PROBATION)
        plant.write(unit=9, press="{pressure: holding:70000}")
        assert (await plant.reload())[0] == "refused"
        assert "ended by another reload" in (await first)[1][-1]
        plant.write(unit=8, press=PRESS, probation="1 s")
        outcome, lines = await plant.reload()
        assert outcome == "rolled back", lines
        await plant.until_up("press")
        found = await plant.end()
    assert_nothing_missed(found, "oven", "pump")
    assert [each.outcome for each in Versions(tmp_path / "data").all()] == [APPLIED, REPLACED, ROLLED_BACK]


async def test_a_probation_goes_on_after_a_reload_that_was_refused(tmp_path: Path) -> None:
    async with bench(tmp_path, probation="3 s") as plant:
        plant.write(unit=9)
        first = asyncio.create_task(plant.reload())
        await until(lambda: Versions(tmp_path / "data").all()[-1].outcome == PROBATION)
        plant.path.write_text("gateway: [")
        assert (await plant.reload())[0] == "refused"
        await first
        await until(lambda: Versions(tmp_path / "data").all()[-1].outcome == ROLLED_BACK)
        await plant.until_up("press")
