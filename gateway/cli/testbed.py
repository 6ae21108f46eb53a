"""`plantbridge testbed`: run a scenario, and say which requirements it shows to hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.language import say, word

if TYPE_CHECKING:
    from gateway.testbed.requirements import Run, Verdict
    from gateway.testbed.scenario import Scenario

_WIDTH: Final = 140  # where the output is no terminal


def testbed(
    scenario: Annotated[Path, typer.Argument(help="The scenario, or a shipped one's name.", metavar="SCENARIO.yaml")],
    watch: Annotated[
        str | None,
        typer.Option(help="Judge another gateway by its messages here.", metavar="mqtt://HOST:PORT/TOPIC"),
    ] = None,
    patience: Annotated[str, typer.Option(help="With --watch: how long to wait for its first message.")] = "1 min",
    report: Annotated[Path | None, typer.Option(help="Write a report: FILE.html or FILE.md.", metavar="FILE")] = None,
    by: Annotated[str, typer.Option(help="Who tests, for the report.", show_default="who is logged in")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Where journal, store and logs go; kept. A new directory of its own where not given."),
    ] = None,
) -> None:
    """Run simulators, faults, gateway, broker and store, and judge by requirement: passed, failed, not exercised.

    What devices showed is compared with what is stored, or, with --watch, with what another gateway publishes that
    polls the simulators. docs/conformance/requirements.md lists the requirements, docs/guide/testbed.md the scenario's
    keys. The same seed gives the same faults at the same times. Exits 1 where a requirement failed, or was expected
    and not exercised.

    Example: plantbridge testbed line-trouble --report testbed.html
             plantbridge testbed my-scenario.yaml --json
             plantbridge testbed my-scenario.yaml --watch mqtt://127.0.0.1:1883/plant/#
    """
    import shutil
    import signal
    import tempfile

    from gateway.cli.wanted import duration
    from gateway.testbed.processes import ChainFailed
    from gateway.testbed.requirements import judge
    from gateway.testbed.scenario import load

    if report is not None and report.suffix.lower() not in (".html", ".htm", ".md"):
        raise typer.BadParameter(f"expected FILE.html or FILE.md, got {report}", param_hint="--report")
    waiting = duration(patience, "--patience")
    loaded = load(_found(scenario))
    place = (data or Path(tempfile.mkdtemp(prefix="plantbridge-testbed-"))).absolute()
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(ending, signal.default_int_handler)
    try:
        run = _run(loaded, place, watch, waiting)
    except ChainFailed as error:
        print(say(f"plantbridge testbed: {error}\nThe logs are in {place / 'logs'}"), file=sys.stderr)
        raise typer.Exit(1) from None
    verdicts = judge(run, loaded.options.expect)
    if report is not None:
        _write(report, loaded, verdicts, by, watch)
    if json:
        _json(loaded, run, verdicts)
    else:
        _show(verdicts, run)
    off = any(each.off for each in verdicts)
    if off or data is not None:
        print(say(f"The files are in {place}"), file=sys.stderr)
    else:
        shutil.rmtree(place)
    raise typer.Exit(1 if off else 0)


def _found(named: Path) -> Path:
    """Give the file; or that of a shipped scenario. Raises BadParameter."""
    from gateway.config.shipped import shipped

    if named.exists():
        return named
    folder = shipped() / "testbed"
    path = folder / f"{named.name}.yaml"
    if named.parent == Path() and path.exists():
        return path
    there = ", ".join(sorted(each.stem for each in folder.glob("*.yaml") if "lasts:" in each.read_text("utf-8")))
    raise typer.BadParameter(f"there is no {named}; shipped are {there}", param_hint="SCENARIO.yaml")


def _run(scenario: Scenario, place: Path, url: str | None, patience: float) -> Run:
    """Run it, saying what happens on standard error. Raises GatewayError."""
    from gateway.testbed.run import path_of, run, watched

    def tell(text: str) -> None:
        print(say(text), file=sys.stderr, flush=True)

    if url is not None:
        return watched(scenario, place, url, patience, tell)
    tell(f"Running {scenario.path.name} for {scenario.options.lasts:g} s; files are in {place}")
    chain = path_of(scenario, place)
    try:
        return run(scenario, chain, tell)
    finally:
        chain.kill()


def _write(path: Path, scenario: Scenario, verdicts: Sequence[Verdict], by: str, watch: str | None) -> None:
    """Write the report. Raises GatewayError."""
    from gateway.acceptance.report import about
    from gateway.errors import GatewayError
    from gateway.testbed.report import html, markdown

    write = markdown if path.suffix.lower() == ".md" else html
    remark = f"Another gateway was judged, by its messages at {watch.rpartition('@')[2]}" if watch else ""
    facts = about(scenario.site.gateway, f"{scenario.path.name} ({scenario.site_path.name})", by, remark)
    try:
        path.write_text(write(facts, scenario.path.read_text(encoding="utf-8"), verdicts), encoding="utf-8")
    except OSError as error:
        raise GatewayError(f"the report {path} cannot be written: {error.strerror}") from error
    typer.echo(say(f"report: {path}"), err=True)


def _json(scenario: Scenario, run: Run, verdicts: Sequence[Verdict]) -> None:
    import orjson

    from gateway.testbed.report import summary

    passed, sentence = summary(verdicts)
    body = {
        "scenario": str(scenario.path),
        "seed": scenario.options.seed,
        "passed": passed,
        "summary": sentence,
        "begin": run.begin,
        "end": run.end,
        "rows": run.arrivals.total,
        "unknown": run.arrivals.others,
        "requirements": [
            {
                "id": each.id, "text": each.text, "verdict": each.outcome, "expected": each.expected,
                "judged": each.judged, "failures": list(each.failures),
            }
            for each in verdicts
        ],
    }  # fmt: skip
    print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())


def _show(verdicts: Sequence[Verdict], run: Run) -> None:
    from rich.console import Console
    from rich.markup import escape

    from gateway.cli.shown import table
    from gateway.testbed.report import HEADINGS, shown, summary

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    made = table(*HEADINGS, right=HEADINGS[3:])
    colors = {"passed": "green", "failed": "bold red", "not exercised": "dim"}
    for each in verdicts:
        color = "bold red" if each.off else colors[each.outcome]
        failed = str(len(each.failures))
        made.add_row(each.id, say(each.text), f"[{color}]{word(each.outcome)}[/]", str(each.judged), failed)
    console.print(made)
    for each in verdicts:
        for text in shown(each):
            console.print(f"[red]{each.id}[/] {escape(text)}", highlight=False)
    for text in run.arrivals.examples:
        console.print(say(f"not read: {escape(text)}"), highlight=False)
    passed, sentence = summary(verdicts)
    console.print(f"[{'green' if passed else 'bold red'}]{escape(sentence)}[/]", highlight=False)
