"""Every gateway that ingest hears of: births, last contact, version, clock offset, backlog. A SQLite file.

    gateways   prefix (of its topics), gateway, online, version, births, born, contact, summed, offset, waiting

born       ns, its clock: when it came online, as its status says (`since`)
births     how often that was, while ingest listened
contact    ns, our clock: its newest message of any kind that came live (what the broker had retained is no contact)
summed     ns, our clock: its newest summary; 0 where it never sent one
offset     ns, its clock less ours, when the newest summary came live; with the network's delay in it. NULL: not known
waiting    journal records that it still had, by that summary

A gateway tells of itself by `{prefix}/status` (gateway.sinks.mqtt) and `{prefix}/account/{publisher}`
(gateway.statements). Each worker has a file of its own, since each hears all of that; `fleet` reads them all and takes
the newest of each. Writing is for once in a while: `save` puts down what has changed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

PATTERN: Final = "fleet*.sqlite"
SECOND: Final = 10**9
SILENT: Final = 600  # s without a message after which a gateway that is said to be online is in trouble
BACKLOG: Final = 1000  # records that may wait before it is trouble
OFFSET: Final = 5 * SECOND  # ns that a clock may be wrong before it is trouble

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS gateways (
    prefix TEXT PRIMARY KEY, gateway TEXT NOT NULL, online INTEGER NOT NULL, version TEXT NOT NULL,
    births INTEGER NOT NULL, born INTEGER NOT NULL, contact INTEGER NOT NULL, summed INTEGER NOT NULL,
    "offset" INTEGER, waiting INTEGER NOT NULL) WITHOUT ROWID
"""
_COLUMNS: Final = 'prefix, gateway, online, version, births, born, contact, summed, "offset", waiting'


@dataclass(slots=True)
class Gateway:
    """What is known of one gateway. Times in ns, 0 where not known."""

    prefix: str
    gateway: str
    online: bool = False
    version: str = ""
    births: int = 0
    born: int = 0
    contact: int = 0
    summed: int = 0
    offset: int | None = None
    waiting: int = 0

    def trouble(self, now: int, undeclared: int = 0) -> list[str]:
        """Say what is wrong with it, the worst first; `undeclared`: records that the account misses."""
        found = [f"{undeclared} records lost"] if undeclared else []
        silence = (now - self.contact) // SECOND
        if not self.online:
            found.append("offline")
        elif silence > SILENT:
            found.append(f"silent for {silence // 60} min" if self.contact else "never heard live")
        if self.waiting > BACKLOG:
            found.append(f"{self.waiting} records wait")
        if self.offset is not None and abs(self.offset) > OFFSET:
            found.append(f"clock {self.offset / SECOND:+.0f} s")
        return found


class Fleet:
    """The table of one worker. `hear` and `met` are for the loop thread, `save` for any one thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")  # it is heard again
        self._connection.execute(_SCHEMA)
        self._gateways = {each.prefix: each for each in _rows(self._connection)}
        self._changed: set[str] = set()

    def close(self) -> None:
        """Write what has changed, and close."""
        try:
            self.save()
        finally:
            self._connection.close()

    def hear(self, topic: str, payload: bytes, *, live: bool, now: int | None = None) -> None:
        """Note what a gateway tells of itself under `status` or `account/{publisher}`. Raises ValueError."""
        when = time.time_ns() if now is None else now
        body: Any = orjson.loads(payload) if payload else {}
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")
        if topic.endswith("/status"):
            prefix = topic.removesuffix("/status")
            self._status(self._of(prefix), body)
            live = live and body.get("online") is True  # its will is not from itself
        else:
            prefix = topic.rsplit("/", 2)[0]
            self._summary(self._of(prefix), body, when, live=live)
        if live:
            self.met([prefix], when)

    def met(self, prefixes: Iterable[str], now: int | None = None) -> None:
        """Note that messages came from these gateways just now."""
        when = time.time_ns() if now is None else now
        for prefix in prefixes:
            self._of(prefix).contact = when

    def _of(self, prefix: str) -> Gateway:
        self._changed.add(prefix)
        found = self._gateways.get(prefix)
        if found is None:
            found = self._gateways[prefix] = Gateway(prefix, prefix.rpartition("/")[2])
        return found

    @staticmethod
    def _status(of: Gateway, body: Mapping[str, Any]) -> None:
        of.online = body.get("online") is True
        of.version = str(body.get("version", of.version))[:40]
        born = _instant(body.get("since"))
        if of.online and born and born != of.born:
            of.births, of.born = of.births + 1, born

    @staticmethod
    def _summary(of: Gateway, body: Mapping[str, Any], now: int, *, live: bool) -> None:
        try:
            at, waiting = int(body["at"]), sum(int(last) - int(first) + 1 for first, last in body["waiting"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a summary: {error!r}") from error
        if max(abs(at), abs(waiting)) >= 2**62:
            raise ValueError("not a summary: a number out of range")
        if not live and of.summed:
            return  # we heard it before
        of.waiting = waiting
        of.version = str(body.get("version") or of.version)[:40]
        of.summed = now if live else at
        if live:
            of.offset = at - now

    def save(self) -> None:
        """Write what has changed. Raises sqlite3.Error."""
        changed, self._changed = self._changed, set()
        rows = [_row(self._gateways[prefix]) for prefix in changed]
        if rows:
            with self._connection:  # commits, or rolls back: an open transaction would refuse every later save
                self._connection.execute("BEGIN")
                self._connection.executemany(
                    f"INSERT OR REPLACE INTO gateways ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
                )

    @property
    def changed(self) -> bool:
        """Whether there is something to save."""
        return bool(self._changed)


def read(directory: Path) -> list[Gateway]:
    """Read what all workers of this directory know, by prefix; ingest may be running."""
    found: dict[str, Gateway] = {}
    for path in sorted(directory.glob(PATTERN)):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as connection:
            for each in _rows(connection):
                known = found.get(each.prefix)
                newer, older = (each, known) if known is None or each.contact >= known.contact else (known, each)
                if older is not None:
                    newer.births = max(newer.births, older.births)
                    if older.summed > newer.summed:
                        newer.summed, newer.offset, newer.waiting = older.summed, older.offset, older.waiting
                found[each.prefix] = newer
    return [found[prefix] for prefix in sorted(found)]


def _rows(connection: sqlite3.Connection) -> list[Gateway]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM gateways").fetchall()
    return [Gateway(row[0], row[1], bool(row[2]), *row[3:]) for row in rows]


def _row(of: Gateway) -> tuple[Any, ...]:
    return tuple(getattr(of, name) for name in Gateway.__slots__)


def _instant(text: object) -> int:
    """Read an ISO 8601 instant as ns; 0 where it is none."""
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return 0
    if when is None:
        return 0
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * SECOND)
