"""Raw history of nodes (HistoryRead, Part 11), page by page, to fill the time in which nobody listened.

A page is what one answer brought of one node, decoded in columns, as everywhere. A server gives its history in pieces:
under a continuation point, or it cuts without a word, or it has no continuation point to spare. In each case it is
asked for more from where it stopped, in smaller requests where the one before was too much, or took too long. A node
whose history cannot be had in full says so in its span; only a lost session ends the fetching.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_to_binary

from drivers.opcua import wire
from drivers.opcua.decode import Columns, decode
from drivers.opcua.items import rows_of
from drivers.opcua.session import TOO_MUCH, Refused, Session
from gateway import quality as q
from gateway.errors import NotConnected, ProtocolError

NODES: Final = 100  # asked for at once
VALUES = 20_000  # in one answer
LEAST: Final = 100  # of one node in one answer
TIMEOUT: Final = 30.0  # s; an archive may be slow
TRIES: Final = 3  # without any progress
_HISTORY_READ: Final = (b"\x01\x00\x98\x02", b"\x01\x00\x9b\x02")  # i=664, i=667
_HISTORY_DATA: Final = 658
_NO_DATA: Final = 0x00A50000  # GoodNoData: there is a history, and nothing in this part of it
_SMALLER: Final = TOO_MUCH | {ua.StatusCodes.BadTimeout, ua.StatusCodes.BadNoContinuationPoints}
_AGAIN: Final = {
    int(ua.StatusCodes.BadNoContinuationPoints), int(ua.StatusCodes.BadContinuationPointInvalid),
    int(ua.StatusCodes.BadTimeout),
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Span:
    """The time in which a node was not heard: after `since` and before `until` (ns, its source's clock).

    `since` moves on with what was given. `failed` is why the rest cannot be had.
    """

    handle: int
    node: bytes
    since: int
    until: int
    failed: int = 0
    tries: int = 0


@dataclass(slots=True)
class _Result:
    """What an answer says of one node."""

    span: Span
    status: int
    point: bytes
    columns: Columns


async def fetch(session: Session, spans: Sequence[Span], most: int = NODES) -> AsyncIterator[tuple[Span, Columns]]:
    """Give the raw values of spans, each node's oldest first; of `most` nodes in a request. Raises NotConnected."""
    queue = sorted(spans, key=lambda span: span.since)
    size = min(NODES, most)
    while queue:
        some, queue = queue[:size], queue[size:]
        values = max(LEAST, VALUES // len(some))
        start, end = min(span.since for span in some), max(span.until for span in some)
        active: list[tuple[Span, bytes | None]] = [(span, None) for span in some]
        while active:
            try:
                results = await _ask(session, active, start, end, values)
            except (Refused, NotConnected) as error:
                if not session.alive:
                    raise
                if error.status in _SMALLER and size > 1:
                    size = max(1, size // 2)
                    queue[:0] = [span for span, _ in active]
                else:
                    for span, _ in active:
                        span.failed = error.status
                break
            active = []
            for result in results:
                span = result.span
                page = _inside(result)
                if len(page):
                    yield span, page
                if result.point and result.status < q.BAD:
                    active.append((span, result.point))
                elif _go_on(result, values):
                    queue.append(span)


def _inside(result: _Result) -> Columns:
    """Give the rows of a result that lie within its span, and move the span on."""
    span, source = result.span, result.columns.source
    page = rows_of(result.columns, np.flatnonzero((source > span.since) & (source < span.until)))
    if len(page):
        span.since, span.tries = int(page.source.max()), 0
    return page


def _go_on(result: _Result, values: int) -> bool:
    """Say whether a node without a continuation point is to be asked once more, from where its history stopped."""
    span = result.span
    if result.status >= q.BAD:
        span.tries += 1
        if result.status in _AGAIN and span.tries < TRIES:
            return True
        span.failed = result.status
        return False
    cut = len(result.columns) >= values and span.tries == 0
    span.tries += 1  # a full page without progress is the last one
    return cut and int(result.columns.source.max()) < span.until


async def _ask(
    session: Session, active: Sequence[tuple[Span, bytes | None]], start: int, end: int, values: int
) -> list[_Result]:
    request = ua.HistoryReadRequest()
    parameters = request.Parameters
    parameters.HistoryReadDetails = ua.ReadRawModifiedDetails(
        IsReadModified=False, StartTime=_moment(start), EndTime=_moment(end + 999), NumValuesPerNode=values,
        ReturnBounds=False,
    )  # fmt: skip
    parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
    parameters.ReleaseContinuationPoints = False
    for span, point in active:
        node = nodeid_from_binary(Buffer(span.node))
        parameters.NodesToRead.append(ua.HistoryReadValueId(NodeId=node, ContinuationPoint=point))
    timeout = max(TIMEOUT, session.options.timeout)
    body, at = await session.exchange(*_HISTORY_READ, struct_to_binary(parameters), timeout)
    try:
        return _results(body, at, [span for span, _ in active])
    except wire.Malformed as error:
        raise ProtocolError(f"{session.url}: a history that makes no sense: {error}") from error


def _results(body: bytes, at: int, spans: Sequence[Span]) -> list[_Result]:
    if wire.int32(body, at) != len(spans):
        raise wire.Malformed(f"{wire.int32(body, at)} results for {len(spans)} nodes")
    at += 4
    results = []
    for span in spans:
        status = wire.uint32(body, at)
        after = wire.skip_text(body, at + 4)
        point = body[at + 8 : after]
        end = wire.skip_scalar(body, after, wire.EXTENSION_OBJECT)
        columns = Columns.empty(0)
        if status < q.BAD and status != _NO_DATA:
            if wire.numeric_id(body, after) == _HISTORY_DATA:
                data = wire.skip_node_id(body, after) + 5
                count = max(wire.int32(body, data), 0)
                if count > len(body):
                    raise wire.Malformed(f"{count} values")
                columns = Columns.empty(count)
                decode(body, data + 4, columns, 0, count)
            else:
                status = int(ua.StatusCodes.BadNoData)  # Good, and nothing in it
        results.append(_Result(span, status, point, columns))
        at = end
    return results


def _moment(nanoseconds: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=nanoseconds // 1000)
