"""`plantbridge ingest` as a process: killed, stopped, started again; afterwards each reading is there exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
from test_ingest_flow import Edge, edge, until

from gateway.errors import StoreUnavailable
from gateway.stores.inquiry import Refused, read
from tests.native import T0, block, columns_message, scan, table
from tests.servers import Mosquitto, free_port, mosquitto

__all__ = ["mosquitto"]

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
ENTRY = "import sys; from pathlib import Path; from gateway.cli.ingest import ingest; ingest(Path(sys.argv[1]))"
OF = table(size=50, unit="bar")


class Process:
    """An ingest with its cloud file in a directory."""

    def __init__(self, directory: Path, broker: Mosquitto, metrics: str = "null") -> None:
        self.directory = directory
        self.database = directory / "cloud" / "plant.duckdb"
        self.file = directory / "cloud.yaml"
        self.file.write_text(
            f"""data: ./cloud
broker: {{url: '{broker.url}', client_id: worker, batch_interval: 20 ms, retry_first: 50 ms, retry_longest: 200 ms}}
store: {{type: duckdb, path: plant.duckdb}}
metrics: {{listen: {metrics}}}
log: {{format: json}}
"""
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.said = 0

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with (self.directory / "log").open("ab") as log:
            self.said = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-c", ENTRY, str(self.file)], stdout=log, stderr=log, env=environment
            )

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(how)
        return process.wait(60)

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        lines = (self.directory / "log").read_bytes()[since:].splitlines()
        return [orjson.loads(line) for line in lines if line.startswith(b"{")]

    def is_ready(self) -> bool:
        """Say whether it has connected since its last start."""
        return any(line["event"] == "READY" for line in self.log(self.said))

    def count(self) -> int:
        """Ask how many readings are stored; 0 while nobody can be asked."""
        with contextlib.suppress(Refused, StoreUnavailable, OSError, EOFError, RuntimeError, duckdb.Error):
            with read(self.database, "SELECT count(*) AS n FROM floats") as answer:
                return int(next(iter(answer.read_all().iter_py()))["n"])
        return 0


async def publish(plant: Edge, scans: range) -> None:
    for number in scans:
        sent = block(scan(OF, T0 + number), first=number + 1)
        await plant.send("plantbridge/demo/columns", columns_message(sent, plant.numbers))


@pytest.fixture
def process(mosquitto: Mosquitto, tmp_path: Path) -> Any:
    made = Process(tmp_path, mosquitto)
    yield made
    made.end(signal.SIGKILL)


async def test_killed_again_and_again_it_stores_every_reading_exactly_once(
    mosquitto: Mosquitto, process: Process
) -> None:
    print(f"SEED={SEED}")
    moments = random.Random(SEED)
    scans = 1500
    process.start()
    await until(process.is_ready, "ingest to be ready")  # from now on the broker keeps what it has not acknowledged
    async with edge(mosquitto) as plant:
        await plant.define(OF)
        publishing = asyncio.create_task(publish(plant, range(scans)))
        for _ in range(5):
            await asyncio.sleep(moments.uniform(0.0, 1.5))  # a moment, not a wait for something
            await asyncio.to_thread(process.end, signal.SIGKILL)
            process.start()
        await publishing
        await until(lambda: asyncio.to_thread(lambda: process.count() >= scans * 50), "all to be stored", 90)
    await until(process.is_ready, "ingest to be ready")
    assert await asyncio.to_thread(process.end) == 0
    with duckdb.connect(str(process.database), read_only=True) as connection:
        found = connection.execute("SELECT count(*), count(DISTINCT (series, time)) FROM floats").fetchone()
        runs = connection.execute("SELECT min(first), max(last) FROM ledger").fetchone()
    assert found == (scans * 50, scans * 50)
    assert runs == (1, scans)
    assert not (process.directory / "cloud" / "dead-letters").exists()


async def test_a_stop_stores_what_is_in_hand_and_exits_with_0(mosquitto: Mosquitto, process: Process) -> None:
    process.start()
    await until(process.is_ready, "ingest to be ready")
    async with edge(mosquitto) as plant:
        await plant.define(OF)
        await publish(plant, range(200))
        assert await asyncio.to_thread(process.end) == 0
        before = process.count()
        process.start()
        await until(lambda: asyncio.to_thread(lambda: process.count() == 200 * 50), "the rest")
        await until(process.is_ready, "ingest to be ready")
    assert await asyncio.to_thread(process.end) == 0
    assert before % 50 == 0
    assert not process.database.with_name("plant.duckdb.sock").exists()
    assert [line["event"] for line in process.log()] == ["READY", "READY"], "normal running logs nothing else"


async def test_metrics_and_health_are_served(mosquitto: Mosquitto, tmp_path: Path) -> None:
    port = free_port()
    process = Process(tmp_path, mosquitto, f"127.0.0.1:{port}")
    process.start()
    try:
        await until(process.is_ready, "ingest to be ready")
        async with edge(mosquitto) as plant:
            await plant.define(OF)
            await publish(plant, range(3))
            await until(lambda: asyncio.to_thread(lambda: process.count() == 150), "all to be stored")

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                said: bytes = answer.read()
                return said

        await until(
            lambda: asyncio.to_thread(lambda: b"plantbridge_stored_readings_total 150.0" in get("/metrics")),
            "the count",
        )
        assert orjson.loads(await asyncio.to_thread(get, "/healthz"))["status"] == "ok"
    finally:
        await asyncio.to_thread(process.end)


async def test_a_broker_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    broker.port = free_port()
    process = Process(tmp_path, broker)
    process.start()
    try:
        await until(lambda: any("broker is away" in line["event"] for line in process.log()), "a word about it")
        with broker:
            await until(process.is_ready, "ingest to be ready")
            assert await asyncio.to_thread(process.end) == 0
    finally:
        await asyncio.to_thread(process.end, signal.SIGKILL)
    assert len([line for line in process.log() if "broker is away" in line["event"]]) == 1


async def test_a_second_ingest_on_the_same_file_ends_with_a_sentence(mosquitto: Mosquitto, process: Process) -> None:
    process.start()
    await until(process.is_ready, "ingest to be ready")
    other = Process.__new__(Process)
    other.directory, other.file, other.process = process.directory / "x", process.file, None
    other.directory.mkdir()
    begin = time.monotonic()
    other.start()
    assert other.process is not None
    assert await asyncio.to_thread(other.process.wait, 60) != 0
    assert time.monotonic() - begin < 60
    said = (other.directory / "log").read_text()
    assert "cannot open" in said
    assert str(process.process.pid) in said  # type: ignore[union-attr]
