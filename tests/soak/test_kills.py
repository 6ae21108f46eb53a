"""kill -9 of anything at random moments, a few hundred times: what was committed is in the store exactly once.

Two plants. In one the store is a DuckDB file, the broker acknowledges and is killed with its disk. In the other it is
PostgreSQL, killed too (with all its children), the store acknowledges, and every other killed broker has lost its disk.
Several may be down at once, and one may be killed while it is still starting.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.ledger import Ledger
from tests.e2e.conftest import prove
from tests.e2e.plant import Plant, Process, plant, wait_until
from tests.e2e.test_faults import STORE_ACKNOWLEDGES
from tests.servers import Mosquitto
from tests.soak.conftest import asked
from tests.stores_servers import Postgres

ROUNDS = asked("ROUNDS", 200)
SEED = asked("SEED", 20261122)


@dataclass(frozen=True)
class Victim:
    """What can be killed, and how it comes back."""

    name: str
    kill: Callable[[], None]
    start: Callable[[], object]
    running: Callable[[], object]


def of_process(process: Process) -> Victim:
    return Victim(process.name, process.kill, process.start, lambda: process.running)


def of_server(name: str, server: Mosquitto | Postgres, kill: Callable[[], None]) -> Victim:
    return Victim(name, kill, server.start, lambda: server.process is not None)


def revive(victims: list[Victim]) -> bool:
    """Start what does not run, as service units do: ingest ends too, where it finds no store. Tell if there was any."""
    down = [victim for victim in victims if not victim.running()]
    for victim in down:
        victim.start()
    return bool(down)


def kill_postgres(server: Postgres) -> None:
    """kill -9 of the postmaster and of all its children, so that none of them ends in order."""
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.stop(signal.SIGKILL)
    for child in map(int, children):
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "PostgreSQL's children to end")


def murder(victims: list[Victim]) -> Counter[str]:
    """Kill one or two victims a round, at random moments; give how often each was killed."""
    moments = random.Random(SEED)
    killed: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(1, ROUNDS + 1):
        time.sleep(moments.uniform(0.05, 3.0))
        chosen = moments.sample(victims, moments.choice((1, 1, 1, 2)))
        for victim in chosen:
            victim.kill()
            killed[victim.name] += 1
        time.sleep(moments.uniform(0.0, 1.0))
        moments.shuffle(victims)
        revive(victims)
        if number % 20 == 0:
            print(f"round {number}, {time.monotonic() - began:.0f} s: {dict(killed)}", flush=True)
    calm = time.monotonic() + 5.0  # here time itself is what is needed: some scans without trouble
    while time.monotonic() < calm:
        time.sleep(0.2)
        if revive(victims):
            calm = time.monotonic() + 15.0
    return killed


def show_losses(made: Plant, killed: Counter[str]) -> None:
    """Print what a reader of docs/reliability.md wants to know, and hold the ledger against the journal."""
    ledger = Ledger(made.directory / "cloud" / "account.sqlite")
    (standing,) = ledger.standings()
    ledger.close()
    print(f"seed {SEED}, {ROUNDS} rounds, killed {dict(killed)}; stored {made.account().appended} readings; {standing}")
    assert standing.undeclared == ()


@pytest.mark.timeout(600 + 20 * ROUNDS)
def test_edge_broker_and_ingest_killed_at_random_moments_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    with plant(tmp_path) as made:
        wait_until(made.database.exists, "the first readings")
        broker = of_server("broker", made.broker, made.broker.kill)
        killed = murder([of_process(made.edge), of_process(made.ingest), broker])
        prove(made)
        show_losses(made, killed)


@pytest.mark.timeout(600 + 20 * ROUNDS)
def test_killed_beside_a_server_as_store_and_brokers_that_forget_nothing_is_lost(tmp_path: Path) -> None:
    moments = random.Random(SEED + 1)
    with tempfile.TemporaryDirectory(prefix="plantbridge-soak-") as scratch, Postgres(Path(scratch)) as server:
        store = f"store: {{type: postgres, url: '{server.url}'}}"
        with plant(tmp_path, store=store, site_template=STORE_ACKNOWLEDGES, postgres=server) as made:

            def kill_broker() -> None:
                made.broker.kill()
                if moments.random() < 0.5:
                    made.broker.forget()
                    forgot.append(1)

            forgot: list[int] = []
            wait_until(lambda: made.stored() > 0, "the first readings")
            victims = [
                of_process(made.edge),
                of_process(made.ingest),
                of_server("broker", made.broker, kill_broker),
                of_server("store", server, lambda: kill_postgres(server)),
            ]
            killed = murder(victims)
            prove(made)
            killed["broker, with its disk lost"] = len(forgot)
            show_losses(made, killed)
