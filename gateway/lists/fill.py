"""What a device says of its own values, into the site file where that does not say: units, ranges, names of states.

Only keys that a tag does not have are added, in the file in which the tag stands; comments, order and all else stay.
A tag that is not found there (it comes from a template, or is an element of a slice) is told, not written. Nothing is
written here: `filled` gives checked texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config.kinds import check_file
from gateway.contracts import Differs
from gateway.errors import ConfigError
from gateway.lists import sites
from gateway.model import Link


@dataclass(slots=True)
class Filled:
    """New texts by file, how many tags were filled in, and the names of those that could not be."""

    texts: dict[Path, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)


def filled(site: Path, links: Sequence[Link], differ: Iterable[Differs]) -> Filled:
    """Add what the file does not say of these tags. Raises ListError, ConfigError."""
    places = {
        (group.device, tag.name): Path(tag.where.file)
        for link in links
        for device in link.devices
        for group in device.groups
        for table in group.tables
        for tag in table.tags
    }
    wanted: dict[Path, list[Differs]] = {}
    for each in differ:
        if not each.file and each.keys:
            wanted.setdefault(places[each.device, each.tag], []).append(each)
    made = Filled()
    for file, several in wanted.items():
        yaml = sites.round_trip()
        with file.open(encoding="utf-8", newline="") as stream:
            data = sites.read_yaml(stream.read(), file, yaml)
        before = len(made.tags)
        for each in several:
            name = f"{each.device}/{each.tag}"
            if _fill(data, each):
                made.tags.add(name)
            elif name not in made.left:
                made.left.append(name)
        if len(made.tags) > before:
            made.texts[file.resolve()] = sites.dumped(data, yaml)
    checked = check_file(site, secrets=False, instead=made.texts)
    if errors := [problem for problem in checked.problems if problem.severity == "error"]:
        raise ConfigError(errors)
    return made


def _fill(data: Any, each: Differs) -> bool:
    """Add the keys to the tag where it stands under its device; False where it does not stand there."""
    links = data.get("links") if isinstance(data, Mapping) else None
    for link in links.values() if isinstance(links, Mapping) else ():
        devices = link.get("devices") if isinstance(link, Mapping) else None
        device = devices.get(each.device) if isinstance(devices, Mapping) else None
        for _, tags in sites.tag_trees(device) if isinstance(device, Mapping) else ():
            if each.tag in tags:
                keys = sites.plain_keys(tags[each.tag])
                if any(key in keys for key, _ in each.keys):
                    return False
                if isinstance(tags[each.tag], Mapping):
                    tags[each.tag].update({key: sites.nested(value) for key, value in each.keys})
                else:
                    tags[each.tag] = sites.tag_value({**keys, **dict(each.keys)})
                return True
    return False
