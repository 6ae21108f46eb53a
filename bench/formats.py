"""The further northbound formats at 10,000 tags a scan: ns of CPU a reading for encoding, beside the plain way.

Sparkplug's plain way is an object per metric in Google's protobuf library; that of the JSON formats is json.dumps of
dicts. The goals of issue 5 (sparkplug 500 ns, json 700 ns) are for the whole way from journal record to the
acknowledgement, so encoding must stay well below.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.pipeline import SECOND, cpu
from gateway import codec
from gateway.contracts import Record
from gateway.dialects.dialogue import Dialogue, Forgetful
from gateway.dialects.thingsboard import Thingsboard
from gateway.encoders.cloud import Cloud
from gateway.encoders.json import DEFAULT_TOPIC, Json
from gateway.encoders.opcua_json import OpcuaJson
from gateway.encoders.sparkplug import EdgeNode
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.options import OpcuaJsonOptions, SparkplugOptions, ThingsboardOptions

TAGS = 10_000
START = 1_735_689_600 * SECOND
_MIXED = ("float32", "uint16", "float64", "int32")


def _table(types: tuple[str, ...]) -> TagTable:
    tags = tuple(Tag(f"tag{number}", "x", type=types[number % len(types)]) for number in range(TAGS))
    return TagTable("press-1", "default", Kind.FLOAT, tags)


def _scans(table: TagTable, doubtful: float = 0.0) -> list[Batch]:
    generator = np.random.default_rng(1)
    whole = np.array([tag.type in ("uint16", "int32") for tag in table.tags])
    scans = []
    for turn in range(8):
        values = generator.normal(200.0, 20.0, TAGS).astype(np.float32).astype(np.float64)
        batch = Batch.full(table, np.where(whole, values.round(), values), START + turn * SECOND)
        batch.time = batch.time + np.repeat(np.arange(TAGS // 100), 100) * 1_000_000  # 100 requests, a ms each
        batch.quality[generator.random(TAGS) < doubtful] = 0x80000000
        scans.append(batch)
    return scans


def _encode(encode: Callable[[list[Record]], object], scans: list[Batch]) -> float:
    turns = itertools.count(1)

    def work() -> None:
        turn = next(turns)
        encode([Record(turn, scans[turn % len(scans)])])

    return cpu(work) / TAGS * 1e9


def _begun(dialogue: Dialogue) -> Callable[[list[Record]], object]:
    dialogue.will()
    dialogue.begin()

    def encode(records: list[Record]) -> object:
        dialogue.prepare(records)
        return dialogue.encode(records)

    return encode


def _node(table: TagTable) -> Callable[[list[Record]], object]:
    return _begun(EdgeNode(SparkplugOptions(), "bench", (table,), Forgetful()))


def _objects(scans: list[Batch]) -> float:
    from bench import sparkplug_objects  # protobuf is there for tests and benches only
    from gateway.encoders.sparkplug_payload import datatype

    types = [datatype(tag) for tag in scans[0].table.tags]
    aliases = list(range(1, TAGS + 1))
    return _encode(lambda records: sparkplug_objects.encode(records[0].content, aliases, types, 1, 2), scans)


def _dicts(scans: list[Batch]) -> float:
    names = scans[0].table.names

    def encode(records: list[Record]) -> object:
        batch: Any = records[0].content
        entries: dict[int, dict[str, float]] = {}
        for tag, value, time in zip(batch.tag.tolist(), batch.value.tolist(), batch.time.tolist(), strict=True):
            entries.setdefault(time // 1_000_000, {})[names[tag]] = value
        return json.dumps({"press-1": [{"ts": ts, "values": values} for ts, values in entries.items()]})

    return _encode(encode, scans)


def _unpack(scans: list[Batch]) -> float:
    packed, table = [codec.pack(scan, 1) for scan in scans], scans[0].table
    turns = itertools.count()
    return cpu(lambda: codec.unpack(packed[next(turns) % len(packed)], lambda _: table)) / TAGS * 1e9


def run() -> list[dict[str, Any]]:
    floats, mixed = _table(("float32",)), _table(_MIXED)
    plain, types, doubts = _scans(floats), _scans(mixed), _scans(mixed, 0.01)
    options = OpcuaJsonOptions()
    sparkplug = _encode(_node(mixed), types)
    objects = _objects(types)
    dicts = _dicts(types)
    thingsboard = _encode(_begun(Cloud(Thingsboard(ThingsboardOptions(token="t"), "bench"))), types)
    opcua = _encode(_begun(OpcuaJson(options, "bench", (mixed,), Forgetful())), types)
    flat = _encode(Json("bench", DEFAULT_TOPIC, 256_000).encode, types)
    rows: list[tuple[str, float, str, str]] = [
        ("unpack a journal record", _unpack(types), "ns/reading", ""),
        ("sparkplug, float32", _encode(_node(floats), plain), "ns/reading", "500"),
        ("sparkplug, mixed types", sparkplug, "ns/reading", "500"),
        ("sparkplug, mixed types, 1 % Bad", _encode(_node(mixed), doubts), "ns/reading", "500"),
        ("sparkplug with protobuf objects", objects, "ns/reading", ""),
        ("protobuf objects : columns", objects / sparkplug, "x", ""),
        ("json", flat, "ns/reading", "700"),
        ("thingsboard", thingsboard, "ns/reading", "700"),
        ("opcua-json", opcua, "ns/reading", "700"),
        ("json.dumps of dicts", dicts, "ns/reading", ""),
        ("json.dumps of dicts : thingsboard", dicts / thingsboard, "x", ""),
    ]
    return [{"name": name, "value": value, "unit": unit, "goal": goal} for name, value, unit, goal in rows]
