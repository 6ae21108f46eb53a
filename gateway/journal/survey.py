"""What is in a journal, read beside the running daemon or without one. Changes nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.clock import DATED
from gateway.errors import JournalError
from gateway.journal.file import NAME, connect_to_read
from gateway.ranges import Ranges


@dataclass(frozen=True, slots=True)
class PublisherSurvey:
    """How far one publisher is."""

    name: str
    delivered_readings: int
    pending_records: int
    pending_readings: int
    oldest: int | None  # start of the oldest pending record, ns


@dataclass(frozen=True, slots=True)
class Survey:
    """The journal's content and account at one moment. Times in ns."""

    id: str
    created: int
    file_bytes: int
    records: int
    readings: int
    bytes: int
    first: int | None
    last: int
    oldest: int | None
    newest: int | None
    undated: int  # records that were taken while the clock was not known; the times here are those of the others
    appended: int
    dropped: int
    definitions: int
    publishers: tuple[PublisherSurvey, ...]


def survey(directory: Path) -> Survey:
    """Look into the journal of a directory. Raises JournalError where there is none or it cannot be read."""
    path = directory / NAME
    if not path.exists():
        raise JournalError(f"there is no journal in {directory}: has the gateway run with this configuration?")
    try:
        with contextlib.closing(connect_to_read(path)) as connection:
            connection.execute("BEGIN")  # one moment for all that follows
            return _survey(connection, path)
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise JournalError(f"the journal in {directory} cannot be read: {error}") from error


def _survey(connection: sqlite3.Connection, path: Path) -> Survey:
    run = connection.execute
    head = run("SELECT id, created, last, appended, dropped, records, bytes FROM journal").fetchone()
    if head is None:
        raise ValueError("it has no head")
    first, oldest, newest, readings, undated = run(
        "SELECT min(sequence), min(start) FILTER (WHERE start >= :dated), max(end) FILTER (WHERE end >= :dated),"
        " total(readings), count(*) FILTER (WHERE start < :dated) FROM records",
        {"dated": DATED},
    ).fetchone()
    publishers = []
    for name, acknowledged, delivered in run("SELECT name, acknowledged, readings FROM publishers ORDER BY name"):
        pending = Ranges(map(tuple, orjson.loads(acknowledged))).missing(first or head[2] + 1, head[2])
        sums = [
            run(
                "SELECT count(*), total(readings), min(start) FILTER (WHERE start >= ?) FROM records"
                " WHERE sequence BETWEEN ? AND ?",
                (DATED, *one),
            ).fetchone()
            for one in pending
        ]
        starts = [start for _, _, start in sums if start is not None]
        publishers.append(
            PublisherSurvey(
                name,
                delivered,
                sum(count for count, _, _ in sums),
                int(sum(readings for _, readings, _ in sums)),
                min(starts, default=None),
            )
        )
    return Survey(
        id=head[0],
        created=head[1],
        file_bytes=sum(
            file.stat().st_size for suffix in ("", "-wal") if (file := path.with_name(path.name + suffix)).exists()
        ),
        records=head[5],
        readings=int(readings),
        bytes=head[6],
        first=first,
        last=head[2],
        oldest=oldest,
        newest=newest,
        undated=undated,
        appended=head[3],
        dropped=head[4],
        definitions=run("SELECT count(*) FROM definitions").fetchone()[0],
        publishers=tuple(publishers),
    )
