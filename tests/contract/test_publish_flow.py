"""Journal, publisher, MQTT sink and a real mosquitto under faults: what was committed arrives, exactly."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from gateway import codec, deadletters
from gateway.decode import TableTopic, decode_columns, decode_gaps, decode_table, parse_table_topic
from gateway.encoders import encoder_for
from gateway.errors import SinkUnavailable
from gateway.health import Health
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.model import Batch, Gap, Kind, TagTable
from gateway.mqtt import Arrived, Connection
from gateway.options import JournalOptions, MqttOptions, PublisherOptions
from gateway.publisher import Publisher
from gateway.sinks import sink_for
from simulators.faults import FaultProxy
from tests.fakes.mqtt5 import CONNECT, PUBLISH, packet
from tests.native import T0
from tests.native import table as table_of
from tests.servers import Mosquitto, certificates

TABLES = (table_of(size=40), table_of(Kind.TEXT, size=3), table_of(Kind.UINT, size=5, device="meter"))

Key = tuple[str, str, int]  # device, tag, time


class Cloud:
    """A subscriber that keeps its session over broker restarts, and decodes what it gets."""

    def __init__(self, options: MqttOptions) -> None:
        self.options = options
        self.readings: dict[Key, Any] = {}
        self.duplicates = 0
        self.late = 0
        self.gaps: list[Gap] = []
        self.messages: list[Arrived] = []
        self._tables: dict[tuple[str, int], TagTable] = {}
        self._waiting: list[bytes] = []

    async def run(self, ready: asyncio.Event) -> None:
        while True:
            connection = Connection(
                self.options,
                client_id="cloud-side",
                clean=False,
                session_expiry=3600,
                on_message=lambda message: (self.take(message), connection.acknowledge(message)),  # type: ignore[func-returns-value, arg-type, return-value]  # noqa: B023
            )
            try:
                await connection.open()
                await connection.subscribe(["plantbridge/#"], timeout=20)
                ready.set()
                await connection.lost.wait()
            except SinkUnavailable:
                await asyncio.sleep(0.05)
            finally:
                await connection.close()

    def take(self, message: Arrived) -> None:
        self.messages.append(message)
        topic = parse_table_topic(message.topic)
        if isinstance(topic, TableTopic):
            self._tables[topic.journal, topic.table] = decode_table(message.payload)
        elif message.topic.endswith("/columns"):
            self._waiting.append(message.payload)
        elif message.topic.endswith("/gaps"):
            self.gaps += [gap for gap in decode_gaps(message.payload).contents if isinstance(gap, Gap)]
        waiting, self._waiting = self._waiting, []
        for payload in waiting:
            self._decode(payload)

    def _decode(self, payload: bytes) -> None:
        block = decode_columns(payload, lambda _gateway, journal, number: self._tables.get((journal, number)))
        for batch in block.contents:
            assert isinstance(batch, Batch)
            self.late += len(batch) if batch.backfill else 0
            names = batch.table.names
            for tag, value, at in zip(batch.tag.tolist(), batch.value.tolist(), batch.time.tolist(), strict=True):
                key = (batch.table.device, names[tag], at)
                if key in self.readings:
                    self.duplicates += 1
                    assert self.readings[key] == value
                self.readings[key] = value


class Edge:
    """A journal with publishers, fed by `scan`."""

    def __init__(self, journal: Journal, directory: Path) -> None:
        self.journal = journal
        self.metrics, self.health = Metrics(), Health()
        self.letters = directory / "dead"
        self.expected: dict[Key, Any] = {}
        self.publishers: dict[str, Publisher] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = [journal.define(table.fingerprint, table.definition) for table in TABLES]
        self._scans = 0

    def publish(self, name: str, options: PublisherOptions, **parts: Any) -> None:
        publisher = Publisher(
            name,
            options,
            "demo",
            self.journal,
            sink_for(name, options, "demo"),
            encoder_for(options, "demo", self.journal.id),
            self.metrics,
            self.health,
            self.letters,
            **parts,
        )
        self.publishers[name] = publisher
        self._tasks.append(asyncio.create_task(publisher.run()))

    def scan(self, count: int = 1) -> None:
        for _ in range(count):
            at = T0 + self._scans * 10**9
            self._scans += 1
            for table, number in zip(TABLES, self._numbers, strict=True):
                values: list[Any] = [self._scans * 1000 + tag for tag in range(len(table))]
                if table.kind is Kind.TEXT:
                    values = [f"第 {value} 件" for value in values]
                batch = Batch.full(table, np.array(values, table.kind.dtype), at)
                self.journal.append(codec.pack(batch, number), len(batch), at, at)
                self.expected |= {
                    (table.device, name, at): value for name, value in zip(table.names, values, strict=True)
                }

    def up(self, name: str) -> bool:
        return bool(self.health.report()["publishers"].get(name, {}).get("up"))

    async def acknowledged(self, *names: str) -> None:
        await self.journal.flush()
        await until(lambda: not any(self.journal.pending(name) for name in names or self.publishers))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
        self._tasks = []


async def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def edge(directory: Path, *names: str, **more: Any) -> AsyncIterator[Edge]:
    options = JournalOptions(**{"commit_interval": "5 ms", "durability": "process", **more})
    journal = await Journal.open(directory / "journal", options, names or ["cloud"], codec.pack_gap)
    made = Edge(journal, directory)
    try:
        yield made
    finally:
        await made.stop()
        await journal.close()


@asynccontextmanager
async def cloud(broker: Mosquitto, **more: Any) -> AsyncIterator[Cloud]:
    made = Cloud(MqttOptions(url=broker.url, **more))
    ready = asyncio.Event()
    task = asyncio.create_task(made.run(ready))
    try:
        async with asyncio.timeout(60):
            await ready.wait()
        yield made
    finally:
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError), result


def options(broker: Mosquitto, **more: Any) -> PublisherOptions:
    quick = {"retry_first": "20 ms", "retry_longest": "200 ms", "settle": "0 s"}
    return PublisherOptions(url=broker.url, **{**quick, **more})


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_every_kind_of_reading_and_gaps_arrive_exactly(tmp_path: Path, version: str) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there, edge(tmp_path) as here:
            here.publish("cloud", options(broker, version=version))
            here.scan(20)
            gap = Gap("press-1", "default", 5, 6, "the device was away", 3, 1)
            here.journal.append(codec.pack_gap(gap), 0, 5, 6)
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected) and bool(there.gaps))
            assert there.readings == here.expected
            assert there.gaps == [gap]
            assert there.duplicates == 0
            assert here.journal.totals().delivered == {"cloud": len(here.expected)}


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_nothing_is_lost_while_the_broker_is_away(tmp_path: Path, how: str) -> None:
    with Mosquitto(tmp_path / "m", persistence=True) as broker:
        async with cloud(broker) as there, edge(tmp_path) as here:
            here.publish("cloud", options(broker))
            for _ in range(3):
                here.scan(30)
                await here.acknowledged()
                await until(lambda: there.readings == here.expected)
                here.scan(10)
                getattr(broker, how)()
                here.scan(30)
                await here.journal.flush()
                await until(lambda: not here.up("cloud"))
                here.scan(10)
                broker.start()
                here.scan(10)
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected


async def test_a_silent_broker_with_open_sockets_costs_nothing_but_time(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", persistence=True) as broker:
        async with cloud(broker) as there, edge(tmp_path) as here:
            here.publish("cloud", options(broker, ack_timeout="500 ms", connect_timeout="300 ms"))
            here.scan(5)
            await here.acknowledged()
            broker.pause()
            here.scan(20)
            await here.journal.flush()
            await until(lambda: not here.up("cloud"))
            here.scan(20)
            broker.kill()
            broker.start()
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected


async def test_an_edge_that_is_killed_while_the_broker_is_away_sends_all_after_its_restart(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there:
            async with edge(tmp_path) as here:
                here.publish("cloud", options(broker))
                here.scan(10)
                await here.acknowledged()
                broker.pause()
                here.scan(40)
                await here.journal.flush()
                expected = here.expected
                for suffix in ("", "-wal"):  # what a power cut leaves
                    content = (tmp_path / "journal" / f"journal.sqlite{suffix}").read_bytes()
                    (tmp_path / "again" / "journal").mkdir(parents=True, exist_ok=True)
                    (tmp_path / "again" / "journal" / f"journal.sqlite{suffix}").write_bytes(content)
            broker.resume()
            async with edge(tmp_path / "again") as here:
                here.publish("cloud", options(broker))
                await here.acknowledged()
                await until(lambda: len(there.readings) == len(expected))
                assert there.readings == expected


DATA = (
    "topic write plantbridge/demo/columns\ntopic write plantbridge/demo/tables/#\ntopic write plantbridge/demo/status\n"
)
READER = "user cloud\ntopic read #\n"


async def test_what_is_forbidden_is_kept_and_loud_and_arrives_when_it_is_allowed(tmp_path: Path) -> None:
    """mosquitto ends the session over each refused message: that must neither stop the others nor lose it."""
    with Mosquitto(tmp_path / "m", acl=DATA + READER) as broker:
        async with cloud(broker, username="cloud") as there, edge(tmp_path) as here:
            with capture_logs() as logs:
                here.publish("cloud", options(broker, retry_longest="1 s"))
                here.scan(3)
                gap = Gap("press-1", "default", 5, 6, "why", 3, 1)
                here.journal.append(codec.pack_gap(gap), 0, 5, 6)
                here.scan(7)
                await here.journal.flush()
                await until(lambda: len(there.readings) == len(here.expected))
                await until(lambda: here.journal.pending("cloud") == [(10, 10)])
                (problem,) = here.health.report()["problems"]
                assert "plantbridge/demo/gaps: Not authorized: check the broker's access rules" in problem
                allow(broker, DATA + "topic write plantbridge/demo/gaps\n" + READER)
                await here.acknowledged()
            await until(lambda: there.gaps == [gap])
            await until(lambda: here.health.report()["problems"] == [])
            assert there.readings == here.expected
            assert not [*deadletters.read(here.letters / "cloud")]
            loud = [each for each in logs if each["log_level"] == "error"]
            assert len(loud) == 1, loud


async def test_readings_wait_where_their_definitions_are_forbidden(tmp_path: Path) -> None:
    """Nobody could read them; and the definitions must go first when the rules are mended."""
    some = "topic write plantbridge/demo/columns\ntopic write plantbridge/demo/status\n"
    with Mosquitto(tmp_path / "m", acl=some + READER) as broker:
        async with cloud(broker, username="cloud") as there, edge(tmp_path) as here:
            here.publish("cloud", options(broker, retry_longest="1 s"))
            here.scan(3)
            await until(lambda: "Not authorized" in str(here.health.report()["problems"]))
            assert not there.readings
            allow(broker, DATA + READER)
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected
            assert not [*deadletters.read(here.letters / "cloud")]


def allow(broker: Mosquitto, acl: str) -> None:
    """Change the access rules of a broker that runs."""
    (broker.directory / "acl").write_text(acl)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGHUP)


async def test_wrong_credentials_are_said_and_mended_without_a_restart(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", users={"edge": "right", "cloud": "x"}) as broker:
        async with edge(tmp_path) as here:
            here.publish("cloud", options(broker, username="edge", password="wrong"))
            here.scan(1)
            await until(lambda: "check username" in str(here.health.report()["problems"]))
            assert "wrong'" not in str(here.health.report())


async def test_the_way_over_tls_is_as_good(tmp_path: Path) -> None:
    files = certificates(tmp_path / "pki")
    with Mosquitto(tmp_path / "m", tls=files) as broker:
        tls = {"ca": files.ca}
        async with cloud(broker, tls=tls) as there, edge(tmp_path) as here:
            here.publish("cloud", options(broker, tls=tls))
            here.scan(100)
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected


async def test_two_publishers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "a") as quick, Mosquitto(tmp_path / "b") as slow:
        async with (
            cloud(quick) as at_once,
            cloud(slow) as later,
            edge(tmp_path, "quick", "slow") as here,
        ):
            here.publish("quick", options(quick))
            here.publish("slow", options(slow, ack_timeout="300 ms", connect_timeout="300 ms", window=1))
            here.scan(1)
            await here.acknowledged()
            slow.pause()
            here.scan(50)
            await here.acknowledged("quick")
            await until(lambda: at_once.readings == here.expected)
            assert here.journal.pending("slow")
            slow.resume()
            await here.acknowledged()
            await until(lambda: later.readings == here.expected)
            assert here.journal.totals().delivered["quick"] == len(here.expected)


async def test_a_used_up_quota_is_waited_for_and_nothing_set_aside(tmp_path: Path) -> None:
    """A broker at its limit says so (0x97); the data is as good as ever."""
    sessions = 0

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions
        sessions += 1
        code = b"\x97" if sessions < 4 else b"\x00"
        try:
            while True:
                kind, _, body = await packet(reader)
                if kind == CONNECT:
                    writer.write(b"\x20\x03\x00\x00\x00")
                elif kind == PUBLISH:
                    end = 2 + int.from_bytes(body[:2], "big")
                    said = b"\x00" if body[2:end].endswith(b"/status") else code
                    writer.write(b"\x40\x03" + body[end : end + 2] + said)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    async with server, edge(tmp_path) as here:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        here.publish("cloud", PublisherOptions(url=url, retry_first="5 ms", retry_longest="20 ms", settle="0 s"))
        here.scan(3)
        await here.acknowledged()
        assert sessions >= 4
        assert not here.letters.exists()
        await here.stop()


async def test_a_large_backlog_comes_late_and_marked_while_new_data_is_fresh(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there, edge(tmp_path) as here:
            here.scan(5000)
            await here.journal.flush()
            backlog = len(here.expected)
            here.publish("cloud", options(broker))
            await until(lambda: here.up("cloud"))
            here.scan(3)
            await here.acknowledged()
            await until(lambda: len(there.readings) == len(here.expected))
            assert there.readings == here.expected
            assert there.late == backlog


async def test_on_a_thin_line_new_data_overtakes_the_backlog(tmp_path: Path) -> None:
    """Half a megabyte of outage behind a modem of 100 kB/s: what is new must not queue behind it in the kernel."""
    table = TABLES[0]
    rng = np.random.default_rng(1)
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there, edge(tmp_path) as here, FaultProxy("127.0.0.1", broker.port) as line:
            line.bandwidth = 100_000
            for n in range(2000):
                batch = Batch.full(table, rng.random(len(table)), T0 - 10**12 + n)
                here.journal.append(codec.pack(batch, 1), len(batch), 1, 2)
            await here.journal.flush()
            here.publish("cloud", PublisherOptions(url=f"mqtt://127.0.0.1:{line.port}", settle="0 s"))
            await until(lambda: there.late > 0)
            here.scan(1)
            await until(lambda: len(there.readings) - there.late >= len(here.expected))
            assert there.late < 2000 * len(table)
            await here.acknowledged()
            await until(lambda: len(there.readings) == 2000 * len(table) + len(here.expected))


async def test_a_broker_that_takes_small_messages_only_gets_small_ones(tmp_path: Path) -> None:
    """AWS IoT ends the connection at 128 kB; mosquitto does at max_packet_size."""
    with Mosquitto(tmp_path / "m", lines=["max_packet_size 20000"]) as broker:
        table = TABLES[0]
        for version in ("3.1.1", "5"):
            here_dir = tmp_path / version
            async with cloud(broker) as there, edge(here_dir) as here:
                here.publish("cloud", options(broker, version=version, max_message="100 kB"))
                rng = np.random.default_rng(1)
                for n in range(150):
                    batch = Batch.full(table, rng.random(len(table)), T0 + n)
                    here.journal.append(codec.pack(batch, 1), len(batch), 1, 2)
                await here.acknowledged()
                if version == "3.1.1":
                    await until(lambda: len(there.readings) == 150 * len(table))
                    assert here.journal.totals().delivered == {"cloud": 150 * len(table)}


async def test_json_arrives_too(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there, edge(tmp_path) as here:
            here.publish("cloud", options(broker, format="json"))
            here.scan(5)
            await here.acknowledged()

            def bodies() -> list[Any]:
                return [orjson.loads(m.payload) for m in there.messages if "/json/" in m.topic]

            await until(lambda: len(bodies()) == 10)
            found = {
                (body["device"], name, body["time"]): value
                for body in bodies()
                for name, value in body["values"].items()
            }
            assert len(found) == len(here.expected)


async def test_stopping_tells_that_the_gateway_is_gone_and_loses_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m") as broker:
        async with cloud(broker) as there:
            async with edge(tmp_path) as here:
                here.publish("cloud", options(broker))
                here.scan(200)
                await here.journal.flush()
                await here.publishers["cloud"].drain(60)
                assert not here.journal.pending("cloud")
                await here.stop()
            await until(lambda: len(there.readings) == len(here.expected))
            statuses = [m.payload for m in there.messages if m.topic == "plantbridge/demo/status"]
            assert [b'"online":true' in status for status in statuses] == [True, False]
