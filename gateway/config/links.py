"""From the tree of a site's links to gateway.model: links, devices and poll groups (tags: gateway.config.tags).

Each link, device, group and tag is checked on its own, so that one mistake never hides another; what is wrong is left
out and the rest compiled. The result is only used where no problem was found. A misspelt driver is taken for the one
that was meant, so that the rest of its link can be checked. Device names are unique in the site; a second link to the
same peer is told.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.document import Mapping as Tree
from gateway.config.files import Files
from gateway.config.merge import HEADER, begin_from_template
from gateway.config.messages import Piece, check, shown
from gateway.config.models import STRUCTURE, TemplateOptions
from gateway.config.tags import Level, Path, TagCompiler, check_name, wanted_keys
from gateway.contracts import DriverSpec
from gateway.model import Device, Group, Link, Where
from gateway.names import driver_names, driver_spec
from gateway.options import DeviceOptions, LinkOptions

DEFAULT_GROUP: Final = "default"
"""The poll group of tags that stand right under their device."""


@dataclass(slots=True)
class Work:
    """What is known across the links of one site while they are compiled."""

    files: Files
    devices: dict[str, Where] = field(default_factory=dict)
    endpoints: dict[tuple[str, str], tuple[str, Where]] = field(default_factory=dict)  # -> link


def compile_links(links: Tree, files: Files) -> tuple[Link, ...]:
    """Compile all links of a site; problems are in `files`."""
    work = Work(files)
    return tuple(link for name in links if (link := _link(name, links[name], links.at(name), work)) is not None)


def _link(name: str, tree: Any, at: tuple[Where, Where], work: Work) -> Link | None:
    files, path = work.files, ("links", name)
    check_name(name, "link", at[0], path, files)
    if not isinstance(tree, Tree):
        files.report(at[1], path, *wanted_keys(tree, "driver, url and devices"))
        return None
    spec = _spec(tree, at[0], path, files)
    if spec is None:
        return None
    level = Level.of(spec)
    options, _ = check(
        spec.link,
        Piece(tree if "driver" in tree else _with_driver(tree, spec), path, at[0], STRUCTURE["link"], level.elsewhere),
        files,
    )
    if options is not None:
        _endpoint_once(name, tree, options, at[0], path, work)
    devices = tree.get("devices")
    if not isinstance(devices, Tree) or not devices:
        mark = tree.value_at("devices") if "devices" in tree else at[0]
        reason, hint = wanted_keys(devices, "devices by name") if devices else ("this link has no devices", "")
        files.report(
            mark, (*path, "devices") if "devices" in tree else path, reason, hint or "add devices: {NAME: {tags: ...}}"
        )
        return None
    compiled = tuple(
        device
        for each in devices
        if (device := _device(each, devices, (*path, "devices", each), level, options, work)) is not None
    )
    return None if options is None else Link(name, spec.name, options, compiled, at[0])


def _with_driver(tree: Tree, spec: DriverSpec) -> Tree:
    whole = tree.new()
    for key in tree:
        whole.put(key, tree[key], tree)
    whole.put_here("driver", spec.name)
    return whole


def _spec(tree: Tree, mark: Where, path: Path, files: Files) -> DriverSpec | None:
    """Find the link's driver; where its name is misspelt, the one that was meant, so that checking can go on."""
    name = tree.get("driver")
    known = driver_names()
    if "driver" not in tree:
        files.report(mark, path, "the key driver is missing", f"drivers here: {', '.join(known)}")
        return None
    value = tree.value_at("driver")
    if not isinstance(name, str):
        files.report(value, (*path, "driver"), f"expected the name of a driver, got {shown(name)}", ", ".join(known))
        return None
    if name not in known:
        close = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), known, 1, 0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        files.report(
            value, (*path, "driver"), f"there is no driver {shown(name)}", f"{hint}Drivers here: {', '.join(known)}"
        )
        if not close:
            return None
        name = close[0]
    try:
        return driver_spec(name)
    except (ImportError, AttributeError) as error:
        files.report(value, (*path, "driver"), f"the driver {name} cannot be loaded: {error}", "is it fully installed?")
        return None


def _endpoint_once(name: str, tree: Tree, options: LinkOptions, mark: Where, path: Path, work: Work) -> None:
    """Warn of a second link to the same peer; a serial port cannot be opened twice at all."""
    if "://" not in options.url:
        return  # no peer: replay:generated
    if "url" in tree:
        mark, path = tree.value_at("url"), (*path, "url")
    key = (options.driver, options.url.strip().rstrip("/").lower().split("?")[0])
    if key in work.endpoints:
        other, first = work.endpoints[key]
        serial = "/dev/" in options.url or ":com" in options.url.lower()
        work.files.report(
            mark, path, f"the link {other} has the same url (line {first.line})",
            "put the devices of one connection under one link", "error" if serial else "warning",
        )  # fmt: skip
    work.endpoints.setdefault(key, (name, mark))


def check_template(tree: Tree, name: str, files: Files) -> int:
    """Check a device template on its own; give the number of its tags.

    What only a device can say is not missed: the rest is checked with a made-up link.
    """
    spec = _spec(tree, tree.mark, (), files)
    if spec is None:
        return 0
    about, device = tree.new(), tree.new()
    for key in tree:
        (about if key in HEADER else device).put(key, tree[key], tree)
    check(TemplateOptions, Piece(about, (), tree.mark), files)
    if "template" in tree:
        device.put("template", tree["template"], tree)
    devices = tree.new()
    devices.put_here(name, device)
    compiled = _device(name, devices, (), Level.of(spec), None, Work(files))
    return 0 if compiled is None else sum(len(table) for group in compiled.groups for table in group.tables)


# ------------------------------------------------------------------------------------------------ devices


def _device(name: str, devices: Tree, path: Path, level: Level, link: LinkOptions | None, work: Work) -> Device | None:
    files, (mark, value_mark), tree = work.files, devices.at(name), devices[name]
    check_name(name, "device", mark, path, files)
    if name in work.devices:
        first = work.devices[name]
        files.report(
            mark,
            path,
            f"there is another device {name}",
            f"first in {first.file}:{first.line}; names are unique in the site",
        )
    work.devices.setdefault(name, mark)
    if not isinstance(tree, Tree):
        files.report(value_mark, path, *wanted_keys(tree, "tags"))
        return None
    tree = begin_from_template(tree, level.spec.name, path, files)
    options, _ = check(level.spec.device, Piece(tree, path, mark, STRUCTURE["device"], level.elsewhere), files)
    compiler = TagCompiler(name, level, link, options, files)
    groups = []
    given = options or DeviceOptions()
    compiler.device_deadband = compiler.usable_deadband(given, tree, path)
    if "tags" in tree:
        groups.append(compiler.group(DEFAULT_GROUP, tree, path, given, given))
    groups += [
        _group(each, tree["groups"], (*path, "groups", each), given, compiler)
        for each in _groups(tree, path, mark, files)
    ]
    compiler.conclude()
    if options is None:
        return None
    return Device(name, options, tuple(group for group in groups if group is not None))


def _groups(tree: Tree, path: Path, mark: Where, files: Files) -> Sequence[str]:
    """Give the names of a device's groups that can be looked at."""
    if "tags" not in tree and "groups" not in tree:
        files.report(mark, path, "this device has no tags", "add tags: {NAME: ADDRESS}, groups:, or a template:")
        return ()
    groups = tree.get("groups")
    if "groups" not in tree:
        return ()
    if not isinstance(groups, Tree) or not groups:
        files.report(tree.value_at("groups"), (*path, "groups"), *wanted_keys(groups or None, "poll groups by name"))
        return ()
    if DEFAULT_GROUP in groups and "tags" in tree:
        files.report(
            groups.key_at(DEFAULT_GROUP), (*path, "groups", DEFAULT_GROUP),
            f"tags: and groups.{DEFAULT_GROUP} are the same group", "put all its tags in one of the two places",
        )  # fmt: skip
    return tuple(groups)


def _group(name: str, groups: Tree, path: Path, device: DeviceOptions, compiler: TagCompiler) -> Group | None:
    files, (mark, value_mark), tree = compiler.files, groups.at(name), groups[name]
    check_name(name, "group", mark, path, files)
    if not isinstance(tree, Tree):
        files.report(value_mark, path, *wanted_keys(tree, "interval and tags"))
        return None
    piece = Piece(tree, path, mark, STRUCTURE["group"], compiler.level.elsewhere)
    options, _ = check(compiler.level.spec.groups, piece, files)
    if "tags" not in tree:
        files.report(mark, path, "this group has no tags", "add tags: {NAME: ADDRESS}")
        return None
    return compiler.group(name, tree, path, options or compiler.level.spec.groups(), device)
