"""What the broker has taken from a publisher and the store has not confirmed yet: see `acknowledge: store`.

The journal keeps it. What the store confirms is let go of. What it does not, while it confirms what was sent later, was
lost between the two and is sent again after `patience`, then after twice that, and so on to an hour. While nothing is
confirmed at all ingest is away, and sending again would help nobody. Entries that follow each other are one, so that a
day without ingest is a thousand of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from gateway.ranges import Range, Ranges

_TOGETHER: Final = 30.0  # s
_LONGEST: Final = 3600.0  # s
_first, _last = attrgetter("first"), attrgetter("last")


@dataclass(slots=True)
class _Entry:
    first: int
    last: int
    readings: int
    since: float  # when the broker took the first of it, loop time
    at: float  # when it took the newest of it
    tries: int = 0  # how often it was sent again


class Unconfirmed:
    """The records of one publisher that wait for the store. Times are the event loop's."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._entries: list[_Entry] = []  # in order; they do not overlap

    def __len__(self) -> int:
        """Give the number of records."""
        return sum(entry.last - entry.first + 1 for entry in self._entries)

    @property
    def ranges(self) -> Ranges:
        """The records."""
        return Ranges((entry.first, entry.last) for entry in self._entries)

    @property
    def tried(self) -> int:
        """How often some record was sent again at most."""
        return max((entry.tries for entry in self._entries), default=0)

    def took(self, first: int, last: int, readings: int, now: float) -> None:
        """Note that the broker has taken these records."""
        begin = bisect_left(self._entries, first, key=_last)
        again = self._entries[begin : bisect_right(self._entries, last, key=_first)]
        for entry in again:
            entry.at = now
        if again:  # what of it is in no entry any more was let go of
            return
        newest = self._entries[-1] if self._entries else None
        if newest and newest.last + 1 == first and not newest.tries and now - newest.since < _TOGETHER:
            newest.last, newest.at, newest.readings = last, now, newest.readings + readings
        else:
            self._entries.insert(begin, _Entry(first, last, readings, now, now))

    def confirmed(self, stored: Ranges) -> list[tuple[int, int, int]]:
        """Take out what is stored; give it as first, last and readings (with the last piece of an entry)."""
        gone: list[tuple[int, int, int]] = []
        kept: list[_Entry] = []
        end = bisect_right(self._entries, stored.newest, key=_first)
        for entry in self._entries[:end]:
            holes = stored.missing(entry.first, entry.last)
            gone += [(*part, 0 if holes else entry.readings) for part in stored.within(entry.first, entry.last)]
            kept += [
                replace(entry, first=first, last=last, readings=entry.readings if (first, last) == holes[-1] else 0)
                for first, last in holes
            ]
        self._entries[:end] = kept
        return gone

    def overdue(self, newest: int, now: float) -> list[Range]:
        """Give what is to be sent again, where the store has confirmed up to `newest`; it counts as sent now."""
        again = []
        for entry in self._entries[: bisect_left(self._entries, newest, key=_last)]:
            if now - entry.at >= min(self.patience * 2 ** min(entry.tries, 16), _LONGEST):
                entry.tries, entry.at = entry.tries + 1, now
                again.append((entry.first, entry.last))
        return again

    def doubt(self, since: float) -> None:
        """Forget what the broker took after `since`: it may not have kept it, and the next session sends it again."""
        self._entries = [entry for entry in self._entries if entry.at < since]
