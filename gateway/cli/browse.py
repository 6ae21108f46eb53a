"""`plantbridge browse`: an OPC UA server's address space, as a tree or as a ready site fragment."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.language import say

if TYPE_CHECKING:
    from gateway.contracts import Found

WORDS_OF_TEXT: Final = ("text", "datetime", "guid", "bytestring")
MOST_ELEMENTS: Final = 10_000  # of an array, as tags of a site


def browse(
    url: Annotated[str, typer.Argument(help="The server: opc.tcp://HOST:PORT/PATH.")],
    start: Annotated[str, typer.Option(help="Node id or browse path to begin at; Objects where not given.")] = "",
    match: Annotated[str, typer.Option(help="Only variables whose path fits, such as 'Boiler*/*/T?'.")] = "*",
    limit: Annotated[int, typer.Option(help="Stop after this many nodes.", min=1)] = 100_000,
    standard: Annotated[bool, typer.Option("--standard", help="With the standard's own Server object.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the variables as a site fragment.")] = False,
    policy: Annotated[str, typer.Option(help="Security policy, such as Basic256Sha256.")] = "None",
    mode: Annotated[str, typer.Option(help="Sign or SignAndEncrypt.")] = "SignAndEncrypt",
    pki: Annotated[str, typer.Option(help="Folder of certificates.")] = "pki",
    user: Annotated[str | None, typer.Option(help="User name; the password is asked for.")] = None,
    timeout: Annotated[str, typer.Option(help="How long one request may take.")] = "10 s",
) -> None:
    """List what an OPC UA server has: paths, types, values, units and access (r read, w write, h history).

    Reads only. Exits 1 where nothing was found.

    Example: plantbridge browse opc.tcp://192.168.1.30:4840 --match 'Boiler*' --yaml > boilers.yaml
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
    columns = (TextColumn("{task.completed} nodes"), TextColumn("{task.fields[path]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("browsing", path="", total=None)

        def step(found: Found) -> None:
            progress.update(task, advance=1, path="/".join(found.path)[-80:])

        found = asyncio.run(_browse(link, start, limit, step))
    wanted = select(found, match, standard)
    if yaml:
        print(fragment(url, wanted, _link_keys(policy, mode, user)), end="")
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


def tag_names(found: Sequence[Found]) -> list[str]:
    """Give each variable a name of its own: the shortest end of its path that tells it from all others.

    The same variables get the same names, whatever else is browsed beside them in another order.
    """
    names: list[str] = []
    ends: dict[tuple[str, ...], int] = {}
    for each in found:
        for depth in range(1, len(each.path) + 1):
            end = tuple(_word(part) for part in each.path[-depth:])
            ends[end] = ends.get(end, 0) + 1
    used: dict[str, int] = {}
    for each in found:
        words = [_word(part) for part in each.path]
        depth = next((n for n in range(1, len(words)) if ends[tuple(words[-n:])] == 1), len(words))
        name = "-".join(words[-depth:])[-100:]
        used[name] = used.get(name, 0) + 1
        names.append(name if used[name] == 1 else f"{name}-{used[name]}")
    return names


def _word(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-_.").lower() or "x"


def _link_keys(policy: str, mode: str, user: str | None) -> dict[str, str]:
    """Give what the link must say to be let in as this command was; the password stays out of the file."""
    keys = {} if policy == "None" else {"security_policy": policy, "security_mode": mode}
    return keys if user is None else {**keys, "user": user, "password": "${env:OPCUA_PASSWORD}"}


def fragment(url: str, found: Sequence[Found], keys: Mapping[str, str] | None = None) -> str:
    """Write a site fragment with one device per topmost folder."""
    import yaml

    devices: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[Found]] = {}
    for each in found:
        groups.setdefault(_word(each.path[0]) if len(each.path) > 1 else "objects", []).append(each)
    for device, members in groups.items():
        tags: dict[str, Any] = {}
        for name, each in zip(tag_names(members), members, strict=True):
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
    site = {"links": {"opcua": {"driver": "opcua", "url": url, **(keys or {}), "devices": devices}}}
    return yaml.safe_dump(site, allow_unicode=True, sort_keys=False, width=120, default_flow_style=None)
