"""Sparkplug B 3.0: the edge node as a state machine without I/O. Payloads are made by its neighbours sparkplug_*.

    begin ──▶ WAITING for the primary host's STATE ──online──▶ BORN ──host offline, end()──▶ OUT
       └────────── no primary host is configured ────────────────▲│
                                                     rebirth └──┘

- bdSeq counts CONNECTs (0..255, round), is in the will and in the NBIRTH of its session, and is kept over restarts. seq
  counts messages of a session from NBIRTH's 0. So messages must leave in the order in which they were given, all of
  them, each once; a rebirth starts seq again behind them.
- Births show the newest readings. Records that were in the journal when the session began (the backlog after an outage)
  are sent with is_historical and their own times; later ones are live.
- A device that is lost (gateway.encoders.current) dies, and is born again by its next reading. A lost device whose
  backlog is being sent is born for that, and dies again when nothing has been sent for it for five seconds.
- The host's STATE decides only as JSON with online and timestamp (3.0); an older timestamp than seen in this session is
  ignored. With other brokers to go to, an offline host means to leave, and so does one of which nothing is heard for
  PATIENCE (a STATE is retained: it comes with the subscription); with one broker only, to die and to wait.
- Everything is QoS 0, as the standard wants: what was sent last before a loss may be lost, and it is the publisher that
  sends it again (gateway.dialects.dialogue). A gap is told as the node's metric PlantBridge/Gap.

docs/conformance/sparkplug.md lists the standard's rules and the tests that hold this module to them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from gateway import __version__
from gateway.commands import Cause, Result, Value
from gateway.contracts import Record
from gateway.dialects import (
    MILLISECOND,
    NOTHING,
    SECOND,
    Command,
    Credentials,
    Heard,
    Limits,
    Refused,
    Subscription,
    Will,
    achieved,
    note,
    unexpected,
)
from gateway.encoders.current import Current, is_loss
from gateway.encoders.shares import Share
from gateway.encoders.sparkplug_births import (
    BDSEQ,
    GAP,
    GAP_ALIAS,
    NEXT_SERVER,
    REBIRTH,
    VERSION,
    VERSION_ALIAS,
    Catalogue,
    Device,
    id_problem,
)
from gateway.encoders.sparkplug_columns import Shape
from gateway.encoders.sparkplug_payload import (
    OVERHEAD,
    DataType,
    Metric,
    decode,
    metric_field,
    milliseconds,
    payload,
)
from gateway.memory import Memory
from gateway.model import Batch, Gap, Message, TagTable

if TYPE_CHECKING:
    from gateway.options import SparkplugOptions

NAMESPACE: Final = "spBv1.0"
QUIET: Final = 5 * SECOND  # a lost device that was born for its backlog dies after this
PATIENCE: Final = 10 * SECOND  # that a broker has to show the primary host's STATE, where there are others
_NODE_COMMANDS: Final = (REBIRTH, NEXT_SERVER)
ISOLATE: Final = "PlantBridge/Isolate"  # stops all writes; where commands are on


class Stage(Enum):
    """Where a session is."""

    OUT = "out"
    WAITING = "waiting"
    BORN = "born"


@dataclass(slots=True, eq=False)
class _Draft:
    """A DDATA that is being filled."""

    device: Device
    parts: list[Any] = field(default_factory=list)
    size: int = 0
    latest: int = 0  # ms of the last live metric
    share: Share = field(default_factory=Share)


class EdgeNode:
    """One edge node: a Dialogue (gateway.dialects.dialogue)."""

    ordered = True

    def __init__(
        self,
        options: SparkplugOptions,
        gateway: str,
        tables: Sequence[TagTable],
        memory: Memory,
        *,
        max_message: int = 256_000,
        most: int | None = None,
        brokers: int = 1,
        commands: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare. `most`: metrics in a DDATA. Raises ValueError for an id that Sparkplug does not allow."""
        self._group, self._node = options.group, options.node or gateway
        self._host = options.primary_host
        for each in (self._group, self._node, *({table.device for table in tables})):
            if problem := id_problem(each):
                raise ValueError(problem)
        self.max_message = max_message
        self._most = most or sys.maxsize
        self._memory = memory
        self._brokers = brokers
        self._commands = commands
        self._clock = clock
        self._catalogue = Catalogue(tables, commands, options.datatype_in_data)
        self._current = Current(tables)
        self._stage = Stage.OUT
        self._seq = 0
        self._bdseq = 0
        self._death = b""
        self._host_time = -1  # ms, of the newest STATE in this session
        self._began = 0  # ns, the session
        self._upto = 0  # records up to this sequence are history
        self._drafts: dict[str, _Draft] = {}
        self._troubles: list[str] = self._catalogue.problems()
        self._told: set[bytes] = set()

    # ------------------------------------------------------------------------------------------------ session

    @property
    def limits(self) -> Limits:
        return Limits(payload=self.max_message, qos=0)

    @property
    def ready(self) -> bool:
        return self._stage is Stage.BORN

    def credentials(self) -> Credentials | None:
        return None

    def will(self) -> Will:
        """Count a CONNECT: a new bdSeq, kept before it is used."""
        kept = self._memory.load().get(BDSEQ)
        self._bdseq = (kept + 1) % 256 if isinstance(kept, int) else 0
        self._memory.save({BDSEQ: self._bdseq})
        self._death = payload(self._now_ms(), None, self._bdseq_metric())
        return Will(self._topic("NDEATH"), self._death, qos=1, retain=False)

    def subscriptions(self) -> tuple[Subscription, ...]:
        wanted = [Subscription(self._topic("NCMD"), 1)]
        if self._commands:
            devices = [device for device in self._catalogue.devices.values() if device.writable]
            wanted += [Subscription(self._topic("DCMD", device.name), 1) for device in devices]
        if self._host is not None:
            wanted.append(Subscription(f"{NAMESPACE}/STATE/{self._host}", 1))
        return tuple(wanted)

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        """Start a session: births at once, or when the primary host is online."""
        self._host_time, self._upto, self._began = -1, upto, self._clock()
        for batch in current:
            if self._catalogue.configured(batch.table):
                self._current.take(batch)
        if self._host is not None:
            self._stage = Stage.WAITING
            return []
        return self._births()

    def reset(self) -> None:
        """Nothing: `begin` starts a session."""

    def end(self) -> list[Message]:
        """Die in order: NDEATH before DISCONNECT."""
        born, self._stage = self._stage is Stage.BORN, Stage.OUT
        return [note(self._topic("NDEATH"), self._death)] if born else []

    def tick(self) -> Heard:
        """Let lost devices die whose backlog is sent, and say what went wrong since the last call."""
        troubles, self._troubles = tuple(self._troubles), []
        if not self.ready:
            return Heard(troubles=troubles, leave=self._unheard())
        before = self._clock() - QUIET
        quiet = [each for each in self._catalogue.devices.values() if each.born and each.last_sent <= before]
        lost = [each for each in quiet if self._current.lost(each.name)]
        deaths = tuple(note(self._topic("DDEATH", each.name), self._ddeath(each)) for each in lost)
        return Heard(send=deaths, troubles=troubles)

    def _unheard(self) -> str:
        """Say why to go to the next broker, where this one knows nothing of the primary host."""
        waited = self._clock() - self._began >= PATIENCE
        if self._stage is Stage.WAITING and self._host_time < 0 and self._brokers > 1 and waited:
            return f"this broker has no STATE of the primary host {self._host}"
        return ""

    # ------------------------------------------------------------------------------------------------ births, deaths

    def _births(self) -> list[Message]:
        self._stage = Stage.BORN
        now = self._now_ms()
        fields = [
            self._bdseq_metric(now),
            metric_field(Metric(REBIRTH, None, now, DataType.BOOLEAN, False)),
            metric_field(Metric(GAP, GAP_ALIAS, now, DataType.STRING, None)),
            metric_field(Metric(VERSION, VERSION_ALIAS, now, DataType.STRING, __version__)),
        ]
        if self._commands:
            fields.append(metric_field(Metric(ISOLATE, None, now, DataType.BOOLEAN, False)))
        if self._brokers > 1:
            fields.append(metric_field(Metric(NEXT_SERVER, None, now, DataType.BOOLEAN, False)))
        self._seq = 0
        births = [note(self._topic("NBIRTH"), payload(now, 0, *fields))]
        for device in self._catalogue.devices.values():
            device.born = False
            if not self._current.lost(device.name):
                births.append(note(self._topic("DBIRTH", device.name), self._dbirth(device)))
        return births

    def _dbirth(self, device: Device) -> bytes:
        device.born, device.last_sent = True, self._clock()
        newest = [self._current.of(table) for table in device.tables]
        return payload(self._now_ms(), self._next(), *device.birth(newest, self._clock()))

    def _ddeath(self, device: Device) -> bytes:
        device.born = False
        return payload(self._now_ms(), self._next())

    def _bdseq_metric(self, now: int | None = None) -> bytes:
        return metric_field(Metric(BDSEQ, None, now, DataType.INT64, self._bdseq))

    def _next(self) -> int:
        self._seq = (self._seq + 1) % 256
        return self._seq

    def _now_ms(self) -> int:
        return milliseconds(self._clock())

    def _topic(self, word: str, device: str = "") -> str:
        return "/".join(filter(None, (NAMESPACE, self._group, word, self._node, device)))

    # ------------------------------------------------------------------------------------------------ data

    def prepare(self, records: Sequence[Record]) -> list[Message]:
        return []

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Give the messages for records."""
        if self._stage is not Stage.BORN:
            raise RuntimeError("data were given to a Sparkplug node that is not born")
        messages: list[Message] = []
        for record in records:
            if isinstance(record.content, Gap):
                self._gap(messages, record.sequence, record.content)
            else:
                self._batch(messages, record.sequence, record.content)
        for device in list(self._drafts):
            self._close(messages, device)
        self._drafts.clear()
        return messages

    def _gap(self, messages: list[Message], sequence: int, gap: Gap) -> None:
        what = {name: getattr(gap, name) for name in ("device", "group", "start", "end", "reason", "readings", "scans")}
        metric = Metric(None, GAP_ALIAS, milliseconds(gap.end), None, orjson.dumps(what).decode())
        content = payload(self._now_ms(), self._next(), metric_field(metric, DataType.STRING))
        messages.append(Message(self._topic("NDATA"), content, sequence, sequence, 0))

    def _batch(self, messages: list[Message], sequence: int, batch: Batch) -> None:
        device = self._catalogue.devices.get(batch.table.device)
        shape = self._catalogue.shape(batch.table)
        if not shape.published:
            published = shape.alias[batch.tag] != 0
            self._say_unpublished(batch.table, int((~published).sum()))
            batch = batch.take(published)
        if device is None or not len(batch):
            return
        old = sequence <= self._upto or batch.backfill or not self._catalogue.configured(batch.table)
        if not old:
            self._current.take(batch)
        lost = is_loss(batch)
        if not device.born:
            if lost:
                return  # the host knows since the device's death
            birth, topic = self._dbirth(device), self._topic("DBIRTH", device.name)
            messages.append(Message(topic, birth, sequence, sequence, len(batch), oldest=_oldest(batch)))
            if not old and batch.distinct:
                return  # all of it is in the birth
            old = True
        self._data(messages, sequence, device, shape, batch, old)
        if lost and not old and self._current.lost(device.name):
            self._close(messages, device.name)
            messages.append(Message(self._topic("DDEATH", device.name), self._ddeath(device), sequence, sequence, 0))

    def _data(
        self, messages: list[Message], sequence: int, device: Device, shape: Shape, batch: Batch, old: bool
    ) -> None:
        """Put a batch into the device's message, into further ones where it does not fit or would go back in time."""
        draft = self._draft(device)
        if not old:
            stamp = batch.time // MILLISECOND
            if len(batch) > 1 and bool((stamp[1:] < stamp[:-1]).any()):
                batch = batch.take(np.argsort(stamp, kind="stable"))
            if int(stamp.min()) < draft.latest:
                draft = self._close(messages, device.name)
            latest = int(stamp.max())
        metrics = shape.encode(batch, old)
        start, oldest = 0, _oldest(batch)
        while start < len(metrics):
            room = self.max_message - OVERHEAD - draft.size
            stop = min(metrics.fits(start, room), start + max(1, self._most - draft.share.readings), len(metrics))
            part = metrics.part(start, stop)
            if draft.parts and (len(part) > room or draft.share.readings >= self._most):
                draft = self._close(messages, device.name)
                continue
            draft.parts.append(part)
            draft.size += len(part)
            draft.share.take(sequence, stop - start, oldest)
            start = stop
            if start < len(metrics):
                draft = self._close(messages, device.name)
        if not old:
            draft.latest = latest

    def _draft(self, device: Device) -> _Draft:
        return self._drafts.setdefault(device.name, _Draft(device))

    def _close(self, messages: list[Message], name: str) -> _Draft:
        """Make a message of the device's draft, where there is anything in it, and begin another."""
        device = self._catalogue.devices[name]
        draft = self._drafts.pop(name, None)
        if draft is not None and draft.parts:
            device.last_sent = self._clock()
            content = payload(self._now_ms(), self._next(), *draft.parts)
            messages.append(draft.share.message(self._topic("DDATA", name), content))
        return self._draft(device)

    def _say_unpublished(self, table: TagTable, rows: int) -> None:
        if rows and table.fingerprint not in self._told:
            self._told.add(table.fingerprint)
            self._troubles.append(
                f"{table.device}/{table.group}: readings from before a change of configuration are not published, "
                "for their metrics are not in the present birth"
            )

    # ------------------------------------------------------------------------------------------------ incoming

    def received(self, topic: str, payload: bytes) -> Heard:
        """Read a STATE or a command."""
        if self._host is not None and topic == f"{NAMESPACE}/STATE/{self._host}":
            return self._state(payload)
        if topic == self._topic("NCMD"):
            return self._node_command(topic, payload)
        device = topic.removeprefix(self._topic("DCMD") + "/")
        if device != topic:
            return self._device_command(topic, device, payload)
        return unexpected(topic)

    def _state(self, content: bytes) -> Heard:
        state = _host_state(content)
        if state is None:
            return Heard(troubles=(f"the STATE of {self._host} is not that of a Sparkplug 3.0 host",))
        online, stamp = state
        if stamp < self._host_time or self._stage is Stage.OUT:
            return NOTHING
        self._host_time = stamp
        if online:
            return Heard(send=tuple(self._births())) if self._stage is Stage.WAITING else NOTHING
        if self._brokers > 1 or self._stage is Stage.BORN:
            return Heard(send=tuple(self.end()), leave=f"the primary host {self._host} is offline")
        return NOTHING  # the only broker: wait here

    def _node_command(self, topic: str, content: bytes) -> Heard:
        try:
            metrics = decode(content).metrics
        except ValueError as error:
            return Heard(refused=(Refused(topic, f"not a Sparkplug payload: {error}"),))
        known = (*_NODE_COMMANDS, ISOLATE) if self._commands else _NODE_COMMANDS
        refused = [
            Refused(topic, f"the node has no command {metric.name or metric.alias!r}", cause=Cause.UNKNOWN)
            for metric in metrics
            if metric.name not in known or not isinstance(metric.value, bool)
        ]
        if self._commands and any(metric.name == ISOLATE and metric.value is False for metric in metrics):
            refused.append(Refused(topic, "isolation can be switched off at the gateway only"))
        asked = {metric.name for metric in metrics if metric.value is True}
        if NEXT_SERVER in asked and self._brokers > 1:
            return Heard(send=tuple(self.end()), refused=tuple(refused), leave="a host asked for the next server")
        births = self._births() if REBIRTH in asked and self._stage is Stage.BORN else []
        commands = (Command("", "", (), isolate=True),) if self._commands and ISOLATE in asked else ()
        return Heard(send=tuple(births), commands=commands, refused=tuple(refused))

    def _device_command(self, topic: str, name: str, content: bytes) -> Heard:
        device = self._catalogue.devices.get(name)
        if device is None:
            return Heard(refused=(Refused(topic, "there is no such device", device=name, cause=Cause.UNKNOWN),))
        try:
            command = decode(content)
            values = tuple(_wanted(device, metric) for metric in command.metrics)
        except ValueError as error:
            return Heard(refused=(Refused(topic, str(error), device=name),))
        if not values:
            return Heard(refused=(Refused(topic, "the command names no metric", device=name),))
        # without a time two equal commands may both be meant
        key = "" if command.timestamp is None else blake2b(topic.encode() + content, digest_size=12).hexdigest()
        issued = (command.timestamp or 0) * MILLISECOND
        return Heard(commands=(Command(key, name, values, issued if issued < 2**63 else 0),))

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        """Tell what the device now says: a DDATA with the values that were read back."""
        device = self._catalogue.devices.get(command.device)
        if device is None or not device.born or self._stage is not Stage.BORN:
            return []
        now = self._now_ms()
        fields = []
        for (name, _), result in zip(command.values, results, strict=True):
            known = device.by_name.get(name)
            if known is not None and achieved(result) and result.after is not None:
                fields.append(metric_field(Metric(None, known.alias, now, None, result.after), known.kind))
        if not fields:
            return []
        device.last_sent = self._clock()
        return [note(self._topic("DDATA", device.name), payload(now, self._next(), *fields))]


def _oldest(batch: Batch) -> int:
    return int(batch.time.min())


def _host_state(content: bytes) -> tuple[bool, int] | None:
    """Read a STATE: online, timestamp. None for anything else."""
    try:
        state = orjson.loads(content)
    except ValueError:
        return None
    if not isinstance(state, dict):
        return None
    online, stamp = state.get("online"), state.get("timestamp")
    if not isinstance(online, bool) or not isinstance(stamp, int) or isinstance(stamp, bool):
        return None
    return online, stamp


def _wanted(device: Device, metric: Metric) -> tuple[str, Value]:
    """Read one metric of a command. Raises ValueError."""
    known = device.by_alias.get(metric.alias) if metric.alias else device.by_name.get(metric.name or "")
    if known is None:
        raise ValueError(f"there is no metric {metric.name or metric.alias!r}")
    return known.tag.name, known.value(metric)
