"""What tags did in each bucket of a time (15 minutes, an hour, a day), from the roll-ups; holes show.

Buckets of a whole number of hours are made of hours, others of minutes (gateway.stores.rollups). They begin at local
midnight: those of less than a day follow each other evenly from that of the first day on, days are those of the
calendar, 23 or 25 hours long where the clocks change. Each tag has a row for each bucket, also where nothing came.

    count, good      readings, and those of Good quality with a value
    completeness     good / count, times the part of the bucket outside of declared gaps; 0 where a gap is all there is;
                     none where nothing came and nothing is known to be missing (a tag that reports changes only). What
                     a publisher thinned by choice is no hole
    minimum, maximum, mean, first, last    of the good ones; first_text and last_text as in the roll-ups
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError
from gateway.model import THINNED
from gateway.stores.inquiry import read
from gateway.stores.rollups import DAY, HOUR, MINUTE, combined

MOST: Final = 20_000  # days of an answer

_SELECT: Final = """
    SELECT gateway, device, "group", tag, unit, {time}, count, good, completeness, minimum, maximum, mean, first, last,
           first_text, last_text, kind FROM ({sql})
"""

_ANSWER: Final = """
    WITH edges AS ({edges}),
    grid AS (SELECT "begin" AS time, "end" FROM edges WHERE "end" IS NOT NULL),
    named AS (SELECT * FROM series {of_ids}),
    rolled AS (
        SELECT r.* EXCLUDE (time), grid.time FROM (SELECT * FROM {view}
              {of_series} time >= make_timestamp_ns({begin}) AND time < make_timestamp_ns({end})) r
        ASOF JOIN grid ON r.time >= grid.time WHERE r.time < grid."end"),
    combined AS ({combined}),
    holes AS (
        SELECT g.gateway, g.device, g."group", grid.time,
               sum(epoch_ns(least(g."end", grid."end")) - epoch_ns(greatest(g."start", grid.time))) AS missing
        FROM gaps g JOIN grid ON g."start" < grid."end" AND g."end" > grid.time
        WHERE g.reason <> '{thinned}' GROUP BY ALL),
    missing AS (
        SELECT s.id AS series, h.time, sum(h.missing) AS missing FROM named s JOIN holes h ON h.gateway = s.gateway
            AND h.device IN ('', s.device) AND h."group" IN ('', s."group") GROUP BY ALL),
    filled AS (
        SELECT s.gateway, s.device, s."group", s.tag, s.unit, grid.time, coalesce(r.count, 0) AS count,
               coalesce(r.good, 0) AS good,
               least(1.0, coalesce(m.missing, 0) / (epoch_ns(grid."end") - epoch_ns(grid.time))) AS hole,
               r.* EXCLUDE (series, time, count, good), s.kind
        FROM named s CROSS JOIN grid LEFT JOIN combined r ON r.series = s.id AND r.time = grid.time
        LEFT JOIN missing m ON m.series = s.id AND m.time = grid.time)
    SELECT *, CASE WHEN count > 0 THEN good / count * (1 - hole) WHEN hole > 0 THEN 0.0 END AS completeness FROM filled
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One tag in one bucket of time. Numbers are None where there was no good reading."""

    gateway: str
    device: str
    group: str
    tag: str
    unit: str
    time: int  # ns
    count: int
    good: int
    completeness: float | None
    minimum: float | None
    maximum: float | None
    mean: float | None
    first: float | None
    last: float | None
    first_text: str | None
    last_text: str | None
    kind: str


def between(ids: Sequence[int] | None, start: int, end: int, every: int, limit: int | None = None) -> str:
    """Give SQL for the buckets of `every` ns that start <= time < end touches; with a limit, the newest rows of it.

    Raises GatewayError for a length that neither divides a day nor is made of whole days.
    """
    if every <= 0 or every % MINUTE or (DAY % every if every < DAY else every % DAY):
        raise GatewayError(
            "roll-ups are by the minute, and buckets fill the day: take 1 min, 5 min, 15 min, 1 h, 8 h, 1 d or the"
            " like; for shorter ones ask for the readings, with --sql"
        )
    begin, edges = _edges(start, end, every)
    hourly = every % HOUR == 0 and begin % HOUR == 0
    listed = "" if ids is None else ", ".join(map(str, ids))
    sql = _ANSWER.format(
        edges=edges,
        thinned=THINNED,
        view="hours" if hourly else "minutes",
        of_ids=f"WHERE id IN ({listed})" if listed else "",
        of_series=f"WHERE series IN ({listed}) AND" if listed else "WHERE",
        begin=begin,
        end=end + every + HOUR,
        combined=combined("FROM rolled", None),
    )
    sql = _SELECT.format(time="time", sql=sql)
    if limit is not None:
        sql = f"SELECT * FROM ({sql} ORDER BY time DESC, gateway, device, tag LIMIT {limit:d})"
    return f"{sql} ORDER BY time, gateway, device, tag"


def rows(database: Path, sql: str) -> Iterator[Bucket]:
    """Give the answer to `between`, row by row."""
    with read(database, _SELECT.format(time="epoch_ns(time) AS time", sql=sql)) as answer:
        for chunk in answer.iter_chunks():
            yield from (Bucket(*row) for row in chunk.iter_tuples())


def _edges(start: int, end: int, every: int) -> tuple[int, str]:
    """Give the first bucket's begin (ns), and SQL for "begin" and "end" of each; the last has no end and is none."""
    local = datetime.fromtimestamp(start // 10**9, UTC).astimezone()
    day, days = datetime(local.year, local.month, local.day), timedelta(days=every // DAY)
    if every < DAY:
        first = _ns(day.astimezone())
        first += (start - first) // every * every
        return first, (
            f'SELECT make_timestamp_ns(edge) AS "begin", make_timestamp_ns(edge + {every}) AS "end" '
            f"FROM range({first}, {end}, {every}) t (edge)"
        )
    edges = [_ns(day.astimezone())]
    while edges[-1] < end:
        if len(edges) > MOST:
            raise GatewayError(f"more than {MOST} buckets: ask for a shorter time, or longer buckets")
        day += days
        edges.append(_ns(day.astimezone()))
    listed = ", ".join(map(str, edges))
    return edges[0], (
        'SELECT make_timestamp_ns(edge) AS "begin", lead(make_timestamp_ns(edge)) OVER (ORDER BY edge) AS "end" '
        f"FROM (SELECT unnest([{listed}]) AS edge)"
    )


def _ns(when: datetime) -> int:
    return int(when.timestamp()) * 10**9
