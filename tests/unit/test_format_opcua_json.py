"""OPC UA PubSub JSON before a reader that trusts the metadata alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import quality as q
from gateway.contracts import Record
from gateway.dialects import SECOND
from gateway.dialects.dialogue import Dialogue
from gateway.encoders.opcua_json import OpcuaJson, builtin_type, timestamp
from gateway.memory import Forgetful
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import OpcuaJsonOptions
from tests.fakes.opcua_reader import Reader

START = 1_735_689_600 * SECOND
FORMS = list(itertools.product(("data-value", "variant", "raw"), ("plain", "reversible", "compact")))
forms = pytest.mark.parametrize(("fields", "encoding"), FORMS)


def tag(name: str, type_: str = "float64", kind: Kind = Kind.FLOAT, **more: Any) -> Tag:
    return Tag(name, "x", kind=kind, type=type_, **more)


PRESS = TagTable(
    "press 1", "main", Kind.FLOAT,
    (
        tag("pressure", "float32", unit="bar", minimum=0.0, maximum=10.0, description="hydraulics"),
        tag("speed", "uint16", states=((0, "stopped"), (1, "running"))),
        tag("level"),
    ),
)  # fmt: skip
COUNTS = TagTable("press 1", "main", Kind.INT, (tag("count", "int64", Kind.INT),))
TOTALS = TagTable("meter", "slow", Kind.UINT, (tag("total", "uint64", Kind.UINT),))
LAMPS = TagTable("meter", "slow", Kind.BOOL, (tag("lamp", "bool", Kind.BOOL),))
NAMES = TagTable("meter", "slow", Kind.TEXT, (tag("serial", "text", Kind.TEXT),))
TABLES = (PRESS, COUNTS, TOTALS, LAMPS, NAMES)


class Plant:
    """A publisher and its reader."""

    def __init__(
        self, fields: str = "data-value", encoding: str = "plain", tables: Sequence[TagTable] = TABLES,
        state: dict[str, Any] | None = None, now: int = START, **more: Any,
    ) -> None:  # fmt: skip
        self.memory = Forgetful(state)
        self.now = now
        options = OpcuaJsonOptions(fields=fields, encoding=encoding)  # type: ignore[arg-type]
        self.publisher = OpcuaJson(options, "gw01", tables, self.memory, clock=lambda: self.now, **more)
        self.reader = Reader("opcua", "gw01", fields, encoding)
        self.reader.will(self.publisher.will())
        self.reader.take(self.publisher.begin())
        self.sequence = 0

    def send(self, *contents: Batch | Gap) -> list[Message]:
        first = self.sequence + 1
        self.sequence += len(contents)
        messages = self.publisher.encode([Record(first + index, each) for index, each in enumerate(contents)])
        self.reader.take(messages)
        return messages

    def said(self, *key: str) -> list[tuple[Any, int, int | None]]:
        return self.reader.values[key]  # type: ignore[index]


def scan(table: TagTable, *values: Any, time: int = START) -> Batch:
    return Batch.full(table, np.array(values, dtype=table.kind.dtype), time)


@forms
def test_every_value_is_read_back_by_the_metadata_alone(fields: str, encoding: str) -> None:
    plant = Plant(fields, encoding)
    messages = plant.send(
        scan(PRESS, np.float32(0.1), 1, -2.5e-9), scan(COUNTS, -(2**63)), scan(TOTALS, 2**64 - 1),
        scan(LAMPS, True), scan(NAMES, '压 "A"'),
    )  # fmt: skip
    assert plant.said("press 1", "main", "pressure") == [(0.1, 0, START)]
    assert plant.said("press 1", "main", "speed") == [(1, 0, START)]
    assert plant.said("press 1", "main", "level") == [(-2.5e-9, 0, START)]
    assert plant.said("press 1", "main", "count") == [(-(2**63), 0, START)]
    assert plant.said("meter", "slow", "total") == [(2**64 - 1, 0, START)]
    assert plant.said("meter", "slow", "lamp") == [(True, 0, START)]
    assert plant.said("meter", "slow", "serial") == [('压 "A"', 0, START)]
    assert [message.topic for message in messages] == ["opcua/json/data/gw01/press 1", "opcua/json/data/gw01/meter"]
    assert isinstance(plant.publisher, Dialogue)


@forms
def test_a_bad_reading_has_no_value_and_says_why_where_the_form_allows(fields: str, encoding: str) -> None:
    plant = Plant(fields, encoding)
    batch = scan(PRESS, 1.0, 1, 2.0)
    batch.quality = np.array([q.BAD_TIMEOUT, 0, q.UNCERTAIN], dtype=np.uint32)
    counts = Batch.bad(COUNTS, q.BAD_NOT_CONNECTED, START)
    plant.send(batch, counts)
    assert plant.said("press 1", "main", "pressure") == [(None, 0 if fields == "raw" else q.BAD_TIMEOUT, START)]
    assert plant.said("press 1", "main", "count") == [(None, 0 if fields == "raw" else q.BAD_NOT_CONNECTED, START)]
    doubt = q.UNCERTAIN if fields == "data-value" else 0
    assert plant.said("press 1", "main", "level") == [(2.0, doubt, START)]


@forms
def test_numbers_that_json_does_not_have_are_strings(fields: str, encoding: str) -> None:
    plant = Plant(fields, encoding)
    plant.send(scan(PRESS, math.inf, 1, -math.inf), scan(PRESS, 1.0, 1, math.nan))
    assert plant.said("press 1", "main", "pressure")[0][0] == math.inf
    assert plant.said("press 1", "main", "level")[0][0] == -math.inf
    assert math.isnan(plant.said("press 1", "main", "level")[1][0])


@forms
def test_each_reading_keeps_its_own_time(fields: str, encoding: str) -> None:
    plant = Plant(fields, encoding)
    mixed = Batch(
        PRESS, np.array([2, 0, 1, 0], np.uint32), np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4, np.uint32),
        START + np.array([300, 100, 200, 400]) * 1000,
    )  # fmt: skip
    plant.send(mixed)
    assert plant.said("press 1", "main", "pressure") == [(2.0, 0, START + 100_000), (4.0, 0, START + 400_000)]
    assert plant.said("press 1", "main", "level") == [(1.0, 0, START + 300_000)]


def test_a_session_begins_with_what_is_retained() -> None:
    """A subscriber that comes later must find what is published and how to read it."""
    plant = Plant()
    assert list(plant.reader.retained) == [
        "opcua/json/connection/gw01",
        "opcua/json/metadata/gw01/press 1/main",
        "opcua/json/metadata/gw01/meter/slow",
        "opcua/json/status/gw01",
    ]
    status = plant.reader.retained["opcua/json/status/gw01"]
    assert (status["Status"], status["IsCyclic"]) == (2, False)
    connection = plant.reader.retained["opcua/json/connection/gw01"]["Connection"]
    assert [group["Name"] for group in connection["WriterGroups"]] == ["press 1", "meter"]
    assert connection["WriterGroups"][1]["DataSetWriters"][0]["DataSetWriterId"] == 2
    plant.reader.take(plant.publisher.end())
    assert plant.reader.retained["opcua/json/status/gw01"]["Status"] == 0
    assert plant.publisher.subscriptions() == ()


def test_metadata_tell_type_unit_range_and_states() -> None:
    fields = Plant().reader.metadata["press 1", "main"]["MetaData"]["Fields"]
    pressure, speed, _, count = fields
    assert (pressure["BuiltInType"], pressure["Description"]) == (10, {"Text": "hydraulics"})
    properties = {each["Key"]["Name"]: each["Value"]["Value"] for each in pressure["Properties"]}
    assert properties == {"EngineeringUnits": {"DisplayName": {"Text": "bar"}}, "EURange": {"Low": 0.0, "High": 10.0}}
    assert speed["Properties"][0]["Key"]["Name"] == "EnumValues"
    assert count["BuiltInType"] == 8
    assert len({field["DataSetFieldId"] for field in fields}) == 4


@pytest.mark.parametrize(
    ("tag_", "kind"),
    [
        (tag("x", "int8"), 2), (tag("x", "uint16"), 5), (tag("x", "uint32"), 7), (tag("x", "bcd16"), 5),
        (tag("x", "float32"), 10), (tag("x", "float64"), 11), (tag("x", "int16", scale=Fraction(10)), 11),
        (tag("x", "bool", Kind.BOOL), 1), (tag("x", "text", Kind.TEXT), 12), (tag("x", "uint64", Kind.UINT), 9),
    ],
)  # fmt: skip
def test_a_tag_has_the_type_of_its_source_where_no_scale_changes_it(tag_: Tag, kind: int) -> None:
    assert builtin_type(tag_) == kind


def test_a_scan_of_all_fields_is_a_key_frame() -> None:
    only = TagTable("d", "g", Kind.FLOAT, (tag("a"), tag("b")))
    plant = Plant(tables=(only,))
    plant.send(scan(only, 1, 2), scan(only, 1, 2).take(np.array([1])))
    assert plant.reader.kinds == ["ua-keyframe", "ua-deltaframe"]


def test_ids_and_versions_stay_over_a_restart_and_change_with_the_fields() -> None:
    """A reader that was away compares the version; one that changed without reason makes it read all again."""
    first = Plant()
    again = Plant(state=first.memory.state, now=START + 10**15)
    key = ("press 1", "main")
    assert again.reader.metadata[key]["MetaData"] == first.reader.metadata[key]["MetaData"]
    more = TagTable("press 1", "main", Kind.BOOL, (tag("new", "bool", Kind.BOOL),))
    changed = Plant(tables=(*TABLES[2:], PRESS, more), state=first.memory.state, now=START + 10**15)
    old, new = first.reader.metadata, changed.reader.metadata
    assert {name: each["DataSetWriterId"] for name, each in new.items()} == {
        name: each["DataSetWriterId"] for name, each in old.items()
    }
    assert _version(new[key]) > _version(old[key]) == START // SECOND - 946_684_800
    assert _version(new["meter", "slow"]) == _version(old["meter", "slow"])


def _version(metadata: Any) -> int:
    return int(metadata["MetaData"]["ConfigurationVersion"]["MajorVersion"])


def test_a_record_of_an_earlier_configuration_brings_its_metadata_along() -> None:
    old = TagTable("press 1", "main", Kind.FLOAT, (tag("pressure", "float64"), tag("gone")))
    sold = TagTable("sold", "g", Kind.FLOAT, (tag("x"),))
    plant = Plant()
    plant.send(scan(old, 1.5, 2.5), scan(sold, 1), scan(PRESS, 3, 1, 1))
    assert plant.said("press 1", "main", "gone") == [(2.5, 0, START)]
    assert plant.said("sold", "g", "x") == [(1, 0, START)]
    assert [value for value, _, _ in plant.said("press 1", "main", "pressure")] == [1.5, 3]


@forms
def test_a_gap_is_a_data_set_of_the_gateway(fields: str, encoding: str) -> None:
    plant = Plant(fields, encoding)
    plant.send(Gap("meter", "slow", START, START + SECOND, "the disk was full", 12, 3))
    assert plant.said("gateway", "gaps", "reason") == [("the disk was full", 0, START + SECOND)]
    assert plant.said("gateway", "gaps", "readings")[0][0] == 12
    assert plant.said("gateway", "gaps", "start")[0][0] == "2025-01-01T00:00:00.000Z"


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 80), limit=st.integers(1500, 4000))
def test_messages_stay_within_the_limit_and_lose_nothing(count: int, limit: int) -> None:
    table = TagTable("d", "g", Kind.FLOAT, tuple(tag(f"tag_{index}") for index in range(count)))
    plant = Plant(tables=(table,), max_message=limit)
    messages = plant.send(*[scan(table, *range(count)) for _ in range(3)])
    assert max(len(message.payload) for message in messages) <= limit
    assert sum(message.readings for message in messages) == 3 * count
    assert all(len(plant.said("d", "g", f"tag_{index}")) == 3 for index in range(count))


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (START, b"2025-01-01T00:00:00.000Z"),
        (START + 120_000_000, b"2025-01-01T00:00:00.120Z"),
        (START + 1_234_567, b"2025-01-01T00:00:00.0012345Z"),
        (-SECOND, b"1969-12-31T23:59:59.000Z"),
    ],
)
def test_times_have_the_digits_they_need(time: int, text: bytes) -> None:
    assert timestamp(time) == text
