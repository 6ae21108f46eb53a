"""What one run of the gateway leaves for the next: how far each subscribed group that is to be filled was given.

    {"heard": ns, "groups": {KEY: TIMES, ...}}     JSON
    KEY    DEVICE/GROUP/HASH, the hash over the names of its nodes: in a changed group the times have no place
    TIMES  of each node, in the plan's order, the source time (ns) up to which all was given: int64, zlib, base64

`heard` is when that was so, by the gateway's clock. A mark that makes no sense is none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivers.opcua.plan import OpcuaPlan


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a run has given its data; nothing where `heard` is 0."""

    heard: int = 0
    groups: dict[str, NDArray[np.int64]] = field(default_factory=dict)


def group_key(plan: OpcuaPlan) -> str:
    """Name a poll group by what it holds."""
    return f"{plan.device}/{plan.group}/{hashlib.sha256(repr(plan.nodes).encode()).hexdigest()[:16]}"


def pack(mark: Mark) -> bytes:
    """Write a mark; nothing where it says nothing."""
    if not mark.heard or not mark.groups:
        return b""
    groups = {key: base64.b64encode(zlib.compress(times.tobytes(), 1)).decode() for key, times in mark.groups.items()}
    return json.dumps({"heard": mark.heard, "groups": groups}).encode()


def unpack(text: bytes) -> Mark:
    """Read a mark."""
    try:
        read = json.loads(text)
        groups = {
            key: np.frombuffer(zlib.decompress(base64.b64decode(times)), dtype=np.int64)
            for key, times in read["groups"].items()
        }
        return Mark(int(read["heard"]), groups)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error):
        return Mark()
