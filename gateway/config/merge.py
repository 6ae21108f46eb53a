"""Several files to one tree: fragments named by `include`, and templates that devices begin from.

An included file has only `links`, `inventory` and `include`; a link that two files define is an error. A device's own
keys replace those of its template; its tags are merged one by one. A tag written with an address (or as text) replaces
the tag of that name; one without changes only the keys it names; null removes it. Under the device's `tags` it stays in
the poll group where the template has it, under `groups.NAME.tags` it moves there. A template may begin from another.
"""

from __future__ import annotations

import difflib
import glob
from pathlib import Path
from typing import Any, Final

from gateway.config.document import Listing, Mapping
from gateway.config.files import Files
from gateway.config.references import Missing, written
from gateway.config.shipped import shipped
from gateway.model import Where

HEADER: Final = ("driver", "source", "trust", "description", "template")
"""Keys of a template that are about the template and not of the device."""

Sections = dict[str, Mapping]
"""What is put together from all files, by key."""

_WILD: Final = "*?["


SECTIONS: Final = {
    "links": ("link", "expected links by name", "links: {NAME: {driver: ..., devices: ...}}"),
    "inventory": ("machine", "expected machines by name", "inventory: {NAME: planned}"),
}
"""What an included file may have: what each name of it is, what is said where there are none, an example."""


def include(
    tree: Mapping,
    path: Path,
    links: Mapping,
    files: Files,
    inside: tuple[Path, ...] = (),
    inventory: Mapping | None = None,
) -> None:
    """Add to `links`, and `inventory`, what all files have that `include` of this tree names, and those they name."""
    into = {"links": links, "inventory": tree.new() if inventory is None else inventory}
    _include(tree, path, into, files, inside)


def _include(tree: Mapping, path: Path, into: Sections, files: Files, inside: tuple[Path, ...]) -> None:
    inside = (*inside, path.resolve())
    names = tree.get("include")
    if not isinstance(names, Listing):
        return  # absent, or of a wrong type, which the model reports
    for index, name in enumerate(names):
        mark, place = names.at(index), ("include", index)
        for found in _matches(name, path.parent, files, mark, place) if isinstance(name, str) else ():
            if found.resolve() in inside:
                reason = f"{written(name)} leads back to {found.name} itself"
                files.report(mark, place, reason, "put included files into a folder of their own")
            elif found.resolve() not in files.read:
                _add(found, into, files, mark, place, inside)


def _matches(name: str, folder: Path, files: Files, mark: Where, place: tuple[str | int, ...]) -> list[Path]:
    if not any(sign in name for sign in _WILD):
        if (folder / name).is_file():
            return [folder / name]
        files.report(
            mark, place, f"there is no file {written(name)}", f"paths are relative to this file's folder, {folder}"
        )
        return []
    matches = sorted(Path(found) for found in glob.glob(str(folder / name), recursive=True))
    if not matches:
        files.report(mark, place, f"no file matches {written(name)}", "", "warning")
    return [match for match in matches if match.is_file()]


def _add(
    path: Path, into: Sections, files: Files, mark: Where, place: tuple[str | int, ...], inside: tuple[Path, ...]
) -> None:
    """Read one fragment and take over its links and machines."""
    try:
        fragment = files.open(path)
    except OSError as error:
        files.report(mark, place, f"{path.name} cannot be read: {error.strerror}")
        return
    if not isinstance(fragment, Mapping):
        if fragment is not None:
            example = SECTIONS["links"][2]
            files.report(getattr(fragment, "mark", mark), (), "an included file must have the key links", example)
        return
    for key in fragment:
        if key not in (*SECTIONS, "include"):
            hint = "an included file has only links, inventory and include"
            files.report(fragment.key_at(key), (key,), f"unknown key {key}", hint)
    for section, (what, wanted, example) in SECTIONS.items():
        theirs = fragment.get(section, fragment.new())
        if not isinstance(theirs, Mapping):
            files.report(fragment.value_at(section), (section,), wanted, example)
            continue
        ours = into[section]
        for name in theirs:
            if name in ours:
                first = ours.key_at(name)
                hint = f"first in {first.file}:{first.line}"
                files.report(theirs.key_at(name), (section, name), f"the {what} {name} is defined twice", hint)
            else:
                ours.put(name, theirs[name], theirs)
    _include(fragment, path, into, files, inside)


# ------------------------------------------------------------------------------------------------ templates


def begin_from_template(
    device: Mapping, driver: str, path: tuple[str | int, ...], files: Files, inside: tuple[Path, ...] = ()
) -> Mapping:
    """Give the device with what its template says; the device itself where it has none.

    Where the template cannot be used, which is reported, that is the device without the key.
    """
    name = device.get("template")
    if not isinstance(name, str):
        return device
    mark, place = device.value_at("template"), (*path, "template")
    folder = Path(mark.file).parent
    found = find_template(name, folder, files.folder)
    if found is None:
        files.report(mark, place, f"there is no template {written(name)}", _nearest(name, folder, files.folder))
        return _without(device)
    if found.resolve() in inside:
        files.report(mark, place, f"the template {written(name)} begins from itself")
        return _without(device)
    try:
        template = files.open(found)
    except OSError as error:
        files.report(mark, place, f"the template {found} cannot be read: {error.strerror}")
        return _without(device)
    if not isinstance(template, Mapping):
        files.report(mark, place, f"the template {written(name)} has no keys", "a template has driver: and tags:")
        return _without(device)
    theirs = template.get("driver")
    if "driver" not in template:
        files.report(template.mark, (), "the key driver is missing", "a template says for which driver it is")
    if isinstance(theirs, str) and theirs != driver:
        files.report(
            mark, place, f"the template {written(name)} is for the driver {theirs}, this link's driver is {driver}"
        )
        return _without(device)
    template = begin_from_template(template, driver, path, files, (*inside, found.resolve()))
    return overlay(device, template)


def _without(device: Mapping) -> Mapping:
    copy = device.copy()
    del copy["template"]
    if "tags" not in copy:
        copy.put("tags", Missing(), device, "template")  # so that their absence is not reported as well
    return copy


def find_template(name: str, *folders: Path) -> Path | None:
    """Find a template's file: beside the site file, in `templates/` beside it, then among the shipped ones."""
    names = [name] if name.endswith((".yaml", ".yml")) else [name + ".yaml", name + ".yml"]
    places = [place for folder in folders for place in (folder, folder / "templates")] + [shipped() / "templates"]
    return next((place / file for place in places for file in names if (place / file).is_file()), None)


def _nearest(name: str, *folders: Path) -> str:
    places = list(dict.fromkeys([folder / "templates" for folder in folders] + [shipped() / "templates"]))
    known = [str(file.relative_to(place).with_suffix("")) for place in places for file in place.glob("**/*.y*ml")]
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return (
        f"did you mean {close[0]}?"
        if close
        else "looked beside this file, in templates/ beside it, and in the shipped ones"
    )


def overlay(device: Mapping, template: Mapping) -> Mapping:
    """Lay a device's keys over its template's."""
    merged = device.new()
    for key, value in template.items():
        if key not in HEADER:
            merged.put(key, value, template)
    for key, value in device.items():
        if key not in ("tags", "groups"):
            merged.put(key, value, device)
    _Tags(merged).overlay(device)
    return merged


class _Tags:
    """The tags of a template on their way into a device: copies, so that other devices get the template unchanged."""

    def __init__(self, merged: Mapping) -> None:
        self.merged = merged
        self.places: dict[str, Mapping] = {}  # tag name -> the tags it stands among
        if isinstance(merged.get("tags"), Mapping):
            merged["tags"] = self._copy(merged["tags"])
        groups = merged.get("groups")
        if isinstance(groups, Mapping):
            merged["groups"] = groups.copy()
            for name, group in groups.items():
                if isinstance(group, Mapping):
                    merged["groups"][name] = mine = group.copy()
                    if isinstance(group.get("tags"), Mapping):
                        mine["tags"] = self._copy(group["tags"])

    def _copy(self, tags: Mapping) -> Mapping:
        mine = tags.copy()
        self.places.update(dict.fromkeys(mine, mine))
        return mine

    def overlay(self, device: Mapping) -> None:
        """Put the device's tags and groups over the template's."""
        self._section(device, "tags", self.merged)
        groups = device.get("groups")
        if not isinstance(groups, Mapping) or not isinstance(self.merged.get("groups", groups), Mapping):
            if "groups" in device:
                self.merged.put("groups", groups, device)
            return
        if "groups" not in self.merged:
            self.merged.put("groups", groups.new(), device)
        ours = self.merged["groups"]
        for name, group in groups.items():
            if not isinstance(group, Mapping) or not isinstance(ours.get(name, group), Mapping):
                ours.put(name, group, groups)
                continue
            if name not in ours:
                ours.put(name, group.new(), groups)
            for key, value in group.items():
                if key != "tags":
                    ours[name].put(key, value, group)
            self._section(group, "tags", ours[name], move=True)

    def _section(self, source: Mapping, key: str, into: Mapping, move: bool = False) -> None:
        tags = source.get(key)
        if not isinstance(tags, Mapping) or not isinstance(into.get(key, tags), Mapping):
            if key in source:
                into.put(key, tags, source)
            return
        if key not in into:
            into.put(key, tags.new(), source)
        for name, tag in tags.items():
            place = self.places.get(name)
            if place is None:
                into[key].put(name, tag, tags)
                continue
            changed = _changed(place, name, tag)
            if move or tag is None:
                del place[name]
                place = into[key]
            if tag is not None:
                place.put(name, changed, tags)


def _changed(place: Mapping, name: str, tag: Any) -> Any:
    """Give a template's tag with a device's keys over it, or the device's tag where it has an address of its own."""
    old = place[name]
    if not isinstance(tag, Mapping) or "address" in tag or not isinstance(old, Mapping | str):
        return tag
    changed = tag.new()
    if isinstance(old, str):
        changed.put("address", old, place, name)
    else:
        for key in old:
            changed.put(key, old[key], old)
    for key in tag:
        changed.put(key, tag[key], tag)
    return changed
