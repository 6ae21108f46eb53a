"""The cloud's side of the account: the ledger of one ingest worker, what it tells the gateways, and what it hears.

What a gateway has let go of and the store has not is a loss: said after a while, for it may be on its way still, by the
log, the health, a metric and `plantbridge account`. The messages are specified in gateway.statements.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import structlog

from gateway.contracts import Block
from gateway.health import Health
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.ranges import Range, Ranges
from gateway.statements import Summary, read_stored, read_summary, write_stored

MOST: Final = 64  # runs in one message, beside those that are new
AT_ONCE: Final = 500  # messages; with very many gateways each hears less often
MOST_NEW: Final = 1000  # runs in one message; it must stay small enough to be read
PATIENCE: Final = 120.0  # s that a hole may stay where something later has come
LONG: Final = 900.0  # s that the newest records may stay away: a broker may have much to deliver first

log = structlog.get_logger()


class Account:
    """The ledger of one ingest worker, and what is to be told of it. `note` and `hear` block on the disk."""

    def __init__(
        self, ledger: Ledger, worker: str, key: str | None, metrics: Metrics, health: Health, *, shared: bool = False
    ) -> None:
        """`shared`: other workers are to hear of all that is stored."""
        self._ledger = ledger
        self._shared = shared
        self._waiting: set[tuple[str, str]] = set()  # gateways and journals that wait to hear
        self._worker = worker
        self._key = key
        self._metrics = metrics
        self._health = health
        self._new: dict[tuple[str, str, str], Ranges] = {}  # by topic prefix, gateway and journal
        self._holes: dict[tuple[str, str], dict[Range, float]] = {}  # and since when they are known (monotonic)
        self._alarms: dict[tuple[str, str], int] = {}  # records

    def note(self, stored: Iterable[tuple[str, Block]]) -> None:
        """Note what the store has committed, as (topic prefix, block). Raises sqlite3.Error."""
        prefixes = {}
        blocks = []
        for prefix, block in stored:
            prefixes[block.gateway, block.journal] = prefix
            blocks.append(block)
        for (gateway, journal), runs in self._ledger.note(blocks).items():
            if not self._shared and (gateway, journal) not in self._waiting:
                continue
            new = self._new.setdefault((prefixes[gateway, journal], gateway, journal), Ranges())
            for run in runs:
                new.add(*run)

    def news(self) -> list[tuple[str, bytes]]:
        """Give topics and payloads of what is to be told now, retained."""
        messages = []
        for key in list(self._new)[:AT_ONCE]:
            (prefix, gateway, journal), new = key, self._new.pop(key)
            for run in self._ledger.newest(gateway, journal, MOST):
                new.add(*run)
            payload = write_stored(gateway, journal, list(new)[-MOST_NEW:], self._key)
            messages.append((f"{prefix}/stored/{self._worker}", payload))
        return messages

    def hear(self, told: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes, str]]:
        """Take in what gateways and other workers tell, as topics and payloads; give what makes no sense, with why.

        Raises sqlite3.Error.
        """
        summaries, elsewhere, senseless = list[Summary](), [], []
        for topic, payload in told:
            prefix, kind, name = topic.rsplit("/", 2)
            try:
                if kind == "account":
                    summary = read_summary(payload, self._key)
                    summaries.append(summary)
                    if summary.waits:
                        self._waiting.add((summary.gateway, summary.journal))
                        self._new.setdefault((prefix, summary.gateway, summary.journal), Ranges())
                elif name != self._worker:
                    elsewhere.append(read_stored(payload, self._key))
            except ValueError as error:
                senseless.append((topic, payload, str(error)))
        if summaries:
            self._ledger.hear(summaries)
        if elsewhere:
            self._ledger.stored_elsewhere(elsewhere)
        for summary in summaries:
            self.look(summary.gateway, summary.journal)
        return senseless

    @property
    def waiting(self) -> bool:
        """Whether there is something to be told."""
        return bool(self._new)

    def look(self, gateway: str, journal: str) -> None:
        """Say what is lost, once it has been missing for so long that it is not on its way."""
        standing, now = self._ledger.standing(gateway, journal), time.monotonic()
        newest = self._ledger.newest(gateway, journal, 1)
        known = self._holes.get((gateway, journal), {})
        holes = {hole: known.get(hole, now) for hole in standing.undeclared}
        self._holes[gateway, journal] = holes
        lost = [
            hole
            for hole, since in holes.items()
            if now - since >= (PATIENCE if newest and hole[1] < newest[0][1] else LONG)
        ]
        count = sum(last - first + 1 for first, last in lost)
        if count == self._alarms.get((gateway, journal), 0):
            return
        self._alarms[gateway, journal] = count
        self._metrics.undeclared.labels(gateway).set(count)
        reason = f"{count} records were acknowledged and are not in the store: plantbridge account shows when"
        self._health.link(f"account of {gateway}", up=not count, reason=reason if count else "")
        if count:
            log.error("Readings are lost on the way.", gateway=gateway, journal=journal, records=count, runs=lost[:5])
        else:
            log.warning("All readings are accounted for again.", gateway=gateway, journal=journal)
