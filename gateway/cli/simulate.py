"""`plantbridge simulate`: a stand-in for every device of a site file, so that it can be tried without the plant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from gateway.config import Site
    from simulators.playing import Playing
    from simulators.scenario import Step
    from simulators.site import SiteSimulator


def simulate(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="Write {link: url} as JSON here, for `run --links`.", metavar="FILE"),
    ] = None,
    port_base: Annotated[
        int, typer.Option(help="First port for links whose own address is not here; 0: ports of the system's choice.")
    ] = 0,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Do not use the links' own addresses even where they are here.")
    ] = False,
    terminals: Annotated[
        bool, typer.Option("--terminals", help="Pseudo terminals for serial lines, instead of frames over TCP.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse registers between tags, as some devices do; else they read as 0.")
    ] = False,
    tick: Annotated[str, typer.Option(help="How long a simulated value holds.")] = "100 ms",
    scenario: Annotated[
        Path | None, typer.Option(help="What goes wrong, and when: a YAML file of steps.", metavar="FILE.yaml")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Play a recording in the place of made-up values.", metavar="TRACE")
    ] = None,
    speed: Annotated[float, typer.Option(help="Play it so many times faster.", min=1e-6)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="End with the recording, instead of beginning again.")] = False,
    log: Annotated[
        Path | None, typer.Option(help="Write when each step began and ended: a JSON object in a line.", metavar="FILE")
    ] = None,
    when: Annotated[
        Path | None, typer.Option(help="Begin the scenario once this file is there.", metavar="FILE")
    ] = None,
    pki: Annotated[
        Path | None, typer.Option(help="Folder for the certificate of OPC UA servers.", show_default="simulator-pki")
    ] = None,
) -> None:
    """Run a simulated device for every link of a site file until Ctrl-C.

    A link whose address is on this machine is simulated there, and `plantbridge run SITE.yaml` needs nothing more.
    The others are simulated on 127.0.0.1: write the addresses to a file, and give it to `run`. With a scenario, devices
    fall silent, values freeze, links drop; docs/guide/simulator.md lists what can go wrong. A recording, as `record`
    writes it, plays with its own timing on the registers and nodes of its tags; the other tags make up values.

    Example: plantbridge simulate site.yaml --map links.json
             plantbridge simulate site.yaml --replay press.parquet --speed 10
    then     plantbridge run site.yaml --links links.json
    """
    from gateway.cli.wanted import duration
    from gateway.config import load_site
    from simulators.scenario import load_scenario
    from simulators.site import SiteSimulator

    ticks = round(duration(tick, "--tick") * 1e9)
    loaded = load_site(site)
    steps = load_scenario(scenario, loaded) if scenario is not None else ()
    cut = {step.link for step in steps if step.proxied}
    lines = [
        link.name for link in loaded.links if link.name in cut and link.options.url.startswith(("rtu:///", "ascii:///"))
    ]
    if terminals and lines:
        raise typer.BadParameter(
            f"the scenario cuts {', '.join(lines)}, and a pseudo terminal cannot be cut", param_hint="--terminals"
        )
    playing = _playing(replay, loaded, steps, speed) if replay is not None else None
    if playing is None and (once or speed != 1):
        raise typer.BadParameter("there is nothing to play", param_hint="--replay")
    simulator = SiteSimulator(
        loaded,
        tick=ticks,
        port_base=port_base,
        own_addresses=not free_ports,
        terminals=terminals,
        holes=not strict,
        steps=steps,
        pki=pki or site.parent / "simulator-pki",
        playing=playing,
        note=_noting(log, playing),
    )
    lasting = playing.trace.length / 1e9 / speed if playing is not None and once else None
    _run(loaded, simulator, site, map_file, lasting, when)


def _playing(path: Path, site: Site, steps: Sequence[Step], speed: float) -> Playing:
    """Load a recording that fits the site. Raises BadParameter."""
    import time

    from gateway.trace import load
    from simulators.playing import Playing

    if any(step.fault == "ramp" for step in steps):
        raise typer.BadParameter("a recording does not ramp: leave one of them out", param_hint="--replay")
    try:
        trace = load(path)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="--replay") from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--replay") from None
    tags = {f"{table.device}/{name}" for table in site.tables for name in table.names}
    if not tags & set(trace.series):
        some = next(iter(trace.series))
        reason = f"no series of {path} is a tag of the site: its first is {some}, a tag {min(tags)}"
        raise typer.BadParameter(reason, param_hint="--replay")
    print(say(f"{len(tags & set(trace.series))} of {len(tags)} tags play {path}"), flush=True)
    return Playing(trace, time.time_ns(), speed)


def _noting(path: Path | None, playing: Playing | None) -> Callable[[dict[str, int]], None]:
    """Give what writes entries to a file, the first of which says when the recording began."""
    import json

    if path is None:
        return lambda _entry: None
    file = path.open("w", encoding="utf-8", buffering=1)
    if playing is not None:
        file.write(json.dumps({"playing": playing.start}) + "\n")
    return lambda entry: print(json.dumps(entry), file=file)


def _run(
    site: Site,
    simulator: SiteSimulator,
    path: Path,
    map_file: Path | None,
    lasting: float | None,
    when: Path | None,
) -> None:
    import asyncio
    import logging
    import sys

    from gateway.loop import run_until_signal
    from simulators.site import PortTaken

    logging.getLogger("asyncua").setLevel(logging.ERROR)

    async def body(stop: asyncio.Event) -> None:
        async with simulator:
            if map_file is not None:
                write_map(map_file, simulator.urls)
            elsewhere = any(_moved(each.link.options.url, each.url) for each in simulator.links if each.url)
            show(table(site, simulator), path, map_file, elsewhere=elsewhere)
            print("READY", flush=True)
            playing = asyncio.create_task(_play(simulator, when))
            stopped = asyncio.create_task(stop.wait())
            if lasting is not None:
                asyncio.get_running_loop().call_later(lasting, stop.set)
            await asyncio.wait((playing, stopped), return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
                await stopped
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    try:
        run_until_signal(body)
    except PortTaken as error:
        print(say(f"plantbridge: {error} (--free-ports finds others)"), file=sys.stderr)
        raise typer.Exit(1) from None


async def _play(simulator: SiteSimulator, when: Path | None) -> None:
    """Let the scenario happen, once its file is there."""
    import asyncio

    while True:
        if when is None or when.exists():
            break
        await asyncio.sleep(0.05)
    await simulator.play(lambda text: print(say(text), flush=True))


def _moved(own: str, there: str) -> bool:
    """Say whether the stand-in has another place than the link's own url names."""
    from urllib.parse import urlsplit

    wanted, got = urlsplit(own.replace("//localhost", "//127.0.0.1")), urlsplit(there)
    return wanted.hostname != got.hostname or wanted.port not in (None, got.port)


def write_map(path: Path, urls: dict[str, str]) -> None:
    """Write the file in one step: who waits for it finds it whole."""
    import json

    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(urls, indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def table(site: Site, simulator: SiteSimulator) -> Table:
    """Say for each link where its stand-in is."""
    from gateway.cli import shown as ways

    notes = any(each.note for each in simulator.links)
    title = say(f"simulated site {site.gateway}")
    shown = ways.table("link", "devices", "tags", "simulated at", *([""] if notes else []), right=["tags"], title=title)
    for each in simulator.links:
        names = ", ".join(device.name for device in each.link.devices)
        tags = sum(len(table) for table in each.link.tables)
        shown.add_row(each.link.name, names, str(tags), each.url or "-", *([say(each.note)] if notes else []))
    return shown


def show(shown: Table, path: Path, map_file: Path | None, *, elsewhere: bool) -> None:
    """Print the table, and how to go on."""
    from rich.console import Console

    console = Console()
    console.print(shown)
    if elsewhere and map_file is None:
        console.print(
            say(
                "Not at the addresses of the site file: `run` would look for the real devices. Begin again with "
                "--map links.json to try it with these."
            ),
            markup=False,
            highlight=False,
        )
        return
    links = f" --links {map_file}" if map_file is not None else ""
    console.print(say(f"Now: plantbridge run {path}{links}"), markup=False, highlight=False)
