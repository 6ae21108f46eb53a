"""What makes a store take each reading once: marks of what is newest.

Marks hold the time of the newest reading of each series. A reading later than its mark is certainly new, and no
look-up is spent on it; that is nearly all of them. The others (messages that came twice, a backlog behind live
data) are doubtful: the store must ask what it has. Marks may be too high, which costs look-ups; never too low.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = int(np.iinfo(np.int64).min)


class Marks:
    """The newest time known of each series, by series id (0, 1, 2, ...)."""

    def __init__(self) -> None:
        self._newest: NDArray[np.int64] = np.full(1024, NEVER, dtype=np.int64)

    def reserve(self, size: int) -> None:
        """Make room for the series below `size`."""
        if size > len(self._newest):
            grown = np.full(max(size, 2 * len(self._newest)), NEVER, dtype=np.int64)
            grown[: len(self._newest)] = self._newest
            self._newest = grown

    def newest(self, series: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Give the marks of these series."""
        return self._newest[series]

    @property
    def latest(self) -> int:
        """The time of the newest reading of all."""
        return int(self._newest.max())

    def raise_to(self, series: NDArray[np.uint32], time: NDArray[np.int64]) -> None:
        """Note that these rows are stored."""
        np.maximum.at(self._newest, series, time)

    def sort_out(
        self, series: NDArray[np.uint32], time: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp] | None, NDArray[np.intp]]:
        """Give the rows that are certainly new (None: every row), and those that the store must look up.

        Of rows with equal series and time only the first is among either. Both keep the order they came in.
        """
        order = np.argsort(series, kind="stable")
        by_series, times = series[order], time[order]
        backward = (by_series[1:] == by_series[:-1]) & (times[1:] <= times[:-1])
        late = time <= self._newest[series]
        nothing = np.empty(0, dtype=np.intp)
        if not late.any() and not backward.any():
            return None, nothing
        disordered = np.zeros(len(self._newest), dtype=np.bool_)
        disordered[by_series[1:][backward]] = True
        suspects = late | disordered[series]
        rows = np.flatnonzero(suspects)
        rows = rows[np.lexsort((time[rows], series[rows]))]
        again = (series[rows[1:]] == series[rows[:-1]]) & (time[rows[1:]] == time[rows[:-1]])
        rows = rows[np.concatenate(([True], ~again))]
        fresh = np.concatenate((np.flatnonzero(~suspects), rows[~late[rows]]))
        fresh.sort()
        return fresh, np.sort(rows[late[rows]])
