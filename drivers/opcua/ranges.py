"""Elements of arrays by IndexRange (Part 4, 7.27): the part of an array that tags take is asked for, and no more.

Of each node whose tags are all elements the hull of these is asked for, where that is less than the array. Some servers
ignore an IndexRange, in reads or in subscriptions only, and a wrong element looks like a right one. So at each connect
such a node is read both ways, and a subscription's first answer is measured too: only where the length is that of the
part is it taken for the part. Otherwise, and where the array has several dimensions, the whole is taken and cut here.
What is longer than the part that was asked for is the whole, whenever it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary
from numpy.typing import NDArray

from drivers.opcua import values, wire
from drivers.opcua.decode import Columns
from drivers.opcua.names import Limits
from drivers.opcua.plan import OpcuaPlan
from drivers.opcua.session import Refused, Session
from gateway import quality as q

NODES: Final = 20  # read at once: their arrays may be large


@dataclass(slots=True, eq=False)
class Cut:
    """Which part of each of a plan's nodes is asked for: `count` elements from `first` on; 0: the whole value."""

    first: NDArray[np.intp]
    count: NDArray[np.intp]
    unsure: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Nodes whose subscription has not shown yet what it gives: the lengths of the part and of the whole."""

    def range(self, node: int) -> str:
        """Give the IndexRange of a node; empty for the whole."""
        first, count = int(self.first[node]), int(self.count[node])
        if count < 2:
            return str(first) if count else ""
        return f"{first}:{first + count - 1}"

    def whole(self, node: int) -> None:
        """Take the whole of a node from now on."""
        self.first[node] = self.count[node] = 0

    def measure(self, node: int, columns: Columns, row: int) -> None:
        """Look at what a subscription gave of a node that is unsure. What could be either has no value."""
        part, whole = self.unsure[node]
        length = length_of(columns, row)
        if length is None:
            return
        if length > self.count[node] or length == whole:
            self.whole(node)
        elif length != part:
            columns.status[row] = values.BAD_INDEX_RANGE_NO_DATA
            return
        del self.unsure[node]


def length_of(columns: Columns, row: int) -> int | None:
    """Give the length of the array in a row; None where it holds none, or one of several dimensions."""
    span = columns.spans.get(row)
    if span is None or not columns.type[row] & wire.ARRAY or span[0][span[1]] & wire.DIMENSIONS:
        return None
    return max(wire.int32(span[0], span[1] + 1), 0)


async def learn(session: Session, plan: OpcuaPlan, found: Sequence[ua.NodeId | int], limits: Limits) -> Cut:
    """Find out of which nodes the server gives a part; `found` are the plan's nodes. Raises NotConnected."""
    cut = Cut(np.zeros(len(plan.nodes), dtype=np.intp), np.zeros(len(plan.nodes), dtype=np.intp))
    asked = [
        (node, nodeid_to_binary(each), hull)
        for node, (each, hull) in enumerate(zip(found, plan.hulls, strict=True))
        if hull is not None and isinstance(each, ua.NodeId)
    ]
    size = min(NODES, limits.read)
    for at in range(0, len(asked), size):
        some = asked[at : at + size]
        for node, _, (first, last) in some:
            cut.first[node], cut.count[node] = first, last - first + 1
        try:
            whole = await session.values([each for _, each, _ in some], size)
            parts = await session.values([each for _, each, _ in some], size, [cut.range(node) for node, _, _ in some])
        except Refused:
            for node, _, _ in some:
                cut.whole(node)
            continue
        for row, (node, _, _) in enumerate(some):
            _compare(cut, node, whole, parts, row)
    return cut


def _compare(cut: Cut, node: int, whole: Columns, parts: Columns, row: int) -> None:
    length, got = length_of(whole, row), length_of(parts, row)
    first, last = int(cut.first[node]), int(cut.first[node] + cut.count[node])
    part = min(last, length or 0) - first
    if length is None or whole.status[row] >= q.BAD or part < 1 or part == length or got != part:
        cut.whole(node)  # a part beyond the end shows nothing
    else:
        cut.unsure[node] = part, length
