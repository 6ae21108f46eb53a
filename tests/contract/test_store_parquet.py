"""What the folder of Parquet files promises beside the store contract: few files, whole files, each row once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset
import pytest
from store_places import parquet_rows

from gateway.errors import StoreUnavailable
from gateway.model import Kind
from gateway.options import ParquetOptions
from gateway.stores import folder
from gateway.stores.parquet import ParquetStore
from tests.native import BAD, SECOND, T0, block, scan, table

DAY = 86400 * SECOND
OF = table(size=50, unit="bar")


def store(data: Path, every: str = "1 h") -> ParquetStore:
    return ParquetStore(ParquetOptions(type="parquet", every=every), data)


def counts(data: Path) -> tuple[int, int]:
    """Give how many rows there are, and how many different ones."""
    ((rows, different),) = parquet_rows(data / "parquet", "readings", "count(*), count(DISTINCT (device, tag, time))")
    return rows, different


async def test_however_often_rows_move_a_day_is_one_file(tmp_path: Path) -> None:
    """A file each five minutes would be a hundred thousand a year, of which each must be opened by each question."""
    opened = store(tmp_path)
    for number in range(10):
        await opened.write([block(scan(OF, T0 + number * SECOND), scan(OF, T0 + DAY + number * SECOND), first=number)])
        await opened._move()
    await opened.close()
    files = sorted((tmp_path / "parquet" / "readings").glob("**/*"))
    assert [file.relative_to(tmp_path / "parquet" / "readings").as_posix() for file in files if file.is_file()] == [
        "gateway=demo/day=2023-11-14/part-0.parquet",
        "gateway=demo/day=2023-11-15/part-0.parquet",
    ]
    assert counts(tmp_path) == (1000, 1000)


async def test_a_part_that_is_large_enough_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a gigabyte anew for a minute's readings would never end; what is there already is found in all parts."""
    monkeypatch.setattr(folder, "PART", 1)
    opened = store(tmp_path)
    for number in (5, 3, 4):
        await opened.write([block(scan(OF, T0 + number * SECOND), first=number)])
        await opened._move()
    for number in range(7):
        await opened.write([block(scan(OF, T0 + number * SECOND), first=number)])
    await opened.close()
    names = {file.name for file in (tmp_path / "parquet").glob("readings/**/*.parquet")}
    assert names == {f"part-{number}.parquet" for number in range(4)}
    assert counts(tmp_path) == (350, 350)


async def test_a_kill_after_the_files_are_there_doubles_nothing(tmp_path: Path) -> None:
    opened = store(tmp_path)
    await opened.write([block(scan(OF, T0))])

    def killed(staging: duckdb.DuckDBPyConnection) -> None:
        opened._moved(staging)
        raise duckdb.IOException("killed before the commit")

    with pytest.raises(StoreUnavailable, match="killed"):
        await opened._staging.transact(killed)
    assert counts(tmp_path) == (50, 50)
    await opened.write([block(scan(OF, T0 + SECOND), first=2)])
    await opened.close()
    assert counts(tmp_path) == (100, 100)


async def test_a_folder_that_cannot_be_written_to_stops_ingest_and_not_the_disk(tmp_path: Path) -> None:
    """Without back-pressure the staging file would fill the disk of the machine while nobody looks."""
    opened = store(tmp_path, every="200 ms")
    await opened.open()
    (tmp_path / "parquet" / "readings").write_text("in the way")
    await opened.write([block(scan(OF, T0))])
    async with asyncio.timeout(60):
        while not opened._failed:
            await asyncio.sleep(0.02)
    with pytest.raises(StoreUnavailable) as raised:
        await opened.write([block(scan(OF, T0 + SECOND), first=2)])
    assert not raised.value.permanent
    (tmp_path / "parquet" / "readings").unlink()
    await opened.write([block(scan(OF, T0 + SECOND), first=2)])
    await opened.close()
    assert counts(tmp_path) == (100, 100)


async def test_a_stranger_reads_the_folder_as_one_table(tmp_path: Path) -> None:
    """pandas and Spark read it by pyarrow's rules: gateway and day are columns, from the directories' names."""
    opened = store(tmp_path)
    numbers, energy = table(size=2, unit="bar", states=((1, "on"),)), table(Kind.UINT, 1, unit="W.h")
    sent = block(scan(numbers, T0, [1.0, 2.5], [0, BAD]), scan(energy, T0, [2**64 - 1]), gateway="厂 1")
    await opened.write([sent])
    await opened.close()
    read = pyarrow.dataset.dataset(tmp_path / "parquet" / "readings", partitioning="hive").to_table()
    found = read.drop_columns(["time"]).to_pylist()
    rows = {row["tag"]: row for row in found}
    assert (rows["float64-0"]["value"], rows["float64-0"]["text"]) == (1.0, "on")
    assert (rows["float64-1"]["value"], rows["float64-1"]["quality"]) == (None, BAD)
    assert rows["uint64-0"]["unsigned"] == 2**64 - 1
    assert {(row["gateway"], row["day"]) for row in found} == {("厂 1", "2023-11-14")}
    assert set(np.asarray(read["time"]).astype("int64").tolist()) == {T0}
