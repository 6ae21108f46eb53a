"""Keys of what runs between devices and brokers: the journal, commands, metrics and the log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.options.addresses import Listen
from gateway.options.values import Duration, Options, Size


class JournalOptions(Options):
    """The buffer on disk between devices and brokers."""

    directory: str = "journal"
    """Where the journal lives; relative to the site file's `data` directory."""
    durability: Literal["power", "process"] = "power"
    """power: a commit survives a power cut (fsync). process: it survives the end of the process only."""
    commit_interval: Duration = 0.2
    """A reading is on disk at most this long after it was taken, and published right after."""
    commit_size: Size = 1_000_000
    """Commit earlier where this much has gathered."""
    max_size: Size = 1_000_000_000
    """Most disk that records may take."""
    max_age: Duration | None = None
    """Records older than this are dropped, with a gap record, delivered or not."""
    when_full: Literal["drop-oldest", "hold-scans"] = "drop-oldest"
    """What gives way when max_size is reached: the oldest records, or new scans."""


class ClockOptions(Options):
    """The gateway's own clock, which may not be known for a while after a start."""

    wait: Duration = 3600.0
    """While the clock cannot be right, readings are kept. Where nobody sets it in this time with a broker connected,
    they go out with estimated times, as Uncertain. 0 s: at once."""


class CommandOptions(Options):
    """Commands: values that others set through the gateway."""

    expires: Duration = Field(default=10.0, gt=0)
    """A command older than this is refused. It may say a shorter time itself."""
    clock_skew: Duration = 2.0
    """How far the sender's clock may differ from the gateway's: a command from further in the future is refused, and
    this much is added to `expires`."""
    tag_interval: Duration = 1.0
    """Shortest time between two commands for one tag; a tag's `writable: {interval: ...}` is for that tag."""
    rate: float = Field(default=10.0, gt=0, le=1000)
    """Values that may be set in a second, all tags together; as many may come at once after a pause."""
    largest: Size = 64_000
    """Largest payload of a command; larger ones are not even read."""
    values: int = Field(default=100, ge=1, le=10_000)
    """Most values in one command."""
    repeat: Duration = 600.0
    """A command whose id was seen in this time is answered as before, and not carried out again. Never shorter than
    `expires` and twice `clock_skew` together, so that a recorded command cannot be played again later."""
    audit: Size = Field(default=200_000_000, ge=1_000_000)
    """Most disk that the audit log may take; the oldest files go, and the log says so."""

    @property
    def window(self) -> float:
        """Seconds in which ids are remembered."""
        return max(self.repeat, self.expires + 2 * self.clock_skew)


class MetricsOptions(Options):
    """Prometheus metrics and health over HTTP."""

    listen: Listen | None = "127.0.0.1:9464"
    """host:port of /metrics and /healthz; null turns them off. Any address but loopback must be asked for here."""


class LogOptions(Options):
    """The daemon's log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON elsewhere."""
