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
    from gateway.config import load_site
    from gateway.daemon import become

    become(load_site(site, links=_urls(links) if links else None))


def _urls(path: Path) -> dict[str, str]:
    """Read the file that `simulate --map` writes. Raises ConfigError."""
    import orjson

    from gateway.errors import ConfigError, Problem

    try:
        urls = orjson.loads(path.read_bytes())
        if isinstance(urls, dict) and all(isinstance(url, str) for url in urls.values()):
            return urls
        reason = "no table of link urls"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except orjson.JSONDecodeError as error:
        reason = f"not JSON: {error.msg}"
    hint = 'expected {"LINK": "URL"}, as `plantbridge simulate SITE.yaml --map FILE` writes it'
    raise ConfigError([Problem(str(path), 0, 0, "", reason, hint)])
