"""`plantbridge init`: a first site file, from flags or from questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say

if TYPE_CHECKING:
    from gateway.lists.start import Start, Template


def init(
    file: Annotated[Path, typer.Argument(help="The site file to write.", metavar="SITE.yaml")] = Path("site.yaml"),
    template: Annotated[
        str | None, typer.Option(help="The device's template: a shipped one, or a file beside the site file.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Where the device is: tcp://192.168.1.20, rtu:///dev/ttyUSB0, ...")
    ] = None,
    driver: Annotated[str | None, typer.Option(help="modbus, opcua, ...; that of the template.")] = None,
    device: Annotated[str | None, typer.Option(help="The device's name.")] = None,
    unit: Annotated[int | None, typer.Option(help="Modbus unit id.", min=0, max=255)] = None,
    link: Annotated[str, typer.Option(help="The link's name.")] = "line-1",
    gateway: Annotated[str | None, typer.Option(help="The gateway's name, part of every topic.")] = None,
    broker: Annotated[str | None, typer.Option(help="The MQTT broker: mqtt://HOST.")] = None,
    cloud: Annotated[
        Path | None, typer.Option(help="Write the file of the cloud side for this broker too.", metavar="CLOUD.yaml")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    templates: Annotated[bool, typer.Option("--templates", help="List the shipped templates, and do nothing.")] = False,
) -> None:
    """Write a first site file that passes `check`. In a terminal it asks for what no option says.

    Example: plantbridge init site.yaml --template eastron-sdm630 --url tcp://192.168.1.20 --cloud cloud.yaml
    """
    from gateway.lists.entries import ListError

    if templates:
        _list_templates()
        return
    there = [str(each) for each in (file, cloud) if each is not None and each.exists()]
    if there and not force:
        print(
            say(
                f"plantbridge: {' and '.join(there)} {'are' if len(there) > 1 else 'is'} there already;"
                " --force replaces what is there"
            ),
            file=sys.stderr,
        )
        raise typer.Exit(2)
    try:
        start = _start(file, template, url, driver, device, unit, link, gateway, broker)
        _write(start, file, cloud)
    except ListError as error:
        print(say(f"plantbridge: {error}"), file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        print(say(f"plantbridge: {error.filename} cannot be written: {error.strerror}"), file=sys.stderr)
        raise typer.Exit(1) from None
    _conclude(start, file, cloud)


def _start(
    file: Path,
    template: str | None,
    url: str | None,
    driver: str | None,
    device: str | None,
    unit: int | None,
    link: str,
    gateway: str | None,
    broker: str | None,
) -> Start:
    """Fill in what no option says: by asking in a terminal, else by what works on this machine."""
    from gateway.lists.entries import ListError
    from gateway.lists.start import EXAMPLES, Start, template_named
    from gateway.names import driver_names

    asking = sys.stdin.isatty() and sys.stdout.isatty()

    def ask(question: str, usual: str) -> str:
        answer: str = typer.prompt(question, default=usual, show_default=bool(usual)) if asking else usual
        return answer.strip()

    if template is None:
        template = ask("Device template (--templates lists them; empty for none)", "") if asking else ""
    found: Template | None = template_named(template, file.parent) if template else None
    wanted = driver or (found.driver if found else ask("Driver", "modbus"))
    if wanted not in driver_names():
        raise ListError(f"there is no driver {wanted}; here are {', '.join(driver_names())}")
    if found is not None and found.driver != wanted:
        raise ListError(f"the template {template} is for the driver {found.driver}, not for {wanted}")
    return Start(
        gateway=gateway or ask("Name of the gateway", "plant"),
        driver=wanted,
        url=url or ask("Where the device is", EXAMPLES.get(wanted, EXAMPLES["modbus"])[0]),
        link=link,
        device=device or ask("Name of the device", "meter-1" if template else "device-1"),
        template=template,
        unit=unit if unit is not None or wanted != "modbus" else int(ask("Modbus unit id", "1")),
        broker=broker or ask("MQTT broker", "mqtt://127.0.0.1:1883"),
    )


def _write(start: Start, file: Path, cloud: Path | None) -> None:
    """Check what is to be written, and write it. Raises ConfigError."""
    from gateway.config.kinds import check_file
    from gateway.errors import ConfigError
    from gateway.lists.start import cloud_text, site_text

    texts = {file: site_text(start)} | ({cloud: cloud_text(start.broker)} if cloud is not None else {})
    for path, text in texts.items():
        problems = check_file(path, instead={path.resolve(): text}).problems
        if any(problem.severity == "error" for problem in problems):
            raise ConfigError(problems)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _conclude(start: Start, file: Path, cloud: Path | None) -> None:
    """Say what is there now, and the next command."""
    what = f"{start.device} ({start.template or start.driver}) at {start.url}"
    print(say(f"wrote {file}: {what}"))
    if cloud is not None:
        print(say(f"wrote {cloud}: what gateways publish to {start.broker} goes into a DuckDB file"))
    print(say(f"Try it without the device: plantbridge simulate {file} --map links.json"))
    print(say(f"With the device:           plantbridge run {file}"))
    if cloud is not None:
        print(say(f"The cloud side:            plantbridge ingest {cloud}"))


def _list_templates() -> None:
    from gateway.lists.start import templates

    for each in templates():
        print(f"{each.name:<24} {each.driver:<8} {each.description}")
