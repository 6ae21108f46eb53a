"""What the publisher needs of a format that holds a conversation: births, answers, commands, not data alone.

A plain Encoder turns records into messages. A Dialogue is an Encoder that also says who we are, what to subscribe to
and what to say first, and that reacts to what comes back. It does no I/O and keeps no time: the publisher moves the
bytes and calls. The order of calls in one session:

    credentials(), will()      before CONNECT; `will` once per attempt, for Sparkplug counts attempts
    subscriptions()            after CONNACK; begin only when they are acknowledged (or refused loudly)
    begin(current, upto)       what is to be published first
    prepare(records)           what must be said before these records can be; again until it gives nothing
    encode(records)            any number of times, while `ready` and prepared
    received(topic, payload)   for each arrival; carry out what it says
    answer(command, results)   the reply to a command that `received` gave
    tick()                     about once a second: what is overdue, what is to be given up
    end()                      what is to be published before a DISCONNECT that we want

- `ready` is false while readings must wait: for a primary host, for the answer to a login. `received` and `tick` may
  change it.
- Messages leave in the order in which the calls gave them, whichever call it was: Sparkplug counts them. So between a
  call and the handing over of its last message no other call is made.
- `limits.qos` is the quality of service of everything we publish. With
  QoS 0 there is no PUBACK: the cursor may move once something later on the same connection was acknowledged.
- `begin` gets the newest reading of each tag and the journal's last sequence at that moment, so that births show what
  is so and not what was so before an outage. Records up to that sequence are sent as history, later ones as live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gateway.commands import Result
from gateway.contracts import Record
from gateway.dialects import Command, Credentials, Heard, Limits, Subscription, Will
from gateway.model import Batch, Message


class Talk(Protocol):
    """What is said and heard beside the readings."""

    @property
    def limits(self) -> Limits: ...

    @property
    def ready(self) -> bool: ...

    @property
    def ordered(self) -> bool:
        """Whether readings and all else must leave in the order of the calls; if not, readings go their own way."""
        ...

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]: ...

    def prepare(self, records: Sequence[Record]) -> list[Message]: ...

    def received(self, topic: str, payload: bytes) -> Heard: ...

    def answer(self, command: Command, results: Sequence[Result]) -> list[Message]: ...

    def tick(self) -> Heard: ...

    def end(self) -> list[Message]: ...


@runtime_checkable
class Dialogue(Talk, Protocol):
    """A format that holds a conversation. Owned by one task."""

    def credentials(self) -> Credentials | None:
        """Give what CONNECT needs; None where the publisher's own options decide."""
        ...

    def will(self) -> Will | None: ...

    def subscriptions(self) -> tuple[Subscription, ...]: ...

    def encode(self, records: Sequence[Record]) -> list[Message]: ...

    def reset(self) -> None: ...
