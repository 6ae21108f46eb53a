"""The address grammar: which node, which part of its value, and as what it is held.

    address  = node [ blank select ] [ blank type ]
    node     = [ namespace ";" ] ( "i=" number | "s=" text | "g=" guid | "b=" base64 | path )
    namespace= "ns=" index | "nsu=" uri          uri preferred: indexes may change when a server restarts
    path     = 1*( "/" [ index ":" ] name )      browse names from the Root folder: /Objects/2:Boiler/2:T1
    select   = "[" n "]" | "[" n ":" m "]"       an element, or elements n to m, of an array: one tag each
             | "#" field *( "." field )          a field of a structure
    type     = a word of TYPES                   what it is held as; float64 where absent
    event    = "event:" [ namespace ";" ] [ index ":" ] name *( "/" [ index ":" ] name ) [ blank type ]

Names may hold blanks: only a last word that is a type, and a word before it that is a select, are taken off. With the
keys `type` or `select` beside `address`, the address is the node and nothing else, whatever its words are. A last
word that looks like a misspelt type is refused, not taken for a name. In a path "&" takes the meaning from the
character after it; elements without an index are in the path's namespace (0 without one), except that Objects, Types
and Views below Root are always in namespace 0.

An event's field, for the groups with the key `events`, is a browse path from its event type: event:ActiveState/Id. The
standard's fields have their type (FIELDS); any other is text where no type is given. event:ConditionId is the node id
of the condition.

Pure text to values; knows nothing of the protocol library.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import re
import uuid
from dataclasses import dataclass
from typing import Final

from gateway.model import Kind

TYPES: Final[dict[str, tuple[str, Kind]]] = {
    "bool": ("bool", Kind.BOOL), "boolean": ("bool", Kind.BOOL),
    "int8": ("int8", Kind.FLOAT), "sbyte": ("int8", Kind.FLOAT),
    "uint8": ("uint8", Kind.FLOAT), "byte": ("uint8", Kind.FLOAT),
    "int16": ("int16", Kind.FLOAT), "uint16": ("uint16", Kind.FLOAT),
    "int32": ("int32", Kind.FLOAT), "uint32": ("uint32", Kind.FLOAT),
    "int64": ("int64", Kind.INT), "uint64": ("uint64", Kind.UINT),
    "float32": ("float32", Kind.FLOAT), "float": ("float32", Kind.FLOAT),
    "float64": ("float64", Kind.FLOAT), "double": ("float64", Kind.FLOAT),
    "text": ("text", Kind.TEXT), "string": ("text", Kind.TEXT), "localizedtext": ("text", Kind.TEXT),
    "datetime": ("datetime", Kind.TEXT), "guid": ("guid", Kind.TEXT), "bytestring": ("bytestring", Kind.TEXT),
}  # fmt: skip
"""The words for a type: the name that tags carry, and how the values are held."""

DEFAULT_TYPE: Final = "float64"

EVENT: Final = "event:"
BASE_EVENT, CONDITION, ACKNOWLEDGEABLE, ALARM, LIMIT_ALARM = 2041, 2782, 2881, 2915, 2955
FIELDS: Final[dict[str, tuple[int, str]]] = {
    **dict.fromkeys(("EventId",), (BASE_EVENT, "bytestring")),
    **dict.fromkeys(("EventType", "SourceNode", "SourceName", "Message", "LocalTime"), (BASE_EVENT, "text")),
    **dict.fromkeys(("Time", "ReceiveTime"), (BASE_EVENT, "datetime")), "Severity": (BASE_EVENT, "uint16"),
    **dict.fromkeys(
        ("ConditionId", "ConditionName", "ConditionClassId", "ConditionClassName", "BranchId", "EnabledState",
         "Comment", "ClientUserId"), (CONDITION, "text"),
    ),
    "Retain": (CONDITION, "bool"), "EnabledState/Id": (CONDITION, "bool"), "Quality": (CONDITION, "uint32"),
    "LastSeverity": (CONDITION, "uint16"),
    **dict.fromkeys(("AckedState", "ConfirmedState"), (ACKNOWLEDGEABLE, "text")),
    **dict.fromkeys(("AckedState/Id", "ConfirmedState/Id"), (ACKNOWLEDGEABLE, "bool")),
    **dict.fromkeys(("ActiveState", "SuppressedState", "InputNode"), (ALARM, "text")),
    **dict.fromkeys(("ActiveState/Id", "SuppressedState/Id", "SuppressedOrShelved"), (ALARM, "bool")),
    **dict.fromkeys(("HighHighLimit", "HighLimit", "LowLimit", "LowLowLimit"), (LIMIT_ALARM, "float64")),
}  # fmt: skip
"""The standard's fields of events (Part 5, 6.4.2; Part 9, 5.5 to 5.8): the event type that has them, and their type."""
MOST_ELEMENTS: Final = 10_000

_ELEMENT: Final = re.compile(r"\[(\d{1,9})(?::(\d{1,9}))?\]")
_FIELD: Final = re.compile(r"#[^\s#.]+(?:\.[^\s#.]+)*")
_NAMESPACE: Final = re.compile(r"(?:ns=(?P<index>\d{1,5})|nsu=(?P<uri>[^;]+));(?P<rest>.*)", re.DOTALL)
_EXAMPLE: Final = "such as ns=2;s=Boiler.T1, nsu=urn:plant;s=Boiler.T1, i=2258 or /Objects/2:Boiler/2:T1"
_BELOW_ROOT: Final = ("Objects", "Types", "Views")

Namespace = int | str


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node as the integrator wrote it: by id, or by browse path. The namespace is an index or a URI.

    `form` is "i", "s", "g", "b" or "/". `name` is then int, str, UUID, bytes, or the path's (namespace, name) pairs.
    Form "event" is a field of events; its name is a path too.
    """

    namespace: Namespace
    form: str
    name: int | str | uuid.UUID | bytes | tuple[tuple[Namespace, str], ...]

    def __str__(self) -> str:
        if self.form == "event":
            return EVENT + field_name(self)
        if isinstance(self.name, tuple):
            return "/" + "/".join(f"{namespace}:{name}" for namespace, name in self.name)
        prefix = f"nsu={self.namespace};" if isinstance(self.namespace, str) else f"ns={self.namespace};"
        name = base64.b64encode(self.name).decode() if isinstance(self.name, bytes) else self.name
        return f"{'' if self.namespace == 0 else prefix}{self.form}={name}"


def field_name(node: NodeName) -> str:
    """Write the path of an event's field: names of namespace 0 as they are."""
    assert isinstance(node.name, tuple)
    return "/".join(name if namespace == 0 else f"{namespace}:{name}" for namespace, name in node.name)


@dataclass(frozen=True, slots=True)
class Source:
    """What a tag reads: a node's value, or one element of it (`element` >= 0), or a field of it."""

    node: NodeName
    element: int = -1
    field: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: the node, the selected elements (first, last) or field, and the type's word."""

    node: NodeName
    elements: tuple[int, int] | None
    field: tuple[str, ...]
    type: str
    kind: Kind

    def sources(self) -> list[tuple[Source, str]]:
        """Give one source per tag, with the suffix that tells the elements of a slice apart."""
        if self.elements is None:
            return [(Source(self.node, -1, self.field), "")]
        first, last = self.elements
        if first == last:
            return [(Source(self.node, first), "")]
        return [(Source(self.node, element), f"[{element}]") for element in range(first, last + 1)]


def parse(text: str, type_word: str | None = None, select: str | None = None, namespace: Namespace = 0) -> Address:
    """Read an address; `namespace` is where node ids without one live. Raises ValueError, for the integrator."""
    node = text.strip()
    if node.startswith(EVENT):
        return _event(node.removeprefix(EVENT), type_word, select)
    if type_word is None and select is None:
        node, select, type_word = _split(node)
    if type_word is not None and type_word.lower() not in TYPES:
        raise ValueError(f"unknown type {type_word!r}{_guess(type_word)}; known are {', '.join(sorted(TYPES))}")
    name, kind = TYPES[(type_word or DEFAULT_TYPE).lower()]
    elements, field = _select(select)
    return Address(parse_node(node, namespace), elements, field, name, kind)


def _event(text: str, type_word: str | None, select: str | None) -> Address:
    """Read the field of an event behind "event:". Raises ValueError."""
    if type_word is None and select is None:
        text, select, type_word = _split(text)
    if select is not None:
        raise ValueError(f"an event's field is taken whole, without {select}")
    if type_word is not None and type_word.lower() not in TYPES:
        raise ValueError(f"unknown type {type_word!r}{_guess(type_word)}; known are {', '.join(sorted(TYPES))}")
    match = _NAMESPACE.fullmatch(text)
    space: Namespace = 0
    if match is not None:
        text, space = match["rest"], match["uri"] if match["uri"] is not None else int(match["index"])
    if not text or text.startswith("/"):
        raise ValueError(f"expected a field of the event such as event:Severity or event:ActiveState/Id, got {text!r}")
    node = NodeName(0, "event", _path(f"/{text}", space))
    known = FIELDS.get(field_name(node))
    if known is None and (guess := difflib.get_close_matches(field_name(node), FIELDS, 1, 0.85)) and space == 0:
        raise ValueError(f"is {field_name(node)} a misspelt {guess[0]}? A field of the server's own has a namespace")
    name, kind = TYPES[(type_word or (known[1] if known else "text")).lower()]
    return Address(node, None, (), name, kind)


def parse_node(text: str, namespace: Namespace = 0) -> NodeName:
    """Read a node id or browse path alone. Raises ValueError."""
    rest = text
    match = _NAMESPACE.fullmatch(text)
    if match is not None:
        rest = match["rest"]
        namespace = match["uri"] if match["uri"] is not None else int(match["index"])
        if isinstance(namespace, int) and namespace > 65535:
            raise ValueError(f"namespace index {namespace} is larger than 65535")
    if rest.startswith("/"):
        return NodeName(namespace, "/", _path(rest, namespace))
    form, found, name = rest.partition("=")
    if not found or form not in ("i", "s", "g", "b"):
        raise ValueError(f"expected a node id or browse path {_EXAMPLE}, got {text!r}")
    if not name:
        raise ValueError(f"the node id {text!r} has nothing behind {form}=")
    return NodeName(namespace, form, _identifier(form, name))


def _identifier(form: str, name: str) -> int | str | uuid.UUID | bytes:
    if form == "i":
        if not name.isascii() or not name.isdigit() or int(name) >= 2**32:
            raise ValueError(f"a numeric node id is a number below 4294967296, got {name!r}{_tail(name)}")
        return int(name)
    if form == "g":
        try:
            return uuid.UUID(name)
        except ValueError:
            raise ValueError(f"expected a GUID such as 09087e75-8e5e-499b-954f-f2a9603db28a, got {name!r}") from None
    if form == "b":
        try:
            return base64.b64decode(name, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"expected base64 behind b=, got {name!r}") from None
    return name


def _tail(name: str) -> str:
    word = name.rpartition(" ")[2]
    return f" (is {word!r} meant as a type? known are {', '.join(sorted(TYPES))})" if " " in name else ""


def _path(text: str, namespace: Namespace) -> tuple[tuple[Namespace, str], ...]:
    elements: list[tuple[Namespace, str]] = []
    for part in re.findall(r"/((?:&.|[^/&])*)", text):
        match = re.fullmatch(r"(?:(\d{1,5}):)?(.*)", part, re.DOTALL)
        name = re.sub(r"&(.)", r"\1", match[2]) if match else ""
        if not match or not name:
            raise ValueError(f"the browse path {text!r} has an element without a name")
        where: Namespace = namespace if match[1] is None else int(match[1])
        elements.append((0 if not elements and name in _BELOW_ROOT else where, name))
    return tuple(elements)


def _split(text: str) -> tuple[str, str | None, str | None]:
    """Take the last word off where it is a type, then the one before where it is a select."""
    type_word: str | None = None
    head, blank, word = text.rpartition(" ")
    if blank and word.lower() in TYPES:
        text, type_word = head.rstrip(), word
    elif blank and (guess := difflib.get_close_matches(word.lower(), TYPES, 1, 0.8)):
        raise ValueError(
            f"is the last word {word!r} a misspelt {guess[0]}? "
            "If it belongs to the name, write {address: ..., type: ...}"
        )
    head, blank, word = text.rpartition(" ")
    if blank and (_ELEMENT.fullmatch(word) or _FIELD.fullmatch(word)):
        return head.rstrip(), word, type_word
    return text, None, type_word


def _select(text: str | None) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    if text is None:
        return None, ()
    match = _ELEMENT.fullmatch(text)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the slice {text} ends before it begins")
        if last - first >= MOST_ELEMENTS:
            raise ValueError(f"the slice {text} makes more than {MOST_ELEMENTS} tags")
        return (first, last), ()
    if _FIELD.fullmatch(text):
        return None, tuple(text[1:].split("."))
    raise ValueError(f"expected [3], [0:9] or #field.field, got {text!r}")


def _guess(word: str) -> str:
    close = difflib.get_close_matches(word.lower(), TYPES, 1)
    return f" (did you mean {close[0]}?)" if close else ""
