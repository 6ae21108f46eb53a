"""Tencent Cloud IoT Explorer: a gateway that reports for its sub-devices (cloud.tencent.com 1081/47442, 634/15241).

    out  $gateway/operation/{pid}/{dn}          {"type": "online" | "offline", "payload": {"devices": [...]}}
         $thing/up/property/{pid}/{dn}          (of the sub-device) {"method": "report", "clientToken", "timestamp": ms,
                                                "params": {"pressure": 4.2}}
                                                {"method": "control_reply", "clientToken", "code": 0, "status": ""}
         $thing/up/action/{pid}/{dn}            {"method": "action_reply", "clientToken", "code": 0, "status": "",
                                                "response": {"results": JSON as a text}}
    in   $gateway/operation/result/{pid}/{dn}   {"type", "payload": {"devices": [{..., "result": 0}]}}
         $thing/down/property/{pid}/{dn}        (of the sub-device) {"method": "control", "clientToken", "params"}
                                                {"method": "report_reply", "clientToken", "code"}
         $thing/down/action/{pid}/{dn}          {"method": "action", "clientToken", "actionId": "set" | "isolate",
                                                "params": {"pressure": 4.2}}

Nothing is reported before the platform said that the sub-devices are online. It takes 16 kB a message and 10 messages a
second at QoS 1, no will, no retain. One message holds one device at one time; history is an older `timestamp`. There is
no place for a quality: a Bad reading is not reported. The user name carries its own expiry and is signed with it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Hashable, Sequence
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, Final

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
    chunks,
    failures,
    identifier_problem,
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
from gateway.model import Message

if TYPE_CHECKING:
    from gateway.options import TencentOptions

PATIENCE: Final = 10 * SECOND  # for the answer to an announcement
_APPLICATION: Final = "21010406"  # the platform's number for its Python SDK's kind of client
_BATCH: Final = 50


def password(secret: str, username: str) -> str:
    """Sign a user name with the device secret (base64). Raises ValueError where it is not base64."""
    try:
        key = base64.b64decode(secret, validate=True)
    except binascii.Error:
        raise ValueError("the device secret is not base64") from None
    return hmac.new(key, username.encode(), sha256).hexdigest() + ";hmacsha256"


class Tencent(Dialect):
    """A gateway on IoT Explorer. Raises ValueError for a secret that is not base64."""

    def __init__(self, options: TencentOptions) -> None:
        password(options.secret, "")
        self._options = options
        self._operation = f"$gateway/operation/{options.product}/{options.name}"
        self._result = f"$gateway/operation/result/{options.product}/{options.name}"
        self._names = {f"{each.product}/{each.name}": name for name, each in options.devices.items()}
        self._unanswered: set[str] = set()
        self._refused: set[str] = set()
        self._asked = 0
        self._token = 0
        self.limits = Limits(
            payload=16_384,
            messages=10,
            repeats=False,
            retain=False,
            will=False,
            keep_alive=(30, 900),
            versions=("3.1.1",),
        )
        self.quality = False

    def credentials(self, now: int) -> Credentials | None:
        client = f"{self._options.product}{self._options.name}"
        expires = now + round(self._options.validity * SECOND)
        connection = blake2b(b"%d" % now, digest_size=4).hexdigest()[:5]
        username = f"{client};{_APPLICATION};{connection};{expires // SECOND}"
        return Credentials(client, username, password(self._options.secret, username), expires)

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription(self._result),)

    def knows(self, device: str) -> bool:
        return device in self._options.devices and device not in self._refused

    def name_problem(self, name: str) -> str:
        return identifier_problem(name, 32, "Tencent's platform")

    # ------------------------------------------------------------------------------------------------ presence

    def begin(self, now: int) -> list[Message]:
        self._unanswered.clear()
        self._refused.clear()
        return []

    def presence(self, devices: Sequence[str], online: bool, now: int) -> list[Message]:
        known = [device for device in devices if self.knows(device)]
        if online and known:
            self._asked = self._asked if self._unanswered else now
            self._unanswered.update(known)
        kind = "online" if online else "offline"
        return [self._operate(kind, part) for part in chunks(known, _BATCH)]

    def _operate(self, kind: str, devices: Sequence[str]) -> Message:
        identities = [self._options.devices[device] for device in devices]
        listed = [{"product_id": each.product, "device_name": each.name} for each in identities]
        return note(self._operation, text({"type": kind, "payload": {"devices": listed}}))

    def waiting(self, now: int) -> bool:
        return bool(self._unanswered)

    def tick(self, now: int) -> Heard:
        if self._unanswered and now - self._asked > PATIENCE:
            return Heard(leave="the platform does not say that the sub-devices are online")
        return NOTHING

    # ------------------------------------------------------------------------------------------------ readings

    def together(self, section: Section) -> Hashable:
        return section.device, section.time

    def room(self, section: Section) -> int:
        return section.size

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        first = sections[0]
        self._token += 1
        values = b",".join(members(section) for section in sections)
        body = b'{"method":"report","clientToken":"r-%d","timestamp":%d,"params":{%s}}'
        return self._thing("up", "property", first.device), body % (self._token, first.time, values)

    def _thing(self, way: str, what: str, device: str) -> str:
        identity = self._options.devices[device]
        return f"$thing/{way}/{what}/{identity.product}/{identity.name}"

    # ------------------------------------------------------------------------------------------------ incoming

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        try:
            body = json_object(payload)
            if topic == self._result:
                return self._operated(body)
            what, _, who = topic.removeprefix("$thing/down/").partition("/")
            device = self._names.get(who)
            if device is None or what not in ("property", "action"):
                return unexpected(topic)
            return self._down(topic, device, body) if what == "property" else self._act(topic, device, body)
        except Unreadable as error:
            return Heard(refused=(Refused(topic, str(error)),))

    def _operated(self, body: dict[str, Any]) -> Heard:
        """Read which sub-devices are online now."""
        if body.get("type") != "online":
            return NOTHING
        online, troubles = [], []
        for each in member(member(body, "payload", dict), "devices", list):
            if not isinstance(each, dict):
                raise Unreadable("a device is not an object")
            device = self._names.get(f"{each.get('product_id')}/{each.get('device_name')}")
            if device is None or device not in self._unanswered:
                continue
            self._unanswered.discard(device)
            if each.get("result") == 0:
                online.append(device)
            else:
                self._refused.add(device)
                troubles.append(f"{device} may not come online on Tencent's platform: result {each.get('result')}")
        topics = [self._thing("down", what, device) for device in online for what in ("property", "action")]
        return Heard(subscribe=tuple(Subscription(topic, commands=True) for topic in topics), troubles=tuple(troubles))

    def _down(self, topic: str, device: str, body: dict[str, Any]) -> Heard:
        method, token = body.get("method"), str(body.get("clientToken", ""))
        if method == "report_reply":
            code = body.get("code")
            said = f"Tencent's platform refused readings of {device}: code {code} {body.get('status', '')}"
            return NOTHING if code == 0 else Heard(troubles=(said.strip(),))
        if method != "control":
            return NOTHING  # get_status_reply and the like
        try:
            values = wanted(body.get("params"))
        except Unreadable as error:
            send = (self._reply(device, token, str(error)),)
            return Heard(send=send, refused=(Refused(topic, str(error), token, device),))
        return Heard(commands=(Command(_key(device, token), device, values, reply=("property", device, token)),))

    def _act(self, topic: str, device: str, body: dict[str, Any]) -> Heard:
        """Read the call of an action, whose answer has room for what became of each value."""
        token, action = str(body.get("clientToken", "")), body.get("actionId")
        reply = ("action", device, token)
        try:
            if action == "isolate":
                return Heard(commands=(isolation(_key(device, token), True, reply=reply),))
            if action != "set":
                raise Unreadable(f"there is no action {action!r}, only set and isolate")  # noqa: TRY301
            values = wanted(body.get("params"))
        except Unreadable as error:
            send = (self._acted(device, token, str(error), None),)
            return Heard(send=send, refused=(Refused(topic, str(error), token, device),))
        return Heard(commands=(Command(_key(device, token), device, values, reply=reply),))

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        what, device, token = command.reply
        reasons = failures(command, results)
        if what == "property":
            return [self._reply(device, token, reasons)]
        return [self._acted(device, token, reasons, {} if command.isolate else told(command, results))]

    def _reply(self, device: str, token: str, reasons: str) -> Message:
        said = {"clientToken": token, "code": int(bool(reasons)), "status": reasons or "done"}
        return note(self._thing("up", "property", device), text({"method": "control_reply", **said}))

    def _acted(self, device: str, token: str, reasons: str, values: dict[str, Any] | None) -> Message:
        said = {"clientToken": token, "code": int(bool(reasons)), "status": reasons or "done"}
        response = {} if not values else {"response": {"results": text(values).decode()}}
        return note(self._thing("up", "action", device), text({"method": "action_reply", **said, **response}))


def _key(device: str, token: str) -> str:
    return f"{device}/{token}" if token else ""
