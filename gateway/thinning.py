"""Fewer readings for a link whose budget is nearly used up: wider deadbands, and an account of what was left out.

Report by exception is applied once more, with each tag's deadband times a factor; a tag without a deadband, or with
one of 0, passes as before, and so do history, changes of quality and what `max_silence` asks for. What is left out is
counted by table and told by `declare` as a gap with the reason "thinned": its range, how many readings, and the
sequence of the last record that lost some. Until the peer has that, the publisher acknowledges none of those records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from gateway.contracts import Record
from gateway.model import THINNED, Batch, Gap, TagTable
from gateway.stages.report import ReportByException


@dataclass(slots=True, eq=False)
class _Thin:
    """One table with wide deadbands, and what it cost since the last declaration."""

    table: TagTable
    stage: ReportByException
    count: int = 0
    start: int = 0
    end: int = 0
    sequence: int = 0


class Thinning:
    """The wide deadbands of one publisher. `tables` are those of the configuration, as the publisher shows them."""

    def __init__(self, factor: float, tables: Iterable[TagTable]) -> None:
        self._thin: dict[bytes, _Thin] = {}
        for table in tables:
            if any(tag.deadband > 0 for tag in table.tags):
                tags = tuple(replace(tag, deadband=tag.deadband * factor) for tag in table.tags)
                wide = TagTable(table.device, table.group, table.kind, tags)
                self._thin[table.fingerprint] = _Thin(wide, ReportByException(wide))

    def __bool__(self) -> bool:
        return bool(self._thin)

    def forget(self) -> None:
        """Take the next reading of each tag for its first: what came before is not known to have arrived."""
        for thin in self._thin.values():
            thin.stage.forget()
            thin.count = thin.start = thin.end = 0

    def rest(self) -> None:
        """Widen no more for now; what was left out is still to be declared."""
        for thin in self._thin.values():
            thin.stage.forget()

    def __call__(self, records: Iterable[Record]) -> tuple[list[Record], bool]:
        """Give what remains of these records, and whether anything was left out."""
        counted = sum(thin.count for thin in self._thin.values())
        remaining = [left for record in records if (left := self._one(record)) is not None]
        return remaining, sum(thin.count for thin in self._thin.values()) != counted

    def _one(self, record: Record) -> Record | None:
        batch = record.content
        thin = self._thin.get(batch.table.fingerprint) if isinstance(batch, Batch) else None
        if thin is None or not isinstance(batch, Batch) or batch.backfill:
            return record
        every = len(batch) == len(batch.table) and np.array_equal(batch.tag, batch.table.every)
        left = thin.stage(replace(batch, table=thin.table, tag=thin.table.every if every else batch.tag))
        fewer = len(batch) - len(left)
        if fewer > 0:
            start, end = int(batch.time.min()), int(batch.time.max())
            thin.start, thin.end = min(start, thin.start or start), max(end, thin.end)
        if fewer:
            thin.count += fewer  # a step passes on what was held back before, and counted
            thin.sequence = record.sequence
        if not len(left):
            return None
        return record if left.tag is thin.table.every else Record(record.sequence, replace(left, table=batch.table))

    def declare(self) -> list[Record]:
        """Give the gaps of what was left out since the last call."""
        gaps = []
        for thin in self._thin.values():
            if thin.count > 0:
                what = Gap(thin.table.device, thin.table.group, thin.start, thin.end, THINNED, thin.count)
                gaps.append(Record(thin.sequence, what))
            thin.count, thin.start, thin.end = min(thin.count, 0), 0, 0
        return gaps
