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
out. Commands are Actions: gateway.encoders.opcua_actions.
"""

from __future__ import annotations

import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

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
from gateway.encoders.opcua_actions import Responder
from gateway.encoders.opcua_words import QUOTED, STATUS_CODE, Words, Writer, builtin_type, data_set, timestamp
from gateway.encoders.shares import Share
from gateway.encoders.texts import Texts, once
from gateway.memory import Memory
from gateway.model import Batch, Gap, Kind, Message, TagTable

if TYPE_CHECKING:
    from gateway.options import OpcuaJsonOptions

_EPOCH_2000: Final = 946_684_800  # s; versions are seconds since 2000-01-01
_ENVELOPE: Final = 512
_DISABLED, _OPERATIONAL, _ERROR = 0, 2, 3  # PubSubState
_GAPS: Final = ("gateway", "gaps")
_GAP_FIELDS: Final = {"device": 12, "group": 12, "start": 13, "end": 13, "reason": 12, "readings": 8, "scans": 8}
_SPECIAL: Final = {math.inf: b'"Infinity"', -math.inf: b'"-Infinity"'}


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
        commands: bool = False,
        clock: Callable[[], int] = time.time_ns,
        identify: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        """Prepare. `most`: readings in a message. `commands`: whether values may be set from outside."""
        self._options = options
        self._words = Words(options, options.publisher_id or gateway, clock, identify)
        self._memory = memory
        self._clock = clock
        self.max_message = max_message
        self._most = most or sys.maxsize  # readings in a message
        kept = memory.load().get("writers")
        self._kept: dict[str, dict[str, Any]] = kept if isinstance(kept, dict) else {}
        self._writers: dict[tuple[str, str], Writer] = {}
        self._plans: dict[bytes, _Plan] = {}
        self._drafts: dict[str, _Draft] = {}
        self._actions: dict[tuple[str, str], Writer] = {}
        for table in tables:
            self._extend(table)
        self._responder = Responder(self._words, tables, self._action) if commands else None
        self._settle()

    # ------------------------------------------------------------------------------------------------ session

    @property
    def limits(self) -> Limits:
        return Limits(payload=self.max_message)

    def credentials(self) -> Credentials | None:
        return None

    def will(self) -> Will | None:
        return Will(self._words.topic("status"), self._status(_ERROR), qos=1, retain=True)

    def subscriptions(self) -> tuple[Subscription, ...]:
        return self._responder.subscriptions() if self._responder is not None else ()

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        """Say who publishes what; all of it retained."""
        said = [note(self._words.topic("connection"), self._connection(), True)]
        said += [self._metadata(writer) for writer in self._writers.values() if writer.fields]
        said += self._responder.begin() if self._responder is not None else ()
        return [*said, note(self._words.topic("status"), self._status(_OPERATIONAL), True)]

    def reset(self) -> None:
        """Nothing: `begin` starts a session."""

    def end(self) -> list[Message]:
        return [note(self._words.topic("status"), self._status(_DISABLED), True)]

    def tick(self) -> Heard:
        return NOTHING

    def received(self, topic: str, payload: bytes) -> Heard:
        return self._responder.received(topic, payload) if self._responder is not None else unexpected(topic)

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        return self._responder.answer(command, results) if self._responder is not None else []

    # ------------------------------------------------------------------------------------------------ writers

    def _writer(self, group: str, name: str) -> Writer:
        if (group, name) not in self._writers:
            self._writers[group, name] = self._numbered(Writer(group, name, 0, 0))
        return self._writers[group, name]

    def _action(self, group: str, name: str) -> Writer:
        if (group, name) not in self._actions:
            self._actions[group, name] = self._numbered(Writer(group, name, 0, 0, action=True))
        return self._actions[group, name]

    def _numbered(self, writer: Writer) -> Writer:
        """Give a writer the number and version that it had, or a number that no other has."""
        kept = self._kept.get(writer.kept, {})
        writer.number = kept.get("id") or self._free()
        writer.version = kept.get("version", 0)
        return writer

    def _free(self) -> int:
        taken = {each.number for each in self._all()} | {each["id"] for each in self._kept.values()}
        return next(each for each in range(1, 65536) if each not in taken)

    def _all(self) -> list[Writer]:
        return [*self._writers.values(), *self._actions.values()]

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
        for writer in self._all():
            kept = self._kept.get(writer.kept, {})
            if kept.get("shape") != writer.shape():
                writer.version = max(now, writer.version + 1)
            self._kept[writer.kept] = {"id": writer.number, "version": writer.version, "shape": writer.shape()}
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
        quoted = b'"' if kind in QUOTED else b""
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
        return code if self._options.encoding == "plain" else self._opening(STATUS_CODE) + code + b"}"

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
        names = (orjson.dumps(each) for each in (self._words.identify(), self._words.publisher, group))
        content = head % tuple(names) + b",".join(draft.parts) + b"]}"
        messages.append(draft.share.message(self._words.topic("data", group), content))

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

    def _status(self, state: int) -> bytes:
        return self._words.message("ua-status", IsCyclic=False, Status=state)

    def _connection(self) -> bytes:
        connection = self._words.connection(list(self._writers.values()))
        return self._words.message("ua-connection", Timestamp=self._words.now(), Connection=connection)

    def _metadata(self, writer: Writer) -> Message:
        content = self._words.message(
            "ua-metadata",
            DataSetWriterId=writer.number,
            WriterGroupName=writer.group,
            DataSetWriterName=writer.name,
            Timestamp=self._words.now(),
            MetaData=data_set(writer, writer.fields, self._options),
        )
        return note(self._words.topic("metadata", writer.group, writer.name), content, True)
