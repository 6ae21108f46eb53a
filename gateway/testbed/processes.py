"""The processes of a whole path: simulators, broker, ingest, edge daemon; each the real command, on this machine.

Everything listens on ports of the system's choice on 127.0.0.1 and keeps its files below one directory: the site and
cloud files as run, logs, journal, store. They start in the order in which they are needed (nobody publishes before
ingest has subscribed), and end in the order of the data's way, each when the one before it has handed over everything.
Where a plan wants it, a proxy (simulators.faults) stands between the edge daemon and the broker.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.config import Site, load_site
from gateway.config.shipped import shipped
from gateway.errors import GatewayError

START: Final = 90.0  # s that a process has to be ready; the machine may be slow and busy
END: Final = 30.0  # s that a process has to end in order, and that the store has to take the last readings

_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = Mapping[tuple[str, tuple[str, ...]], float]


class ChainFailed(GatewayError):
    """A process of the path did not do its part."""


@dataclass(slots=True)
class Usage:
    """What the edge daemon needed."""

    cpu_seconds: float = 0.0
    rss_mb: float = 0.0


@dataclass(slots=True)
class Process:
    """One running command and the file that its output goes to."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def end(self) -> None:
        """Ask it to end; kill it where it does not."""
        if self.running:
            self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(END)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def last_words(self) -> str:
        """Give the end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: from whose site file, with which files, and how the edge daemon is started."""

    simulated: Path
    write: Callable[[Chain], None]  # makes the files, once the ports are known
    edge: Callable[[Chain], tuple[Sequence[str], Path | None]]  # arguments for Python, and a file for its number in {}
    simulate: Sequence[str] = ()  # more arguments of `plantbridge simulate`
    proxied: bool = False


@dataclass(slots=True)
class Chain:
    """All processes of one path, in a directory."""

    data: Path
    plan: Plan
    broker_port: int = 0
    proxy_port: int = 0  # of the proxy in front of the broker, for the edge daemon; 0: there is none
    edge_port: int = 0
    ingest_port: int = 0
    usage: Usage = field(default_factory=Usage)
    published_bytes: int = 0
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def links(self) -> Path:
        """Where the simulators say their addresses."""
        return self.data / "links.json"

    @property
    def site(self) -> Path:
        return self.data / "site.yaml"

    @property
    def cloud(self) -> Path:
        return self.data / "cloud.yaml"

    @property
    def database(self) -> Path:
        return self.data / "cloud" / "plantbridge.duckdb"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    def start(self) -> None:
        """Start everything, in order. Raises ChainFailed."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.links.unlink(missing_ok=True)
        self._start("broker", "-m", "simulators.broker")
        self._await("broker", lambda: self.processes["broker"].log.read_text().strip().isdigit())
        self.broker_port = int(self.processes["broker"].log.read_text())
        if self.plan.proxied:
            self._start("proxy", "-m", "simulators.faults", f"127.0.0.1:{self.broker_port}")
            self._await("proxy", lambda: bool(self.processes["proxy"].log.read_text().strip()))
            self.proxy_port = int(self.processes["proxy"].log.read_text().split()[0])
        self.edge_port, self.ingest_port = free_port(), free_port()
        self.plan.write(self)
        self.simulate()
        self._start("ingest", "-m", "gateway", "ingest", str(self.cloud))
        self.await_simulators()
        self._await("ingest", self._subscribed)
        arguments, given = self.plan.edge(self)
        self._start("run", *arguments, given=given)
        self._await("run", lambda: bool(health(self.edge_port)))

    def simulate(self) -> None:
        """Start the simulators only."""
        words = ["--map", str(self.links), *self.plan.simulate]
        self._start("simulate", "-m", "gateway", "simulate", str(self.plan.simulated), *words)

    def disturb(self, *words: str) -> None:
        """Tell the proxy between edge daemon and broker what to do: delay 0.2, down, up, mode hold, ..."""
        process = self.processes["proxy"].popen
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(" ".join(words).strip().encode() + b"\n")
            process.stdin.flush()

    def load(self) -> Site:
        """Read the site file as it runs."""
        return load_site(self.site)

    def watch(self) -> tuple[Samples, Samples]:
        """Give the edge's and ingest's metrics, and note what the edge needs. Raises ChainFailed."""
        for process in self.processes.values():
            if not process.running:
                raise ChainFailed(f"{process.name} ended by itself; its last words:\n{process.last_words()}")
        return self._watch_edge(), metrics(self.ingest_port)

    def stop(self) -> None:
        """End in order: the edge sends what it has, the store takes it, then the others go."""
        edge = self.processes.get("run")
        if edge is not None and edge.running:
            self._watch_edge()
            edge.popen.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + END
            while edge.running and time.monotonic() < deadline:
                self._watch_edge()
                time.sleep(0.02)
            edge.end()
        self._let_store_finish()
        for name in ("ingest", "proxy", "broker", "simulate"):
            if name in self.processes:
                self.processes[name].end()

    def errors(self) -> list[str]:
        """Give what the daemons logged as errors: the first of each."""
        found = []
        for process in self.processes.values():
            lines = process.log.read_text(errors="replace").splitlines()
            wrong = [line for line in lines if '"level": "error"' in line or '"level":"error"' in line]
            if wrong:
                found.append(f"{process.name}: {wrong[0]} ({len(wrong)} such lines in {process.log})")
        return found

    def kill(self) -> None:
        """End everything at once."""
        for process in self.processes.values():
            if process.running:
                process.popen.kill()
                process.popen.wait()

    # ------------------------------------------------------------------------------------------ the pieces

    def _start(self, name: str, *arguments: str, given: Path | None = None) -> None:
        log = self.logs / f"{name}.log"
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("wb"))
            number = stack.enter_context(given.open("rb")).fileno() if given is not None else None
            popen = subprocess.Popen(
                [sys.executable, *(str(number) if each == "{}" else each for each in arguments)],
                stdin=subprocess.PIPE if name == "proxy" else subprocess.DEVNULL,
                pass_fds=() if number is None else (number,),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we end the others in order
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        self.processes[name] = Process(name, popen, log)

    def _subscribed(self) -> bool:
        links = health(self.ingest_port).get("links", {})
        return bool(links.get("broker", {}).get("up"))

    def await_simulators(self) -> None:
        """Wait until the simulators listen. Raises ChainFailed."""
        self._await("simulate", self.links.exists)

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START
        process = self.processes[name]
        while not ready():
            if not process.running:
                raise ChainFailed(f"{name} ended before it was ready; its last words:\n{process.last_words()}")
            if time.monotonic() > deadline:
                raise ChainFailed(f"{name} was not ready within {START:g} s; its last words:\n{process.last_words()}")
            time.sleep(0.05)

    def _watch_edge(self) -> Samples:
        process = self.processes["run"]
        samples = metrics(self.edge_port)
        self.published_bytes = max(self.published_bytes, round(total(samples, "plantbridge_published_bytes_total")))
        usage = measure(process.popen.pid)
        if usage is not None:
            self.usage.cpu_seconds = max(self.usage.cpu_seconds, usage.cpu_seconds)
            self.usage.rss_mb = max(self.usage.rss_mb, usage.rss_mb)
        return samples

    def _let_store_finish(self) -> None:
        """Wait until ingest has nothing more to store: no progress for two seconds, or the time is up."""
        ingest = self.processes.get("ingest")
        if ingest is None:
            return
        deadline, seen, since = time.monotonic() + END, -1.0, time.monotonic()
        while ingest.running and time.monotonic() < deadline and time.monotonic() - since < 2.0:
            samples = metrics(self.ingest_port)
            now = total(samples, "plantbridge_stored_readings_total")
            now += total(samples, "plantbridge_duplicate_readings_total")
            if now != seen:
                seen, since = now, time.monotonic()
            time.sleep(0.1)


def demonstration(data: Path) -> Chain:
    """Give the path of the shipped demonstration, below a directory."""
    edge = ("-m", "gateway", "run", str(data / "site.yaml"), "--links", str(data / "links.json"))
    plan = Plan(data / "site.yaml", _write_shipped, lambda _chain: (edge, None), ("--free-ports",))
    return Chain(data, plan)


def _write_shipped(chain: Chain) -> None:
    """Put the shipped files here, with this demonstration's ports and directory."""
    source = shipped() / "demo"
    schema = (r"\$schema=\S+/(\w+\.json)", rf"$schema={shipped() / 'schema'}/\1")
    broker = (r"mqtt://127\.0\.0\.1:\d+", f"mqtt://127.0.0.1:{chain.broker_port}")
    for target, data, port in ((chain.site, ".", chain.edge_port), (chain.cloud, "cloud", chain.ingest_port)):
        text = (source / target.name).read_text(encoding="utf-8")
        listen = (r"(?m)^metrics: .*$", f'metrics: {{listen: "127.0.0.1:{port}"}}')
        for pattern, replacement in (schema, broker, listen, (r"(?m)^data: .*$", f"data: {data}")):
            text, count = re.subn(pattern, replacement, text)
            assert count, f"{target.name} has no {pattern}"
        target.write_text(text, encoding="utf-8")


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def health(port: int) -> Mapping[str, Any]:
    """Ask a daemon's /healthz; nothing where it does not answer, or not well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            report: Mapping[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return {}
    return report


def metrics(port: int) -> Samples:
    """Read a daemon's Prometheus text: (name, label values) -> number. Nothing where it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        (name, tuple(value for _, value in _LABEL.findall(labels))): float(number)
        for name, labels, number in _SAMPLE.findall(text)
    }


def total(samples: Samples, name: str, *labels: str) -> float:
    """Give the sum of a metric over all that begin with these label values."""
    return sum(value for (found, values), value in samples.items() if found == name and values[: len(labels)] == labels)


def measure(pid: int) -> Usage | None:
    """Give CPU time and largest memory of a process so far; None where this system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    largest = re.search(r"VmHWM:\s+(\d+) kB", status)
    return Usage(ticks, int(largest[1]) / 1024 if largest else 0.0)


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is killed (prctl PR_SET_PDEATHSIG)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
