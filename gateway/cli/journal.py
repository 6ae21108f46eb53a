"""`plantbridge journal`: what is in the journal and how far each publisher is, also while the daemon runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gateway.journal import Survey

_WIDTH: Final = 120  # where the output is no terminal


def journal(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is in the journal: records, readings, bytes, times, and what each publisher has still to send.

    Nothing is changed and the daemon is not disturbed. Exits 1 where there is no journal, or where readings had to be
    dropped since it was made.

    Example: plantbridge journal site.yaml
    """
    from gateway.config import load_site
    from gateway.journal import survey

    loaded = load_site(site, secrets=False)
    directory = loaded.data / loaded.journal.directory
    found = survey(directory)
    if json:
        from dataclasses import asdict

        import orjson

        body: dict[str, Any] = {"directory": str(directory), "max_size": loaded.journal.max_size, **asdict(found)}
        print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        for part in _page(directory, loaded.journal.max_size, found):
            console.print(part)
    if found.dropped:
        raise typer.Exit(1)


def _page(directory: Path, max_size: int, found: Survey) -> list[RenderableType]:
    from rich.markup import escape
    from rich.table import Table

    from gateway.cli.shown import size, table

    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim")
    head.add_column()
    share = found.bytes / max_size
    rows = {
        "journal": f"{found.id} in {directory}, since {_time(found.created)}",
        "kept": f"{_count(found.records, 'record')}, {_count(found.readings, 'reading')}, {size(found.bytes)}"
        f" ({share:.1%} of {size(max_size)}); {size(found.file_bytes)} on disk",
        "from, to": f"{_time(found.oldest)} … {_time(found.newest)}",
        **({"undated": _count(found.undated, "record")} if found.undated else {}),
        "appended": f"{_count(found.appended, 'reading')} in {_count(found.last, 'record')}",
        "dropped": _count(found.dropped, "reading"),
    }
    for name, text in rows.items():
        said = escape(say(text))
        head.add_row(word(name), f"[bold red]{said}[/]" if name == "dropped" and found.dropped else said)
    made = table("publisher", "delivered", "to send", "oldest")
    for each in found.publishers:
        waiting = f"{_count(each.pending_readings, 'reading')} in {_count(each.pending_records, 'record')}"
        made.add_row(
            escape(each.name),
            say(_count(each.delivered_readings, "reading")),
            say(waiting) if each.pending_records else word("nothing"),
            _time(each.oldest),
        )
    return [head, made]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _time(ns: int | None) -> str:
    """Give a time in the zone of this machine."""
    import datetime

    if not ns:
        return "-"
    try:
        return datetime.datetime.fromtimestamp(ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (ValueError, OverflowError, OSError):  # a source's clock may say anything
        return f"{ns} ns"
