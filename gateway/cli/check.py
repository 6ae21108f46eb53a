"""`plantbridge check`: every problem of a configuration, with the line it is in and what to do about it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.config.kinds import Checked
    from gateway.errors import Problem

_SECRET: Final = re.compile(
    r"""((?:password|token|secret|\bkey)\s*:\s*)(?!["']?\$\{)("[^"]*"|'[^']*'|[^,}\s#][^,}#]*?)(?=\s*(?:[,}#]|$))""",
    re.IGNORECASE,
)
_WIDEST: Final = 160


def check(
    files: Annotated[
        list[Path],
        typer.Argument(help="Site files, device templates or cloud files.", metavar="FILE.yaml"),
    ],
    secrets: Annotated[
        bool, typer.Option(help="Whether ${env:...} and ${file:...} must be there; without, they are warnings.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for editors and code hosts.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where there are warnings only.")] = False,
) -> None:
    """Find every problem of a configuration without connecting to anything.

    Included files, templates, addresses and the drivers' plans are checked too. What is legal and unwise is a warning.
    Several files are also held against each other: two gateways of one name at one broker. Exits 2 where there are
    errors, 0 where there are none or only warnings.

    Example: plantbridge check site.yaml
    """
    from gateway.config.kinds import check_file, clashes

    if json and sarif:
        raise typer.BadParameter("--json and --sarif are two forms of one answer; give one of them")
    every = [(file, check_file(file, secrets=secrets)) for file in files]
    between = clashes([checked for _, checked in every])
    problems = [problem for _, checked in every for problem in checked.problems] + between
    errors = sum(problem.severity == "error" for problem in problems)
    if json:
        _print_json(every, between)
    elif sarif:
        import orjson

        from gateway.cli.sarif import report

        print(orjson.dumps(report(problems), option=orjson.OPT_INDENT_2).decode())
    else:
        for file, checked in every:
            print(*shown(checked.problems), conclusion(file, checked), sep="\n")
        for text in shown(between):
            print(text)
    if errors:
        raise typer.Exit(2)
    if strict and problems:
        raise typer.Exit(1)


def _print_json(every: Sequence[tuple[Path, Checked]], between: Sequence[Problem]) -> None:
    """Print one object for one file, and an object of such for several."""
    import dataclasses

    import orjson

    def counted(problems: Sequence[Problem]) -> dict[str, Any]:
        errors = sum(problem.severity == "error" for problem in problems)
        listed = [{**dataclasses.asdict(each), "reason": say(each.reason), "hint": say(each.hint)} for each in problems]
        return {"errors": errors, "warnings": len(problems) - errors, "problems": listed}

    bodies = [{"file": str(file), "kind": checked.kind, **counted(checked.problems)} for file, checked in every]
    body = bodies[0] if len(bodies) == 1 else {"files": bodies, "between": counted(between)}
    print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())


def conclusion(file: Path, checked: Checked) -> str:
    """Say in one line how it went."""
    errors = sum(problem.severity == "error" for problem in checked.problems)
    warnings = len(checked.problems) - errors
    counts = []
    if errors:
        counts.append(say(f"{errors} error{'' if errors == 1 else 's'}"))
    if warnings:
        counts.append(say(f"{warnings} warning{'' if warnings == 1 else 's'}"))
    if errors:
        return f"{file}: {', '.join(counts)}"
    return f"{file}: {say(checked.summary)}: {', '.join(counts) or say('no problems')}"


def shown(problems: Iterable[Problem]) -> Iterator[str]:
    """Write problems, each with its line of the file and a caret under the place."""
    files: dict[str, Sequence[str]] = {}  # each is read once, however many problems it has
    for problem in problems:
        said = replace(problem, reason=say(problem.reason), hint=say(problem.hint))
        text = str(said) if problem.severity == "error" else f"{said} [{word(problem.severity)}]"
        if problem.line and problem.file not in files:
            files[problem.file] = _lines(Path(problem.file))
        there = files.get(problem.file, ())[problem.line - 1 : problem.line] if problem.line else ()
        yield "\n".join((text, *(part for line in there for part in pointed(line, problem.line, problem.column))))


def _lines(file: Path) -> Sequence[str]:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return ()


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
