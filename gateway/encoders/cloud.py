"""Any cloud platform: journal records become sections, and a Dialect (gateway.dialects) makes its messages of them.

    record ──▶ sections: one per device and millisecond, names and JSON texts in columns
                  └──▶ drafts: sections that may share a message, as far as the platform's limits allow ──▶ messages

- A device is announced before its first reading and leaves when it is lost (gateway.encoders.current). Where the
  platform answers such an announcement, readings wait for the answer.
- A reading without a value goes out as a doubt, where the dialect has a place for that, and otherwise not at all: a
  platform without qualities is told nothing rather than an old value. Its device then goes offline there.
- A name that the platform cannot take, and a device that it does not know, are said once and passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway import quality as q
from gateway.commands import Result
from gateway.contracts import Record
from gateway.dialects import (
    ENVELOPE,
    MILLISECOND,
    SECOND,
    Command,
    Credentials,
    Dialect,
    Heard,
    Limits,
    Section,
    Subscription,
    Will,
    text,
)
from gateway.encoders.current import Current, is_loss
from gateway.encoders.shares import Share
from gateway.encoders.texts import Texts, once
from gateway.model import Batch, Gap, Message, TagTable

_Part = tuple[int, list[bytes], list[bytes], Sequence[int]]  # ms, names, values, StatusCodes

QUIET: Final = 5 * SECOND  # a lost device that came online for its backlog leaves after this
RENEWAL: Final = 60 * SECOND  # credentials are renewed this long before they expire


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What one table's sections need; made once."""

    names: list[bytes]
    texts: Texts
    allowed: NDArray[np.bool_] | None  # tags that the platform can take; None: all


@dataclass(slots=True, eq=False)
class _Draft:
    """A message that is being filled."""

    sections: list[Section] = field(default_factory=list)
    size: int = 0
    share: Share = field(default_factory=Share)
    names: dict[str, set[bytes]] = field(default_factory=dict)  # by device; filled where names must not repeat


class Cloud:
    """The conversation with one platform: a Dialogue (gateway.dialects.dialogue)."""

    ordered = True

    def __init__(
        self,
        dialect: Dialect,
        *,
        max_message: int = 256_000,
        most: int | None = None,
        commands: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare. `most`: readings in a message; the platform's own limit holds beside it."""
        readings = min(filter(None, (dialect.limits.readings, most)), default=0)
        self._limits = replace(dialect.limits, readings=readings)
        self._dialect = dialect
        self._commands = commands
        self.max_message = max_message
        self._clock = clock
        self._current = Current()
        self._plans: dict[bytes, _Plan] = {}
        self._online: dict[str, int] = {}  # device, when something was last sent for it
        self._drafts: dict[Hashable, _Draft] = {}
        self._upto = 0
        self._expires: int | None = None
        self._troubles: list[str] = []
        self._strangers: set[str] = set()
        self.passed_over = 0  # readings that this platform has no place for

    # ------------------------------------------------------------------------------------------------ session

    @property
    def limits(self) -> Limits:
        return replace(self._limits, payload=self._room)

    @property
    def _room(self) -> int:
        """The bytes that a message may have."""
        return min(self._limits.payload, self.max_message)

    @property
    def ready(self) -> bool:
        return not self._dialect.waiting(self._clock())

    def credentials(self) -> Credentials | None:
        credentials = self._dialect.credentials(self._clock())
        self._expires = credentials.expires if credentials is not None else None
        return credentials

    def will(self) -> Will | None:
        return None  # what a platform says of a lost gateway is its own business

    def subscriptions(self) -> tuple[Subscription, ...]:
        return self._listened(self._dialect.subscriptions())

    def _listened(self, subscriptions: Iterable[Subscription]) -> tuple[Subscription, ...]:
        """Leave out where commands come, if they are off."""
        return tuple(each for each in subscriptions if self._commands or not each.commands)

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        """Start a session: announce the gateway and the devices that are there."""
        self._drafts.clear()
        self._online.clear()
        self._upto = upto
        for batch in current:
            self._current.take(batch)
        now = self._clock()
        messages = self._dialect.begin(now)
        there = [name for name in self._current.devices if self._dialect.knows(name) and not self._current.lost(name)]
        self._online = dict.fromkeys(there, now)
        return [*messages, *(self._dialect.presence(there, True, now) if there else ())]

    def reset(self) -> None:
        """Nothing: `begin` starts a session."""

    def end(self) -> list[Message]:
        """Take the devices offline."""
        devices, self._online = list(self._online), {}
        return self._dialect.presence(devices, False, self._clock()) if devices else []

    def tick(self) -> Heard:
        """Take lost devices offline, leave before the credentials expire."""
        now = self._clock()
        heard = self._dialect.tick(now)
        messages = [*heard.send]
        gone = [name for name, sent in self._online.items() if sent + QUIET <= now and self._current.lost(name)]
        if gone:
            messages += self._dialect.presence(gone, False, now)
            self._online = {name: sent for name, sent in self._online.items() if name not in gone}
        expired = self._expires is not None and now >= self._expires - RENEWAL
        troubles, self._troubles = self._troubles, []
        leave = heard.leave or ("the credentials of this session expire" if expired else "")
        return replace(heard, send=tuple(messages), troubles=(*heard.troubles, *troubles), leave=leave)

    # ------------------------------------------------------------------------------------------------ data

    def prepare(self, records: Sequence[Record]) -> list[Message]:
        """Announce the devices whose readings these are."""
        now = self._clock()
        coming = [name for name in _devices(record for record in records if self._speaks(record))
                  if name not in self._online and self._dialect.knows(name)]  # fmt: skip
        self._online |= dict.fromkeys(coming, now)
        return self._dialect.presence(coming, True, now) if coming else []

    def _speaks(self, record: Record) -> bool:
        """Whether a record has something to say of a device that is not online."""
        batch = record.content
        if isinstance(batch, Gap):
            return False
        live = record.sequence > self._upto and not batch.backfill
        return not is_loss(batch) or (self._dialect.quality and not live)

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Give the messages for records."""
        now = self._clock()
        messages: list[Message] = []
        for record in records:
            if isinstance(record.content, Gap):
                self._gap(messages, record.sequence, record.content, now)
            else:
                self._batch(messages, record.sequence, record.content, now)
        self._flush(messages, now)
        return messages

    def _gap(self, messages: list[Message], sequence: int, gap: Gap, now: int) -> None:
        said = self._dialect.gap(gap, now)
        if said is not None:
            self._flush(messages, now)
            messages.append(Message(*said, sequence, sequence, 0))

    def _batch(self, messages: list[Message], sequence: int, batch: Batch, now: int) -> None:
        device = batch.table.device
        if not self._dialect.knows(device):
            self._stranger(device, len(batch))
            return
        old = sequence <= self._upto or batch.backfill
        if not old:
            self._current.take(batch)
        if device not in self._online:  # a loss, of which the platform knows since the device went offline
            self.passed_over += len(batch)
            return
        for section in self._sections(batch, old):
            for fitting, room in self._fit(section):
                self._put(messages, sequence, fitting, room, now)
        if not old and is_loss(batch) and self._current.lost(device):
            self._flush(messages, now)
            messages += self._dialect.presence([device], False, now)
            del self._online[device]

    def _stranger(self, device: str, readings: int) -> None:
        self.passed_over += readings
        if device not in self._strangers:
            self._strangers.add(device)
            self._troubles.append(f"{device} is not published: the platform has no such device (see the key devices)")

    def _put(self, messages: list[Message], sequence: int, section: Section, room: int, now: int) -> None:
        key = self._dialect.together(section)
        draft = self._drafts.get(key)
        if draft is not None and not self._takes(draft, section, room):
            self._close(messages, key, now)
            draft = None
        if draft is None:
            draft = self._drafts[key] = _Draft()
        draft.sections.append(section)
        draft.size += room
        draft.names.setdefault(section.device, set())
        if not self._limits.repeats:
            draft.names[section.device].update(section.names)
        draft.share.take(sequence, len(section), section.time * MILLISECOND)
        self._online[section.device] = now

    def _takes(self, draft: _Draft, section: Section, room: int) -> bool:
        limits = self._limits
        if not limits.repeats and not draft.names.get(section.device, set()).isdisjoint(section.names):
            return False
        if draft.size + room > self._room - ENVELOPE:
            return False
        if limits.readings and draft.share.readings + len(section) > limits.readings:
            return False
        return not limits.devices or section.device in draft.names or len(draft.names) < limits.devices

    def _flush(self, messages: list[Message], now: int) -> None:
        for key in list(self._drafts):
            self._close(messages, key, now)

    def _close(self, messages: list[Message], key: Hashable, now: int) -> None:
        draft = self._drafts.pop(key)
        topic, payload = self._dialect.report(draft.sections, now)
        messages.append(draft.share.message(topic, payload))

    # ------------------------------------------------------------------------------------------------ sections

    def _plan(self, table: TagTable) -> _Plan:
        plan = self._plans.get(table.fingerprint)
        if plan is None:
            problems = {tag.name: self._dialect.name_problem(tag.name) for tag in table.tags}
            self._troubles += [f"{table.device}/{name}: {why}" for name, why in problems.items() if why]
            allowed = np.array([not problems[tag.name] for tag in table.tags], dtype=np.bool_)
            names = [b"," + text(tag.name) + b":" for tag in table.tags]
            plan = _Plan(names, Texts(table), None if allowed.all() else allowed)
            self._plans[table.fingerprint] = plan
        return plan

    def _sections(self, batch: Batch, old: bool) -> Iterator[Section]:
        """Cut a batch into one section per millisecond; in each a tag occurs once."""
        plan = self._plan(batch.table)
        if plan.allowed is not None:
            allowed = plan.allowed[batch.tag]
            self.passed_over += int((~allowed).sum())
            batch = batch.take(allowed)
        if not len(batch):
            return
        stamp = batch.time // MILLISECOND
        if bool((stamp[1:] < stamp[:-1]).any()):
            order = np.argsort(stamp, kind="stable")
            batch, stamp = batch.take(order), stamp[order]
        whole = len(batch) == len(plan.names) and bool((batch.tag == batch.table.every).all())
        tags = batch.tag.tolist()
        names = plan.names if whole else [plan.names[tag] for tag in tags]
        values = plan.texts.values(batch)
        statuses = batch.quality.tolist() if batch.quality.any() else None
        cuts = [0, *(np.flatnonzero(stamp[1:] != stamp[:-1]) + 1).tolist(), len(batch)]
        for start, stop in pairwise(cuts):
            for rows in (slice(start, stop),) if whole else once(tags, start, stop):
                doubts = statuses[rows] if statuses is not None and any(statuses[rows]) else ()
                part = (int(stamp[rows.start]), names[rows], values[rows], doubts)
                section = self._section(batch.table, part, old)
                if len(section):
                    yield section

    def _section(self, table: TagTable, part: _Part, old: bool) -> Section:
        stamp, names, values, statuses = part
        if statuses and not self._dialect.quality:
            keep = [row for row, status in enumerate(statuses) if status < q.BAD]
            self.passed_over += len(names) - len(keep)
            names, values, statuses = [names[row] for row in keep], [values[row] for row in keep], ()
        size = sum(map(len, names)) + sum(map(len, values))
        return Section(table.device, table.group, stamp, names, values, statuses, old, size)

    def _fit(self, section: Section) -> Iterator[tuple[Section, int]]:
        """Halve a section until it fits into a message; with the bytes it takes there.

        One value too large for the platform goes as it is.
        """
        limits, rows = self._limits, len(section)
        room = self._dialect.room(section)
        fits = room <= self._room - ENVELOPE
        if rows < 2 or (fits and (not limits.readings or rows <= limits.readings)):
            yield section, room
            return
        for half in (slice(0, rows // 2), slice(rows // 2, rows)):
            names, values = section.names[half], section.values[half]
            size = sum(map(len, names)) + sum(map(len, values))
            yield from self._fit(
                replace(section, names=names, values=values, statuses=section.statuses[half], size=size)
            )

    # ------------------------------------------------------------------------------------------------ incoming

    def received(self, topic: str, payload: bytes) -> Heard:
        heard = self._dialect.received(topic, payload, self._clock())
        return replace(heard, subscribe=self._listened(heard.subscribe)) if heard.subscribe else heard

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        """Reply to a command."""
        return self._dialect.answer(command, results, self._clock())


def _devices(records: Iterable[Record]) -> list[str]:
    batches = (record.content for record in records)
    return list(dict.fromkeys(batch.table.device for batch in batches if isinstance(batch, Batch)))
