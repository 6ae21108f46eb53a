"""Alibaba Cloud IoT Platform, Alink JSON: a gateway that reports for its sub-devices (help.aliyun.com 89301, 89300).

    out  /ext/session/{pk}/{dn}/combine/batch_login | _logout  sub-devices, signed, QoS 0, 50 at a time
         /sys/{pk}/{dn}/thing/event/property/pack/post         live: {"params": {"subDevices": [{"identity",
                                                               "properties": {"p": {"value": 1.0, "time": ms}}}]}}
         /sys/{pk}/{dn}/thing/event/property/history/post      backlog: {"params": [{"identity",
                                                               "properties": [{"p": {"value", "time"}}, ...]}]}
         /sys/{pk}/{dn}/thing/service/property/set_reply       (of the sub-device) {"id", "code": 200, "data": {}}
         /sys/{pk}/{dn}/thing/service/{write|isolate}_reply    {"id", "code": 200, "data": {"results": JSON as a text}}
    in   the _reply of each of these, and
         /sys/{pk}/{dn}/thing/service/property/set             (of the sub-device) {"id", "params": {...}}
         /sys/{pk}/{dn}/thing/service/{write|isolate}          services of the sub-device's product, if it has them

Nothing is reported before the logins are answered. The platform takes 256 kB, 200 properties and 20 sub-devices a
message, 10 messages a second at QoS 1, no will, no retain. A float keeps its decimal point (10.0), as the platform
insists. It has no place for a quality: a Bad reading is not reported. The signature's time is a fixed one, as in the
platform's own SDK, so that a gateway with a wrong clock is not locked out.
"""

from __future__ import annotations

import hmac
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.commands import Result
from gateway.dialects import (
    MILLISECOND,
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
    by_device,
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
    from gateway.options import AliyunOptions, DeviceIdentity

PATIENCE: Final = 10 * SECOND  # for the answer to a login
_BATCH: Final = 50  # sub-devices in a login
_TIMESTAMP: Final = "2524608000000"  # 2050, as in the platform's SDK
_OK: Final = 200
_SERVICES: Final = ("property/set", "write", "isolate")
_IDS: Final = 2**32
_ENTRY: Final = 40  # bytes around one value, its time included


def sign(secret: str, fields: Mapping[str, str], method: str = "sha256") -> str:
    """Sign the fields: HMAC over names and values in the names' order, in hexadecimal."""
    content = "".join(key + fields[key] for key in sorted(fields))
    return hmac.new(secret.encode(), content.encode(), method).hexdigest()


class Aliyun(Dialect):
    """A gateway on Alibaba's IoT Platform."""

    def __init__(self, options: AliyunOptions, tls: bool) -> None:
        self._options = options
        self._tls = tls
        self._gateway = f"{options.product}/{options.name}"
        self._names = {f"{each.product}/{each.name}": name for name, each in options.devices.items()}
        self._id = 0
        self._logins: dict[str, list[str]] = {}  # unanswered, by message id
        self._asked = 0  # ns, the oldest unanswered login
        self._refused: set[str] = set()
        self.limits = Limits(
            payload=262_144,
            messages=10,
            readings=200,
            devices=20,
            repeats=False,
            qos_0=("/ext/session/",),
            retain=False,
            will=False,
            keep_alive=(30, 1200),
            versions=("3.1.1",),
        )
        self.quality = False

    def credentials(self, now: int) -> Credentials | None:
        options = self._options
        client = options.client_id or f"{options.product}.{options.name}"
        mode = 2 if self._tls else 3
        signed = sign(options.secret, self._fields(client, options.product, options.name))
        client_id = f"{client}|securemode={mode},signmethod=hmacsha256,timestamp={_TIMESTAMP}|"
        return Credentials(client_id, f"{options.name}&{options.product}", signed)

    def _fields(self, client: str, product: str, name: str) -> dict[str, str]:
        return {"clientId": client, "deviceName": name, "productKey": product, "timestamp": _TIMESTAMP}

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (
            *(Subscription(f"/ext/session/{self._gateway}/combine/{what}_reply", 0) for what in ("batch_login",)),
            *(
                Subscription(f"/sys/{self._gateway}/thing/event/property/{how}/post_reply")
                for how in ("pack", "history")
            ),
        )

    def knows(self, device: str) -> bool:
        return device in self._options.devices and device not in self._refused

    def name_problem(self, name: str) -> str:
        return identifier_problem(name, 50, "Alibaba's platform")

    # ------------------------------------------------------------------------------------------------ presence

    def begin(self, now: int) -> list[Message]:
        # unique within a day, over restarts too: messages are fewer than milliseconds
        self._id = now // MILLISECOND % _IDS
        self._logins.clear()
        self._refused.clear()
        return []

    def presence(self, devices: Sequence[str], online: bool, now: int) -> list[Message]:
        known = [device for device in devices if self.knows(device)]
        if not online:
            return [self._logout(part) for part in chunks(known, _BATCH)]
        if known and not self._logins:
            self._asked = now
        return [self._login(part) for part in chunks(known, _BATCH)]

    def _login(self, devices: Sequence[str]) -> Message:
        number = self._next()
        self._logins[number] = list(devices)
        body = {"id": number, "params": {"deviceList": [self._signed(self._options.devices[each]) for each in devices]}}
        return note(f"/ext/session/{self._gateway}/combine/batch_login", text(body))

    def _signed(self, device: DeviceIdentity) -> dict[str, str]:
        client = f"{device.product}&{device.name}"
        fields = self._fields(client, device.product, device.name)
        return {**fields, "signMethod": "hmacSha256", "sign": sign(device.secret, fields), "cleanSession": "true"}

    def _logout(self, devices: Sequence[str]) -> Message:
        return note(
            f"/ext/session/{self._gateway}/combine/batch_logout",
            text({"id": self._next(), "params": [self._identity(device) for device in devices]}),
        )

    def _identity(self, device: str) -> dict[str, str]:
        identity = self._options.devices[device]
        return {"productKey": identity.product, "deviceName": identity.name}

    def _next(self) -> str:
        self._id = (self._id + 1) % _IDS
        return str(self._id)

    def waiting(self, now: int) -> bool:
        return bool(self._logins)

    def tick(self, now: int) -> Heard:
        if self._logins and now - self._asked > PATIENCE:
            return Heard(leave="the platform does not answer the login of sub-devices")
        return NOTHING

    # ------------------------------------------------------------------------------------------------ readings

    def together(self, section: Section) -> Hashable:
        return section.backfill

    def room(self, section: Section) -> int:
        identity = self._options.devices[section.device]
        return section.size + _ENTRY * len(section) + len(identity.product) + len(identity.name) + 96

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        history = sections[0].backfill
        parts = []
        for device, entries in by_device(sections).items():
            head = b'{"identity":' + text(self._identity(device)) + b',"properties":'
            values = [_values(entry) for entry in entries]
            if history:
                parts.append(head + b"[" + b",".join(b"{" + each + b"}" for each in values) + b'],"events":[]}')
            else:
                parts.append(head + b"{" + b",".join(values) + b'},"events":{}}')
        how = "history" if history else "pack"
        params = b"[" + b",".join(parts) + b"]"
        if not history:
            params = b'{"properties":{},"events":{},"subDevices":' + params + b"}"
        body = b'{"id":"%s","version":"1.0","sys":{"ack":1},"params":%s,"method":"thing.event.property.%s.post"}'
        topic = f"/sys/{self._gateway}/thing/event/property/{how}/post"
        return topic, body % (self._next().encode(), params, how.encode())

    # ------------------------------------------------------------------------------------------------ incoming

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        try:
            body = json_object(payload)
        except Unreadable as error:
            return Heard(refused=(Refused(topic, str(error)),))
        if topic == f"/ext/session/{self._gateway}/combine/batch_login_reply":
            return self._login_answered(body)
        if topic.startswith(f"/sys/{self._gateway}/") and topic.endswith("/post_reply"):
            return _report_answered(body)
        who, _, rest = topic.removeprefix("/sys/").partition("/thing/")
        service = rest.removeprefix("service/")
        if service == rest or service not in _SERVICES:
            return unexpected(topic)
        device = self._names.get(who, "")
        number = str(body.get("id", ""))
        reply = (who, service, number)
        try:
            if not device:
                raise Unreadable(f"there is no sub-device {who!r}")  # noqa: TRY301
            if service == "isolate":
                return Heard(commands=(isolation(f"{who}/{number}", True, reply=reply),))
            values = wanted(member(body, "params", dict))
        except Unreadable as error:
            send = (_reply(*reply, str(error)),)
            return Heard(send=send, refused=(Refused(topic, str(error), number, device),))
        return Heard(commands=(Command(f"{who}/{number}", device, values, reply=reply),))

    def _login_answered(self, body: dict[str, Any]) -> Heard:
        devices = self._logins.pop(str(body.get("id")), None)
        if devices is None:
            return NOTHING
        if body.get("code") == _OK:
            identities = [self._options.devices[device] for device in devices]
            topics = [
                f"/sys/{each.product}/{each.name}/thing/service/{what}" for each in identities for what in _SERVICES
            ]
            return Heard(subscribe=tuple(Subscription(topic, commands=True) for topic in topics))
        if len(devices) > 1:  # all of a batch fail for one: find out which
            return Heard(send=tuple(self._login([device]) for device in devices))
        self._refused.update(devices)
        return Heard(troubles=(f"{devices[0]} may not log in on Alibaba's platform: {_said(body)}",))

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        who, service, number = command.reply
        values = told(command, results) if service == "write" else None
        return [_reply(who, service, number, failures(command, results), values)]


def _values(section: Section) -> bytes:
    """Give a section's values as {"p": {"value": 1.0, "time": ms}} without the outer braces."""
    opened = [name + b'{"value":' for name in section.names]
    return members(
        Section(section.device, section.group, section.time, opened, section.values), b',"time":%d}' % section.time
    )


def _report_answered(body: dict[str, Any]) -> Heard:
    if body.get("code") == _OK:
        return NOTHING
    return Heard(troubles=(f"Alibaba's platform refused readings: {_said(body)}",))


def _said(body: dict[str, Any]) -> str:
    return f"code {body.get('code')} {body.get('message', '')}".strip()


def _reply(who: str, service: str, number: str, reasons: str, values: dict[str, Any] | None = None) -> Message:
    topic = f"/sys/{who}/thing/service/{service}_reply"
    message = {"message": reasons} if reasons else {}
    data = {"results": text(values).decode()} if values else {}
    return note(topic, text({"id": number, "code": 400 if reasons else _OK, "data": data, **message}))
