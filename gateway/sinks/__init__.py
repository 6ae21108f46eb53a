"""Where messages go, one module per kind of peer, and the table of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gateway.contracts import Sink
from gateway.dialects import Subscription
from gateway.dialects.dialogue import Dialogue
from gateway.options import PublisherOptions

if TYPE_CHECKING:
    from gateway.sinks.dialogue import DialogueSink
    from gateway.sinks.mqtt import MqttSink


@runtime_checkable
class Watched(Protocol):
    """A sink that notices the end of its session while nothing is being sent."""

    async def ended(self) -> str:
        """Return, with the reason, when the session has ended."""
        ...


@runtime_checkable
class Outspoken(Protocol):
    """A sink that can tell a session that was lost from one that it gives up because of what the peer answered."""

    @property
    def connected(self) -> bool: ...


@runtime_checkable
class Demanding(Protocol):
    """A sink that knows whether the end of its session will pass by itself."""

    @property
    def act(self) -> bool:
        """Whether somebody must act: credentials, access rules, certificates, a client id that is used twice."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A sink whose peer says how large a payload it takes."""

    @property
    def largest(self) -> int:
        """Bytes, in this session; 0 where the peer names no limit."""
        ...

    @property
    def overrun(self) -> bool:
        """Whether the peer ended the session over a message that was too large."""
        ...


@runtime_checkable
class Heard(Protocol):
    """A sink that knows when its peer gave the last sign of life, and can ask for one."""

    @property
    def heard(self) -> float:
        """Time of the last sign of life, by the event loop's clock."""
        ...

    def ask(self) -> None:
        """Ask the peer for a sign of life, without waiting for it. Never raises."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A sink that knows why the peer refused the last message that it refused."""

    @property
    def refusal(self) -> str: ...


def sink_for(name: str, options: PublisherOptions, gateway: str) -> Sink:
    """Make the sink of the publisher of this name. Raises ValueError for a URL that is none."""
    from gateway.sinks.mqtt import MqttSink  # the one kind so far; imported here because it brings its library along

    return MqttSink(name, options, gateway)


def hearing_sink(name: str, options: PublisherOptions, gateway: str, listen: Sequence[Subscription]) -> MqttSink:
    """Make the sink of a publisher that takes commands, too. Raises ValueError for a URL that is none."""
    from gateway.sinks.mqtt import MqttSink

    return MqttSink(name, options, gateway, listen)


def dialogue_sink(name: str, options: PublisherOptions, gateway: str, dialogue: Dialogue) -> DialogueSink:
    """Make the sink of a publisher whose format is a conversation. Raises ValueError for a URL that is none."""
    from gateway.sinks.dialogue import DialogueSink

    return DialogueSink(name, options, gateway, dialogue)
