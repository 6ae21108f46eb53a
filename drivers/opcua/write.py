"""Writing a node's value: in the type that the node has, exactly, and read back.

The type is the one of the value at hand; where there is none, the node's DataType. A number that this type cannot hold
is refused before anything is sent; only a Float takes the nearest value it has. Refusals are results, never retries.
"""

from __future__ import annotations

import math
import uuid
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from drivers.opcua import values, wire
from drivers.opcua.decode import Columns, decode
from drivers.opcua.session import Refused, Session, status_name
from gateway import quality as q
from gateway.contracts import Write, Written
from gateway.model import Kind

Value = float | int | bool | str
_RANGES: Final[dict[int, tuple[int, int]]] = {
    wire.SBYTE: (-(2**7), 2**7 - 1), wire.BYTE: (0, 2**8 - 1), wire.INT16: (-(2**15), 2**15 - 1),
    wire.UINT16: (0, 2**16 - 1), wire.INT32: (-(2**31), 2**31 - 1), wire.UINT32: (0, 2**32 - 1),
    wire.INT64: (-(2**63), 2**63 - 1), wire.UINT64: (0, 2**64 - 1),
}  # fmt: skip


class Unfit(ValueError):
    """A value that the node's type does not hold; `status` says in which way."""

    def __init__(self, reason: str, status: int) -> None:
        self.status = status
        super().__init__(reason)


def to_variant(value: Value, kind: int) -> ua.Variant:
    """Make the variant of a built-in type from a tag's raw value. Raises Unfit."""
    made = ua.VariantType(kind)
    if kind == wire.BOOLEAN:
        if isinstance(value, str) or value not in (0, 1):
            raise Unfit(f"a Boolean is false or true, not {value!r}", q.BAD_TYPE_MISMATCH)
        return ua.Variant(bool(value), made)
    if kind in _RANGES:
        low, high = _RANGES[kind]
        if isinstance(value, str) or (isinstance(value, float) and not value.is_integer()):
            raise Unfit(f"{made.name} takes whole numbers, not {value!r}", q.BAD_TYPE_MISMATCH)
        if not low <= int(value) <= high:
            raise Unfit(f"{made.name} holds {low} to {high}, not {value!r}", q.BAD_OUT_OF_RANGE)
        return ua.Variant(int(value), made)
    if kind in (wire.FLOAT, wire.DOUBLE):
        if isinstance(value, str):
            raise Unfit(f"{made.name} takes numbers, not {value!r}", q.BAD_TYPE_MISMATCH)
        number = float(value)
        if kind == wire.FLOAT and math.isfinite(number) and abs(number) > float(np.finfo(np.float32).max):
            raise Unfit(f"a Float does not hold {value!r}", q.BAD_OUT_OF_RANGE)
        return ua.Variant(number, made)
    if isinstance(value, str):
        if kind == wire.STRING:
            return ua.Variant(value, made)
        if kind == wire.LOCALIZED_TEXT:
            return ua.Variant(ua.LocalizedText(value), made)
        if kind == wire.GUID:
            try:
                return ua.Variant(uuid.UUID(value), made)
            except ValueError:
                raise Unfit(f"{value!r} is not a GUID", q.BAD_TYPE_MISMATCH) from None
    raise Unfit(f"writing {value!r} as {made.name} is not supported", q.BAD_NOT_SUPPORTED)


async def write(session: Session, node: ua.NodeId | int, wanted: Write) -> Written:
    """Write one value and read it back. Raises NotConnected, ProtocolError."""
    if isinstance(node, int):
        return Written(None, None, node, f"the node is not on this server: {status_name(node)}")
    tag = wanted.tag
    if tag.source.element >= 0 or tag.source.field:
        return Written(None, None, q.BAD_NOT_SUPPORTED, "writing a part of a value is not supported")
    encoded = nodeid_to_binary(node)
    before, kind = await _read(session, encoded, tag.kind)
    kind = kind or await _declared(session, node)
    if kind & wire.ARRAY:
        return Written(before, before, q.BAD_NOT_SUPPORTED, "writing arrays is not supported")
    try:
        variant = to_variant(wanted.value, kind)
    except Unfit as unfit:
        return Written(before, before, unfit.status, str(unfit))
    request = ua.WriteRequest()
    request.Parameters.NodesToWrite = [
        ua.WriteValue(NodeId=node, AttributeId=ua.AttributeIds.Value, Value=_only(variant))
    ]
    try:
        status = int((await session.service(request, ua.WriteResponse, "writing")).Results[0].value)
    except Refused as error:
        status = error.status
    if status >= q.BAD:
        return Written(before, before, status, f"the server refused: {status_name(status)}")
    after, _ = await _read(session, encoded, tag.kind)
    return Written(before, after, status)


def _only(variant: ua.Variant) -> ua.DataValue:
    """A DataValue with nothing but its value: many servers refuse to take status or times from a client."""
    data = ua.DataValue(variant)
    object.__setattr__(data, "StatusCode", None)
    return data


async def _read(session: Session, node: bytes, kind: Kind) -> tuple[Value | None, int]:
    """Give the value as the tag holds it (None where it has none) and its type."""
    body, at = await session.exchange(
        wire.READ_REQUEST, wire.READ_RESPONSE, wire.read_tail([node]), session.options.timeout
    )
    columns = Columns.empty(1)
    decode(body, at + 4, columns, 0, 1)
    value, status = values.gather(columns, kind, np.array([0]))
    return (value.tolist()[0] if status[0] < q.BAD else None), int(columns.type[0])


async def _declared(session: Session, node: ua.NodeId) -> int:
    """Give the built-in type that a node's DataType names; 0 where it is not a plain one."""
    found = await session.call(
        session.client.uaclient.read_attributes([node], ua.AttributeIds.DataType), "reading a data type"
    )
    data_type: Any = found[0].Value.Value if found and found[0].Value is not None else None
    if isinstance(data_type, ua.NodeId) and data_type.NamespaceIndex == 0 and data_type.Identifier in range(1, 26):
        return int(data_type.Identifier)
    return 0
