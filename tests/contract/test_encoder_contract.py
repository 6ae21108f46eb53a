"""What every encoder promises the publisher. A new format is one entry in ENCODERS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.contracts import Encoder, Record
from gateway.encoders import Numbering, Sized, encoder_for
from gateway.model import Batch, Gap, Kind, TagTable
from gateway.options import PublisherOptions
from tests.native import BAD, T0, scan, table

TABLES = (*(table(kind) for kind in Kind), table(size=300, device="large"), table(device="压机/2 #+", group="快"))


def made(name: str, max_message: int = 256_000, max_readings: int | None = None) -> Encoder:
    options = PublisherOptions(url="mqtt://b", format=name, max_message=f"{max_message} B", max_readings=max_readings)
    encoder = encoder_for(options, "demo", "j1")
    if isinstance(encoder, Numbering):
        for number, of in enumerate(TABLES):
            encoder.know(number, of)
    return encoder


ENCODERS: dict[str, Callable[..., Encoder]] = {
    name: lambda name=name, **more: made(name, **more)  # type: ignore[misc]
    for name in ("columns", "json")
}


def content(of: TagTable, at: int, rows: list[int], bad: bool, late: bool) -> Batch:
    batch = scan(of, T0 + at, codes=[BAD] * len(of) if bad else None)
    if rows:
        batch = batch.take(np.array([row % len(of) for row in rows]))
    batch.backfill = late
    return batch


CONTENTS = st.lists(
    st.one_of(
        st.builds(
            content,
            st.sampled_from(TABLES),
            st.integers(0, 3),
            st.lists(st.integers(0, 300), max_size=20),
            st.booleans(),
            st.booleans(),
        ),
        st.builds(Gap, st.sampled_from(["", "press-1"]), st.just(""), st.just(1), st.just(2), st.text(max_size=9)),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("name", sorted(ENCODERS))
@settings(max_examples=80, deadline=None)
@given(
    contents=CONTENTS,
    first=st.integers(1, 2**40),
    max_message=st.sampled_from([1500, 256_000]),
    max_readings=st.sampled_from([None, 1, 7, 100]),
)
def test_records_become_messages_that_speak_for_all_of_them(
    name: str, contents: list[Batch | Gap], first: int, max_message: int, max_readings: int | None
) -> None:
    encoder = ENCODERS[name](max_message=max_message, max_readings=max_readings)
    records = [Record(first + place, each) for place, each in enumerate(contents)]
    messages = encoder.encode(records)
    last = records[-1].sequence
    # each reading once, and nothing else
    assert sum(message.readings for message in messages) == sum(len(c) for c in contents if isinstance(c, Batch))
    # the sequences inside are those given; together they reach from the first to the last
    assert all(first <= message.first <= message.last <= last for message in messages)
    assert {sequence for message in messages for sequence in range(message.first, message.last + 1)} == set(
        range(first, last + 1)
    )
    # what can be cut is cut: definitions, and single rows, cannot
    for message in messages:
        assert len(message.payload) <= max_message or message.retain or message.readings <= 1
        assert message.readings <= (max_readings or 10_000)
        assert not set(message.topic) & set("+#\0")
        assert message.retain or message.readings or not message.oldest
        assert not message.readings or message.oldest >= T0


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_new_session_gets_all_that_it_needs(name: str) -> None:
    encoder = ENCODERS[name]()
    first = encoder.encode([Record(1, scan(TABLES[0], T0))])
    encoder.reset()
    again = encoder.encode([Record(1, scan(TABLES[0], T0))])
    assert [(m.topic, m.payload, m.retain) for m in again] == [(m.topic, m.payload, m.retain) for m in first]


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_messages_can_be_made_smaller_on_the_way(name: str) -> None:
    encoder = ENCODERS[name]()
    assert isinstance(encoder, Sized)
    encoder.encode([Record(1, scan(TABLES[5], T0))])
    encoder.max_message = 1000
    messages = encoder.encode([Record(2, scan(TABLES[5], T0, values=list(np.random.default_rng(1).random(300))))])
    assert max(len(message.payload) for message in messages if not message.retain) <= 1000


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_nothing_becomes_nothing(name: str) -> None:
    assert ENCODERS[name]().encode([]) == []
