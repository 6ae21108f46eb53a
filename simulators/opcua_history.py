"""HistoryRead of a simulated OPC UA server: the raw values that it has shown since its start.

A signal is a function of time, so nothing is stored: the changes between two moments are computed when somebody asks.
Only what faults did is kept: a node that was frozen has no change meanwhile, one with another status has one entry
that says so, one on a ramp has that. Numbers that are not writable are historizing, other nodes keep no history. An
answer holds at most MOST values of a node; a continuation point is the moment to go on from, and needs no memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from asyncua import Server, ua
from numpy.typing import NDArray

from simulators.opcua_publish import encoded, value_bytes

if TYPE_CHECKING:
    from simulators.opcua import OpcuaServer

MOST: Final = 5_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DATA: Final = ua.NodeId(ua.ObjectIds.HistoryData_Encoding_DefaultBinary)


@dataclass(slots=True, eq=False)
class Spell:
    """A time in which a fault said what a node shows: its first value, or a ramp, with a status."""

    begin: int  # ns
    status: int
    ramp: tuple[int, int, int, int] | None  # begin, end (ns), first and last whole number
    end: int = 2**62


class History:
    """The history of one server's nodes, across its restarts."""

    def __init__(self, server: OpcuaServer) -> None:
        self._of = server
        self._spells: dict[int, list[Spell]] = {}  # by variable

    def serve(self, server: Server) -> None:
        """Answer HistoryRead of this server."""
        server.iserver.history_manager.read_history = self._answer

    def note(self, variable: int, spell: Spell) -> None:
        """Keep what a fault does to a variable."""
        self._spells.setdefault(variable, []).append(spell)

    async def _answer(self, parameters: Any) -> list[ua.HistoryReadResult]:
        details = parameters.HistoryReadDetails
        if not isinstance(details, ua.ReadRawModifiedDetails) or details.IsReadModified:
            return [_refused(ua.StatusCodes.BadHistoryOperationUnsupported) for _ in parameters.NodesToRead]
        return [self._read(details, each) for each in parameters.NodesToRead]

    def _read(self, details: Any, asked: Any) -> ua.HistoryReadResult:
        index = self._of.index.get(asked.NodeId)
        if index is None:
            return _refused(ua.StatusCodes.BadNodeIdUnknown)
        variable = self._of.variables[index]
        if variable.row < 0 or variable.tag.writable or variable.recorded:
            return _refused(ua.StatusCodes.BadHistoryOperationUnsupported)
        start, end = _moment(details.StartTime, self._of.began), _moment(details.EndTime, self._of.clock())
        if asked.ContinuationPoint:
            if len(asked.ContinuationPoint) != 8:
                return _refused(ua.StatusCodes.BadContinuationPointInvalid)
            (start,) = struct.unpack("<q", asked.ContinuationPoint)
        most = min(details.NumValuesPerNode or MOST, MOST)
        time, pattern, status = self._values(index, max(start, self._of.began), min(end, self._of.clock()))
        result = ua.HistoryReadResult()
        if len(time) > most:
            result.ContinuationPoint = struct.pack("<q", int(time[most]))
            time, pattern, status = time[:most], pattern[:most], status[:most]
        if not len(time):
            result.StatusCode = ua.StatusCode(ua.StatusCodes.GoodNoData)
        quantum = np.full(len(time), self._of.bank.quantum[variable.row])
        parts, first = [], 0
        for stop in [*(np.flatnonzero(np.diff(status != 0)) + 1).tolist(), len(time)]:
            run = slice(first, stop)
            values = value_bytes(variable.type, pattern[run], quantum[run])
            parts.append(encoded(variable.type, values, status[run], time[run], time[run]))
            first = stop
        body = struct.pack("<i", len(time)) + b"".join(parts)
        result.HistoryData = ua.ExtensionObject(TypeId=_DATA, Body=body)
        return result

    def _values(
        self, index: int, start: int, end: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint32]]:
        """Give times, whole numbers and statuses of a variable's changes in [start, end], oldest first."""
        tick, row = self._of.tick, self._of.variables[index].row
        signal = self._of.bank.signals[row]
        first = -(-start // tick)
        time = np.arange(first - 1, end // tick + 1, dtype=np.int64) * tick
        if len(time) < 2:
            return np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        pattern = _patterns(signal, time)
        status = np.zeros(len(time), np.uint32)
        for spell in self._spells.get(index, ()):
            hit = (time >= spell.begin) & (time < spell.end)
            status[hit] = spell.status
            if spell.ramp is None:
                pattern[hit] = _patterns(signal, np.array([spell.begin], np.int64))[0]
            else:
                begin, until, low, high = spell.ramp
                part = np.clip((time[hit] - begin) / max(until - begin, 1), 0, 1)
                pattern[hit] = np.round(low + (high - low) * part).astype(np.int64).view(np.uint64)
        changed = np.flatnonzero((pattern[1:] != pattern[:-1]) | (status[1:] != status[:-1])) + 1
        if time[1] <= self._of.began + tick:  # the very first value has nothing to differ from
            changed = np.union1d(changed, [1])
        return time[changed], pattern[changed], status[changed]


def _patterns(signal: Any, time: NDArray[np.int64]) -> NDArray[np.uint64]:
    counts: NDArray[np.uint64] = signal.count(time)
    if not signal.table:
        return np.uint64(signal.low % 2**64) + counts
    return np.array([int(number) % 2**64 for number in signal.table], np.uint64)[counts.astype(np.intp)]


def _moment(asked: datetime | None, otherwise: int) -> int:
    """Give a time of a request as ns since 1970; another one where the request leaves it open."""
    if asked is None or asked <= EPOCH.replace(tzinfo=asked.tzinfo):
        return otherwise
    since = (asked if asked.tzinfo is not None else asked.replace(tzinfo=UTC)) - EPOCH
    return since // timedelta(microseconds=1) * 1000


def _refused(status: int) -> ua.HistoryReadResult:
    return ua.HistoryReadResult(StatusCode=ua.StatusCode(status))
