"""A small IoTDA: signature, topics, times in exactly one form, 64 kB, 50 messages a second, 100 sub-devices."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.dialects import SECOND, Credentials
from tests.fakes.cloud import Platform, Reply

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_EVENT_TIME = re.compile(r"\d{8}T\d{6}Z")


class FakeHuawei(Platform):
    most_bytes = 65_536
    most_messages = 50

    def __init__(self, device: str, secret: str, check_time: bool = False) -> None:
        super().__init__()
        self._device, self._secret, self._check_time = device, secret, check_time
        self._root = f"$oc/devices/{device}/sys"

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        assert credentials is not None
        match = re.fullmatch(re.escape(self._device) + r"_0_([01])_(\d{10})", credentials.client_id)
        self.require(match, f"the client id {credentials.client_id}")
        assert match is not None
        if match[1] == "1":
            hour = datetime.fromtimestamp(now / SECOND, UTC).strftime("%Y%m%d%H")
            self.require(match[2] == hour, "the hour of the signature")
        wanted = hmac.new(match[2].encode(), self._secret.encode(), hashlib.sha256).hexdigest()
        self.require(credentials.username == self._device, "the user name")
        self.require(credentials.password == wanted, "the password")
        super().connect(credentials, now, tls=tls)

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        body = self.json(payload)
        self.require(topic.startswith(self._root + "/"), f"the topic {topic}")
        rest = topic.removeprefix(self._root + "/")
        if rest == "gateway/sub_devices/properties/report":
            self._report(body)
        elif rest == "events/up":
            self._event(body)
        elif match := re.fullmatch(r"(properties/set|commands)/response/request_id=(\w+)", rest):
            self.require("result_code" in body, "an answer has a result code")
            self.replies.append((match[2], body))
        else:
            self.require(False, f"the topic {topic}")
        return []

    def _report(self, body: Any) -> None:
        self.require(0 < len(body["devices"]) <= 100, "at most 100 sub-devices")
        identities = [device["device_id"] for device in body["devices"]]
        self.require(len(identities) == len(set(identities)), "a sub-device occurs once")
        for device in body["devices"]:
            self.require(self.online.get(device["device_id"]), f"{device['device_id']} is not online")
            for service in device["services"]:
                self.require(_TIME.fullmatch(service["event_time"]), "the form of a time")
                moment = datetime.fromisoformat(service["event_time"])
                self.require(service["properties"], "a service without properties")
                for name, value in service["properties"].items():
                    key = f"{service['service_id']}.{name}"
                    self.store(device["device_id"], key, round(moment.timestamp() * 1000), value)

    def _event(self, body: Any) -> None:
        for service in body["services"]:
            self.require(service["service_id"] == "$sub_device_manager", "the service of an event")
            self.require(service["event_type"] == "sub_device_update_status", "the type of an event")
            self.require(_EVENT_TIME.fullmatch(service["event_time"]), "the form of a time")
            statuses = service["paras"]["device_statuses"]
            self.require(0 < len(statuses) <= 100, "at most 100 sub-devices")
            for each in statuses:
                self.require(each["status"] in ("ONLINE", "OFFLINE"), "a status")
                self.online[each["device_id"]] = each["status"] == "ONLINE"

    def set(self, request: str, body: Any, path: str = "properties/set") -> Reply:
        return f"{self._root}/{path}/request_id={request}", orjson.dumps(body)
