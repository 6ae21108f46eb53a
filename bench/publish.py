"""From the journal to a real mosquitto: encoding, bytes on the wire, and how fast a backlog goes out behind live data.

The backlog is 5 million readings, once as scans of 10,000 tags and once in small records of 50. While it is sent,
10,000 readings a second come in new, 1,000 at a time, and how late they are is measured from their time to their
PUBACK. Journal, publisher and the making of the new data share one process and one event loop, as in the daemon.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.journal import per_call, scans
from gateway.codec import pack, pack_gap
from gateway.contracts import Record
from gateway.encoders import encoder_for
from gateway.encoders.columns import Columns
from gateway.encoders.json import Json
from gateway.health import Health
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.model import Batch
from gateway.options import JournalOptions, PublisherOptions, TagSelection
from gateway.publisher import Publisher
from gateway.selection import Selection
from gateway.sinks import sink_for
from tests.servers import Mosquitto

BACKLOG = 5_000_000


def selecting() -> list[dict[str, Any]]:
    """What a partner's filter costs, by reading of the journal."""
    table, batches = scans(10_000, 1)
    rows: list[dict[str, Any]] = []
    partner = [f"{table.device}/{name}" for name in table.names[::910]]
    for what, globs in (("11 of 10,000 tags", partner), ("every second tag", [f"{table.device}/*[02468]"])):
        selection = Selection(TagSelection(include=tuple(globs)), [table])
        ns = per_call(lambda chosen=selection: chosen.batch(batches[0])) / 10_000 * 1e9  # type: ignore[misc]
        rows.append({"name": f"select {what}", "value": ns, "unit": "ns/reading", "goal": ""})
    return rows


def encoding() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size, count in ((100, 1), (1000, 1), (10_000, 1), (10_000, 5)):
        table, batches = scans(size, count)
        columns = Columns("bench", "j", "p", 10_000_000)
        columns.know(1, table)
        records = [Record(number, batch) for number, batch in enumerate(batches, 1)]
        columns.encode(records)
        octets = sum(len(message.payload) for message in columns.encode(records))
        ns = per_call(lambda c=columns, r=records: c.encode(r)) / size / count * 1e9  # type: ignore[misc]
        what = f"columns, {size} tags, {count} scan{'s' if count > 1 else ''} a message"
        goal = "2" if size * count > 10_000 else ""
        rows += [
            {"name": f"encode {what}", "value": ns, "unit": "ns/reading", "goal": ""},
            {"name": f"wire, {what}", "value": octets / size / count, "unit": "bytes/reading", "goal": goal},
        ]
    table, batches = scans(1000, 1)
    json = Json("bench", "t", 10_000_000)
    ns = per_call(lambda: json.encode([Record(1, batches[0])])) / 1000 * 1e9
    return [*rows, {"name": "encode json, 1000 tags", "value": ns, "unit": "ns/reading", "goal": ""}]


async def replay(broker: Mosquitto, size: int, directory: Path) -> dict[str, float]:
    options = JournalOptions(durability="process", max_size="2 GB")
    journal = await Journal.open(directory, options, ["cloud"], pack_gap)
    table, batches = scans(size, 100)
    live_table, live = scans(1000, 20)
    number = journal.define(table.fingerprint, table.definition)
    live_number = journal.define(b"live", live_table.definition)
    for count in range(BACKLOG // size):
        batch = batches[count % 100]
        time_column = batch.time + (count // 100) * 100_000_000_000
        journal.append(pack(Batch(table, batch.tag, batch.value, batch.quality, time_column), number), size, 1, 2)
        if count % 1000 == 0:
            await journal.flush()
    await journal.flush()
    through, metrics = journal.committed, Metrics()
    chosen = PublisherOptions(url=broker.url, unheard="deliver", settle="0 s")  # no subscriber, and no waiting for one
    sink, encoder = sink_for("cloud", chosen, "bench"), encoder_for(chosen, "bench", journal.id)
    lateness: list[float] = []
    publisher = Publisher("cloud", chosen, "bench", journal, sink, encoder, metrics, Health(), directory / "dead")
    publisher._latency.observe = lateness.append  # type: ignore[method-assign]
    cpu, began = time.process_time(), time.perf_counter()
    task = asyncio.create_task(publisher.run())
    turn = 0
    while any(first <= through for first, _ in journal.pending("cloud")):
        await asyncio.sleep(0.1)
        turn += 1
        values = live[turn % 20]
        journal.append(pack(Batch.full(live_table, values.value, time.time_ns()), live_number), 1000, 1, 2)
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    octets = sum(sample.value for metric in metrics.published_bytes.collect() for sample in metric.samples[:1])
    await publisher.drain(20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await journal.close()
    return {
        "rate": BACKLOG / spent,
        "late": float(np.quantile(lateness, 0.99)),
        "median": float(np.quantile(lateness, 0.5)),
        "latest": max(lateness),
        "cpu": cpu / BACKLOG * 1e6,
        "wire": octets / BACKLOG,
    }


def run() -> list[dict[str, Any]]:
    rows = [*selecting(), *encoding()]
    runner = asyncio.run
    if sys.platform != "win32":
        import uvloop

        runner = uvloop.run  # type: ignore[assignment]
    for size in (10_000, 50):
        with tempfile.TemporaryDirectory() as directory, Mosquitto(Path(directory) / "broker") as broker:
            found = runner(replay(broker, size, Path(directory) / "journal"))
        what = f"backlog of 5 M in records of {size}"
        rows += [
            {"name": what, "value": found["rate"], "unit": "readings/s", "goal": "200,000"},
            {"name": f"{what}, live data late, p99", "value": found["late"], "unit": "s", "goal": "< 1"},
            {"name": f"{what}, live data late, median", "value": found["median"], "unit": "s", "goal": ""},
            {"name": f"{what}, live data late, most", "value": found["latest"], "unit": "s", "goal": ""},
            {"name": f"{what}, CPU", "value": found["cpu"], "unit": "us/reading", "goal": ""},
            {"name": f"{what}, wire", "value": found["wire"], "unit": "bytes/reading", "goal": "2"},
        ]
    return rows


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:55} {row['value']:12.2f} {row['unit']}")
