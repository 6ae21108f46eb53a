"""What a driver remembers of a plan from scan to scan: which requests it makes now, and which tags were refused.

A request that the device refuses (illegal address, illegal count) is cut in halves in the same scan, down to single
values. Values that are refused alone are set aside: their tags are Bad (configuration error) and they are tried again
every ten minutes. What lay beside them is joined again as far as it is contiguous, so that their neighbours cost few
requests and never miss a scan. Where nothing was refused alone, the request was too long, or a hole was in it: then
the pieces stay.

A request that the device fails at (device failure, or it ends the connection over it) rests for a pause that doubles
from failure to failure, and is asked as always once it has been answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.modbus.address import ModbusSource
from drivers.modbus.decode import Decoder, make_decoder
from drivers.modbus.frames import Request
from drivers.modbus.plan import ModbusPlan, Span
from gateway import quality as q
from gateway.model import Batch

PROBE_EVERY: Final = 600 * 1_000_000_000  # ns; tags that were refused are tried again
PROBES: Final = 4  # at most so many in one scan


@dataclass(frozen=True, slots=True)
class _Rest:
    """Until when a request is left out, for how long (ns), and what its tags are meanwhile."""

    until: int
    pause: int
    status: int


class Scan:
    """The changing side of a plan. Owned by the driver's task."""

    def __init__(self, plan: ModbusPlan) -> None:
        self.plan = plan
        self.buffer = np.zeros(plan.size, np.uint8)
        # one more than there can be requests: the last stands for the tags that were set aside
        self.times = np.zeros(len(plan.spans) + 1, np.int64)
        self.status = np.zeros(len(plan.spans) + 1, np.uint32)
        self.requests: list[Request] = [block.request for block in plan.blocks]
        self.refused: dict[int, int] = {}  # span -> when to try it again, ns
        self._parts: list[tuple[int, ...]] = [block.spans for block in plan.blocks]
        self._block = {span: index for index, block in enumerate(plan.blocks) for span in block.spans}
        self._changed = True
        self._resting: dict[tuple[int, ...], _Rest] = {}
        self._lost: set[tuple[int, ...]] = set()  # what was not answered in the last scan
        self._to_join: set[int] = set()
        self._rows: list[NDArray[np.intp]] = []
        self._power_rows: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
        index = {span: number for number, span in enumerate(plan.spans)}
        self._span_of_row: list[NDArray[np.intp]] = []
        self._span_of_power: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []

        def from_source(source: ModbusSource) -> int:
            return index[Span.of(source)]

        self._decoders: list[Decoder] = []
        for table in plan.tables:
            sources = [tag.source for tag in table.tags]
            self._decoders.append(make_decoder(table, sources, lambda source: plan.places[from_source(source)]))
            self._span_of_row.append(np.array([from_source(source) for source in sources], np.intp))
            scaled = [row for row, source in enumerate(sources) if source.power is not None]
            powers = [from_source(sources[row].power) for row in scaled]
            self._span_of_power.append((np.array(scaled, np.intp), np.array(powers, np.intp)))

    def begin(self, now: int) -> None:
        """Forget the last scan's findings; put refused spans whose time has come back to the test."""
        self.status[:] = q.GOOD
        due = sorted((when, span) for span, when in self.refused.items() if not 0 < when - now <= PROBE_EVERY)
        for _, span in due[:PROBES]:
            del self.refused[span]
            self.requests.append(self._request((span,)))
            self._parts.append((span,))
            self._to_join.add(self._block[span])
            self._changed = True

    def split(self, index: int, now: int) -> None:
        """The device refused a request: cut it, or set its only span aside."""
        part = self._parts[index]
        if len(part) == 1:
            self.set_aside(index, now)
            return
        halves = (part[: len(part) // 2], part[len(part) // 2 :])
        self.requests[index : index + 1] = [self._request(half) for half in halves]
        self._parts[index : index + 1] = halves
        self._changed = True

    def set_aside(self, index: int, now: int) -> None:
        """Take a request out of the scan: its tags are Bad until they are tried again."""
        for span in self._parts[index]:
            self.refused[span] = now + PROBE_EVERY
            self._to_join.add(self._block[span])
        del self.requests[index], self._parts[index]
        self._changed = True

    def next_resting(self, index: int, now: int) -> int:
        """Give the first request from `index` on that rests; the number of requests where none does."""
        if self._resting:
            for number in range(index, len(self.requests)):
                rest = self._resting.get(self._parts[number])
                if rest is not None and 0 < rest.until - now <= rest.pause:
                    return number
        return len(self.requests)

    def resting_status(self, index: int) -> int:
        """Give the status of the tags of a request that rests."""
        return self._resting[self._parts[index]].status

    def rest(self, index: int, now: int, status: int, pauses: tuple[float, float]) -> None:
        """Let a request rest: for the first of `pauses` (s), then twice as long each time, up to the second."""
        before = self._resting.get(self._parts[index])
        first, longest = (int(pause * 1e9) for pause in pauses)
        pause = min(longest, 2 * before.pause if before is not None else first)
        self._resting[self._parts[index]] = _Rest(now + pause, pause, status)

    def wake(self, first: int, stop: int) -> None:
        """Requests were answered: they rest no more."""
        if self._resting:
            for part in self._parts[first:stop]:
                self._resting.pop(part, None)

    def wake_all(self) -> None:
        """Let nothing rest: the device as a whole is backed off."""
        self._resting.clear()

    def lost_again(self, missing: Sequence[int]) -> list[int]:
        """Remember what was not answered; give those of it that were in the last scan."""
        before = self._lost
        self._lost = {self._parts[index] for index in missing}
        return [index for index in missing if self._parts[index] not in before]

    def found(self, index: int) -> None:
        """What was lost was answered after all."""
        self.status[index] = q.GOOD
        self._lost.discard(self._parts[index])

    def batches(self, now: int) -> list[Batch]:
        """Decode what was read: one batch per table."""
        aside = len(self.plan.spans)
        self.times[aside], self.status[aside] = now, q.BAD_CONFIGURATION_ERROR
        if self._changed:
            self._map_rows()
        troubled = bool(self.refused) or bool(self.status[: len(self.requests)].any())
        with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN, 1e300 x 10^22: values like any other
            batches = [self._batch(number, troubled) for number in range(len(self.plan.tables))]
        if self._to_join:
            self._join()
        return batches

    def trace(self, number: int, row: int) -> tuple[Request | None, bytes, int, int]:
        """Give a tag's request (None where it was set aside), its bytes as they last came, when (ns; 0: never).

        And what the last scan says of that request, GOOD where it was answered with data.
        """
        span = int(self._span_of_row[number][row])
        request = next((index for index, part in enumerate(self._parts) if span in part), None)
        at = self.plan.places[span]
        size = self.plan.spans[span].count * (2 if self.plan.spans[span].function > 2 else 1)
        data = self.buffer[at : at + size].tobytes()
        if request is None:
            return None, data, 0, q.BAD_CONFIGURATION_ERROR
        return self.requests[request], data, int(self.times[request]), int(self.status[request])

    def decoded(self, number: int, row: int) -> tuple[Any, int]:
        """Decode one tag of what the buffer holds, as `batches` would: value and quality."""
        with np.errstate(invalid="ignore", over="ignore"):
            values, quality = self._decoders[number].decode(self.buffer)
        return values[row], q.GOOD if quality is None else int(quality[row])

    def _batch(self, number: int, troubled: bool) -> Batch:
        table, rows = self.plan.tables[number], self._rows[number]
        values, quality = self._decoders[number].decode(self.buffer)
        if quality is None:
            quality = np.zeros(len(table), np.uint32)
        if troubled:
            status = self.status[rows]
            scaled, powers = self._power_rows[number]
            status[scaled] = np.maximum(status[scaled], self.status[powers])
            quality = np.where(status, status, quality)
        bad = quality >= q.BAD
        if bad.any():
            values[bad] = table.kind.nothing
        return Batch(table, table.every, values, quality, self.times[rows])

    def _map_rows(self) -> None:
        """Find for each row the request that brings it."""
        request = np.full(len(self.plan.spans), len(self.plan.spans), np.intp)
        for number, part in enumerate(self._parts):
            request[list(part)] = number
        self._rows = [request[spans] for spans in self._span_of_row]
        self._power_rows = [(rows, request[spans]) for rows, spans in self._span_of_power]
        self._changed = False

    def _join(self) -> None:
        """Join the contiguous pieces of blocks out of which spans were taken, or into which they came back."""
        order = sorted(range(len(self._parts)), key=lambda number: self._parts[number][0])
        joined: list[tuple[int, ...]] = []
        for number in order:
            part = self._parts[number]
            block = self._block[part[0]]
            before = joined[-1] if joined else None
            if before is not None and block in self._to_join and block == self._block[before[0]]:
                left, right = self._request(before), self.requests[number]
                if right.address <= left.end:
                    joined[-1] = (*before, *part)
                    continue
            joined.append(part)
        self._parts = joined
        self.requests = [self._request(part) for part in joined]
        self._to_join.clear()
        self._changed = True

    def _request(self, part: Sequence[int]) -> Request:
        """Make the request of these spans of one block."""
        block = self.plan.blocks[self._block[part[0]]].request
        spans = [self.plan.spans[span] for span in part]
        start, end = spans[0].address, max(span.end for span in spans)
        place = block.place + (start - block.address) * (2 if block.function > 2 else 1)
        return replace(block, address=start, count=end - start, place=place)
