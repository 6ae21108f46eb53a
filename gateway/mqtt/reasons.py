"""Reason codes (MQTT 5, section 2.4) in words a person can act on. Those of 3.1.1 are translated by paho."""

from __future__ import annotations

from typing import Any, Final

NO_MATCHING_SUBSCRIBERS: Final = 0x10
REFUSED: Final = 0x80  # codes from here on are refusals
NOT_AUTHORIZED: Final = 0x87
TOO_LARGE: Final = 0x95
QUOTA_EXCEEDED: Final = 0x97
FOR_NOW: Final = (0x80, 0x83, NOT_AUTHORIZED)  # of a message that may be taken later, as it is
BUSY: Final = (0x91, QUOTA_EXCEEDED)  # the broker takes nothing now
NEEDS_SOMEBODY: Final = (0x84, 0x85, 0x86, NOT_AUTHORIZED, 0x8A, 0x8C, 0x8E, 0x9A, 0x9D)  # will not pass by itself

_ADVICE: Final = {
    0x80: "see the broker's log",
    0x84: "it does not speak this version of MQTT: set version: 3.1.1",
    0x85: "the client id is not allowed: set client_id",
    0x86: "wrong user name or password: check username and password",
    NOT_AUTHORIZED: "not authorised: check username, password and the broker's access rules",
    0x88: "it is not ready yet",
    0x89: "it is overloaded",
    0x8A: "this client is banned: see the broker's settings",
    0x8B: "it is shutting down",
    0x8D: "it heard nothing for one and a half times the keep-alive: is the line overloaded?",
    0x8E: "another client connected with the client id {client_id} and took over the session. Is there a second gateway"
    " with this site file, or a copy of it? Each needs a client_id of its own",
    0x93: "more messages were under way than it takes: see the broker's log",
    TOO_LARGE: "a message was too large: lower max_message",
    0x96: "too many messages in a short time",
    QUOTA_EXCEEDED: "a quota of the broker is used up: see the broker's settings",
    0x9A: "it keeps no retained messages, which the gateway's status and definitions need",
    0x9C: "it wants this client on another server for now{elsewhere}",
    0x9D: "this client's server has moved for good{elsewhere}: change url",
    0x9F: "too many connections in a short time",
}


def advice(code: int, properties: Any, client_id: str) -> str:
    """Say what to do about a reason code of CONNACK or DISCONNECT; empty where nothing is known."""
    reference = getattr(properties, "ServerReference", "")
    return _ADVICE.get(code, "").format(client_id=client_id, elsewhere=f": {reference}" if reference else "")


def told(name: object, properties: Any) -> str:
    """Give a code's name, and what else the broker said of it."""
    said = getattr(properties, "ReasonString", "")
    return f"{name}: {said}" if said else str(name)
