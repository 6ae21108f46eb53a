"""The formats that strangers read: columns as pyarrow sees them, JSON as any parser does."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import zstandard

from gateway import quality as q
from gateway.contracts import Record
from gateway.decode import decode_columns, decode_gaps, decode_table, parse_table_topic
from gateway.encoders import encoder_for
from gateway.encoders.columns import Columns
from gateway.encoders.json import DEFAULT_TOPIC, Json, iso
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import PublisherOptions
from tests.native import T0, column, same, scan
from tests.native import table as table_of

MS = 1_000_000


def columns(*tables: TagTable, max_message: int = 256_000) -> Columns:
    encoder = Columns("demo", "j1", "plant/demo", max_message)
    for number, table in enumerate(tables):
        encoder.know(number, table)
    return encoder


def records(*contents: Batch | Gap, first: int = 1) -> list[Record]:
    return [Record(first + place, content) for place, content in enumerate(contents)]


def header(message: Message) -> dict[str, Any]:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(message.payload)) as raw:
        metadata = pa.ipc.open_stream(raw.read()).schema.metadata
    found: dict[str, Any] = orjson.loads(metadata[b"plantbridge"])
    return found


def read_back(messages: list[Message], *tables: TagTable) -> dict[int, list[Batch | Gap]]:
    """Decode as the cloud side does; of a record that is spread over messages several pieces."""
    found: dict[int, list[Batch | Gap]] = {}
    for message in messages:
        if message.topic.endswith("/gaps"):
            block = decode_gaps(message.payload)
        elif message.topic.endswith("/columns"):
            block = decode_columns(message.payload, lambda _gateway, _journal, number: tables[number])
        else:
            continue
        for sequence, content in zip(block.sequences, block.contents, strict=True):
            found.setdefault(sequence, []).append(content)
    return found


@pytest.mark.parametrize("kind", list(Kind))
def test_columns_of_every_kind_come_back_exactly(kind: Kind) -> None:
    table = table_of(kind)
    sent = [scan(table, T0), scan(table, T0 + MS, codes=[0, q.BAD_TIMEOUT, 0, q.UNCERTAIN])]
    found = read_back(columns(table).encode(records(*sent)), table)
    assert all(same(one, two) for one, (two,) in zip(sent, found.values(), strict=True))  # type: ignore[arg-type]


def test_a_definition_is_sent_before_its_first_use_in_each_session_and_retained() -> None:
    one, two = table_of(), table_of(Kind.TEXT)
    encoder = columns(one, two)
    messages = encoder.encode(records(scan(one, T0)))
    assert [message.topic for message in messages] == ["plant/demo/tables/j1/0", "plant/demo/columns"]
    assert messages[0].retain
    assert decode_table(messages[0].payload).fingerprint == one.fingerprint
    topic = parse_table_topic(messages[0].topic)
    assert topic is not None
    assert (topic.prefix, topic.journal, topic.table) == ("plant/demo", "j1", 0)
    assert len(encoder.encode(records(scan(one, T0), first=2))) == 1
    assert encoder.encode(records(scan(two, T0), first=3))[0].topic == "plant/demo/tables/j1/1"
    encoder.reset()
    assert len(encoder.encode(records(scan(one, T0), first=4))) == 2


def test_a_message_holds_one_type_and_singles_where_that_is_exact() -> None:
    table, other = table_of(), table_of(device="other")
    single = scan(table, T0, values=[0.5, 1.25, np.float32(23.1), float("nan")])
    double = scan(other, T0, values=[0.1, 0.2, 0.3, 0.4])
    messages = [m for m in columns(table, other).encode(records(single, double, single)) if m.topic.endswith("columns")]
    assert [[record[0] for record in header(message)["records"]] for message in messages] == [[1, 3], [2]]
    types = []
    for message in messages:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(message.payload)) as raw:
            types.append(str(pa.ipc.open_stream(raw.read()).schema.field("value").type))
    assert types == ["float", "double"]


def test_records_of_every_kind_in_one_chunk_all_leave() -> None:
    table, text = table_of(), table_of(Kind.TEXT)
    gap = Gap("press-1", "default", T0, T0 + MS, "why", 3, 1)
    messages = columns(table, text).encode(records(scan(table, T0), gap, scan(text, T0), first=10))
    assert {sequence for each in messages for sequence in (each.first, each.last)} == {10, 11, 12}
    assert sum(message.readings for message in messages) == 8
    found = read_back(messages, table, text)
    assert found[11] == [gap]


def test_late_data_is_marked_and_kept_apart() -> None:
    table = table_of()
    late = scan(table, T0)
    late.backfill = True
    messages = columns(table).encode(records(late, scan(table, T0)))
    assert [header(message)["backfill"] for message in messages[1:]] == [True, False]


def test_columns_are_split_to_the_largest_message() -> None:
    rng = np.random.default_rng(1)
    table = table_of(size=20_000)
    sent = [scan(table, T0 + n, values=list(rng.random(20_000))) for n in range(3)]
    messages = columns(table, max_message=50_000).encode(records(*sent))
    pieces = [message for message in messages if message.topic.endswith("/columns")]
    assert max(len(message.payload) for message in pieces) <= 50_000
    assert sum(message.readings for message in pieces) == 60_000
    found = read_back(messages, table)
    for number, whole in enumerate(sent, 1):
        values = np.concatenate([piece.value for piece in found[number] if isinstance(piece, Batch)])
        assert values.tobytes() == whole.value.tobytes()


def test_many_gaps_are_split_to_the_largest_message() -> None:
    gaps = [Gap("press-1", "default", n, n + 1, "x" * 100) for n in range(100)]
    messages = columns(max_message=2000).encode(records(*gaps))
    assert max(len(message.payload) for message in messages) <= 2000
    assert [content for found in read_back(messages).values() for content in found] == gaps


def test_the_oldest_time_inside_is_told_for_the_latency() -> None:
    table = table_of()
    message = columns(table).encode(records(scan(table, T0 + 5), scan(table, T0)))[-1]
    assert message.oldest == T0


# ------------------------------------------------------------------------------------------------ JSON


def mixed_group() -> tuple[TagTable, TagTable, TagTable]:
    floats = (
        Tag("pressure", "a", type="float32", unit="bar"),
        Tag("mode", "b", type="uint16", states=((2, "running"), (3, "停机"))),
        Tag("flow", "c", type="int16", scale=Fraction(1, 10)),
    )
    count = (Tag("count", "d", kind=Kind.UINT, type="uint64"),)
    text = (Tag("order", "e", kind=Kind.TEXT, type="string(8)"),)
    return tuple(  # type: ignore[return-value]
        TagTable("press-1", "default", kind, tags)
        for kind, tags in ((Kind.FLOAT, floats), (Kind.UINT, count), (Kind.TEXT, text))
    )


def group_scan(time: int, codes: list[int] | None = None, **values: Any) -> list[Batch]:
    floats, count, text = mixed_group()
    return [
        scan(floats, time, values=[np.float32(101.3), values.get("mode", 2.0), 23.1], codes=codes),
        scan(count, time, values=[2**63 + 1]),
        scan(text, time, values=["00420"]),
    ]


def json_of(messages: list[Message]) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in messages]


def test_a_scan_is_one_json_message_with_the_sources_digits() -> None:
    (message,) = Json("demo", DEFAULT_TOPIC, 256_000).encode(records(*group_scan(1_700_000_000_100 * MS), first=5))
    assert message.topic == "plantbridge/demo/json/press-1/default"
    assert b'"pressure":101.3,"mode":2,"flow":23.1' in message.payload
    assert json.loads(message.payload) == {
        "gateway": "demo",
        "device": "press-1",
        "group": "default",
        "sequence": 7,
        "time": "2023-11-14T22:13:20.100Z",
        "timestamp": 1_700_000_000_100,
        "values": {"pressure": 101.3, "mode": 2, "flow": 23.1, "count": 2**63 + 1, "order": "00420"},
        "states": {"mode": "running"},
    }
    assert (message.first, message.last, message.readings) == (5, 7, 5)


def test_bad_values_are_null_and_their_quality_is_named() -> None:
    codes = [q.BAD_TIMEOUT, q.BAD_NOT_CONNECTED, q.UNCERTAIN]
    (body,) = json_of(Json("demo", DEFAULT_TOPIC, 256_000).encode(records(*group_scan(T0, codes))))
    assert body["values"] | {"count": 0, "order": ""} == {
        "pressure": None, "mode": None, "flow": 23.1, "count": 0, "order": "",
    }  # fmt: skip
    assert body["quality"] == {
        "pressure": {"name": "BadTimeout", "code": q.BAD_TIMEOUT},
        "mode": {"name": "BadNotConnected", "code": q.BAD_NOT_CONNECTED},
        "flow": {"name": "Uncertain", "code": q.UNCERTAIN},
    }
    assert "states" not in body


def test_numbers_that_json_has_not_are_null() -> None:
    table = table_of()
    (body,) = json_of(
        Json("d", "t", 9000).encode(records(scan(table, T0, values=[float("nan"), float("inf"), -0.0, 1e300])))
    )
    assert list(body["values"].values()) == [None, None, -0.0, 1e300]


def test_two_scans_are_two_messages_and_two_devices_too() -> None:
    encoder = Json("demo", "{device}", 256_000)
    other = table_of(device="压机/2+")
    messages = encoder.encode(records(*group_scan(T0), *group_scan(T0 + MS), scan(other, T0 + MS)))
    assert [(message.topic, message.first, message.last) for message in messages] == [
        ("press-1", 1, 3), ("press-1", 4, 6), ("压机/2_", 7, 7),
    ]  # fmt: skip


def test_a_tag_with_two_readings_in_a_scan_makes_two_messages_in_order() -> None:
    """A step after silence brings the last suppressed reading along; as one object it would hide the step."""
    table = table_of()
    batch = Batch(
        table,
        np.array([1, 0, 1, 3], np.uint32),
        column(Kind.FLOAT, [1.0, 5.0, 2.0, 6.0]),
        np.zeros(4, np.uint32),
        np.array([T0, T0 + MS, T0 + MS, T0 + MS], np.int64),
    )
    first, second = json_of(Json("d", "t", 9000).encode(records(batch)))
    assert (first["time"], first["values"]) == (iso(T0), {"float64-1": 1.0})
    assert (second["time"], second["values"]) == (
        iso(T0 + MS),
        {"float64-0": 5.0, "float64-1": 2.0, "float64-3": 6.0},
    )


def test_times_that_differ_within_a_scan_are_told_by_tag() -> None:
    table = table_of()
    batch = scan(table, T0)
    batch.time = batch.time - np.array([0, 1, 0, 1000 * MS])
    (body,) = json_of(Json("d", "t", 9000).encode(records(batch)))
    assert body["time"] == "2023-11-14T22:13:20.123456789Z"
    assert body["times"] == {"float64-1": iso(T0 - 1), "float64-3": iso(T0 - 1000 * MS)}


def test_json_is_split_to_the_largest_message() -> None:
    table = table_of(size=1000)
    messages = Json("d", "t", 5000).encode(records(scan(table, T0), first=3))
    assert max(len(message.payload) for message in messages) <= 5000
    values: dict[str, Any] = {}
    for body in json_of(messages):
        values |= body["values"]
    assert len(values) == 1000


def test_a_gap_is_a_message_of_its_own() -> None:
    gap = Gap("", "", T0, T0 + MS, "journal full", 12, 0)
    (message,) = Json("demo", DEFAULT_TOPIC, 9000).encode(records(gap))
    assert message.topic == "plantbridge/demo/json/all/all"
    assert json.loads(message.payload)["gap"] == {
        "start": iso(T0), "end": iso(T0 + MS), "reason": "journal full", "readings": 12, "scans": 0,
    }  # fmt: skip


@pytest.mark.parametrize("template", ["a/{plant}", "a/#", "a/+/b", "", "a/{", "{device"])
def test_a_topic_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"topic"):
        Json("demo", template, 9000)


def test_the_format_chooses_the_encoder() -> None:
    plain = PublisherOptions(url="mqtt://b")
    assert isinstance(encoder_for(plain, "demo", "j"), Columns)
    assert isinstance(encoder_for(PublisherOptions(url="mqtt://b", format="json"), "demo", "j"), Json)
    assert plain.prefix == "plantbridge/{gateway}"
    assert PublisherOptions(url="mqtt://b", topic="factory/{gateway}/").prefix == "factory/{gateway}"
