"""`plantbridge run`: the edge daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    links: Annotated[
        Path | None,
        typer.Option(help="JSON file of link urls that stand in for the site's, as `simulate --map` writes it."),
    ] = None,
) -> None:
    """Run the edge daemon: poll the site's devices, journal their readings, publish them.

    Ends in order on SIGTERM or Ctrl-C: all that was read is on disk, and sent where the broker takes it.

    Example: plantbridge run /etc/plantbridge/site.yaml
    """
    import orjson

    from gateway import app
    from gateway.config import load_site
    from gateway.log import configure
    from gateway.loop import run_until_signal

    urls = orjson.loads(links.read_bytes()) if links else None
    loaded = load_site(site, links=urls)
    configure(loaded.log)
    run_until_signal(lambda stop: app.run(loaded, stop))
