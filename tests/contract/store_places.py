"""The places against which the store contract runs: one entry per store and server.

A new store adds one line to PLACES: a function that gives an async context manager of a Place.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.contracts import Store
from gateway.model import Gap, Kind
from gateway.options import InfluxdbOptions
from gateway.stores.duckdb import DuckdbStore
from gateway.stores.influxdb import InfluxdbStore
from gateway.stores.inquiry import read
from gateway.stores.layout import TABLES
from tests.influx_proxy import InfluxProxy
from tests.stores_servers import InfluxDB, VictoriaMetrics


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
    kinds: tuple[Kind, ...] = tuple(Kind)  # those whose values come back exactly
    resolution: int = 1  # ns
    digits: int = 17  # of a float; 17 are all of them
    once: bool = True  # a row that is written again is there once
    counts: bool = True  # it can tell which rows it had already
    dead: list[tuple[str, bytes, str]] = field(default_factory=list)


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

    yield Place(lambda: DuckdbStore(path), readings, gaps)


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

        place = Place(lambda: InfluxdbStore(_options(proxy.url), set_aside), readings, gaps, counts=False)

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
    return int(text) if text and row["tag"].startswith("uint64") else text


@asynccontextmanager
async def victoriametrics(directory: Path) -> AsyncIterator[Place]:
    with VictoriaMetrics(directory / "victoria-metrics") as server:

        def points(name: str) -> dict[tuple[str, ...], list[tuple[int, float]]]:
            found = {}
            for series in server.export(f'{{__name__="readings_{name}"}}'):
                labels = tuple(series["metric"].get(label, "") for label in ("gateway", "device", "tag", "unit"))
                times = [time * 1_000_000 for time in series["timestamps"]]
                found[labels] = list(zip(times, map(float, series["values"]), strict=True))
            return found

        def readings() -> list[Stored]:
            values = points("value") | points("value_bool")
            rows = []
            for labels, qualities in points("quality").items():
                known = dict(values.get(labels, []))
                for time, code in qualities:
                    value = known.get(time)
                    is_bool = value is not None and labels[2].startswith("bool")
                    rows.append(Stored(*labels, time, bool(value) if is_bool else value, int(code)))
            return rows

        place = Place(
            lambda: InfluxdbStore(_options(server.url), set_aside),
            readings,
            gaps=list,
            kinds=(Kind.FLOAT, Kind.BOOL),
            resolution=1_000_000,
            digits=14,
            once=False,
            counts=False,
        )

        def set_aside(*letter: Any) -> None:
            place.dead.append(letter)

        yield place


PLACES: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]]] = {
    "duckdb": duckdb,
    "influxdb": influxdb,
    "victoriametrics": victoriametrics,
}


def same_value(one: Any, other: Any, digits: int) -> bool:
    """Compare exactly, or floats to so many digits; the sign of zero is lost in JSON answers."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (digits < 17 and math.isclose(one, other, rel_tol=10.0 ** (1 - digits), abs_tol=1e-300))
    return type(one) is type(other) and bool(one == other)
