"""The newest reading of each tag, in columns, and which devices are lost.

Formats with births need it: a birth shows what is so now. Newest is what arrived last, not what bears the latest time:
a source whose clock is set back is no less alive. A device counts as lost when the newest batch of each of its tables
was without any value for one and the same reason at one and the same moment: that is how the pipeline declares a device
or its link gone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gateway import quality as q
from gateway.model import Batch, TagTable


class Newest:
    """The newest readings of one table; `time` is 0 where there was none yet."""

    def __init__(self, table: TagTable) -> None:
        size = len(table)
        self.table = table
        self.value = np.full(size, table.kind.nothing, dtype=table.kind.dtype)
        self.quality = np.full(size, q.BAD_WAITING_FOR_INITIAL_DATA, dtype=np.uint32)
        self.time = np.zeros(size, dtype=np.int64)
        self.lost = False

    def take(self, batch: Batch) -> None:
        """Take readings; of a tag's several rows the last stays."""
        self.value[batch.tag] = batch.value
        self.quality[batch.tag] = batch.quality
        self.time[batch.tag] = batch.time
        self.lost = is_loss(batch)

    def batch(self) -> Batch:
        """Give the newest reading of each tag that has one."""
        rows = np.flatnonzero(self.time).astype(np.uint32)
        return Batch(self.table, rows, self.value[rows], self.quality[rows], self.time[rows])


class Current:
    """The newest readings of all tables seen so far."""

    def __init__(self, tables: Iterable[TagTable] = ()) -> None:
        self._newest: dict[bytes, Newest] = {}
        self._devices: dict[str, list[Newest]] = {}
        for table in tables:
            self.of(table)

    def of(self, table: TagTable) -> Newest:
        """Give the table's newest readings."""
        found = self._newest.get(table.fingerprint)
        if found is None:
            found = self._newest[table.fingerprint] = Newest(table)
            self._devices.setdefault(table.device, []).append(found)
        return found

    def take(self, batch: Batch) -> None:
        """Take readings as they arrive."""
        self.of(batch.table).take(batch)

    def keep(self, tables: Iterable[TagTable]) -> None:
        """Forget all tables but these: the others are not configured any more."""
        kept = {table.fingerprint for table in tables}
        self._newest = {fingerprint: newest for fingerprint, newest in self._newest.items() if fingerprint in kept}
        self._devices = {}
        for newest in self._newest.values():
            self._devices.setdefault(newest.table.device, []).append(newest)

    @property
    def devices(self) -> list[str]:
        """The names of all devices, in the order they were first seen."""
        return list(self._devices)

    def lost(self, device: str) -> bool:
        """Whether the device is lost, as far as its newest readings say."""
        tables = self._devices.get(device, ())
        return bool(tables) and all(newest.lost for newest in tables)

    def batches(self) -> list[Batch]:
        """Give the newest reading of each tag that has one, a batch per table."""
        return [newest.batch() for newest in self._newest.values() if newest.time.any()]


def is_loss(batch: Batch) -> bool:
    """Whether a batch declares its whole table without a value, for one reason, at one moment."""
    if len(batch) != len(batch.table) or not len(batch):
        return False
    status = batch.quality[0]
    if status < q.BAD:
        return False
    return bool((batch.quality == status).all()) and bool((batch.time == batch.time[0]).all())
