"""What was read from a register list, before it is YAML: links, devices and tags that know their row.

A tag's keys are those of YAML. `places` says for each key in which cell it stood, so that a complaint of `check` about
a value can be shown at the row of the spreadsheet. A Finding is a row, or a cell, that could not be read, or a doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import GatewayError


class ListError(GatewayError):
    """A register list that cannot be used at all: no such format, no headings, a library that is not installed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at one place of the list: file:row:column, or a path in a file that has no rows."""

    place: str
    reason: str
    hint: str = ""
    severity: str = "error"  # a row that was left out; or "warning"

    def __str__(self) -> str:
        text = f"{self.place}: {self.reason}" + (f" ({self.hint})" if self.hint else "")
        return text if self.severity == "error" else f"{text} [{self.severity}]"


@dataclass(slots=True)
class ListedTag:
    """One tag of the list; `keys` begins with the address."""

    name: str
    keys: dict[str, Any]
    place: str  # of its row
    places: dict[str, str] = field(default_factory=dict)  # of its keys
    group: str = ""
    interval: str = ""
    ordered: bool = True  # whether the list says the byte order, or leaves it to what is known


@dataclass(slots=True)
class ListedDevice:
    """One device; `link` is the name of the link it is on, where the list knows that."""

    name: str
    driver: str
    keys: dict[str, Any] = field(default_factory=dict)
    tags: list[ListedTag] = field(default_factory=list)
    link: str = ""
    source: str = ""  # what the list itself calls it, where that is something else


@dataclass(slots=True)
class RegisterList:
    """All that a file says. `covers` are the tag keys that it decides on: an empty cell means that there is none."""

    devices: list[ListedDevice] = field(default_factory=list)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    covers: frozenset[str] = frozenset()

    def wrong(self, place: str, reason: str, hint: str = "", severity: str = "error") -> None:
        """Add a finding."""
        self.findings.append(Finding(place, reason, hint, severity))

    def note(self, text: str) -> None:
        """Add a sentence about how the list was understood, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def tags(self) -> Sequence[ListedTag]:
        return [tag for device in self.devices for tag in device.tags]
