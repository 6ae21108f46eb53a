"""A small IoT Core: TLS and a client id, topics and sizes, and a shadow that answers and keeps what is desired."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects import SECOND, Credentials
from tests.fakes.cloud import Platform, Reply


class FakeAws(Platform):
    most_bytes = 131_072
    most_messages = 100
    retain = True

    def __init__(self, thing: str, rule: str | None = None) -> None:
        super().__init__()
        self._thing, self._rule = thing, rule
        self._shadow = f"$aws/things/{thing}/shadow/update"
        self.reported: dict[str, Any] = {}
        self.desired: dict[str, Any] = {}
        self.stamps: dict[str, Any] = {}  # when each was desired
        self.version = 0
        self.rows: list[Any] = []

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        self.require(tls, "TLS")
        self.require(credentials is not None and credentials.client_id == self._thing, "the client id")
        super().connect(credentials, now, tls=tls)

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        body = self.json(payload)
        if topic == self._shadow:
            _merge(self.reported, body["state"].get("reported", {}))
            _merge(self.desired, body["state"].get("desired", {}))
            self.require(len(orjson.dumps([self.reported, self.desired])) <= 8192, "a shadow has 8 kB")
            return []
        if self._rule is not None:
            self.require(topic.startswith(f"$aws/rules/{self._rule}/"), "the rule")
            topic = topic.removeprefix(f"$aws/rules/{self._rule}/")
        self.require(topic.count("/") <= 7 and len(topic.encode()) <= 256, f"the topic {topic}")
        for row in body:
            self.rows.append(row)
            for name, value in row.get("values", {}).items():
                self.store(row["device"], name, row["ts"], value)
        return []

    def wish(self, state: Any, now: int) -> Reply:
        self.version += 1
        _merge(self.desired, state)
        _merge(self.stamps, _stamped(state, now // SECOND))
        different = _difference(self.desired, self.reported)
        self.require(different, "a wish that equals what is reported is not told")
        metadata = _like(different, self.stamps)
        delta = {"version": self.version, "timestamp": now // SECOND, "state": different, "metadata": metadata}
        return f"{self._shadow}/delta", orjson.dumps(delta)


def _stamped(state: Any, now: int) -> Any:
    return (
        {key: _stamped(value, now) for key, value in state.items()} if isinstance(state, dict) else {"timestamp": now}
    )


def _like(state: Any, stamps: Any) -> Any:
    """Give the metadata of what is in a state."""
    if not isinstance(state, dict):
        return stamps
    return {key: _like(value, stamps[key]) for key, value in state.items()}


def _difference(desired: Any, reported: Any) -> Any:
    """Give what is desired and not reported, as a shadow's delta."""
    if not isinstance(desired, dict) or not isinstance(reported, dict):
        return desired
    found = {key: _difference(value, reported.get(key)) for key, value in desired.items() if value != reported.get(key)}
    return {key: value for key, value in found.items() if value != {}}


def _merge(into: dict[str, Any], state: Any) -> None:
    """Do as a shadow does: null takes away."""
    for key, value in state.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
            if not into[key]:
                del into[key]
        else:
            into[key] = value
