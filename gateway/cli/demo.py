"""`plantbridge demo`: the whole path on this machine, from simulated devices to stored readings, with its account."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.config import Site
    from gateway.testbed.account import Account
    from gateway.testbed.processes import Chain


def demo(
    seconds: Annotated[float, typer.Option(help="End by itself after so long; 0: at Ctrl-C.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="No live table; print the account as one JSON object.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Where journal, store and logs go; kept. A new directory of its own where not given."),
    ] = None,
) -> None:
    """Run a simulated press line and boiler house, a broker, the edge daemon, ingest and the store, and count it all.

    All of it runs on this machine, on ports that are free, as the same processes as in a plant. Exits 0 only where
    every reading that was journalled is stored, once, with the value that the simulator showed.

    Example: plantbridge demo
             plantbridge demo --seconds 60 --json --data /tmp/demo
    """
    import shutil
    import signal
    import sys
    import tempfile

    from gateway.testbed.account import take
    from gateway.testbed.processes import ChainFailed, demonstration

    if json and not seconds:
        raise typer.BadParameter("with --json the demonstration needs an end", param_hint="--seconds")
    running = demonstration((data or Path(tempfile.mkdtemp(prefix="plantbridge-demo-"))).absolute())
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(ending, signal.default_int_handler)
    try:
        _say(json, f"Starting broker, simulators, ingest and the edge daemon; files are in {running.data}")
        started = time.monotonic()
        try:
            running.start()
            site = running.load()
            ran = _watch(running, site, seconds, live=not json)
        except KeyboardInterrupt:
            if "run" not in running.processes:  # nothing was read yet, so there is nothing to account for
                raise
            site, ran = running.load(), time.monotonic() - started
        _say(json, "Ending in order: edge daemon, ingest, broker, simulators")
        running.stop()
        account = take(site, running.database)
    except ChainFailed as error:
        print(say(f"plantbridge demo: {error}\nThe logs are in {running.logs}"), file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        running.kill()
    if json:
        _print_json(running, account, ran)
    else:
        _print_account(running, account)
    if not account.clean:
        print(*running.errors(), say(f"The files are in {running.data}"), sep="\n", file=sys.stderr)
        raise typer.Exit(1)
    if json and data is None:
        shutil.rmtree(running.data)


def _say(json: bool, text: str) -> None:
    if not json:
        print(say(text), flush=True)


def _watch(running: Chain, site: Site, seconds: float, *, live: bool) -> float:
    """Look on until the time is up or Ctrl-C; give how long it was. Raises ChainFailed."""
    from contextlib import ExitStack

    from gateway.cli.demo_screen import Screen

    started = time.monotonic()
    with ExitStack() as stack:
        if live:
            from rich.live import Live

            screen = Screen(site, running.database)
            shown = stack.enter_context(Live(auto_refresh=False))
        try:
            while not seconds or time.monotonic() - started < seconds:
                edge, ingest = running.watch()
                if live:
                    picture = screen.draw(edge, ingest, running.usage, shown.console.height)
                    shown.update(picture, refresh=True)
                left = seconds - (time.monotonic() - started) if seconds else 1.0
                time.sleep(max(0.0, min(1.0, left)))
        except KeyboardInterrupt:
            pass  # the usual end
    return time.monotonic() - started


def _print_json(running: Chain, account: Account, ran: float) -> None:
    import json

    body = {
        "seconds": round(ran, 3),
        "appended": account.appended,
        "delivered": account.delivered,
        "stored": account.stored,
        "missing": account.missing,
        "duplicates": account.duplicates,
        "wrong": account.wrong,
        "gaps": account.gaps,
        "edge_cpu_seconds": round(running.usage.cpu_seconds, 3),
        "edge_rss_mb": round(running.usage.rss_mb, 1),
        "published_bytes": running.published_bytes,
    }
    print(json.dumps(body))


def account_table(account: Account) -> Table:
    """Show what became of the readings, and what each number means."""
    from gateway.cli.shown import table

    made = table("", "readings", "", right=["readings"], title=word("Account"))
    lines = (
        ("appended", account.appended, "committed to the journal"),
        ("delivered", account.delivered, "acknowledged by the broker"),
        ("stored", account.stored, f"rows in the store, {account.bad} of them Bad"),
        ("missing", account.missing, "in the journal, not in the store"),
        ("duplicates", account.duplicates, "in the store more than once"),
        ("wrong", account.wrong, "stored with another value than the simulator showed"),
        ("gaps", account.gaps, "holes that were declared"),
    )
    for name, number, meaning in lines:
        fault = number and name in ("missing", "duplicates", "wrong")
        made.add_row(word(name), f"[{'red' if fault else 'default'}]{number:,}", say(meaning))
    return made


def _print_account(running: Chain, account: Account) -> None:
    from rich.console import Console

    console = Console()
    console.print(account_table(account))
    for example in account.examples:
        console.print(say(f"wrong: {example}"), markup=False)
    command = _command()
    console.print(say(f"Look into it: {command} query {running.cloud}"), markup=False, highlight=False, soft_wrap=True)
    console.print(say(f"              {command} journal {running.site}"), markup=False, highlight=False, soft_wrap=True)


def _command() -> str:
    """Say how a shell finds this command: `make demo` runs it where it is not on the path."""
    import shutil
    import sys

    return "plantbridge" if shutil.which("plantbridge") or not sys.argv[0] else sys.argv[0]
