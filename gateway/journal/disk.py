"""What the journal knows of the disk beneath it: who else writes there, whether it is full, whether it is broken."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from gateway import durable
from gateway.errors import JournalError

LOCK: Final = "journal.lock"
RESERVE: Final = "journal.reserve"
_NEXT_TO_NOTHING: Final = 1 << 20


def is_disk_full(error: sqlite3.Error, directory: Path) -> bool:
    """Tell a full disk, which the journal lives with, from a broken one, which it does not."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return True
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        with contextlib.suppress(OSError):
            return free_bytes(directory) < _NEXT_TO_NOTHING
    return False


class Foreign(sqlite3.DatabaseError):
    """The file is a database, but no journal that this version could read."""


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether the file itself is bad, as against a disk, a directory or another process that is in the way."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    bad = (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CONSTRAINT,
    )  # a sound file breaks no constraint
    return isinstance(error, Foreign) or code in bad or str(error).split()[:2] == ["no", "such"]  # table


def free_bytes(directory: Path) -> int:
    """Give the bytes that this user may still write in the directory's file system."""
    if not hasattr(os, "statvfs"):
        return 1 << 62  # Windows: only SQLite's own error tells
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def wal_size(directory: Path, max_size: int) -> int:
    """Give the bytes at which the WAL is moved into the file: small against the disk: it must fit in twice."""
    return max(256 << 10, min(4 << 20, max_size // 16, free_bytes(directory) // 16))


class Reserve:
    """Some room kept from others, to be given back when the disk is full: making room in the file takes room too.

    It is twice the WAL, so that the WAL can always be moved into the file, whose pages are then used again.
    """

    def __init__(self, directory: Path, max_size: int) -> None:
        self._path = directory / RESERVE
        self._size = 2 * wal_size(directory, max_size)

    def take(self) -> bool:
        """Lay the reserve by if the disk has plenty of room; give whether it is there."""
        with contextlib.suppress(OSError):
            if self._path.exists():
                return True
            if free_bytes(self._path.parent) > 4 * self._size:
                with self._path.open("wb") as file:
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, self._size)
                    else:
                        file.write(bytes(self._size))
                return True
        return False

    def release(self) -> None:
        """Give the room back."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class Lock:
    """At most one process writes a journal. The lock ends with the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises JournalError, naming the process that has it."""
        path = directory / LOCK
        self._file: Any = path.open("a+", encoding="ascii")
        try:
            durable.lock(self._file)
        except OSError as error:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise JournalError(
                f"the journal in {directory} is in use by process {pid}: is this gateway running already?"
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()
