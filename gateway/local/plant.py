"""What the daemon answers about itself: `status` and `explain`, as JSON-ready data. Computed when somebody asks.

The Plant holds what runs, and is looked at anew for each question: a reload changes it in place.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gateway
from gateway.clock import Clock
from gateway.contracts import Answer, Explaining
from gateway.health import Health
from gateway.isolation import Switch
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.model import Batch, Group, Link, Tag, TagTable
from gateway.pipeline import Pipeline, Tap
from gateway.poller import Poller
from gateway.publisher import Publisher
from gateway.site import Site

Counts = dict[tuple[str, ...], float]
"""Samples of all metrics, by name and label values."""


@dataclass(slots=True, eq=False)
class Plant:
    """What runs in this daemon. `site`, `pollers` and `publishers` may be replaced while it runs."""

    site: Site
    pollers: dict[str, Poller]
    publishers: list[Publisher]
    journal: Journal
    metrics: Metrics
    health: Health
    tap: Tap
    started: int  # ns
    clock: Clock

    def counts(self) -> Counts:
        """Read all metrics once."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
        }

    def newest(self) -> list[Batch]:
        """Give the last full scan of each table that is scanned."""
        return [batch for poller in self.pollers.values() for batch in poller.newest()]


def status(plant: Plant, before: Counts, seconds: float) -> dict[str, Any]:
    """Tell how links, devices, publishers and journal are; rates are since `before`, `seconds` ago."""
    now = plant.counts()
    report = plant.health.report()

    def total(*name: str) -> int:
        return round(now.get(name, 0.0))

    def rate(*name: str) -> float:
        return (now.get(name, 0.0) - before.get(name, 0.0)) / seconds if seconds > 0 else 0.0

    state, options = plant.journal.totals(), plant.journal.options
    dropped = {
        name[1]: round(value) for name, value in now.items() if name[0].endswith("journal_dropped_readings_total")
    }
    return {
        "gateway": plant.site.gateway,
        "version": gateway.__version__,
        "pid": os.getpid(),
        "started": plant.started,
        "now": time.time_ns(),
        "site": str(plant.site.files[0]),
        "data": str(plant.site.data),
        "over": seconds,
        "journalled": rate("plantbridge_journal_appended_readings_total"),
        "commands": report["commands"],
        "isolated": _isolated(plant),
        "configuration": report["configuration"],  # why the files are not what runs
        "clock": plant.clock.account(),
        "links": [_link(plant, link, report, total, rate) for link in plant.site.links],
        "journal": {
            "trouble": plant.journal.trouble,
            "records": state.records,
            "bytes": state.bytes,
            "max_size": options.max_size,
            "appended": state.appended,
            "dropped": state.dropped,
            "dropped_here": dropped,  # by reason, since this start
            "committed": plant.journal.committed,
        },
        "publishers": [_publisher(plant, publisher, report, total, rate) for publisher in plant.publishers],
    }


def _isolated(plant: Plant) -> str:
    """Say who stopped all writes, and why; empty where nobody did."""
    said = Switch(plant.site.data).read()
    return "" if said is None else str(said)


def _link(
    plant: Plant,
    link: Link,
    report: dict[str, Any],
    total: Callable[..., int],
    rate: Callable[..., float],
) -> dict[str, Any]:
    unknown = {"up": None, "since": "", "reason": "not tried yet"}
    poller = plant.pollers.get(link.name)
    account: dict[str, Any] = poller.account() if poller is not None else {"down": "not running", "devices": {}}
    devices = []
    for name, device in account["devices"].items():
        for group in device["groups"]:
            group["scans"] = total("plantbridge_scans_total", name, group["group"])
            group["skipped"] = total("plantbridge_scans_skipped_total", name, group["group"])
            group["skipping"] = rate("plantbridge_scans_skipped_total", name, group["group"])
        readings = sum(rate("plantbridge_readings_total", name, word) for word in ("good", "uncertain", "bad"))
        condition = report["devices"].get(name, unknown)
        devices.append({"device": name, **device, **condition, "readings": readings})
    condition = report["links"].get(link.name, {**unknown, "reason": account["down"]})
    url = getattr(link.options, "url", "")
    return {"link": link.name, "driver": link.driver, "url": url, **condition, "devices": devices}


def _publisher(
    plant: Plant, publisher: Publisher, report: dict[str, Any], total: Callable[..., int], rate: Callable[..., float]
) -> dict[str, Any]:
    account = publisher.account()
    pending = account.pop("pending")
    options = plant.site.publishers.get(publisher.name)
    return {
        "publisher": publisher.name,
        "url": list(options.url) if options is not None else [],
        **report["publishers"].get(publisher.name, {"up": None, "since": "", "reason": "not tried yet"}),
        **account,
        "pending_records": sum(last - first + 1 for first, last in pending) - account["settling"],
        "oldest": pending[0][0] if pending else None,
        "readings": rate("plantbridge_acknowledged_readings_total", publisher.name),
        "acknowledged": total("plantbridge_acknowledged_readings_total", publisher.name),
        "rejected": total("plantbridge_rejected_messages_total", publisher.name),
        "dead_letters": str(plant.site.data / "dead-letters" / publisher.name),
    }


def explain(plant: Plant, name: str) -> dict[str, Any]:
    """Tell a tag's whole path, from its definition to the last PUBACK. Raises LookupError."""
    device, _, tag_name = name.partition("/")
    for link in plant.site.links:
        poller = plant.pollers.get(link.name)
        found = poller.find(device, tag_name) if poller is not None else None
        if poller is None or found is None:
            continue
        plan, pipeline, group, number, row = found
        table = group.tables[number]
        tag = table.tags[row]
        answer = poller.driver.explain(plan, number, row) if isinstance(poller.driver, Explaining) else None
        account = poller.account()
        report = plant.health.report()
        turns = account["devices"][device]
        turn = next(each for each in turns.pop("groups") if each["group"] == group.name)
        passed = pipeline.account(table, row)
        return {
            "tag": name,
            "definition": definition(tag, group),
            "link": {"link": link.name, "driver": link.driver, **report["links"].get(link.name, {"up": None})},
            "down": account["down"],
            "device": {"device": device, **turns, **report["devices"].get(device, {"up": None})},
            "scan": turn,
            "requests": len(plan.requests()),
            "answer": None if answer is None else _answer(answer),
            "normalised": _normalised(pipeline, table, row, answer),
            "passed": passed,
            "journal": {"committed": plant.journal.committed, "trouble": plant.journal.trouble},
            "clock": plant.clock.account(),
            "publishers": [_cursor(plant, each, name, passed["sequence"], report) for each in plant.publishers],
            "now": time.time_ns(),
        }
    raise LookupError(missing(name, plant.site.tables))


def definition(tag: Tag, group: Group) -> dict[str, Any]:
    """Tell how a tag is configured: as the data tell it, and what they do not tell."""
    return {
        **tag.definition(),
        "where": str(tag.where),
        "group": group.name,
        "interval": group.interval,
        "out_of_range": "as it comes" if "range" in tag.said else tag.out_of_range,
        "said": list(tag.said),
        "deadband": None if math.isnan(tag.deadband) else tag.deadband,
        "max_silence": tag.max_silence,
        "not_available": list(tag.not_available),
        "kind": tag.kind.value,
    }


def missing(name: str, tables: list[TagTable]) -> str:
    """Say that there is no such tag, and which is meant perhaps."""
    import difflib

    names = [f"{table.device}/{tag}" for table in tables for tag in table.names]
    devices = sorted({table.device for table in tables})
    near = difflib.get_close_matches(name, names if "/" in name else devices, 3, 0.6)
    if near and "/" not in name and name not in devices:
        return f"there is no device {name}; did you mean {' or '.join(near)}?"
    if near and "/" in name:
        return f"there is no tag {name}; did you mean {' or '.join(near)}?"
    if "/" not in name:
        return f"{name} is no tag: expected DEVICE/TAG, with a device of {', '.join(devices[:20])}"
    device = name.partition("/")[0]
    if device in devices:
        mine = [each for each in names if each.startswith(f"{device}/")]
        return f"there is no tag {name}; {device} has {', '.join(mine[:20])}{' ...' if len(mine) > 20 else ''}"
    return f"there is no device {device}; there is {', '.join(devices[:20])}{' ...' if len(devices) > 20 else ''}"


def _answer(answer: Answer) -> dict[str, Any]:
    value = answer.value
    if isinstance(value, float) and not math.isfinite(value):
        value = str(value)  # JSON has neither NaN nor infinity
    return {
        "request": answer.request,
        "data": answer.data,
        "value": value,
        "quality": answer.quality,
        "time": answer.time,
        "note": answer.note,
        "guess": answer.guess,
    }


def _normalised(pipeline: Pipeline, table: TagTable, row: int, answer: Answer | None) -> dict[str, Any] | None:
    if answer is None or answer.value is None:
        return None
    value, code = pipeline.normalised(table, row, answer.value, answer.quality, answer.time)
    return {"value": value, "quality": code}


def _cursor(plant: Plant, publisher: Publisher, name: str, sequence: int, report: dict[str, Any]) -> dict[str, Any]:
    account = publisher.account()
    pending = account.pop("pending")
    waits = any(first <= sequence <= last for first, last in pending) or sequence > plant.journal.committed
    return {
        "publisher": publisher.name,
        "shows": publisher.shows(name),
        **report["publishers"].get(publisher.name, {"up": None, "reason": "not tried yet"}),
        **account,
        "cursor": (pending[0][0] - 1) if pending else plant.journal.committed,
        "waits": bool(sequence) and waits,
    }
