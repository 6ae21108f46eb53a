"""Which signal shows at which registers of a simulated Modbus link: the link's tags, each with its place, or without.

Every bit of a register belongs to one tag. A tag whose bits belong to another already (the same registers read as
another type, say) has no signal of its own and is not checked, unless its source is the very same: then it shows the
same raw values. Registers that hold a power of ten are constant.

Sources are read by their attributes (drivers/modbus/address.py describes them); nothing of the driver is imported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

import numpy as np

from gateway.model import Kind, Link, Tag
from simulators.playing import Playing, pattern, unscaled
from simulators.signals import TEXTS, TICK, Holds, Signal, fit, holding, played, seed_of

OCTETS: Final = {
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "float16": 2,
    "float32": 4, "float64": 8, "bcd16": 2, "bcd32": 4, "iec-time": 8, "unix32": 4, "bcd-time": 6,
}  # fmt: skip
CHINESE: Final = ("运行", "停止", "设置")
INSTANTS: Final = tuple(
    datetime.fromisoformat(text)
    for text in ("2024-02-29T00:00:00", "2026-06-30T23:59:58.250", "2031-12-31T12:30:15.999")
)


@dataclass(frozen=True, slots=True)
class Place:
    """A field of `width` bits, `shift` up, in a number of `octets` bytes that arrive in `order`."""

    octets: int
    order: str
    shift: int
    width: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag of a link; or, without a tag, a register that tags scale by (a power of ten).

    `signal` is None where the registers belong to another tag; `fills` says whether this entry is the one that fills
    them. `codes` are the numbers behind the texts of flags and times.
    """

    unit: int
    device: str
    tag: Tag | None
    source: Any
    signal: Signal | None
    fills: bool
    codes: tuple[int, ...] = ()


def entries(link: Link, tick: int = TICK, playing: Playing | None = None) -> list[Entry]:
    """Give the registers of powers, then every tag of the link in the link's order."""
    tags = list(_tags(link))
    claims: dict[tuple[int, str, int], int] = defaultdict(int)
    owners: dict[Any, Signal] = {}
    found: list[Entry] = []
    for unit, device, tag in tags:
        power = tag.source.power
        if power is not None and (unit, identity(power)) not in owners:
            _claim(claims, unit, power)
            signal = replace(fit(device, Tag("", "", type="int16"), tick), shape="constant", low=exponent(unit, power))
            owners[unit, identity(power)] = signal = replace(signal, span=0, phase=0)
            found.append(Entry(unit, device, None, power, signal, fills=True))
    for unit, device, tag in tags:
        key = (unit, identity(tag.source))
        if key in owners:
            shown = replace(owners[key], device=device, tag=_in_raw_terms(unit, tag))
            found.append(Entry(unit, device, tag, tag.source, shown, fills=False))
        elif _claim(claims, unit, tag.source):
            owners[key], codes = _signal(device, _in_raw_terms(unit, tag), tick, playing)
            found.append(Entry(unit, device, tag, tag.source, owners[key], fills=True, codes=codes))
        else:
            found.append(Entry(unit, device, tag, tag.source, None, fills=False))
    return found


def signals(link: Link, tick: int = TICK, playing: Playing | None = None) -> dict[tuple[str, str], Signal | None]:
    """Give the signal behind each (device, tag); None where there is none to compare with."""
    return {(each.device, each.tag.name): each.signal for each in entries(link, tick, playing) if each.tag}


def exponent(unit: int, power: Any) -> int:
    """Give the power of ten that this register holds: -2 to 1, always the same."""
    return seed_of(f"{unit} {power.area}:{power.address}") % 4 - 2


def place(source: Any) -> Place:
    """Say where in its registers a number is."""
    octets = OCTETS[source.type]
    if octets == 1:
        return Place(2, "AB", 8 if source.half == "high" else 0, 8)
    if source.bits:
        return Place(octets, source.order, source.bit, source.bits)
    return Place(octets, source.order, 0, octets * 8)


def _tags(link: Link) -> Iterator[tuple[int, str, Tag]]:
    for device in link.devices:
        for group in device.groups:
            for table in group.tables:
                for tag in table.tags:
                    yield device.options.unit_id, device.name, tag


def identity(source: Any) -> Any:
    """Give what two sources must share to be one: where the bits are, and what they mean raw."""
    return replace(source, absent=(), power=None, padding="")


def _claim(claims: dict[tuple[int, str, int], int], unit: int, source: Any) -> bool:
    """Take the source's bits where all are free."""
    wanted = dict(_masks(source))
    keys = {address: (unit, source.area, address) for address in wanted}
    if any(claims[keys[address]] & mask for address, mask in wanted.items()):
        return False
    for address, mask in wanted.items():
        claims[keys[address]] |= mask
    return True


def _masks(source: Any) -> Iterator[tuple[int, int]]:
    """Give (address, bits of the register there) that the source takes."""
    addresses = range(source.address, source.end)
    if source.in_bits:
        yield from ((address, 1) for address in addresses)
    elif source.type == "text":
        mask = {"high": 0xFF00, "low": 0x00FF}.get(source.half, 0xFFFF)
        yield from ((address, mask) for address in addresses)
    else:
        field = place(source)
        if field.shift == 0 and field.width == 8 * field.octets:
            yield from ((address, 0xFFFF) for address in addresses)
            return
        masks: dict[int, int] = defaultdict(int)
        for bit in range(field.shift, field.shift + field.width):
            arrival = field.order.index(chr(ord("A") + field.octets - 1 - bit // 8))
            masks[source.address + arrival // 2] |= 1 << (bit % 8 + (0 if arrival % 2 else 8))
        yield from masks.items()


def _in_raw_terms(unit: int, tag: Tag) -> Tag:
    """Give the tag with its power of ten in the scale, and its absent patterns as raw numbers."""
    source = tag.source
    scale = tag.scale * Fraction(10) ** exponent(unit, source.power) if source.power is not None else tag.scale
    absent = tag.not_available
    if source.absent and not source.bits and source.type.startswith(("int", "uint")):
        top = 1 << (8 * OCTETS[source.type])
        signed = source.type.startswith("int")
        numbers = (each - top if signed and each >= top // 2 else each for each in source.absent)
        absent = (*absent, *(float(number) for number in numbers))
    return replace(tag, scale=scale, not_available=absent)


def _signal(device: str, tag: Tag, tick: int, playing: Playing | None) -> tuple[Signal, tuple[int, ...]]:
    source = tag.source
    if playing is not None and (found := _played(device, tag, tick, playing)) is not None:
        return found
    if source.type == "text":
        return fit(device, tag, tick, texts=_texts(source)), ()
    if source.flags or source.type in ("iec-time", "bcd-time", "unix32"):
        coded = _flags(source) if source.flags else _times(source.type)
        return fit(device, tag, tick, Holds(0, 0, text=10_000), tuple(coded)), tuple(coded.values())
    return fit(device, tag, tick, holds(tag, source)), ()


def _played(device: str, tag: Tag, tick: int, playing: Playing) -> tuple[Signal, tuple[int, ...]] | None:
    """Give the signal that shows what was recorded of a tag, in the registers' terms."""
    source = tag.source
    coded = source.flags or source.type in ("iec-time", "bcd-time", "unix32")
    if tag.kind is Kind.TEXT:
        track = playing.track(device, tag)
        if track is None:
            return None
        if coded:
            codes = tuple(_code(source, text) for text in track.texts)
            return played(device, tag, tick, track, Holds(0, 0, text=10_000)), codes
        texts = tuple(_cut(text, source) for text in track.texts)
        return played(device, tag, tick, replace(track, texts=texts), Holds(0, 0, text=source.length)), ()
    within = holds(tag, source)
    nothing = None
    if within.mantissa:
        nothing = pattern(math.nan)
    elif tag.not_available:
        nothing = pattern(int(tag.not_available[0]))
    track = playing.track(device, tag, lambda value: _raw(tag, value, within, source.type), nothing)
    return None if track is None else (played(device, tag, tick, track, within), ())


def _raw(tag: Tag, value: Any, within: Holds, type_: str) -> float | int:
    """Give what the registers hold for an engineering value, or the nearest that they can."""
    if isinstance(value, bool):
        return int(value)
    raw = unscaled(tag, value)
    if within.mantissa:
        narrow = np.dtype({"float16": "f2", "float32": "f4"}.get(type_, "f8"))
        with np.errstate(over="ignore"):
            return float(np.array(float(raw)).astype(narrow))
    return min(max(round(raw), within.low), within.high)


def _cut(text: str, source: Any) -> str:
    """Shorten a text to what fits its registers, between characters; what its encoding lacks becomes a "?"."""
    text = text.encode(source.encoding, errors="replace").decode(source.encoding)
    while len(text.encode(source.encoding)) > source.length:
        text = text[:-1]
    return text


def _code(source: Any, text: str) -> int:
    """Give the number behind a text of flags or a time; 0 where it is none."""
    if source.flags:
        bits = {name: 1 << bit for bit, name in source.flags}
        return sum(bits.get(name, 0) for name in text.split(", "))
    try:
        instant = datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return 0
    (number,) = _times(source.type, (instant,)).values()
    return number


def holds(tag: Tag, source: Any) -> Holds:
    """Say what fits into the registers or bits of a tag that is a number."""
    if source.in_bits or source.bits == 1:
        return Holds(0, 1)
    if source.bits:
        return Holds(0, 2**source.bits - 1)
    return holding(replace(tag, kind=Kind.FLOAT, type=source.type))


def _texts(source: Any) -> tuple[str, ...]:
    """Give texts that fit the source's bytes in its encoding, the shortened ones cut between characters."""
    texts = (*CHINESE, *TEXTS) if source.encoding in ("utf-8", "gbk") else TEXTS
    return tuple(dict.fromkeys(_cut(text, source) for text in texts))


def _flags(source: Any) -> dict[str, int]:
    """Give texts of a flag word and the numbers behind them: no bit, each named bit, all of them."""
    each = {name: 1 << bit for bit, name in source.flags}
    return {"": 0, **each, ", ".join(each): sum(each.values())}


def _times(type_: str, instants: Sequence[datetime] = INSTANTS) -> dict[str, int]:
    """Give texts of instants and the numbers behind them."""
    coded = {}
    for instant in instants:
        year, month, day, hour, minute, second = instant.timetuple()[:6]
        if type_ == "unix32":
            coded[f"{instant:%Y-%m-%dT%H:%M:%SZ}"] = int(instant.replace(tzinfo=UTC).timestamp())
        elif type_ == "bcd-time":
            digits = f"{year - 2000:02}{month:02}{day:02}{hour:02}{minute:02}{second:02}"
            coded[f"{instant:%Y-%m-%dT%H:%M:%S}"] = int(digits, 16)
        else:
            milliseconds = second * 1000 + instant.microsecond // 1000
            octets = bytes((0, year - 2000, month, day, hour, minute)) + milliseconds.to_bytes(2, "big")
            coded[f"{instant:%Y-%m-%dT%H:%M:%S}.{instant.microsecond // 1000:03}"] = int.from_bytes(octets, "big")
    return coded
