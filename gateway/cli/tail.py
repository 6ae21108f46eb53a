"""`plantbridge tail`: values as the running daemon reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.asked import Place, found
from gateway.language import say, word

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One reading, with the words that its definition has for it."""

    name: str
    value: Any
    unit: str
    state: str
    quality: int
    time: int
    backfill: bool


def tail(
    site: Place,
    tags: Annotated[
        list[str] | None, typer.Argument(help="DEVICE/TAG, also with * and ?; a DEVICE alone means all of its tags.")
    ] = None,
    journalled: Annotated[
        bool, typer.Option("--journalled", help="What goes into the journal, after report by exception.")
    ] = False,
    lasting: Annotated[str | None, typer.Option("--for", help="End after this time.", metavar="DURATION")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each reading.")] = False,
) -> None:
    """Show values as the running daemon reads them: a table on a terminal, lines elsewhere, until Ctrl-C.

    Each reading is shown as it is in engineering units, before report by exception; --journalled shows what of that is
    kept and published. Begins with the last scan. A terminal too slow for it gets less, and is told how much.

    Example: plantbridge tail site.yaml 'press-1/*'
    """
    import contextlib
    import time

    from gateway.cli.wanted import duration
    from gateway.local.client import stream

    until = None if lasting is None else time.monotonic() + duration(lasting, "--for")
    data, _ = found(site)
    question = {"ask": "tail", "tags": tags or [], "journalled": journalled}
    rows = decoded(stream(data, question, until))
    with contextlib.suppress(KeyboardInterrupt):
        if json:
            _json(rows)
        elif sys.stdout.isatty():
            _live(rows)
        else:
            _lines(rows)
    if until is None:
        print(say("The daemon has ended, or is no longer there."), file=sys.stderr)
        raise typer.Exit(1)


def decoded(lines: Iterator[dict[str, Any]]) -> Iterator[list[Row] | int]:
    """Give the readings of each line of the daemon's, or how many were dropped."""
    tables: dict[int, dict[str, Any]] = {}
    for line in lines:
        if "dropped" in line:
            yield int(line["dropped"])
        elif "table" in line:
            tables[line["table"]] = line
        else:
            table = tables[line["readings"]]
            columns = zip(line["tag"], line["value"], line["quality"], line["time"], strict=True)
            yield [_row(table, tag, value, code, time, line["backfill"]) for tag, value, code, time in columns]


def _row(table: dict[str, Any], tag: int, value: Any, quality: int, time: int, backfill: bool) -> Row:
    from gateway.quality import BAD

    about = table["tags"][tag]
    found = None if quality >= BAD else value
    whole = isinstance(found, int | float) and not isinstance(found, bool) and found == int(found)
    state = about["states"].get(str(int(found)), "") if whole and found is not None else ""
    return Row(f"{table['device']}/{about['name']}", found, about["unit"], state, quality, time, backfill)


def _json(rows: Iterator[list[Row] | int]) -> None:
    import orjson

    from gateway.cli.shown import code

    for some in rows:
        if isinstance(some, int):
            print(orjson.dumps({"dropped": some}).decode(), flush=True)
            continue
        for row in some:
            body = {
                "name": row.name, "value": row.value, "unit": row.unit, "state": row.state,
                "quality": code(row.quality), "status": row.quality, "time": row.time, "backfill": row.backfill,
            }  # fmt: skip
            print(orjson.dumps(body).decode())
        sys.stdout.flush()


def _lines(rows: Iterator[list[Row] | int]) -> None:
    from gateway.cli.shown import code, moment

    for some in rows:
        if isinstance(some, int):
            print(say(f"({some} readings dropped: this reader is too slow)"), flush=True)
            continue
        for row in some:
            print(
                moment(row.time),
                row.name,
                _value(row),
                code(row.quality),
                *([word("(history)")] if row.backfill else []),
            )
        sys.stdout.flush()


def _value(row: Row) -> str:
    from gateway.cli.shown import value

    text = value(row.value, row.unit)
    return f"{text} ({row.state})" if row.state else text


def _live(rows: Iterator[list[Row] | int]) -> None:
    import time

    from rich.console import Console
    from rich.live import Live

    console = Console()
    newest: dict[str, Row] = {}
    dropped = 0
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        shown_at = 0.0
        for some in rows:
            if isinstance(some, int):
                dropped += some
                continue
            newest.update((row.name, row) for row in some)
            if time.monotonic() - shown_at > 0.1:
                shown_at = time.monotonic()
                live.update(_table(newest, dropped, console.height), refresh=True)
        live.update(_table(newest, dropped, console.height), refresh=True)


def _table(newest: dict[str, Row], dropped: int, height: int) -> Table:
    from rich.markup import escape

    from gateway.cli.shown import code, moment, table
    from gateway.quality import severity

    room = max(1, height - 6)
    names = sorted(newest)
    more = f"{len(names) - room} more tags: name some, or make the window higher" if len(names) > room else ""
    late = f"{dropped} readings dropped: this terminal is too slow" if dropped else ""
    caption = "; ".join(say(each) for each in (more, late) if each)
    made = table("tag", "value", "quality", "source time", caption=caption or None)
    made.columns[1].justify = "right"
    for name in names[:room]:
        row = newest[name]
        style = {"Good": None, "Uncertain": "yellow", "Bad": "red"}[severity(row.quality)]
        made.add_row(escape(name), escape(_value(row)), code(row.quality), moment(row.time)[11:23], style=style)
    return made
