"""`plantbridge plan`: what will be read from each device, in which requests, and whether there is time for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.language import say

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.config.plans import GroupPlan, LinkPlan
    from gateway.contracts import Differs
    from gateway.model import Link

_WIDTH: Final = 120  # where the output is no terminal
_SHOWN: Final = 100  # differences between file and server


def plan(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE.yaml")],
    summary: Annotated[bool, typer.Option("--summary", help="Poll groups only, without their requests.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    online: Annotated[
        bool,
        typer.Option("--online", help="Connect; tell what servers make of subscriptions, and where they differ."),
    ] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="With --online: write units, ranges and states into the file where it says none."),
    ] = False,
) -> None:
    """Show the requests of every poll group, how long a scan takes, and how busy each link will be.

    With --online also what the server revised of each subscription, and which of its types, units, ranges and names of
    states are not those of the file.

    With --write what the file does not say of these is written into it; its comments stay, and what it says stays too.

    Nothing is connected to but with --online; times are estimates. A link with a load above 100 % cannot keep its
    intervals. Exits 1 where one is, or cannot be reached with --online.

    Example: plantbridge plan site.yaml --summary
    """
    from gateway.config import load_site
    from gateway.config.plans import plan_links
    from gateway.errors import ConfigError

    if write and not online:
        raise typer.BadParameter("what is to be written comes from the servers: add --online", param_hint="--write")
    links = load_site(site, secrets=online).links
    plans, problems = plan_links(links)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    answers = [_online(link) for link in links] if online else []
    differ: list[Differs] = [each for answer in answers for each in answer.pop("said")]
    if json:
        import orjson

        body: dict[str, Any] = {"links": [_link_json(each) for each in plans]}
        if online:
            body["online"] = answers
        print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
    else:
        from rich.console import Console
        from rich.markup import escape

        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        for each in plans:
            console.print(_table(each, requests=not summary))
            if each.load > 1:
                said = say(f"The link {each.link.name} is overbooked: its scans need {each.load:.0%} of the time.")
                console.print(f"[bold red]{escape(said)}[/]")
            console.print()
        for answer in answers:
            console.print(_answer(answer))
            if answer["differ"]:
                console.print(_differ(answer))
    if write:
        _write(site, links, differ)
    if any(each.load > 1 for each in plans) or any(answer["error"] for answer in answers):
        raise typer.Exit(1)


def _online(link: Link) -> dict[str, Any]:
    """Connect to a link's peer and ask for what its subscribed groups need."""
    import asyncio
    import dataclasses

    from gateway.contracts import Agreed, Comparing, Negotiating, Subscribing
    from gateway.errors import DeviceError
    from gateway.names import open_driver

    async def ask() -> tuple[list[Agreed], list[Differs]]:
        driver = open_driver(link)
        plans = [driver.plan(group.tables) for device in link.devices for group in device.groups]
        agreed: list[Agreed] = []
        differ: list[Differs] = []
        try:
            await driver.connect()
            if isinstance(driver, Negotiating) and isinstance(driver, Subscribing):
                agreed = await driver.agree([each for each in plans if driver.subscribes(each)])
            if isinstance(driver, Comparing):
                differ = await driver.compare(plans)
        finally:
            await driver.close()
        return agreed, differ

    answer: dict[str, Any] = {"link": link.name, "error": "", "agreed": [], "differ": [], "said": []}
    try:
        agreed, differ = asyncio.run(ask())
    except DeviceError as error:
        return {**answer, "error": str(error)}
    answer["agreed"] = [dataclasses.asdict(each) for each in agreed]
    answer["differ"] = [
        {name: value for name, value in dataclasses.asdict(each).items() if name != "keys"} for each in differ
    ]
    answer["said"] = differ
    return answer


def _write(site: Path, links: Sequence[Link], said: Sequence[Differs]) -> None:
    """Write what servers say and the file does not into the file. Raises ConfigError, ListError."""
    from gateway.cli.replacing import replace
    from gateway.lists.fill import filled

    made = filled(site, links, said)
    for file, text in made.texts.items():
        replace(file, text.encode())
        print(say(f"{file}: written"), file=sys.stderr)
    print(say(f"{_count(len(made.tags), 'tag')} filled in from the servers"), file=sys.stderr)
    if made.left:
        left = ", ".join(made.left[:10]) + (", ..." if len(made.left) > 10 else "")
        unwritten = f"{_count(len(made.left), 'tag')} not written (of a template, of a slice, or said in part): {left}"
        print(say(unwritten), file=sys.stderr)


def _answer(answer: dict[str, Any]) -> Table | str:
    from rich.markup import escape

    from gateway.cli.shown import table

    if answer["error"]:
        return f"[bold red]{escape(answer['link'])}:[/] {escape(say(answer['error']))}"
    if not answer["agreed"]:
        return escape(say(f"{answer['link']}: connected; nothing is subscribed"))
    made = table("device / group", "", "asked", "got", title=escape(answer["link"]))
    for each in answer["agreed"]:
        style = None if each["asked"] == each["got"] else "yellow"
        name = escape(f"{each['device']} / {each['group']}")
        made.add_row(name, say(each["what"]), say(each["asked"]), say(each["got"]), style=style)
    return made


def _differ(answer: dict[str, Any]) -> Table:
    """Show where the server does not agree with the file."""
    from rich.markup import escape

    from gateway.cli.shown import table

    differ = answer["differ"]
    more = f"; {len(differ) - _SHOWN} more with --json" if len(differ) > _SHOWN else ""
    title = f"{answer['link']}: the server says otherwise than the file of {_count(len(differ), 'key')}{more}"
    made = table("tag", "", "file", "server", title=escape(say(title)), title_style="yellow")
    for each in differ[:_SHOWN]:
        name = escape(f"{each['device']}/{each['tag']}")
        made.add_row(name, say(each["what"]), escape(each["file"]), escape(each["server"]))
    return made


def _table(plan: LinkPlan, *, requests: bool) -> Table:
    from rich.markup import escape

    from gateway.cli.shown import table

    title = escape(say(f"{plan.link.name} ({plan.link.driver}), load {plan.load:.1%}"))
    numbers = ("requests", "wanted", "fetched", "time", "interval", "load")
    made = table(
        "device / group", "request" if requests else "requests", "wanted", "fetched", "time", "interval", "load",
        right=numbers, title=title, title_style="bold",
    )  # fmt: skip
    for group in plan.groups:
        name = escape(f"{group.group.device} / {group.group.name}")
        count = len(group.requests)
        wanted, fetched = (
            (sum(each) for each in zip(*((r.wanted, r.fetched) for r in group.requests), strict=True))
            if count
            else (0, 0)
        )
        busy = f"[bold red]{group.load:.1%}[/]" if group.load > 1 else f"{group.load:.1%}"
        what = f"{_count(group.tags, 'tag')} in {_count(count, 'request')}" if requests else str(count)
        interval = lasting(group.group.interval / 1e9)
        made.add_row(
            name,
            say(what),
            str(wanted),
            str(fetched),
            lasting(group.seconds),
            interval,
            busy,
            style="bold" if requests else None,
        )
        for each in group.requests if requests else ():
            made.add_row("", escape(say(each.text)), str(each.wanted), str(each.fetched), lasting(each.seconds), "", "")
        if requests:
            made.add_section()
    return made


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def lasting(seconds: float) -> str:
    """Write a duration with three digits and a unit."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _link_json(plan: LinkPlan) -> dict[str, Any]:
    return {
        "link": plan.link.name,
        "driver": plan.link.driver,
        "load": plan.load,
        "overbooked": plan.load > 1,
        "groups": [_group_json(group) for group in plan.groups],
    }


def _group_json(plan: GroupPlan) -> dict[str, Any]:
    requests: Sequence[dict[str, Any]] = [
        {"text": each.text, "wanted": each.wanted, "fetched": each.fetched, "seconds": each.seconds}
        for each in plan.requests
    ]
    return {
        "device": plan.group.device,
        "group": plan.group.name,
        "interval": plan.group.interval / 1e9,
        "tags": plan.tags,
        "seconds": plan.seconds,
        "load": plan.load,
        "requests": requests,
    }
