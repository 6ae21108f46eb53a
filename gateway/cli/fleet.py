"""`plantbridge fleet`: every gateway that ingest hears of, those in trouble first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.fleet import Gateway


def fleet(
    cloud: Annotated[Path, typer.Argument(help="The cloud file of the workers.", metavar="CLOUD.yaml")],
    json: Annotated[bool, typer.Option("--json", help="One JSON array, times in ns since 1970.")] = False,
) -> None:
    """Show every gateway that ingest hears of: births, last contact, backlog, version, clock.

    Those in trouble come first, and the exit code is 1 where there is one: records lost on the way, offline, silent
    for 10 minutes, more than 1,000 records that wait, a clock that is more than 5 s off. Ingest may be running.

    Example: plantbridge fleet /etc/plantbridge/cloud.yaml
    """
    import time

    from gateway.cli import account
    from gateway.config import load_cloud
    from gateway.errors import GatewayError
    from gateway.fleet import PATTERN, read

    loaded = load_cloud(cloud)
    if not any(loaded.data.glob(PATTERN)):
        raise GatewayError(f"{loaded.data} has no table of gateways: has ingest run with {cloud}?")
    now = time.time_ns()
    lost = {line.gateway: line.undeclared for line in account.read(loaded.data) if not line.device}
    rows = [
        _Row(each, lost.get(each.gateway), each.trouble(now, lost.get(each.gateway, 0))) for each in read(loaded.data)
    ]
    rows.sort(key=lambda row: (not row.trouble, not row.undeclared, -len(row.trouble), row.of.prefix))
    if json:
        _json(rows)
    else:
        _table(rows, now)
    if any(row.trouble for row in rows):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Row:
    of: Gateway
    undeclared: int | None  # records; None: no account of it
    trouble: list[str]


def _json(rows: list[_Row]) -> None:
    import orjson

    made: list[dict[str, Any]] = [
        {**asdict(row.of), "undeclared": row.undeclared, "trouble": row.trouble} for row in rows
    ]
    typer.echo(orjson.dumps(made, option=orjson.OPT_INDENT_2).decode())


def _table(rows: list[_Row], now: int) -> None:
    import sys

    from rich.console import Console

    from gateway.cli.shown import table

    made = table(
        "gateway", "trouble", "last contact", "births", "online since", "version", "backlog", "complete", "clock",
        box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for row in rows:
        each = row.of
        made.add_row(
            each.gateway,
            ", ".join(map(word, row.trouble)) or "-",
            say(f"{_span(now - each.contact)} ago") if each.contact else "?",
            str(each.births),
            _span(now - each.born) if each.online and each.born else "-",
            each.version or "?",
            str(each.waiting) if each.summed else "?",
            "?" if row.undeclared is None else word("no") if row.undeclared else word("yes"),
            "?" if each.offset is None else f"{each.offset / 1e9:+.1f} s",
        )
    wide = None if sys.stdout.isatty() else 1000
    Console(width=wide, highlight=False, markup=False, emoji=False).print(made)
    troubled = sum(bool(row.trouble) for row in rows)
    typer.echo(say(f"{len(rows)} gateways, {troubled} in trouble"))


def _span(ns: int) -> str:
    """Write a time as its largest unit."""
    seconds = max(0, ns // 10**9)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
