"""Report by exception: pass on what is news.

A tag without a deadband passes every reading. With one, a reading passes when it is the tag's first, when its quality
changed, when its value differs from the last reported one by more than the deadband (0: by anything), or when the
last report is `max_silence` old. A step also passes on the last reading that was held back, so that a value that
stood still for an hour and jumped is drawn as a step and not as a ramp.

A reading that was read before, with the same source time, value and quality, is no new reading and never passes: a
polled OPC UA node that stands still is one point, not one a second. After `lost()` every tag's next reading is its
first again, and it is later than the Bad row even where its source time is not. History passes untouched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Batch, Kind, TagTable


class ReportByException:
    """The stage of one table. Its state is that table's last reported and last held-back readings, in columns."""

    def __init__(self, table: TagTable) -> None:
        size = len(table)
        self._table = table
        deadband = np.array([tag.deadband for tag in table.tags], dtype=np.float64)
        self._always = np.isnan(deadband)
        self._threshold = np.nan_to_num(deadband) if table.kind is Kind.FLOAT else np.floor(np.nan_to_num(deadband))
        self._silence = np.array([tag.max_silence or 2**62 for tag in table.tags], dtype=np.int64)
        self._passes_all = bool(self._always.all())
        self._known = np.zeros(size, dtype=np.bool_)
        self._value = np.full(size, table.kind.nothing, dtype=table.kind.dtype)
        self._quality = np.zeros(size, dtype=np.uint32)
        self._time = np.zeros(size, dtype=np.int64)
        self._held = np.zeros(size, dtype=np.bool_)
        self._held_value = self._value.copy()
        self._held_quality = self._quality.copy()
        self._held_time = self._time.copy()
        self._last: Batch | None = None  # the last full scan
        self._lost_at = 0

    def lost(self, time: int) -> None:
        """Take note that all tags became Bad at `time` (ns); what comes next is reported in full."""
        self.forget()
        self._lost_at = time

    def stepped(self) -> None:
        """Take note that the clock was set: no reading compares by its time with those before."""
        self.forget()
        self._lost_at = 0

    def forget(self) -> None:
        """Take the next reading of each tag for its first. What is held back is not news any more."""
        self._known[:] = False
        self._held[:] = False
        self._last = None

    def account(self, row: int) -> dict[str, Any]:
        """Tell of one tag: what was reported last, what is held back since, and what the last full scan had."""

        def cell(value: NDArray[Any], quality: NDArray[np.uint32], time: NDArray[np.int64]) -> dict[str, Any]:
            code = int(quality[row])
            found = None if code >= q.BAD else value[row].item() if hasattr(value[row], "item") else value[row]
            return {"value": found, "quality": code, "time": int(time[row])}

        last = self._last
        return {
            "always": bool(self._always[row]),
            "reported": cell(self._value, self._quality, self._time) if self._known[row] else None,
            "held": cell(self._held_value, self._held_quality, self._held_time) if self._held[row] else None,
            "seen": None if last is None else cell(last.value, last.quality, last.time),
        }

    @property
    def last(self) -> Batch | None:
        """The last full scan since the device is there; None where there was none, as with what is reported to us."""
        return self._last

    def __call__(self, batch: Batch) -> Batch:
        if batch.backfill:
            return batch
        if self._lost_at:
            batch = replace(batch, time=np.maximum(batch.time, self._lost_at + 1))
            self._lost_at = 0
        if batch.tag is self._table.every:
            batch = self._fresh(batch)
        if self._passes_all:
            return batch
        if batch.distinct:
            return self._once(batch)
        return _join([self._once(batch.take(rows)) for rows in _occurrences(batch.tag)])

    def _fresh(self, batch: Batch) -> Batch:
        """Leave out the rows of a full scan that are those of the last one."""
        last, self._last = self._last, batch
        if last is None:
            return batch
        same = batch.time == last.time
        if not same.any():
            return batch
        same &= batch.quality == last.quality
        same &= (batch.value == last.value) | q.is_bad(batch.quality)  # a Bad row has no value to compare
        return batch.take(~same) if same.any() else batch

    def _once(self, batch: Batch) -> Batch:
        """Handle a batch in which no tag occurs twice."""
        # A full scan uses the state's columns as they are; anything else gathers its tags' rows.
        rows: Any = slice(None) if batch.tag is self._table.every else batch.tag
        flip = batch.quality != self._quality[rows]
        change = self._differs(batch, self._value[rows], rows) & ~q.is_bad(batch.quality)
        news = change | flip | ~self._known[rows]
        keep = news | self._always[rows] | (batch.time - self._time[rows] >= self._silence[rows])
        kept = batch if keep.all() else batch.take(keep)
        before = self._step(batch, news & self._held[rows], flip, rows)
        self._remember(batch, keep, rows)
        return kept if before is None else _join([before, kept])

    def _step(self, batch: Batch, held: NDArray[np.bool_], flip: NDArray[np.bool_], rows: Any) -> Batch | None:
        """Give the held-back readings that a step in this batch makes worth reporting."""
        if not held.any():
            return None
        tags = batch.tag[held & (flip | self._differs(batch, self._held_value[rows], rows))]
        if not len(tags):
            return None
        value, quality, time = self._held_value[tags], self._held_quality[tags], self._held_time[tags]
        return Batch(self._table, tags, value, quality, time, batch.backfill)

    def _remember(self, batch: Batch, keep: NDArray[np.bool_], rows: Any) -> None:
        if isinstance(rows, slice):
            _put(self._value, self._quality, self._time, batch, keep)
            silent = ~keep
            _put(self._held_value, self._held_quality, self._held_time, batch, silent)
            self._held = silent
            self._known |= keep
            return
        told, quiet = batch.take(keep), batch.take(~keep)
        self._value[told.tag], self._quality[told.tag], self._time[told.tag] = told.value, told.quality, told.time
        self._held_value[quiet.tag] = quiet.value
        self._held_quality[quiet.tag] = quiet.quality
        self._held_time[quiet.tag] = quiet.time
        self._held[rows] = ~keep
        self._known[told.tag] = True

    def _differs(self, batch: Batch, last: NDArray[Any], rows: Any) -> NDArray[np.bool_]:
        """Mark where a value differs from `last` by more than the deadband; integers are compared without rounding."""
        now, kind = batch.value, self._table.kind
        differs: NDArray[np.bool_]
        if kind in (Kind.TEXT, Kind.BOOL):
            differs = now != last
        elif kind is Kind.FLOAT:
            differs = np.abs(now - last) > self._threshold[rows]
        else:
            distance = np.maximum(now, last).view(np.uint64) - np.minimum(now, last).view(np.uint64)
            differs = distance > self._threshold[rows].astype(np.uint64)
        return differs


def _put(
    value: NDArray[Any], quality: NDArray[Any], time: NDArray[Any], batch: Batch, where: NDArray[np.bool_]
) -> None:
    np.copyto(value, batch.value, where=where)
    np.copyto(quality, batch.quality, where=where)
    np.copyto(time, batch.time, where=where)


def _occurrences(tag: NDArray[np.uint32]) -> list[NDArray[np.intp]]:
    """Split the rows so that no tag occurs twice in one part, and each tag's rows stay in order."""
    order = np.argsort(tag, kind="stable")
    ordered = tag[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(tag)) - np.repeat(start, np.diff(np.r_[start, len(tag)]))
    return [np.sort(order[rank == turn]) for turn in range(int(rank.max()) + 1)]


def _join(parts: list[Batch]) -> Batch:
    first = parts[0]
    return Batch(
        first.table,
        np.concatenate([part.tag for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.time for part in parts]),
        first.backfill,
    )
