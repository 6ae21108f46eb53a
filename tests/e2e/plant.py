"""A whole plant of real processes on loopback: simulators, edge daemon, broker, ingest, store.

Every process is started by this module and ended by its pid. Faults are what happens to processes and to the
connections between them; the proof afterwards is in tests/e2e/proof.py and knows nothing of the gateway's counters.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg

from gateway.journal import Survey, survey
from gateway.stores.inquiry import read
from tests.e2e import proof
from tests.servers import Mosquitto, free_port
from tests.stores_servers import Postgres

PLANTBRIDGE = [sys.executable, "-m", "gateway"]
DEADLINE = 90.0
LEFT = "Stopped before all was sent"
CONNECTED = "Connected, and messages are taken."


def wait_until(condition: Callable[[], object], what: str, within: float = DEADLINE, *, quiet: bool = False) -> None:
    """Wait for a condition with a deadline; fail with what was waited for, or (quiet) leave it to the proof."""
    deadline = time.monotonic() + within
    while not condition():
        if quiet and time.monotonic() > deadline:
            return
        assert time.monotonic() < deadline, f"waited {within:.0f} s in vain for {what}"
        time.sleep(0.05)


@dataclass
class Process:
    """One of our processes; its output goes to a file that is shown when a test fails."""

    name: str
    arguments: list[str]
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    popen: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def output(self) -> Path:
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        assert self.popen is None or self.popen.poll() is not None
        self.starts += 1
        with self.output.open("ab") as out:
            self.popen = subprocess.Popen(
                self.arguments, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=self.directory,
                env={**environment(), **self.environment},
            )  # fmt: skip

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait()

    def stop(self, within: float = 60.0) -> int:
        """Ask it to end in order; give its exit code."""
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(within)

    def pause(self) -> None:
        assert self.popen is not None
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.popen is not None
        self.popen.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def said(self, text: str) -> int:
        """Count the lines of output that hold `text`."""
        if not self.output.exists():
            return 0
        return sum(text in line for line in self.output.read_text(errors="replace").splitlines())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}


class Proxy:
    """The fault proxy (simulators/faults.py) as a process, told what to do line by line."""

    def __init__(self, target: int) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "simulators.faults", f"127.0.0.1:{target}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        assert self._popen.stdout is not None
        self.port = int(self._popen.stdout.readline().split()[-1])

    @property
    def accepted(self) -> int:
        """How many connections were made to it."""
        return int(self.do("counts").split()[0])

    def do(self, line: str) -> str:
        """Give one command; return the proxy's answer."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()
        return self._popen.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.communicate()


SITE = """
gateway: e2e
data: {data}
links:
  press-line:
    driver: modbus
    url: tcp://127.0.0.1:{modbus}
    timeout: 500 ms
    retry_first: 200 ms
    retry_longest: 1 s
    devices:
      press-1:
        unit_id: 1
        interval: {interval}
        tags:
          pressure: holding:0 float32 ABCD
          temperature: {{address: holding:2 int16, scale: 0.1, unit: °C}}
          speed: holding:3 uint16
          level: holding:4 float32 CDAB
          strokes: holding:6 uint32 CDAB
          energy: holding:8 uint64
          running: coil:0
          alarm: discrete:3
          batch: holding:20 text 8
      press-2:
        unit_id: 2
        interval: {interval}
        tags:
          pressure: input:0 float32 DCBA
          torque: {{address: input:2 int32 BADC, scale: 0.01}}
          flow: input:10 float64
publish:
  cloud:
    url: mqtt://{host}:{broker_port}
    client_id: e2e-edge
    keep_alive: {keep_alive}
    ack_timeout: {ack_timeout}
    retry_first: 200 ms
    retry_longest: 2 s
metrics: {{listen: null}}
"""

CLOUD = """
data: {data}
broker:
  url: mqtt://{host}:{broker_port}
  client_id: e2e-ingest
  retry_first: 200 ms
  retry_longest: 2 s
{store}
metrics: {{listen: null}}
"""


@dataclass
class Plant:
    """Everything, with what to write into the files. Start with `up()`."""

    directory: Path
    interval: str = "250 ms"
    keep_alive: str = "10 s"
    ack_timeout: str = "8 s"
    store: str = "store: {type: duckdb, path: store.duckdb}"
    site_template: str = SITE
    site_extra: str = ""
    postgres: Postgres | None = None  # the store, where `store` says so
    host: str = "127.0.0.1"  # the broker's address
    within: tuple[str, ...] = ()  # what runs the edge and the simulator elsewhere: ip netns exec NAME
    edge_through_proxy: bool = False  # put a fault proxy between the edge and the broker
    edge_environment: dict[str, str] = field(default_factory=dict)
    modbus: int = field(default_factory=free_port)
    proxy: Proxy | None = None

    def __post_init__(self) -> None:
        self.broker = Mosquitto(self.directory / "broker", persistence=True, address=self.host)
        self.simulator = self._process("simulate", str(self.site))
        self.edge = self._process("run", str(self.site))
        for process in (self.simulator, self.edge):
            process.arguments[:0] = self.within
        self.edge.environment = self.edge_environment
        self.ingest = self._process("ingest", str(self.cloud))

    def _process(self, command: str, *arguments: str) -> Process:
        return Process(command, [*PLANTBRIDGE, command, *arguments], self.directory)

    @property
    def site(self) -> Path:
        return self.directory / "site.yaml"

    @property
    def cloud(self) -> Path:
        return self.directory / "cloud.yaml"

    @property
    def database(self) -> Path:
        return self.directory / "cloud" / "store.duckdb"

    def up(self) -> None:
        """Start everything in the order a plant would."""
        self.broker.start()
        if self.edge_through_proxy:
            self.proxy = Proxy(self.broker.port)
        self.write()
        self.simulator.start()
        wait_until(lambda: self.simulator.said("READY"), "the simulator")
        self.ingest.start()
        wait_until(lambda: self.ingest.said("READY"), "ingest's subscription")
        self.edge.start()

    def write(self) -> None:
        text = self.site_template.format(
            data="./edge",
            modbus=self.modbus,
            host=self.host,
            interval=self.interval,
            broker_port=self.proxy.port if self.proxy else self.broker.port,
            keep_alive=self.keep_alive,
            ack_timeout=self.ack_timeout,
        )
        self.site.write_text(textwrap.dedent(text) + textwrap.dedent(self.site_extra), encoding="utf-8")
        self.cloud.write_text(
            CLOUD.format(data="./cloud", host=self.host, broker_port=self.broker.port, store=self.store),
            encoding="utf-8",
        )

    def pending(self) -> int:
        """Give how many records of the journal the broker has not acknowledged."""
        return sum(publisher.pending_records for publisher in self.account().publishers)

    def account(self) -> Survey:
        return survey(self.directory / "edge" / "journal")

    def down(self) -> None:
        """End in order: no more readings, all of them delivered, all of them stored."""
        assert self.edge.stop() == 0, self.edge.output.read_text()[-2000:]
        self.settle()
        account = self.account()
        wait_until(lambda: self.stored() >= account.appended - account.dropped, "the store to have it all", quiet=True)
        assert self.ingest.stop() == 0, self.ingest.output.read_text()[-2000:]
        self.simulator.stop()

    def stored(self) -> int:
        """Count the readings in the store, as `plantbridge query` does while ingest is writing."""
        if self.postgres is not None:
            with psycopg.connect(self.postgres.url) as connection:
                return int(connection.execute("SELECT count(*) FROM plantbridge.samples").fetchall()[0][0])
        with read(self.database, "SELECT count(*) AS n FROM readings") as stream:
            (count,) = [row["n"] for batch in stream for row in batch.to_pylist()] or [0]
            return int(count)

    def evidence(self) -> proof.Evidence:
        """Give all that is in the store, when nobody writes to it any more."""
        return proof.read_postgres(self.postgres.url) if self.postgres is not None else proof.read(self.database)

    def settle(self) -> None:
        """Make sure that the journal was delivered: where a stop left some behind, let the edge run once more.

        Where the store acknowledges, a stop leaves in the journal what is at the broker: that is delivered too.
        """
        told = 0
        for _ in range(5):
            if self.pending() == 0 or ("acknowledge: store" in self.site_template and self.edge.said(LEFT) == told):
                return
            told = self.edge.said(LEFT)
            self.let_connect()
            wait_until(lambda: self.pending() < 200, "the backlog to be sent", within=120.0)
            assert self.edge.stop() == 0
        raise AssertionError("the journal was never delivered in full")

    def let_connect(self) -> None:
        """Start the edge and wait for its session: a stop before that would end it before it listens to signals."""
        before = self.edge.said(CONNECTED)
        self.edge.start()
        wait_until(lambda: self.edge.said(CONNECTED) > before, "the edge's session")

    def end(self) -> None:
        """End whatever still runs."""
        for process in (self.edge, self.ingest, self.simulator):
            if process.running:
                process.resume()
                process.kill()
        self.broker.stop()
        if self.proxy:
            self.proxy.__exit__()

    def show(self) -> str:
        """Give the ends of all outputs, for a test that failed."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)


@contextlib.contextmanager
def plant(directory: Path, **settings: Any) -> Iterator[Plant]:
    """Give a plant that is up; end all its processes whatever happens, and show their output on failure."""
    made = Plant(directory, **settings)
    try:
        made.up()
        yield made
    except BaseException:
        print(made.show())
        raise
    finally:
        made.end()
