"""The Modbus driver: one link, its devices told apart by unit id.

A read executes its plan's requests in order. What a device answers instead of data decides what follows:

    01 illegal function          its tags Bad (configuration), tried again after ten minutes
    02, 03 illegal address/value the request is cut until the guilty tags are alone; their neighbours are read
    04, 07, 08 device failure    its tags Bad (device failure), asked again after a pause that grows; where nothing else
                                 was answered: NoAnswer
    05, 06 busy                  asked again at the end of the scan; else its tags Bad (resource unavailable)
    0A gateway path              NotConnected where no other unit is reached through the gateway, else as 0B
    0B, 41..4B no answer behind  as no answer
    no answer, or a damaged one  to the first request: NoAnswer; later: asked again at the end of the scan, else its
                                 tags Bad (timeout); two in a row end the scan

What is asked again is so within the device's `retries` and the poll group's interval, and only while it is answered.
A TCP peer that closes the connection after it has answered is connected to again at once, within the read: some
devices close after each answer or when idle. A connection that ends before any answer is NotConnected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from drivers.modbus.explain import told
from drivers.modbus.frames import DAMAGED, Request, exception_text
from drivers.modbus.line import Ended, Line, Outcome, Pace
from drivers.modbus.plan import ModbusPlan, make_plan
from drivers.modbus.scan import Scan
from drivers.modbus.transport import open_line
from drivers.modbus.writing import refusal, write_one
from gateway import quality as q
from gateway.contracts import Answer, Plan, Write, Written
from gateway.errors import NoAnswer, NotConnected, ProtocolError
from gateway.model import Batch, Link, TagTable

if TYPE_CHECKING:
    from drivers.modbus.spec import ModbusDevice, ModbusLink

_FAILURES: Final = (0x04, 0x07, 0x08)
_BUSY: Final = (0x05, 0x06)
_SILENT: Final = (0x0B, *range(0x41, 0x4C))
CUTS: Final = 64  # requests that are cut in one scan; a device that refuses everything must not hold up its neighbours
BUSY: Final = 0.1  # s; least pause before a busy device is asked again
LONGEST_SCAN: Final = 60.0  # s; what was lost is asked again within this time where there is no interval


@dataclass(slots=True, eq=False)
class _Course:
    """How far one scan has come."""

    scan: Scan
    now: int  # ns
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    index: int = 0  # the request that is next
    answered: int = 0  # requests, with data or an exception
    failed: int = 0  # requests, with a device failure
    cuts: int = 0
    spoiled: int = 0  # connections that were ended because of what came
    silent: int = -2  # the last request without answer
    hung: int = -2  # the last request that ended a fresh connection
    missing: list[int] = field(default_factory=list)  # what may be asked again


class ModbusDriver:
    """A Driver, Writable and Explaining."""

    def __init__(self, link: Link, clock: Callable[[], int] = time.time_ns) -> None:
        self._options: ModbusLink = link.options
        self._set(link)
        self._clock = clock
        self._line: Line | None = None
        self._reopens = self._options.endpoint.transport in ("tcp", "tls")
        self._scans: WeakKeyDictionary[ModbusPlan, Scan] = WeakKeyDictionary()
        self._firsts: dict[int, tuple[Pace, Request]] = {}  # one request per unit, to find out what a gateway reaches
        self._idle: asyncio.TimerHandle | None = None
        self._left = False  # closed because it was idle

    def _set(self, link: Link) -> None:
        self._link = link
        self._devices: dict[str, ModbusDevice] = {device.name: device.options for device in link.devices}
        self._intervals = {
            (group.device, group.name): group.interval / 1e9 for device in link.devices for group in device.groups
        }

    # ------------------------------------------------------------------------------------------ the contract

    def plan(self, tables: Sequence[TagTable]) -> ModbusPlan:
        """Compile the tables of one poll group of one device. Raises ConfigError."""
        if not tables:
            return self.plan_for(tables, next(iter(self._devices.values())))
        return self.plan_for(tables, self._devices[tables[0].device])

    def plan_for(self, tables: Sequence[TagTable], device: ModbusDevice) -> ModbusPlan:
        """Compile tables for a device that need not be one of the link's own. Raises ConfigError."""
        plan = make_plan(tables, device, self._options)
        if plan.blocks:
            self._firsts.setdefault(plan.pace.unit, (plan.pace, plan.blocks[0].request))
        return plan

    def adopt(self, link: Link) -> None:
        """Take other devices on the same line."""
        before = {device.name: device for device in self._link.devices}
        same = {device.options.unit_id for device in link.devices if before.get(device.name) is device}
        self._firsts = {unit: first for unit, first in self._firsts.items() if unit in same}
        self._set(link)

    async def connect(self) -> None:
        """Open the line. Raises NotConnected."""
        await self.close()
        self._line = await open_line(self._options)
        if self._options.pause_after_connect:
            await asyncio.sleep(self._options.pause_after_connect)

    async def close(self) -> None:
        """End the session. Idempotent; never raises."""
        self._stay()
        self._left = False
        line, self._line = self._line, None
        if line is not None:
            line.close()

    async def read(self, plan: Plan) -> list[Batch]:
        """Read once; one batch per table. Raises NoAnswer, NotConnected, ProtocolError."""
        assert isinstance(plan, ModbusPlan)
        scan = self._scans.get(plan)
        if scan is None:
            scan = self._scans[plan] = Scan(plan)
        self._stay()
        try:
            await self._execute(scan)
        finally:
            self._leave_when_idle()
        return scan.batches(self._clock())

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Set values one after the other, each read before and after. A refusal is a Bad result."""
        self._stay()
        try:
            return [await write_one(self, self._devices[each.device], each) for each in writes]
        finally:
            self._leave_when_idle()

    def refuses(self, write: Write) -> str:
        """Say why a value cannot be written at all; nothing where it can."""
        refused = refusal(write)
        return "" if refused is None else refused[1]

    def advice(self) -> list[tuple[str, str, str, str]]:
        """Give what no key alone shows: a unit id that two devices share, registers that two tags read differently."""
        first: dict[int, str] = {}
        found = []
        for name, device in self._devices.items():
            other = first.setdefault(device.unit_id, name)
            if other != name:
                finding = f"{other} has the same unit id {device.unit_id} on this link"
                found.append((name, "", finding, "one of them reads the other's values, unless both are one device"))
        from drivers.modbus.overlap import overlaps  # the daemon asks for no advice

        return found + overlaps(self._link.tables)

    def explain(self, plan: Plan, table: int, row: int) -> Answer:
        """Say in which request a tag is, and what its registers last held."""
        assert isinstance(plan, ModbusPlan)
        return told(plan, self._scans.get(plan), table, row)

    async def ask(self, pace: Pace, pdu: bytes) -> tuple[Outcome, bytes]:
        """Send one PDU of any kind; the connection is made again where the peer has closed it. Raises NotConnected."""
        line = await self._open()
        outcome, answer = await line.ask(pace, pdu)
        if outcome.ended is Ended.GARBAGE:
            await self.close()
            raise ProtocolError(outcome.note)
        if outcome.ended is Ended.LOST:
            raise NotConnected(f"the connection ended: {outcome.note}")
        return outcome, answer

    def pace(self, device: ModbusDevice) -> Pace:
        """Give how a device is talked to."""
        return make_plan((), device, self._options).pace

    # ------------------------------------------------------------------------------------------ the session

    async def _open(self) -> Line:
        """Give the line; make it again where it was left, or where the peer closed it after having answered."""
        line = self._line
        if line is None:
            if not self._left:
                raise NotConnected("there is no connection")
            await self.connect()
        elif line.lost is not None:
            if not line.answered or not self._reopens:
                raise NotConnected(f"the connection ended: {line.lost}")
            await self.connect()
        assert self._line is not None
        return self._line

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _leave_when_idle(self) -> None:
        if self._options.close_after_idle is not None and self._line is not None:
            self._idle = asyncio.get_running_loop().call_later(self._options.close_after_idle, self._leave)

    def _leave(self) -> None:
        line, self._line = self._line, None
        self._left = True
        if line is not None:
            line.close()

    # ------------------------------------------------------------------------------------------ the scan

    async def _execute(self, scan: Scan) -> None:
        course = _Course(scan, self._clock())
        scan.begin(course.now)
        while course.index < len(scan.requests):
            stop = scan.next_resting(course.index, course.now)
            if stop == course.index:
                self._pass(course, scan.resting_status(stop))
                continue
            line = await self._open()
            first = course.index
            outcome = await line.read(scan.plan.pace, scan.requests, first, stop, scan.buffer, scan.times)
            course.index = outcome.index
            course.answered += outcome.index - first
            scan.wake(first, outcome.index)
            if outcome.ended is Ended.EXCEPTION:
                await self._refused(course, outcome)
            elif outcome.ended is Ended.TIMEOUT:
                self._unanswered(course, outcome)
            elif outcome.ended in (Ended.LOST, Ended.GARBAGE):
                await self._broken(course, line, outcome)
        if course.failed and course.failed == course.answered:
            scan.wake_all()
            raise NoAnswer("every request is answered with a device failure", scan.plan.device, q.BAD_DEVICE_FAILURE)
        await self._ask_again(course)

    async def _refused(self, course: _Course, outcome: Outcome) -> None:
        """Do what an exception asks for."""
        scan, index, code = course.scan, course.index, outcome.code
        if code in _SILENT:
            self._unanswered(course, outcome)
            return
        if code == 0x0A:
            await self._path_is_down(scan.plan.pace, scan.plan.device)
        course.answered += 1
        if code in (0x02, 0x03):
            if course.cuts < CUTS:
                course.cuts += 1
                scan.split(index, course.now)
            else:
                self._pass(course, q.BAD_CONFIGURATION_ERROR)  # cut further in the next scan
        elif code == 0x01:
            scan.set_aside(index, course.now)
        elif code in _FAILURES:
            course.failed += 1
            self._rest(course, q.BAD_DEVICE_FAILURE)
        elif code in _BUSY:
            course.missing.append(index)
            self._pass(course, q.BAD_RESOURCE_UNAVAILABLE)
        else:
            self._pass(course, q.BAD_COMMUNICATION_ERROR)

    def _unanswered(self, course: _Course, outcome: Outcome) -> None:
        """Note a request without answer; the second in a row ends the scan. Raises NoAnswer where it was the first."""
        scan, index = course.scan, course.index
        if not course.answered:
            raise NoAnswer(self._silence(scan.plan.pace, outcome), scan.plan.device)
        if outcome.note != DAMAGED:
            if course.silent == index - 1:
                course.missing.clear()
                while course.index < len(scan.requests):
                    self._pass(course, q.BAD_TIMEOUT)
                return
            course.silent = index
        course.missing.append(index)
        self._pass(course, q.BAD_TIMEOUT)

    async def _broken(self, course: _Course, line: Line, outcome: Outcome) -> None:
        """Go on after the connection's end where there is hope; _open decides. Raises NotConnected, ProtocolError."""
        scan = course.scan
        if outcome.ended is Ended.GARBAGE:
            if not line.answered or course.spoiled >= scan.plan.retries:
                await self.close()
                raise ProtocolError(outcome.note, scan.plan.device)
            course.spoiled += 1
            line.close()
        elif course.answered and not line.answered and self._reopens and course.hung != course.index - 1:
            # others were answered, and this one alone has ended a fresh connection
            course.hung = course.index
            self._rest(course, q.BAD_COMMUNICATION_ERROR)
            await self.connect()

    async def _ask_again(self, course: _Course) -> None:
        """Ask again what was lost in this scan, not what was lost in the last one too, while there is time."""
        scan = course.scan
        lost = scan.lost_again(course.missing)
        silences = scan.plan.retries
        until = course.started + self._intervals.get(scan.plan.group, LONGEST_SCAN)
        for _ in range(scan.plan.retries):
            for index in tuple(lost):
                pace = scan.plan.pace
                if scan.status[index] == q.BAD_RESOURCE_UNAVAILABLE:
                    pace = replace(pace, pause=max(pace.pause, BUSY))
                if asyncio.get_running_loop().time() >= until:
                    return
                try:
                    line = await self._open()
                except NotConnected:
                    return  # what was read stays read; the next read finds out
                outcome = await line.read(pace, scan.requests, index, index + 1, scan.buffer, scan.times)
                if outcome.ended in (Ended.LOST, Ended.GARBAGE):
                    line.close()
                    return
                if outcome.ended is Ended.DONE:
                    scan.found(index)
                    lost.remove(index)
                elif outcome.ended is Ended.TIMEOUT and outcome.note != DAMAGED:
                    silences -= 1  # each costs a timeout, which is the neighbours' too
                    if not silences:
                        return

    def _rest(self, course: _Course, status: int) -> None:
        """Leave a request out for a pause that grows while it fails."""
        course.scan.rest(course.index, course.now, status, (self._options.retry_first, self._options.retry_longest))
        self._pass(course, status)

    def _pass(self, course: _Course, status: int) -> None:
        """Go on to the next request; this one's tags have a status instead of values."""
        self._mark(course.scan, course.index, status)
        course.index += 1

    def _mark(self, scan: Scan, index: int, status: int) -> None:
        scan.status[index] = status
        scan.times[index] = self._clock()

    @staticmethod
    def _silence(pace: Pace, outcome: Outcome) -> str:
        if outcome.ended is Ended.EXCEPTION:
            return f"unit {pace.unit} does not answer its gateway ({exception_text(outcome.code)})"
        note = f"; {outcome.note}" if outcome.note else ""
        return f"unit {pace.unit} did not answer within {pace.timeout:g} s{note}"

    async def _path_is_down(self, pace: Pace, device: str) -> None:
        """A gateway says it has no path to a unit: raise for the unit, or for the link where it reaches no other."""
        line = await self._open()
        for unit, (other, request) in self._firsts.items():
            if unit != pace.unit:
                outcome, _ = await line.ask(other, request.pdu)
                if outcome.ended is not Ended.EXCEPTION or outcome.code != 0x0A:
                    break
        else:
            status = q.BAD_NO_COMMUNICATION
            raise NotConnected("the gateway has no path to its serial line (exception 0A)", status=status)
        raise NoAnswer(f"the gateway has no path to unit {pace.unit} (exception 0A)", device)
