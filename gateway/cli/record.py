"""`plantbridge record`: what real devices say, into a file that can be replayed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say

if TYPE_CHECKING:
    from gateway.model import Device, Link
    from gateway.recording import Recorder
    from gateway.site import Site


def record(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    devices: Annotated[
        list[str] | None, typer.Argument(help="Devices; all of them where none is named.", metavar="DEVICE")
    ] = None,
    into: Annotated[Path, typer.Option(help="Where to: FILE.parquet, FILE.arrows or FILE.csv.", metavar="FILE")] = Path(
        "trace.csv"
    ),
    lasting: Annotated[
        str | None,
        typer.Option("--for", help="How long.", metavar="DURATION", show_default="until Ctrl-C"),
    ] = None,
    play: Annotated[
        Path | None,
        typer.Option("--play", help="Also write a site file that plays the recording.", metavar="PLAY.yaml"),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(help="JSON file of link urls that stand in for the site's, as `simulate --map` writes it."),
    ] = None,
) -> None:
    """Record the readings of real devices: value, quality and time of each, exact to the bit. Reads only.

    Where the site's daemon runs, its readings are recorded and the devices notice nothing: a serial line, and many a
    device, has room for one session only. Else the devices are polled from here, at the site file's intervals; do not
    start the daemon meanwhile. Values are in engineering units, before report by exception. Exits 1 where a device gave
    no value, or readings were lost.

    Example: plantbridge record site.yaml press-1 --for 10min --into press.parquet
    then     plantbridge simulate site.yaml --replay press.parquet
    """
    from gateway.cli.run import _urls
    from gateway.cli.wanted import duration, wanted
    from gateway.config import load_site
    from gateway.errors import GatewayError
    from gateway.local.place import answered
    from gateway.recording import Recorder
    from gateway.trace import Writer

    limit = None if lasting is None else duration(lasting, "--for")
    loaded = load_site(site, links=_urls(links) if links else None, secrets=False)
    chosen = wanted(loaded, devices or [])
    try:
        writer = Writer(into)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--into") from None
    except OSError as error:
        raise GatewayError(f"{into} cannot be written: {error.strerror}") from None
    recorder = Recorder(writer)
    asked = answered(loaded.data)
    if asked:
        typer.echo(say(f"Recording from the running daemon into {into}; Ctrl-C ends it."), err=True)
    else:
        typer.echo(say(f"Recording from the devices into {into}; Ctrl-C ends it."), err=True)
    try:
        (_listen if asked else _poll)(loaded, chosen, recorder, limit)
    finally:
        try:
            writer.close()
        except OSError as error:
            raise GatewayError(f"{into} cannot be written: {error}") from None
    if play is not None:
        _write_site(play, loaded, chosen, into)
    _account(recorder, chosen, into)


def _listen(
    site: Site, chosen: Sequence[tuple[Link, list[Device]]], recorder: Recorder, duration: float | None
) -> None:
    import contextlib
    import time

    from gateway.local.client import stream
    from gateway.recording import listen

    globs = [f"{device.name}/*" for _, devices in chosen for device in devices]
    until = None if duration is None else time.monotonic() + duration
    with contextlib.suppress(KeyboardInterrupt):
        for _ in listen(stream(site.data, {"ask": "tail", "tags": globs, "journalled": False}, until), recorder):
            if recorder.failed is not None:
                return


def _poll(site: Site, chosen: Sequence[tuple[Link, list[Device]]], recorder: Recorder, duration: float | None) -> None:
    import asyncio

    from gateway.log import configure
    from gateway.loop import run_until_signal
    from gateway.recording import poll

    configure(site.log)

    async def body(stop: asyncio.Event) -> None:
        if duration is not None:
            asyncio.get_running_loop().call_later(duration, stop.set)
        await poll(chosen, recorder, stop)

    run_until_signal(body)


def _write_site(path: Path, site: Site, chosen: Sequence[tuple[Link, list[Device]]], trace: Path) -> None:
    """Write a site file that plays the recording. Raises GatewayError."""
    from gateway.errors import GatewayError
    from gateway.recording import playing

    try:
        relative = trace.absolute().relative_to(path.absolute().parent)
    except ValueError:
        relative = trace.absolute()
    try:
        path.write_text(playing(site.gateway, chosen, relative), encoding="utf-8")
    except OSError as error:
        raise GatewayError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(say(f"{path} plays it: plantbridge run {path}"), err=True)


def _account(recorder: Recorder, chosen: Sequence[tuple[Link, list[Device]]], into: Path) -> None:
    """Say what there is, and end with 1 where something is missing."""
    from gateway.errors import GatewayError

    if recorder.failed is not None:
        raise GatewayError(f"{into} cannot be written: {recorder.failed}; it ends there")
    print(say(f"{recorder.rows} readings in {into}"))
    silent = [device.name for _, devices in chosen for device in devices if device.name not in recorder.good]
    if silent:
        text = f"no value came from {', '.join(silent)}; `plantbridge probe` says why"
        print(say(text), file=sys.stderr)
    if recorder.dropped:
        print(say(f"{recorder.dropped} readings are not in it: this machine was too slow for them"), file=sys.stderr)
    raise typer.Exit(1 if silent or recorder.dropped else 0)
