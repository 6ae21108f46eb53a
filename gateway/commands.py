"""Setting a value: what may be written, in which raw terms, and what became of it.

The one way to a device for every writer: the command line, and what comes from outside (gateway.control). `prepare`
decides without touching the device; `execute` asks the driver, which reads before, writes once, and reads back. A write
is never repeated.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from gateway import quality as q
from gateway.contracts import Driver, Writable, Write, Written
from gateway.errors import GatewayError
from gateway.model import Device, Kind, Link, Tag

if TYPE_CHECKING:
    from gateway.options import WriteRule

Value = float | int | bool | str
_WORDS: Final = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}
_FRACTIONAL: Final = ("float", "double", "real")  # types that hold more than whole numbers


@runtime_checkable
class Refusing(Protocol):
    """A driver that can say, without asking the device, that its protocol cannot hold a value."""

    def refuses(self, write: Write) -> str:
        """Give the reason; nothing where it can."""
        ...


class Cause(StrEnum):
    """Why something is not written: a word for counters and for the audit log."""

    MALFORMED = "malformed"
    TOO_LARGE = "too large"
    FOREIGN = "not for this gateway"
    STALE = "stale"
    FUTURE = "from the future"
    REPEATED = "repeated"
    UNKNOWN = "unknown tag"
    READ_ONLY = "read-only"
    TYPE = "wrong type"
    RANGE = "out of range"
    TOO_FAST = "too fast"
    ISOLATED = "isolated"
    UNREACHABLE = "device not there"
    UNAUDITED = "audit log failed"

    @property
    def status(self) -> int:
        """The quality with which a value refused for this is answered."""
        return _STATUS.get(self, q.BAD_NOT_WRITABLE)


_STATUS: Final = {
    Cause.MALFORMED: q.BAD_DECODING_ERROR,
    Cause.STALE: q.BAD_TIMEOUT,
    Cause.UNKNOWN: q.BAD_NODE_ID_UNKNOWN,
    Cause.TYPE: q.BAD_TYPE_MISMATCH,
    Cause.RANGE: q.BAD_OUT_OF_RANGE,
    Cause.TOO_FAST: q.BAD_RESOURCE_UNAVAILABLE,
    Cause.TOO_LARGE: q.BAD_RESOURCE_UNAVAILABLE,
    Cause.ISOLATED: q.BAD_OUT_OF_SERVICE,
    Cause.UNREACHABLE: q.BAD_NOT_CONNECTED,
    Cause.UNAUDITED: q.BAD_INTERNAL_ERROR,
}


class Refused(GatewayError):
    """A value that may not be written; nothing was sent to the device."""

    def __init__(self, reason: str, cause: Cause = Cause.RANGE) -> None:
        self.cause = cause
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a write, in engineering terms; `before` and `after` are None where they could not be read."""

    before: Value | None
    after: Value | None
    quality: int
    reason: str
    audit: str = ""  # SEQUENCE:HASH of the line in the audit log that says so
    refused: bool = False  # before anything was written of the command it belongs to


def find_tag(links: Sequence[Link], device: str, tag: str) -> tuple[Link, Device, Tag]:
    """Find a tag by its device's name and its own. Raises Refused with the nearest names."""
    devices = {each.name: (link, each) for link in links for each in link.devices}
    if device not in devices:
        raise Refused(f"there is no device {device}{_nearest(device, devices)}", Cause.UNKNOWN)
    link, found = devices[device]
    tags = {each.name: each for group in found.groups for table in group.tables for each in table.tags}
    if tag not in tags:
        raise Refused(f"{device} has no tag {tag}{_nearest(tag, tags)}", Cause.UNKNOWN)
    return link, found, tags[tag]


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f", did you mean {close[0]}?" if close else ""


def check(tag: Tag, value: str) -> Value:
    """Give the raw value to write for a value in engineering terms. Raises Refused with the reason."""
    if tag.writable is None:
        raise Refused(f"{tag.name} is not writable (its tag needs the key writable, with limits)", Cause.READ_ONLY)
    if tag.kind is Kind.TEXT:
        return value
    if tag.kind is Kind.BOOL:
        if value.lower() not in _WORDS:
            raise Refused(f"{tag.name}: expected true or false, got {value!r}", Cause.TYPE)
        return _WORDS[value.lower()]
    wanted = _number(tag, value)
    _within(tag, wanted)
    raw = (wanted - tag.offset) / tag.scale
    if raw.denominator == 1:
        return int(raw)
    if not any(word in tag.type for word in _FRACTIONAL):
        below = math.floor(raw)
        near = " and ".join(shown(float(each * tag.scale + tag.offset)) for each in (below, below + 1))
        raise Refused(f"{tag.name} holds steps of {float(tag.scale):g}: {value} is none, the nearest are {near}")
    return float(raw)


def _number(tag: Tag, value: str) -> Fraction:
    named = {name: number for number, name in tag.states}
    if value in named:
        return Fraction(named[value]) * tag.scale + tag.offset
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError):
        choices = f" or one of {', '.join(named)}" if named else ""
        raise Refused(f"{tag.name}: expected a number{choices}, got {value!r}", Cause.TYPE) from None


def _within(tag: Tag, wanted: Fraction) -> None:
    rule: WriteRule = tag.writable
    low, high = rule.minimum, rule.maximum
    # the limits are decimals of the configuration: compare with what was written there, not with its binary neighbour
    if (low is not None and wanted < Fraction(str(low))) or (high is not None and wanted > Fraction(str(high))):
        if low is not None and high is not None:
            span = f"from {low:g} to {high:g}"
        else:
            span = f"to {low:g} or more" if high is None else f"to {high:g} or less"
        unit = f" {tag.unit}" if tag.unit else ""
        raise Refused(f"{tag.name} may be set {span}{unit}, not to {shown(float(wanted))}")
    if tag.states and wanted not in {Fraction(number) * tag.scale + tag.offset for number, _ in tag.states}:
        raise Refused(f"{tag.name} has no state {shown(float(wanted))}: it has {dict(tag.states)}")


def prepare(driver: Driver, device: str, tag: Tag, value: str) -> Write:
    """Check a value in engineering terms as far as that goes without the device. Raises Refused."""
    write = Write(device, tag, check(tag, value))
    if not isinstance(driver, Writable):
        raise Refused(f"{device} is on a link whose protocol cannot write", Cause.READ_ONLY)
    if isinstance(driver, Refusing) and (reason := driver.refuses(write)):
        raise Refused(f"{tag.name}: {reason}")
    return write


def as_text(tag: Tag, value: object) -> str:
    """Give a value as `check` reads it, where it is of the tag's type: no number in quotes, no true for 1.

    A truth value may be 0 or 1, for some platforms have no other. Raises Refused.
    """
    kind = type(value)
    if tag.kind is Kind.TEXT:
        if isinstance(value, str):
            return value
        raise Refused(f"{tag.name}: expected a text, got {value!r}", Cause.TYPE)
    if tag.kind is Kind.BOOL:
        if kind is bool or (kind in (int, float) and value in (0, 1)):
            return "true" if value else "false"
        raise Refused(f"{tag.name}: expected true or false, got {value!r}", Cause.TYPE)
    if isinstance(value, str) and value in {name for _, name in tag.states}:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"{tag.name}: expected a number, got {value!r}", Cause.TYPE)
    return repr(value)


def result_of(tag: Tag, written: Written) -> Result:
    """Give what became of a write in engineering terms."""
    return Result(engineering(tag, written.before), engineering(tag, written.after), written.quality, written.reason)


def refusal(refused: Refused, audit: str = "") -> Result:
    """Give the result of a value that was refused."""
    return Result(None, None, refused.cause.status, str(refused), audit, refused=True)


async def execute(driver: Driver, device: str, tag: Tag, value: str) -> Result:
    """Check and write one value on a connected driver. Raises Refused, and DeviceError where there is no session."""
    write = prepare(driver, device, tag, value)
    assert isinstance(driver, Writable)
    (written,) = await driver.write([write])
    return result_of(tag, written)


def engineering(tag: Tag, raw: Value | None) -> Value | None:
    """Give a raw value in engineering terms, exactly."""
    if raw is None or isinstance(raw, str | bool) or (isinstance(raw, float) and not math.isfinite(raw)):
        return raw
    if tag.scale == 1 and tag.offset == 0:
        return raw
    return float(Fraction(raw) * tag.scale + tag.offset)


def shown(value: Value | None) -> str:
    """Show a value: whole numbers without a decimal point, nothing as a dash."""
    if value is None:
        return "—"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
