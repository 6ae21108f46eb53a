"""`plantbridge account`: what every gateway took, what is stored of it, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say

if TYPE_CHECKING:
    from gateway.ledger import Ledger

PATTERN = "account*.sqlite"


@dataclass(frozen=True, slots=True)
class Lost:
    """A run of journal records that the gateway let go of and that no worker has."""

    journal: str
    first: int
    last: int
    after: int  # ns, the hour that it lies after and the one that it lies before, by its neighbours; 0: not known
    before: int


@dataclass(frozen=True, slots=True)
class Line:
    """The account of one gateway (device is empty) or one of its devices."""

    gateway: str
    device: str
    appended: int | None  # readings that the gateway says it took, ever; None: of a device, or it did not say
    stored: int  # readings, each once, of the hours that were asked for
    duplicates: int
    gaps: int  # declared
    undeclared: int  # records; must be 0
    waiting: int  # records that the gateway still has
    lost: tuple[Lost, ...] = ()
    since: int = 0  # ns: when this account of it began
    before: int = 0  # records that it had settled until then: in `appended`, in nothing else
    heard: int = 0  # ns: when it last summed up, which is when `appended` and `waiting` were so; 0: never


def account(
    cloud: Annotated[Path, typer.Argument(help="The cloud file of the workers.", metavar="CLOUD.yaml")],
    gateway: Annotated[str, typer.Option(help="Only this gateway.")] = "",
    since: Annotated[str | None, typer.Option(help="Begin: 2026-11-20T08:00, or so far back: 12 h, 7 d.")] = None,
    until: Annotated[str | None, typer.Option(help="End: a date or time.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON array, times in ns since 1970.")] = False,
) -> None:
    """Print the account of every reading: appended by the gateway, stored, come twice, declared lost, and missing.

    Readings are counted by the hour of their time: a range covers the hours that it touches. `appended` and `waiting`
    are what the gateway last said, of its whole life. The exit code is 1 where a record is undeclared: the gateway let
    go of it, and no worker has stored it. Ingest may be running.

    Example: plantbridge account /etc/plantbridge/cloud.yaml --gateway press-shop --since '7 d'
    """
    from gateway.config import load_cloud
    from gateway.errors import GatewayError

    start, end = _range(since, until)
    loaded = load_cloud(cloud)
    if not any(loaded.data.glob(PATTERN)):
        raise GatewayError(f"{loaded.data} has no account: has ingest run with {cloud}?")
    lines = [line for line in read(loaded.data, start, end) if not gateway or line.gateway == gateway]
    if gateway and not lines:
        raise GatewayError(f"no gateway {gateway} is in the account; plantbridge account {cloud} lists those that are")
    if json:
        import orjson

        typer.echo(orjson.dumps([asdict(line) for line in lines], option=orjson.OPT_INDENT_2).decode())
    else:
        _table(lines, whole=since is None and until is None)
    if any(line.undeclared for line in lines):
        raise typer.Exit(1)


def read(directory: Path, start: int = 0, end: int = 2**62) -> list[Line]:
    """Read the ledgers of all workers of a directory."""
    from gateway.ledger import Ledger

    with ExitStack() as opened:
        ledgers = []
        for path in sorted(directory.glob(PATTERN)):
            ledgers.append(Ledger(path))
            opened.callback(ledgers[-1].close)
        return lines_of(ledgers, start, end)


def lines_of(ledgers: Iterable[Ledger], start: int, end: int) -> list[Line]:
    """Put the ledgers of all workers together: a line for each gateway, followed by its devices."""
    appended: dict[str, dict[str, int]] = {}  # by gateway and journal
    waiting: dict[str, dict[str, int]] = {}
    heard: dict[tuple[str, str], int] = {}
    missing: dict[tuple[str, str], list[Lost]] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    begun: dict[tuple[str, str], tuple[int, int]] = {}
    for ledger in ledgers:
        for standing in ledger.standings():
            key = (standing.gateway, standing.journal)
            holes = [Lost(standing.journal, *hole, *ledger.when(*key, *hole)) for hole in standing.undeclared]
            missing[key] = _both(missing[key], holes) if key in missing else holes
            begun[key] = min(begun.get(key, (standing.since, standing.before)), (standing.since, standing.before))
            if standing.heard >= heard.get(key, 0):
                heard[key] = standing.heard
                if standing.heard:
                    appended.setdefault(standing.gateway, {})[standing.journal] = standing.appended
                waiting.setdefault(standing.gateway, {})[standing.journal] = standing.waiting
        for hour in ledger.hours(start, end):
            tally = counts.setdefault((hour.gateway, hour.device), [0, 0, 0])
            for place, number in enumerate((hour.delivered, hour.duplicates, hour.gaps)):
                tally[place] += number
    lines = []
    for gateway in sorted({name for name, _ in missing}):
        devices = {device: tally for (name, device), tally in sorted(counts.items()) if name == gateway}
        lost = tuple(
            each
            for (name, _), found in sorted(missing.items())
            if name == gateway
            for each in found
            if (not each.after or each.after < end) and (not each.before or each.before > start)
        )
        total = [sum(column) for column in zip(*devices.values(), strict=True)] or [0, 0, 0]
        said = appended.get(gateway)
        undeclared = sum(each.last - each.first + 1 for each in lost)
        still = sum(waiting.get(gateway, {}).values())
        took = sum(said.values()) if said else None
        journals = [key for key in begun if key[0] == gateway]
        line = Line(gateway, "", took, total[0], total[1], total[2], undeclared, still, lost)
        since, before = min(begun[key][0] for key in journals), sum(begun[key][1] for key in journals)
        lines.append(replace(line, since=since, before=before, heard=max(heard.get(key, 0) for key in journals)))
        lines += [
            Line(gateway, device, None, tally[0], tally[1], tally[2], 0, 0)
            for device, tally in devices.items()
            if device
        ]
    return lines


def _both(one: list[Lost], other: list[Lost]) -> list[Lost]:
    """Give what is missing in both: a worker may not have heard yet what another has stored."""
    from gateway.ranges import Ranges

    has_not = Ranges((each.first, each.last) for each in other)
    found = []
    for each in one:
        there = has_not.within(each.first, each.last)
        found += [Lost(each.journal, *run, each.after, each.before) for run in there]
    return found


def _range(since: str | None, until: str | None) -> tuple[int, int]:
    """Give begin and end in ns. Raises BadParameter."""
    import time

    from gateway.cli.query import instant
    from gateway.options import seconds

    try:
        if since is None:
            start = 0
        elif since[:4].isdigit() and "-" in since:
            start = instant(since)
        else:
            start = time.time_ns() - round(seconds(since) * 1e9)
        return start, instant(until) if until else 2**62
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _table(lines: list[Line], *, whole: bool) -> None:
    import sys

    from rich.console import Console

    from gateway.cli.query import local
    from gateway.cli.shown import table

    made = table(
        "gateway", "device", "appended", "stored", "duplicates", "gaps", "undeclared", "waiting",
        box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for line in lines:
        own = not line.device
        made.add_row(
            line.gateway if own else "",
            line.device,
            ("?" if line.appended is None else f"{line.appended:,}") if own else "",
            *(f"{number:,}" for number in (line.stored, line.duplicates, line.gaps)),
            *((f"{line.undeclared:,}", f"{line.waiting:,}") if own else ("", "")),
        )
    wide = None if sys.stdout.isatty() else 1000
    Console(width=wide, highlight=False, markup=False, emoji=False).print(made)
    for line in lines:
        for each in line.lost:
            when = f"after {local(each.after)}" if each.after else "at the beginning"
            when += f", before {local(each.before)}" if each.before else ""
            typer.echo(
                say(f"{line.gateway}: records {each.first} to {each.last} of journal {each.journal} are lost, {when}")
            )
    for line in lines:
        for text in () if line.device else puzzles(line, whole=whole):
            typer.echo(say(text))


def puzzles(line: Line, *, whole: bool) -> Iterator[str]:
    """Say why a gateway's numbers do not add up where nothing is lost; `whole`: all of the account was asked for."""
    from gateway.cli.query import local

    name = line.gateway
    if not line.heard:
        yield f"{name} has not summed up yet, as it does each minute: what it appended and what waits is not known."
        return
    when = local(line.heard // 10**6 * 10**6)
    if line.before:
        yield (
            f"{name}: this account began at {local(line.since // 10**6 * 10**6)}, after the gateway had sent"
            f" {line.before} records. They are in `appended`, which is of its whole life, and in no other column."
        )
    if not whole:
        yield f"{name}: `appended` and `waiting` are of its whole life, the other columns of the hours asked for."
    elif line.appended is not None and line.appended < line.stored:
        yield (
            f"{name}: `appended` and `waiting` are what it said at {when}; what it has read since then is stored"
            " already, and not in them."
        )
    elif line.appended is not None and line.appended > line.stored and not (line.waiting or line.before or line.gaps):
        yield f"{name}: {line.appended - line.stored} readings that it told of at {when} are on their way."
