"""What publishers may tell, held against the tags there are: globs that match nothing, names that clash.

It runs when links and publishers are otherwise without errors: a glob may well mean a tag that was misspelt above.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from gateway.config.document import Mapping as Tree
from gateway.config.document import locate
from gateway.config.files import Files
from gateway.config.tags import check_name
from gateway.model import Link
from gateway.options import PublisherOptions, TagSelection
from gateway.selection import Selection, matcher

Path = tuple[str | int, ...]

ONLY_3_1_1 = frozenset({"huawei", "aliyun", "tencent", "azure"})
"""Formats whose platforms do not speak MQTT 5."""


def check_publishers(
    publishers: Mapping[str, PublisherOptions], gateway: str, links: Sequence[Link], tree: Tree, files: Files
) -> None:
    """Report what publishers say of tags that are not there, and publishers that get in each other's way."""
    names = {f"{table.device}/{name}": None for link in links for table in link.tables for name in table.names}
    devices = {table.device: None for link in links for table in link.tables}
    for name, options in publishers.items():
        if options.tags is not None:
            _selection(options.tags, ("publish", name, "tags"), [*names], [*devices], links, tree, files)
        if options.widen > 1:
            _widening(options, ("publish", name, "widen"), links, tree, files)
        _forced_version(name, options, tree, files)
        _dots(name, options, gateway, tree, files)
    _same_place(publishers, tree, files)
    _same_client(publishers, tree, files)


def check_commands(publishers: Mapping[str, PublisherOptions], links: Sequence[Link], tree: Tree, files: Files) -> None:
    """Warn of commands that nothing may carry out, or that nobody can give."""
    path: Path = ("commands",)
    if not any(tag.writable is not None for link in links for table in link.tables for tag in table.tags):
        hint = "give a tag writable: {min: ..., max: ...}, or leave commands out"
        files.report(locate(tree, path)[0], path, "commands are on, and no tag is writable", hint, "warning")
    elif not any(options.commands == "on" for options in publishers.values()):
        hint = "let a publisher have commands: on"
        files.report(locate(tree, path)[0], path, "commands are on, and no publisher takes any", hint, "warning")


def _forced_version(name: str, options: PublisherOptions, tree: Tree, files: Files) -> None:
    """Warn of what only MQTT 5 has, under a format whose platform speaks 3.1.1."""
    if options.format not in ONLY_3_1_1:
        return
    for key in ("message_expiry", "content_type", "user_properties"):
        if getattr(options, key):
            path: Path = ("publish", name, key)
            reason = f"{key} is MQTT 5, and {options.format} is spoken to in MQTT 3.1.1: it has no effect"
            files.report(locate(tree, path)[0], path, reason, f"leave {key} out", "warning")


def _dots(name: str, options: PublisherOptions, gateway: str, tree: Tree, files: Files) -> None:
    """Warn of a dot in the topics of what is, by its name, a nats-server: 2.9 and older end the session over one."""
    hosts = [(urlsplit(url).hostname or "") for url in options.url]
    told = {"columns": options.prefix, "json": options.topic or options.prefix, "sparkplug": "spBv1.0"}
    topic = told.get(options.format, "").replace("{gateway}", gateway)
    if "." in topic and any("nats" in host.lower() for host in hosts):
        path: Path = ("publish", name)
        reason = f"the topic {topic} has a dot, and nats-server ends the session over one before version 2.10"
        hint = "if it is such a server, take another version, or the dot out of the gateway's name or the topic"
        files.report(locate(tree, path)[0], path, reason, hint, "warning")


def _same_client(publishers: Mapping[str, PublisherOptions], tree: Tree, files: Files) -> None:
    """Warn of one client id at one broker: it ends the older session when the other one begins."""
    seen: dict[tuple[str, str], str] = {}
    for name, options in publishers.items():
        client_id = _client_id(options)
        if not client_id:
            continue
        places = [(url, client_id) for url in options.url]
        other = next((seen[each] for each in places if each in seen), None)
        for each in places:
            seen.setdefault(each, name)
        if other is not None:
            path: Path = ("publish", name)
            reason = f"{other} and {name} have the client id {client_id} at one broker: only one can be connected"
            files.report(locate(tree, path)[0], path, reason, "give each a client id of its own", "warning")


def _client_id(options: PublisherOptions) -> str:
    """Give the client id that the site file fixes; nothing where the publisher's name is in it."""
    if options.aws is not None:
        return options.aws.thing
    if options.azure is not None:
        return options.azure.device_id
    if options.huawei is not None:
        return options.huawei.device_id
    product = options.aliyun or options.tencent
    return f"{product.product} {product.name}" if product is not None else options.client_id or ""


def _selection(
    selection: TagSelection,
    path: Path,
    names: Sequence[str],
    devices: Sequence[str],
    links: Sequence[Link],
    tree: Tree,
    files: Files,
) -> None:
    before = len(files.problems)
    for key, globs in (("include", selection.include), ("exclude", selection.exclude)):
        for index, glob in enumerate(globs):
            if not any(map(matcher([glob]), names)):
                place = _place(tree, path, key, index)
                files.report(locate(tree, place)[1], place, f"no tag matches {glob}", _meant(glob, names, devices))
    allowed, refused = matcher(selection.include), matcher(selection.exclude)
    shown = [name for name in names if allowed(name) and not refused(name)]
    if not shown and len(files.problems) == before:
        files.report(locate(tree, path)[0], path, "no tag is left to publish", "exclude less, or include more")
    for old, new in selection.names.items():
        place = (*path, "as", old)
        if old not in names and old not in devices:
            hint = _meant(old, names, devices)
            files.report(locate(tree, place)[0], place, f"there is no device or tag {old}", hint)
        check_name(new, "tag" if "/" in old else "device", locate(tree, place)[1], place, files)
    if len(files.problems) == before:
        try:
            Selection(selection, (table for link in links for table in link.tables))
        except ValueError as error:
            place = (*path, "as")
            files.report(locate(tree, place)[0], place, str(error), "names are to differ within a device")


def _widening(options: PublisherOptions, path: Path, links: Sequence[Link], tree: Tree, files: Files) -> None:
    """Warn where there is nothing to widen."""
    chosen = Selection(options.tags or TagSelection())
    tables = (table for link in links for table in link.tables)
    if any(tag.deadband > 0 and chosen.allows(f"{table.device}/{tag.name}") for table in tables for tag in table.tags):
        return
    hint = "give tags a deadband above 0, or leave widen out"
    files.report(locate(tree, path)[0], path, "no tag of this publisher has a deadband to widen", hint, "warning")


def _place(tree: Tree, path: Path, key: str, index: int) -> Path:
    """Give the place of a glob: also where the list stands without its key."""
    publisher = tree["publish"][path[1]]
    return (*path, index) if isinstance(publisher["tags"], list) else (*path, key, index)


def _meant(wanted: str, names: Sequence[str], devices: Sequence[str]) -> str:
    """Say what was probably meant."""
    known = [*names, *devices]
    plain = wanted.replace("*", "").strip("/")
    close = difflib.get_close_matches(plain, known, 1, 0.6)
    device, slash, tag = wanted.partition("/")
    if not close and device == "*":
        tags = dict.fromkeys(name.partition("/")[2] for name in names)
        close = [f"*/{near}" for near in difflib.get_close_matches(tag.strip("*"), [*tags], 1, 0.6)]
    if not close and slash:
        near = difflib.get_close_matches(device, devices, 1, 0.6)
        close = [f"{near[0]}/{tag}"] if near and near[0] != device else []
    if not close:
        close = [name for name in names if name.rpartition("/")[2] == plain][:1]
    elif "*" in wanted and wanted.endswith("/*") and close[0] in devices:
        close = [f"{close[0]}/*"]
    examples = ", ".join(devices[:5]) + (", …" if len(devices) > 5 else "")
    return f"did you mean {close[0]}?" if close else f"a glob over DEVICE/TAG; the devices are {examples}"


def _same_place(publishers: Mapping[str, PublisherOptions], tree: Tree, files: Files) -> None:
    """Two publishers of the native format that define their tables at one place would overwrite each other's."""
    seen: dict[tuple[str, str], tuple[str, TagSelection | None]] = {}
    for name, options in publishers.items():
        if options.format != "columns":
            continue
        told = [(url, options.prefix) for url in options.url]
        other, tags = next((seen[each] for each in told if each in seen), (name, options.tags))
        seen.update(dict.fromkeys(told, (other, tags)))
        if other != name and tags != options.tags:
            place: Path = ("publish", name)
            reason = f"{other} and {name} tell different things of the same tables at one place of one broker"
            hint = f"give {name} a topic of its own, such as partner/{{gateway}}"
            files.report(locate(tree, place)[0], place, reason, hint)
