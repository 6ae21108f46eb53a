"""A report as one HTML page that needs nothing else and prints well, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from gateway import __version__
from gateway.acceptance.report import STYLE, cell
from gateway.inventory import charts
from gateway.inventory.rates import Report
from gateway.inventory.tables import Table, moment, remarks, tables
from gateway.inventory.words import Words

_STYLE: Final = """
:root { accent-color: #2b7fb0 }
svg { display: block; margin: 2mm 0 } svg text { font-size: 11px; fill: #1b2733 }
svg .v { font-weight: 600 } svg .d { text-anchor: end } svg .t { font-size: 9px; fill: #5b6b7b }
.key { margin-right: 4mm; color: #5b6b7b; font-size: 8.5pt } .key i { display: inline-block; width: 3mm; height: 3mm;
  margin-right: 1mm; -webkit-print-color-adjust: exact; print-color-adjust: exact }
.scroll { overflow-x: auto } ul { padding-left: 5mm } li, .how { color: #3c4a58 }
td, th { overflow-wrap: normal } td.n { white-space: nowrap }
@media screen { body { max-width: 270mm } }
@media print { .scroll { overflow-x: visible } .scroll table { font-size: 6.5pt } td.n { white-space: normal } }
"""


def facts(report: Report, say: Words) -> list[tuple[str, str]]:
    """Say what the report is of."""
    store = report.store or say("no-store")
    source = f"{store} + {say('live-source')}" if report.live is not None and report.store else store
    if report.live is not None and not report.store:
        source = say("live-source")
    asked = [(say("time"), f"{moment(report.begin)} … {moment(report.end)}")] if report.stored is not None else []
    return [
        (say("site"), ", ".join(report.files)),
        *asked,
        (say("store"), source),
        (say("made"), moment(report.made)),
        (say("version"), __version__),
    ]


def html(report: Report, say: Words, language: str) -> str:
    """Write the report as HTML."""
    about = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(report, say))
    first, *others = tables(report, say)
    heat = charts.heat(report, say)
    how = f"<p class=how>{escape(charts.unit(report, say))} {charts.legend()}</p>"
    plot = f"<h2>{escape(say('completeness'))}</h2>{how}{heat}" if heat else ""
    notes = "".join(f"<li>{escape(each)}</li>" for each in remarks(report, say))
    title = escape(say("title"))
    return (
        f'<!DOCTYPE html>\n<html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{_STYLE}</style></head><body>\n'
        f"<h1>{title}</h1>\n<dl>{about}</dl>\n<h2>{escape(say('rates'))}</h2>{charts.bars(report, say)}\n"
        f"{_table(first, titled=False)}{plot}\n{''.join(map(_table, others))}"
        f"<h2>{escape(say('remarks'))}</h2><ul>{notes}</ul>\n</body></html>\n"
    )


def _table(table: Table, *, titled: bool = True) -> str:
    def cells(texts: Sequence[str], kind: str) -> str:
        return "".join(
            f"<{kind}{' class=n' if number in table.right else ''}>{escape(text)}</{kind}>"
            for number, text in enumerate(texts)
        )

    head, rows = cells(table.headings, "th"), "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    title = f"<h2>{escape(table.title)}</h2>" if titled else ""
    note = f"<p class=how>{escape(table.note)}</p>" if table.note else ""
    body = f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    return f"{title}{body}{note}\n"


def markdown(report: Report, say: Words) -> str:
    """Write the report as Markdown."""
    lines = [f"# {say('title')}", "", *(f"- {name}: {text}" for name, text in facts(report, say))]
    for table in tables(report, say):
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.headings)} |"]
        lines.append("|" + "|".join("--:" if n in table.right else "---" for n in range(len(table.headings))) + "|")
        lines += [f"| {' | '.join(map(cell, row))} |" for row in table.rows]
        lines += ["", table.note] if table.note else []
    lines += ["", f"## {say('remarks')}", "", *(f"- {each}" for each in remarks(report, say))]
    return "\n".join(lines) + "\n"
