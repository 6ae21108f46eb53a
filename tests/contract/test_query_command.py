"""`plantbridge query` against a real file, whether another process holds it or not."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import Result

from gateway.cli.query import instant, query
from gateway.errors import GatewayError
from gateway.model import Batch, Gap, Kind
from gateway.stores.duckdb import DuckdbStore
from tests import commands
from tests.native import BAD, SECOND, T0, block, scan, table

FIRST = "2023-11-15 06:13:20.123456789+08:00"


@pytest.fixture(autouse=True)
def _in_china(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    monkeypatch.setenv("COLUMNS", "200")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def fill(store: DuckdbStore) -> None:
    states = ((0, "停"), (1, "运行"))
    await store.open()
    for number in range(3):
        now = T0 + number * SECOND
        await store.write(
            [
                block(
                    scan(table(size=2, unit="bar"), now, [20.0 + number, 0.5]),
                    scan(table(Kind.BOOL, size=1, states=states), now, [number % 2 == 1]),
                    scan(table(Kind.UINT, size=2, device="meter-1", unit="W.h"), now, [2**64 - 1, 7 + number]),
                    scan(table(Kind.TEXT, size=1, device="压机"), now, [f"批次 {number}"], [BAD if number == 2 else 0]),
                    first=1 + number * 4,
                )
            ]
        )


@pytest.fixture(params=["open in another process", "closed"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file with readings: held by a store on a loop of its own, as ingest does, or by nobody."""
    path = tmp_path / "plant.duckdb"
    store = DuckdbStore(path)
    with asyncio.Runner() as runner:
        runner.run(fill(store))
        if request.param == "closed":
            runner.run(store.close())
        yield path
        runner.run(store.close())


def ask(*arguments: object) -> Result:
    return commands.ask(query, *arguments)


def lines(*arguments: object) -> list[list[str]]:
    """Give the CSV that comes out, as rows."""
    result = ask(*arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    return list(csv.reader(io.StringIO(result.stdout)))


def test_the_newest_value_of_every_tag_is_shown_without_being_asked_for(database: Path) -> None:
    now = "2023-11-15 06:13:22.123456789+08:00"
    assert lines(database) == [
        ["time", "gateway", "device", "tag", "value", "text", "unit", "quality", "status"],
        [now, "demo", "meter-1", "uint64-0", "18446744073709551615", "", "W.h", "0", "Good"],
        [now, "demo", "meter-1", "uint64-1", "9", "", "W.h", "0", "Good"],
        [now, "demo", "press-1", "bool-0", "false", "停", "", "0", "Good"],
        [now, "demo", "press-1", "float64-0", "22", "", "bar", "0", "Good"],
        [now, "demo", "press-1", "float64-1", "0.5", "", "bar", "0", "Good"],
        [now, "demo", "压机", "text-0", "", "", "", str(BAD), "BadNotConnected"],
    ]  # fmt: skip


def test_a_table_has_unit_state_and_quality_beside_the_value(database: Path) -> None:
    result = ask(database, "press-1/*", "--last")
    assert result.exit_code == 0
    head, state, first, second = result.stdout.splitlines()
    assert head.split() == ["time", "tag", "value", "unit", "quality"]
    assert state.split() == ["2023-11-15", "06:13:22.123456789+08:00", "press-1/bool-0", "false", "停", "Good"]
    assert first.split()[2:] == ["press-1/float64-0", "22", "bar", "Good"]
    assert second.split()[2:] == ["press-1/float64-1", "0.5", "bar", "Good"]


def test_a_range_begins_at_its_begin_and_ends_before_its_end(database: Path) -> None:
    found = lines(database, "meter-1/uint64-1", "--from", "2023-11-15T06:13:20", "--to", "2023-11-15T06:13:22")
    assert [row[0] for row in found[1:]] == [FIRST, "2023-11-15 06:13:21.123456789+08:00"]
    assert [row[4] for row in found[1:]] == ["7", "8"]
    elsewhere = lines(database, "meter-1/uint64-1", "--from", "2023-11-14T22:13:22+00:00")
    assert [row[4] for row in elsewhere[1:]] == ["9"]
    assert lines(database, "--since", "1 h") == found[:1]


def test_a_table_shows_the_newest_rows_and_says_that_there_are_more(database: Path) -> None:
    result = ask(database, "press-1/float64-0", "--from", "2020-01-01", "--limit", "2")
    assert [line.split()[3] for line in result.stdout.splitlines()[1:]] == ["21", "22"]


def test_parquet_is_read_by_others(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "it's.parquet"
    assert ask(database, "--from", "2020-01-01", "--format", "parquet", "--output", file).exit_code == 0
    read = pyarrow.parquet.read_table(file)
    assert read.num_rows == 18
    assert str(read.schema.field("time").type) == "timestamp[ns]"
    assert read.column("time").cast("int64").to_pylist()[0] == T0
    assert not list(tmp_path.glob("*.partial"))


def test_csv_goes_to_a_file(database: Path, tmp_path: Path) -> None:
    ask(database, "--format", "csv", "--output", tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_text(encoding="utf-8").count("\n") == 7


def test_sql_of_ones_own_is_answered_in_every_form(database: Path, tmp_path: Path) -> None:
    sql = "SELECT device, count(*) AS n, max(time) AS newest FROM readings GROUP BY device ORDER BY device"
    assert lines(database, "--sql", sql)[1] == ["meter-1", "6", "2023-11-14 22:13:22.123456789"]
    assert "press-1" in ask(database, "--sql", sql).stdout
    ask(database, "--sql", sql, "--format", "parquet", "--output", tmp_path / "a.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 3


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM floats",
        "SELECT 1; DELETE FROM floats",
        "CREATE TABLE x (a INT)",
        "CREATE TEMP TABLE x (a INT)",
        "COPY floats TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.duckdb'",
        "SET threads = 1",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "CHECKPOINT",
    ],
)
def test_nothing_but_reading_is_allowed(database: Path, sql: str) -> None:
    with pytest.raises(GatewayError, match="SELECT"):
        ask(database, "--sql", sql)
    assert lines(database, "--sql", "SELECT count(*) FROM floats")[1] == ["6"]


def test_a_wrong_question_is_answered_with_the_reason(database: Path) -> None:
    with pytest.raises(GatewayError, match="nowhere"):
        ask(database, "--sql", "SELECT * FROM nowhere")


def test_a_misspelt_tag_is_named_with_its_neighbours(database: Path) -> None:
    with pytest.raises(GatewayError, match="no tag is named press-1/flot64-0; did you mean press-1/float64-"):
        ask(database, "press-1/flot64-0")
    with pytest.raises(GatewayError, match="of gateway nobody"):
        ask(database, "--gateway", "nobody")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "parquet"], "--output"),
        (["--last", "--since", "1 h"], "--last"),
        (["--sql", "SELECT 1", "--since", "1 h"], "--sql"),
        (["--since", "1 parsec"], "duration"),
        (["--from", "yesterday"], "2026-11-20"),
        (["--since", "1 h", "--from", "2026-01-01"], "one of them"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = ask(tmp_path / "x.duckdb", *arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_the_cloud_file_says_where_the_database_is(tmp_path: Path) -> None:
    store = DuckdbStore(tmp_path / "data" / "db.duckdb")

    async def made() -> None:
        await fill(store)
        await store.close()

    asyncio.run(made())
    cloud = tmp_path / "cloud.yaml"
    broker = "broker: {url: mqtt://127.0.0.1:1883}\n"
    cloud.write_text(f"data: ./data\n{broker}store: {{type: duckdb, path: db.duckdb}}\n")
    assert len(lines(cloud)) == 7
    cloud.write_text(f"{broker}store: {{type: influxdb, url: 'http://127.0.0.1:1', bucket: b}}\n")
    with pytest.raises(GatewayError, match="stores to influxdb"):
        ask(cloud)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="there is no database at"):
        ask(tmp_path / "nothing.duckdb")
    (tmp_path / "rubbish.duckdb").write_bytes(b"rubbish" * 1000)
    with pytest.raises(GatewayError, match="rubbish"):
        ask(tmp_path / "rubbish.duckdb")


def test_an_export_is_a_folder_by_gateway_and_day_and_may_be_repeated(database: Path, tmp_path: Path) -> None:
    """What is exported before it is deleted must be whole, and not there twice when the export is run again."""
    folder = tmp_path / "archive"
    half = ask(database, "--to", "2023-11-15T06:13:21", "--export", folder)
    assert half.stdout.startswith("6 rows added"), half.output
    assert ask(database, "--export", folder).stdout.startswith("12 rows added")
    assert ask(database, "--export", folder).stdout.startswith("0 rows added")
    (file,) = folder.glob("**/*.parquet")
    assert file.relative_to(folder).as_posix() == "readings/gateway=demo/day=2023-11-14/part-0.parquet"
    found = pyarrow.parquet.read_table(file, partitioning=None)
    assert found.num_rows == 18
    assert max(number for number in found["unsigned"].to_pylist() if number is not None) == 2**64 - 1
    assert ask(database, "--export", folder, "--last").exit_code == 2


async def test_an_empty_store_says_so_and_why(tmp_path: Path) -> None:
    """A bare header looks like a broken command."""
    store = DuckdbStore(tmp_path / "plant.duckdb")
    await store.open()
    await store.close()
    result = await asyncio.to_thread(ask, store.path)
    assert result.exit_code == 0
    assert "nothing is stored in" in result.stderr
    assert "is ingest running" in result.stderr
    assert not result.stdout


def test_a_time_without_readings_says_when_the_newest_is(database: Path) -> None:
    result = ask(database, "press-1/*", "--since", "1 h")
    assert "no readings in this time; the newest is of 2023-11-15 06:13:22+08:00" in result.stderr


def test_minutes_are_suggested_where_somebody_wrote_m(database: Path) -> None:
    result = ask(database, "--since", "1 m")
    assert result.exit_code == 2
    assert "for minutes write 1 min" in " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Path]:
    """Two hours in China from midnight on, every 10 s, with a declared gap, Bad readings and a counter; held open."""
    store = DuckdbStore(tmp_path / "day.duckdb")
    level, energy = table(size=2, unit="m"), table(Kind.UINT, 1, unit="W.h")
    midnight, minute = instant("2023-11-15"), 60 * SECOND
    contents: list[Batch | Gap] = [
        Gap("press-1", "", midnight + 10 * minute, midnight + 30 * minute, "no answer"),
        Gap("press-1", "default", midnight, midnight + 120 * minute, "thinned", readings=9),
    ]
    for number in [*range(60), *range(180, 720)]:  # from 00:10 on for twenty minutes nothing comes
        when = midnight + number * 10 * SECOND
        bad = BAD if number >= 660 else 0  # the last ten minutes of the first tag
        contents += [
            scan(level, when, [float(number // 360), 7.0], [bad, 0]),
            scan(energy, when, [2**60 + number]),
        ]

    async def fill() -> None:
        await store.open()
        await store.write([block(*contents)])
        await store.settle()

    with asyncio.Runner() as runner:
        runner.run(fill())
        yield store.path
        runner.run(store.close())


def test_every_hour_shows_mean_and_range_and_how_much_of_it_is_known(day: Path) -> None:
    """A mean of half an hour looks like one of an hour, unless it says so."""
    found = lines(day, "press-1/*", "--from", "2023-11-15", "--to", "2023-11-15T03:00", "--every", "1h")
    assert found[0] == ["time", "gateway", "device", "tag", "unit", "count", "good", "completeness", "minimum",
                        "maximum", "mean", "first", "last"]  # fmt: skip
    rows = {(row[0][11:16], row[3]): row[5:] for row in found[1:]}
    assert rows["00:00", "float64-0"] == ["240", "240", "0.6667", "0", "0", "0", "0", "0"]
    assert rows["01:00", "float64-0"] == ["360", "300", "0.8333", "1", "1", "1", "1", "1"]
    assert rows["00:00", "uint64-0"][-2:] == [str(2**60), str(2**60 + 359)]
    assert rows["02:00", "float64-1"] == ["0", "0", "", "", "", "", "", ""], "nothing came, nothing is known to lack"


def test_every_minute_and_quarter_are_filled_where_nothing_came(day: Path) -> None:
    found = lines(day, "press-1/float64-1", "--from", "2023-11-15", "--to", "2023-11-15T00:45", "--every", "15 min")
    assert [(row[0][11:16], row[5], row[7]) for row in found[1:]] == [
        ("00:00", "60", "0.6667"),
        ("00:15", "0", "0.0000"),
        ("00:30", "90", "1.0000"),
    ]
    minutes = lines(
        day, "press-1/float64-1", "--from", "2023-11-15T00:05", "--to", "2023-11-15T00:12", "--every", "1min"
    )
    assert [row[5] for row in minutes[1:]] == ["6"] * 5 + ["0", "0"]


def test_days_are_those_of_the_calendar_here(day: Path) -> None:
    (row,) = lines(day, "press-1/float64-1", "--from", "2023-11-15T13:00", "--to", "2023-11-16", "--every", "1 d")[1:]
    assert row[0] == "2023-11-15 00:00:00.000+08:00"
    assert row[5] == "600"


def test_buckets_come_as_a_table_and_as_parquet(day: Path, tmp_path: Path) -> None:
    arguments = ["press-1/float64-0", "--from", "2023-11-15", "--to", "2023-11-15T02:00", "--every", "1 h"]
    head, first, second = ask(day, *arguments).stdout.splitlines()
    assert head.split() == ["time", "tag", "mean", "minimum", "maximum", "last", "unit", "count", "good", "complete"]
    assert first.split()[2:] == ["press-1/float64-0", "0", "0", "0", "0", "m", "240", "240", "66.7%"]
    assert second.split()[-1] == "83.3%"
    ask(day, *arguments, "--format", "parquet", "--output", tmp_path / "hours.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "hours.parquet")
    assert read.column("mean").to_pylist() == [0.0, 1.0]
    assert read.column("completeness").to_pylist() == pytest.approx([2 / 3, 5 / 6])


def test_a_length_that_roll_ups_cannot_give_is_refused_with_the_way_out(day: Path) -> None:
    for length in ("10 s", "7 min", "36 h"):
        with pytest.raises(GatewayError, match="15 min, 1 h, 8 h, 1 d"):
            ask(day, "--since", "1 h", "--every", length)
    assert "add --since or --from" in " ".join(ask(day, "--every", "1 h").output.replace("│", " ").split())
