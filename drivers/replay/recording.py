"""A recording: a CSV file as columns per series, and what it says at a moment.

    time,series,value,quality
    2026-11-01T08:00:00Z,pressure,4.25,Good
    2026-11-01T08:00:01Z,pressure,,BadTimeout
    1793520002000000000,parts,18446744073709551615,

The first line names the columns; `quality` may be missing. Time is ISO 8601 with a zone, or whole nanoseconds since
1970. Quality is a StatusCode by name or number; nothing means Good, and a Good row without a value is BadNoData. Rows
may come in any order. Values are kept as text until a tag says as what it holds them.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Kind

CODES: Final = {
    q.name(code).lower(): code for name, code in vars(q).items() if name.isupper() and isinstance(code, int)
}
BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series in order of time; at one time, the row that comes last in the file is last."""

    time: NDArray[np.int64]
    text: NDArray[Any]
    quality: NDArray[np.uint32]

    def values(self, kind: Kind) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Give values as this kind and their qualities; what the kind cannot hold is BadTypeMismatch."""
        value = np.full(len(self.text), kind.nothing, dtype=kind.dtype)
        quality = self.quality.copy()
        for row, text in enumerate(self.text.tolist()):
            if quality[row] >= q.BAD:
                continue
            try:
                value[row] = _parse(text, kind)
            except (ValueError, KeyError, OverflowError):
                quality[row] = q.BAD_TYPE_MISMATCH
        return value, quality


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """All series of a file, and their moments in order. The last moment lasts as long as the one before it."""

    series: dict[str, Series]
    moments: NDArray[np.int64]

    @property
    def first(self) -> int:
        """When it begins (ns)."""
        return int(self.moments[0])

    @property
    def length(self) -> int:
        """How long it lasts (ns)."""
        step = self.moments[-1] - self.moments[-2] if len(self.moments) > 1 else 10**9
        return int(self.moments[-1] - self.moments[0] + step)


def load(path: Path) -> Recording:
    """Read a file. Raises OSError where it cannot be read, ValueError with the line where it makes no sense."""
    rows: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"time", "series", "value"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name}: the first line must name the columns time, series, value")
        for row in reader:
            try:
                rows[row["series"]].append((_time(row["time"]), row["value"], _quality(row)))
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}:{reader.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"{path.name}: there are no rows")
    series = {}
    for name, found in rows.items():
        found.sort(key=lambda row: row[0])
        time, text, quality = zip(*found, strict=True)
        series[name] = Series(np.array(time, np.int64), np.array(text, object), np.array(quality, np.uint32))
    return Recording(series, np.unique(np.concatenate([each.time for each in series.values()])))


def _time(text: str) -> int:
    if text.lstrip("-").isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the time {text!r} has no zone: write Z or +01:00 behind it")
    since = moment - EPOCH
    return ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _quality(row: dict[str, Any]) -> int:
    text = (row.get("quality") or "Good").strip()
    code = CODES.get(text.lower())
    if code is None:
        try:
            code = int(text, 0)
        except ValueError:
            raise ValueError(f"unknown quality {text!r}") from None
    return q.BAD_NO_DATA if code < q.BAD and not row["value"] else code


def _parse(text: str, kind: Kind) -> float | int | bool | str:
    match kind:
        case Kind.FLOAT:
            return float(text)
        case Kind.BOOL:
            return BOOLS[text.strip().lower()]
        case Kind.TEXT:
            return text
        case _:
            return int(text)
