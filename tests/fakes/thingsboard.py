"""A small ThingsBoard: the gateway API's topics, access token, devices that must be connected before they speak."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects import Credentials
from tests.fakes.cloud import Platform, Reply


class FakeThingsboard(Platform):
    most_bytes = 65_536

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token
        self.gaps: list[Any] = []

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        self.require(credentials is not None and credentials.username == self._token, "the access token")
        super().connect(credentials, now, tls=tls)

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        body = self.json(payload)
        if topic == "v1/gateway/connect":
            self.online[body["device"]] = True
        elif topic == "v1/gateway/disconnect":
            self.online[body["device"]] = False
        elif topic == "v1/gateway/telemetry":
            for device, entries in body.items():
                self.require(self.online.get(device), f"{device} is not connected")
                for entry in entries:
                    self.require(set(entry) == {"ts", "values"}, "an entry has ts and values")
                    for name, value in entry["values"].items():
                        self.store(device, name, entry["ts"], value)
        elif topic == "v1/gateway/rpc":
            self.require(set(body) == {"device", "id", "data"}, "an RPC's answer")
            self.replies.append((body["device"], body))
        elif topic == "v1/devices/me/telemetry":
            self.gaps.append(body["values"]["gap"])
        else:
            self.require(False, f"the topic {topic}")
        return []

    def rpc(self, device: str, number: int, method: str, params: Any) -> Reply:
        data = {"id": number, "method": method, "params": params}
        return "v1/gateway/rpc", orjson.dumps({"device": device, "data": data})
