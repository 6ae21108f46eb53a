"""What the driver can say of a tag without asking the server: how its node is asked for, and the last DataValue.

Of a polled group the columns of the last answer are kept, of a subscribed one what is known of each item: that is its
number, status and times, not its text.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from drivers.opcua import rows, values
from drivers.opcua.decode import Columns
from drivers.opcua.plan import OpcuaPlan
from drivers.opcua.ranges import Cut
from drivers.opcua.subscribe import Watcher
from gateway import quality as q
from gateway.contracts import Answer


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """The last answer of a polled group; row[node] is the row of a node of the plan."""

    columns: Columns
    row: NDArray[np.intp]
    arrival: int
    cut: Cut | None = None


def read(plan: OpcuaPlan, answered: Answered | None, table: int, row: int) -> Answer:
    """Tell of a tag whose group is polled."""
    part = plan.parts[table]
    node = int(part.node[row])
    asked = f"Read of {plan.nodes[node]}, with {_others(plan)}"
    if answered is None:
        return Answer(asked, note="nothing has come yet")
    place = int(answered.row[node])
    columns = answered.columns
    one = rows.batch(
        part, columns, np.array([place]), np.array([row], np.uint32), answered.arrival, "source", answered.cut
    )
    return _answer(asked, columns, place, one.value[0], int(one.quality[0]), answered.arrival)


def reported(plan: OpcuaPlan, watcher: Watcher | None, table: int, row: int) -> Answer:
    """Tell of a tag whose group is subscribed."""
    part = plan.parts[table]
    node = int(part.node[row])
    if plan.events is not None:
        return Answer(f"{plan.nodes[node]} of the events of {plan.events}", note="events are not kept by the driver")
    asked = f"MonitoredItem of {plan.nodes[node]}, with {_others(plan)}"
    if watcher is None:
        return Answer(asked, note="nothing is subscribed yet")
    owner = next((each for each in watcher.items.watched if each.plan is plan), None)
    if owner is None:
        return Answer(asked, note="nothing is subscribed yet")
    handle = watcher.items.of_group(owner)[node]
    known, refused = watcher.items.known, watcher.items[handle].refused
    if refused:
        note = f"the server refuses to monitor it: {q.name(refused)}"
        return Answer(asked, quality=refused, note=note)
    if not known.heard[handle]:
        return Answer(asked, note="the server has reported nothing yet")
    ago = time.monotonic() - float(known.heard[handle])
    columns = Columns.empty(1)
    columns.type[0], columns.status[0] = known.type[handle], known.status[handle]
    columns.number[0], columns.bits[0] = known.number[handle], known.bits[handle]
    columns.source[0], columns.server[0] = known.time[handle], known.server[handle]
    arrival = time.time_ns() - round(ago * 1e9)
    kind = int(known.type[handle])
    if kind not in values.SCALARS or part.picked[row]:
        status = int(known.status[handle])
        said = f"{_type_name(kind) if kind else 'no value'}, status {q.name(status)}"
        moment = int(known.time[handle] or known.server[handle]) or arrival
        return Answer(asked, said, None, status, moment, f"reported {ago:.1f} s ago; values of this type are not kept")
    one = rows.batch(part, columns, np.array([0]), np.array([row], np.uint32), arrival, "source")
    answer = _answer(asked, columns, 0, one.value[0], int(one.quality[0]), arrival)
    return replace(answer, note="; ".join(filter(None, (answer.note, f"reported {ago:.1f} s ago"))))


def _answer(asked: str, columns: Columns, place: int, value: Any, quality: int, arrival: int) -> Answer:
    kind = int(columns.type[place])
    try:
        held = values.as_text(columns, place) if kind else "no value"
    except values.Undecodable:
        held = "a value that cannot be decoded"
    words = f"{_type_name(kind)} {held}" if kind else held
    source, server = int(columns.source[place]), int(columns.server[place])
    data = f"{words}, status {q.name(int(columns.status[place]))}, source time {_stamp(source)}"
    found = None if quality >= q.BAD else value.item() if isinstance(value, np.generic) else value
    note = ""
    if quality == q.BAD_TYPE_MISMATCH:
        note = (
            f"the server sends {_type_name(kind)}, which this tag's type does not hold: correct the type in its address"
        )
    return Answer(asked, data, found, quality, source or server or arrival, note)


def _type_name(kind: int) -> str:
    try:
        name = ua.VariantType(kind & 0x3F).name
    except ValueError:
        name = f"type {kind & 0x3F}"
    return f"array of {name}" if kind & 0x80 else name


def _others(plan: OpcuaPlan) -> str:
    others = len(plan.nodes) - 1
    return f"{others} other node{'' if others == 1 else 's'} of its group"


def _stamp(ns: int) -> str:
    if not ns:
        return "none"
    when = datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
