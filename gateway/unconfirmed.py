"""What the broker has taken from a publisher and the store has not confirmed yet: see `acknowledge: store`.

The journal keeps it. What the store confirms is let go of. What it does not, while it confirms what was sent later, was
lost between the two and is sent again after `patience`, then after twice that, and so on to an hour. While nothing is
confirmed at all ingest is away, and sending again would help nobody. Entries that follow each other are one, so that a
day without ingest is a thousand of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.ranges import Range, Ranges

_TOGETHER: Final = 30.0  # s
_LONGEST: Final = 3600.0  # s


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
        self._entries: list[_Entry] = []  # by first

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
        for entry in self._entries:
            if entry.first <= first and last <= entry.last:
                entry.at = now  # it was sent again
                return
        newest = self._entries[-1] if self._entries else None
        if newest and newest.last + 1 == first and not newest.tries and now - newest.since < _TOGETHER:
            newest.last, newest.at, newest.readings = last, now, newest.readings + readings
            return
        self._entries.append(_Entry(first, last, readings, now, now))
        self._entries.sort(key=lambda entry: entry.first)

    def confirmed(self, stored: Ranges) -> list[tuple[int, int, int]]:
        """Take out what is stored; give it as first, last and readings (with the last piece of an entry)."""
        gone, kept = [], []
        for entry in self._entries:
            holes = stored.missing(entry.first, entry.last)
            if holes == [(entry.first, entry.last)]:
                kept.append(entry)
                continue
            there = Ranges(holes).missing(entry.first, entry.last)
            for first, last in there:
                gone.append((first, last, 0 if holes else entry.readings))
                entry.readings = 0 if not holes else entry.readings
            kept += [_Entry(*hole, entry.readings if hole == holes[-1] else 0, entry.since, entry.at, entry.tries)
                     for hole in holes]  # fmt: skip
        self._entries = kept
        return gone

    def overdue(self, newest: int, now: float) -> list[Range]:
        """Give what is to be sent again, where the store has confirmed up to `newest`; it counts as sent now."""
        again = []
        for entry in self._entries:
            if entry.last < newest and now - entry.at >= min(self.patience * 2 ** min(entry.tries, 16), _LONGEST):
                entry.tries, entry.at = entry.tries + 1, now
                again.append((entry.first, entry.last))
        return again

    def doubt(self, since: float) -> None:
        """Forget what the broker took after `since`: it may not have kept it, and the next session sends it again."""
        self._entries = [entry for entry in self._entries if entry.at < since]
