"""What the running gateways say of their devices now, over their sockets (gateway.local)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.inventory.rates import Live
from gateway.local.client import NotRunning, ask
from gateway.site import Site


def live(sites: Iterable[Site]) -> dict[tuple[str, str], Live]:
    """Ask the gateway of each site; those that do not run say nothing. Raises GatewayError."""
    found: dict[tuple[str, str], Live] = {}
    for site in sites:
        try:
            answer = ask(site.data, {"ask": "status", "over": 0})
        except NotRunning:
            continue
        for link in answer["links"]:
            for device in link["devices"]:
                reason = str(device["reason"] or link["reason"])
                found[site.gateway, device["device"]] = _of(device, reason)
    return found


def _of(device: dict[str, Any], reason: str) -> Live:
    """Say of a device whether it gives good values: it answers, and not all of its tags are Bad."""
    groups = [group for group in device["groups"] if group["began"] and not group["outcome"]]
    last = max((int(group["began"]) for group in groups), default=0)
    if device["up"] and any(group["bad"] < group["tags"] for group in groups):
        return Live(up=True, last=last)
    return Live(up=False, last=last, reason="" if device["up"] else reason)
