"""What a cloud platform's own form of MQTT consists of, and the words that all of them share. Pure: no I/O, no clock.

A Dialect is one platform: who we are there, which topics we listen to, how readings look, what it sends us and what it
wants to hear back. It knows nothing of the journal, of batches or of sockets: gateway.encoders.cloud makes Sections out
of journal records and hands them over, and the publisher moves the bytes. Time is passed in, in ns since 1970 UTC.

    thingsboard   gateway API (v1/gateway/...)               huawei    IoTDA, gateway with sub-devices
    aliyun        Link IoT, gateway with sub-devices (Alink) tencent   IoT Explorer, gateway with sub-devices
    aws           IoT Core, free JSON, device shadow         azure     IoT Hub, free JSON, device twin

A platform that takes one connection per device id ends the older one when a second comes: run one gateway per identity.
"""

from __future__ import annotations

import math
import string
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from gateway.commands import Cause, Result, Value
from gateway.model import Gap, Message
from gateway.quality import BAD, UNCERTAIN, name

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000
_DOUBT: Final = 48  # bytes of a status, its name included
_IDENTIFIER: Final = frozenset(string.ascii_letters + string.digits + "_")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the peer takes; more is cut off, refused or punished with a disconnect."""

    payload: int  # bytes of one message's payload
    messages: float = math.inf  # messages per second on this connection
    octets: float = math.inf  # bytes per second on this connection
    readings: int = 0  # readings in one message; 0: any number
    devices: int = 0  # sub-devices in one message; 0: any number
    repeats: bool = True  # whether a device's tag may occur twice in one message
    qos: int = 1  # of what we publish
    qos_0: tuple[str, ...] = ()  # beginnings of topics that go with QoS 0 all the same
    retain: bool = True  # whether it keeps retained messages
    will: bool = True
    keep_alive: tuple[int, int] = (1, 65535)  # seconds; outside it the connection is refused
    versions: tuple[str, ...] = ("5", "3.1.1")  # of MQTT, the preferred first
    tls: bool = False  # refuses connections without it


@dataclass(frozen=True, slots=True)
class Credentials:
    """What goes into CONNECT. Where `expires` (ns) is given, a new session is to be made before that."""

    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when the session ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter to subscribe to before anything is published."""

    filter: str
    qos: int = 1
    commands: bool = False  # what comes there wants something written: not made where commands are off


@dataclass(frozen=True, slots=True)
class Command:
    """Values that somebody wants set on one device, in engineering terms, whatever the format it came in.

    `key` tells a repetition (empty: the peer has no such thing). `issued` and `expires` are ns, 0 where not said.
    `isolate`: no values are to be set but all writes to be stopped. `by` is who the sender says to be. `reply` is for
    the dialect that made the command and for nobody else. `arrived` (ns) and `topic` are the publisher's to fill in.
    """

    key: str
    device: str
    values: tuple[tuple[str, Value], ...]  # tag, value
    issued: int = 0
    expires: int = 0
    reply: Any = None
    isolate: bool = False
    by: str = ""
    reason: str = ""  # of an isolation
    arrived: int = 0
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that looked like a command and is none: for the audit log. `device` may be empty or untrue."""

    topic: str
    reason: str
    key: str = ""
    device: str = ""
    cause: Cause = Cause.MALFORMED
    count: int = 1


@dataclass(frozen=True, slots=True)
class Heard:
    """What follows from one incoming message.

    send: to be published now. subscribe: to be subscribed to now. commands: to be carried out and answered. refused: to
    be audited. troubles: sentences about readings or requests of ours that the peer refused, to be logged and counted.
    leave: why to end this session (after `send`) and make another, with the next broker where there are several.
    """

    send: tuple[Message, ...] = ()
    subscribe: tuple[Subscription, ...] = ()
    commands: tuple[Command, ...] = ()
    refused: tuple[Refused, ...] = ()
    troubles: tuple[str, ...] = ()
    leave: str = ""


NOTHING: Final = Heard()


@dataclass(frozen=True, slots=True)
class Section:
    """Readings of one device at one millisecond, as JSON texts ready to be put together.

    `names[i]` is ',"pressure":', with its comma, and `values[i]` '4.21'. `statuses` are the rows' StatusCodes, () where
    all are Good; the value of a Bad row is not one. A name occurs once.
    """

    device: str
    group: str
    time: int  # ms since 1970 UTC
    names: Sequence[bytes]
    values: Sequence[bytes]
    statuses: Sequence[int] = ()
    backfill: bool = False
    size: int = 0  # bytes of names and values

    def __len__(self) -> int:
        return len(self.names)


class Dialect(Protocol):
    """One platform. An object lives as long as its publisher; `begin` starts each session.

    What has a body here is what most platforms have to say: those that know sub-devices by themselves, need no login,
    take any name and have no place for a gap.
    """

    limits: Limits
    quality: bool
    """Whether `report` has a place for the statuses of a section; if not, it gets no Bad rows and no statuses."""

    def credentials(self, now: int) -> Credentials | None:
        """Derive client id, user name and password; None where the publisher's own options say them."""
        ...

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Give the topics to subscribe to in each session, before `begin`."""
        ...

    def knows(self, device: str) -> bool:
        """Whether the platform has this device, as far as the configuration says."""
        return True

    def name_problem(self, name: str) -> str:
        """Say why the platform cannot take this tag's name, or nothing where it can."""
        return ""

    def begin(self, now: int) -> list[Message]:
        """A session is up: forget what the last one left unfinished, give what is to be said first."""
        return []

    def presence(self, devices: Sequence[str], online: bool, now: int) -> list[Message]:
        """Announce devices that came or went. Where the platform answers, `waiting` holds until it has."""
        return []

    def waiting(self, now: int) -> bool:
        """Whether readings must wait for an answer of the platform (and that answer is not overdue)."""
        return False

    def together(self, section: Section) -> Hashable:
        """Give the key of the message a section belongs to: sections with equal keys may share one."""
        return None

    def room(self, section: Section) -> int:
        """Give the bytes a section takes in a message at most, all around it included."""
        ...

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        """Give topic and payload for sections of one key. At most `limits.payload` bytes if the rooms fit in it."""
        ...

    def gap(self, gap: Gap, now: int) -> tuple[str, bytes] | None:
        """Give topic and payload of a declared gap; None where the platform has no place for it."""
        return None

    def tick(self, now: int) -> Heard:
        """Say what is overdue; called about once a second."""
        return NOTHING

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        """Read an incoming message. Never raises: nonsense is refused or a trouble."""
        ...

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        """Give the reply to a command of this dialect; one result per value, in its order."""
        ...


ENVELOPE: Final = 512
"""Bytes of a message that are not sections; each dialect's own need is below that (a test holds them to it)."""


# ------------------------------------------------------------------------------------------------ small words


def note(topic: str, payload: bytes, retain: bool = False) -> Message:
    """Give a message that carries no journal record."""
    return Message(topic, payload, 0, 0, 0, retain)


def members(section: Section, after: bytes = b"") -> bytes:
    """Give a section's values as members of a JSON object, without its braces; `after` follows each value.

    Bad rows are left out.
    """
    names, values = section.names, section.values
    if section.statuses:
        keep = [row for row, status in enumerate(section.statuses) if status < BAD]
        names, values = [names[row] for row in keep], [values[row] for row in keep]
    return paired(names, [value + after for value in values] if after else values)[1:]


def paired(names: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """Give members of a JSON object: names as `,"pressure":`, each with its value; the comma before the first stays."""
    parts = [b""] * (2 * len(names))
    parts[0::2] = names
    parts[1::2] = values
    return b"".join(parts)


def doubts(section: Section) -> list[tuple[bytes, int]]:
    """Give name and StatusCode of the rows that are not plainly Good; the name as in `names`."""
    return [(name, status) for name, status in zip(section.names, section.statuses, strict=False) if status]


def doubts_room(section: Section) -> int:
    """Give the bytes that names and statuses of the doubtful rows take at most, what stands around them included."""
    return sum(len(name) + _DOUBT for name, _ in doubts(section))


def text(value: object) -> bytes:
    """Give JSON."""
    return orjson.dumps(value)


def unexpected(topic: str) -> Heard:
    """Refuse what came on a topic that nothing is expected on."""
    return Heard(refused=(Refused(topic, "nothing is expected on this topic", cause=Cause.FOREIGN),))


class Unreadable(ValueError):
    """An incoming payload that is not what its topic promises; the text says what is wrong."""


def json_object(payload: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises Unreadable."""
    try:
        body = orjson.loads(payload)
    except ValueError:
        raise Unreadable("the payload is not JSON") from None
    if not isinstance(body, dict):
        raise Unreadable("the payload is not a JSON object")
    return body


def wanted(values: object) -> tuple[tuple[str, Value], ...]:
    """Read {tag: value}. Raises Unreadable for anything but plain values by name."""
    if not isinstance(values, Mapping) or not values:
        raise Unreadable("expected values by tag name")
    for tag, value in values.items():
        if not isinstance(tag, str) or not isinstance(value, str | bool | int | float):
            raise Unreadable(f"the value of {tag!r} is not a number, a truth value or a text")
    return tuple(values.items())


def wishes(
    topic: str, asked: Mapping[str, object], key: str, issued: int = 0, reply: Any = None
) -> tuple[list[Command], list[Refused]]:
    """Read {device: {tag: value}}, a desired state: the commands, and what is none. `key` is that of all together."""
    commands, refused = [], []
    for device, values in asked.items():
        own = f"{key}/{device}"
        try:
            commands.append(Command(own, device, wanted(values), issued, reply=reply))
        except Unreadable as error:
            refused.append(Refused(topic, str(error), own, device))
    return commands, refused


def isolation(key: str, asked: object, **more: Any) -> Command:
    """Give the command that stops all writes. Raises Unreadable where that is not what is asked for."""
    if asked is not True:
        raise Unreadable("isolation can be switched on from outside, and off at the gateway only")
    return Command(key, "", (), isolate=True, **more)


def member(body: Mapping[str, Any], name: str, kind: type[str] | type[dict[str, Any]] | type[list[Any]]) -> Any:
    """Take a member of a JSON object, of the type expected. Raises Unreadable."""
    value = body.get(name)
    if not isinstance(value, kind):
        wants = {str: "a text", dict: "an object", list: "a list"}[kind]
        raise Unreadable(f"{name!r} is missing or not {wants}")
    return value


def moment(said: str, where: str) -> int:
    """Read ISO 8601 with its zone, as ns. Raises Unreadable."""
    try:
        when = datetime.fromisoformat(said)
        if when.tzinfo is not None:
            return round(when.timestamp() * 1e6) * (SECOND // 10**6)
    except (ValueError, OverflowError):
        pass
    raise Unreadable(f"{where!r} is not a time such as 2026-11-22T08:15:00Z")


def told(command: Command, results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Give what became of each value, for replies that have room for it."""
    return {
        tag: {"before": result.before, "after": result.after, "quality": name(result.quality), "reason": result.reason}
        for (tag, _), result in zip(command.values, results, strict=True)
    }


def failures(command: Command, results: Sequence[Result]) -> str:
    """Give the reasons of the values that were not set, as one text; empty where all were."""
    pairs = zip(command.values, results, strict=True)
    return "; ".join(
        f"{tag}: {result.reason or name(result.quality)}" for (tag, _), result in pairs if not achieved(result)
    )


def achieved(result: Result) -> bool:
    """Whether the value was set."""
    return result.quality < UNCERTAIN


def chunks(devices: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut a list into parts of at most `size`."""
    for start in range(0, len(devices), size):
        yield devices[start : start + size]


def by_device(sections: Sequence[Section]) -> dict[str, list[Section]]:
    """Gather sections by device, in order."""
    gathered: dict[str, list[Section]] = {}
    for section in sections:
        gathered.setdefault(section.device, []).append(section)
    return gathered


def identifier_problem(name: str, longest: int, where: str) -> str:
    """Say why a platform with a product model cannot take a tag's name, or nothing where it can."""
    if 0 < len(name) <= longest and set(name) <= _IDENTIFIER and not name[0].isdigit():
        return ""
    return f"an identifier on {where} has letters, digits and _, at most {longest}, and begins with no digit"


def gap_fields(gap: Gap) -> dict[str, Any]:
    """Give a gap as JSON; start and end in ms."""
    start, end = gap.start // MILLISECOND, gap.end // MILLISECOND
    what = {"device": gap.device, "group": gap.group, "start": start, "end": end, "reason": gap.reason}
    return {**what, "readings": gap.readings, "scans": gap.scans}
