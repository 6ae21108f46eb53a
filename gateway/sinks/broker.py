"""The broker behind an MQTT sink: one connection after the other, what comes over it, and what is remembered of it.

- A session begins with the first broker of the list. Only where the last one was of no use (it ended within a
  minute, and nothing was taken) does the next begin with the broker after that one: a broker that lets us in and no
  more must not keep us from one that works.
- Sessions that are cut off soon after they began, again and again, have a likely cause: another client with our client
  id. MQTT 5 has a word for it that not every broker says, and 3.1.1 has none.
- Arrivals wait in a queue. What has no room there is not acknowledged: the broker stops, or sends it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from gateway.contracts import Delivery
from gateway.dialects import Subscription
from gateway.model import Message
from gateway.mqtt import TOO_LARGE, Answer, Arrived, Connection
from gateway.sinks.answers import Denied, delivery, refusal

_ARRIVALS: Final = 1000  # incoming messages that may wait
_SOON: Final = 60.0  # s
_OFTEN: Final = 3


class Broker:
    """The brokers of one sink, one at a time: a Peer, and what a Conversation hears."""

    def __init__(self, connection: Connection) -> None:
        """`connection` is none that was opened."""
        self.connection = connection
        self.refusal = ""
        self.denied: list[str] = []  # subscriptions that the broker refused in this session
        self.overflowed = 0  # arrivals that had no room
        self.arrivals: asyncio.Queue[tuple[Arrived, int]] = asyncio.Queue(_ARRIVALS)  # with the time (ns)
        self.first = 0  # the broker of the list to begin with
        self.asked = ""  # a topic filter that was subscribed to
        self._timeout = 0.0
        self._began = 0.0
        self._useful = False
        self._innocent = True
        self._denied = False  # something that all depends on was refused in this session
        self._short = 0  # sessions in a row that were cut off soon
        self._counted: Connection | None = None

    # ------------------------------------------------------------------------------------------------ session

    async def open(self, connection: Connection, timeout: float) -> None:
        """Make a session; later answers are waited for for `timeout` seconds. Raises SinkUnavailable."""
        self.connection, self._timeout = connection, timeout
        self.denied, self.arrivals = [], asyncio.Queue(_ARRIVALS)
        self._denied = False
        await connection.open()
        self._began = asyncio.get_running_loop().time()
        self._useful = False
        self._innocent = True

    async def close(self, *, elsewhere: bool = False) -> None:
        """End the session. `elsewhere`: the next is to begin with the broker after this one."""
        if self._began:
            vain = not self._useful and asyncio.get_running_loop().time() - self._began < _SOON
            self.first = self.connection.number + 1 if elsewhere or vain else 0
            self._count()
            self._began = 0.0
        await self.connection.close()

    async def ended(self) -> str:
        """Return, with the reason, when the session has ended."""
        connection = self.connection
        await connection.lost.wait()
        self._count()
        if not self._suspicious:
            return connection.reason
        return (
            f"{connection.reason}, {self._short} times in a row within a minute of connecting. Is another client"
            f" connected with the client id {connection.client_id}: a second gateway with a copy of this file?"
        )

    @property
    def connected(self) -> bool:
        """Whether the session lives; also after a SinkUnavailable by which we leave it."""
        return self.connection.connected

    @property
    def act(self) -> bool:
        """Whether what ended the session will not pass by itself."""
        return self._denied or self.connection.act or self._suspicious

    @property
    def largest(self) -> int:
        """The largest payload that the broker takes; 0 where it names no limit."""
        return self.connection.largest

    @property
    def overrun(self) -> bool:
        """Whether the broker ended the session over a message that was too large."""
        return self.connection.code == TOO_LARGE

    @property
    def heard(self) -> float:
        """When the broker gave the last sign of life, by the event loop's clock."""
        return self.connection.heard

    def ask(self) -> None:
        """Ask the broker for a sign of life."""
        self.connection.ask()

    @property
    def _suspicious(self) -> bool:
        return self._short >= _OFTEN

    def _count(self) -> None:
        connection = self.connection
        if self._began and connection.lost.is_set() and connection is not self._counted:
            self._counted = connection
            soon = asyncio.get_running_loop().time() - self._began < _SOON
            self._short = self._short + 1 if connection.cut and soon and self._innocent else 0

    # ------------------------------------------------------------------------------------------------ messages

    def sending(self) -> None:
        """Take note of a message that is under way: the session's end may have this cause."""
        self._innocent = self._useful

    async def publish(self, message: Message) -> Answer:
        """Publish at QoS 1 and wait for the answer. Raises SinkUnavailable."""
        try:
            return await self.connection.publish(
                message.topic,
                message.payload,
                timeout=self._timeout,
                retain=message.retain,
                properties=message.properties,
            )
        except ValueError as error:
            return Answer(0x90, f"topic {message.topic!r}: {error}")

    def judge(self, message: Message, answer: Answer) -> Delivery:
        """Say what an answer means for a message; `refusal` says why it was refused. Raises SinkUnavailable."""
        try:
            result = delivery(self.connection, message, answer)
        except Denied:
            self._denied = True
            raise
        if result is Delivery.ACCEPTED:
            self.took()
        else:
            self._innocent = False
            self.refusal = refusal(self.connection, message, answer)
        return result

    def took(self) -> None:
        """Take note that the session is of use."""
        self._useful = self._innocent = True

    # ------------------------------------------------------------------------------------------------ hearing

    async def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe; what the broker refuses is in `denied`. Raises SinkUnavailable."""
        for qos in sorted({each.qos for each in subscriptions}):
            filters = [each.filter for each in subscriptions if each.qos == qos]
            answers = await self.connection.subscribe(filters, timeout=self._timeout, qos=qos)
            self.asked = self.asked or filters[0]
            self.denied += [name for name, answer in zip(filters, answers, strict=True) if answer.refused]

    def arrived(self, message: Arrived) -> None:
        """Take in what came."""
        try:
            self.arrivals.put_nowait((message, time.time_ns()))
        except asyncio.QueueFull:
            self.overflowed += 1

    def acknowledge(self, message: Arrived) -> None:
        """Take responsibility for an arrival."""
        self.connection.acknowledge(message)
