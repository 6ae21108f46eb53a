"""What goes with a message under MQTT 5: expiry, content type, user properties, and a topic's alias.

A topic that is used often is sent once a session, with a number; after that the number alone goes, where the broker
takes aliases (Topic Alias Maximum). The first topics get them; retained messages, sent once, do not. A message whose
topic was refused takes its alias with it: the broker may not have noted it. Without MQTT 5 all this is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


@dataclass(frozen=True, slots=True)
class Envelope:
    """What goes with each message of a connection."""

    expiry: int | None = None  # seconds after which the broker need not deliver it; not of retained messages
    content_type: str | None = None
    user: Mapping[str, str] = field(default_factory=dict)


class _Packed:
    """Properties that were packed once: paho packs them anew for each message, which costs as much as the rest."""

    __slots__ = ("_bytes",)
    packetType = PacketTypes.PUBLISH  # noqa: N815  paho's name

    def __init__(self, properties: Properties) -> None:
        self._bytes: bytes = properties.pack()  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        return self._bytes

    def __str__(self) -> str:
        return self._bytes.hex()


class Outgoing:
    """The envelopes of one session."""

    def __init__(self, envelope: Envelope, *, version_5: bool, aliases: int, largest: int) -> None:
        """`aliases`: how many the broker takes. `largest`: bytes of a packet the broker takes, 0 for any number."""
        self._envelope = envelope
        self._version_5 = version_5
        self._free = aliases if version_5 else 0
        self._largest = largest
        self._aliases: dict[str, int] = {}
        self._ready: dict[tuple[int, bool], Any] = {}  # packed, without properties of a message's own

    def __call__(self, topic: str, *, retain: bool, user: Mapping[str, str] | None) -> tuple[str, Any]:
        """Give the topic to send and the properties to send with it."""
        alias, known = 0, False
        if not retain:
            known = topic in self._aliases
            if not known and self._free:
                self._aliases[topic] = self._free
                self._free -= 1
            alias = self._aliases.get(topic, 0)
        return "" if known else topic, self._properties(alias, retain, user)

    def forget(self, topic: str) -> None:
        """Send the topic in full again: a message was refused that may have introduced its alias."""
        self._aliases.pop(topic, None)

    def room(self, topic: str, payload: bytes, user: Mapping[str, str] | None) -> bool:
        """Say whether the broker takes a packet of this size."""
        if not self._largest:
            return True
        own = sum(5 + len(key.encode()) + len(value.encode()) for key, value in (user or {}).items())
        return len(payload) + len(topic.encode()) + own + self.weight <= self._largest

    @property
    def weight(self) -> int:
        """Bytes of a packet, at most, that are neither topic nor payload nor the message's own properties."""
        user = sum(5 + len(key.encode()) + len(value.encode()) for key, value in self._envelope.user.items())
        return 32 + user + len((self._envelope.content_type or "").encode())

    def _properties(self, alias: int, retain: bool, user: Mapping[str, str] | None) -> Any:
        if not self._version_5:
            return None
        if user:
            return self._make(alias, retain, user)
        if (alias, retain) not in self._ready:
            made = self._make(alias, retain, {})
            self._ready[alias, retain] = None if made is None else _Packed(made)
        return self._ready[alias, retain]

    def _make(self, alias: int, retain: bool, user: Mapping[str, str]) -> Properties | None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        envelope = self._envelope
        if alias:
            properties.TopicAlias = alias
        if envelope.expiry is not None and not retain:
            properties.MessageExpiryInterval = envelope.expiry
        if envelope.content_type is not None:
            properties.ContentType = envelope.content_type
        if envelope.user or user:
            properties.UserProperty = [*envelope.user.items(), *user.items()]
        return None if properties.isEmpty() else properties  # type: ignore[no-untyped-call]
