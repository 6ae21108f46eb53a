"""The switch that stops all writes: a file in the data directory, which is there or is not.

    DATA/isolated     {"since": "2026-11-22T04:15:00Z", "by": "maria", "reason": "work on press-1"}

Whatever is in the file, also nothing: where it is, nothing is written to any device, by nobody, and it stays so over
restarts until somebody at the machine removes it (`plantbridge isolate off`). It is looked for before each write.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from gateway import durable
from gateway.audit import stamp

NAME = "isolated"


@dataclass(frozen=True, slots=True)
class Isolation:
    """Since when writes are stopped, by whom, and why."""

    since: str = ""
    by: str = ""
    reason: str = ""

    def __str__(self) -> str:
        parts = [f"since {self.since}" if self.since else "", f"by {self.by}" if self.by else "", self.reason]
        return ", ".join(filter(None, parts)) or f"the file {NAME} is there"


class Switch:
    """The switch of one gateway."""

    def __init__(self, data: Path) -> None:
        self.path = data / NAME

    @property
    def on(self) -> bool:
        """Whether writes are stopped. A directory that cannot be looked into counts as on."""
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def read(self) -> Isolation | None:
        """Give what the switch says; None where writes are allowed."""
        if not self.on:
            return None
        try:
            body = orjson.loads(self.path.read_bytes())
            return Isolation(**{key: str(body.get(key, "")) for key in ("since", "by", "reason")})
        except (OSError, ValueError, AttributeError):
            return Isolation()

    def isolate(self, by: str, reason: str, now: int) -> bool:
        """Stop all writes; durable when it returns. Gives whether that is a change. Raises OSError."""
        if self.on:
            return False
        durable.write(self.path, orjson.dumps(asdict(Isolation(stamp(now), by, reason))))
        return True

    def release(self) -> bool:
        """Allow writes again. Gives whether that is a change. Raises OSError."""
        if not self.on:
            return False
        self.path.unlink()
        durable.sync(self.path.parent)
        return True
