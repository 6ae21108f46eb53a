"""Batches to InfluxDB line protocol, in columns: numbers are formatted by one call of orjson a batch.

    readings,gateway=G,device=D,tag=T,unit=U  <field>,quality=<StatusCode>i  <ns>
    gaps,gateway=G,device=D,group=P
        end=<ns>i,reason="..",readings=<n>i,scans=<n>i,journal="..",sequence=<n>i  <start, ns>

One measurement for all devices: dashboards choose by tag, and InfluxDB 3 has one table instead of thousands. The field
bears the kind, since a field's type is fixed by its first write:

    value        float      numbers up to 32 bits, and everything scaled
    value_int    integer    64-bit integers, signed, and unsigned up to 2^63 - 1
    value_bool   boolean
    value_text   string     texts; the exact digits of an unsigned integer beyond 2^63 - 1; inf, -inf, nan
    state        string     beside a number whose tag has named states: the name
    quality      integer    always there, and alone in a row of Bad quality

Empty tags (no unit, a gap of all devices) are left out. What line protocol cannot hold in a tag is replaced by a
look-alike: a line break by ␊ or ␍, a backslash at the end or before a comma, an equals sign or a blank by ∖
(servers read that in different ways).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway import quality as q
from gateway.contracts import Block
from gateway.model import Batch, Gap, Kind, TagTable

READINGS: Final = "readings"
GAPS: Final = "gaps"

MOST_BYTES: Final = 4_000_000  # of one request, about

_FIELDS: Final = {
    Kind.FLOAT: ("value", b""),
    Kind.INT: ("value_int", b"i"),
    Kind.UINT: ("value_int", b"i"),
    Kind.BOOL: ("value_bool", b""),
    Kind.TEXT: ("value_text", b""),
}
"""The field of each kind, and what follows its number."""

_BACKSLASHES: Final = re.compile(r"\\+(?=[,= ]|$)")
_LARGEST: Final = np.uint64(2**63 - 1)


@dataclass(slots=True)
class Lines:
    """Lines in pieces: line i is heads[i] + values[i] + tails[i], line break included."""

    heads: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    tails: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.heads)

    def extend(self, other: Lines) -> None:
        """Put the other's lines behind these."""
        self.heads += other.heads
        self.values += other.values
        self.tails += other.tails

    def cut(self, start: int, end: int) -> Lines:
        """Give the lines start..end-1."""
        return Lines(self.heads[start:end], self.values[start:end], self.tails[start:end])

    def requests(self, most: int) -> Iterator[Lines]:
        """Give these lines in portions of at most so many lines, and of about MOST_BYTES: texts may be long."""
        for start in range(0, len(self), most):
            waiting = [self.cut(start, start + most)]
            while waiting:
                piece = waiting.pop()
                size = len(b"".join(piece.heads)) + len(b"".join(piece.values))  # a third of what sum() takes
                if size <= MOST_BYTES or len(piece) == 1:
                    yield piece
                    continue
                half = len(piece) // 2
                waiting += [piece.cut(half, len(piece)), piece.cut(0, half)]

    def text(self) -> bytes:
        """Give the body of a request."""
        pieces = [b""] * (3 * len(self.heads))
        pieces[0::3], pieces[1::3], pieces[2::3] = self.heads, self.values, self.tails
        return b"".join(pieces)


class LineProtocol:
    """Builds lines; remembers the beginning of each tag's lines."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, bytes], _Heads] = {}

    def lines(self, blocks: Sequence[Block]) -> Lines:
        """Give all readings and gaps of the blocks as lines."""
        lines = Lines()
        for block in blocks:
            for sequence, content in zip(block.sequences, block.contents, strict=True):
                if isinstance(content, Gap):
                    lines.extend(_gap(block, sequence, content))
                elif len(content):
                    lines.extend(self._batch(block.gateway, content))
        return lines

    def _batch(self, gateway: str, batch: Batch) -> Lines:
        key = (gateway, batch.table.fingerprint)
        heads = self._heads.get(key)
        if heads is None:
            heads = self._heads[key] = _Heads(gateway, batch.table)
        tags = batch.tag.tolist()
        suffix = _FIELDS[batch.table.kind][1]
        lines = Lines(
            list(map(heads.valued.__getitem__, tags)), _values(batch), _tails(suffix, batch.quality, batch.time)
        )
        _patch(lines, batch, heads)
        return lines


class _Heads:
    """The beginnings of a table's lines: with the name of the value's field, with that of a text, and without one."""

    __slots__ = ("bare", "states", "text", "valued")

    def __init__(self, gateway: str, table: TagTable) -> None:
        self.bare = [
            key(READINGS, gateway=gateway, device=table.device, tag=tag.name, unit=tag.unit) + b" "
            for tag in table.tags
        ]
        name = _FIELDS[table.kind][0].encode()
        self.valued = [head + name + b"=" for head in self.bare]
        self.text = [head + b"value_text=" for head in self.bare]
        names = [dict(tag.states) for tag in table.tags]
        self.states = names if any(names) else []


def key(measurement: str, **tags: str) -> bytes:
    """Give measurement and tags of a line."""
    pairs = (f",{name}={_tag(value)}" for name, value in tags.items() if value)
    return (measurement + "".join(pairs)).encode()


def _tag(value: str) -> str:
    value = _BACKSLASHES.sub(lambda found: "∖" * len(found[0]), value.replace("\n", "␊").replace("\r", "␍"))
    return value.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def string(value: str) -> bytes:
    """Give a string field's value."""
    return ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"').encode()


def items(column: NDArray[Any]) -> list[bytes]:
    """Give each number of a column as text."""
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _values(batch: Batch) -> list[bytes]:
    if batch.table.kind is Kind.TEXT:
        return [string(text) for text in batch.value.tolist()]
    return items(batch.value)


def _tails(suffix: bytes, quality: NDArray[np.uint32], time: NDArray[np.int64]) -> list[bytes]:
    """Give what follows the values: quality and time, mostly one of each for a whole scan."""
    first, now = int(quality[0]), int(time[0])
    one_time, one_quality = bool((time == now).all()), bool((quality == first).all())
    if one_time and one_quality:
        return [b"%b,quality=%di %d\n" % (suffix, first, now)] * len(time)
    codes, places = np.unique(quality, return_inverse=True)
    marks = [b"%b,quality=%di " % (suffix, code) for code in codes.tolist()]
    if one_time:
        ends = [b"%b%d\n" % (mark, now) for mark in marks]
        return list(map(ends.__getitem__, places.tolist()))
    return [b"%b%b\n" % (marks[place], when) for place, when in zip(places.tolist(), items(time), strict=True)]


def _patch(lines: Lines, batch: Batch, heads: _Heads) -> None:
    """Mend the lines that are not like the others: no value, a number the field cannot hold, a named state."""
    suffix = _FIELDS[batch.table.kind][1]
    void = q.is_bad(batch.quality)
    if batch.table.kind is Kind.FLOAT:
        odd = ~np.isfinite(batch.value) & ~void
        for row in np.flatnonzero(odd).tolist():
            lines.heads[row] = heads.text[batch.tag[row]]
            lines.values[row] = b'"%b"' % repr(float(batch.value[row])).encode()
    if batch.table.kind is Kind.UINT and bool((batch.value > _LARGEST).any()):
        for row in np.flatnonzero(batch.value > _LARGEST).tolist():
            lines.heads[row] = heads.text[batch.tag[row]]
            lines.values[row] = b'"%d"' % int(batch.value[row])
            lines.tails[row] = lines.tails[row].removeprefix(suffix)
    if heads.states:
        _name_states(lines, batch, heads.states, suffix)
    for row in np.flatnonzero(void).tolist():
        lines.heads[row] = heads.bare[batch.tag[row]]
        lines.values[row] = b""
        lines.tails[row] = lines.tails[row].removeprefix(suffix).removeprefix(b",")


def _name_states(lines: Lines, batch: Batch, names: list[dict[int, str]], suffix: bytes) -> None:
    named = np.array([bool(entry) for entry in names], dtype=np.bool_)
    for row in np.flatnonzero(named[batch.tag]).tolist():
        name = names[batch.tag[row]].get(batch.value[row])
        if name is not None and lines.tails[row].startswith(suffix + b","):
            lines.values[row] += suffix + b",state=" + string(name)
            lines.tails[row] = lines.tails[row].removeprefix(suffix)


def _gap(block: Block, sequence: int, gap: Gap) -> Lines:
    head = key(GAPS, gateway=block.gateway, device=gap.device, group=gap.group) + b" "
    fields = b"end=%di,reason=%b,readings=%di,scans=%di,journal=%b,sequence=%di" % (
        gap.end, string(gap.reason), gap.readings, gap.scans, string(block.journal), sequence
    )  # fmt: skip
    return Lines([head], [fields], [b" %d\n" % gap.start])
