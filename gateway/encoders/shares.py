"""What a message that is being filled has of the journal.

Formats gather readings by device or topic, so a message may hold parts of several records and a record parts of several
messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model import Message


@dataclass(slots=True, eq=False)
class Share:
    """From which records (journal sequences, 0 where there is none yet), how many readings, and since when (ns)."""

    first: int = 0
    last: int = 0
    readings: int = 0
    oldest: int = 0

    def take(self, sequence: int, readings: int, oldest: int) -> None:
        """Count some readings of a record; records come in their order."""
        self.first = self.first or sequence
        self.last = sequence
        self.readings += readings
        self.oldest = min(self.oldest or oldest, oldest)

    def message(self, topic: str, payload: bytes) -> Message:
        """Give the message."""
        return Message(topic, payload, self.first, self.last, self.readings, oldest=self.oldest)
