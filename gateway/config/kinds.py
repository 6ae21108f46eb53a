"""Any configuration file, told by its keys: a site, an included file, a device template, or a cloud file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.config.cloud import cloud_of
from gateway.config.files import Files
from gateway.config.links import check_template
from gateway.config.plans import plan_links
from gateway.config.references import References
from gateway.config.site import fragment_of, open_root, site_of
from gateway.errors import ConfigError, Problem
from gateway.model import Link


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file is, what is in it in a few words, and all problems found."""

    kind: str  # site, fragment, template or cloud; empty where that cannot be told
    summary: str
    problems: tuple[Problem, ...]


def check_file(path: Path, *, secrets: bool = True, instead: Mapping[Path, str] | None = None) -> Checked:
    """Check a file of any kind as thoroughly as can be done without connecting to anything.

    With secrets=False, references that cannot be resolved here are warnings. `instead` are texts that some files shall
    have, by resolved path: what is to be written can be checked before it is.
    """
    files = Files(path.parent, References(needed=secrets), instead=instead or {})
    try:
        tree = open_root(path, files, "a site file has the keys gateway, links and publish")
        if ("broker" in tree or "store" in tree) and "links" not in tree and "gateway" not in tree:
            cloud = cloud_of(tree, path, files)
            return Checked("cloud", f"store {cloud.store.type}", cloud.warnings)
        if "driver" in tree and "links" not in tree and "gateway" not in tree:
            tags = check_template(tree, path.stem, files)
            return Checked("template", f"{tags} tags", tuple(files.found()))
        if not set(tree) - {"links", "include"} and tree:
            links, warnings = fragment_of(tree, path, files), tuple(files.found())
            return _planned("fragment", "an included file with ", links, warnings)
        site = site_of(tree, path, files, {})
        return _planned("site", "", site.links, site.warnings)
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
