"""Readings as free JSON, for platforms that prescribe nothing (aws, azure).

    [{"device": "press-1", "group": "default", "ts": 1735689600000, "values": {"pressure": 4.2},
      "quality": {"level": "BadTimeout"}, "history": true}, ...]

`ts` is ms since 1970 UTC. `quality` names the readings that are not Good, a Bad one has no value; `history` marks
readings that are late. Both are left out where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.dialects import Section, doubts, doubts_room, gap_fields, members, text
from gateway.model import Gap
from gateway.quality import name


def rows(sections: Sequence[Section]) -> bytes:
    """Give sections as a JSON array."""
    return b"[" + b",".join(map(_row, sections)) + b"]"


def row_room(section: Section) -> int:
    """Give the bytes a section takes at most."""
    return section.size + doubts_room(section) + len(text(section.device)) + len(text(section.group)) + 128


def gap_row(gap: Gap) -> bytes:
    """Give a gap as a JSON array of one."""
    return text([{"device": gap.device, "group": gap.group, "gap": gap_fields(gap)}])


def _row(section: Section) -> bytes:
    device, group = text(section.device), text(section.group)
    head = b'{"device":' + device + b',"group":' + group + b',"ts":%d,"values":{' % section.time
    quality = b"".join(field + b'"' + name(status).encode() + b'"' for field, status in doubts(section))[1:]
    end = (b'},"quality":{' + quality if quality else b"") + (b'},"history":true}' if section.backfill else b"}}")
    return head + members(section) + end
