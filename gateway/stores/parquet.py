"""A folder of Parquet files as a store, here or in an S3-like bucket. How they lie is in gateway.stores.folder.

A write goes into a DuckDB file in the data directory (staging.duckdb) and is durable there when it returns; every
`every`, and at each MOST_ROWS, what is in it moves into the folder. So files are few, however often ingest writes.

Once, and in whatever order: a row is looked for in staging when it comes, and in its partition's files when it moves
(only in their row groups of the same times); of two rows of a series with one time the first stays. A kill between the
renaming of a file and the emptying of staging makes the rows move again, and be found. What staging has let go of is
not counted in StoreReport.duplicates when it comes again.

In a bucket (gateway.stores.bucket) the folder is a working copy of the days at hand; the bucket has the files before
staging is emptied.

One process for a folder: the second is refused (a lock on ROOT/.lock). A folder that cannot be written to is
StoreUnavailable as soon as a move has failed: staging does not grow without end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import duckdb
import nanoarrow as na
import structlog

from gateway import durable
from gateway.contracts import Block, StoreReport
from gateway.errors import StoreUnavailable
from gateway.options import ParquetOptions
from gateway.stores import folder, layout
from gateway.stores.duckdb import DuckdbStore

if TYPE_CHECKING:
    from gateway.stores.bucket import Bucket

MOST_ROWS: Final = 5_000_000  # in staging

_FOREVER: Final = {"begin": -(2**63) + 2, "end": 2**63 - 2}

log = structlog.get_logger()


class ParquetStore:
    """One folder as a Store; relative paths begin at `data`."""

    def __init__(self, options: ParquetOptions, data: Path) -> None:
        self._bucket: Bucket | None = None
        self.root = data / options.path
        if options.path.startswith("s3://"):
            from gateway.stores.bucket import Bucket

            self.root = data / "bucket"
            self._bucket = Bucket(options, self.root, data / "bucket-owner")
        self._every = options.every
        self._staging = DuckdbStore(data / "staging.duckdb", desk=False, rollups=False)
        self._lock: TextIO | None = None
        self._timer: asyncio.Task[None] | None = None
        self._waiting = 0  # rows in staging since the last move
        self._failed = False

    async def open(self) -> None:
        """Take the folder. Raises StoreUnavailable: another process has it, or it cannot be written to."""
        if self._lock is None:
            self._lock = _locked(self.root)
        if self._bucket is not None:
            await asyncio.to_thread(self._bucket.open)
        await self._staging.open()
        if self._timer is None:
            self._timer = asyncio.create_task(self._move_in_time())

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        """Store readings and gaps, on the disk when it returns; they are in the folder some time later."""
        await self.open()
        if self._failed or self._waiting >= MOST_ROWS:
            await self._move()
        report = await self._staging.write(blocks)
        self._waiting += report.stored + report.gaps
        return report

    async def close(self) -> None:
        """Move what is in staging into the folder, and let both go."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
            self._timer = None
            try:
                await self._move()
            except StoreUnavailable as error:
                log.warning("readings stay in staging.duckdb until the next start", reason=str(error))
        await self._staging.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _move_in_time(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._move()
            except StoreUnavailable as error:
                log.warning("readings cannot be moved into the folder; they are in staging.duckdb", reason=str(error))

    async def _move(self) -> None:
        try:
            await self._staging.transact(self._moved)
        except StoreUnavailable:
            self._failed = True
            raise
        self._failed = False
        self._waiting = 0

    def _moved(self, staging: duckdb.DuckDBPyConnection) -> None:
        """Move everything into the folder; the transaction that empties staging ends after the files are there."""
        with duckdb.connect() as files:
            for kind, gateway, day in staging.execute(folder.partitions_sql(), _FOREVER).fetchall():
                part = folder.Partition(kind, gateway, day, day * folder.DAY, (day + 1) * folder.DAY)
                # a stream that an error leaves open would keep the database from being rolled back
                with contextlib.closing(na.ArrayStream(staging.sql(part.sql, params=part.parameters))) as rows:
                    if self._bucket is not None:
                        self._bucket.fetch(part.place(self.root))
                    folder.add(files, part, rows, self.root)
                if self._bucket is not None:
                    self._bucket.put(part.place(self.root))
        if self._bucket is not None:
            self._bucket.tidy()
        for table in ("gaps", *(name for name, _ in layout.TABLES.values())):
            staging.execute(f"DELETE FROM {table}")


def _locked(root: Path) -> TextIO:
    """Take a folder for this process. Raises StoreUnavailable."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise StoreUnavailable(f"cannot write to {root}: {error}") from error
    try:
        durable.lock(lock)
    except OSError as error:
        lock.close()
        raise StoreUnavailable(f"another ingest writes to {root}: give each a folder of its own") from error
    return lock
