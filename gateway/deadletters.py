"""Messages that nobody will take: set aside on disk with the reason, bounded, so that the rest goes on.

Files `dead-letters.jsonl` (the newest), `dead-letters.1.jsonl`, ... in one directory; each line is one message:

    {"time": "2026-11-20T08:15:00.123456+00:00", "topic": "...", "reason": "...", "payload": "<base64>"}

A line is on disk when `put` returns. When the newest file is full the oldest is deleted, which is logged; so is a
message for which the disk has no room. Neither stops the rest.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import os
import threading
from pathlib import Path
from typing import Final

import orjson
import structlog

from gateway.metrics import Metrics

FILE_SIZE: Final = 16 << 20
FILES: Final = 4

log = structlog.get_logger()


class DeadLetters:
    """The dead letters of one process. Safe to use from several threads."""

    def __init__(self, directory: Path, metrics: Metrics, *, file_size: int = FILE_SIZE, files: int = FILES) -> None:
        self.directory = directory
        self._metrics = metrics
        self._file_size = file_size
        self._files = files
        self._lock = threading.Lock()

    def put(self, topic: str, payload: bytes, reason: str) -> None:
        """Set a message aside, loudly."""
        line = orjson.dumps(
            {
                "time": datetime.datetime.now(datetime.UTC).isoformat(),
                "topic": topic,
                "reason": reason,
                "payload": base64.b64encode(payload).decode(),
            }
        )
        self._metrics.dead_letters.inc()
        about = {"topic": topic, "reason": reason, "size": len(payload), "file": str(self._path(0))}
        failure = ""
        try:
            with self._lock:
                self._write(line + b"\n")
        except OSError as error:
            failure = str(error)
        if failure:
            log.error("a message was to be set aside and is lost: the disk does not take it", failure=failure, **about)
        else:
            log.error("a message was set aside", **about)

    def _write(self, line: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        newest = self._path(0)
        size = newest.stat().st_size if newest.exists() else 0
        if size and size + len(line) > self._file_size:
            self._rotate()
            size = 0
        with newest.open("ab") as file:
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.close()
                os.truncate(newest, size)  # half a line would spoil the next one
                raise

    def _path(self, age: int) -> Path:
        return self.directory / (f"dead-letters.{age}.jsonl" if age else "dead-letters.jsonl")

    def _rotate(self) -> None:
        oldest = self._path(self._files - 1)
        if oldest.exists():
            log.error("the oldest dead letters are deleted to make room", file=str(oldest))
            oldest.unlink()
        for age in range(self._files - 2, -1, -1):
            if self._path(age).exists():
                self._path(age).rename(self._path(age + 1))


def read(directory: Path) -> list[tuple[str, bytes, str]]:
    """Give topic, payload and reason of all that is kept, the oldest first."""
    letters = []
    for path in sorted(directory.glob("dead-letters*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_bytes().splitlines():
            entry = orjson.loads(line)
            letters.append((entry["topic"], base64.b64decode(entry["payload"]), entry["reason"]))
    return letters
