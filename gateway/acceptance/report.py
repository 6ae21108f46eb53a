"""The acceptance report of a probe: one HTML file that needs nothing else and prints well, or Markdown.

It says what was read where, when, by whom and with which version, and the verdict on each tag; it is to be signed. Its
language is that of whoever asks for it.
"""

from __future__ import annotations

import datetime
import getpass
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from gateway import __version__
from gateway import quality as q
from gateway.acceptance.check import Checked, CheckedDevice, Verdict
from gateway.language import language, say, word

HEADINGS: Final = ("Tag", "Address", "Raw", "Value", "Quality", "Verdict")
_WRITTEN: Final = re.compile(r"\b(?:[A-D]{4}|[A-H]{8})\b")
SUMMARY_HEADINGS: Final = ("Device", "Link", "Tags", "Off", "Verdict")
WIDTHS: Final = (18, 20, 13, 14, 14, 21)  # of the columns, in percent

STYLE: Final = """
:root { color-scheme: light }
body { font: 10pt/1.45 system-ui, "Noto Sans", "Noto Sans CJK SC", Arial, sans-serif; color: #1b2733;
  max-width: 190mm; margin: 12mm auto; padding: 0 6mm }
h1 { font-size: 18pt; margin: 0 0 1mm } h2 { font-size: 12.5pt; margin: 8mm 0 2mm }
.sub { color: #5b6b7b; margin: 0 0 5mm }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 1mm 5mm; margin: 0 0 5mm }
dt { color: #5b6b7b } dd { margin: 0 }
.result { border-left: 2mm solid; padding: 2.5mm 4mm; margin: 4mm 0; font-size: 12pt; font-weight: 600 }
.pass { border-color: #1f8f4e; background: #eaf6ef } .fail { border-color: #c0392b; background: #fbecea }
table { border-collapse: collapse; width: 100%; font-size: 8.5pt }
th { text-align: left; border-bottom: .5mm solid #1b2733; padding: 1mm 1.5mm; font-weight: 600 }
td { border-bottom: .2mm solid #d5dbe1; padding: .9mm 1.5mm; vertical-align: top; overflow-wrap: anywhere }
td.n { font-variant-numeric: tabular-nums } td.n, th.n { text-align: right }
.tags { table-layout: fixed }
tr.off td { background: #fdf3f2 } .off .v { color: #a5281b; font-weight: 600 } .fine .v { color: #1f7a45 }
.idle .v { color: #5b6b7b }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 8.5pt }
.note { display: block; color: #5b6b7b; font-weight: 400 }
.error { color: #a5281b } .tag { font-weight: 600 }
.sign { display: grid; grid-template-columns: 1fr 1fr; gap: 15mm; margin-top: 18mm }
.sign div { border-top: .3mm solid #1b2733; padding-top: 1mm; color: #5b6b7b }
thead { display: table-header-group } tr, .result, .sign { break-inside: avoid } h2 { break-after: avoid }
@page { size: A4; margin: 14mm 12mm }
@media print { body { margin: 0; padding: 0; max-width: none }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact } }
"""


@dataclass(frozen=True, slots=True)
class About:
    """What a report is of."""

    gateway: str
    site: str
    when: str
    by: str
    host: str
    version: str
    remark: str = ""


def about(gateway: str, file: str, by: str = "", remark: str = "") -> About:
    """Say when, by whom and on which machine a report is made: now, by who is logged in, here."""
    try:
        user = by or os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return About(
        gateway,
        file,
        datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        user,
        platform.node(),
        f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        remark,
    )


Shown = Callable[[Any, str, dict[str, str] | None], str]
"""Writes a value with its unit or the name of its state."""


def totals(devices: Sequence[CheckedDevice]) -> list[tuple[Verdict, int]]:
    """Count the verdicts, in the order of Verdict."""
    counts = Counter(each.verdict for device in devices for each in device.tags)
    return [(verdict, counts[verdict]) for verdict in Verdict if counts[verdict]]


def result(devices: Sequence[CheckedDevice]) -> tuple[bool, str]:
    """Say whether all is well, and in one sentence what is."""
    tags = sum(len(device.tags) for device in devices)
    off = sum(device.off for device in devices)
    many = f"{tags} tag{'' if tags == 1 else 's'} of {len(devices)} device{'' if len(devices) == 1 else 's'}"
    if not off:
        return True, f"Passed: {many} answer with plausible values."
    return False, f"Not passed: {off} of {many} {'is' if off == 1 else 'are'} not as the site file says."


def advice(device: CheckedDevice, site: str) -> list[str]:
    """Name the way to mend a byte order that is wrong in the whole device; nothing where there is no such thing."""
    if not device.order:
        return []
    name = device.device.name
    written = sum(bool(_WRITTEN.search(each.tag.address)) for each in device.tags if each.verdict is Verdict.WORD_ORDER)
    said = [
        f"{name} keeps {device.order}, as all its tags say that can tell. To mend it, write `order: {device.order}` at"
        f" the device {name} in {site}, or import its register list again:"
        f" plantbridge import LIST --into {site} --device {name} --order {device.order}"
    ]
    if written:
        said.append(
            f"An order stands in {written} of its addresses themselves: take it out there, for it goes before"
            " the device's."
        )
    return said


def cells(each: Checked, shown: Shown) -> tuple[str, str, str, str, str, str]:
    """Give a tag's row."""
    states = {str(number): text for number, text in each.tag.states}
    raw = f"{shown(each.raw, '', None)}" if each.raw is not None else each.data or "-"
    value = shown(each.value, each.tag.unit, states) if each.value is not None else "-"
    return each.name, f"{each.tag.address}", raw, value, q.name(each.quality), word(each.verdict.value)


def html(about: About, devices: Sequence[CheckedDevice], shown: Shown) -> str:
    """Write the report as HTML."""
    passed, sentence = result(devices)
    counts = " &middot; ".join(f"{count} {escape(word(verdict.value))}" for verdict, count in totals(devices))
    body = "".join(_device_html(device, shown) for device in devices)
    signed = "".join(f"<div>{escape(say(who))}</div>" for who in ("Date, integrator", "Date, operator"))
    advised = "".join(f"<p>{escape(each)}</p>" for each in _advised(about, devices))
    after = f"{advised}<p>{counts}</p>\n{_summary_html(devices)}{body}<div class=sign>{signed}</div>\n"
    sub = "Every tag of the site file, read once from the real devices"
    return page(f"Acceptance report: {about.gateway}", sub, facts(about), passed, sentence, after)


def page(title: str, sub: str, facts: Sequence[tuple[str, str]], passed: bool, sentence: str, body: str) -> str:
    """Write a report as one HTML page: title, facts, whether it is well, in a sentence, and more HTML."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    heading = escape(say(title))
    return (
        f'<!DOCTYPE html>\n<html lang="{language()}"><head><meta charset="utf-8"><title>{heading}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        f"<h1>{heading}</h1><p class=sub>{escape(say(sub))}</p>\n"
        f'<dl>{rows}</dl>\n<div class="result {"pass" if passed else "fail"}">{escape(say(sentence))}</div>'
        f"{body}</body></html>\n"
    )


def facts(about: About) -> list[tuple[str, str]]:
    """Give what a report is of, as names and texts; what is empty is left out."""
    rows = [
        ("Gateway", about.gateway), ("Site file", about.site), ("Read", about.when), ("By", about.by),
        ("On", about.host), ("PlantBridge", about.version), ("Remark", about.remark),
    ]  # fmt: skip
    return [(word(name), say(text)) for name, text in rows if text]


def _advised(about: About, devices: Sequence[CheckedDevice]) -> list[str]:
    return [say(text) for device in devices for text in advice(device, about.site)]


def _summary_html(devices: Sequence[CheckedDevice]) -> str:
    rows = "".join(
        f'<tr class="{"off" if device.off else "fine"}"><td class=tag>{escape(device.device.name)}</td>'
        f"<td>{escape(_url(device))}</td><td class=n>{len(device.tags)}</td><td class=n>{device.off}</td>"
        f"<td class=v>{escape(_verdict(device))}</td></tr>"
        for device in devices
    )
    head = "".join(
        f"<th{' class=n' if name in ('Tags', 'Off') else ''}>{escape(word(name))}</th>" for name in SUMMARY_HEADINGS
    )
    return f"<h2>{escape(word('Devices'))}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"


def _device_html(device: CheckedDevice, shown: Shown) -> str:
    head = "".join(
        f'<th style="width:{width}%"{" class=n" if name in ("Raw", "Value") else ""}>{escape(word(name))}</th>'
        for name, width in zip(HEADINGS, WIDTHS, strict=True)
    )
    rows = "".join(_row_html(each, shown) for each in device.tags)
    error = f"<p class=error>{escape(say(device.error))}</p>" if device.error else ""
    name = escape(f"{device.device.name} ({device.link.driver})")
    return f"<h2>{name}</h2>{error}<table class=tags><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n"


def _row_html(each: Checked, shown: Shown) -> str:
    name, address, raw, value, quality, verdict = (escape(cell) for cell in cells(each, shown))
    note = f"<span class=note>{escape(say(each.note))}</span>" if each.note and not each.fine else ""
    short, quality = name.partition("/")[2], re.sub("(?<=[a-z])(?=[A-Z])", "<wbr>", quality)
    return (
        f'<tr class="{"fine" if each.fine else "off"}"><td class=tag>{short}</td><td>{address}</td>'
        f"<td class=n>{raw}</td><td class=n>{value}</td><td>{quality}</td><td class=v>{verdict}{note}</td></tr>"
    )


def markdown(about: About, devices: Sequence[CheckedDevice], shown: Shown) -> str:
    """Write the report as Markdown."""
    _, sentence = result(devices)
    title = say(f"Acceptance report: {about.gateway}")
    lines = [f"# {title}", "", *(f"- {name}: {text}" for name, text in facts(about)), "", f"**{say(sentence)}**"]
    lines += [line for text in _advised(about, devices) for line in ("", text)]
    lines += ["", ", ".join(f"{count} {word(verdict.value)}" for verdict, count in totals(devices))]
    for device in devices:
        lines += ["", f"## {device.device.name}: {_verdict(device)}", "", _url(device), ""]
        lines += [f"| {' | '.join(map(word, (*HEADINGS, 'Note')))} |", "|---|---|--:|--:|---|---|---|"]
        for each in device.tags:
            row = (*cells(each, shown), "" if each.fine else say(each.note))
            lines.append(f"| {' | '.join(cell(text) for text in row)} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Write a text so that it stays in its cell of a table in Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _verdict(device: CheckedDevice) -> str:
    if device.error:
        return word("not answering")
    return say(f"{device.off} of {len(device.tags)} off") if device.off else word("passed")


def _url(device: CheckedDevice) -> str:
    return str(getattr(device.link.options, "url", device.link.name))
