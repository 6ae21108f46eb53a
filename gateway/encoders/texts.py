"""The values of a batch as JSON texts, in columns: one orjson call per number form, no Python number per reading.

The text says what the source said. A float32 is written with the digits a float32 has (0.1, not 0.10000000149011612),
an integer type without scale as a whole number, everything else as a float64 with its shortest digits; a number of
the last two forms always keeps its decimal point (10.0), which some platforms insist on. 64-bit integers keep all
digits, booleans are true and false. A NaN is null.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.model import EXACT, Batch, Kind, Tag, TagTable

_WHOLE_TYPES: Final = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "bcd16", "bcd32")
_TRUTH: Final = (b"false", b"true")


class Form(IntEnum):
    """How the numbers of a tag in a float64 table look at their source."""

    DOUBLE = 0
    SINGLE = 1
    WHOLE = 2


def form(tag: Tag) -> Form:
    """Give the form of a tag of a float64 table."""
    if tag.type in _WHOLE_TYPES and tag.scale.denominator == 1 and tag.offset.denominator == 1:
        return Form.WHOLE
    if tag.type in ("float32", "float16") and tag.scale == 1 and tag.offset == 0 and _singles(tag):
        return Form.SINGLE
    return Form.DOUBLE


def _singles(tag: Tag) -> bool:
    """Whether a value moved to the end of its range would still be a float32."""
    ends = [end for end in (tag.minimum, tag.maximum) if math.isfinite(end)]
    return all(abs(end) < 3e38 and float(np.float32(end)) == end for end in ends)


class Texts:
    """How the values of one table are written."""

    def __init__(self, table: TagTable) -> None:
        self._kind = table.kind
        floats = table.kind is Kind.FLOAT
        self._forms = np.array([form(tag) for tag in table.tags] if floats else [], dtype=np.uint8)
        self._only = Form(int(self._forms[0])) if floats and len(set(self._forms.tolist())) == 1 else None

    def values(self, batch: Batch) -> list[bytes]:
        """Give the text of each row's value; of rows without a value something that nobody should read."""
        if self._kind is Kind.TEXT:
            return [orjson.dumps(value) for value in batch.value]
        if self._kind is Kind.BOOL:
            return [_TRUTH[value] for value in batch.value.tolist()]
        if self._kind is not Kind.FLOAT:
            return numbers(batch.value)
        if self._only is not None:
            return _WRITE[self._only](batch.value)
        return self._mixed(batch)

    def _mixed(self, batch: Batch) -> list[bytes]:
        forms = self._forms[batch.tag]
        texts = np.empty(len(batch), dtype=object)
        for each, write in enumerate(_WRITE):
            rows = np.flatnonzero(forms == each)
            if len(rows):
                texts[rows] = write(batch.value[rows])
        listed: list[bytes] = texts.tolist()
        return listed


def once(tags: list[int], start: int, stop: int) -> Iterator[slice]:
    """Cut rows start..stop so that no tag occurs twice in a part."""
    seen: set[int] = set()
    for row in range(start, stop):
        if tags[row] in seen:
            yield slice(start, row)
            start, seen = row, set()
        seen.add(tags[row])
    yield slice(start, stop)


def numbers(column: NDArray[Any]) -> list[bytes]:
    """Give the JSON text of each number of a column."""
    if not len(column):
        return []
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _singles_text(column: NDArray[np.float64]) -> list[bytes]:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return numbers(column.astype(np.float32))


def _wholes_text(column: NDArray[np.float64]) -> list[bytes]:
    with np.errstate(invalid="ignore"):
        whole = np.where(np.abs(column) <= EXACT, column, 0.0).astype(np.int64)
    texts = numbers(whole)
    # moved to a limit with a fraction, or scaled by somebody after all: then the text is that of the number
    for row in np.flatnonzero((whole != column) & np.isfinite(column)):
        texts[row] = orjson.dumps(float(column[row]))
    return texts


_WRITE: Final = (numbers, _singles_text, _wholes_text)
