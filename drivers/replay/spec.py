"""What YAML may say about a replay link, its devices and tags. Imports nothing that costs anything.

url      replay:FILE           a recording (gateway/trace.py has its form), relative to the site file
         replay:generated      patterns made up as they are asked for: sine, walk, counter, noise, on-off, constant
address  SERIES [TYPE]         a series of the recording, or a pattern, and as what it is held: float64 if not said
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field, field_validator

from gateway.contracts import Driver, DriverSpec, Resolved
from gateway.model import Kind, Link
from gateway.options import DeviceOptions, LinkOptions, TagOptions

GENERATED: Final = "replay:generated"
PATTERNS: Final = ("sine", "walk", "counter", "noise", "on-off", "constant")
TYPES: Final = {
    "float64": Kind.FLOAT, "float32": Kind.FLOAT, "int64": Kind.INT, "uint64": Kind.UINT, "bool": Kind.BOOL,
    "text": Kind.TEXT,
}  # fmt: skip


class ReplayLink(LinkOptions):
    """A recording, or made-up patterns."""

    url: str
    """replay:FILE.csv (.arrows, .parquet), relative to the file that names it, or replay:generated."""
    speed: float = Field(default=1.0, gt=0)
    """How much faster than it was recorded a recording is played."""
    at_end: Literal["repeat", "hold", "stop"] = "repeat"
    """Whether a recording begins again at its end, stays at what it said last, or the device is then gone."""
    times: Literal["scan", "shifted", "stored"] = "scan"
    """The time that readings carry: that of the scan, that of the recording moved to now, or that of the recording."""
    rows: Literal["newest", "all"] = "newest"
    """Whether a scan shows the newest row of each series, or each row is reported at its moment, and nothing asked."""

    @field_validator("url")
    @classmethod
    def _is_replay(cls, url: str) -> str:
        scheme, _, path = url.partition(":")
        if scheme != "replay" or not path:
            raise ValueError(f"expected replay:FILE.csv or {GENERATED}, got {url!r}")
        return url


class ReplayDevice(DeviceOptions):
    """A device of the recording; its tags are series."""


class ReplayTag(TagOptions):
    """A series of the recording."""

    address: str
    """The series' name, and as what it is held: `pressure`, `parts uint64`, `sine float32`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tag's address, compiled."""

    series: str
    type: str


def resolve(tag: ReplayTag, device: ReplayDevice, link: ReplayLink) -> Sequence[Resolved]:
    """Compile a tag's address. Raises ValueError with a message for the integrator."""
    series, _, word = tag.address.strip().rpartition(" ")
    if not series or word not in TYPES:
        series, word = tag.address.strip(), "float64"
    if not series:
        raise ValueError("expected the name of a series such as pressure, or pressure float32")
    if link.url == GENERATED and series not in PATTERNS:
        close = difflib.get_close_matches(series, PATTERNS, 1)
        meant = f", did you mean {close[0]}?" if close else f", expected one of {', '.join(PATTERNS)}"
        raise ValueError(f"there is no pattern {series!r}{meant}")
    return [Resolved(Source(series, word), TYPES[word], word)]


def _open(link: Link) -> Driver:
    from drivers.replay.driver import ReplayDriver  # what a driver needs is imported where the driver is used

    return ReplayDriver(link)


SPEC: Final = DriverSpec("replay", ReplayLink, ReplayDevice, ReplayTag, resolve, _open, source_time=True)
