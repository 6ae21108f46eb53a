"""`plantbridge explain`: why a tag is not updating, or why it has this value."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli import asked
from gateway.cli.asked import Place
from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.local.sentences import Account
    from gateway.site import Site

_WIDTH: Final = 120  # where the output is no terminal
_RULES: Final = {
    "uncertain": "a value outside would be marked uncertain",
    "bad": "a value outside would be marked bad",
    "clamp": "a value outside would be set to the limit",
}


def explain(
    site: Place,
    tag: Annotated[str, typer.Argument(help="The tag.", metavar="DEVICE/TAG")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say why a tag is not updating, or why it has the value it has: its whole path, from the running daemon.

    From its line in the site file over the request it is in, the bytes that came, what scale and limits make of them,
    report by exception and the journal to what the brokers took. Exits 1 where something on the way is wrong.

    Example: plantbridge explain site.yaml press-1/oil-pressure
    """
    from gateway.local.client import NotRunning, ask
    from gateway.local.sentences import account

    data, loaded = asked.found(site)
    try:
        found = ask(data, {"ask": "explain", "tag": tag})
    except NotRunning as error:
        if loaded is None:
            raise
        _without(loaded, site, tag, str(error), json=json)
        raise typer.Exit(1) from None
    told = account(found, str(site))
    if json:
        _print_json({"running": True, "well": told.well, "said": told.said, "next": told.next, **found})
    else:
        _show(found, told)
    raise typer.Exit(0 if told.well else 1)


def _print_json(body: dict[str, Any]) -> None:
    import orjson

    print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())


def _without(site: Site, path: Path, name: str, reason: str, *, json: bool) -> None:
    """Tell what the file alone says of a tag. Raises GatewayError where there is none."""
    from gateway.config.plans import plan_links
    from gateway.errors import GatewayError
    from gateway.local.plant import definition, missing

    device, _, tag_name = name.partition("/")
    plans, _ = plan_links(site.links)
    for plan in (each for link in plans for each in link.groups if each.group.device == device):
        for tag in (tag for table in plan.group.tables for tag in table.tags if tag.name == tag_name):
            about = definition(tag, plan.group)
            requests = [each.text for each in plan.requests]
            commands = [f"plantbridge run {path}", f"plantbridge probe {path} {device}"]
            said = f"{name} does not update: {reason}."
            if json:
                _print_json({"running": False, "well": False, "said": [said], "next": commands, "definition": about})
                return
            print(say(said))
            print(say(f"It is defined at {about['where']}, and read every {about['interval'] / 1e9:g} s in one of"))
            for text in requests[:5]:
                print(f"  {say(text)}")
            print(word("Next:"), *commands, sep="\n  ")
            return
    raise GatewayError(missing(name, site.tables))


def _show(found: dict[str, Any], told: Account) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    for sentence in told.said:
        console.print(escape(say(sentence)))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts(found):
        table.add_row(word(name), escape(say(text)))
    console.print()
    console.print(table)
    console.print(f"\n[cyan]{word('Next:')}[/]")
    for command in told.next:
        console.print(f"  {escape(command)}", soft_wrap=True)


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Give the tag's path as names and texts, in its order."""
    from gateway.cli.shown import ago, code, lasting, moment, value

    now, about, scan = found["now"], found["definition"], found["scan"]
    unit, states = about.get("unit", ""), about.get("states")
    rows = [
        ("definition", f"{about['where']}: {about.get('address', '')} ({about.get('type', '')})"),
        ("link, device", f"{found['link']['link']}, {found['device']['device']}"),
    ]
    if about["said"]:
        told = {"unit": f"unit {unit}", "range": f"range {about.get('min', 'any')} to {about.get('max', 'any')}"}
        rows.append(("the device says", ", ".join(told[each] for each in about["said"])))
    if (answer := found["answer"]) is not None:
        rows.append(
            ("request", f"{answer['request']}; requests in a scan of group {scan['group']}: {found['requests']}")
        )
    outcome = f"failed: {scan['outcome']}" if scan["outcome"] else "answered"
    if scan["subscribed"]:
        rows.append(("last report", f"{ago(scan['began'], now)}, of any tag of the group"))
    else:
        every = lasting(scan["interval"] / 1e9)
        began = ago(scan["began"], now)
        took = f"{began}, took {lasting(scan['took'])}, {outcome}; one every {every}"
        rows.append(("last scan", took if scan["began"] else f"{began}; one every {every}"))
    if answer is not None:
        came = (
            f"{answer['data']}, received at {moment(answer['time'])}"
            if answer["data"] and answer["time"]
            else "none kept"
        )
        rows.append(("last answer", f"{came}{'; ' + answer['note'] if answer['note'] else ''}"))
        rows.append(("raw value", f"{value(answer['value'])}, {code(answer['quality'])}"))
    rows += [("normalise", step) for step in steps(about)]
    if found["normalised"] is not None:
        normal = found["normalised"]
        rows.append(("value", f"{value(normal['value'], unit, states)}, {code(normal['quality'])}"))
    rows += _passed(found, unit, states)
    for each in found["publishers"]:
        state = "up" if each["up"] else f"down: {each.get('reason', '')}"
        taken = (
            f"last PUBACK {ago(each['taken_at'], now)} (record {each['taken']})" if each["taken_at"] else "no PUBACK"
        )
        waits = "its last record is kept still" if each["waits"] else "nothing of it waits"
        what = f"{state}; done with all up to record {each['cursor']}, {taken}, {waits}"
        rows.append((f"publisher {each['publisher']}", what if each["shows"] else f"{state}; does not tell it"))
    return rows


def _passed(found: dict[str, Any], unit: str, states: dict[str, str] | None) -> list[tuple[str, str]]:
    from gateway.cli.shown import ago, code, value

    now, about, passed = found["now"], found["definition"], found["passed"]
    rows = []
    if about["deadband"] is None:
        rows.append(("exception", "no deadband: every new reading is reported"))
    else:
        silence = f"{about['max_silence'] / 1e9:g} s" if about["max_silence"] else "no limit"
        deadband = f"{about['deadband']:g} {unit}".rstrip()
        rows.append(("exception", f"deadband {deadband}, max_silence {silence}"))
        for name, cell in (("last reported", passed["reported"]), ("held back", passed["held"])):
            if cell is not None:
                text = f"{value(cell['value'], unit, states)}, {code(cell['quality'])}, {ago(cell['time'], now)}"
                rows.append((name, text))
    last = passed["sequence"]
    committed = found["journal"]["committed"]
    if last:
        state = "on disk" if last <= committed else "not yet committed"
        rows.append(("journal", f"last record of its table is {last} ({state}); the journal is at {committed}"))
    else:
        rows.append(("journal", f"no record of its table since the daemon started; the journal is at {committed}"))
    return rows


def steps(about: dict[str, Any]) -> list[str]:
    """Give what normalise does with this tag, in its order."""
    found = []
    if about["not_available"]:
        found.append(f"{', '.join(f'{each:g}' for each in about['not_available'])} means no value")
    if "scale" in about or "offset" in about:
        scale, offset = (float(Fraction(about.get(key, default))) for key, default in (("scale", 1), ("offset", 0)))
        found.append(f"raw x {scale:.10g}" + (f" {'-' if offset < 0 else '+'} {abs(offset):.10g}" if offset else ""))
    if ("min" in about or "max" in about) and "range" not in about["said"]:
        found.append(f"limits {about.get('min', 'any')}..{about.get('max', 'any')}: {_RULES[about['out_of_range']]}")
    if "states" in about:
        found.append(f"{len(about['states'])} named states; a number without a name would be marked uncertain")
    return found or ["as it comes"]
