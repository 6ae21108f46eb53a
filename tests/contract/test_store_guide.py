"""The questions in docs/guide/stores.md are asked of real stores, so that they do not rot."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import duckdb
import psycopg
import pytest
from store_places import postgres_server, victoria_options

from gateway.contracts import Block, Store
from gateway.model import Gap, Kind, Tag, TagTable
from gateway.options import InfluxdbOptions, ParquetOptions, PostgresOptions
from gateway.stores.duckdb import DuckdbStore
from gateway.stores.influxdb import InfluxdbStore
from gateway.stores.inquiry import read
from gateway.stores.parquet import ParquetStore
from gateway.stores.postgres import PostgresStore
from gateway.stores.victoriametrics import VictoriametricsStore
from tests.influx_proxy import InfluxProxy
from tests.native import BAD, SECOND, T0, block, scan
from tests.stores_servers import InfluxDB, VictoriaMetrics

GUIDE = (Path(__file__).parents[2] / "docs/guide/stores.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def test_the_chinese_page_has_the_same_questions() -> None:
    chinese = (Path(__file__).parents[2] / "docs/guide/stores.zh-CN.md").read_text(encoding="utf-8")
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    assert fenced.findall(chinese) == fenced.findall(GUIDE)


def plant() -> Block:
    numbers = TagTable(
        "press-1", "default", Kind.FLOAT, (Tag("pressure", "a", unit="bar"), Tag("mode", "b", states=((1, "on"),)))
    )
    energy = TagTable("press-1", "default", Kind.UINT, (Tag("energy", "c", unit="W.h", kind=Kind.UINT),))
    contents = [
        batch
        for number in range(10)
        for batch in (
            scan(numbers, T0 + number * SECOND, [100.0 + number, number % 2], [BAD if number == 5 else 0, 0]),
            scan(energy, T0 + number * SECOND, [2**60 + number]),
        )
    ]
    return block(*contents, Gap("press-1", "", T0, T0 + SECOND, "x", 5, 1))


@pytest.mark.filterwarnings("ignore:.*nanoseconds discarded")
@pytest.mark.parametrize("sql", examples("sql"))
async def test_sql_of_the_guide_gives_rows(tmp_path: Path, sql: str) -> None:
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    await store.write([plant()])
    with read(store.path, sql) as answer:
        rows = list(answer.read_all().iter_py())
    await store.close()
    assert rows
    if "used" in rows[0]:
        assert [row["used"] for row in rows] == [9]
    if "mean" in rows[0]:
        assert rows[0]["high"] == 109.0
    if "weighed" in rows[0]:
        assert rows[0]["weighed"] == 103.875
    if "state" in rows[0]:
        assert {row["state"]: row["seconds"] for row in rows} == {"on": 4.0, None: 5.0}


async def test_questions_to_the_folder_of_parquet_files_give_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(ParquetStore(ParquetOptions(type="parquet"), tmp_path))
    monkeypatch.chdir(tmp_path)
    means, used, missing = (duckdb.sql(question).fetchall() for question in examples("folder"))
    assert [row for row in means if row[1] == "pressure"] == [("press-1", "pressure", 10, 104.44444444444444)]
    assert used == [("energy", 9)]
    assert missing == [("demo", "press-1", "x", 5)]


async def test_sql_for_postgres_gives_rows() -> None:
    server, schema = postgres_server(), f"guide-{uuid.uuid4().hex}"
    options = {"type": "postgres", "url": server.url, "schema": schema}
    await write(PostgresStore(PostgresOptions.model_validate(options)))
    with psycopg.connect(server.url) as connection:
        connection.execute(f'SET search_path TO "{schema}"')  # type: ignore[arg-type]
        latest, means, used, missing = (connection.execute(asked).fetchall() for asked in examples("postgres"))  # type: ignore[arg-type]
    assert [(row[1], row[2]) for row in latest] == [("energy", float(2**60 + 9)), ("mode", 1.0), ("pressure", 109.0)]
    assert means[0][3] == 109.0
    assert used[0][1] == 9
    assert missing[0][4:] == ("x", 5, 1)


async def test_roll_ups_and_retention_for_postgres_do_what_they_say() -> None:
    """Late readings of an hour change it; readings that are deleted leave it as it was."""
    server, schema = postgres_server(), f"guide-{uuid.uuid4().hex}"
    options = {"type": "postgres", "url": server.url, "schema": schema}
    store = PostgresStore(PostgresOptions.model_validate(options))
    made, rolled, deleted = examples("postgres-work")
    rolled = rolled.replace("now()", f"to_timestamp({T0 // SECOND})")
    of = TagTable("press-1", "default", Kind.FLOAT, (Tag("pressure", "a", unit="bar"),))
    await store.write([block(scan(of, T0 + SECOND, [3.0]), scan(of, T0 + 2 * SECOND, [9.0], [BAD]))])
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f'SET search_path TO "{schema}"')  # type: ignore[arg-type]
        for statement in (made, made, rolled):
            connection.execute(statement)  # type: ignore[arg-type]
        await store.write([block(scan(of, T0, [1.0]), first=3)])
        await store.close()
        for statement in (rolled, deleted):
            connection.execute(statement)  # type: ignore[arg-type]
        columns = "count, good, minimum, maximum, mean, first, last"
        assert connection.execute(f"SELECT {columns} FROM hours").fetchall() == [(3, 2, 1.0, 3.0, 2.0, 1.0, 3.0)]  # type: ignore[arg-type]
        assert connection.execute("SELECT count(*) FROM samples").fetchone() == (0,)


async def test_influxql_of_the_guide_gives_rows(tmp_path: Path) -> None:
    with InfluxDB(tmp_path / "influxdb") as engine, InfluxProxy(engine.url) as proxy:
        engine.create("plant")
        options = InfluxdbOptions(type="influxdb", url=proxy.url, bucket="plant", token="secret")
        await write(InfluxdbStore(options, refused))
        assert len(examples("influxql")) == 3
        for question in examples("influxql"):
            assert engine.query("plant", question), question


async def test_promql_of_the_guide_gives_points(tmp_path: Path) -> None:
    with VictoriaMetrics(tmp_path / "victoria-metrics") as server:
        await write(VictoriametricsStore(victoria_options(server.url), refused))
        pressure, good, energy, missing = examples("promql")
        (found,) = server.export(pressure.strip())
        assert found["values"] == [100, 101, 102, 103, 104, 106, 107, 108, 109]
        now = T0 / SECOND + 9.5
        assert server.ask(pressure, now) == [109]
        assert sorted(server.ask(good, now))[:2] == [1, 109]
        assert server.ask(energy, now) == [5]
        assert server.ask(missing, now) == [5]


def refused(topic: str, payload: bytes, reason: str) -> None:
    pytest.fail(f"{topic}: {reason}: {payload.decode()}")


async def write(store: Store) -> None:
    await store.write([plant()])
    await store.close()
    await store.close()
