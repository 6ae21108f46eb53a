"""A small IoT Explorer: signed user names that expire, sub-devices online before data, 16 kB, 10 messages a second."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection
from typing import Any

import orjson

from gateway.dialects import SECOND, Credentials
from tests.fakes.cloud import Platform, Reply


class FakeTencent(Platform):
    most_bytes = 16_384
    most_messages = 10

    def __init__(self, product: str, name: str, secret: str, devices: Collection[str]) -> None:
        super().__init__()
        self._product, self._name, self._secret, self._devices = product, name, secret, devices
        self.silent = False

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        assert credentials is not None
        self.require(credentials.client_id == self._product + self._name, "the client id")
        client, application, connection, expiry = (credentials.username or "").split(";")
        self.require(client == credentials.client_id and application == "21010406", "the user name")
        self.require(re.fullmatch("[a-z0-9]{5}", connection), "five characters for the connection")
        self.require(int(expiry) > now // SECOND, "the user name has expired")
        key = base64.b64decode(self._secret)
        signed = hmac.new(key, (credentials.username or "").encode(), hashlib.sha256).hexdigest()
        self.require(credentials.password == f"{signed};hmacsha256", "the password")
        super().connect(credentials, now, tls=tls)

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        body = self.json(payload)
        if topic == f"$gateway/operation/{self._product}/{self._name}":
            return self._operate(body)
        if match := re.fullmatch(r"\$thing/up/action/(\w+/\w+)", topic):
            self.require(self.online.get(match[1]), f"{match[1]} is not online")
            self.require(body["method"] == "action_reply" and {"clientToken", "code", "status"} <= set(body), "a reply")
            self.replies.append((match[1], body))
            return []
        match = re.fullmatch(r"\$thing/up/property/(\w+/\w+)", topic)
        self.require(match, f"the topic {topic}")
        assert match is not None
        self.require(self.online.get(match[1]), f"{match[1]} is not online")
        if body["method"] == "control_reply":
            self.replies.append((match[1], body))
            return []
        self.require(set(body) == {"method", "clientToken", "timestamp", "params"}, "the body of a report")
        self.require(body["method"] == "report" and body["params"], "a report has parameters")
        for name, value in body["params"].items():
            self.require(re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,31}", name), f"the identifier {name}")
            self.store(match[1], name, body["timestamp"], value)
        answer = {"method": "report_reply", "clientToken": body["clientToken"], "code": 0, "status": "success"}
        return [(f"$thing/down/property/{match[1]}", orjson.dumps(answer))]

    def _operate(self, body: Any) -> list[Reply]:
        self.require(body["type"] in ("online", "offline"), "the type of an operation")
        if self.silent:
            return []
        results = []
        for device in body["payload"]["devices"]:
            who = f"{device['product_id']}/{device['device_name']}"
            known = who in self._devices
            if known:
                self.online[who] = body["type"] == "online"
            results.append({**device, "result": 0 if known else -1})
        answer = {"type": body["type"], "payload": {"devices": results}}
        return [(f"$gateway/operation/result/{self._product}/{self._name}", orjson.dumps(answer))]

    def subscribe(self, subscription: Any) -> None:
        if match := re.fullmatch(r"\$thing/down/(?:property|action)/(.+)", subscription.filter):
            self.require(self.online.get(match[1]), f"subscribed for {match[1]} before it was online")
        super().subscribe(subscription)

    def control(self, who: str, token: str, params: Any) -> Reply:
        body = {"method": "control", "clientToken": token, "params": params}
        return f"$thing/down/property/{who}", orjson.dumps(body)

    def act(self, who: str, token: str, action: str, params: Any) -> Reply:
        body = {"method": "action", "clientToken": token, "actionId": action, "timestamp": 1, "params": params}
        return f"$thing/down/action/{who}", orjson.dumps(body)
