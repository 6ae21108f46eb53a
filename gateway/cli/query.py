"""`plantbridge query`: last values and ranges from the embedded store, also while ingest is writing to it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.stores.questions import Row

TABLE_ROWS = 1000


class Form(enum.StrEnum):
    """What the answer is to look like."""

    TABLE = "table"
    CSV = "csv"
    PARQUET = "parquet"


def query(
    source: Annotated[Path, typer.Argument(help="The cloud file, or the DuckDB file.", metavar="CLOUD.yaml|DATABASE")],
    tags: Annotated[
        list[str] | None, typer.Argument(help="DEVICE/TAG, also with * and ?; all tags where none is given.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="The newest value of each tag, as without --since, --from and --to.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="How far back: 90 s, 1 h, 7 d.", metavar="DURATION")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Begin, local time or with an offset: 2026-11-20T08:00.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End (not included).")] = None,
    gateway: Annotated[str, typer.Option(help="Only of this gateway.")] = "",
    form: Annotated[
        Form, typer.Option("--format", help="A table for people; csv or parquet for programs.")
    ] = Form.TABLE,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    sql: Annotated[
        str | None, typer.Option(help="A SELECT of your own, over readings, latest, series, gaps, ...")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Add readings and gaps to this folder of Parquet files, by gateway and day.", metavar="FOLDER"
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            help="Not each reading but what came in every 1 min, 15 min, 1 h, 1 d: count, good, mean, range.",
            metavar="DURATION",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows, the newest.", min=1)] = None,
) -> None:
    """Show last values and ranges from the embedded store, also while ingest is writing.

    Times are shown in this machine's time zone with its offset; in Parquet, and with --sql, they are UTC.

    Examples:

    plantbridge query cloud.yaml

    plantbridge query cloud.yaml 'press-1/*' --since '1 h'

    plantbridge query cloud.yaml boiler/level --since '7 d' --every '1 h'

    plantbridge query cloud.yaml boiler/level --from 2026-11-20 --to 2026-11-21 --format parquet --output level.parquet

    plantbridge query cloud.yaml --to 2026-11-01 --export archive

    plantbridge query cloud.yaml --sql 'SELECT device, count(*) FROM readings GROUP BY device'
    """
    from gateway.cli.query_every import show_buckets
    from gateway.stores import questions
    from gateway.stores.inquiry import read

    if form is Form.PARQUET and output is None:
        raise typer.BadParameter("parquet goes to a file: add --output FILE.parquet")
    if last and (since or from_ or to):
        raise typer.BadParameter("--last has no time; leave it out, or --since, --from and --to")
    if sql and (tags or last or since or from_ or to or every):
        raise typer.BadParameter("--sql asks for everything itself; leave out tags and times")
    if every and not (since or from_):
        raise typer.BadParameter("--every needs to know from when on: add --since or --from")
    if export is not None and (tags or last or sql or output or limit or every):
        raise typer.BadParameter(
            "--export takes all tags of a time; beside it only --since, --from, --to and --gateway"
        )
    database = _database(source)
    if export is not None:
        added = questions.export(database, export, *_range(since, from_, to), gateway)
        typer.echo(say(f"{added} rows added to {export}; what was there already was left as it is."))
        return
    if sql is None:
        ids = questions.find(database, tags or [], gateway)
        start, end = _range(since, from_, to)
        if every and start is not None:
            sql = _buckets(ids, start, end, every, limit, form)
            if form is not Form.PARQUET:
                show_buckets(database, sql, form, output, limit or TABLE_ROWS)
                return
        elif start is None and end is None:
            sql = questions.newest(ids)
        else:
            most = limit or (TABLE_ROWS + 1 if form is Form.TABLE else None)
            sql = questions.between(ids, start, end, most)
        if form is not Form.PARQUET:
            if not _show(questions.rows(database, sql), form, output, limit or TABLE_ROWS):
                typer.echo(say(questions.emptiness(database, ids)), err=True)
            return
        sql = sql if every else questions.columns(sql)
    if limit is not None:
        sql = f"SELECT * FROM ({sql}) LIMIT {limit}"
    with read(database, sql) as answer:
        if form is not Form.TABLE and output is not None:
            questions.write_file(answer, output, form.value)
        else:
            names, rows = questions.texts(answer)
            print_rows(names, (tuple(cell or "" for cell in row) for row in rows), form, output)


def _database(source: Path) -> Path:
    """Find the database file of a cloud file."""
    from gateway.config import load_cloud
    from gateway.errors import GatewayError
    from gateway.options import DuckdbOptions

    if source.suffix.lower() not in (".yaml", ".yml"):
        return source
    cloud = load_cloud(source)
    if not isinstance(cloud.store, DuckdbOptions):
        raise GatewayError(f"{source} stores to {cloud.store.type}: ask there; docs/guide/stores.md shows how")
    return cloud.data / cloud.store.path


def _range(since: str | None, from_: str | None, to: str | None) -> tuple[int | None, int | None]:
    """Give begin and end in ns. Raises BadParameter."""
    import time

    from gateway.options import seconds

    if since and from_:
        raise typer.BadParameter("--since and --from both say where to begin; give one of them")
    try:
        start = time.time_ns() - round(seconds(since) * 1e9) if since else None
        return instant(from_) if from_ else start, instant(to) if to else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _buckets(ids: list[int] | None, start: int, end: int | None, every: str, limit: int | None, form: Form) -> str:
    """Give SQL for what came in every so long. Raises BadParameter, GatewayError."""
    import time

    from gateway.cli.wanted import duration
    from gateway.stores import buckets

    length = round(duration(every) * 1e9)
    most = limit or (TABLE_ROWS + 1 if form is Form.TABLE else None)
    return buckets.between(ids, start, time.time_ns() if end is None else end, length, most)


def instant(text: str) -> int:
    """Read a date or a time, local where it has no offset, as ns."""
    from datetime import datetime

    try:
        when = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError(
            f"expected a date or time such as 2026-11-20 or 2026-11-20T08:15:00+08:00, got {text}"
        ) from None
    return int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000


def local(time: int) -> str:
    """Give a time (ns) in this machine's zone, with its offset and as many decimals as it has (3, 6 or 9)."""
    from datetime import UTC, datetime

    whole, rest = divmod(time, 1_000_000_000)
    when = datetime.fromtimestamp(whole, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    digits = f"{rest:09d}"
    while len(digits) > 3 and digits.endswith("000"):
        digits = digits[:-3]
    return f"{when[:19]}.{digits}{when[19:]}"


def shown(row: Row) -> tuple[str, str]:
    """Give a row's exact value as text, and the text beside it (the name of a state)."""
    text = row.text or ""
    if row.kind == "text":
        return ("" if row.text is None else text), ""
    if row.value is None:
        return "", ""
    if row.kind == "bool":
        return ("true" if row.value else "false"), text
    if row.kind in ("int64", "uint64"):
        return (text, "") if abs(row.value) >= 2**53 and text.lstrip("-").isdigit() else (str(int(row.value)), text)
    return repr(row.value).removesuffix(".0"), text


def _show(rows: Iterator[Row], form: Form, output: Path | None, most: int) -> bool:
    """Print named readings as a table or as CSV. False where there are none: a table is then not begun."""
    if form is Form.CSV:
        names = ["time", "gateway", "device", "tag", "value", "text", "unit", "quality", "status"]
        cells = (
            (local(row.time), row.gateway, row.device, row.tag, *shown(row), row.unit, str(row.quality), row.status)
            for row in rows
        )
        print_rows(names, cells, form, output)
        return True  # a program reads the header
    every = list(rows)
    if not every and output is None:
        return False
    more, every = len(every) > most, every[-most:]
    several = len({row.gateway for row in every}) > 1
    names = ["time", *(["gateway"] if several else []), "tag", "value", "unit", "quality"]
    names = [word(name) for name in names]
    lines = (
        (
            local(row.time),
            *([row.gateway] if several else []),
            f"{row.device}/{row.tag}",
            " ".join(filter(None, shown(row))),
            row.unit,
            row.status,
        )
        for row in every
    )
    print_rows(names, lines, form, output)
    if more:
        typer.echo(say(f"These are the newest {most} rows; --limit or --format csv gives more."), err=True)
    return True


def print_rows(names: list[str], rows: Iterable[tuple[str, ...]], form: Form, output: Path | None) -> None:
    """Print rows of text to standard output or a file."""
    import csv
    import sys

    from rich.console import Console
    from rich.table import Table

    file = output.open("w", encoding="utf-8", newline="") if output else sys.stdout
    try:
        if form is Form.CSV:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows(rows)
            return
        table = Table(*names, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        wide = None if file.isatty() else 1000  # in a pipe or a file no line is folded
        Console(file=file, width=wide, highlight=False, markup=False, emoji=False).print(table)
    finally:
        if output:
            file.close()
