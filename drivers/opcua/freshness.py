"""Looking whether a subscription tells the truth: silent items are read.

- An item silent for its max_silence is read and given, as of now.
- Items that were silent for `freshness` are read; one whose value differs twice from what the subscription last said
  shows that it lies (Forgotten): what is current is given when the subscription is made again.
- After an interruption all items are read and given (resync).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from drivers.opcua.decode import Columns
from drivers.opcua.items import Forgotten, Items, rows_of
from drivers.opcua.names import Limits
from drivers.opcua.session import Session
from gateway.model import Batch


async def resync(session: Session, limits: Limits, items: Items, handles: NDArray[np.intp]) -> list[Batch]:
    """Read items and give what they hold."""
    columns = await read(session, limits, items, handles)
    items.known.owed[handles] = True
    before = items.note(columns, handles)
    return before + items.batches(columns, handles, time.time_ns())


async def look(session: Session, limits: Limits, items: Items, now: float) -> list[Batch]:
    """Read what was silent for too long: for its max_silence, or to see whether the subscription still works."""
    known = items.known
    silent = now - known.heard
    quiet = silent >= items.silence
    stale = np.flatnonzero(quiet | (silent >= items.freshness))
    stale = stale[[items[handle].refused == 0 for handle in stale.tolist()]] if len(stale) else stale
    if not len(stale):
        return []
    before = known.number[stale], known.bits[stale], known.status[stale]
    suspected = known.suspect[stale].copy()
    heard = known.heard[stale].copy()
    columns = await read(session, limits, items, stale)
    differs = ~((columns.number == before[0]) | (np.isnan(columns.number) & np.isnan(before[0])))
    deadband = np.array([items[handle].owner.wish.deadband_type != "none" for handle in stale.tolist()])
    differs &= ~deadband
    differs |= (columns.bits != before[1]) | (columns.status != before[2])
    differs &= known.heard[stale] == heard  # else a notification came while we were reading
    known.suspect[stale] = differs
    known.heard[stale] = np.where(differs, heard, now)
    batches = _as_of_now(items, columns, stale, np.flatnonzero(quiet[stale]))
    if (differs & suspected).any():
        raise Forgotten("the subscription was alive but did not tell of changes", lies=True)
    return batches


def _as_of_now(items: Items, columns: Columns, handles: NDArray[np.intp], chosen: NDArray[np.intp]) -> list[Batch]:
    """Give chosen rows with the server's time, or that of arrival where a server does not date its answers."""
    if not len(chosen):
        return []
    picked, handles = rows_of(columns, chosen), handles[chosen]
    server = items.known.server
    stands = picked.server <= server[handles]
    np.maximum.at(server, handles, picked.server)
    picked.server[stands] = 0
    return items.batches(picked, handles, time.time_ns(), clock="server")


async def read(session: Session, limits: Limits, items: Items, handles: NDArray[np.intp]) -> Columns:
    """Read the values of items. Raises as the session does."""
    asked = handles.tolist()
    ranges = [items.range(handle) for handle in asked]
    return await session.values([items.id(handle) or b"\0\0" for handle in asked], limits.read, ranges)
