"""What several commands are asked for alike: which devices of a site, and how long."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from gateway.model import Device, Link
    from gateway.site import Site


def wanted(site: Site, names: Sequence[str]) -> list[tuple[Link, list[Device]]]:
    """Find the devices by name. Raises BadParameter."""
    known = [device.name for link in site.links for device in link.devices]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known[:20])}"
            raise typer.BadParameter(f"there is no device {name}; {hint}", param_hint="DEVICE")
    chosen = [(link, [device for device in link.devices if not names or device.name in names]) for link in site.links]
    return [(link, devices) for link, devices in chosen if devices]


def duration(text: str, option: str | None = None) -> float:
    """Read a duration (s). Raises BadParameter; `option` names it where typer does not."""
    from gateway.options import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
