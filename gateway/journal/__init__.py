"""The journal: the one buffer on disk between devices and brokers, and the only retry mechanism.

`Journal` is what the rest uses; gateway.journal.file has the format on disk, and gateway.journal.opening what
becomes of a file that is damaged.

- A record is bytes of somebody else's making, with a sequence: dense from 1, never given to other content once it was
  committed. Only committed records can be read.
- Each publisher acknowledges ranges of sequences. What all of them have acknowledged is removed. An acknowledgement on
  disk may lag what was said, never lead.
- Bounded by bytes and age. What gives way is counted, logged and declared by a gap record, in the same transaction or,
  through a crash, at the next start. A full disk is a full journal, not a failure.
- It does not know what is in a record: gap records of its own are made by a function it is given.
"""

from gateway.journal.journal import Chunk, Journal, Totals
from gateway.journal.survey import Survey, survey

__all__ = ["Chunk", "Journal", "Survey", "Totals", "survey"]
