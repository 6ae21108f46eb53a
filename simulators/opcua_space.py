"""The address space of a simulated OPC UA server: every node that a link's tags mention, with the type that they say.

Node ids and browse paths are exactly those of the addresses; namespaces given by URI get the indexes that addresses by
index leave free. Variables hang below Objects/DEVICE/GROUP, or where their path says. EngineeringUnits, EURange and
EnumValues come from the tag's unit, limits and states. Nodes of the standard's own address space (i=2258,
/Objects/Server/...) are the library's and have no signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from asyncua import Node, Server, ua

from gateway.model import Kind, Link, Tag
from simulators.playing import Playing, unscaled
from simulators.signals import TEXTS, TICK, Holds, Signal, fit, holding, played

TYPES: Final = {
    "bool": ua.VariantType.Boolean, "int8": ua.VariantType.SByte, "uint8": ua.VariantType.Byte,
    "int16": ua.VariantType.Int16, "uint16": ua.VariantType.UInt16, "int32": ua.VariantType.Int32,
    "uint32": ua.VariantType.UInt32, "int64": ua.VariantType.Int64, "uint64": ua.VariantType.UInt64,
    "float32": ua.VariantType.Float, "float64": ua.VariantType.Double, "text": ua.VariantType.String,
    "datetime": ua.VariantType.DateTime, "guid": ua.VariantType.Guid, "bytestring": ua.VariantType.ByteString,
}  # fmt: skip
WIRE: Final = {
    "bool": "u1", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4",
    "int64": "<i8", "uint64": "<u8", "float32": "<f4", "float64": "<f8",
}  # fmt: skip
FORMS: Final = {
    "i": ua.NodeIdType.Numeric, "s": ua.NodeIdType.String, "g": ua.NodeIdType.Guid, "b": ua.NodeIdType.ByteString,
}  # fmt: skip
SPECIAL: Final[dict[str, tuple[str, ...]]] = {
    "datetime": ("2024-02-29T00:00:00.0000000Z", "2026-06-30T23:59:58.2500000Z"),
    "guid": ("09087e75-8e5e-499b-954f-f2a9603db28a", "72962b91-fa75-4ae6-8d28-b404dc7daf63"),
    "bytestring": ("", "AAECAw==", "UExBTlQ="),
}


@dataclass(slots=True)
class Variable:
    """A node with a value: of one signal, or an array of them (`rows` by element, -1 where nobody looks)."""

    name: Any  # the driver's NodeName
    type: str
    tag: Tag
    folder: tuple[str, str]
    index: int
    rows: list[int] = field(default_factory=list)
    array: bool = False
    value: Any = None  # asyncua's AttributeValue
    recorded: bool = False  # it shows a recording, and keeps no history

    @property
    def row(self) -> int:
        """The row of its signal where it is one number of a fixed width; -1 for texts and arrays."""
        return self.rows[0] if not self.array and self.type in WIRE else -1


def variables(
    link: Link, tick: int = TICK, playing: Playing | None = None
) -> tuple[list[Variable], list[Signal], dict[tuple[str, str], Signal | None]]:
    """Give the nodes of a link, the signals that their rows count, and the signal (or none) of each tag."""
    arrays = {tag.source.node for _, _, tag in _tags(link) if tag.source.element >= 0}
    found: dict[Any, Variable] = {}
    rows: list[Signal] = []
    shown: dict[tuple[str, str], Signal | None] = {}
    for device, group, tag in _tags(link):
        source = tag.source
        shown[device, tag.name] = None
        if source.field or _standard(source.node) or (source.node in arrays and source.element < 0):
            continue
        node = found.setdefault(source.node, Variable(source.node, tag.type, tag, (device, group), len(found)))
        node.array = source.node in arrays
        if node.type != tag.type:
            continue
        at = max(source.element, 0)
        node.rows += [-1] * (at + 1 - len(node.rows))
        if node.rows[at] < 0:
            node.rows[at] = len(rows)
            texts = SPECIAL.get(tag.type, TEXTS)
            within = Holds(0, 0, text=1000) if tag.kind is Kind.TEXT else holding(tag)
            recorded = _played(device, tag, tick, within, playing) if playing is not None else None
            rows.append(recorded or fit(device, tag, tick, within, texts))
        signal = rows[node.rows[at]]
        node.recorded = node.recorded or signal.track is not None
        shown[device, tag.name] = replace(signal, device=device, tag=tag)
    return list(found.values()), rows, shown


def _played(device: str, tag: Tag, tick: int, within: Holds, playing: Playing) -> Signal | None:
    """Give the signal that shows what was recorded of a tag; None where nothing was."""

    def raw(value: Any) -> float | int:
        number = unscaled(tag, value)
        if within.mantissa:
            with np.errstate(over="ignore"):
                return float(np.float32(float(number)) if tag.type == "float32" else float(number))
        return min(max(round(number), within.low), within.high)

    track = playing.track(device, tag, raw)
    return None if track is None else played(device, tag, tick, track, within)


def signals(link: Link, tick: int = TICK, playing: Playing | None = None) -> dict[tuple[str, str], Signal | None]:
    """Give the signal behind each (device, tag); None where there is none to compare with."""
    return variables(link, tick, playing)[2]


def _tags(link: Link) -> list[tuple[str, str, Tag]]:
    return [
        (device.name, group.name, tag)
        for device in link.devices
        for group in device.groups
        for table in group.tables
        for tag in table.tags
    ]


def _standard(node: Any) -> bool:
    if node.form == "event":
        return True  # the simulator has no events
    if node.form == "/":
        return bool(node.name[:2] == ((0, "Objects"), (0, "Server")))
    return bool(node.namespace == 0 and node.form == "i")


class Space:
    """Builds the nodes of a server. `before` namespaces come before the tags' own, and so move their indexes."""

    def __init__(self, server: Server, variables: Sequence[Variable], before: int) -> None:
        self._server = server
        self._variables = variables
        self._before = before
        self._uris: list[str] = []
        self._nodes: dict[tuple[Any, ...], Node] = {}

    async def build(self, value_of: Callable[[Variable], Any], read: Callable[[Variable], ua.DataValue]) -> list[Any]:
        """Make all nodes; give their ids. `read` is asked for the value of each from then on."""
        await self._register_namespaces()
        return [await self._add(variable, value_of(variable), read) for variable in self._variables]

    async def _register_namespaces(self) -> None:
        """Let indexes up to the highest mentioned one exist, URIs in the places that no index takes."""
        uris: dict[str, None] = {}
        indexes: set[int] = set()
        for variable in self._variables:
            parts = variable.name.name if variable.name.form == "/" else ((variable.name.namespace, ""),)
            for namespace, _ in parts:
                if isinstance(namespace, str):
                    uris[namespace] = None
                else:
                    indexes.add(namespace)
        known = await self._server.get_namespace_array()
        waiting = [f"urn:plantbridge:before:{number}" for number in range(self._before)]
        waiting += [uri for uri in uris if uri not in known]
        index = 2
        while waiting or index <= max(indexes, default=0):
            taken = index in indexes or not waiting
            await self._server.register_namespace(f"urn:plantbridge:{index}" if taken else waiting.pop(0))
            index += 1
        self._uris = await self._server.get_namespace_array()

    def _index(self, namespace: int | str) -> int:
        return namespace if isinstance(namespace, int) else self._uris.index(namespace)

    async def _add(self, variable: Variable, value: Any, read: Callable[[Variable], ua.DataValue]) -> ua.NodeId:
        """Make the node and let its value be asked from `read`."""
        parent, node_id, name = await self._place(variable)
        tag = variable.tag
        # asyncua compares each new node with all references of its parent: minutes for 10,000 nodes in one folder
        data = self._server.iserver.aspace[parent.nodeid]
        known, data.references = data.references, []
        try:
            node = await parent.add_variable(node_id, name, value, TYPES[variable.type])
        finally:
            known.extend(data.references)
            data.references = known
        if tag.writable:
            await node.set_writable()
        elif variable.row >= 0 and not variable.recorded:
            await node.write_attribute(ua.AttributeIds.Historizing, ua.DataValue(True))
            for attribute in (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel):
                await node.set_attr_bit(attribute, ua.AccessLevel.HistoryRead)
        if tag.unit:
            await node.add_property(0, "EngineeringUnits", _unit(tag.unit))
        if tag.scale == 1 and tag.offset == 0 and not (math.isinf(tag.minimum) or math.isinf(tag.maximum)):
            await node.add_property(0, "EURange", ua.Range(Low=float(tag.minimum), High=float(tag.maximum)))
        if tag.states:
            states = [ua.EnumValueType(number, ua.LocalizedText(text)) for number, text in tag.states]
            await node.add_property(0, "EnumValues", states)
        variable.value = self._server.iserver.aspace[node.nodeid].attributes[ua.AttributeIds.Value]
        variable.value.value_callback = lambda _node, _attribute: read(variable)
        return node.nodeid

    async def _place(self, variable: Variable) -> tuple[Node, ua.NodeId, ua.QualifiedName]:
        """Give a node's parent, id and browse name."""
        wanted = variable.name
        if wanted.form == "/":
            parent = self._server.nodes.root
            for depth in range(1, len(wanted.name)):
                parent = await self._folder(parent, wanted.name[:depth])
            namespace, name = wanted.name[-1]
            node_id = ua.NodeId("/".join(part for _, part in wanted.name), max(self._index(namespace), 1))
            return parent, node_id, ua.QualifiedName(name, self._index(namespace))
        parent = self._server.nodes.objects
        path: tuple[tuple[int, str], ...] = ((0, "Objects"),)
        for name in variable.folder:
            path = (*path, (1, name))
            parent = await self._folder(parent, path)
        namespace = self._index(wanted.namespace)
        identifier = wanted.name
        node_id = ua.NodeId(identifier, namespace, FORMS[wanted.form])
        return parent, node_id, ua.QualifiedName(variable.tag.name.partition("[")[0], namespace)

    async def _folder(self, parent: Node, path: tuple[tuple[int | str, str], ...]) -> Node:
        """Give the object at this path, made where it is not there."""
        if path not in self._nodes:
            namespace, name = path[-1]
            index = self._index(namespace)
            try:
                self._nodes[path] = await parent.get_child([f"{index}:{name}"])
            except ua.UaStatusCodeError:
                node_id = ua.NodeId("/".join(part for _, part in path), max(index, 1))
                self._nodes[path] = await parent.add_folder(node_id, ua.QualifiedName(name, index))
        return self._nodes[path]


def _unit(name: str) -> ua.EUInformation:
    return ua.EUInformation(
        NamespaceUri="http://www.opcfoundation.org/UA/units/un/cefact", UnitId=-1,
        DisplayName=ua.LocalizedText(name), Description=ua.LocalizedText(name),
    )  # fmt: skip
