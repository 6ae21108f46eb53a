"""Batches to the lines that VictoriaMetrics takes: every field becomes a metric of floats at milliseconds.

    readings,gateway=G,device=D,tag=T,unit=U  <fields>,quality=<StatusCode>  <ms>
    gaps,gateway=G,device=D,group=P,reason=R  end=<ms>,readings=<n>,scans=<n>  <start, ms>

    readings_value     every number; true is 1; a 64-bit integer rounded to the digits that the server keeps
    readings_high, readings_low    beside a 64-bit integer: it is exactly high x 10^9 + low, 0 <= low < 10^9
    readings_text      1, with the text as label `text`; also nan, inf and -inf, which have no value
    readings_quality   always there, and alone in a row of Bad quality

A text is a label, and each different text is a series: of one tag MOST_TEXTS are taken, and LONGEST_TEXT bytes of one.
A time more than AHEAD of this machine's clock would be dropped by the server without a word. What is refused for
these reasons comes back apart (Refused), each with why. Rows of one series within one millisecond become one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.contracts import Block
from gateway.model import Batch, Gap, Kind
from gateway.stores.lines import GAPS, READINGS, Lines, items, key

MOST_TEXTS: Final = 1000
LONGEST_TEXT: Final = 1000  # bytes; the server cuts labels off, in newer versions from 1 KiB on
AHEAD: Final = 47 * 3600 * 1_000_000_000  # ns; the server takes two days
EMPTY: Final = '""'  # what an empty text is called
PART: Final = 10**9  # what `low` is less than

_MS: Final = 1_000_000


@dataclass(slots=True)
class Refused:
    """Lines that the server would lose, by the reason; `readings` of them."""

    lines: defaultdict[str, Lines] = field(default_factory=lambda: defaultdict(Lines))
    readings: int = 0


class Samples:
    """Builds lines; remembers the beginning of each tag's lines, and which texts a tag has had."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, bytes], list[bytes]] = {}
        self._texts: defaultdict[bytes, set[str]] = defaultdict(set)

    def lines(self, block: Block, refused: Refused) -> Lines:
        """Give the readings and gaps of a block as lines; put what the server would lose into `refused`."""
        lines = Lines()
        latest = time.time_ns() + AHEAD
        for content in block.contents:
            if isinstance(content, Gap):
                lines.extend(_gap(block.gateway, content))
                continue
            ahead = content.time > latest
            if ahead.any():
                reason = "its time is more than 47 hours ahead of this machine's clock: VictoriaMetrics would drop it"
                refused.lines[reason].extend(self._batch(block.gateway, content.take(ahead), refused))
                refused.readings += int(ahead.sum())
                content = content.take(~ahead)
            if len(content):
                lines.extend(self._batch(block.gateway, content, refused))
        return lines

    def _batch(self, gateway: str, batch: Batch, refused: Refused) -> Lines:
        place = (gateway, batch.table.fingerprint)
        heads = self._heads.get(place)
        if heads is None:
            heads = self._heads[place] = [
                key(READINGS, gateway=gateway, device=batch.table.device, tag=tag.name, unit=tag.unit)
                for tag in batch.table.tags
            ]
        void = q.is_bad(batch.quality)
        lines = Lines([heads[tag] for tag in batch.tag.tolist()], _values(batch), _tails(batch.quality, batch.time))
        worded: NDArray[np.bool_] = ~void
        if batch.table.kind is Kind.FLOAT:
            worded = ~np.isfinite(batch.value) & ~void
        elif batch.table.kind is not Kind.TEXT:
            return _without_values(lines, void)
        for row in np.flatnonzero(worded).tolist():
            text = str(batch.value[row])
            said = _worded(lines.heads[row], text, lines.tails[row])
            reason = self._too_much(lines.heads[row], text)
            if reason:
                refused.lines[reason].extend(said)
                refused.readings += 1
            else:
                # a line has one set of labels: the text's line stands beside that of the quality, as one entry
                lines.heads[row] = said.heads[0] + said.values[0] + said.tails[0] + lines.heads[row]
            void[row] = True  # what is left of the row is its quality and its time
        return _without_values(lines, void)

    def _too_much(self, head: bytes, text: str) -> str:
        """Say why a text cannot be a label, or nothing."""
        if len(text.encode()) > LONGEST_TEXT:
            return f"a text of more than {LONGEST_TEXT} bytes: VictoriaMetrics would cut it off"
        known = self._texts[head]
        if text not in known:
            if len(known) >= MOST_TEXTS:
                return f"more than {MOST_TEXTS} different texts of one tag: each would be a series of its own"
            known.add(text)
        return ""


def _values(batch: Batch) -> list[bytes]:
    """Give the fields of each row but its quality, as if all had a value."""
    kind, value = batch.table.kind, batch.value
    if kind is Kind.TEXT:
        return [b""] * len(value)
    if kind is Kind.BOOL:
        return [(b" value=0,", b" value=1,")[one] for one in value.tolist()]
    if kind is Kind.FLOAT:
        return [b" value=%b," % number for number in items(value)]
    part = value.dtype.type(PART)
    parts = zip(items(value), items(value // part), items(value % part), strict=True)
    return [b" value=%b,high=%b,low=%b," % three for three in parts]


def _tails(quality: NDArray[np.uint32], time: NDArray[np.int64]) -> list[bytes]:
    pairs = zip(quality.tolist(), (time // _MS).tolist(), strict=True)
    first, last = int(quality[0]), int(time[0])
    if (quality == first).all() and (time == last).all():
        return [b"quality=%d %d\n" % (first, last // _MS)] * len(time)
    return [b"quality=%d %d\n" % pair for pair in pairs]


def _without_values(lines: Lines, void: NDArray[Any]) -> Lines:
    for row in np.flatnonzero(void).tolist():
        lines.values[row] = b" "
    return lines


def _worded(head: bytes, text: str, tail: bytes) -> Lines:
    """Give the line of a text; an empty label would be none, so an empty text is EMPTY."""
    series = key("", text=text or EMPTY)
    return Lines([head + series], [b" text=1 "], [tail.rpartition(b" ")[2]])


def _gap(gateway: str, gap: Gap) -> Lines:
    head = key(GAPS, gateway=gateway, device=gap.device, group=gap.group, reason=gap.reason)
    fields = b" end=%d,readings=%d,scans=%d " % (gap.end // _MS, gap.readings, gap.scans)
    return Lines([head], [fields], [b"%d\n" % (gap.start // _MS)])


def count(blocks: Sequence[Block]) -> tuple[int, int]:
    """Give how many readings and gaps these blocks hold."""
    contents = [content for block in blocks for content in block.contents]
    gaps = sum(isinstance(content, Gap) for content in contents)
    return sum(len(content) for content in contents if isinstance(content, Batch)), gaps
