"""The further northbound formats at 10,000 tags a scan: ns of CPU a reading for encoding, beside the plain way.

Sparkplug's plain way is an object per metric in Google's protobuf library; that of the JSON formats is json.dumps of
dicts; that of columns is pyarrow's record batch from lists, and, for the whole way to the broker, a message of
json.dumps for each reading through paho as it comes. The goals of issue 5 (columns 200 ns, sparkplug 500 ns, json
700 ns) are for the whole way from journal record to the acknowledgement, so encoding must stay well below.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt

from bench.pipeline import SECOND, cpu
from gateway import codec
from gateway.contracts import Encoder, Record
from gateway.conversation import Conversation
from gateway.dialects.dialogue import Dialogue
from gateway.dialects.thingsboard import Thingsboard
from gateway.encoders import encoder_for
from gateway.encoders.cloud import Cloud
from gateway.encoders.columns import Columns
from gateway.encoders.json import DEFAULT_TOPIC, Json
from gateway.encoders.opcua_json import OpcuaJson
from gateway.encoders.sparkplug import EdgeNode
from gateway.health import Health
from gateway.journal import Journal
from gateway.memory import Forgetful
from gateway.metrics import Metrics
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.options import JournalOptions, OpcuaJsonOptions, PublisherOptions, SparkplugOptions, ThingsboardOptions
from gateway.publisher import Publisher
from gateway.sinks import sink_for
from gateway.sinks.dialogue import DialogueSink
from tests.servers import Mosquitto

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
        for tag, value, when in zip(batch.tag.tolist(), batch.value.tolist(), batch.time.tolist(), strict=True):
            entries.setdefault(when // 1_000_000, {})[names[tag]] = value
        return json.dumps({"press-1": [{"ts": ts, "values": values} for ts, values in entries.items()]})

    return _encode(encode, scans)


def _columns(scans: list[Batch]) -> float:
    columns = Columns("bench", "j", "p", 10_000_000)
    columns.know(1, scans[0].table)
    return _encode(columns.encode, scans)


def _record_batches(scans: list[Batch]) -> float:
    """Encode the same columns as one would by pyarrow's handbook, an object a reading."""
    import pyarrow as pa  # it is there for tests and benches only
    import zstandard

    zstd = zstandard.ZstdCompressor()
    instant = pa.timestamp("ns", "UTC")

    def encode(records: list[Record]) -> object:
        batch: Any = records[0].content
        rows = [
            {"tag": tag, "value": value, "quality": quality, "time": time}
            for tag, value, quality, time in zip(
                batch.tag.tolist(), batch.value.tolist(), batch.quality.tolist(), batch.time.tolist(), strict=True
            )
        ]
        types = {"tag": pa.uint32(), "value": pa.float64(), "quality": pa.uint32(), "time": instant}
        table = pa.Table.from_pylist(rows, pa.schema(types))
        out = io.BytesIO()
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
        return zstd.compress(out.getvalue())

    return _encode(encode, scans)


def _one_by_one(scans: list[Batch], directory: Path) -> float:
    """Give the ns of CPU a reading of a message for each, QoS 1, through paho's own loop."""
    batch, names = scans[0], scans[0].table.names
    with Mosquitto(directory) as broker:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        began = time.process_time()
        rows = zip(batch.tag.tolist(), batch.value.tolist(), batch.quality.tolist(), batch.time.tolist(), strict=True)
        while some := list(
            itertools.islice(rows, 20)
        ):  # paho looks through all that wait at each PUBACK: keep them few
            sent = [
                client.publish(
                    f"bench/press-1/{names[tag]}",
                    json.dumps({"name": names[tag], "value": value, "quality": quality, "time": when}),
                    qos=1,
                )
                for tag, value, quality, when in some
            ]
            for info in sent:
                info.wait_for_publish(60)
        taken = time.process_time() - began
        client.disconnect()
        client.loop_stop()
    return taken / TAGS * 1e9


def _unpack(scans: list[Batch]) -> float:
    packed, table = [codec.pack(scan, 1) for scan in scans], scans[0].table
    turns = itertools.count()
    return cpu(lambda: codec.unpack(packed[next(turns) % len(packed)], lambda _: table)) / TAGS * 1e9


def _publisher(form: str, scans: list[Batch], journal: Journal, url: str, directory: Path) -> tuple[Publisher, Any]:
    """Make a publisher as the daemon does; with its sink."""
    options = PublisherOptions.model_validate({"url": url, "format": form, "settle": "0 s", "unheard": "deliver"})
    encoder: Encoder
    sink: Any
    talk = None
    if form == "sparkplug":
        encoder = node = EdgeNode(SparkplugOptions(), "bench", (scans[0].table,), Forgetful())
        sink = DialogueSink("scada", options, "bench", node)
        talk = Conversation("scada", node, sink, list)
    else:
        encoder, sink = encoder_for(options, "bench", journal.id), sink_for("scada", options, "bench")
    dead, metrics = directory / "dead", Metrics()
    made = Publisher("scada", options, "bench", journal, sink, encoder, metrics, Health(), dead, conversation=talk)
    return made, sink


async def _through_a_broker(form: str, scans: list[Batch], directory: Path) -> float:
    """Give the ns of CPU a reading from journal records to the broker's answer; the broker is another process."""
    table, count = scans[0].table, 100
    journal = await Journal.open(directory, JournalOptions(durability="process"), ["scada"], codec.pack_gap)
    with Mosquitto(directory / "mosquitto") as broker:
        publisher, _ = _publisher(form, scans, journal, broker.url, directory)
        number = journal.define(table.fingerprint, table.definition)
        for scanned in (1, count):  # the first session pays for what is made once
            for turn in range(scanned):
                batch = scans[turn % len(scans)]
                journal.append(codec.pack(batch, number), TAGS, int(batch.time.min()), int(batch.time.max()))
            await journal.flush()
            began, task = time.process_time(), asyncio.create_task(publisher.run())
            while journal.pending("scada"):
                await asyncio.sleep(0.01)
            taken = time.process_time() - began
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await journal.close()
    return taken / count / TAGS * 1e9


async def _lateness(form: str, scans: list[Batch], directory: Path, **settings: Any) -> tuple[float, float]:
    """Give p50 and p99 of ms from a reading's time to its PUBACK, at 10,000 readings a second in 10 scans."""
    table = scans[0].table
    journal = await Journal.open(directory, JournalOptions.model_validate(settings), ["scada"], codec.pack_gap)
    late: list[float] = []
    with Mosquitto(directory / "mosquitto") as broker:
        publisher, sink = _publisher(form, scans, journal, broker.url, directory)
        send = sink.send

        async def timed(message: Any) -> Any:
            answer = await send(message)
            if message.readings:
                late.append((time.time_ns() - message.oldest) / 1e6)
            return answer

        sink.send = timed
        task = asyncio.create_task(publisher.run())
        number = journal.define(table.fingerprint, table.definition)
        await asyncio.sleep(1)
        for turn in range(60):
            part = slice(turn % 10 * TAGS // 10, (turn % 10 + 1) * TAGS // 10)
            batch, now = scans[turn % len(scans)].take(np.arange(TAGS)[part]), time.time_ns()
            batch = Batch(table, batch.tag, batch.value, batch.quality, np.full(len(batch), now))
            journal.append(codec.pack(batch, number), len(batch), now, now)
            await asyncio.sleep(0.1)
        while journal.pending("scada"):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await journal.close()
    return float(np.percentile(late, 50)), float(np.percentile(late, 99))


def _measured(scans: list[Batch]) -> Iterator[tuple[str, float, str, str]]:
    for form, goal in (("columns", "200"), ("sparkplug", "500"), ("json", "700")):
        with tempfile.TemporaryDirectory() as directory:
            ns = asyncio.run(_through_a_broker(form, scans, Path(directory)))
        yield f"{form}, journal record to PUBACK", ns, "ns/reading", goal
        if form == "columns":
            with tempfile.TemporaryDirectory() as directory:
                plain = _one_by_one(scans, Path(directory) / "mosquitto")
            yield "a message of json.dumps a reading, to PUBACK", plain, "ns/reading", ""
            yield "a message a reading : columns, to PUBACK", plain / ns, "x", ""
    for what, settings, goals in (
        ("commit_interval 0", {"commit_interval": "0 s"}, ("50", "")),
        ("default commit_interval", {}, ("", "300")),
    ):
        with tempfile.TemporaryDirectory() as directory:
            p50, p99 = asyncio.run(_lateness("columns", scans, Path(directory), **settings))
        yield f"source to PUBACK, {what}, p50", p50, "ms", goals[0]
        yield f"source to PUBACK, {what}, p99", p99, "ms", goals[1]


def run() -> list[dict[str, Any]]:
    floats, mixed = _table(("float32",)), _table(_MIXED)
    plain, types, doubts = _scans(floats), _scans(mixed), _scans(mixed, 0.01)
    options = OpcuaJsonOptions()
    sparkplug = _encode(_node(mixed), types)
    objects = _objects(types)
    dicts = _dicts(types)
    columns, record_batches = _columns(types), _record_batches(types)
    thingsboard = _encode(_begun(Cloud(Thingsboard(ThingsboardOptions(token="t"), "bench"))), types)
    opcua = _encode(_begun(OpcuaJson(options, "bench", (mixed,), Forgetful())), types)
    flat = _encode(Json("bench", DEFAULT_TOPIC, 256_000).encode, types)
    rows: list[tuple[str, float, str, str]] = [
        ("unpack a journal record", _unpack(types), "ns/reading", ""),
        ("columns", columns, "ns/reading", ""),
        ("columns with pyarrow, from lists", record_batches, "ns/reading", ""),
        ("pyarrow from lists : columns", record_batches / columns, "x", ""),
        ("sparkplug, float32", _encode(_node(floats), plain), "ns/reading", ""),
        ("sparkplug, mixed types", sparkplug, "ns/reading", ""),
        ("sparkplug, mixed types, 1 % Bad", _encode(_node(mixed), doubts), "ns/reading", ""),
        *_measured(types),
        ("sparkplug with protobuf objects", objects, "ns/reading", ""),
        ("protobuf objects : sparkplug", objects / sparkplug, "x", ""),
        ("json", flat, "ns/reading", "700"),
        ("thingsboard", thingsboard, "ns/reading", "700"),
        ("opcua-json", opcua, "ns/reading", "700"),
        ("json.dumps of dicts", dicts, "ns/reading", ""),
        ("json.dumps of dicts : thingsboard", dicts / thingsboard, "x", ""),
        ("json.dumps of dicts : json", dicts / flat, "x", ""),
    ]
    return [{"name": name, "value": value, "unit": unit, "goal": goal} for name, value, unit, goal in rows]
