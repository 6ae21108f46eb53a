"""`plantbridge scan`: which Modbus units answer, and who they say they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.wanted import duration
from gateway.language import say, word

if TYPE_CHECKING:
    from drivers.modbus.probe import Silence, Unit
    from drivers.modbus.spec import ModbusLink

WIDTH: Final = 120  # of tables, where the output is no terminal
NOTES: Final = 8


Place = Annotated[
    str, typer.Argument(help="tcp://HOST, rtu:///dev/ttyUSB0?baud=9600, ...; or a link of --site.", metavar="LINK")
]
Site = Annotated[
    Path | None, typer.Option(help="A site file: LINK is then a link's name, and its keys hold (tls, pauses, ...).")
]
Links = Annotated[
    Path | None,
    typer.Option(help="JSON file of link urls that stand in for the site's, as `simulate --map` writes it."),
]


def scan(
    link: Place,
    site: Site = None,
    links: Links = None,
    units: Annotated[str | None, typer.Option(help="Unit ids: 1..247 or 1,2,17. On TCP also 0 and 255.")] = None,
    timeout: Annotated[
        float, typer.Option(help="How long a unit may take to answer.", parser=duration, metavar="DURATION")
    ] = "300 ms",  # type: ignore[assignment]  # typer parses the default as it parses what is given
    pause: Annotated[
        float,
        typer.Option(
            help="Pause between requests, so that others on the line get through.", parser=duration, metavar="DURATION"
        ),
    ] = "20 ms",  # type: ignore[assignment]
    longest: Annotated[
        float, typer.Option(help="Stop after this time.", parser=duration, metavar="DURATION")
    ] = "5 min",  # type: ignore[assignment]
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask every unit id for one register, and those that answer for their identification (FC 43/14).

    Reads only. Exits 1 where no unit answers.

    Example: plantbridge scan 'rtu:///dev/ttyUSB0?baud=9600&parity=E' --units 1..32

    or: plantbridge scan meters --site site.yaml
    """
    import asyncio

    from rich.console import Console
    from rich.progress import Progress

    options = link_options(link, site, links)
    wanted = unit_ids(units, options.url)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(say(f"asking {len(wanted)} unit ids"), total=len(wanted))
        found, silent = asyncio.run(_scan(options, wanted, (timeout, pause, longest), lambda: progress.advance(task)))
    asked = len(found) + len(silent)
    if json:
        import dataclasses

        import orjson

        print(orjson.dumps({"asked": asked, "units": [dataclasses.asdict(unit) for unit in found]}).decode())
    else:
        _print(found, silent, len(wanted))
    raise typer.Exit(0 if found else 1)


def unit_ids(text: str | None, url: str) -> list[int]:
    """Read "1..247" or "1,2,17"; without it all of 1 to 247, on TCP 255 and 0 too."""
    if text is None:
        return [*range(1, 248), *([255, 0] if url.startswith(("tcp:", "tls:", "udp:")) else [])]
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("..")
        if not first.isdigit() or not (last or first).isdigit() or not int(first) <= int(last or first) <= 255:
            raise typer.BadParameter(f"expected unit ids such as 1..32 or 1,2,17, got {text!r}", param_hint="--units")
        found += range(int(first), int(last or first) + 1)
    return found


async def _scan(
    options: ModbusLink, units: Sequence[int], times: tuple[float, float, float], step: Any
) -> tuple[list[Unit], list[Silence]]:
    import asyncio
    from contextlib import aclosing

    from drivers.modbus.probe import Unit, open_driver, scan_units

    timeout, pause, longest = times
    driver = open_driver(options)
    found: list[Unit] = []
    silent: list[Silence] = []
    try:
        async with asyncio.timeout(longest):
            await driver.connect()
            async with aclosing(scan_units(driver, units, timeout, pause)) as answers:
                async for answer in answers:
                    step()
                    if isinstance(answer, Unit):
                        found.append(answer)
                    else:
                        silent.append(answer)
    except TimeoutError:
        pass  # what was found until then is the answer
    finally:
        await driver.close()
    return found, silent


def link_options(link: str, site: Path | None, urls: Path | None = None) -> ModbusLink:
    """Give the options of a link: of a URL alone, or of a link of a site file by its name."""
    from pydantic import ValidationError

    from drivers.modbus.spec import ModbusLink

    if urls is not None and site is None:
        raise typer.BadParameter("it tells where the links of a site are: add --site SITE.yaml", param_hint="--links")
    if site is not None and "://" not in link:
        from gateway.cli.run import _urls
        from gateway.config import load_site

        loaded = load_site(site, links=_urls(urls) if urls else None)
        links = {each.name: each.options for each in loaded.links if isinstance(each.options, ModbusLink)}
        if link not in links:
            reason = f"{site} has no Modbus link {link!r}; it has {', '.join(links) or 'none'}"
            raise typer.BadParameter(reason, param_hint="LINK")
        return links[link]
    try:
        return ModbusLink(driver="modbus", url=link)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise typer.BadParameter(reason, param_hint="LINK") from error


def _print(found: Sequence[Unit], silent: Sequence[Silence], wanted: int) -> None:
    from rich.console import Console

    from gateway.cli.shown import table

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if found:
        made = table("unit id", "answers with", "vendor", "product", "revision", "more")
        for unit in found:
            names = dict(unit.names)
            cells = [names.pop(name, "") for name in ("vendor", "product", "revision")]
            made.add_row(str(unit.unit), word(unit.answer), *cells, ", ".join(f"{k} {v}" for k, v in names.items()))
        console.print(made)
    asked = len(found) + len(silent)
    stopped = "" if asked == wanted else f" (stopped after {asked} of {wanted}: time is up)"
    console.print(say(f"{len(found)} of {asked} unit ids answer{stopped}."))
    notes = [f"unit {each.unit}: {each.note}" for each in silent if each.note]
    for note in notes[:NOTES]:
        console.print(say(note), style="dim")
    if len(notes) > NOTES:
        console.print(say(f"... and {len(notes) - NOTES} more that did not answer but were not silent"), style="dim")
    if len(found) > 20 and len(found) == asked:
        console.print(say("Every unit id answers: the device ignores it. Use any, best 1 or 255."))
