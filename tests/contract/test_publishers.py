"""Several publishers of one daemon at once, with a real broker: each has its own tags, names and cursor."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import orjson

from bench.sparkplug_objects import Payload
from gateway import app
from gateway.config import load_site
from gateway.decode import decode_columns, decode_table
from gateway.model import Batch, TagTable
from gateway.mqtt import Arrived
from tests.contract.test_formats_app import listening, until
from tests.servers import Mosquitto, mosquitto

__all__ = ["mosquitto"]

SITE = """
gateway: gw1
data: ./data
links:
  made-up:
    driver: replay
    url: replay:generated
    devices:
      press-1:
        interval: 100 ms
        description: the press in hall 3
        tags:
          temperature: {{address: sine float32, unit: °C, description: of the secret oil}}
          secret_recipe: walk float32
          energy: {{address: counter uint64, unit: kW.h}}
      secret-boiler:
        interval: 100 ms
        tags:
          pressure: sine float32
publish:
  own: {{url: "{url}", unheard: deliver}}
  columns: {{url: "{url}", topic: "partner/columns", unheard: deliver, tags: {tags}}}
  json: {{url: "{url}", format: json, topic: "partner/json/{{device}}/{{group}}", tags: {tags}}}
  sparkplug: {{url: "{url}", format: sparkplug, tags: {tags}}}
  opcua: {{url: "{url}", format: opcua-json, tags: {tags}}}
  thingsboard: {{url: "{url}", format: thingsboard, tags: {tags}}}
metrics: {{listen: null}}
"""
TAGS = '{include: [press-1, "*/energy"], exclude: ["*/secret*"], hide: [address, description], as: {press-1: m7}}'


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(app.run(load_site(path), stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


async def test_a_partner_learns_of_its_tags_and_of_nothing_else_in_any_format(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Names of other tags, devices and addresses are the plant's own business."""
    heard: defaultdict[str, list[Arrived]] = defaultdict(list)
    (tmp_path / "site.yaml").write_text(SITE.format(url=mosquitto.url, tags=TAGS))

    def take(message: Arrived) -> None:
        for word, whose in (("plantbridge/", "own"), ("partner/columns", "columns"), ("partner/json", "json"),
                            ("spBv1.0/", "sparkplug"), ("opcua/", "opcua"), ("v1/", "thingsboard")):  # fmt: skip
            if message.topic.startswith(word):
                heard[whose].append(message)
                return
        raise AssertionError(message.topic)

    async with listening(mosquitto, "#", take), running(tmp_path / "site.yaml"):
        await until(lambda: len(heard) == 6 and all(len(messages) > 8 for messages in heard.values()))
    everything = b"".join(m.topic.encode() + m.payload for m in heard.pop("own"))
    assert b"secret_recipe" in everything
    assert b"secret-boiler" in everything
    tables: dict[int, TagTable] = {}
    names = set()
    for whose, messages in heard.items():
        text = b"\n".join(m.topic.encode() + b" " + m.payload for m in messages)
        for word in (b"secret", b"boiler", b"press-1", b"hall 3", b"sine", b"counter"):
            assert word not in text, (whose, word)
        assert whose == "columns" or b"m7" in text, whose
        for message in messages:
            if "/tables/" in message.topic:
                tables[int(message.topic.rpartition("/")[2])] = decode_table(message.payload)
    for message in heard["columns"]:
        if message.topic == "partner/columns/columns":
            for batch in decode_columns(message.payload, lambda _g, _j, number: tables.get(number)).contents:
                assert isinstance(batch, Batch)
                assert batch.tag.tolist() == [0]
                names |= {f"{batch.table.device}/{name}" for name in batch.table.names}
    assert names == {"m7/temperature", "m7/energy"}
    births = [Payload.FromString(m.payload) for m in heard["sparkplug"] if "/DBIRTH/" in m.topic]
    assert {metric.name for birth in births for metric in birth.metrics} == {"temperature", "energy"}
    bodies = [orjson.loads(m.payload) for m in heard["json"]]
    assert {name for body in bodies for name in body.get("values", ())} == {"temperature", "energy"}
