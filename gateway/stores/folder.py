"""A folder of Parquet files, one partition a gateway and UTC day; DuckDB, pandas, polars, Spark read it as a table.

    ROOT/readings/gateway=<G>/day=<YYYY-MM-DD>/part-<n>.parquet
        device, group, tag, unit, kind, time (ns, UTC), value, integer, unsigned, text, quality
    ROOT/gaps/gateway=<G>/day=<YYYY-MM-DD>/part-<n>.parquet
        journal, sequence, device, group, start, end (ns, UTC), reason, readings, scans

`value` is every number as a float64 (true is 1); `integer` and `unsigned` hold 64-bit integers exactly; `text` is the
text of a text tag or the name of a state. A row of Bad quality has none of them. <G> is percent-encoded.

Rows are added by writing the last part anew with them in it, beside it, and renaming it when it is on the disk: a
reader sees the old part or the new one, and no row twice. A part that has PART bytes is left alone, and the next is
begun: the number of files is what the data need, however often rows are added. A row whose key is there is left out.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import duckdb
import nanoarrow as na

from gateway import durable
from gateway.stores import layout

PART: Final = 128_000_000  # bytes
DAY: Final = 86_400_000_000_000  # ns

_KEYS: Final = {"readings": ("device", "tag", "kind", "unit", "time"), "gaps": ("journal", "sequence")}
_ORDER: Final = {"readings": "time", "gaps": "start"}

_READINGS: Final = """
    SELECT s.device, s."group", s.tag, s.unit, s.kind, r.time, r.value, r.integer, r.unsigned,
           coalesce(CASE WHEN cardinality(s.states) > 0 AND r.value = trunc(r.value)
                         THEN s.states[TRY_CAST(r.value AS BIGINT)] END, r.text) AS text, r.quality
    FROM ({rows}) r JOIN series s ON s.id = r.series WHERE s.gateway = $gateway
"""
_ROWS: Final = {
    "floats": "value, NULL::BIGINT AS integer, NULL::UBIGINT AS unsigned, NULL::VARCHAR AS text",
    "ints": "value::DOUBLE, value, NULL::UBIGINT, NULL::VARCHAR",
    "uints": "value::DOUBLE, NULL::BIGINT, value, NULL::VARCHAR",
    "bools": "value::TINYINT::DOUBLE, NULL::BIGINT, NULL::UBIGINT, NULL::VARCHAR",
    "texts": "NULL::DOUBLE, NULL::BIGINT, NULL::UBIGINT, value",
}
_GAPS: Final = """
    SELECT journal, sequence, device, "group", "start", "end", reason, readings, scans FROM gaps
    WHERE gateway = $gateway AND "start" >= make_timestamp_ns($begin) AND "start" < make_timestamp_ns($end)
"""


class Partition(NamedTuple):
    """Some rows of a DuckDB file that belong into one partition: those with begin <= time < end (ns)."""

    kind: str  # readings or gaps
    gateway: str
    day: int  # since 1970
    begin: int
    end: int

    @property
    def sql(self) -> str:
        """A SELECT of the columns of its files; $gateway, $begin and $end are parameters."""
        if self.kind == "gaps":
            return _GAPS
        within = "time >= make_timestamp_ns($begin) AND time < make_timestamp_ns($end)"
        rows = (f"SELECT series, time, {what}, quality FROM {table} WHERE {within}" for table, what in _ROWS.items())
        return _READINGS.format(rows=" UNION ALL ".join(rows))

    @property
    def parameters(self) -> dict[str, str | int]:
        return {"gateway": self.gateway, "begin": self.begin, "end": self.end}

    def place(self, root: Path) -> Path:
        """Give its directory."""
        day = datetime.date(1970, 1, 1) + datetime.timedelta(self.day)
        return root / self.kind / f"gateway={quote(self.gateway, safe='')}" / f"day={day}"


def partitions_sql() -> str:
    """Give SQL for kind, gateway and day of all rows of a DuckDB file with $begin <= time < $end."""

    def part(table: str, owner: str, time: str) -> str:
        return f"""SELECT DISTINCT {owner}, floor(epoch_ns("{time}") / {DAY})::BIGINT AS day FROM {table}
                   WHERE "{time}" >= make_timestamp_ns($begin) AND "{time}" < make_timestamp_ns($end)"""

    rows = " UNION ".join(part(table, "series", "time") for table, _ in layout.TABLES.values())
    return f"""SELECT DISTINCT 'readings' AS kind, s.gateway, day FROM ({rows}) JOIN series s ON s.id = series
               UNION ALL SELECT 'gaps', * FROM ({part("gaps", "gateway", "start")}) ORDER BY ALL"""


def add(files: duckdb.DuckDBPyConnection, partition: Partition, rows: na.ArrayStream, root: Path) -> int:
    """Add rows to a partition; when it returns they are on the disk. Give how many were new.

    `files` is a connection of its own, in memory. Raises duckdb.Error, OSError: the files are as they were.
    """
    files.register("arrived", rows)
    try:
        files.execute("CREATE OR REPLACE TEMP TABLE fresh AS FROM arrived")
    finally:
        files.unregister("arrived")
    directory = partition.place(root)
    directory.mkdir(parents=True, exist_ok=True)
    parts = sorted(directory.glob("part-*.parquet"), key=lambda part: int(part.stem[5:]))
    if parts:
        _leave_out(files, partition.kind, parts)
    ((count,),) = files.execute("SELECT count(*) FROM fresh").fetchall()
    if count:
        grown = parts[-1] if parts and parts[-1].stat().st_size < PART else None
        target = grown or directory / f"part-{len(parts)}.parquet"
        before = f"SELECT * FROM read_parquet({_literal(grown)}, hive_partitioning = false) UNION ALL " if grown else ""
        partial = target.with_name(f".{target.name}.partial")
        files.execute(
            f"COPY ({before}SELECT * FROM (FROM fresh ORDER BY {_ORDER[partition.kind]})) TO {_literal(partial)} "
            "(FORMAT parquet, COMPRESSION zstd)"
        )
        _replace(partial, target, root)
    files.execute("DROP TABLE fresh")
    return int(count)


def _leave_out(files: duckdb.DuckDBPyConnection, kind: str, parts: list[Path]) -> None:
    """Delete from `fresh` what the parts hold already; only their row groups of the same times are read."""
    order = _ORDER[kind]
    same = " AND ".join(f'fresh."{key}" = old."{key}"' for key in _KEYS[kind])
    names = ", ".join(_literal(part) for part in parts)
    files.execute(
        f"""DELETE FROM fresh USING (SELECT * FROM read_parquet([{names}], hive_partitioning = false)
            WHERE "{order}" BETWEEN (SELECT min("{order}") FROM fresh) AND (SELECT max("{order}") FROM fresh)) old
            WHERE {same}"""
    )


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _replace(partial: Path, target: Path, root: Path) -> None:
    """Put a finished file in its place, on the disk with the directories that lead to it."""
    durable.put(partial, target)
    for directory in _up_to(target.parent.parent, root):
        durable.sync(directory)


def _up_to(directory: Path, root: Path) -> Iterator[Path]:
    yield directory
    while directory != root and directory != directory.parent:
        directory = directory.parent
        yield directory
