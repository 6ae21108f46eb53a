"""From a poll group's tables to requests: what is asked together, and where each tag finds its bytes. Pure.

Tags that lie close together share a request where that costs less time than two: on TCP a round trip outweighs any
gap, on a serial line each register in vain costs two characters. Never torn: all registers of a value come in one
answer. Kept: max_registers, max_bits, max_gap, no_read_across, one_request_per_tag.

A scan's buffer has a place for every register (two bytes) and bit (one byte) of every block, by address. A block may
later be read in smaller pieces (drivers.modbus.scan: after a refusal); its places stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drivers.modbus.address import ModbusSource
from drivers.modbus.endpoint import Endpoint
from drivers.modbus.frames import READS, Request
from drivers.modbus.line import Pace
from gateway.contracts import PlannedRequest
from gateway.errors import ConfigError, Problem
from gateway.model import TagTable

if TYPE_CHECKING:
    from drivers.modbus.spec import ModbusDevice, ModbusLink

ROUND_TRIP: Final = 0.003  # s; a device on a plant network, its own cycle included
TURNAROUND: Final = 0.010  # s; a device on a serial line thinks this long
AREAS: Final = {function: area for area, function in READS.items()}


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Addresses that must come in one answer: a value's."""

    function: int
    address: int
    count: int

    @property
    def end(self) -> int:
        return self.address + self.count

    @classmethod
    def of(cls, source: ModbusSource) -> Span:
        return cls(READS[source.area], source.address, source.count)


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests to one device may look like, and what they cost in seconds."""

    max_registers: int
    max_bits: int
    max_gap: int | None
    boundaries: tuple[int, ...]
    single: bool  # one request per tag
    request: float  # a request and its answer, without data
    octet: float  # each byte of data

    @classmethod
    def of(cls, device: ModbusDevice, link: ModbusLink) -> Limits:
        """Give a device's limits: its own, or the link's."""
        pause = link.pause_between_requests if device.pause_between_requests is None else device.pause_between_requests
        boundaries = link.no_read_across if device.no_read_across is None else device.no_read_across
        single = link.one_request_per_tag if device.one_request_per_tag is None else device.one_request_per_tag
        request, octet = _costs(link.endpoint, pause)
        return cls(
            max_registers=device.max_registers or link.max_registers,
            max_bits=device.max_bits or link.max_bits,
            max_gap=link.max_gap if device.max_gap is None else device.max_gap,
            boundaries=tuple(sorted(boundaries)),
            single=single,
            request=request,
            octet=octet,
        )

    def longest(self, function: int) -> int:
        return self.max_registers if function > 2 else self.max_bits

    def crosses(self, start: int, end: int) -> bool:
        """Say whether a read of [start, end) crosses a boundary."""
        at = bisect_right(self.boundaries, start)
        return at < len(self.boundaries) and self.boundaries[at] < end

    def seconds(self, function: int, count: int) -> float:
        """Estimate what one request of `count` registers or bits takes."""
        octets = count * 2 if function > 2 else (count + 7) // 8
        return self.request + octets * self.octet


def _costs(endpoint: Endpoint, pause: float) -> tuple[float, float]:
    """Give the seconds of a request without data, and of each byte of data."""
    if endpoint.framing == "mbap":
        return ROUND_TRIP + pause, 1e-6
    network = ROUND_TRIP if endpoint.transport == "tcp" else 0.0
    if endpoint.framing == "rtu":
        # request 8 characters, answer 5 and the data; 3.5 characters of silence before each
        idle = endpoint.silence + max(endpoint.silence, pause)
        return 13 * endpoint.character + idle + TURNAROUND + network, endpoint.character
    # ":" + 2 x 7 + CR LF there, ":" + 2 x 4 + CR LF back
    return 28 * endpoint.character + pause + TURNAROUND + network, 2 * endpoint.character


@dataclass(frozen=True, slots=True)
class Block:
    """Spans that are asked for together."""

    request: Request
    spans: tuple[int, ...]  # indexes into the plan's spans


@dataclass(frozen=True, eq=False)
class ModbusPlan:
    """What a scan of one poll group does."""

    tables: tuple[TagTable, ...]
    device: str
    group: tuple[str, str]  # device and name
    pace: Pace
    retries: int  # how often what was lost is asked again
    limits: Limits
    spans: tuple[Span, ...]
    places: tuple[int, ...]  # of each span in the scan's buffer
    blocks: tuple[Block, ...]
    size: int  # of the scan's buffer, in bytes

    def requests(self) -> list[PlannedRequest]:
        """Explain the scan."""
        return [self._explain(block) for block in self.blocks]

    def _explain(self, block: Block) -> PlannedRequest:
        request = block.request
        wanted, covered = 0, request.address
        for index in block.spans:
            span = self.spans[index]
            wanted += max(0, span.end - max(span.address, covered))
            covered = max(covered, span.end)
        text = f"FC{request.function} {AREAS[request.function]} {request.address}"
        text += f"..{request.end - 1}" if request.count > 1 else ""
        return PlannedRequest(text, wanted, request.count, self.limits.seconds(request.function, request.count))


def make_plan(tables: Sequence[TagTable], device: ModbusDevice, link: ModbusLink) -> ModbusPlan:
    """Compile the tables of one poll group. Raises ConfigError where a value cannot be read as the limits want it."""
    limits = Limits.of(device, link)
    _check(tables, limits)
    if device.unit_id == 0 and link.endpoint.paced and tables:
        where = tables[0].tags[0].where
        reason = "unit_id 0 is the broadcast of a serial line, which nobody answers: expected 1 to 247"
        raise ConfigError([Problem(where.file, where.line, where.column, tables[0].device, reason)])
    spans = sorted({span for table in tables for tag in table.tags for span in spans_of(tag.source)})
    blocks: list[Block] = []
    places = [0] * len(spans)
    size = 0
    for first, last in _merge(spans, limits):
        start, end = spans[first].address, max(span.end for span in spans[first : last + 1])
        function = spans[first].function
        step = 2 if function > 2 else 1
        blocks.append(Block(Request(function, start, end - start, size), tuple(range(first, last + 1))))
        for index in range(first, last + 1):
            places[index] = size + (spans[index].address - start) * step
        size += (end - start) * step
    name, group = (tables[0].device, tables[0].group) if tables else ("", "")
    pause = link.pause_between_requests if device.pause_between_requests is None else device.pause_between_requests
    pace = Pace(device.unit_id, device.timeout or link.timeout, pause)
    return ModbusPlan(
        tables=tuple(tables),
        device=name,
        group=(name, group),
        pace=pace,
        retries=device.retries,
        limits=limits,
        spans=tuple(spans),
        places=tuple(places),
        blocks=tuple(blocks),
        size=size,
    )


def spans_of(source: ModbusSource) -> Iterable[Span]:
    """Give what must be read for a tag: its own registers, and those of its scale factor."""
    yield Span.of(source)
    if source.power is not None:
        yield Span.of(source.power)


def _check(tables: Sequence[TagTable], limits: Limits) -> None:
    problems = []
    for tag in (tag for table in tables for tag in table.tags):
        for span in spans_of(tag.source):
            reason = ""
            if span.count > limits.longest(span.function):
                reason = f"{span.count} registers are more than max_registers ({limits.longest(span.function)}) allows"
            elif limits.crosses(span.address, span.end):
                reason = f"{tag.source} lies across a boundary of no_read_across: its value would be torn"
            if reason:
                where = tag.where
                problems.append(Problem(where.file, where.line, where.column, tag.name, reason))
    if problems:
        raise ConfigError(problems)


def _merge(spans: Sequence[Span], limits: Limits) -> list[tuple[int, int]]:
    """Cut the sorted spans into runs (first, last) of least total time, by dynamic programming."""
    size = len(spans)
    best = [0.0] + [float("inf")] * size
    came: list[int] = [0] * (size + 1)
    for first in range(size):
        function, start = spans[first].function, spans[first].address
        longest, end, base = limits.longest(function), start, best[first]
        step = limits.octet * (2 if function > 2 else 0.125)
        for last in range(first, size):
            span = spans[last]
            if span.function != function or (limits.single and last > first):
                break
            if limits.max_gap is not None and span.address - end > limits.max_gap * (1 if function > 2 else 16):
                break
            end = max(end, span.end)
            if end - start > longest or limits.crosses(start, end):
                break
            cost = base + limits.request + (end - start) * step
            if cost < best[last + 1]:
                best[last + 1], came[last + 1] = cost, first
    runs = []
    at = size
    while at:
        runs.append((came[at], at - 1))
        at = came[at]
    return runs[::-1]
