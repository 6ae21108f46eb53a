"""`plantbridge status`: how the running daemon is, and what to do about what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli import asked
from gateway.cli.asked import Place
from gateway.language import say, word

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from gateway.local.problems import Trouble
    from gateway.site import Site

_WIDTH: Final = 120  # where the output is no terminal


def status(
    site: Place,
    over: Annotated[str, typer.Option(help="Over how long rates are measured.", metavar="DURATION")] = "1 s",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask the running daemon how its links, devices, journal and publishers are, and what to do about what is wrong.

    It is asked over a socket in its data directory, by whoever may use the daemon's files. Where no daemon runs that is
    said, with what its journal holds. Exits 1 where anything is wrong.

    Example: plantbridge status site.yaml
    """
    from gateway.cli.wanted import duration
    from gateway.local.client import NotRunning, ask
    from gateway.local.problems import troubles

    wait = duration(over, "--over")
    data, loaded = asked.found(site)
    try:
        answer = ask(data, {"ask": "status", "over": wait}, timeout=30 + wait)
    except NotRunning as error:
        if loaded is None:
            raise
        _without(loaded, site, str(error), json=json)
        raise typer.Exit(1) from None
    found = troubles(answer, str(site))
    if json:
        _print_json({"running": True, **answer, "problems": [{"what": each.what, "do": each.do} for each in found]})
    else:
        _show(answer, found)
    raise typer.Exit(1 if found else 0)


def _print_json(body: dict[str, Any]) -> None:
    import orjson

    print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())


def _without(site: Site, path: Path, reason: str, *, json: bool) -> None:
    """Tell what can be told without the daemon."""
    from dataclasses import asdict

    from gateway.cli.shown import moment
    from gateway.errors import JournalError
    from gateway.journal import survey

    try:
        found = survey(site.data / site.journal.directory)
    except JournalError as error:
        journal, said = None, [str(error)]
    else:
        journal = asdict(found)
        said = [
            f"Its journal holds {found.records} records ({found.readings} readings), until {moment(found.newest or 0)}."
        ]
        for each in found.publishers:
            waits = f"{each.pending_readings} readings in {each.pending_records} records to send"
            said.append(f"Publisher {each.name} has {waits if each.pending_records else 'sent all'}.")
    start = f"plantbridge run {path}, or systemctl start plantbridge"
    if json:
        problem = {"what": reason, "do": start}
        _print_json({"running": False, "gateway": site.gateway, "journal": journal, "problems": [problem]})
        return
    print(f"{site.gateway}: {say(reason)}.")
    for line in said:
        print(say(line))
    print(say(f"To start it: {start}"))


def _show(answer: dict[str, Any], found: list[Trouble]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for part in (_head(answer), _devices(answer), _publishers(answer)):
        console.print(part)
    if not found:
        console.print(f"[green]{say('Nothing is wrong.')}[/]")
    for number, each in enumerate(found, 1):
        console.print(f"[bold red]{number}.[/] {_escaped(say(each.what))}", highlight=False)
        console.print(f"   [cyan]{say('to do:')}[/] {_escaped(say(each.do))}", highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _head(answer: dict[str, Any]) -> RenderableType:
    from gateway.cli.shown import lasting, rate, size

    journal = answer["journal"]
    up = lasting((answer["now"] - answer["started"]) / 1e9)
    share = journal["bytes"] / journal["max_size"]
    head = (
        f"{answer['version']}, process {answer['pid']}, up {up}; the journal takes {size(journal['bytes'])}"
        f" ({share:.1%} of {size(journal['max_size'])}), {rate(answer['journalled'])} readings/s come in"
    )
    return f"[bold]{_escaped(answer['gateway'])}[/] {_escaped(say(head))}"


def _devices(answer: dict[str, Any]) -> Table:
    from gateway.cli.shown import ago, lasting, rate, table

    numbers = ("tags", "bad", "every", "last scan", "took", "skipped", "readings/s")
    made = table(
        "link / device / group", "state", "tags", "bad", "every", "last scan", "took", "skipped", "readings/s",
        right=numbers,
    )  # fmt: skip
    made.columns[1].no_wrap = True
    for link in answer["links"]:
        made.add_row(f"[bold]{_escaped(link['link'])}[/] {_escaped(link['url'])}", _state(link["up"]))
        for device in link["devices"]:
            made.add_row(f"  {_escaped(device['device'])}", _state(device["up"]), *[""] * 6, rate(device["readings"]))
            for group in device["groups"]:
                bad = f"[bold red]{group['bad']}[/]" if group["bad"] else "" if group["subscribed"] else "0"
                took = "" if group["subscribed"] else lasting(group["took"])
                every = say("on change") if group["subscribed"] else lasting(group["interval"] / 1e9)
                last = ago(group["began"], answer["now"])
                cells = (str(group["tags"]), bad, every, last, took, str(group["skipped"]))
                made.add_row(f"    {_escaped(group['group'])}", "", *cells, "")
    return made


def _state(up: bool | None) -> str:
    if up is None:
        return f"[yellow]{word('not tried')}[/]"
    return f"[green]{word('up')}[/]" if up else f"[bold red]{word('down')}[/]"


def _publishers(answer: dict[str, Any]) -> Table:
    from gateway.cli.shown import ago, rate, table

    made = table("publisher", "state", "to send", "last taken", "readings/s")
    for each in answer["publishers"]:
        waits = say(f"{each['pending_records']} records") if each["pending_records"] > 0 else word("nothing")
        name = f"{_escaped(each['publisher'])} {_escaped(' or '.join(each['url']))}"
        made.add_row(name, _state(each["up"]), waits, ago(each["taken_at"], answer["now"]), rate(each["readings"]))
    return made
