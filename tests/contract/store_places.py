"""The places against which the store contract runs: one entry per store and server.

A new store adds one line to PLACES: a function that gives an async context manager of a Place.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import math
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import duckdb as duckdb_module
import psycopg

from gateway.contracts import Store
from gateway.model import Gap, Kind
from gateway.options import InfluxdbOptions, ParquetOptions, PostgresOptions, VictoriametricsOptions
from gateway.stores.duckdb import DuckdbStore
from gateway.stores.influxdb import InfluxdbStore
from gateway.stores.inquiry import read
from gateway.stores.layout import TABLES
from gateway.stores.parquet import ParquetStore
from gateway.stores.postgres import PostgresStore
from gateway.stores.victoriametrics import VictoriametricsStore
from tests.influx_proxy import InfluxProxy
from tests.stores_servers import Bucket, InfluxDB, Postgres, Server, VictoriaMetrics, postgres_program


@dataclass(frozen=True, slots=True, order=True)
class Stored:
    """A reading as it lies in the store; value None under Bad quality."""

    gateway: str
    device: str
    tag: str
    unit: str
    time: int
    value: Any
    quality: int


@dataclass(slots=True)
class Place:
    """A store, and how to see what is in it without it. What a store cannot hold is declared here, and in its guide."""

    open: Callable[[], Store]
    readings: Callable[[], list[Stored]]
    gaps: Callable[[], list[tuple[str, Gap]]]
    away: Callable[[], AbstractContextManager[object]]  # within it the store cannot be reached, or written to
    kinds: tuple[Kind, ...] = tuple(Kind)  # those whose values come back exactly
    resolution: int = 1  # ns
    digits: int = 17  # of a float; 17 are all of them
    text: Callable[[str], str] = str  # a text as it comes back
    counts: bool = True  # it can tell which rows it had already
    dead: list[tuple[str, bytes, str]] = field(default_factory=list)

    def rounded(self, gap: Gap) -> Gap:
        """Give a gap with the times that this store can hold."""
        start, end = (time // self.resolution * self.resolution for time in (gap.start, gap.end))
        return replace(gap, start=start, end=end, reason=self.text(gap.reason))


@asynccontextmanager
async def duckdb(directory: Path) -> AsyncIterator[Place]:
    path = directory / "data" / "plant.duckdb"
    kinds = " UNION ALL ".join(
        f"SELECT series, epoch_ns(time) AS ns, value::VARCHAR AS value, quality, '{kind.value}' AS kind FROM {table}"
        for kind, (table, _) in TABLES.items()
        if kind is not Kind.FLOAT
    )

    def readings() -> list[Stored]:
        names = "s.gateway, s.device, s.tag, s.unit"
        floats = _rows(
            path, f"SELECT {names}, epoch_ns(time), value, quality FROM floats f JOIN series s ON s.id = f.series"
        )
        rows = [Stored(*row) for row in floats]
        others = _rows(
            path, f"SELECT {names}, ns, r.value, quality, r.kind FROM ({kinds}) r JOIN series s ON s.id = r.series"
        )
        return rows + [Stored(*row[:5], _typed(Kind(row[7]), row[5]), row[6]) for row in others]

    def gaps() -> list[tuple[str, Gap]]:
        columns = 'gateway, device, "group", epoch_ns("start"), epoch_ns("end"), reason, readings, scans'
        return [(row[0], Gap(*row[1:])) for row in _rows(path, f"SELECT {columns} FROM gaps")]

    yield Place(lambda: DuckdbStore(path), readings, gaps, lambda: held(path))


HOLDER = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Have another process hold a DuckDB file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.communicate(b"")


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Have a server stopped."""
    server.stop()
    yield
    server.start()


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    with read(path, sql) as answer:
        return [tuple(row.values()) for row in answer.read_all().iter_py()]


def _typed(kind: Kind, text: str | None) -> Any:
    if text is None or kind is Kind.TEXT:
        return text
    return text == "true" if kind is Kind.BOOL else int(text)


@asynccontextmanager
async def influxdb(directory: Path) -> AsyncIterator[Place]:
    with InfluxDB(directory / "influxdb") as engine, InfluxProxy(engine.url) as proxy:
        engine.create("plant")

        def readings() -> list[Stored]:
            rows = engine.query("plant", 'SELECT * FROM readings GROUP BY "gateway", "device", "tag", "unit"')
            return [
                Stored(row["gateway"], row["device"], row["tag"], row["unit"], row["time"], _of(row), row["quality"])
                for row in rows
            ]

        def gaps() -> list[tuple[str, Gap]]:
            rows = engine.query("plant", 'SELECT * FROM gaps GROUP BY "gateway", "device", "group"')
            return [
                (
                    row["gateway"],
                    Gap(
                        row["device"],
                        row["group"],
                        row["time"],
                        row["end"],
                        row["reason"],
                        row["readings"],
                        row["scans"],
                    ),
                )
                for row in rows
            ]

        place = Place(
            lambda: InfluxdbStore(_options(proxy.url), set_aside), readings, gaps, lambda: stopped(engine), counts=False
        )

        def set_aside(*letter: Any) -> None:
            place.dead.append(letter)

        yield place


def _options(url: str) -> InfluxdbOptions:
    return InfluxdbOptions(type="influxdb", url=url, bucket="plant", org="acme", token="secret")


def _of(row: dict[str, Any]) -> Any:
    """Give the one value that a row has, in its kind."""
    if row.get("value") is not None:
        return float(row["value"])  # JSON has 0 for 0.0
    for name in ("value_int", "value_bool"):
        if row.get(name) is not None:
            return row[name]
    text = row.get("value_text")
    if text and row["tag"].startswith(("uint64", "float64")):
        return int(text) if row["tag"].startswith("uint64") else float(text)
    return text


@asynccontextmanager
async def victoriametrics(directory: Path) -> AsyncIterator[Place]:
    with VictoriaMetrics(directory / "victoria-metrics") as server:
        place = Place(
            lambda: VictoriametricsStore(victoria_options(server.url), set_aside),
            lambda: victoria_readings(server),
            lambda: victoria_gaps(server),
            lambda: stopped(server),
            resolution=1_000_000,
            digits=12,
            text=lambda text: text.replace("\n", "␊").replace("\\", "∖"),
            counts=False,
        )

        def set_aside(*letter: Any) -> None:
            place.dead.append(letter)

        yield place


def victoria_options(url: str, settle: str = "0 s") -> VictoriametricsOptions:
    return VictoriametricsOptions(type="victoriametrics", url=url, settle=settle)


def victoria_readings(server: VictoriaMetrics) -> list[Stored]:
    """Put the metrics together again as its guide says."""
    parts: dict[tuple[Any, ...], dict[str, Any]] = {}
    for series in server.export('{__name__=~"readings_.*"}'):
        names = series["metric"]
        labels = tuple(names.get(label, "") for label in ("gateway", "device", "tag", "unit"))
        metric = names["__name__"].removeprefix("readings_")
        for time, value in zip(series["timestamps"], series["values"], strict=True):
            row = parts.setdefault((*labels, time), {})
            assert metric not in row, "a row that is there twice"
            row[metric] = names["text"] if metric == "text" else value
    return [Stored(*labels, time * 1_000_000, _put_together(labels[2], row), int(row["quality"]))
            for (*labels, time), row in parts.items()]  # fmt: skip


def _put_together(tag: str, row: dict[str, Any]) -> Any:
    kind = tag.split("-")[0]
    if "high" in row:
        return int(row["high"]) * 10**9 + int(row["low"])
    if "text" in row:
        text = row["text"].replace('""', "")
        return float(text) if kind == "float64" else text
    return bool(row["value"]) if kind == "bool" and "value" in row else _float(row.get("value"))


def _float(number: float | None) -> float | None:
    return None if number is None else float(number)


def victoria_gaps(server: VictoriaMetrics) -> list[tuple[str, Gap]]:
    parts: dict[tuple[str, ...], dict[str, int]] = {}
    for series in server.export('{__name__=~"gaps_.*"}'):
        names = series["metric"]
        labels = tuple(names.get(label, "") for label in ("gateway", "device", "group", "reason"))
        for time, value in zip(series["timestamps"], series["values"], strict=True):
            parts.setdefault((*labels, time), {})[names["__name__"].removeprefix("gaps_")] = int(value)
    return [
        (gateway, Gap(device, group, time * 1_000_000, row["end"] * 1_000_000, reason, row["readings"], row["scans"]))
        for (gateway, device, group, reason, time), row in parts.items()
    ]


@asynccontextmanager
async def parquet(directory: Path) -> AsyncIterator[Place]:
    options = ParquetOptions(type="parquet")
    root = directory / "data" / "parquet"

    yield Place(
        lambda: ParquetStore(options, directory / "data"),
        lambda: parquet_readings(root),
        lambda: parquet_gaps(root),
        lambda: taken(root),
        counts=False,
    )


def parquet_readings(root: Path) -> list[Stored]:
    columns = "gateway, device, tag, unit, epoch_ns(time), kind, value, integer, unsigned, text, quality"
    return [
        Stored(*row[:5], _of_columns(Kind(row[5]), *row[6:10]), row[10])
        for row in parquet_rows(root, "readings", columns)
    ]


def parquet_gaps(root: Path) -> list[tuple[str, Gap]]:
    columns = 'gateway, device, "group", epoch_ns("start"), epoch_ns("end"), reason, readings, scans'
    return [(row[0], Gap(*row[1:])) for row in parquet_rows(root, "gaps", columns)]


@asynccontextmanager
async def bucket(directory: Path) -> AsyncIterator[Place]:
    server, prefix = bucket_server(), f"lake/{uuid.uuid4().hex}"

    def fetched() -> Path:
        return server.download(prefix, directory / uuid.uuid4().hex)

    yield Place(
        lambda: ParquetStore(bucket_options(server, prefix), directory / "data"),
        lambda: parquet_readings(fetched()),
        lambda: parquet_gaps(fetched()),
        lambda: stopped(server),
        counts=False,
    )


def bucket_options(server: Bucket, prefix: str) -> ParquetOptions:
    given = {"path": f"s3://plant/{prefix}", "endpoint": server.url, "timeout": "5 s", **Bucket.options}
    return ParquetOptions.model_validate({"type": "parquet", **given})


@functools.cache
def bucket_server() -> Bucket:
    """Give one server for all tests of this process, each with a prefix of its own."""
    directory = tempfile.TemporaryDirectory(prefix="plantbridge-bucket-")
    server = Bucket(Path(directory.name)).start()
    atexit.register(directory.cleanup)
    atexit.register(server.stop)
    return server


def parquet_rows(root: Path, kind: str, columns: str) -> list[tuple[Any, ...]]:
    if not list(root.glob(f"{kind}/**/*.parquet")):
        return []
    source = f"read_parquet('{root}/{kind}/**/*.parquet', hive_partitioning = true, hive_types_autocast = false)"
    with duckdb_module.connect() as connection:
        return connection.execute(f"SELECT {columns} FROM {source}").fetchall()  # type: ignore[no-any-return]


def _of_columns(kind: Kind, value: float | None, integer: int | None, unsigned: int | None, text: str | None) -> Any:
    if kind is Kind.BOOL and value is not None:
        return bool(value)
    return {Kind.INT: integer, Kind.UINT: unsigned, Kind.TEXT: text}.get(kind, value)


@contextmanager
def taken(root: Path) -> Iterator[None]:
    """Have somebody else hold a folder."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@asynccontextmanager
async def postgres(directory: Path) -> AsyncIterator[Place]:
    server = postgres_server()
    schema = f"Plant {uuid.uuid4().hex}"
    options = PostgresOptions.model_validate({"type": "postgres", "url": server.url, "schema": schema})

    def rows(question: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(server.url) as connection:
            if not connection.execute("SELECT to_regclass(%s)", [f'"{schema}".samples']).fetchone()[0]:  # type: ignore[index]
                return []
            connection.execute(f'SET search_path TO "{schema}"')  # type: ignore[arg-type]
            return connection.execute(question).fetchall()  # type: ignore[arg-type]

    def readings() -> list[Stored]:
        ns = "(extract(epoch FROM time) * 1000000)::bigint * 1000 + nanos"
        columns = f"gateway, device, tag, unit, {ns}, kind, value, exact, text, quality"
        return [
            Stored(*row[:5], _of_columns(Kind(row[5]), row[6], _whole(row[7]), _whole(row[7]), row[8]), row[9])
            for row in rows(f"SELECT {columns} FROM readings")
        ]

    def gaps() -> list[tuple[str, Gap]]:
        columns = 'gateway, device, "group", start_ns, end_ns, reason, readings::bigint, scans::bigint'
        return [(row[0], Gap(*row[1:])) for row in rows(f"SELECT {columns} FROM gaps")]

    yield Place(lambda: PostgresStore(options), readings, gaps, lambda: stopped(server))


def _whole(number: Any) -> int | None:
    return None if number is None else int(number)


@functools.cache
def postgres_server() -> Postgres:
    """Give one server for all tests of this process, each in a schema of its own: making one takes seconds."""
    postgres_program("initdb")
    directory = tempfile.TemporaryDirectory(prefix="plantbridge-postgres-")
    server = Postgres(Path(directory.name)).start()
    atexit.register(directory.cleanup)
    atexit.register(server.stop)
    return server


PLACES: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]]] = {
    "bucket": bucket,
    "duckdb": duckdb,
    "influxdb": influxdb,
    "parquet": parquet,
    "postgres": postgres,
    "victoriametrics": victoriametrics,
}


def same_value(one: Any, other: Any, digits: int) -> bool:
    """Compare exactly, or floats to so many digits; the sign of zero is lost in JSON answers."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (digits < 17 and math.isclose(one, other, rel_tol=10.0 ** (1 - digits), abs_tol=1e-300))
    return type(one) is type(other) and bool(one == other)
