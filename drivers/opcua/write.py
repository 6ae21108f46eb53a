"""Writing a node's value: in the type that the node has, exactly, and read back.

The type is the one of the value at hand; where there is none, the node's DataType. A number that this type cannot hold
is refused before anything is sent; only a Float takes the nearest value it has. Refusals are results, never retries.

A whole array is given as JSON. An element is written with an IndexRange where a read shows that the server heeds one,
else by writing the array as it was just read, with the element changed: what others write between is lost then.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from drivers.opcua import rows, values, wire
from drivers.opcua.decode import Columns
from drivers.opcua.session import Refused, Session, status_name
from gateway import quality as q
from gateway.contracts import Write, Written
from gateway.model import Tag

Value = float | int | bool | str
_RANGES: Final[dict[int, tuple[int, int]]] = {
    wire.SBYTE: (-(2**7), 2**7 - 1), wire.BYTE: (0, 2**8 - 1), wire.INT16: (-(2**15), 2**15 - 1),
    wire.UINT16: (0, 2**16 - 1), wire.INT32: (-(2**31), 2**31 - 1), wire.UINT32: (0, 2**32 - 1),
    wire.INT64: (-(2**63), 2**63 - 1), wire.UINT64: (0, 2**64 - 1),
}  # fmt: skip


_NO_RANGES: Final = {int(ua.StatusCodes.BadWriteNotSupported), int(ua.StatusCodes.BadIndexRangeInvalid)}


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
    """Write one value, element or array, and read it back. Raises NotConnected, ProtocolError."""
    if isinstance(node, int):
        return Written(None, None, node, f"the node is not on this server: {status_name(node)}")
    source = wanted.tag.source
    if source.field:
        return Written(None, None, q.BAD_NOT_SUPPORTED, "writing a field of a structure is not supported")
    found = await session.values([nodeid_to_binary(node)])
    before = _value(found, wanted.tag)
    kind = int(found.type[0]) or await _declared(session, node)
    try:
        if source.element >= 0:
            status = await _write_element(session, node, found, wanted)
        else:
            variant = _array(found, wanted.value) if kind & wire.ARRAY else to_variant(wanted.value, kind)
            status = await _put(session, node, variant)
    except Unfit as unfit:
        return Written(before, before, unfit.status, str(unfit))
    if status >= q.BAD:
        return Written(before, before, status, f"the server refused: {status_name(status)}")
    return Written(before, _value(await session.values([nodeid_to_binary(node)]), wanted.tag), status)


async def _write_element(session: Session, node: ua.NodeId, found: Columns, wanted: Write) -> int:
    """Write one element: alone where the server knows index ranges, else in the array as it was just read."""
    index = wanted.tag.source.element
    elements = _elements(found)
    if index >= len(elements):
        raise Unfit(f"the array has {len(elements)} elements, none at [{index}]", values.BAD_INDEX_RANGE_NO_DATA)
    kind = int(found.type[0]) & 0x3F
    element = to_variant(wanted.value, kind)
    if await _knows_ranges(session, node, index):
        one = ua.Variant([element.Value], element.VariantType, is_array=True)
        status = await _put(session, node, one, str(index))
        if status not in _NO_RANGES:
            return status
    elements[index] = element.Value
    return await _put(session, node, ua.Variant(elements, element.VariantType, is_array=True))


def _array(found: Columns, value: Value) -> ua.Variant:
    """Make an array's variant from JSON. Raises Unfit."""
    _elements(found)
    try:
        given = json.loads(value) if isinstance(value, str) else None
    except ValueError:
        given = None
    if not isinstance(given, list):
        raise Unfit(f"an array is written as JSON such as [1, 2, 3], not {value!r}", q.BAD_TYPE_MISMATCH)
    if any(not isinstance(each, str | bool | int | float) for each in given):
        raise Unfit("an array's elements are numbers, texts, true or false", q.BAD_TYPE_MISMATCH)
    kind = int(found.type[0]) & 0x3F
    return ua.Variant([to_variant(each, kind).Value for each in given], ua.VariantType(kind), is_array=True)


def _elements(found: Columns) -> list[Any]:
    """Give the array that a node holds. Raises Unfit."""
    span = found.spans.get(0)
    if span is None or not int(found.type[0]) & wire.ARRAY:
        raise Unfit("the node holds no array", q.BAD_TYPE_MISMATCH)
    if span[0][span[1]] & wire.DIMENSIONS:
        raise Unfit("writing arrays of several dimensions is not supported", q.BAD_NOT_SUPPORTED)
    try:
        return list(values.variant(span).Value or ())
    except values.Undecodable as error:
        raise Unfit(f"the array cannot be decoded: {error}", q.BAD_DECODING_ERROR) from error


async def _knows_ranges(session: Session, node: ua.NodeId, index: int) -> bool:
    """Say whether the server heeds an IndexRange: one that ignores it would replace the array by the element."""
    found = await session.values([nodeid_to_binary(node)], ranges=[str(index)])
    if found.status[0] >= q.BAD or not int(found.type[0]) & wire.ARRAY:
        return False
    return len(_elements(found)) == 1


async def _put(session: Session, node: ua.NodeId, variant: ua.Variant, index_range: str | None = None) -> int:
    request = ua.WriteRequest()
    request.Parameters.NodesToWrite = [
        ua.WriteValue(NodeId=node, AttributeId=ua.AttributeIds.Value, IndexRange=index_range, Value=_only(variant))
    ]
    try:
        return int((await session.service(request, ua.WriteResponse, "writing")).Results[0].value)
    except Refused as error:
        return error.status


def _only(variant: ua.Variant) -> ua.DataValue:
    """A DataValue with nothing but its value: many servers refuse to take status or times from a client."""
    data = ua.DataValue(variant)
    object.__setattr__(data, "StatusCode", None)
    return data


def _value(found: Columns, tag: Tag) -> Value | None:
    """Give the value as the tag holds it; None where it has none."""
    if tag.source.element >= 0:
        value, status = rows.picked(found, 0, tag.source.element, (), tag.kind)
        return None if status >= q.BAD else value
    column, statuses = values.gather(found, tag.kind, np.array([0]))
    return column.tolist()[0] if statuses[0] < q.BAD else None


async def _declared(session: Session, node: ua.NodeId) -> int:
    """Give the built-in type that a node's DataType names; 0 where it is not a plain one."""
    found = await session.call(
        session.client.uaclient.read_attributes([node], ua.AttributeIds.DataType), "reading a data type"
    )
    data_type: Any = found[0].Value.Value if found and found[0].Value is not None else None
    if isinstance(data_type, ua.NodeId) and data_type.NamespaceIndex == 0 and data_type.Identifier in range(1, 26):
        return int(data_type.Identifier)
    return 0
