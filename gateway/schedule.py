"""When things happen: scan instants on the wall clock, and pauses between attempts. Pure arithmetic, no clock inside.

A poll group's scans sit on k * interval + phase since 1970, so that they fall on whole seconds, stay there over
restarts, and line up between gateways. An instant that has passed when its turn comes is skipped and counted; two
scans are never bunched to catch up. Times are int nanoseconds, pauses float seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


def next_instant(now: int, interval: int, phase: int = 0) -> int:
    """Give the first scan instant after `now`."""
    return ((now - phase) // interval + 1) * interval + phase


def missed(due: int, now: int, interval: int) -> int:
    """Give how many whole intervals have passed since `due`: the scans to skip. 0 while the scan is in its slot."""
    return max(0, (now - due) // interval)


@dataclass(slots=True)
class Backoff:
    """Pauses that double from `first` to `longest` seconds, each shortened at random by up to half.

    The randomness keeps a hundred gateways from coming back in the same second after a power cut.
    """

    first: float
    longest: float
    random: random.Random = field(default_factory=random.Random)
    attempts: int = 0

    def pause(self) -> float:
        """Give the next pause in seconds."""
        full = min(self.longest, self.first * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        return full * (0.5 + 0.5 * self.random.random())

    def reset(self) -> None:
        """Start again from `first`: something worked."""
        self.attempts = 0
