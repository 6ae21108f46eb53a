"""What differs between the site that runs and the one that the files now describe: pure, and the unit of a reload.

    link       its own keys differ: its session is made again, with all its devices
    device     its keys or tags differ: it alone is replaced, between two scans of its link
    publisher  its keys differ, or it names tags and those differ: it alone starts again, from its cursor
    log level  set at once
    others     journal, metrics, commands, ...: need a restart of the gateway; nothing of such a change is done

Descriptions, places in the files and what only simulators look at are no differences. What is the same stays the very
same object in the new site (`compare` gives it so): whoever holds a device can tell by identity that nothing happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from gateway.folded import values
from gateway.model import Device, Group, Link, Tag, TagTable
from gateway.site import Site

_WORDS: Final = ("description", "location", "template", "inventory")  # keys that say nothing of how a device is read
_UNREAD: Final = ("where", "simulate")  # fields of a tag that the daemon does not look at
_TAG: Final = tuple(field.name for field in fields(Tag) if field.name not in _UNREAD)


@dataclass(frozen=True, slots=True)
class Named:
    """Names of what came, went and changed."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def told(self, kind: str) -> list[str]:
        """Say it in lines for people."""
        words = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        return [f"{kind} {name}: {word}" for word, names in words for name in names]


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference of two sites. A link counts as changed where its own keys differ, whatever its devices do."""

    links: Named = Named()
    devices: Named = Named()
    publishers: Named = Named()
    renewed: tuple[str, ...] = ()  # publishers that did not change themselves, but name tags that did
    level: str = ""  # the new log level
    restart: tuple[str, ...] = ()  # keys that only a restart changes

    def __bool__(self) -> bool:
        return bool(self.links or self.devices or self.publishers or self.renewed or self.level or self.restart)

    def told(self) -> list[str]:
        """Say it in lines for people."""
        renewed = [f"publisher {name}: starts again, it names tags that changed" for name in self.renewed]
        level = [f"log level: {self.level}"] if self.level else []
        kinds = ((self.links, "link"), (self.devices, "device"), (self.publishers, "publisher"))
        return [line for named, kind in kinds for line in named.told(kind)] + renewed + level


def compare(old: Site, new: Site) -> tuple[Changes, Site]:
    """Give what differs, and `new` with all that is the same taken from `old`. Some ms for 10,000 tags."""
    before = {device.name: device for link in old.links for device in link.devices}
    links = tuple(_link(link, before) for link in new.links)
    was, now = {link.name: link for link in old.links}, {link.name: link for link in links}
    links_changed = tuple(name for name in now if name in was and not _same_link(was[name], now[name]))
    links = tuple(_kept(was.get(link.name), link) if link.name not in links_changed else link for link in links)
    after = {device.name: device for link in links for device in link.devices}
    home = {device.name: link.name for link in old.links for device in link.devices}
    moved = {device.name for link in links for device in link.devices if home.get(device.name) != link.name}
    differ = {name for name in after if name in before and (after[name] is not before[name] or name in moved)}
    devices = _named(before, after, differ)
    theirs = old.publishers
    differing = [name for name, options in new.publishers.items() if name in theirs and options != theirs[name]]
    publishers = _named(theirs, new.publishers, differing)
    changes = Changes(
        _named(was, now, links_changed),
        devices,
        publishers,
        _renewed(old, new, bool(devices), {*publishers.added, *publishers.changed}),
        new.log.level if new.log.level != old.log.level else "",
        _restart(old, new),
    )
    return changes, replace(new, links=links)


def watched(old: Site, new: Site) -> set[str]:
    """Give the devices of both sites that are read in another way, or over another session, in `new`."""
    changes, _ = compare(old, new)
    on = {device.name for link in new.links if link.name in changes.links.changed for device in link.devices}
    return {*changes.devices.changed, *on} - {*changes.devices.added}


def _named(old: Mapping[str, object], new: Mapping[str, object], changed: Iterable[str]) -> Named:
    changed = set(changed)
    return Named(
        tuple(name for name in new if name not in old),
        tuple(name for name in old if name not in new),
        tuple(name for name in new if name in changed),
    )


def _link(link: Link, before: Mapping[str, Device]) -> Link:
    """Put the old devices into a link where they are the same."""
    devices = tuple(
        before[device.name] if device.name in before and _same_device(before[device.name], device) else device
        for device in link.devices
    )
    return replace(link, devices=devices)


def _kept(old: Link | None, new: Link) -> Link:
    same = old is not None and len(old.devices) == len(new.devices)
    if old is not None and same and all(a is b for a, b in zip(old.devices, new.devices, strict=True)):
        return old
    return new


def _same_link(old: Link, new: Link) -> bool:
    return old.driver == new.driver and _same_options(old.options, new.options)


def _same_options(old: Any, new: Any) -> bool:
    """Compare two models of keys but for what is only said to people."""
    if old is None or new is None:
        return old is new
    before, after = values(old), values(new)
    return all(before.get(key) == after.get(key) for key in {*before, *after}.difference(_WORDS))


def _same_device(old: Device, new: Device) -> bool:
    return (
        _same_options(old.options, new.options)
        and len(old.groups) == len(new.groups)
        and all(map(_same_group, old.groups, new.groups))
    )


def _same_group(old: Group, new: Group) -> bool:
    return (
        (old.device, old.name, old.interval, old.phase, len(old.tables))
        == (new.device, new.name, new.interval, new.phase, len(new.tables))
        and _same_options(old.options, new.options)
        and all(map(_same_table, old.tables, new.tables))
    )


def _same_table(old: TagTable, new: TagTable) -> bool:
    return (
        old.kind is new.kind
        and len(old) == len(new)
        and all(_tag(a) == _tag(b) for a, b in zip(old.tags, new.tags, strict=True))
    )


def _tag(tag: Tag) -> tuple[Any, ...]:
    """Give what of a tag is compared; NaN, which is not equal to itself, as text."""
    return tuple(
        repr(value) if name in ("deadband", "not_available") else value
        for name, value in ((name, getattr(tag, name)) for name in _TAG)
    )


def _renewed(old: Site, new: Site, tags_changed: bool, already: set[str]) -> tuple[str, ...]:
    """Give the publishers that must begin again although their own keys are the same."""
    moved = _places(old) != _places(new)
    return tuple(
        name
        for name, options in new.publishers.items()
        if name not in already
        and (
            (tags_changed and (options.format in ("sparkplug", "opcua-json") or options.tags is not None))
            or (tags_changed and options.budget is not None and options.widen > 1)
            or (moved and options.format == "json")
        )
    )


def _places(site: Site) -> dict[str, Mapping[str, str]]:
    return {device: place for device, place in site.places.items() if place}


def _restart(old: Site, new: Site) -> tuple[str, ...]:
    keys = [name for name in ("gateway", "data") if getattr(old, name) != getattr(new, name)]
    keys += [f"journal.{key}" for key in _differing(old.journal, new.journal)]
    keys += [f"clock.{key}" for key in _differing(old.clock, new.clock)]
    keys += [f"metrics.{key}" for key in _differing(old.metrics, new.metrics)]
    keys += [f"log.{key}" for key in _differing(old.log, new.log) if key != "level"]
    if (old.commands is None) != (new.commands is None):
        keys.append("commands")
    elif old.commands is not None:
        keys += [f"commands.{key}" for key in _differing(old.commands, new.commands)]
    return tuple(keys)


def _differing(old: Any, new: Any) -> list[str]:
    theirs = dict(new)
    return [key for key, value in old if theirs.get(key) != value]
