"""Azure IoT Hub: readings as free JSON (gateway.dialects.rows), commands by direct method or desired properties.

    out  devices/{did}/messages/events/$.ct=application%2Fjson&$.ce=utf-8      [{"device", "ts", "values"}, ...]
         $iothub/methods/res/{status}/?$rid={id}                               {"values": {...}}
         $iothub/twin/PATCH/properties/reported/?$rid={id}                     {device: {tag: {"value", "ac", "av"}}}
    in   $iothub/methods/POST/{method}/?$rid={id}                              {"device", "values": {tag: value}}
         (a method "isolate" stops all writes)
         $iothub/twin/PATCH/properties/desired/?$version={v}                   {device: {tag: value}, "$version": v}
         $iothub/twin/res/{status}/?$rid={id}

The hub takes 256 kB a message, MQTT 3.1.1 over TLS, no retain; QoS 2 closes the connection. A SAS token is signed with
the device key and renewed by a new session before it expires; without a key it is a client certificate's turn.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gateway.commands import Result
from gateway.dialects import (
    NOTHING,
    SECOND,
    Command,
    Credentials,
    Dialect,
    Heard,
    Limits,
    Refused,
    Section,
    Subscription,
    Unreadable,
    achieved,
    failures,
    isolation,
    json_object,
    member,
    note,
    text,
    told,
    unexpected,
    wanted,
    wishes,
)
from gateway.dialects.rows import gap_row, row_room, rows
from gateway.model import Gap, Message

if TYPE_CHECKING:
    from gateway.options import AzureOptions

_API: Final = "2021-04-12"
_METHODS: Final = "$iothub/methods/POST/"
_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/"
_ANSWERS: Final = "$iothub/twin/res/"


def token(key: str, resource: str, expires: int) -> str:
    """Give a SAS token; `key` in base64, `expires` in seconds since 1970. Raises ValueError."""
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error:
        raise ValueError("the device key is not base64") from None
    where = quote(resource, safe="")
    signed = hmac.new(secret, f"{where}\n{expires}".encode(), sha256).digest()
    return f"SharedAccessSignature sr={where}&sig={quote(base64.b64encode(signed), safe='')}&se={expires}"


class Azure(Dialect):
    """A device on IoT Hub. Raises ValueError for a key that is not base64."""

    def __init__(self, options: AzureOptions) -> None:
        self._options = options
        self._resource = f"{options.hub}/devices/{options.device_id}"
        self._topic = f"devices/{options.device_id}/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
        self._request = 0
        self.limits = Limits(payload=262_144, retain=False, keep_alive=(1, 1767), versions=("3.1.1",), tls=True)
        self.quality = True
        if options.key is not None:
            token(options.key, self._resource, 0)

    def credentials(self, now: int) -> Credentials | None:
        options = self._options
        username = f"{options.hub}/{options.device_id}/?api-version={_API}"
        if options.key is None:
            return Credentials(options.device_id, username)
        expires = now // SECOND + round(options.validity)
        signed = token(options.key, self._resource, expires)
        return Credentials(options.device_id, username, signed, expires * SECOND)

    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(Subscription(topic + "#", commands=True) for topic in (_METHODS, _DESIRED, _ANSWERS))

    def room(self, section: Section) -> int:
        return row_room(section)

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        return self._topic, rows(sections)

    def gap(self, gap: Gap, now: int) -> tuple[str, bytes] | None:
        return self._topic, gap_row(gap)

    # ------------------------------------------------------------------------------------------------ incoming

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        if topic.startswith(_ANSWERS):
            status = topic.removeprefix(_ANSWERS).partition("/")[0]
            return NOTHING if status < "400" else Heard(troubles=(f"the twin refused a report: {status}",))
        if topic.startswith(_METHODS):
            return self._method(topic, payload)
        if topic.startswith(_DESIRED):
            return self._wish(topic, payload)
        return unexpected(topic)

    def _method(self, topic: str, payload: bytes) -> Heard:
        method, _, rest = topic.removeprefix(_METHODS).partition("/")
        request, device = rest.removeprefix("?$rid="), ""
        try:
            if method == "isolate":
                return Heard(commands=(isolation("", True, reply=("method", request)),))
            if method != self._options.method:
                raise Unreadable(f"there is no method {method!r}, only {self._options.method}")  # noqa: TRY301
            body = json_object(payload)
            device = member(body, "device", str)
            values = wanted(body.get("values"))
        except Unreadable as error:
            status = 404 if method != self._options.method else 400
            send = (_method_reply(status, request, {"error": str(error)}),)
            return Heard(send=send, refused=(Refused(topic, str(error), request, device),))
        # the hub counts its requests anew in each session
        key = blake2b(topic.encode() + payload, digest_size=12).hexdigest()
        return Heard(commands=(Command(key, device, values, reply=("method", request)),))

    def _wish(self, topic: str, payload: bytes) -> Heard:
        try:
            body = json_object(payload)
        except Unreadable as error:
            return Heard(refused=(Refused(topic, str(error)),))
        version = body.pop("$version", None)
        asked = {device: values for device, values in body.items() if values is not None}  # None: a wish taken back
        commands, refused = wishes(topic, asked, f"twin/{version}", reply=("twin", version))
        return Heard(commands=tuple(commands), refused=tuple(refused))

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        kind, number = command.reply
        if kind == "method":
            reasons = failures(command, results)
            body = {"values": told(command, results)}
            return [_method_reply(400 if reasons else 200, number, {**body, "error": reasons} if reasons else body)]
        self._request += 1
        state = {tag: _reported(result, number) for (tag, _), result in zip(command.values, results, strict=True)}
        topic = f"$iothub/twin/PATCH/properties/reported/?$rid={self._request}"
        return [note(topic, text({command.device: state}))]


def _method_reply(status: int, request: str, body: dict[str, Any]) -> Message:
    return note(f"$iothub/methods/res/{status}/?$rid={request}", text(body))


def _reported(result: Result, version: object) -> dict[str, Any]:
    """Answer a wish as IoT Plug and Play does: value, status, version, description."""
    return {"value": result.after, "ac": 200 if achieved(result) else 400, "av": version, "ad": result.reason}
