"""`plantbridge browse`: an OPC UA server's address space, as a tree or as a ready site fragment.

A variable's name in the fragment is the shortest end of its path that no other variable of its device has, so one more
variable may give others longer names. With `--into FILE`, where FILE is there, its nodes stay as they are written,
under their device and name; only new nodes are added, and never with a name that FILE gives to another node, be that
gone from the server or not. `--keep FILE` names alike, and prints the whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.language import say

if TYPE_CHECKING:
    from drivers.opcua.address import NodeName
    from gateway.contracts import Found

WORDS_OF_TEXT: Final = ("text", "datetime", "guid", "bytestring")
Names = dict[tuple[str, str], "NodeName | None"]  # (device, tag) to the node, None where it cannot be told
MOST_ELEMENTS: Final = 10_000  # of an array, as tags of a site


def browse(
    url: Annotated[str, typer.Argument(help="The server: opc.tcp://HOST:PORT/PATH.")],
    start: Annotated[str, typer.Option(help="Node id or browse path to begin at; Objects where not given.")] = "",
    match: Annotated[str, typer.Option(help="Only variables whose path fits, such as 'Boiler*/*/T?'.")] = "*",
    limit: Annotated[int, typer.Option(help="Stop after this many nodes.", min=1)] = 100_000,
    standard: Annotated[bool, typer.Option("--standard", help="With the standard's own Server object.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the variables as a site fragment.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(help="Write the fragment to this file; where it is there, add what it does not have yet."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="With --yaml: the fragment of an earlier run; its nodes keep their devices and names."),
    ] = None,
    policy: Annotated[str, typer.Option(help="Security policy, such as Basic256Sha256.")] = "None",
    mode: Annotated[str, typer.Option(help="Sign or SignAndEncrypt.")] = "SignAndEncrypt",
    pki: Annotated[str, typer.Option(help="Folder of certificates.")] = "pki",
    user: Annotated[str | None, typer.Option(help="User name; the password is asked for.")] = None,
    timeout: Annotated[str, typer.Option(help="How long one request may take.")] = "10 s",
) -> None:
    """List what an OPC UA server has: paths, types, values, units and access (r read, w write, h history).

    Reads only. Exits 1 where nothing was found.

    Example: plantbridge browse opc.tcp://192.168.1.30:4840 --match 'Boiler*' --into boilers.yaml
    """
    import asyncio

    from rich.console import Console
    from rich.progress import Progress, TextColumn

    keys: dict[str, Any] = {
        "url": url,
        "timeout": timeout,
        "security_policy": policy,
        "security_mode": mode,
        "pki": pki,
    }
    if user is not None:
        keys |= {"user": user, "password": typer.prompt("Password", hide_input=True, err=True)}
    link = _link(keys)
    if keep is not None and not yaml:
        raise typer.BadParameter("the names of a file are kept in another one: give --yaml too", param_hint="--keep")
    if into is not None and (yaml or keep is not None):
        raise typer.BadParameter("--into keeps names by itself and prints nothing", param_hint="--into")
    names = {} if keep is None else names_in(keep, url)
    before = names_in(into, url, "--into") if into is not None and into.exists() else {}
    columns = (TextColumn("{task.completed} nodes"), TextColumn("{task.fields[path]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("browsing", path="", total=None)

        def step(found: Found) -> None:
            progress.update(task, advance=1, path="/".join(found.path)[-80:])

        found = asyncio.run(_browse(link, start, limit, step))
    wanted = select(found, match, standard)
    if into is not None:
        _write(into, url, wanted, _link_keys(policy, mode, user), before)
    elif yaml:
        print(fragment(url, wanted, _link_keys(policy, mode, user), names), end="")
    else:
        _print(wanted)
    raise typer.Exit(0 if wanted else 1)


def select(found: Iterable[Found], match: str, standard: bool) -> list[Found]:
    """Keep the variables whose path fits, in the order of their paths."""
    return sorted(
        (
            each
            for each in found
            if each.type and (standard or each.path[:1] != ("Server",)) and fnmatchcase("/".join(each.path), match)
        ),
        key=lambda each: each.path,
    )


def _link(keys: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from drivers.opcua.spec import OpcuaLink
    from gateway.model import Link

    try:
        return Link(
            "browse", "opcua", OpcuaLink.model_validate({"driver": "opcua", "connect_timeout": "20 s", **keys}), ()
        )
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error


async def _browse(link: Any, start: str, limit: int, step: Any) -> list[Found]:
    from drivers.opcua.driver import OpcuaDriver

    driver = OpcuaDriver(link)
    found = []
    try:
        await driver.connect()
        async for each in driver.browse(start, limit):
            found.append(each)
            step(each)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--start") from error
    finally:
        await driver.close()
    return found


def _print(found: Sequence[Found]) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    root = Tree("Objects")
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for each in found:
        for depth in range(1, len(each.path) + 1):
            path = each.path[:depth]
            if path not in branches:
                branches[path] = branches[path[:-1]].add(Text(path[-1]))
        label = Text.assemble(
            each.path[-1], "  ", (each.value, "bold"), f" {each.unit}" if each.unit else "",
            (f"  {each.type} {each.access}", "dim"), (f"  {each.address}", "cyan"),
        )  # fmt: skip
        branches[each.path].label = label
    Console(width=None if sys.stdout.isatty() else 200).print(root)
    print(say(f"{len(found)} variables"))


def _write(path: Path, url: str, found: Sequence[Found], keys: Mapping[str, str], names: Names) -> None:
    """Write a fragment, or add to the one that is there, and say what was done."""
    from gateway.cli.replacing import replace
    from gateway.lists.entries import ListError

    try:
        text, added = grown(path, url, found, names) if names else (fragment(url, found, keys), len(found))
        replace(path, text.encode())
    except (ListError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--into") from error
    print(say(f"{path}: {added} nodes added, {len({*names.values()} - {None})} were there"))


def grown(path: Path, url: str, found: Sequence[Found], names: Names) -> tuple[str, int]:
    """Give a fragment with the nodes that it does not have yet, and how many these are. Raises ListError."""
    from gateway.lists import sites

    ruamel = sites.round_trip()
    before = path.read_text(encoding="utf-8")
    data = sites.read_yaml(before, path, ruamel)
    link = next(each for each in data["links"].values() if _mapping(each).get("url") == url)
    there, added = {*names.values()}, 0
    for name, keys in devices_of(found, names).items():
        fresh = {tag: about for tag, about in keys["tags"].items() if _node(about, 0) not in there}
        if not fresh:
            continue
        added += len({_node(about, 0) for about in fresh.values()})
        device = link["devices"].setdefault(name, sites.nested({"interval": keys["interval"]}))
        if device.fa.flow_style():
            device.fa.set_block_style()
        tags = device.setdefault("tags", sites.nested({}))
        tags.fa.set_block_style()
        for tag, about in fresh.items():
            if "namespace" in device and not about["address"].startswith(("ns=", "nsu=")):
                about["address"] = f"ns=0;{about['address']}"
            tags[tag] = sites.tag_value(about)
    return (sites.dumped(data, ruamel) if added else before), added


def names_in(path: Path, url: str, option: str = "--keep") -> Names:
    """Give what a fragment or site file calls the nodes of this server. Raises BadParameter."""
    import yaml

    try:
        site = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint=option) from error
    links = [each for each in _mapping(_mapping(site).get("links")).values() if _mapping(each).get("url") == url]
    if not links:
        why = f"{path} has no link to {url}; is it the file that this command writes to? Print to another one"
        raise typer.BadParameter(why, param_hint=option)
    return {
        (str(device), str(name)): _node(tag, _mapping(keys).get("namespace", 0))
        for link in links
        for device, keys in _mapping(link.get("devices")).items()
        for name, tag in _tags(_mapping(keys))
    }


def _mapping(found: Any) -> Mapping[Any, Any]:
    return found if isinstance(found, dict) else {}


def _tags(device: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    yield from _mapping(device.get("tags")).items()
    for group in _mapping(device.get("groups")).values():
        yield from _mapping(_mapping(group).get("tags")).items()


def _node(tag: Any, namespace: Any) -> NodeName | None:
    from drivers.opcua.address import parse

    keys = tag if isinstance(tag, dict) else {"address": tag}
    words = {key: str(keys[key]) for key in ("address", "type", "select") if keys.get(key) is not None}
    try:
        return parse(words.get("address", ""), words.get("type"), words.get("select"), namespace).node
    except ValueError:
        return None


def tag_names(found: Sequence[Found], kept: Sequence[str] = (), taken: Collection[str] = ()) -> list[str]:
    """Give each variable a name of its own: the shortest end of its path that tells it from all others.

    The same variables get the same names, whatever the order of what else is browsed beside them. `kept` are names
    that stay as they are, "" where there is none; no other variable gets one that is `taken`.
    """
    names: list[str] = []
    ends: dict[tuple[str, ...], int] = {}
    for each in found:
        for depth in range(1, len(each.path) + 1):
            end = tuple(_word(part) for part in each.path[-depth:])
            ends[end] = ends.get(end, 0) + 1
    used = {*kept, *taken}
    for place, each in enumerate(found):
        before = kept[place] if kept else ""
        name = before or next(name for name in _candidates(each, ends) if name not in used)
        used.add(name)
        names.append(name)
    return names


def _candidates(found: Found, ends: Mapping[tuple[str, ...], int]) -> Iterator[str]:
    """Give the names that a variable may have, the best one first."""
    words = [_word(part) for part in found.path]
    for depth in range(1, len(words)):
        if ends[tuple(words[-depth:])] == 1:
            yield "-".join(words[-depth:])[-100:]
    whole = "-".join(words)[-100:]
    yield whole
    yield from (f"{whole}-{number}" for number in count(2))


def _word(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-_.").lower() or "x"


def _link_keys(policy: str, mode: str, user: str | None) -> dict[str, str]:
    """Give what the link must say to be let in as this command was; the password stays out of the file."""
    keys = {} if policy == "None" else {"security_policy": policy, "security_mode": mode}
    return keys if user is None else {**keys, "user": user, "password": "${env:OPCUA_PASSWORD}"}


def fragment(
    url: str, found: Sequence[Found], keys: Mapping[str, str] | None = None, names: Names | None = None
) -> str:
    """Write a site fragment with one device per topmost folder; nodes that `names` has are called as there."""
    import yaml

    link = {"driver": "opcua", "url": url, **(keys or {}), "devices": devices_of(found, names or {})}
    site = {"links": {"opcua": link}}
    return yaml.safe_dump(site, allow_unicode=True, sort_keys=False, width=120, default_flow_style=None)


def devices_of(found: Sequence[Found], names: Names) -> dict[str, dict[str, Any]]:
    """Give the devices of a fragment as YAML has them."""
    before: dict[NodeName | None, tuple[str, str]] = {
        node: place for place, node in reversed(names.items()) if node is not None
    }

    devices: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[tuple[Found, str]]] = {}
    for each in found:
        place = before.pop(_node(each.address, 0), None) if before else None
        device, kept = place or (_word(each.path[0]) if len(each.path) > 1 else "objects", "")
        groups.setdefault(device, []).append((each, kept))
    for device, called in groups.items():
        members = [each for each, _ in called]
        taken = [name for of, name in names if of == device]
        tags: dict[str, Any] = {}
        for name, each in zip(tag_names(members, [kept for _, kept in called], taken), members, strict=True):
            word, _, size = each.type.partition("[")
            tag: dict[str, Any] = {"address": each.address, "type": word}
            number = word not in ("bool", *WORDS_OF_TEXT)
            if size and size != "0]":
                tag["select"] = f"[0:{min(int(size[:-1]), MOST_ELEMENTS) - 1}]" if size != "1]" else "[0]"
            if each.unit:
                tag["unit"] = each.unit
            if each.range is not None and not each.states and number:
                tag["min"], tag["max"] = each.range
            if each.states and number:
                tag["states"] = dict(each.states)
            tags[name] = tag
        devices[device] = {"interval": "1 s", "tags": tags}
    return devices
