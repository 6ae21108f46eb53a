"""`plantbridge read`: read once, and show what the registers may mean."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway import quality
from gateway.cli.scan import WIDTH, Links, Place, Site, link_options
from gateway.cli.wanted import duration
from gateway.language import say

if TYPE_CHECKING:
    from drivers.modbus.driver import ModbusDriver
    from drivers.modbus.line import Pace
    from drivers.modbus.spec import ModbusLink

_WHY: Final = {
    quality.BAD_CONFIGURATION_ERROR: ": the device refuses the address, or the function (exception 01, 02 or 03)",
    quality.BAD_DECODING_ERROR: ": the registers hold no value of this type",
    quality.BAD_NO_DATA: ": the registers hold the pattern for no value",
}


def read(
    link: Place,
    addresses: Annotated[
        list[str],
        typer.Argument(help="holding:100, or with a type: 'holding:100 float32 CDAB'.", metavar="ADDRESS"),
    ],
    site: Site = None,
    links: Links = None,
    unit: Annotated[int, typer.Option(help="Unit id.", min=0, max=255)] = 1,
    count: Annotated[
        int | None,
        typer.Option(
            help="Registers (bits) to show from an address without a type: 4 registers, 1 bit.", min=1, max=125
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="How long the device may take to answer.", parser=duration, metavar="DURATION")
    ] = "1 s",  # type: ignore[assignment]  # typer parses the default as it parses what is given
) -> None:
    """Read Modbus addresses once.

    An address with a type shows its value. One without shows its registers in every type and byte order, with those
    marked that a plant would plausibly show: the quickest way to find a byte order. Exits 1 where one was not answered.

    Example: plantbridge read tcp://192.168.1.20 holding:100 "holding:100 float32 CDAB" --unit 1
    """
    import asyncio

    options = link_options(link, site, links)
    good = asyncio.run(_read(options, addresses, unit, count, timeout))
    raise typer.Exit(0 if good else 1)


async def _read(options: ModbusLink, addresses: list[str], unit: int, count: int | None, timeout: float) -> bool:
    from drivers.modbus.address import parse
    from drivers.modbus.line import Pace
    from drivers.modbus.probe import open_driver

    parsed = []
    for line in addresses:
        try:
            parsed.append((line, *parse(line)))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="ADDRESS") from error
    driver = open_driver(options)
    pace = Pace(unit, timeout, 0.0)
    good = True
    try:
        await driver.connect()
        for line, area, address, words in parsed:
            if words.type or words.bits or area in ("coil", "discrete"):
                good &= await _value(driver, options, pace, line, count or 1)
            else:
                good &= await _window(driver, pace, area, address, count or 4)
    finally:
        await driver.close()
    return good


async def _value(driver: ModbusDriver, options: ModbusLink, pace: Pace, line: str, count: int) -> bool:
    """Show an address that says what it is."""
    from drivers.modbus.probe import shown
    from drivers.modbus.spec import ModbusDevice, ModbusTag, resolve
    from gateway.errors import NoAnswer
    from gateway.model import Tag, split_by_kind

    device = ModbusDevice.model_validate({"unit_id": pace.unit, "timeout": f"{pace.timeout:f} s"})
    text = line if count == 1 or " " in line else f"{line} bool[{count}]"
    try:
        found = resolve(ModbusTag(address=text), device, options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ADDRESS") from error
    tags = [Tag(line + each.suffix, line, each.source, each.kind, each.type) for each in found]
    plan = driver.plan_for(split_by_kind("", "", tags), device)
    try:
        batches = await driver.read(plan)
    except NoAnswer as error:
        typer.echo(f"{line}: {say(str(error))}", err=True)
        return False
    good = True
    for batch in batches:
        for tag, value, code in zip(batch.table.tags, batch.value.tolist(), batch.quality.tolist(), strict=True):
            good &= code < quality.BAD
            if code < quality.BAD:
                typer.echo(f"{tag.name} = {shown(tag.type, value)}")
            else:
                typer.echo(f"{tag.name}: {quality.name(code)}{say(_WHY.get(code, ''))}", err=True)
    return good


async def _window(driver: ModbusDriver, pace: Pace, area: Any, address: int, count: int) -> bool:
    """Show registers in every type and order."""
    from rich.console import Console

    from drivers.modbus.probe import meanings, read_window
    from gateway.cli.shown import table

    data = await read_window(driver, pace, area, address, count)
    if isinstance(data, str):
        typer.echo(f"{area}:{address}: {say(data)}", err=True)
        return False
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(f"[bold]{area}:{address}[/] {data.hex(' ', 2)}")
    rows: dict[str, dict[str, str]] = {}
    for meaning in meanings(data):
        letters = {"AB": "ABCD", "BA": "BADC"}.get(meaning.order, meaning.order)
        column = {"ABCDEFGH": "ABCD", "GHEFCDAB": "CDAB", "BADCFEHG": "BADC", "HGFEDCBA": "DCBA"}.get(letters, letters)
        shown = f"[bold green]{meaning.value} *[/]" if meaning.plausible else f"[dim]{meaning.value}[/]"
        rows.setdefault(meaning.type, {})[column] = shown
    made = table("type", "ABCD", "CDAB", "BADC", "DCBA")
    for type_, cells in rows.items():
        made.add_row(type_, *(cells.get(order, "") for order in ("ABCD", "CDAB", "BADC", "DCBA")))
    console.print(made)
    console.print(
        say("* plausible. The first register is the first of each value; write the order as the column says.")
    )
    return True
