"""One gateway's configuration, checked and compiled: what the daemon runs and the simulators stand in for.

It can be pickled, so that a process which has read the YAML can hand it to one that never needs to (gateway.daemon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import Problem
from gateway.model import Link, TagTable, Where

if TYPE_CHECKING:
    from gateway.options import (
        ClockOptions,
        CommandOptions,
        JournalOptions,
        LogOptions,
        MetricsOptions,
        PublisherOptions,
    )


@dataclass(frozen=True, slots=True)
class Equipment:
    """One entry of the inventory: a device on a link, or a machine without one."""

    name: str
    state: str  # connected, planned, not-connectable, auxiliary
    vendor: str = ""
    model: str = ""
    serial: str = ""
    location: str = ""
    process: str = ""  # the key process that it has a part in
    numerically_controlled: bool = False
    link: str = ""  # empty: it has none
    where: Where = field(default_factory=Where)

    @property
    def counted(self) -> bool:
        """Whether it is production equipment, which the rates of a plant count."""
        return self.state != "auxiliary"


@dataclass(frozen=True, slots=True)
class Site:
    """What `gateway.config.load_site` makes of a site file."""

    gateway: str
    data: Path  # absolute; everything the gateway keeps lives below it
    links: tuple[Link, ...]
    publishers: Mapping[str, PublisherOptions]
    journal: JournalOptions
    clock: ClockOptions
    metrics: MetricsOptions
    log: LogOptions
    commands: CommandOptions | None  # None: nothing can be set from outside
    files: tuple[Path, ...]  # all files read: the site file first, then fragments, templates and secrets
    warnings: tuple[Problem, ...]
    places: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Levels of each device's location, by device; "" has the site's own."""
    path: Path = Path()
    """The site file as it was named, absolute; `files` has where it leads to."""
    urls: Mapping[str, str] = field(default_factory=dict)
    """URLs that stand in for those of the files, by link."""
    probation: float = 30.0
    """Seconds in which a device that a reload changed must answer, or the old configuration returns; 0: none."""
    watch: bool = False
    """Whether a change of the files is loaded without being asked to."""
    inventory: tuple[Equipment, ...] = ()
    """Every device of the links, and the machines that have none."""
    sources: Mapping[Path, bytes] = field(default_factory=dict, repr=False)
    """The YAML files as they were read, compressed by zlib: never the secrets, nor what is shipped with the gateway."""

    @property
    def tables(self) -> list[TagTable]:
        """The tables of all devices."""
        return [table for link in self.links for table in link.tables]
