"""`plantbridge reload`: have the running daemon load its files again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.language import say


def reload(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
) -> None:
    """Have the running daemon load its site file again, and change what differs while everything else goes on.

    Waits until a changed device has answered, or has been given its old definition back. Exit 0: the files run;
    1: they do not, for a device did not come up or a restart is needed; 2: they do not check, and the old ones run on.

    Example: plantbridge reload /etc/plantbridge/site.yaml
    """
    raise typer.Exit(load_again(site))


def load_again(site: Path) -> int:
    """Ask the daemon to load its files, and print what became of it; give the exit code. Raises GatewayError."""
    from gateway.config import load_site
    from gateway.local.client import ask
    from gateway.reload import COMPILE, EXIT, UNCHANGED
    from gateway.versions import APPLIED

    loaded = load_site(site, secrets=False)  # what is wrong with the files is said before anybody is asked
    answer = ask(loaded.data, {"ask": "reload"}, timeout=COMPILE + loaded.probation + 60)
    outcome, lines = str(answer["outcome"]), list(map(str, answer["lines"]))
    said = {APPLIED: "The new configuration runs:", UNCHANGED: "Nothing differs from what runs."}
    print(say(said.get(outcome, f"The new configuration does not run ({outcome}):")))
    for line in lines:
        print(f"  {say(line)}")
    return EXIT[outcome]
