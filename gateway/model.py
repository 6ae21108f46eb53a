"""The things the gateway knows: links, devices, groups, tags, and batches of readings.

There is an object per link, device, group and tag definition, never one per reading: readings are rows of a
Batch, whose columns are numpy arrays. A TagTable is the tags of one poll group that share one dtype, compiled to
columns once. A table is named by the fingerprint of its definition, so that a record written today can be read
when the configuration has long changed.

Times are int64 nanoseconds since 1970-01-01 UTC. Qualities are OPC UA StatusCodes (gateway.quality).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway import quality as q

EXACT: Final = 2**53  # the largest run of integers that float64 holds without a hole


class Kind(StrEnum):
    """How the values of a batch are held. FLOAT holds every type up to 32 bits exactly."""

    FLOAT = "float64"
    INT = "int64"
    UINT = "uint64"
    BOOL = "bool"
    TEXT = "text"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of a batch's value column; text is an object column of str."""
        return np.dtype(object) if self is Kind.TEXT else np.dtype(self.value)

    @property
    def nothing(self) -> float | int | bool | str:
        """What stands in the value column of a row without a value; its quality is Bad, so nobody reads it."""
        nothings: dict[Kind, float | int | bool | str] = {
            Kind.FLOAT: math.nan, Kind.INT: 0, Kind.UINT: 0, Kind.BOOL: False, Kind.TEXT: "",
        }  # fmt: skip
        return nothings[self]


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a configuration file; line and column count from 1."""

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag as configured. `source` is the address as the driver compiled it (hashable, driver's own type)."""

    name: str
    address: str
    source: Any = None
    kind: Kind = Kind.FLOAT
    type: str = "float64"  # the type at the source, in the driver's words: float32, uint16, ...
    unit: str = ""
    description: str = ""
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    minimum: float = -math.inf
    maximum: float = math.inf
    out_of_range: str = "uncertain"  # or "bad" or "clamp"
    deadband: float = math.nan  # NaN: every reading is reported; 0: changes; d: changes of more than d
    max_silence: int = 0  # ns; 0: no limit
    not_available: tuple[float, ...] = ()  # raw values by which the device says it has none
    states: tuple[tuple[int, str], ...] = ()  # names of the values of an enumeration
    writable: Any = None  # WriteRule, the limits of what may be written; None: read-only
    simulate: Any = None  # SignalOptions, for the simulators only; None: they choose what fits
    said: tuple[str, ...] = ()  # what the file leaves open and the device says: "unit", "range" (gateway.learned)
    where: Where = Where()

    def definition(self) -> dict[str, Any]:
        """Give what a reader of the data must know, as JSON: stable order, nothing that is empty."""
        full: dict[str, Any] = {
            "name": self.name,
            "address": self.address,
            "type": self.type,
            "unit": self.unit,
            "description": self.description,
            "scale": "" if self.scale == 1 else str(self.scale),
            "offset": "" if self.offset == 0 else str(self.offset),
            "min": "" if math.isinf(self.minimum) else self.minimum,
            "max": "" if math.isinf(self.maximum) else self.maximum,
            "states": {str(number): text for number, text in self.states},
        }
        return {key: value for key, value in full.items() if value not in ("", {})}


@dataclass(frozen=True, eq=False)
class TagTable:
    """The tags of one poll group that share one Kind, in a fixed order, with their settings as columns."""

    device: str
    group: str
    kind: Kind
    tags: tuple[Tag, ...]

    def __len__(self) -> int:
        return len(self.tags)

    @cached_property
    def definition(self) -> bytes:
        """The table as canonical JSON; what `fingerprint` is computed from and what readers of the data get."""
        head = orjson.dumps({"device": self.device, "group": self.group, "kind": self.kind.value, "tags": []})
        text = bytearray(head[:-2])
        for tag in self.tags:  # one by one: as one tree, 10,000 tags would take 5 MB more
            text += orjson.dumps(tag.definition(), option=orjson.OPT_SORT_KEYS)
            text += b","
        return bytes(text.removesuffix(b",")) + b"]}"

    @cached_property
    def fingerprint(self) -> bytes:
        """Sixteen bytes that name this definition (BLAKE2b of `definition`)."""
        return hashlib.blake2b(self.definition, digest_size=16).digest()

    @classmethod
    def from_definition(cls, definition: bytes) -> Self:
        """Rebuild a table from `definition`: all that readers of the data need, without the driver's part.

        Raises ValueError where the bytes are not a definition.
        """
        try:
            body = orjson.loads(definition)
            tags = tuple(
                Tag(
                    name=tag["name"],
                    address=tag.get("address", ""),
                    kind=Kind(body["kind"]),
                    type=tag.get("type", ""),
                    unit=tag.get("unit", ""),
                    description=tag.get("description", ""),
                    scale=Fraction(tag.get("scale", 1)),
                    offset=Fraction(tag.get("offset", 0)),
                    minimum=float(tag.get("min", -math.inf)),
                    maximum=float(tag.get("max", math.inf)),
                    states=tuple((int(number), text) for number, text in tag.get("states", {}).items()),
                )
                for tag in body["tags"]
            )
            return cls(body["device"], body["group"], Kind(body["kind"]), tags)
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"not a table definition: {error!r}") from error

    @cached_property
    def every(self) -> NDArray[np.uint32]:
        """The tag column of a full batch: 0, 1, 2, ... Shared; do not write to it."""
        column = np.arange(len(self.tags), dtype=np.uint32)
        column.flags.writeable = False
        return column

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags)


@dataclass(slots=True, eq=False)
class Batch:
    """Readings of one table as parallel columns: row i is tag[i], value[i], quality[i], time[i].

    tag: uint32 index into the table. value: the table's dtype. quality: uint32 StatusCode. time: int64 ns, the
    source's time where the protocol has one, else the moment the answer arrived. `backfill` marks readings that
    were fetched after the fact (history), not as they happened.
    """

    table: TagTable
    tag: NDArray[np.uint32]
    value: NDArray[Any]
    quality: NDArray[np.uint32]
    time: NDArray[np.int64]
    backfill: bool = False

    def __len__(self) -> int:
        return len(self.tag)

    @property
    def distinct(self) -> bool:
        """Whether no tag occurs twice."""
        return self.tag is self.table.every or int(np.bincount(self.tag, minlength=1).max()) < 2

    def take(self, rows: NDArray[Any]) -> Batch:
        """Give the batch of these rows (a mask or indexes)."""
        return Batch(self.table, self.tag[rows], self.value[rows], self.quality[rows], self.time[rows], self.backfill)

    @classmethod
    def bad(cls, table: TagTable, status: int, time: int) -> Batch:
        """One row per tag, all without a value and with this quality."""
        size = len(table)
        return cls(
            table,
            table.every,
            np.full(size, table.kind.nothing, dtype=table.kind.dtype),
            np.full(size, status, dtype=np.uint32),
            np.full(size, time, dtype=np.int64),
        )

    @classmethod
    def full(cls, table: TagTable, value: NDArray[Any], time: int, quality: NDArray[np.uint32] | None = None) -> Batch:
        """One row per tag in table order, read at one time; Good unless `quality` says otherwise."""
        size = len(table)
        return cls(
            table,
            table.every,
            value,
            np.full(size, q.GOOD, dtype=np.uint32) if quality is None else quality,
            np.full(size, time, dtype=np.int64),
        )


THINNED: Final = "thinned"
"""The reason of a gap that declares readings which a publisher left out to keep its budget. It has no record of its own
in the journal, and bears the number of one that was told in part."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A declared hole: between `start` and `end` (ns) readings are missing, and why.

    An empty device means all devices of the gateway, an empty group all groups of the device. `readings` is how
    many were lost, where that is known; `scans` how many scan instants passed without one. `first` and `last` are the
    journal sequences that are lost with them; 0 where none are, for nothing was read.
    """

    device: str
    group: str
    start: int
    end: int
    reason: str
    readings: int = 0
    scans: int = 0
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Tags of one device that are read together. `interval` and `phase` in ns; scans sit on k*interval + phase."""

    device: str
    name: str
    interval: int
    phase: int
    tables: tuple[TagTable, ...]
    options: Any = None  # the driver's model of the group's keys, with the device's where the group says nothing
    where: Where = Where()  # of its interval


@dataclass(frozen=True, slots=True)
class Device:
    """One peer on a link. `options` is the driver's own model of the device's keys."""

    name: str
    options: Any
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """One connection: a TCP endpoint, a serial line, a session. `options` is the driver's own model of its keys."""

    name: str
    driver: str
    options: Any
    devices: tuple[Device, ...]
    where: Where = Where()

    @property
    def tables(self) -> tuple[TagTable, ...]:
        return tuple(table for device in self.devices for group in device.groups for table in group.tables)


@dataclass(frozen=True, slots=True)
class Message:
    """What a sink sends: one payload, and the journal it speaks for.

    `first` and `last` are the journal sequences whose readings are inside, 0 where it carries no record. `properties`
    become MQTT 5 user properties.
    """

    topic: str
    payload: bytes
    first: int
    last: int
    readings: int
    retain: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)
    oldest: int = 0  # source time of the oldest reading inside, for the latency histogram

    @property
    def definition(self) -> bool:
        """Whether this says what readings mean, and is said anew in each session."""
        return self.retain and not self.readings


def split_by_kind(device: str, group: str, tags: Sequence[Tag]) -> tuple[TagTable, ...]:
    """Give the tables of a poll group: one per Kind that occurs, in a stable order."""
    tables = (TagTable(device, group, kind, tuple(tag for tag in tags if tag.kind is kind)) for kind in Kind)
    return tuple(table for table in tables if table.tags)
