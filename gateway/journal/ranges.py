"""Sets of whole numbers as sorted, disjoint, non-touching ranges: which sequences a publisher has acknowledged."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # first and last, both inside


class Ranges:
    """A set of whole numbers. Cheap while it has few holes, which a window in flight ensures."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._lasts, number)
        return at < len(self._firsts) and self._firsts[at] <= number

    def add(self, first: int, last: int) -> None:
        """Add first..last, both included."""
        if last < first:
            return
        begin = bisect_left(self._lasts, first - 1)  # the first range that touches or follows
        end = begin
        while end < len(self._firsts) and self._firsts[end] <= last + 1:
            end += 1
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end], self._lasts[begin:end] = [first], [last]

    def missing(self, first: int, last: int) -> list[Range]:
        """Give the ranges within first..last that are not in the set."""
        holes: list[Range] = []
        for inside_first, inside_last in self:
            if inside_last < first:
                continue
            if inside_first > last:
                break
            if first < inside_first:
                holes.append((first, inside_first - 1))
            first = inside_last + 1
        if first <= last:
            holes.append((first, last))
        return holes

    def through(self, first: int) -> int:
        """Give the last number of the unbroken run that begins at `first`; first-1 where `first` is missing."""
        at = bisect_left(self._lasts, first)
        return self._lasts[at] if at < len(self._firsts) and self._firsts[at] <= first else first - 1
