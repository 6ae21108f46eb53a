"""The cloud side of very many gateways: readings a second of one ingest worker, and of 2 and 4 beside each other.

Each gateway has a journal and a table of 20 tags of its own (200,000 series) and sends messages of 50 scans, made
beforehand as the edge makes them (gateway.encoders.columns). A worker is a process with the whole of ingest (decoding,
store, account, table of gateways); its messages come from memory in place of a broker, so that the figure is ingest's
own. The workers share the gateways evenly. Readings a second are by wall clock from the first worker's start to the
last one's end; CPU is each process's own. What MQTT costs beside it is measured with mosquitto and one worker.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway import ingest
from gateway.accounting import Account
from gateway.contracts import Block, Record, Store, StoreReport
from gateway.deadletters import DeadLetters
from gateway.encoders.columns import Columns
from gateway.fleet import Fleet
from gateway.health import Health
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.mqtt import Answer, Arrived, Connection, Endpoint
from gateway.options import IngestOptions, MqttOptions
from gateway.stores.duckdb import SETTINGS, DuckdbStore
from gateway.stores.lines import LineProtocol
from tests.servers import Mosquitto

GATEWAYS = int(os.environ.get("GATEWAYS", "500"))  # 10,000 take a quarter of an hour
TAGS, SCANS = 20, 50
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def _table(gateway: int) -> TagTable:
    return TagTable(
        "meter", "default", Kind.FLOAT, tuple(Tag(f"t{number}", f"{gateway}:{number}") for number in range(TAGS))
    )


def _topics(gateway: int, of: TagTable) -> tuple[str, bytes]:
    return f"plantbridge/g{gateway}/tables/j{gateway}/0", of.definition


def _message(gateway: int, of: TagTable, first: int, scans: int) -> tuple[str, bytes]:
    values = np.random.default_rng(gateway + first).normal(20.0, 5.0, (scans, TAGS)).astype(np.float32)
    encoder = Columns(f"g{gateway}", f"j{gateway}", f"plantbridge/g{gateway}", 256_000)
    encoder.know(0, of)
    records = [
        Record(first + place, Batch.full(of, values[place].astype(np.float64), START + (first + place) * SECOND))
        for place in range(scans)
    ]
    (made,) = (each for each in encoder.encode(records) if each.topic.endswith("/columns"))
    return made.topic, made.payload


class Feed:
    """A source (gateway.sources) that has its messages in memory: a broker that costs nothing."""

    reason = ""
    session_present = True
    endpoint = Endpoint("mqtt", "127.0.0.1", 0)

    def __init__(self, options: IngestOptions, on_message: Callable[[Arrived], None]) -> None:
        self.lost = asyncio.Event()
        self._options = options
        self._on_message = on_message
        self._queue: list[tuple[str, bytes]] = []
        self._held = 0
        self._empty = asyncio.Event()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def hold(self, held: bool) -> None: ...

    async def subscribe(self, filters: Sequence[str], *, timeout: float, qos: int = 1) -> list[Answer]:
        return [Answer(0, "")] * len(filters)

    async def publish(self, topic: str, payload: bytes, **_: Any) -> Answer:
        return Answer(0, "")

    def acknowledge(self, message: Arrived) -> None:
        self._held -= 1
        self._send()

    async def give(self, messages: list[tuple[str, bytes]]) -> None:
        """Hand these over, and wait until all of them are acknowledged."""
        self._queue = messages[::-1]
        self._empty.clear()
        self._send()
        await self._empty.wait()

    def _send(self) -> None:
        while self._queue and self._held < self._options.in_flight:
            topic, payload = self._queue.pop()
            self._held += 1
            self._on_message(Arrived(topic, payload, retained=False, duplicate=False, mid=1, qos=1))
        if not self._queue and not self._held:
            self._empty.set()


class Lines:
    """A store that makes line protocol and sends it nowhere: what a worker spends where the server is another's."""

    def __init__(self) -> None:
        self._lines = LineProtocol()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        def build() -> int:
            self._lines.lines(blocks).text()
            return sum(len(content) for block in blocks for content in block.contents if isinstance(content, Batch))

        return StoreReport(await asyncio.to_thread(build), 0, 0)


def _parts(directory: Path, options: IngestOptions, store: Store) -> tuple[ingest.Ingest, Ledger]:
    metrics, health = Metrics(), Health()
    ledger = Ledger(directory / "account.sqlite")
    account = Account(ledger, "bench", None, metrics, health)
    letters = DeadLetters(directory / "dead", metrics)
    made = ingest.Ingest(options, store, metrics, health, letters, account, fleet=Fleet(directory / "fleet.sqlite"))
    return made, ledger


async def _work(kind: str, number: int, of: int, ready: Any, results: Any) -> None:
    mine = range(number, GATEWAYS, of)
    tables = {gateway: _table(gateway) for gateway in mine}
    options = IngestOptions(url="mqtt://127.0.0.1:1", in_flight=1000)
    feeds: list[Feed] = []

    def feed(options: IngestOptions, _: str, on_message: Callable[[Arrived], None]) -> Feed:
        feeds.append(Feed(options, on_message))
        return feeds[0]

    ingest.source = feed  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        store: Any = Lines()
        if kind == "duckdb":
            store = DuckdbStore(directory / "bench.duckdb", desk=False, settings={**SETTINGS, "threads": 1})
        await store.open()
        made, ledger = _parts(directory, options, store)
        stop = asyncio.Event()
        running = asyncio.create_task(made.run(stop))
        while not feeds:
            await asyncio.sleep(0.01)
        await feeds[0].give([_topics(gateway, tables[gateway]) for gateway in mine])
        await feeds[0].give([_message(gateway, tables[gateway], 1, 1) for gateway in mine])  # makes the series
        messages = [_message(gateway, tables[gateway], 2, SCANS) for gateway in mine]
        await asyncio.to_thread(ready.wait)
        began, cpu = time.time(), time.process_time()
        await feeds[0].give(messages)
        if isinstance(store, DuckdbStore):
            await store.settle()  # roll-ups belong to the work
        results.put((began, time.time(), time.process_time() - cpu))
        stop.set()
        await running
        await store.close()
        ledger.close()


def _process(kind: str, number: int, of: int, ready: Any, results: Any) -> None:
    asyncio.run(_work(kind, number, of, ready, results))


def _workers(kind: str, count: int) -> tuple[float, float]:
    """Give readings a second by wall clock, and CPU seconds a reading."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_process, args=(kind, number, count, ready, results)) for number in range(count)
    ]
    for each in processes:
        each.start()
    found = [results.get(timeout=900) for _ in processes]
    for each in processes:
        each.join()
    readings = GATEWAYS * SCANS * TAGS
    wall = max(end for _, end, _ in found) - min(begin for begin, _, _ in found)
    return readings / wall, sum(cpu for _, _, cpu in found) / readings


async def _mqtt(broker: Mosquitto, directory: Path, gateways: int = 1000) -> float:
    """Give what mosquitto and the MQTT session add to a worker's CPU, in seconds a message; measured by its session."""
    options = IngestOptions(url=broker.url, in_flight=1000)
    got = asyncio.Event()
    seen = 0
    session: Connection

    def arrived(message: Arrived) -> None:
        nonlocal seen
        seen += 1
        session.acknowledge(message)
        if seen == gateways:
            got.set()

    session = Connection(
        options, client_id="bench", receive_maximum=1000, on_message=arrived, clean=False, session_expiry=60
    )
    await session.open()
    await session.subscribe(["plantbridge/+/columns"], timeout=10)
    await session.close()
    sender = Connection(MqttOptions(url=broker.url), client_id="sender")
    await sender.open()
    for gateway in range(gateways):
        await sender.publish(*_message(gateway, _table(0), 1, SCANS), timeout=30)
    await sender.close()
    cpu = time.process_time()
    session = Connection(
        options, client_id="bench", receive_maximum=1000, on_message=arrived, clean=False, session_expiry=60
    )
    await session.open()
    await got.wait()
    used = time.process_time() - cpu
    await session.close()
    return used / gateways


def run() -> list[dict[str, Any]]:
    """Measure; one row a figure."""
    rows: list[dict[str, Any]] = []
    for kind, goal in (("duckdb", 500_000), ("line protocol", 200_000)):
        for count in (1, 2, 4):
            rate, cpu = _workers(kind, count)
            what = f"{GATEWAYS:,} gateways into {kind}, {count} worker{'s' if count > 1 else ''}"
            rows += [
                {"name": what, "value": rate, "unit": "readings/s", "goal": ""},
                {"name": f"{what}, of one core", "value": 1 / cpu, "unit": "readings/s", "goal": f">= {goal:,}"},
            ]
    with tempfile.TemporaryDirectory() as place, Mosquitto(Path(place) / "broker") as broker:
        cpu = asyncio.run(_mqtt(broker, Path(place)))
    rows.append({"name": "MQTT session of a worker", "value": cpu * 1e6, "unit": "us/message", "goal": ""})
    return rows
