"""Roll-ups of the DuckDB store: what each tag did in each minute and each hour, kept up to date behind the writes.

    rolled_minutes, rolled_hours    one row per series and minute or hour that has readings: series, time (its begin),
        count                       readings of any quality
        good                        those of Good quality that have a value; NaN and infinities are none
        minimum, maximum, mean, first, last    of the good ones, as DOUBLE; the mean is arithmetic
        first_text, last_text       a text, or the exact digits of an integer beyond 2^53
        first_time, last_time       when the first and the last good one were read
    stale      series and minute of readings that came after their minute had been rolled up
    about      'rolled until' (ns): every reading before it is rolled up, but for those that `stale` names
    minutes, hours    views for people: with names, and with what is not rolled up yet, reckoned from the readings

No order is assumed. A reading later than `rolled until` needs no note: its minute is rolled up once, when the time has
come. One that is earlier enters `stale` in the transaction that stores it, and its minute is reckoned anew from all its
readings. So late data, a backlog, duplicates (which are not stored) and a kill at any moment come out alike. The work
is done between the writes, in steps of bounded size; each is one transaction.

A minute whose readings the retention has deleted cannot be reckoned anew: what still arrives for it is added to its
roll-up and deleted; likewise an hour whose minutes are gone.

Lives in the store's thread and inside its transactions; after a rollback, `forget`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import duckdb

from gateway.model import EXACT, Kind
from gateway.quality import UNCERTAIN
from gateway.stores.layout import TABLES

MINUTE: Final = 60_000_000_000  # ns
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
NEVER: Final = -(2**63) + 2  # the earliest time that DuckDB takes
GRACE: Final = 30_000_000_000  # ns that readings have to arrive before their minute is rolled up
ROWS: Final = 100_000  # series times minutes of one step, about: some million readings

_COLUMNS: Final = """series UINTEGER, time TIMESTAMP_NS, count UINTEGER, good UINTEGER, minimum DOUBLE, maximum DOUBLE,
    mean DOUBLE, first DOUBLE, last DOUBLE, first_text VARCHAR, last_text VARCHAR, first_time TIMESTAMP_NS,
    last_time TIMESTAMP_NS"""

_BUCKET: Final = "time_bucket(INTERVAL '1 {}', time)::TIMESTAMP_NS"
_DIGITS: Final = f"CASE WHEN abs({{v}}::HUGEINT) > {EXACT} THEN {{v}}::VARCHAR END"
_NUMBER: Final = ("min(v)", "max(v)", "avg(v)", "arg_min(v, ns)", "arg_max(v, ns)")
_WHOLE: Final = (*_NUMBER, _DIGITS.format(v="arg_min(v, ns)"), _DIGITS.format(v="arg_max(v, ns)"))
_AGGREGATES: Final = {
    Kind.FLOAT: (*_NUMBER, "NULL", "NULL"),
    Kind.INT: _WHOLE,
    Kind.UINT: _WHOLE,
    Kind.BOOL: (*_NUMBER, "NULL", "NULL"),
    Kind.TEXT: (*["NULL"] * 5, "arg_min(v, ns)", "arg_max(v, ns)"),
}
"""From minimum to last_text, of the good values `v` and their times `ns`; NULL is passed over. The times are integers,
by which DuckDB 2.0 finds first and last five times as fast as by timestamps."""
_NAMES: Final = ("minimum", "maximum", "mean", "first", "last", "first_text", "last_text")
_TYPES: Final = (*["DOUBLE"] * 5, "VARCHAR", "VARCHAR")

_COMBINED: Final = """
    SELECT series, time, count, good, minimum, maximum, mean, begun.value AS first, ended.value AS last,
           begun.text AS first_text, ended.text AS last_text, first_time, last_time
    FROM (SELECT series, {bucket} AS time, sum(count)::UINTEGER AS count, sum(good)::UINTEGER AS good,
                 min(minimum) AS minimum, max(maximum) AS maximum, sum(mean * good) / nullif(sum(good), 0) AS mean,
                 arg_min({{'value': first, 'text': first_text}}, first_time) AS begun,
                 arg_max({{'value': last, 'text': last_text}}, last_time) AS ended,
                 min(first_time) AS first_time, max(last_time) AS last_time
          FROM ({source}) GROUP BY ALL)
"""
_NAMED: Final = """
    SELECT s.gateway, s.device, s."group", s.tag, s.unit, r.* EXCLUDE (series), s.kind, r.series
    FROM ({rows}) r JOIN series s ON s.id = r.series
"""


def statements() -> list[str]:
    """Give the statements that make the tables in a file without them; elsewhere they change nothing."""
    return [
        f"CREATE TABLE IF NOT EXISTS rolled_minutes ({_COLUMNS})",
        f"CREATE TABLE IF NOT EXISTS rolled_hours ({_COLUMNS})",
        "CREATE TABLE IF NOT EXISTS stale (series UINTEGER, time TIMESTAMP_NS)",
    ]


def reckoned(condition: str) -> str:
    """Give SQL for the roll-ups of minutes from the readings that meet a condition on series and time."""
    parts = []
    for kind, (table, _) in TABLES.items():
        good = f"quality < {UNCERTAIN}" + (" AND isfinite(value)" if kind is Kind.FLOAT else "")
        value = "value::TINYINT" if kind is Kind.BOOL else "value"
        aggregates = ", ".join(
            f"({what})::{type} AS {name}" for what, type, name in zip(_AGGREGATES[kind], _TYPES, _NAMES, strict=True)
        )
        parts.append(
            f"""SELECT series, {_BUCKET.format("minute")} AS time, count(*)::UINTEGER AS count,
                       count(v)::UINTEGER AS good, {aggregates},
                       make_timestamp_ns(min(CASE WHEN v IS NOT NULL THEN ns END)) AS first_time,
                       make_timestamp_ns(max(CASE WHEN v IS NOT NULL THEN ns END)) AS last_time
                FROM (SELECT series, time, epoch_ns(time) AS ns, CASE WHEN {good} THEN {value} END AS v
                      FROM {table} WHERE {condition})
                GROUP BY ALL"""
        )
    return " UNION ALL ".join(parts)


def combined(source: str, unit: str | None) -> str:
    """Give SQL for the roll-ups of each `unit` (minute or hour) from finer ones; None: of those with the same time."""
    return _COMBINED.format(bucket=_BUCKET.format(unit) if unit else "time", source=source)


def _since(ns: int) -> str:
    return f"time >= make_timestamp_ns({ns})"


def _within(begin: int, end: int) -> str:
    return f"time >= make_timestamp_ns({begin}) AND time < make_timestamp_ns({end})"


class Rollups:
    """The roll-ups of one file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.forget()
        self._make_views()

    def forget(self) -> None:
        """Read again from the file how far the roll-ups are."""
        about = dict(self._connection.execute("SELECT key, value FROM about").fetchall())
        self.until = int(about.get("rolled until", NEVER))
        self.kept = _day(about.get("kept from"))  # ns: no readings before it
        self._minutes_kept = _day(about.get("minutes kept from"))
        self._stale = self._one("SELECT 1 FROM stale LIMIT 1") is not None

    def note(self) -> None:
        """Note which minutes the readings in `incoming` make stale."""
        self._connection.execute(
            f"INSERT INTO stale SELECT DISTINCT series, {_BUCKET.format('minute')} FROM incoming "
            f"WHERE time < make_timestamp_ns({self.until})"
        )
        self._stale = True

    def behind(self, newest: int, now: int) -> bool:
        """Whether there is work, where the newest reading is of `newest`."""
        return self._stale or self.until < _target(newest, now)

    def step(self, newest: int, now: int, series: int) -> None:
        """Do a bounded part of the work; there are so many series. All times are ns."""
        span = max(1, min(1440, ROWS // max(1, series))) * MINUTE
        if self.until < _target(newest, now):
            self._advance(_target(newest, now), span)
        else:
            self._mend(span)

    def delete_before(self, table: str, before: int) -> int:
        """Delete roll-ups older than a day's begin (ns); `table` is minutes or hours. Give how many those were."""
        deleted = self._execute(f"DELETE FROM rolled_{table} WHERE time < make_timestamp_ns({before})")
        if deleted:
            self._say(f"{table} kept from", str(datetime.fromtimestamp(before // 10**9, UTC).date()))
        self.forget()
        return deleted

    # ------------------------------------------------------------------------------------------------ one step

    def _advance(self, target: int, span: int) -> None:
        """Roll up what comes next, no further than to `target`."""
        begin = self.until
        if target - begin > span:  # there may be a hole, of years where a clock was wrong
            times = " UNION ALL ".join(f"SELECT min(time) AS time FROM {t} WHERE {_since(begin)}" for t, _ in _tables())
            begin = _floor(self._one(f"SELECT epoch_ns(min(time)) FROM ({times})") or target, MINUTE)
        end = min(target, begin + span)
        hours = _floor(begin if self.until == NEVER else self.until, HOUR), _floor(end, HOUR)
        if begin < end:
            self._connection.execute(f"INSERT INTO rolled_minutes {reckoned(_within(begin, end))}")
        if hours[0] < hours[1]:
            source = f"SELECT * FROM rolled_minutes WHERE {_within(*hours)}"
            self._connection.execute(f"INSERT INTO rolled_hours {combined(source, 'hour')}")
        self._say("rolled until", str(end))
        self.until = end
        self._make_views()

    def _mend(self, span: int) -> None:
        """Reckon the first of the stale minutes anew, and their hours."""
        begin = self._one("SELECT epoch_ns(min(time)) FROM stale")
        if begin is None:
            self._stale = False
            return
        end = begin + span
        for edge in (self._minutes_kept, self.kept):
            end = min(end, edge) if begin < edge else end
        within = _within(begin, end)
        run = self._connection.execute
        run(f"CREATE OR REPLACE TEMP TABLE touched AS SELECT DISTINCT series, time FROM stale WHERE {within}")
        run(f"CREATE OR REPLACE TEMP TABLE touched_hours AS SELECT DISTINCT series, {_BUCKET.format('hour')} AS time "
            "FROM touched")  # fmt: skip
        readings = f"{within} AND (series, {_BUCKET.format('minute')}) IN (FROM touched)"
        run(f"CREATE OR REPLACE TEMP TABLE mended AS {reckoned(readings)}")
        if end <= self._minutes_kept:  # all that is left is the hours
            self._replace("hours", "touched_hours", combined(f"FROM mended UNION ALL {_rolled('hours')}", "hour"))
        else:
            old = f" UNION ALL {_rolled('minutes')}" if end <= self.kept else ""
            self._replace("minutes", "touched", combined(f"FROM mended{old}", "minute") if old else "FROM mended")
            hour = f"(series, {_BUCKET.format('hour')}) IN (FROM touched_hours)"
            minutes = f"FROM rolled_minutes WHERE {_within(_floor(begin, HOUR), _floor(end - 1, HOUR) + HOUR)}"
            ended = f"time < make_timestamp_ns({_floor(self.until, HOUR)})"
            self._replace("hours", "touched_hours", combined(f"{minutes} AND {hour} AND {ended}", "hour"))
        if end <= self.kept:
            for table, _ in _tables():
                run(f"DELETE FROM {table} WHERE {within}")
        run(f"DELETE FROM stale WHERE {within}")

    def _replace(self, table: str, touched: str, rows: str) -> None:
        """Put rows in the place of the roll-ups that are named in `touched`."""
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE made AS {rows}")
        times = f"time BETWEEN (SELECT min(time) FROM {touched}) AND (SELECT max(time) FROM {touched})"
        self._connection.execute(
            f"DELETE FROM rolled_{table} WHERE {times} AND (series, time) IN (SELECT series, time FROM {touched})"
        )
        self._connection.execute(f"INSERT INTO rolled_{table} FROM made")

    def _make_views(self) -> None:
        """Show people the roll-ups, and behind them what is not rolled up yet."""
        later = reckoned(_since(self.until))
        hour = _floor(self.until, HOUR) if self.until > NEVER else NEVER
        begun = f"SELECT * FROM rolled_minutes WHERE {_since(hour)} UNION ALL {later}"
        for view, rows in (
            ("minutes", f"SELECT * FROM rolled_minutes UNION ALL {later}"),
            ("hours", f"SELECT * FROM rolled_hours UNION ALL {combined(begun, 'hour')}"),
        ):
            self._connection.execute(f"CREATE OR REPLACE VIEW {view} AS {_NAMED.format(rows=rows)}")

    def _say(self, key: str, value: str) -> None:
        self._connection.execute("DELETE FROM about WHERE key = $1", [key])
        self._connection.execute("INSERT INTO about VALUES ($1, $2)", [key, value])

    def _one(self, question: str) -> Any:
        row = self._connection.execute(question).fetchone()
        return row[0] if row else None

    def _execute(self, statement: str) -> int:
        return int(self._one(statement) or 0)


def _tables() -> list[tuple[str, str]]:
    return list(TABLES.values())


def _rolled(table: str) -> str:
    touched = {"minutes": "touched", "hours": "touched_hours"}[table]
    return f"SELECT * FROM rolled_{table} WHERE (series, time) IN (SELECT series, time FROM {touched})"


def _target(newest: int, now: int) -> int:
    """Give until when roll-ups can be made: neither for minutes that go on nor by the clock of a gateway alone."""
    return _floor(min(newest, now - GRACE), MINUTE)


def _floor(time: int, unit: int) -> int:
    return time // unit * unit


def _day(date: str | None) -> int:
    """Give a day's begin in ns; NEVER where there is none."""
    if date is None:
        return NEVER
    return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()) * 10**9
