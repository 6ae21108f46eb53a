"""From messages that the peer took to acknowledgements in the journal: when it may let go of what.

    taken ─▶ held for `settle` ─▶ the peer's next sign of life ─▶ acknowledged
    taken ─▶ kept until ingest says that it is in the store ────▶ acknowledged      (`acknowledge: store`)

- Sequences are acknowledged by bundles: when every message made of a bundle is settled.
- A PUBACK is believed when the peer has lived on for `settle`. What it took in a session that broke before that is
  sent again in the next: a broker that was killed may have forgotten it. Taken twice is enough, and what was refused
  must not come back.
- With `acknowledge: store` what the broker took is kept (gateway.unconfirmed), and told to be sent again where ingest
  confirms later records only: then no broker has to be trusted.
- Refused: to acknowledge a bundle of which a message was put off. Its records are sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.contracts import Peer, Record
from gateway.journal import Journal
from gateway.ranges import Range, Ranges
from gateway.unconfirmed import Unconfirmed

if TYPE_CHECKING:
    from gateway.options import PublisherOptions

_LISTEN: Final = 0.25  # s between looks for the sign of life that lets an acknowledgement be believed


@dataclass(slots=True, eq=False)
class Bundle:
    """Records first..last of the journal, on their way out as one or more messages."""

    first: int
    last: int
    left: int  # messages not settled yet
    readings: int = 0  # in messages that were accepted
    refused: bool = False  # one of the messages
    put_off: bool = False  # one of the messages was refused for now
    size: int = 0  # bytes in the journal
    told: Ranges = field(default_factory=Ranges)  # records that are in messages; with `acknowledge: store` only
    declares: Sequence[Bundle] = ()  # bundles that wait for this one, which is no part of the journal


class Acknowledgements:
    """What one publisher's peer has taken and the journal still keeps. `lost` gets what is to be sent again."""

    def __init__(
        self,
        name: str,
        options: PublisherOptions,
        journal: Journal,
        peer: Peer,
        lost: Callable[[list[Range]], None],
        log: Any,
    ) -> None:
        """Prepare. `log` is the publisher's."""
        self._name = name
        self._journal = journal
        self._peer = peer
        self._lost = lost
        self._settle = options.settle
        self._held: deque[tuple[float, Bundle]] = deque()  # taken over by the peer, and when to believe it
        self._listening: asyncio.TimerHandle | None = None  # the next look at `_held`
        self._doubted = Ranges()  # what the peer took in a session that broke soon after
        self._unconfirmed = Unconfirmed(options.patience) if options.acknowledge == "store" else None
        self._stored = Ranges()  # what ingest says is in the store
        self.news = asyncio.Event()  # set when something was settled
        self._log = log

    @property
    def settling(self) -> int:
        """How many records the peer has taken, and wait for belief or the store."""
        unconfirmed = len(self._unconfirmed) if self._unconfirmed is not None else 0
        return unconfirmed + sum(bundle.last - bundle.first + 1 for _, bundle in self._held)

    @property
    def tried(self) -> int:
        """How often some record was sent again at most because it did not come to the store."""
        return self._unconfirmed.tried if self._unconfirmed is not None else 0

    # ------------------------------------------------------------------------------------------------ what to send

    def begin(self) -> list[Range]:
        """Give what a session that begins now has to send of what is committed."""
        taken = Ranges((bundle.first, bundle.last) for _, bundle in self._held)
        for first, last in self._unconfirmed.ranges if self._unconfirmed is not None else ():
            taken.add(first, last)
        pending = [part for first, last in self._journal.pending(self._name) for part in taken.missing(first, last)]
        oldest = pending[0][0] if pending else self._journal.committed + 1
        self._doubted = Ranges((first, last) for first, last in self._doubted if last >= oldest)
        return pending

    def together(self, first: int, last: int) -> int:
        """Give the last of first..last up to which all was taken before, or nothing was: that is acknowledged apart."""
        for begin, end in self._doubted:
            if end >= first:
                return min(last, end if begin <= first else begin - 1)
        return last

    def stored_all(self, first: int, last: int) -> bool:
        """Whether all of these records have come to the store already."""
        return self._unconfirmed is not None and not self._stored.missing(first, last)

    def expect(self, bundle: Bundle, records: Iterable[Record]) -> None:
        """Take note of the records in a bundle, where the store is to confirm each."""
        if self._unconfirmed is not None:
            bundle.told = Ranges((record.sequence, record.sequence) for record in records)

    # ------------------------------------------------------------------------------------------------ what was taken

    def nothing(self, first: int, last: int) -> None:
        """Acknowledge records of which there is nothing to send."""
        self._journal.acknowledge(self._name, first, last, 0)
        if self._unconfirmed is not None:
            self._unconfirmed.confirmed(Ranges([(first, last)]))
        self.news.set()

    def settle(self, bundle: Bundle) -> None:
        """Take note that one more part of a bundle is done with."""
        bundle.left -= 1
        if not bundle.left and not bundle.put_off:
            self.taken(bundle)

    def taken(self, bundle: Bundle) -> None:
        """Acknowledge a bundle, but not before the peer has lived on for a while, or the store has it."""
        if bundle.declares:
            for each in bundle.declares:
                self.settle(each)
            return
        loop = asyncio.get_running_loop()
        if self._unconfirmed is not None and not bundle.refused:
            for first, last in bundle.told.missing(bundle.first, bundle.last):
                self._journal.acknowledge(self._name, first, last, 0)  # there is nothing in them that could be stored
            for number, (first, last) in enumerate(bundle.told):
                self._unconfirmed.took(first, last, 0 if number else bundle.readings, loop.time())
            self._confirm(self._unconfirmed)
            return
        again = not self._doubted.missing(bundle.first, bundle.last)
        if bundle.refused or again or not self._settle:
            self._journal.acknowledge(self._name, bundle.first, bundle.last, bundle.readings)
        else:
            self._held.append((loop.time() + self._settle, bundle))
            if self._listening is None:
                self._listening = loop.call_later(self._settle, self.let_go)
        self.news.set()

    def let_go(self, *, all_of_them: bool = False) -> None:
        """Acknowledge what was taken so long before the peer's last sign of life that it has surely been kept."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._held and (all_of_them or self._held[0][0] <= self._peer.heard + 0.001):
            _, bundle = self._held.popleft()
            self._journal.acknowledge(self._name, bundle.first, bundle.last, bundle.readings)
        if self._listening is not None:
            self._listening.cancel()
        self._listening = None
        self.news.set()
        if not self._held:
            return
        self._listening = loop.call_later(max(_LISTEN, self._held[0][0] - now), self.let_go)
        if self._held[0][0] <= now:
            self._peer.ask()

    def doubt(self) -> None:
        """Have the next session send again what the peer took in the last moments of one that broke."""
        for _, bundle in self._held:
            self._doubted.add(bundle.first, bundle.last)
        self._held.clear()
        if self._unconfirmed is not None:
            self._unconfirmed.doubt(asyncio.get_running_loop().time() - self._settle)

    # ------------------------------------------------------------------------------------------------ what is stored

    def stored(self, runs: Sequence[Range]) -> None:
        """Hear from ingest which records are in the store."""
        for first, last in runs:
            self._stored.add(first, last)
        if self._unconfirmed is not None:
            self._confirm(self._unconfirmed)
        for first, last in self._journal.pending(self._name):  # what an earlier run of ours has sent
            for part in self._stored.within(first, last):
                self._journal.acknowledge(self._name, *part, 0)

    def _confirm(self, unconfirmed: Unconfirmed) -> None:
        """Let go of what is stored, and have sent again what was lost between the broker and the store."""
        for first, last, readings in unconfirmed.confirmed(self._stored):
            self._journal.acknowledge(self._name, first, last, readings)
        again = unconfirmed.overdue(self._stored.newest, asyncio.get_running_loop().time())
        if again:
            count = sum(last - first + 1 for first, last in again)
            self._log.warning("The store has not got what the broker took: sent again.", records=count, runs=again[:5])
            self._lost(again)
        self.news.set()
