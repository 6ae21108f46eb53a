"""The demonstration's account: what was appended, delivered and stored, what is missing, doubled, or wrong.

Nothing here comes from the gateway's counters of the moment. `appended` and `delivered` are the totals that the
journal keeps on disk; `stored`, `duplicates` and `gaps` are counted in the store's rows after ingest has closed the
file; `wrong` compares every stored value with what the simulator's signal gives for that tag and time
(simulators.signals), computed once more in this process.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway import quality
from gateway.model import Kind

if TYPE_CHECKING:
    from gateway.config import Site
    from simulators.site import Expected


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the readings; `bad` have no value to compare, `unknown` are of tags without a signal."""

    appended: int
    delivered: int
    stored: int
    missing: int
    duplicates: int
    wrong: int
    gaps: int
    bad: int
    unknown: int
    examples: tuple[str, ...]  # of wrong values

    @property
    def clean(self) -> bool:
        """Say whether all that was read is stored, once, as it was."""
        return self.stored > 0 and not (self.missing or self.duplicates or self.wrong)


def take(site: Site, database: Path) -> Account:
    """Draw up the account of a site's journal and a closed DuckDB file. Raises JournalError, StoreUnavailable."""
    from gateway.journal.survey import survey
    from simulators.site import expected

    journal = survey(site.data / site.journal.directory)
    delivered = min((publisher.delivered_readings for publisher in journal.publishers), default=0)
    checks = expected(site)
    stored = distinct = bad = unknown = wrong = 0
    examples: list[str] = []
    for kind in Kind:
        rows, different, kind_bad = _counts(database, kind)
        stored, distinct, bad = stored + rows, distinct + different, bad + kind_bad
        for device, tag, time, value in _series(database, site.gateway, kind):
            check = checks.get((device, tag))
            if check is None:
                unknown += len(time)
                continue
            amiss = _amiss(check, time, value)
            wrong += len(amiss)
            examples += [f"{device}/{tag} at {time[row]}: {value[row]!r}" for row in amiss[:3]]
    gaps = int(_ask(database, "SELECT count(*) FROM gaps")[0][0])
    return Account(
        appended=journal.appended,
        delivered=delivered,
        stored=stored,
        missing=max(0, journal.appended - distinct),
        duplicates=stored - distinct,
        wrong=wrong,
        gaps=gaps,
        bad=bad,
        unknown=unknown,
        examples=tuple(examples[:10]),
    )


def _amiss(check: Expected, time: Any, value: Any) -> Any:
    """Give the rows whose value the signal did not have."""
    return np.flatnonzero(~check.signal.matches(time, value, check.tolerance))


def _counts(database: Path, kind: Kind) -> tuple[int, int, int]:
    """Give rows, different (series, time), and Bad rows of a kind's table."""
    from gateway.stores.layout import TABLES

    columns = _ask(
        database,
        f"""SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT series, time FROM {TABLES[kind][0]})),
                   count(*) FILTER (quality >= {quality.BAD}) FROM {TABLES[kind][0]}""",
    )
    return int(columns[0][0]), int(columns[1][0]), int(columns[2][0])


def _series(database: Path, gateway: str, kind: Kind) -> list[tuple[str, str, Any, Any]]:
    """Give device, tag, times and values of each series of a kind, rows without a value left out."""
    from gateway.stores.layout import TABLES

    devices, tags, times, values = _ask(
        database,
        f"""SELECT s.device, s.tag, epoch_ns(r.time), r.value
            FROM {TABLES[kind][0]} r JOIN series s ON s.id = r.series
            WHERE r.quality < {quality.BAD} AND s.gateway = $gateway""",
        gateway=gateway,
    )
    rows: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row, name in enumerate(zip(devices, tags, strict=True)):
        rows[name].append(row)
    every_time, every_value = np.array(times, np.int64), np.array(values, kind.dtype)
    return [(*name, every_time[chosen], every_value[chosen]) for name, chosen in rows.items()]


def _ask(database: Path, sql: str, **parameters: Any) -> list[list[Any]]:
    """Give the columns of an answer."""
    from gateway.stores.inquiry import read

    with read(database, sql, parameters) as stream:
        found = stream.read_all()
        return [found.child(column).to_pylist() for column in range(found.schema.n_fields)]
