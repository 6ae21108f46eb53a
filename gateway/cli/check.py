"""`plantbridge check`: every problem of a configuration, with the line it is in and what to do about it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from gateway.errors import Problem

_SECRET: Final = re.compile(
    r"""((?:password|token|secret|\bkey)\s*:\s*)(?!["']?\$\{)("[^"]*"|'[^']*'|[^,}\s#][^,}#]*?)(?=\s*(?:[,}#]|$))""",
    re.IGNORECASE,
)
_WIDEST: Final = 160


def check(
    file: Annotated[Path, typer.Argument(help="A site file, a device template or a cloud file.", metavar="FILE.yaml")],
    secrets: Annotated[
        bool, typer.Option(help="Whether ${env:...} and ${file:...} must be there; without, they are warnings.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find every problem of a configuration without connecting to anything.

    Included files, templates, addresses and the drivers' plans are checked too. Exits 2 where there are errors, 0
    where there are none or only warnings.

    Example: plantbridge check site.yaml
    """
    from gateway.config.kinds import check_file

    checked = check_file(file, secrets=secrets)
    errors = sum(problem.severity == "error" for problem in checked.problems)
    if json:
        import dataclasses

        import orjson

        body = {
            "file": str(file),
            "kind": checked.kind,
            "errors": errors,
            "warnings": len(checked.problems) - errors,
            "problems": [dataclasses.asdict(problem) for problem in checked.problems],
        }
        print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
    else:
        for problem in checked.problems:
            print(shown(problem))
        print(conclusion(file, checked.summary, errors, len(checked.problems) - errors))
    if errors:
        raise typer.Exit(2)


def conclusion(file: Path, summary: str, errors: int, warnings: int) -> str:
    """Say in one line how it went."""
    counts = [
        f"{count} {what}{'' if count == 1 else 's'}"
        for count, what in ((errors, "error"), (warnings, "warning"))
        if count
    ]
    if errors:
        return f"{file}: {', '.join(counts)}"
    return f"{file}: {summary}: {', '.join(counts) if counts else 'no problems'}"


def shown(problem: Problem) -> str:
    """Write a problem with its line of the file and a caret under the place."""
    text = str(problem) if problem.severity == "error" else f"{problem} [{problem.severity}]"
    if not problem.line:
        return text
    try:
        lines = Path(problem.file).read_text(encoding="utf-8-sig", errors="replace").splitlines()
        line = lines[problem.line - 1]
    except (OSError, IndexError):
        return text
    return "\n".join((text, *pointed(line, problem.line, problem.column)))


def pointed(line: str, number: int, column: int) -> Sequence[str]:
    """Give a line with its number, and below it a caret at the column; secrets are not shown."""
    line = line.replace("\t", " ").rstrip()
    before = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line[: column - 1])
    line = _SECRET.sub(lambda match: match[1] + "*" * len(match[2]), line)
    if len(line) > _WIDEST:
        line = line[:_WIDEST] + "…"
    label = f"{number:>5}"
    caret = [f"{' ' * len(label)} | {' ' * before}^"] if column <= _WIDEST else []
    return (f"{label} | {line}", *caret)
