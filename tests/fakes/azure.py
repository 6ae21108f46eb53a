"""A small IoT Hub: SAS tokens that expire, its topics with their properties, methods and the twin."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any
from urllib.parse import unquote

import orjson

from gateway.dialects import SECOND, Credentials
from tests.fakes.cloud import Platform, Reply


class FakeAzure(Platform):
    most_bytes = 262_144

    def __init__(self, hub: str, device: str, key: str) -> None:
        super().__init__()
        self._hub, self._device, self._key = hub, device, key
        self.rows: list[Any] = []
        self.reported: dict[str, Any] = {}
        self.expires = 0

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        assert credentials is not None
        self.require(tls, "TLS")
        self.require(credentials.client_id == self._device, "the client id")
        self.require(credentials.username == f"{self._hub}/{self._device}/?api-version=2021-04-12", "the user name")
        match = re.fullmatch(r"SharedAccessSignature sr=(\S+?)&sig=(\S+?)&se=(\d+)", credentials.password or "")
        self.require(match, "the form of a SAS token")
        assert match is not None
        self.require(unquote(match[1]) == f"{self._hub}/devices/{self._device}", "the resource")
        signed = hmac.new(base64.b64decode(self._key), f"{match[1]}\n{match[3]}".encode(), hashlib.sha256).digest()
        self.require(base64.b64decode(unquote(match[2])) == signed, "the signature")
        self.expires = int(match[3])
        self.require(self.expires > now // SECOND, "the token has expired")
        super().connect(credentials, now, tls=tls)

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        self.require(now // SECOND < self.expires, "the token has expired")
        if match := re.fullmatch(r"\$iothub/methods/res/(\d+)/\?\$rid=(\w+)", topic):
            self.replies.append((match[2], (int(match[1]), self.json(payload))))
            return []
        if match := re.fullmatch(r"\$iothub/twin/PATCH/properties/reported/\?\$rid=(\w+)", topic):
            for device, tags in self.json(payload).items():
                self.reported.setdefault(device, {}).update(tags)
            return [(f"$iothub/twin/res/204/?$rid={match[1]}", b"")]
        wanted = f"devices/{self._device}/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
        self.require(topic == wanted, f"the topic {topic}")
        for row in self.json(payload):
            self.rows.append(row)
            for name, value in row.get("values", {}).items():
                self.store(row["device"], name, row["ts"], value)
        return []

    def method(self, name: str, request: str, body: Any) -> Reply:
        return f"$iothub/methods/POST/{name}/?$rid={request}", orjson.dumps(body)

    def wish(self, body: Any, version: int) -> Reply:
        topic = f"$iothub/twin/PATCH/properties/desired/?$version={version}"
        return topic, orjson.dumps({**body, "$version": version})
