"""From the journal through a real broker to a Sparkplug host, and to small fakes of cloud platforms."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from bench.sparkplug_objects import Payload
from gateway import codec
from gateway import quality as q
from gateway.commands import Result
from gateway.contracts import Delivery
from gateway.conversation import Conversation, Desk
from gateway.dialects import SECOND, Command, Will
from gateway.dialects.dialogue import Dialogue
from gateway.encoders.cloud import Cloud
from gateway.encoders.current import Current
from gateway.encoders.sparkplug import EdgeNode
from gateway.errors import SinkUnavailable
from gateway.health import Health
from gateway.journal import Journal
from gateway.memory import FileMemory, Forgetful
from gateway.metrics import Metrics
from gateway.model import Batch, Kind, Message, Tag, TagTable
from gateway.mqtt import Arrived, Connection
from gateway.mqtt import Will as MqttWill
from gateway.options import JournalOptions, MqttOptions, PublisherOptions, SparkplugOptions, WriteRule
from gateway.publisher import Publisher
from gateway.sinks.dialogue import DialogueSink
from tests.fakes.sparkplug_host import Host, proves
from tests.in_process import until
from tests.servers import Mosquitto
from tests.unit.test_format_clouds import tencent, thingsboard

STATE = "spBv1.0/STATE/scada"
PRESS = TagTable(
    "press_1", "main", Kind.FLOAT,
    tuple(Tag(f"t{number}", "x", type="float32", writable=WriteRule()) for number in range(20)),
)  # fmt: skip
METER = TagTable("meter_1", "slow", Kind.INT, (Tag("energy", "x", kind=Kind.INT, type="int64"),))


class Gateway:
    """A journal, what is read into it, and a publisher with a conversation."""

    def __init__(self, journal: Journal, url: str, dialogue: Dialogue, directory: Path, **more: Any) -> None:
        execute = more.pop("execute", None)
        fast = {"retry_first": "20 ms", "retry_longest": "100 ms", "settle": "100 ms"}
        self.options = PublisherOptions(url=url, **{**fast, **more})
        self.journal, self.dialogue = journal, dialogue
        self.current = Current()
        self.sink = DialogueSink("scada", self.options, "gw1", dialogue)
        desk = Desk(execute, lambda _: None, lambda: True) if execute is not None else None
        conversation = Conversation("scada", dialogue, self.sink, self.current.batches, desk)
        self.publisher = Publisher(
            "scada", self.options, "gw1", journal, self.sink, dialogue, Metrics(), Health(), directory / "dead",
            conversation=conversation,
        )  # fmt: skip
        self.fed: set[tuple[str, int, Any]] = set()
        self._stamp = time.time_ns() // 1_000_000
        self.last = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.publisher.run())

    async def stop(self) -> None:
        if self._task is not None:
            await self.publisher.drain(5)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def feed(self, table: TagTable, *values: Any) -> None:
        """Read a scan: one value for all tags, or one for each."""
        self._stamp += 1
        column = np.array(values * (len(table) if len(values) == 1 else 1), dtype=table.kind.dtype)
        self.take(Batch.full(table, column, self._stamp * 1_000_000))
        self.fed |= {(name, self._stamp, value) for name, value in zip(table.names, column.tolist(), strict=True)}

    def take(self, batch: Batch) -> None:
        self.current.take(batch)
        number = self.journal.define(batch.table.fingerprint, batch.table.definition)
        times = int(batch.time.min()), int(batch.time.max())
        self.last = self.journal.append(codec.pack(batch, number), len(batch), *times)

    def all_acknowledged(self) -> bool:
        return not self.journal.pending("scada") and self.journal.committed >= self.last


class Node(EdgeNode):
    """A node that remembers its wills, as the broker does."""

    wills: dict[int, Will]

    def will(self) -> Will:
        will = super().will()
        self.__dict__.setdefault("wills", {})[Payload.FromString(will.payload).metrics[0].long_value] = will
        return will


class Scada:
    """A host behind the broker: it subscribes, says that it is online, and watches the node."""

    def __init__(self, url: str, node: Node, primary: bool) -> None:
        self.url, self.node, self.primary = url, node, primary
        self.host: Host | None = None
        self.seen: set[tuple[str, int, Any]] = set()
        self.history: set[tuple[str, int, Any]] = set()
        self.sessions = 0
        self._times = itertools.count(1)
        self.connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while True:
            online = orjson.dumps({"online": True, "timestamp": (now := next(self._times))})
            will = MqttWill(STATE, orjson.dumps({"online": False, "timestamp": now}))
            connection = Connection(MqttOptions(url=self.url), client_id="host", will=will, on_message=self._take)
            try:
                await connection.open()
                await connection.subscribe(["spBv1.0/Plant1/#"], timeout=20)
                if self.primary:
                    await connection.publish(STATE, online, timeout=20, retain=True)
                self.connection = connection
                self.sessions += 1
                await connection.lost.wait()
            except SinkUnavailable:
                await asyncio.sleep(0.05)
            finally:
                self.connection = None
                await connection.close()

    async def command(self, word: str, content: bytes) -> None:
        assert self.connection is not None
        await self.connection.publish(f"spBv1.0/Plant1/{word}", content, timeout=20)

    def _take(self, message: Arrived) -> None:
        if self.connection is not None:
            self.connection.acknowledge(message)
        word = message.topic.split("/")[2]
        if word in ("NCMD", "DCMD"):
            return
        if word == "NBIRTH":
            number = next(m.long_value for m in Payload.FromString(message.payload).metrics if m.name == "bdSeq")
            if self.host is None:
                self.host = Host("Plant1", "gw1", self.node.wills[number])
            elif self.host.bdseq != number:
                self.host.connect(self.node.wills[number])
        if self.host is None or (word == "NDEATH" and not self.host.online):
            return  # the death of a session that this host did not see
        assert not message.retained
        self.host.take([Message(message.topic, message.payload, 0, 0, 0)])
        self.seen |= {(name, stamp, value) for name, stamp, value, _ in self.host.log}
        self.history |= {(name, stamp, value) for name, stamp, value, historical in self.host.log if historical}
        self.host.log.clear()


@asynccontextmanager
async def plant(
    broker: Mosquitto, directory: Path, *, primary: bool = False, **more: Any
) -> AsyncIterator[tuple[Gateway, Scada]]:
    options = JournalOptions(durability="process", commit_interval="20 ms")
    journal = await Journal.open(directory / "journal", options, ["scada"], codec.pack_gap)
    sparkplug = SparkplugOptions(group="Plant1", primary_host="scada" if primary else None)
    node = Node(sparkplug, "gw1", (PRESS, METER), Forgetful(), commands="execute" in more)
    gateway = Gateway(journal, broker.url, node, directory, **more)
    scada = Scada(broker.url, node, primary)
    task = asyncio.create_task(scada.run())
    try:
        await until(lambda: scada.sessions > 0)
        gateway.start()
        yield gateway, scada
        await gateway.stop()
    finally:
        await gateway.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await journal.close()


@pytest.fixture
def broker(tmp_path: Path) -> Any:
    with Mosquitto(tmp_path / "mosquitto") as made:
        yield made


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@proves(
    "principles-persistence-clean-session-311", "principles-persistence-clean-session-50",
    "operational-behavior-edge-node-intentional-disconnect-packet",
)  # fmt: skip
async def test_readings_reach_the_host_and_leave_the_journal(broker: Mosquitto, tmp_path: Path, version: str) -> None:
    async with plant(broker, tmp_path, version=version) as (gateway, scada):
        for turn in range(50):
            gateway.feed(PRESS, float(turn))
            gateway.feed(METER, 2**53 + turn)
        await until(gateway.all_acknowledged, "the journal keeps something")
        await until(lambda: gateway.fed <= scada.seen, "the host lacks readings")
        assert scada.host is not None
        await gateway.stop()
        await until(lambda: scada.host is not None and not scada.host.online)
        assert scada.host.broken == []
        assert scada.host.words[-1] == "NDEATH"
    assert f"as plantbridge-gw1-scada (p{'5' if version == '5' else '2'}, c1," in broker.log
    assert "Received DISCONNECT from plantbridge-gw1-scada" in broker.log


@proves(
    "operational-behavior-primary-application-state-with-multiple-servers-single-server",
    "operational-behavior-primary-application-state-with-multiple-servers-state-subs",
)  # fmt: skip
async def test_nothing_is_lost_when_the_broker_restarts_while_a_host_is_waited_for(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The whole story: births with what is so now, the backlog as history, then live, on one connection at a time."""
    async with plant(broker, tmp_path, primary=True) as (gateway, scada):
        numbers = itertools.count()
        await until(lambda: gateway.dialogue.ready)
        for _ in range(10):
            gateway.feed(PRESS, float(next(numbers)))
        await until(gateway.all_acknowledged)
        broker.stop()
        before = set(gateway.fed)
        for _ in range(200):
            gateway.feed(PRESS, float(next(numbers)))
        backlog = gateway.fed - before
        await until(lambda: gateway.journal.committed >= gateway.last)
        sessions = scada.sessions
        broker.start()
        await until(lambda: scada.sessions > sessions)
        await until(lambda: gateway.dialogue.ready)
        gateway.feed(PRESS, float(next(numbers)))
        await until(gateway.all_acknowledged)
        await until(lambda: gateway.fed <= scada.seen, "the host lacks readings")
        assert scada.host is not None
        assert scada.host.broken == []
        assert backlog <= scada.history
        assert scada.host.devices["press_1"]["t0"].value == next(numbers) - 1
        connects = [line for line in broker.log.splitlines() if " as plantbridge-gw1-scada " in line]
        ends = [line for line in broker.log.splitlines() if "plantbridge-gw1-scada" in line and "connect" in line]
        assert len(connects) >= 2
        assert ends


async def test_a_session_begins_anew_when_the_clock_was_set_and_loses_nothing(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Its births bear the time of 1970, and what it waits for would be overdue in an hour."""
    async with plant(broker, tmp_path) as (gateway, scada):
        await until(lambda: gateway.dialogue.ready)
        for turn in range(10):
            gateway.feed(PRESS, float(turn))
        gateway.publisher.renew("the clock was set")
        await until(lambda: broker.log.count("as plantbridge-gw1-scada") == 2, "no second session")
        gateway.feed(PRESS, 99.0)
        await until(gateway.all_acknowledged)
        await until(lambda: gateway.fed <= scada.seen, "the host lacks readings")
        assert scada.host is not None
        assert scada.host.broken == []


async def test_a_host_that_goes_takes_the_session_with_it_and_gets_all_when_it_is_back(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with plant(broker, tmp_path, primary=True) as (gateway, scada):
        await until(lambda: gateway.dialogue.ready)
        gateway.feed(PRESS, 1.0)
        await until(gateway.all_acknowledged)
        assert scada.connection is not None
        away = orjson.dumps({"online": False, "timestamp": 50})
        await scada.connection.publish(STATE, away, timeout=20, retain=True)
        await until(lambda: not gateway.dialogue.ready)
        for turn in range(20):
            gateway.feed(PRESS, 2.0 + turn)
        await until(lambda: gateway.journal.committed >= gateway.last)
        assert not gateway.all_acknowledged()
        back = orjson.dumps({"online": True, "timestamp": 60})
        await scada.connection.publish(STATE, back, timeout=20, retain=True)
        await until(gateway.all_acknowledged)
        await until(lambda: gateway.fed <= scada.seen)
        assert scada.host is not None
        assert scada.host.broken == []
        assert "NDEATH" in scada.host.words


def rebirth() -> bytes:
    payload = Payload(timestamp=1)
    payload.metrics.add(name="Node Control/Rebirth", datatype=11).boolean_value = True
    return bytes(payload.SerializeToString())


async def test_rebirths_amid_data_keep_every_rule(broker: Mosquitto, tmp_path: Path) -> None:
    """Births and data are counted together; one that overtakes another makes a host ask for births without end."""
    async with plant(broker, tmp_path) as (gateway, scada):
        await until(lambda: gateway.dialogue.ready)
        for turn in range(100):
            gateway.feed(PRESS, float(turn))
            gateway.feed(METER, turn)
            if turn % 10 == 5:
                await scada.command("NCMD/gw1", rebirth())
            await asyncio.sleep(0.01)
        await until(gateway.all_acknowledged)
        await until(lambda: scada.host is not None and scada.host.words.count("NBIRTH") >= 11)
        assert scada.host is not None
        assert scada.host.broken == []
        await until(lambda: gateway.fed <= scada.seen)


async def test_a_command_is_carried_out_and_its_value_comes_back(broker: Mosquitto, tmp_path: Path) -> None:
    done: list[Command] = []

    async def execute(command: Command) -> list[Result]:
        done.append(command)
        return [Result(0.0, value, q.GOOD, "") for _, value in command.values]

    async with plant(broker, tmp_path, execute=execute) as (gateway, scada):
        gateway.feed(PRESS, 1.0)
        await until(gateway.all_acknowledged)
        await until(lambda: scada.host is not None and "press_1" in scada.host.devices)
        payload = Payload(timestamp=5)
        payload.metrics.add(name="t3", datatype=9).float_value = 7.5
        await scada.command("DCMD/gw1/press_1", bytes(payload.SerializeToString()))
        await until(lambda: scada.host is not None and scada.host.devices["press_1"]["t3"].value == 7.5)
        assert [(each.device, each.values) for each in done] == [("press_1", (("t3", 7.5),))]
        await scada.command("DCMD/gw1/press_1", b"\x0a\x05nonsense")
        gateway.feed(PRESS, 2.0)
        await until(gateway.all_acknowledged)
        assert scada.host is not None
        assert scada.host.broken == []


async def test_a_broker_that_refuses_the_command_topic_still_gets_the_data(tmp_path: Path) -> None:
    acl = "topic write spBv1.0/#\ntopic read spBv1.0/Plant1/+/gw1/#\ntopic readwrite spBv1.0/STATE/#\n"
    with Mosquitto(tmp_path / "mosquitto", acl=acl) as broker:
        async with plant(broker, tmp_path) as (gateway, _):
            gateway.feed(PRESS, 1.0)
            await until(gateway.all_acknowledged)


class Ear:
    """A sink that takes everything."""

    refusal, overflowed, connected = "", 0, True

    def __init__(self) -> None:
        self.denied: list[str] = []
        self.arrivals: asyncio.Queue[tuple[Arrived, int]] = asyncio.Queue()
        self.said: list[str] = []

    @property
    def peer(self) -> Ear:
        return self

    async def subscribe(self, subscriptions: Any) -> None: ...

    def acknowledge(self, message: Arrived) -> None: ...

    async def send(self, message: Message) -> Delivery:
        self.said.append(message.topic)
        return Delivery.ACCEPTED


async def test_a_death_in_order_is_told_though_the_rate_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DISCONNECT takes the will away: without these words a host would take the node for alive."""
    monkeypatch.setattr("gateway.conversation._FAREWELL", 0.05)
    node, ear = EdgeNode(SparkplugOptions(group="P"), "gw1", (PRESS,), Forgetful()), Ear()
    talk = Conversation("scada", node, ear, list)
    node.will()
    node.begin()

    async def wait(_: int) -> None:
        await asyncio.Event().wait()

    talk.passes = wait
    await talk.farewell()
    assert ear.said == ["spBv1.0/P/NDEATH/gw1"]


# ------------------------------------------------------------------------------------------------ clouds


@asynccontextmanager
async def cloud(broker: Mosquitto, directory: Path, case: Any, **more: Any) -> AsyncIterator[tuple[Gateway, Any]]:
    """A gateway, a broker, and a fake platform behind it that takes all and answers."""
    platform = case.platform
    platform.connected = True
    platform.window = 8 * SECOND // 10  # a loaded machine delivers late what left in time
    wrong: list[str] = []

    def take(message: Arrived) -> None:
        connection.acknowledge(message)
        if "/down/" in message.topic or "/result/" in message.topic or message.payload == b"":
            return
        try:
            sent = Message(message.topic, message.payload, 0, 0, 0)
            replies = platform.publish(sent, time.time_ns(), message.qos)
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{message.topic}: {error!r}")
            return
        for topic, payload in replies:
            answers.put_nowait((topic, payload))

    async def reply() -> None:
        while True:
            topic, payload = await answers.get()
            await connection.publish(topic, payload, timeout=20)

    answers: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    connection = Connection(MqttOptions(url=broker.url), client_id="platform", on_message=take)
    await connection.open()
    await connection.subscribe(["v1/#", "$gateway/#", "$thing/up/#"], timeout=20)
    options = JournalOptions(durability="process", commit_interval="20 ms")
    journal = await Journal.open(directory / "journal", options, ["scada"], codec.pack_gap)
    gateway = Gateway(journal, broker.url, Cloud(case.dialect), directory, **more)
    task = asyncio.create_task(reply())
    gateway.start()
    try:
        yield gateway, platform
        await gateway.stop()
        assert wrong == []
    finally:
        await gateway.stop()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await connection.close()
        await journal.close()


@pytest.mark.parametrize("make", [thingsboard, tencent])
async def test_a_cloud_gets_each_reading_after_its_devices_logged_in(
    broker: Mosquitto, tmp_path: Path, make: Callable[[], Any]
) -> None:
    case = make()
    async with cloud(broker, tmp_path, case) as (gateway, platform):
        for turn in range(5):
            gateway.feed(PRESS, float(turn))
            gateway.feed(METER, 2**53 + turn)
        await until(gateway.all_acknowledged)
        stored = platform.readings[case.device("meter_1"), "energy"]
        await until(lambda: len(stored) == 5)
        assert [value for _, value in stored] == [2**53 + turn for turn in range(5)]
        gateway.take(Batch.bad(METER, q.BAD_NOT_CONNECTED, time.time_ns()))
        await until(lambda: platform.online[case.device("meter_1")] is False)
        gateway.feed(METER, 9)
        await until(lambda: len(stored) == 6)
        assert platform.online[case.device("meter_1")]


async def test_credentials_are_renewed_by_a_new_session_and_nothing_is_lost(broker: Mosquitto, tmp_path: Path) -> None:
    case = tencent(validity="62 s")
    with capture_logs() as logs:
        async with cloud(broker, tmp_path, case) as (gateway, platform):
            turn = itertools.count()
            while broker.log.count(" as PRODUCT001dev01 ") < 2:
                gateway.feed(METER, next(turn))
                await asyncio.sleep(0.05)  # faster than the platform, which takes ten messages a second
            gateway.feed(METER, next(turn))
            await until(gateway.all_acknowledged)
            stored = platform.readings[case.device("meter_1"), "energy"]
            await until(lambda: {value for _, value in stored} == set(range(next(turn))))
    assert any("the credentials of this session expire" in str(line.get("reason")) for line in logs)


def test_what_a_publisher_remembers_outlives_the_process_and_nonsense(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "publishers/scada.json")
    assert memory.load() == {}
    memory.save({"bdSeq": 7})
    assert FileMemory(tmp_path / "publishers/scada.json").load() == {"bdSeq": 7}
    for nonsense in (b"{", b"[1]", b""):
        (tmp_path / "publishers/scada.json").write_bytes(nonsense)
        assert memory.load() == {}
