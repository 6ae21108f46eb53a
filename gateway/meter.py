"""What a publisher may send: so much a second (`rate`, and the platform's own limits), so much a day (`budget`).

A rate is a bucket that holds a second's worth. What is live may empty it; the backlog leaves half of it for what comes
next, so that new data does not wait behind old. A message that is larger than the bucket goes when it is full.
A platform counts strictly: no second of its own may have more, wherever it begins. So there is no burst on top of its
rate (Ceiling), and the backlog goes evenly, which leaves a gap for what is new at every turn.

A budget counts what crosses the link: MQTT packets in both directions, and the TCP/IP headers of the segments they are
likely to take (40 bytes for each 1400, an acknowledgement of each message). It does not count TLS (about 30 bytes a
record, 3 to 6 kB a connection), nor lost segments that TCP sends again, nor what other programs send.

- Live data may take all of it but what the connection's own keep-alives need until it resets. The backlog may take what
  lies below the straight line from nothing to all of it over the period: so live data that stays below the line never
  waits, and what it leaves is used.
- Periods are those of the calendar in local time. The account survives a restart: the file holds a sum that has not
  been reached yet, so a kill -9 costs at most STEP of the budget, and never counts too little.
- A clock that is set back does not open a new period; a whole period of running does, whatever the clock says.

Pure arithmetic but for that file. Times are passed in: seconds since 1970, seconds of a monotonic clock.
"""

from __future__ import annotations

import datetime
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.memory import Memory
from gateway.rates import Rate, VolumeBudget

log = structlog.get_logger()

STEP: Final = 0.001  # of the budget, between two writings of the account
NEARLY: Final = 0.8  # of the budget
PORTION: Final = 0.02  # of the budget: the most that is sent between two looks at it
BEGINNING: Final = 0.03  # of the budget that the backlog may have at once
_SEGMENT: Final = 1400
_HEADERS: Final = 40
CONNECTING: Final = 500  # bytes of TCP and MQTT connection, will, status and farewell
PING: Final = 4 + 2 * _HEADERS
RESERVE: Final = 1.1  # s: messages may come closer together at the platform than they left here


def packet(topic: int, payload: int, properties: int = 1) -> int:
    """Give the bytes of a PUBLISH with QoS 1; all arguments are sizes in bytes."""
    rest = 2 + topic + 2 + properties + payload
    return 1 + (1 if rest < 128 else 2 if rest < 16_384 else 3 if rest < 2_097_152 else 4) + rest


def on_the_wire(topic: str, payload: int) -> int:
    """Give the bytes that a message and its acknowledgement take on the link, TLS apart."""
    size = packet(len(topic.encode()), payload)
    return size + _HEADERS * math.ceil(size / _SEGMENT) + 4 + 2 * _HEADERS


@dataclass(slots=True)
class Bucket:
    """Tokens that come back at `rate` a second; a second's worth at most."""

    rate: float
    level: float = field(init=False)
    at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.level = self.size

    @property
    def size(self) -> float:
        return max(1.0, self.rate)

    def pause(self, count: float, now: float, *, backlog: bool) -> float:
        """Give the seconds until `count` tokens may be taken; 0 where they may be now."""
        self.level = min(self.size, self.level + max(0.0, now - self.at) * self.rate)
        self.at = now
        needed = min(self.size, count + (self.size / 2 if backlog else 0.0))
        return 0.0 if self.level >= needed - 1e-9 else max(0.001, (needed - self.level) / self.rate)

    def take(self, count: float) -> None:
        """Take tokens, there or not."""
        self.level -= count


def period(now: float, per: str) -> tuple[float, float]:
    """Give begin and end (seconds since 1970) of the calendar's hour, day, week or month in local time."""
    moment = datetime.datetime.fromtimestamp(now)
    if per == "hour":
        begin = now - (moment.minute * 60 + moment.second + moment.microsecond / 1e6)
        return round(begin), round(begin) + 3600.0
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        first, after = midnight, midnight + datetime.timedelta(days=1)
    elif per == "week":
        first = midnight - datetime.timedelta(days=midnight.weekday())
        after = first + datetime.timedelta(days=7)
    else:
        first = midnight.replace(day=1)
        after = (first + datetime.timedelta(days=32)).replace(day=1)
    return first.timestamp(), after.timestamp()


class Account:
    """What was spent of a budget in the present period."""

    def __init__(self, budget: VolumeBudget, keep_alive: float, memory: Memory) -> None:
        self.budget = budget
        self.octets = budget.octets
        self._keep_alive = max(keep_alive, 1.0)
        self._memory = memory
        kept = memory.load()
        begin, spent = kept.get("begin"), kept.get("spent")
        known = isinstance(begin, int | float) and isinstance(spent, int)
        self._newest = float(begin) if known and begin is not None else -math.inf  # begin of the latest period seen
        self.spent = int(spent) if known and spent is not None else 0
        self._written = self.spent if known else -1  # the sum in the file
        self._since: float | None = None  # monotonic, when the count began
        self._told_disk = False
        self._told = 0.0  # monotonic, up to when keep-alives are counted

    def look(self, now: float, monotonic: float) -> None:
        """Begin a new count where a new period has begun."""
        begin, end = period(now, self.budget.per)
        if self._since is None:
            self._since = monotonic
        if begin > self._newest or monotonic - self._since >= end - begin:
            self._newest, self._since, self.spent, self._written = begin, monotonic, 0, -1

    def spend(self, count: int) -> None:
        """Count bytes. Writes the file now and then."""
        self.spent += count
        if self.spent > self._written:
            self._write(self.spent + round(STEP * self.octets))

    def keep(self, monotonic: float, *, connected: bool) -> None:
        """Count the keep-alives of the time since the last call."""
        if connected and self._told:
            due = int((monotonic - self._told) / self._keep_alive)
            self.spend(PING * due)
            self._told += due * self._keep_alive
        else:
            self._told = monotonic

    def close(self) -> None:
        """Write what was spent, exactly."""
        if self._written != self.spent and self._since is not None:
            self._write(self.spent)

    def limit(self, now: float) -> float:
        """Give the sum that data may reach now: the keep-alives of the time that is left are set aside."""
        _, end = period(now, self.budget.per)
        return self.octets - PING * (end - now) / self._keep_alive

    def pause(self, now: float, *, backlog: bool) -> float:
        """Give the seconds until another PORTION may be sent; 0 where it may be now."""
        begin, end = period(now, self.budget.per)
        wanted = self.spent + PORTION * self.octets
        if wanted > self.limit(now):
            return max(1.0, end - now)
        if not backlog:
            return 0.0
        share = (wanted / self.octets - BEGINNING) / (1 - BEGINNING)  # of the period that must have passed
        wait = begin + share * (end - begin) - now
        return 0.0 if wait <= 0 else max(0.001, wait)

    def nearly_spent(self, now: float) -> bool:
        """Whether little is left, and less than the time that is left would call for."""
        begin, end = period(now, self.budget.per)
        part = self.spent / self.octets
        return part > NEARLY and part > (now - begin) / (end - begin)

    def resets(self, now: float) -> str:
        """Say when the next period begins."""
        _, end = period(now, self.budget.per)
        return datetime.datetime.fromtimestamp(end).strftime("%Y-%m-%d %H:%M")

    def _write(self, spent: int) -> None:
        self._written = spent
        try:
            self._memory.save({"begin": self._newest, "spent": spent, "budget": str(self.budget)})
        except OSError as error:  # a full disk must not end publishing, which is what makes room
            if not self._told_disk:
                log.warning("The account of a budget cannot be written: a restart would forget it.", error=str(error))
            self._told_disk = True
        else:
            self._told_disk = False


class Ceiling:
    """What a platform takes in any second, RESERVE apart; bytes one after the other."""

    def __init__(self, rate: Rate) -> None:
        self._octets = rate.octets
        self._every = RESERVE / rate.messages
        many = max(1, int(rate.messages)) if math.isfinite(rate.messages) else 0
        self._left: deque[float] = deque(maxlen=many)  # when the last messages left, as many as a second may have
        self._span = max(RESERVE, self._every)
        self._free = -math.inf  # when the bytes that left have had their time

    def pause(self, now: float, *, backlog: bool) -> float:
        """Give the seconds until a message may leave; 0 where it may now."""
        due = self._free
        if self._left and len(self._left) == self._left.maxlen:
            due = max(due, self._left[0] + self._span)
        if self._left and backlog:
            due = max(due, self._left[-1] + self._every)
        return 0.0 if due <= now else max(0.001, due - now)

    def take(self, size: int, now: float) -> None:
        """Count a message that leaves."""
        self._left.append(now)
        self._free = max(self._free, now) + size * RESERVE / self._octets


class Rates:
    """How fast one publisher may send: its own `rate`, and what its platform takes."""

    def __init__(self, rate: Rate, platform: Rate | None = None) -> None:
        platform = platform or Rate()
        self._octets = Bucket(rate.octets) if math.isfinite(rate.octets) else None
        self._messages = Bucket(rate.messages) if math.isfinite(rate.messages) else None
        strict = math.isfinite(platform.octets) or math.isfinite(platform.messages)
        self._ceiling = Ceiling(platform) if strict else None
        self.second = min(rate.octets, platform.octets)  # bytes
        self.messages = min(rate.messages, platform.messages)

    def __bool__(self) -> bool:
        return not (self._octets is None and self._messages is None and self._ceiling is None)

    def pause(self, size: int, now: float, *, backlog: bool) -> float:
        """Give the seconds until a message of this size may be sent; 0 where it may be now."""
        return max(
            0.0 if self._octets is None else self._octets.pause(size, now, backlog=backlog),
            0.0 if self._messages is None else self._messages.pause(1, now, backlog=backlog),
            0.0 if self._ceiling is None else self._ceiling.pause(now, backlog=backlog),
        )

    def take(self, size: int, now: float) -> None:
        """Count a message of this size."""
        if self._octets is not None:
            self._octets.take(size)
        if self._messages is not None:
            self._messages.take(1)
        if self._ceiling is not None:
            self._ceiling.take(size, now)
