"""Ingest between a real broker and a real store: nothing acknowledged before it is stored, nothing stored twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import deadletters, ingest
from gateway.accounting import Account
from gateway.contracts import Block, Store, StoreReport
from gateway.deadletters import DeadLetters
from gateway.errors import StoreUnavailable
from gateway.health import Health
from gateway.ingest import Ingest, client_id, divided
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.model import Gap, Kind
from gateway.mqtt import Connection
from gateway.options import InfluxdbOptions, IngestOptions, MqttOptions
from gateway.stores.duckdb import DuckdbStore
from gateway.stores.influxdb import InfluxdbStore
from gateway.stores.inquiry import read
from tests.influx_proxy import InfluxProxy
from tests.native import SECOND, T0, block, columns_message, gaps_message, scan, table
from tests.servers import Mosquitto, mosquitto
from tests.stores_servers import InfluxDB

__all__ = ["mosquitto"]

OF = table(size=10, unit="bar")


@dataclass
class Edge:
    """A gateway as the broker sees it."""

    connection: Connection
    prefix: str = "plantbridge/demo"
    numbers: dict[bytes, int] = field(default_factory=dict)
    sequence: int = 0

    async def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        answer = await self.connection.publish(topic, payload, timeout=30, retain=retain)
        assert not answer.refused

    async def define(self, of: Any = OF, number: int = 0, journal: str = "j1") -> None:
        self.numbers[of.fingerprint] = number
        await self.send(f"{self.prefix}/tables/{journal}/{number}", of.definition, retain=True)

    async def scans(self, count: int, of: Any = OF) -> None:
        """Publish `count` messages of one scan each; scan n has time T0 + n seconds."""
        for _ in range(count):
            self.sequence += 1
            sent = block(scan(of, T0 + self.sequence * SECOND), first=self.sequence)
            await self.send(f"{self.prefix}/columns", columns_message(sent, self.numbers))


@asynccontextmanager
async def edge(
    broker: Mosquitto, login: Mapping[str, Any] = MappingProxyType({}), **settings: Any
) -> AsyncIterator[Edge]:
    connection = Connection(MqttOptions(url=broker.url, **login), client_id="edge")
    await connection.open()
    try:
        yield Edge(connection, **settings)
    finally:
        await connection.close()


@dataclass
class Side:
    """A running ingest."""

    ingest: Ingest
    metrics: Metrics
    health: Health
    letters: Path

    def stored(self) -> int:
        return int(self.metrics.registry.get_sample_value("plantbridge_stored_readings_total") or 0)

    def duplicates(self) -> int:
        return int(self.metrics.registry.get_sample_value("plantbridge_duplicate_readings_total") or 0)

    def dead(self) -> list[tuple[str, bytes, str]]:
        return deadletters.read(self.letters) if self.letters.exists() else []

    def is_up(self, name: str) -> bool:
        return bool(self.health.report()["links"].get(name, {}).get("up"))


@asynccontextmanager
async def running(
    broker: Mosquitto, store: Store, directory: Path, patience: float = 60.0, **settings: Any
) -> AsyncIterator[Side]:
    keys = {"url": broker.url, "batch_interval": "50 ms", "retry_first": "50 ms", "retry_longest": "200 ms"} | settings
    metrics, health, letters = Metrics(), Health(), directory / "dead-letters"
    options = IngestOptions(**keys)
    ledger = Ledger(directory / "account.sqlite")
    account = Account(ledger, client_id(options), options.key, metrics, health, shared=divided(options))
    made = Ingest(options, store, metrics, health, DeadLetters(letters, metrics), account, patience=patience)
    await store.open()
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        side = Side(made, metrics, health, letters)
        await until(lambda: side.is_up("broker") or task.done(), "ingest to connect")
        yield side
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task
        await store.close()
        ledger.close()


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition with a deadline."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if found if isinstance(found, bool) else await found:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


def database(directory: Path) -> Path:
    return directory / "plant.duckdb"


def count(directory: Path) -> tuple[int, int]:
    """Give how many rows are stored, and how many of them differ in series and time."""
    with read(database(directory), "SELECT count(*) AS n, count(DISTINCT (series, time)) AS d FROM floats") as answer:
        (row,) = answer.read_all().iter_py()
    return row["n"], row["d"]


async def test_readings_and_gaps_come_into_the_store(mosquitto: Mosquitto, tmp_path: Path) -> None:
    kinds = [table(kind, unit="1") for kind in Kind]
    async with edge(mosquitto) as plant, running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
        for number, of in enumerate(kinds):
            await plant.define(of, number)
            await plant.scans(3, of)
        gap = block(Gap("press-1", "", T0, T0 + 1, "x"), first=100)
        await plant.send("plantbridge/demo/gaps", gaps_message(gap))
        await until(lambda: side.stored() == 4 * 3 * len(kinds), "all to be stored")
    with read(database(tmp_path), "SELECT count(*) AS n, (SELECT count(*) FROM gaps) AS g FROM readings") as answer:
        assert list(answer.read_all().iter_py()) == [{"n": 60, "g": 1}]
    assert side.dead() == []


async def test_a_gateway_may_be_called_like_one_of_our_topics(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its status is no account of anybody, and no dead letter."""
    async with edge(mosquitto) as plant, running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
        await plant.send("plantbridge/account/status", b'{"online": true}')
        await plant.send("plantbridge/stored/status", b'{"online": true}')
        await plant.define()
        await plant.scans(1)
        await until(lambda: side.stored() == 10, "what came after it")
    assert side.dead() == []


async def test_a_broker_that_lets_ingest_only_read_costs_no_readings(tmp_path: Path) -> None:
    """mosquitto ends the session over each forbidden publish: it must not go on and on telling what is stored."""
    acl = "user edge\ntopic readwrite plantbridge/#\nuser ingest\ntopic read plantbridge/#\n"
    users = {"edge": "edge-word", "ingest": "ingest-word"}
    with Mosquitto(tmp_path / "broker", users=users, acl=acl) as broker:
        own = {"username": "ingest", "password": "ingest-word", "share": "group"}
        with capture_logs() as logs:
            async with (
                edge(broker, {"username": "edge", "password": "edge-word"}) as plant,
                running(broker, DuckdbStore(database(tmp_path)), tmp_path, **own) as side,
            ):
                await plant.define()
                for total in range(10, 60, 10):
                    await plant.scans(1)
                    await until(partial(_stored, side, total), "the scan to be stored")
                await until(lambda: any("ingest tell" in each["event"] for each in logs), "what somebody must know")
                await plant.scans(1)
                await until(partial(_stored, side, 60), "what came after it")
    assert sum("ingest tell" in each["event"] for each in logs) == 1
    assert side.dead() == []


def _stored(side: Side, total: int) -> bool:
    return side.stored() >= total


async def test_what_was_stored_is_acknowledged_and_does_not_come_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto) as plant:
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
            await plant.define()
            await plant.scans(20)
            await until(lambda: side.stored() == 200, "all to be stored")
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
            await plant.scans(1)
            await until(lambda: side.stored() == 10, "the new scan")
            assert side.duplicates() == 0


async def test_what_is_published_while_ingest_is_away_waits_in_the_broker(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto) as plant:
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path):
            await plant.define()
        await plant.scans(300)
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
            await until(lambda: side.stored() == 3000, "the backlog")
    assert count(tmp_path) == (3000, 3000)


async def test_messages_that_wait_for_tables_do_not_keep_the_tables_back(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The broker sends no more unacknowledged messages than `in_flight`. If definitions counted among them, a backlog
    whose definitions come later would wait for ever."""
    async with edge(mosquitto) as plant:
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path, in_flight=5):
            pass
        plant.numbers[OF.fingerprint] = 0
        await plant.scans(50)
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path, in_flight=5) as side:
            await plant.define()
            await until(lambda: side.stored() == 500, "all to be stored")
            assert side.dead() == []


async def test_a_message_whose_table_never_comes_is_set_aside_in_the_end(mosquitto: Mosquitto, tmp_path: Path) -> None:
    store = DuckdbStore(database(tmp_path))
    async with edge(mosquitto) as plant, running(mosquitto, store, tmp_path, patience=0.3) as side:
        await plant.define()
        plant.numbers[table(device="unknown").fingerprint] = 77
        await plant.scans(1, table(device="unknown"))
        await plant.scans(3)
        await until(lambda: bool(side.dead()), "the dead letter")
        await until(lambda: side.stored() == 30, "the rest")
    ((topic, payload, reason),) = side.dead()
    assert topic == "plantbridge/demo/columns"
    assert reason == "the definition plantbridge/demo/tables/j1/77 did not come within 0.3 s"
    assert payload


async def test_what_cannot_be_decoded_is_set_aside_and_the_rest_goes_on(mosquitto: Mosquitto, tmp_path: Path) -> None:
    store = DuckdbStore(database(tmp_path))
    async with edge(mosquitto) as plant, running(mosquitto, store, tmp_path) as side:
        await plant.define()
        await plant.scans(2)
        await plant.send("plantbridge/demo/columns", b"rubbish")
        await plant.send("plantbridge/demo/gaps", b"{}")
        await plant.send("plantbridge/demo/tables/j1/5", b"[]", retain=True)
        await plant.scans(2)
        await until(lambda: side.stored() == 40, "the rest")
        await until(lambda: len(side.dead()) == 3, "three dead letters")
    assert {(topic, payload) for topic, payload, _ in side.dead()} == {
        ("plantbridge/demo/columns", b"rubbish"),
        ("plantbridge/demo/gaps", b"{}"),
        ("plantbridge/demo/tables/j1/5", b"[]"),
    }
    assert side.metrics.registry.get_sample_value("plantbridge_dead_letters_total") == 3


async def saved(broker: Mosquitto) -> None:
    """Wait until mosquitto has nothing to save. It answers PUBACK first and saves then (2.0.11): one that is killed in
    between forgets what it acknowledged, which is no fault of ingest's."""
    seen, since = "", time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        if broker.log != seen or (broker.directory / "mosquitto.db.new").exists():
            seen, since = broker.log, time.monotonic()
        return time.monotonic() - since > 0.5

    await until(is_quiet, "the broker to have saved what it acknowledged")


async def test_a_broker_that_restarts_costs_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", persistence=True) as broker:
        async with running(broker, DuckdbStore(database(tmp_path)), tmp_path) as side:
            for round_ in range(3):
                async with edge(broker) as plant:
                    plant.sequence = round_ * 100
                    await plant.define()
                    await plant.scans(100)
                await saved(broker)
                await asyncio.to_thread(broker.kill if round_ % 2 else broker.stop)
                await until(lambda: not side.is_up("broker"), "the loss to be noticed")
                await asyncio.to_thread(broker.start)
                await until(lambda: side.is_up("broker"), "ingest to come back")
            await until(lambda: side.stored() == 3000, "all to be stored")
    assert count(tmp_path) == (3000, 3000)


async def test_what_comes_between_the_brokers_restart_and_ours_is_kept(tmp_path: Path) -> None:
    """The gateway is back before ingest is. (mosquitto 2.0.11 forgets *shared* subscriptions when it restarts.)"""
    with Mosquitto(tmp_path / "broker", persistence=True) as broker:
        async with edge(broker) as plant, running(broker, DuckdbStore(database(tmp_path)), tmp_path) as side:
            await plant.define()
            await plant.scans(1)
            await until(lambda: side.stored() == 10, "the first scan")
        await saved(broker)
        await asyncio.to_thread(broker.restart)
        async with edge(broker, numbers={OF.fingerprint: 0}, sequence=1) as plant:
            await plant.scans(50)
            async with running(broker, DuckdbStore(database(tmp_path)), tmp_path) as side:
                await until(lambda: side.stored() == 500, "all to be stored")


async def test_a_store_that_refuses_for_a_while_costs_nothing(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with InfluxDB(tmp_path / "influxdb") as engine, InfluxProxy(engine.url) as proxy:
        engine.create("plant")
        options = InfluxdbOptions(type="influxdb", url=proxy.url, bucket="plant", token="secret")
        proxy.refuse.set()
        async with edge(mosquitto) as plant, running(mosquitto, InfluxdbStore(options, _nobody), tmp_path) as side:
            await plant.define()
            await plant.scans(50)
            await until(lambda: not side.is_up("store") and proxy.requests > 3, "some refusals")
            assert side.stored() == 0
            proxy.refuse.clear()
            await until(lambda: side.stored() == 500, "all to be stored")
            assert side.is_up("store")
        (row,) = engine.query("plant", "SELECT count(value) FROM readings")
        assert row["count"] == 500


def _nobody(topic: str, payload: bytes, reason: str) -> None:
    raise AssertionError(reason)


async def test_stopping_while_the_store_is_away_leaves_everything_with_the_broker(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    async with edge(mosquitto) as plant:
        async with running(mosquitto, Stubborn([StoreUnavailable("no")] * 1000), tmp_path) as side:
            await plant.define()
            await plant.scans(5)
            await until(lambda: "store" in side.health.report()["links"], "a refusal")
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
            await until(lambda: side.stored() == 50, "all to be stored")


class Stubborn:
    """A store that fails with these errors first, and then takes everything but device `poison`."""

    def __init__(self, errors: Sequence[Exception] = (), poison: Exception | None = None) -> None:
        self.errors = list(errors)
        self.poison = poison
        self.taken: list[int] = []

    async def open(self) -> None:
        return

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        if self.errors:
            raise self.errors.pop(0)
        if self.poison and any(2 in each.sequences for each in blocks):
            raise self.poison
        self.taken += [number for each in blocks for number in each.sequences]
        return StoreReport(len(blocks), 0, 0)

    async def close(self) -> None:
        return


class Slow(Stubborn):
    """A store that takes its time: each write waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(0)
        self.writes: list[int] = []  # messages of each
        self.let: list[int] = []

    def let_one(self) -> None:
        self.let.append(1)
        self.gate.release()

    async def write(self, blocks: Sequence[Block]) -> StoreReport:
        self.writes.append(len(blocks))
        await self.gate.acquire()
        return await super().write(blocks)


async def test_a_slow_store_stops_the_broker_and_takes_no_memory(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """What waits is to wait on the broker's disk. mosquitto 2.0.11 keeps to the receive maximum at first only: after
    some acknowledgements it sends hundreds at once, which stay unread."""
    store, in_hand = Slow(), 0
    async with edge(mosquitto) as plant, running(mosquitto, store, tmp_path, in_flight=10, keep_alive="1 s") as side:
        await plant.define()
        await plant.scans(150)
        while sum(store.writes[: len(store.let)]) < 150:
            await until(lambda: len(store.writes) > len(store.let), "the next write")
            await until(partial(quiet, side), "no more to come")
            in_hand = max(in_hand, store.writes[-1] + len(side.ingest._arrived))
            if len(store.let) == 3:
                await asyncio.sleep(3)  # three times the keep-alive: the session stays
            store.let_one()
        await until(lambda: len(store.taken) == 150, "the last to be stored")
        assert side.health.report()["links"]["broker"]["up"]
    assert sorted(store.taken) == list(range(1, 151)), "all of them, and none twice: it was one session"
    assert in_hand <= 2 * 10 + 1, "what is being written, and as many that wait"


async def quiet(side: Side) -> bool:
    before = len(side.ingest._arrived)
    await asyncio.sleep(0.1)
    return before == len(side.ingest._arrived)


async def test_one_write_holds_many_messages_and_no_more_texts_than_fit(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """250,000 readings are 6 MB of numbers, but gigabytes where each is a page of text."""
    monkeypatch.setattr(ingest, "MOST_OCTETS", 300_000)
    store, of = Slow(), table(Kind.TEXT, 10)
    async with edge(mosquitto) as plant, running(mosquitto, store, tmp_path, batch_interval="1 s"):
        await plant.define(of)
        for number in range(1, 31):
            sent = block(scan(of, T0 + number * SECOND, ["x" * 10_000] * 10), first=number)
            await plant.send("plantbridge/demo/columns", columns_message(sent, plant.numbers))
        for _ in range(30):
            store.let_one()
        await until(lambda: len(store.taken) == 30, "all to be stored")
    assert 1 < max(store.writes) <= 3


@pytest.mark.parametrize("poison", [StoreUnavailable("never", permanent=True), ZeroDivisionError("a bug")])
async def test_what_the_store_will_never_take_is_set_aside_alone(
    mosquitto: Mosquitto, tmp_path: Path, poison: Exception
) -> None:
    """One poisoned message must not stop a plant, nor end ingest again and again."""
    store = Stubborn(poison=poison)
    async with edge(mosquitto) as plant, running(mosquitto, store, tmp_path) as side:
        await plant.define()
        await plant.scans(5)
        await until(lambda: len(store.taken) == 4 and bool(side.dead()), "four of five")
    assert sorted(store.taken) == [1, 3, 4, 5]
    ((_, _, reason),) = side.dead()
    assert str(poison) in reason


async def test_workers_share_the_load(mosquitto: Mosquitto, tmp_path: Path) -> None:
    one, other = Stubborn(), Stubborn()
    async with (
        edge(mosquitto) as plant,
        running(mosquitto, one, tmp_path / "one", client_id="worker-1", share="ingest"),
        running(mosquitto, other, tmp_path / "other", client_id="worker-2", share="ingest"),
    ):
        await plant.define()
        await plant.scans(100)
        await until(lambda: len(one.taken) + len(other.taken) == 100, "all to be taken once")
    assert one.taken
    assert other.taken
    assert sorted(one.taken + other.taken) == list(range(1, 101))


async def test_mqtt_3_1_1_serves_as_well(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto) as plant:
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path, version="3.1.1"):
            await plant.define()
        await plant.scans(50)
        async with running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path, version="3.1.1") as side:
            await until(lambda: side.stored() == 500, "all to be stored")


async def test_a_message_delivered_twice_is_stored_once(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto) as plant, running(mosquitto, DuckdbStore(database(tmp_path)), tmp_path) as side:
        await plant.define()
        await plant.scans(10)
        plant.sequence = 5
        await plant.scans(10)
        await until(lambda: side.stored() == 150 and side.duplicates() == 50, "all to be stored")
    assert count(tmp_path) == (150, 150)
