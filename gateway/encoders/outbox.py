"""The messages that one call of `encode` makes, and how far each of them completes the records.

Formats gather readings by device or topic, so a message may hold parts of several records and a record parts of several
messages. The publisher's cursor may only move over records that are wholly acknowledged: `covers` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.contracts import Record
from gateway.model import Message


class Outbox:
    """Messages in the order in which they leave."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._last = [-1] * len(records)
        self._messages: list[Message] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(
        self, topic: str, payload: bytes, records: Sequence[int] = (), readings: int = 0, oldest: int = 0,
        retain: bool = False,
    ) -> None:  # fmt: skip
        """Add a message with parts of these records (indexes, ascending)."""
        for record in records:
            self._last[record] = len(self._messages)
        first = self._records[records[0]].sequence if records else 0
        last = self._records[records[-1]].sequence if records else 0
        self._messages.append(Message(topic, payload, first, last, 0, readings, retain, oldest=oldest))

    def note(self, message: Message) -> None:
        """Add a message without a record."""
        self._messages.append(message)

    def finish(self) -> list[Message]:
        """Give the messages, each with what it covers."""
        sequences = [record.sequence for record in self._records]
        covers = covering(sequences, self._last, len(self._messages))
        return [replace(message, covers=cover) for message, cover in zip(self._messages, covers, strict=True)]


def covering(sequences: Sequence[int], last_message: Sequence[int], messages: int) -> list[int]:
    """Give `covers` for each of `messages` messages.

    `last_message[i]` is the index of the last message with a part of record `sequences[i]`, -1 where none has. A
    message covers a record when this and all records before it are wholly in messages up to and including it. The last
    message covers all records.
    """
    covers = [0] * messages
    reached = -1
    for sequence, last in zip(sequences, last_message, strict=True):
        reached = max(reached, last)
        if messages:
            covers[max(reached, 0)] = sequence
    if messages and sequences:
        covers[-1] = sequences[-1]
    for index in range(1, messages):
        covers[index] = covers[index] or covers[index - 1]
    return covers
