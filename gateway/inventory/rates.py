"""The rates of a plant: numerator, denominator, and who is in them. Pure.

    configured   生产设备联网率 (登记): devices listed as connected, of the devices listed
    measured     生产设备联网率 (实测): devices with good data in the time, of the devices listed
    live         生产设备联网率 (当前): devices that answer the running gateway now, of the devices listed
    processes    关键工序数控化率: key processes whose machines are all numerically controlled, of the key processes
    equipment    装备数控化率: numerically controlled devices, of the devices listed

Listed are all entries but the auxiliary. A process of which only some machines are numerically controlled is in the
denominator alone. Whether a machine is connected does not matter for the last two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gateway.inventory.listing import Machine

if TYPE_CHECKING:
    from gateway.inventory.stored import Evidence, Seen  # which needs DuckDB: a gateway has none


@dataclass(frozen=True, slots=True)
class Live:
    """What the running gateway says of a device: whether it gives good values now; its last scan (ns); why not.

    There is no reason where it answers and all of its tags are Bad.
    """

    up: bool
    last: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """A quotient and what it is of."""

    name: str
    numerator: tuple[str, ...]
    denominator: tuple[str, ...]

    @property
    def value(self) -> float | None:
        """The quotient; None where nothing is listed."""
        return len(self.numerator) / len(self.denominator) if self.denominator else None

    @property
    def rest(self) -> tuple[str, ...]:
        """What is in the denominator alone."""
        counted = set(self.numerator)
        return tuple(each for each in self.denominator if each not in counted)


@dataclass(frozen=True, slots=True)
class Process:
    """A key process and its machines."""

    name: str
    machines: tuple[Machine, ...]

    @property
    def controlled(self) -> tuple[Machine, ...]:
        return tuple(each for each in self.machines if each.is_.numerically_controlled)

    @property
    def counts(self) -> bool:
        """Whether it counts as numerically controlled."""
        return len(self.controlled) == len(self.machines)


@dataclass(frozen=True)
class Report:
    """All that a report says. `begin` and `end` (ns) of the time; `stored` and `live` by gateway, where asked for."""

    machines: tuple[Machine, ...]
    begin: int
    end: int
    made: int
    files: tuple[str, ...]
    store: str = ""  # where what is stored was asked for; empty: it was not
    stored: Mapping[str, Evidence] | None = None
    live: Mapping[tuple[str, str], Live] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def listed(self) -> tuple[Machine, ...]:
        """What is counted."""
        return tuple(each for each in self.machines if each.is_.counted)

    @property
    def hours(self) -> tuple[int, ...]:
        return next((each.hours for each in (self.stored or {}).values()), ())

    def name(self, machine: Machine) -> str:
        """Name a machine; with its gateway where there are several."""
        return "/".join(machine.key) if self._several else machine.is_.name

    @cached_property
    def _several(self) -> bool:
        return len({each.gateway for each in self.machines}) > 1

    def seen(self, machine: Machine) -> Seen | None:
        """Give what is stored of a machine; None where nothing was asked, or it has no link."""
        found = (self.stored or {}).get(machine.gateway)
        return None if found is None else found.devices.get(machine.is_.name)

    @property
    def silent(self) -> tuple[Machine, ...]:
        """What is listed as connected and gives no good data: stored, or live where the store was not asked."""
        connected = [each for each in self.listed if each.is_.state == "connected"]
        if self.stored is not None:
            return tuple(each for each in connected if (seen := self.seen(each)) is None or not seen.connected)
        if self.live is not None:
            return tuple(each for each in connected if each.key not in self.live or not self.live[each.key].up)
        return ()

    @property
    def processes(self) -> tuple[Process, ...]:
        names = dict.fromkeys(each.is_.process for each in self.listed if each.is_.process)
        return tuple(Process(name, tuple(each for each in self.listed if each.is_.process == name)) for name in names)

    @property
    def rates(self) -> tuple[Rate, ...]:
        every = self.listed
        found = [self._rate("configured", every, [each for each in every if each.is_.state == "connected"])]
        if self.stored is not None:
            there = [each for each in every if (seen := self.seen(each)) is not None and seen.connected]
            found.append(self._rate("measured", every, there))
        if self.live is not None:
            up = [each for each in every if each.key in self.live and self.live[each.key].up]
            found.append(self._rate("live", every, up))
        processes = self.processes
        counting = tuple(each.name for each in processes if each.counts)
        found.append(Rate("processes", counting, tuple(each.name for each in processes)))
        found.append(self._rate("equipment", every, [each for each in every if each.is_.numerically_controlled]))
        return tuple(found)

    def _rate(self, name: str, every: Sequence[Machine], some: Sequence[Machine]) -> Rate:
        return Rate(name, tuple(map(self.name, some)), tuple(map(self.name, every)))
