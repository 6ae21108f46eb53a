"""What the bucket of Parquet files promises beside the store contract: whole objects, each row once, one writer."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from store_places import bucket_options, bucket_server, parquet_rows

from gateway.errors import StoreUnavailable
from gateway.options import ParquetOptions
from gateway.stores.parquet import ParquetStore
from tests.native import SECOND, T0, block, scan, table

DAY = 86400 * SECOND
OF = table(size=50, unit="bar")


@pytest.fixture
def place() -> str:
    return f"bucket/{uuid.uuid4().hex}"


def store(place: str, data: Path) -> ParquetStore:
    return ParquetStore(bucket_options(bucket_server(), place), data)


def counts(place: str, directory: Path) -> tuple[int, int]:
    """Give how many rows the bucket has, and how many different ones."""
    root = bucket_server().download(place, directory / "seen")
    ((rows, different),) = parquet_rows(root, "readings", "count(*), count(DISTINCT (device, tag, time))")
    return rows, different


async def test_a_day_is_one_object_however_often_rows_move_and_processes_change(place: str, tmp_path: Path) -> None:
    """The names are those of a folder, percent-encoded once, so that readers undo them; what comes again is found."""
    for number in range(3):
        opened = store(place, tmp_path / "data")
        for more in (number, number + 1):
            sent = block(scan(OF, T0 + more * SECOND), scan(OF, T0 + DAY + more * SECOND), gateway="厂 1", first=number)
            await opened.write([sent])
            await opened._move()
        await opened.close()
    at = f"{place}/readings/gateway=%E5%8E%82%201"
    assert bucket_server().names(place) == [
        f"{place}/.plantbridge-owner",
        f"{at}/day=2023-11-14/part-0.parquet",
        f"{at}/day=2023-11-15/part-0.parquet",
    ]
    assert counts(place, tmp_path) == (400, 400)


async def test_a_put_that_failed_is_made_up_for(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working copy had the rows already: whoever trusted it would take them for stored, and lose them."""
    opened = store(place, tmp_path / "data")
    await opened.write([block(scan(OF, T0))])
    await opened._move()
    await opened.write([block(scan(OF, T0 + SECOND), first=2)])
    assert opened._bucket is not None
    with monkeypatch.context() as broken:

        def failing(*_: object) -> None:
            raise StoreUnavailable("the line was cut")

        broken.setattr(opened._bucket, "put", failing)
        with pytest.raises(StoreUnavailable, match="cut"):
            await opened._move()
    assert counts(place, tmp_path) == (50, 50)
    await opened.write([block(scan(OF, T0 + 2 * SECOND), first=3)])
    await opened.close()
    assert counts(place, tmp_path) == (150, 150)


async def test_a_second_ingest_is_refused_and_told_what_to_do(place: str, tmp_path: Path) -> None:
    """S3 has no locks: two that write the same day replace each other's rows, and both say that they are stored."""
    first, second = store(place, tmp_path / "data"), store(place, tmp_path / "other")
    await first.open()
    with pytest.raises(StoreUnavailable, match=rf"another ingest writes to s3://plant/{place}.*\.plantbridge-owner"):
        await second.open()
    await second.close()
    await first.close()
    again = store(place, tmp_path / "data")
    await again.open()
    await again.close()


async def test_wrong_buckets_are_reported_with_their_name(place: str, tmp_path: Path) -> None:
    options = bucket_options(bucket_server(), place).model_copy(update={"path": "s3://nowhere/x"})
    opened = ParquetStore(options, tmp_path)
    with pytest.raises(StoreUnavailable, match=r"s3://nowhere/x: there is no such bucket") as raised:
        await opened.open()
    await opened.close()
    assert not raised.value.permanent


async def test_keys_may_come_from_the_environment(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    opened = ParquetStore(
        ParquetOptions(type="parquet", path=f"s3://plant/{place}", endpoint=bucket_server().url), tmp_path / "data"
    )
    await opened.write([block(scan(OF, T0))])
    await asyncio.wait_for(opened.close(), 60)
    assert f"{place}/readings/gateway=demo/day=2023-11-14/part-0.parquet" in bucket_server().names(place)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "s3://"}, "names no bucket"),
        ({"path": "folder", "endpoint": "http://127.0.0.1:1"}, "are for path: s3://"),
        ({"path": "s3://b", "access_key": "x"}, "go together"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ParquetOptions.model_validate({"type": "parquet", **given})
