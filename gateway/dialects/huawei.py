"""Huawei Cloud IoTDA: a gateway that reports for its sub-devices (support.huaweicloud.com, iot_06_v5_3006, _3009).

    out  $oc/devices/{gw}/sys/gateway/sub_devices/properties/report
             {"devices": [{"device_id", "services": [{"service_id", "properties": {...}, "event_time"}]}]}
         $oc/devices/{gw}/sys/events/up        sub-devices ONLINE and OFFLINE
         .../sys/properties/set/response/request_id={id}     {"result_code": 0, "result_desc": "success"}
         .../sys/commands/response/request_id={id}           {"result_code": 0, "response_name", "paras"}
    in   .../sys/properties/set/request_id={id}              {"object_device_id", "services": [{"properties": {...}}]}
         .../sys/commands/request_id={id}                    {"object_device_id", "command_name", "paras": {...}}
                                                              (the command "isolate" stops all writes)

The platform takes 64 kB and 100 sub-devices a report, 50 messages and 1 Mbit a second, no will, no retain, no QoS 2. It
has no place for a quality: a Bad reading is not reported. History is an older `event_time`; it must have exactly the
form used here, for another is silently replaced by the platform's clock. The names of properties and services are those
of the product model there; a property is a tag's name, a service the option `service`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
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
    by_device,
    chunks,
    failures,
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
    from gateway.options import HuaweiOptions

_DEVICES: Final = 100
_TIME: Final = 24  # bytes of an event_time


class Huawei(Dialect):
    """A gateway on IoTDA."""

    def __init__(self, options: HuaweiOptions) -> None:
        self._options = options
        self._root = f"$oc/devices/{options.device_id}/sys"
        self._ids = dict(options.devices)
        self._names = {identity: name for name, identity in self._ids.items()}
        self.limits = Limits(
            payload=65_536,
            messages=50,
            octets=125_000,
            devices=_DEVICES,
            retain=False,
            will=False,
            keep_alive=(30, 1200),
            versions=("3.1.1",),
        )
        self.quality = False

    def credentials(self, now: int) -> Credentials | None:
        device, hour = self._options.device_id, f"{datetime.fromtimestamp(now / SECOND, UTC):%Y%m%d%H}"
        password = hmac.new(hour.encode(), self._options.secret.encode(), sha256).hexdigest()
        return Credentials(f"{device}_0_{int(self._options.check_time)}_{hour}", device, password)

    def subscriptions(self) -> tuple[Subscription, ...]:
        commands = (Subscription(f"{self._root}/{topic}/#", commands=True) for topic in ("properties/set", "commands"))
        return *commands, Subscription(f"{self._root}/events/down")

    def name_problem(self, name: str) -> str:
        return "" if 0 < len(name) <= 64 else "a property's name has at most 64 characters on IoTDA"

    def presence(self, devices: Sequence[str], online: bool, now: int) -> list[Message]:
        status = "ONLINE" if online else "OFFLINE"
        return [
            note(f"{self._root}/events/up", text(self._event(part, status, now))) for part in chunks(devices, _DEVICES)
        ]

    def _event(self, devices: Sequence[str], status: str, now: int) -> dict[str, Any]:
        statuses = [{"device_id": self._identity(device), "status": status} for device in devices]
        service = {
            "service_id": "$sub_device_manager",
            "event_type": "sub_device_update_status",
            "event_time": f"{datetime.fromtimestamp(now / SECOND, UTC):%Y%m%dT%H%M%SZ}",
            "paras": {"device_statuses": statuses},
        }
        return {"services": [service]}

    def room(self, section: Section) -> int:
        identity, service = self._identity(section.device), self._service(section)
        return section.size + len(identity.encode()) + len(service.encode()) + _TIME + 128

    def report(self, sections: Sequence[Section], now: int) -> tuple[str, bytes]:
        devices = [
            b'{"device_id":'
            + text(self._identity(device))
            + b',"services":['
            + b",".join(map(self._entry, parts))
            + b"]}"
            for device, parts in by_device(sections).items()
        ]
        topic = f"{self._root}/gateway/sub_devices/properties/report"
        return topic, b'{"devices":[' + b",".join(devices) + b"]}"

    def _entry(self, section: Section) -> bytes:
        service = text(self._service(section))
        when = event_time(section.time).encode()
        return b'{"service_id":' + service + b',"properties":{' + members(section) + b'},"event_time":"' + when + b'"}'

    def _service(self, section: Section) -> str:
        return self._options.service.replace("{group}", section.group).replace("{device}", section.device)

    def _identity(self, device: str) -> str:
        identity = self._ids.get(device)
        if identity is None:
            identity = self._ids[device] = self._options.sub_device.replace("{device}", device)
            self._names[identity] = device
        return identity

    # ------------------------------------------------------------------------------------------------ incoming

    def received(self, topic: str, payload: bytes, now: int) -> Heard:
        if topic == f"{self._root}/events/down":
            return _event_heard(payload)
        path, _, request = topic.removeprefix(self._root + "/").partition("/request_id=")
        if path not in ("properties/set", "commands") or not request:
            return unexpected(topic)
        device = ""
        try:
            body = json_object(payload)
            if path == "commands" and body.get("command_name") == "isolate":
                return Heard(commands=(isolation(request, True, reply=(path, request, "isolate")),))
            identity = body.get("object_device_id") or self._options.device_id
            device = self._device(str(identity))
            values = wanted(body.get("paras") if path == "commands" else _properties(body))
        except Unreadable as error:
            send = (self._reply(path, request, str(error)),)
            return Heard(send=send, refused=(Refused(topic, str(error), request, device),))
        reply = (path, request, body.get("command_name", ""))
        return Heard(commands=(Command(request, device, values, reply=reply),))

    def _device(self, identity: str) -> str:
        known = self._names.get(identity)
        if known is not None:
            return known
        before, found, after = self._options.sub_device.partition("{device}")
        name = identity.removeprefix(before).removesuffix(after) if found else ""
        if not name or before + name + after != identity or identity == self._options.device_id:
            raise Unreadable(f"there is no sub-device {identity!r}")
        return name

    def answer(self, command: Command, results: Sequence[Result], now: int) -> list[Message]:
        path, request, name = command.reply
        return [self._reply(path, request, failures(command, results), name, told(command, results))]

    def _reply(self, path: str, request: str, reasons: str, name: str = "", values: object = None) -> Message:
        topic = f"{self._root}/{path}/response/request_id={request}"
        if path == "commands":
            paras = {"values": values, "error": reasons} if reasons else {"values": values}
            return note(topic, text({"result_code": int(bool(reasons)), "response_name": name, "paras": paras}))
        return note(topic, text({"result_code": int(bool(reasons)), "result_desc": reasons or "success"}))


def event_time(stamp: int) -> str:
    """Give ms since 1970 as IoTDA reads it: 2025-01-01T00:00:00.000Z."""
    moment = datetime.fromtimestamp(stamp // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{stamp % 1000:03d}Z"


def _properties(body: dict[str, Any]) -> dict[str, Any]:
    """Gather the properties of all services: a tag's name is unique in its device."""
    properties: dict[str, Any] = {}
    for service in member(body, "services", list):
        if not isinstance(service, dict):
            raise Unreadable("a service is not an object")
        properties.update(member(service, "properties", dict))
    return properties


def _event_heard(payload: bytes) -> Heard:
    """Look for sub-devices that could not change their status."""
    try:
        failed = [
            each
            for service in member(json_object(payload), "services", list)
            for each in member(service, "paras", dict).get("failed_devices") or ()
        ]
        what = [f"{each['device_id']}: {each.get('error_msg', 'refused')}" for each in failed]
    except (Unreadable, TypeError, KeyError, AttributeError):
        return NOTHING  # an event of another kind, or none of ours
    return Heard(troubles=tuple(f"IoTDA does not take the status of a sub-device: {each}" for each in what))
