"""A stored table is the table it was made from, whether anybody looks at its tags or not."""

from __future__ import annotations

from fractions import Fraction

import orjson
import pytest

from gateway.definitions import stored_table
from gateway.model import Kind, Tag, TagTable

TAGS = (
    Tag("pressure", "holding:100", type="float32", unit="bar", description='it says "name": ],"tags":['),
    Tag("mode", "holding:102", type="uint16", states=((0, "停机"), (1, "running"))),
    Tag("flow", "holding:103", scale=Fraction(1, 10), minimum=-1.0, maximum=2.0),
)


@pytest.mark.parametrize("tags", [TAGS, TAGS[:1], ()])
def test_a_stored_table_is_the_table(tags: tuple[Tag, ...]) -> None:
    table = TagTable('press,"tags":[ 1', "默认", Kind.FLOAT, tags)
    stored = stored_table(table.definition)
    assert len(stored) == len(table)
    assert stored.definition is table.definition or stored.definition == table.definition
    assert stored.fingerprint == table.fingerprint
    assert stored.every.tolist() == list(range(len(tags)))
    assert (stored.device, stored.group, stored.kind) == (table.device, table.group, table.kind)
    assert stored.names == table.names
    assert [tag.definition() for tag in stored.tags] == [tag.definition() for tag in tags]


def test_a_definition_in_another_form_is_read_too() -> None:
    table = TagTable("d", "g", Kind.TEXT, TAGS)
    spaced = orjson.dumps(orjson.loads(table.definition), option=orjson.OPT_INDENT_2)
    stored = stored_table(spaced)
    assert (len(stored), stored.definition) == (3, spaced)


@pytest.mark.parametrize(
    "wrong", [b"", b"{}", b"nonsense", b'{"device":"d","group":"g","kind":"float64","tags":[', b"[]"]
)
def test_what_is_no_definition_is_a_value_error(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        stored_table(wrong)
