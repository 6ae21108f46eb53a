"""Several ingest workers share the load; one of them is killed under load, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from gateway.ledger import Ledger
from gateway.mqtt import Connection
from gateway.options import MqttOptions
from tests.e2e.plant import PLANTBRIDGE, Process, wait_until
from tests.influx_proxy import InfluxProxy
from tests.native import SECOND, T0, block, columns_message, scan, table
from tests.servers import Mosquitto
from tests.stores_servers import InfluxDB

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
WORKERS = 3
SCANS = 600
CLOUD = """
data: ./{name}
broker: {{url: '{url}', client_id: {name}, share: ingest, retry_first: 100 ms, retry_longest: 500 ms, in_flight: 20}}
store: {{type: influxdb, url: '{store}', bucket: plant, token: secret}}
metrics: {{listen: null}}
"""


def worker(directory: Path, name: str, url: str, store: str) -> Process:
    file = directory / f"{name}.yaml"
    file.write_text(CLOUD.format(name=name, url=url, store=store))
    return Process(name, [*PLANTBRIDGE, "ingest", str(file)], directory)


async def publish(url: str, order: list[int]) -> None:
    """Publish scan n of time T0 + n seconds and value n, in this order."""
    of = table(size=10, unit="bar")
    connection = Connection(MqttOptions(url=url), client_id="edge")
    await connection.open()
    await connection.publish("plantbridge/demo/tables/j1/0", of.definition, timeout=30, retain=True)
    for number in order:
        sent = block(scan(of, T0 + number * SECOND, [float(number)] * 10), first=number)
        message = columns_message(sent, {of.fingerprint: 0})
        answer = await connection.publish("plantbridge/demo/columns", message, timeout=30)
        assert not answer.refused
        await asyncio.sleep(0.005)
    await connection.close()


def test_a_worker_killed_under_load_loses_nothing_and_last_values_are_right_in_any_order(tmp_path: Path) -> None:
    """The broker keeps what the killed worker had; a service manager starts it again, and it gets that first."""
    print(f"SEED={SEED}")
    chance = random.Random(SEED)
    order = list(range(1, SCANS + 1))
    chance.shuffle(order)
    with (
        Mosquitto(tmp_path / "broker") as broker,
        InfluxDB(tmp_path / "influxdb") as store,
        InfluxProxy(store.url) as proxy,
    ):
        store.create("plant")
        workers = [worker(tmp_path, f"worker-{number}", broker.url, proxy.url) for number in range(WORKERS)]
        try:
            for each in workers:
                each.start()
            for each in workers:
                wait_until(lambda each=each: each.said("READY"), "every worker's subscription")  # type: ignore[misc]

            async def under_load() -> None:
                publishing = asyncio.create_task(publish(broker.url, order))
                for _ in range(3):
                    await asyncio.sleep(chance.uniform(0.3, 1.0))  # a moment, not a wait for something
                    victim = chance.choice(workers)
                    await asyncio.to_thread(victim.kill)
                    victim.start()
                await publishing

            asyncio.run(under_load())
            counted = "SELECT count(value) FROM readings"
            wait_until(lambda: [row["count"] for row in store.query("plant", counted)] == [SCANS * 10], "all of it")
            tag = table(size=10).names[3]
            (last,) = store.query("plant", f"SELECT last(value) FROM readings WHERE \"tag\" = '{tag}'")
            assert last["last"] == SCANS
            for each in workers:
                assert each.stop() == 0, each.output.read_text()[-2000:]
        finally:
            for each in workers:
                if each.running:
                    each.kill()
    took = []
    for number in range(WORKERS):
        ledger = Ledger(next((tmp_path / f"worker-{number}").glob("account*.sqlite")))
        took.append(sum(hour.delivered for hour in ledger.hours(0, 2**62)))
        ledger.close()
    assert all(took)  # the load was shared
    assert sum(took) >= SCANS * 10  # nothing was acknowledged that no account has
