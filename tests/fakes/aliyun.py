"""A small Alibaba platform: signatures of gateway and sub-devices, logins before data, Alink bodies, its limits."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.dialects import Credentials
from tests.fakes.cloud import Platform, Reply


class FakeAliyun(Platform):
    most_bytes = 262_144
    most_messages = 10

    def __init__(self, product: str, name: str, secret: str, devices: Mapping[str, str]) -> None:
        """`devices` are the secrets of the sub-devices, by product/name."""
        super().__init__()
        self._product, self._name, self._secret = product, name, secret
        self._gateway = f"{product}/{name}"
        self._devices = devices
        self._ids: set[str] = set()
        self.silent = False
        self.floats: set[str] = set()  # properties that the model says are float
        self.history: list[str] = []

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        assert credentials is not None
        pattern = r"([^|]+)\|securemode=([23]),signmethod=hmacsha256,timestamp=(\d+)\|"
        match = re.fullmatch(pattern, credentials.client_id)
        self.require(match, f"the client id {credentials.client_id}")
        assert match is not None
        self.require(match[2] == ("2" if tls else "3"), "the secure mode")
        self.require(credentials.username == f"{self._name}&{self._product}", "the user name")
        wanted = self._sign(self._secret, match[1], self._product, self._name, match[3])
        self.require(credentials.password == wanted, "the password")
        super().connect(credentials, now, tls=tls)

    def _sign(self, secret: str, client: str, product: str, name: str, timestamp: str) -> str:
        content = f"clientId{client}deviceName{name}productKey{product}timestamp{timestamp}"
        return hmac.new(secret.encode(), content.encode(), hashlib.sha256).hexdigest()

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        body = self.json(payload)
        if topic.startswith("/ext/session/"):
            self.require(qos == 0, "logins are QoS 0")
        if match := re.fullmatch(r"/sys/(.+)/thing/service/(?:property/set|write|isolate)_reply", topic):
            self.require(self.online.get(match[1]), f"{match[1]} is not logged in")
            self.replies.append((match[1], body))
            return []
        number = body["id"]
        self.require(isinstance(number, str) and 0 <= int(number) < 2**32, "an id")
        self.require(number not in self._ids, "an id is unique in a day")
        self._ids.add(number)
        if topic == f"/ext/session/{self._gateway}/combine/batch_login":
            return [] if self.silent else [self._login(number, body["params"]["deviceList"])]
        if topic == f"/ext/session/{self._gateway}/combine/batch_logout":
            for device in body["params"]:
                self.online[f"{device['productKey']}/{device['deviceName']}"] = False
            return []
        for how in ("pack", "history"):
            if topic == f"/sys/{self._gateway}/thing/event/property/{how}/post":
                self.require(body["method"] == f"thing.event.property.{how}.post", "the method")
                self.require(body["version"] == "1.0", "the version")
                self._report(body, payload, how)
                answer = {"id": number, "code": 200, "data": {}}
                return [(f"{topic}_reply", orjson.dumps(answer))]
        self.require(False, f"the topic {topic}")
        return []

    def _login(self, number: str, devices: list[dict[str, str]]) -> Reply:
        self.require(0 < len(devices) <= 50, "at most 50 sub-devices in a login")
        code = 200
        for device in devices:
            self.require(device["signMethod"] == "hmacSha256", "the sign method")
            secret = self._devices.get(f"{device['productKey']}/{device['deviceName']}", "")
            fields = (device["clientId"], device["productKey"], device["deviceName"], device["timestamp"])
            if not secret or device["sign"] != self._sign(secret, *fields):
                code = 6100
        if code == 200:
            self.online |= {f"{each['productKey']}/{each['deviceName']}": True for each in devices}
        answer = {"id": number, "code": code, "message": "device not found" if code != 200 else "success", "data": []}
        return f"/ext/session/{self._gateway}/combine/batch_login_reply", orjson.dumps(answer)

    def _report(self, body: Any, payload: bytes, how: str) -> None:
        params = body["params"]
        devices = params["subDevices"] if how == "pack" else params
        self.require(0 < len(devices) <= 20, "at most 20 sub-devices in a message")
        count = 0
        for device in devices:
            who = f"{device['identity']['productKey']}/{device['identity']['deviceName']}"
            self.require(self.online.get(who), f"{who} is not logged in")
            groups = [device["properties"]] if how == "pack" else device["properties"]
            for properties in groups:
                for name, field in properties.items():
                    self.require(re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,49}", name), f"the identifier {name}")
                    self.require(set(field) == {"value", "time"}, "a property has value and time")
                    if name in self.floats:
                        self.require(isinstance(field["value"], float), f"{name} has no decimal point")
                    count += 1
                    self.store(who, name, field["time"], field["value"])
            if how == "history":
                self.history.append(who)
        self.require(0 < count <= 200, f"{count} properties in a message")

    def subscribe(self, subscription: Any) -> None:
        if match := re.fullmatch(r"/sys/(.+)/thing/service/(?:property/set|write|isolate)", subscription.filter):
            self.require(self.online.get(match[1]), f"subscribed for {match[1]} before its login")
        super().subscribe(subscription)

    def set(self, who: str, number: str, params: Any) -> Reply:
        body = {"id": number, "version": "1.0", "params": params, "method": "thing.service.property.set"}
        return f"/sys/{who}/thing/service/property/set", orjson.dumps(body)

    def call(self, who: str, number: str, service: str, params: Any) -> Reply:
        body = {"id": number, "version": "1.0", "params": params, "method": f"thing.service.{service}"}
        return f"/sys/{who}/thing/service/{service}", orjson.dumps(body)
