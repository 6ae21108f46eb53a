"""A journal in memory, for tests of what comes before the journal."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway import codec
from gateway import quality as q
from gateway.errors import JournalError
from gateway.model import Batch, Gap, TagTable


@dataclass
class MemoryJournal:
    """Keeps what is appended, in order, as the pipeline packed it."""

    tables: list[TagTable]
    contents: list[Batch | Gap] = field(default_factory=list)
    broken: bool = False

    def define(self, fingerprint: bytes, definition: bytes) -> int:
        return next(number for number, table in enumerate(self.tables) if table.fingerprint == fingerprint)

    def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int:
        if self.broken:
            raise JournalError("the disk is gone")
        content = codec.unpack(record, lambda number: self.tables[number])
        assert readings == (len(content) if isinstance(content, Batch) else 0)
        self.contents.append(content)
        return len(self.contents)

    def batches(self, device: str) -> list[Batch]:
        return [each for each in self.contents if isinstance(each, Batch) and each.table.device == device]

    def good(self, device: str) -> int:
        return sum(not batch.quality.any() for batch in self.batches(device))

    def good_groups(self, device: str) -> set[str]:
        return {batch.table.group for batch in self.batches(device) if not batch.quality.any()}

    def bad(self, device: str) -> int:
        return sum(bool(q.is_bad(batch.quality).all()) for batch in self.batches(device))

    def gaps(self) -> list[Gap]:
        return [each for each in self.contents if isinstance(each, Gap)]
