"""Columns to batches: which server types a tag's kind holds exactly, and how everything else is written as text.

A type that the kind cannot hold exactly is BadTypeMismatch for that tag, whatever the value at hand; nothing is ever
rounded or cut in silence. Only a tag that was declared as a 64-bit integer and is scaled, and so is float64, is taken
as far as it is exact, to 2^53. A value under a Bad code is no value. A Good code without a value is BadNoData.

Text: String and LocalizedText as they are, numbers as their shortest exact form, Boolean true/false, Guid, NodeId and
QualifiedName in their usual notation, DateTime as ISO 8601 with seven decimals and Z, ByteString as base64, arrays
and structures as JSON.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import uuid
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import variant_from_binary
from numpy.typing import NDArray

from drivers.opcua import wire
from drivers.opcua.decode import Columns
from gateway import quality as q
from gateway.model import EXACT, Kind

BAD_INDEX_RANGE_NO_DATA: Final = 0x80370000
BAD_DATA_TYPE_ID_UNKNOWN: Final = 0x80110000
BAD_NO_MATCH: Final = 0x806F0000
_SMALL: Final = (wire.SBYTE, wire.BYTE, wire.INT16, wire.UINT16, wire.INT32, wire.UINT32)
HELD: Final[dict[Kind, tuple[int, ...]]] = {
    Kind.FLOAT: (wire.BOOLEAN, *_SMALL, wire.FLOAT, wire.DOUBLE, wire.STATUS_CODE),
    Kind.INT: (wire.BOOLEAN, *_SMALL, wire.INT64, wire.STATUS_CODE),
    Kind.UINT: (wire.BOOLEAN, wire.BYTE, wire.UINT16, wire.UINT32, wire.UINT64, wire.STATUS_CODE),
    Kind.BOOL: (wire.BOOLEAN,),
}
SCALARS: Final = frozenset((*HELD[Kind.FLOAT], *HELD[Kind.INT], *HELD[Kind.UINT]))  # whose values are in the columns
_ELEMENT_DTYPES: Final[dict[int, str]] = {
    wire.BOOLEAN: "u1", wire.SBYTE: "i1", wire.BYTE: "u1", wire.INT16: "<i2", wire.UINT16: "<u2", wire.INT32: "<i4",
    wire.UINT32: "<u4", wire.INT64: "<i8", wire.UINT64: "<u8", wire.FLOAT: "<f4", wire.DOUBLE: "<f8",
    wire.STATUS_CODE: "<u4",
}  # fmt: skip


def _lookup(kinds: Iterable[int]) -> NDArray[np.bool_]:
    table = np.zeros(256, dtype=bool)
    table[list(kinds)] = True
    return table


_EXACT: Final = {kind: _lookup(types) for kind, types in HELD.items()}
_WIDE: Final = _lookup((wire.INT64, wire.UINT64))


def gather(
    columns: Columns, kind: Kind, rows: NDArray[Any], counters: NDArray[np.bool_] | None = None
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Give value and quality of whole scalar values in these rows, as `kind`. Text comes from `as_text`.

    `counters` marks the rows of tags that were declared as 64-bit integers and are float64 because they are scaled.
    """
    if kind is Kind.TEXT:
        return _texts(columns, rows)
    types = columns.type[rows]
    status = columns.status[rows]
    held = _EXACT[kind][types]
    if kind is Kind.FLOAT:
        value: NDArray[Any] = columns.number[rows]
        wide = np.flatnonzero(_WIDE[types] & counters) if counters is not None else ()
        if len(wide):
            value[wide], exact = _scaled_counters(columns.bits[rows][wide], types[wide])
            held[wide] = exact
    elif kind is Kind.BOOL:
        value = columns.number[rows] == 1.0
    else:
        value = columns.bits[rows]
        if kind is Kind.UINT:
            value = value.view(np.uint64)
        narrow = held & ~_WIDE[types]
        if narrow.any():
            value[narrow] = columns.number[rows][narrow].astype(value.dtype)
    bad = status >= q.BAD
    if not held.all():
        status = np.where(held | bad, status, np.where(types == 0, q.BAD_NO_DATA, q.BAD_TYPE_MISMATCH))
        status = status.astype(np.uint32, copy=False)
        bad = status >= q.BAD
    if bad.any():
        value[bad] = kind.nothing
    return value, status


def _scaled_counters(bits: NDArray[Any], types: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Give 64-bit integers as float64, and which of them it holds exactly: a tag with a scale is a float64."""
    value = np.where(
        types == wire.UINT64, bits.view(np.uint64).astype(np.float64), bits.view(np.int64).astype(np.float64)
    )
    return value, np.abs(value) <= EXACT


def _texts(columns: Columns, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    value = np.full(len(rows), "", dtype=object)
    status = columns.status[rows]
    for index, row in enumerate(rows.tolist()):
        if status[index] >= q.BAD:
            continue
        if columns.type[row] == 0:
            status[index] = q.BAD_NO_DATA
            continue
        try:
            value[index] = as_text(columns, row)
        except Undecodable:
            status[index] = q.BAD_DECODING_ERROR
    return value, status


class Undecodable(ValueError):
    """The value's bytes are there but do not make a value of their type."""


def variant(span: tuple[bytes, int, int]) -> ua.Variant:
    """Decode one Variant with asyncua. Raises Undecodable."""
    body, start, end = span
    try:
        return variant_from_binary(Buffer(body, start, end - start))
    except Exception as error:  # whatever the library's decoder meets in foreign bytes concerns this value only
        raise Undecodable(str(error)) from error


def as_text(columns: Columns, row: int) -> str:
    """Write the value of a row as text. Raises Undecodable."""
    kind = int(columns.type[row])
    span = columns.spans.get(row)
    if span is not None:
        if kind == wire.STRING:
            body, start, end = span
            return body[start + 5 : end].decode("utf-8", "replace")
        if kind == wire.DATETIME:
            body, start, _ = span
            return date_text(int.from_bytes(body[start + 1 : start + 9], "little", signed=True))
        return plain(variant(span).Value)
    if kind == wire.BOOLEAN:
        return "true" if columns.number[row] else "false"
    if kind == wire.INT64:
        return str(int(columns.bits[row]))
    if kind == wire.UINT64:
        return str(int(columns.bits[row]) & 0xFFFFFFFFFFFFFFFF)
    if kind == wire.FLOAT:
        return str(np.float32(columns.number[row]))
    number = float(columns.number[row])
    return repr(number) if kind == wire.DOUBLE else str(int(number))


def date_text(ticks: int) -> str:
    """Write a DateTime exactly: ISO 8601, 100 ns, UTC."""
    seconds, rest = divmod(ticks, 10_000_000)
    try:
        moment = datetime.datetime(1601, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return "9999-12-31T23:59:59.9999999Z" if ticks > 0 else "1601-01-01T00:00:00.0000000Z"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:07d}Z"


def plain(value: Any) -> str:
    """Write a decoded value as text; what has parts becomes JSON."""
    simple = _simple(value)
    if isinstance(simple, str):
        return simple
    return json.dumps(simple, ensure_ascii=False, separators=(",", ":"))


def _simple(value: Any) -> Any:
    """Turn a decoded value into what JSON knows, keeping numbers exact."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
    if isinstance(value, list | tuple):
        return [_simple(item) for item in value]
    if isinstance(value, ua.LocalizedText):
        return value.Text or ""
    if isinstance(value, ua.NodeId | ua.QualifiedName):
        return value.to_string()
    if isinstance(value, ua.StatusCode):
        return value.value
    if isinstance(value, ua.Variant):
        return _simple(value.Value)
    if isinstance(value, ua.ExtensionObject):
        return {"TypeId": value.TypeId.to_string(), "Body": _simple(value.Body)}
    if dataclasses.is_dataclass(value):
        return {field.name: _simple(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


@dataclasses.dataclass(slots=True)
class Elements:
    """The elements of one row's array: as numbers where the type has a fixed width, else as decoded objects."""

    type: int
    numbers: NDArray[Any] | None
    objects: list[Any]

    def __len__(self) -> int:
        return len(self.objects) if self.numbers is None else len(self.numbers)


def elements(columns: Columns, row: int) -> Elements | None:
    """Open the array in a row; None where the row holds no array. Raises Undecodable."""
    kind = int(columns.type[row])
    span = columns.spans.get(row)
    if span is None or not kind & wire.ARRAY:
        return None
    kind &= 0x3F
    body, start, _end = span
    dtype = _ELEMENT_DTYPES.get(kind)
    if dtype is not None:
        return Elements(kind, np.frombuffer(body, dtype, max(wire.int32(body, start + 1), 0), start + 5), [])
    objects: list[Any] = []
    pending = [variant(span).Value]
    while pending:  # dimensions come back as nested lists; elements count along the flat array
        item = pending.pop()
        if isinstance(item, list | tuple):
            pending.extend(reversed(item))
        else:
            objects.append(item)
    return Elements(kind, None, objects)


def element(found: Elements | None, index: int, kind: Kind) -> tuple[Any, int]:
    """Give one element's value as `kind` and the quality that follows from its type and place alone."""
    if found is None:
        return kind.nothing, q.BAD_TYPE_MISMATCH
    if index >= len(found):
        return kind.nothing, BAD_INDEX_RANGE_NO_DATA
    if found.numbers is None:
        return (plain(found.objects[index]), q.GOOD) if kind is Kind.TEXT else (kind.nothing, q.BAD_TYPE_MISMATCH)
    number = found.numbers[index].item()
    if found.type == wire.BOOLEAN:
        number = bool(number)
    if kind is Kind.TEXT:
        return (str(np.float32(number)) if found.type == wire.FLOAT else plain(number)), q.GOOD
    if not _EXACT[kind][found.type]:
        return kind.nothing, q.BAD_TYPE_MISMATCH
    return number, q.GOOD


def structure(columns: Columns, row: int) -> Any:
    """Decode the value of a row whose fields are wanted. Raises Undecodable."""
    span = columns.spans.get(row)
    return None if span is None else variant(span).Value


def field(found: Any, path: tuple[str, ...], kind: Kind) -> tuple[Any, int]:
    """Give one field of a decoded structure as `kind`, and the quality that follows from what is there.

    A structure whose type the server does not describe stays undecoded: BadDataTypeIdUnknown.
    """
    declared: Any = None
    for name in path:
        if isinstance(found, ua.ExtensionObject):
            return kind.nothing, BAD_DATA_TYPE_ID_UNKNOWN
        if not dataclasses.is_dataclass(found) or not hasattr(found, name):
            return kind.nothing, BAD_NO_MATCH
        declared = next((each.type for each in dataclasses.fields(found) if each.name == name), None)
        found = getattr(found, name)
    if found is None:
        return kind.nothing, q.BAD_NO_DATA
    if kind is Kind.TEXT:
        return plain(found), q.GOOD
    if isinstance(found, Enum):
        found = found.value
    held = _holds(found, str(getattr(declared, "__name__", declared)).rpartition(".")[2], kind)
    return (found, q.GOOD) if held else (kind.nothing, q.BAD_TYPE_MISMATCH)


def _holds(value: Any, declared: str, kind: Kind) -> bool:
    """Say whether a field of this declared type can be held exactly as `kind`."""
    named = getattr(ua.VariantType, declared, None)
    if named is not None:
        return bool(_EXACT[kind][named.value])
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return {Kind.FLOAT: abs(value) < 2**31, Kind.INT: True, Kind.UINT: value >= 0}.get(kind, False)
    return isinstance(value, float) and kind is Kind.FLOAT
