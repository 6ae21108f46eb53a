"""From the journal's records to what one publisher may say of them: unpacked, dated, selected, thinned.

A record that cannot be read, or at which the format's encoder fails, is given up, which a gap record declares: it must
not stop all that follows. A record of a table of which nothing is selected is passed over without being unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gateway.clock import Clock
from gateway.codec import table_id, unpack
from gateway.contracts import Encoder, Record
from gateway.definitions import stored_table
from gateway.encoders import Numbering
from gateway.journal import Chunk, Journal
from gateway.model import Batch, Gap, Message, TagTable
from gateway.selection import Selection

log = structlog.get_logger()


class Extract:
    """One publisher's reading of the journal."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        encoder: Encoder,
        selection: Selection | None = None,
        dates: Clock | None = None,
    ) -> None:
        """`dates` gives undated records their times."""
        self._dates = dates
        self._journal = journal
        self.encoder = encoder
        self._selection = selection
        self._tables: dict[int, TagTable] = {}
        self._unseen: set[int] = set()  # tables of which nothing is selected
        self._log = log.bind(publisher=name)

    def records(self, read: Chunk, *, backlog: bool) -> list[Record]:
        """Unpack and select; what cannot be read is given up."""
        records: list[Record] = []
        for sequence, packed in read.records:
            if self._unseen and table_id(packed) in self._unseen:
                continue
            content: Batch | Gap | None
            try:
                content = unpack(packed, self._table)
            except ValueError as error:
                self._journal.give_up([sequence], str(error))
                continue
            if self._dates is not None and self._dates.spans:
                content = self._dates.date(sequence, content)
            if backlog and isinstance(content, Batch):
                content.backfill = True
            if self._selection is not None:
                content = self._selected(content, self._selection)
            if content is not None:
                records.append(Record(sequence, content))
        return records

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Encode; a record at which the encoder fails is given up."""
        try:
            return self.encoder.encode(records)
        except Exception:  # noqa: BLE001  a defect in a format must not cost more than the record
            if len(records) == 1:
                self._log.exception("A record cannot be encoded.", sequence=records[0].sequence)
                self._journal.give_up([records[0].sequence], "it cannot be encoded")
                return []
            return [message for record in records for message in self.encode([record])]

    @staticmethod
    def _selected(content: Batch | Gap, selection: Selection) -> Batch | Gap | None:
        """Give what this publisher may tell of a record."""
        return selection.gap(content) if isinstance(content, Gap) else selection.batch(content)

    def _table(self, number: int) -> TagTable:
        """Give the table that the journal calls by this number. Raises LookupError, ValueError."""
        table = self._tables.get(number)
        if table is None:
            table = self._tables[number] = stored_table(self._journal.definition(number))
            shown = table if self._selection is None else self._selection.table(table)
            if shown is None:
                self._unseen.add(number)
            elif isinstance(self.encoder, Numbering):
                self.encoder.know(number, shown)
        return table
