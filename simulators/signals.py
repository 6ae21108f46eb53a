"""Deterministic signals: what a simulated tag shows is a function of its name and the time, and of nothing else.

Time is cut into ticks (100 ms unless told): the value is constant within one and depends only on
`floor(time / tick)` and a seed, the BLAKE2b hash of "device/tag". So a simulator, and whoever checks the store
afterwards in another process, compute the same values without talking to each other.

Signals live on *raw* values, as the device holds them: an integer count u in 0..span, shifted by `low`, times a
quantum (1 for integers, a power of two for floats), so that each is exact in the tag's type at the source.
The engineering value is raw x scale + offset in fractions, rounded to float64 once: a routine on purpose unlike the
gateway's. All counts are uint64 columns, so that a Bank of 10,000 signals makes a tick in under a millisecond.

    ramp      rises from low to high in one period and starts again
    sine      one wave per period
    walk      wanders between low and high, as a temperature does
    counter   counts up and rolls over at high
    on-off    high for the first half of a period, low for the second
    states    goes through the tag's states (or texts), some of them twice in a row
    constant  stays

A signal with a track is none of these: it shows what was recorded (simulators.playing), from tick to tick.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.model import Kind, Tag
from simulators.playing import Track

TICK: Final = 100_000_000  # ns
LEVELS: Final = 4096  # how finely a float signal is divided
WAVE: Final = 24  # bits of the wave tables
TEXTS: Final = ("RUN", "STOP", "SETUP", "00420", "ALARM")  # 00420: must stay text all the way
SHAPES: Final = ("ramp", "sine", "walk", "counter", "on-off", "states", "constant")

Counts = NDArray[np.uint64]
Column = NDArray[np.uint64]

_SINE: Final = np.array(
    [round((1 - math.cos(2 * math.pi * i / 3600)) * 2 ** (WAVE - 1)) for i in range(3600)], np.uint64
)
_ALL: Final = 2**64


@dataclass(frozen=True, slots=True)
class Holds:
    """What a type at the source can hold: whole numbers low..high, or floats with this many bits of mantissa."""

    low: int
    high: int
    mantissa: int = 0
    text: int = 0  # longest text


@dataclass(frozen=True, slots=True)
class Signal:
    """One tag's signal. `count` is u; raw = (low + u) x quantum, or `table[u]` where the signal goes through states."""

    device: str
    tag: Tag
    tick: int
    shape: str
    low: int
    span: int
    period: int  # ticks
    phase: int
    step: int
    seed: int
    quantum: Fraction = Fraction(1)
    table: tuple[int, ...] | tuple[str, ...] = ()
    avoid: tuple[tuple[int, int], ...] = ()  # counts that mean "not available", and what is shown in their place
    track: Track | None = None  # a recording: u is the raw value's own pattern, or a text's number

    def count(self, time: NDArray[np.int64]) -> Counts:
        """Give u at these times."""
        if self.track is not None:
            return self.track.count(time // self.tick * self.tick)
        ticks = (time // self.tick).astype(np.uint64)
        one = [
            np.array([number % _ALL], np.uint64)
            for number in (self.span, self.period, self.phase, self.step, self.seed)
        ]
        return _avoid(_COUNT[self.shape](ticks, *one), self.avoid)

    def raw(self, time: NDArray[np.int64]) -> list[int | float | bool | str]:
        """Give what the device holds at these times."""
        return [self._raw(int(u)) for u in self.count(time)]

    def value(self, time: NDArray[np.int64]) -> NDArray[Any]:
        """Give the engineering values at these times, in the dtype of the tag's kind."""
        found, where = np.unique(self.count(time), return_inverse=True)
        return np.array([self._value(int(u)) for u in found], dtype=self.tag.kind.dtype)[where]

    def matches(self, time: NDArray[np.int64], value: NDArray[Any], tolerance: int = 0) -> NDArray[np.bool_]:
        """Mark the rows whose value the signal had at some moment in [time - tolerance, time] (ns).

        A reading is stamped when the answer arrives, so its value may belong to any tick since the request. With
        tolerance 0 the time must be the source's own.
        """
        right = np.zeros(len(time), dtype=np.bool_)
        for back in range(0, tolerance + 1, self.tick):
            right |= self.value(time - back) == value
        if tolerance % self.tick:
            right |= self.value(time - tolerance) == value
        return right

    def _raw(self, u: int) -> int | float | bool | str:
        if self.table:
            entry = self.table[u]
            return bool(entry) if self.tag.kind is Kind.BOOL else entry
        if self.track is not None and self.tag.kind is not Kind.BOOL:
            if not self.quantum:
                return float(np.uint64(u).view(np.float64))
            return u - _ALL if self.low < 0 and u >= 2**63 else u
        number = (self.low + u) * self.quantum
        if self.tag.kind is Kind.BOOL:
            return bool(number)
        return int(number) if self.quantum == 1 else float(number)

    def _value(self, u: int) -> int | float | bool | str:
        return self.engineering(self._raw(u))

    def whole(self, time: int) -> int:
        """Give the whole number that is shown at a time, before the quantum."""
        u = int(self.count(np.array([time], np.int64))[0])
        return int(self.table[u]) if self.table else self.low + u

    def engineering(self, raw: int | float | bool | str) -> int | float | bool | str:
        """Give the engineering value of a raw one."""
        if isinstance(raw, bool | str):
            return raw
        exact = Fraction(raw) * self.tag.scale + self.tag.offset
        return float(exact) if self.tag.kind is Kind.FLOAT else int(exact)


class Bank:
    """Many signals as columns, for a simulator that shows them all at each tick.

    `number(time)` gives per signal the whole number low + u (or the table's number) as a 64-bit pattern;
    `floats` turns those of float signals into values; texts are asked for one by one.
    """

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.signals = tuple(signals)
        self.tick = signals[0].tick if signals else TICK
        self.low = np.array([0 if signal.track else signal.low % _ALL for signal in signals], np.uint64)
        self.quantum = np.array([float(signal.quantum) for signal in signals], np.float64)
        self._parts: list[tuple[str, NDArray[np.intp], tuple[Column, ...]]] = []
        for shape in SHAPES:
            rows = [row for row, signal in enumerate(signals) if signal.shape == shape]
            chosen = [signals[row] for row in rows]
            if rows:
                columns = [[s.span, s.period, s.phase, s.step, s.seed] for s in chosen]
                parameters = tuple(np.array(column, np.uint64) for column in zip(*columns, strict=True))
                self._parts.append((shape, np.array(rows), parameters))
        self._tracks = [(row, signal) for row, signal in enumerate(signals) if signal.track is not None]
        self._avoid = [(row, signal.avoid) for row, signal in enumerate(signals) if signal.avoid]
        self._tables = [(row, s.table) for row, s in enumerate(signals) if s.table and not isinstance(s.table[0], str)]
        self.texts = [(row, s.table) for row, s in enumerate(signals) if s.table and isinstance(s.table[0], str)]
        self._stopped: dict[int, int] = {}  # row -> the count that it stands at
        self._ramps: dict[int, tuple[int, int, int, int]] = {}  # row -> begin, end (ns), first and last whole number
        self._time = 0

    def stop(self, rows: Iterable[int], time: int) -> None:
        """Let signals stand still at what they are at this time."""
        counts = self.count(time)
        self._stopped |= {row: int(counts[row]) for row in rows}

    def ramp(self, row: int, number: int, begin: int, end: int) -> tuple[int, int, int, int]:
        """Let a signal go from where it is to another whole number, which may lie outside of its range, and stay.

        Gives begin, end, and the whole numbers that it goes from and to.
        """
        counts = self.count(begin)
        here = int(self.number(counts)[row])
        here -= _ALL if here >= 2**63 and self.signals[row].low < 0 else 0
        self._ramps[row] = begin, end, here, number
        return self._ramps[row]

    def go_on(self, rows: Iterable[int]) -> None:
        """End what was stopped or ramps."""
        for row in rows:
            self._stopped.pop(row, None)
            self._ramps.pop(row, None)

    def count(self, time: int) -> Counts:
        """Give u of every signal at this time."""
        self._time = time
        counts = np.zeros(len(self.signals), np.uint64)
        tick = np.array(time // self.tick, np.uint64)
        for shape, rows, parameters in self._parts:
            counts[rows] = _COUNT[shape](tick, *parameters)
        for row, signal in self._tracks:
            counts[row : row + 1] = signal.count(np.array([time], np.int64))
        for row, avoid in self._avoid:
            counts[row : row + 1] = _avoid(counts[row : row + 1], avoid)
        for row, stopped in self._stopped.items():
            counts[row] = stopped
        return counts

    def number(self, counts: Counts) -> Counts:
        """Give the whole numbers behind the counts of the last time, as 64-bit patterns (two's complement)."""
        numbers = self.low + counts
        for row, table in self._tables:
            numbers[row] = int(table[int(counts[row])]) % _ALL
        for row, (begin, end, first, last) in self._ramps.items():
            numbers[row] = on_ramp(self._time // self.tick * self.tick, begin, end, first, last) % _ALL
        return numbers


def on_ramp(time: int, begin: int, end: int, first: int, last: int) -> int:
    """Give the whole number that a ramp shows in the tick that begins at `time`."""
    part = min(max((time - begin) / max(end - begin, 1), 0.0), 1.0)
    return round(first + (last - first) * part)


def floats(patterns: Counts, quantum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the whole numbers of float signals into values; where the quantum is 0 the pattern is the float's own."""
    values: NDArray[np.float64] = patterns.view(np.int64) * quantum
    own = quantum == 0
    if own.any():
        values = np.where(own, patterns.view(np.float64), values)
    return values


def played(device: str, tag: Tag, tick: int, track: Track, holds: Holds) -> Signal:
    """Give the signal that shows a recording."""
    quantum = Fraction(0) if holds.mantissa else Fraction(1)
    return Signal(device, tag, tick, "played", min(holds.low, 0), 0, 1, 0, 0, 0, quantum, track.texts, track=track)


def seed_of(name: str) -> int:
    """Give 64 bits that belong to this name, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def fit(device: str, tag: Tag, tick: int = TICK, holds: Holds | None = None, texts: tuple[str, ...] = TEXTS) -> Signal:
    """Choose the signal of a tag: as `simulate` in the site file says, else one that suits its type and range.

    `holds` is for drivers whose type word does not say what fits (a few bits of a register), `texts` are what a tag
    of texts goes through.
    """
    seed = seed_of(f"{device}/{tag.name}")
    holds = holds or holding(tag)
    asked = tag.simulate
    ticks = max(2, round((asked.period if asked else 20 + seed % 100) * 1e9 / tick))
    shape = asked.signal if asked else _suitable(tag, holds, seed)
    if tag.kind is Kind.TEXT or (shape == "states" and tag.states):
        return _through_states(device, tag, tick, shape, holds, ticks, seed, texts)
    low, high, quantum = _range(tag, holds, shape)
    span = high - low
    step = 1 + seed % 7
    if shape == "counter" and asked and asked.high is not None:
        step = min(max(1, (span + 1) // ticks), tick)  # at most tick: tick number x step stays below 2**64
    if shape == "counter" and span != _ALL - 1:
        span = min(span, 2**63 - 1)
    phase = seed % (span + 1) if shape in ("counter", "constant") else seed % ticks
    if shape == "constant" and asked and asked.low is not None:
        phase = 0
    avoid = _not_available(tag, low, span, quantum)
    return Signal(device, tag, tick, shape, low, span, ticks, phase, step, seed, quantum, avoid=avoid)


def holding(tag: Tag) -> Holds:
    """Say what the tag's type at the source can hold. Types are read as drivers write them: uint16, Float, bcd32."""
    name = tag.type.lower()
    bits = int(found[0]) if (found := re.findall(r"\d+", name)) else 0
    if tag.kind is Kind.TEXT:
        return Holds(0, 0, text=bits or 32)
    if tag.kind is Kind.BOOL or name.startswith("bool"):
        return Holds(0, 1)
    if "bcd" in name:
        return Holds(0, 10 ** ((bits or 16) // 4) - 1)
    if name.startswith(("float", "double", "real")) or not name:
        mantissa = {16: 11, 32: 24}.get(bits or (64 if name != "float" else 32), 53)
        return Holds(-(2**mantissa), 2**mantissa, mantissa=mantissa)
    bits = bits or {"sbyte": 8, "byte": 8, "enum": 32}.get(name, 16)
    if name.startswith(("uint", "byte", "u")):
        return Holds(0, 2**bits - 1)
    return Holds(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def number_of(signal: Signal, value: float, holds: Holds | None = None) -> int:
    """Give the whole number that stands for an engineering value, or the nearest that the tag's type holds."""
    holds = holds or holding(signal.tag)
    raw = (Fraction(value) - signal.tag.offset) / (signal.tag.scale or 1)
    return min(max(round(raw / signal.quantum), holds.low), holds.high)


def _suitable(tag: Tag, holds: Holds, seed: int) -> str:
    if tag.kind is Kind.TEXT or tag.states:
        return "states"
    if holds.high - holds.low <= 1:
        return "on-off"
    limited = not (math.isinf(tag.minimum) or math.isinf(tag.maximum))
    if not holds.mantissa and holds.high >= 2**31 - 1 and not limited:
        return "counter"
    return ("sine", "walk", "ramp")[seed % 3]


def _range(tag: Tag, holds: Holds, shape: str) -> tuple[int, int, Fraction]:
    """Give (low, high, quantum): the whole numbers, times quantum, that a signal of this tag may show."""
    asked = tag.simulate
    bottom = _raw_end(tag, asked.low if asked and asked.low is not None else tag.minimum)
    top = _raw_end(tag, asked.high if asked and asked.high is not None else tag.maximum)
    if tag.scale < 0:
        bottom, top = top, bottom
    first, last = _natural(tag, holds, shape)
    width = last - first
    if bottom is not None:
        first, last = bottom, max(last, bottom + width)
    if top is not None:
        first, last = first if bottom is not None else min(first, top - width), top
    quantum = _quantum(first, last, holds.mantissa, shape) if holds.mantissa else Fraction(1)
    low = max(math.ceil(first / quantum), holds.low)
    high = min(math.floor(last / quantum), holds.high)
    if low > high:  # no value of this type lies in the range: show the nearest
        low = high = min(max(round(first / quantum), holds.low), holds.high)
    return low, high, quantum


def _raw_end(tag: Tag, engineering: float) -> Fraction | None:
    """Give one end of a range in raw terms; None where it is open."""
    return None if math.isinf(engineering) else (Fraction(engineering) - tag.offset) / (tag.scale or 1)


def _natural(tag: Tag, holds: Holds, shape: str) -> tuple[Fraction, Fraction]:
    """Give the raw range of a tag that says nothing about it."""
    if shape == "counter":
        exact = 2**53 - 1 if tag.kind is Kind.FLOAT else holds.high  # scaled 64-bit counters are float64 in the gateway
        return Fraction(0), Fraction(min(holds.high, exact))
    if holds.mantissa:
        return Fraction(-100), Fraction(100)
    return Fraction(max(holds.low, -5000)), Fraction(min(holds.high, 10_000))


def _quantum(first: Fraction, last: Fraction, mantissa: int, shape: str) -> Fraction:
    """Give the power of two that divides the range into about LEVELS steps, each exact in the mantissa."""
    width = max(last - first, abs(first) / 1024, Fraction(1, 2**20))
    quantum = Fraction(2) ** math.ceil(math.log2(width / LEVELS))
    if shape == "counter":
        quantum = min(quantum, Fraction(1))
    while max(abs(first), abs(last)) / quantum >= 2**mantissa:
        quantum *= 2
    return quantum


def _through_states(
    device: str, tag: Tag, tick: int, shape: str, holds: Holds, period: int, seed: int, texts: tuple[str, ...]
) -> Signal:
    table: tuple[int, ...] | tuple[str, ...]
    if tag.kind is Kind.TEXT:
        table = tuple(dict.fromkeys(text[: holds.text] for text in texts))
    else:
        table = tuple(number for number, _ in tag.states if holds.low <= number <= holds.high) or (0,)
    shape = "constant" if shape == "constant" else "states"
    return Signal(device, tag, tick, shape, 0, len(table) - 1, period, seed % len(table), 1, seed, table=table)


def _not_available(tag: Tag, low: int, span: int, quantum: Fraction) -> tuple[tuple[int, int], ...]:
    exact = [Fraction(number) / quantum - low for number in tag.not_available if math.isfinite(number)]
    taken = {int(u) for u in exact if u.denominator == 1 and 0 <= u <= span}
    free = next((u for u in range(len(taken) + 1) if u not in taken and u <= span), 0)
    return tuple((u, free) for u in sorted(taken))


def _avoid(counts: Counts, avoid: tuple[tuple[int, int], ...]) -> Counts:
    for taken, free in avoid:
        counts = np.where(counts == np.uint64(taken), np.uint64(free), counts)
    return counts


# ------------------------------------------------------------------------------------------------ the shapes
# (tick, span, period, phase, step, seed) -> u, each an array of uint64 or broadcast to one; all arithmetic is modulo
# 2**64, and no product exceeds it where the result matters.


def _scaled(wave: Counts, span: Column) -> Counts:
    """Stretch a wave of 0..2**WAVE to 0..span."""
    low = np.uint64(2**WAVE - 1)
    bits = np.uint64(WAVE)
    return (span >> bits) * wave + (((span & low) * wave) >> bits)


def _ramp(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    position = (tick + phase) % period
    last = period - np.uint64(1)
    return position * (span // last) + position * (span % last) // last


def _sine(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    wave: Counts = _SINE[(tick + phase) % period * np.uint64(3600) // period]
    return _scaled(wave, span)


def _walk(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    slow = _between(tick + phase, np.maximum(period // np.uint64(4), np.uint64(1)), seed)
    fast = _between(tick + phase, np.maximum(period // np.uint64(24), np.uint64(1)), ~seed)
    return _scaled((slow * np.uint64(7) + fast) >> np.uint64(3), span)


def _between(tick: Counts, stride: Column, seed: Column) -> Counts:
    """Go in straight lines between random heights of 0..2**WAVE that are `stride` ticks apart."""
    post = tick // stride
    part = tick % stride
    bits = np.uint64(64 - WAVE)
    one = np.uint64(1)
    return ((_hash(seed, post) >> bits) * (stride - part) + (_hash(seed, post + one) >> bits) * part) // stride


def _counter(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    size = span + np.uint64(1)  # 0 stands for 2**64, where the sum rolls over by itself
    whole = size == 0
    modulus = np.where(whole, np.uint64(1), size)
    total = np.where(whole, tick * step, tick * step % modulus) + phase
    return np.where(whole, total, total % modulus)


def _on_off(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    return np.where((tick + phase) % period * np.uint64(2) < period, span, np.uint64(0))


def _states(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    count = span + np.uint64(1)
    stay = np.maximum(period // count, np.uint64(1))
    return _hash(seed, (tick + phase) // stay) % count


def _constant(tick: Counts, span: Column, period: Column, phase: Column, step: Column, seed: Column) -> Counts:
    return phase + np.zeros_like(tick)


def _hash(seed: Column, number: Counts) -> Counts:
    """Mix two numbers into 64 even bits (splitmix64, Steele, Lea and Flood 2014)."""
    mixed = seed + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    even: Counts = mixed ^ (mixed >> np.uint64(31))
    return even


_COUNT: Final[dict[str, Callable[..., Counts]]] = {
    "ramp": _ramp,
    "sine": _sine,
    "walk": _walk,
    "counter": _counter,
    "on-off": _on_off,
    "states": _states,
    "constant": _constant,
}
