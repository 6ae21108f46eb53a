"""How much may be under way to a peer at once, so that what is new never waits long behind what is old.

Acknowledgements set the pace: while they come within GOOD seconds the allowance doubles or grows, when they take longer
than SLOW it is halved, at most once per round trip. On a fast network the allowance ends at its maximum and plays no
part; on a modem it keeps about half a second's worth in flight. Pure arithmetic; the caller passes the time in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GOOD: Final = 0.25
SLOW: Final = 0.6


@dataclass(slots=True)
class Pace:
    """Bytes that may be in flight."""

    least: int
    most: int
    allowance: float = 128 << 10
    _starting: bool = True
    _changed: float = 0.0  # what was sent before this time says nothing about the present allowance

    def acknowledged(self, size: int, sent: float, now: float) -> None:
        """Take note that `size` bytes sent at `sent` were acknowledged at `now` (seconds of a monotonic clock)."""
        delay = now - sent
        if delay > SLOW:
            if sent >= self._changed:
                self.allowance = max(self.least, self.allowance / 2)
                self._changed = now
            self._starting = False
        elif delay < GOOD:
            self.allowance = min(self.most, self.allowance + (size if self._starting else size / 4))

    @property
    def message(self) -> int:
        """The largest piece that should be sent at once: two fit into the allowance."""
        return max(self.least // 2, int(self.allowance / 2))
