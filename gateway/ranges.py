"""Sets of whole numbers as sorted runs that do not touch: journal sequences, few holes, whatever order they came in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # first and last, both inside


class Ranges:
    """A set of whole numbers. Adding and asking cost the logarithm of the number of runs."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        """Give the number of runs, not of numbers."""
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._lasts, number)
        return at < len(self._firsts) and self._firsts[at] <= number

    @property
    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def add(self, first: int, last: int) -> Range | None:
        """Add first..last, both included; give the run that they are part of now (None where last < first)."""
        if last < first:
            return None
        begin = bisect_left(self._lasts, first - 1)  # the first run that touches or follows
        end = bisect_right(self._firsts, last + 1)  # one past the last run that touches
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end], self._lasts[begin:end] = [first], [last]
        return first, last

    def missing(self, first: int, last: int) -> list[Range]:
        """Give the ranges within first..last that are not in the set."""
        holes: list[Range] = []
        at = bisect_left(self._lasts, first)
        while first <= last and at < len(self._firsts) and self._firsts[at] <= last:
            if first < self._firsts[at]:
                holes.append((first, self._firsts[at] - 1))
            first = self._lasts[at] + 1
            at += 1
        if first <= last:
            holes.append((first, last))
        return holes

    def within(self, first: int, last: int) -> list[Range]:
        """Give the ranges within first..last that are in the set."""
        begin, end = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return [(max(first, self._firsts[at]), min(last, self._lasts[at])) for at in range(begin, end)]

    @property
    def newest(self) -> int:
        """The greatest number; 0 where there is none."""
        return self._lasts[-1] if self._lasts else 0

    def around(self, number: int) -> Range:
        """Give the run that this number is part of. Raises KeyError where it is in none."""
        at = bisect_left(self._lasts, number)
        if at == len(self._firsts) or number < self._firsts[at]:
            raise KeyError(number)
        return self._firsts[at], self._lasts[at]

    def through(self, first: int) -> int:
        """Give the last number of the unbroken run that begins at `first`; first-1 where `first` is missing."""
        at = bisect_left(self._lasts, first)
        return self._lasts[at] if at < len(self._firsts) and self._firsts[at] <= first else first - 1


def runs(numbers: Iterable[int]) -> Iterator[Range]:
    """Give first and last of each run of consecutive numbers, whatever order they came in."""
    return iter(Ranges((number, number) for number in numbers))
