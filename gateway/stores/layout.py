"""How readings lie in the DuckDB file: tables for exact values, views for people. Version 2.

    series    one row per (gateway, device, tag, kind, unit): a tag whose unit changes becomes a new series, so that
              no old reading changes its unit; "group", type, description, address, minimum, maximum and states are
              those of the newest definition
    floats    series, time TIMESTAMP_NS, value DOUBLE,   quality UINTEGER
    ints      .. value BIGINT    uints .. value UBIGINT    bools .. value BOOLEAN    texts .. value VARCHAR
    gaps      declared holes: gateway, journal, sequence, device, "group", start, end, reason, readings, scans
    ledger    journal sequences that are stored, as runs: gateway, journal, first, last
    about     key, value: layout version; with a retention, the day from which readings are kept

    rolled_minutes, rolled_hours, stale    gateway.stores.rollups; version 1 had none of them

    readings  view over all five with names: gateway, device, "group", tag, unit, time, value, text, quality, status
    latest    view: the newest row of each series, in the form of `readings`

Times are UTC, exact to the nanosecond. `value` is NULL in a row of Bad quality. In the view `readings`, value is a
DOUBLE for every kind of number (true is 1), and `text` is the text of a text tag, the name of an enumeration's
state, or the exact digits of an integer beyond 2^53. (series, time) is unique; no index enforces it, the store does.
"""

from __future__ import annotations

from typing import Final

from gateway import quality
from gateway.model import EXACT, Kind

VERSION: Final = 2

TABLES: Final = {
    Kind.FLOAT: ("floats", "DOUBLE"),
    Kind.INT: ("ints", "BIGINT"),
    Kind.UINT: ("uints", "UBIGINT"),
    Kind.BOOL: ("bools", "BOOLEAN"),
    Kind.TEXT: ("texts", "VARCHAR"),
}
"""The table of each kind, and the SQL type of its values."""

SERIES_COLUMNS: Final = (
    "id", "gateway", "device", "tag", "kind", "unit",
    "group", "type", "description", "address", "minimum", "maximum", "states",
)  # fmt: skip
"""The first describes, the next five identify, the others are those of the newest definition."""

_SERIES: Final = """
    CREATE TABLE IF NOT EXISTS series (
        id UINTEGER, gateway VARCHAR, device VARCHAR, tag VARCHAR, kind VARCHAR, unit VARCHAR, "group" VARCHAR,
        type VARCHAR, description VARCHAR, address VARCHAR, minimum DOUBLE, maximum DOUBLE, states MAP(BIGINT, VARCHAR))
"""
_GAPS: Final = """
    CREATE TABLE IF NOT EXISTS gaps (
        gateway VARCHAR, journal VARCHAR, sequence UBIGINT, device VARCHAR, "group" VARCHAR,
        "start" TIMESTAMP_NS, "end" TIMESTAMP_NS, reason VARCHAR, readings UBIGINT, scans UBIGINT)
"""
_LEDGER: Final = "CREATE TABLE IF NOT EXISTS ledger (gateway VARCHAR, journal VARCHAR, first UBIGINT, last UBIGINT)"
_ABOUT: Final = "CREATE TABLE IF NOT EXISTS about (key VARCHAR, value VARCHAR)"

_STATUS: Final = "CREATE OR REPLACE MACRO status(code) AS coalesce({known}[code & 4294901760], CASE {severities} END)"

_AS_NUMBER: Final = {
    Kind.FLOAT: ("value", "NULL"),
    Kind.INT: ("value::DOUBLE", f"CASE WHEN abs(value::HUGEINT) > {EXACT} THEN value::VARCHAR END"),
    Kind.UINT: ("value::DOUBLE", f"CASE WHEN value > {EXACT} THEN value::VARCHAR END"),
    Kind.BOOL: ("value::TINYINT::DOUBLE", "NULL"),
    Kind.TEXT: ("NULL::DOUBLE", "value"),
}

_NAMED: Final = """
    SELECT s.gateway, s.device, s."group", s.tag, s.unit, r.time, r.value,
           coalesce(CASE WHEN cardinality(s.states) > 0 AND r.value = trunc(r.value)
                         THEN s.states[TRY_CAST(r.value AS BIGINT)] END, r.text) AS text,
           r.quality, status(r.quality) AS status, s.kind, r.series
    FROM ({rows}) r JOIN series s ON s.id = r.series
"""


def _status() -> str:
    codes = {code for word, code in vars(quality).items() if word.isupper() and isinstance(code, int)}
    known = ", ".join(f"{code}: '{quality.name(code)}'" for code in sorted(codes - {quality.SEVERITY}))
    severities = " ".join(
        f"WHEN code >= {code} THEN '{name}'"
        for code, name in ((quality.BAD, "Bad"), (quality.UNCERTAIN, "Uncertain"), (quality.GOOD, "Good"))
    )
    return _STATUS.format(known="MAP {" + known + "}", severities=severities)


def rows(source: dict[Kind, str]) -> str:
    """Give SQL for series, time, value, text and quality of all kinds, each kind from its own table or subquery."""
    return " UNION ALL ".join(
        f"SELECT series, time, {number} AS value, {text} AS text, quality FROM {source[kind]}"
        for kind, (number, text) in _AS_NUMBER.items()
        if kind in source
    )


def named(source: dict[Kind, str]) -> str:
    """Give SQL for the columns of the view `readings`, each kind from its own table or subquery."""
    return _NAMED.format(rows=rows(source))


def newest(condition: str = "true") -> dict[Kind, str]:
    """Give subqueries for the newest row of each series, NULL values included, under a condition."""
    return {
        kind: f"""(SELECT series, newest.time AS time, newest.value AS value, newest.quality AS quality FROM
                   (SELECT series, arg_max({{'time': time, 'value': value, 'quality': quality}}, time) AS newest
                    FROM {table} WHERE {condition} GROUP BY series))"""
        for kind, (table, _) in TABLES.items()
    }


def statements() -> list[str]:
    """Give the statements that make the layout in an empty file; on a file that has it they change nothing."""
    readings = (
        f"CREATE TABLE IF NOT EXISTS {table} (series UINTEGER, time TIMESTAMP_NS, value {type}, quality UINTEGER)"
        for table, type in TABLES.values()
    )
    every = {kind: table for kind, (table, _) in TABLES.items()}
    return [
        _ABOUT,
        _SERIES,
        *readings,
        _GAPS,
        _LEDGER,
        _status(),
        f"CREATE OR REPLACE VIEW readings AS {named(every)}",
        f"CREATE OR REPLACE VIEW latest AS {named(newest())}",
    ]
