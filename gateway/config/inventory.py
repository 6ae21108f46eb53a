"""The inventory of a site: every device on a link, and the machines that have none, each once.

A device on a link says its part under its own key `inventory`, and is connected where it says nothing; machines without
a link stand under the site's `inventory`. Told are a name that is given twice, and what makes no sense together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, get_args

from gateway.config.document import Mapping as Tree
from gateway.config.files import Files
from gateway.config.messages import Piece, check, shown
from gateway.config.tags import check_name
from gateway.model import Device, Link, Where
from gateway.options import EquipmentOptions, InventoryOptions, Unlinked, UnlinkedOptions
from gateway.site import Equipment

Path = tuple[str | int, ...]

_STATES: Final = get_args(Unlinked)


def compile_inventory(tree: Tree, links: Sequence[Link], at: dict[str, Where], files: Files) -> tuple[Equipment, ...]:
    """Give the devices of the links, then the machines of the tree, in their order; problems are in `files`.

    `at` says where each device is named.
    """
    linked = [(link, device) for link in links for device in link.devices]
    found = [_of_device(link, device, at.get(device.name, link.where)) for link, device in linked]
    for (_, device), each in zip(linked, found, strict=True):
        _contradictions(each, device, files)
    for name in tree:
        if name in at:
            first = at[name]
            reason = f"{name} is a device of this site, and a machine of its inventory without a link"
            hint = f"it is in {first.file}:{first.line}; give it inventory: there, or another name here"
            files.report(tree.key_at(name), ("inventory", name), reason, hint)
        elif (machine := _of_machine(name, tree, files)) is not None:
            found.append(machine)
    _one_serial_twice(found, files)
    _one_process_in_two_spellings(found, files)
    return tuple(found)


def _of_device(link: Link, device: Device, where: Where) -> Equipment:
    given = device.options.inventory
    options = given if isinstance(given, InventoryOptions) else InventoryOptions(state=given)
    place = options.location or " / ".join(device.options.location.values())
    return _equipment(device.name, options.state, options, place, link=link.name, where=where)


def _of_machine(name: str, tree: Tree, files: Files) -> Equipment | None:
    (mark, value_mark), path, value = tree.at(name), ("inventory", name), tree[name]
    check_name(name, "machine", mark, path, files)
    if isinstance(value, Tree):
        options, _ = check(UnlinkedOptions, Piece(value, path, mark), files)
        return None if options is None else _equipment(name, options.state, options, options.location, where=mark)
    if value in _STATES:
        return _equipment(name, str(value), EquipmentOptions(), "", where=mark)
    if value in ("connected", "auxiliary"):
        reason, hint = f"a machine without a link cannot be {value}", "give it a device under links, with its tags"
    else:
        reason, hint = f"expected {' or '.join(_STATES)}, got {shown(value)}", "or keys and values, with the key state"
    files.report(value_mark, path, reason, hint)
    return None


def _equipment(
    name: str, state: str, options: EquipmentOptions, place: str, *, where: Where, link: str = ""
) -> Equipment:
    process = name if options.key_process is True else options.key_process or ""
    return Equipment(
        name, state, options.vendor, options.model, options.serial, place, str(process),
        options.numerically_controlled, link, where,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ sense


def _contradictions(each: Equipment, device: Device, files: Files) -> None:
    """Warn of what one device's inventory says against itself."""
    path = ("links", each.link, "devices", each.name, "inventory")
    if each.state in ("planned", "not-connectable") and device.groups:
        reason = f"{each.name} is listed as {each.state}, and is read all the same"
        hint = "write inventory: connected, or move it to the site's own inventory until it is to be read"
        files.report(each.where, path, reason, hint, "warning")
    if not each.counted and (each.process or each.numerically_controlled):
        reason = (
            f"{each.name} is auxiliary, which is not counted: its key_process and numerically_controlled say nothing"
        )
        files.report(each.where, path, reason, "write state: connected where it is production equipment", "warning")


def _one_serial_twice(every: Iterable[Equipment], files: Files) -> None:
    first: dict[tuple[str, str], Equipment] = {}
    for each in every:
        if not each.serial or not each.counted:
            continue
        other = first.setdefault((each.vendor.casefold(), each.serial.casefold()), each)
        if other is not each:
            reason = f"the serial number {each.serial} is also that of {other.name}: is one machine counted twice?"
            hint = f"it is in {other.where.file}:{other.where.line}"
            files.report(each.where, _path(each), reason, hint, "warning")


def _one_process_in_two_spellings(every: Iterable[Equipment], files: Files) -> None:
    first: dict[str, Equipment] = {}
    for each in _of_processes(every):
        other = first.setdefault("".join(each.process.casefold().split()), each)
        if other.process != each.process:
            reason = f"the key processes {other.process} and {each.process} count as two"
            hint = "write the same name where it is the same process"
            files.report(each.where, _path(each), reason, hint, "warning")


def _of_processes(every: Iterable[Equipment]) -> Iterator[Equipment]:
    return (each for each in every if each.process and each.counted)


def _path(each: Equipment) -> Path:
    return ("links", each.link, "devices", each.name, "inventory") if each.link else ("inventory", each.name)
