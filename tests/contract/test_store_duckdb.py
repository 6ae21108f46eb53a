"""What only the embedded store promises: its file after a kill, its marks, its ledger, and who may look into it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import StoreUnavailable
from gateway.model import Batch, Gap, Kind, TagTable
from gateway.stores import duckdb as module
from gateway.stores import inquiry
from gateway.stores.duckdb import DuckdbStore, Retention
from gateway.stores.inquiry import Refused, read, socket_path
from gateway.stores.rollups import DAY
from tests.native import BAD, SECOND, T0, block, column, scan, table


def select(path: Path, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with read(path, sql, parameters) as answer:
        return [tuple(row.values()) for row in answer.read_all().iter_py()]


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.stores.duckdb import DuckdbStore, Retention
from gateway.stores.rollups import DAY
from tests.native import SECOND, T0, block, scan, table

async def main():
    store = DuckdbStore(Path(sys.argv[1]))
    await store.open()
    of = table(size=500, unit="bar")
    for number in range(10**6):
        await store.write([block(scan(of, T0 + number * SECOND), first=number + 1)])
        print(number, flush=True)

asyncio.run(main())
"""


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    """Ingest acknowledges the broker when `write` returns: from then on nobody else has the readings."""
    path = tmp_path / "plant.duckdb"
    done = -1
    for until in (3, 40, 41):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                done = max(done, int(line))
                if int(line) >= until:
                    break
            writer.send_signal(signal.SIGKILL)
            done = max([done, *map(int, writer.stdout.read().split())])
        ((rows, different, scans),) = select(
            path, "SELECT count(*), count(DISTINCT (series, time)), count(DISTINCT time) FROM floats"
        )
        assert rows == different == scans * 500, "half a write, or a row twice"
        assert scans > done
        ((first, last),) = select(path, "SELECT min(first), max(last) FROM ledger")
        assert (first, last) == (1, scans)


async def test_a_write_that_fails_leaves_nothing_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    of = table(unit="bar")
    await store.write([block(scan(of, T0))])

    def failing(*_: object) -> int:
        raise duckdb.IOException("disk full")

    sent = block(scan(of, T0 + SECOND), scan(table(unit="kPa", group="new"), T0), Gap("", "", 1, 2, "x"), first=2)
    with monkeypatch.context() as broken:
        broken.setattr(module, "_insert_gap", failing)
        with pytest.raises(StoreUnavailable, match="disk full") as raised:
            await store.write([sent])
        assert not raised.value.permanent
    report = await store.write([sent])
    await store.close()
    assert (report.stored, report.duplicates, report.gaps) == (8, 0, 1)
    assert select(store.path, "SELECT count(*), count(DISTINCT (series, time)) FROM floats") == [(12, 12)]
    assert select(store.path, "SELECT count(*), count(DISTINCT id) FROM series") == [(8, 8)]
    assert select(store.path, "SELECT first, last FROM ledger ORDER BY first") == [(1, 1), (2, 4)]


kinds = st.sampled_from([Kind.FLOAT, Kind.INT, Kind.TEXT])
rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=8)
steps = st.lists(st.lists(st.tuples(kinds, rows), max_size=4) | st.none(), max_size=6)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_whatever_comes_in_whatever_order_each_reading_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[Kind, list[tuple[int, int]]]] | None]
) -> None:
    """None closes and opens the file in between: marks must come back."""
    path = tmp_path_factory.mktemp("once") / "plant.duckdb"

    async def run() -> None:
        expected: dict[tuple[str, int], str] = {}
        store = DuckdbStore(path, desk=False)
        await store.open()
        for step, write in enumerate(steps):
            if write is None:
                await store.close()
                store = DuckdbStore(path, desk=False)
                await store.open()
                continue
            batches = [made(kind, entries, step) for kind, entries in write]
            total = sum(map(len, batches))
            before = len(expected)
            for batch in batches:
                for row in range(len(batch)):
                    key = (batch.table.tags[batch.tag[row]].name, int(batch.time[row]))
                    expected.setdefault(key, str(batch.value[row]))
            report = await store.write([block(*batches)])
            assert report.stored == len(expected) - before
            assert report.duplicates == total - report.stored
        await store.close()
        found = select(
            path,
            "SELECT s.tag, epoch_ns(r.time), r.v FROM (SELECT series, time, value::VARCHAR AS v FROM floats"
            " UNION ALL SELECT series, time, value::VARCHAR FROM ints UNION ALL SELECT series, time, value FROM texts)"
            " r JOIN series s ON s.id = r.series",
        )
        assert len(found) == len(expected)
        assert {(tag, when): value for tag, when, value in found} == expected

    asyncio.run(run())


def made(kind: Kind, entries: list[tuple[int, int]], step: int) -> Batch:
    """Readings whose value says in which step they were written first."""
    return Batch(
        table(kind, size=3),
        np.array([tag for tag, _ in entries], dtype=np.uint32),
        column(
            kind, [float(step) if kind is Kind.FLOAT else str(step) if kind is Kind.TEXT else step for _ in entries]
        ),
        np.zeros(len(entries), dtype=np.uint32),
        np.array([time for _, time in entries], dtype=np.int64),
    )


async def test_descriptions_follow_the_newest_definition_and_not_a_backlog(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    old, new = table(size=1, description="old", group="slow"), table(size=1, description="new", states=((1, "on"),))
    await store.write([block(scan(old, T0, [1.0]), first=1)])
    await store.write([block(scan(new, T0 + 10 * SECOND, [1.0]), first=2)])
    await store.write([block(scan(old, T0 + 5 * SECOND, [1.0]), first=3)])
    assert select(store.path, 'SELECT description, "group" FROM series') == [("new", "default")]
    assert select(store.path, "SELECT DISTINCT text FROM readings") == [("on",)]
    await store.write([block(scan(old, T0 + 20 * SECOND, [1.0]), first=4)])
    assert select(store.path, 'SELECT description, "group" FROM series') == [("old", "slow")]
    await store.close()
    assert select(store.path, "SELECT count(*) FROM floats") == [(4,)]


async def test_the_ledger_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEDGER_LONGEST", 10)
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    of = table(size=1)
    for number in range(40):
        await store.write([block(scan(of, T0 + number, [1.0]), first=number + 1, journal=f"j{number % 2}")])
    await store.close()
    held = select(store.path, "SELECT journal, min(first), max(last) FROM ledger GROUP BY journal ORDER BY journal")
    assert held == [("j0", 1, 39), ("j1", 2, 40)]
    assert select(store.path, "SELECT count(*) FROM ledger")[0][0] <= 51


async def test_a_file_of_another_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "plant.duckdb"
    store = DuckdbStore(path)
    await store.open()
    await store.close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE about SET value = '99' WHERE key = 'layout'")
    with pytest.raises(StoreUnavailable, match="layout version 99"):
        await DuckdbStore(path).open()


async def test_a_file_that_another_process_holds_is_refused_with_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "plant.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(StoreUnavailable, match=str(writer.pid)):
            await DuckdbStore(path).open()
        writer.kill()


async def test_only_its_own_user_may_ask_and_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("deep-" * 10) / ("deeper-" * 10) / "plant.duckdb"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_behind, inquiry._address(socket_path(path)) as address:
        left_behind.bind(address)
    previous = os.umask(0)
    try:
        store = DuckdbStore(path)
        await store.open()
        assert stat.S_IMODE(socket_path(path).stat().st_mode) == 0o600
    finally:
        os.umask(previous)
    assert select(path, "SELECT 1 + $n AS x", n=1) == [(2,)]
    await store.close()
    assert not socket_path(path).exists()


async def test_questions_are_answered_while_readings_come_in(tmp_path: Path) -> None:
    """Somebody looks at a trend: ingest goes on, and what is seen is always whole scans."""
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    of, seen, stop = table(size=1000, unit="bar"), [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(select(store.path, "SELECT count(*) FROM readings")[0][0])

    askers = [threading.Thread(target=ask) for _ in range(3)]
    await store.write([block(scan(of, T0))])
    for asker in askers:
        asker.start()
    number = 1
    while len(seen) < 30:
        await store.write([block(scan(of, T0 + number * SECOND), first=number + 1)])
        number += 1
    stop.set()
    for asker in askers:
        await asyncio.to_thread(asker.join)
    await store.close()
    assert all(count % 1000 == 0 for count in seen)
    assert len(set(seen)) > 1


async def test_rubbish_on_the_socket_harms_nobody(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    for rubbish in (
        b"",
        b"\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x02{}",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as peer, inquiry._address(socket_path(store.path)) as address:
            peer.connect(address)
            peer.sendall(rubbish)
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(20)
            with contextlib.suppress(ConnectionResetError):  # it did not even read the rest
                while peer.recv(1000):
                    pass
    assert select(store.path, "SELECT 1 AS x") == [(1,)]
    await store.close()


async def test_an_answer_that_is_cut_off_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    closing = threading.Timer(0.3, store._desk.close)  # type: ignore[union-attr]

    def ask() -> None:
        with read(store.path, "SELECT * FROM range(200000000)") as answer:
            closing.start()
            for _ in answer.iter_chunks():
                pass

    with pytest.raises((Refused, RuntimeError, EOFError)):
        ask()
    closing.join()
    await store.close()


async def test_an_error_half_way_through_an_answer_is_told(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    sql = "SELECT CASE WHEN range = 5000000 THEN error('half-way') END AS x FROM range(6000000)"

    def ask() -> None:
        with read(store.path, sql) as answer:
            for _ in answer.iter_chunks():
                pass

    with pytest.raises(Refused, match="half-way"):
        ask()
    await store.close()


async def test_closing_does_not_wait_for_a_question_that_takes_for_ever(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()

    def ask() -> None:
        with contextlib.suppress(Refused, RuntimeError, EOFError, OSError):
            select(store.path, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b")

    asker = threading.Thread(target=ask)
    asker.start()
    while not store._desk._cursors:  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    begin = time.monotonic()
    await store.close()
    await asyncio.to_thread(asker.join)
    assert time.monotonic() - begin < 60


async def test_all_bad_rows_of_every_kind_are_stored_without_values(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    tables: list[TagTable] = [table(kind, size=9) for kind in Kind]
    await store.write([block(*(Batch.bad(of, BAD, T0) for of in tables))])
    await store.close()
    found = select(store.path, "SELECT count(*), count(value), count(text), min(status) FROM readings")
    assert found == [(45, 0, 0, "BadNotConnected")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here (root may)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_refuses_for_a_while_and_costs_nothing(disk: Path) -> None:
    """What cannot be stored is not acknowledged; when somebody has made room it goes on where it was."""
    others = disk / "others"
    others.write_bytes(bytes(6 << 20))
    values = np.random.default_rng(0)
    store = DuckdbStore(disk / "plant.duckdb")
    await store.open()
    of, number = table(size=2000, unit="bar"), 0
    refusals: list[StoreUnavailable] = []
    while number < 200:
        sent = block(scan(of, T0 + number * SECOND, values.normal(size=2000).tolist()), first=number + 1)
        try:
            report = await store.write([sent])
        except StoreUnavailable as error:
            refusals.append(error)
            if len(refusals) == 3:
                others.unlink()
            if len(refusals) == 10:
                raise
        else:
            assert (report.stored, report.duplicates) == (2000, 0)
            number += 1
    await store.close()
    assert len(refusals) >= 3
    assert not any(error.permanent for error in refusals)
    assert all("No space left" in str(error) for error in refusals)
    assert select(store.path, "SELECT count(*), count(DISTINCT (series, time)) FROM floats") == [(400_000, 400_000)]


async def test_days_older_than_the_retention_are_deleted_whole_and_it_is_said(tmp_path: Path) -> None:
    """A file that grows for ever fills the disk; one that forgets in silence looks like lost data."""
    day, of = DAY, table(unit="bar")
    today = time.time_ns() // day * day
    store = DuckdbStore(tmp_path / "plant.duckdb", retention=Retention(2 * 86400.0))
    await store.open()
    times = [T0, today - 3 * day, today - 2 * day - 1, today - day, today]
    gaps = [Gap("", "", T0, T0 + 1, "old"), Gap("", "", T0, today, "long")]
    await store.write([block(*(scan(of, when) for when in times), *gaps)])
    await store.settle()
    await store.close()
    kept = [row[0] for row in select(store.path, "SELECT DISTINCT epoch_ns(time) FROM floats ORDER BY 1")]
    assert kept == [when for when in times if when >= today - 2 * day]
    assert select(store.path, "SELECT count(*) FROM gaps") == [(2,)], "roll-ups, which are kept, are known by them"
    ((said,),) = select(store.path, "SELECT value FROM about WHERE key = 'kept from'")
    assert said == str(datetime.datetime.fromtimestamp((today - 2 * day) // 10**9, datetime.UTC).date())


async def test_what_is_kept_of_the_file_in_memory_is_bounded(tmp_path: Path) -> None:
    memory = 48_000_000
    store = DuckdbStore(tmp_path / "plant.duckdb", memory=memory)
    await store.open()
    of, chance = table(size=10_000), np.random.default_rng(7)
    values = chance.normal(size=(100, 10_000))  # nothing to compress
    taken: list[int] = []

    def weigh(connection: duckdb.DuckDBPyConnection) -> None:
        taken.extend(connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()[0])

    for number in range(9):
        scans = [scan(of, T0 + (number * 100 + place) * SECOND, row) for place, row in enumerate(values)]
        await store.write([block(*scans, first=number * 100 + 1)])
        await store.transact(weigh)
    await store.close()
    assert store.path.stat().st_size > 1.2 * memory
    assert 0 < max(taken) <= memory
