"""What each simulated tag showed at each moment: its signal, and what the steps of a scenario did to it.

A signal is a function of its name and the time, and a step's real times are in the simulators' log, so all is computed
here anew, in another process than the one that showed it. Faults that act on the connection show nothing else: they
are spells in which a tag could not be read.

Word order (`garbled`) is the one fault whose values are not computed: they are registers of one value read as another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.config import Site
from gateway.model import Device, Group, Kind, Link, Tag
from gateway.testbed.arrivals import Name
from simulators.playing import Playing
from simulators.scenario import Step
from simulators.signals import TICK, Signal, number_of, on_ramp
from simulators.site import Expected, expected

FOREVER: Final = 2**62
WIDE: Final = 10 * 10**9
"""ns: how far a time may be off for the value to be right and the time to be wrong."""
ROUNDED: Final = 1e-6
"""How far another gateway's floats may be off, relatively: JSON is often written with a float32's digits."""
UNREADABLE: Final = ("drop", "hang", "garble", "restart", "silence", "exception")


@dataclass(frozen=True, slots=True)
class Spell:
    """A step, and when it really began and ended (ns)."""

    step: Step
    begin: int
    end: int = FOREVER

    def hits(self, link: str, device: str, tag: str) -> bool:
        """Whether it acts on this tag."""
        step = self.step
        return step.link == link and step.device in ("", device) and step.tag in ("", tag)

    def during(self, time: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the times within."""
        within: NDArray[np.bool_] = (time >= self.begin) & (time < self.end)
        return within


def read_log(path: Path, steps: Sequence[Step]) -> tuple[Spell, ...]:
    """Read what `simulate --log` wrote of these steps."""
    begun: dict[int, int] = {}
    ended: dict[int, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for word, times in (("begin", begun), ("end", ended)):
            if word in entry:
                times[entry["step"]] = entry[word]
    return tuple(Spell(steps[place], at, ended.get(place, FOREVER)) for place, at in sorted(begun.items()))


@dataclass(frozen=True, slots=True)
class Shown:
    """One tag, and what it showed. `exact` where rows carry the source's own time."""

    link: Link
    device: Device
    group: Group
    tag: Tag
    check: Expected
    tick: int
    spells: tuple[Spell, ...] = ()
    strange: bool = False  # rows are another gateway's: times as it likes, floats as it writes them

    @property
    def signal(self) -> Signal:
        return self.check.signal

    @property
    def exact(self) -> bool:
        return self.check.tolerance == 0 and not self.strange

    @property
    def name(self) -> str:
        return f"{self.device.name}/{self.tag.name}"

    @property
    def patience(self) -> int:
        """How long (ns) the gateway may take to find that the device does not answer, and no longer."""
        timeout: float = self.device.options.timeout or self.link.options.timeout
        return round(timeout * 1e9) * int(1 + self.device.options.retries)

    def of(self, *faults: str) -> list[Spell]:
        """Give the spells of these faults that act on the tag."""
        return [spell for spell in self.spells if spell.step.fault in faults]

    @property
    def wide(self) -> bool:
        """Whether its value takes several registers, which a wrong word order changes."""
        source = self.tag.source
        return self.link.driver == "modbus" and self.tag.kind is not Kind.TEXT and getattr(source, "count", 1) > 1

    def garbled(self, time: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the times at which the value that arrives is not computed here: word order."""
        marked = np.zeros(len(time), np.bool_)
        for spell in self.of("word-order") if self.wide else ():
            marked |= (time >= spell.begin) & (time < spell.end + self.check.tolerance)
        return marked

    def value(self, time: NDArray[np.int64]) -> NDArray[Any]:
        """Give the engineering values at these times."""
        values = self.signal.value(time)
        for spell in self.of("freeze"):
            values[spell.during(time)] = self.signal.value(np.array([spell.begin]))[0]
        for spell in self.of("ramp"):
            within = spell.during(time)
            values[within] = [self._ramp(spell, each) for each in time[within].tolist()]
        if self.tag.out_of_range == "clamp" and self.tag.kind is not Kind.TEXT:
            values = np.clip(values, self.tag.minimum, self.tag.maximum).astype(values.dtype)
        return values

    def _ramp(self, spell: Spell, time: int) -> Any:
        holds = None
        if self.link.driver == "modbus":
            from simulators import modbus_map

            holds = modbus_map.holds(self.signal.tag, self.tag.source)
        last = number_of(self.signal, spell.step.options.to or 0.0, holds)
        end = spell.begin + round((spell.step.lasts or 0.0) * 1e9 / 2)
        first = self.signal.whole(spell.begin)
        number = on_ramp(time // self.tick * self.tick, spell.begin, end, first, last) * self.signal.quantum
        return self.signal.engineering(int(number) if self.signal.quantum == 1 else float(number))

    def matches(self, time: NDArray[np.int64], value: NDArray[Any], *, wide: int = 0) -> NDArray[np.bool_]:
        """Mark the rows whose value was shown at their time, or up to `wide` ns before or after it.

        A row without the source's own time is stamped when the answer arrives: its value is of some moment before.
        """
        slow = max((round((spell.step.options.delay or 0.0) * 1e9) for spell in self.of("slow")), default=0)
        tolerance = 0 if self.exact else max(self.check.tolerance, self.patience) + slow
        # within a tick a spell may begin or end: what is shown at its first and at its last moment counts
        backs = {0, -(self.tick - 1)} if self.exact else {*range(0, tolerance + 1, self.tick), tolerance}
        if wide:
            backs |= {*range(-wide, tolerance + wide + 1, self.tick)}
        right = self._matches(time, value, backs)
        for spell in self.of("clock"):
            skew = round((spell.step.options.by or 0.0) * 1e9)
            meant = time - skew
            told = (meant >= spell.begin - self.tick) & (meant < spell.end + self.tick)
            if told.any():
                right[told] |= self._matches(meant[told], value[told], backs)
        return right

    def _matches(self, time: NDArray[np.int64], value: NDArray[Any], backs: Iterable[int]) -> NDArray[np.bool_]:
        right = np.zeros(len(time), np.bool_)
        for back in sorted(backs, key=abs):
            left = np.flatnonzero(~right)
            if not len(left):
                break
            shown = self.value(time[left] - back)
            if self.strange and self.tag.kind is Kind.FLOAT:
                right[left] = np.isclose(shown, value[left], rtol=ROUNDED, atol=0)
            else:
                right[left] = shown == value[left]
        return right


def truth(
    site: Site, spells: Sequence[Spell] = (), tick: int = TICK, playing: Playing | None = None
) -> dict[Name, Shown]:
    """Give what every tag that is simulated shows; tags without a signal to compare with are left out."""
    checks = expected(site, tick, playing)
    found: dict[Name, Shown] = {}
    for link in site.links:
        for device in link.devices:
            for group in device.groups:
                for tag in (tag for table in group.tables for tag in table.tags):
                    check = checks.get((device.name, tag.name))
                    if check is None:
                        continue
                    hit = tuple(spell for spell in spells if spell.hits(link.name, device.name, tag.name))
                    found[device.name, tag.name] = Shown(link, device, group, tag, check, tick, hit)
    return found


def differs(shown: NDArray[Any], held: NDArray[Any], tag: Tag) -> NDArray[np.bool_]:
    """Mark where what is shown differs from what is held by more than the tag's deadband."""
    other: NDArray[np.bool_] = shown != held
    if tag.kind is Kind.FLOAT:
        band = tag.deadband if tag.deadband > 0 else 0.0
        far: NDArray[np.bool_] = np.abs(shown - held) > band * (1 + ROUNDED) + ROUNDED * np.abs(shown)
        return far
    if tag.kind in (Kind.TEXT, Kind.BOOL) or not tag.deadband > 0:
        return other
    other[other] = [
        abs(int(one) - int(two)) > tag.deadband
        for one, two in zip(shown[other].tolist(), held[other].tolist(), strict=True)
    ]
    return other
