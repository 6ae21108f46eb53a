"""So much a second, and so much in a period of the calendar: what a publisher may send."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So much a second, at most."""

    octets: float = math.inf
    messages: float = math.inf


@dataclass(frozen=True, slots=True)
class VolumeBudget:
    """So many bytes in each hour, day, week or month of the calendar."""

    octets: int
    per: str
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.octets} B/{self.per}"
