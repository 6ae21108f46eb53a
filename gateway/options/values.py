"""What the value of a key may be: numbers with units, exact fractions, on and off; and Options, which models extend.

Durations are text with a unit ("500 ms", "1 s", "10 min"): a bare number could mean anything and is refused. Scale and
offset are kept as fractions of the decimal text, so that 0.1 x 231 is 23.1 and not 23.1000000000000014.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetPydanticSchema, WithJsonSchema
from pydantic_core import core_schema

from gateway.rates import Rate, VolumeBudget

_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)\s*$")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)\s*$")
_HUGE: Final = re.compile(r"[eE][+-]?\d{4}")  # Fraction would compute all of its digits
_BYTES: Final = {
    "B": 1, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip


def seconds(text: object) -> float:
    """Read a duration such as "500 ms" as seconds. Raises ValueError."""
    match = _DURATION.match(text) if isinstance(text, str) else None
    if match is None:
        minutes = re.fullmatch(r"\s*(\d+)\s*(m|mins?|minutes?)\s*", text) if isinstance(text, str) else None
        hint = f"; for minutes write {minutes[1]} min" if minutes else ""
        raise ValueError(f"expected a duration with a unit such as 500 ms, 1 s, 10 min or 1 d, got {text!r}{hint}")
    return float(match[1]) * _SECONDS[match[2]]


def octets(text: object) -> int:
    """Read a size such as "64 MB" as bytes. Raises ValueError."""
    match = _SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a size with a unit such as 500 kB, 64 MB or 2 GiB, got {text!r}")
    return round(float(match[1]) * _BYTES[match[2]])


def _fraction(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(f"expected a number such as 0.1 or a fraction such as 1/3, got {value!r}")
    text = str(value).replace(" ", "")
    try:
        return Fraction("huge" if _HUGE.search(text) or len(text) > 100 else text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number such as 0.1 or a fraction such as 1/3, got {value!r}") from None


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(us|ms|s|min|h|d)\s*$", "examples": ["1 s"]}),
]
"""Seconds, written with a unit."""

Size = Annotated[
    int,
    BeforeValidator(octets),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([kKMG]i?)?B\s*$", "examples": ["64 MB"]}),
]
"""Bytes, written with a unit."""

_RATE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(messages|B|kB|KB|MB|KiB|MiB|bit|kbit|Mbit)\s*/\s*s\s*$")
_BITS: Final = {"bit": 1 / 8, "kbit": 125, "Mbit": 125_000}
_BUDGET: Final = re.compile(r"^\s*(.*?)\s*/\s*(hour|day|week|month)\s*$")


def rate(text: object) -> Rate:
    """Read a rate such as "64 kB/s" or "20 messages/s". Raises ValueError."""
    match = _RATE.match(text) if isinstance(text, str) else None
    if match is None or not float(match[1]):
        raise ValueError(f"expected a rate such as 64 kB/s, 512 kbit/s or 20 messages/s, got {text!r}")
    number, unit = float(match[1]), match[2]
    return Rate(messages=number) if unit == "messages" else Rate(octets=number * (_BITS | _BYTES)[unit])


def budget(text: object) -> VolumeBudget:
    """Read a budget such as "50 MB/day". Raises ValueError."""
    match = _BUDGET.match(text) if isinstance(text, str) else None
    if match is None or not _SIZE.match(match[1]):
        raise ValueError(f"expected a budget such as 50 MB/day, 2 MB/hour or 1 GB/month, got {text!r}")
    return VolumeBudget(octets(match[1]), match[2], f"{match[1]}/{match[2]}")


RateText = Annotated[
    Rate,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(rate)),
    WithJsonSchema({"type": "string", "pattern": _RATE.pattern.replace("(?:", "("), "examples": ["64 kB/s"]}),
]
"""Bytes or messages a second, written with a unit."""

BudgetText = Annotated[
    VolumeBudget,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(budget)),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\s*\d+(\.\d+)?\s*([kKMG]i?)?B\s*/\s*(hour|day|week|month)\s*$",
            "examples": ["50 MB/day"],
        }
    ),
]
"""Bytes in a period of the calendar."""

Number = Annotated[
    Fraction,
    GetPydanticSchema(lambda _source, _handler: core_schema.no_info_plain_validator_function(_fraction)),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?\d+\s*/\s*\d+$"}]}),
]
"""An exact decimal or fraction."""


def _switched(value: object) -> object:
    """Take what YAML makes of on and off back."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


OnOff = Annotated[
    Literal["on", "off"], BeforeValidator(_switched), WithJsonSchema({"enum": ["on", "off", True, False]})
]
"""on or off."""


class Options(BaseModel):
    """The base of every model of YAML keys: immutable, and an unknown key is an error."""

    # built at first use: the daemon gets its options checked, and never needs the validators
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)
