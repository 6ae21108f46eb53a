"""What is said of a tag and of a daemon: one case per thing that goes wrong on the way."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.local.problems import troubles
from gateway.local.sentences import account

NOW = 1_000 * 10**9


def found(**changes: Any) -> dict[str, Any]:
    """Give the daemon's account of a tag that is well, with changes: a__b=1 changes ["a"]["b"]."""
    whole: dict[str, Any] = {
        "tag": "press/pressure",
        "definition": {
            "where": "site.yaml:15:11", "unit": "bar", "deadband": None, "max_silence": 0, "min": 0.0, "max": 10.0,
        },
        "link": {"link": "line", "up": True},
        "down": "",
        "device": {"device": "press", "up": True, "declared": False},
        "scan": {"group": "default", "interval": 10**9, "began": NOW - 10**8, "subscribed": False, "outcome": ""},
        "answer": {"request": "FC3 holding 0..1", "value": 5.0, "quality": 0, "note": "", "guess": ""},
        "normalised": {"value": 5.0, "quality": 0},
        "passed": {"always": True, "sequence": 7, "reported": None, "held": None},
        "journal": {"trouble": ""},
        "publishers": [{"publisher": "cloud", "shows": True, "up": True, "reason": "", "waits": False}],
        "now": NOW,
    }  # fmt: skip
    for path, value in changes.items():
        *way, last = path.split("__")
        place = whole
        for key in way:
            place = place[key]
        place[last] = value
    return whole


def test_a_tag_that_is_well_is_said_to_be_so_with_its_value() -> None:
    told = account(found(), "site.yaml")
    assert told.well
    assert told.said[0] == "press/pressure is read and Good: 5 bar."
    assert told.said[-1] == "Publisher cloud has sent all of it: the broker took record 7 or a later one."
    assert told.next == ["plantbridge tail site.yaml press/pressure"]


@pytest.mark.parametrize(
    ("changes", "sentence", "command"),
    [
        (
            {"down": "the link is down: x", "link": {"link": "line", "since": "then", "reason": "no route"}},
            "does not update: its link line is down since then: no route.",
            "plantbridge probe site.yaml press",
        ),
        (
            {"device": {"device": "press", "up": False, "declared": True, "since": "then", "reason": "silent"}},
            "the device press does not answer since then: silent. The link itself is up.",
            "plantbridge probe site.yaml press",
        ),
        ({"scan__began": 0}, "has no value yet: its group default was not read", "plantbridge status site.yaml"),
        ({"scan__began": NOW - 60 * 10**9}, "was 60 s ago, and one is due every 1 s", "plantbridge plan site.yaml"),
        (
            {"answer__value": None, "answer__quality": 0x80890000, "answer__note": "exception 02"},
            "The device answers others: exception 02. It is asked for in FC3 holding 0..1.",
            "plantbridge probe site.yaml press",
        ),
        (
            {"normalised": {"value": 11.0, "quality": 0x40940000}},
            "lies outside min..max = 0..10",
            "plantbridge probe site.yaml press",
        ),
        (
            {"normalised": {"value": None, "quality": 0x809B0000}},
            "the raw value 5 is a raw value that means 'no value'",
            "plantbridge probe site.yaml press",
        ),
        (
            {"answer__guess": "looks like the wrong word order: try CDAB"},
            "looks like the wrong word order: try CDAB, at site.yaml:15:11",
            "plantbridge probe site.yaml press",
        ),
        (
            {"journal__trouble": "the disk is full"},
            "In the journal: the disk is full.",
            "plantbridge journal site.yaml",
        ),
        (
            {"clock": {"trouble": "the clock is not known (it shows 1970)"}},
            "There is no date for it: the clock is not known (it shows 1970).",
            "plantbridge status site.yaml",
        ),
        (
            {"publishers": [{"publisher": "cloud", "shows": True, "up": False, "reason": "refused", "waits": True}]},
            "Publisher cloud is not sending: refused. What is read waits",
            "plantbridge status site.yaml",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_next_command(changes: dict[str, Any], sentence: str, command: str) -> None:
    told = account(found(**changes), "site.yaml")
    assert sentence in " ".join(told.said)
    assert command in told.next
    assert not told.well


def test_a_value_held_back_by_its_deadband_is_right_as_it_is() -> None:
    """From outside it looks like a value that hangs; whoever reads this at 3 a.m. can go back to bed."""
    changed = found(
        passed={"always": False, "sequence": 7, "reported": {"value": 4.9, "time": NOW - 60 * 10**9}, "held": {}},
        definition__deadband=0.2,
    )
    told = account(changed, "site.yaml")
    assert told.well
    assert "What is stored is 4.9 bar, reported 60.0 s ago." in told.said[1]
    assert "no more than its deadband of 0.2 bar" in told.said[1]


def test_a_tag_that_a_publisher_leaves_out_is_said_to_be_left_out() -> None:
    """Who looks for it in the cloud finds nothing, and nothing is broken."""
    told = account(found(publishers=[{"publisher": "cloud", "shows": False}]), "site.yaml")
    assert told.well
    assert "does not tell this tag" in told.said[-1]


def status(**changes: Any) -> dict[str, Any]:
    group = {
        "group": "default", "tags": 4, "bad": 0, "interval": 10**9, "began": NOW, "took": 0.1, "skipping": 0.0,
        "subscribed": False,
    }  # fmt: skip
    device = {"device": "press", "up": True, "since": "then", "reason": "", "groups": [group]}
    link = {"link": "line", "url": "tcp://x", "up": True, "since": "then", "reason": "", "devices": [device]}
    publisher = {
        "publisher": "cloud", "url": ["mqtt://x"], "up": True, "reason": "", "pending_records": 9, "rejected": 0,
        "dead_letters": "/data/dead-letters/cloud",
    }  # fmt: skip
    whole: dict[str, Any] = {
        "data": "/data", "now": NOW, "isolated": "", "links": [link], "publishers": [publisher],
        "journal": {"trouble": "", "dropped_here": {}},
    }  # fmt: skip
    for path, value in changes.items():
        place: Any = {"link": link, "device": device, "group": group, "publisher": publisher, "status": whole}
        name, key = path.split("__")
        place[name][key] = value
    return whole


def test_a_gateway_that_is_well_has_no_problems() -> None:
    assert troubles(status(), "site.yaml") == []


@pytest.mark.parametrize(
    ("changes", "what", "do"),
    [
        ({"status__journal": {"trouble": "full", "dropped_here": {}}}, "full", "plantbridge journal site.yaml"),
        (
            {"status__journal": {"trouble": "", "dropped_here": {"disk full": 7, "age": 0}}},
            "readings were lost since this start: 7 (disk full)",
            "make room",
        ),
        ({"link__up": None}, "was not reached yet", "is tcp://x right"),
        ({"link__up": False, "link__reason": "refused"}, "is down since then: refused", "plantbridge probe site.yaml"),
        ({"device__up": False, "device__reason": "mute"}, "silent since then: mute", "probe site.yaml press"),
        ({"group__bad": 2}, "2 of 4 tags have no good value", "plantbridge explain site.yaml press/TAG"),
        ({"group__skipping": 1.0}, "scans are skipped, 1 a second", "plantbridge plan site.yaml"),
        ({"group__began": NOW - 100 * 10**9}, "no scan for 100 s although the device is up", "full journal"),
        (
            {"publisher__up": False, "publisher__reason": "away"},
            "cannot send: away; 9 records wait",
            "is the broker up",
        ),
        ({"publisher__rejected": 3}, "3 messages were refused", "/data/dead-letters/cloud"),
        ({"status__isolated": "by maria"}, "isolated, nothing is written: by maria", "isolate off site.yaml"),
    ],
)
def test_each_problem_says_what_to_do(changes: dict[str, Any], what: str, do: str) -> None:
    (trouble,) = troubles(status(**changes), "site.yaml")
    assert what in trouble.what
    assert do in trouble.do
