"""What comes from the network becomes readings, or is refused with a reason; never anything else."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import decode
from gateway.contracts import Record
from gateway.decode import UnknownTable, decode_columns, decode_gaps, decode_table, parse_table_topic
from gateway.encoders.columns import Columns
from gateway.model import Batch, Gap, Kind, TagTable
from tests.native import (
    BAD,
    SECOND,
    T0,
    arrow_message,
    block,
    column,
    columns_message,
    gaps_message,
    same,
    scan,
    table,
)  # fmt: skip


def known(*tables: TagTable) -> decode.Tables:
    """Number the tables as a journal would."""
    return lambda gateway, journal, number: tables[number] if number < len(tables) else None


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_comes_back_exactly(kind: Kind) -> None:
    of = table(kind)
    sent = block(scan(of, T0), scan(of, T0 + SECOND, codes=[0, BAD, 0x40940000, 0]), first=7)
    got = decode_columns(columns_message(sent, {}), known(of))
    assert (got.gateway, got.journal, got.sequences) == ("demo", "j1", (7, 8))
    assert all(same(one, other) for one, other in zip(sent.contents, got.contents, strict=True))


def test_float32_on_the_wire_is_widened_exactly() -> None:
    of = table()
    sent = block(scan(of, T0, values=[0.5, 1.25, np.float32(23.1), float("nan")], codes=[0, 0, 0, BAD]))
    (got,) = decode_columns(columns_message(sent, {}, narrow=True), known(of)).contents
    assert isinstance(got, Batch)
    assert got.value.dtype == np.float64
    assert same(got, sent.contents[0])  # type: ignore[arg-type]


def test_records_of_several_tables_and_of_some_rows_only_are_told_apart() -> None:
    one, other = table(size=4), table(size=2, device="压机-2")
    part = scan(one, T0).take(np.array([1, 3]))
    sent = block(part, scan(other, T0), scan(one, T0 + 1), first=100)
    got = decode_columns(columns_message(sent, {}), known(one, other))
    assert [batch.table.device for batch in got.contents] == ["press-1", "压机-2", "press-1"]  # type: ignore[union-attr]
    assert all(same(left, right) for left, right in zip(sent.contents, got.contents, strict=True))


def test_an_unknown_table_is_named_and_not_an_error_of_the_message() -> None:
    message = columns_message(block(scan(table(), T0)), {})
    with pytest.raises(UnknownTable, match="table 0 of journal j1 of gateway demo"):
        decode_columns(message, known())


def test_a_null_is_the_value_that_stands_for_none() -> None:
    of = table(Kind.INT, size=2)
    batch = pa.record_batch(
        [
            pa.array([0, 1], pa.uint32()),
            pa.array([None, 5], pa.int64()),
            pa.array([BAD, 0], pa.uint32()),
            pa.array([1, 2], pa.timestamp("ns", "UTC")),
        ],
        names=["tag", "value", "quality", "time"],
    )
    header = {"v": 1, "gateway": "g", "journal": "j", "records": [[1, 0, 2]]}
    message = arrow_message(batch.replace_schema_metadata({"plantbridge": orjson.dumps(header)}))
    (got,) = decode_columns(message, known(of)).contents
    assert isinstance(got, Batch)
    assert got.value.tolist() == [0, 5]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"v": 2}, "version 2"),
        ({"gateway": 5}, "to be text"),
        ({"records": [[1, 0, 3]]}, "longer than the records"),
        ({"records": [[1, 0, 5]]}, "longer than the columns"),
        ({"records": [[1, 0, -4]]}, "where a count is expected"),
        ({"records": [[True, 0, 4]]}, "where a count is expected"),
        ({"records": [[1, 1, 4]]}, "a tag that table 1 has not"),
        ({"records": [[1, 2, 4]]}, "values of kind float64 for table 2, which holds text"),
        ({"records": 5}, "no list"),
        ({"records": [5]}, "a record 5"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(header: dict[str, object], reason: str) -> None:
    of = table(size=4)
    message = columns_message(block(scan(of, T0)), {}, **header)
    with pytest.raises(ValueError, match=reason):
        decode_columns(message, known(of, table(size=3), table(Kind.TEXT)))


BOMB = bytes(decode.MAX_DECOMPRESSED + 1)


@pytest.mark.parametrize("told", [True, False])
def test_a_message_that_grows_without_bound_is_refused_before_it_takes_the_memory(told: bool) -> None:
    """A gateway gone mad, or an attacker, could end the process of everybody with 100 kB otherwise."""
    with pytest.raises(ValueError, match="when decompressed"):
        decode_columns(zstandard.ZstdCompressor(write_content_size=told).compress(BOMB), known())


def test_a_frame_that_does_not_say_its_size_is_read_too() -> None:
    of = table()
    raw = zstandard.ZstdDecompressor().decompress(columns_message(block(scan(of, T0)), {}))
    message = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    assert len(decode_columns(message, known(of)).contents) == 1


def test_gaps_come_back() -> None:
    sent = block(Gap("press-1", "", T0, T0 + 5, "存储已满", 12, 3), Gap("", "", 0, 1, "off"), first=3)
    assert decode_gaps(gaps_message(sent)) == sent


def test_a_table_definition_comes_back() -> None:
    of = table(states=((0, "停"), (1, "运行")), unit="°C", minimum=-40.0)
    assert decode_table(of.definition).fingerprint == of.fingerprint


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("plantbridge/demo/tables/a1b2/17", ("plantbridge/demo", "a1b2", 17)),
        ("a/b/c/tables/j/0", ("a/b/c", "j", 0)),
        ("plantbridge/demo/columns", None),
        ("plantbridge/demo/tables/j/x", None),
        ("plantbridge/demo/tables/j/²", None),
        ("plantbridge/demo/tables/j/9999999999999999999999", None),
    ],
)
def test_topics_of_tables_are_read(topic: str, expected: tuple[str, str, int] | None) -> None:
    found = parse_table_topic(topic)
    assert (None if found is None else (found.prefix, found.journal, found.table)) == expected


# ---------------------------------------------------------------- what our own encoder writes

values = {
    Kind.FLOAT: st.floats(width=32) | st.floats(),
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.UINT: st.integers(0, 2**64 - 1),
    Kind.BOOL: st.booleans(),
    Kind.TEXT: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
}


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    kind = draw(st.sampled_from(list(Kind)))
    of = table(kind, size=draw(st.integers(1, 6)), device=draw(st.sampled_from(["press-1", "压机"])))
    tags = draw(st.just(of.every) | st.lists(st.integers(0, len(of) - 1), min_size=1, max_size=12))
    size = len(tags)
    return Batch(
        of,
        np.array(tags, dtype=np.uint32),
        column(kind, draw(st.lists(values[kind], min_size=size, max_size=size))),
        np.array(draw(st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size)), dtype=np.uint32),
        np.array(draw(st.lists(st.integers(-(2**62), 2**62), min_size=size, max_size=size)), dtype=np.int64),
        draw(st.booleans()),
    )


@settings(deadline=None)
@given(st.lists(batches(), min_size=1, max_size=8), st.sampled_from([400, 5_000, 256_000]))
def test_what_the_encoder_writes_comes_back(sent: list[Batch], max_message: int) -> None:
    encoder = Columns("demo", "j1", "plantbridge/demo", max_message)
    for number, batch in enumerate(sent):
        encoder.know(number, batch.table)
    records = [Record(number + 1, batch) for number, batch in enumerate(sent)]
    tables: dict[tuple[str, int], TagTable] = {}
    came: dict[int, list[Batch]] = {}
    for message in encoder.encode(records):
        place = parse_table_topic(message.topic)
        if place is not None:
            tables[place.journal, place.table] = decode_table(message.payload)
            continue
        got = decode_columns(message.payload, lambda gateway, journal, number: tables.get((journal, number)))
        assert (got.gateway, got.journal) == ("demo", "j1")
        for sequence, batch in zip(got.sequences, got.contents, strict=True):
            assert isinstance(batch, Batch)
            came.setdefault(sequence, []).append(batch)
    assert sorted(came) == [record.sequence for record in records]
    for record, batch in zip(records, sent, strict=True):
        assert same(joined(came[record.sequence]), batch)
        assert {part.backfill for part in came[record.sequence]} == {batch.backfill}


def joined(parts: list[Batch]) -> Batch:
    """Put the parts of a record that was spread over several messages together."""
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tag", "value", "quality", "time"))
    return Batch(parts[0].table, *columns, parts[0].backfill)


def test_the_gaps_of_the_encoder_come_back() -> None:
    gaps = [Gap("press-1", "", T0, T0 + number, "满", number, 1) for number in range(50)]
    encoder = Columns("demo", "j1", "plantbridge/demo", 700)
    found = [
        (sequence, gap)
        for message in encoder.encode([Record(number + 1, gap) for number, gap in enumerate(gaps)])
        for sequence, gap in zip(*decoded(message.payload), strict=True)
    ]
    assert found == list(enumerate(gaps, 1))


def decoded(payload: bytes) -> tuple[tuple[int, ...], tuple[Batch | Gap, ...]]:
    got = decode_gaps(payload)
    return got.sequences, got.contents


def test_rows_without_tags_must_be_whole_scans() -> None:
    encoder = Columns("demo", "j1", "plantbridge/demo", 256_000)
    of = table(size=4)
    encoder.know(0, of)
    *_, message = encoder.encode([Record(1, scan(of, T0))])
    assert len(decode_columns(message.payload, known(of)).contents) == 1
    with pytest.raises(ValueError, match="4 rows for the whole of table 0, which has 5 tags"):
        decode_columns(message.payload, known(table(size=5)))


# ---------------------------------------------------------------- whatever arrives

MESSAGES = [
    columns_message(block(scan(table(kind), T0), scan(table(kind), T0 + 1)), {table(kind).fingerprint: 0})
    for kind in Kind
]
RAW = [zstandard.ZstdDecompressor().decompress(message) for message in MESSAGES]


def harmless(payload: bytes, of: TagTable) -> None:
    """A batch that comes out of damaged bytes must still be one whose every row can be used."""
    try:
        got = decode_columns(payload, known(of))
    except (ValueError, UnknownTable):
        return
    for batch in got.contents:
        assert isinstance(batch, Batch)
        size = len(batch)
        assert len(batch.value) == len(batch.quality) == len(batch.time) == size
        assert batch.value.dtype == batch.table.kind.dtype
        if size:
            assert batch.tag.max() < len(batch.table)
        assert (
            "".join(batch.value.tolist()).encode() is not None
            if of.kind is Kind.TEXT
            else batch.value.sum() is not None
        )


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    for decoder in (
        lambda: decode_columns(payload, known(table())),
        lambda: decode_gaps(payload),
        lambda: decode_table(payload),
    ):
        with pytest.raises(ValueError):
            decoder()


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(range(len(RAW))), st.data())
def test_damaged_arrow_inside_a_sound_frame_never_does_worse_than_be_refused(which: int, data: st.DataObject) -> None:
    """zstd's checksum finds accidents; a hostile or broken sender can still frame anything. A crash of the decoder
    would end ingest at each start, as the broker sends the message again."""
    raw = bytearray(RAW[which])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    harmless(zstandard.ZstdCompressor().compress(bytes(raw)), table(list(Kind)[which]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(range(len(MESSAGES))), st.data())
def test_damaged_messages_never_do_worse_than_be_refused(which: int, data: st.DataObject) -> None:
    raw = bytearray(MESSAGES[which])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    harmless(bytes(raw), table(list(Kind)[which]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["v", "gateway", "journal", "gaps"]), json_values), json_values)
def test_json_of_another_shape_is_refused(body: dict[str, object], entry: object) -> None:
    for candidate in (body, {"v": 1, "gateway": "g", "journal": "j", "gaps": [entry]}, entry):
        try:
            got = decode_gaps(orjson.dumps(candidate))
        except ValueError:
            continue
        assert got.gateway


@settings(deadline=None)
@given(json_values, json_values)
def test_definitions_of_another_shape_are_refused(one: object, other: object) -> None:
    body = {"device": "d", "group": "g", "kind": "float64", "tags": [{"name": "n", "states": one, "min": other}]}
    for candidate in (body, {**body, "tags": [one, other]}, {**body, "kind": one}, {**body, "device": one}):
        try:
            got = decode_table(orjson.dumps(candidate))
        except ValueError:
            continue
        assert isinstance(got.device, str)
        assert all(isinstance(text, str) for tag in got.tags for text in (tag.name, tag.unit, tag.description))


def test_the_value_column_may_not_be_of_a_type_that_no_kind_has() -> None:
    batch = pa.record_batch(
        [
            pa.array([0], pa.uint32()),
            pa.array([1], pa.int32()),
            pa.array([0], pa.uint32()),
            pa.array([1], pa.timestamp("ns")),
        ],
        names=["tag", "value", "quality", "time"],
    )
    header = orjson.dumps({"v": 1, "gateway": "g", "journal": "j", "records": [[1, 0, 1]]})
    with pytest.raises(ValueError, match="column value of type int32"):
        decode_columns(arrow_message(batch.replace_schema_metadata({"plantbridge": header})), known(table()))


def test_times_in_another_unit_are_refused() -> None:
    batch = pa.record_batch(
        [pa.array([0], pa.uint32()), pa.array([1.0]), pa.array([0], pa.uint32()), pa.array([1], pa.timestamp("ms"))],
        names=["tag", "value", "quality", "time"],
    )
    header = orjson.dumps({"v": 1, "gateway": "g", "journal": "j", "records": [[1, 0, 1]]})
    with pytest.raises(ValueError, match=r"column time of type timestamp\[ms\]"):
        decode_columns(arrow_message(batch.replace_schema_metadata({"plantbridge": header})), known(table()))


def test_values_are_compared_bit_by_bit_in_these_tests() -> None:
    of = table(size=1)
    assert not same(scan(of, T0, [0.0]), scan(of, T0, [-0.0]))
    assert column(Kind.TEXT, ["a"]).dtype == object
