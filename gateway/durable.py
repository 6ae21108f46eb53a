"""Files that are on the disk when a call returns, and locks on files that end with their process. Raises OSError."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def write(path: Path, data: bytes) -> None:
    """Write a file anew as a whole: after a power cut it has its old content or the new one. Makes its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    put(fresh, path)


def put(fresh: Path, path: Path) -> None:
    """Put a finished file into the place of another, on the disk with its name."""
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        if os.name == "nt" and path.is_dir():  # Windows opens no directories
            return
        raise
    try:
        os.fsync(number)
    finally:
        os.close(number)


def lock(file: Any) -> None:
    """Lock an open file against other processes, or raise OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(1 << 20)  # beyond what others are to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
