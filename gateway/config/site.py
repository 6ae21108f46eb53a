"""A site file, with all it includes and begins from, to a Site: everything the edge daemon needs to know.

All problems of all files are found in one pass and raised as one ConfigError, ordered by place. Nothing of the YAML
trees and of the tags' models outlives the call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config.document import Mapping as Tree
from gateway.config.files import Files, shown
from gateway.config.links import compile_links
from gateway.config.merge import include
from gateway.config.messages import Piece, check
from gateway.config.models import FragmentOptions, SiteOptions
from gateway.config.references import Missing, References, written
from gateway.config.selected import check_publishers
from gateway.config.tags import check_name, wanted_keys
from gateway.errors import ConfigError, Problem
from gateway.model import Link, Where
from gateway.options import CommandOptions, PublisherOptions, TlsOptions
from gateway.site import Site

Path_ = tuple[str | int, ...]
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDERS: Final = {"columns": ("gateway",), "json": ("gateway", "device", "group")}


def load_site(path: Path, *, links: Mapping[str, str] | None = None, secrets: bool = True) -> Site:
    """Read, check and compile a site file. Raises ConfigError with every problem.

    `links` gives links other URLs, by name: those of simulators. With secrets=False, references that cannot be
    resolved here are warnings, and what needs them is left out: publishers, or links.
    """
    files = Files(path.parent, References(needed=secrets))
    tree = open_root(path, files, "a site file has the keys gateway, links and publish")
    return site_of(tree, path, files, links or {})


def site_of(tree: Tree, path: Path, files: Files, urls: Mapping[str, str]) -> Site:
    """Check and compile the tree of a site file."""
    compiled = _links(tree, path, files, urls)
    publishers = _publishers(tree, files)
    options, _ = check(SiteOptions, Piece(tree, (), tree.mark, ("links", "publish")), files)
    if options is not None and "gateway" in tree:
        check_name(options.gateway, "gateway", tree.value_at("gateway"), ("gateway",), files)
    if publishers and not any(problem.severity == "error" for problem in files.found()):
        check_publishers(publishers, compiled, tree, files)
    problems = files.found()
    if options is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return Site(
        gateway=options.gateway,
        data=(path.parent / options.data).absolute(),
        links=compiled,
        publishers=publishers,
        journal=options.journal,
        metrics=options.metrics,
        log=options.log,
        commands=_commands(options),
        files=(*files.read, *files.references.files),
        warnings=tuple(problems),
    )


def _commands(options: SiteOptions) -> CommandOptions | None:
    if isinstance(options.commands, CommandOptions):
        return options.commands
    return CommandOptions() if options.commands == "on" else None


def fragment_of(tree: Tree, path: Path, files: Files) -> tuple[Link, ...]:
    """Check and compile the tree of a file that others include. Raises ConfigError with every problem."""
    compiled = _links(tree, path, files, {})
    check(FragmentOptions, Piece(tree, (), tree.mark, ("links",)), files)
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


def _links(tree: Tree, path: Path, files: Files, urls: Mapping[str, str]) -> tuple[Link, ...]:
    """Compile the links of the site file and of all included files."""
    links = tree.get("links")
    if "links" in tree and not isinstance(links, Tree):
        files.report(tree.value_at("links"), ("links",), *wanted_keys(links, "links by name"))
    if not isinstance(links, Tree):
        links = tree.new()
    include(tree, path, links, files)
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
    return compile_links(links, files)


def _publishers(tree: Tree, files: Files) -> dict[str, PublisherOptions]:
    publish = tree.get("publish")
    if "publish" not in tree:
        hint = "add publish: {cloud: {url: mqtt://HOST}}; without it readings stay in the journal"
        files.report(tree.mark, (), "this site publishes nothing", hint, "warning")
        return {}
    if not isinstance(publish, Tree) or not publish:
        files.report(tree.value_at("publish"), ("publish",), *wanted_keys(publish, "publishers by name"))
        return {}
    publishers = {}
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
            if options.tls is not None:
                _certificates(options.tls, each["tls"], (*place, "tls"), files)
        topic, form = each.get("topic"), each.get("format", "columns")
        if isinstance(topic, str) and not isinstance(topic, Missing) and form in _PLACEHOLDERS:
            _topic(topic, _PLACEHOLDERS[form], each.value_at("topic"), (*place, "topic"), files)
    return publishers


def _certificates(tls: TlsOptions, tree: Tree, path: Path_, files: Files) -> None:
    """Warn of files that are not there; they may well be on the machine this runs on."""
    for key in ("ca", "certificate", "key"):
        file = getattr(tls, key)
        if file is not None and key in tree and not Path(file).is_file():
            hint = "relative to this file's folder"
            files.report(tree.value_at(key), (*path, key), f"there is no file {written(tree[key])}", hint, "warning")


def _topic(topic: str, known: tuple[str, ...], mark: Where, path: tuple[str, ...], files: Files) -> None:
    """A topic template must have known placeholders only, and none of MQTT's wildcards."""
    names = ", ".join(f"{{{name}}}" for name in known)
    for name in _PLACEHOLDER.findall(topic):
        if name not in known:
            files.report(mark, path, f"unknown placeholder {{{name}}} in the topic", f"this format knows {names}")
    if "{" in _PLACEHOLDER.sub("", topic) or "}" in _PLACEHOLDER.sub("", topic):
        files.report(mark, path, "a brace in the topic is not closed", f"placeholders are {names}")
    if not topic or any(sign in topic for sign in "+#\x00") or topic.startswith(("$", "/")):
        files.report(mark, path, "the topic cannot be published to", "no + or #, no $ or / at the start")
