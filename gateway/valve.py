"""Holds back what one publisher may not send yet: its rate, its budget, its platform's limits (gateway.meter).

Two waits: `afford` before records are read, for a budget may be used up for hours and nothing should be in hand
meanwhile; `pass_on` before each message, births, replies and farewells too, for a rate, which is a matter of seconds.
No other room holds anything back. The backlog waits longer in both.
Without a rate and a budget both return at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

import structlog

from gateway.dialects import Limits
from gateway.health import Health
from gateway.memory import Memory
from gateway.meter import CONNECTING, PORTION, Account, Rates
from gateway.metrics import Metrics
from gateway.rates import Rate

if TYPE_CHECKING:
    from gateway.options import PublisherOptions

NAP: Final = 30.0  # s between looks at a budget that is used up: the clock may be set meanwhile

log = structlog.get_logger()


class Valve:
    """What one publisher may send now. `memory` keeps the account of a budget over restarts."""

    def __init__(
        self,
        name: str,
        options: PublisherOptions,
        limits: Limits | None,
        memory: Memory | None,
        health: Health,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._name = name
        self._health = health
        self._clock = clock
        self._gauge = metrics.budget_spent.labels(name)
        self._rates = Rates(options.rate or Rate(), Rate(limits.octets, limits.messages) if limits else None)
        self._account: Account | None = None
        if options.budget is not None and memory is not None:
            self._account = Account(options.budget, options.keep_alive, memory)
        self.spent = False  # the budget
        self._growth = 10.0  # bytes on the wire for a byte in the journal, before anything is known
        self._message = inf  # bytes in the journal that became one message, last
        self._waiting = 0  # live messages that wait for the rate
        self._moved = asyncio.Event()
        self._log = log.bind(publisher=name)

    @property
    def second(self) -> float:
        """Bytes that go out in a second at most, as far as that is known."""
        return min(self._rates.second, self._rates.messages * self._message)

    @property
    def largest(self) -> float:
        """Bytes that one message should have at most, so that the next need not wait long, nor the budget overflow."""
        return min(self._rates.second / 2, inf if self._account is None else PORTION * self._account.octets)

    @property
    def scarce(self) -> bool:
        """Whether the budget is nearly used up."""
        return self._account is not None and self._account.nearly_spent(self._clock() / 1e9)

    def piece(self, largest: int) -> int:
        """Give the bytes of records to read at once, so that they become about `largest` bytes on the wire."""
        return largest if self._account is None else max(1, int(largest / self._growth))

    def became(self, size: int, total: int, messages: int) -> None:
        """Take note that `size` bytes in the journal became `total` bytes on the wire, in so many messages."""
        if size and total:
            self._message = size / messages
            self._growth = max(1.0, total / size, 0.8 * self._growth)

    def open(self) -> None:
        """A session began."""
        if self._account is not None:
            self._account.keep(time.monotonic(), connected=False)
            self.spend(CONNECTING)

    def shut(self) -> None:
        """The session ended."""
        if self._account is not None:
            self._account.keep(time.monotonic(), connected=True)

    def close(self) -> None:
        """The publisher ends: write the account down."""
        if self._account is not None:
            self._account.close()

    def spend(self, octets: int) -> None:
        """Count bytes that cross the link."""
        if self._account is not None:
            self._account.look(self._clock() / 1e9, time.monotonic())
            self._account.spend(octets)
            self._gauge.set(self._account.spent)

    async def afford(self, *, backlog: bool) -> None:
        """Wait until the budget has room."""
        account = self._account
        if account is None:
            return
        while True:
            now = self._clock() / 1e9
            account.look(now, time.monotonic())
            account.keep(time.monotonic(), connected=True)
            self._gauge.set(account.spent)
            pause = account.pause(now, backlog=backlog)
            if not backlog:
                self._tell(account, pause > 0)
            if not pause:
                return
            await asyncio.sleep(min(pause, NAP))

    async def pass_on(self, size: int, *, backlog: bool = False) -> None:
        """Wait until a message of this size on the wire may go, and count it. Live messages go before the backlog."""
        if self._rates:
            await self._keep_rate(size, backlog=backlog)
        self.spend(size)

    async def _keep_rate(self, size: int, *, backlog: bool) -> None:
        clock = asyncio.get_running_loop().time
        self._waiting += not backlog
        try:
            while (pause := self._rates.pause(size, clock(), backlog=backlog)) or (backlog and self._waiting):
                if pause:
                    await asyncio.sleep(pause)
                else:
                    await self._moved.wait()
            self._rates.take(size, clock())
        finally:
            self._waiting -= not backlog
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    def _tell(self, account: Account, spent: bool) -> None:
        """Say, if it is news, that the budget is used up, and when it goes on."""
        if spent:
            reason = f"the budget of {account.budget} is used up; it goes on at {account.resets(self._clock() / 1e9)}"
            self._health.publisher(self._name, up=False, reason=reason)
            if not self.spent:
                self._log.warning("The budget is used up; the journal keeps what is to be sent.", reason=reason)
        elif self.spent:
            self._health.publisher(self._name, up=True)
            self._log.info("The budget has room again.")
        self.spent = spent
