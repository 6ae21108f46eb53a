"""Any configuration file, told by its keys: a site, an included file, a device template, or a cloud file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config.cloud import cloud_of
from gateway.config.files import Files
from gateway.config.links import check_template
from gateway.config.plans import plan_links
from gateway.config.references import References
from gateway.config.site import fragment_of, kind_of, open_root, site_of
from gateway.errors import ConfigError, Problem
from gateway.model import Link, Where


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file is, what is in it in a few words, and all problems found."""

    kind: str  # site, fragment, template or cloud; empty where that cannot be told
    summary: str
    problems: tuple[Problem, ...]
    topics: tuple[tuple[str, str, str], ...] = ()  # of a site: broker, topic prefix, name of the publisher
    place: Where | None = None  # of a site's name


def check_file(path: Path, *, secrets: bool = True, instead: Mapping[Path, str] | None = None) -> Checked:
    """Check a file of any kind as thoroughly as can be done without connecting to anything.

    With secrets=False, references that cannot be resolved here are warnings. `instead` are texts that some files shall
    have, by resolved path: what is to be written can be checked before it is.
    """
    files = Files(path.parent, References(needed=secrets), instead=instead or {})
    try:
        tree = open_root(path, files, "a site file has the keys gateway, links and publish")
        kind = kind_of(tree)
        if kind == "cloud":
            cloud = cloud_of(tree, path, files)
            return Checked("cloud", f"store {cloud.store.type}", cloud.warnings)
        if kind == "template":
            tags = check_template(tree, path.stem, files)
            return Checked("template", f"{tags} tags", tuple(files.found()))
        if kind == "fragment":
            links, warnings = fragment_of(tree, path, files), tuple(files.found())
            return _planned("fragment", "an included file with ", links, warnings)
        site = site_of(tree, path, files, {})
        topics = tuple(
            (url.lower().rstrip("/"), each.prefix.replace("{gateway}", site.gateway), name)
            for name, each in site.publishers.items()
            for url in each.url
        )
        checked = _planned("site", "", site.links, site.warnings)
        return replace(checked, topics=topics, place=tree.value_at("gateway"))
    except ConfigError as error:
        return Checked("", "", error.problems)


def _planned(kind: str, lead: str, links: Sequence[Link], warnings: tuple[Problem, ...]) -> Checked:
    """Have the drivers plan, which finds what single addresses do not show."""
    _, planned = plan_links(links)
    counts = (
        (len(links), "link"),
        (sum(len(link.devices) for link in links), "device"),
        (sum(len(table) for link in links for table in link.tables), "tag"),
    )
    summary = lead + ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    return Checked(kind, summary, (*warnings, *planned))


def clashes(every: Sequence[Checked]) -> list[Problem]:
    """Find sites that tell their data at one place of one broker: a reader could not tell them apart."""
    first: dict[tuple[str, str], Checked] = {}
    found = []
    for checked in every:
        for url, prefix, name in checked.topics:
            other = first.setdefault((url, prefix), checked)
            if other.place and checked.place and other.place != checked.place:
                reason = f"{other.place.file} publishes under {prefix} at {url} too"
                hint = "give each gateway a name of its own"
                where = checked.place
                found.append(Problem(where.file, where.line, where.column, f"publish.{name}", reason, hint, "warning"))
    return found
