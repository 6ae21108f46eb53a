"""OPC UA binary encoding (Part 6, 5.2), as far as it is wanted in columns: walking over values, building requests.

Walking finds where a value ends without building it, so that one value that cannot be decoded costs one tag and not
the message. Everything here is pure: bytes in, positions or bytes out; a message that ends early or contradicts
itself raises Malformed.
"""

from __future__ import annotations

import struct
import time
from typing import Final

BOOLEAN, SBYTE, BYTE, INT16, UINT16, INT32, UINT32, INT64, UINT64, FLOAT, DOUBLE = range(1, 12)
STRING, DATETIME, GUID, BYTESTRING, XML, NODE_ID, EXPANDED_NODE_ID, STATUS_CODE = range(12, 20)
QUALIFIED_NAME, LOCALIZED_TEXT, EXTENSION_OBJECT, DATA_VALUE, VARIANT, DIAGNOSTIC_INFO = range(20, 26)

ARRAY: Final = 0x80
DIMENSIONS: Final = 0x40
DEPTH: Final = 32  # variants in variants, diagnostics in diagnostics

WIDTHS: Final[dict[int, int]] = {
    BOOLEAN: 1, SBYTE: 1, BYTE: 1, INT16: 2, UINT16: 2, INT32: 4, UINT32: 4, INT64: 8, UINT64: 8, FLOAT: 4, DOUBLE: 8,
    DATETIME: 8, GUID: 16, STATUS_CODE: 4,
}  # fmt: skip

EPOCH: Final = 116_444_736_000_000_000  # 1970-01-01 in 100 ns since 1601-01-01

_INT32: Final = struct.Struct("<i")
_REQUEST: Final = struct.Struct("<qIIiI3x")
_RESPONSE: Final = struct.Struct("<qIIB")
READ_REQUEST: Final = b"\x01\x00\x77\x02"  # i=631, FourByte
READ_RESPONSE: Final = b"\x01\x00\x7a\x02"  # i=634
PUBLISH_REQUEST: Final = b"\x01\x00\x3a\x03"  # i=826
PUBLISH_RESPONSE: Final = b"\x01\x00\x3d\x03"  # i=829
REPUBLISH_REQUEST: Final = b"\x01\x00\x40\x03"  # i=832
REPUBLISH_RESPONSE: Final = b"\x01\x00\x43\x03"  # i=835
SERVICE_FAULT: Final = b"\x01\x00\x8d\x01"  # i=397
VALUE: Final = struct.pack("<IiHi", 13, -1, 0, -1)  # attribute, no index range, default encoding
EVENT_NOTIFIER: Final = struct.pack("<IiHi", 12, -1, 0, -1)


class Malformed(ValueError):
    """The bytes are not what the encoding allows; what follows them cannot be trusted either."""


def int32(body: bytes, at: int) -> int:
    """Read an Int32. Raises Malformed."""
    try:
        value: int = _INT32.unpack_from(body, at)[0]
    except struct.error:
        raise Malformed("the message ends early") from None
    return value


def _byte(body: bytes, at: int) -> int:
    if at >= len(body):
        raise Malformed("the message ends early")
    return body[at]


def _within(body: bytes, end: int) -> int:
    if end > len(body):
        raise Malformed("the message ends early")
    return end


def skip_text(body: bytes, at: int) -> int:
    """Step over a String, ByteString or XmlElement."""
    length = int32(body, at)
    if length < -1:
        raise Malformed(f"a length of {length}")
    return _within(body, at + 4 + max(length, 0))


def skip_node_id(body: bytes, at: int) -> int:
    """Step over a NodeId or ExpandedNodeId."""
    encoding = _byte(body, at)
    form = encoding & 0x3F
    if form in (0, 1, 2):
        at += (2, 4, 7)[form]
    elif form in (3, 5):
        at = skip_text(body, at + 3)
    elif form == 4:
        at += 19
    else:
        raise Malformed(f"a node id of form {form}")
    if encoding & 0x80:
        at = skip_text(body, at)
    if encoding & 0x40:
        at += 4
    return _within(body, at)


def skip_scalar(body: bytes, at: int, kind: int, depth: int = 0) -> int:
    """Step over one value of a built-in type (Part 6, 5.1.2)."""
    if depth > DEPTH:
        raise Malformed("values are nested too deep")
    width = WIDTHS.get(kind)
    if width is not None:
        return _within(body, at + width)
    if kind == 0:
        return at
    if kind in (STRING, BYTESTRING, XML) or kind > DIAGNOSTIC_INFO:  # reserved types are ByteStrings
        return skip_text(body, at)
    if kind in (NODE_ID, EXPANDED_NODE_ID):
        return skip_node_id(body, at)
    if kind == QUALIFIED_NAME:
        return skip_text(body, at + 2)
    if kind == LOCALIZED_TEXT:
        mask = _byte(body, at)
        at = skip_text(body, at + 1) if mask & 1 else at + 1
        return skip_text(body, at) if mask & 2 else at
    if kind == EXTENSION_OBJECT:
        at = skip_node_id(body, at)
        return skip_text(body, at + 1) if _byte(body, at) else at + 1
    if kind == DATA_VALUE:
        return skip_data_value(body, at, depth + 1)
    if kind == VARIANT:
        return skip_variant(body, at, depth + 1)
    return skip_diagnostics(body, at, depth + 1)


def skip_variant(body: bytes, at: int, depth: int = 0) -> int:
    """Step over a Variant: its encoding byte, its scalar or array, its dimensions."""
    encoding = _byte(body, at)
    kind = encoding & 0x3F
    at += 1
    if encoding & ARRAY:
        length = int32(body, at)
        at += 4
        if length > len(body) and kind:
            raise Malformed(f"an array of {length} values")
        width = WIDTHS.get(kind)
        if width is not None:
            at = _within(body, at + width * max(length, 0))
        elif kind:
            for _ in range(length):
                at = skip_scalar(body, at, kind, depth)
    else:
        at = skip_scalar(body, at, kind, depth)
    if encoding & DIMENSIONS:
        at = _within(body, at + 4 + 4 * max(int32(body, at), 0))
    return at


def skip_data_value(body: bytes, at: int, depth: int = 0) -> int:
    """Step over a DataValue."""
    mask = _byte(body, at)
    at += 1
    if mask & 0x01:
        at = skip_variant(body, at, depth)
    widths = (4 if mask & 0x02 else 0) + (8 if mask & 0x04 else 0) + (8 if mask & 0x08 else 0)
    return _within(body, at + widths + (2 if mask & 0x10 else 0) + (2 if mask & 0x20 else 0))


def skip_diagnostics(body: bytes, at: int, depth: int = 0) -> int:
    """Step over a DiagnosticInfo."""
    if depth > DEPTH:
        raise Malformed("diagnostics are nested too deep")
    mask = _byte(body, at)
    at += 1 + 4 * (mask & 0x0F).bit_count()
    if mask & 0x10:
        at = skip_text(body, at)
    if mask & 0x20:
        at += 4
    if mask & 0x40:
        at = skip_diagnostics(body, at, depth + 1)
    return _within(body, at)


def value(index_range: str = "") -> bytes:
    """Encode what follows the node in a ReadValueId: its Value, or a part of it."""
    if not index_range:
        return VALUE
    part = index_range.encode()
    return struct.pack("<Ii", 13, len(part)) + part + struct.pack("<Hi", 0, -1)


def read_tail(values: list[bytes]) -> bytes:
    """Encode what follows the header of a ReadRequest for these ReadValueIds: both timestamps, none cached."""
    return b"".join((struct.pack("<diI", 0.0, 2, len(values)), *values))


def request(type_id: bytes, token: bytes, handle: int, timeout: float, tail: bytes) -> bytes:
    """Encode a request: its type, its RequestHeader, and a tail that was encoded before."""
    ticks = time.time_ns() // 100 + EPOCH
    return b"".join((type_id, token, _REQUEST.pack(ticks, handle, 0, -1, min(int(timeout * 1000), 2**32 - 1)), tail))


def response(body: bytes, at: int = 0) -> tuple[int, int]:
    """Read a ResponseHeader behind its type id: the service result, and where the header ends. Raises Malformed."""
    try:
        _time, _handle, result, diagnostics = _RESPONSE.unpack_from(body, at)
    except struct.error:
        raise Malformed("the message ends early") from None
    at += 17
    if diagnostics:
        at = skip_diagnostics(body, at - 1)
    strings = int32(body, at)
    at += 4
    for _ in range(strings):
        at = skip_text(body, at)
    return result, skip_scalar(body, at, EXTENSION_OBJECT)


def uint32(body: bytes, at: int) -> int:
    """Read a UInt32. Raises Malformed."""
    return int32(body, at) & 0xFFFFFFFF


def numeric_id(body: bytes, at: int) -> int:
    """Give the number of a numeric NodeId in namespace 0; -1 for any other."""
    skip_node_id(body, at)
    form = body[at]
    if form == 0:
        return body[at + 1]
    if form == 1 and body[at + 1] == 0:
        return int.from_bytes(body[at + 2 : at + 4], "little")
    if form == 2 and body[at + 1 : at + 3] == b"\0\0":
        return int.from_bytes(body[at + 3 : at + 7], "little")
    return -1
