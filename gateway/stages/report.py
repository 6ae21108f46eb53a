"""Report by exception: pass on what is news.

A tag without a deadband passes every reading. With one, a reading passes when it is the tag's first, when its quality
changed, when its value differs from the last reported one by more than the deadband (0: by anything), or when the
last report is `max_silence` old. A step also passes on the last reading that was held back, so that a value that
stood still for an hour and jumped is drawn as a step and not as a ramp. `forget()` makes every tag's next reading its
first again: a full fresh report after a link came back.
"""

from __future__ import annotations

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
        self._deadband = np.array([tag.deadband for tag in table.tags], dtype=np.float64)
        self._always = np.isnan(self._deadband)
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

    def forget(self) -> None:
        """Take the next reading of each tag for its first. What is held back is not news any more."""
        self._known[:] = False
        self._held[:] = False

    def __call__(self, batch: Batch) -> Batch:
        if self._passes_all:
            return batch
        if batch.tag is self._table.every or len(np.unique(batch.tag)) == len(batch):
            return self._once(batch)
        return _join([self._once(batch.take(rows)) for rows in _occurrences(batch.tag)])

    def _once(self, batch: Batch) -> Batch:
        """Handle a batch in which no tag occurs twice."""
        tag = batch.tag
        change = _difference(batch.value, self._value[tag], self._table.kind, self._deadband[tag])
        flip = batch.quality != self._quality[tag]
        bad = q.is_bad(batch.quality)
        news = ~self._known[tag] | flip | (change & ~bad)
        keep = news | self._always[tag] | (batch.time - self._time[tag] >= self._silence[tag])
        kept = batch if keep.all() else batch.take(keep)
        before = self._step(batch, news, flip)
        self._remember(batch, keep)
        return kept if before is None else _join([before, kept])

    def _step(self, batch: Batch, news: NDArray[np.bool_], flip: NDArray[np.bool_]) -> Batch | None:
        """Give the held-back readings that a step in this batch makes worth reporting."""
        tag = batch.tag
        held = self._held[tag] & news
        if not held.any():
            return None
        jump = _difference(batch.value, self._held_value[tag], self._table.kind, self._deadband[tag])
        steps = tag[held & (flip | jump)]
        if not len(steps):
            return None
        return Batch(
            self._table,
            steps,
            self._held_value[steps],
            self._held_quality[steps],
            self._held_time[steps],
            batch.backfill,
        )

    def _remember(self, batch: Batch, keep: NDArray[np.bool_]) -> None:
        told, silent = batch.tag[keep], batch.tag[~keep]
        self._known[told] = True
        self._value[told] = batch.value[keep]
        self._quality[told] = batch.quality[keep]
        self._time[told] = batch.time[keep]
        self._held[told] = False
        if len(silent):
            self._held[silent] = True
            self._held_value[silent] = batch.value[~keep]
            self._held_quality[silent] = batch.quality[~keep]
            self._held_time[silent] = batch.time[~keep]


def _difference(now: NDArray[Any], last: NDArray[Any], kind: Kind, deadband: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark where `now` differs from `last` by more than the deadband; integers are compared without rounding."""
    if kind in (Kind.TEXT, Kind.BOOL):
        differs: NDArray[np.bool_] = now != last
        return differs
    if kind is Kind.FLOAT:
        more: NDArray[np.bool_] = np.abs(now - last) > np.nan_to_num(deadband)
        return more
    larger, smaller = np.maximum(now, last), np.minimum(now, last)
    distance = larger.view(np.uint64) - smaller.view(np.uint64)
    beyond: NDArray[np.bool_] = distance > np.floor(np.nan_to_num(deadband)).astype(np.uint64)
    return beyond


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
