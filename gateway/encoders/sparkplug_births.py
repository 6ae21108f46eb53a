"""Who is born in Sparkplug: the node's and the devices' metrics, their aliases and types, and the births' bytes.

Everything here follows from the configuration and is made once. Aliases count from 1 through the whole node, so that a
reader needs no device to tell a metric. A table that is not of this configuration (a record from before a change) finds
its metrics by device, name and type; what is not found has alias 0 and is not published, for a host knows only what the
present births contain.

Properties of a metric in births: engUnit, engLow, engHigh (the tag's unit, min and max), documentation, states (JSON of
an enumeration's names), readOnly; and as in all messages Quality and StatusCode where the reading is not plainly Good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from gateway import quality as q
from gateway.encoders.current import Newest
from gateway.encoders.sparkplug_columns import Shape
from gateway.encoders.sparkplug_payload import (
    DataType,
    Metric,
    Property,
    Value,
    datatype,
    message_field,
    metric_field,
    milliseconds,
    properties_field,
    quality_properties,
    signed,
    value_field,
    varint,
)
from gateway.model import Tag, TagTable

BDSEQ: Final = "bdSeq"
REBIRTH: Final = "Node Control/Rebirth"
NEXT_SERVER: Final = "Node Control/Next Server"
GAP: Final = "PlantBridge/Gap"
VERSION: Final = "Properties/Software Version"
GAP_ALIAS: Final = 1
VERSION_ALIAS: Final = 2
_FIRST_ALIAS: Final = 3
_RESERVED: Final = "+/#"
_RANGES: Final = {
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.INT64: (-(2**63), 2**63 - 1),
    DataType.UINT64: (0, 2**64 - 1),
}
_NUMERIC: Final = (DataType.FLOAT, DataType.DOUBLE)


def id_problem(text: str) -> str:
    """Say why this cannot be a group, node or device id, or nothing where it can."""
    if not text:
        return "a Sparkplug id must not be empty"
    found = sorted(set(text) & set(_RESERVED))
    return f"a Sparkplug id must not contain {' '.join(found)}: {text!r}" if found else ""


def case_problems(names: Iterable[str]) -> list[str]:
    """Name those that differ in nothing but case: some hosts take them for one."""
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            problems.append(f"{name!r} and {other!r} differ in case only; some Sparkplug hosts take them for one")
    return problems


@dataclass(frozen=True, slots=True)
class Known:
    """A device's metric as it is born."""

    tag: Tag
    alias: int
    kind: DataType
    properties: Mapping[str, Property]
    front: bytes  # name and alias, as each birth begins
    back: bytes  # data type and properties, as a birth goes on behind the time where the reading is Good

    def value(self, metric: Metric) -> Value:
        """Give the value of a command's metric in this metric's type. Raises ValueError where it does not fit."""
        raw = metric.value
        if raw is None:
            raise ValueError(f"{self.tag.name}: the command has no value")
        if isinstance(raw, str | bool):
            if self.kind is not (DataType.STRING if isinstance(raw, str) else DataType.BOOLEAN):
                raise ValueError(f"{self.tag.name}: a {self.kind.name.capitalize()} is needed")
            return raw
        if self.kind in (DataType.BOOLEAN, DataType.STRING):
            raise ValueError(f"{self.tag.name}: a {self.kind.name.capitalize()} is needed")
        if metric.carrier == "float":  # 23.1 as the sender wrote it, not its binary neighbour
            raw = float(str(np.float32(raw)))
        if self.kind in _NUMERIC:
            kind = DataType.INT32 if metric.carrier == "int" else DataType.INT64
            return float(signed(kind, raw) if metric.datatype is None else raw)
        if isinstance(raw, float):
            if not raw.is_integer():
                raise ValueError(f"{self.tag.name}: a whole number is needed")
            raw = int(raw)
        number = signed(self.kind, raw) if metric.datatype is None and metric.carrier == "int" else raw
        number = signed(self.kind, number) if metric.carrier == "long" and self.kind is DataType.INT64 else number
        low, high = _RANGES[self.kind]
        if not low <= int(number) <= high:
            raise ValueError(f"{self.tag.name}: {number} does not fit its type")
        return int(number)


@dataclass(slots=True, eq=False)
class Device:
    """A Sparkplug device: one of the gateway's devices, all its tables together."""

    name: str
    tables: list[TagTable] = field(default_factory=list)
    by_name: dict[str, Known] = field(default_factory=dict)
    born: bool = False
    last_sent: int = 0  # ns
    by_alias: dict[int, Known] = field(default_factory=dict)

    def birth(self, newest: Sequence[Newest], now: int) -> list[bytes]:
        """Give the metrics of a DBIRTH: every metric, with its newest value or null. `newest` as `tables`."""
        fields = []
        for known in newest:
            names, times = known.table.names, known.time.tolist()
            for row, (name, status, time) in enumerate(zip(names, known.quality.tolist(), times, strict=True)):
                value = None if status >= q.BAD else known.value[row]
                fields.append(_birth_metric(self.by_name[name], value, status, time or now))
        return fields

    @property
    def writable(self) -> bool:
        return any(known.tag.writable is not None for known in self.by_name.values())


class Catalogue:
    """All devices and metrics of a node."""

    def __init__(self, tables: Sequence[TagTable], commands: bool, with_datatype: bool) -> None:
        self.devices: dict[str, Device] = {}
        self._with_datatype = with_datatype
        self._shapes: dict[bytes, Shape] = {}
        self._configured = {table.fingerprint for table in tables}
        alias = _FIRST_ALIAS
        for table in tables:
            device = self.devices.setdefault(table.device, Device(table.device))
            device.tables.append(table)
            for tag in table.tags:
                known = _known(tag, alias, commands)
                device.by_name[tag.name] = device.by_alias[alias] = known
                alias += 1

    def shape(self, table: TagTable) -> Shape:
        """Give the shape of a table's DATA metrics."""
        shape = self._shapes.get(table.fingerprint)
        if shape is None:
            device = self.devices.get(table.device)
            aliases = [_alias(device, tag) if device else 0 for tag in table.tags]
            shape = Shape(table, np.array(aliases, dtype=np.uint32), self._with_datatype)
            self._shapes[table.fingerprint] = shape
        return shape

    def configured(self, table: TagTable) -> bool:
        """Whether the table is one of this configuration, not of an earlier one."""
        return table.fingerprint in self._configured

    def problems(self) -> list[str]:
        """Say what a host may take amiss."""
        names = [id_problem(name) for name in self.devices]
        cases = case_problems(self.devices)
        for device in self.devices.values():
            cases += case_problems(device.by_name)
        return [*filter(None, names), *cases]


def _alias(device: Device, tag: Tag) -> int:
    known = device.by_name.get(tag.name)
    return known.alias if known is not None and known.kind is datatype(tag) else 0


def _known(tag: Tag, alias: int, commands: bool) -> Known:
    kind = datatype(tag)
    properties: dict[str, Property] = {}
    if tag.unit:
        properties["engUnit"] = (DataType.STRING, tag.unit)
    for key, end in (("engLow", tag.minimum), ("engHigh", tag.maximum)):
        if math.isfinite(end):
            properties[key] = (DataType.DOUBLE, float(end))
    if tag.description:
        properties["documentation"] = (DataType.STRING, tag.description)
    if tag.states:
        names = {str(number): text for number, text in tag.states}
        properties["states"] = (DataType.STRING, orjson.dumps(names).decode())
    properties["readOnly"] = (DataType.BOOLEAN, not (commands and tag.writable is not None))
    front = message_field(1, tag.name.encode()) + b"\x10" + varint(alias)
    back = b"\x20" + varint(kind) + properties_field(properties)
    return Known(tag, alias, kind, properties, front, back)


def _birth_metric(known: Known, value: Any, status: int, time: int) -> bytes:
    if value is not None and known.kind in _RANGES:
        low, high = _RANGES[known.kind]
        if not (low <= value <= high and value == int(value)):
            value, status = None, q.BAD_OUT_OF_RANGE
    if not status:
        stamp = b"\x18" + varint(milliseconds(time))
        return message_field(2, known.front + stamp + known.back + value_field(known.kind, value))
    metric = Metric(
        name=known.tag.name,
        alias=known.alias,
        timestamp=milliseconds(time),
        datatype=known.kind,
        value=value,
        properties={**known.properties, **quality_properties(status)},
    )
    return metric_field(metric)
