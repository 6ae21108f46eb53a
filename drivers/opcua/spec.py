"""What YAML may say about an OPC UA link, its devices and tags. Imports nothing of the protocol library.

A link is a session with one server; a device is a part of its address space, by whatever grouping suits the plant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from drivers.opcua.address import TYPES, Source, parse, parse_node
from gateway.contracts import Driver, DriverSpec, Resolved
from gateway.model import Link
from gateway.options import DeviceOptions, Duration, GroupOptions, LinkOptions, LocalPath, Options, TagOptions

_URL: Final = re.compile(r"opc\.tcp://(\[[0-9a-fA-F:.%]+\]|[^\s/:\[\]]+)(:\d{1,5})?(/\S*)?")

_DEADBAND_SCHEMA: Final = WithJsonSchema(
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*%\s*$"}]}
)


def _deadband(text: object) -> tuple[float, bool] | None:
    """Read a deadband: its size, and whether that is in percent of EURange. Raises ValueError."""
    if text is None:
        return None
    if isinstance(text, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)):
        size, percent = float(match[1]), True
    elif isinstance(text, int | float) and not isinstance(text, bool):
        size, percent = float(text), False
    else:
        raise ValueError(f'expected a number such as 0.5, or a part of EURange such as "2 %", got {text!r}')
    if not 0 < size < (100 if percent else math.inf):
        raise ValueError(f"a deadband is larger than 0{' and less than 100 %' if percent else ''}, got {text!r}")
    return size, percent


class OpcuaLink(LinkOptions):
    """A session with one OPC UA server."""

    url: str
    """The server's endpoint: opc.tcp://192.168.1.30:4840, with its path where it has one."""
    redundant: tuple[str, ...] = ()
    """Endpoints of the other servers of a redundant set: the one with the best ServiceLevel is used."""
    timeout: Duration = 4.0
    """How long one request may take."""
    connect_timeout: Duration = 10.0
    """How long connecting may take: channel, session, and looking up namespaces and browse paths."""

    session_timeout: Duration = 60.0
    """How long the server keeps a session that it hears nothing from; it may decide otherwise."""
    channel_lifetime: Duration = 3600.0
    """How long a secure channel's keys are used before they are renewed; the server may decide otherwise."""

    security_policy: Literal[
        "None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss", "Basic128Rsa15", "Basic256"
    ] = "None"
    """How the channel is secured. The last two are broken by today's means and need allow_weak."""
    security_mode: Literal["Sign", "SignAndEncrypt"] = "SignAndEncrypt"
    """Whether a secured channel is encrypted too, or only signed."""
    pki: LocalPath = Field(default="pki", validate_default=True)
    """Folder of certificates: our own (made on first use), trusted/, rejected/, issuers/; beside the site file."""
    user: str | None = None
    """User name; without it, and without user_certificate, the session is anonymous."""
    password: str | None = Field(default=None, repr=False)
    """Best given as ${env:NAME} or ${file:PATH}."""
    user_certificate: LocalPath | None = None
    """File of the user's certificate, instead of user and password."""
    user_key: LocalPath | None = None
    """File of the user's private key."""
    allow_weak: bool = False
    """Allow Basic128Rsa15 and Basic256."""
    allow_plaintext_password: bool = False
    """Allow to send the password over a channel that does not hide it."""

    @model_validator(mode="after")
    def _is_safe(self) -> OpcuaLink:
        if self.security_policy in ("Basic128Rsa15", "Basic256") and not self.allow_weak:
            raise ValueError(f"{self.security_policy} is weak; use Basic256Sha256, or say allow_weak: true")
        if self.user is not None and self.security_policy == "None" and not self.allow_plaintext_password:
            raise ValueError(
                "a password over an unencrypted channel; set security_policy, or say allow_plaintext_password: true"
            )
        if (self.user_certificate is None) != (self.user_key is None):
            raise ValueError("user_certificate and user_key belong together")
        if self.user is not None and self.user_certificate is not None:
            raise ValueError("either user or user_certificate, not both")
        if self.password is not None and self.user is None:
            raise ValueError("a password without a user")
        return self

    @field_validator("redundant")
    @classmethod
    def _are_opc_tcp(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._is_opc_tcp(url) for url in urls)

    @field_validator("url")
    @classmethod
    def _is_opc_tcp(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError(f"expected opc.tcp://host:port or opc.tcp://host:port/path, got {url!r}")
        return url


class EventOptions(Options):
    """Which events a group takes in."""

    notifier: str = "i=2253"
    """Node whose events these are; the Server object, which has all of them, where not given. The device's `namespace`
    does not matter here: i=2253 is the standard's."""
    severity: int = Field(default=1, ge=1, le=1000)
    """Events below this severity are left out."""
    types: tuple[str, ...] = ()
    """Node ids of event types: only events of these and their subtypes; i=2915 are alarms. All where not given."""

    @field_validator("notifier")
    @classmethod
    def _is_a_node(cls, text: str) -> str:
        parse_node(text)
        return text

    @field_validator("types")
    @classmethod
    def _are_nodes(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._is_a_node(text) for text in texts)


class OpcuaGroup(GroupOptions):
    """Tags that are reported, or read, together."""

    mode: Literal["subscribe", "read"] = "subscribe"
    """subscribe: the server reports what changed; the interval is how often it looks. read: the gateway reads at each
    scan."""
    sampling_interval: Duration | None = None
    """subscribe: how often the server looks at a value; the group's interval where not given, 0 s for each change."""
    publishing_interval: Duration | None = None
    """subscribe: how often the server sends what it found; the group's interval where not given."""
    queue_size: int | None = Field(default=None, ge=1, le=100_000)
    """subscribe: how many changes of a value the server keeps between two sendings; twice what it can see."""
    discard: Literal["oldest", "newest"] = "oldest"
    """subscribe: what gives way where that is not enough."""
    server_deadband: Annotated[tuple[float, bool] | None, BeforeValidator(_deadband), _DEADBAND_SCHEMA] = None
    """subscribe: changes up to this much are not reported by the server: a number in raw units, or "2 %" of EURange."""
    trigger: Literal["status", "value", "timestamp"] = "value"
    """subscribe: what counts as a change: of the status alone, of the value too, or of the source's time too."""
    freshness: Duration = 60.0
    """subscribe: a value that was not reported for so long is read, to see whether the subscription still works."""

    fill_gaps: bool = False
    """subscribe: after an interruption, or a stop of the gateway, fetch what was missed from the server's history."""

    events: EventOptions | None = None
    """Events and alarms instead of values: the group's tags are fields of events (event:Severity), and each event is
    one row per tag. {} takes all events of the server."""

    @model_validator(mode="after")
    def _events_are_subscribed(self) -> OpcuaGroup:
        if self.events is not None and self.mode == "read":
            raise ValueError("events are reported, not read: leave mode out, or say subscribe")
        return self


class OpcuaDevice(OpcuaGroup, DeviceOptions):
    """A part of a server's address space."""

    namespace: str | int = 0
    """Namespace of the tags whose node id names none: its URI (better; survives re-indexing) or its index."""
    time: Literal["source", "server", "arrival"] = "source"
    """Whose time readings carry: that of the source (else the server's, else that of arrival), or without the source's,
    or only that of arrival: for a device whose clock is wrong."""


class OpcuaTag(TagOptions):
    """A node's value, or a part of it."""

    address: str
    """Which node, and as what it is held: `ns=2;s=Boiler.T1 float32`, `nsu=urn:plant;s=Boiler.T1`, `i=2258 datetime`,
    `/Objects/2:Boiler/2:T1`, `ns=2;s=Curve [0:9]`, `event:Severity`."""
    type: str | None = Field(default=None, json_schema_extra={"enum": [*TYPES, None]})
    """As what the value is held, where the address does not say; then the address is the node id, word for word."""
    select: str | None = None
    """Which part of the value: [3], [0:9], #field.field; then the address is the node id, word for word."""


def resolve(tag: OpcuaTag, device: OpcuaDevice, link: OpcuaLink) -> Sequence[Resolved]:
    """Compile a tag's address: one entry, or one per element of a slice. Raises ValueError."""
    address = parse(tag.address, tag.type, tag.select, device.namespace)
    if address.node.form == "event":
        if tag.writable is not None:
            raise ValueError("a field of an event cannot be written; remove writable")
        return [Resolved(Source(address.node), address.kind, address.type, occurrence=True)]
    return [Resolved(source, address.kind, address.type, suffix) for source, suffix in address.sources()]


def open_driver(link: Link) -> Driver:
    """Make the driver of a link; the protocol library is imported here, where it is used."""
    from drivers.opcua.driver import OpcuaDriver

    return OpcuaDriver(link)


SPEC: Final = DriverSpec("opcua", OpcuaLink, OpcuaDevice, OpcuaTag, resolve, open_driver, OpcuaGroup, source_time=True)
