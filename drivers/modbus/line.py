"""The conversation on one connection: one request in flight, each answer checked, nothing taken for another.

`Line.read` sends a run of requests back to back and puts their data where they belong in the scan's buffer; it stops at
the first that is not simply answered, and says why. The next request goes out in the very callback in which the last
answer came in: no task switch per request. `Line.ask` sends one PDU of any kind.

After a request without answer on a serial line (also one behind a serial server) the line is drained: it must be
silent before the next request, and for as long as the timeout where the next request goes to the same unit, because RTU
answers carry nothing that tells them apart. On TCP late answers are told by their transaction and dropped.

Nothing here sleeps to retry, reconnects or logs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.modbus.endpoint import Endpoint
from drivers.modbus.frames import DAMAGED, EXTRA, RECENT, Ascii, Framing, Garbage, Mbap, Request, Rtu

HUSH: Final = 0.02  # s; least silence that counts as a drained line: operating systems deliver bytes in lumps
SETTLE: Final = 0.05  # s; after a damaged answer the rest of it may still be on its way
NOBODY: Final = -1  # no unit: the line is to be drained, but no answer is owed
LIMIT: Final = 4096  # bytes of nonsense that are kept while waiting for an answer


class Ended(Enum):
    """How a run of requests ended."""

    DONE = "done"
    EXCEPTION = "exception"  # the device refused with a code
    TIMEOUT = "timeout"
    LOST = "lost"  # the connection ended
    GARBAGE = "garbage"  # the stream is out of step


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run of requests stopped and why. `index` is the request that was not answered with data."""

    ended: Ended
    index: int
    code: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How one device is talked to."""

    unit: int
    timeout: float
    pause: float


@dataclass(slots=True, eq=False)
class _Run:
    """A run of requests on its way. `data` is None for `ask`, whose answer is kept in `answer`."""

    pace: Pace
    pdus: Sequence[bytes]
    accept: Callable[[int, bytes], None]
    waiter: asyncio.Future[Outcome]
    index: int = 0
    deadline: float = 0.0
    note: str = ""


class Line(asyncio.Protocol, asyncio.DatagramProtocol):
    """One connection. Made by `transport.open_line`, which hands it to the event loop."""

    def __init__(self, endpoint: Endpoint, checked: bool = True) -> None:
        self._endpoint = endpoint
        framings: dict[str, Framing] = {"mbap": Mbap(checked), "rtu": Rtu(), "ascii": Ascii()}
        self._framing = framings[endpoint.framing]
        self._drains = endpoint.paced or not checked
        self._silence = endpoint.silence if endpoint.paced else 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self.made = asyncio.Event()
        self._buffer = bytearray()
        self._run: _Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transaction = random.randrange(0xFFFF)  # so that counters in registers do not look like transactions
        self._header = b""  # what the next answer must begin with (MBAP)
        self._echo = b""  # what the adapter will send back to us
        self._owing: int | None = None  # the unit that owes an answer
        self._wary = 0  # so many more answers are looked at closely: a late one may be among them
        self._heard = 0.0  # when the last bytes came in or went out
        self.lost: str | None = None  # why the connection ended
        self.answered = 0  # answers since connect

    # -------------------------------------------------------------------------------- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.made.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = str(exc) or type(exc).__name__ if exc else "the peer closed the connection"
        self._finish(Ended.LOST, note=self.lost)

    def eof_received(self) -> bool:
        return False  # close our side too

    def error_received(self, exc: Exception) -> None:
        """A datagram was refused (ICMP): nobody listens there."""
        self.lost = str(exc) or type(exc).__name__
        self._finish(Ended.LOST, note=self.lost)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._buffer.clear()  # a datagram is a frame, or nothing
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        run = self._run
        if (
            run is not None
            and self._header
            and not self._buffer
            and data.startswith(self._header)
            and len(data) == 6 + data[5]
            and data[4] == 0
        ):
            self._accepted(run, data[7:])  # the usual case: one segment, exactly the answer
            return
        if self._echo:
            data = self._without_echo(data)
        pieces = bool(self._buffer)
        self._buffer += data
        if run is None:
            if len(self._buffer) > LIMIT:
                self._buffer.clear()
            return
        self._search(run, pieces)

    def _without_echo(self, data: bytes) -> bytes:
        size = min(len(data), len(self._echo))
        if data[:size] != self._echo[:size]:
            self._echo = b""
            return data
        self._echo = self._echo[size:]
        return data[size:]

    def _search(self, run: _Run, pieces: bool) -> None:
        """Look for the answer in what has arrived; `pieces`: not all of it arrived just now."""
        try:
            pdu, note = self._framing.find(self._buffer, run.pace.unit, self._transaction, run.pdus[run.index])
        except Garbage as error:
            if self._endpoint.transport == "udp":
                self._buffer.clear()
                run.note = str(error)
                return
            self._finish(Ended.GARBAGE, note=str(error))
            return
        if note:
            run.note = note
        if pdu is not None and pieces and note == EXTRA:
            self._finish(Ended.GARBAGE, note="an answer in pieces is followed by what begins no frame")
            return
        if pdu is not None:
            self._answer(run, pdu)
            return
        if note == DAMAGED and self._drains and run.deadline > self._heard + SETTLE:
            run.deadline = self._heard + SETTLE  # the answer came and is lost: no use in waiting for another
            self._arm(run)
        if len(self._buffer) > LIMIT:
            self._buffer.clear()

    def _accepted(self, run: _Run, pdu: bytes) -> None:
        """Take the PDU of a frame whose header, function and length are those that were expected."""
        self.answered += 1
        run.accept(run.index, pdu)
        self._advance(run)

    def _answer(self, run: _Run, pdu: bytes) -> None:
        self.answered += 1
        if pdu[0] & 0x80:
            self._finish(Ended.EXCEPTION, code=pdu[1], note=run.note)
            return
        run.accept(run.index, pdu)
        self._advance(run)

    def _advance(self, run: _Run) -> None:
        run.index += 1
        run.note = ""
        if run.index == len(run.pdus):
            self._finish(Ended.DONE)
            return
        pause = max(run.pace.pause, self._silence)
        if pause:
            self._header = b""
            run.deadline = self._loop.time() + pause + run.pace.timeout
            self._loop.call_later(pause, self._send_after_pause, run)
        else:
            self._send(run)

    def _send_after_pause(self, run: _Run) -> None:
        if self._run is run:
            if self._drains:
                self._buffer.clear()  # on a serial line nothing that came in between can be an answer
            self._send(run)

    def _send(self, run: _Run) -> None:
        if self.lost is not None:
            self._finish(Ended.LOST, note=self.lost)
            return
        pdu, unit = run.pdus[run.index], run.pace.unit
        self._transaction = self._transaction % 0xFFFF + 1
        frame = self._framing.wrap(unit, self._transaction, pdu)
        if self._wary:
            self._wary -= 1
            self._header = b""
        elif self._endpoint.framing == "mbap" and pdu[0] <= 4:
            count = pdu[3] << 8 | pdu[4]
            size = count * 2 if pdu[0] > 2 else (count + 7) >> 3
            self._header = frame[:4] + bytes((0, size + 3, unit, pdu[0], size))
        else:
            self._header = b""
        if self._endpoint.echo:
            self._echo = frame
        now = self._loop.time()
        self._heard = now
        run.deadline = now + run.pace.timeout
        if self._endpoint.transport == "udp":
            self._transport.sendto(frame)
        else:
            self._transport.write(frame)

    def _finish(self, ended: Ended, code: int = 0, note: str = "") -> None:
        run, self._run = self._run, None
        self._header = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if run is not None and not run.waiter.done():
            run.waiter.set_result(Outcome(ended, run.index, code, note))

    def _arm(self, run: _Run) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(run.deadline, self._tick)

    def _tick(self) -> None:
        """Look whether the request in flight is overdue. One timer serves a whole run."""
        run = self._run
        if run is None:
            return
        if self._loop.time() < run.deadline:
            self._arm(run)
            return
        self._timer = None
        self._wary = RECENT
        self._owing = NOBODY if run.note == DAMAGED else run.pace.unit
        self._heard = self._loop.time()
        note = run.note
        if not note and self._buffer and self._drains:
            note = f"{len(self._buffer)} bytes came that are no answer"
        self._finish(Ended.TIMEOUT, note=note)

    # -------------------------------------------------------------------------------- what the driver calls

    async def read(
        self,
        pace: Pace,
        requests: Sequence[Request],
        start: int,
        stop: int,
        data: NDArray[np.uint8],
        times: NDArray[np.int64],
    ) -> Outcome:
        """Send requests[start:stop] one after the other; put data into `data`, times of arrival into `times`."""
        view = data.data

        def accept(index: int, pdu: bytes) -> None:
            request = requests[start + index]
            place = request.place
            if request.function > 2:
                view[place : place + len(pdu) - 2] = pdu[2:]
            else:
                bits = np.unpackbits(np.frombuffer(pdu, np.uint8, offset=2), bitorder="little")
                data[place : place + request.count] = bits[: request.count]
            times[start + index] = time.time_ns()

        outcome = await self._converse(pace, [request.pdu for request in requests[start:stop]], accept)
        return Outcome(outcome.ended, start + outcome.index, outcome.code, outcome.note)

    async def ask(self, pace: Pace, pdu: bytes) -> tuple[Outcome, bytes]:
        """Send one PDU; give the outcome and, where it is DONE, the answer's PDU."""
        answer = b""

        def accept(_index: int, got: bytes) -> None:
            nonlocal answer
            answer = bytes(got)

        return await self._converse(pace, [pdu], accept), answer

    async def _converse(self, pace: Pace, pdus: Sequence[bytes], accept: Callable[[int, bytes], None]) -> Outcome:
        await self._ready(pace)
        if self.lost is not None:
            return Outcome(Ended.LOST, 0, note=self.lost)
        if not pdus:
            return Outcome(Ended.DONE, 0)
        run = _Run(pace, pdus, accept, self._loop.create_future())
        self._run = run
        self._send(run)
        if self._run is run:
            self._arm(run)
        try:
            return await run.waiter
        except asyncio.CancelledError:
            self._wary = RECENT
            self._owing = pace.unit
            self._heard = self._loop.time()
            self._finish(Ended.TIMEOUT)
            raise

    async def _ready(self, pace: Pace) -> None:
        """Wait out the pause between requests, and drain a serial line on which an answer is owed."""
        if self._drains and self._owing is not None:
            hush = max(self._silence * 4, HUSH)
            if self._owing == pace.unit:
                hush = max(hush, pace.timeout)
            await self._silent_for(hush)
            self._owing = None
        elif pause := max(pace.pause, self._silence):
            await self._silent_for(pause)
        if self._drains:
            self._buffer.clear()
            self._echo = b""

    async def _silent_for(self, pause: float) -> None:
        """Wait until nothing came in or went out for `pause` seconds; each byte that comes starts it anew."""
        left = self._heard + pause - self._loop.time()
        if left > 0 and self.lost is None:
            await asyncio.sleep(left)
            await self._silent_for(pause)

    def close(self) -> None:
        """End the connection; what is under way ends as lost."""
        if self.lost is None:
            self.lost = "closed"
        self._finish(Ended.LOST, note=self.lost)
        if self._transport is not None:
            self._transport.abort()
