"""The inventory of a site: what is listed, what it costs the daemon, and what the lists of registers keep of it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

from gateway.changes import compare
from gateway.config import load_site
from gateway.config.shipped import shipped
from gateway.health import Health
from gateway.lists.export import as_csv, rows_of, table_of
from gateway.lists.reading import Wanted, read_list
from gateway.lists.rows import Reading
from gateway.lists.sites import checked, compose_into, drivers_of
from gateway.model import Where

SITE = """
gateway: demo
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1502
    devices:
      press-1:
        location: {hall: H1, bay: B2}
        inventory: {vendor: Schuler, model: MSP 400, serial: "40711", key_process: stamping}  # as on its plate
        tags: {force: "holding:1", stroke: "holding:2"}
      press-2:
        unit_id: 2
        inventory: {key_process: true, numerically_controlled: true, location: yard}
        tags: {force: "holding:1"}
      meter-1: {unit_id: 3, inventory: auxiliary, tags: {power: "holding:1"}}
      oven-1: {unit_id: 4, tags: {heat: "holding:1"}}
inventory:
  lathe-1: planned     # next year
  lathe-2: {state: not-connectable, serial: "7", key_process: turning}
publish: {cloud: {url: mqtt://127.0.0.1}}
"""


def write(folder: Path, text: str = SITE) -> Path:
    path = folder / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_device_is_listed_once_and_counts_as_connected_where_it_says_nothing(tmp_path: Path) -> None:
    listed = {each.name: each for each in load_site(write(tmp_path)).inventory}
    assert {name: each.state for name, each in listed.items()} == {
        "press-1": "connected", "press-2": "connected", "meter-1": "auxiliary", "oven-1": "connected",
        "lathe-1": "planned", "lathe-2": "not-connectable",
    }  # fmt: skip
    assert [name for name, each in listed.items() if not each.counted] == ["meter-1"]
    assert listed["press-1"].process == "stamping"
    assert listed["press-2"].process == "press-2", "a process without a name is called as its machine"
    assert (listed["press-1"].location, listed["press-2"].location) == ("H1 / B2", "yard")
    assert (listed["oven-1"].link, listed["lathe-2"].link) == ("line", "")


def test_machines_may_stand_in_included_files(tmp_path: Path) -> None:
    (tmp_path / "hall.yaml").write_text("inventory: {saw-1: planned}\n", encoding="utf-8")
    loaded = load_site(write(tmp_path, SITE.replace("gateway: demo", "gateway: demo\ninclude: [hall.yaml]")))
    assert {"saw-1", "lathe-1", "lathe-2"} <= {each.name for each in loaded.inventory}


def test_a_machine_without_a_link_is_nothing_that_is_read(tmp_path: Path) -> None:
    """It must cost nothing at run time."""
    loaded = load_site(write(tmp_path))
    without = load_site(write(tmp_path, SITE[: SITE.index("inventory:\n  lathe")] + SITE[SITE.index("publish:") :]))
    assert [table.definition for table in loaded.tables] == [table.definition for table in without.tables]
    assert pickle.loads(pickle.dumps(loaded)).inventory == loaded.inventory


def test_a_change_of_the_inventory_restarts_no_device(tmp_path: Path) -> None:
    old = load_site(write(tmp_path))
    new = load_site(write(tmp_path, SITE.replace("Schuler", "SMS").replace("planned", "not-connectable")))
    changes, kept = compare(old, new)
    assert not changes
    assert {each.vendor for each in kept.inventory} == {"SMS", ""}, "and is known all the same"


def test_the_health_tells_who_answers() -> None:
    health = Health()
    health.device("press-1", up=True)
    health.device("press-2", up=False, reason="no answer")
    assert health.well("devices") == {"press-1"}


def test_a_register_list_leaves_the_inventory_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path)
    rows = rows_of(path)
    (tmp_path / "tags.csv").write_bytes(as_csv(table_of(rows)))

    def brought_back() -> str:
        listed = read_list(tmp_path / "tags.csv", Wanted(Reading(device="dev", drivers=drivers_of(path))))
        return checked(listed, lambda each: compose_into(each, path, link=None, url="", unit=None)).text

    assert brought_back() == SITE, "a round trip changes nothing"
    before = load_site(path).inventory
    rows[0]["address"] = "holding:99"
    (tmp_path / "tags.csv").write_bytes(as_csv(table_of(rows)))
    path.write_text(changed := brought_back(), encoding="utf-8")
    assert "holding:99" in changed
    assert "# as on its plate" in changed
    assert [replace(each, where=Where()) for each in load_site(path).inventory] == [
        replace(each, where=Where()) for each in before
    ]


def test_the_sample_has_an_inventory() -> None:
    listed = {each.name: each.state for each in load_site(shipped() / "sample.yaml", secrets=False).inventory}
    assert listed == {
        "press-1": "connected", "meter-1": "auxiliary", "boiler-1": "connected",
        "press-2": "planned", "grinder-1": "not-connectable",
    }  # fmt: skip
