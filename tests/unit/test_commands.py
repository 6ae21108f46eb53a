"""What may be written, in which raw terms, and why not."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from gateway.commands import Refused, check, engineering, find_tag
from gateway.model import Device, Group, Kind, Link, Tag, split_by_kind
from gateway.options import WriteRule


def tag(**keys: Any) -> Tag:
    return Tag("speed", "holding:0", **{"type": "int16", "writable": WriteRule(), **keys})


@pytest.mark.parametrize(
    ("keys", "value", "raw"),
    [
        ({}, "12", 12),
        ({"scale": Fraction(1, 10)}, "23.1", 231),
        ({"scale": Fraction(1, 10), "offset": Fraction(-40)}, "-39.9", 1),
        ({"scale": Fraction(5)}, "35", 7),
        ({"type": "float32"}, "2.5", 2.5),
        ({"type": "float32", "scale": Fraction(1, 10)}, "0.1", 1),
        ({"kind": Kind.UINT, "type": "uint64"}, "18446744073709551615", 18446744073709551615),
        ({"kind": Kind.BOOL, "type": "bool"}, "on", True),
        ({"kind": Kind.BOOL, "type": "bool"}, "False", False),
        ({"kind": Kind.TEXT, "type": "text"}, "0012", "0012"),
        ({"states": ((0, "stopped"), (1, "running"))}, "running", 1),
        ({"states": ((0, "stopped"), (1, "running"))}, "0", 0),
    ],
)
def test_a_value_in_engineering_units_becomes_the_exact_raw_one(keys: dict[str, Any], value: str, raw: Any) -> None:
    given = check(tag(**keys), value)
    assert given == raw
    assert type(given) is type(raw)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        ({"writable": None}, "1", "speed is not writable (its tag needs the key writable, with limits)"),
        ({}, "fast", "speed: expected a number, got 'fast'"),
        ({}, "1.5", "speed holds steps of 1: 1.5 is none, the nearest are 1 and 2"),
        ({"scale": Fraction(1, 10)}, "0.25", "speed holds steps of 0.1: 0.25 is none, the nearest are 0.2 and 0.3"),
        ({"writable": WriteRule(min=0, max=50), "unit": "Hz"}, "51", "speed may be set from 0 to 50 Hz, not to 51"),
        ({"writable": WriteRule(max=0.3)}, "0.30000000000000001", "speed may be set to 0.3 or less, not to 0.3"),
        ({"kind": Kind.BOOL, "type": "bool"}, "2", "speed: expected true or false, got '2'"),
        ({"states": ((0, "off"), (1, "on"))}, "idle", "speed: expected a number or one of off, on, got 'idle'"),
        ({"states": ((0, "off"), (1, "on"))}, "7", "speed has no state 7: it has {0: 'off', 1: 'on'}"),
        ({}, "nan", "speed: expected a number, got 'nan'"),
    ],
)
def test_what_may_not_be_written_is_refused_with_the_reason(keys: dict[str, Any], value: str, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        check(tag(**keys), value)
    assert str(refusal.value) == reason


def test_a_limit_itself_may_be_written() -> None:
    assert check(tag(writable=WriteRule(min=0.1, max=0.3), scale=Fraction(1, 10)), "0.3") == 3
    assert check(tag(writable=WriteRule(min=0.1, max=0.3), scale=Fraction(1, 10)), "0.1") == 1


def test_raw_values_are_shown_without_decimal_noise() -> None:
    assert engineering(tag(scale=Fraction(1, 10)), 231) == 23.1
    assert engineering(tag(), 7) == 7
    assert engineering(tag(), None) is None


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    group = Group("press-1", "default", 10**9, 0, split_by_kind("press-1", "default", [tag()]))
    links = [Link("line", "modbus", None, (Device("press-1", None, (group,)),))]
    assert find_tag(links, "press-1", "speed")[2].name == "speed"
    with pytest.raises(Refused, match="there is no device pres-1, did you mean press-1"):
        find_tag(links, "pres-1", "speed")
    with pytest.raises(Refused, match="press-1 has no tag sped, did you mean speed"):
        find_tag(links, "press-1", "sped")
