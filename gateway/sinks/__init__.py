"""Where messages go, one module per kind of peer, and the table of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.dialects import Subscription
from gateway.dialects.dialogue import Dialogue

if TYPE_CHECKING:
    from gateway.options import PublisherOptions
    from gateway.sinks.dialogue import DialogueSink
    from gateway.sinks.mqtt import MqttSink


def sink_for(name: str, options: PublisherOptions, gateway: str, listen: Sequence[Subscription] = ()) -> MqttSink:
    """Make the sink of the publisher of this name; it hears what it is to `listen` to. Raises ValueError for a URL
    that is none."""
    from gateway.sinks.mqtt import MqttSink  # imported here because it brings its library along

    return MqttSink(name, options, gateway, listen)


def dialogue_sink(name: str, options: PublisherOptions, gateway: str, dialogue: Dialogue) -> DialogueSink:
    """Make the sink of a publisher whose format is a conversation. Raises ValueError for a URL that is none."""
    from gateway.sinks.dialogue import DialogueSink

    return DialogueSink(name, options, gateway, dialogue)
