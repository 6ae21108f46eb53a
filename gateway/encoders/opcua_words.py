"""What data, metadata and actions of OPC UA PubSub JSON have in common: types, times, names, and the envelope.

Part 14 (OPC 10000-14) 7.2.5 for the messages, Part 6 (OPC 10000-6) 5.4 for the values inside. With `encoding: compact`
metadata are in the present form of Part 6 (NodeId "i=11", a structure with its UaTypeId), else in that of 1.04
(NodeId {"Id": 11}), which its annex H asks every reader to know still.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.dialects import SECOND
from gateway.encoders.texts import Form, form
from gateway.model import Kind, Tag

if TYPE_CHECKING:
    from gateway.options import OpcuaJsonOptions

BOOLEAN: Final = 1  # built-in types
FLOAT: Final = 10  # those below are truth values and whole numbers
STRING: Final = 12
STATUS_CODE: Final = 19
QUOTED: Final = (8, 9)  # 64-bit integers are strings
_TICK: Final = 100  # ns; DateTime is a number of these
_WHOLE: Final = {
    "int8": 2, "uint8": 3, "int16": 4, "uint16": 5, "int32": 6, "uint32": 7, "bcd16": 5, "bcd32": 7,
}  # fmt: skip
_OF_KIND: Final = {Kind.BOOL: BOOLEAN, Kind.INT: 8, Kind.UINT: 9, Kind.TEXT: STRING}


def builtin_type(tag: Tag) -> int:
    """Give the number of the built-in type in which a tag is published."""
    if tag.kind is not Kind.FLOAT:
        return _OF_KIND[tag.kind]
    look = form(tag)
    if look is Form.WHOLE and tag.scale == 1 and tag.offset == 0:
        return _WHOLE[tag.type]
    return 10 if look is Form.SINGLE else 11


@dataclass(slots=True, eq=False)
class Writer:
    """A DataSetWriter: one poll group of one device, or an action."""

    group: str  # of writers: the device
    name: str
    number: int
    version: int
    fields: dict[str, int] = field(default_factory=dict)  # built-in types by name
    tags: dict[str, Tag] = field(default_factory=dict)
    sequence: int = 0
    action: bool = False

    @property
    def key(self) -> str:
        """Give the name of what it writes."""
        return f"{self.group}/{self.name}"

    @property
    def kept(self) -> str:
        """Give the name under which number and version are kept: an action may be called as a poll group is."""
        return f"{self.key}/action" if self.action else self.key

    def shape(self) -> str:
        """Give what a change of makes a new version."""
        return " ".join(f"{kind}:{name}" for name, kind in self.fields.items())

    def configuration(self) -> dict[str, int]:
        """Give the ConfigurationVersion."""
        return {"MajorVersion": self.version, "MinorVersion": self.version}


@dataclass(frozen=True, slots=True)
class Words:
    """Who speaks, below which topics."""

    options: OpcuaJsonOptions
    publisher: str
    clock: Callable[[], int]
    identify: Callable[[], str]

    def topic(self, word: str, *names: str) -> str:
        levels = (level(each) for each in (self.publisher, *names))
        return "/".join((self.options.prefix, "json", word, *levels))

    def message(self, kind: str, **content: Any) -> bytes:
        head = {"MessageId": self.identify(), "MessageType": kind, "PublisherId": self.publisher}
        return orjson.dumps({**head, **content})

    def now(self) -> str:
        return timestamp(self.clock()).decode()

    def connection(self, writers: list[Writer]) -> dict[str, Any]:
        """Describe a PubSubConnection with these writers."""
        groups: dict[str, list[Writer]] = {}
        for writer in writers:
            groups.setdefault(writer.group, []).append(writer)
        listed = [
            {"Name": name, "Enabled": True, "WriterGroupId": number, "DataSetWriters": [_described(w) for w in each]}
            for number, (name, each) in enumerate(groups.items(), 1)
        ]
        return {
            "Name": self.publisher,
            "Enabled": True,
            "PublisherId": {"UaType": STRING, "Value": self.publisher},
            "TransportProfileUri": _TRANSPORT,
            "WriterGroups": listed,
        }


_TRANSPORT: Final = "http://opcfoundation.org/UA-Profile/Transport/pubsub-mqtt-json"


def level(name: str) -> str:
    """Give a name as one level of a topic: what cannot stand there is percent-encoded."""
    return re.sub(r"[%/+#\0]", lambda found: f"%{ord(found[0]):02X}", name)


def timestamp(when: int) -> bytes:
    """Give ns since 1970 as a DateTime: milliseconds, or as many digits as it has, at most to 100 ns."""
    seconds, rest = divmod(when, SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    digits = f"{rest // _TICK:07d}".rstrip("0").ljust(3, "0")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{digits}Z".encode()


def data_set(writer: Writer, fields: dict[str, int], options: OpcuaJsonOptions) -> dict[str, Any]:
    """Describe a DataSet: a DataSetMetaDataType."""
    compact = options.encoding == "compact"
    described = [_field(writer, name, kind, compact=compact) for name, kind in fields.items()]
    return {"Name": writer.key, "Fields": described, "ConfigurationVersion": writer.configuration()}


def _described(writer: Writer) -> dict[str, Any]:
    return {"Name": writer.name, "Enabled": True, "DataSetWriterId": writer.number, "DataSetName": writer.key}


def _field(writer: Writer, name: str, kind: int, *, compact: bool) -> dict[str, Any]:
    tag = writer.tags.get(name)
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{writer.kept}/{name}"))
    node = f"i={kind}" if compact else {"Id": kind}
    described: dict[str, Any] = {"Name": name, "BuiltInType": kind, "DataType": node, "ValueRank": -1}
    described["DataSetFieldId"] = identity
    if tag is None:
        return described
    if tag.description:
        described["Description"] = {"Text": tag.description}
    properties: list[dict[str, Any]] = []
    if tag.unit:
        properties.append(_property("EngineeringUnits", {"DisplayName": {"Text": tag.unit}}, 887, compact))
    low, high = _range(tag, writer.action)
    if math.isfinite(low) and math.isfinite(high):
        properties.append(_property("EURange", {"Low": low, "High": high}, 884, compact))
    if tag.states:
        values = [{"Value": str(number), "DisplayName": {"Text": said}} for number, said in tag.states]
        properties.append(_property("EnumValues", values, 7594, compact))
    return {**described, "Properties": properties} if properties else described


def _range(tag: Tag, writing: bool) -> tuple[float, float]:
    """Give the limits of what is read, or of what may be written."""
    low, high = tag.minimum, tag.maximum
    if writing and tag.writable is not None:
        low = low if tag.writable.minimum is None else tag.writable.minimum
        high = high if tag.writable.maximum is None else tag.writable.maximum
    return low, high


def _property(name: str, value: Any, kind: int, compact: bool) -> dict[str, Any]:
    """Give a property whose value is a structure of this DataType, or a list of them."""
    if not compact:
        return {"Key": {"Name": name}, "Value": {"UaType": 22, "Value": value}}
    each = value if isinstance(value, list) else [value]
    typed = [{"UaTypeId": f"i={kind}", **one} for one in each]
    return {"Key": name, "Value": {"UaType": 22, "Value": typed if isinstance(value, list) else typed[0]}}
