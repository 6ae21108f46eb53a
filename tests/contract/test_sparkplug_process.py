"""The whole daemon as a Sparkplug edge node between two brokers, with a primary host that moves between them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import orjson

from bench.sparkplug_objects import Payload
from gateway.journal import survey
from gateway.mqtt import Arrived, Connection
from gateway.options import MqttOptions
from tests.fakes.sparkplug_host import proves
from tests.in_process import until
from tests.servers import Mosquitto

SITE = """
gateway: gw1
data: ./data
links:
  made-up: {{driver: replay, url: "replay:generated", devices: {{oven: {{interval: 100 ms, tags: {{pieces: counter uint64}}}}}}}}
publish:
  scada:
    url: ["{first}", "{second}"]
    format: sparkplug
    retry_first: 20 ms
    retry_longest: 200 ms
    settle: 200 ms
    sparkplug: {{group: P, primary_host: scada}}
metrics: {{listen: null}}
"""  # noqa: E501
STATE = "spBv1.0/STATE/scada"


class Place:
    """The host's ear at one broker. `words`: of the node; `counted`: the values, `late`: those as history."""

    def __init__(self, url: str) -> None:
        self.words: list[str] = []
        self.bdseq: list[int] = []
        self.counted: set[int] = set()
        self.late: set[int] = set()
        self.connection = Connection(MqttOptions(url=url), client_id="host", on_message=self._take)
        self._alias = 0

    async def open(self) -> None:
        await self.connection.open()
        await self.connection.subscribe(["spBv1.0/P/#"], timeout=20)

    async def state(self, stamp: int, *, online: bool) -> None:
        body = orjson.dumps({"online": online, "timestamp": stamp})
        await self.connection.publish(STATE, body, timeout=20, retain=True)

    async def rebirth(self) -> None:
        asked = Payload(timestamp=time.time_ns() // 1_000_000)
        asked.metrics.add(name="Node Control/Rebirth", datatype=11).boolean_value = True
        await self.connection.publish("spBv1.0/P/NCMD/gw1", asked.SerializeToString(), timeout=20)

    def _take(self, message: Arrived) -> None:
        self.connection.acknowledge(message)
        word = message.topic.split("/")[2]
        if word == "NCMD":
            return
        self.words.append(word)
        for metric in Payload.FromString(message.payload).metrics:
            if metric.name == "bdSeq" and word == "NBIRTH":
                self.bdseq.append(metric.long_value)
            if metric.name == "pieces":
                self._alias = metric.alias
            if word in ("DBIRTH", "DDATA") and metric.alias == self._alias and not metric.is_null:
                self.counted.add(metric.long_value)
                if metric.is_historical:
                    self.late.add(metric.long_value)


@proves(
    "operational-behavior-primary-application-state-with-multiple-servers-walk",
    "operational-behavior-edge-node-termination-host-offline",
    "operational-behavior-data-commands-rebirth-action-1", "operational-behavior-data-commands-rebirth-action-2",
)  # fmt: skip
async def test_the_daemon_goes_to_the_broker_that_has_the_host_and_sends_what_was_read_between_as_history(
    tmp_path: Path,
) -> None:
    with Mosquitto(tmp_path / "1") as one, Mosquitto(tmp_path / "2") as two:
        (tmp_path / "site.yaml").write_text(SITE.format(first=one.url, second=two.url))
        first, second = Place(one.url), Place(two.url)
        for place, online in ((first, False), (second, True)):
            await place.open()
            await place.state(1, online=online)
        command = [sys.executable, "-m", "gateway", "run", str(tmp_path / "site.yaml")]
        daemon = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await until(lambda: second.words.count("DDATA") > 3, "no data where the host is")
            assert first.words == []  # seen, and left without a birth
            assert second.words[:2] == ["NBIRTH", "DBIRTH"]

            await second.rebirth()
            await until(lambda: second.words.count("DBIRTH") == 2, "no rebirth")
            assert second.bdseq[0] == second.bdseq[1]
            assert "NDEATH" not in second.words

            await second.state(2, online=False)
            await until(lambda: second.words[-1] == "NDEATH", "no death of the session that the host left")
            newest, visits = max(second.counted), one.log.count("as plantbridge-gw1-scada")
            await until(lambda: one.log.count("as plantbridge-gw1-scada") > visits + 1, "it does not look around")
            assert first.words == []
            await first.state(3, online=True)
            await until(lambda: first.words.count("DDATA") > 3, "no data where the host is now")
            assert first.words[:2] == ["NBIRTH", "DBIRTH"]
            await until(lambda: max(first.late, default=0) > newest, "what was read while no host was there is missing")
            read = survey(tmp_path / "data" / "journal").appended  # each has a value of its own
            await until(lambda read=read: len(first.counted | second.counted) >= read, "readings are missing")
            assert second.words[-1] == "NDEATH"
            assert first.bdseq[0] != second.bdseq[0]

            await second.state(4, online=True)
            births, before = second.words.count("NBIRTH"), len(second.late)
            one.stop()
            await until(lambda: second.words.count("NBIRTH") > births, "no birth where a broker is left")
            await until(lambda: len(second.late) > before and second.words[-1] == "DDATA", "no backlog")
            read = survey(tmp_path / "data" / "journal").appended  # each has a value of its own
            await until(lambda read=read: len(first.counted | second.counted) >= read, "readings are missing")
        finally:
            daemon.terminate()
            await daemon.wait()
        await until(lambda: second.words[-1] == "NDEATH", "no death in order")
        for place in (first, second):
            with contextlib.suppress(TimeoutError):
                await place.connection.close()
