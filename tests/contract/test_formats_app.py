"""The daemon, from a site file to a real broker, with formats that hold a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.sparkplug_objects import Payload
from gateway.config import load_site
from gateway.dialects import Will
from gateway.errors import ConfigError
from gateway.model import Message
from gateway.mqtt import Arrived
from tests.fakes.opcua_reader import Reader
from tests.fakes.sparkplug_host import Host
from tests.in_process import daemon, listening, until
from tests.servers import Mosquitto, mosquitto

__all__ = ["mosquitto"]

SITE = """
gateway: gw1
data: ./data
location: {{enterprise: Acme, area: 压机}}
links:
  made-up:
    driver: replay
    url: replay:generated
    devices:
      {device}:
        interval: 100 ms
        location: {{line: L1}}
        tags:
          temperature: {{address: sine float32, unit: °C}}
          pieces: counter uint64
publish:
  scada: {{url: "{url}", format: {format}, retry_first: 20 ms, {more}}}
metrics: {{listen: null}}
"""


@contextlib.asynccontextmanager
async def running(directory: Path, url: str, form: str, more: str = "", device: str = "oven") -> AsyncIterator[None]:
    path = directory / "site.yaml"
    path.write_text(SITE.format(url=url, format=form, more=more, device=device))
    async with daemon(load_site(path)):
        yield


def as_message(message: Arrived) -> Message:
    return Message(message.topic, message.payload, 0, 0, 0, retain=message.retained)


async def test_a_site_file_makes_an_edge_node_that_goes_on_counting(mosquitto: Mosquitto, tmp_path: Path) -> None:
    hosts: list[Host] = []

    def take(message: Arrived) -> None:
        if "/NBIRTH/" in message.topic:
            metrics = Payload.FromString(message.payload).metrics
            number = next(metric.long_value for metric in metrics if metric.name == "bdSeq")
            death = Payload(timestamp=1)
            death.metrics.add(name="bdSeq", datatype=4).long_value = number
            hosts.append(Host("Plant1", "gw1", Will("spBv1.0/Plant1/NDEATH/gw1", death.SerializeToString())))
        hosts[-1].take([as_message(message)])

    async with listening(mosquitto, "spBv1.0/#", take):
        for sessions in (1, 2):
            async with running(tmp_path, mosquitto.url, "sparkplug", "sparkplug: {group: Plant1}"):
                await until(lambda wanted=sessions: len(hosts) == wanted and "DDATA" in hosts[-1].words)  # type: ignore[misc]
                await until(lambda: hosts[-1].devices["oven"]["pieces"].value is not None)
            await until(lambda: not hosts[-1].online)
    assert [host.broken for host in hosts] == [[], []]
    assert [host.bdseq for host in hosts] == [0, 1]
    assert hosts[0].devices["oven"]["temperature"].properties["engUnit"] == "°C"
    # what was left unsent at the end, if anything, came as history
    assert hosts[1].devices["oven"]["temperature"].value is not None


async def test_a_killed_daemon_dies_by_its_will_and_is_born_with_the_next_bdseq_and_its_backlog(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """The whole process, killed as by a power cut: nothing that was committed is lost, and hosts know of the death."""
    topics: list[tuple[str, int]] = []
    counted: list[int] = []
    names: dict[int, str] = {}

    def take(message: Arrived) -> None:
        word = message.topic.split("/")[2]
        for metric in Payload.FromString(message.payload).metrics:
            if metric.name == "bdSeq":
                topics.append((word, metric.long_value))
            if word == "DBIRTH":
                names[metric.alias] = metric.name
            if names.get(metric.alias) == "pieces" and word in ("DBIRTH", "DDATA") and not metric.is_null:
                counted.append(metric.long_value)

    path = tmp_path / "site.yaml"
    path.write_text(SITE.format(url=mosquitto.url, format="sparkplug", more="sparkplug: {group: P}", device="oven"))
    command = [sys.executable, "-m", "gateway", "run", str(path)]
    async with listening(mosquitto, "spBv1.0/#", take):
        for sessions in (1, 2):
            daemon = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            try:
                before = len(counted)
                await until(lambda wanted=before: len(counted) > wanted + 5)  # type: ignore[misc]
            finally:
                daemon.kill()
                await daemon.wait()
            await until(lambda wanted=sessions: len(topics) == 2 * wanted)  # type: ignore[misc]
    assert topics == [("NBIRTH", 0), ("NDEATH", 0), ("NBIRTH", 1), ("NDEATH", 1)]
    found = sorted(set(counted))
    holes = [later - earlier for earlier, later in itertools.pairwise(found) if later != earlier + 1]
    assert len(holes) <= 1  # the time between the two lives


async def test_a_site_file_makes_an_opc_ua_publisher(mosquitto: Mosquitto, tmp_path: Path) -> None:
    reader = Reader("opcua", "gw1", "data-value", "compact")
    said: list[Arrived] = []
    async with listening(mosquitto, "opcua/#", said.append):
        async with running(tmp_path, mosquitto.url, "opcua-json", "opcua_json: {encoding: compact}"):
            await until(lambda: sum("/data/" in message.topic for message in said) > 3)
        await until(lambda: b'"Status":0' in said[-1].payload)
    for message in said:  # to one who is subscribed already, retained messages come without the flag
        retained = "/data/" not in message.topic
        reader.take([Message(message.topic, message.payload, 0, 0, 0, retain=retained)])
    assert reader.values["oven", "default", "temperature"]


async def test_a_site_file_makes_a_unified_namespace_of_retained_last_values(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Whoever comes later finds the newest value of each tag under the path of its place."""
    more = """topic: "{enterprise}/{area}/{line}/{device}/{tag}",
      json: {per: tag, retain: true, body: {v: "{value}", u: "{unit}", t: "{timestamp}", where: "{line}: {device}"}}"""
    live: list[Arrived] = []
    async with listening(mosquitto, "Acme/#", live.append):
        async with running(tmp_path, mosquitto.url, "json", more):
            await until(lambda: len(live) > 8)
        newest = {message.topic: json.loads(message.payload) for message in live}
        assert set(newest) == {"Acme/压机/L1/oven/temperature", "Acme/压机/L1/oven/pieces"}
        assert {(body.get("u"), body["where"]) for body in newest.values()} == {("°C", "L1: oven"), (None, "L1: oven")}
    later: list[Arrived] = []
    async with listening(mosquitto, "Acme/#", later.append):
        await until(lambda: len(later) == 2)
    assert all(message.retained for message in later)
    assert {message.topic: json.loads(message.payload) for message in later} == newest


async def test_a_site_file_makes_windows(mosquitto: Mosquitto, tmp_path: Path) -> None:
    arrived: list[Arrived] = []
    async with listening(mosquitto, "plantbridge/gw1/json/#", arrived.append):
        async with running(tmp_path, mosquitto.url, "json", "json: {per: window, window: 1 s}"):
            await until(lambda: len(arrived) > 2)
    windows = [json.loads(message.payload) for message in arrived]
    assert max(map(len, windows)) >= 5
    pieces = [scan["values"]["pieces"] for window in windows for scan in window if "values" in scan]
    assert sorted(set(pieces)) == list(range(min(pieces), max(pieces) + 1))


@pytest.mark.parametrize(
    ("form", "more", "device", "said"),
    [
        ("huawei", "", "oven", "format huawei needs the key huawei"),
        ("json", "sparkplug: {group: x}", "oven", "sparkplug has the settings of another format than json"),
        ("sparkplug", "sparkplug: {group: a/b}", "oven", "must not contain /"),
        ("tencent", "tencent: {product: p, name: n, secret: '?'}", "oven", "not base64"),
    ],
)
async def test_what_a_format_cannot_be_is_said_before_anything_runs(
    tmp_path: Path, form: str, more: str, device: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        async with running(tmp_path, "mqtt://127.0.0.1:1", form, more, device):
            raise AssertionError
