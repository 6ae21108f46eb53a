"""What the driver can say of a tag without asking the device: its request, its bytes as they last came, a guess.

The guess is made from the bytes alone: a floating-point number of absurd size that another byte order makes one that a
plant would show. Where the tag has limits, another order must bring the value inside them. A 64-bit integer beyond 2^53
is doubted where another order makes it smaller than that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from drivers.modbus.address import ORDERS, TYPES, ModbusSource, full_order, in_order
from drivers.modbus.plan import AREAS, ModbusPlan
from drivers.modbus.scan import Scan
from gateway import quality as q
from gateway.contracts import Answer, Ordered
from gateway.model import Kind, Tag

_COUNTS: Final = 2**53  # no counter of a plant gets there; where another order shows less, it is the other


def told(plan: ModbusPlan, scan: Scan | None, table: int, row: int) -> Answer:
    """Tell of a tag's last answer."""
    tag = plan.tables[table].tags[row]
    if scan is None:
        return Answer(f"unit {plan.pace.unit}, {tag.source.area} {tag.source.address}", note="not asked for yet")
    request, data, time, status = scan.trace(table, row)
    if request is None:
        note = "the device refuses this address (exception 01, 02 or 03); it is tried again every ten minutes"
        asked = f"unit {plan.pace.unit}, {tag.source.area} {tag.source.address}: left out"
        return Answer(asked, quality=status, time=time, note=note)
    last = f"..{request.end - 1}" if request.count > 1 else ""
    asked = f"FC{request.function} {AREAS[request.function]} {request.address}{last} of unit {plan.pace.unit}"
    if not time:
        return Answer(asked, note="nothing has come yet")
    if status:
        return Answer(asked, data.hex(" ", 2), None, status, time, "the last scan brought no data for it")
    value, quality = scan.decoded(table, row)
    found = None if quality >= q.BAD else value.item() if isinstance(value, np.generic) else value
    read = orders(tag, data)
    if found is not None and read and isinstance(read[0].value, int) and not tag.source.flags:
        found = read[0].value  # exact, where a scale makes it a float
    note = "these registers hold no value of this type" if quality >= q.BAD else ""
    return Answer(asked, data.hex(" ", 2), found, quality, time, note, guess(tag, data), read)


def guess(tag: Tag, data: bytes) -> str:
    """Guess from a number's bytes whether its byte order is a wrong one; empty where it looks right."""
    found = orders(tag, data)
    better = [each.order for each in found[1:] if each.likely]
    if not better or found[0].likely:
        return ""
    others = f" (or {', '.join(better[1:])})" if better[1:] else ""
    return f"looks like the wrong word order: try {better[0]}{others}"


def orders(tag: Tag, data: bytes) -> tuple[Ordered, ...]:
    """Read a number's bytes in the order of its definition, then in the others, the nearest first.

    Empty where no order is to be told: text, bits, BCD, fewer than 32 bits, all bytes 0. Devices that swap registers
    are far more common than those that swap bytes.
    """
    source: ModbusSource = tag.source
    type_ = TYPES.get(source.type)
    if type_ is None or type_.kind is Kind.TEXT or type_.width < 4 or source.bits or len(data) != type_.width:
        return ()
    if source.type.startswith("bcd") or not any(data):
        return ()
    here = full_order(source.order or "ABCD", type_.width)
    known = {full_order(order, type_.width): order for order in ORDERS}
    found = []
    for order in (here, *(each for each in known if each != here)):
        value = np.frombuffer(in_order(data, order), type_.dtype)[0]
        found.append(Ordered(known.get(order, order), value.item(), _likely(tag, type_.dtype, value)))
    if found[0].likely and abs(found[0].value) >= _COUNTS and type_.kind is not Kind.FLOAT:
        sizes = [each.likely and abs(each.value) < _COUNTS for each in found]
        if any(sizes):
            found = [replace(each, likely=small) for each, small in zip(found, sizes, strict=True)]
    return tuple(found)


def _likely(tag: Tag, dtype: str, value: Any) -> bool:
    """Say whether a plant would show this: a float of human size, and inside the limits where there are any.

    An integer without limits may be any counter.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = float(value) * float(tag.scale) + float(tag.offset)
    if not np.isfinite(scaled):
        return False
    bounded = np.isfinite(tag.minimum) or np.isfinite(tag.maximum)
    if bounded and not tag.minimum <= scaled <= tag.maximum:
        return False
    if dtype[1] == "f":
        return bool(value == 0 or 1e-6 <= abs(float(value)) < 1e10)
    return True
