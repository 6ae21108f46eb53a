"""A report as tables: a few columns for people, all of them for programs.

The CSV files are rates.csv, devices.csv, processes.csv and completeness.csv: UTF-8 with a byte order mark, which
spreadsheets need, and lines that end as RFC 4180 says. Quotients are cut off, not rounded: 0.9999 is not 1.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.inventory.coverage import SETTLE, Count
from gateway.inventory.listing import Machine
from gateway.inventory.rates import Process, Rate, Report
from gateway.inventory.words import Words

MOST_HOURS: Final = 60  # rows of incomplete hours for people
_NAMES: Final = 6  # of machines in one cell for people
COUNTS: Final = ("expected", "good", "uncertain", "bad", "gap", "unknown", "rows")
"""What programs are told of a Count."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, headings, rows of text; `right` are the columns of numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    note: str = ""


def moment(time: int) -> str:
    """Give a time (ns) in this machine's zone, with its offset; nothing for 0."""
    if not time:
        return ""
    return datetime.fromtimestamp(time // 10**9, UTC).astimezone().isoformat(sep=" ")


def cut(value: float, digits: int) -> str:
    """Write a quotient with so many decimals, cut off."""
    scale = 10**digits
    return f"{math.floor(value * scale + 1e-9) / scale:.{digits}f}"


def percent(some: int, every: int) -> str:
    return f"{cut(some * 100 / every, 2)} %" if every else "-"


def quotient(some: int, every: int) -> str:
    return cut(some / every, 4) if every else ""


# ------------------------------------------------------------------------------------------------ for people


def tables(report: Report, say: Words) -> list[Table]:
    """Give the report's tables, the rates first."""
    found = [_rates(report, say), _devices(report, say)]
    if report.processes:
        found.append(_processes(report, say))
    if report.stored is not None:
        found.append(_incomplete(report, say))
    return found


def _rates(report: Report, say: Words) -> Table:
    rows = tuple(
        (
            say(rate.name), percent(len(rate.numerator), len(rate.denominator)), str(len(rate.numerator)),
            str(len(rate.denominator)), say(f"{rate.name}-basis"), _some(rate.rest),
        )
        for rate in report.rates
    )  # fmt: skip
    names = ("indicator", "rate", "numerator", "denominator", "basis", "rest")
    return Table(say("rates"), tuple(map(say, names)), rows, frozenset((1, 2, 3)))


def _some(names: Sequence[str]) -> str:
    more = f" … (+{len(names) - _NAMES})" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _devices(report: Report, say: Words) -> Table:
    measured = report.stored is not None
    names = ["device", "state", "model", "process", "is-nc"]
    names += ["last-good", "evidence", "complete", "expected", "uncertain", "bad", "gap", "unknown"] if measured else []
    names += ["answers"] if report.live is not None else []
    rows = []
    for each in report.machines:
        of = each.is_
        row = [report.name(each), say(of.state), f"{of.vendor} {of.model}".strip(), of.process]
        row.append(say("yes" if of.numerically_controlled else "no"))
        if measured:
            seen = report.seen(each)
            total = seen.total if seen is not None else Count()
            row += [moment(seen.last_good) if seen is not None else "", evidence(report, each, say)]
            row += [percent(total.good, total.expected)]
            row += [f"{count}" if total.expected else "" for count in _losses(total)]
        if report.live is not None:
            row.append(_live(report, each, say))
        rows.append(tuple(row))
    numbers = frozenset(range(7, 13)) if measured else frozenset[int]()
    return Table(say("devices"), tuple(map(say, names)), tuple(rows), numbers, say("how") if measured else "")


def _losses(total: Count) -> tuple[int, ...]:
    return total.expected, total.uncertain, total.bad, total.gap, total.unknown


def evidence(report: Report, machine: Machine, say: Words) -> str:
    """Say what the store has of a machine in the time."""
    seen = report.seen(machine)
    if not machine.is_.link:
        return say("no-link")
    if seen is None:
        return say("from-nothing")
    if seen.total.rows:
        return say("from-rows", count=seen.total.rows)
    if seen.held:
        return say("from-held", count=seen.held)
    return say("from-nothing") + ("" if seen.last_good else f", {say('never')}")


def _live(report: Report, machine: Machine, say: Words) -> str:
    if not machine.is_.link or report.live is None:
        return say("no-link")
    live = report.live.get(machine.key)
    if live is None:
        return say("not-running")
    if live.up:
        return f"{say('scanned')} {moment(live.last)}".strip()
    return say("silent", reason=live.reason) if live.reason else say("all-bad")


def _processes(report: Report, say: Words) -> Table:
    rows = []
    for each in report.processes:
        machines = "; ".join(_machine(report, machine, say) for machine in each.machines)
        rows.append((each.name, _counts(each, say), str(len(each.controlled)), str(len(each.machines)), machines))
    names = ("process", "counts", "is-nc", "machines", "evidence")
    return Table(say("key-processes"), tuple(map(say, names)), tuple(rows), frozenset((2, 3)))


def _counts(process: Process, say: Words) -> str:
    some, every = len(process.controlled), len(process.machines)
    if some and some < every:
        return say("partly", some=some, all=every)
    return say("yes" if process.counts else "no")


def _machine(report: Report, machine: Machine, say: Words) -> str:
    """Name a machine of a process with its evidence."""
    seen, of = report.seen(machine), machine.is_
    told = [say("is-nc")] if of.numerically_controlled else []
    if seen is not None and seen.last_good:
        told.append(f"{say('last-good')} {moment(seen.last_good)}")
    elif report.stored is not None:
        told.append(say("from-nothing") if of.link else say("no-link"))
    return f"{report.name(machine)} ({', '.join(told)})" if told else report.name(machine)


def _incomplete(report: Report, say: Words) -> Table:
    every = [each for each in hours(report) if each[2].good < each[2].expected]
    rows = tuple(
        (moment(hour), report.name(machine), percent(count.good, count.expected), str(count.good),
         *map(str, _losses(count)))
        for machine, hour, count in every[:MOST_HOURS]
    )  # fmt: skip
    names = ("hour", "device", "complete", "good", "expected", "uncertain", "bad", "gap", "unknown")
    note = say("more", count=len(every) - MOST_HOURS) if len(every) > MOST_HOURS else ""
    return Table(say("incomplete-hours"), tuple(map(say, names)), rows, frozenset(range(2, 9)), note)


def hours(report: Report) -> Iterator[tuple[Machine, int, Count]]:
    """Give each device's hours in which anything was expected."""
    for number, hour in enumerate(report.hours):
        for machine in report.machines:
            seen = report.seen(machine)
            if seen is not None and seen.hours[number].expected:
                yield machine, hour, seen.hours[number]


def remarks(report: Report, say: Words) -> list[str]:
    """Say what a reader of the numbers must know."""
    found = [say("unlisted")]
    if report.stored is not None and report.made - SETTLE <= report.begin:
        found.append(say("short"))
    for gateway, each in (report.stored or {}).items():
        if not each.heard:
            found.append(say("unheard", gateway=gateway))
        elif each.heard < report.end - 60 * 10**9:
            found.append(say("heard", gateway=gateway, time=moment(each.heard)))
        if each.thinned:
            found.append(say("thinned", gateway=gateway, count=each.thinned))
    return [*found, *report.remarks]


# ------------------------------------------------------------------------------------------------ for programs


def csv_files(report: Report, say: Words) -> dict[str, bytes]:
    """Give the CSV files by name."""
    files = {
        "rates.csv": _rates_csv(report, say),
        "devices.csv": _devices_csv(report, say),
        "processes.csv": _processes_csv(report, say),
    }
    if report.stored is not None:
        files["completeness.csv"] = _completeness_csv(report, say)
    return {name: _csv(rows) for name, rows in files.items()}


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([[_harmless(cell) for cell in row] for row in rows])
    return stream.getvalue().encode("utf-8-sig")


def _harmless(cell: str) -> str:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") and len(cell) > 1 else cell


def _rates_csv(report: Report, say: Words) -> list[list[str]]:
    def row(rate: Rate) -> list[str]:
        some, every = len(rate.numerator), len(rate.denominator)
        return [
            say(rate.name), str(some), str(every), quotient(some, every), say(f"{rate.name}-basis"),
            "; ".join(rate.numerator), "; ".join(rate.rest), moment(report.begin), moment(report.end),
        ]  # fmt: skip

    names = ("indicator", "numerator", "denominator", "rate", "basis", "counted", "rest")
    return [[*map(say, names), say("from"), say("to")], *map(row, report.rates)]


def _devices_csv(report: Report, say: Words) -> list[list[str]]:
    def yes(value: bool) -> str:
        return say("yes" if value else "no")

    columns: list[tuple[str, Callable[[Machine], str]]] = [
        ("gateway", lambda each: each.gateway),
        ("device", lambda each: each.is_.name),
        ("state", lambda each: say(each.is_.state)),
        ("is-counted", lambda each: yes(each.is_.counted)),
        ("vendor", lambda each: each.is_.vendor),
        ("model", lambda each: each.is_.model),
        ("serial", lambda each: each.is_.serial),
        ("location", lambda each: each.is_.location),
        ("process", lambda each: each.is_.process),
        ("nc", lambda each: yes(each.is_.numerically_controlled)),
        ("link", lambda each: each.is_.link),
    ]
    if report.stored is not None:
        columns += [
            ("good-data", lambda each: yes((seen := report.seen(each)) is not None and seen.connected)),
            ("last-good", lambda each: moment(seen.last_good) if (seen := report.seen(each)) is not None else ""),
            ("evidence", lambda each: evidence(report, each, say)),
            *((name, _total(report, number)) for number, name in enumerate(COUNTS)),
            ("complete", lambda each: quotient(*_share(report, each))),
        ]
    if report.live is not None:
        columns.append(("answers", lambda each: _live(report, each, say)))
    head = [say(name) for name, _ in columns]
    return [head, *([cell(each) for _, cell in columns] for each in report.machines)]


def _total(report: Report, number: int) -> Callable[[Machine], str]:
    def cell(machine: Machine) -> str:
        seen = report.seen(machine)
        return "" if seen is None else _numbers(seen.total)[number]

    return cell


def _numbers(count: Count) -> list[str]:
    return [str(getattr(count, name)) for name in COUNTS]


def _share(report: Report, machine: Machine) -> tuple[int, int]:
    seen = report.seen(machine)
    total = seen.total if seen is not None else Count()
    return total.good, total.expected


def _processes_csv(report: Report, say: Words) -> list[list[str]]:
    names = ("process", "process-nc", "gateway", "device", "nc", "state", "last-good", "evidence")
    rows = [[say(name) for name in names]]
    for process in report.processes:
        for each in process.machines:
            seen, of = report.seen(each), each.is_
            rows.append(
                [
                    process.name, _counts(process, say), each.gateway, of.name,
                    say("yes" if of.numerically_controlled else "no"), say(of.state),
                    moment(seen.last_good) if seen is not None else "",
                    evidence(report, each, say) if report.stored is not None else "",
                ]
            )  # fmt: skip
    return rows


def _completeness_csv(report: Report, say: Words) -> list[list[str]]:
    names = ("gateway", "device", "hour", *COUNTS, "complete")
    return [
        [say(name) for name in names],
        *(
            [*machine.key, moment(hour), *_numbers(count), quotient(count.good, count.expected)]
            for machine, hour, count in hours(report)
        ),
    ]
