"""The machines of site files, and of those on a link the tags by poll group: what the store is asked about.

Names are those that a publisher shows (`tags: names`), beside the device's own; tags that every publisher leaves out
are not asked for, since they cannot be stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gateway.inventory.coverage import FOREVER, Lane
from gateway.model import Device, Group, Link, Tag
from gateway.names import driver_spec
from gateway.selection import matcher
from gateway.site import Equipment, Site

SLACK: Final = 0.5  # of an interval, that a reading may be late beside the time that its device may take


@dataclass(frozen=True, slots=True)
class Machine:
    """One entry of one site's inventory."""

    gateway: str
    is_: Equipment

    @property
    def key(self) -> tuple[str, str]:
        return self.gateway, self.is_.name


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one gateway as the store may have them. Devices and tags have numbers; `names` lead to tags."""

    gateway: str
    devices: tuple[str, ...]
    lanes: tuple[Lane, ...]
    groups: tuple[tuple[tuple[str, str], ...], ...]  # of each lane: the names (device, group) that gaps may give it
    hold: np.ndarray[Any, np.dtype[np.int64]]
    each: np.ndarray[Any, np.dtype[np.bool_]]  # whether a tag leaves a row at each scan
    names: dict[tuple[str, str], int]


def machines(sites: Iterable[Site]) -> list[Machine]:
    """List what the files list, in their order."""
    return [Machine(site.gateway, each) for site in sites for each in site.inventory]


def tags_of(site: Site) -> Tags:
    """Give the tags of a site by poll group."""
    devices: list[str] = []
    lanes: list[Lane] = []
    groups: list[tuple[tuple[str, str], ...]] = []
    hold: list[int] = []
    every: list[bool] = []
    names: dict[tuple[str, str], int] = {}
    shown = [_Shown(options.tags) for options in site.publishers.values()] or [_Shown(None)]
    for link in site.links:
        from_source = driver_spec(link.driver).source_time
        for device in link.devices:
            for group in device.groups:
                first, late = len(hold), _late(link, device, group)
                for tag in (tag for table in group.tables for tag in table.tags):
                    known = {name for each in shown if (name := each.name(device.name, tag.name)) is not None}
                    if known:
                        names.update(dict.fromkeys(known, len(hold)))
                        hold.append(_holds(tag, late, from_source=from_source))
                        every.append(math.isnan(tag.deadband) and not from_source)
                lanes.append(_lane(len(devices), group, first, len(hold)))
                groups.append(_gap_names(device, group, shown))
            devices.append(device.name)
    return Tags(
        site.gateway, tuple(devices), tuple(lanes), tuple(groups),
        np.array(hold, dtype=np.int64), np.array(every, dtype=np.bool_), names,
    )  # fmt: skip


class _Shown:
    """What one publisher shows, and under which names."""

    def __init__(self, options: Any) -> None:
        self._names: dict[str, str] = {} if options is None else dict(options.names)
        self.hides_groups = options is not None and "group" in options.hide
        self._allowed = matcher(["*"] if options is None else options.include)
        self._refused = matcher([] if options is None else options.exclude)

    def device(self, name: str) -> str:
        return self._names.get(name, name)

    def name(self, device: str, tag: str) -> tuple[str, str] | None:
        full = f"{device}/{tag}"
        if not self._allowed(full) or self._refused(full):
            return None
        return self.device(device), self._names.get(full, tag)


def _gap_names(device: Device, group: Group, shown: Iterable[_Shown]) -> tuple[tuple[str, str], ...]:
    names = {each.device(device.name) for each in shown} | {device.name}
    groups = {"", group.name, *("default" for each in shown if each.hides_groups)}
    return tuple((name, of) for name in sorted(names) for of in sorted(groups))


def _lane(device: int, group: Group, first: int, last: int) -> Lane:
    # events come when they come: there is no instant at which one was to be expected
    events = getattr(group.options, "events", None) is not None
    return Lane(device, 0 if events else group.interval, group.phase, first, last)


def _late(link: Link, device: Device, group: Group) -> int:
    """Say after what time (ns) the next reading of a group is there, or its scan is declared as skipped."""
    timeout: float = device.options.timeout or link.options.timeout
    tries: int = 1 + device.options.retries
    return round(group.interval * (1 + SLACK) + timeout * tries * 1e9)


def _holds(tag: Tag, late: int, *, from_source: bool) -> int:
    """Say how long (ns) a row of this tag speaks for the time after it."""
    if from_source:
        return FOREVER  # a value that stands still is one reading with one time
    if math.isnan(tag.deadband):
        return late
    return tag.max_silence + late if tag.max_silence else FOREVER
