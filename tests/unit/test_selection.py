"""What one publisher may tell: a partner who may see eleven tags sees eleven tags, and nothing else of the plant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import quality as q
from gateway.model import Batch, Gap, Kind, Tag, TagTable
from gateway.options import TagSelection
from gateway.selection import Selection, matcher

NAMES = ("pressure", "temperature", "energy_in", "energy_out", "secret_recipe")


def table_of(device: str = "press-1", group: str = "hall-3", kind: Kind = Kind.FLOAT) -> TagTable:
    tags = tuple(
        Tag(name, f"holding:{100 + 2 * number}", kind=kind, unit="bar", description=f"about {name}", minimum=0.0,
            maximum=500.0, states=((1, "on"),))
        for number, name in enumerate(NAMES)
    )  # fmt: skip
    return TagTable(device, group, kind, tags)


def selection(*tables: TagTable, **options: object) -> Selection:
    return Selection(TagSelection.model_validate(options), tables)


def scan(table: TagTable, time: int = 10**18) -> Batch:
    return Batch.full(table, np.arange(len(table), dtype=table.kind.dtype), time)


@pytest.mark.parametrize(
    ("globs", "matched"),
    [
        (["press-1"], ["press-1/pressure", "press-1/a/b", "press-1/energy_in"]),
        (["press-1/*"], ["press-1/pressure", "press-1/a/b", "press-1/energy_in"]),
        (["*/energy*"], ["press-1/energy_in", "meter/energy"]),
        (["*"], ["press-1/pressure", "meter/energy", "press-1/a/b", "press-1/energy_in"]),
        (["press-?/pressure", "meter/*"], ["press-1/pressure", "meter/energy"]),
        (["Press-1"], []),
        ([], []),
    ],
)
def test_globs_are_over_device_and_tag(globs: list[str], matched: list[str]) -> None:
    every = ["press-1/pressure", "meter/energy", "press-1/a/b", "press-1/energy_in"]
    assert sorted(filter(matcher(globs), every)) == sorted(matched)


def test_a_published_definition_names_nothing_but_the_allowed_tags() -> None:
    table = table_of()
    shown = selection(table, include=["*/energy*"]).table(table)
    assert shown is not None
    assert shown.names == ("energy_in", "energy_out")
    for word in (b"secret", b"pressure", b"holding", b"address"):
        assert word not in shown.definition
    assert TagTable.from_definition(shown.definition).names == shown.names
    assert shown.fingerprint != table.fingerprint


def test_everything_that_is_to_be_hidden_is_hidden() -> None:
    table = table_of()
    hide = ["address", "description", "unit", "limits", "states", "group"]
    shown = selection(
        table, include=["press-1/pressure"], hide=hide, **{"as": {"press-1": "a", "press-1/pressure": "p"}}
    ).table(table)
    assert shown is not None
    assert (
        shown.definition == b'{"device":"a","group":"default","kind":"float64","tags":[{"name":"p","type":"float64"}]}'
    )


def test_indexes_are_compacted_and_a_whole_scan_stays_one() -> None:
    table = table_of()
    chosen = selection(table, include=["*/energy*"])
    shown = chosen.batch(scan(table))
    assert shown is not None
    assert shown.tag is shown.table.every
    assert shown.value.tolist() == [2.0, 3.0]
    part = chosen.batch(scan(table).take(np.array([4, 3, 0, 3])))
    assert part is not None
    assert part.tag.tolist() == [1, 1]
    assert part.tag.dtype == np.uint32
    assert part.value.tolist() == [3.0, 3.0]
    assert chosen.batch(scan(table).take(np.array([0, 4]))) is None
    other = table_of("other")
    assert chosen.table(other) is not None  # found by the glob although no configuration has it any more
    assert selection(table, include=["press-1"]).batch(scan(other)) is None


def test_a_selection_of_everything_passes_on_what_it_gets() -> None:
    table = table_of()
    chosen = selection(table, include=["*"], hide=[])
    batch = scan(table)
    assert chosen.batch(batch) is batch
    assert chosen.table(table) is table
    masked = selection(table).batch(batch)
    assert masked is not None
    assert masked.value is batch.value  # another definition, the same columns
    assert masked.tag is masked.table.every


@given(
    tags=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    include=st.lists(st.sampled_from(["*/energy*", "press-1/pressure", "*/t*", "meter/*"]), max_size=3),
    exclude=st.lists(st.sampled_from(["*/energy_in", "*/secret*"]), max_size=2),
)
def test_a_selected_batch_is_the_rows_of_the_allowed_tags(
    tags: list[int], include: list[str], exclude: list[str]
) -> None:
    table = table_of()
    chosen = selection(table, include=include, exclude=exclude)
    size = len(tags)
    batch = Batch(
        table,
        np.array(tags, dtype=np.uint32),
        np.arange(size, dtype=np.float64),
        np.full(size, q.GOOD, dtype=np.uint32),
        np.arange(size, dtype=np.int64),
    )
    allowed = matcher(include)
    refused = matcher(exclude)
    wanted = [
        (NAMES[tag], row)
        for row, tag in enumerate(tags)
        if allowed(f"press-1/{NAMES[tag]}") and not refused(f"press-1/{NAMES[tag]}")
    ]
    shown = chosen.batch(batch)
    got = [] if shown is None else [(shown.table.names[t], int(v)) for t, v in zip(shown.tag, shown.value, strict=True)]
    assert got == wanted


def test_gaps_tell_of_shown_devices_only() -> None:
    table, other = table_of(), table_of("boiler")
    chosen = selection(table, other, include=["press-1/pressure"], **{"as": {"press-1": "a"}})
    gap = Gap("press-1", "hall-3", 1, 2, "no answer", readings=50, scans=10)
    told = chosen.gap(gap)
    assert told == Gap("a", "hall-3", 1, 2, "no answer", 0, 10)  # 50 counts tags that are not shown
    assert chosen.gap(Gap("boiler", "", 1, 2, "no answer")) is None
    assert chosen.gap(Gap("press-1", "hall-4", 1, 2, "no answer")) is None
    assert chosen.gap(Gap("", "", 1, 2, "journal full", 70)) == Gap("", "", 1, 2, "journal full", 0)
    every = selection(table, other, include=["*"])
    assert every.gap(gap) == gap
    hidden = selection(table, hide=["group"]).gap(gap)
    assert hidden is not None
    assert hidden.group == "default"


def test_two_tags_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="press-1/energy_in and press-1/energy_out would both be called press-1/e"):
        selection(table_of(), **{"as": {"press-1/energy_in": "e", "press-1/energy_out": "e"}})
    with pytest.raises(ValueError, match="would both be called a/pressure"):
        selection(table_of(), table_of("press-2"), **{"as": {"press-1": "a", "press-2": "a"}})


def test_a_shown_name_leads_back_to_the_tag() -> None:
    chosen = selection(table_of(), include=["*/energy*"], **{"as": {"press-1": "a", "press-1/energy_in": "e"}})
    assert chosen.origin("a", "e") == ("press-1", "energy_in")
    assert chosen.origin("a", "energy_out") == ("press-1", "energy_out")
    assert chosen.origin("a", "pressure") is None
    assert chosen.origin("press-1", "energy_in") is None


def test_tables_that_differ_in_what_is_hidden_stay_apart() -> None:
    """An encoder that took one for the other would write its numbers with the other's digits."""
    one = TagTable("d", "g", Kind.FLOAT, (Tag("t", "a", type="int16"),))
    other = TagTable("d", "g", Kind.FLOAT, (Tag("t", "a", type="int16", scale="1/10"),))  # type: ignore[arg-type]
    chosen = selection()
    first, second = chosen.table(one), chosen.table(other)
    assert first is not None
    assert second is not None
    assert first.definition == second.definition
    assert first.fingerprint != second.fingerprint
