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

The topic template knows {gateway}, {device} and {group}; what a topic cannot hold becomes "_".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import add
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway import quality as q
from gateway.contracts import Record
from gateway.encoders.texts import Texts
from gateway.model import Batch, Gap, Message, TagTable

DEFAULT_TOPIC: Final = "plantbridge/{gateway}/json/{device}/{group}"
_PLACEHOLDERS: Final = ("{gateway}", "{device}", "{group}")


def check_topic(template: str) -> None:
    """Raise ValueError, with a sentence for the integrator, where this is no topic template."""
    unknown = [found for found in re.findall(r"\{[^{}]*\}", template) if found not in _PLACEHOLDERS]
    if unknown:
        raise ValueError(f"{unknown[0]} is not known in a topic: {', '.join(_PLACEHOLDERS)} are")
    rest = re.sub(r"\{(gateway|device|group)\}", "", template)
    if not template or any(wrong in rest for wrong in "{}+#\0"):
        raise ValueError(f"{template!r} is not a topic that can be published to: no braces alone, no + and no #")


class Json:
    """Encodes journal records as one message per device and scan."""

    def __init__(self, gateway: str, template: str, max_message: int) -> None:
        """Raises ValueError for a template that is none."""
        check_topic(template)
        self.max_message = max_message
        self._gateway = gateway
        self._template = template
        self._writers: dict[
            int, tuple[TagTable, _Writer]
        ] = {}  # by identity; the table is kept so that it stays its own

    def reset(self) -> None:
        """Nothing: every message speaks for itself."""

    def encode(self, records: Sequence[Record]) -> list[Message]:
        """Give the messages, in the order of the records."""
        messages: list[Message] = []
        for scan in _scans(records):
            content = scan[0].content
            if isinstance(content, Gap):
                messages.append(self._gap(scan[0].sequence, content))
            else:
                messages += self._scan(scan)
        before = records[0].sequence - 1 if records else 0
        messages = [replace(message, covers=before) for message in messages]
        if messages:
            messages[-1] = replace(messages[-1], covers=records[-1].sequence)
        return messages

    def _topic(self, device: str, group: str) -> str:
        topic = self._template
        for name, text in (("{gateway}", self._gateway), ("{device}", device), ("{group}", group)):
            topic = topic.replace(name, re.sub(r"[+#\0]", "_", text or "all"))
        return topic

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
        return Message(self._topic(gap.device, gap.group), orjson.dumps(body), sequence, sequence, 0, 0)

    def _scan(self, scan: Sequence[Record]) -> Iterator[Message]:
        batches = [record.content for record in scan if isinstance(record.content, Batch)]
        table = batches[0].table
        topic = self._topic(table.device, table.group)
        layers = [_layers(batch) for batch in batches]
        for layer in range(max(map(len, layers)) - 1, -1, -1):
            parts = [of[layer] for of in layers if layer < len(of)]
            yield from self._message(topic, scan[0].sequence, scan[-1].sequence, parts)

    def _message(self, topic: str, first: int, last: int, parts: Sequence[Batch]) -> Iterator[Message]:
        payload = self._payload(last, parts)
        rows = sum(map(len, parts))
        if len(payload) > self.max_message and rows > 1:
            for few in _halves(parts):
                yield from self._message(topic, first, last, few)
            return
        oldest = min(int(batch.time.min()) for batch in parts)
        yield Message(topic, payload, first, last, 0, rows, oldest=oldest)

    def _payload(self, sequence: int, parts: Sequence[Batch]) -> bytes:
        newest = max(int(batch.time.max()) for batch in parts)
        values: list[bytes] = []
        states: list[bytes] = []
        qualities: list[bytes] = []
        times: list[bytes] = []
        for batch in parts:
            writer = self._writer(batch.table)
            values += writer.values(batch)
            states += writer.states(batch)
            qualities += writer.qualities(batch)
            times += writer.times(batch, newest)
        table = parts[0].table
        head = {
            "gateway": self._gateway,
            "device": table.device,
            "group": table.group,
            "sequence": sequence,
            "time": iso(newest),
            "timestamp": newest // 1_000_000,
        }
        body = [orjson.dumps(head)[:-1], b'"values":{' + b",".join(values) + b"}"]
        for name, members in ((b"states", states), (b"quality", qualities), (b"times", times)):
            if members:
                body.append(b'"' + name + b'":{' + b",".join(members) + b"}")
        if any(batch.backfill for batch in parts):
            body.append(b'"backfill":true')
        return b",".join(body) + b"}"

    def _writer(self, table: TagTable) -> _Writer:
        found = self._writers.get(id(table))
        if found is None:
            found = self._writers[id(table)] = table, _Writer(table)
        return found[1]


class _Writer:
    """Members of JSON objects for the rows of one table: `"name":text`."""

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._texts = Texts(table)
        self._keys = [orjson.dumps(name) + b":" for name in table.names]
        self._states = {
            number: {value: orjson.dumps(text) for value, text in tag.states}
            for number, tag in enumerate(table.tags)
            if tag.states
        }
        self._qualities: dict[int, bytes] = {}

    def values(self, batch: Batch) -> Iterable[bytes]:
        texts = self._texts.values(batch)
        if batch.quality.any():
            for row in np.flatnonzero(q.is_bad(batch.quality)).tolist():
                texts[row] = b"null"
        return map(add, self._keys_of(batch), texts)

    def states(self, batch: Batch) -> Iterator[bytes]:
        if not self._states:
            return
        bad = q.is_bad(batch.quality).tolist()
        for row, tag in enumerate(batch.tag.tolist()):
            text = self._states.get(tag, {}).get(batch.value[row])
            if text is not None and not bad[row]:
                yield self._keys[tag] + text

    def qualities(self, batch: Batch) -> Iterator[bytes]:
        for row in np.flatnonzero(batch.quality).tolist():
            code = int(batch.quality[row])
            text = self._qualities.get(code)
            if text is None:
                text = self._qualities[code] = orjson.dumps({"name": q.name(code), "code": code})
            yield self._keys[int(batch.tag[row])] + text

    def times(self, batch: Batch, newest: int) -> Iterator[bytes]:
        others = np.flatnonzero(batch.time != newest)
        distinct, which = np.unique(
            batch.time[others], return_inverse=True
        )  # a scan has a time per request, not per row
        texts = [orjson.dumps(iso(time)) for time in distinct.tolist()]
        for tag, text in zip(batch.tag[others].tolist(), which.tolist(), strict=True):
            yield self._keys[tag] + texts[text]

    def _keys_of(self, batch: Batch) -> Iterable[bytes]:
        if len(batch) == len(self._keys) and batch.tag is self._table.every:
            return self._keys
        return map(self._keys.__getitem__, batch.tag.tolist())


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
    tags = batch.tag
    if batch.tag is batch.table.every or len(np.unique(tags)) == len(tags):
        return [batch]
    layer = _occurrence_from_the_end(tags)
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
