"""`plantbridge report`: what of the plant is connected, what is numerically controlled, how complete the data are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.language import language, say

if TYPE_CHECKING:
    from gateway.inventory.rates import Report
    from gateway.inventory.stored import Evidence
    from gateway.site import Site

_WIDTH = 200  # where the output is no terminal


def report(
    sites: Annotated[list[Path], typer.Argument(help="The site files of the plant.", metavar="SITE.yaml")],
    store: Annotated[
        Path | None,
        typer.Option(help="Where the data are: the cloud file, or the DuckDB file.", metavar="CLOUD.yaml|DATABASE"),
    ] = None,
    last: Annotated[
        str | None, typer.Option(help="How far back: 1 h, 24 h, 7 d.", metavar="DURATION", show_default="24 h")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Begin, local time or with an offset: 2026-11-20T08:00.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="End (not included).", show_default="now")] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the running gateways of this machine, too.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots.", metavar="FILE.html")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown.", metavar="FILE.md")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write CSV files into this folder.", metavar="FOLDER")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, times in ns since 1970.")] = False,
) -> None:
    """Report the device connection rate, the numerical control rate of key processes, and how complete the data are.

    Always with numerator, denominator and evidence, and what the files say is never mixed with what was measured. The
    list of devices is the inventory of the site files; what was measured comes from the store (ingest may be running)
    and, with --live, from the running gateways. The exit code is 1 where a device listed as connected gives no good
    data. The report is in the language of --lang.

    Examples:

    plantbridge report site.yaml --store cloud.yaml --last '7 d' --html report.html --lang zh

    plantbridge report hall-1.yaml hall-2.yaml --store cloud.yaml --from 2026-11-01 --to 2026-12-01 --csv november

    plantbridge report site.yaml --live
    """
    import time

    from gateway.inventory.listing import machines
    from gateway.inventory.live import live as answering
    from gateway.inventory.rates import Report

    now = time.time_ns()
    begin, end = _range(last, from_, to, now)
    loaded = _loaded(sites)
    made = Report(
        machines=tuple(machines(loaded)),
        begin=begin,
        end=end,
        made=now,
        files=tuple(path.name for path in sites),
        store=str(store) if store is not None else "",
        stored=_stored(store, loaded, (begin, end, now)) if store is not None else None,
        live=answering(loaded) if live else None,
        remarks=tuple(_remarks(store, loaded)) if store is not None else (),
    )
    _write(made, html, markdown, csv)
    if json:
        typer.echo(_json(made))
    else:
        _show(made)
    raise typer.Exit(1 if made.silent else 0)


def _range(last: str | None, from_: str | None, to: str | None, now: int) -> tuple[int, int]:
    """Give begin and end in ns. Raises BadParameter."""
    from gateway.cli.query import instant
    from gateway.options import seconds

    if last and from_:
        raise typer.BadParameter("--last and --from both say where to begin; give one of them")
    try:
        end = min(instant(to), now) if to else now
        begin = instant(from_) if from_ else end - round(seconds(last or "24 h") * 1e9)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if begin >= end:
        raise typer.BadParameter("the time ends before it begins")
    return begin, end


def _loaded(paths: Sequence[Path]) -> list[Site]:
    """Load the sites. Raises ConfigError, GatewayError where two of them are one gateway."""
    from gateway.config import load_site
    from gateway.errors import GatewayError

    loaded = [load_site(path, secrets=False) for path in paths]
    names: dict[str, Path] = {}
    for site, path in zip(loaded, paths, strict=True):
        other = names.setdefault(site.gateway, path)
        if other is not path:
            raise GatewayError(f"{other} and {path} are both of the gateway {site.gateway}: name each gateway once")
    return loaded


def _stored(store: Path, sites: Sequence[Site], time: tuple[int, int, int]) -> Mapping[str, Evidence]:
    """Ask the store about each gateway, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    from gateway.cli.query import _database
    from gateway.inventory.listing import tags_of
    from gateway.inventory.stored import evidence

    database, told = _database(store), _told(store)
    shown = track(
        sites, say("reading the store"), console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    return {site.gateway: evidence(database, tags_of(site), *time, told.get(site.gateway, 0)) for site in shown}


def _told(store: Path) -> dict[str, int]:
    """Say until when ingest knows of each gateway that it had nothing more to tell."""
    from gateway import fleet

    gateways = fleet.read(_data(store))
    return {each.gateway: each.summed for each in gateways if each.summed and not each.waiting}


def _data(store: Path) -> Path:
    """Find the data directory, in which ingest keeps its books."""
    from gateway.config import load_cloud

    return load_cloud(store).data if store.suffix.lower() in (".yaml", ".yml") else store.parent


def _remarks(store: Path, sites: Sequence[Site]) -> list[str]:
    """Say what the account of all readings knows to be missing."""
    from gateway.cli import account
    from gateway.inventory.words import words

    text = words(language())
    names = {site.gateway for site in sites}
    lines = [line for line in account.read(_data(store)) if not line.device and line.gateway in names]
    return [
        *(text("waiting", gateway=line.gateway, count=line.waiting) for line in lines if line.waiting > _UNDER_WAY),
        *(text("lost", gateway=line.gateway, count=line.undeclared) for line in lines if line.undeclared),
    ]


_UNDER_WAY = 100  # journal records that a healthy gateway may have on their way


# ------------------------------------------------------------------------------------------------ showing


def _write(made: Report, html: Path | None, markdown: Path | None, csv: Path | None) -> None:
    """Write the files that are wanted. Raises GatewayError."""
    from gateway.errors import GatewayError
    from gateway.inventory import page
    from gateway.inventory.tables import csv_files
    from gateway.inventory.words import words

    text = words(language())
    files: dict[Path, bytes] = {}
    if html is not None:
        files[html] = page.html(made, text, language()).encode()
    if markdown is not None:
        files[markdown] = page.markdown(made, text).encode()
    if csv is not None:
        files |= {csv / name: body for name, body in csv_files(made, text).items()}
    for path, body in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        except OSError as error:
            raise GatewayError(f"{path} cannot be written: {error.strerror}") from error
        typer.echo(say(f"wrote {path}"), err=True)


def _show(made: Report) -> None:
    from rich.console import Console
    from rich.markup import escape

    from gateway.cli.shown import table
    from gateway.inventory.page import facts
    from gateway.inventory.tables import remarks, tables
    from gateway.inventory.words import words

    text = words(language())
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    for name, value in facts(made, text):
        console.print(f"[bold]{escape(name)}[/] {escape(value)}")
    for each in tables(made, text):
        if not each.rows:
            continue
        right = {each.headings[number] for number in each.right}
        looks = {"title": escape(each.title), "title_style": "bold", "box": None, "pad_edge": False}
        laid = table(*each.headings, right=right, **looks)
        for row in each.rows:
            laid.add_row(*map(escape, row))
        console.print()
        console.print(laid)
        if each.note:
            console.print(f"[dim]{escape(each.note)}[/]")
    console.print()
    for remark in remarks(made, text):
        console.print(f"- {escape(remark)}")
    if made.silent:
        names = ", ".join(made.name(each) for each in made.silent)
        console.print(say(f"[bold red]Listed as connected, and without good data: {escape(names)}[/]"))


def _json(made: Report) -> str:
    import orjson

    body = {
        "begin": made.begin,
        "end": made.end,
        "made": made.made,
        "files": made.files,
        "store": made.store,
        "rates": [
            {
                "rate": rate.name, "numerator": len(rate.numerator), "denominator": len(rate.denominator),
                "value": rate.value, "counted": rate.numerator, "rest": rate.rest,
            }
            for rate in made.rates
        ],
        "devices": [_device(made, number) for number in range(len(made.machines))],
        "remarks": made.remarks,
    }  # fmt: skip
    return orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()


def _device(made: Report, number: int) -> dict[str, Any]:
    from gateway.inventory.tables import COUNTS

    machine = made.machines[number]
    of, seen = machine.is_, made.seen(machine)
    body: dict[str, Any] = {
        "gateway": machine.gateway, "device": of.name, "state": of.state, "counted": of.counted, "vendor": of.vendor,
        "model": of.model, "serial": of.serial, "location": of.location, "process": of.process,
        "numerically_controlled": of.numerically_controlled, "link": of.link,
    }  # fmt: skip
    if seen is not None:
        total = seen.total
        body |= {
            "good_data": seen.connected, "last_good": seen.last_good, "held": seen.held,
            "total": {name: getattr(total, name) for name in COUNTS},
            "hours": [
                {"hour": hour, **{name: getattr(count, name) for name in COUNTS}}
                for hour, count in zip(made.hours, seen.hours, strict=False)
                if count.expected
            ],
        }  # fmt: skip
    if made.live is not None and (live := made.live.get(machine.key)) is not None:
        body["live"] = {"up": live.up, "last": live.last, "reason": live.reason}
    return body
