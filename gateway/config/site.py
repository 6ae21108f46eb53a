"""A site file, with all it includes and begins from, to a Site: everything the edge daemon needs to know.

All problems of all files are found in one pass and raised as one ConfigError, ordered by place. Nothing of the YAML
trees and of the tags' models outlives the call.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.config.advice import in_the_clear
from gateway.config.document import Mapping as Tree
from gateway.config.document import locate
from gateway.config.files import Files, shown
from gateway.config.inventory import compile_inventory
from gateway.config.links import compile_links
from gateway.config.merge import include
from gateway.config.messages import Piece, check
from gateway.config.models import FragmentOptions, SiteOptions
from gateway.config.references import Missing, References, written
from gateway.config.selected import check_commands, check_publishers
from gateway.config.shipped import shipped
from gateway.config.tags import check_name, wanted_keys
from gateway.errors import ConfigError, Problem
from gateway.model import Link, Where
from gateway.options import CommandOptions, PublisherOptions, TlsOptions
from gateway.site import Equipment, Site
from gateway.templates import NAMES, SCAN_VALUES, TAG_NAMES, TAG_VALUES, body_faults, names_for, topic_faults

Path_ = tuple[str | int, ...]
_LEVEL: Final = re.compile(r"[a-z][a-z0-9_]*")


def load_site(path: Path, *, links: Mapping[str, str] | None = None, secrets: bool = True) -> Site:
    """Read, check and compile a site file. Raises ConfigError with every problem.

    `links` gives links other URLs, by name: those of simulators. With secrets=False, references that cannot be
    resolved here are warnings, and what needs them is left out: publishers, or links.
    """
    files = Files(path.parent, References(needed=secrets))
    tree = open_root(path, files, "a site file has the keys gateway, links and publish")
    refuse_other(tree, path, "site")
    return site_of(tree, path, files, links or {})


def kind_of(tree: Tree) -> str:
    """Tell by its keys what a file is: site, fragment, template or cloud."""
    keys = set(tree)
    if not keys & {"links", "gateway", "publish"}:
        if keys & {"broker", "store"}:
            return "cloud"
        if "driver" in keys:
            return "template"
    return "fragment" if keys and not keys - {"links", "inventory", "include"} else "site"


def refuse_other(tree: Tree, path: Path, wanted: str) -> None:
    """Raise ConfigError where a file of another kind was given, and say which command takes it."""
    kind = kind_of(tree)
    if kind == wanted or (wanted == "cloud" and kind != "site" and "driver" not in tree):
        return
    here = "this command takes a site file" if wanted == "site" else "this command takes a cloud file"
    kinds = {
        "cloud": ("this is a cloud file", "it is for plantbridge ingest, query and account"),
        "template": ("this is a device template", "a device of a site file begins from it with template: NAME"),
        "fragment": ("this is a file that others include", "name it under include: in a site file"),
        "site": ("this is a site file", "it is for plantbridge run, plan and simulate"),
    }
    reason, takes = kinds[kind]
    raise ConfigError([Problem(shown(path), tree.mark.line, tree.mark.column, "", f"{reason}; {here}", takes)])


def site_of(tree: Tree, path: Path, files: Files, urls: Mapping[str, str]) -> Site:
    """Check and compile the tree of a site file."""
    compiled, inventory = _links(tree, path, files, urls)
    places = _places(tree, compiled, files)
    publishers = _publishers(tree, files, places)
    options, _ = check(SiteOptions, Piece(tree, (), tree.mark, ("links", "inventory", "publish")), files)
    if options is not None and "gateway" in tree:
        check_name(options.gateway, "gateway", tree.value_at("gateway"), ("gateway",), files)
    if publishers and options is not None and not any(problem.severity == "error" for problem in files.found()):
        check_publishers(publishers, options.gateway, compiled, tree, files)
        if _commands(options) is not None:
            check_commands(publishers, compiled, tree, files)
    problems = files.found()
    if options is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return Site(
        gateway=options.gateway,
        data=(path.parent / options.data).absolute(),
        links=compiled,
        publishers=publishers,
        journal=options.journal,
        clock=options.clock,
        metrics=options.metrics,
        log=options.log,
        commands=_commands(options),
        files=(*files.read, *files.references.files),
        warnings=tuple(problems),
        places=places,
        path=path.absolute(),
        urls=dict(urls),
        probation=options.probation,
        watch=options.watch,
        inventory=inventory,
        sources={name: data for name, data in files.sources.items() if not name.is_relative_to(shipped().resolve())},
    )


def _commands(options: SiteOptions) -> CommandOptions | None:
    if isinstance(options.commands, CommandOptions):
        return options.commands
    return CommandOptions() if options.commands == "on" else None


def _places(tree: Tree, links: tuple[Link, ...], files: Files) -> dict[str, dict[str, str]]:
    """Give the levels of each device's location, the site's own among them."""
    location = tree.get("location")
    given = location if isinstance(location, Tree) else {}
    places = {"": {level: name for level, name in given.items() if isinstance(name, str)}}
    for link in links:
        for device in link.devices:
            places[device.name] = {**places[""], **device.options.location}
    taken = {*TAG_NAMES, *SCAN_VALUES, *TAG_VALUES}
    for level in sorted({level for place in places.values() for level in place}):
        if level in taken or not _LEVEL.fullmatch(level):
            mark = location.key_at(level) if isinstance(location, Tree) and level in location else tree.mark
            reason = "is a placeholder already" if level in taken else "has other signs than a-z, 0-9 and _"
            files.report(mark, ("location",), f"the level {level} {reason}", "give it another name")
    return places


def fragment_of(tree: Tree, path: Path, files: Files) -> tuple[Link, ...]:
    """Check and compile the tree of a file that others include. Raises ConfigError with every problem."""
    compiled, _ = _links(tree, path, files, {})
    check(FragmentOptions, Piece(tree, (), tree.mark, ("links", "inventory")), files)
    problems = files.found()
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return compiled


def open_root(path: Path, files: Files, wanted: str) -> Tree:
    """Read the file that was named on the command line. Raises ConfigError where it has no keys."""
    try:
        tree = files.open(path)
    except OSError as error:
        raise ConfigError([Problem(shown(path), 0, 0, "", f"cannot be read: {error.strerror}")]) from None
    if isinstance(tree, Tree):
        return tree
    if not files.problems:
        mark = getattr(tree, "mark", None)
        line, column = (mark.line, mark.column) if mark is not None else (1, 1)
        reason = (
            "the file is empty" if tree is None else f"expected keys and values, got {'a list' if mark else 'text'}"
        )
        files.problems.append(Problem(shown(path), line, column, "", reason, wanted))
    raise ConfigError(files.found())


def _links(
    tree: Tree, path: Path, files: Files, urls: Mapping[str, str]
) -> tuple[tuple[Link, ...], tuple[Equipment, ...]]:
    """Compile the links and the inventory of the site file and of all included files."""
    links = tree.get("links")
    if "links" in tree and not isinstance(links, Tree):
        files.report(tree.value_at("links"), ("links",), *wanted_keys(links, "links by name"))
    if not isinstance(links, Tree):
        links = tree.new()
    machines = _machines(tree, files)
    include(tree, path, links, files, inventory=machines)
    if not links and "links" not in tree and not files.problems:
        files.report(tree.mark, (), "this site has no links", "add links: {NAME: {driver: ..., devices: ...}}")
    elif not links and isinstance(tree.get("links"), Tree):
        files.report(tree.value_at("links"), ("links",), *wanted_keys(links, "links by name"))
    for name, url in urls.items():
        link = links.get(name)
        if isinstance(link, Tree):
            if "url" in link:
                link["url"] = url
            else:
                link.put_here("url", url)
        elif name not in links:
            files.report(tree.mark, ("links",), f"there is no link {name} to give another url")
    compiled = compile_links(links, files)
    return compiled, compile_inventory(machines, compiled, _named(links), files)


def _machines(tree: Tree, files: Files) -> Tree:
    """Give the site's own machines without a link, for those of included files to be added to."""
    machines = tree.get("inventory", tree.new())
    if isinstance(machines, Tree):
        return machines
    files.report(tree.value_at("inventory"), ("inventory",), *wanted_keys(machines, "machines by name"))
    return tree.new()


def _named(links: Tree) -> dict[str, Where]:
    """Say where each device is named."""
    every = [
        link["devices"] for link in links.values() if isinstance(link, Tree) and isinstance(link.get("devices"), Tree)
    ]
    return {name: devices.key_at(name) for devices in every for name in devices}


def _publishers(tree: Tree, files: Files, places: Mapping[str, Mapping[str, str]]) -> dict[str, PublisherOptions]:
    publish = tree.get("publish")
    if "publish" not in tree:
        hint = "add publish: {cloud: {url: mqtt://HOST}}; without it readings stay in the journal"
        files.report(tree.mark, (), "this site publishes nothing", hint, "warning")
        return {}
    if not isinstance(publish, Tree) or not publish:
        files.report(tree.value_at("publish"), ("publish",), *wanted_keys(publish, "publishers by name"))
        return {}
    publishers = {}
    compiled_names = [name for name in places if name]
    for name in publish:
        (mark, value_mark), place = publish.at(name), ("publish", name)
        check_name(name, "publisher", mark, place, files)
        each = publish[name]
        if not isinstance(each, Tree):
            files.report(value_mark, place, *wanted_keys(each, "url and format"))
            continue
        options, _ = check(PublisherOptions, Piece(each, place, mark), files)
        if options is not None:
            publishers[name] = options
            warn_in_the_clear(each, options.url, ("mqtt", "ws"), (*place, "url"), "mqtts:// or wss://", files)
            if options.tls is not None:
                _certificates(options.tls, each["tls"], (*place, "tls"), files)
        _templates(each, place, {level for levels in places.values() for level in levels}, files)
        if options is not None and compiled_names:
            _sub_devices(options, each, place, compiled_names, files)
    return publishers


def warn_in_the_clear(
    tree: Tree, urls: Sequence[str], schemes: Sequence[str], path: Path_, instead: str, files: Files
) -> None:
    """Warn of a peer at a public address that is spoken to without TLS."""
    host = in_the_clear(urls, schemes)
    if host and "url" in tree:
        reason = f"nothing is encrypted on the way to {host}, a public address"
        hint = f"use {instead}; where a tunnel encrypts it, leave it as it is"
        files.report(tree.value_at("url"), path, reason, hint, "warning")


def _certificates(tls: TlsOptions, tree: Tree, path: Path_, files: Files) -> None:
    """Warn of files that are not there; they may well be on the machine this runs on."""
    for key in ("ca", "certificate", "key"):
        file = getattr(tls, key)
        if file is not None and key in tree and not Path(file).is_file():
            hint = "relative to this file's folder"
            files.report(tree.value_at(key), (*path, key), f"there is no file {written(tree[key])}", hint, "warning")


def _sub_devices(options: PublisherOptions, tree: Tree, path: Path_, devices: list[str], files: Files) -> None:
    """A platform's list of sub-devices must name devices of this site, by the names they are published under."""
    settings = getattr(options, options.format, None) if options.format in ("huawei", "aliyun", "tencent") else None
    if settings is None:
        return
    renamed = options.tags.names if options.tags is not None else {}
    known = [renamed.get(device, device) for device in devices]
    for name in settings.devices:
        if name not in known:
            mark, _ = locate(tree, (options.format, "devices", name))
            close = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"devices here: {', '.join(known[:10])}"
            files.report(
                mark, (*path, options.format, "devices", name), f"there is no device {name} in this site", hint
            )


def _templates(tree: Tree, place: Path_, levels: Collection[str], files: Files) -> None:
    """Topic and body templates must have known placeholders only, and a topic none of MQTT's wildcards."""
    form, topic, json = tree.get("format", "columns"), tree.get("topic"), tree.get("json")
    settings = json if isinstance(json, Tree) else tree.new()
    per = str(settings.get("per", "scan"))
    known = {"columns": ("gateway",), "json": (*names_for(per), *sorted(levels))}.get(form, ())
    if isinstance(topic, str) and not isinstance(topic, Missing) and known:
        for reason, hint in topic_faults(topic, known):
            files.report(tree.value_at("topic"), (*place, "topic"), reason, hint)
    if form != "json":
        return
    body = settings.get("body")
    names, values = (TAG_NAMES, TAG_VALUES) if per == "tag" else (NAMES, SCAN_VALUES)
    for keys, reason, hint in body_faults(body, (*names, *sorted(levels)), values):
        _, mark = locate(settings, ("body", *keys))
        files.report(mark, (*place, "json", "body", *keys), reason, hint)
    if per == "tag" and settings.get("retain") is True and isinstance(topic, str) and "{tag}" not in topic:
        reason = "tags of one topic cannot all be retained: the broker keeps one message"
        files.report(tree.value_at("topic"), (*place, "topic"), reason, "put {tag} into the topic")
    if "window" in settings and per != "window":
        mark = settings.key_at("window")
        files.report(mark, (*place, "json", "window"), f"window has no meaning with per: {per}", "write per: window")
