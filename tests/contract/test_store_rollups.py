"""Roll-ups of minutes and hours are those of the readings, whatever comes when, and outlive them."""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import quality
from gateway.model import Batch, Kind
from gateway.options import DuckdbOptions
from gateway.stores.duckdb import DuckdbStore, Retention
from gateway.stores.inquiry import read
from gateway.stores.rollups import DAY, HOUR, MINUTE, combined, reckoned
from tests.native import BAD, SECOND, T0, block, scan, table

START = T0 // HOUR * HOUR
UNCERTAIN = 0x40940000


def select(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with read(path, sql) as answer:
        return [tuple(row.values()) for row in answer.read_all().iter_py()]


def rolled(path: Path, view: str) -> list[tuple[Any, ...]]:
    columns = "count, good, minimum, maximum, mean, first, last, first_text, last_text"
    times = "epoch_ns(first_time), epoch_ns(last_time)"
    return select(path, f"SELECT tag, epoch_ns(time), {columns}, {times} FROM {view} ORDER BY 1, 2")


def expected(readings: dict[tuple[str, int], tuple[Any, int]], unit: int) -> list[tuple[Any, ...]]:
    """Reckon the roll-ups from all readings at once, one by one."""
    buckets: defaultdict[tuple[str, int], list[tuple[int, Any, int]]] = defaultdict(list)
    for (tag, when), (value, code) in sorted(readings.items()):
        buckets[tag, when // unit * unit].append((when, value, code))
    rows = []
    for (tag, begin), rows_of in sorted(buckets.items()):
        good = [
            (when, value)
            for when, value, code in rows_of
            if code == quality.GOOD and (isinstance(value, str) or math.isfinite(value))
        ]
        values = [value for _, value in good]
        texts: list[Any] = [None, None]
        numbers: list[Any] = [None] * 5
        if values and isinstance(values[0], str):
            texts = [values[0], values[-1]]
        elif values:
            floats = [float(value) for value in values]
            numbers = [min(floats), max(floats), math.fsum(floats) / len(floats), floats[0], floats[-1]]
            exact = [str(value) if isinstance(value, int) and abs(value) > 2**53 else None for value in values]
            texts = [exact[0], exact[-1]]
        ends = (good[0][0], good[-1][0]) if good else (None, None)
        rows.append((tag, begin, len(rows_of), len(good), *numbers, *texts, *ends))
    return rows


def assert_same(found: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> None:
    assert [row[:6] for row in found] == [row[:6] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert (one[6] is None) == (other[6] is None)
        assert one[6] is None or math.isclose(one[6], other[6], rel_tol=1e-12)
        assert one[7:] == other[7:]


VALUES = {
    Kind.FLOAT: st.sampled_from([0.5, -3.0, 100.0, math.nan, math.inf]),
    Kind.UINT: st.sampled_from([0, 7, 2**64 - 1, 2**53 + 1]),
    Kind.BOOL: st.booleans(),
    Kind.TEXT: st.sampled_from(["", "run", "停"]),
}
CODES = st.sampled_from([0, 0, 0, BAD, UNCERTAIN])
ROW = st.sampled_from(sorted(VALUES)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.integers(0, 200), VALUES[kind], CODES)
)
STEPS = st.lists(st.lists(ROW, min_size=1, max_size=8) | st.sampled_from(["settle", "open again"]), max_size=10)


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_whatever_comes_in_whatever_order_the_roll_ups_are_those_of_the_readings(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Late data, a backlog, duplicates, restarts: 200 places, each 37 s, so that they cover minutes and hours."""
    path = tmp_path_factory.mktemp("rolled") / "plant.duckdb"

    async def run() -> None:
        held: dict[tuple[str, int], tuple[Any, int]] = {}
        store = DuckdbStore(path, desk=False)
        await store.open()
        for step in steps:
            if step == "settle":
                await store.settle()
            elif step == "open again":
                await store.close()
                store = DuckdbStore(path, desk=False)
                await store.open()
            else:
                batches = []
                for kind, place, value, code in step:
                    when = START + place * 37 * SECOND
                    batches.append(scan(table(kind, 1), when, [value], [code]))
                    held.setdefault((f"{kind.value}-0", when), (value, code))
                await store.write([block(*batches)])
        await store.settle()
        await store.close()
        assert_same(rolled(path, "minutes"), expected(held, MINUTE))
        assert_same(rolled(path, "hours"), expected(held, HOUR))
        if held:
            ((until, newest),) = select(path, "SELECT value::BIGINT, 0 FROM about WHERE key = 'rolled until'")
            newest = max(when for _, when in held)
            assert until == newest // MINUTE * MINUTE, "everything but the minute that goes on is in the tables"

    asyncio.run(run())


async def test_what_is_not_rolled_up_yet_is_shown_too(tmp_path: Path) -> None:
    """Who looks at the current hour must not wait for a minute to end."""
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    of = table(size=1)
    await store.write([block(*(scan(of, START + n * 10 * SECOND, [float(n)]) for n in range(10)))])
    before = rolled(store.path, "hours")
    await store.settle()
    assert before == rolled(store.path, "hours")
    assert [(row[1], row[2], row[6]) for row in rolled(store.path, "minutes")] == [
        (START, 6, 2.5),
        (START + MINUTE, 4, 7.5),
    ]
    assert select(store.path, "SELECT count(*) FROM rolled_minutes") == [(1,)]
    await store.close()


async def test_a_gateway_whose_clock_is_a_year_ahead_holds_up_nothing(tmp_path: Path) -> None:
    """Minutes are rolled up by this machine's clock too: else all other gateways' readings came too late for ever."""
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    of, now = table(size=1), time.time_ns()
    await store.write([block(scan(of, now + 365 * DAY, [1.0]), scan(table(size=1, device="2"), START, [1.0]))])
    await store.settle()
    ((until,),) = select(store.path, "SELECT value::BIGINT FROM about WHERE key = 'rolled until'")
    assert now - 3 * MINUTE < until <= time.time_ns()
    assert select(store.path, "SELECT count(*) FROM rolled_minutes") == [(1,)]
    assert select(store.path, "SELECT count(*) FROM minutes") == [(2,)]
    await store.close()


WRITER = """
import asyncio, random, sys
from pathlib import Path
from gateway.stores.duckdb import DuckdbStore
from tests.native import SECOND, T0, block, scan, table

async def main():
    store = DuckdbStore(Path(sys.argv[1]))
    await store.open()
    of, dice = table(size=50, unit="bar"), random.Random(int(sys.argv[2]))
    print("begun", flush=True)
    while True:
        times = [T0 + dice.randrange(4_000) * SECOND for _ in range(20)]
        await asyncio.gather(store.write([block(*(scan(of, time) for time in times))]), store.settle())
        print("written", flush=True)

asyncio.run(main())
"""


def test_a_kill_at_any_moment_leaves_roll_ups_that_come_right(tmp_path: Path) -> None:
    path = tmp_path / "plant.duckdb"
    for seed, until in ((1, 3), (2, 7)):
        command = [sys.executable, "-c", WRITER, str(path), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as writer:
            assert writer.stdout is not None
            for _ in range(until):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)

    async def settle() -> None:
        store = DuckdbStore(path)
        await store.open()
        await store.settle()
        await store.close()

    asyncio.run(settle())
    columns = "series, time, count, good, minimum, maximum, round(mean, 9), first, last, first_time, last_time"
    for view, source in (("minutes", reckoned("true")), ("hours", combined(reckoned("true"), "hour"))):
        shown, wanted = f"SELECT {columns} FROM {view}", f"SELECT {columns} FROM ({source})"
        assert select(path, f"({shown} EXCEPT {wanted}) UNION ALL ({wanted} EXCEPT {shown})") == []
        ((rows, different),) = select(path, f"SELECT count(*), count(DISTINCT (series, time)) FROM {view}")
        assert rows == different > 0


async def test_roll_ups_outlive_their_readings_and_take_in_what_comes_later_still(tmp_path: Path) -> None:
    """A backlog of a gateway that was away for a month must not wipe out what the month's roll-ups say, nor count
    twice when the broker delivers it again."""
    today, of = time.time_ns() // DAY * DAY, table(size=1)
    store = DuckdbStore(tmp_path / "plant.duckdb", retention=Retention(DAY / 1e9, 4 * DAY / 1e9, 30 * DAY / 1e9))
    await store.open()
    three, ten, forty = (today - days * DAY for days in (3, 10, 40))
    await store.write([block(*(scan(of, when, [1.0]) for when in (forty, ten, three, today)))])
    await store.settle()
    assert select(store.path, "SELECT count(*) FROM floats") == [(1,)]
    assert [row[1] for row in rolled(store.path, "minutes")] == [three, today]
    assert [row[1] for row in rolled(store.path, "hours")] == [ten, three, today]
    late = block(scan(of, ten + SECOND, [3.0]), scan(of, three + SECOND, [5.0], [BAD]), first=10)
    for _ in range(2):
        await store.write([late])
        await store.settle()
    assert (await store.write([late])).duplicates == 2
    await store.close()
    assert select(store.path, "SELECT count(*) FROM floats") == [(1,)]
    assert [row[1:9] for row in rolled(store.path, "minutes")][:1] == [(three, 2, 1, 1.0, 1.0, 1.0, 1.0, 1.0)]
    assert [row[1:9] for row in rolled(store.path, "hours")] == [
        (ten, 2, 2, 1.0, 3.0, 2.0, 1.0, 3.0),
        (three, 2, 1, 1.0, 1.0, 1.0, 1.0, 1.0),
        (today, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0),
    ]


async def test_a_file_made_before_there_were_roll_ups_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "plant.duckdb"
    store = DuckdbStore(path, rollups=False)
    await store.open()
    batches: list[Batch] = [scan(table(size=1), START + n * HOUR, [float(n)]) for n in range(3)]
    await store.write([block(*batches)])
    await store.close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE about SET value = '1' WHERE key = 'layout'")
        for name in ("rolled_minutes", "rolled_hours", "stale"):
            connection.execute(f"DROP TABLE {name}")
    store = DuckdbStore(path)
    await store.open()
    await store.settle()
    await store.close()
    assert [row[1] for row in rolled(path, "hours")] == [START, START + HOUR, START + 2 * HOUR]
    assert select(path, "SELECT count(*) FROM rolled_hours") == [(2,)]


def test_roll_ups_are_kept_at_least_as_long_as_what_they_are_made_of() -> None:
    with pytest.raises(ValueError, match="retention_minutes is shorter than retention"):
        DuckdbOptions.model_validate({"retention": "90 d", "retention_minutes": "30 d"})
    with pytest.raises(ValueError, match="retention_hours is shorter than retention_minutes"):
        DuckdbOptions.model_validate({"retention_hours": "30 d"})
