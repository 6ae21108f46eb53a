"""What gateways and ingest tell each other of what is stored. Beside the topics of gateway.decode:

    {prefix}/stored/{worker}      from ingest, retained: {"v": 1, "gateway", "journal", "stored": [[first, last], ...]}:
                                  the newest runs of journal sequences that are in the store. Told where a gateway waits
                                  for it (`acknowledge: store`), which lets go of them, or where workers share.
    {prefix}/account/{publisher}  from a gateway, retained: {"v": 1, "gateway", "journal", "publisher", "at" (ns),
                                  "committed", "readings", "waiting": [[first, last], ...], "complete", "version",
                                  "waits"}:
                                  committed is the newest sequence on its disk, readings how many it ever took, waiting
                                  what it still keeps for this publisher; complete says that the publisher tells all,
                                  waits that it has to hear what is stored.

Both are sealed (gateway.sealed) where a key is configured. Bytes come from the network: readers raise ValueError only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.ranges import Range
from gateway.sealed import seal, unseal

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Summary:
    """What a gateway says of one publisher and its journal."""

    gateway: str
    journal: str
    publisher: str
    at: int  # ns, by the gateway's clock
    committed: int  # the newest number that is on its disk
    readings: int  # taken since the journal began
    waiting: Sequence[Range]  # numbers that are not settled yet
    complete: bool = True  # False: the publisher tells a part of the readings, so that holes say nothing
    version: str = ""  # of the gateway's program
    waits: bool = False  # whether it waits to hear what is stored


def read_stored(payload: bytes, key: str | None) -> tuple[str, str, list[Range]]:
    """Read what a worker tells: gateway, journal, runs. Raises ValueError."""
    body = _opened(payload, key)
    return _text(body, "gateway"), _text(body, "journal"), _runs(body, "stored")


def write_stored(gateway: str, journal: str, runs: Sequence[Range], key: str | None) -> bytes:
    """Write what is in the store."""
    return seal({"v": VERSION, "gateway": gateway, "journal": journal, "stored": list(runs)}, key)


def read_summary(payload: bytes, key: str | None) -> Summary:
    """Read what a gateway says of itself. Raises ValueError."""
    body = _opened(payload, key)
    return Summary(
        gateway=_text(body, "gateway"),
        journal=_text(body, "journal"),
        publisher=_text(body, "publisher"),
        at=_count(body, "at"),
        committed=_count(body, "committed"),
        readings=_count(body, "readings"),
        waiting=tuple(_runs(body, "waiting")),
        complete=body.get("complete") is True,
        version=str(body.get("version", ""))[:40],
        waits=body.get("waits") is True,
    )


def write_summary(summary: Summary, key: str | None) -> bytes:
    """Write what a gateway says of itself."""
    body = {"v": VERSION, **{name: getattr(summary, name) for name in Summary.__slots__}}
    return seal(body, key)


def _opened(payload: bytes, key: str | None) -> dict[str, Any]:
    body = unseal(payload, key)
    if body.get("v") != VERSION:
        raise ValueError(f"version {body.get('v')!r}; this program reads version {VERSION}")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) < 200:
        raise ValueError(f"{name} is missing or no name")
    return value


def _count(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ValueError(f"{name} is missing or no count")
    return value


def _runs(body: Mapping[str, Any], name: str) -> list[Range]:
    value = body.get(name)
    if not isinstance(value, list) or len(value) > 100_000:
        raise ValueError(f"{name} is no list of runs")
    runs = []
    for each in value:
        if not isinstance(each, list) or len(each) != 2 or not all(type(end) is int for end in each):
            raise ValueError(f"{name} has {each!r} where a first and a last number are expected")
        if not 0 < each[0] <= each[1] < 2**62:
            raise ValueError(f"{name} has a run from {each[0]} to {each[1]}")
        runs.append((each[0], each[1]))
    return runs
