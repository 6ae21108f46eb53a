"""What goes over the wire, byte for byte, for one small plant: tests/cases/formats/NAME.txt.

A change of a format shows here as a difference that a person reads. To write the files anew after a change that is
meant: PLANTBRIDGE_WRITE_CASES=1 pytest tests/unit/test_format_cases.py, and look at the difference.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from gateway import quality as q
from gateway.commands import Result
from gateway.contracts import Record
from gateway.dialects import SECOND
from gateway.dialects.dialogue import Dialogue
from gateway.encoders import Sized
from gateway.encoders.cloud import Cloud
from gateway.encoders.columns import Columns
from gateway.encoders.json import Json
from gateway.encoders.opcua_json import OpcuaJson
from gateway.encoders.sparkplug import EdgeNode
from gateway.memory import Forgetful
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import JsonOptions, OpcuaJsonOptions, SparkplugOptions, WriteRule
from tests.fakes.opcua_reader import Reader
from tests.unit.test_format_clouds import CASES

DIRECTORY = Path(__file__).resolve().parents[1] / "cases/formats"
START = 1_735_689_600 * SECOND

PRESS = TagTable(
    "press_1", "main", Kind.FLOAT,
    (
        Tag("pressure", "x", type="float32", unit="bar", minimum=0.0, maximum=10.0),
        Tag("speed", "x", type="uint16", states=((0, "stopped"), (1, "running"))),
        Tag("setpoint", "x", type="float64", writable=WriteRule()),
    ),
)  # fmt: skip
COUNTS = TagTable("press_1", "main", Kind.INT, (Tag("count", "x", kind=Kind.INT, type="int64"),))
NAMES = TagTable("meter_1", "slow", Kind.TEXT, (Tag("serial", "x", kind=Kind.TEXT, type="text"),))
TABLES = (PRESS, COUNTS, NAMES)


def contents() -> list[Batch | Gap]:
    """A backlog of one record, a scan, a doubtful scan, a gap, a lost device and its return."""
    doubtful = Batch.full(PRESS, np.array([11.5, 1.0, 10.0]), START + 2 * SECOND + 123_456_789)
    doubtful.quality = np.array([q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED, 0, q.BAD_TIMEOUT], dtype=np.uint32)
    return [
        Batch.full(COUNTS, np.array([2**53 + 1]), START - 60 * SECOND),
        Batch.full(PRESS, np.array([np.float32(4.21), 1500.0, 10.0]), START + SECOND),
        Batch.full(NAMES, np.array(['压机 "A"'], dtype=object), START + SECOND),
        doubtful,
        Gap("press_1", "main", START + 3 * SECOND, START + 5 * SECOND, "scans were skipped", 0, 2),
        Batch.bad(NAMES, q.BAD_NOT_CONNECTED, START + 6 * SECOND),
        Batch.full(NAMES, np.array(["B-7"], dtype=object), START + 9 * SECOND),
    ]


def converse(dialogue: Dialogue, answers: Callable[[Sequence[Message]], list[tuple[str, bytes]]]) -> list[Message]:
    """Hold one session from will to end."""
    will = dialogue.will()
    said = [Message(f"(will) {will.topic}", will.payload, 0, 0, 0)] if will else []
    said += dialogue.begin([], upto=1)
    for sequence, content in enumerate(contents(), 1):
        records = [Record(sequence, content)]
        while announced := dialogue.prepare(records):
            said += announced
            for topic, payload in answers(announced):
                said += dialogue.received(topic, payload).send
        said += dialogue.encode(records)
    return [*said, *dialogue.end()]


def written(messages: Sequence[Message]) -> str:
    lines = []
    for message in messages:
        binary = message.topic.removeprefix("(will) ").startswith("spBv1.0")
        payload = message.payload.hex(" ", 4) if binary else message.payload.decode()
        retained = "  retained" if message.retain else ""
        lines.append(f"{message.topic}{retained}\n    {payload}\n")
    return "".join(lines)


def sparkplug() -> list[Message]:
    node = EdgeNode(SparkplugOptions(group="Plant1"), "gw01", TABLES, Forgetful(), clock=lambda: START, commands=True)
    return [message for message in converse(node, lambda _: []) if "NBIRTH" not in message.topic]  # has our version


def opcua_json() -> list[Message]:
    numbers = itertools.count(1)
    publisher = OpcuaJson(
        OpcuaJsonOptions(), "gw01", TABLES, Forgetful(), clock=lambda: START, identify=lambda: f"m{next(numbers)}"
    )
    return converse(publisher, lambda _: [])


def columns() -> list[Message]:
    """Write the plant's records; the binary ones as pyarrow reads them, for zstd's bytes are those of its version."""
    late = Batch.full(PRESS, np.array([1.5, 2.0, 3.0]), START)
    late.backfill = True
    encoder = Columns("gw01", "j1", "plantbridge/gw01", 256_000)
    for number, table in enumerate(TABLES, 1):
        encoder.know(number, table)
    part = Batch.full(PRESS, np.array([4.5, 2.0, 3.0]), START).take(np.array([0, 2]))
    records = [Record(sequence, each) for sequence, each in enumerate([*contents(), late, part], 1)]
    return [replace(each, payload=_as_read(each)) for each in encoder.encode(records)]


def _as_read(message: Message) -> bytes:
    if not message.topic.endswith("/columns"):
        return message.payload
    with zstandard.ZstdDecompressor().stream_reader(message.payload) as raw:
        table = pa.ipc.open_stream(raw.read()).read_all()
    head = table.schema.metadata[b"plantbridge"]
    shown = {each.name: table[each.name].cast(_SHOWN.get(each.type, each.type)) for each in table.schema}
    columns = [f"    {field.name}: {field.type} {shown[field.name].to_pylist()}" for field in table.schema]
    return b"\n".join([head, *(each.encode() for each in columns)])


_SHOWN = {pa.timestamp("ns", "UTC"): pa.int64()}


def opcua_actions() -> list[Message]:
    """Say what may be set, and answer a request that is half done."""
    numbers = itertools.count(1)
    publisher = OpcuaJson(
        OpcuaJsonOptions(encoding="compact"), "gw01", TABLES, Forgetful(), commands=True, clock=lambda: START,
        identify=lambda: f"m{next(numbers)}",
    )  # fmt: skip
    said = [each for each in publisher.begin() if "/action-" in each.topic]
    reader = Reader("opcua", "gw01", "data-value", "compact")
    reader.take(said)
    request = reader.request("press_1", "set", {"setpoint": 4.5}, 7, CorrelationData="AQI=")
    (command,) = publisher.received(*request).commands
    written = Result(4.0, 4.5, 0, "", "41:9c1e")
    late = Result(None, None, q.BAD_TIMEOUT, "no answer", "42:77ab")
    return [
        Message(*request, 0, 0, 0),
        *said,
        *publisher.answer(command, [written]),
        *publisher.answer(command, [late]),
    ]


def cloud(name: str) -> list[Message]:
    case = CASES[name]()
    dialogue = Cloud(case.dialect, clock=lambda: START)
    case.platform.connect(dialogue.credentials(), START)

    def answers(messages: Sequence[Message]) -> list[tuple[str, bytes]]:
        return [reply for message in messages for reply in case.platform.publish(message, START, 0)]

    return converse(dialogue, answers)


def json(**options: Any) -> list[Message]:
    """Write the plant's records, history with several times, and a tag twice in a scan."""
    late = Batch.full(PRESS, np.array([1.5, 2.0, 3.0]), START)
    late.time, late.backfill = late.time + np.array([0, 1, 1]) * SECOND, True
    twice = late.take(np.array([0, 1, 0]))
    encoder = Json("gw01", "{device}/{group}", 256_000, JsonOptions(**options))
    return encoder.encode([Record(sequence, each) for sequence, each in enumerate([*contents(), late, twice], 1)])


FORMATS: dict[str, Callable[[], list[Message]]] = {
    "sparkplug": sparkplug,
    "opcua-json": opcua_json,
    "opcua-json-actions": opcua_actions,
    "columns": columns,
    "json": json,
    "json-window": lambda: json(per="window", window="1 s"),
    "json-tag": lambda: json(per="tag"),
    **{name: (lambda name=name: cloud(name)) for name in CASES},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_goes_over_the_wire_is_as_it_was(name: str) -> None:
    file = DIRECTORY / f"{name}.txt"
    said = written(FORMATS[name]())
    if os.environ.get("PLANTBRIDGE_WRITE_CASES"):
        file.write_text(said)
    assert said == file.read_text()


WIDE = TagTable("press_1", "main", Kind.FLOAT, tuple(Tag(f"tag_{n}", "x", type="float64") for n in range(300)))


@pytest.mark.parametrize("name", [*CASES, "sparkplug", "opcua-json"])
def test_messages_can_be_made_smaller_on_the_way(name: str) -> None:
    """The publisher does so when a peer ends each session at the first message."""
    made: dict[str, Callable[[], Dialogue]] = {
        "sparkplug": lambda: EdgeNode(SparkplugOptions(), "gw01", (WIDE,), Forgetful()),
        "opcua-json": lambda: OpcuaJson(OpcuaJsonOptions(), "gw01", (WIDE,), Forgetful()),
        **{each: (lambda each=each: Cloud(CASES[each]().dialect)) for each in CASES},  # type: ignore[misc]
    }
    dialogue = made[name]()
    assert isinstance(dialogue, Sized)
    dialogue.will()
    dialogue.begin()
    records = [Record(1, Batch.full(WIDE, np.random.default_rng(1).random(300), START))]
    dialogue.prepare(records)
    dialogue.max_message = 2000
    messages = dialogue.encode(records)
    assert max(len(message.payload) for message in messages) <= 2000
    assert sum(message.readings for message in messages) == 300


@pytest.mark.parametrize("name", [*CASES, "sparkplug", "opcua-json"])
def test_a_peer_that_takes_so_many_readings_a_message_gets_no_more(name: str) -> None:
    made: dict[str, Callable[[], Dialogue]] = {
        "sparkplug": lambda: EdgeNode(SparkplugOptions(), "gw01", (WIDE,), Forgetful(), most=70),
        "opcua-json": lambda: OpcuaJson(OpcuaJsonOptions(), "gw01", (WIDE,), Forgetful(), most=70),
        **{each: (lambda each=each: Cloud(CASES[each]().dialect, most=70)) for each in CASES},  # type: ignore[misc]
    }
    dialogue = made[name]()
    dialogue.will()
    dialogue.begin()
    scans = [Batch.full(WIDE, np.random.default_rng(1).random(300), START + number) for number in range(3)]
    records = [Record(number, scan) for number, scan in enumerate(scans, 1)]
    dialogue.prepare(records)
    messages = dialogue.encode(records)
    assert max(message.readings for message in messages) <= 70
    assert sum(message.readings for message in messages) == 900


def test_names_that_cannot_stand_in_a_topic_are_encoded_and_others_left_as_they_are() -> None:
    table = TagTable("压机/2 #+", "快", Kind.FLOAT, (Tag("x", "x", type="float64"),))
    publisher = OpcuaJson(OpcuaJsonOptions(), "gw01", (table,), Forgetful())
    topics = [message.topic for message in publisher.begin()]
    assert topics[1] == "opcua/json/metadata/gw01/压机%2F2 %23%2B/快"
