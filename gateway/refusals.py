"""Refusals on their way to the audit log, and replies to them: a flood of them must fill no disk and no line.

The first refusal of a kind (publisher, cause, device) is written in full; equal ones in the minute after it are
counted, and one line says how many there were. Of more kinds than fit, all further ones are counted together. So a
minute costs a bounded number of lines, whatever comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

WINDOW: Final = 60.0  # s
KINDS: Final = 30  # that are told apart in a window

_Kind = tuple[str, str, str]  # publisher, cause, device


@dataclass(slots=True, eq=False)
class _Count:
    until: float
    more: int = 0


class Tally:
    """Says which refusals are to be written in full, and counts the others. Times are those of any steady clock."""

    def __init__(self) -> None:
        self._counts: dict[_Kind, _Count] = {}

    def note(self, publisher: str, cause: str, device: str, now: float, count: int = 1) -> bool:
        """Take note of a refusal; whether it is the first of its kind and is to be written in full."""
        kind = (publisher, cause, device[:100])
        if kind not in self._counts and len(self._counts) >= KINDS:
            kind = ("", "others", "")
        found = self._counts.get(kind)
        if found is None:
            self._counts[kind] = _Count(now + WINDOW, count - 1)
            return True
        found.more += count
        return False

    def due(self, now: float) -> list[Mapping[str, Any]]:
        """Give the entries of kinds whose time is over and that were counted; forget all that are over."""
        over = [kind for kind, count in self._counts.items() if count.until <= now]
        entries: list[Mapping[str, Any]] = []
        for kind in over:
            count = self._counts.pop(kind)
            if count.more:
                publisher, cause, device = kind
                what = {"publisher": publisher, "cause": cause, "device": device, "count": count.more}
                entries.append({"event": "refused more", **what, "seconds": WINDOW})
        return entries


class Allowance:
    """So many in a second, and as many at once after a pause."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._left = self._most
        self._at = 0.0

    def take(self, now: float, count: int = 1) -> bool:
        """Take this many, where they are allowed; `now` in seconds of any steady clock."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate) if self._at else self._most
        self._at = now
        if count > self._left + 1e-9:
            return False
        self._left -= count
        return True
