"""A Sparkplug host that trusts nobody: it reads an edge node's messages and notes every rule that one of them breaks.

It reads with Google's protobuf library (bench.sparkplug_objects), not with our own reader. What it believes of the node
is what a real host would show: the value, time and quality of each metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.sparkplug_objects import Payload
from gateway.dialects import Will
from gateway.encoders.sparkplug_payload import DataType, signed
from gateway.model import Message

Test = TypeVar("Test", bound=Callable[..., Any])


def proves(*rules: str) -> Callable[[Test], Test]:
    """Say which of the standard's rules (tck-id-...) a test proves; docs/conformance/sparkplug.md is held to it."""
    assert rules

    def mark(test: Test) -> Test:
        return test

    return mark


_FIELD = {
    DataType.INT32: "int_value", DataType.INT64: "long_value", DataType.UINT64: "long_value",
    DataType.FLOAT: "float_value", DataType.DOUBLE: "double_value", DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}  # fmt: skip


@dataclass
class Shown:
    """A metric as the host shows it."""

    name: str
    kind: int
    value: Any
    time: int
    quality: int = 192
    properties: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, Any]] = field(default_factory=list)


class Host:
    """One host watching one node."""

    def __init__(self, group: str, node: str, will: Will) -> None:
        self.group, self.node = group, node
        self.broken: list[str] = []
        self.words: list[str] = []  # message types in the order they came
        self.seq: int | None = None
        self.online = False
        self.node_metrics: dict[str, Shown] = {}
        self.devices: dict[str, dict[str, Shown]] = {}
        self.dead: set[str] = set()
        self.aliases: dict[int, tuple[str, str]] = {}  # device, metric
        self.last: Any = None
        self.log: list[tuple[str, int, Any, bool]] = []  # every value that came: metric, ms, value, historical
        self.connect(will)

    def connect(self, will: Will) -> None:
        """A new session of the node, with its will."""
        self.will = will
        self.bdseq = self._death(will.topic, will.payload)
        self._is(will.qos == 1 and not will.retain, "the will has QoS 1 and is not retained")
        self.online = False

    def take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._take(message)

    def _is(self, kept: bool, rule: str) -> None:
        if not kept:
            self.broken.append(f"{self.words[-1] if self.words else 'will'}: {rule}")

    def _death(self, topic: str, content: bytes) -> int:
        self._is(topic == f"spBv1.0/{self.group}/NDEATH/{self.node}", "the NDEATH's topic")
        payload = Payload.FromString(content)
        self._is(not payload.HasField("seq"), "an NDEATH has no seq")
        self._is([metric.name for metric in payload.metrics] == ["bdSeq"], "an NDEATH has bdSeq and nothing else")
        self._is(payload.metrics[0].datatype == DataType.INT64, "bdSeq is an Int64")
        return int(payload.metrics[0].long_value)

    def _take(self, message: Message) -> None:
        namespace, group, word, node, *device = message.topic.split("/")
        self.words.append(word)
        self._is((namespace, group, node) == ("spBv1.0", self.group, self.node), f"the topic {message.topic}")
        self._is(len(device) == (word[0] == "D"), "D messages have a device, N messages none")
        self._is(not message.retain, "nothing is retained")
        if word == "NDEATH":
            self._is(self._death(message.topic, message.payload) == self.bdseq, "the NDEATH has the will's bdSeq")
            self.online = False
            return
        payload = self.last = Payload.FromString(message.payload)
        self._is(payload.HasField("timestamp"), "a timestamp")
        self._sequence(word, payload)
        if word == "NBIRTH":
            self._node_birth(payload)
        elif word == "DBIRTH":
            self._is(self.online, "a DBIRTH follows the NBIRTH")
            self.dead.discard(device[0])
            self.aliases = {alias: who for alias, who in self.aliases.items() if who[0] != device[0]}
            self.devices[device[0]] = {}
            self._birth(device[0], payload, self.devices[device[0]])
        elif word == "DDEATH":
            self._is(device[0] in self.devices and device[0] not in self.dead, "only who lives dies")
            self.dead.add(device[0])
        elif word == "DDATA":
            self._is(device[0] in self.devices and device[0] not in self.dead, "a DDATA is of a device that is born")
            self._data(device[0], payload)
        elif word == "NDATA":
            self._data("", payload)
        else:
            self._is(False, "an edge node sends no such message")

    def _sequence(self, word: str, payload: Any) -> None:
        self._is(payload.HasField("seq"), "a seq")
        expected = 0 if word == "NBIRTH" or self.seq is None else (self.seq + 1) % 256
        self._is(payload.seq == expected, f"seq {payload.seq}, expected {expected}")
        self._is(self.online or word == "NBIRTH", "the NBIRTH comes first")
        self.seq = payload.seq

    def _node_birth(self, payload: Any) -> None:
        self.online = True
        self.node_metrics, self.devices, self.aliases, self.dead = {}, {}, {}, set()
        self._birth("", payload, self.node_metrics)
        rebirth = self.node_metrics.get("Node Control/Rebirth")
        known = rebirth is not None and rebirth.kind == DataType.BOOLEAN and rebirth.value is False
        self._is(known, "the NBIRTH has Node Control/Rebirth, a Boolean, false")
        self._is(
            all(not metric.HasField("alias") for metric in payload.metrics if "Rebirth" in metric.name), "no alias"
        )
        bdseq = self.node_metrics.get("bdSeq")
        self._is(bdseq is not None and bdseq.kind == DataType.INT64 and bdseq.value == self.bdseq, "the will's bdSeq")

    def _birth(self, device: str, payload: Any, shown: dict[str, Shown]) -> None:
        for metric in payload.metrics:
            self._is(bool(metric.name) and metric.HasField("timestamp"), "a birth metric has a name and a time")
            self._is(metric.HasField("datatype"), "a birth metric has a type")
            self._is(metric.datatype in _FIELD, f"type {metric.datatype} is one that all readers understand")
            self._is(metric.name not in shown, "a name occurs once")
            if metric.HasField("alias"):
                self._is(metric.alias not in self.aliases, "an alias is unique in the node")
                self.aliases[metric.alias] = (device, metric.name)
            elif device:
                self._is(False, "a device's metrics have aliases")
            shown[metric.name] = Shown(metric.name, metric.datatype, None, 0)
            self._show(shown[metric.name], metric)
            shown[metric.name].properties = self._properties(metric)

    def _data(self, device: str, payload: Any) -> None:
        latest = 0
        self._is(len(payload.metrics) > 0, "DATA has metrics")
        for metric in payload.metrics:
            self._is(not metric.HasField("name") and metric.HasField("alias"), "DATA has aliases and no names")
            self._is(metric.HasField("timestamp"), "a DATA metric has a time")
            owner, name = self.aliases.get(metric.alias, ("?", "?"))
            self._is(owner == device, "the alias is one of this device's birth")
            if owner != device:
                continue
            shown = (self.devices[device] if device else self.node_metrics)[name]
            if not metric.is_historical:
                self._is(metric.timestamp >= latest, "live metrics are in the order of time")
                latest = metric.timestamp
            self._show(shown, metric)

    def _show(self, shown: Shown, metric: Any) -> None:
        which = metric.WhichOneof("value")
        self._is((which is None) is metric.is_null, "a metric has a value or is null")
        self._is(which in (None, _FIELD.get(shown.kind)), f"{which} for type {shown.kind}")
        value = None if which is None else signed(shown.kind, getattr(metric, which))
        self.log.append((shown.name, metric.timestamp, value, metric.is_historical))
        if metric.is_historical:
            shown.history.append((metric.timestamp, value))
            return
        shown.value, shown.time = value, metric.timestamp
        shown.quality = self._properties(metric).get("Quality", 192)

    def _properties(self, metric: Any) -> dict[str, Any]:
        if not metric.HasField("properties"):
            return {}
        keys, values = list(metric.properties.keys), list(metric.properties.values)
        self._is(len(keys) == len(values), "as many keys as values")
        found = {}
        for key, value in zip(keys, values, strict=False):
            self._is(value.HasField("type"), "a property has a type")
            self._is(value.WhichOneof("value") == _FIELD[value.type], "a property's value is of its type")
            found[key] = signed(value.type, getattr(value, value.WhichOneof("value")))
        if "Quality" in found:
            kind = next(value.type for key, value in zip(keys, values, strict=True) if key == "Quality")
            self._is(kind == DataType.INT32 and found["Quality"] in (0, 192, 500), "a Quality of 0, 192 or 500")
        return found
