"""`plantbridge scan`: which Modbus units answer, and who they say they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from drivers.modbus.probe import Unit

WIDTH: Final = 120  # of tables, where the output is no terminal


def scan(
    url: Annotated[str, typer.Argument(help="tcp://HOST, rtu:///dev/ttyUSB0?baud=9600, rtu+tcp://HOST:PORT, ...")],
    units: Annotated[str | None, typer.Option(help="Unit ids: 1..247 or 1,2,17. On TCP also 0 and 255.")] = None,
    timeout: Annotated[str, typer.Option(help="How long a unit may take to answer.")] = "300 ms",
    pause: Annotated[
        str, typer.Option(help="Pause between requests, so that others on the line get through.")
    ] = "20 ms",
    longest: Annotated[str, typer.Option(help="Stop after this time.")] = "5 min",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask every unit id for one register, and those that answer for their identification (FC 43/14).

    Reads only. Exits 1 where no unit answers.

    Example: plantbridge scan 'rtu:///dev/ttyUSB0?baud=9600&parity=E' --units 1..32
    """
    import asyncio

    from rich.console import Console
    from rich.progress import Progress

    from gateway.options import seconds

    wanted = unit_ids(units, url)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"asking {len(wanted)} unit ids", total=len(wanted))
        found, asked = asyncio.run(
            _scan(url, wanted, (seconds(timeout), seconds(pause), seconds(longest)), lambda: progress.advance(task))
        )
    if json:
        import dataclasses

        import orjson

        print(orjson.dumps({"asked": asked, "units": [dataclasses.asdict(unit) for unit in found]}).decode())
    else:
        _print(found, asked, len(wanted))
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


async def _scan(url: str, units: Sequence[int], times: tuple[float, float, float], step: Any) -> tuple[list[Unit], int]:
    import asyncio
    from contextlib import aclosing

    from drivers.modbus.probe import Unit, open_driver, scan_units

    timeout, pause, longest = times
    driver = open_driver(link_options(url))
    found, asked = [], 0
    try:
        async with asyncio.timeout(longest):
            await driver.connect()
            async with aclosing(scan_units(driver, units, timeout, pause)) as answers:
                async for answer in answers:
                    asked += 1
                    step()
                    if isinstance(answer, Unit):
                        found.append(answer)
    except TimeoutError:
        pass  # what was found until then is the answer
    finally:
        await driver.close()
    return found, asked


def link_options(url: str) -> Any:
    """Give the link's options for a URL; a sentence on how it should be where it is none."""
    from pydantic import ValidationError

    from drivers.modbus.spec import ModbusLink

    try:
        return ModbusLink(driver="modbus", url=url)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise typer.BadParameter(reason, param_hint="URL") from error


def _print(found: Sequence[Unit], asked: int, wanted: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if found:
        table = Table("unit", "answers with", "vendor", "product", "revision", "more")
        for unit in found:
            names = dict(unit.names)
            cells = [names.pop(name, "") for name in ("vendor", "product", "revision")]
            table.add_row(str(unit.unit), unit.answer, *cells, ", ".join(f"{k} {v}" for k, v in names.items()))
        console.print(table)
    stopped = "" if asked == wanted else f" (stopped after {asked} of {wanted}: time is up)"
    console.print(f"{len(found)} of {asked} unit ids answer{stopped}.")
    if len(found) > 20 and len(found) == asked:
        console.print("Every unit id answers: the device ignores it. Use any, best 1 or 255.")
