"""Filling what a subscription did not tell: raw history where a node has one, and gaps where it has none."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from drivers.opcua import freshness, history
from drivers.opcua.items import Items, News, rows_of
from drivers.opcua.names import Limits
from drivers.opcua.session import Refused, Session
from gateway.model import Gap

HISTORY_NODES = 100  # whose history is asked for at once


async def fill(
    session: Session, limits: Limits, items: Items, before: Items, start: int, reason: str = ""
) -> list[News]:
    """Give the history of what `before` did not hear any more, as backfill, and as gaps what has none.

    What is current stays out: the subscription's first notification brings it. What was given before is known to
    `items` from now on. `start` (ns) is when the interruption began, 0 where nothing was heard before it.
    """
    known = before.known
    items.known.time[:], items.known.number[:] = known.time, known.number
    items.known.bits[:], items.known.status[:] = known.bits, known.status
    there = [handle for handle in range(len(items)) if items.id(handle) is not None and not items[handle].refused]
    wanted = [handle for handle in there if items[handle].owner.wish.fill_gaps and known.time[handle] > 0]
    now = time.time_ns()
    every = np.array(wanted, dtype=np.intp)
    batches, filled = await _history(session, limits, items, every, now) if wanted else ([], set())
    lost = {id(items[handle].owner) for handle in there if handle not in filled}
    if not start:
        return batches
    for each in items.watched:
        if id(each) in lost or each.events is not None:
            why = reason or "the server did not keep the subscription"
            why += "; not all of its nodes have a history" if each.wish.fill_gaps and each.events is None else ""
            batches.append(Gap(each.plan.device, each.plan.group, start, max(start, now), why))
    return batches


async def _history(
    session: Session, limits: Limits, items: Items, wanted: NDArray[np.intp], now: int
) -> tuple[list[News], set[int]]:
    """Give the history of items since they were last heard of, and which of them have one."""
    since_all = items.known.time[wanted]
    present = await freshness.read(session, limits, items, wanted)
    batches: list[News] = []
    filled: set[int] = set()
    for first in range(0, len(wanted), HISTORY_NODES):
        some = wanted[first : first + HISTORY_NODES]
        since = since_all[first : first + HISTORY_NODES]
        ids = [items.id(handle) or b"" for handle in some.tolist()]
        try:
            found = await history.fetch(session, ids, int(since.min()), now)
        except Refused:
            return batches, filled  # this server keeps no history
        for place, handle in enumerate(some.tolist()):
            until = present.source[first + place] or now
            if found[place]:
                filled.add(handle)
            for columns in found[place]:
                inside = (columns.source > since[place]) & (columns.source < until)
                picked = rows_of(columns, np.flatnonzero(inside))
                if len(picked):
                    every = np.full(len(picked), handle, dtype=np.intp)
                    batches += items.batches(picked, every, now, backfill=True)
    return batches, filled
