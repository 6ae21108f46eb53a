"""`plantbridge isolate`: stop all writes to the devices of a gateway, at once and over restarts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway.language import say


class Wanted(StrEnum):
    """What to do with the switch."""

    on = "on"
    off = "off"
    status = "status"


def isolate(
    wanted: Annotated[Wanted, typer.Argument(help="on stops all writes, off allows them again.")],
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    reason: Annotated[str, typer.Option(help="Why; shown in health and in the audit log.")] = "",
) -> None:
    """Stop all writes to devices, from the cloud and from the command line, or allow them again.

    The running daemon looks at this switch before each write, and it stays as it is over restarts. status exits 1 where
    the gateway is isolated. Only this command ends an isolation: from outside it can be switched on, never off.

    Example: plantbridge isolate on site.yaml --reason "work on press-1"
    """
    import time

    from gateway.audit import write as audit
    from gateway.config import load_site
    from gateway.control import DIRECTORY
    from gateway.errors import GatewayError
    from gateway.isolation import Switch

    loaded = load_site(site, secrets=False)
    switch = Switch(loaded.data)
    changed = False
    try:
        if wanted is Wanted.on:
            changed = switch.isolate(who(), reason, time.time_ns())
        elif wanted is Wanted.off:
            changed = switch.release()
    except OSError as error:
        raise GatewayError(f"{switch.path} cannot be changed: {error.strerror}; who runs the gateway?") from error
    said = switch.read()
    print(
        say(
            f"{loaded.gateway} is isolated, nothing is written: {said}"
            if said
            else f"{loaded.gateway} is not isolated."
        )
    )
    if changed and loaded.commands is not None:
        from gateway.audit import stamp

        entry = {"event": "isolated" if said else "isolation ended", "by": who(), "reason": reason}
        audit(loaded.data / DIRECTORY, [{**entry, "time": stamp(time.time_ns())}], loaded.commands.audit)
    if wanted is Wanted.status and said:
        raise typer.Exit(1)


def who() -> str:
    import getpass

    try:
        return f"{getpass.getuser()} at the gateway"
    except (OSError, KeyError, ImportError):
        return "somebody at the gateway"
