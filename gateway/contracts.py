"""The roles and their promises. One contract test suite per role (tests/contract) runs against every implementation.

Drivers and sinks do not sleep, retry, reconnect, buffer or log failures: they try once and say what happened. The
runtime (gateway.poller, gateway.publisher, gateway.ingest) does the rest, the same way for all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gateway import quality
from gateway.model import Batch, Gap, Kind, Link, Message, Tag, TagTable

if TYPE_CHECKING:
    from gateway.options import DeviceOptions, GroupOptions, LinkOptions, TagOptions


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One line of `plantbridge plan`: what is asked of the device, how much of it was wanted, how long it takes."""

    text: str  # "FC3 holding 100..224"
    wanted: int  # registers, bits or nodes that tags need
    fetched: int  # registers, bits or nodes that are transferred
    seconds: float  # estimated time on the line


@runtime_checkable
class Plan(Protocol):
    """What a driver computed from a poll group's tables: pure data, made once, executed at every scan."""

    @property
    def tables(self) -> tuple[TagTable, ...]: ...
    def requests(self) -> Sequence[PlannedRequest]: ...


@runtime_checkable
class Driver(Protocol):
    """One link. Owned by one task, never called concurrently."""

    def plan(self, tables: Sequence[TagTable]) -> Plan:
        """Compile the tables of one poll group of one device. Pure: no I/O. Raises ConfigError."""
        ...

    async def connect(self) -> None:
        """Make the session within the link's connect timeout. Raises NotConnected. Called again after each loss."""
        ...

    async def read(self, plan: Plan) -> list[Batch]:
        """Read once: one batch per table of the plan, in its order; one row per tag, in table order.

        A refused or impossible tag is a Bad row and leaves its neighbours Good. Raises NoAnswer where the device is
        silent and the link may be well, NotConnected where the session is gone, ProtocolError where the peer spoke
        nonsense. Each within the plan's own deadline. Values are raw: as the device means them, before scale and
        offset. Cancelling at any await leaves the driver closable, and a fresh connect works.
        """
        ...

    async def close(self) -> None:
        """End the session. Idempotent; never raises."""
        ...


@runtime_checkable
class Subscribing(Protocol):
    """A driver whose peer reports changes itself."""

    def subscribes(self, plan: Plan) -> bool:
        """Say whether this poll group is reported by the peer and not polled. Pure."""
        ...

    def changes(self, plans: Sequence[Plan]) -> AsyncIterator[Batch | Gap]:
        """Give batches as they arrive, for all subscribed groups of the link: first one row per tag.

        A Gap, naming device and group, declares what was missed and cannot be fetched any more.

        Raises as `read` does, and ends only by raising. It is the one call that may be under way while `read` serves
        the link's polled groups, or `write` sets a value.
        """
        ...


@runtime_checkable
class Resuming(Protocol):
    """A subscribing driver that can go on, in a later run of the gateway, from where an earlier one had come to."""

    def mark(self) -> bytes:
        """Say how far data was given; empty where there is nothing to say. May say less than is so, never more."""
        ...

    def recall(self, mark: bytes) -> set[tuple[str, str]]:
        """Take the mark of an earlier run, before the first `connect`; one that makes no sense is none.

        Gives the groups (device, group) whose absence is filled or declared from here on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Write:
    """One value to set, in the device's raw terms (scale already undone)."""

    device: str
    tag: Tag
    value: float | int | bool | str


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write: the raw values before and after (read back), and the quality of the attempt."""

    before: float | int | bool | str | None
    after: float | int | bool | str | None
    quality: int
    reason: str = ""


@runtime_checkable
class Adaptable(Protocol):
    """A driver whose devices can change while its session stays."""

    def adopt(self, link: Link) -> None:
        """Take the link with other devices; its own options are the same. Called between reads; no I/O, never raises.

        Devices that have not changed are the same objects, and their plans stay in use.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a byte order makes of a number's bytes: its raw value, and whether a plant would show it."""

    order: str  # ABCD, CDAB, BADC, DCBA
    value: float | int
    likely: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a driver keeps of a tag's last answer. `value` is raw; None where there is none, or it was not kept."""

    request: str  # in which request it is asked for: "FC3 holding 100..224 of unit 1"
    data: str = ""  # as it came: bytes in hexadecimal, or a DataValue in words
    value: float | int | bool | str | None = None
    quality: int = quality.BAD_WAITING_FOR_INITIAL_DATA
    time: int = 0  # ns; 0 where nothing has come yet
    note: str = ""  # what a person should know of it: "the device refuses this address"
    guess: str = ""  # what may be wrong with the definition: "looks like the wrong word order: try CDAB"
    orders: tuple[Ordered, ...] = ()  # the bytes as defined, then in the other orders; empty where they say nothing


@runtime_checkable
class Explaining(Protocol):
    """A driver that can say what it asked for a tag, and what came, from what it holds anyway."""

    def explain(self, plan: Plan, table: int, row: int) -> Answer:
        """Tell of tag `row` of the plan's table number `table`. No I/O; never raises; may be called at any time."""
        ...


@dataclass(frozen=True, slots=True)
class Agreed:
    """One thing that a poll group asked of its peer, and what the peer made of it."""

    device: str
    group: str
    what: str  # "sampling interval"
    asked: str
    got: str


@runtime_checkable
class Negotiating(Protocol):
    """A driver whose peer has a say in how its groups are reported."""

    async def agree(self, plans: Sequence[Plan]) -> list[Agreed]:
        """Ask for what the plans need, in a session, and tell what was got. Raises as `read` does."""
        ...


@dataclass(frozen=True, slots=True)
class Differs:
    """One thing that the site file and the peer do not agree on. `file` is empty where the file does not say.

    `keys` are those of the tag that would say it: what `plan --online --write` writes where the file does not say.
    """

    device: str
    group: str
    tag: str
    what: str  # "unit", "range", "type", "states", "node"
    file: str
    server: str
    keys: tuple[tuple[str, Any], ...] = ()


@runtime_checkable
class Comparing(Protocol):
    """A driver whose peer says itself what its values are."""

    async def compare(self, plans: Sequence[Plan]) -> list[Differs]:
        """Tell where the peer does not agree with what the file says of the plans' tags. Raises as `read` does."""
        ...


@dataclass(frozen=True, slots=True)
class Said:
    """What a peer says itself of a tag that the file leaves open, in the tag's own terms (scaled)."""

    device: str
    tag: str
    address: str
    unit: str = ""
    range: tuple[float, float] | None = None


@runtime_checkable
class Describing(Protocol):
    """A driver whose peer says itself what the unit and range of its values are."""

    async def describe(self, plans: Sequence[Plan]) -> list[Said]:
        """Ask for what the file leaves open, in a session before its first scan; nothing where there is nothing to ask.

        A peer that has said it need not be asked again before it may have changed its mind. Raises as `read` does.
        """
        ...


@runtime_checkable
class Writable(Protocol):
    """A driver that can set values."""

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Set the values, one result per write, in order; read back. A refusal is a Bad result, never a retry."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that browsing found."""

    path: tuple[str, ...]
    address: str
    type: str
    unit: str = ""
    value: str = ""
    access: str = ""
    range: tuple[float, float] | None = None  # what the device says its value lies in
    states: tuple[tuple[int, str], ...] = ()  # names of the values of an enumeration


@runtime_checkable
class Browsable(Protocol):
    """A driver that can list what its peer has."""

    def browse(self, start: str = "", limit: int = 100_000) -> AsyncIterator[Found]: ...


class Delivery(Enum):
    """What the peer said of a message."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"  # for good: this message will never be taken
    NOT_NOW = "not now"  # refused for a reason that may pass (access rules): it stays in the journal


class Peer(Protocol):
    """What a sink knows of its peer, in the present session and after its end."""

    @property
    def refusal(self) -> str:
        """Why the peer refused the last message that it refused."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the session lives; also where it is given up because of what the peer answered."""
        ...

    @property
    def act(self) -> bool:
        """Whether somebody must act: credentials, access rules, certificates, a client id that is used twice."""
        ...

    @property
    def largest(self) -> int:
        """Bytes of a payload, at most, in this session; 0 where the peer names no limit."""
        ...

    @property
    def overrun(self) -> bool:
        """Whether the peer ended the session over a message that was too large."""
        ...

    @property
    def heard(self) -> float:
        """Time of the last sign of life, by the event loop's clock."""
        ...

    def ask(self) -> None:
        """Ask the peer for a sign of life, without waiting for it. Never raises."""
        ...

    async def ended(self) -> str:
        """Return, with the reason, when the session has ended."""
        ...


class Sink(Protocol):
    """One northbound peer. `send` may be called again while earlier sends wait for their acknowledgement."""

    @property
    def peer(self) -> Peer: ...

    async def connect(self) -> None:
        """Make the session. Raises SinkUnavailable."""
        ...

    async def send(self, message: Message) -> Delivery:
        """Hand over one message; return when the peer took responsibility for it or refused it.

        A refusal concerns this message; the session and other messages go on.

        Raises SinkUnavailable when the session is gone or the peer did not answer in time; the message may or may
        not have arrived, and is sent again from the journal.
        """
        ...

    async def close(self) -> None:
        """End the session. Idempotent; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """A journal record on its way out: its sequence and what it holds."""

    sequence: int
    content: Batch | Gap


class Encoder(Protocol):
    """Journal records to messages in one format. Synchronous and pure but for its own caches."""

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Give the messages for consecutive records, each within the publisher's size limit.

        The records are acknowledged when all of them are settled.
        """
        ...

    def reset(self) -> None:
        """A new session began: definitions that the peer must know are to be sent again."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """A decoded message on the cloud side: whose it is, which journal records it holds, and their readings."""

    gateway: str
    journal: str  # the journal's id: a new journal starts a new count
    sequences: tuple[int, ...]  # the records' sequences, one per entry of `contents`
    contents: tuple[Batch | Gap, ...]
    parts: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Of records that are spread over several messages: entry -> (first row in the record, rows of the record)."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What a store did with the blocks of one write."""

    stored: int  # readings that are new
    duplicates: int  # readings it had already and dropped
    gaps: int


class Store(Protocol):
    """The time-series side. Owned by one task."""

    async def open(self) -> None:
        """Make ready. Raises StoreUnavailable."""
        ...

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        """Store readings and gaps; durable when it returns; idempotent by (series, time).

        Raises StoreUnavailable, with permanent=True where these blocks can never be stored.
        """
        ...

    async def close(self) -> None:
        """Close. Idempotent; never raises."""
        ...


Stage = Callable[[Batch], Batch]
"""Synchronous; an empty batch means nothing to report. Holds state of its own table only."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A tag's address as its driver understands it. Arrays resolve to one entry per element, told by `suffix`.

    The readings of an `occurrence` are events of their own, not states of one thing: each is reported, also where it
    equals the one before; neither deadband nor max_silence apply.
    """

    source: Any
    kind: Kind
    type: str
    suffix: str = ""
    occurrence: bool = False


@dataclass(frozen=True, slots=True)
class DriverSpec:
    """What a driver folder offers: models of its YAML keys, and two functions. Loading it imports no protocol library.

    `resolve` compiles a tag's address (pure; raises ValueError with a message for the integrator). `open` makes the
    driver of a link; the protocol library is imported there.
    """

    name: str
    link: type[LinkOptions]
    device: type[DeviceOptions]
    tag: type[TagOptions]
    resolve: Callable[[Any, Any, Any], Sequence[Resolved]]  # (tag options, device options, link options)
    open: Callable[[Link], Driver]
    group: type[GroupOptions] | None = None  # a device model that extends it gives its groups their defaults
    source_time: bool = False  # readings have the source's time: a value that stands still is one reading, not many

    @property
    def groups(self) -> type[GroupOptions]:
        """The model of a poll group's keys."""
        from gateway.options import GroupOptions  # not above: the daemon does without models (gateway.folded)

        return self.group or GroupOptions
