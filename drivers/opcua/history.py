"""Raw history of nodes, to fill the time in which nobody listened. Values are decoded in columns, as everywhere."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_to_binary

from drivers.opcua import wire
from drivers.opcua.decode import Columns, decode
from drivers.opcua.session import Session
from gateway import quality as q
from gateway.errors import ProtocolError

VALUES: Final = 10_000  # of one node in one answer
_HISTORY_READ: Final = (b"\x01\x00\x98\x02", b"\x01\x00\x9b\x02")  # i=664, i=667
_HISTORY_DATA: Final = 658
_NO_DATA: Final = 0x00A50000  # GoodNoData: there is a history, and nothing in this part of it


async def fetch(session: Session, nodes: Sequence[bytes], start: int, end: int) -> list[list[Columns]]:
    """Give each node's raw values from `start` to `end` (ns), oldest first; an empty list where it keeps no history.

    Raises Refused where the server has no history at all, NotConnected, ProtocolError.
    """
    found: list[list[Columns]] = [[] for _ in nodes]
    pending: list[tuple[int, bytes | None]] = [(place, None) for place in range(len(nodes))]
    while pending:
        request = ua.HistoryReadRequest()
        parameters = request.Parameters
        parameters.HistoryReadDetails = ua.ReadRawModifiedDetails(
            IsReadModified=False, StartTime=_moment(start), EndTime=_moment(end + 999), NumValuesPerNode=VALUES,
            ReturnBounds=False,
        )  # fmt: skip
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        parameters.ReleaseContinuationPoints = False
        for place, point in pending:
            node = nodeid_from_binary(Buffer(nodes[place]))
            parameters.NodesToRead.append(ua.HistoryReadValueId(NodeId=node, ContinuationPoint=point))
        tail = struct_to_binary(parameters)
        body, at = await session.exchange(*_HISTORY_READ, tail, session.options.timeout)
        try:
            pending = _results(body, at, pending, found)
        except wire.Malformed as error:
            raise ProtocolError(f"{session.url}: a history that makes no sense: {error}") from error
    return found


def _results(
    body: bytes, at: int, pending: Sequence[tuple[int, bytes | None]], found: list[list[Columns]]
) -> list[tuple[int, bytes | None]]:
    """Take the values out of an answer; give what the server has more of."""
    if wire.int32(body, at) != len(pending):
        raise wire.Malformed(f"{wire.int32(body, at)} results for {len(pending)} nodes")
    at += 4
    more: list[tuple[int, bytes | None]] = []
    for place, _ in pending:
        status = wire.uint32(body, at)
        after = wire.skip_text(body, at + 4)
        point = body[at + 8 : after]
        end = wire.skip_scalar(body, after, wire.EXTENSION_OBJECT)
        if status == _NO_DATA:
            found[place].append(Columns.empty(0))
        elif status < q.BAD and wire.numeric_id(body, after) == _HISTORY_DATA:
            data = wire.skip_node_id(body, after) + 5
            count = max(wire.int32(body, data), 0)
            if count > len(body):
                raise wire.Malformed(f"{count} values")
            columns = Columns.empty(count)
            decode(body, data + 4, columns, 0, count)
            found[place].append(columns)
            if point and count:
                more.append((place, point))
        at = end
    return more


def _moment(nanoseconds: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=nanoseconds // 1000)
