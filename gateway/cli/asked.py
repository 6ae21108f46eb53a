"""Whom `status`, `tail` and `explain` ask: the daemon of a site file, or that of a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.site import Site

Place = Annotated[
    Path, typer.Argument(help="The site file; or the data directory, where the file has errors.", metavar="SITE.yaml")
]


def found(place: Path) -> tuple[Path, Site | None]:
    """Give the data directory, and the site where a site file was named. Raises ConfigError.

    A daemon goes on with what it was started with while somebody breaks the file; its data directory still reaches it.
    """
    from gateway.config import load_site
    from gateway.errors import ConfigError

    if place.is_dir():
        return place, None
    try:
        site = load_site(place, secrets=False)
    except ConfigError:
        typer.echo("A daemon that was started before goes on; to ask it, name its data directory instead.", err=True)
        raise
    return site.data, site
