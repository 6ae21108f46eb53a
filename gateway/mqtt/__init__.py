"""MQTT 3.1.1 and 5 on the event loop: the only place that knows paho-mqtt.

places      where brokers are: mqtt, mqtts, ws and wss URLs
dial        TCP from the chosen source address, TLS with an authority or a pinned certificate
websocket   MQTT inside WebSocket frames
claim       one connection a client id and broker on this machine
envelope    what goes with a message under MQTT 5: expiry, content type, user properties, topic alias
reasons     reason codes in words a person can act on
connection  one session with a broker
"""

from gateway.mqtt.connection import Answer, Arrived, Connection, Will
from gateway.mqtt.dial import tls_context
from gateway.mqtt.envelope import Envelope
from gateway.mqtt.places import Endpoint, endpoints
from gateway.mqtt.reasons import NO_MATCHING_SUBSCRIBERS, TOO_LARGE

__all__ = [
    "NO_MATCHING_SUBSCRIBERS",
    "TOO_LARGE",
    "Answer",
    "Arrived",
    "Connection",
    "Endpoint",
    "Envelope",
    "Will",
    "endpoints",
    "tls_context",
]
