"""OPC UA PubSub as JSON over MQTT (OPC 10000-14, 7.2.5 and 7.3.4): what OPC UA subscribers read without a server.

    topic below {prefix}/json/                            retained   message
    data/{publisher}/{device}                             no         ua-data: DataSetMessages of one device
    metadata/{publisher}/{device}/{group}                 yes        ua-metadata: names, types, units, ranges
    status/{publisher}                                    yes        ua-status: Operational; the will says Error
    connection/{publisher}                                yes        ua-connection: which writers there are

A device is a WriterGroup, a poll group a DataSetWriter; what is declared missing is the writer "gaps" of the group
"gateway". A message with all fields of its writer is a key frame, any other a delta frame. Ids and metadata versions
are kept over restarts, so that a reader that was away knows whether it must read the metadata again.

`fields` says what a field is: data-value has value, status and source time; variant the value, or the status where it
is Bad; raw the bare value, null where it is Bad. In the last two the time is that of the DataSetMessage. `encoding`
says whether a value bears its type. 64-bit integers are strings, as are NaN and the infinities; a Good status is left
out. There are no commands in this format.
"""

from __future__ import annotations

import math
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import numpy as np
import orjson

from gateway import quality as q
from gateway.commands import Result
from gateway.contracts import Record
from gateway.dialects import (
    NOTHING,
    SECOND,
    Command,
    Credentials,
    Heard,
    Limits,
    Subscription,
    Will,
    note,
    unexpected,
)
from gateway.encoders.shares import Share
from gateway.encoders.texts import Form, Texts, form, once
from gateway.memory import Memory
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import OpcuaJsonOptions

_TRANSPORT: Final = "http://opcfoundation.org/UA-Profile/Transport/pubsub-mqtt-json"
_EPOCH_2000: Final = 946_684_800  # s; versions are seconds since 2000-01-01
_TICK: Final = 100  # ns; DateTime is a number of these
_ENVELOPE: Final = 512
_DISABLED, _OPERATIONAL, _ERROR = 0, 2, 3  # PubSubState
_STATUS_CODE: Final = 19  # the built-in type
_GAPS: Final = ("gateway", "gaps")
_GAP_FIELDS: Final = {"device": 12, "group": 12, "start": 13, "end": 13, "reason": 12, "readings": 8, "scans": 8}
_WHOLE: Final = {
    "int8": 2, "uint8": 3, "int16": 4, "uint16": 5, "int32": 6, "uint32": 7, "bcd16": 5, "bcd32": 7,
}  # fmt: skip
_OF_KIND: Final = {Kind.BOOL: 1, Kind.INT: 8, Kind.UINT: 9, Kind.TEXT: 12}
_QUOTED: Final = (8, 9)
_SPECIAL: Final = {math.inf: b'"Infinity"', -math.inf: b'"-Infinity"'}


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
    """A DataSetWriter: one poll group of one device."""

    group: str  # of writers: the device
    name: str
    number: int
    version: int
    fields: dict[str, int] = field(default_factory=dict)  # built-in types by name
    tags: dict[str, Tag] = field(default_factory=dict)
    sequence: int = 0
    told: bool = False

    @property
    def key(self) -> str:
        return f"{self.group}/{self.name}"

    def shape(self) -> str:
        """Give what a change of makes a new version."""
        return " ".join(f"{kind}:{name}" for name, kind in self.fields.items())


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What a table's rows look like; made once. A field is front, value, and an end that depends on status and time."""

    writer: Writer
    texts: Texts
    fronts: list[bytes]
    names: list[bytes]  # as fronts, but for rows without a value
    end: bytes  # all fields of a table end alike: a table has one Kind


@dataclass(slots=True, eq=False)
class _Draft:
    """A NetworkMessage that is being filled."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    share: Share = field(default_factory=Share)


class OpcuaJson:
    """A publisher: a Dialogue (gateway.dialects.dialogue)."""

    ready = True
    ordered = True

    def __init__(
        self,
        options: OpcuaJsonOptions,
        gateway: str,
        tables: Sequence[TagTable],
        memory: Memory,
        *,
        max_message: int = 256_000,
        most: int | None = None,
        clock: Callable[[], int] = time.time_ns,
        identify: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._options = options
        self._publisher = options.publisher_id or gateway
        self._memory = memory
        self._clock = clock
        self._identify = identify
        self.max_message = max_message
        self._most = most or sys.maxsize  # readings in a message
        kept = memory.load().get("writers")
        self._kept: dict[str, dict[str, Any]] = kept if isinstance(kept, dict) else {}
        self._writers: dict[tuple[str, str], Writer] = {}
        self._plans: dict[bytes, _Plan] = {}
        self._drafts: dict[str, _Draft] = {}
        for table in tables:
            self._extend(table)
        self._settle()

    # ------------------------------------------------------------------------------------------------ session

    @property
    def limits(self) -> Limits:
        return Limits(payload=self.max_message)

    def credentials(self) -> Credentials | None:
        return None

    def will(self) -> Will | None:
        return Will(self._topic("status"), self._status(_ERROR), qos=1, retain=True)

    def subscriptions(self) -> tuple[Subscription, ...]:
        return ()

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        """Say who publishes what; all of it retained."""
        said = [note(self._topic("connection"), self._connection(), True)]
        said += [self._metadata(writer) for writer in self._writers.values() if writer.fields]
        return [*said, note(self._topic("status"), self._status(_OPERATIONAL), True)]

    def reset(self) -> None:
        """Nothing: `begin` starts a session."""

    def end(self) -> list[Message]:
        return [note(self._topic("status"), self._status(_DISABLED), True)]

    def tick(self) -> Heard:
        return NOTHING

    def received(self, topic: str, payload: bytes) -> Heard:
        return unexpected(topic)

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        return []

    # ------------------------------------------------------------------------------------------------ writers

    def _writer(self, group: str, name: str) -> Writer:
        writer = self._writers.get((group, name))
        if writer is None:
            kept = self._kept.get(f"{group}/{name}", {})
            taken = {each.number for each in self._writers.values()} | {each["id"] for each in self._kept.values()}
            number = kept.get("id") or next(each for each in range(1, 65536) if each not in taken)
            writer = self._writers[group, name] = Writer(group, name, number, kept.get("version", 0))
        return writer

    def _extend(self, table: TagTable) -> bool:
        """Make sure that a table's fields are those of its writer; whether something changed."""
        writer = self._writer(table.device, table.group)
        before = dict(writer.fields)
        for tag in table.tags:
            writer.fields[tag.name], writer.tags[tag.name] = builtin_type(tag), tag
        return before != writer.fields

    def _settle(self) -> None:
        """Give writers whose fields changed a new version, and keep all of it."""
        now = self._clock() // SECOND - _EPOCH_2000
        for writer in self._writers.values():
            kept = self._kept.get(writer.key, {})
            if kept.get("shape") != writer.shape():
                writer.version = max(now, writer.version + 1)
            self._kept[writer.key] = {"id": writer.number, "version": writer.version, "shape": writer.shape()}
        self._memory.save({"writers": self._kept})

    def _plan(self, table: TagTable) -> _Plan:
        plan = self._plans.get(table.fingerprint)
        if plan is None:
            writer = self._writer(table.device, table.group)
            kinds = [builtin_type(tag) for tag in table.tags]
            names = [b"," + orjson.dumps(tag.name) + b":" for tag in table.tags]
            around = [self._around(kind) for kind in kinds]
            fronts = [name + front for name, (front, _) in zip(names, around, strict=True)]
            plan = _Plan(writer, Texts(table), fronts, names, around[0][1])
            self._plans[table.fingerprint] = plan
        return plan

    def _opening(self, kind: int) -> bytes:
        """Give the beginning of a Variant of this type."""
        if self._options.encoding == "plain":
            return b""
        return (b'{"Type":%d,"Body":' if self._options.encoding == "reversible" else b'{"UaType":%d,"Value":') % kind

    def _around(self, kind: int) -> tuple[bytes, bytes]:
        """Give what stands before and behind a value of this type, without status and time."""
        quoted = b'"' if kind in _QUOTED else b""
        opening = b"" if self._options.fields == "raw" else self._opening(kind)
        closing = b"" if not opening else b"}"
        if self._options.fields == "data-value":
            if self._options.encoding == "reversible":
                return b'{"Value":' + opening + quoted, quoted + closing
            return (opening or b'{"Value":') + quoted, quoted
        return opening + quoted, quoted + closing

    # ------------------------------------------------------------------------------------------------ data

    def prepare(self, records: Sequence[Record]) -> list[Message]:
        return []

    def encode(self, records: Sequence[Record]) -> list[Message]:
        messages: list[Message] = []
        for record in records:
            if isinstance(record.content, Gap):
                self._gap(messages, record.sequence, record.content)
            else:
                self._batch(messages, record.sequence, record.content)
        for device in list(self._drafts):
            self._close(messages, device)
        return messages

    def _batch(self, messages: list[Message], sequence: int, batch: Batch) -> None:
        if batch.table.fingerprint not in self._plans and self._extend(batch.table):
            self._renew(messages, self._writer(batch.table.device, batch.table.group))
        plan = self._plan(batch.table)
        for part in self._parts(batch):
            self._put(messages, sequence, plan, part, self._fields(plan, part))

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """Cut a batch so that no tag occurs twice in a part; where fields bear no time, into one part per time."""
        if self._options.fields != "data-value":
            order = np.argsort(batch.time, kind="stable")
            batch = batch.take(order)
            cuts = [0, *(np.flatnonzero(batch.time[1:] != batch.time[:-1]) + 1).tolist(), len(batch)]
        elif batch.distinct:
            yield batch
            return
        else:
            cuts = [0, len(batch)]
        for start, stop in pairwise(cuts):
            for rows in once(batch.tag.tolist(), start, stop):
                yield batch.take(np.arange(rows.start, rows.stop))

    def _fields(self, plan: _Plan, batch: Batch) -> list[bytes]:
        """Give each row as `,"name":...`."""
        tags = batch.tag.tolist()
        stamped = self._options.fields == "data-value"
        parts = [b""] * (3 * len(tags))
        parts[0::3] = [plan.fronts[tag] for tag in tags]
        parts[1::3] = self._values(plan, batch)
        parts[2::3] = self._stamps(batch, plan.end) if stamped else [plan.end] * len(tags)
        for row in np.flatnonzero(batch.quality).tolist() if batch.quality.any() else ():
            stamp = self._stamp(batch, row) if stamped else b""
            if batch.quality[row] < q.BAD:
                parts[3 * row + 2] = plan.end + stamp
                continue
            parts[3 * row : 3 * row + 3] = plan.names[tags[row]], self._nothing(int(batch.quality[row])), stamp
        return parts

    def _values(self, plan: _Plan, batch: Batch) -> list[bytes]:
        values = plan.texts.values(batch)
        if batch.table.kind is Kind.FLOAT and not np.isfinite(batch.value).all():
            for row in np.flatnonzero(~np.isfinite(batch.value)).tolist():
                values[row] = _SPECIAL.get(float(batch.value[row]), b'"NaN"')
        return values

    def _stamps(self, batch: Batch, end: bytes) -> list[bytes]:
        """Give the end of each row's DataValue, as if all were Good: the source time."""
        cuts = [0, *(np.flatnonzero(batch.time[1:] != batch.time[:-1]) + 1).tolist(), len(batch)]
        stamps: list[bytes] = []
        for start, stop in pairwise(cuts):
            said = end + b',"SourceTimestamp":"' + timestamp(int(batch.time[start])) + b'"}'
            stamps += [said] * (stop - start)
        return stamps

    def _stamp(self, batch: Batch, row: int) -> bytes:
        status = int(batch.quality[row])
        said = b',"Status":' + self._code(status) if status else b""
        return said + b',"SourceTimestamp":"' + timestamp(int(batch.time[row])) + b'"}'

    def _code(self, status: int) -> bytes:
        return b"%d" % status if self._options.encoding == "reversible" else b'{"Code":%d}' % status

    def _nothing(self, status: int) -> bytes:
        """Give what stands for the value of a Bad row."""
        if self._options.fields == "raw":
            return b"null"
        if self._options.fields == "data-value":
            return b'{"Value":null'
        code = self._code(status)
        return code if self._options.encoding == "plain" else self._opening(_STATUS_CODE) + code + b"}"

    def _put(self, messages: list[Message], sequence: int, plan: _Plan, batch: Batch, parts: list[bytes]) -> None:
        """Put a DataSetMessage into the device's NetworkMessage; halve it where it does not fit in one."""
        fields = b"".join(parts)
        rows = len(batch)
        if rows > 1 and (rows > self._most or len(fields) + 2 * _ENVELOPE > self.max_message):
            half = rows // 2
            for rows_, part in (
                (np.arange(half), parts[: 3 * half]),
                (np.arange(half, rows), parts[3 * half :]),
            ):
                self._put(messages, sequence, plan, batch.take(rows_), part)
            return
        whole = rows == len(plan.writer.fields)
        when = self._clock() if self._options.fields == "data-value" else int(batch.time[0])
        message = self._data_set(plan.writer, whole, when, fields[1:])
        self._add(messages, plan.writer.group, message, sequence, rows, int(batch.time.min()))

    def _add(self, messages: list[Message], group: str, message: bytes, sequence: int, rows: int, oldest: int) -> None:
        draft = self._drafts.setdefault(group, _Draft())
        too_large = draft.size + len(message) + _ENVELOPE > self.max_message
        if draft.parts and (too_large or draft.share.readings + rows > self._most):
            self._close(messages, group)
            draft = self._drafts.setdefault(group, _Draft())
        draft.parts.append(message)
        draft.size += len(message) + 1
        draft.share.take(sequence, rows, oldest)

    def _data_set(self, writer: Writer, whole: bool, when: int, fields: bytes) -> bytes:
        writer.sequence = writer.sequence % 0xFFFFFFFF + 1
        head = (
            b'{"DataSetWriterId":%d,"DataSetWriterName":%s,"SequenceNumber":%d,'
            b'"MetaDataVersion":{"MajorVersion":%d,"MinorVersion":%d},"Timestamp":"%s","MessageType":"%s","Payload":{'
        )
        kind = b"ua-keyframe" if whole else b"ua-deltaframe"
        name, version = orjson.dumps(writer.name), writer.version
        return head % (writer.number, name, writer.sequence, version, version, timestamp(when), kind) + fields + b"}}"

    def _close(self, messages: list[Message], group: str) -> None:
        draft = self._drafts.pop(group)
        head = b'{"MessageId":%s,"MessageType":"ua-data","PublisherId":%s,"WriterGroupName":%s,"Messages":['
        names = (orjson.dumps(each) for each in (self._identify(), self._publisher, group))
        content = head % tuple(names) + b",".join(draft.parts) + b"]}"
        messages.append(draft.share.message(self._topic("data", group), content))

    def _gap(self, messages: list[Message], sequence: int, gap: Gap) -> None:
        writer = self._writer(*_GAPS)
        if not writer.fields:
            writer.fields = dict(_GAP_FIELDS)
            self._renew(messages, writer)
        texts = [
            *(orjson.dumps(each) for each in (gap.device, gap.group)),
            *(b'"' + timestamp(each) + b'"' for each in (gap.start, gap.end)),
            orjson.dumps(gap.reason),
            *(b"%d" % each for each in (gap.readings, gap.scans)),
        ]
        stamp = b',"SourceTimestamp":"' + timestamp(gap.end) + b'"}' if self._options.fields == "data-value" else b""
        fields = b""
        for (name, kind), said in zip(writer.fields.items(), texts, strict=True):
            front, end = self._around(kind)
            fields += b',"' + name.encode() + b'":' + front + said + end + stamp
        message = self._data_set(writer, True, gap.end, fields[1:])
        self._add(messages, writer.group, message, sequence, 0, gap.end)

    def _renew(self, messages: list[Message], writer: Writer) -> None:
        """Tell a writer's new fields, behind what was written with the old ones."""
        self._settle()
        self._plans.clear()
        if writer.group in self._drafts:
            self._close(messages, writer.group)
        messages.append(self._metadata(writer))

    # ------------------------------------------------------------------------------------------------ discovery

    def _topic(self, word: str, *names: str) -> str:
        return "/".join((self._options.prefix, "json", word, *(_level(each) for each in (self._publisher, *names))))

    def _message(self, kind: str, **content: Any) -> bytes:
        head = {"MessageId": self._identify(), "MessageType": kind, "PublisherId": self._publisher}
        return orjson.dumps({**head, **content})

    def _status(self, state: int) -> bytes:
        return self._message("ua-status", IsCyclic=False, Status=state)

    def _connection(self) -> bytes:
        groups: dict[str, list[Writer]] = {}
        for writer in self._writers.values():
            groups.setdefault(writer.group, []).append(writer)
        listed = [
            {"Name": name, "Enabled": True, "WriterGroupId": number, "DataSetWriters": [_described(w) for w in writers]}
            for number, (name, writers) in enumerate(groups.items(), 1)
        ]
        connection = {
            "Name": self._publisher,
            "Enabled": True,
            "PublisherId": {"UaType": 12, "Value": self._publisher},
            "TransportProfileUri": _TRANSPORT,
            "WriterGroups": listed,
        }
        return self._message("ua-connection", Timestamp=self._now(), Connection=connection)

    def _metadata(self, writer: Writer) -> Message:
        version = {"MajorVersion": writer.version, "MinorVersion": writer.version}
        fields = [_field(writer, name, kind) for name, kind in writer.fields.items()]
        content = self._message(
            "ua-metadata",
            DataSetWriterId=writer.number,
            WriterGroupName=writer.group,
            DataSetWriterName=writer.name,
            Timestamp=self._now(),
            MetaData={"Name": writer.key, "Fields": fields, "ConfigurationVersion": version},
        )
        return note(self._topic("metadata", writer.group, writer.name), content, True)

    def _now(self) -> str:
        return timestamp(self._clock()).decode()


def _level(name: str) -> str:
    """Give a name as one level of a topic: what cannot stand there is percent-encoded."""
    return re.sub(r"[%/+#\0]", lambda found: f"%{ord(found[0]):02X}", name)


def timestamp(when: int) -> bytes:
    """Give ns since 1970 as a DateTime: milliseconds, or as many digits as it has, at most to 100 ns."""
    seconds, rest = divmod(when, SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    digits = f"{rest // _TICK:07d}".rstrip("0").ljust(3, "0")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{digits}Z".encode()


def _described(writer: Writer) -> dict[str, Any]:
    return {"Name": writer.name, "Enabled": True, "DataSetWriterId": writer.number, "DataSetName": writer.key}


def _field(writer: Writer, name: str, kind: int) -> dict[str, Any]:
    tag = writer.tags.get(name)
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{writer.key}/{name}"))
    described: dict[str, Any] = {"Name": name, "BuiltInType": kind, "DataType": {"Id": kind}, "ValueRank": -1}
    described["DataSetFieldId"] = identity
    if tag is None:
        return described
    if tag.description:
        described["Description"] = {"Text": tag.description}
    properties: list[dict[str, Any]] = []
    if tag.unit:
        properties.append(_property("EngineeringUnits", {"DisplayName": {"Text": tag.unit}}))
    if math.isfinite(tag.minimum) and math.isfinite(tag.maximum):
        properties.append(_property("EURange", {"Low": tag.minimum, "High": tag.maximum}))
    if tag.states:
        values = [{"Value": str(number), "DisplayName": {"Text": said}} for number, said in tag.states]
        properties.append(_property("EnumValues", values))
    return {**described, "Properties": properties} if properties else described


def _property(name: str, value: object) -> dict[str, Any]:
    return {"Key": {"Name": name}, "Value": {"UaType": 22, "Value": value}}
