"""The guess at a wrong byte order: from the bytes alone, and silent where it could be wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus.address import ModbusSource, full_order
from drivers.modbus.explain import guess
from gateway.model import Kind, Tag

ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")


def tag(type_: str, order: str, **settings: float) -> Tag:
    width = 8 if type_.endswith("64") else 4
    source = ModbusSource("holding", 0, width // 2, type_, full_order(order, width))
    return Tag("t", "", source, Kind.FLOAT, type_, **settings)  # type: ignore[arg-type]


def sent(form: str, value: float, order: str) -> bytes:
    """Give a value's bytes as a device sends them that keeps this order."""
    plain = struct.pack(form, value)
    letters = full_order(order, len(plain))
    return bytes(plain[ord(letter) - 65] for letter in letters)


@pytest.mark.parametrize("value", [231.5, 49.98, -12.25, 0.85, 1480.0, 21.7])
@pytest.mark.parametrize(("written", "true"), [("ABCD", "CDAB"), ("CDAB", "ABCD")])
def test_swapped_registers_of_a_float_are_recognised(value: float, written: str, true: str) -> None:
    """The most frequent mistake in a register list: it shows 2.3e-41 or 1e+30 where the plant has 231.5."""
    said = guess(tag("float32", written, minimum=-100.0, maximum=2000.0), sent(">f", value, true))
    assert said.startswith(f"looks like the wrong word order: try {true}")


def test_four_letters_are_advised_for_64_bits_too() -> None:
    assert "try CDAB" in guess(tag("float64", "ABCD"), sent(">d", 1234.5, "CDAB"))


@given(st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3), st.sampled_from(ORDERS))
def test_a_float_of_human_size_is_never_doubted(value: float, order: str) -> None:
    """A guess that cries wolf would be turned off in the head after a day."""
    assert guess(tag("float32", order), sent(">f", value, order)) == ""


@given(st.integers(0, 2**32 - 1), st.sampled_from(ORDERS))
def test_an_integer_without_limits_may_be_any_counter(value: int, order: str) -> None:
    assert guess(tag("uint32", order), sent(">I", value, order)) == ""


def test_an_integer_outside_its_limits_that_another_order_brings_inside_is_doubted() -> None:
    said = guess(tag("uint32", "ABCD", minimum=0.0, maximum=10_000.0), sent(">I", 1500, "CDAB"))
    assert "try CDAB" in said


def test_a_value_outside_its_limits_in_every_order_is_left_to_the_limits() -> None:
    assert guess(tag("float32", "ABCD", minimum=0.0, maximum=1.0), sent(">f", 5.5, "ABCD")) == ""


def test_zero_says_nothing_about_an_order() -> None:
    assert guess(tag("float32", "ABCD", minimum=5.0, maximum=10.0), bytes(4)) == ""
