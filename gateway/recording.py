"""Recording: what devices say, as readings in engineering units, into a trace (gateway.trace).

Two ways give the same rows. Where the gateway's daemon runs, it is asked over its socket: a serial line, and many a
device, serves one session only, and what is recorded is then what the gateway itself works with. Else the devices are
polled from here, by the same pollers as in the daemon, with their deadlines, retries and probing; there is no journal,
and nothing is published. Every reading is kept, before report by exception; one that is read again with the same source
time is the same reading, and is kept once. A device that is silent has a Bad row, as in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gateway import quality as q
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Batch, Device, Kind, Link, Tag, TagTable
from gateway.names import open_driver
from gateway.pipeline import Pipeline, Tap
from gateway.poller import Poller
from gateway.trace import Writer


class Recorder:
    """Puts batches into a trace, each reading once."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._seen: dict[int, tuple[TagTable, NDArray[np.int64], NDArray[np.int64]]] = {}
        self.rows = 0
        self.good: set[str] = set()  # devices of which there was a value
        self.dropped = 0  # readings that the daemon could not wait for us with
        self.failed: OSError | None = None  # why nothing more can be written

    def take(self, batch: Batch) -> None:
        """Keep a batch's readings but those that were there already."""
        size = len(batch.table)
        unknown = np.full(size, np.iinfo(np.int64).min), np.full(size, -1)
        table, times, codes = self._seen.setdefault(id(batch.table), (batch.table, *unknown))
        fresh = (batch.time != times[batch.tag]) | (batch.quality != codes[batch.tag])
        times[batch.tag], codes[batch.tag] = batch.time, batch.quality
        if fresh.any() and self.failed is None:
            try:
                self._writer.write(batch if fresh.all() else batch.take(fresh))
            except OSError as error:
                self.failed = error
                return
            self.rows += int(fresh.sum())
        if (~q.is_bad(batch.quality)).any():
            self.good.add(table.device)


class _Nowhere:
    """In the place of the journal."""

    def define(self, fingerprint: bytes, definition: bytes) -> int:
        return 1

    def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int:
        return 1


async def poll(wanted: Sequence[tuple[Link, Sequence[Device]]], recorder: Recorder, stop: asyncio.Event) -> None:
    """Poll these devices until `stop`; what they say goes to the recorder. Raises ConfigError."""
    metrics, health, tap = Metrics(), Health(), Tap(normalised=recorder.take)
    async with asyncio.TaskGroup() as group:
        tasks = []
        for link, devices in wanted:
            chosen = Link(link.name, link.driver, link.options, tuple(devices), link.where)
            lines = {
                (each.device, each.name): Pipeline(each, _Nowhere(), metrics, tap=tap)
                for device in devices
                for each in device.groups
            }
            driver = open_driver(chosen)
            poller = Poller(chosen, driver, lines, metrics, health, _room)
            tasks.append(group.create_task(poller.run()))
        while not stop.is_set() and recorder.failed is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1.0)
        for task in tasks:
            task.cancel()


async def _room() -> None:
    """Say that there is room for more: there is no journal to fill."""


def listen(lines: Iterable[dict[str, Any]], recorder: Recorder) -> Iterator[int]:
    """Keep what the daemon tells (gateway.local, `tail`); give how many rows there are after each line."""
    tables: dict[int, TagTable] = {}
    for line in lines:
        if "dropped" in line:
            recorder.dropped += int(line["dropped"])
        elif "table" in line:
            kind = Kind(line["kind"])
            tags = tuple(Tag(each["name"], "", kind=kind) for each in line["tags"])
            tables[line["table"]] = TagTable(line["device"], line["group"], kind, tags)
        else:
            table = tables[line["readings"]]
            kind = table.kind
            value = [kind.nothing if each is None else each for each in line["value"]]
            recorder.take(
                Batch(
                    table,
                    np.array(line["tag"], np.uint32),
                    np.array(value, kind.dtype),
                    np.array(line["quality"], np.uint32),
                    np.array(line["time"], np.int64),
                )
            )
        yield recorder.rows


def playing(gateway: str, wanted: Sequence[tuple[Link, Sequence[Device]]], trace: Path) -> str:
    """Write a site file whose devices say what was recorded of them, row by row, with its own times."""
    devices: dict[str, Any] = {}
    for _, some in wanted:
        for device in some:
            groups = {
                group.name: {
                    "interval": f"{group.interval // 10**6} ms",
                    "tags": {tag.name: _played(device.name, tag) for table in group.tables for tag in table.tags},
                }
                for group in device.groups
            }
            devices[device.name] = {"groups": groups}
    link = {"driver": "replay", "url": f"replay:{trace}", "rows": "all", "times": "stored", "at_end": "hold"}
    site = {"gateway": f"{gateway}-replay", "links": {"recording": {**link, "devices": devices}}}
    return str(yaml.safe_dump(site, sort_keys=False, allow_unicode=True, width=120))


def _played(device: str, tag: Tag) -> str | dict[str, Any]:
    """Give a tag of the site file: values are in engineering units already."""
    address = f"{device}/{tag.name} {tag.kind.value}"
    more = {
        "unit": tag.unit,
        "description": tag.description,
        "states": dict(tag.states) if tag.scale == 1 and not tag.offset else {},
    }
    keys = {key: value for key, value in more.items() if value}
    return {"address": address, **keys} if keys else address
