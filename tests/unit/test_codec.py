"""Journal records: every batch comes back bit for bit, and no bytes at all make `unpack` do anything but ValueError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway import quality as q
from gateway.codec import pack, pack_gap, unpack
from gateway.model import Batch, Gap, Kind, Tag, TagTable

INT64 = st.integers(-(2**63), 2**63 - 1)
ODD_FLOATS = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000000, 0x8000000000000000, 1, 0x7FEFFFFFFFFFFFFF]


def table(size: int, kind: Kind = Kind.FLOAT) -> TagTable:
    return TagTable("press-1", "default", kind, tuple(Tag(f"t{n}", "a", kind=kind) for n in range(size)))


def bits(column: NDArray[Any]) -> list[Any]:
    return list(column) if column.dtype == object else column.tobytes()  # type: ignore[return-value]


def same(left: Batch, right: Batch) -> bool:
    return all(
        getattr(left, name).dtype == getattr(right, name).dtype
        and bits(getattr(left, name)) == bits(getattr(right, name))
        for name in ("tag", "value", "quality", "time")
    )


def floats() -> st.SearchStrategy[NDArray[Any]]:
    exact = st.floats(width=32)
    any_bits = st.integers(0, 2**64 - 1) | st.sampled_from(ODD_FLOATS)
    pattern = any_bits.map(lambda n: np.uint64(n).view(np.float64))
    column = st.lists(exact, min_size=1, max_size=60) | st.lists(st.floats() | pattern, min_size=1, max_size=60)
    return column.map(lambda values: np.array(values, np.float64))


def column(kind: Kind) -> st.SearchStrategy[NDArray[Any]]:
    if kind is Kind.FLOAT:
        return floats()
    content: dict[Kind, st.SearchStrategy[Any]] = {
        Kind.INT: INT64 | st.integers(-3, 3),
        Kind.UINT: st.integers(0, 2**64 - 1) | st.integers(0, 300),
        Kind.BOOL: st.booleans(),
        Kind.TEXT: st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.sampled_from(["", "运行", "00420"]),
    }
    return st.lists(content[kind], min_size=1, max_size=60).map(lambda values: np.array(values, kind.dtype))


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    kind = draw(st.sampled_from(list(Kind)))
    value = draw(column(kind))
    rows = len(value)
    tags = draw(st.just(rows) | st.integers(rows, 70_000) if kind is Kind.BOOL else st.integers(rows, rows + 9))
    made = table(tags, kind)

    def filled(content: st.SearchStrategy[int], dtype: Any) -> NDArray[Any]:
        one = content.map(lambda single: [single] * rows)
        return np.array(draw(one | st.lists(content, min_size=rows, max_size=rows)), dtype)

    tag = made.every[:rows] if draw(st.booleans()) else filled(st.integers(0, tags - 1), np.uint32)
    base = draw(st.integers(-(2**62), 2**62))
    near = st.integers(0, 5000).map(lambda n: base + n * 10 ** draw(st.sampled_from([0, 3, 6, 9])))
    time = filled(draw(st.sampled_from([INT64, near])), np.int64)
    quality = filled(st.sampled_from([q.GOOD, q.BAD, 0xFFFFFFFF]), np.uint32)
    return Batch(made, tag, value, quality, time, draw(st.booleans()))


@settings(max_examples=400, deadline=None)
@given(batches(), st.integers(0, 2**32 - 1))
def test_a_batch_comes_back_bit_for_bit(batch: Batch, number: int) -> None:
    def tables(wanted: int) -> TagTable:
        assert wanted == number
        return batch.table

    back = unpack(pack(batch, number), tables)
    assert isinstance(back, Batch)
    assert back.table is batch.table
    assert back.backfill == batch.backfill
    assert same(back, batch)


@given(
    st.builds(Gap, *[st.text(st.characters(exclude_categories=["Cs"]))] * 2, INT64, INT64, st.text("原因 ab"), INT64)
)
def test_a_gap_comes_back(gap: Gap) -> None:
    assert unpack(pack_gap(gap), lambda _: table(1)) == gap


def test_a_gap_with_text_that_is_no_unicode_is_written_all_the_same() -> None:
    """The reason may hold a file name of unknown encoding; a loss must be declared nevertheless."""
    gap = Gap("", "", 0, 1, "cannot read \udcff")
    assert unpack(pack_gap(gap), lambda _: table(1)) == Gap("", "", 0, 1, "cannot read ?")


@settings(max_examples=300, deadline=None)
@given(batches(), st.data())
def test_damaged_bytes_raise_value_error_or_give_a_batch(batch: Batch, data: st.DataObject) -> None:
    record = bytearray(pack(batch, 1))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(record)) | st.just(len(record)))
    try:
        back = unpack(bytes(record[:cut]), lambda _: batch.table)
    except ValueError:
        return
    if isinstance(back, Batch):
        assert len(back.tag) == len(back.value) == len(back.quality) == len(back.time)
        assert back.tag.max() < len(batch.table)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_value_error(record: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(record, lambda _: table(3))


def test_an_unknown_table_is_a_value_error() -> None:
    record = pack(Batch.full(table(3), np.zeros(3), 0), 7)
    with pytest.raises(ValueError, match="table 7"):
        unpack(record, {}.__getitem__)
    with pytest.raises(ValueError, match="holds text"):
        unpack(record, lambda _: table(3, Kind.TEXT))


def test_a_full_scan_of_single_floats_takes_less_than_four_bytes_a_reading() -> None:
    """An SD card lives by the bytes written to it."""
    rng = np.random.default_rng(1)
    values = (rng.integers(0, 4096, 10_000) / 4096 * 200).astype(np.float32).astype(np.float64)
    assert len(pack(Batch.full(table(10_000), values, 10**18), 1)) < 4 * 10_000
