"""What the subscriptions did not tell: raw history where a node has one, and declared gaps where it has none.

A Hole is the time in which items were not heard. For each it begins behind the last value that was given and ends
before the first that is given again, both by the source's own clock: so what fills it meets live data without an
overlap, whatever the clocks say. Live data comes first and the history behind it, page by page, between the
notifications.

- A group that does not ask for `fill_gaps` has its gap declared at once.
- An item is filled where its node is historizing and its history may be read; where that fails for one, the gap of its
  group is declared behind what was filled.
- What is not filled when the session ends stays owed (`known.since`), and is gone on with in the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary

from drivers.opcua import described, history
from drivers.opcua.history import Span
from drivers.opcua.items import Items, News, Watched
from drivers.opcua.names import Limits
from drivers.opcua.session import Session
from gateway.model import Gap

SETTLE = 2.0  # s; a server's history may be this much behind its subscriptions
PATIENCE: Final = 10.0  # s; an item that gave no value for so long has no seam: its group's gap is declared
HISTORY_READ: Final = 4  # bit of AccessLevel (Part 3, 8.57)


class Hole:
    """What a session's groups are owed of the time before."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._groups: list[Watched] = []  # that are to be filled
        self._start = 0  # ns of the wall clock
        self._end = 0
        self._reason = ""
        self._due = np.inf  # monotonic time at which to look again
        self._deadline = 0.0
        self._pages: AsyncIterator[list[News]] | None = None
        self._page: asyncio.Task[list[News] | None] | None = None

    # ---------------------------------------------------------------------------------------------- opening

    def open(self, start: int, reason: str, groups: Iterable[Watched]) -> list[News]:
        """Take note that these groups were not heard since `start` (ns), and are about to be heard again.

        Gives the gaps of those that do not ask to be filled. What was owed before stays owed.
        """
        now = time.time_ns()
        start = min(start, now)
        gaps: list[News] = []
        for each in groups:
            if not start:
                continue
            if not each.wish.fill_gaps:
                gaps.append(Gap(each.plan.device, each.plan.group, start, now, reason))
                continue
            known, handles = self._items.known, np.array(self._items.of_group(each), dtype=np.intp)
            known.since[handles] = np.where(known.since[handles] > 0, known.since[handles], known.time[handles])
            known.first[handles] = 0
            self._owe([each], start, now, reason)
        return gaps

    def follow(self, before: Hole) -> None:
        """Go on with what the hole of an earlier session, of the same groups, was not filled of."""
        for old, new in zip(before._items.watched, self._items.watched, strict=True):
            if old in before._groups:
                self._owe([new], before._start, before._end, before._reason)

    def _owe(self, groups: Sequence[Watched], start: int, end: int, reason: str) -> None:
        self.pause()
        self._start = min(self._start or start, start)
        self._end, self._reason = max(self._end, end), reason
        self._groups += [each for each in groups if each not in self._groups]
        self._items.seam = True
        self._resume()

    def pause(self) -> None:
        """Leave off fetching: the session ended, or the hole has become larger. What is owed stays owed."""
        page, self._page, self._pages = self._page, None, None
        self._due = np.inf
        if page is not None:
            page.cancel()

    def _resume(self) -> None:
        self._due = time.monotonic() + SETTLE
        self._deadline = self._due + PATIENCE

    def go_on(self) -> None:
        """Begin anew in a session that took over the subscriptions of the one before."""
        if self._groups:
            self.pause()
            self._resume()

    # ---------------------------------------------------------------------------------------------- filling

    @property
    def wake(self) -> float:
        """When there is something to do here (monotonic time)."""
        return self._due

    @property
    def page(self) -> Sequence[asyncio.Future[list[News] | None]]:
        """The page that is being fetched, if one is."""
        return () if self._page is None else (self._page,)

    def next(self, session: Session, limits: Limits) -> list[News]:
        """Give the page that has come, and ask for the next. Raises as the session does."""
        found: list[News] = []
        if self._page is not None:
            if not self._page.done():
                return found
            page, self._page = self._page, None
            result = page.result()
            if result is None:
                self.pause()
                return found
            found = result
        elif time.monotonic() < self._due:
            return found
        elif self._pages is None:
            if self._silent() and time.monotonic() < self._deadline:
                self._due = time.monotonic() + 0.1
                return found
            self._due = np.inf
            self._pages = self._fill(session, limits)
        if self._pages is not None:
            self._page = asyncio.create_task(_next_of(self._pages), name="history")
        return found

    def _handles(self) -> list[int]:
        return [handle for each in self._groups for handle in self._items.of_group(each)]

    def _silent(self) -> bool:
        """Say whether an item that is owed something was not heard again yet."""
        known = self._items.known
        return any(known.since[h] and not known.first[h] and not self._items[h].refused for h in self._handles())

    async def _fill(self, session: Session, limits: Limits) -> AsyncIterator[list[News]]:
        items, known = self._items, self._items.known
        owed = [h for h in self._handles() if known.since[h] or not items[h].refused]
        failed = {h for h in owed if not known.since[h] or not known.first[h] or items.id(h) is None}
        there = [h for h in owed if h not in failed and known.first[h] > known.since[h]]
        access = await _access(session, limits, [items.id(h) or b"" for h in there])
        spans = []
        for handle, (readable, historizing) in zip(there, access, strict=True):
            if readable:
                since, first = int(known.since[handle]), int(known.first[handle])
                spans.append(Span(handle, items.id(handle) or b"", since, first))
            if not (readable and historizing):
                failed.add(handle)
        async for span, columns in history.fetch(session, spans, limits.history):
            every = np.full(len(columns), span.handle, dtype=np.intp)
            yield list(items.batches(columns, every, time.time_ns(), backfill=True, entire=True))
            known.since[span.handle] = span.since
        failed |= {span.handle for span in spans if span.failed}
        yield self._declared(failed)
        known.since[self._handles()] = 0
        self._groups, self._start, self._end = [], 0, 0
        items.seam = False

    def _declared(self, failed: set[int]) -> list[News]:
        """Give the gaps of groups that could not be filled, or not in full."""
        gaps: list[News] = []
        for each in self._groups:
            handles = self._items.of_group(each)
            count = len(failed.intersection(handles))
            if count:
                why = f"{self._reason}; the history of {count} of {len(handles)} nodes could not be had"
                gaps.append(Gap(each.plan.device, each.plan.group, self._start, self._end, why))
        return gaps


async def _next_of(pages: AsyncIterator[list[News]]) -> list[News] | None:
    return await anext(pages, None)


async def _access(session: Session, limits: Limits, nodes: Sequence[bytes]) -> list[tuple[bool, bool]]:
    """Ask of each node whether its history may be read, and whether it is being kept. Raises NotConnected."""
    attributes = (ua.AttributeIds.AccessLevel, ua.AttributeIds.Historizing)
    asked = [(nodeid_from_binary(Buffer(node)), attribute) for node in nodes for attribute in attributes]
    said = [described.content(each) for each in await described.read(session, asked, limits)]
    return [
        (isinstance(level, int) and bool(level & HISTORY_READ), keeps is True)
        for level, keeps in zip(said[::2], said[1::2], strict=True)
    ]
