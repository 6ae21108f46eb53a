"""What a server says of a variable: its type, unit (EngineeringUnits), range (EURange) and the names of its states.

States are those of the variable (EnumValues, else EnumStrings: Part 8, 5.3.3), else those of its DataType: its
EnumDefinition, else its EnumValues, else its EnumStrings (Part 3, 5.8.3). Only an Int32 is an enumeration: the names of
an OptionSet are those of bits. It enters by browsing or by `plan --online --write`; `differences` says where the file
and the server do not agree. Two things are taken at run time: unit and range of the tags that the file leaves open
(`open_nodes`, `said`; ADR 022), and the text of a text tag: the names of its enumeration, learned at each connect
(`learn_names`), are values and no part of a definition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from drivers.opcua import wire
from drivers.opcua.names import Limits, local
from drivers.opcua.plan import OpcuaPlan
from drivers.opcua.session import Refused, Session, status_name
from drivers.opcua.values import HELD
from gateway import quality as q
from gateway.contracts import Differs, Said
from gateway.model import Kind, Tag

HAS_PROPERTY: Final = ua.NodeId(ua.ObjectIds.HasProperty)
PROPERTIES: Final = ("EngineeringUnits", "EURange", "EnumStrings", "EnumValues")
_NUMBERS: Final = ("EngineeringUnits", "EURange")
WORDS: Final[dict[int, str]] = {
    wire.BOOLEAN: "bool", wire.SBYTE: "int8", wire.BYTE: "uint8", wire.INT16: "int16", wire.UINT16: "uint16",
    wire.INT32: "int32", wire.UINT32: "uint32", wire.INT64: "int64", wire.UINT64: "uint64", wire.FLOAT: "float32",
    wire.DOUBLE: "float64", wire.STRING: "text", wire.DATETIME: "datetime", wire.GUID: "guid",
    wire.BYTESTRING: "bytestring", wire.LOCALIZED_TEXT: "text", wire.STATUS_CODE: "uint32",
}  # fmt: skip
_ABSTRACT: Final = (26, 27, 28, 29)  # Number, Integer, UInteger, Enumeration
_NO_NUMBERS: Final = (1, *range(10, 24))  # Boolean, Float to StructureDefinition: the standard's types without states
States = tuple[tuple[int, str], ...]


@dataclass(slots=True)
class Description:
    """What a server says of one variable; `status` is Bad where it says nothing."""

    type: str = ""
    built_in: int = 0  # the value's type as in decode.Columns; 0 where there is no value at hand
    unit: str = ""
    range: tuple[float, float] | None = None
    states: States = ()
    status: int = 0


@dataclass(slots=True)
class Enumerations:
    """The states of the data types of one server, asked for once each."""

    known: dict[bytes, States] = field(default_factory=dict)

    async def learn(self, session: Session, types: Sequence[ua.NodeId], limits: Limits) -> None:
        """Ask for data types that are not known yet. Raises NotConnected."""
        new = {nodeid_to_binary(each): each for each in types}
        new = {key: node for key, node in new.items() if key not in self.known}
        nodes = list(new.values())
        found = await properties(session, nodes, limits)
        asked = [(node, ua.AttributeIds.DataTypeDefinition) for node in nodes]
        asked += [(node, ua.AttributeIds.Value) for each in found for node in each.values()]
        answers = await read(session, asked, limits)
        rest = iter(answers[len(nodes) :])
        for key, definition, each in zip(new, answers, found, strict=False):
            said = {name: next(rest) for name in each}
            self.known[key] = _defined(definition) or states_of(said)

    def of(self, data_type: ua.DataValue, value: ua.DataValue) -> States:
        """Give the states of a variable by its DataType; none where its value is no Int32."""
        node = is_own(data_type, value)
        return () if node is None else self.known.get(nodeid_to_binary(node), ())


def is_own(data_type: ua.DataValue, value: ua.DataValue) -> ua.NodeId | None:
    """Give the DataType of a variable that may be an enumeration."""
    node, variant = content(data_type), value.Value
    if not isinstance(node, ua.NodeId) or (variant is not None and variant.VariantType != ua.VariantType.Int32):
        return None
    return None if node.NamespaceIndex == 0 and node.Identifier in range(1, 30) else node


def content(value: ua.DataValue | None) -> Any:
    """Give what a DataValue holds; None where it holds nothing."""
    return value.Value.Value if value is not None and value.Value is not None else None


def type_word(value: ua.DataValue, data_type: ua.DataValue) -> str:
    """Give the address grammar's word for a variable's type, with [n] behind it for an array."""
    variant = value.Value
    if variant is not None and variant.Value is not None:
        word = WORDS.get(variant.VariantType.value, "text")
        return f"{word}[{len(variant.Value)}]" if isinstance(variant.Value, list) else word
    node = content(data_type)
    if isinstance(node, ua.NodeId) and node.NamespaceIndex == 0 and isinstance(node.Identifier, int):
        return WORDS.get(node.Identifier, "float64" if node.Identifier in _ABSTRACT else "text")
    return "text"


def unit_of(value: ua.DataValue | None) -> str:
    """Give the display name of EngineeringUnits."""
    name = getattr(content(value), "DisplayName", None)
    return (name.Text or "") if isinstance(name, ua.LocalizedText) else ""


def range_of(value: ua.DataValue | None) -> tuple[float, float] | None:
    """Give EURange where it is one: many servers leave 0 to 0."""
    found = content(value)
    low, high = getattr(found, "Low", None), getattr(found, "High", None)
    if not isinstance(low, float) or not isinstance(high, float) or not -math.inf < low < high < math.inf:
        return None
    return low, high


def states_of(said: dict[str, ua.DataValue]) -> States:
    """Give an enumeration's names from EnumValues, else from EnumStrings."""

    def entries(name: str) -> list[Any]:
        found = content(said.get(name))
        return found if isinstance(found, list) else []

    values = [(each.Value, each.DisplayName.Text) for each in entries("EnumValues") if hasattr(each, "DisplayName")]
    strings = [(number, getattr(each, "Text", None)) for number, each in enumerate(entries("EnumStrings"))]
    return tuple((int(number), str(text)) for number, text in values or strings if text)


def _defined(definition: ua.DataValue) -> States:
    found = content(definition)
    if not isinstance(found, ua.EnumDefinition):
        return ()
    named = ((each.Value, (each.DisplayName.Text if each.DisplayName else None) or each.Name) for each in found.Fields)
    return tuple((int(number), str(text)) for number, text in named if text)


async def read(
    session: Session, asked: Sequence[tuple[ua.NodeId, ua.AttributeIds]], limits: Limits
) -> list[ua.DataValue]:
    """Read attributes, in requests of the server's size, smaller ones where it refuses. Raises NotConnected."""
    answers: list[ua.DataValue] = []
    for first in range(0, len(asked), limits.read):
        answers += await _read(session, asked[first : first + limits.read])
    return answers


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


async def properties(session: Session, nodes: Sequence[ua.NodeId], limits: Limits) -> list[dict[str, ua.NodeId]]:
    """Give each node's properties of PROPERTIES, by name. Raises NotConnected."""
    found: list[dict[str, ua.NodeId]] = []
    for first in range(0, len(nodes), limits.browse):
        request = ua.BrowseRequest()
        for node in nodes[first : first + limits.browse]:
            wanted = ua.BrowseDescription()
            wanted.NodeId = node
            wanted.BrowseDirection = ua.BrowseDirection.Forward
            wanted.ReferenceTypeId = HAS_PROPERTY
            wanted.IncludeSubtypes = False
            wanted.NodeClassMask = ua.NodeClass.Variable
            wanted.ResultMask = ua.BrowseResultMask.BrowseName
            request.Parameters.NodesToBrowse.append(wanted)
        try:
            results = (await session.service(request, ua.BrowseResponse, "browsing")).Results
        except Refused:
            results = [ua.BrowseResult() for _ in request.Parameters.NodesToBrowse]
        found += [_by_name(result) for result in results]
    return found


def _by_name(result: ua.BrowseResult) -> dict[str, ua.NodeId]:
    there = ((each.BrowseName.Name, each.NodeId) for each in result.References or ())
    return {name: local(node) for name, node in there if name in PROPERTIES}


async def describe(session: Session, nodes: Sequence[ua.NodeId], limits: Limits) -> list[Description]:
    """Ask what the server says of variables. Raises NotConnected."""
    found = await properties(session, nodes, limits)
    asked = [(node, attribute) for node in nodes for attribute in (ua.AttributeIds.Value, ua.AttributeIds.DataType)]
    asked += [(node, ua.AttributeIds.Value) for each in found for node in each.values()]
    answers = await read(session, asked, limits)
    values, types, rest = (
        answers[: 2 * len(nodes) : 2],
        answers[1 : 2 * len(nodes) : 2],
        iter(answers[2 * len(nodes) :]),
    )
    enumerations = Enumerations()
    own = [is_own(data_type, value) for data_type, value in zip(types, values, strict=True)]
    await enumerations.learn(session, [each for each in own if each is not None], limits)
    described = []
    for value, data_type, each in zip(values, types, found, strict=True):
        said = {name: next(rest) for name in each}
        described.append(description(value, data_type, said, enumerations))
    return described


async def describe_numbers(session: Session, nodes: Sequence[ua.NodeId], limits: Limits) -> list[Description]:
    """Ask for units and ranges alone. Raises NotConnected."""
    described: list[Description] = []
    for first in range(0, len(nodes), limits.browse):  # in portions: the answers are large beside what is kept of them
        found = await properties(session, nodes[first : first + limits.browse], limits)
        wanted = [{name: node for name, node in each.items() if name in _NUMBERS} for each in found]
        asked = [(node, ua.AttributeIds.Value) for each in wanted for node in each.values()]
        answers = iter(await read(session, asked, limits))
        for each in wanted:
            about = {name: next(answers) for name in each}
            unit, limit = unit_of(about.get("EngineeringUnits")), range_of(about.get("EURange"))
            described.append(Description(unit=unit, range=limit))
    return described


def description(
    value: ua.DataValue, data_type: ua.DataValue, said: dict[str, ua.DataValue], enumerations: Enumerations
) -> Description:
    """Put together what a variable's attributes and its properties say."""
    states = states_of(said) or enumerations.of(data_type, value)
    variant = value.Value
    made = Description(
        "int32" if states and content(value) is None else type_word(value, data_type),
        0, unit_of(said.get("EngineeringUnits")), range_of(said.get("EURange")), states,
    )  # fmt: skip
    if variant is not None and variant.Value is not None:
        made.built_in = variant.VariantType.value | (wire.ARRAY if isinstance(variant.Value, list) else 0)
    if content(data_type) is None:
        made.status = int(data_type.StatusCode.value) if data_type.StatusCode is not None else 0
    return made


async def learn_names(session: Session, plan: OpcuaPlan, found: Sequence[ua.NodeId | int], limits: Limits) -> None:
    """Learn the names of the states that the plan's text tags show; `found` are its nodes. Raises NotConnected.

    Nodes whose DataType has none, such as String, cost one attribute. A field of a structure stays a number.
    """
    texts = [
        (part, tag, node)
        for part in plan.parts
        if part.table.kind is Kind.TEXT
        for tag, node in enumerate(part.node.tolist())
        if not part.field[tag]
    ]
    there = {node: each for _, _, node in texts if isinstance(each := found[node], ua.NodeId)}
    types = await read(session, [(each, ua.AttributeIds.DataType) for each in there.values()], limits)
    wanted = [node for node, data_type in zip(there, types, strict=True) if _may_have_states(data_type)]
    said = await describe(session, [there[node] for node in wanted], limits)
    names = {node: {str(number): text for number, text in each.states} for node, each in zip(wanted, said, strict=True)}
    for part, tag, node in texts:
        part.names.pop(tag, None)
        if names.get(node):
            part.names[tag] = names[node]


def _may_have_states(data_type: ua.DataValue) -> bool:
    node = content(data_type)
    return isinstance(node, ua.NodeId) and not (node.NamespaceIndex == 0 and node.Identifier in _NO_NUMBERS)


def _is_open(tag: Tag) -> tuple[bool, bool]:
    """Tell whether the file leaves a tag's unit and its range to the server."""
    if tag.kind in (Kind.TEXT, Kind.BOOL) or tag.source.field:
        return False, False
    plain = tag.scale == 1 and tag.offset == 0  # else the server's unit is that of the raw value
    unlimited = math.isinf(tag.minimum) and math.isinf(tag.maximum)
    return plain and (not tag.unit or "unit" in tag.said), not tag.states and (unlimited or "range" in tag.said)


def open_nodes(plan: OpcuaPlan) -> list[int]:
    """Give the nodes of a plan whose unit or range the file leaves open for a tag."""
    found = {
        node
        for part in plan.parts
        for tag, node in zip(part.table.tags, part.node.tolist(), strict=True)
        if any(_is_open(tag))
    }
    return sorted(found)


def said(plan: OpcuaPlan, described: Mapping[int, Description]) -> list[Said]:
    """Give what the server says of the tags that the file leaves open; `described` are nodes of the plan."""
    found = []
    for part in plan.parts:
        for tag, node in zip(part.table.tags, part.node.tolist(), strict=True):
            one = described.get(node)
            if one is None:
                continue
            unit, limits = _is_open(tag)
            span = _scaled(tag, one.range) if limits and one.range is not None else None
            name = one.unit.strip() if unit else ""
            if name or span is not None:
                found.append(Said(plan.device, tag.name, tag.address, name, span))
    return found


def _scaled(tag: Tag, ends: tuple[float, float]) -> tuple[float, float]:
    low, high = sorted(float(Fraction(end) * tag.scale + tag.offset) for end in ends)
    return low, high


def differences(plan: OpcuaPlan, described: Sequence[Description]) -> list[Differs]:
    """Tell where the file and the server do not agree on a plan's tags; `described` are the plan's nodes."""
    found: list[Differs] = []
    for part in plan.parts:
        for tag, node in zip(part.table.tags, part.node.tolist(), strict=True):
            name = (plan.device, plan.group, tag.name)
            found += [Differs(*name, *each) for each in _differs(tag, described[node])]
    return found


def _differs(tag: Tag, said: Description) -> list[tuple[Any, ...]]:
    """Give what differs, what the file says, what the server says, and the keys that would say it."""
    if said.status >= q.BAD:
        return [("node", tag.address, status_name(said.status))]
    found: list[tuple[Any, ...]] = []
    kind = said.built_in & 0x3F
    whole = tag.source.element < 0 and not tag.source.field
    if tag.kind is not Kind.TEXT and kind and not tag.source.field:
        counter = tag.type in ("int64", "uint64") and kind in (wire.INT64, wire.UINT64)  # scaled, and so float64
        if (whole and said.built_in & wire.ARRAY) or not (kind in HELD[tag.kind] or counter):
            found.append(("type", tag.type, said.type))
    if tag.source.field:
        return found
    plain = tag.scale == 1 and tag.offset == 0  # else the server's unit is that of the raw value
    if said.unit and plain and tag.unit.strip() != said.unit.strip():
        found.append(("unit", tag.unit, said.unit, (("unit", said.unit),)))
    if said.range is not None and not said.states:
        low, high = _scaled(tag, said.range)
        if not (math.isclose(tag.minimum, low, rel_tol=1e-6) and math.isclose(tag.maximum, high, rel_tol=1e-6)):
            given = "" if math.isinf(tag.minimum) and math.isinf(tag.maximum) else f"{tag.minimum:g} to {tag.maximum:g}"
            found.append(("range", given, f"{low:g} to {high:g}", (("min", low), ("max", high))))
    if said.states and tag.kind is not Kind.TEXT and dict(tag.states) != dict(said.states):
        found.append(("states", _named(tag.states), _named(said.states), (("states", dict(said.states)),)))
    return found


def _named(states: States) -> str:
    return ", ".join(f"{number}: {text}" for number, text in sorted(states))
