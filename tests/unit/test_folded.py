"""Tags as columns, on their way from the process that reads the YAML to the daemon."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load_site
from gateway.config.shipped import shipped
from gateway.folded import dump
from gateway.model import Kind, Tag, TagTable, Where


@dataclass(frozen=True, slots=True)
class Address:
    """A driver's address, as a driver might have it."""

    area: str
    number: int


TEXT = st.text(max_size=4)
TAGS = st.builds(
    Tag,
    name=TEXT,
    address=TEXT,
    source=st.none() | st.builds(Address, TEXT, st.integers()) | st.builds(Where, TEXT) | st.integers() | TEXT,
    scale=st.fractions(),
    offset=st.just(Fraction(0)),
    minimum=st.floats() | st.just(-math.inf) | st.sampled_from([0.0, -0.0]),
    deadband=st.floats(),
    max_silence=st.integers(0, 2**40),
    states=st.lists(st.tuples(st.integers(), TEXT), max_size=2).map(tuple),
    where=st.builds(Where, TEXT, st.integers(0, 9), st.integers(0, 9)),
)


def through(thing: Any) -> Any:
    file = io.BytesIO()
    dump(thing, file)
    return pickle.loads(file.getvalue())


@given(st.lists(TAGS, min_size=1, max_size=6), st.integers(1, 3))
def test_a_table_comes_out_as_it_went_in(tags: list[Tag], times: int) -> None:
    table = TagTable("press", "fast", Kind.FLOAT, tuple(tags) * times)
    loaded = through(table)
    assert (loaded.device, loaded.group, loaded.kind, len(loaded)) == ("press", "fast", Kind.FLOAT, len(table))
    # by their text: NaN is not equal to itself, -0.0 is to 0.0
    assert [repr(tag) for tag in loaded.tags] == [repr(tag) for tag in table.tags]
    assert [repr(loaded.tags[index]) for index in range(-len(table), len(table))] == [
        repr(tag) for tag in table.tags
    ] * 2
    assert repr(tuple(loaded.tags[1:])) == repr(table.tags[1:])


def test_what_all_tags_share_is_kept_once() -> None:
    """Else ten thousand tags would take ten times the memory."""
    tag = Tag("t", "", source=Address("holding", 1), unit="bar", scale=Fraction(1, 3))
    alike = TagTable("d", "g", Kind.FLOAT, tuple(replace(tag, name=f"t{number}") for number in range(1000)))
    file = io.BytesIO()
    dump(alike, file)
    assert len(file.getvalue()) < 15_000


def test_every_shipped_site_comes_out_as_it_went_in() -> None:
    for path in sorted(Path(shipped()).rglob("site*.yaml")):
        site = load_site(path, secrets=False)
        loaded = through(site)
        for one, other in zip(loaded.links, site.links, strict=True):
            assert (one.name, one.driver, one.options) == (other.name, other.driver, other.options)
            for here, there in zip(one.tables, other.tables, strict=True):
                assert [repr(tag) for tag in here.tags] == [repr(tag) for tag in there.tags]
                assert here.fingerprint == there.fingerprint
        assert loaded.publishers == site.publishers
