"""Finding out what is on a line: which units answer, who they say they are, and what some registers may mean.

For people in the field, not for the running gateway: each function asks little, and no more than it is told to.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from drivers.modbus.address import ORDERS, TYPES, Area, ModbusSource, full_order, in_order
from drivers.modbus.driver import ModbusDriver
from drivers.modbus.frames import READS, exception_text
from drivers.modbus.line import Ended, Pace
from drivers.modbus.plan import make_plan
from drivers.modbus.scan import Scan
from gateway import quality as q
from gateway.errors import NotConnected
from gateway.model import Kind, Link, Tag, split_by_kind

if TYPE_CHECKING:
    from drivers.modbus.spec import ModbusLink

_SHOWN: Final = (
    "uint16", "int16", "bcd16", "float16", "uint32", "int32", "float32", "bcd32", "unix32", "uint64", "int64",
    "float64",
)  # fmt: skip
STARS: Final = 3
_CLEARLY: Final = 6.0  # bits by which the best meaning outshines another
_ODDS: Final = {
    "uint16": 3.0, "int16": 3.0, "float16": -3.0, "bcd16": -2.0, "uint32": 1.0, "int32": 1.0, "float32": 5.0,
    "bcd32": 0.0, "unix32": 5.0, "uint64": 1.0, "int64": 1.0, "float64": 6.0, "text": 10.0,
}  # fmt: skip
"""How often a type is met, and how seldom other bytes look like a plausible one of it, in bits."""
_NAMES: Final = ("vendor", "product", "revision", "url", "product name", "model", "application")
_ABSENT: Final = (0x0A, 0x0B, *range(0x41, 0x4C))  # exceptions of a gateway that speaks for a unit that is not there


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that answered: with what, and the names it gives itself (FC 43/14)."""

    unit: int
    answer: str
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Silence:
    """A unit that did not answer, and what came instead, if anything."""

    unit: int
    note: str


def open_driver(options: ModbusLink) -> ModbusDriver:
    """Give a driver for a URL alone."""
    return ModbusDriver(Link("probe", "modbus", options, ()))


async def scan_units(
    driver: ModbusDriver, units: Sequence[int], timeout: float, pause: float
) -> AsyncGenerator[Unit | Silence]:
    """Ask unit after unit for one register. Raises NotConnected where no connection can be made any more."""
    for unit in units:
        pace = Pace(unit, timeout, pause)
        try:
            outcome, _ = await driver.ask(pace, b"\x03\0\0\0\1")
        except NotConnected as error:  # some devices hang up where another unit is asked for
            await driver.connect()
            yield Silence(unit, str(error))
            continue
        if outcome.ended is Ended.TIMEOUT or (outcome.ended is Ended.EXCEPTION and outcome.code in _ABSENT):
            yield Silence(unit, outcome.note)
            continue
        answer = "data" if outcome.ended is Ended.DONE else exception_text(outcome.code)
        yield Unit(unit, answer, await _names(driver, pace))


async def _names(driver: ModbusDriver, pace: Pace) -> dict[str, str]:
    """Identify a unit that has answered; a device that hangs up over the question has no names."""
    try:
        return await identify(driver, pace)
    except NotConnected:
        await driver.connect()
        return {}


async def identify(driver: ModbusDriver, pace: Pace) -> dict[str, str]:
    """Read a unit's basic identification (FC 43/14, Application Protocol V1.1b3, 6.21); nothing where it has none."""
    names: dict[str, str] = {}
    first = 0
    for _ in range(3):  # a device may need several answers
        outcome, answer = await driver.ask(pace, bytes((43, 14, 1, first)))
        if outcome.ended is not Ended.DONE or len(answer) < 7:
            break
        at = 7
        for _ in range(answer[6]):
            number, size = answer[at], answer[at + 1]
            name = _NAMES[number] if number < len(_NAMES) else f"object {number}"
            names[name] = answer[at + 2 : at + 2 + size].decode("utf-8", "replace").strip("\0 ")
            at += 2 + size
        if answer[4] != 0xFF or answer[5] <= first:
            break
        first = answer[5]
    return names


async def read_window(driver: ModbusDriver, pace: Pace, area: Area, address: int, longest: int) -> bytes | str:
    """Read up to `longest` registers (bits), fewer where the device refuses; give a sentence where it refuses all."""
    said = ""
    count = longest
    while count:
        pdu = bytes((READS[area],)) + address.to_bytes(2, "big") + count.to_bytes(2, "big")
        outcome, answer = await driver.ask(pace, pdu)
        if outcome.ended is Ended.DONE:
            return answer[2:]
        if outcome.ended is Ended.TIMEOUT:
            return f"no answer within {pace.timeout:g} s{'; ' + outcome.note if outcome.note else ''}"
        said = exception_text(outcome.code)
        count //= 2
    return f"refused with {said}"


@dataclass(frozen=True, slots=True)
class Meaning:
    """One way to read the registers."""

    type: str
    order: str
    value: str
    plausible: bool  # among the most plausible, of which there are three at most


def meanings(data: bytes) -> list[Meaning]:
    """Give every type and order the bytes may hold, decoded as the gateway would."""
    found = []
    tags = []
    for name in _SHOWN:
        width = TYPES[name].width
        orders = [full_order(order, width) for order in (ORDERS if width > 2 else ("ABCD", "BADC"))]
        for order in orders if width <= len(data) else ():
            source = ModbusSource("holding", 0, width // 2, name, order)
            tags.append(Tag(f"{name} {order}", "", source, TYPES[name].kind, name))
    length = len(data)
    for order in ("AB", "BA"):
        source = ModbusSource("holding", 0, length // 2, "text", order, length=length, encoding="ascii")
        tags.append(Tag(f"text {order}", "", source, Kind.TEXT, "text"))
    from drivers.modbus.spec import ModbusDevice, ModbusLink

    options = ModbusLink(driver="modbus", url="tcp://127.0.0.1")
    scan = Scan(make_plan(split_by_kind("", "", tags), ModbusDevice(), options))
    scan.begin(0)
    scan.buffer[:] = np.frombuffer(data, np.uint8)[: len(scan.buffer)]
    for batch in scan.batches(1):
        for row, tag in enumerate(batch.table.tags):
            value, good = batch.value[row], batch.quality[row] < q.BAD
            type_, _, order = tag.name.partition(" ")
            found.append(
                Meaning(type_, order, shown(type_, value) if good else "—", bool(good) and plausible(type_, value))
            )
    rank = {name: place for place, name in enumerate((*_SHOWN, "text"))}
    return _starred(sorted(found, key=lambda each: rank[each.type]), data)


def _starred(found: Sequence[Meaning], data: bytes) -> list[Meaning]:
    """Leave the mark on the most telling of the plausible meanings, at most three."""
    scores = {number: _telling(each, data) for number, each in enumerate(found) if each.plausible}
    first: dict[tuple[str, str], int] = {}  # an int16 that shows what the uint16 shows tells nothing new
    for number in scores:
        first.setdefault((found[number].order, found[number].value), number)
    ranked = sorted(first.values(), key=lambda number: -scores[number])
    best = scores[ranked[0]] if ranked else 0.0
    kept = {number for number in ranked[:STARS] if scores[number] > max(0.0, best - _CLEARLY)}
    return [replace(each, plausible=number in kept) for number, each in enumerate(found)]


def _telling(meaning: Meaning, data: bytes) -> float:
    """Say how unlikely it is that these bytes mean something so plausible by chance, in bits.

    Few decimals of a float, leading zeros of an integer, a neighbour that is as plausible speak for a meaning; a rare
    type or order speaks against it.
    """
    type_ = TYPES.get(meaning.type)
    odds = _ODDS.get(meaning.type, 0.0) - (0.0 if meaning.order[:2] in ("AB", "CD", "GH") else 2.0)
    if type_ is None or meaning.type.startswith(("bcd", "unix", "text")):
        return odds
    here, rest = in_order(data[: type_.width], meaning.order), data[type_.width : 2 * type_.width]
    if type_.dtype[1] != "f":
        return odds + _quiet(bin(int.from_bytes(here, "big"))[2:].zfill(8 * type_.width)) - (not any(here)) * 20.0
    found = odds + _quiet(bin(int.from_bytes(here, "big"))[:1:-1]) - (not any(here)) * 20.0
    beside = 0.0
    if len(rest) == type_.width and any(rest):
        beside = np.frombuffer(in_order(rest, meaning.order), type_.dtype)[0].item()
    return found + 3.0 * (beside != 0 and plausible(meaning.type, beside))


def _quiet(bits: str) -> float:
    """Count the equal bits at the begin, up to 8."""
    return float(min(8, len(bits) - len(bits.lstrip(bits[:1]))))


def shown(type_: str, value: object) -> str:
    """Write a value with the digits that its type holds."""
    if type_ == "text":
        return repr(value)
    if type_ in ("float16", "float32", "float64"):
        return str(np.dtype(type_).type(value))
    return str(int(value)) if isinstance(value, float) and math.isfinite(value) else str(value)


def plausible(type_: str, value: float | int | str) -> bool:
    """Guess whether a plant would show this: numbers of human size, dates of our time, printable text."""
    if isinstance(value, str):
        if type_ == "text":
            return len(value) >= 3 and value.isprintable()
        return "2010" <= value < "2050"
    if type_.startswith("float"):
        return value == 0 or (math.isfinite(value) and 1e-3 <= abs(value) < (7e4 if type_ == "float16" else 1e7))
    if type_.startswith("bcd"):
        return value > 9
    return abs(int(value)) < {2: 20_000, 4: 1 << 24, 8: 1 << 44}[TYPES[type_].width]
