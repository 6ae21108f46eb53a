"""The proof that nothing was lost and nothing is wrong, from the store's rows alone.

It knows the site file, the simulator's signals and the store's tables; it does not look at the gateway's counters.

- once: no (series, time) is in the store twice.
- true: each stored value is what the signal of that tag shows at a tick within the time the reading may have taken.
- whole: every scan instant of every tag, from the first row or gap to the last, has a row in its slot (or, where the
  scan ended late, in the next, or the one after the scans that were skipped for it), or lies in a declared gap, or in
  a time that a Bad row opened and no good row closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psycopg
from numpy.typing import NDArray

from gateway.config import load_site
from gateway.model import Group, Tag
from gateway.quality import BAD
from simulators.site import signals

NEVER = 2**63
TABLES = ("floats", "ints", "uints", "bools", "texts")


@dataclass
class Rows:
    """A tag's rows in the order of time."""

    time: NDArray[np.int64]
    value: list[Any]
    quality: NDArray[np.uint32]


@dataclass(frozen=True)
class Hole:
    """A declared gap."""

    device: str
    group: str
    start: int
    end: int
    reason: str

    def covers(self, group: Group) -> bool:
        return self.device in ("", group.device) and self.group in ("", group.name)


@dataclass
class Evidence:
    """All that is in the store."""

    rows: dict[tuple[str, str], Rows]
    holes: list[Hole]
    count: int


def read(database: Path, of: str = "%") -> Evidence:
    """Read everything from the store's file; or the rows of one device, where all are too many for Python lists."""
    with duckdb.connect(str(database), read_only=True) as connection:
        collected: dict[tuple[str, str], list[tuple[int, Any, int]]] = {}
        for table in TABLES:
            found = connection.execute(
                f"SELECT s.device, s.tag, epoch_ns(r.time), r.value, r.quality FROM {table} r"
                " JOIN series s ON s.id = r.series WHERE s.device LIKE ? ORDER BY epoch_ns(r.time)",
                [of],
            ).fetchall()
            for device, tag, time, value, quality in found:
                collected.setdefault((device, tag), []).append((time, value, quality))
        holes = [
            Hole(*row)
            for row in connection.execute(
                'SELECT device, "group", epoch_ns("start"), epoch_ns("end"), reason FROM gaps'
            ).fetchall()
        ]
    return _evidence(collected, holes)


def read_postgres(url: str) -> Evidence:
    """Read everything from the schema `plantbridge` of a PostgreSQL server. A time has its nanoseconds apart there."""
    collected: dict[tuple[str, str], list[tuple[int, Any, int]]] = {}
    with psycopg.connect(url) as connection:
        connection.execute("SET search_path TO plantbridge")
        when = "(extract(epoch FROM time) * 1000000)::bigint * 1000 + nanos"
        for device, tag, time, value, exact, text, quality in connection.execute(
            f"SELECT device, tag, {when}, r.value, exact::text, r.text, quality FROM samples r"
            f" JOIN series s ON s.id = r.series ORDER BY {when}"
        ):
            shown = next((each for each in (int(exact) if exact else None, value, text) if each is not None), None)
            collected.setdefault((device, tag), []).append((time, shown, quality))
        query = 'SELECT device, "group", start_ns, end_ns, reason FROM gaps'
        holes = [Hole(*row) for row in connection.execute(query)]
    return _evidence(collected, holes)


def _evidence(collected: dict[tuple[str, str], list[tuple[int, Any, int]]], holes: list[Hole]) -> Evidence:
    rows = {
        name: Rows(
            np.array([time for time, _, _ in each], dtype=np.int64),
            [value for _, value, _ in each],
            np.array([quality for _, _, quality in each], dtype=np.uint32),
        )
        for name, each in collected.items()
    }
    return Evidence(rows, holes, sum(len(each.time) for each in rows.values()))


def duplicates(evidence: Evidence) -> int:
    """Count the rows whose series and time occurred before."""
    return sum(len(rows.time) - len(np.unique(rows.time)) for rows in evidence.rows.values())


def _slots(group: Group, first: int, last: int) -> NDArray[np.int64]:
    start = -(-(first - group.phase) // group.interval) * group.interval + group.phase
    return np.arange(start, last, group.interval, dtype=np.int64)


def _uncovered(group: Group, rows: Rows, holes: list[Hole]) -> list[int]:
    """Give the scan instants of one tag that nothing accounts for."""
    instants = _slots(group, int(rows.time[0]), int(rows.time[-1]) - group.interval)
    bad = rows.quality >= BAD
    missing: list[int] = []
    place = 0
    for instant in instants.tolist():
        while place < len(rows.time) and rows.time[place] < instant:
            place += 1
        coming = int(rows.time[place]) if place < len(rows.time) else NEVER
        if coming < instant + group.interval:  # a row in the instant's own slot
            place += 1
        elif (place and bad[place - 1]) or any(hole.start <= instant < hole.end for hole in holes):
            continue
        elif coming < _resumed(instant + group.interval, holes) + group.interval:  # the scan ended late
            place += 1
        else:
            missing.append(instant)
    return missing


def _resumed(instant: int, holes: list[Hole]) -> int:
    """Give the first instant from this one on that was not skipped."""
    return next((hole.end for hole in holes if hole.reason == "skipped scan" and hole.start == instant), instant)


def undeclared(evidence: Evidence, site: Path) -> dict[str, list[int]]:
    """Give, per tag, the scan instants that have neither a row nor a declared reason."""
    found: dict[str, list[int]] = {}
    for link in load_site(site).links:
        for device in link.devices:
            for group in device.groups:
                holes = [hole for hole in evidence.holes if hole.covers(group)]
                for table in group.tables:
                    for tag in table.tags:
                        rows = evidence.rows.get((device.name, tag.name))
                        missing = [0] if rows is None else _uncovered(group, rows, holes)
                        if missing:
                            found[f"{device.name}/{tag.name}"] = missing
    return found


def tags(site: Path) -> list[tuple[str, Tag]]:
    """Give (device, tag) of every tag of a site."""
    return [
        (device.name, tag)
        for link in load_site(site).links
        for device in link.devices
        for group in device.groups
        for table in group.tables
        for tag in table.tags
    ]


def wrong(evidence: Evidence, site: Path, tolerance: float) -> list[str]:
    """Give the readings whose value the simulator never showed in the `tolerance` seconds before their time."""
    found: list[str] = []
    for link in load_site(site).links:
        for (device, name), signal in signals(link).items():
            rows = evidence.rows.get((device, name))
            if rows is None or signal is None:
                continue
            usable = rows.quality < BAD
            time = rows.time[usable]
            value = np.array([rows.value[row] for row in np.flatnonzero(usable)], dtype=signal.tag.kind.dtype)
            right = signal.matches(time, value, round(tolerance * 1e9))
            shown = signal.value(time)
            found += [
                f"{device}/{name} at {time[row]}: {value[row]!r}, the signal showed {shown[row]!r}"
                for row in np.flatnonzero(~right)
            ]
    return found
