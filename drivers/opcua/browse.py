"""Looking around in an address space: variables with type, unit, value and access, breadth first, bounded.

A node is visited once, whatever loops lead back to it; a folder's references are fetched in the server's own portions;
the whole ends at a limit. Properties are looked at for units, ranges and enumerations only. Addresses are given with
the namespace's URI, so that they outlive the server's numbering.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from drivers.opcua import described, names, values
from drivers.opcua.address import parse_node
from drivers.opcua.session import Session
from gateway.contracts import Found
from gateway.quality import BAD

_REFERENCES: Final = 500  # asked for per node at once; the rest comes by BrowseNext
_ALL: Final = 1_000_000
_NO_POINTS: Final = int(ua.StatusCodes.BadNoContinuationPoints)
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
    properties: dict[str, ua.NodeId] = field(default_factory=dict)  # those of described.PROPERTIES, by name


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
    enumerations = described.Enumerations()
    while level and given < limit:
        below: list[_Place] = []
        size = min(limits.browse, 100)
        for first in range(0, len(level), size):
            below += await _children(session, level[first : first + size], seen, limit - given - len(below))
        for first in range(0, len(level), 250):
            some = [each for each in level[first : first + 250] if each.path]
            for one in await _described(session, some, namespaces, limits, enumerations):
                if given >= limit:
                    return
                given += 1
                yield one
        level = below


async def _children(
    session: Session, places: Sequence[_Place], seen: set[bytes], room: int, most: int = 0
) -> list[_Place]:
    """Fetch what hangs below these nodes and was not seen yet.

    A server has few continuation points: nodes that it has none left for are asked for again, one after the other.
    """
    request = ua.BrowseRequest()
    request.Parameters.RequestedMaxReferencesPerNode = most or _REFERENCES
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
    again = [place for place, result in pending if result.StatusCode.value == _NO_POINTS]
    while pending:
        more: list[tuple[_Place, bytes]] = []
        for place, result in pending:
            if not place.path and result.StatusCode.value >= BAD and place not in again:
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
    for place in again if most != _ALL else ():
        if len(fresh) < room:
            alone = _ALL if len(places) == 1 else 0
            fresh += await _children(session, [place], seen, room - len(fresh), alone)
    return fresh[: max(room, 0)]


def _take(place: _Place, reference: ua.ReferenceDescription, seen: set[bytes], fresh: list[_Place]) -> None:
    identified = names.local(reference.NodeId)
    if reference.ReferenceTypeId == described.HAS_PROPERTY:
        if reference.BrowseName.Name in described.PROPERTIES:
            place.properties[reference.BrowseName.Name] = identified
        return
    key = nodeid_to_binary(identified)
    if key in seen:
        return
    seen.add(key)
    name = reference.BrowseName.Name or str(identified.Identifier)
    fresh.append(_Place(identified, (*place.path, name), reference.NodeClass == ua.NodeClass.Variable))


async def _described(
    session: Session,
    places: Sequence[_Place],
    namespaces: Sequence[str],
    limits: names.Limits,
    enumerations: described.Enumerations,
) -> list[Found]:
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
    answers = iter(await described.read(session, asked, limits))
    said: list[tuple[ua.DataValue, ua.DataValue, ua.DataValue, dict[str, ua.DataValue]]] = []
    nothing = ua.DataValue()
    for place in places:
        own = (next(answers), next(answers), next(answers)) if place.variable else (nothing, nothing, nothing)
        said.append((*own, {name: next(answers) for name in place.properties}))
    types = [described.is_own(data_type, value) for value, data_type, _, _ in said]
    await enumerations.learn(session, [each for each in types if each is not None], limits)
    found = []
    for place, (value, data_type, access, more) in zip(places, said, strict=True):
        address = address_of(place.id, namespaces)
        if not place.variable:
            found.append(Found(place.path, address, ""))
            continue
        it = described.description(value, data_type, more, enumerations)
        found.append(Found(place.path, address, it.type, it.unit, _shown(value), _access(access), it.range, it.states))
    return found


def _shown(value: ua.DataValue) -> str:
    if value.StatusCode is not None and value.StatusCode.value >= BAD:
        return str(value.StatusCode.name)
    return values.plain(described.content(value))[:80]


def _access(value: ua.DataValue) -> str:
    level = described.content(value)
    if not isinstance(level, int):
        return ""
    return ("r" if level & 1 else "") + ("w" if level & 2 else "") + ("h" if level & 4 else "")
