"""What arrived: the rows of each tag, from a store or from messages, in order of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Kind

Name = tuple[str, str]
"""Device and tag."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """One tag's rows in order of time. A Bad row has no value. `arrived`: when each came (ns), if known."""

    time: NDArray[np.int64]
    value: NDArray[Any]
    quality: NDArray[np.uint32]
    arrived: NDArray[np.int64] | None = None

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Mark the rows without a value."""
        return q.is_bad(self.quality)

    @property
    def distinct(self) -> int:
        """How many different times there are."""
        return len(np.unique(self.time))

    @classmethod
    def of(cls, kind: Kind, rows: Sequence[tuple[int, Any, int]], arrived: Sequence[int] | None = None) -> Rows:
        """Make columns of (time, value, quality), and of when they came."""
        time = np.array([row[0] for row in rows], np.int64)
        order = np.argsort(time, kind="stable")
        value = np.full(len(rows), kind.nothing, kind.dtype)
        quality = np.array([row[2] for row in rows], np.uint32)
        for place, (_, each, code) in enumerate(rows):
            if code < q.BAD and each is not None:
                value[place] = each
        came = None if arrived is None else np.array(arrived, np.int64)[order]
        return cls(time[order], value[order], quality[order], came)


@dataclass(frozen=True, slots=True)
class Hole:
    """A declared gap; an empty device or group means all of them."""

    device: str
    group: str
    start: int
    end: int

    def covers(self, device: str, group: str) -> bool:
        return self.device in ("", device) and self.group in ("", group)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """All that arrived. `others` counts rows that are of no tag of the site."""

    rows: Mapping[Name, Rows]
    gaps: tuple[Hole, ...] = ()
    others: int = 0
    examples: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        return sum(len(rows.time) for rows in self.rows.values())

    @property
    def distinct(self) -> int:
        return sum(rows.distinct for rows in self.rows.values())

    @property
    def bad(self) -> int:
        return sum(int(rows.bad.sum()) for rows in self.rows.values())


def stored(database: Path, gateway: str) -> Arrivals:
    """Read a gateway's rows from a closed DuckDB file, or one whose writer answers. Raises StoreUnavailable."""
    from gateway.stores.layout import TABLES

    found: dict[Name, Rows] = {}
    for kind in Kind:
        devices, tags, times, values, codes = _ask(
            database,
            f"""SELECT s.device, s.tag, epoch_ns(r.time), r.value, r.quality
                FROM {TABLES[kind][0]} r JOIN series s ON s.id = r.series WHERE s.gateway = $gateway""",
            gateway=gateway,
        )
        rows: defaultdict[Name, list[tuple[int, Any, int]]] = defaultdict(list)
        for device, tag, time, value, code in zip(devices, tags, times, values, codes, strict=True):
            rows[device, tag].append((time, value, code))
        found |= {name: Rows.of(kind, each) for name, each in rows.items()}
    gaps = _ask(
        database,
        'SELECT device, "group", epoch_ns("start"), epoch_ns("end") FROM gaps WHERE gateway = $gateway',
        gateway=gateway,
    )
    return Arrivals(found, tuple(Hole(*each) for each in zip(*gaps, strict=True)))


def newest(database: Path, gateway: str) -> int:
    """Give the time (ns) of the newest stored row; 0 where there is none."""
    ((time,),) = _ask(database, "SELECT max(epoch_ns(time)) FROM latest WHERE gateway = $gateway", gateway=gateway)
    return int(time or 0)


def _ask(database: Path, sql: str, **parameters: Any) -> list[list[Any]]:
    """Give the columns of an answer."""
    from gateway.stores.inquiry import read

    with read(database, sql, parameters) as stream:
        found = stream.read_all()
        return [found.child(column).to_pylist() for column in range(found.schema.n_fields)]
