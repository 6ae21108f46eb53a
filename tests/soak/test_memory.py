"""Two hours of an ordinary plant: 2,000 tags at 1 s, a broker that is away now and then, a file that is changed.

Memory of the edge daemon and of ingest is taken from /proc each 10 s. The first third of the time is the warm-up, in
which DuckDB comes to keep as much of its file as it may. The medians of the sixth after it and of the last sixth may
differ by 5 MB: each holds several of DuckDB's checkpoints, between which it grows. At the end every reading is
accounted for.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from gateway.config import load_site
from gateway.ledger import Ledger
from tests.e2e import proof
from tests.e2e.plant import Plant, Process, plant, wait_until
from tests.servers import free_port
from tests.soak.conftest import asked

SECONDS = asked("SECONDS", 7200)
SEED = asked("SEED", 20261122)
SAMPLE = 10.0  # s
FLAT = 5.0  # MB
DEVICES = 10
OUTAGE = 30.0  # s
STORE = "store: {type: duckdb, path: store.duckdb, memory: 48 MB}"

HEAD = """
gateway: soak
data: {data}
links:
  press-line:
    driver: modbus
    url: tcp://127.0.0.1:{modbus}
    timeout: 1 s
    devices:
"""
TAIL = """
publish:
  cloud:
    url: mqtt://127.0.0.1:{broker_port}
    client_id: soak-edge
    keep_alive: {keep_alive}
    ack_timeout: {ack_timeout}
    retry_first: 200 ms
    retry_longest: 2 s
metrics: {{listen: null}}
"""


def site(opcua: int, *, watched: bool) -> str:
    """Give the site file: 1,800 Modbus tags on ten devices, 200 OPC UA nodes, and one tag that comes and goes."""
    lines = []
    for device in range(1, DEVICES + 1):
        lines += [f"      press-{device}:", f"        unit_id: {device}", "        interval: 1 s", "        tags:"]
        lines += [f"          f{n}: holding:{2 * n} float32" for n in range(80)]
        lines += [f"          u{n}: holding:{200 + n} uint16" for n in range(60)]
        lines += [f"          i{n}: holding:{300 + 2 * n} int32" for n in range(30)]
        lines += [f"          b{n}: coil:{n}" for n in range(10)]
    lines += [
        "      bench:",
        "        unit_id: 99",
        "        interval: 1 s",
        "        tags:",
        "          a: holding:0 int16",
    ]
    if watched:
        lines += ["          watched: holding:5 uint16"]
    lines += ["  boiler-house:", "    driver: opcua", f"    url: opc.tcp://127.0.0.1:{opcua}/soak", "    devices:"]
    lines += ["      boiler:", "        namespace: urn:soak", "        interval: 1 s", "        tags:"]
    lines += [f"          n{n}: s=N{n} float64" for n in range(200)]
    return HEAD + "\n".join(lines) + TAIL


def resident(process: Process) -> float:
    """Give the megabytes of memory that a process has now."""
    assert process.popen is not None
    for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"{process.name} has ended")


def samples(made: Plant, until: float) -> Iterator[tuple[float, float, float]]:
    """Give (seconds, edge, ingest) each 10 s."""
    began = following = time.monotonic()
    while following < until:
        time.sleep(max(0.0, following - time.monotonic()))
        following += SAMPLE
        yield time.monotonic() - began, resident(made.edge), resident(made.ingest)


def trouble(made: Plant, opcua: int, moments: random.Random, share: float) -> Iterator[tuple[float, str]]:
    """Do what goes wrong, at its time; give when the next is due (s). Outages and changes of the file take turns."""
    due, watched = share / 2, True
    while True:
        yield due, "a broker outage"
        made.broker.stop()
        back = due + min(OUTAGE, share / 3)
        yield back, "the broker's return"
        made.broker.start()
        due += share / 2 * moments.uniform(0.9, 1.1)
        yield due, "a change of the file"
        watched = not watched
        made.site_template = site(opcua, watched=watched)
        made.write()
        assert made.edge.popen is not None
        os.kill(made.edge.popen.pid, signal.SIGHUP)
        due += share / 2 * moments.uniform(0.9, 1.1)


@pytest.mark.timeout(SECONDS + 3600)
def test_memory_stays_flat_within_5_mb_and_every_reading_is_accounted_for(tmp_path: Path) -> None:
    figures = Path(os.environ.get("PLANTBRIDGE_SOAK_FIGURES", tmp_path))
    opcua, moments = free_port(), random.Random(SEED)
    print(f"{SECONDS} s, seed {SEED}, figures in {figures / 'memory.csv'}")
    taken: list[tuple[float, float, float]] = []
    with plant(tmp_path / "plant", site_template=site(opcua, watched=True), store=STORE) as made:
        wait_until(made.database.exists, "the first readings")
        faults = trouble(made, opcua, moments, share=SECONDS / 6)
        due, what = next(faults)
        with (figures / "memory.csv").open("w", encoding="ascii", buffering=1) as csv:
            csv.write("seconds,edge_mb,ingest_mb,event\n")
            for at, edge, ingest in samples(made, time.monotonic() + SECONDS):
                taken.append((at, edge, ingest))
                happens = ""
                if at >= due and at < SECONDS - 60:
                    happens, (due, what) = what, next(faults)
                csv.write(f"{at:.0f},{edge:.1f},{ingest:.1f},{happens}\n")
        if what == "the broker's return":
            next(faults)
        edge = judge("edge", [(at, mb) for at, mb, _ in taken])
        ingest = judge("ingest", [(at, mb) for at, _, mb in taken])
        made.down()
        account(made)
    assert max(edge, ingest) < FLAT


def judge(name: str, taken: list[tuple[float, float]]) -> float:
    """Give the growth in MB from the window after the warm-up to the last, and print what there is to know."""
    warm, window = SECONDS / 3, SECONDS / 6
    first = statistics.median(mb for at, mb in taken if warm <= at < warm + window)
    last = statistics.median(mb for at, mb in taken if at >= SECONDS - window)
    fit = statistics.linear_regression(*zip(*[each for each in taken if each[0] >= warm], strict=True))
    print(
        f"{name}: {first:.1f} MB after the warm-up, {last:.1f} MB at the end, {last - first:+.1f} MB; "
        f"highest {max(mb for _, mb in taken):.1f} MB, fit {fit.slope * 3600:+.2f} MB/h"
    )
    return last - first


def account(made: Plant) -> None:
    """Hold the store against the journal's account, the ledger and, device by device, the simulator and the clock."""
    survey = made.account()
    with duckdb.connect(str(made.database), read_only=True) as store:
        stored = store.execute("SELECT count(*) FROM readings").fetchall()[0][0]
        twice = sum(
            store.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM {table} GROUP BY series, time HAVING count(*) > 1)"
            ).fetchall()[0][0]
            for table in proof.TABLES
        )
    assert stored == survey.appended - survey.dropped > 0
    assert survey.dropped == twice == 0
    ledger = Ledger(made.directory / "cloud" / "account.sqlite")
    assert [standing.undeclared for standing in ledger.standings()] == [()]
    ledger.close()
    skipped = 0
    modbus = load_site(made.site).links[0]
    for device in modbus.devices:
        evidence = proof.read(made.database, device.name)
        mine = f"{device.name}/"
        assert {tag: at for tag, at in proof.undeclared(evidence, made.site).items() if tag.startswith(mine)} == {}
        assert proof.wrong(evidence, made.site, 3.0) == []
        skipped += len(evidence.holes)
    print(f"{stored} readings appended and stored, each once; gap records over all devices {skipped}")
