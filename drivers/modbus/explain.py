"""What the driver can say of a tag without asking the device: its request, its bytes as they last came, a guess.

The guess is made from the bytes alone: a floating-point number of absurd size that another byte order makes one that a
plant would show. Where the tag has limits, another order must bring the value inside them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from drivers.modbus.address import TYPES, ModbusSource, full_order
from drivers.modbus.plan import AREAS, ModbusPlan
from drivers.modbus.scan import Scan
from gateway import quality as q
from gateway.contracts import Answer
from gateway.model import Kind, Tag

ORDERS: Final = ("ABCD", "CDAB", "BADC", "DCBA")


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
    note = "these registers hold no value of this type" if quality >= q.BAD else ""
    return Answer(asked, data.hex(" ", 2), found, quality, time, note, guess(tag, data))


def guess(tag: Tag, data: bytes) -> str:
    """Guess from a number's bytes whether its byte order is a wrong one; empty where it looks right."""
    source: ModbusSource = tag.source
    type_ = TYPES.get(source.type)
    if type_ is None or type_.kind is Kind.TEXT or type_.width < 4 or source.bits or len(data) != type_.width:
        return ""
    if source.type.startswith("bcd") or not any(data):
        return ""
    here = full_order(source.order or "ABCD", type_.width)
    if _likely(tag, type_.dtype, _ordered(data, here)):
        return ""
    # nearest first: devices that swap registers are far more common than those that swap bytes
    better = [
        order
        for order in ORDERS
        if (full := full_order(order, type_.width)) != here and _likely(tag, type_.dtype, _ordered(data, full))
    ]
    if not better:
        return ""
    others = f" (or {', '.join(better[1:])})" if better[1:] else ""
    return f"looks like the wrong word order: try {better[0]}{others}"


def _ordered(data: bytes, order: str) -> bytes:
    """Put bytes that came in this order into that of ABCD."""
    return bytes(data[order.index(letter)] for letter in sorted(order))


def _likely(tag: Tag, dtype: str, data: bytes) -> bool:
    """Say whether a plant would show this: a float of human size, and inside the limits where there are any.

    An integer without limits may be any counter.
    """
    value: Any = np.frombuffer(data, dtype)[0]
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
