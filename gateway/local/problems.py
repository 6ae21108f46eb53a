"""What is wrong by the daemon's own account, and what to do about each: from the answer to `status`, pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

LATE: Final = 3  # intervals after which a scan that did not come is worth a word


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, and what to do about it."""

    what: str
    do: str


def troubles(status: dict[str, Any], site: str) -> list[Trouble]:
    """Give what is wrong, the worst first: lost readings, then links and devices, then what is late."""
    return [
        *_journal(status, site),
        *_clock(status),
        *_links(status, site),
        *_publishers(status),
        *_writes(status, site),
    ]


def _journal(status: dict[str, Any], site: str) -> Iterator[Trouble]:
    journal = status["journal"]
    if journal["trouble"]:
        yield Trouble(
            journal["trouble"], f"plantbridge journal {site} shows who has not sent what; df {status['data']}"
        )
    lost = {reason: count for reason, count in journal["dropped_here"].items() if count}
    if lost:
        reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(lost.items()))
        yield Trouble(
            f"readings were lost since this start: {reasons}",
            "they are declared as gaps; make room on the disk, raise journal: max_size, or bring the broker back",
        )


def _clock(status: dict[str, Any]) -> Iterator[Trouble]:
    if trouble := status.get("clock", {}).get("trouble"):
        yield Trouble(
            trouble,
            "is NTP reached (timedatectl)? Without one, set the clock: sudo date -u -s '2026-01-31 12:00:00'",
        )


def _links(status: dict[str, Any], site: str) -> Iterator[Trouble]:
    for link in status["links"]:
        if link["up"] is None:
            yield Trouble(f"link {link['link']} was not reached yet", f"is {link['url']} right? Look again in a moment")
            continue
        if not link["up"]:
            yield Trouble(
                f"link {link['link']} ({link['url']}) is down since {link['since']}: {link['reason']}",
                f"is the device on, the cable in, the address right? plantbridge probe {site} from this machine",
            )
            continue
        for device in link["devices"]:
            yield from _device(device, status["now"], site)


def _device(device: dict[str, Any], now: int, site: str) -> Iterator[Trouble]:
    name = device["device"]
    if device["up"] is False:
        yield Trouble(
            f"device {name} is silent since {device['since']}: {device['reason']}",
            f"the link itself works, so look at this device: power, unit id; plantbridge probe {site} {name}",
        )
        return
    for group in device["groups"]:
        of = f"{name} / {group['group']}"
        if group["bad"]:
            yield Trouble(
                f"{of}: {group['bad']} of {group['tags']} tags have no good value",
                f"plantbridge tail {site} '{name}/*' shows which, plantbridge explain {site} {name}/TAG why",
            )
        if group["skipping"] > 0:
            yield Trouble(
                f"{of}: scans are skipped, {group['skipping']:.2g} a second; the last one took {group['took']:.3g} s",
                f"the link has too little time: plantbridge plan {site} shows its load; a longer interval helps",
            )
        overdue = now - group["began"] > LATE * group["interval"] + 5 * 10**9
        if not group["subscribed"] and group["began"] and overdue:
            seconds = (now - group["began"]) / 1e9
            yield Trouble(
                f"{of}: no scan for {seconds:.0f} s although the device is up",
                "a full journal may hold scans, or another device on the link takes all the time: see above",
            )


def _publishers(status: dict[str, Any]) -> Iterator[Trouble]:
    for publisher in status["publishers"]:
        name, to = publisher["publisher"], " or ".join(publisher["url"])
        if not publisher["up"]:
            kept = f"{publisher['pending_records']} records wait in the journal, nothing is lost yet"
            yield Trouble(
                f"publisher {name} ({to}) cannot send: {publisher['reason']}; {kept}",
                "is the broker up, and reachable from here? Name, password, certificate? It goes on by itself then",
            )
        if publisher["rejected"]:
            yield Trouble(
                f"publisher {name}: {publisher['rejected']} messages were refused by the broker since this start",
                f"they are in {publisher['dead_letters']} with the reason",
            )


def _writes(status: dict[str, Any], site: str) -> Iterator[Trouble]:
    if status.get("configuration"):
        yield Trouble(
            str(status["configuration"]),
            f"plantbridge config diff {site} shows what they would change; mend them and reload, or roll back",
        )
    if status["isolated"]:
        yield Trouble(
            f"the gateway is isolated, nothing is written: {status['isolated']}",
            f"as wanted; plantbridge isolate off {site} ends it",
        )
