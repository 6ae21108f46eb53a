"""A trace (gateway.trace) as simulated devices play it: what was recorded of DEVICE/TAG shows where that tag is.

Values are in engineering units in a trace, and raw in a device: scale and offset are undone exactly, and what the tag's
type cannot hold becomes the nearest that it can. A row shows from the beginning of the tick after its time; before its
first row a series shows that one. `speed` stretches time, and at the end all begins anew.

What a Bad row is depends on what the protocol can say. An OPC UA node has the row's own StatusCode and source time
(moved to now). A Modbus register has neither: requests that touch it are not answered where the row says that nobody
answered (SILENT), else refused with an exception (EXCEPTIONS, 02 for all others). A Bad row for want of a value
(BadNoData) is shown as the value by which the device says so, where the tag has one. A row that is Bad goes on showing
the value before it to whoever can read it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Kind, Tag
from gateway.trace import Trace

SILENT: Final = (q.BAD_TIMEOUT, q.BAD_NOT_CONNECTED, q.BAD_COMMUNICATION_ERROR)
EXCEPTIONS: Final = {q.BAD_DEVICE_FAILURE: 0x04, q.BAD_RESOURCE_UNAVAILABLE: 0x06, q.BAD_NO_COMMUNICATION: 0x0B}
ILLEGAL: Final = 0x02
SILENCE: Final = 0xFF
"""In the place of an exception code: no answer."""


@dataclass(frozen=True, slots=True)
class Playing:
    """A trace, and when it began to play (ns)."""

    trace: Trace
    start: int
    speed: float = 1.0

    def moment(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the trace's own time that plays at these times."""
        played = ((time - self.start) * self.speed).astype(np.int64) if self.speed != 1 else time - self.start
        return self.trace.first + played % self.trace.length

    def shown(self, stored: int, time: int) -> int:
        """Give the time at which what was recorded at `stored` plays, in the round of `time`."""
        begin = time - round((int(self.moment(np.array([time]))[0]) - self.trace.first) / self.speed)
        return begin + round((stored - self.trace.first) / self.speed)

    def track(
        self, device: str, tag: Tag, raw: Callable[[Any], Any] | None = None, nothing: int | None = None
    ) -> Track | None:
        """Give what plays as a tag; None where there is no series of it.

        `raw` makes a device's value of an engineering one (texts stay), `nothing` is the pattern that says "no value".
        """
        series = self.trace.series.get(f"{device}/{tag.name}")
        if series is None:
            return None
        value, quality = series.values(tag.kind)
        if tag.kind is Kind.FLOAT:
            quality = np.where(np.isfinite(value) | q.is_bad(quality), quality, np.uint32(q.BAD_NO_DATA))
        good = ~q.is_bad(quality)
        last = np.maximum.accumulate(np.where(good, np.arange(len(value)), -1))
        held = np.where(last >= 0, last, int(np.argmax(good)))
        shown = value[held]
        if not good.any():
            shown = np.full(len(value), tag.kind.nothing if tag.kind is not Kind.FLOAT else 0.0, value.dtype)
        bits = shown.view(np.uint64) if tag.kind is Kind.FLOAT else shown  # -0.0 is not 0.0
        _, first, where = np.unique(bits, return_index=True, return_inverse=True)
        found = shown[first].tolist()
        texts = tuple(found) if tag.kind is Kind.TEXT else ()
        patterns = range(len(texts)) if texts else (pattern(raw(each) if raw is not None else each) for each in found)
        numbers = np.array([*patterns], np.uint64)[where]
        if nothing is not None:
            void = quality == q.BAD_NO_DATA
            numbers, quality = np.where(void, np.uint64(nothing), numbers), np.where(void, 0, quality)
        return Track(self, series.time, numbers, quality.astype(np.uint32), texts)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One tag's rows: a 64-bit pattern each (of texts their number in `texts`), and what they say of it."""

    playing: Playing
    time: NDArray[np.int64]
    pattern: NDArray[np.uint64]
    quality: NDArray[np.uint32]
    texts: tuple[str, ...] = ()

    def row(self, time: NDArray[np.int64]) -> NDArray[np.intp]:
        """Give the rows that show at these times."""
        return np.maximum(np.searchsorted(self.time, self.playing.moment(time), side="right") - 1, 0)

    def count(self, time: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Give the patterns that show at these times."""
        return self.pattern[self.row(time)]

    def now(self, time: int) -> tuple[int, int]:
        """Give the StatusCode of what shows, and its time moved to now."""
        row = int(self.row(np.array([time]))[0])
        return int(self.quality[row]), min(self.playing.shown(int(self.time[row]), time), time)

    def trouble(self, time: int) -> int:
        """Give the Modbus exception with which requests are refused now; SILENCE; 0 where they are answered."""
        status, _ = self.now(time)
        if status < q.BAD:
            return 0
        return SILENCE if status in SILENT else EXCEPTIONS.get(status, ILLEGAL)


def pattern(value: Any) -> int:
    """Give the 64 bits of a raw value: of a float its own, of an integer two's complement."""
    if isinstance(value, float):
        return int(np.float64(value).view(np.uint64))
    return 0 if isinstance(value, str) else int(value) % 2**64


def unscaled(tag: Tag, value: float) -> float | Fraction:
    """Undo scale and offset, exactly; a value that has neither stays as it is, also -0.0."""
    if tag.scale == 1 and not tag.offset:
        return value
    return (Fraction(value) - tag.offset) / (tag.scale or 1)
