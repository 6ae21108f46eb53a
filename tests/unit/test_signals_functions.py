"""Signals: the same everywhere, exact in the source's type, and inside the tag's range."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model import Kind, Tag
from gateway.options import SignalOptions
from simulators.signals import SHAPES, TICK, Bank, fit, holding

NOW = 1_764_000_000_000_000_000
TYPES = {
    "bool": Kind.BOOL, "int16": Kind.FLOAT, "uint16": Kind.FLOAT, "int32": Kind.FLOAT, "uint32": Kind.FLOAT,
    "float32": Kind.FLOAT, "float64": Kind.FLOAT, "bcd16": Kind.FLOAT, "bcd32": Kind.FLOAT, "int64": Kind.INT,
    "uint64": Kind.UINT, "string16": Kind.TEXT,
}  # fmt: skip


def ticks(count: int, start: int = NOW) -> np.ndarray[Any, np.dtype[np.int64]]:
    return start + np.arange(count, dtype=np.int64) * TICK


def tag(type_: str = "float32", name: str = "t", **settings_: Any) -> Tag:
    return Tag(name=name, address="", kind=TYPES[type_], type=type_, **settings_)


def survives(type_: str, raw: Any) -> bool:
    """Say whether the type at the source gives back the very value that was put in."""
    formats = {
        "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f", "float64": ">d",
        "int64": ">q", "uint64": ">Q", "bool": ">?",
    }  # fmt: skip
    if type_.startswith("bcd"):
        return bool(0 <= raw < 10 ** (int(type_[3:]) // 4)) and raw == int(raw)
    if type_ == "string16":
        return len(raw.encode("ascii")) <= 16
    return bool(struct.unpack(formats[type_], struct.pack(formats[type_], raw))[0] == raw)


@st.composite
def tags(draw: st.DrawFn) -> Tag:
    type_ = draw(st.sampled_from(sorted(TYPES)))
    shape = draw(st.sampled_from(SHAPES))
    simulate = draw(
        st.none() | st.builds(SignalOptions, signal=st.just(shape), period=st.sampled_from(["1 s", "1 min"]))
    )
    whole = TYPES[type_] not in (Kind.FLOAT,)
    scale = (
        Fraction(1) if whole else draw(st.sampled_from([Fraction(1), Fraction(1, 10), Fraction(-1, 4), Fraction(1, 3)]))
    )
    offset = Fraction(0) if whole else draw(st.sampled_from([Fraction(0), Fraction(-40), Fraction(1, 10)]))
    low = draw(st.sampled_from([-math.inf, 0.0, 1.0, 0.1]))
    high = draw(st.sampled_from([math.inf, 20.0, 99.9, 1200.0]))
    states = draw(st.sampled_from([(), ((0, "off"), (1, "on"), (3, "fault"))]))
    name = draw(st.text("abc/äß压", min_size=1, max_size=5))
    return tag(type_, name, scale=scale, offset=offset, minimum=low, maximum=high, states=states, simulate=simulate)


@given(tags(), st.integers(0, 2**62))
@settings(max_examples=300, deadline=None)
def test_every_raw_value_is_exact_in_the_type_at_the_source(tag_: Tag, start: int) -> None:
    """A value that float32 or BCD could not hold would make the gateway look wrong where it is right."""
    raw = fit("press", tag_).raw(ticks(50, start))
    assert all(survives(tag_.type, value) for value in raw)


@given(tags(), st.integers(0, 2**62))
@settings(max_examples=200, deadline=None)
def test_a_bank_shows_what_each_signal_says_by_itself(tag_: Tag, start: int) -> None:
    """The servers use banks, the check uses signals: they must be one function."""
    others = [fit("d", tag(name=str(number))) for number in range(3)]
    signals = [*others, fit("press", tag_), *others]
    counts = Bank(signals).count(start)
    assert [int(count) for count in counts] == [int(signal.count(np.array([start]))[0]) for signal in signals]


@pytest.mark.parametrize("type_", ["int16", "uint16", "int32", "uint32", "float32", "float64", "bcd16"])
@pytest.mark.parametrize(("scale", "offset"), [(Fraction(1), Fraction(0)), (Fraction(1, 10), Fraction(-5))])
def test_engineering_values_stay_between_min_and_max(type_: str, scale: Fraction, offset: Fraction) -> None:
    limited = tag(type_, scale=scale, offset=offset, minimum=1.5, maximum=60.2)
    for shape in SHAPES:
        named = Tag(**{**fields(limited), "name": shape, "simulate": SignalOptions.model_validate({"signal": shape})})
        values = fit("press", named).value(ticks(2000))
        assert values.min() >= 1.5
        assert values.max() <= 60.2


def fields(of: Tag) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__slots__}


def test_the_engineering_value_is_the_fraction_rounded_once() -> None:
    exact = tag("int16", scale=Fraction(1, 10), minimum=-10.0, maximum=200.0)
    signal = fit("press", exact)
    for raw, value in zip(signal.raw(ticks(700)), signal.value(ticks(700)), strict=True):
        assert value == float(f"{raw / 10:.1f}")


def test_a_value_holds_for_a_tick_and_only_time_decides() -> None:
    signal = fit("press", tag(simulate=SignalOptions.model_validate({"signal": "ramp", "period": "10 s"})))
    start = NOW // TICK * TICK
    within = signal.value(np.array([start, start + 1, start + TICK - 1, start + TICK]))
    assert within[0] == within[1] == within[2] != within[3]


def test_names_give_different_signals() -> None:
    times = ticks(300)
    seen = {tuple(fit("press", tag(name=str(number))).value(times)) for number in range(50)}
    assert len(seen) == 50


def test_another_process_computes_the_same_values() -> None:
    """Python's own hash of a string differs from process to process; the seed must not."""
    program = (
        "import numpy as np; from gateway.model import Tag; from simulators.signals import fit;"
        f"print(fit('press', Tag('t', '', type='float32')).value(np.arange(20) * {TICK} + {NOW}).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == str(fit("press", tag()).value(ticks(20)).tolist())


@pytest.mark.parametrize("type_", ["int64", "uint64"])
def test_a_64_bit_counter_is_beyond_what_float64_holds_and_goes_up(type_: str) -> None:
    """A gateway that passes 64-bit counters through floats must show up as wrong."""
    raw = fit("press", tag(type_)).raw(ticks(20))
    assert raw[0] > 2**53  # type: ignore[operator]
    steps = {after - before for before, after in pairwise(raw)}  # type: ignore[operator]
    assert len(steps) == 1
    assert any(int(float(value)) != value for value in raw)


def test_a_counter_rolls_over_at_its_end() -> None:
    counter = tag(
        "uint16", simulate=SignalOptions.model_validate({"signal": "counter", "low": 0, "high": 999, "period": "10 s"})
    )
    raw = [int(value) for value in fit("press", counter).raw(ticks(300))]
    falls = sum(after < before for before, after in pairwise(raw))
    assert falls in (2, 3)
    assert 0 <= min(raw) <= max(raw) <= 999


def test_states_are_those_of_the_tag() -> None:
    machine = tag("uint16", states=((0, "stopped"), (2, "running"), (7, "fault")))
    assert set(fit("press", machine).raw(ticks(5000))) == {0, 2, 7}


def test_texts_fit_the_length_at_the_source() -> None:
    short = Tag("t", "", kind=Kind.TEXT, type="string3")
    texts = set(fit("press", short).raw(ticks(5000)))
    assert len(texts) > 2
    assert all(len(str(text)) <= 3 for text in texts)


def test_raw_values_that_mean_not_available_are_never_shown() -> None:
    """Else a Good signal would come out Bad, and the check of the store would be about nothing."""
    ramp = SignalOptions.model_validate({"signal": "ramp", "low": 0, "high": 10, "period": "2 s"})
    shown = set(fit("press", tag("int16", simulate=ramp, not_available=(0.0, 5.0, 32767.0))).raw(ticks(200)))
    assert shown == {1, 2, 3, 4, 6, 7, 8, 9, 10}


def test_a_value_of_an_earlier_tick_matches_only_within_the_tolerance() -> None:
    ramp = tag(simulate=SignalOptions.model_validate({"signal": "ramp", "period": "60 s"}))
    signal = fit("press", ramp)
    times = ticks(100)
    late = signal.value(times - 3 * TICK)
    assert signal.matches(times, late, 3 * TICK).all()
    assert not signal.matches(times, late, TICK).any()
    assert signal.matches(times, signal.value(times)).all()


@pytest.mark.parametrize(
    ("type_", "kind", "low", "high"),
    [
        ("Double", Kind.FLOAT, -(2**53), 2**53),
        ("Float", Kind.FLOAT, -(2**24), 2**24),
        ("SByte", Kind.FLOAT, -128, 127),
        ("Byte", Kind.FLOAT, 0, 255),
        ("UInt16", Kind.FLOAT, 0, 65535),
        ("Int64", Kind.INT, -(2**63), 2**63 - 1),
        ("bcd32", Kind.FLOAT, 0, 99_999_999),
    ],
)
def test_the_range_of_a_type_is_known_in_the_words_of_each_driver(type_: str, kind: Kind, low: int, high: int) -> None:
    holds = holding(Tag("t", "", kind=kind, type=type_))
    assert (holds.low, holds.high) == (low, high)
