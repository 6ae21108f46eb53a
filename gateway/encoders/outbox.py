"""The messages that one call of `encode` makes, each with the sequences of the records that it has parts of.

Formats gather readings by device or topic, so a message may hold parts of several records and a record parts of several
messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.contracts import Record
from gateway.model import Message


class Outbox:
    """Messages in the order in which they leave."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._messages: list[Message] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(
        self, topic: str, payload: bytes, records: Sequence[int] = (), readings: int = 0, oldest: int = 0,
        retain: bool = False,
    ) -> None:  # fmt: skip
        """Add a message with parts of these records (indexes, ascending)."""
        first = self._records[records[0]].sequence if records else 0
        last = self._records[records[-1]].sequence if records else 0
        self._messages.append(Message(topic, payload, first, last, readings, retain, oldest=oldest))

    def note(self, message: Message) -> None:
        """Add a message without a record."""
        self._messages.append(message)

    def finish(self) -> list[Message]:
        """Give the messages."""
        return self._messages
