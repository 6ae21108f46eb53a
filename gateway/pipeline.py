"""From a driver's batch to the journal: normalise, report by exception, pack, append. Synchronous and columnar.

One Pipeline per poll group. It is the only place that writes readings to the journal, and it also declares what is
missing: one Bad row per tag when a device or link goes away, a gap record when scans are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import structlog

from gateway import codec
from gateway import quality as q
from gateway.clock import Clock
from gateway.metrics import Metrics
from gateway.model import Batch, Gap, Group, TagTable
from gateway.stages.normalise import normalise
from gateway.stages.report import ReportByException

log = structlog.get_logger()


class Appendable(Protocol):
    """What the pipeline needs of the journal."""

    def define(self, fingerprint: bytes, definition: bytes) -> int: ...
    def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int: ...


@dataclass(slots=True, eq=False)
class Tap:
    """Where somebody may look on: at all that is read, as it is in engineering units, or at what is journalled.

    None while nobody does. What looks on is called on the path: it must be quick and may not raise.
    """

    normalised: Callable[[Batch], None] | None = None
    journalled: Callable[[Batch], None] | None = None


class _Column:
    """The stages of one table, how many of its tags were Bad at the last full scan, and its last record's sequence."""

    def __init__(self, table: TagTable, journal: Appendable) -> None:
        self.table = table
        self.id = journal.define(table.fingerprint, table.definition)
        self.normalise = normalise(table)
        self.report = ReportByException(table)
        self.bad = 0
        self.sequence = 0


class Pipeline:
    """The way of one poll group's readings."""

    def __init__(
        self,
        group: Group,
        journal: Appendable,
        metrics: Metrics,
        seen: Callable[[Batch], None] | None = None,
        tap: Tap | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare. `seen` is called with each batch that goes into the journal, for births that show what is so now.

        `clock` is that by which the gateway dates what a device does not.
        """
        self.group = group
        self._journal = journal
        self.seen = seen
        self._tap = Tap() if tap is None else tap
        self._clock = clock
        self._columns = {id(table): _Column(table, journal) for table in group.tables}
        self._counters = [metrics.readings.labels(group.device, word) for word in ("good", "uncertain", "bad", "bad")]
        self._appended = metrics.appended
        self._log = log.bind(device=group.device, group=group.name)

    def take(self, batches: Sequence[Batch]) -> None:
        """Take the batches of one scan, or of one notification. Raises JournalError."""
        for batch in batches:
            column = self._columns[id(batch.table)]
            normal = column.normalise(batch)
            if self._tap.normalised is not None:
                self._tap.normalised(normal)
            self._notice(column, normal)
            self._append(column, column.report(normal))

    def bad(self, status: int, time: int) -> None:
        """Give every tag one Bad row, whatever was reported before; the next good scan is reported in full."""
        for column in self._columns.values():
            batch = Batch.bad(column.table, status, time)
            column.bad = len(column.table)
            column.report.lost(time)
            if self._tap.normalised is not None:
                self._tap.normalised(batch)
            self._append(column, batch)

    def gap(self, start: int, end: int, reason: str, scans: int = 0, readings: int = 0) -> None:
        """Declare that this group has no readings between `start` and `end` (ns)."""
        if self._clock is not None:
            if scans and not self._clock.known:
                start = max(start, self._clock.offset)  # the slot may have begun before this kernel, at a false time
            start, end = self._clock.missed(start, end)
        record = codec.pack_gap(Gap(self.group.device, self.group.name, start, end, reason, readings, scans))
        self._journal.append(record, 0, start, end)

    def retire(self, kept: Container[str], time: int) -> None:
        """Give the tags that end here their last row, Bad (out of service); those in `kept` go on in another table."""
        for column in self._columns.values():
            rows = [row for row, name in enumerate(column.table.names) if name not in kept]
            if rows:
                last = Batch.bad(column.table, q.BAD_OUT_OF_SERVICE, time)
                self._append(column, last if len(rows) == len(last) else last.take(np.array(rows)))

    def forget(self) -> None:
        """Report the next scan in full: the device was away."""
        for column in self._columns.values():
            column.report.forget()

    def stepped(self) -> None:
        """Report the next scan in full, as it is: the clock was set, and what was reported bears times of before."""
        for column in self._columns.values():
            column.report.stepped()

    def newest(self) -> list[Batch]:
        """Give the last full scans, in engineering units, of tables that are scanned."""
        return [column.report.last for column in self._columns.values() if column.report.last is not None]

    @property
    def bad_tags(self) -> int:
        """How many tags had no good value at the last full scan."""
        return sum(column.bad for column in self._columns.values())

    def account(self, table: TagTable, row: int) -> dict[str, Any]:
        """Tell of one tag: what was reported and held back, and the sequence of its table's last record."""
        column = self._columns[id(table)]
        return {**column.report.account(row), "table": column.id, "sequence": column.sequence}

    def normalised(self, table: TagTable, row: int, raw: Any, status: int, time: int) -> tuple[Any, int]:
        """Give value and quality that a raw value of one tag becomes; None for a value that is none."""
        one = Batch(
            table,
            np.array([row], np.uint32),
            np.array([raw], table.kind.dtype),
            np.array([status], np.uint32),
            np.array([time], np.int64),
        )
        normal = self._columns[id(table)].normalise(one)
        code = int(normal.quality[0])
        return (None if code >= q.BAD else normal.value.tolist()[0]), code

    def _append(self, column: _Column, batch: Batch) -> None:
        size = len(batch)
        if not size:
            return
        shown = batch
        if self._clock is not None and self._clock.doubtful:
            batch = self._clock.own(batch)
        record = codec.pack(batch, column.id)
        column.sequence = self._journal.append(record, size, int(batch.time.min()), int(batch.time.max()))
        self._appended.inc(size)
        if self.seen is not None:
            self._show(self.seen, column.sequence, batch)
        if self._tap.journalled is not None:
            self._tap.journalled(shown)
        if not batch.quality.any():
            self._counters[0].inc(size)
            return
        for counter, count in zip(self._counters, np.bincount(batch.quality >> 30, minlength=4), strict=True):
            if count:
                counter.inc(int(count))

    def _show(self, seen: Callable[[Batch], None], sequence: int, batch: Batch) -> None:
        """Show what is so now; not while it waits for its date."""
        if self._clock is None or self._clock.known:
            seen(batch)
        elif self._clock.free(sequence, sequence):
            dated = self._clock.date(sequence, batch)
            assert isinstance(dated, Batch)
            seen(dated)

    def _notice(self, column: _Column, batch: Batch) -> None:
        """Log the change between "all tags are well" and "some are Bad", once each."""
        if batch.tag is not column.table.every:
            return
        rows = np.flatnonzero(q.is_bad(batch.quality)) if batch.quality.any() else ()
        if len(rows) and not column.bad:
            first = [f"{column.table.names[row]}: {q.name(int(batch.quality[row]))}" for row in rows[:5]]
            self._log.warning("Some tags have no good value.", count=len(rows), tags=first)
        elif column.bad and not len(rows):
            self._log.info("All tags have good values.")
        column.bad = len(rows)
