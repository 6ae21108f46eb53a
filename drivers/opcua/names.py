"""What nodes are called today: namespace URIs to indexes, browse paths to node ids, and the server's limits.

All of it is asked anew at each connect: a server may come back with other namespace indexes, other node ids behind the
same path, other limits. What cannot be found is a status for that node and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from drivers.opcua.address import Namespace, NodeName
from drivers.opcua.plan import CHUNK
from drivers.opcua.session import Refused, Session
from gateway import quality as q
from gateway.errors import NoAnswer, ProtocolError

_FORMS: Final = {
    "i": ua.NodeIdType.Numeric, "s": ua.NodeIdType.String, "g": ua.NodeIdType.Guid, "b": ua.NodeIdType.ByteString,
}  # fmt: skip
NO_MATCH: Final = int(ua.StatusCodes.BadNoMatch)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the server takes in one request; CHUNK where it does not say."""

    read: int = CHUNK
    write: int = CHUNK
    browse: int = CHUNK
    translate: int = CHUNK
    monitor: int = CHUNK
    history: int = CHUNK


_LIMITS: Final = (
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
)


async def read_namespaces(session: Session) -> list[str]:
    """Ask for the namespace array. Raises NotConnected, Refused."""
    found = await session.call(
        session.client.uaclient.read_attributes([ua.NodeId(ua.ObjectIds.Server_NamespaceArray)], ua.AttributeIds.Value),
        "reading the namespace array",
    )
    value = found[0].Value.Value if found and found[0].Value is not None else None
    return [str(uri) for uri in value] if isinstance(value, list) else []


async def read_start(session: Session) -> str:
    """Ask since when the server runs; nothing where it does not say. Raises NotConnected."""
    node = ua.NodeId(ua.ObjectIds.Server_ServerStatus_StartTime)
    try:
        (found,) = await session.call(
            session.client.uaclient.read_attributes([node], ua.AttributeIds.Value), "reading the server's start time"
        )
    except Refused:
        return ""
    return "" if found.Value is None or found.Value.Value is None else str(found.Value.Value)


async def read_limits(session: Session) -> Limits:
    """Ask for the server's operation limits. Raises NotConnected."""
    nodes = [ua.NodeId(number) for number in _LIMITS]
    try:
        found = await session.call(
            session.client.uaclient.read_attributes(nodes, ua.AttributeIds.Value), "reading the server's limits"
        )
    except Refused:
        return Limits()
    sizes = [value.Value.Value if value.Value is not None else None for value in found]
    return Limits(*(size if isinstance(size, int) and 0 < size < CHUNK else CHUNK for size in sizes))


async def read_structures(session: Session, timeout: float) -> None:
    """Load the server's own structures and enumerations, so that their fields can be told apart. Raises NotConnected.

    What a server does not describe stays undecoded; its tags say so.
    """
    with contextlib.suppress(NoAnswer, ProtocolError):
        await session.call(session.client.load_data_type_definitions(), "reading type definitions", timeout)


def local(node: ua.ExpandedNodeId) -> ua.NodeId:
    """Give the node id of a node of this server that a reference or a path leads to."""
    return ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)


def index_of(namespace: Namespace, namespaces: Sequence[str]) -> int | None:
    """Give a namespace's index on this server; None where it is not there."""
    if isinstance(namespace, int):
        return namespace
    return namespaces.index(namespace) if namespace in namespaces else None


def node_id(node: NodeName, namespaces: Sequence[str]) -> ua.NodeId | None:
    """Give the node id of a node that is named by one; None where its namespace is not on this server."""
    index = index_of(node.namespace, namespaces)
    if index is None:
        return None
    return ua.NodeId(node.name, index, _FORMS[node.form])


def _browse_path(node: NodeName, namespaces: Sequence[str]) -> ua.BrowsePath | None:
    path = ua.BrowsePath(StartingNode=ua.NodeId(ua.ObjectIds.RootFolder))
    assert isinstance(node.name, tuple)
    for namespace, name in node.name:
        index = index_of(namespace, namespaces)
        if index is None:
            return None
        element = ua.RelativePathElement(
            ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
            IsInverse=False,
            IncludeSubtypes=True,
            TargetName=ua.QualifiedName(name, index),
        )
        path.RelativePath.Elements.append(element)
    return path


async def resolve(
    session: Session, nodes: Sequence[NodeName], namespaces: Sequence[str], chunk: int
) -> list[ua.NodeId | int]:
    """Give for each node its node id on this server, or the Bad status that says why it has none."""
    found: list[ua.NodeId | int] = [q.BAD_NODE_ID_UNKNOWN] * len(nodes)
    paths: list[tuple[int, ua.BrowsePath]] = []
    for row, node in enumerate(nodes):
        if node.form == "/":
            path = _browse_path(node, namespaces)
            if path is not None:
                paths.append((row, path))
        elif (identified := node_id(node, namespaces)) is not None:
            found[row] = identified
    for first in range(0, len(paths), chunk):
        some = paths[first : first + chunk]
        results = await session.call(
            session.client.uaclient.translate_browsepaths_to_nodeids([path for _, path in some]),
            "looking up browse paths",
        )
        for (row, _), result in zip(some, results, strict=True):
            target = result.Targets[0].TargetId if result.Targets else None
            if result.StatusCode.is_good() and target is not None:
                found[row] = local(target)
            else:
                found[row] = int(result.StatusCode.value) or NO_MATCH
    return found
