"""Tables as the journal keeps them: made from their definition, with the tags parsed only when somebody looks at them.

A publisher of `columns` needs a table's size and its bytes, and the pollers hold the same 10,000 tags already: parsing
them again would cost 5 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast, overload

import orjson

from gateway.model import Kind, Tag, TagTable


class _Tags(Sequence[Tag]):
    """The tags of a definition: their number now, they themselves on demand."""

    def __init__(self, definition: bytes, count: int) -> None:
        self._definition = definition
        self._count = count
        self._tags: tuple[Tag, ...] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Tag: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tag]: ...
    def __getitem__(self, index: int | slice) -> Tag | Sequence[Tag]:
        return self._parsed()[index]

    def __iter__(self) -> Iterator[Tag]:
        return iter(self._parsed())

    def _parsed(self) -> tuple[Tag, ...]:
        if self._tags is None:
            self._tags = TagTable.from_definition(self._definition).tags
        return self._tags


def stored_table(definition: bytes) -> TagTable:
    """Make the table of a definition. Its `definition` is these very bytes. Raises ValueError."""
    head, separator, rest = definition.partition(b',"tags":[')
    try:
        body: Any = orjson.loads(head + b"}") if separator else None
        count = _count(rest.decode())
        tags = cast("tuple[Tag, ...]", _Tags(definition, count))
        table = TagTable(body["device"], body["group"], Kind(body["kind"]), tags)
    except (ValueError, TypeError, KeyError):  # not in the form that we write: then by the long way
        table = TagTable.from_definition(definition)
    # what was journalled is what is published and compared, down to the byte
    table.__dict__["definition"] = definition
    return table


def _count(text: str) -> int:
    """Count the objects of a JSON array after its bracket, holding one at a time. Raises ValueError."""
    read = json.JSONDecoder().raw_decode
    at = count = 0
    while text[at : at + 1] != "]":
        _, at = read(text, at)
        count += 1
        at += text[at : at + 1] == ","
    if text[at:] != "]}":
        raise ValueError("there is something behind the tags")
    return count
