"""`plantbridge audit-log`: who asked for what to be written, and whether the log of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.language import say

app = typer.Typer(no_args_is_help=True, help="The audit log of commands.")

_Place = Annotated[Path, typer.Argument(help="The site file, or one file of the log.", metavar="SITE.yaml|FILE")]


@app.command("verify")
def verify(place: _Place) -> None:
    """Check that no line of the audit log was changed, removed or inserted; exits 1 and names the first that was.

    The hash that is shown at the end stands for the whole log: note it elsewhere, and nobody can rewrite what is before
    it without being found out.

    Example: plantbridge audit-log verify site.yaml
    """
    from gateway.audit import verify

    proof = verify(_path(place))
    if proof.broken is not None:
        typer.echo(say(str(proof.broken)), err=True)
        typer.echo(say(f"{proof.lines} lines before it are whole."), err=True)
        raise typer.Exit(1)
    begin = "" if proof.first <= 1 else f" from line {proof.first} on; the older ones were removed to make room"
    print(say(f"{proof.lines} lines are whole{begin}. The last: {proof.last.sequence}:{proof.last.hash}"))


@app.command("show")
def show(
    place: _Place,
    last: Annotated[int, typer.Option(help="How many of the last lines; 0 for all.", min=0)] = 50,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The lines as they are.")] = False,
) -> None:
    """Show what was commanded, by whom, and what became of it.

    Example: plantbridge audit-log show site.yaml --refused
    """
    from collections import deque

    import orjson

    from gateway.audit import AuditError, files, read

    path = _path(place)
    if path.is_dir() and not files(path):
        raise AuditError(f"there is no audit log in {path}")
    entries = (each for each in read(path) if not refused or str(each.get("event", "")).startswith("refused"))
    for entry in deque(entries, last or None):
        print(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS).decode() if json else line(entry))


def _path(place: Path) -> Path:
    """Give the log's directory of a site, or the file itself."""
    if place.suffix == ".jsonl" or place.is_dir():
        return place
    from gateway.config import load_site
    from gateway.control import DIRECTORY

    return load_site(place, secrets=False).data / DIRECTORY


def line(entry: dict[str, Any]) -> str:
    """Give an entry as a line for people."""
    head = f"{entry.get('sequence', '?'):>6} {str(entry.get('time', ''))[:23]}Z {entry.get('event', '?')}"
    parts = []
    if entry.get("of") is not None:
        parts.append(f"of {entry['of']}")
    if entry.get("publisher"):
        parts.append(f"{entry['publisher']}{'/' + str(entry['by']) if entry.get('by') else ''}")
    elif entry.get("by"):
        parts.append(f"by {entry['by']}")
    if entry.get("key"):
        parts.append(f"id {entry['key']}")
    device = str(entry.get("device", ""))
    values = entry.get("values")
    if isinstance(values, dict):
        parts += [f"{device}/{tag}={value}" for tag, value in values.items()]
    elif device:
        parts.append(device)
    for each in entry.get("results", ()):
        said = f"{each.get('tag')}: was {each.get('before')}, is {each.get('after')}, {each.get('quality')}"
        parts.append(f"{said} {each['reason']}" if each.get("reason") else said)
    if entry.get("cause"):
        parts.append(f"[{entry['cause']}]")
    if entry.get("count", 1) != 1:
        parts.append(f"{entry['count']} times")
    if entry.get("reason"):
        parts.append(str(entry["reason"]))
    return f"{head}  {'; '.join(parts)}"
