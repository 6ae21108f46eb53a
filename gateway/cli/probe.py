"""`plantbridge probe`: read every tag of the real devices once, and say what is off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.language import say

if TYPE_CHECKING:
    from gateway.acceptance.check import CheckedDevice
    from gateway.acceptance.report import About
    from gateway.model import Device, Link
    from gateway.site import Site

_WIDTH: Final = 140  # where the output is no terminal


def probe(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    devices: Annotated[
        list[str] | None, typer.Argument(help="Devices; all of them where none is named.", metavar="DEVICE")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Show only the tags that are off.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write an acceptance report: FILE.html or FILE.md.", metavar="FILE")
    ] = None,
    by: Annotated[str, typer.Option(help="Who reads, for the report.", show_default="who is logged in")] = "",
    links: Annotated[
        Path | None,
        typer.Option(help="JSON file of link urls that stand in for the site's, as `simulate --map` writes it."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Connect to the devices, read every tag once, and show raw, value and a verdict on each. Reads only.

    Verdicts: plausible, out of range, wrong word order? (with the one to try), illegal address, wrong type, no value,
    not answering. A device keeps one byte order: where all its tags that can tell say another one, its counters are
    judged by that too, and the last line says how to mend the site file. A running daemon is not asked and not needed;
    a device that serves one session only is not free while it runs. Exits 1 where anything is off.

    Example: plantbridge probe site.yaml press-1 --report acceptance.html
    """
    import asyncio

    from gateway.cli.run import _urls
    from gateway.cli.wanted import wanted
    from gateway.config import load_site
    from gateway.local.place import answered

    if report is not None and report.suffix.lower() not in (".html", ".htm", ".md"):
        raise typer.BadParameter(f"expected FILE.html or FILE.md, got {report}", param_hint="--report")
    loaded = load_site(site, links=_urls(links) if links else None, secrets=False)
    for warning in loaded.warnings:
        if warning.path.startswith("links"):
            typer.echo(say(str(warning)), err=True)
    chosen = wanted(loaded, devices or [])
    occupied = answered(loaded.data)
    if occupied:
        typer.echo(
            say(
                "The daemon of this site is running: devices that serve one session only refuse a second."
                " If one does not answer, stop the daemon first."
            ),
            err=True,
        )
    found = asyncio.run(_probe(chosen))
    about = _about(loaded, site, by, occupied=occupied)
    if report is not None:
        _write(report, about, found)
    if json:
        _json(about, found)
    else:
        _show(found, site, only_off=off)
    raise typer.Exit(1 if any(each.off for each in found) else 0)


async def _probe(wanted: Sequence[tuple[Link, list[Device]]]) -> list[CheckedDevice]:
    """Read all links at a time, with a progress bar on a terminal."""
    import asyncio

    from rich.console import Console
    from rich.progress import Progress

    from gateway.acceptance.check import check
    from gateway.names import open_driver

    total = sum(
        len(table) for _, devices in wanted for device in devices for group in device.groups for table in group.tables
    )
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(say(f"reading {total} tags"), total=total)

        def step(tags: int) -> None:
            progress.advance(task, tags)

        found = await asyncio.gather(*(check(link, open_driver(link), devices, step) for link, devices in wanted))
    return [device for link in found for device in link]


def _about(site: Site, path: Path, by: str, *, occupied: bool) -> About:
    from gateway.acceptance.report import about

    return about(site.gateway, path.name, by, "The gateway's daemon was running beside it." if occupied else "")


def _shown() -> Callable[[Any, str, dict[str, str] | None], str]:
    from gateway.cli.shown import value

    return value


def _write(path: Path, about: About, found: Sequence[CheckedDevice]) -> None:
    """Write the report. Raises GatewayError."""
    from gateway.acceptance.report import html, markdown
    from gateway.errors import GatewayError

    write = markdown if path.suffix.lower() == ".md" else html
    try:
        path.write_text(write(about, found, _shown()), encoding="utf-8")
    except OSError as error:
        raise GatewayError(f"the report {path} cannot be written: {error.strerror}") from error
    typer.echo(say(f"report: {path}"), err=True)


def _json(about: About, found: Sequence[CheckedDevice]) -> None:
    from dataclasses import asdict

    import orjson

    from gateway import quality

    body = {
        **asdict(about),
        "devices": [
            {
                "device": each.device.name,
                "link": each.link.name,
                "error": each.error,
                "off": each.off,
                "order": each.order,
                "tags": [
                    {
                        "name": tag.name, "address": tag.tag.address, "where": str(tag.tag.where), "raw": tag.raw,
                        "data": tag.data, "value": tag.value, "unit": tag.tag.unit,
                        "quality": quality.name(tag.quality), "verdict": tag.verdict.value, "note": tag.note,
                    }
                    for tag in each.tags
                ],
            }
            for each in found
        ],
    }  # fmt: skip
    print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())


def _show(found: Sequence[CheckedDevice], site: Path, *, only_off: bool) -> None:
    from rich.console import Console
    from rich.markup import escape

    from gateway.acceptance.report import HEADINGS, advice, cells, result
    from gateway.cli.shown import table

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for device in found:
        if device.error:
            console.print(f"[bold red]{escape(_named(device))}[/]", highlight=False)
        rows = [each for each in device.tags if not (only_off and each.fine) and not device.error]
        if not rows:
            continue
        made = table(*HEADINGS, title=escape(device.device.name), title_style="bold")
        for number in (2, 3):
            made.columns[number].justify = "right"
        for each in rows:
            texts = [escape(cell) for cell in cells(each, _shown())]
            texts[0] = texts[0].partition("/")[2]
            if not each.fine and each.note:
                texts[-1] += f"\n{escape(say(each.note))}\n{escape(str(each.tag.where))}"
            made.add_row(*texts, style=None if each.fine else "red")
        console.print(made)
    passed, sentence = result(found)
    console.print(f"[{'green' if passed else 'bold red'}]{escape(say(sentence))}[/]", highlight=False)
    for device in found:
        for text in advice(device, str(site)):
            console.print(escape(say(text)), highlight=False, soft_wrap=True)


def _named(device: CheckedDevice) -> str:
    """Say why a device could not be read; its name once, where the reason begins with it."""
    name = device.device.name
    said = say(device.error)
    return said if said.startswith(name) else f"{name}: {said}"
