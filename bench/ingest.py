"""The cloud side on one core: from a message's bytes to committed rows and roll-ups in DuckDB, and to line
protocol.

Readings are made as the edge makes them (gateway.encoders.columns): 10,000 float tags a scan, and 60. CPU is the
process's own, with DuckDB held to one thread; wall clock differs by the disk's fsync. Beside them the straightforward
ways: an INSERT with parameters per reading, and a Point object of influxdb-client per reading.
"""

from __future__ import annotations

import asyncio
import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from influxdb_client import Point, WritePrecision

from gateway.contracts import Block, Record
from gateway.decode import decode_columns
from gateway.encoders.columns import Columns
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.stores.duckdb import SETTINGS, DuckdbStore
from gateway.stores.lines import LineProtocol

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def run() -> list[dict[str, Any]]:
    """Measure; one row a figure."""
    big, small = _table(10_000), _table(60)
    decoding, storing = _duckdb(big, scans=5, writes=60)
    few_decoding, few_storing = _duckdb(small, scans=500, writes=40)
    _, late = _duckdb(big, scans=5, writes=60, live_first=True)
    _, bare = _duckdb(big, scans=5, writes=60, rollups=False)
    _, few_bare = _duckdb(small, scans=500, writes=40, rollups=False)
    lines = _lines(big)
    return [
        _row("decode a message, 10,000 tags", decoding * 1e9, "ns/reading"),
        _row("decode a message, 60 tags, 500 scans", few_decoding * 1e9, "ns/reading"),
        _row("into DuckDB, 10,000 tags, decoded and committed", 1 / (decoding + storing), "readings/s", ">= 500,000"),
        _row("into DuckDB, 60 tags, decoded and committed", 1 / (few_decoding + few_storing), "readings/s"),
        _row("into DuckDB, a backlog behind live data", 1 / late, "readings/s", ">= 200,000"),
        _row("into DuckDB, 10,000 tags, beside without roll-ups", (decoding + bare) / (decoding + storing), "times"),
        _row(
            "into DuckDB, 60 tags, beside without roll-ups",
            (few_decoding + few_bare) / (few_decoding + few_storing),
            "times",
        ),
        _row("DuckDB, beside an INSERT per reading", _insert_each() / storing, "times faster"),
        _row("line protocol, lines built", 1 / lines, "readings/s", ">= 200,000"),
        _row("line protocol", lines * 1e9, "ns/reading"),
        _row("line protocol, beside Point objects", _points() / lines, "times faster"),
    ]


def _row(name: str, value: float, unit: str, goal: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "goal": goal}


def _table(size: int) -> TagTable:
    tags = tuple(Tag(f"t{number}", f"a:{number}", unit="bar") for number in range(size))
    return TagTable(f"device-{size}", "default", Kind.FLOAT, tags)


def _scans(of: TagTable, first: int, count: int) -> list[Batch]:
    values = np.random.default_rng(first).normal(20.0, 5.0, (count, len(of))).astype(np.float32).astype(np.float64)
    return [Batch.full(of, values[number], START + (first + number) * SECOND) for number in range(count)]


def _messages(of: TagTable, scans: int, writes: int) -> list[list[bytes]]:
    """Give what arrives for each write."""
    encoder = Columns("bench", "j", "plantbridge/bench", 256_000)
    encoder.know(0, of)
    made = []
    for number in range(writes):
        batches = _scans(of, number * scans, scans)
        records = [Record(number * scans + place + 1, batch) for place, batch in enumerate(batches)]
        made.append([message.payload for message in encoder.encode(records) if message.topic.endswith("/columns")])
    return made


def _cpu(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _duckdb(
    of: TagTable, scans: int, writes: int, *, live_first: bool = False, rollups: bool = True
) -> tuple[float, float]:
    """Give CPU seconds a reading for decoding and for storing."""
    arrived = _messages(of, scans, writes)
    decoded: list[list[Block]] = []

    def decode() -> None:
        for messages in arrived:
            decoded.append([decode_columns(payload, lambda *_: of) for payload in messages])

    readings = len(of) * scans * writes
    decoding = _cpu(decode) / readings
    settings = {**SETTINGS, "threads": 1}
    with tempfile.TemporaryDirectory() as directory:
        store = DuckdbStore(Path(directory) / "bench.duckdb", desk=False, settings=settings, rollups=rollups)

        async def write() -> None:
            for blocks in decoded:
                report = await store.write(blocks)
                if report.duplicates:
                    raise AssertionError("readings that were taken for duplicates")

        async def all_of_it() -> float:
            await store.open()
            if live_first:
                await store.write([Block("bench", "j", (10**9,), tuple(_scans(of, 10**6, 1)))])
            begin = time.process_time()
            await write()
            await store.settle()
            used = time.process_time() - begin
            await store.close()
            return used

        return decoding, asyncio.run(all_of_it()) / readings


def _lines(of: TagTable) -> float:
    blocks = [Block("bench", "j", (number,), (batch,)) for number, batch in enumerate(_scans(of, 0, 20))]
    builder = LineProtocol()
    builder.lines(blocks[:1])  # the tags' own parts are built once
    return _cpu(lambda: [builder.lines([block]).text() for block in blocks]) / (20 * len(of))


def _insert_each(count: int = 2_000) -> float:
    """Give CPU seconds a reading of the straightforward way into DuckDB."""
    values = np.random.default_rng(0).normal(size=count).tolist()
    rows = [[number, START + number, values[number], 0] for number in range(count)]
    with tempfile.TemporaryDirectory() as directory, duckdb.connect(f"{directory}/bench.duckdb") as connection:
        connection.execute("CREATE TABLE r (series UINTEGER, time BIGINT, value DOUBLE, quality UINTEGER)")

        def insert() -> None:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO r VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")

        return _cpu(insert) / count


def _points(count: int = 10_000) -> float:
    """Give CPU seconds a reading of influxdb-client's own objects."""
    values = np.random.default_rng(0).normal(size=count).tolist()
    now = datetime.datetime.now(datetime.UTC)

    def build() -> None:
        for number, value in enumerate(values):
            point = (
                Point("readings").tag("gateway", "bench").tag("device", "d").tag("tag", f"t{number}").tag("unit", "bar")
            )
            point.field("value", value).field("quality", 0).time(now, WritePrecision.NS).to_line_protocol()

    return _cpu(build) / count
