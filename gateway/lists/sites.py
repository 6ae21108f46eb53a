"""A register list into YAML: a new site file, a device template, or into a file that is there.

Nothing is written here; `compose` functions give texts, and `checked` has gateway.config check a text before anybody
writes it. What it says about a tag is said of the row of the list; such tags are left out, and the rest is composed
again. An existing file keeps its comments, its order and everything that the list does not speak of: a tag whose
meaning is the same is not touched, and a file in which no tag changes is given back byte by byte.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from gateway.config import document
from gateway.config.files import Files
from gateway.config.kinds import check_file
from gateway.config.merge import begin_from_template, include
from gateway.config.references import References, written
from gateway.config.site import load_site, open_root
from gateway.contracts import DriverSpec
from gateway.errors import ConfigError, Problem
from gateway.lists.entries import ListedDevice, ListedTag, ListError, RegisterList
from gateway.lists.sheets import INSTALL
from gateway.names import driver_spec
from gateway.options import DeviceOptions, LinkOptions, TagOptions

LOCATING: Final = ("address", "type", "order", "bit", "bits", "half", "length", "encoding", "select")
"""Keys that say together where a tag is and of what type: a list that gives the address decides on all of them."""

_LONGEST: Final = 110
"""Characters of a tag in one line; longer ones are written one key a line."""


@dataclass(slots=True)
class Composed:
    """A file's new text, and what is new in it."""

    file: Path
    text: str
    kind: str  # site or template
    check: Path  # the file that has to be checked: a fragment is checked with its site
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    same: int = 0
    kept: list[str] = field(default_factory=list)  # tags of the file that the list does not have


# ------------------------------------------------------------------------------------------------ YAML


def round_trip() -> Any:
    """Make a YAML reader and writer that keeps comments, quotes and order."""
    try:
        from ruamel.yaml import YAML
    except ImportError:
        raise ListError(f"writing YAML needs the package ruamel.yaml: {INSTALL}") from None
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def read_yaml(text: str, file: Path, yaml: Any) -> Any:
    """Read YAML with its comments. Raises ListError."""
    from ruamel.yaml.error import YAMLError

    try:
        return yaml.load(text)
    except (YAMLError, ValueError) as error:  # check takes it, the library that keeps comments does not
        raise ListError(f"{file} is written in a way that cannot be kept while changing it: {error}") from None


def dumped(data: Any, yaml: Any) -> str:
    """Write data as YAML text."""
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _block(keys: Mapping[str, Any] | None = None) -> Any:
    from ruamel.yaml.comments import CommentedMap

    return CommentedMap(keys or {})


def tag_value(keys: Mapping[str, Any]) -> Any:
    """Give a tag as YAML has it: its address alone, all keys in one line, or one line each."""
    if set(keys) == {"address"}:
        return _text(keys["address"])
    value = nested(keys)
    if sum(len(str(key)) + len(str(each)) + 4 for key, each in keys.items()) > _LONGEST:
        value.fa.set_block_style()
    return value


_PLAIN: Final = re.compile(
    r"(?:[^\W\d_]|°)(?:[\w .°³²µ/()~%=;-]|:(?=\w))*(?<! )(?:\[\d+\])?|\d+(?:\.\d+)? ?[a-z]+|-?\d+/\d+"
)


def _text(value: str) -> str:
    """Give a text as it is written: in quotes where not every reader of YAML takes it the same without."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return value if _PLAIN.fullmatch(value) else DoubleQuotedScalarString(value)


def nested(value: Any) -> Any:
    """Give plain data as it is written within a line."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        made = _block({nested(key): nested(each) for key, each in value.items()})
        made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        from ruamel.yaml.comments import CommentedSeq

        items = CommentedSeq([nested(each) for each in value])
        items.fa.set_flow_style()
        return items
    return value


# ------------------------------------------------------------------------------------------------ new files


def compose_site(
    listed: RegisterList, file: Path, *, gateway: str, link: str, url: str, broker: str, unit: int | None
) -> Composed:
    """Compose a new site file."""
    data = _block({"gateway": gateway, "links": _block()})
    for device in listed.devices:
        name = device.link or link
        keys = listed.links.get(device.link, {"driver": device.driver, "url": url})
        links = data["links"]
        if name in links and links[name]["driver"] != device.driver:
            name = f"{name}-{device.driver}"
        if name not in links:
            links[name] = _block({**keys, **({"url": url} if url else {}), "devices": _block()})
        links[name]["devices"][_text(device.name)] = _device(device, unit)
    data["publish"] = _block({"cloud": nested({"url": broker})})
    text = dumped(data, round_trip())
    return Composed(file, text, "site", file, [tag.name for tag in listed.tags])


def compose_template(listed: RegisterList, file: Path, source: str) -> Composed:
    """Compose a device template from a list of one device."""
    if len(listed.devices) != 1:
        names = ", ".join(device.name for device in listed.devices)
        raise ListError(f"the list has several devices ({names}): give their link's --url to write a site file")
    (device,) = listed.devices
    body = _device(device, None)
    body.pop("unit_id", None)
    data = _block(
        {"driver": device.driver, "description": device.name, "source": source, "trust": "documented", **body}
    )
    return Composed(file, dumped(data, round_trip()), "template", file, [tag.name for tag in device.tags])


def _device(device: ListedDevice, unit: int | None) -> Any:
    """Compose a new device."""
    made = _block(device.keys)
    if unit is not None and device.driver == "modbus":
        made.setdefault("unit_id", unit)
    intervals = Counter(tag.interval for tag in device.tags if not tag.group)
    usual = intervals.most_common(1)[0][0] if intervals else ""
    if usual:
        made["interval"] = usual
    for tag in sorted(device.tags, key=lambda tag: bool(group_of(tag, usual))):  # those right under the device first
        _tags_of(made, group_of(tag, usual), tag.interval)[_text(tag.name)] = tag_value(tag.keys)
    return made


def group_of(tag: ListedTag, usual: str) -> str:
    """Name the poll group of a tag: empty for the one right under the device."""
    if tag.group:
        name = re.sub(r"[\s/+#]+", "-", tag.group.strip())
        return "" if name == "default" else name
    return f"every-{tag.interval.replace(' ', '-')}" if tag.interval and tag.interval != usual else ""


def _tags_of(device: Any, group: str, interval: str) -> Any:
    """Find or make the tags of a group."""
    if not group:
        return device.setdefault("tags", _block())
    groups = device.setdefault("groups", _block())
    if group not in groups:
        groups[group] = _block({"interval": interval} if interval else {})
    return groups[group].setdefault("tags", _block())


# ------------------------------------------------------------------------------------------------ existing files


@dataclass(frozen=True, slots=True)
class _Old:
    """A tag as the site has it, its template's keys included."""

    group: str
    keys: dict[str, Any]
    own: bool  # stands in the device itself, not only in its template


@dataclass(frozen=True, slots=True)
class _There:
    """A device of a site: where it is written, and what it has."""

    file: Path
    link: str
    spec: DriverSpec
    options: DeviceOptions
    link_options: LinkOptions
    tags: Mapping[str, _Old]


def compose_into(listed: RegisterList, site: Path, *, link: str | None, url: str, unit: int | None) -> Composed:
    """Compose an existing file with the list's tags in it. Raises ConfigError where the site is not well."""
    loaded = load_site(site, secrets=False)
    known = {each.name: (each, line) for line in loaded.links for each in line.devices}
    files, links = links_of(site)
    sources: dict[Path, Any] = {}
    composed: Composed | None = None
    yaml = round_trip()
    for each in listed.devices:
        if each.name in known:
            there = _there(links, files, each.name, *known[each.name])
            file = there.file
        else:
            there, file = None, site
        if composed is not None and composed.file.resolve() != file.resolve():
            raise ListError(f"{each.name} and the devices before it are in different files: import them one at a time")
        if file not in sources:
            text = file.read_bytes().decode("utf-8-sig")
            sources[file] = read_yaml(text, file, yaml)
            composed = Composed(file, text, "site", site)
        assert composed is not None
        if there is not None:
            _update(each, there, sources[file], listed, composed)
        else:
            _add_device(each, sources[file], listed, composed, (link, url, unit))
    if composed is None:
        raise ListError("the list has no tags")
    if composed.added or composed.changed:
        ends = "\r\n" if "\r\n" in composed.text else "\n"
        composed.text = dumped(sources[composed.file], yaml).replace("\r\n", "\n").replace("\n", ends)
    return composed


def drivers_of(site: Path) -> dict[str, str]:
    """Give the driver of every device of a site. Raises ConfigError where the site is not well."""
    return {device.name: link.driver for link in load_site(site, secrets=False).links for device in link.devices}


def links_of(site: Path) -> tuple[Files, Any]:
    """Read the links of a site file and of what it includes; give them with the files, for their templates."""
    files = Files(site.parent, References(needed=False))
    tree = open_root(site, files, "")
    links = tree.get("links")
    links = links if isinstance(links, document.Mapping) else tree.new()
    include(tree, site, links, files)
    return files, links


def _there(links: Any, files: Files, name: str, device: Any, link: Any) -> _There:
    devices = links[link.name]["devices"]
    own = devices[name]
    merged = begin_from_template(own, link.driver, (), files)
    names = {each for _, tags in tag_trees(own) for each in tags}
    tags = {
        tag: _Old(group, plain_keys(value), tag in names)
        for group, found in tag_trees(merged)
        for tag, value in found.items()
        if value is not None
    }
    file = Path(devices.key_at(name).file)
    return _There(file, link.name, driver_spec(link.driver), device.options, link.options, tags)


def tag_trees(device: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    """Give the tags of a device by poll group; the group right under it is ''."""
    found: list[tuple[str, Any]] = []
    if isinstance(device.get("tags"), Mapping):
        found.append(("", device["tags"]))
    groups = device.get("groups")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and isinstance(group.get("tags"), Mapping):
            found.append((name if name != "default" else "", group["tags"]))
    return found


def plain_keys(value: Any) -> dict[str, Any]:
    """Give a tag's keys as plain data; references as they are written."""
    if not isinstance(value, Mapping):
        return {"address": _plain(value)}
    return {key: _plain(each) for key, each in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return written(value) if isinstance(value, str) else value


def _update(device: ListedDevice, there: _There, data: Any, listed: RegisterList, composed: Composed) -> None:
    """Bring a device's tags to what the list says."""
    own = data["links"][there.link]["devices"][device.name]
    covers = listed.covers | ({"address"} & listed.covers and set(LOCATING))
    unshared = cache(lambda: _unshared(data, own, device.name))  # before the first change, and once is enough
    for tag in device.tags:
        old = there.tags.get(tag.name)
        wanted = group_of(tag, "") if tag.group else ""
        if old is None:
            unshared()
            _tags_of(own, wanted, tag.interval)[_text(tag.name)] = tag_value(tag.keys)
            composed.added.append(tag.name)
            continue
        group = wanted if "group" in listed.covers else old.group
        new = {**{key: value for key, value in old.keys.items() if key not in covers}, **tag.keys}
        order = tag.ordered
        if _located(old.keys, there, order=order) == _located(new, there, order=order):
            kept = {key: value for key, value in old.keys.items() if key in LOCATING}
            new = {**kept, **{key: value for key, value in new.items() if key not in LOCATING}}
        if group == old.group and _meaning(old.keys, there) == _meaning(new, there):
            composed.same += 1
            continue
        unshared()
        _replace(own, tag, old, new, group)
        composed.changed.append(tag.name)
    names = {tag.name for tag in device.tags}
    composed.kept += [name for name in there.tags if name not in names]


def _replace(own: Any, tag: ListedTag, old: _Old, new: Mapping[str, Any], group: str) -> None:
    if not old.own:
        _tags_of(own, group, tag.interval)[_text(tag.name)] = tag_value(new)
        return
    homes = {name: tags for name, tags in tag_trees(own) if tag.name in tags}
    home = homes.get(old.group, next(iter(homes.values())))
    if group != old.group:
        del home[tag.name]
        _tags_of(own, group, tag.interval)[_text(tag.name)] = tag_value(new)
    elif isinstance(home[tag.name], Mapping) and set(new) != {"address"}:
        there = home[tag.name]
        for key in [key for key in there if key not in new]:
            del there[key]
        for key, value in new.items():
            if key not in there or _plain(there[key]) != value:
                there[key] = nested(value)
    else:
        home[tag.name] = tag_value(new)


def _unshared(data: Any, own: Any, name: str) -> None:
    """Refuse to change what other devices have too, through an anchor. Raises ListError."""
    seen: Counter[int] = Counter()

    def walk(value: Any) -> None:
        if isinstance(value, Mapping | list):
            seen[id(value)] += 1
            for each in value.values() if isinstance(value, Mapping) else value:
                walk(each)

    walk(data)
    parts = [own, own.get("groups"), *(tags for _, tags in tag_trees(own))]
    if any(seen[id(part)] > 1 for part in parts if part is not None):
        raise ListError(f"{name} has its tags through an anchor (<<: or *) in common with others: change them by hand")


def _meaning(keys: Mapping[str, Any], there: _There) -> Any:
    """Give what a tag's keys say, however they are written."""
    try:
        options = there.spec.tag.model_validate(dict(keys))
    except ValueError:
        return dict(keys)
    common = {name: getattr(options, name) for name in TagOptions.model_fields if name != "address"}
    return common, _located(keys, there)


def _located(keys: Mapping[str, Any], there: _There, *, order: bool = True) -> Any:
    """Give where a tag is, however that is written; without `order` whatever its byte order is."""
    try:
        options = there.spec.tag.model_validate(dict(keys))
        found = list(there.spec.resolve(options, there.options, there.link_options))
        if order:
            return found
        return [replace(each, source=_unordered(each.source)) for each in found]
    except ValueError:
        return {key: value for key, value in keys.items() if key in LOCATING}


def _unordered(source: Any) -> Any:
    return replace(source, order="") if hasattr(source, "order") and not isinstance(source, type) else source


def _add_device(
    device: ListedDevice,
    data: Any,
    listed: RegisterList,
    composed: Composed,
    wanted: tuple[str | None, str, int | None],
) -> None:
    """Add a device that the site does not have, on the link that is named, or on a new one."""
    link, url, unit = wanted
    links = data.setdefault("links", _block())
    same_driver = [
        name for name, each in links.items() if isinstance(each, Mapping) and each.get("driver") == device.driver
    ]
    name = link or device.link or (same_driver[0] if len(same_driver) == 1 and not url else "")
    if not name and url:
        name = f"{device.name}-link"
    if not name:
        known = ", ".join(links) or "none"
        raise ListError(f"the site has no device {device.name}: say on which --link it is ({known}), or its --url")
    if name not in links:
        keys = listed.links.get(name) or ({"driver": device.driver, "url": url} if url else None)
        if keys is None:
            raise ListError(f"the site has no link {name}: give its --url to make it")
        links[name] = _block({**keys, "devices": _block()})
    links[name].setdefault("devices", _block())[device.name] = _device(device, unit)
    composed.added += [tag.name for tag in device.tags]


# ------------------------------------------------------------------------------------------------ checking


def checked(listed: RegisterList, compose: Callable[[RegisterList], Composed]) -> Composed:
    """Compose a text and have it checked; tags that do not pass become findings at their rows, and are left out.

    Raises ConfigError for problems that no row of the list has, and ListError where no tag is left.
    """
    round_trip()  # where its library is missing, that is said before anything else
    while True:
        if not listed.tags:
            raise ListError("no row of the list could be read as a tag" if not listed.findings else NOTHING)
        composed = compose(listed)
        instead = {composed.file.resolve(): composed.text}
        problems = check_file(composed.check, secrets=False, instead=instead).problems
        rows = _Rows.of(composed, listed)
        wrong: list[ListedTag] = []
        others: list[Problem] = []
        for problem in problems:
            tag = rows.tag(problem)
            if tag is None:
                others.append(problem)
                continue
            place = tag.places.get(problem.path.rpartition(".")[2]) or tag.places.get("address") or tag.place
            if problem.severity == "error":
                listed.wrong(place, f"{tag.name}: {problem.reason}", problem.hint)
                wrong.append(tag)
        if not wrong:
            if any(problem.severity == "error" for problem in others):
                raise ConfigError(others)
            _warn(problems, rows, listed)
            return composed
        left_out = {id(tag) for tag in wrong}
        for device in listed.devices:
            device.tags = [tag for tag in device.tags if id(tag) not in left_out]
        listed.devices = [device for device in listed.devices if device.tags]


NOTHING: Final = "no tag is left of this list, so nothing is written"


def _warn(problems: Sequence[Problem], rows: _Rows, listed: RegisterList) -> None:
    for problem in problems:
        tag = rows.tag(problem)
        if tag is not None:
            place = tag.places.get(problem.path.rpartition(".")[2]) or tag.place
            listed.wrong(place, f"{tag.name}: {problem.reason}", problem.hint, "warning")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Which lines of a composed text are which tag of the list."""

    file: str
    lines: Sequence[int]  # on which a tag begins, ascending
    tags: Mapping[int, ListedTag]  # by that line

    @classmethod
    def of(cls, composed: Composed, listed: RegisterList) -> _Rows:
        files = Files(composed.file.parent, References(needed=False), instead={composed.file.resolve(): composed.text})
        tree = files.open(composed.file)
        if composed.kind == "template":
            devices = [(listed.devices[0], tree)] if listed.devices else []
        else:
            there = {
                name: device
                for link in (tree.get("links") or {}).values()
                if isinstance(link, Mapping)
                for name, device in (link.get("devices") or {}).items()
            }
            devices = [(device, there[device.name]) for device in listed.devices if device.name in there]
        starts: dict[int, ListedTag] = {}
        for device, found in devices:
            named = {tag.name: tag for tag in device.tags}
            for _, tags in tag_trees(found):
                assert isinstance(tags, document.Mapping)
                starts.update({tags.key_at(name).line: named[name] for name in tags if name in named})
        return cls(files.names[0], sorted(starts), starts)

    def tag(self, problem: Problem) -> ListedTag | None:
        """Find the tag that a problem is about."""
        if problem.file != self.file:
            return None
        before = bisect_right(self.lines, problem.line)
        tag = self.tags[self.lines[before - 1]] if before else None
        return tag if tag is not None and tag.name in problem.path else None
