"""Journal records to messages, one module per format, and the table of their names.

An encoder does no I/O and keeps no time. What is common to several: `texts` (numbers as the source has them).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gateway.contracts import Encoder
from gateway.model import TagTable
from gateway.options import PublisherOptions


@runtime_checkable
class Numbering(Protocol):
    """An encoder that calls tables by the journal's numbers: it is told each one before a record that uses it."""

    def know(self, number: int, table: TagTable) -> None: ...


@runtime_checkable
class Sized(Protocol):
    """An encoder whose largest message may be made smaller while it works, because the peer takes no larger one."""

    max_message: int


def encoder_for(options: PublisherOptions, gateway: str, journal: str) -> Encoder:
    """Make the encoder of a publisher; `journal` is the journal's id. Raises ValueError for a topic that is none."""
    # the modules are imported here: a site with one format does not pay for the libraries of the others
    if options.format == "json":
        from gateway.encoders.json import DEFAULT_TOPIC, Json

        return Json(gateway, options.topic or DEFAULT_TOPIC, options.max_message)
    from gateway.encoders.columns import Columns

    return Columns(gateway, journal, options.prefix(gateway), options.max_message)
