"""An OPC UA server for one link of a site: every node that its tags mention, with the type that they say.

Node ids and browse paths are exactly those of the addresses; namespaces given by URI get the indexes that addresses by
index leave free. Variables hang below Objects/DEVICE/GROUP, or where their path says; units are EngineeringUnits.
Nodes of the standard's own address space (i=2258, /Objects/Server/...) are the library's and have no signal.

A value's source time is the beginning of its tick: a device that stamps each of its cycles, changed or not. Reads are
answered with the value of that moment; subscriptions get what changed at each tick. A value that was written stays.
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from asyncua import Node, Server, ua

from gateway.model import Kind, Link, Tag
from simulators.signals import TEXTS, TICK, Bank, Holds, Signal, fit

TYPES: Final = {
    "bool": ua.VariantType.Boolean, "int8": ua.VariantType.SByte, "uint8": ua.VariantType.Byte,
    "int16": ua.VariantType.Int16, "uint16": ua.VariantType.UInt16, "int32": ua.VariantType.Int32,
    "uint32": ua.VariantType.UInt32, "int64": ua.VariantType.Int64, "uint64": ua.VariantType.UInt64,
    "float32": ua.VariantType.Float, "float64": ua.VariantType.Double, "text": ua.VariantType.String,
    "datetime": ua.VariantType.DateTime, "guid": ua.VariantType.Guid, "bytestring": ua.VariantType.ByteString,
}  # fmt: skip
FORMS: Final = {
    "i": ua.NodeIdType.Numeric, "s": ua.NodeIdType.String, "g": ua.NodeIdType.Guid, "b": ua.NodeIdType.ByteString,
}  # fmt: skip
SPECIAL: Final[dict[str, tuple[str, ...]]] = {
    "datetime": ("2024-02-29T00:00:00.0000000Z", "2026-06-30T23:59:58.2500000Z"),
    "guid": ("09087e75-8e5e-499b-954f-f2a9603db28a", "72962b91-fa75-4ae6-8d28-b404dc7daf63"),
    "bytestring": ("", "AAECAw==", "UExBTlQ="),
}
NAMESPACE: Final = "urn:plantbridge:simulator"


@dataclass(slots=True)
class Variable:
    """A node with a value: of one signal, or an array of them (`rows` by element, -1 where nobody looks)."""

    name: Any  # the driver's NodeName
    type: str
    tag: Tag
    folder: tuple[str, str]
    rows: list[int] = field(default_factory=list)
    array: bool = False
    status: int = 0
    value: Any = None  # asyncua's AttributeValue
    pushed: tuple[int, ...] = ()


def variables(
    link: Link, tick: int = TICK
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
        node = found.setdefault(source.node, Variable(source.node, tag.type, tag, (device, group)))
        node.array = source.node in arrays
        if node.type != tag.type:
            continue
        at = max(source.element, 0)
        node.rows += [-1] * (at + 1 - len(node.rows))
        if node.rows[at] < 0:
            node.rows[at] = len(rows)
            texts = SPECIAL.get(tag.type, TEXTS)
            rows.append(fit(device, tag, tick, Holds(0, 0, text=1000) if tag.kind is Kind.TEXT else None, texts))
        shown[device, tag.name] = replace(rows[node.rows[at]], device=device, tag=tag)
    return list(found.values()), rows, shown


def signals(link: Link, tick: int = TICK) -> dict[tuple[str, str], Signal | None]:
    """Give the signal behind each (device, tag); None where there is none to compare with."""
    return variables(link, tick)[2]


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


class OpcuaServer:
    """The server of one link. `start` builds and listens; `async with` closes it."""

    def __init__(self, link: Link, *, tick: int = TICK, clock: Callable[[], int] = time.time_ns) -> None:
        self.variables, rows, self.signals = variables(link, tick)
        self.tick = tick
        self.port = 0
        self.server = Server()
        self._bank = Bank(rows)
        self._clock = clock
        self._now = -1
        self._at = 0  # ns, when the values were looked at
        self._counts: list[int] = []
        self._numbers: list[int] = []
        self._floats: list[float] = []
        self._stamp = datetime.now(UTC)
        self._nodes: dict[tuple[int, ...] | tuple[Any, ...], Node] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, path: str = "") -> int:
        """Build the address space and listen; give the port."""
        server = self.server
        await server.init()
        server.set_endpoint(f"opc.tcp://{host}:{port}{path}")
        server.set_server_name("PlantBridge simulator")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        await server.set_application_uri(NAMESPACE)
        await self._register_namespaces()
        self._refresh()
        for index, variable in enumerate(self.variables):
            await self._add(index, variable)
        _hand_over_wholly(server)
        await server.start()
        listening = server.bserver._server
        self.port = listening.sockets[0].getsockname()[1]
        self._task = asyncio.create_task(self._push())
        return self.port

    async def close(self) -> None:
        """Stop, and cut what is connected."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.server.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def spoil(self, node: str, status: int) -> None:
        """Give a node (as its address says it) another status than Good; 0 heals it."""
        for variable in self.variables:
            if str(variable.name) == node:
                variable.status = status
                variable.pushed = ()
                return
        raise KeyError(node)

    # ------------------------------------------------------------------------------------------- building

    async def _register_namespaces(self) -> None:
        """Let indexes up to the highest mentioned one exist, URIs in the places that no index takes."""
        uris: dict[str, None] = {}
        indexes: set[int] = set()
        for variable in self.variables:
            parts = variable.name.name if variable.name.form == "/" else ((variable.name.namespace, ""),)
            for namespace, _ in parts:
                if isinstance(namespace, str):
                    uris[namespace] = None
                else:
                    indexes.add(namespace)
        waiting = [uri for uri in uris if uri not in await self.server.get_namespace_array()]
        index = 2
        while waiting or index <= max(indexes, default=0):
            taken = index in indexes or not waiting
            await self.server.register_namespace(f"urn:plantbridge:{index}" if taken else waiting.pop(0))
            index += 1
        self._uris = await self.server.get_namespace_array()

    def _index(self, namespace: int | str) -> int:
        return namespace if isinstance(namespace, int) else self._uris.index(namespace)

    async def _add(self, index: int, variable: Variable) -> None:
        """Make the node and let its value be asked from `_read`."""
        parent, node_id, name = await self._place(variable)
        kind = TYPES[variable.type]
        # asyncua compares each new node with all references of its parent: minutes for 10,000 nodes in one folder
        data = self.server.iserver.aspace[parent.nodeid]
        known, data.references = data.references, []
        try:
            node = await parent.add_variable(node_id, name, self._value(variable), kind)
        finally:
            known.extend(data.references)
            data.references = known
        if variable.tag.writable:
            await node.set_writable()
        if variable.tag.unit:
            unit = ua.EUInformation(
                NamespaceUri="http://www.opcfoundation.org/UA/units/un/cefact",
                UnitId=-1,
                DisplayName=ua.LocalizedText(variable.tag.unit),
                Description=ua.LocalizedText(variable.tag.unit),
            )
            await node.add_property(0, "EngineeringUnits", unit)
        value = self.server.iserver.aspace[node.nodeid].attributes[ua.AttributeIds.Value]
        value.value_callback = lambda _node, _attribute: self._read(variable)
        variable.value = value

    async def _place(self, variable: Variable) -> tuple[Node, ua.NodeId, ua.QualifiedName]:
        """Give a node's parent, id and browse name."""
        wanted = variable.name
        if wanted.form == "/":
            parent = self.server.nodes.root
            for depth in range(1, len(wanted.name)):
                parent = await self._folder(parent, wanted.name[:depth])
            namespace, name = wanted.name[-1]
            node_id = ua.NodeId("/".join(part for _, part in wanted.name), max(self._index(namespace), 1))
            return parent, node_id, ua.QualifiedName(name, self._index(namespace))
        parent = self.server.nodes.objects
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

    # -------------------------------------------------------------------------------------------- showing

    def _refresh(self) -> None:
        now = self._at = self._clock()
        if now // self.tick == self._now:
            return
        self._now = now // self.tick
        counts = self._bank.count(now)
        numbers = self._bank.number(counts)
        self._counts = counts.tolist()
        self._numbers = numbers.tolist()
        self._floats = (numbers.view("int64") * self._bank.quantum).tolist()
        self._stamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._now * self.tick // 1000)

    def _read(self, variable: Variable) -> ua.DataValue:
        self._refresh()
        return ua.DataValue(
            ua.Variant(self._value(variable), TYPES[variable.type], is_array=variable.array),
            ua.StatusCode(variable.status),
            SourceTimestamp=self._stamp,
            ServerTimestamp=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._at // 1000),
        )

    def _value(self, variable: Variable) -> Any:
        values = [self._element(variable.type, row) for row in variable.rows]
        return values if variable.array else values[0]

    def _element(self, type_: str, row: int) -> Any:
        if type_.startswith("float"):
            return self._floats[row] if row >= 0 else 0.0
        if type_ == "bool":
            return row >= 0 and bool(self._numbers[row])
        if type_ in ("text", *SPECIAL):
            table = self._bank.signals[row].table if row >= 0 else ("",)
            return _special(type_, str(table[self._counts[row]] if row >= 0 else ""))
        number = self._numbers[row] if row >= 0 else 0
        return number - 2**64 if type_.startswith("int") and number >= 2**63 else number

    async def _push(self) -> None:
        """Tell subscriptions, at each tick, what changed."""
        while True:
            await asyncio.sleep((self.tick - self._clock() % self.tick) / 1e9)
            self._refresh()
            for variable in self.variables:
                callbacks = variable.value.datachange_callbacks
                if not callbacks or variable.value.value_callback is None:
                    continue
                shown = tuple(self._counts[row] for row in variable.rows if row >= 0)
                if shown != variable.pushed:
                    variable.pushed = shown
                    value = self._read(variable)
                    for handle, callback in list(callbacks.items()):
                        await callback(handle, value)


def _hand_over_wholly(server: Server) -> None:
    """Let TransferSubscriptions take the new session's Publish requests too: asyncua 2.1.0 stays with the old ones."""
    service = server.iserver.subscription_service
    transfer = service.transfer_subscriptions

    async def transfer_wholly(params: Any, session_id: Any, callback: Any) -> Any:
        results = await transfer(params, session_id, callback)
        for number in params.SubscriptionIds:
            if int(number) in service.subscriptions:
                service.subscriptions[int(number)].pub_request_callback = callback.__self__.get_publish_request
        return results

    service.transfer_subscriptions = transfer_wholly


def _special(type_: str, text: str) -> Any:
    """Turn a text into the value of its type that the text stands for."""
    if type_ == "datetime":
        return datetime.fromisoformat(text) if text else datetime(1970, 1, 1, tzinfo=UTC)
    if type_ == "guid":
        return uuid.UUID(text or SPECIAL["guid"][0])
    return base64.b64decode(text) if type_ == "bytestring" else text
