"""The gateway's clock: what the system's clock says, whether that can be true, and how readings are dated if it cannot.

A Raspberry Pi has no clock that runs without power: it starts in 1970, or at the time of its last shutdown, and is set
by NTP minutes or hours later (docs/adr/023). So there are two clocks: the system's, which may be set at any time, and
the steady one, which counts from the start of the kernel (named by its boot id) and is never set. `offset` is the
difference of the two as of the last look; `now` is the steady clock plus that.

- The clock is not known while it reads before EARLIEST, or where a new boot seems to have begun before, or right after,
  the last reading of an earlier one and neither a real-time clock nor NTP vouches for it.
- What the gateway's own clock stamps then is UNDATED plus the steady time: a year of 1823, which no source has. A Span
  says which journal records were taken so, in which boot. They are held, and dated by the boot's offset when it is
  known. What bears a time of its source keeps it.
- A boot that ended before its clock was known is dated as if the next had followed at once: the latest that it can be.
  Where nobody sets the clock for `wait` seconds with a broker connected, the best guess is taken. Both are `estimated`:
  Good becomes Uncertain, and a gap record of no extent says so.
- A clock that is known and is set by more than STEP is believed, and told: forward by a gap from the one time to the
  other, back by one of no extent that says how much.

The state is a mark in the journal: durable with the records that it explains. Nothing here waits, or touches a device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import structlog
from numpy.typing import NDArray

from gateway import quality as q
from gateway.model import Batch, Gap
from gateway.ranges import Range

log = structlog.get_logger()

SECOND: Final = 1_000_000_000
EARLIEST: Final = 1_704_067_200 * SECOND  # 2024-01-01: no release of this program is older
UNDATED: Final = -(1 << 62)  # plus ns of the steady clock
DATED: Final = -(1 << 61)  # what is less is undated
MARGIN: Final = 60 * SECOND  # a clock that went on counting through a reboot shows at least about so much
STEP: Final = SECOND  # of the system's clock; less is not worth telling
PAST: Final = 100  # spans that are kept when their records are gone: gap records tell of those
UNSTEADY: Final = SECOND // 100  # less is not even followed
LATE: Final = 600 * SECOND  # for which stamps of before a correction may still come in
LOOK: Final = 1.0  # s between looks
MARK: Final = "/clock"  # no link can have this name
NOT_KNOWN: Final = "the clock was not known: times are estimated"
FORWARD: Final = "the clock was set forward"
BACK: Final = "the clock was set back by"  # so many s; this one and NOT_KNOWN have no extent: nothing is missing


@dataclass(frozen=True, slots=True)
class Span:
    """Journal records first..last (0: still open) that were taken in a boot while its clock was not known.

    `end` is the steady time of the last of them, where another boot followed. `offset` plus a steady time is the time;
    None: not known yet, the records are held. `estimated`: it is only the best guess.
    """

    boot: str
    first: int
    last: int = 0
    end: int = 0
    offset: int | None = None
    estimated: bool = False

    def has(self, sequence: int) -> bool:
        return self.first <= sequence and (not self.last or sequence <= self.last)


@dataclass(frozen=True, slots=True)
class Change:
    """What a look at the system's clock found: by how much it was set (ns), and what the journal is to be told.

    `news`: it is known or not known now, or was set by so much that what was read before does not compare.
    """

    shift: int
    gaps: tuple[Gap, ...] = ()
    news: bool = False


class Clock:
    """The clock of one gateway. `recall` once, then `look` now and then; all on the loop's thread."""

    def __init__(
        self,
        wait: float = 3600.0,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] | None = None,
        boot: str | None = None,
        vouched: Callable[[int], bool] | None = None,
    ) -> None:
        """`wait` (s) is how long a broker may be connected before readings go out with estimated times."""
        self.known = True
        self.steps = 0  # since this start
        self.last_step = (0, 0)  # when (ns, the new clock's time), and by how much (ns)
        self.spans: tuple[Span, ...] = ()  # replaced as a whole: the journal's thread looks at it too
        self.doubtful = False  # whether what is stamped by the system's clock needs to be looked at
        self._wait = round(wait * SECOND)
        self._wall, self._steady = wall, steady or _steady
        self._boot = _boot_id() if boot is None else boot
        self._vouched = _vouched if vouched is None else vouched
        self._floor = 0  # the last known time of an earlier boot; 0: there was none
        self._waited = 0  # ns that a broker was connected while the clock was not known
        self._looked = self._steady()
        self._newest = 0  # when the newest record of earlier runs was taken (ns); 0: there is none
        self._set = False  # whether somebody has set the clock in this run
        self._free: frozenset[int] = frozenset()  # spans, by their first record, that may be sent
        self._showed: list[tuple[int, int]] = []  # what the clock said, unknown, the newest first: its offset, its end
        self._late = 0  # steady time until which `_showed` is looked at once the clock is known
        self.offset = self._difference()

    # ------------------------------------------------------------------------------------------------ what it says

    def now(self) -> int:
        """Give what the system's clock said at the last look, plus the time since: it makes no steps of its own."""
        return self._steady() + self.offset

    def stamp(self) -> int:
        """Give the time, undated where it is not known."""
        return self.now() if self.known else UNDATED + self._steady()

    def own(self, batch: Batch) -> Batch:
        """Give a batch in which what the system's clock stamped while it was not known is undated, or dated by now."""
        return replace(batch, time=self._moved(batch.time))

    def instant(self, moment: int) -> int:
        """Do as `own` for one time (ns)."""
        return int(self._moved(np.array([moment], np.int64))[0]) if self.doubtful else moment

    def missed(self, start: int, end: int) -> Range:
        """Do as `instant` for a gap; one from a time that cannot be is from the newest record of the last run."""
        if self.known and DATED < start < EARLIEST and self.instant(start) == start:
            return min(self._newest, end) or start, self.instant(end)
        return self.instant(start), self.instant(end)

    def _moved(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        showed, base = self._showed, self.offset
        if not self.known:
            showed, base = [(self.offset, self.now() + SECOND), *showed], UNDATED
        elif self._steady() > self._late:
            self.doubtful, self._showed = False, []
        moved, done = times, np.zeros(len(times), np.bool_)
        for offset, end in showed:
            rows = (times >= offset) & (times <= end) & ~done
            moved, done = np.where(rows, times + (base - offset), moved), done | rows
        return moved

    # ------------------------------------------------------------------------------------------------ what is dated

    @property
    def holds(self) -> bool:
        """Whether records are held until they can be dated."""
        return any(span.first not in self._free for span in self.spans)

    def free(self, first: int, last: int) -> list[Range]:
        """Give the parts of these sequences that are not held."""
        parts = []
        for span in self.spans:
            if span.first in self._free or span.first > last or (span.last and span.last < first):
                continue
            if first < span.first:
                parts.append((first, span.first - 1))
            first = span.last + 1 if span.last else last + 1
        return [*parts, (first, last)] if first <= last else parts

    def date(self, sequence: int, content: Batch | Gap) -> Batch | Gap:
        """Give a record with its times; where they are estimated, no quality is better than Uncertain."""
        if isinstance(content, Gap):
            if content.start >= DATED and content.end >= DATED:
                return content
            moments = [
                self.moment(content.first or sequence, content.start),
                self.moment(content.last or sequence, content.end),
            ]
            return replace(content, start=min(moments), end=max(moments))
        undated = content.time < DATED
        if not undated.any():
            return content
        offset, estimated = self._offset_of(sequence)
        times = np.where(undated, content.time - UNDATED + offset, content.time)
        quality = content.quality
        if estimated:
            quality = np.where(undated & q.is_good(quality), np.uint32(q.UNCERTAIN), quality)
        return replace(content, time=times, quality=quality)

    def moment(self, sequence: int, time: int) -> int:
        """Give the time (ns) for one of the record of this sequence, which may be undated."""
        return time if time >= DATED else time - UNDATED + self._offset_of(sequence)[0]

    def aged(self, sequence: int, time: int) -> int:
        """Do as `moment`, to tell how old a record is; what is held has no age."""
        if time >= DATED:
            return time
        span = self._span_of(sequence)
        return 1 << 62 if span is None or span.offset is None else time - UNDATED + span.offset

    def absence(self, last_time: int, last: int) -> Range:
        """Give since when and until when (ns) nothing was read, the newest record being `last`, of `last_time`."""
        now = self.stamp()
        if last_time < DATED:
            span = self._span_of(last)
            if span is not None and span.offset is not None:
                last_time += span.offset - UNDATED
            elif span is None or span.boot != self._boot:
                last_time = UNDATED  # the begin of this kernel: that is certain
        return min(last_time, now) if (last_time < DATED) == (now < DATED) else last_time, now

    def _span_of(self, sequence: int) -> Span | None:
        return next((span for span in self.spans if span.has(sequence)), None)

    def _offset_of(self, sequence: int) -> tuple[int, bool]:
        span = self._span_of(sequence)
        if span is None or span.offset is None:
            return self.offset, True  # held, or of a journal that has lost its mark: the guess of the day
        return span.offset, span.estimated

    # ------------------------------------------------------------------------------------------------ over restarts

    def recall(self, mark: bytes | None, last_time: int, first: int, following: int) -> list[Gap]:
        """Begin where the last run ended; give what the journal is to be told.

        `mark` is that run's `mark()`, `last_time` the stamp of the newest record, `first` the oldest sequence kept, and
        `following` the next to be given out.
        """
        state = _read(mark)
        same = state["boot"] == self._boot and (self._boot != "" or self._goes_on(state["offset"], last_time))
        past = [span for span in state["spans"] if span.last and span.last < first]
        self.spans = tuple(span for span in state["spans"] if span not in past[:-PAST])
        self._free = frozenset(span.first for span in self.spans if span.offset is not None)
        self._floor = state["floor"]
        if not same:
            self._floor = last_time if last_time >= EARLIEST else self._floor
            end = last_time - UNDATED if last_time < DATED else 0
            closed = (span if span.last else replace(span, last=following - 1, end=end) for span in self.spans)
            self.spans = tuple(span for span in closed if span.last >= span.first)
        if mark is None:  # a new journal, or one of an earlier version
            self._floor = 0
        if not (self.now() >= EARLIEST if same and state["known"] else self._plausible()):
            self._begin(following)
            return []
        gaps = self._learn(following)
        self._newest = self.absence(last_time, following - 1)[0] if last_time else 0
        return [*gaps, *self._told(self.offset - state["offset"])] if same and state["known"] else gaps

    def _goes_on(self, offset: int, last_time: int) -> bool:
        """Whether the steady clock is beyond the newest record: then it is the same boot, as far as can be told."""
        return self._steady() >= last_time - (UNDATED if last_time < DATED else offset)

    def mark(self) -> bytes:
        """Give what `recall` needs in the next run."""
        return orjson.dumps(
            {
                "boot": self._boot,
                "known": self.known,
                "offset": self.offset,
                "floor": self._floor,
                "spans": [asdict(span) for span in self.spans],
            }
        )

    def release(self) -> list[Range]:
        """Let go of what has a date by now, after `mark` is on disk; give the sequences, the oldest first.

        They must not get another date when they are sent again after a crash.
        """
        ready = [span for span in self.spans if span.offset is not None and span.first not in self._free]
        self._free = frozenset(span.first for span in self.spans if span.offset is not None)
        return [(span.first, span.last or 1 << 62) for span in ready]

    # ------------------------------------------------------------------------------------------------ looks

    def look(self, following: int, *, reachable: bool) -> Change | None:
        """Look at the system's clock; give what has changed, if anything has.

        `following` is the next sequence that the journal gives out, `reachable` whether a broker is connected.
        """
        steady = self._steady()
        elapsed, self._looked = steady - self._looked, steady
        shift = self._difference() - self.offset
        if abs(shift) <= UNSTEADY:
            shift = 0
        if not self.known:
            self._waited += elapsed if reachable else 0
            return self._look_for_it(shift, following)
        if not shift:
            return None
        self.offset += shift
        if self.now() < EARLIEST:
            self._begin(following)
            return Change(shift, news=True)
        gaps = tuple(self._told(shift))
        return Change(shift, gaps, news=bool(gaps))

    def _look_for_it(self, shift: int, following: int) -> Change | None:
        self._follow(shift)
        if self._plausible():
            return Change(shift, tuple(self._learn(following)), news=True)
        waits = any(not span.last and span.offset is None for span in self.spans)
        if waits and self._waited >= self._wait:
            return Change(shift, (self._guess(),), news=True)
        return Change(shift) if shift else None

    def _follow(self, shift: int) -> None:
        """Take over a setting of the clock, and remember what it has shown until now."""
        if shift:
            self._showed.insert(0, (self.offset, self.now() + SECOND))
            self.offset += shift
            self._set = self._set or abs(shift) > STEP

    def _begin(self, following: int) -> None:
        """Take what comes from now on for undated."""
        self.known, self.doubtful, self._waited = False, True, 0
        if all(span.last for span in self.spans):
            self.spans = (*self.spans, Span(self._boot, following))
        log.warning("The clock is not known: readings are kept, and dated when it is.", clock=_spoken(self.now()))

    def _learn(self, following: int) -> list[Gap]:
        """Believe the clock from now on, and date what was taken before."""
        undated = any(span.offset is None for span in self.spans)
        spans = (span if span.last else replace(span, last=following - 1) for span in self.spans)
        found = self._dated([span for span in spans if span.last >= span.first], self.offset)
        if not self.known or undated:
            self.known, self._late = True, self._steady() + LATE
            log.warning("The clock is known: what was read before is dated.", clock=_spoken(self.now()))
        if not found:
            return []
        begun = min(int(span.offset or 0) for span in found)
        late = f", at most {max(0, begun - self._floor) // SECOND} s too late" if self._floor else ""
        return [Gap("", "", begun, begun, f"{NOT_KNOWN}{late}")]

    def _guess(self) -> Gap:
        """Give up waiting: take what the clock shows, or, where that cannot be, that this boot followed at once."""
        shows = self.now()
        offset = self.offset if shows >= EARLIEST else max(self._floor, EARLIEST)
        self._dated(self.spans, offset, estimated=True)
        self._floor = min(self._floor, shows) if shows >= EARLIEST else self._floor  # not to ask again at the next boot
        log.error("Nobody has set the clock: readings go out with estimated times.", clock=_spoken(shows))
        return Gap("", "", UNDATED + self._steady(), UNDATED + self._steady(), NOT_KNOWN)

    def _dated(self, spans: Sequence[Span], begun: int, *, estimated: bool = False) -> list[Span]:
        """Date these spans, this kernel having begun at `begun`; give those of which that is but an estimate.

        Of a boot whose clock was never known the end is taken for the beginning of the boot that followed.
        """
        found, guessed = [], []
        for span in reversed(spans):
            if span.offset is None and span.boot == self._boot:
                span = replace(span, offset=begun, estimated=estimated)
            elif span.offset is None:
                begun -= span.end
                span = replace(span, offset=begun, estimated=True)
                guessed.append(span)
            elif span.boot != self._boot:
                begun = span.offset
            found.append(span)
        self.spans = tuple(reversed(found))
        return guessed

    def _told(self, shift: int) -> list[Gap]:
        """Tell that a known clock was set."""
        if abs(shift) <= STEP:
            return []
        new = self.now()
        old = new - shift
        self.steps, self.last_step = self.steps + 1, (new, shift)
        log.warning("The clock was set.", seconds=round(shift / SECOND, 3), clock=_spoken(new))
        return [
            Gap("", "", old, new, FORWARD) if shift > 0 else Gap("", "", new, new, f"{BACK} {-shift / SECOND:.0f} s")
        ]

    # ------------------------------------------------------------------------------------------------ whether it is so

    def _plausible(self) -> bool:
        """Whether the clock can be believed: the kernel began after what an earlier one saw, or others say so.

        Well after that where nobody has set it: it may have stood still while the machine was off.
        """
        wall = self.now()
        if wall < EARLIEST:
            return False
        return self.offset >= self._floor + (0 if self._set else MARGIN) or not self._floor or self._vouched(wall)

    def _difference(self) -> int:
        """Give the system's clock less the steady one, read as one."""
        for _ in range(5):
            before = self._steady()
            wall = self._wall()
            if self._steady() - before < UNSTEADY // 10:
                break
        return wall - before

    # ------------------------------------------------------------------------------------------------ for people

    @property
    def trouble(self) -> str:
        """What is wrong with the clock; empty where nothing is."""
        if self.known:
            return ""
        shows = f"the clock is not known (it shows {_spoken(self.now())})"
        if self.holds:
            return f"{shows}: readings are kept and dated when it is"
        return f"{shows}: readings go out with estimated times, as Uncertain"

    def account(self) -> dict[str, Any]:
        """Tell how the clock is. Times in ns."""
        return {
            "known": self.known,
            "trouble": self.trouble,
            "steps": self.steps,
            "stepped_at": self.last_step[0],
            "step": self.last_step[1],
        }


def _read(mark: bytes | None) -> dict[str, Any]:
    """Read a mark; one that makes no sense is none."""
    try:
        state = orjson.loads(mark or b"{}")
        return {
            "boot": str(state.get("boot", "")),
            "known": bool(state.get("known", False)),
            "offset": int(state.get("offset", 0)),
            "floor": int(state.get("floor", 0)),
            "spans": [Span(**each) for each in state.get("spans", [])],
        }
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("What the journal says of the clock cannot be read.", error=str(error))
        return {"boot": "", "known": False, "offset": 0, "floor": 0, "spans": []}


def _spoken(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment // SECOND))


def _steady() -> int:
    """Give ns since the kernel began, sleep included, where that can be told."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


def _boot_id() -> str:
    """Name this run of the kernel; empty where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _vouched(wall: int) -> bool:
    """Whether a real-time clock agrees, or NTP has set the clock; elsewhere than on Linux it is believed."""
    return sys.platform != "linux" or _agrees(wall) or _synchronised()


def _agrees(wall: int) -> bool:
    """Whether a real-time clock shows about the same time: then it was set by that."""
    try:
        shown = int(Path("/sys/class/rtc/rtc0/since_epoch").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return abs(wall - shown * SECOND) < MARGIN


def _synchronised() -> bool:
    """Whether the kernel, or systemd, says that the clock is synchronised."""
    import ctypes

    error = 5  # TIME_ERROR, adjtimex(2): not synchronised
    timex = ctypes.create_string_buffer(512)  # modes 0: nothing is set
    try:
        answer = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        answer = -1
    if answer >= 0:
        return int(answer) != error
    return Path("/run/systemd/timesync/synchronized").exists()  # systemd's ProtectClock forbids to ask the kernel
