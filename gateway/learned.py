"""What devices say themselves of their tags where the file does not: units and ranges, kept from run to run.

    learned.json  {"device": {"tag": {"address": "ns=2;s=P", "unit": "bar", "min": 0.0, "max": 16.0}}}

- The file comes first: only what it leaves open is filled in, and a tag notes in `said` what was. A tag that has got
  another address is asked for anew.
- What was learned is there before the first record of the next run: a tag has another definition, and in stores that
  tell series apart by unit another series, only at the first contact and when its device changes its mind.
- What is not said any more stays; what is said otherwise replaces it, at most once in STEADY for each tag, so that a
  device that cannot make up its mind does not cost a session each time.
- A range that a device says describes, and judges nothing: values outside it keep the device's own quality.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from gateway.contracts import Said
from gateway.folded import folded
from gateway.memory import Memory
from gateway.model import Device, Tag, TagTable
from gateway.site import Site

STEADY: Final = 3600.0  # s
UNIT: Final = "unit"
RANGE: Final = "range"

_Entries = dict[str, dict[str, dict[str, Any]]]


class Learned:
    """The memory of one gateway."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._entries = _checked(memory.load())
        self._changed: dict[tuple[str, str], float] = {}

    def fill(self, site: Site) -> Site:
        """Give the site with what its files leave open; what does not change is the same object."""
        links = tuple(_changed(link, "devices", tuple(map(self._device, link.devices))) for link in site.links)
        filled: Site = _changed(site, "links", links)
        return filled

    def take(self, said: Sequence[Said]) -> bool:
        """Keep what a device says; tell whether anything of it is new. Raises OSError where it cannot be kept."""
        fresh = {}
        for each in said:
            entry = _entry(each)
            before = self._entries.get(each.device, {}).get(each.tag, {})
            if before.get("address") != each.address:
                before = {}
            if {**before, **entry} != before and (not before or self._steady(each)):
                fresh[each.device, each.tag] = {**before, **entry}
        for (device, tag), entry in fresh.items():
            if tag in self._entries.setdefault(device, {}):
                self._changed[device, tag] = time.monotonic()
            self._entries[device][tag] = entry
        if fresh:
            self._memory.save(self._entries)
        return bool(fresh)

    def _steady(self, said: Said) -> bool:
        changed = self._changed.get((said.device, said.tag))
        return changed is None or time.monotonic() - changed > STEADY

    def _device(self, device: Device) -> Device:
        entries = self._entries.get(device.name)
        if not entries:
            return device
        groups = tuple(
            _changed(group, "tables", tuple(_table(table, entries) for table in group.tables))
            for group in device.groups
        )
        filled: Device = _changed(device, "groups", groups)
        return filled


def _changed(thing: Any, name: str, parts: tuple[Any, ...]) -> Any:
    """Give `thing` with these parts; itself where they are the same objects."""
    if all(new is old for new, old in zip(parts, getattr(thing, name), strict=True)):
        return thing
    return replace(thing, **{name: parts})


def _table(table: TagTable, entries: Mapping[str, Mapping[str, Any]]) -> TagTable:
    tags = tuple(_filled(tag, entries.get(tag.name, {})) for tag in table.tags)
    if all(new == old for new, old in zip(tags, table.tags, strict=True)):
        return table
    return folded(TagTable(table.device, table.group, table.kind, tags))


def _filled(tag: Tag, entry: Mapping[str, Any]) -> Tag:
    if entry.get("address") != tag.address:
        return tag
    said: list[str] = []
    more: dict[str, Any] = {}
    if "unit" in entry and (not tag.unit or UNIT in tag.said):
        said.append(UNIT)
        more["unit"] = entry["unit"]
    if "min" in entry and ((math.isinf(tag.minimum) and math.isinf(tag.maximum)) or RANGE in tag.said):
        said.append(RANGE)
        more |= {"minimum": entry["min"], "maximum": entry["max"]}
    return replace(tag, **more, said=tuple(said)) if said else tag


def _entry(said: Said) -> dict[str, Any]:
    entry: dict[str, Any] = {"address": said.address}
    if said.unit:
        entry["unit"] = said.unit
    if said.range is not None:
        entry["min"], entry["max"] = said.range
    return entry


def _checked(found: dict[str, Any]) -> _Entries:
    """Give what was kept, as far as it is what `take` writes: people open files."""
    entries: _Entries = {}
    for device, tags in found.items():
        for tag, entry in tags.items() if isinstance(tags, dict) else ():
            if not isinstance(entry, dict) or not isinstance(entry.get("address"), str):
                continue
            kept: dict[str, Any] = {key: entry[key] for key in ("address", "unit") if isinstance(entry.get(key), str)}
            limits = {key: float(entry[key]) for key in ("min", "max") if isinstance(entry.get(key), int | float)}
            if len(limits) == 2 and all(map(math.isfinite, limits.values())):
                kept |= limits
            entries.setdefault(device, {})[tag] = kept
    return entries
