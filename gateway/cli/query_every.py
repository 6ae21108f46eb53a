"""What `plantbridge query --every` shows: buckets of time as a table or as CSV."""

from __future__ import annotations

import itertools
from pathlib import Path

import typer

from gateway.cli.query import Form, local, print_rows
from gateway.language import say, word
from gateway.stores.buckets import Bucket, rows


def show_buckets(database: Path, sql: str, form: Form, output: Path | None, most: int) -> None:
    """Print buckets; of a table at most so many rows, the newest, with a word where there are more."""
    found = rows(database, sql)
    if form is Form.CSV:
        names = ["time", "gateway", "device", "tag", "unit", "count", "good", "completeness", "minimum", "maximum",
                 "mean", "first", "last"]  # fmt: skip
        print_rows(names, map(_cells, found), form, output)
        return
    every = list(itertools.islice(found, most + 1))
    more, every = len(every) > most, every[-most:]
    several = len({row.gateway for row in every}) > 1
    names = ["time", *(["gateway"] if several else []), "tag", "mean", "minimum", "maximum", "last", "unit", "count",
             "good", "complete"]  # fmt: skip
    print_rows(list(map(word, names)), (_line(row, several) for row in every), form, output)
    if more:
        typer.echo(say(f"These are the newest {most} rows; --limit or --format csv gives more."), err=True)


def _cells(row: Bucket) -> tuple[str, ...]:
    share = "" if row.completeness is None else f"{row.completeness:.4f}"
    numbers = (_exact(number) for number in (row.minimum, row.maximum, row.mean))
    ends = (row.first_text or _exact(row.first), row.last_text or _exact(row.last))
    return (local(row.time), row.gateway, row.device, row.tag, row.unit, str(row.count), str(row.good), share, *numbers,
            *ends)  # fmt: skip


def _exact(number: float | None) -> str:
    return "" if number is None else repr(number).removesuffix(".0")


def _line(row: Bucket, several: bool) -> tuple[str, ...]:
    numbers = (_short(number) for number in (row.mean, row.minimum, row.maximum))
    share = "" if row.completeness is None else f"{row.completeness:.1%}"
    counts = (str(row.count), str(row.good), share)
    gateway = (row.gateway,) if several else ()
    last = row.last_text or _short(row.last)
    return (local(row.time)[:16], *gateway, f"{row.device}/{row.tag}", *numbers, last, row.unit, *counts)


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.7g}"
