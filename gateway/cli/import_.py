"""`plantbridge import`: a register list, or another gateway's configuration, to YAML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.lists.entries import RegisterList
    from gateway.lists.sites import Composed


class Source(StrEnum):
    """Whose format a file has; as gateway.lists.reading names them."""

    TABLE = "table"
    TELEGRAF = "telegraf"
    NEURON = "neuron"
    KEPWARE = "kepware"


class Base(StrEnum):
    """What plain numbers count from."""

    ZERO = "0"
    ONE = "1"
    WIRE = "wire"


class Area(StrEnum):
    """The areas of a Modbus device."""

    COIL = "coil"
    DISCRETE = "discrete"
    INPUT = "input"
    HOLDING = "holding"


class Order(StrEnum):
    """Byte orders."""

    ABCD = "ABCD"
    CDAB = "CDAB"
    BADC = "BADC"
    DCBA = "DCBA"


def import_(
    file: Annotated[Path, typer.Argument(help="xlsx, csv, Telegraf's TOML, Neuron's JSON, Kepware's CSV.")],
    into: Annotated[
        Path | None, typer.Option(help="An existing site file to bring the tags into.", metavar="SITE.yaml")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; printed where not given.", metavar="FILE")
    ] = None,
    device: Annotated[str | None, typer.Option(help="The device's name; the file's name where not given.")] = None,
    url: Annotated[str, typer.Option(help="Where the device is: a whole site file is written then.")] = "",
    link: Annotated[str | None, typer.Option(help="The link's name.")] = None,
    unit: Annotated[int | None, typer.Option(help="Unit id, where the list has none.", min=0, max=255)] = None,
    base: Annotated[
        Base | None,
        typer.Option(help="What plain numbers count from; wire takes 40001 as it stands too.", show_default=False),
    ] = None,
    area: Annotated[Area | None, typer.Option(help="The area, where the list does not say.")] = None,
    order: Annotated[Order | None, typer.Option(help="Byte order, where the list does not say.")] = None,
    source: Annotated[Source | None, typer.Option("--from", help="The file's format; told by its content.")] = None,
    driver: Annotated[str, typer.Option(help="modbus, opcua, ...; told by the addresses.")] = "",
    sheet: Annotated[list[str] | None, typer.Option(help="Only this sheet; may be given several times.")] = None,
    device_per_sheet: Annotated[bool, typer.Option("--device-per-sheet", help="Every sheet is a device.")] = False,
    encoding: Annotated[str | None, typer.Option(help="Of a csv file, such as gb18030 or shift_jis; found.")] = None,
    map_file: Annotated[
        Path | None, typer.Option("--map", help="What this list calls its columns and types.", metavar="MAPPING.yaml")
    ] = None,
    writable: Annotated[bool, typer.Option("--writable", help="Allow writing what the list calls writable.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file where it is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing, only say what would be.")] = False,
) -> None:
    """Turn a register list into a device template, a site file, or tags of a site that is there.

    Every row is checked as `check` would, and those that cannot be read are listed with file, row and column; the rest
    is written. Without --url and --into the result is a device template. Exits 1 where rows were left out.

    Example: plantbridge import meter.xlsx -o meter.yaml

    or: plantbridge import meter.csv --url tcp://192.168.1.20 -o site.yaml

    or: plantbridge import tags.xlsx --into site.yaml --device press-1
    """
    import re

    from gateway.lists.entries import ListError
    from gateway.lists.headings import load_mapping
    from gateway.lists.reading import Wanted, read_list
    from gateway.lists.rows import Reading
    from gateway.lists.sites import drivers_of

    if into is not None and output is not None:
        raise typer.BadParameter("--into says already where to write", param_hint="--output")
    if output is not None and output.exists() and not (force or dry_run):
        print(say(f"plantbridge: {output} is there already; --force replaces it, --into adds to it"), file=sys.stderr)
        raise typer.Exit(2)
    name = device or re.sub(r"[\s/+#.]+", "-", file.stem).strip("-") or "device"
    try:
        drivers = drivers_of(into) if into else {}
        if device is None and len(drivers) == 1:
            (name,) = drivers  # the site's only device
        reading = Reading(
            device=name,
            driver=driver,
            base=base.value if base else None,
            area=area.value if area else "",
            order=order.value if order else "",
            writable=writable,
            drivers=drivers,
            mapping=load_mapping(map_file),
        )
        wanted = Wanted(reading, source.value if source else "", encoding, tuple(sheet or ()), device_per_sheet)
        listed = read_list(file, wanted)
        if into and device is None and name not in drivers and any(each.name == name for each in listed.devices):
            _refuse(f"say into which --device of {into} the tags go: {', '.join(drivers)}; a new name makes a new one")
        composed = _composed(listed, file, into, output, {"url": url, "link": link, "unit": unit})
    except ListError as error:
        _report(locals().get("listed"))
        print(say(f"plantbridge: {error}"), file=sys.stderr)
        raise typer.Exit(2) from None
    _report(listed)
    if not dry_run:
        _write(composed, into, output)
    _conclude(composed, listed, into or output, dry_run=dry_run)
    raise typer.Exit(1 if any(each.severity == "error" for each in listed.findings) else 0)


def _refuse(reason: str) -> None:
    from gateway.lists.entries import ListError

    raise ListError(reason)


def _composed(
    listed: RegisterList, file: Path, into: Path | None, output: Path | None, keys: dict[str, Any]
) -> Composed:
    """Compose and check what is to be written."""
    from gateway.lists import sites

    if into is not None:
        return sites.checked(listed, lambda each: sites.compose_into(each, into, **keys))
    target = output or Path("import.yaml")
    link = keys["link"] or "line-1"
    if keys["url"] or listed.links:
        more = {"gateway": "plant", "link": link, "url": keys["url"], "broker": "mqtt://127.0.0.1:1883"}
        return sites.checked(listed, lambda each: sites.compose_site(each, target, **more, unit=keys["unit"]))
    return sites.checked(listed, lambda each: sites.compose_template(each, target, file.name))


def _report(listed: RegisterList | None) -> None:
    """Print what was taken for granted, and what could not be read, row by row."""
    import re

    if listed is None:
        return
    for note in listed.notes:
        print(say(note), file=sys.stderr)
    for finding in sorted(
        listed.findings, key=lambda each: [int(part) for part in re.findall(r"(?<=:)\d+", each.place)]
    ):
        print(say(str(finding)), file=sys.stderr)


def _write(composed: Composed, into: Path | None, output: Path | None) -> None:
    from gateway.cli.replacing import replace

    if into is None and output is None:
        print(composed.text, end="")
        return
    if into is not None and not (composed.added or composed.changed):
        return
    replace(composed.file, composed.text.encode())


def _conclude(composed: Composed, listed: RegisterList, target: Path | None, *, dry_run: bool) -> None:
    """Say what was done, and what to do next."""
    errors = sum(each.severity == "error" for each in listed.findings)
    where = composed.file if target is not None else "standard output"
    counts = _counted(composed)
    said = f"wrote {where}: {counts}"
    if dry_run:
        said = f"would write {where}: {counts}"
    elif not (composed.added or composed.changed):
        said = f"nothing to change in {where}: {counts}"
    print(say(said), file=sys.stderr)
    if errors:
        print(say(f"{errors} row{'s' if errors != 1 else ''} could not be read"), file=sys.stderr)
    if composed.kept:
        names = ", ".join(composed.kept[:8]) + (", …" if len(composed.kept) > 8 else "")
        print(say(f"not in the list, and kept: {names}"), file=sys.stderr)
    if target is None or dry_run:
        return
    if composed.kind == "template":
        print(say(f"Now: plantbridge init site.yaml --template {target} --url tcp://ADDRESS"), file=sys.stderr)
    elif composed.same or composed.changed:
        print(say(f"Now: plantbridge plan {target}"), file=sys.stderr)
    else:
        print(say(f"Now, without the device: plantbridge simulate {target} --map links.json"), file=sys.stderr)
        print(say(f"With it:                 plantbridge run {target}"), file=sys.stderr)


def _counted(composed: Composed) -> str:
    parts: Sequence[tuple[int, str]] = (
        (len(composed.added), "new"), (len(composed.changed), "changed"), (composed.same, "unchanged"),
    )  # fmt: skip
    counts = ", ".join(f"{count} {word(what)}" for count, what in parts if count)
    return f"{word(composed.kind)}, {word('tags')}: {counts}"
