"""Opening the journal's file: what is damaged or foreign is set aside, loudly, and a new file begun that owes the loss.

    journal.damaged                  why the last run could not go on with the file; gone once it was set aside
    journal.sqlite.damaged-TIME-n    what was set aside, with its -wal and -shm; nobody reads it again, or removes it

Damage is what SQLite reports, what the file's own rules refuse (gateway.journal.file), and what SQLite would not see: a
file that was emptied. A disk, a directory or another process that is in the way is no damage: that is an error.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gateway.clock import DATED
from gateway.errors import JournalError
from gateway.journal.disk import LOCK, RESERVE, is_damage
from gateway.journal.file import NAME, TILL_NOW, JournalFile, connect_to_read

if TYPE_CHECKING:
    from gateway.options import JournalOptions

log = structlog.get_logger()

_MARK: Final = "journal.damaged"


def open_file(directory: Path, options: JournalOptions) -> JournalFile:
    """Open the journal's file. One that is damaged or foreign is set aside, loudly, and a new one owes the loss.

    Raises JournalError where the directory cannot be used.
    """
    mark = directory / _MARK
    try:
        reason = _marked(mark) or _emptied(directory / NAME)
        if not reason:
            try:
                return JournalFile(directory, options)
            except sqlite3.DatabaseError as error:
                malformed = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR  # its schema
                if not is_damage(error) and not malformed:
                    raise
                reason = str(error)
            except UnicodeDecodeError as error:  # SQLite quotes a schema that is no text
                reason = ascii(error.object)
        start, told = _set_aside(directory, reason)
        mark.unlink(missing_ok=True)
        file = JournalFile(directory, options)
        file.owe(told, start, TILL_NOW)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal in {directory} cannot be opened: {error}") from error
    return file


def mark_damaged(directory: Path, reason: str) -> None:
    """Have the file set aside when it is opened next: a restart alone would not help. Raises OSError."""
    (directory / _MARK).write_text(reason)


def _marked(mark: Path) -> str:
    """Give what the last run said of the file's damage, or nothing."""
    try:
        return mark.read_text() or "found damaged in the last run"
    except FileNotFoundError:
        return ""


def _emptied(path: Path) -> str:
    """Say so where a file has lost even its first page: SQLite would take it for a new one, and drop the WAL.

    A file that was being made when the power went is empty too; then there is nothing yet beside it.
    """
    beside = (path.with_name(f"{path.name}-wal"), path.with_name(RESERVE))
    with contextlib.suppress(FileNotFoundError):
        with path.open("rb") as file:
            head = file.read(512)
        if len(head) < 512 and any(other.exists() for other in beside):
            return "the file is empty"
        if head.startswith(b"SQLite") and max(head[18:20]) > 2:  # else SQLite would only read it
            return "its header is damaged"
    return ""


def _set_aside(directory: Path, reason: str) -> tuple[int, str]:
    """Move the file away; give the time of the oldest that it held, and a sentence for the gap record."""
    path = directory / NAME
    start = _oldest_time(path)
    aside = f"{NAME}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 10**6:06d}"
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{directory / aside}{suffix}")
    log.error(
        "The journal is damaged or none of ours. It was set aside and a new one begun; what it held was not delivered.",
        reason=reason,
        file=str(directory / aside),
    )
    return start, f"the journal was damaged ({reason}) and set aside as {aside}"


def _oldest_time(path: Path) -> int:
    """Give the time of the oldest record in a damaged file; where nobody can tell, when its first file was made.

    The room kept for a full disk is laid by when a journal is begun, and hardly ever again.
    """
    found: list[int] = []
    unreadable = (sqlite3.Error, UnicodeDecodeError)  # of SQLite's message, which may quote the damage
    with contextlib.suppress(*unreadable), contextlib.closing(connect_to_read(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")  # reads what there is of a file that was cut off
        for (start,) in connection.execute("SELECT start FROM records ORDER BY sequence LIMIT 100"):
            if isinstance(start, int) and start >= DATED:  # nobody knows any more when the others were
                found.append(start)
    if found:
        return min(found)
    found.append(time.time_ns())
    for name in (path.name, f"{path.name}-wal", LOCK, RESERVE):
        with contextlib.suppress(OSError):
            found.append(path.with_name(name).stat().st_mtime_ns)
    return min(found)
