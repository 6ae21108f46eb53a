"""What one poll group of one device needs from a server: which nodes, and which row of the answer is which tag.

Pure: made once from the configuration. Node ids and the sizes of requests are the server's matter and are settled at
each connect (drivers.opcua.names), as are the names of states that text tags show (drivers.opcua.described); a node
that several tags use is asked for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.opcua.address import NodeName, Source
from gateway.contracts import PlannedRequest
from gateway.errors import ConfigError, Problem
from gateway.model import Kind, TagTable

CHUNK = 1000  # nodes in one request where the server names no limit
SECONDS_PER_REQUEST = 0.002
SECONDS_PER_NODE = 2e-6


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """How one table's rows come from the plan's nodes: node[i] and element[i] (-1: the whole value) make tag i."""

    table: TagTable
    node: NDArray[np.intp]
    element: NDArray[np.intp]
    picked: NDArray[np.bool_]  # which tags take an element or a field, and so are put together one by one
    field: tuple[tuple[str, ...], ...]  # of each tag, the path of the field that it takes
    picks: bool  # whether any tag takes a part
    counters: NDArray[np.bool_] | None  # which tags are scaled 64-bit integers, where there are any
    names: dict[int, dict[str, str]]  # of text tags on enumerations, by tag and number; the server's, from each connect


@dataclass(frozen=True, slots=True)
class EventWish:
    """Which events a group takes in: those of a notifier, of these types, from this severity on."""

    notifier: NodeName
    severity: int
    types: tuple[NodeName, ...]

    def __str__(self) -> str:
        of = " or ".join(str(each) for each in self.types)
        return f"{self.notifier}{f' of type {of}' if of else ''}, severity {self.severity} or more"


@dataclass(frozen=True, slots=True, eq=False)
class OpcuaPlan:
    """The nodes of a poll group, each once, and its tables as parts. With `events` the nodes are fields of events."""

    tables: tuple[TagTable, ...]
    nodes: tuple[NodeName, ...]
    parts: tuple[Part, ...]
    hulls: tuple[tuple[int, int] | None, ...]  # of a node whose tags are all elements, the first and the last of them
    events: EventWish | None = None

    @property
    def device(self) -> str:
        return self.tables[0].device

    @property
    def group(self) -> str:
        return self.tables[0].group

    def requests(self) -> Sequence[PlannedRequest]:
        """Give the Read requests, in the size that is used where the server does not limit it further."""
        if self.events is not None:
            return [
                PlannedRequest(
                    f"Events of {self.events}: {len(self.nodes)} fields", len(self.nodes), len(self.nodes), 0.0
                )
            ]
        requests = []
        for first in range(0, len(self.nodes), CHUNK):
            count = min(CHUNK, len(self.nodes) - first)
            text = f"Read {count} nodes: {self.nodes[first]} .. {self.nodes[first + count - 1]}"
            seconds = SECONDS_PER_REQUEST + count * SECONDS_PER_NODE
            requests.append(PlannedRequest(text, count, count, seconds))
        return requests


def plan(tables: Sequence[TagTable], events: EventWish | None = None) -> OpcuaPlan:
    """Compile the tables of one poll group of one device. Raises ConfigError where values and events are mixed."""
    _unmixed(tables, events is not None)
    nodes: dict[NodeName, int] = {}
    parts = []
    for table in tables:
        sources: list[Source] = [tag.source for tag in table.tags]
        for source in sources:
            nodes.setdefault(source.node, len(nodes))
        parts.append(
            Part(
                table,
                np.array([nodes[source.node] for source in sources], dtype=np.intp),
                np.array([source.element for source in sources], dtype=np.intp),
                np.array([source.element >= 0 or bool(source.field) for source in sources], dtype=bool),
                tuple(source.field for source in sources),
                any(source.element >= 0 or source.field for source in sources),
                _counters(table),
                {},
            )
        )
    return OpcuaPlan(tuple(tables), tuple(nodes), tuple(parts), _hulls(parts, len(nodes)), events)


def _hulls(parts: Sequence[Part], size: int) -> tuple[tuple[int, int] | None, ...]:
    first, last = np.full(size, 2**31), np.full(size, -1)
    whole = np.zeros(size, dtype=bool)
    for part in parts:
        whole[part.node[part.element < 0]] = True
        np.minimum.at(first, part.node, part.element)
        np.maximum.at(last, part.node, part.element)
    return tuple(
        None if all_ else (low, high)
        for all_, low, high in zip(whole.tolist(), first.tolist(), last.tolist(), strict=True)
    )


def _unmixed(tables: Sequence[TagTable], events: bool) -> None:
    problems = []
    for tag in (tag for table in tables for tag in table.tags if (tag.source.node.form == "event") is not events):
        if events:
            reason, hint = "a group with events has no values of nodes", "event:FIELD, or another group for the tag"
        else:
            reason, hint = "a field of events in a group without events", "give its group the key events: {}"
        place = (tag.where.file, tag.where.line, tag.where.column)
        problems.append(Problem(*place, f"groups.{tables[0].group}.tags.{tag.name}", reason, hint))
    if problems:
        raise ConfigError(problems)


def _counters(table: TagTable) -> NDArray[np.bool_] | None:
    if table.kind is not Kind.FLOAT:
        return None
    declared = np.array([tag.type in ("int64", "uint64") for tag in table.tags], dtype=bool)
    return declared if declared.any() else None
