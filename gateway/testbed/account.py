"""The demonstration's account: what was appended, delivered and stored, what is missing, doubled, or wrong.

Nothing here comes from the gateway's counters of the moment. `appended` and `delivered` are the totals that the
journal keeps on disk; `stored`, `duplicates` and `gaps` are counted in the store's rows after ingest has closed the
file; `wrong` compares every stored value with what the simulator showed at that time (gateway.testbed.truth).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gateway.testbed.arrivals import Arrivals, Name, stored

if TYPE_CHECKING:
    from gateway.config import Site
    from gateway.testbed.truth import Shown


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
    from gateway.testbed.truth import truth

    journal = survey(site.data / site.journal.directory)
    arrivals = stored(database, site.gateway)
    values = compare(arrivals, truth(site))
    return Account(
        appended=journal.appended,
        delivered=min((publisher.delivered_readings for publisher in journal.publishers), default=0),
        stored=arrivals.total,
        missing=max(0, journal.appended - arrivals.distinct),
        duplicates=arrivals.total - arrivals.distinct,
        wrong=len(values.wrong) + len(values.misplaced),
        gaps=len(arrivals.gaps),
        bad=arrivals.bad,
        unknown=values.unknown,
        examples=(*values.wrong, *values.misplaced)[:10],
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """Rows with a value against what was shown. `misplaced` are right, and not at their time."""

    right: int
    wrong: tuple[str, ...]
    misplaced: tuple[str, ...]
    unknown: int


def compare(arrivals: Arrivals, truth: Mapping[Name, Shown]) -> Compared:
    """Compare every row that has a value; what a wrong word order made of values is not looked at."""
    from gateway.testbed.truth import WIDE

    right = unknown = 0
    wrong: list[str] = []
    misplaced: list[str] = []
    for (device, tag), rows in arrivals.rows.items():
        shown = truth.get((device, tag))
        valued = ~rows.bad
        if shown is None:
            unknown += int(valued.sum())
            continue
        valued &= ~shown.garbled(rows.time)
        time, value = rows.time[valued], rows.value[valued]
        fits = shown.matches(time, value)
        right += int(fits.sum())
        for row in np.flatnonzero(~fits):
            near = shown.matches(time[row : row + 1], value[row : row + 1], wide=WIDE)[0]
            (misplaced if near else wrong).append(f"{device}/{tag} at {time[row]}: {value[row]!r}")
    return Compared(right, tuple(wrong), tuple(misplaced), unknown)
