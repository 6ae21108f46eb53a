"""Looking around in an address space: variables with type, unit, value and access, breadth first, bounded.

A node is visited once, whatever loops lead back to it; a folder's references are fetched in the server's own portions;
the whole ends at a limit. Properties are looked at for units, ranges and enumerations only. Addresses are given with
the namespace's URI, so that they outlive the server's numbering.
"""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from drivers.opcua import names, values, wire
from drivers.opcua.address import parse_node
from drivers.opcua.session import Refused, Session
from gateway.contracts import Found
from gateway.quality import BAD

_REFERENCES: Final = 500  # asked for per node at once; the rest comes by BrowseNext
_HAS_PROPERTY: Final = ua.NodeId(ua.ObjectIds.HasProperty)
_WORDS: Final[dict[int, str]] = {
    wire.BOOLEAN: "bool", wire.SBYTE: "int8", wire.BYTE: "uint8", wire.INT16: "int16", wire.UINT16: "uint16",
    wire.INT32: "int32", wire.UINT32: "uint32", wire.INT64: "int64", wire.UINT64: "uint64", wire.FLOAT: "float32",
    wire.DOUBLE: "float64", wire.STRING: "text", wire.DATETIME: "datetime", wire.GUID: "guid",
    wire.BYTESTRING: "bytestring", wire.LOCALIZED_TEXT: "text", wire.STATUS_CODE: "uint32",
}  # fmt: skip
PROPERTIES: Final = ("EngineeringUnits", "EURange", "EnumStrings", "EnumValues")
_FORMS: Final = {
    ua.NodeIdType.TwoByte: "i", ua.NodeIdType.FourByte: "i", ua.NodeIdType.Numeric: "i", ua.NodeIdType.String: "s",
    ua.NodeIdType.Guid: "g", ua.NodeIdType.ByteString: "b",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class _Place:
    """A node on the way: where it lies and how it is reached."""

    id: ua.NodeId
    path: tuple[str, ...]
    variable: bool
    properties: dict[str, ua.NodeId] = field(default_factory=dict)  # those of PROPERTIES, by name


def address_of(node: ua.NodeId, namespaces: Sequence[str]) -> str:
    """Write a node id as the address grammar does, with the namespace's URI where it has one."""
    form = _FORMS[node.NodeIdType]
    name = base64.b64encode(node.Identifier).decode() if form == "b" else str(node.Identifier)
    index = node.NamespaceIndex
    if index == 0:
        return f"{form}={name}"
    space = f"nsu={namespaces[index]}" if index < len(namespaces) and ";" not in namespaces[index] else f"ns={index}"
    return f"{space};{form}={name}"


async def browse(
    session: Session, namespaces: Sequence[str], limits: names.Limits, start: str = "", limit: int = 100_000
) -> AsyncIterator[Found]:
    """Give the folders and variables below a node (Objects where none is named). Raises NotConnected, ValueError."""
    root = ua.NodeId(ua.ObjectIds.ObjectsFolder)
    if start:
        (found,) = await names.resolve(session, [parse_node(start)], namespaces, limits.translate)
        if not isinstance(found, ua.NodeId):
            raise ValueError(f"there is no node {start!r} on this server")
        root = found
    seen = {nodeid_to_binary(root)}
    level = [_Place(root, (), False)]
    given = 0
    while level and given < limit:
        below: list[_Place] = []
        for first in range(0, len(level), max(1, min(limits.browse, 100))):
            places = level[first : first + max(1, min(limits.browse, 100))]
            fresh = await _children(session, places, seen, limit - given - len(below))
            below += fresh
        for first in range(0, len(level), 250):
            for one in await _described(
                session, [each for each in level[first : first + 250] if each.path], namespaces
            ):
                if given >= limit:
                    return
                given += 1
                yield one
        level = below


async def _children(session: Session, places: Sequence[_Place], seen: set[bytes], room: int) -> list[_Place]:
    """Fetch what hangs below these nodes and was not seen yet."""
    request = ua.BrowseRequest()
    request.Parameters.RequestedMaxReferencesPerNode = _REFERENCES
    for place in places:
        wanted = ua.BrowseDescription()
        wanted.NodeId = place.id
        wanted.BrowseDirection = ua.BrowseDirection.Forward
        wanted.ReferenceTypeId = ua.NodeId(ua.ObjectIds.HierarchicalReferences)
        wanted.IncludeSubtypes = True
        wanted.NodeClassMask = ua.NodeClass.Object | ua.NodeClass.Variable
        wanted.ResultMask = (
            ua.BrowseResultMask.ReferenceTypeId | ua.BrowseResultMask.NodeClass | ua.BrowseResultMask.BrowseName
        )
        request.Parameters.NodesToBrowse.append(wanted)
    answer = await session.service(request, ua.BrowseResponse, "browsing")
    pending = list(zip(places, answer.Results, strict=True))
    fresh: list[_Place] = []
    while pending:
        more: list[tuple[_Place, bytes]] = []
        for place, result in pending:
            if not place.path and result.StatusCode.value >= BAD:
                raise ValueError(f"cannot browse {place.id.to_string()}: there is no node, or {result.StatusCode.name}")
            for reference in result.References or ():
                _take(place, reference, seen, fresh)
            if result.ContinuationPoint:
                more.append((place, result.ContinuationPoint))
        if not more:
            break
        following = ua.BrowseNextRequest()
        following.Parameters.ReleaseContinuationPoints = len(fresh) >= room
        following.Parameters.ContinuationPoints = [point for _, point in more]
        next_answer = await session.service(following, ua.BrowseNextResponse, "browsing")
        if len(fresh) >= room:
            break
        results = next_answer.Parameters.Results
        pending = [(place, result) for (place, _), result in zip(more, results, strict=True)]
    return fresh[: max(room, 0)]


def _take(place: _Place, reference: ua.ReferenceDescription, seen: set[bytes], fresh: list[_Place]) -> None:
    target = reference.NodeId
    if reference.ReferenceTypeId == _HAS_PROPERTY:
        if reference.BrowseName.Name in PROPERTIES:
            place.properties[reference.BrowseName.Name] = ua.NodeId(
                target.Identifier, target.NamespaceIndex, target.NodeIdType
            )
        return
    identified = ua.NodeId(target.Identifier, target.NamespaceIndex, target.NodeIdType)
    key = nodeid_to_binary(identified)
    if key in seen:
        return
    seen.add(key)
    name = reference.BrowseName.Name or str(identified.Identifier)
    fresh.append(_Place(identified, (*place.path, name), reference.NodeClass == ua.NodeClass.Variable))


async def _described(session: Session, places: Sequence[_Place], namespaces: Sequence[str]) -> list[Found]:
    """Read type, value, access and unit of the variables among these."""
    if not places:
        return []
    asked: list[tuple[ua.NodeId, ua.AttributeIds]] = []
    for place in places:
        if place.variable:
            asked.append((place.id, ua.AttributeIds.Value))
            asked.append((place.id, ua.AttributeIds.DataType))
            asked.append((place.id, ua.AttributeIds.UserAccessLevel))
        asked += [(node, ua.AttributeIds.Value) for node in place.properties.values()]
    answers = iter(await _read(session, asked))
    found = []
    for place in places:
        address = address_of(place.id, namespaces)
        if not place.variable:
            for _ in place.properties:
                next(answers)
            found.append(Found(place.path, address, ""))
            continue
        value, data_type, access = next(answers), next(answers), next(answers)
        said = {name: next(answers) for name in place.properties}
        found.append(
            Found(
                place.path, address, _type(value, data_type), _unit(said.get("EngineeringUnits")), _shown(value),
                _access(access), _range(said.get("EURange")), _states(said),
            )
        )  # fmt: skip
    return found


async def _read(session: Session, asked: Sequence[tuple[ua.NodeId, ua.AttributeIds]]) -> list[ua.DataValue]:
    request = ua.ReadRequest()
    request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=attribute) for node, attribute in asked]
    if not asked:
        return []
    try:
        return list((await session.service(request, ua.ReadResponse, "reading")).Results)
    except Refused:
        if len(asked) < 2:
            return [ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadInternalError))] * len(asked)
        half = len(asked) // 2
        return await _read(session, asked[:half]) + await _read(session, asked[half:])


def _type(value: ua.DataValue, data_type: ua.DataValue) -> str:
    variant = value.Value
    if variant is not None and variant.Value is not None:
        word = _WORDS.get(variant.VariantType.value, "text")
        return f"{word}[{len(variant.Value)}]" if isinstance(variant.Value, list) else word
    node = data_type.Value.Value if data_type.Value is not None else None
    if isinstance(node, ua.NodeId) and node.NamespaceIndex == 0 and isinstance(node.Identifier, int):
        return _WORDS.get(node.Identifier, "float64" if node.Identifier in (26, 27, 28, 29) else "text")
    return "text"


def _unit(value: ua.DataValue | None) -> str:
    if value is None or value.Value is None:
        return ""
    name = getattr(value.Value.Value, "DisplayName", None)
    return (name.Text or "") if isinstance(name, ua.LocalizedText) else ""


def _range(value: ua.DataValue | None) -> tuple[float, float] | None:
    """Give EURange where it is one: many servers leave 0 to 0."""
    found = value.Value.Value if value is not None and value.Value is not None else None
    low, high = getattr(found, "Low", None), getattr(found, "High", None)
    if not isinstance(low, float) or not isinstance(high, float) or not -math.inf < low < high < math.inf:
        return None
    return low, high


def _states(said: dict[str, ua.DataValue]) -> tuple[tuple[int, str], ...]:
    """Give an enumeration's names from EnumValues, else from EnumStrings."""

    def entries(name: str) -> list[Any]:
        answer = said.get(name)
        found = answer.Value.Value if answer is not None and answer.Value is not None else None
        return found if isinstance(found, list) else []

    values_ = [(each.Value, each.DisplayName.Text) for each in entries("EnumValues") if hasattr(each, "DisplayName")]
    strings = [(number, getattr(each, "Text", None)) for number, each in enumerate(entries("EnumStrings"))]
    return tuple((int(number), str(text)) for number, text in values_ or strings if text)


def _shown(value: ua.DataValue) -> str:
    if value.StatusCode is not None and value.StatusCode.value >= BAD:
        return str(value.StatusCode.name)
    return values.plain(value.Value.Value if value.Value is not None else None)[:80]


def _access(value: ua.DataValue) -> str:
    level = value.Value.Value if value.Value is not None else 0
    level = level if isinstance(level, int) else 0
    return ("r" if level & 1 else "") + ("w" if level & 2 else "") + ("h" if level & 4 else "")
