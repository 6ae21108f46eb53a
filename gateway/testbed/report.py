"""A testbed's report: facts, the verdict on each requirement, and what failed. One HTML file, or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from gateway.acceptance.report import About, cell, facts, page
from gateway.language import say, word
from gateway.testbed.requirements import Verdict

MOST: Final = 20
"""Failures that are shown of one requirement."""
HEADINGS: Final = ("Requirement", "Statement", "Verdict", "Judged", "Failed")


def summary(verdicts: Sequence[Verdict]) -> tuple[bool, str]:
    """Say whether all is well, and in one sentence what is."""
    counts = {
        outcome: sum(each.outcome == outcome for each in verdicts) for outcome in ("passed", "failed", "not exercised")
    }
    idle = [each.id for each in verdicts if each.expected and each.outcome == "not exercised"]
    text = ", ".join(f"{count} {word(outcome)}" for outcome, count in counts.items())
    if idle:
        text += say(f"; expected and not exercised: {', '.join(idle)}")
    return not any(each.off for each in verdicts), text


def html(about: About, scenario: str, verdicts: Sequence[Verdict]) -> str:
    """Write the report as HTML."""
    rows = "".join(
        f'<tr class="{_style(each)}"><td class=tag>{each.id}</td><td>{escape(say(each.text))}</td>'
        f"<td class=v>{escape(word(each.outcome))}</td>"
        f"<td class=n>{each.judged}</td><td class=n>{len(each.failures)}</td></tr>"
        for each in verdicts
    )
    head = "".join(f"<th{' class=n' if name in HEADINGS[3:] else ''}>{escape(word(name))}</th>" for name in HEADINGS)
    body = (
        f"<h2>{escape(word('Requirements'))}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"
    )
    for each in verdicts:
        if each.failures:
            items = "".join(f"<li>{escape(text)}</li>" for text in shown(each))
            body += f"<h2>{each.id}</h2><ul>{items}</ul>\n"
    body += f"<h2>{escape(word('Scenario'))}</h2><pre>{escape(scenario)}</pre>\n"
    sub = "What devices showed against what arrived"
    return page(_title(about), sub, facts(about), *summary(verdicts), body)


def markdown(about: About, scenario: str, verdicts: Sequence[Verdict]) -> str:
    """Write the report as Markdown."""
    lines = [f"# {say(_title(about))}", "", *(f"- {name}: {text}" for name, text in facts(about))]
    lines += ["", f"**{summary(verdicts)[1]}**", "", f"| {' | '.join(map(word, HEADINGS))} |", "|---|---|---|--:|--:|"]
    for each in verdicts:
        row = (each.id, say(each.text), word(each.outcome), str(each.judged), str(len(each.failures)))
        lines.append(f"| {' | '.join(cell(text) for text in row)} |")
    for each in verdicts:
        if each.failures:
            lines += ["", f"## {each.id}", "", *(f"- {text}" for text in shown(each))]
    return "\n".join([*lines, "", f"## {word('Scenario')}", "", "```yaml", scenario.rstrip(), "```", ""])


def _title(about: About) -> str:
    return f"Testbed report: {about.site.partition(' (')[0]}"  # the scenario; many may judge one site


def _style(verdict: Verdict) -> str:
    if verdict.off:
        return "off"
    return "fine" if verdict.outcome == "passed" else "idle"


def shown(verdict: Verdict) -> list[str]:
    """Give the first failures, and how many more there are."""
    more = len(verdict.failures) - MOST
    return [*map(say, verdict.failures[:MOST]), *([say(f"and {more} more")] if more > 0 else [])]
