"""ThingsBoard's gateway API (thingsboard.io/docs/reference/gateway-mqtt-api).

    out  v1/gateway/connect | disconnect      {"device": "press-1", "type": "default"}
         v1/gateway/telemetry                 {"press-1": [{"ts": ms, "values": {"pressure": 4.2}}, ...], ...}
         v1/gateway/rpc                       {"device": "press-1", "id": 1, "data": {"success": true, "values": {...}}}
         v1/devices/me/telemetry              {"ts": ms, "values": {"gap": {...}}}        what is declared missing
    in   v1/gateway/rpc                       {"device": "press-1", "data": {"id": 1, "method": "set",
                                               "params": {"setpoint": 5}}}          or "isolate"

A reading that is not Good has `<tag>.quality` beside it, a Bad one nothing else. History is an older `ts`. The device
behind the access token needs "Is gateway". Commands are RPC only: a shared attribute is a wish without an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from gateway.commands import Result
from gateway.dialects import (
    Command,
    Credentials,
    Dialect,
    Heard,
    Limits,
    Refused,
    Section,
    Subscription,
    Unreadable,
    by_device,
    doubts,
    doubts_room,
    failures,
    gap_fields,
    isolation,
    json_object,
    member,
    members,
    note,
    text,
    told,
    unexpected,
    wanted,
)
from gateway.model import Gap, Message
from gateway.quality import name

if TYPE_CHECKING:
    from gateway.options import ThingsboardOptions

_RPC: Final = "v1/gateway/rpc"


class Thingsboard(Dialect):
    """A gateway on ThingsBoard."""

    def __init__(self, options: ThingsboardOptions, client_id: str) -> None:
        self._options = options
        self._client_id = client_id
        self.limits = Limits(payload=65_536)
        self.quality = options.quality

    def credentials(self, now: int) -> Credentials | None:
        return Credentials(self._client_id, self._options.token) if self._options.token is not None else None

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription(_RPC, 1, commands=True),)

    def presence(self, devices: Sequence[str], online: bool, now: int) -> list[Message]:
        kind = {"type": self._options.device_type} if online else {}
        topic = "v1/gateway/connect" if online else "v1/gateway/disconnect"
        return [note(topic, text({"device": device, **kind})) for device in devices]

    def room(self, section: Section) -> int:
        return section.size + doubts_room(section) + len(text(section.device)) + 64

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        devices = [
            text(device) + b":[" + b",".join(map(_entry, parts)) + b"]" for device, parts in by_device(sections).items()
        ]
        return "v1/gateway/telemetry", b"{" + b",".join(devices) + b"}"

    def gap(self, gap: Gap, now: int) -> tuple[str, bytes] | None:
        fields = gap_fields(gap)
        return "v1/devices/me/telemetry", text({"ts": fields["end"], "values": {"gap": fields}})

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        if topic != _RPC:
            return unexpected(topic)
        device, number = "", None
        try:
            body = json_object(payload)
            device, data = member(body, "device", str), member(body, "data", dict)
            number = data.get("id")
            if data.get("method") == "isolate":
                return Heard(commands=(isolation("", True, reply=(device, number)),))
            values = wanted(_params(data))
        except Unreadable as error:
            reply = () if number is None else (self._reply(device, number, {"success": False, "error": str(error)}),)
            return Heard(send=reply, refused=(Refused(topic, str(error), device=device),))
        key = blake2b(payload, digest_size=12).hexdigest()
        return Heard(commands=(Command(key, device, values, reply=(device, number)),))

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        reasons = failures(command, results)
        data: dict[str, Any] = {"success": not reasons, "values": told(command, results)}
        device, number = command.reply
        return [self._reply(device, number, {**data, "error": reasons} if reasons else data)]

    def _reply(self, device: str, number: object, data: dict[str, Any]) -> Message:
        return note(_RPC, text({"device": device, "id": number, "data": data}))


def _params(data: dict[str, Any]) -> object:
    if data.get("method") != "set":
        raise Unreadable(f"there is no method {data.get('method')!r}, only set and isolate")
    return data.get("params")


def _entry(section: Section) -> bytes:
    fields = members(section)
    # ,"pressure":  becomes  ,"pressure.quality":"BadTimeout"
    for field, status in doubts(section):
        fields += field[:-2] + b'.quality":"' + name(status).encode() + b'"'
    return b'{"ts":%d,"values":{' % section.time + fields.removeprefix(b",") + b"}}"
