"""The publisher's side of a Dialogue: one thing is said at a time, and what is heard is followed.

    publisher's lanes ──turn()──▶┐
    arrivals ──received()────────┼─▶ one lock: a call of the dialogue and the handing over of its messages ──▶ sink
    clock ──tick()───────────────┘

- A turn begins when readings may be sent (`ready`) and the records' devices are announced (`prepare`).
- Commands are carried out by `execute`, outside the lock, and answered within it. Without `execute` they are refused.
- What is said waits for its turn in the publisher's rate and its platform's (`passes`), as readings do.
- A trouble that the peer tells is logged once for each text and counted always; it never ends the session. What ends it
  is a Heard.leave, as SinkUnavailable with that reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from gateway import quality as q
from gateway.commands import Cause, Result
from gateway.contracts import Delivery, Record
from gateway.dialects import Command, Heard, Refused
from gateway.dialects.dialogue import Talk
from gateway.errors import SinkUnavailable
from gateway.meter import on_the_wire
from gateway.model import Batch, Message

if TYPE_CHECKING:  # it brings the MQTT library along, which whoever makes one has loaded
    from gateway.dialects import Subscription
    from gateway.mqtt import Arrived

Execute = Callable[[Command], Awaitable[Sequence[Result]]]
"""Carries out a command: one result per value, in order. Never raises."""


class Hearing(Protocol):
    """A peer that speaks too. `arrivals` come with the time (ns); `overflowed` counts those that had no room."""

    denied: list[str]
    overflowed: int
    arrivals: asyncio.Queue[tuple[Arrived, int]]

    @property
    def refusal(self) -> str: ...
    @property
    def connected(self) -> bool: ...

    async def subscribe(self, subscriptions: Sequence[Subscription]) -> None: ...
    def acknowledge(self, message: Arrived) -> None: ...


class Speaking(Protocol):
    """A sink to a peer that speaks too."""

    @property
    def peer(self) -> Hearing: ...

    async def send(self, message: Message) -> Delivery: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a publisher's commands go. `answers`: whether one more reply to what was refused may go out."""

    execute: Execute
    refused: Callable[[Refused], None]
    answers: Callable[[], bool]
    largest: int = 64_000  # bytes of a message that is still read


log = structlog.get_logger()

_TICK: Final = 1.0  # seconds
_FAREWELL: Final = 2.0  # seconds for the last words before DISCONNECT
_TEXTS: Final = 100  # different troubles that are logged in one session


class Conversation:
    """One Dialogue, over any number of sessions."""

    def __init__(
        self,
        name: str,
        dialogue: Talk,
        sink: Speaking,
        current: Callable[[], Sequence[Batch]],
        desk: Desk | None = None,
    ) -> None:
        self._dialogue = dialogue
        self._sink = sink
        self._peer = sink.peer
        self._current = current
        self._desk = desk or Desk(_commands_are_off, lambda _: None, lambda: True)
        self._lock = asyncio.Lock()
        self._begun = asyncio.Event()
        self._heard = asyncio.Event()  # replaced and set when `ready` may have changed
        self._said: set[str] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self.counts: Callable[[int], None] = lambda _: None  # gets the bytes on the wire of what is heard
        self.passes: Callable[[int], Awaitable[None]] = _at_once  # returns when so many bytes on the wire may be said
        self.left = False  # whether the last session ended because we left it, to sign in anew for instance
        self._wanted = ""  # why the session is to begin anew
        self._log = log.bind(publisher=name)

    async def run(self, upto: int) -> None:
        """Hold one session, whose records up to `upto` are history. Raises SinkUnavailable; never returns."""
        self._said.clear()
        self.left, self._wanted = False, ""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                async with self._lock:
                    await self._say(self._dialogue.begin(self._current(), upto))
                self._tell_denied()
                self._begun.set()
                tasks.create_task(self._listen(), name="listen")
                tasks.create_task(self._keep_time(), name="tick")
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            self._begun.clear()
            self._tasks = None

    def renew(self, reason: str) -> None:
        """Let the session, if there is one, end soon and begin anew: what it has said or signed is not so any more."""
        self._wanted = reason

    @asynccontextmanager
    async def turn(self, records: Sequence[Record]) -> AsyncIterator[None]:
        """Wait until these records may be sent; within, nothing else is said. The caller encodes and sends."""
        if not self._dialogue.ordered:
            yield
            return
        while True:
            await self._begun.wait()
            heard = self._heard
            async with self._lock:
                if self._dialogue.ready:
                    announcements = self._dialogue.prepare(records)
                    if not announcements:
                        yield
                        return
                    await self._say(announcements)
                    if self._dialogue.ready:
                        continue
            await heard.wait()

    async def farewell(self) -> None:
        """Say the last words of a session that still lives, late for the rate if need be. Never raises."""
        if self._peer.connected:
            with suppress(SinkUnavailable, TimeoutError):
                words = self._dialogue.end()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL):
                        for message in words:
                            await self.passes(on_the_wire(message.topic, len(message.payload)))
                async with asyncio.timeout(_FAREWELL):
                    for message in words:  # DISCONNECT takes the will away: hosts must not be left without a death
                        await self._sink.send(message)

    async def _listen(self) -> None:
        while True:
            message, at = await self._peer.arrivals.get()
            self.counts(on_the_wire(message.topic, len(message.payload)))
            async with self._lock:
                await self._follow(self._hear(message), at)
            self._peer.acknowledge(message)

    def _hear(self, message: Arrived) -> Heard:
        """Read an arrival, where it is not too large; a command that the broker keeps for whoever comes is none."""
        topic, size = message.topic, len(message.payload)
        if size > self._desk.largest:
            reason = f"{size} bytes; at most {self._desk.largest} are read"
            return Heard(refused=(Refused(topic, reason, cause=Cause.TOO_LARGE),))
        heard = self._dialogue.received(topic, message.payload)
        if not message.retained:
            return replace(heard, commands=tuple(replace(each, topic=topic) for each in heard.commands))
        reason = "it is retained: it would be carried out again at each connection. Publish commands without retain"
        refused = tuple(Refused(topic, reason, each.key, each.device, Cause.STALE) for each in heard.commands)
        return replace(heard, commands=(), refused=(*heard.refused, *refused))

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            async with self._lock:
                heard = self._dialogue.tick()
                await self._follow(replace(heard, leave=heard.leave or self._wanted))
            if overflowed := self._peer.overflowed:
                self._peer.overflowed = 0
                reason = "more messages than can be read came at once; these were not"
                self._desk.refused(Refused("", reason, cause=Cause.TOO_FAST, count=overflowed))

    async def _follow(self, heard: Heard, at: int = 0) -> None:
        """Do what follows from something heard. Raises SinkUnavailable where that is to leave."""
        if heard.subscribe:
            await self._peer.subscribe(heard.subscribe)
            self._tell_denied()
        # births must not be left out (Sparkplug counts messages); answers to a flood must
        if not heard.refused or self._dialogue.limits.qos == 0 or self._desk.answers():
            await self._say(heard.send)
        for trouble in heard.troubles:
            self._log_once("The peer has something to say.", trouble)
        for refused in heard.refused:
            self._log_once("An incoming message is refused.", f"{refused.topic}: {refused.reason}")
            self._desk.refused(refused)
        if heard.commands and self._tasks is not None:
            for command in heard.commands:
                self._tasks.create_task(self._carry_out(replace(command, arrived=at)), name="command")
        before, self._heard = self._heard, asyncio.Event()
        before.set()
        if heard.leave:
            self.left = True
            raise SinkUnavailable(heard.leave)

    async def _carry_out(self, command: Command) -> None:
        results = await self._desk.execute(command)
        if any(result.refused for result in results) and not self._desk.answers():
            return
        async with self._lock:
            await self._say(self._dialogue.answer(command, results))

    async def _say(self, messages: Sequence[Message]) -> None:
        """Send messages that carry no record; they are with the broker when this returns."""
        sends: list[asyncio.Task[Delivery]] = []
        try:
            for message in messages:
                await self.passes(on_the_wire(message.topic, len(message.payload)))
                sends.append(asyncio.create_task(self._sink.send(message), name=message.topic))
            deliveries = await asyncio.gather(*sends)
        finally:
            for send in sends:
                send.cancel()
            await asyncio.gather(*sends, return_exceptions=True)
        for message, delivery in zip(messages, deliveries, strict=True):
            if delivery is Delivery.REJECTED:
                self._log_once("The broker refuses what is to be said.", f"{message.topic}: {self._peer.refusal}")

    def _tell_denied(self) -> None:
        for name in self._peer.denied:
            self._log_once("The broker refuses a subscription: commands and answers there are not heard.", name)

    def _log_once(self, what: str, text: str) -> None:
        if text not in self._said and len(self._said) < _TEXTS:
            self._said.add(text)
            self._log.warning(what, reason=text)


async def _at_once(size: int) -> None:
    return


async def _commands_are_off(command: Command) -> list[Result]:
    return [Result(None, None, q.BAD_NOT_WRITABLE, "commands are off") for _ in command.values]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
