"""What the small fakes of cloud platforms have in common, and a session that moves messages between one and a Cloud.

A fake is strict where the platform is: a wrong signature, topic, body, size, rate, quality of service or flag raises
Refuses, as the platform would disconnect or answer with an error. Its limits are written down here from the platform's
documentation, not taken from the dialect. Time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.contracts import Record
from gateway.dialects import SECOND, Command, Credentials, Heard, Subscription
from gateway.encoders.cloud import Cloud
from gateway.model import Batch, Gap, Message

Reply = tuple[str, bytes]


class Refuses(Exception):
    """The platform does not take this."""


class Platform:
    """The common part of a fake. `readings` is what the platform stored: (device, name) to (ms, value) in order."""

    most_bytes = 0
    most_messages = 0  # a second; 0: not limited
    retain = False
    most_qos = 1
    window = SECOND  # in which messages are counted

    def __init__(self) -> None:
        self.readings: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.online: dict[str, bool] = {}
        self.subscribed: list[str] = []
        self.replies: list[tuple[str, Any]] = []  # our answers to its commands
        self.connected = False
        self._recent: deque[int] = deque()

    def connect(self, credentials: Credentials | None, now: int, *, tls: bool = True) -> None:
        self.connected = True

    def subscribe(self, subscription: Subscription) -> None:
        self.require(self.connected, "subscribed before connecting")
        self.require(subscription.qos <= self.most_qos, "QoS of a subscription")
        self.subscribed.append(subscription.filter)

    def publish(self, message: Message, now: int, qos: int = 1) -> list[Reply]:
        self.require(self.connected, "published before connecting")
        self.require(qos <= self.most_qos, "QoS of a message")
        self.require(self.retain or not message.retain, "retain is not supported")
        self.require(len(message.payload) <= self.most_bytes, f"{len(message.payload)} bytes in a message")
        self.count(now)
        return self.take(message.topic, message.payload, now, qos)

    def count(self, now: int) -> None:
        """Count a message against the rate."""
        while self._recent and self._recent[0] <= now - self.window:
            self._recent.popleft()
        self._recent.append(now)
        self.require(not self.most_messages or len(self._recent) <= self.most_messages, "too many messages a second")

    def take(self, topic: str, payload: bytes, now: int, qos: int) -> list[Reply]:
        raise NotImplementedError

    def require(self, kept: object, what: str) -> None:
        if not kept:
            raise Refuses(what)

    def json(self, payload: bytes) -> Any:
        try:
            return orjson.loads(payload)
        except ValueError as error:
            raise Refuses("not JSON") from error

    def store(self, device: str, name: str, time: int, value: Any) -> None:
        self.require(isinstance(value, str | bool | int | float), f"the value {value!r}")
        self.readings.setdefault((device, name), []).append((time, value))


class Session:
    """A Cloud and a fake, with a clock that runs as fast as the dialect's limits allow."""

    def __init__(self, cloud: Cloud, platform: Platform, clock: list[int]) -> None:
        self.cloud, self.platform, self.clock = cloud, platform, clock
        self.sent: list[Message] = []
        self.commands: list[Command] = []
        self.troubles: list[str] = []
        self.refused: list[str] = []
        self.leave = ""

    def connect(self, current: Sequence[Batch] = (), upto: int = 0) -> None:
        self.platform.connect(self.cloud.credentials(), self.clock[0])
        for subscription in self.cloud.subscriptions():
            self.platform.subscribe(subscription)
        self.publish(self.cloud.begin(current, upto))

    def publish(self, messages: Sequence[Message]) -> None:
        limits = self.cloud.limits
        for message in messages:
            self.clock[0] += round(SECOND / min(limits.messages, 1000)) + 1
            qos = 0 if message.topic.startswith(limits.qos_0) else limits.qos
            self.sent.append(message)
            for topic, payload in self.platform.publish(message, self.clock[0], qos):
                self.hear(topic, payload)

    def hear(self, topic: str, payload: bytes) -> Heard:
        heard = self.cloud.received(topic, payload)
        self.follow(heard)
        return heard

    def follow(self, heard: Heard) -> None:
        self.commands += heard.commands
        self.troubles += heard.troubles
        self.refused += [each.reason for each in heard.refused]
        self.leave = self.leave or heard.leave
        for subscription in heard.subscribe:
            self.platform.subscribe(subscription)
        self.publish(heard.send)

    def tick(self) -> None:
        self.follow(self.cloud.tick())

    def send(self, *contents: Batch | Gap, first: int = 1) -> list[Message]:
        records = [Record(first + index, content) for index, content in enumerate(contents)]
        before = len(self.sent)
        while announcements := self.cloud.prepare(records):
            self.publish(announcements)
        assert self.cloud.ready
        messages = self.cloud.encode(records)
        self.publish(messages)
        assert len(self.sent) >= before + len(messages)
        return messages
