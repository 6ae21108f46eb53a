"""What outlives the process: a small JSON object, such as the account of a publisher's budget.

A FileMemory writes its file anew as a whole, durably. One that cannot be read is told and taken for empty: what is kept
here may be forgotten, at a cost that its owner knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog

from gateway import durable

log = structlog.get_logger()


class Memory(Protocol):
    """A small JSON object that outlives the process; the publisher's owner keeps it in a file of its own."""

    def load(self) -> dict[str, Any]:
        """Give what was saved last; {} where nothing was, or where it cannot be read."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Keep this instead, durably when it returns."""
        ...


class Forgetful:
    """A Memory for tests and for formats that need none."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state: dict[str, Any] = dict(state or {})

    def load(self) -> dict[str, Any]:
        return dict(self.state)

    def save(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


class FileMemory:
    """A Memory in a small file of its own, written anew as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any]:
        try:
            found = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("What was remembered cannot be read; it begins anew.", file=str(self._path), error=str(error))
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, state: dict[str, Any]) -> None:
        durable.write(self._path, orjson.dumps(state))
