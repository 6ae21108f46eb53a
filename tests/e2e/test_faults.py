"""Real processes, real faults: what was committed is stored exactly once, and what was not is declared.

Each test runs a plant of simulator, edge daemon, mosquitto, ingest and DuckDB, does something terrible to it, lets it
recover, and then proves (tests/e2e/proof.py) from the store's rows alone that no reading is lost, wrong or doubled,
and that every scan instant is accounted for.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ledger import Ledger
from tests.e2e.conftest import prove
from tests.e2e.plant import CONNECTED, SITE, Plant, plant, wait_until
from tests.influx_proxy import InfluxProxy
from tests.stores_servers import InfluxDB

SEED = 20261122


def rows_flow(made: Plant, seconds: float = 3.0) -> None:
    """Let it run for a while. Here time itself is what is needed: scans happen by the clock."""
    time.sleep(seconds)
    assert made.edge.running, made.edge.output.read_text()[-2000:]
    assert made.ingest.running, made.ingest.output.read_text()[-2000:]


def test_without_any_fault_every_scan_of_every_tag_is_stored_once_and_true(tmp_path: Path) -> None:
    with plant(tmp_path) as made:
        rows_flow(made, 8.0)
        evidence = prove(made)
    assert not [hole for hole in evidence.holes if "skipped" not in hole.reason]


def test_a_broker_that_is_stopped_for_30_seconds_costs_nothing(tmp_path: Path) -> None:
    with plant(tmp_path) as made:
        rows_flow(made)
        made.broker.stop()
        rows_flow(made, 30.0)
        made.broker.start()
        rows_flow(made, 5.0)
        prove(made)


def test_a_broker_killed_under_load_costs_nothing(tmp_path: Path) -> None:
    with plant(tmp_path) as made:
        for _ in range(3):
            rows_flow(made)
            made.broker.kill()
            rows_flow(made, 1.0)
            made.broker.start()
        rows_flow(made, 5.0)
        prove(made)


def test_an_edge_killed_while_the_broker_is_down_costs_only_the_declared_absence(tmp_path: Path) -> None:
    with plant(tmp_path) as made:
        rows_flow(made)
        made.broker.stop()
        rows_flow(made, 5.0)
        made.edge.kill()
        time.sleep(2.0)
        made.edge.start()
        time.sleep(5.0)
        made.broker.start()
        rows_flow(made, 5.0)
        evidence = prove(made)
    assert any("not running" in hole.reason for hole in evidence.holes)


def test_an_edge_killed_at_twenty_random_moments_loses_nothing_it_had_committed(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    print(f"seed {SEED}")
    with plant(tmp_path) as made:
        wait_until(lambda: made.database.exists(), "the first readings")
        for _ in range(20):
            time.sleep(moments.uniform(0.3, 3.5))
            made.edge.kill()
            made.edge.start()
        rows_flow(made, 5.0)
        prove(made)
    assert made.edge.starts >= 21


def test_an_ingest_killed_at_random_moments_stores_everything_exactly_once(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    print(f"seed {SEED}")
    with plant(tmp_path) as made:
        for _ in range(6):
            time.sleep(moments.uniform(1.0, 4.0))
            made.ingest.kill()
            made.ingest.start()
        rows_flow(made, 5.0)
        prove(made)


def test_a_simulator_killed_and_restarted_shows_as_bad_and_recovers(tmp_path: Path) -> None:
    with plant(tmp_path) as made:
        rows_flow(made)
        made.simulator.kill()
        rows_flow(made, 4.0)
        made.simulator.start()
        rows_flow(made, 6.0)
        evidence = prove(made)
    for name, rows in evidence.rows.items():
        assert (rows.quality >= 0x80000000).any(), f"{name} was never Bad"
        assert rows.quality[-1] == 0, f"{name} did not recover"


@pytest.mark.parametrize("silence", [30.0, pytest.param(200.0, marks=pytest.mark.timeout(400))])
def test_a_link_that_goes_silent_with_its_sockets_open_and_is_then_reset_costs_nothing(
    tmp_path: Path, silence: float
) -> None:
    """A dead modem: no FIN, no RST, bytes vanish into the kernel's buffers. This is where others lose data."""
    with plant(tmp_path, edge_through_proxy=True) as made:
        assert made.proxy is not None
        rows_flow(made)
        made.proxy.do("mode hold")
        rows_flow(made, silence)
        made.proxy.do("reset")
        made.proxy.do("mode forward")
        rows_flow(made, 8.0)
        prove(made)


def test_a_link_that_swallows_bytes_for_a_while_costs_nothing(tmp_path: Path) -> None:
    with plant(tmp_path, edge_through_proxy=True) as made:
        assert made.proxy is not None
        rows_flow(made)
        made.proxy.do("mode discard")
        rows_flow(made, 20.0)
        made.proxy.do("mode forward")
        made.proxy.do("reset")
        rows_flow(made, 6.0)
        prove(made)


def test_a_link_that_breaks_again_and_again_costs_nothing(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    with plant(tmp_path, edge_through_proxy=True) as made:
        assert made.proxy is not None
        made.proxy.do("delay 0.05")
        for _ in range(12):
            time.sleep(moments.uniform(0.2, 2.5))
            made.proxy.do(moments.choice(["cut", "reset"]))
        rows_flow(made, 5.0)
        prove(made)


def test_connections_that_overtake_each_other_cost_nothing(tmp_path: Path) -> None:
    """Bytes of a session that was given up arrive in the next one's time; so does a CONNECT, and takes the session."""
    impatient = SITE.replace("    ack_timeout:", "    connect_timeout: 1 s\n    ack_timeout:")
    with plant(tmp_path, edge_through_proxy=True, site_template=impatient, ack_timeout="1 s") as made:
        proxy = made.proxy
        assert proxy is not None
        wait_until(lambda: made.edge.said(CONNECTED), "the first session")
        rows_flow(made, 1.0)
        for late in ("PUBLISH", "CONNECT", "PUBLISH"):
            if late == "CONNECT":
                proxy.do("mode hold")
                proxy.do("cut")
                before = proxy.accepted
                wait_until(lambda: proxy.accepted > before, "a connection that is held up")  # noqa: B023
            proxy.do("strand")
            proxy.do("mode forward")
            before = proxy.accepted
            wait_until(lambda: proxy.accepted > before, "a connection that overtakes it")  # noqa: B023
            time.sleep(0.5)
            proxy.do("arrive")
            rows_flow(made, 0.7)
        prove(made)


def test_a_line_of_64_kbit_and_300_ms_that_breaks_costs_nothing(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    with plant(tmp_path, edge_through_proxy=True) as made:
        assert made.proxy is not None
        wait_until(lambda: made.edge.said(CONNECTED), "the first session")
        made.proxy.do("bandwidth 8000")
        made.proxy.do("delay 0.3")
        for _ in range(3):
            time.sleep(moments.uniform(0.5, 2.5))
            made.proxy.do(moments.choice(["cut", "reset"]))
        rows_flow(made, 2.0)
        made.proxy.do("bandwidth 0")
        made.proxy.do("delay 0")
        prove(made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where root may make one."""
    place = tmp_path / "edge"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here (root may)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    filler = disk / "somebody-elses-file"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return filler


def test_a_full_disk_is_declared_as_a_loss_and_the_daemon_goes_on(tmp_path: Path, small_disk: Path) -> None:
    """Others may fill the disk too. What could not be kept is a gap in the store, not a silence."""
    with plant(tmp_path) as made:
        rows_flow(made)
        made.broker.stop()
        rows_flow(made, 2.0)
        filler = fill(small_disk)
        rows_flow(made, 12.0)
        filler.unlink()
        made.broker.start()
        rows_flow(made, 6.0)
        evidence = prove(made)
    print([hole.reason for hole in evidence.holes])


def test_a_store_that_refuses_writes_for_30_seconds_costs_nothing(tmp_path: Path) -> None:
    """InfluxDB's own engine behind a proxy that answers 503; the broker keeps what ingest does not acknowledge."""
    (tmp_path / "plant").mkdir()
    with InfluxDB(tmp_path / "influxdb") as engine, InfluxProxy(engine.url) as proxy:
        engine.create("plant")
        store = f"store: {{type: influxdb, url: '{proxy.url}', bucket: plant, token: {proxy.token}}}"

        def stored() -> int:
            counts = engine.query("plant", "SELECT count(quality) FROM readings")
            return int(counts[0]["count"]) if counts else 0

        with plant(tmp_path / "plant", store=store) as made:
            rows_flow(made)
            proxy.refuse.set()
            rows_flow(made, 30.0)
            held = stored()
            proxy.refuse.clear()
            rows_flow(made)
            assert made.edge.stop() == 0
            made.settle()
            appended = made.account().appended
            wait_until(lambda: stored() >= appended, "the store to have it all")
            assert stored() == appended > held


STORE_ACKNOWLEDGES = SITE.replace(
    "    ack_timeout: {ack_timeout}\n",
    "    ack_timeout: {ack_timeout}\n    acknowledge: store\n    patience: 2 s\n    settle: 0 s\n",
)


def test_a_broker_that_loses_its_disk_costs_nothing_where_the_store_acknowledges(tmp_path: Path) -> None:
    """What the broker had acknowledged, and nobody had stored, is gone with it; the gateway still has it."""
    with plant(tmp_path, site_template=STORE_ACKNOWLEDGES) as made:
        rows_flow(made)
        made.ingest.kill()
        before = made.account().last
        wait_until(lambda: made.account().last > before + 20, "readings that only the broker has")
        made.broker.kill()
        made.broker.forget()
        made.broker.start()
        made.ingest.start()
        wait_until(lambda: made.ingest.said("READY") >= 2, "ingest's subscription")
        rows_flow(made, 4.0)
        prove(made)
    ledger = Ledger(tmp_path / "cloud" / "account.sqlite")
    (standing,) = ledger.standings()
    assert standing.undeclared == ()
    assert standing.stored == made.account().last
    ledger.close()
