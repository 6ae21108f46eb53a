"""The talk between a publisher of the native format and our own ingest, beside the readings: gateway.statements.

It sums up for ingest what this publisher has settled, soon after the beginning of a session and each minute, and hears
what is stored. A broker that ends its sessions over the summary gets none from then on. Commands, where they are on,
are the business of the talk inside (gateway.dialects.native).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.commands import Result
from gateway.contracts import Record
from gateway.dialects import NOTHING, Command, Heard, Limits, Subscription, note
from gateway.dialects.native import Native
from gateway.model import Batch, Message
from gateway.ranges import Range
from gateway.statements import Summary, read_stored, write_summary

INTERVAL: Final = 60  # ticks, which come each second
FIRST: Final = 2  # ticks after the beginning of a session
STRIKES: Final = 2  # sessions that ended over a summary


class Accounted:
    """A Talk (gateway.dialects.dialogue). `whose`: gateway and journal; `stored` takes the runs that ingest says are in
    the store."""

    ready = True
    ordered = False

    def __init__(
        self,
        prefix: str,
        whose: tuple[str, str],
        summary: Callable[[], Summary],
        key: str | None,
        inside: Native | None,
        stored: Callable[[Sequence[Range]], None] | None,
    ) -> None:
        self.limits = inside.limits if inside is not None else Limits(payload=256_000)
        self._prefix = prefix
        self._whose = whose
        self._summary = summary
        self._key = key
        self._inside = inside
        self._stored = stored
        self._ticks = 0
        self._open = False  # whether a summary was sent that the session has not outlived yet
        self._strikes = 0

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Give what is to be heard."""
        ours = (Subscription(f"{self._prefix}/stored/+", 1),) if self._stored is not None else ()
        return (*ours, *(self._inside.subscriptions() if self._inside is not None else ()))

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        """Begin a session, in which the summary waits a little: see `tick`."""
        self._strikes += self._open
        self._open, self._ticks = False, 0
        return []

    def prepare(self, records: Sequence[Record]) -> list[Message]:
        """Nothing is to be announced."""
        return []

    def tick(self) -> Heard:
        """Sum up now and then."""
        self._ticks += 1
        if self._open:
            self._open, self._strikes = False, 0
        if self._ticks % INTERVAL != FIRST:
            return NOTHING
        if self._strikes >= STRIKES:
            return Heard(troubles=(f"sessions end over {self._prefix}/account: this gateway sums up no more",))
        self._open = True
        return Heard(send=(self._summed_up(),))

    def end(self) -> list[Message]:
        """Sum up before we go."""
        return [self._summed_up()] if self._strikes < STRIKES else []

    def received(self, topic: str, payload: bytes) -> Heard:
        """Hear what is stored; else it is for the talk inside."""
        if self._stored is not None and topic.startswith(f"{self._prefix}/stored/"):
            try:
                gateway, journal, runs = read_stored(payload, self._key)
            except ValueError as error:
                return Heard(troubles=(f"{topic}: {error}",))
            if (gateway, journal) == self._whose:
                self._stored(runs)
            return NOTHING
        return self._inside.received(topic, payload) if self._inside is not None else NOTHING

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]:
        """Answer a command."""
        return self._inside.answer(command, results) if self._inside is not None else []

    def _summed_up(self) -> Message:
        summary = self._summary()
        return note(f"{self._prefix}/account/{summary.publisher}", write_summary(summary, self._key), retain=True)
