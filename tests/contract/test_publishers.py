"""Several publishers of one daemon at once, with a real broker: each has its own tags, names and cursor."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from bench.sparkplug_objects import Payload
from gateway import meter, publisher
from gateway.config import load_site
from gateway.decode import decode_columns, decode_table
from gateway.model import Batch, Kind, TagTable
from gateway.mqtt import Arrived
from tests.contract.test_publish_flow import TABLES, cloud, edge, options, until
from tests.in_process import daemon, listening
from tests.servers import Mosquitto, mosquitto
from tests.unit.test_meter import Kept

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

    async with listening(mosquitto, "#", take), daemon(load_site(tmp_path / "site.yaml")):
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


async def test_a_publisher_that_was_away_for_an_hour_gets_all_while_the_other_stays_live(tmp_path: Path) -> None:
    """An hour of scans at 1 s in simulated time: the group's broker is down, the plant's own is not."""
    with Mosquitto(tmp_path / "own") as own, Mosquitto(tmp_path / "group") as group:
        async with cloud(own) as near, edge(tmp_path, "own", "group") as here:
            group.stop()
            here.publish("own", options(own))
            here.publish("group", options(group, backlog="newest"))
            for _ in range(60):  # a minute each
                here.scan(60)
                await until(lambda: len(near.readings) == len(here.expected))
            hour = len(here.expected)
            assert hour == 3600 * 48
            assert not here.up("group")
            assert here.journal.pending("group") == [(1, 3 * 3600)]
            assert near.late == 0
            group.start()
            async with cloud(group) as far:
                while len(far.readings) < hour:  # the backlog goes out, and what is new does not wait, at either
                    here.scan()
                    now = max(at for _, _, at in here.expected)
                    key = ("press-1", "float64-0", now)
                    await until(lambda key=key: key in near.readings and key in far.readings)  # type: ignore[misc]
                await here.acknowledged()
                await until(lambda: far.readings.keys() == here.expected.keys() == near.readings.keys())
                assert far.readings == near.readings == here.expected
                assert far.late >= hour - 2 * 48
                assert near.duplicates == 0
                assert near.late == 0


async def test_what_the_meter_counts_is_what_crosses_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between publisher and broker stands a proxy that counts bytes; headers of TCP and IP are beyond it."""
    monkeypatch.setattr(meter, "_HEADERS", 0)
    counted = [0]
    with Mosquitto(tmp_path / "m") as broker:

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    counted[0] += len(data)
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to, back = await asyncio.open_connection("127.0.0.1", broker.port)
            await asyncio.gather(pump(reader, back), pump(to, writer))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        kept = Kept()
        async with edge(tmp_path) as here:
            metered = options(broker, budget="500 MB/day", unheard="deliver").model_copy(
                update={"url": (f"mqtt://127.0.0.1:{port}",)}
            )
            here.publish("cloud", metered, memory=kept)
            for _ in range(40):
                here.scan(3)
                await here.acknowledged()
            await here.stop()
        server.close()
    assert counted[0] > 50_000
    assert counted[0] * 0.99 < kept.state["spent"] < counted[0] * 1.06  # rather too much than too little


async def test_what_is_thinned_arrives_as_a_gap_with_every_reading_accounted_for(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_DECLARE", 0.2)
    noon = datetime.datetime(2026, 11, 22, 12)
    kept = Kept()
    kept.state = {"begin": noon.replace(hour=0).timestamp(), "spent": 450_000_000}
    steady = [
        TagTable(table.device, table.group, table.kind, tuple(replace(tag, deadband=1e6) for tag in table.tags))
        for table in TABLES
        if table.kind is not Kind.TEXT
    ]
    async with cloud(mosquitto) as there, edge(tmp_path) as here:
        metered = options(mosquitto, budget="500 MB/day", widen=2)
        moment = round(noon.timestamp() * 1e9)
        here.publish("cloud", metered, memory=kept, tables=steady, clock=lambda: moment)
        for _ in range(20):
            here.scan()
            await here.journal.flush()
        await here.acknowledged()
        await until(lambda: not here.journal.pending("cloud"))
        assert {gap.reason for gap in there.gaps} == {"thinned"}
        assert {gap.device for gap in there.gaps} == {"press-1", "meter"}
        thinned = sum(gap.readings for gap in there.gaps)
        assert len(there.readings) + thinned == len(here.expected) == 20 * 48
        assert thinned >= 19 * 45 - 45
        assert {key[1] for key in there.readings} >= {"text-0", "text-1", "text-2"}
        assert sum(key[1].startswith("text") for key in there.readings) == 60
