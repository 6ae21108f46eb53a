"""JSON messages of a shape of one's own: templates of topics and bodies, a message per scan, tag or window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import quality as q
from gateway.contracts import Record
from gateway.encoders import Windowed
from gateway.encoders.json import Json, topic_for
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import JsonOptions
from gateway.templates import SCAN_VALUES, TAG_NAMES, TAG_VALUES, body_faults, topic_faults, topic_of
from tests.native import SECOND

T0 = 1_735_689_600 * SECOND
PLACES = {
    "": {"enterprise": "Acme", "site": "Hangzhou"},
    "press-1": {"enterprise": "Acme", "site": "Hangzhou", "area": "压机", "line": "L1"},
    "meter-1": {"enterprise": "Acme", "site": "Hangzhou"},
}
PATH = "{enterprise}/{site}/{area}/{line}/{device}"
PRESS = TagTable(
    "press-1", "main", Kind.FLOAT,
    (Tag("pressure", "a", type="float32", unit="bar"), Tag("mode", "b", type="uint16", states=((2, "running"),))),
)  # fmt: skip
METER = TagTable("meter-1", "slow", Kind.INT, (Tag("energy", "c", kind=Kind.INT, type="int64"),))


def encoder(topic: str = PATH, max_message: int = 100_000, **options: Any) -> Json:
    return Json("gw1", topic, max_message, JsonOptions(**options), PLACES)


def scan(table: TagTable, *values: Any, time: int = T0) -> Batch:
    return Batch.full(table, np.array(values, dtype=table.kind.dtype), time)


def records(*contents: Batch | Gap, first: int = 1) -> list[Record]:
    return [Record(first + index, content) for index, content in enumerate(contents)]


def said(messages: Sequence[Message]) -> list[tuple[str, Any]]:
    return [(message.topic, json.loads(message.payload)) for message in messages]


def test_a_topic_is_the_path_of_the_place_without_levels_that_a_device_does_not_have() -> None:
    messages = encoder().encode(records(scan(PRESS, 1.0, 2), scan(METER, 7)))
    assert [message.topic for message in messages] == ["Acme/Hangzhou/压机/L1/press-1", "Acme/Hangzhou/meter-1"]


def test_a_gap_of_everything_has_the_sites_own_path() -> None:
    (message,) = encoder().encode(records(Gap("", "", T0, T0 + 1, "away")))
    assert message.topic == "Acme/Hangzhou/all"


def test_a_body_is_the_template_with_values_of_their_own_types() -> None:
    body = {
        "machine": "{line}/{device}", "v": 2, "data": "{values}", "at": "{timestamp}", "late": "{backfill}",
        "meta": {"q": "{quality}", "site": "{site}", "seq": "{sequence}"},
    }  # fmt: skip
    bad = scan(PRESS, 0.1, 2, time=T0 + SECOND)
    bad.quality = np.array([q.BAD_TIMEOUT, 0], dtype=np.uint32)
    bad.backfill = True
    messages = encoder(body=body).encode(records(scan(PRESS, 0.1, 2), bad))
    meta = {"site": "Hangzhou", "seq": 1}
    assert [each for _, each in said(messages)] == [
        {"machine": "L1/press-1", "v": 2, "data": {"pressure": 0.1, "mode": 2}, "at": 1735689600000, "meta": meta},
        {
            "machine": "L1/press-1", "v": 2, "data": {"pressure": None, "mode": 2}, "at": 1735689601000, "late": True,
            "meta": {"q": {"pressure": {"name": "BadTimeout", "code": q.BAD_TIMEOUT}}, "site": "Hangzhou", "seq": 2},
        },
    ]  # fmt: skip


def test_each_reading_is_a_message_of_its_own_with_what_its_tag_is() -> None:
    batch = scan(PRESS, 0.1, 2)
    batch.quality = np.array([q.BAD_TIMEOUT, 0], dtype=np.uint32)
    messages = encoder(PATH + "/{tag}", per="tag").encode(records(batch, scan(METER, 2**53 + 1), first=5))
    time = {"time": "2025-01-01T00:00:00.000Z", "timestamp": 1735689600000}
    press = {"gateway": "gw1", "device": "press-1", "group": "main"}
    assert said(messages) == [
        ("Acme/Hangzhou/压机/L1/press-1/pressure",
         {**press, "tag": "pressure", "value": None, "unit": "bar", **time, "quality": "BadTimeout"}),
        ("Acme/Hangzhou/压机/L1/press-1/mode",
         {**press, "tag": "mode", "value": 2, "state": "running", **time, "quality": "Good"}),
        ("Acme/Hangzhou/meter-1/energy",
         {"gateway": "gw1", "device": "meter-1", "group": "slow", "tag": "energy", "value": 2**53 + 1, **time,
          "quality": "Good"}),
    ]  # fmt: skip
    assert [(message.first, message.last, message.readings) for message in messages] == [
        (5, 5, 1),
        (5, 5, 1),
        (6, 6, 1),
    ]
    assert not any(message.retain for message in messages)


def test_what_is_retained_never_goes_back_in_time() -> None:
    """A backlog that is sent behind live values must not become what newcomers take for the present."""
    made = encoder(PATH + "/{tag}", per="tag", retain=True)
    late = scan(PRESS, 1.0, 1, time=T0 - SECOND)
    late.backfill = True
    (first,) = made.encode(
        records(Batch(PRESS, np.array([0], np.uint32), np.array([3.0]), np.zeros(1, np.uint32), np.array([T0])))
    )
    assert first.retain
    old = {message.topic.rpartition("/")[2]: message.retain for message in made.encode(records(late, first=2))}
    assert old == {"pressure": False, "mode": True}  # of mode nothing newer is known
    assert all(message.retain for message in made.encode(records(scan(PRESS, 1, 1, time=T0 + SECOND), first=3)))
    assert not first.definition


def test_a_window_is_an_array_of_scans_for_each_device_and_group() -> None:
    made = encoder(per="window", window="10 s", body={"t": "{timestamp}", "v": "{values}"})
    assert isinstance(made, Windowed)
    assert made.window == 10
    scans = [scan(PRESS, turn, 2, time=T0 + turn * SECOND) for turn in range(3)]
    press, meter = made.encode(records(scans[0], scan(METER, 1), *scans[1:]))
    ms = T0 // 1_000_000
    assert said([press])[0][1] == [
        {"t": ms + 1000 * turn, "v": {"pressure": float(turn), "mode": 2}} for turn in range(3)
    ]
    assert said([meter])[0][1] == [{"t": ms, "v": {"energy": 1}}]
    assert (press.first, press.last, press.readings, press.oldest) == (1, 4, 6, T0)
    assert Json("gw1", PATH, 1000, JsonOptions(), PLACES).window == 0


def test_a_window_is_cut_where_a_message_would_be_too_large() -> None:
    made = encoder(max_message=300, per="window", body={"v": "{values}"})
    messages = made.encode(records(*(scan(PRESS, turn, 2, time=T0 + turn) for turn in range(50))))
    assert max(len(message.payload) for message in messages) <= 300
    rows = [row["v"]["pressure"] for _, rows in said(messages) for row in rows]
    assert rows == [float(turn) for turn in range(50)]
    assert sum(message.readings for message in messages) == 100


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"a": "{valu}"}, [(("a",), "unknown placeholder {valu}", "did you mean {value}?")]),
        ({"a": {"b": "x {value}"}},
         [(("a", "b"), "{value} must stand alone, for it is not a name", 'write KEY: "{value}"')]),
        ({"a": "{unit"}, [(("a",), "a brace is not closed", 'write "{device}" with both')]),
        ({"a": [1]}, [(("a",), "a list cannot stand in a body", "give keys and values")]),
        ({"a": {}}, [(("a",), "this object is empty", "give it keys")]),
        ({"a": "{device}-{tag}", "b": "{value}", "c": 1, "d": None, "e": True, "{f}": "plain"}, []),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_body_is_said_with_its_place(body: Any, found: list[Any]) -> None:
    assert list(body_faults(body, TAG_NAMES, TAG_VALUES)) == found


def test_where_in_a_topic_a_placeholder_is_unknown_is_said() -> None:
    ((reason, hint),) = topic_faults("a/{devise}/{group}", ("gateway", "device", "group"))
    assert reason == "unknown placeholder {devise} at character 3 of the topic"
    assert hint == "did you mean {device}?"


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=8) | st.integers() | st.none() | st.booleans(), min_size=1)
)
def test_whatever_body_is_without_faults_gives_json(body: dict[str, Any]) -> None:
    """Also keys and texts with quotes, backslashes and braces."""
    if list(body_faults(body, TAG_NAMES, SCAN_VALUES)):
        return
    try:
        encoding = json.dumps(body).encode().decode()
        encoding.encode("utf-8")
        [str(each).encode() for each in (*body, *body.values())]
    except UnicodeEncodeError:
        return
    (message,) = encoder(body=body).encode(records(scan(METER, 1)))
    assert set(json.loads(message.payload)) <= set(body)


def test_the_usual_topics() -> None:
    assert topic_for(JsonOptions()) == "plantbridge/{gateway}/json/{device}/{group}"
    assert topic_for(JsonOptions(per="tag")) == "plantbridge/{gateway}/json/{device}/{group}/{tag}"
    assert topic_of("a/{x}{y}/b", {"x": "", "y": ""}) == "a/b"
    assert topic_of("a/{x}/b", {"x": "1+#/2"}) == "a/1__/2/b"
