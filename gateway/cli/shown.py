"""How commands show tables, times, durations, sizes and values to people, in the language in use."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from gateway.language import say, word

if TYPE_CHECKING:
    from rich.table import Table


def table(*headings: str, right: Collection[str] = (), **looks: Any) -> Table:
    """Make a table with these headings in the language in use; the columns of `right` hold numbers."""
    from rich.table import Table

    made = Table(**{"title_justify": "left", **looks})
    for each in headings:
        if each in right:
            made.add_column(word(each), justify="right", no_wrap=True)
        else:
            made.add_column(word(each), overflow="fold")
    return made


def moment(ns: int) -> str:
    """Give a time in the zone of this machine, to the millisecond; "never" for 0."""
    if not ns:
        return word("never")
    try:
        return datetime.datetime.fromtimestamp(ns / 1e9).astimezone().isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # a source's clock may say anything
        return f"{ns} ns"


def ago(ns: int, now: int) -> str:
    """Say how long ago a time is."""
    if not ns:
        return word("never")
    seconds = (now - ns) / 1e9
    return say(f"{lasting(seconds)} ago" if seconds >= 0 else f"{lasting(-seconds)} ahead")


def lasting(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else say(f"{seconds / 86400:.0f} days")


def size(octets: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if octets < 1000:
            return f"{octets:.3g} {unit}"
        octets /= 1000
    return f"{octets:.3g} GB"


def rate(per_second: float) -> str:
    """Show how many come in a second: as exact as a count over a second is."""
    return f"{per_second:.3g}" if per_second < 100 else f"{per_second:.0f}"


def value(found: Any, unit: str = "", states: dict[str, str] | None = None) -> str:
    """Write a value with its unit, or the name of its state."""
    if found is None:
        return say("no value")
    if states and isinstance(found, int | float) and not isinstance(found, bool):
        name = states.get(str(int(found))) if found == int(found) else None
        return f"{found:.10g} ({name or say('no such state')})"
    text = _float(found) if isinstance(found, float) else str(found).lower() if isinstance(found, bool) else str(found)
    return f"{text} {unit}" if unit else text


def _float(number: float) -> str:
    """Write whole numbers whole, and others with the digits that a float32 has."""
    if abs(number) < 1e15 and number == int(number):
        return str(int(number))
    return f"{number:.7g}" if abs(number) < 1e6 else f"{number:.12g}"


def code(number: int) -> str:
    """Give the name of a quality."""
    from gateway import quality

    return quality.name(number)
