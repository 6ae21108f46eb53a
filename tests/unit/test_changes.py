"""The change set of a reload: pure, from two site files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.changes import Changes, Named, compare, watched
from gateway.config import Site, load_site

BASE: dict[str, Any] = {
    "gateway": "gw1",
    "links": {
        "line-1": {
            "driver": "modbus",
            "url": "tcp://127.0.0.1:1",
            "devices": {
                "press": {"unit_id": 1, "tags": {"pressure": "holding:0 float32", "on": "coil:1"}},
                "oven": {"unit_id": 2, "tags": {"heat": {"address": "holding:0 float32", "deadband": 0.5}}},
            },
        },
        "line-2": {"driver": "modbus", "url": "tcp://127.0.0.1:2", "devices": {"pump": {"tags": {"flow": "input:0"}}}},
    },
    "publish": {"cloud": {"url": "mqtt://127.0.0.1:1"}},
}


def site(tmp_path: Path, body: dict[str, Any], head: str = "") -> Site:
    path = tmp_path / "site.yaml"
    path.write_bytes(head.encode() + orjson.dumps(body))
    return load_site(path)


def edited(*edits: tuple[str, Any]) -> dict[str, Any]:
    """Give BASE with values put at dotted paths; None removes."""
    body = copy.deepcopy(BASE)
    for path, value in edits:
        *parents, last = path.split("/")
        at = body
        for key in parents:
            at = at.setdefault(key, {})
        if value is None:
            del at[last]
        else:
            at[last] = value
    return body


PRESS = "links/line-1/devices/press"
EDITS: list[tuple[str, tuple[str, Any], Changes]] = [
    ("a tag's scale", (f"{PRESS}/tags/pressure", {"address": "holding:0 float32", "scale": 0.1}),
     Changes(devices=Named(changed=("press",)))),
    ("a deadband, which no reader of the data sees", ("links/line-1/devices/oven/tags/heat/deadband", 1.0),
     Changes(devices=Named(changed=("oven",)))),
    ("an interval", (f"{PRESS}/interval", "2 s"), Changes(devices=Named(changed=("press",)))),
    ("a new device", ("links/line-2/devices/fan", {"unit_id": 2, "tags": {"a": "input:0"}}),
     Changes(devices=Named(added=("fan",)))),
    ("a link's timeout", ("links/line-1/timeout", "3 s"), Changes(links=Named(changed=("line-1",)))),
    ("a password", ("publish/cloud/password", "x"), Changes(publishers=Named(changed=("cloud",)))),
    ("a publisher", ("publish/other", {"url": "mqtt://127.0.0.1:2"}), Changes(publishers=Named(added=("other",)))),
    ("the log level", ("log", {"level": "debug"}), Changes(level="debug")),
    ("the journal", ("journal", {"max_size": "5 MB"}), Changes(restart=("journal.max_size",))),
    ("commands", ("commands", "on"), Changes(restart=("commands",))),
    ("a description", (f"{PRESS}/description", "the old one"), Changes()),
    ("what simulators do", (f"{PRESS}/tags/pressure", {"address": "holding:0 float32", "simulate": {"signal": "ramp"}}),
     Changes()),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "expected"), [each[1:] for each in EDITS], ids=[each[0] for each in EDITS])
def test_an_edit_changes_what_it_is_about_and_nothing_else(
    tmp_path: Path, edit: tuple[str, Any], expected: Changes
) -> None:
    changes, merged = compare(site(tmp_path, BASE), site(tmp_path, edited(edit)))
    assert changes == expected
    assert bool(changes) == (expected != Changes())
    assert len(changes.told()) + len(changes.restart) == bool(changes)
    assert merged.gateway == "gw1"


def test_lines_that_moved_are_no_change_and_what_is_the_same_stays_the_same_object(tmp_path: Path) -> None:
    """Pollers and pipelines know a device by identity: a comment above it must not cost its neighbours a scan."""
    old, new = site(tmp_path, BASE), site(tmp_path, edited((f"{PRESS}/unit_id", 7)), head="# a comment\n\n")
    changes, merged = compare(old, new)
    assert changes.devices == Named(changed=("press",))
    line_1, line_2 = merged.links
    assert line_2 is old.links[1]
    assert line_1 is not old.links[0]
    assert line_1.devices[1] is old.links[0].devices[1]
    assert line_1.devices[0].options.unit_id == 7


def test_a_device_that_moves_to_another_link_has_changed_there(tmp_path: Path) -> None:
    pump = BASE["links"]["line-2"]["devices"]["pump"]
    moved = edited(("links/line-2/devices", {"fan": {"tags": {"a": "input:0"}}}), ("links/line-1/devices/pump", pump))
    changes, _ = compare(site(tmp_path, BASE), site(tmp_path, moved))
    assert changes.devices == Named(added=("fan",), changed=("pump",))


def test_publishers_that_name_tags_begin_again_when_tags_change_and_others_do_not(tmp_path: Path) -> None:
    publish = {
        "plain": {"url": "mqtt://127.0.0.1:1"},
        "host": {"url": "mqtt://127.0.0.1:1", "format": "sparkplug"},
        "partner": {"url": "mqtt://127.0.0.1:1", "topic": "p", "tags": {"include": ["press"]}},
    }
    old = site(tmp_path, edited(("publish", publish)))
    new = site(tmp_path, edited(("publish", publish), (f"{PRESS}/tags/more", "holding:9")))
    assert compare(old, new)[0].renewed == ("host", "partner")
    moved = site(tmp_path, edited(("publish", publish), ("location", {"hall": "3"})))
    assert compare(old, moved)[0] == Changes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    here=st.sets(st.integers(0, len(EDITS) - 1), max_size=4), there=st.sets(st.integers(0, len(EDITS) - 1), max_size=4)
)
def test_a_change_applied_is_no_change_any_more_and_its_way_back_is_its_mirror(
    tmp_path: Path, here: set[int], there: set[int]
) -> None:
    """What was compared once is what runs: to compare again finds nothing, whatever was edited."""
    old, new = (site(tmp_path, edited(*(EDITS[index][1] for index in sorted(which)))) for which in (here, there))
    changes, merged = compare(old, new)
    again, same = compare(merged, new)
    assert not again
    assert all(a is b for a, b in zip(same.links, merged.links, strict=True))
    back, _ = compare(merged, old)
    for kind in ("links", "devices", "publishers"):
        forth, mirror = getattr(changes, kind), getattr(back, kind)
        assert (set(forth.added), set(forth.removed), set(forth.changed)) == (
            set(mirror.removed), set(mirror.added), set(mirror.changed)
        )  # fmt: skip
    assert not watched(old, new) & set(changes.devices.added)
    assert set(changes.devices.changed) <= watched(old, new)
