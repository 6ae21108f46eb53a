"""`plantbridge fleet`: every gateway that ingest hears of, those in trouble first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gateway.fleet import Gateway


def fleet(
    cloud: Annotated[Path, typer.Argument(help="The cloud file of the workers.", metavar="CLOUD.yaml")],
    json: Annotated[bool, typer.Option("--json", help="One JSON array, times in ns since 1970.")] = False,
) -> None:
    """Show every gateway that ingest hears of: births, last contact, backlog, version, clock.

    Those in trouble come first, and the exit code is 1 where there is one: offline, silent for 10 minutes, more than
    1,000 records that wait, a clock that is more than 5 s off. Ingest may be running.

    Example: plantbridge fleet /etc/plantbridge/cloud.yaml
    """
    import time

    from gateway.config import load_cloud
    from gateway.errors import GatewayError
    from gateway.fleet import PATTERN, read

    loaded = load_cloud(cloud)
    if not any(loaded.data.glob(PATTERN)):
        raise GatewayError(f"{loaded.data} has no table of gateways: has ingest run with {cloud}?")
    now = time.time_ns()
    rows = [(each, each.trouble(now)) for each in read(loaded.data)]
    rows.sort(key=lambda row: (not row[1], -len(row[1]), row[0].prefix))
    if json:
        _json(rows)
    else:
        _table(rows, now)
    if any(trouble for _, trouble in rows):
        raise typer.Exit(1)


def _json(rows: list[tuple[Gateway, list[str]]]) -> None:
    from dataclasses import asdict

    import orjson

    made: list[dict[str, Any]] = [{**asdict(each), "trouble": trouble} for each, trouble in rows]
    typer.echo(orjson.dumps(made, option=orjson.OPT_INDENT_2).decode())


def _table(rows: list[tuple[Gateway, list[str]]], now: int) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    names = ("gateway", "trouble", "last contact", "births", "online since", "version", "backlog", "clock")
    table = Table(*names, box=None, header_style="bold", pad_edge=False)
    for each, trouble in rows:
        table.add_row(
            each.gateway,
            ", ".join(trouble) or "-",
            f"{_span(now - each.contact)} ago" if each.contact else "?",
            str(each.births),
            _span(now - each.born) if each.online and each.born else "-",
            each.version or "?",
            str(each.waiting) if each.summed else "?",
            "?" if each.offset is None else f"{each.offset / 1e9:+.1f} s",
        )
    wide = None if sys.stdout.isatty() else 1000
    Console(width=wide, highlight=False, markup=False, emoji=False).print(table)
    troubled = sum(bool(trouble) for _, trouble in rows)
    typer.echo(f"{len(rows)} gateways, {troubled} in trouble")


def _span(ns: int) -> str:
    """Write a time as its largest unit."""
    seconds = max(0, ns // 10**9)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
