"""Plots of a report as SVG that stands in the page itself: nothing is loaded, and it prints.

Rates are bars with numerator and denominator beside them; completeness is a map of devices by hours, or by days where
there are more than COLUMNS hours. A cell says its numbers when it is pointed at.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import Final

from gateway.inventory.coverage import Count
from gateway.inventory.rates import Report
from gateway.inventory.tables import moment, percent
from gateway.inventory.words import Words

COLUMNS: Final = 72
_WIDTH: Final = 700
_LABEL: Final = 150  # for names, on the left
_BAR: Final = 20
_COLORS: Final = ((1.0, "#1f8f4e"), (0.99, "#7dbb5b"), (0.95, "#d9c84a"), (0.8, "#e59a3c"), (1e-9, "#d2603a"))
_NOTHING: Final = "#a5281b"  # expected, and none of it good
_ABSENT: Final = "#eef1f4"  # nothing was expected


def bars(report: Report, say: Words) -> str:
    """Draw the rates."""
    rows = []
    for number, rate in enumerate(report.rates):
        top, some, every = number * 44, len(rate.numerator), len(rate.denominator)
        share = some / every if every else 0.0
        rows.append(
            f'<text x="0" y="{top + 12}" class="l">{escape(say(rate.name))}</text>'
            f'<rect x="0" y="{top + 17}" width="{_WIDTH - 150}" height="{_BAR}" fill="{_ABSENT}"/>'
            f'<rect x="0" y="{top + 17}" width="{share * (_WIDTH - 150):.1f}" height="{_BAR}" fill="#2b7fb0"/>'
            f'<text x="{_WIDTH - 140}" y="{top + 32}" class="v">{some} / {every} = {percent(some, every)}</text>'
        )
    return _svg(44 * len(rows), "".join(rows), say("rates"))


def heat(report: Report, say: Words) -> str:
    """Draw the completeness of each device over the time; nothing where none was computed."""
    rows = [(report.name(each), seen.hours) for each in report.machines if (seen := report.seen(each)) is not None]
    columns, by_day = _columns(report.hours)
    if not rows or not columns:
        return ""
    wide = (_WIDTH - _LABEL) / len(columns)
    parts = list(_scale(columns, wide, by_day=by_day))
    for number, (name, counts) in enumerate(rows):
        top = 18 + 16 * number
        parts.append(f'<text x="{_LABEL - 6}" y="{top + 11}" class="d">{escape(name[:24])}</text>')
        for at, (time, hours) in enumerate(columns):
            whole = Count()
            for hour in hours:
                whole.add(counts[hour])
            told = f"{name} {moment(time)}: {whole.good} / {whole.expected} = {percent(whole.good, whole.expected)}"
            parts.append(
                f'<rect x="{_LABEL + at * wide:.2f}" y="{top}" width="{max(0.5, wide - 0.6):.2f}" height="14" '
                f'fill="{_color(whole)}"><title>{escape(told)}</title></rect>'
            )
    return _svg(20 + 16 * len(rows), "".join(parts), say("completeness"))


def unit(report: Report, say: Words) -> str:
    """Say what a column of the map is."""
    return say("by-day" if _columns(report.hours)[1] else "by-hour")


def _columns(hours: tuple[int, ...]) -> tuple[list[tuple[int, list[int]]], bool]:
    """Give the columns: their begin and the numbers of their hours; and whether they are days."""
    if len(hours) <= COLUMNS:
        return [(hour, [number]) for number, hour in enumerate(hours)], False
    days: dict[str, tuple[int, list[int]]] = {}
    for number, hour in enumerate(hours):
        days.setdefault(moment(hour)[:10], (hour, []))[1].append(number)
    return list(days.values()), True


def _scale(columns: list[tuple[int, list[int]]], wide: float, *, by_day: bool) -> Iterator[str]:
    every = max(1, round(44 / wide))
    for at, (time, _) in enumerate(columns):
        if at % every == 0:
            local = datetime.fromtimestamp(time // 10**9, UTC).astimezone()
            text = local.strftime("%m-%d") if by_day or local.hour == 0 else local.strftime("%H:%M")
            yield f'<text x="{_LABEL + at * wide:.1f}" y="11" class="t">{text}</text>'


def _color(count: Count) -> str:
    if not count.expected:
        return _ABSENT
    share = count.good / count.expected
    return next((color for least, color in _COLORS if share >= least), _NOTHING)


def legend() -> str:
    """Explain the colours."""
    names = ("100 %", "≥ 99 %", "≥ 95 %", "≥ 80 %", "> 0 %")
    parts = [(color, name) for (_, color), name in zip(_COLORS, names, strict=True)] + [(_NOTHING, "0 %")]
    return " ".join(f'<span class=key><i style="background:{color}"></i>{name}</span>' for color, name in parts)


def _svg(height: int, inside: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="100%" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
    )
