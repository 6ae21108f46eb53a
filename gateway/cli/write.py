"""`plantbridge write`: set a writable tag, and say what was there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.language import say

if TYPE_CHECKING:
    from gateway.commands import Result
    from gateway.contracts import Driver
    from gateway.model import Tag
    from gateway.site import Site


def write(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    device: Annotated[str, typer.Argument(help="The device's name.", metavar="DEVICE")],
    values: Annotated[list[str], typer.Argument(help="What to set, in engineering units.", metavar="TAG=VALUE...")],
    url: Annotated[str | None, typer.Option(help="Another URL for the link, that of a simulator.")] = None,
) -> None:
    """Set tags that are marked writable, within their limits; read before and after.

    All values are checked before the first is written. Exits 1 where a value was refused or does not read back. Nothing
    is written while the gateway is isolated; where the site's `commands` are on, all of it is in the audit log.

    Example: plantbridge write site.yaml press-1 set-point=4.5
    """
    import asyncio

    from gateway.commands import Refused, find_tag, prepare
    from gateway.config import load_site
    from gateway.isolation import Switch
    from gateway.names import open_driver

    wanted = [each.partition("=") for each in values]
    for name, equals, _ in wanted:
        if not equals:
            raise typer.BadParameter(f"expected TAG=VALUE, got {name!r}", param_hint="TAG=VALUE")
    loaded = load_site(site)
    links = loaded.links
    if (said := Switch(loaded.data).read()) is not None:
        raise Refused(f"the gateway is isolated ({said}): nothing is written until plantbridge isolate off {site}")
    if url is not None:
        link, _, _ = find_tag(links, device, wanted[0][0])
        links = load_site(site, links={link.name: url}).links
    found = [(find_tag(links, device, name), value) for name, _, value in wanted]
    link = found[0][0][0]
    driver = open_driver(link)
    audit = _audit(loaded, device, {name: value for name, _, value in wanted})
    for (_, _, tag), value in found:
        try:
            prepare(driver, device, tag, value)
        except Refused as refusal:
            audit({"event": "refused", "cause": refusal.cause, "reason": str(refusal)})
            raise Refused(f"{refusal}; nothing was written") from None
    good = asyncio.run(_write(driver, device, [(tag, value) for (_, _, tag), value in found], audit))
    raise typer.Exit(0 if good else 1)


def _audit(site: Site, device: str, values: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    """Give what takes entries to the audit log, where the site has one."""
    import time

    from gateway.audit import bounded, stamp
    from gateway.audit import write as append
    from gateway.cli.isolate import who
    from gateway.control import DIRECTORY

    def take(entry: dict[str, Any]) -> None:
        if site.commands is not None:
            about = {"by": who(), "device": device, "values": values, "time": stamp(time.time_ns())}
            append(site.data / DIRECTORY, [bounded({**about, **entry})], site.commands.audit)

    return take


async def _write(
    driver: Driver, device: str, values: list[tuple[Tag, str]], audit: Callable[[dict[str, Any]], None]
) -> bool:
    from gateway import quality
    from gateway.commands import execute

    good = True
    try:
        await driver.connect()
        for tag, value in values:
            audit({"event": "local write", "values": {tag.name: value}})
            result = await execute(driver, device, tag, value)
            said = {"tag": tag.name, "before": result.before, "after": result.after, "reason": result.reason}
            audit({"event": "local write done", "results": [{**said, "quality": quality.name(result.quality)}]})
            good &= _say(device, tag, result)
    finally:
        await driver.close()
    return good


def _say(device: str, tag: Tag, result: Result) -> bool:
    """Print what became of one value; say whether all is well."""
    from gateway import quality
    from gateway.commands import shown

    unit = f" {tag.unit}" if tag.unit else ""
    names: dict[object, str] = {number: f" ({name})" for number, name in tag.states}  # 1 and 1.0 are the same key
    before, after = (shown(each) + names.get(each, "") + unit for each in (result.before, result.after))
    line = f"{device}/{tag.name}: was {before}, is {after}"
    if result.quality != quality.GOOD:
        line += f"  {quality.name(result.quality)}: {result.reason}"
    typer.echo(say(line), err=result.quality != quality.GOOD)
    return result.quality == quality.GOOD
