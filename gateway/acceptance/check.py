"""Read every tag of a link's devices once, and judge each: plausible, or what is off and where to look.

A device keeps one byte order nearly always. Where all its tags that can tell say the same other order, those that
cannot (a counter may be anything) are judged by it too, and the device's `order` names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np

from gateway import quality as q
from gateway.contracts import Answer, Driver, Explaining, Ordered, Plan
from gateway.errors import DeviceError, NoAnswer, NotConnected
from gateway.model import Batch, Device, Group, Link, Tag
from gateway.stages.normalise import normalise

PATIENCE: Final = 10.0  # s beyond what the driver's own deadlines allow
TRIES: Final = 2  # connections that are made for a link whose peer hangs up


class Verdict(StrEnum):
    """What is found of a tag."""

    PLAUSIBLE = "plausible"
    WORD_ORDER = "wrong word order?"
    OUT_OF_RANGE = "out of range"
    ILLEGAL = "illegal address"
    WRONG_TYPE = "wrong type"
    NO_VALUE = "no value"
    SILENT = "not answering"
    BAD = "bad"
    EVENTS = "events, not read"


FINE: Final = (Verdict.PLAUSIBLE, Verdict.EVENTS)
_GUESSED: Final = (Verdict.PLAUSIBLE, Verdict.OUT_OF_RANGE, Verdict.NO_VALUE)  # what a wrong byte order may look like
_VERDICTS: Final = {
    q.BAD_CONFIGURATION_ERROR: Verdict.ILLEGAL,
    q.BAD_NODE_ID_UNKNOWN: Verdict.ILLEGAL,
    q.BAD_NODE_ID_INVALID: Verdict.ILLEGAL,
    q.BAD_NO_MATCH: Verdict.ILLEGAL,
    q.BAD_NOT_READABLE: Verdict.ILLEGAL,
    q.BAD_DECODING_ERROR: Verdict.WRONG_TYPE,
    q.BAD_TYPE_MISMATCH: Verdict.WRONG_TYPE,
    q.BAD_NO_DATA: Verdict.NO_VALUE,
    q.BAD_OUT_OF_RANGE: Verdict.OUT_OF_RANGE,
    q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED: Verdict.OUT_OF_RANGE,
    q.GOOD_CLAMPED: Verdict.OUT_OF_RANGE,
    q.BAD_TIMEOUT: Verdict.SILENT,
    q.BAD_NO_COMMUNICATION: Verdict.SILENT,
    q.BAD_NOT_CONNECTED: Verdict.SILENT,
}


@dataclass(frozen=True, slots=True)
class Checked:
    """One tag, as it was read. `raw` is what the device says, `value` what becomes of it; None where there is none."""

    name: str  # DEVICE/TAG
    tag: Tag
    verdict: Verdict
    raw: Any = None
    data: str = ""
    value: Any = None
    quality: int = q.BAD_NO_COMMUNICATION
    note: str = ""
    orders: tuple[Ordered, ...] = ()

    @property
    def fine(self) -> bool:
        return self.verdict in FINE


@dataclass(slots=True)
class CheckedDevice:
    """All tags of one device, and why it could not be read where that is so."""

    link: Link
    device: Device
    error: str = ""
    order: str = ""  # the byte order that it keeps, where the site file has another for some of its tags
    tags: list[Checked] = field(default_factory=list)

    @property
    def off(self) -> int:
        """How many tags are not as they should be."""
        return sum(not each.fine for each in self.tags)


class _Line:
    """A link's connection, made when it is needed, and again where the peer hung up."""

    def __init__(self, link: Link, driver: Driver) -> None:
        self._link = link
        self.driver = driver
        self._connected = False
        self._tries = TRIES
        self._reason = ""

    async def ready(self) -> str:
        """Connect if need be; say why that cannot be."""
        if not self._connected and self._tries:
            self._tries -= 1
            try:
                async with asyncio.timeout(PATIENCE + 2 * self._link.options.connect_timeout):
                    await self.driver.connect()
                self._connected, self._reason = True, ""
            except DeviceError as error:
                self._reason = str(error)
            except TimeoutError:
                self._reason = "the connection was not made in time"
        return self._reason

    async def read(self, device: Device, plan: Plan) -> list[Batch]:
        """Read a group. Raises NoAnswer where the device is silent, NotConnected."""
        timeout = device.options.timeout or self._link.options.timeout
        requests = plan.requests()
        patience = PATIENCE + 2 * sum(each.seconds for each in requests) + 4 * timeout * max(1, len(requests))
        for left in range(device.options.retries, -1, -1):
            try:
                async with asyncio.timeout(patience):
                    return await self.driver.read(plan)
            except NoAnswer:
                if not left:
                    raise
            except TimeoutError:
                raise self._lost(NotConnected("the device did not answer in time", device.name)) from None
            except NotConnected as error:
                raise self._lost(error) from None
        raise AssertionError("the last try returns or raises")

    def _lost(self, error: NotConnected) -> NotConnected:
        self._connected, self._reason = False, str(error)
        return error


async def check(
    link: Link, driver: Driver, devices: Sequence[Device], step: Callable[[int], None]
) -> list[CheckedDevice]:
    """Read these devices of a link; `step` is told how many tags are done with. What goes wrong is in the result."""
    line = _Line(link, driver)
    try:
        return [await _device(line, link, device, step) for device in devices]
    finally:
        await driver.close()


async def _device(line: _Line, link: Link, device: Device, step: Callable[[int], None]) -> CheckedDevice:
    found = CheckedDevice(link, device)
    for group in device.groups:
        found.error = found.error or await line.ready()
        if not found.error:
            try:
                found.tags += await _group(line, device, group)
            except DeviceError as error:
                found.error = str(error)
            except Exception as error:  # noqa: BLE001  a third party's driver may raise anything
                found.error = f"a defect in the driver {link.driver}: {error!r}"
        if found.error:
            found.tags += [_silent(device, tag, found.error) for table in group.tables for tag in table.tags]
        step(sum(map(len, group.tables)))
    return as_a_whole(found)


def as_a_whole(device: CheckedDevice) -> CheckedDevice:
    """Find the one byte order that the device keeps, where that is not the site file's, and judge all tags by it."""
    telling = [each for each in device.tags if len({read.likely for read in each.orders}) > 1]
    if not any(each.verdict is Verdict.WORD_ORDER for each in telling):
        return device
    kept = [{read.order for read in each.orders if read.likely} for each in telling]
    order = next((read.order for read in telling[0].orders if all(read.order in each for each in kept)), "")
    if order:
        device.order = order
        device.tags = [_by_habit(each, order) for each in device.tags]
    return device


def _by_habit(tag: Checked, order: str) -> Checked:
    """Judge a tag of a device that keeps this order: a float is in it too, and an integer that shows less in it."""
    if not tag.orders or tag.verdict not in (*_GUESSED, Verdict.WORD_ORDER):
        return tag
    here, there = tag.orders[0], next((each for each in tag.orders if each.order == order), tag.orders[0])
    less = isinstance(here.value, float) or abs(there.value) < abs(here.value)
    if tag.verdict is not Verdict.WORD_ORDER and not (there.likely and there.value != here.value and less):
        return tag
    return replace(tag, verdict=Verdict.WORD_ORDER, note=f"{order} makes it {there.value:.10g}, raw")


async def _group(line: _Line, device: Device, group: Group) -> list[Checked]:
    """Read one poll group and judge its tags."""
    plan = line.driver.plan(group.tables)
    if getattr(group.options, "events", None) is not None:  # they happen; there is nothing to read
        return [
            Checked(f"{device.name}/{tag.name}", tag, Verdict.EVENTS, quality=q.GOOD)
            for table in group.tables
            for tag in table.tags
        ]
    found = []
    for number, batch in enumerate(await line.read(device, plan)):
        normal = normalise(batch.table)(batch)
        for row, tag in enumerate(batch.table.tags):
            kept = line.driver.explain(plan, number, row) if isinstance(line.driver, Explaining) else None
            found.append(_judged(device, tag, batch, normal, row, kept))
    return found


def _judged(device: Device, tag: Tag, batch: Batch, normal: Batch, row: int, kept: Answer | None) -> Checked:
    code = int(normal.quality[row])
    raw = _plain(batch.value[row]) if batch.quality[row] < q.BAD else None
    value = _plain(normal.value[row]) if code < q.BAD else None
    data, note, guess = (kept.data, kept.note, kept.guess) if kept is not None else ("", "", "")
    verdict = _VERDICTS.get(code, Verdict.PLAUSIBLE if code < q.UNCERTAIN else Verdict.BAD)
    if verdict is Verdict.OUT_OF_RANGE:
        note = _limits(tag, raw, value)
    if kept is not None and type(kept.value) is int and raw is not None:
        raw = kept.value  # exact, where a scale makes a float of 64 bits
    if guess and verdict in _GUESSED:
        verdict, note = Verdict.WORD_ORDER, f"{guess} (the registers hold {data})"
    if verdict not in FINE and not note:
        note = q.name(code)
    return Checked(f"{device.name}/{tag.name}", tag, verdict, raw, data, value, code, note, kept.orders if kept else ())


def _limits(tag: Tag, raw: Any, value: Any) -> str:
    if np.isfinite(tag.minimum) or np.isfinite(tag.maximum):
        return f"outside {tag.minimum:g}..{tag.maximum:g}: the limits, the scale, or the plant"
    if tag.states:
        return f"{raw if value is None else value:g} is none of its states"
    return "the device says so"


def _silent(device: Device, tag: Tag, reason: str) -> Checked:
    return Checked(f"{device.name}/{tag.name}", tag, Verdict.SILENT, note=reason)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
