"""What YAML may say about an OPC UA link, its devices and tags. Imports nothing of the protocol library.

A link is a session with one server; a device is a part of its address space, by whatever grouping suits the plant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field, field_validator

from drivers.opcua.address import TYPES, parse
from gateway.contracts import Driver, DriverSpec, Resolved
from gateway.model import Link
from gateway.options import DeviceOptions, Duration, LinkOptions, TagOptions

_URL: Final = re.compile(r"opc\.tcp://(\[[0-9a-fA-F:.%]+\]|[^\s/:\[\]]+)(:\d{1,5})?(/\S*)?")


class OpcuaLink(LinkOptions):
    """A session with one OPC UA server."""

    url: str
    """The server's endpoint: opc.tcp://192.168.1.30:4840, with its path where it has one."""
    timeout: Duration = 4.0
    """How long one request may take."""
    connect_timeout: Duration = 10.0
    """How long connecting may take: channel, session, and looking up namespaces and browse paths."""

    session_timeout: Duration = 60.0
    """How long the server keeps a session that it hears nothing from; it may decide otherwise."""
    channel_lifetime: Duration = 3600.0
    """How long a secure channel's keys are used before they are renewed; the server may decide otherwise."""

    @field_validator("url")
    @classmethod
    def _is_opc_tcp(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError(f"expected opc.tcp://host:port or opc.tcp://host:port/path, got {url!r}")
        return url


class OpcuaDevice(DeviceOptions):
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
    `/Objects/2:Boiler/2:T1`, `ns=2;s=Curve [0:9]`."""
    type: str | None = Field(default=None, json_schema_extra={"enum": [*TYPES, None]})
    """As what the value is held, where the address does not say; then the address is the node id, word for word."""
    select: str | None = None
    """Which part of the value: [3], [0:9], #field.field; then the address is the node id, word for word."""


def resolve(tag: OpcuaTag, device: OpcuaDevice, link: OpcuaLink) -> Sequence[Resolved]:
    """Compile a tag's address: one entry, or one per element of a slice. Raises ValueError."""
    address = parse(tag.address, tag.type, tag.select, device.namespace)
    if address.field:
        raise ValueError("fields of structures are not supported yet")
    return [Resolved(source, address.kind, address.type, suffix) for source, suffix in address.sources()]


def open_driver(link: Link) -> Driver:
    """Make the driver of a link; the protocol library is imported here, where it is used."""
    from drivers.opcua.driver import OpcuaDriver

    return OpcuaDriver(link)


SPEC: Final = DriverSpec("opcua", OpcuaLink, OpcuaDevice, OpcuaTag, resolve, open_driver)
