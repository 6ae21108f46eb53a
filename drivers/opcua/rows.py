"""From columns to batches: which row of an answer is which tag, with its value, quality and time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.opcua import values
from drivers.opcua.decode import Columns
from drivers.opcua.plan import Part
from drivers.opcua.ranges import Cut
from gateway import quality as q
from gateway.model import Batch, Kind


def moments(columns: Columns, rows: NDArray[np.intp], arrival: int, clock: str) -> NDArray[np.int64]:
    """Give the time of each row by the device's option `time`: source, else server, else arrival."""
    moment = np.zeros(len(rows), np.int64) if clock == "arrival" else columns.server[rows]
    if clock == "source":
        source = columns.source[rows]
        moment = np.where(source != 0, source, moment)
    if not moment.all():
        moment = np.where(moment != 0, moment, arrival)
    return moment


def redate(columns: Columns, still: NDArray[np.bool_], known: NDArray[np.int64]) -> None:
    """Let these rows carry the server's time where that is newer than `known`, else that of their arrival.

    The source's time says since when a value is so. Where it was given already, or an interruption lies between, the
    row says that the value is so still: with its old time it would stand before the interruption's Bad row.
    """
    if still.any():
        columns.source[still] = 0
        columns.server[still & (columns.server <= known)] = 0


def batch(
    part: Part,
    columns: Columns,
    rows: NDArray[np.intp],
    tags: NDArray[np.uint32],
    arrival: int,
    clock: str,
    cut: Cut | None = None,
) -> Batch:
    """Put together the batch in which row rows[i] of the columns is tag tags[i] of the part's table."""
    table = part.table
    counters = None if part.counters is None else part.counters[tags]
    value, status = values.gather(columns, table.kind, rows, counters)
    if part.picks:
        for index in np.flatnonzero(part.picked[tags]).tolist():
            tag = int(tags[index])
            asked = (0, 0) if cut is None else (int(cut.first[part.node[tag]]), int(cut.count[part.node[tag]]))
            value[index], status[index] = picked(
                columns, int(rows[index]), int(part.element[tag]), part.field[tag], table.kind, asked
            )
    if part.names:
        _name(part, tags, value, status)
    return Batch(table, tags, value, status, moments(columns, rows, arrival, clock))


def _name(part: Part, tags: NDArray[np.uint32], value: NDArray[Any], status: NDArray[np.uint32]) -> None:
    """Put the server's names in place of an enumeration's numbers; a number without a name stays, as Uncertain."""
    for index, tag in enumerate(tags.tolist()):
        names = part.names.get(tag)
        if names is None or status[index] >= q.BAD:
            continue
        name = names.get(value[index])
        if name is not None:
            value[index] = name
        elif value[index].removeprefix("-").isdecimal():
            status[index] |= q.UNCERTAIN


def picked(
    columns: Columns, row: int, element: int, field: tuple[str, ...], kind: Kind, asked: tuple[int, int] = (0, 0)
) -> tuple[Any, int]:
    """Give value and quality of one element of the array, or one field of the structure, in a row.

    `asked` is the part of the array that was asked for: its first element and their number, 0 for all.
    """
    status = int(columns.status[row])
    if status >= q.BAD:
        return kind.nothing, status
    if columns.type[row] == 0:
        return kind.nothing, q.BAD_NO_DATA
    try:
        if field:
            value, found = values.field(values.structure(columns, row), field, kind)
        else:
            there = values.elements(columns, row)
            first, count = asked
            if there is not None and count >= len(there):
                element -= first
            value, found = values.element(there, element, kind)
    except values.Undecodable:
        return kind.nothing, q.BAD_DECODING_ERROR
    return value, found or status


def once_each(one: Batch) -> list[Batch]:
    """Split a batch so that each holds a tag at most once, and a tag's readings come in their order."""
    if len(one) < 2:
        return [one]
    order = np.argsort(one.tag, kind="stable")
    ordered = one.tag[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    if first.all():
        return [one]
    position = np.arange(len(ordered))
    rank = np.empty(len(ordered), dtype=np.intp)
    rank[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return [one.take(np.flatnonzero(rank == turn)) for turn in range(int(rank.max()) + 1)]
