"""Reads of a simulated OPC UA server in prepared bytes: the simulator must not be what a benchmark of reading measures.

asyncua takes some 30 us for each value that it reads: decoding the request, an object per value, encoding those. A
client that polls asks for the same nodes with the same bytes again and again; so what they ask for is worked out once,
and the answer is put together in columns (simulators.opcua_publish). What is not the whole Value of numbers of a fixed
width, every request while a fault makes nodes slow, and nodes that were written go asyncua's way.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from asyncua import Server, ua
from asyncua.common.utils import Buffer
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.ua_binary import struct_from_binary
from numpy.typing import NDArray

from simulators.opcua_publish import TICKS_AT_1970, encoded, value_bytes

if TYPE_CHECKING:
    from simulators.opcua import OpcuaServer

FEW: Final = 10  # nodes: a smaller request is asyncua's
REMEMBERED: Final = 256  # requests
_READ: Final = ua.NodeId(ua.ObjectIds.ReadRequest_Encoding_DefaultBinary)
_READ_RESPONSE: Final = b"\x01\x00\x7a\x02"  # i=634
_ordinary: Final = UaProcessor._process_message


class Reads:
    """The reads of one server's clients."""

    def __init__(self, server: OpcuaServer, written: NDArray[np.bool_]) -> None:
        self._of = server
        self._written = written
        self._known: OrderedDict[bytes, NDArray[np.intp] | None] = OrderedDict()  # None: asyncua's

    def serve(self, server: Server) -> None:
        """Answer the reads of this server's clients.

        asyncua makes the object that answers a connection where nobody can reach it, so its class is changed, once in
        a process; servers that have no Reads do not notice.
        """
        server.iserver.prepared_reads = self
        if UaProcessor._process_message is not _process:
            UaProcessor._process_message = _process

    def answer(self, processor: Any, header: Any, sequence: Any, body: Any) -> bool:
        """Answer a ReadRequest; False where it is asyncua's to answer, and nothing was done."""
        if self._of.delays or processor.session is None or not processor.session.is_activated():
            return False
        asked = self._asked(bytes(body))
        if asked is None or self._written[asked].any():
            return False
        processor.session.touch()
        found = self._found(header.RequestHandle, asked)
        processor._transport.write(processor._connection.message_to_binary(found, request_id=sequence.RequestId))
        return True

    def _asked(self, tail: bytes) -> NDArray[np.intp] | None:
        """Give the variables that a request asks for; None where it is asyncua's."""
        if tail in self._known:
            self._known.move_to_end(tail)
            return self._known[tail]
        found = self._known[tail] = self._look(tail)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _look(self, tail: bytes) -> NDArray[np.intp] | None:
        parameters = struct_from_binary(ua.ReadParameters, Buffer(tail))
        nodes = parameters.NodesToRead
        if len(nodes) < FEW:
            return None
        variables = self._of.variables
        indexes = [self._of.index.get(each.NodeId, -1) for each in nodes]
        plain = all(each.AttributeId == ua.AttributeIds.Value and not each.IndexRange for each in nodes)
        if not plain or any(index < 0 or variables[index].row < 0 for index in indexes):
            return None
        return np.array(indexes, dtype=np.intp)

    def _found(self, handle: int, asked: NDArray[np.intp]) -> bytes:
        """Encode a ReadResponse: a segment for each run of one type and of one sort of status."""
        self._of.refresh()
        variables = self._of.variables
        words = np.array([variables[index].type for index in asked.tolist()])
        coded = self._of.status[asked] != 0
        ends = np.flatnonzero((words[1:] != words[:-1]) | (coded[1:] != coded[:-1])) + 1
        parts = []
        for some in np.split(asked, ends):
            word = variables[some[0]].type
            rows = np.array([variables[index].row for index in some.tolist()], dtype=np.intp)
            values = value_bytes(word, self._of.patterns[rows], self._of.bank.quantum[rows])
            parts.append(encoded(word, values, self._of.status[some], self._of.sources[some], self._of.stamp))
        ticks = time.time_ns() // 100 + TICKS_AT_1970
        head = _READ_RESPONSE + struct.pack("<qIIBi3xi", ticks, handle, 0, 0, -1, len(asked))
        return b"".join((head, *parts, struct.pack("<i", -1)))


async def _process(self: UaProcessor, type_id: Any, header: Any, sequence: Any, body: Any) -> Any:
    reads = getattr(self.iserver, "prepared_reads", None)
    if type_id == _READ and reads is not None and reads.answer(self, header, sequence, body):
        return True
    return await _ordinary(self, type_id, header, sequence, body)
