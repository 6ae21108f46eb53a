"""One JSON message per device and scan, for consumers that want to read without tools.

    {"gateway": "demo", "device": "press-1", "group": "default", "sequence": 4711,
     "time": "2026-11-20T08:15:00.100Z", "timestamp": 1795162500100,
     "values": {"pressure": 101.3, "mode": 2, "door": true, "order": "A-00420", "flow": null},
     "states": {"mode": "running"},
     "quality": {"flow": {"name": "BadTimeout", "code": 2148139008}},
     "times": {"mode": "2026-11-20T08:14:59.900Z"},
     "backfill": true}

- `time` is the newest time inside, `timestamp` the same in ms since 1970. `times` has what differs from it. A tag
  occurs once in a message: where a scan brings two readings of a tag, the earlier ones make a message before.
- A value is null where the reading is Bad or not a finite number. `quality` has what is not plainly Good, `states` the
  name of a number that has one. Empty objects and "backfill": false are left out.
- Numbers have the digits that the source has (gateway.encoders.texts).
- A hole: {"gateway", "device", "group", "sequence", "gap": {"start", "end", "reason", "readings", "scans"}}; where it
  concerns all devices or groups, these are "", and "all" in the topic.

That is `per: scan` with the standard body; topic and body are templates (gateway.templates). `per: window` puts the
scans of a window into one array. `per: tag` makes a message of each reading:

    {"gateway": "demo", "device": "press-1", "group": "default", "tag": "pressure", "value": 101.3, "unit": "bar",
     "time": "2026-11-20T08:15:00.100Z", "timestamp": 1795162500100, "quality": "Good"}

Retained messages never go back in time: one with a time older than what its topic had before is sent without the flag.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway import quality as q
from gateway.contracts import Record
from gateway.dialects import paired
from gateway.encoders.texts import Texts
from gateway.model import Batch, Gap, Message, Tag, TagTable
from gateway.templates import SCAN_VALUES, TAG_VALUES, Members, compiled, names_for, rendered, topic_faults, topic_of

if TYPE_CHECKING:
    from gateway.options import JsonOptions

DEFAULT_TOPIC: Final = "plantbridge/{gateway}/json/{device}/{group}"
_SCAN: Final = {name: f"{{{name}}}" for name in ("gateway", "device", "group", *SCAN_VALUES)}
_TAG: Final = {
    name: f"{{{name}}}"
    for name in (
        "gateway",
        "device",
        "group",
        "tag",
        "value",
        "unit",
        "state",
        "time",
        "timestamp",
        "quality",
        "backfill",
    )
}
_TRUE: Final = b"true"
_MANY: Final = 100  # rows among which what stands around them weighs little


def topic_for(options: JsonOptions) -> str:
    """Give the topic template where none is given."""
    return DEFAULT_TOPIC + "/{tag}" if options.per == "tag" else DEFAULT_TOPIC


class Json:
    """Encodes journal records as JSON. `places` are the levels of each device's location; "" is the site's own."""

    def __init__(
        self,
        gateway: str,
        template: str,
        max_message: int,
        options: JsonOptions | None = None,
        places: Mapping[str, Mapping[str, str]] | None = None,
        *,
        most: int | None = None,
    ) -> None:
        """`most`: readings in a message; any number where None. Raises ValueError for a topic template that is none."""
        if options is None:
            from gateway.options import JsonOptions

            options = JsonOptions()
        self._options = options
        self._places = places or {}
        levels = {level for place in self._places.values() for level in place}
        for reason, hint in topic_faults(template, (*names_for(self._options.per), *levels)):
            raise ValueError(f"{reason}: {hint}")
        self.max_message = max_message
        self._most = most or sys.maxsize
        self.window = self._options.window if self._options.per == "window" else 0.0
        self._gateway = gateway
        self._template = template
        self._bodies: dict[tuple[str, str], tuple[str, Members]] = {}  # topic and body by device and group
        self._weights: dict[str, float] = {}  # by topic: bytes of a row, so that a large scan is not written in vain
        self._retained: dict[str, int] = {}  # by topic: the newest time that was sent
        self._writers: dict[bytes, _Writer] = {}  # by fingerprint

    def reset(self) -> None:
        """Nothing: every message speaks for itself."""

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Give the messages, in the order of the records; those of a window by device and group."""
        messages: list[Message] = []
        windows: dict[tuple[str, str], list[Message]] = {}
        for scan in _scans(records):
            content = scan[0].content
            if isinstance(content, Gap):
                messages.append(self._gap(scan[0].sequence, content))
            elif self._options.per == "tag":
                messages += self._readings(scan)
            elif self._options.per == "window":
                key = (content.table.device, content.table.group)
                windows.setdefault(key, []).extend(self._scan(scan))
            else:
                messages += self._scan(scan)
        for scans in windows.values():
            messages += self._arrays(scans)
        return messages

    def _names(self, device: str, group: str) -> dict[str, str]:
        place = self._places.get(device) or self._places.get("", {})
        return {**place, "gateway": self._gateway, "device": device, "group": group}

    def _gap(self, sequence: int, gap: Gap) -> Message:
        body = {
            "gateway": self._gateway,
            "device": gap.device,
            "group": gap.group,
            "sequence": sequence,
            "gap": {
                "start": iso(gap.start),
                "end": iso(gap.end),
                "reason": gap.reason,
                "readings": gap.readings,
                "scans": gap.scans,
            },
        }
        names = {**self._names(gap.device, gap.group or "all"), "device": gap.device or "all", "tag": "all"}
        return Message(topic_of(self._template, names), orjson.dumps(body), sequence, sequence, 0)

    # ------------------------------------------------------------------------------------------------ scans

    def _scan(self, scan: Sequence[Record]) -> Iterator[Message]:
        batches = [record.content for record in scan if isinstance(record.content, Batch)]
        layers = [_layers(batch) for batch in batches]
        for layer in range(max(map(len, layers)) - 1, -1, -1):
            parts = [of[layer] for of in layers if layer < len(of)]
            yield from self._message(scan[0].sequence, scan[-1].sequence, parts)

    def _message(self, first: int, last: int, parts: Sequence[Batch]) -> Iterator[Message]:
        topic, members = self._body(parts[0].table)
        rows = sum(map(len, parts))
        if rows > 1 and (rows > self._most or rows * self._weights.get(topic, 0.0) > self.max_message):
            for few in _halves(parts):
                yield from self._message(first, last, few)
            return
        newest = max(int(batch.time.max()) for batch in parts)
        payload = rendered(members, self._values(last, parts, newest))
        if rows >= _MANY:
            self._weights[topic] = len(payload) / rows
        if len(payload) > self.max_message and rows > 1:
            for few in _halves(parts):
                yield from self._message(first, last, few)
            return
        oldest = min(int(batch.time.min()) for batch in parts)
        yield Message(topic, payload, first, last, rows, self._keeps(topic, newest), oldest=oldest)

    def _body(self, table: TagTable) -> tuple[str, Members]:
        key = (table.device, table.group)
        found = self._bodies.get(key)
        if found is None:
            names, body = self._names(*key), self._options.body or _SCAN
            found = self._bodies[key] = topic_of(self._template, names), compiled(body, names, SCAN_VALUES)
        return found

    def _values(self, sequence: int, parts: Sequence[Batch], newest: int) -> dict[str, bytes]:
        written = [(self._writer(batch.table), batch) for batch in parts]
        gathered = {
            "values": [writer.values(batch) for writer, batch in written],
            "states": [writer.states(batch) for writer, batch in written],
            "quality": [writer.qualities(batch) for writer, batch in written],
            "times": [writer.times(batch, newest) for writer, batch in written],
        }
        values = {name: b"{" + b"".join(some)[1:] + b"}" for name, some in gathered.items() if any(some)}
        values["sequence"] = b"%d" % sequence
        values["time"] = orjson.dumps(iso(newest))
        values["timestamp"] = b"%d" % (newest // 1_000_000)
        if any(batch.backfill for batch in parts):
            values["backfill"] = _TRUE
        return values

    def _arrays(self, scans: Sequence[Message]) -> Iterator[Message]:
        """Put the messages of scans into as few arrays as their size allows."""
        start = size = rows = 0
        for index, scan in enumerate(scans):
            too_large = size + len(scan.payload) + 2 > self.max_message
            if index > start and (too_large or rows + scan.readings > self._most):
                yield self._array(scans[start:index])
                start, size, rows = index, 0, 0
            size += len(scan.payload) + 1
            rows += scan.readings
        yield self._array(scans[start:])

    def _array(self, scans: Sequence[Message]) -> Message:
        return replace(
            scans[-1],
            payload=b"[" + b",".join(scan.payload for scan in scans) + b"]",
            first=scans[0].first,
            readings=sum(scan.readings for scan in scans),
            oldest=min(scan.oldest for scan in scans),
        )

    # ------------------------------------------------------------------------------------------------ single readings

    def _readings(self, scan: Sequence[Record]) -> Iterator[Message]:
        for record in scan:
            if isinstance(record.content, Batch):
                yield from self._of_batch(record.sequence, record.content)

    def _of_batch(self, sequence: int, batch: Batch) -> Iterator[Message]:
        writer = self._writer(batch.table)
        places = writer.places(lambda tag: self._place(batch.table, tag))
        fixed = {"sequence": b"%d" % sequence} | ({"backfill": _TRUE} if batch.backfill else {})
        stamps: dict[int, tuple[bytes, bytes]] = {}
        rows = zip(batch.tag.tolist(), writer.texts(batch), batch.quality.tolist(), batch.time.tolist(), strict=True)
        for row, (tag, text, code, time) in enumerate(rows):
            topic, members = places[tag]
            stamp = stamps.get(time)
            if stamp is None:
                stamp = stamps[time] = orjson.dumps(iso(time)), b"%d" % (time // 1_000_000)
            values = {**fixed, "value": text, "time": stamp[0], "timestamp": stamp[1], "code": b"%d" % code}
            values["quality"] = writer.quality_name(code)
            if (state := writer.state(tag, batch.value[row])) is not None and not code >= q.BAD:
                values["state"] = state
            payload = rendered(members, values)
            yield Message(topic, payload, sequence, sequence, 1, self._keeps(topic, time), oldest=time)

    def _place(self, table: TagTable, tag: Tag) -> tuple[str, Members]:
        """Give a tag's topic and body."""
        names = self._names(table.device, table.group)
        names |= {"tag": tag.name, "unit": tag.unit, "description": tag.description}
        return topic_of(self._template, names), compiled(self._options.body or _TAG, names, TAG_VALUES)

    def _keeps(self, topic: str, time: int) -> bool:
        """Whether the broker is to retain a message with this time."""
        if not self._options.retain or time < self._retained.get(topic, time):
            return False
        self._retained[topic] = time
        return True

    def _writer(self, table: TagTable) -> _Writer:
        found = self._writers.get(table.fingerprint)
        if found is None:
            found = self._writers[table.fingerprint] = _Writer(table)
        return found


class _Writer:
    """Members of JSON objects for the rows of one table: `,"name":text` of each, put together."""

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._texts = Texts(table)
        self._keys = np.array([b"," + orjson.dumps(name) + b":" for name in table.names], dtype=object)
        self._states = {
            number: {value: orjson.dumps(text) for value, text in tag.states}
            for number, tag in enumerate(table.tags)
            if tag.states
        }
        self._qualities: dict[int, bytes] = {}
        self._quality_names: dict[int, bytes] = {}
        self._places: list[tuple[str, Members]] = []

    def places(self, make: Callable[[Tag], tuple[str, Members]]) -> list[tuple[str, Members]]:
        """Give topic and body of each tag; made once."""
        if not self._places:
            self._places = [make(tag) for tag in self._table.tags]
        return self._places

    def texts(self, batch: Batch) -> list[bytes]:
        """Give the JSON text of each row's value; null where it is Bad."""
        texts = self._texts.values(batch)
        if batch.quality.any():
            for row in np.flatnonzero(q.is_bad(batch.quality)).tolist():
                texts[row] = b"null"
        return texts

    def values(self, batch: Batch) -> bytes:
        return paired(self._keys[batch.tag].tolist(), self.texts(batch))

    def state(self, tag: int, value: Any) -> bytes | None:
        """Give the name of a number that has one."""
        return self._states[tag].get(value) if tag in self._states else None

    def quality_name(self, code: int) -> bytes:
        found = self._quality_names.get(code)
        if found is None:
            found = self._quality_names[code] = orjson.dumps(q.name(code))
        return found

    def states(self, batch: Batch) -> bytes:
        if not self._states:
            return b""
        bad = q.is_bad(batch.quality).tolist()
        named = []
        for row, tag in enumerate(batch.tag.tolist()):
            text = self.state(tag, batch.value[row])
            if text is not None and not bad[row]:
                named.append(self._keys[tag] + text)
        return b"".join(named)

    def qualities(self, batch: Batch) -> bytes:
        rows = np.flatnonzero(batch.quality)
        texts = []
        for code in batch.quality[rows].tolist():
            text = self._qualities.get(code)
            if text is None:
                text = self._qualities[code] = orjson.dumps({"name": q.name(code), "code": code})
            texts.append(text)
        return paired(self._keys[batch.tag[rows]].tolist(), texts)

    def times(self, batch: Batch, newest: int) -> bytes:
        others = np.flatnonzero(batch.time != newest)
        if not len(others):
            return b""
        # a scan has a time per request, not per row
        distinct, which = np.unique(batch.time[others], return_inverse=True)
        texts = np.array([orjson.dumps(iso(time)) for time in distinct.tolist()], dtype=object)
        return paired(self._keys[batch.tag[others]].tolist(), texts[which].tolist())


def iso(time: int) -> str:
    """Give a time (ns) as ISO 8601 in UTC, with as many digits as it needs, three at least."""
    unit = "ms" if time % 10**6 == 0 else "us" if time % 10**3 == 0 else "ns"
    return f"{np.datetime64(time, 'ns').astype(f'datetime64[{unit}]')}Z"


def _scans(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Put records of one scan together: the tables of one group that follow each other with the same newest time."""
    scan: list[Record] = []
    for record in records:
        if scan and not _of_one_scan(scan, record):
            yield scan
            scan = []
        scan.append(record)
    if scan:
        yield scan


def _of_one_scan(scan: list[Record], record: Record) -> bool:
    one, other = scan[0].content, record.content
    if isinstance(one, Gap) or isinstance(other, Gap) or one.backfill != other.backfill:
        return False
    same_group = (one.table.device, one.table.group) == (other.table.device, other.table.group)
    kinds = [before.content.table.kind for before in scan if isinstance(before.content, Batch)]
    return same_group and other.table.kind not in kinds and one.time.max() == other.time.max()


def _layers(batch: Batch) -> list[Batch]:
    """Cut a batch so that each tag occurs once in a piece; the newest readings are in the first."""
    if batch.distinct:
        return [batch]
    layer = _occurrence_from_the_end(batch.tag)
    return [batch.take(layer == number) for number in range(int(layer.max()) + 1)]


def _occurrence_from_the_end(tags: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Give for each row how many rows with the same tag follow it."""
    order = np.argsort(tags, kind="stable")
    ordered = tags[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    later = np.empty(len(tags), dtype=np.int64)
    later[order] = ends - 1 - np.arange(len(tags))
    return later


def _halves(parts: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    if len(parts) > 1:
        half = len(parts) // 2
        return list(parts[:half]), list(parts[half:])
    rows: NDArray[Any] = np.arange(len(parts[0]))
    half = len(rows) // 2
    return [parts[0].take(rows[:half])], [parts[0].take(rows[half:])]
