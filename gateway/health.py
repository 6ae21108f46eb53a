"""What is well and what is not, and how others ask: /healthz and /metrics over HTTP, and systemd's notifications.

Health holds the last known state of links, devices and publishers; it is written by the loop thread and read by the
HTTP server's thread, as whole values. /healthz answers 200 while the daemon's loop turns, 503 otherwise (a journal
that fails ends the process); what else is wrong (a silent device, a broker away) is in its body as "problems", because
a restart of the daemon would not mend it.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import orjson

from gateway.errors import GatewayError
from gateway.metrics import Metrics

STUCK_AFTER: Final = 10.0  # s without a turn of the event loop


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether something is up, since when (ns), and why not."""

    up: bool
    since: int
    reason: str = ""

    def told(self) -> dict[str, Any]:
        """Give it for people and programs: the time as ISO 8601 in UTC."""
        since = datetime.datetime.fromtimestamp(self.since // 10**9, datetime.UTC)
        return {"up": self.up, "since": since.isoformat().replace("+00:00", "Z"), "reason": self.reason}


class Health:
    """The state of everything that can be up or down."""

    def __init__(self) -> None:
        self._conditions: dict[str, dict[str, Condition]] = {"links": {}, "devices": {}, "publishers": {}}
        self._commands: dict[str, str] = {"state": "off"}
        self.journal: Callable[[], str] = str  # why the journal cannot keep what is read; set by who has one
        self.clock: Callable[[], str] = str  # why readings have no time; set by who has a clock to mind
        self._configuration = ""
        self._beat = time.monotonic()

    def link(self, name: str, *, up: bool, reason: str = "") -> bool:
        """Set a link's state; give whether that is a change."""
        return self._set("links", name, up, reason)

    def device(self, name: str, *, up: bool, reason: str = "") -> bool:
        """Set a device's state; give whether that is a change."""
        return self._set("devices", name, up, reason)

    def publisher(self, name: str, *, up: bool, reason: str = "") -> bool:
        """Set a publisher's state; give whether that is a change."""
        return self._set("publishers", name, up, reason)

    def configuration(self, problem: str) -> None:
        """Say why the configuration in the files is not the one that runs; empty where it is."""
        self._configuration = problem

    def forget(self, kind: str, name: str) -> None:
        """Forget one of the links, devices or publishers: it is not configured any more."""
        self._conditions[kind] = {each: state for each, state in self._conditions[kind].items() if each != name}

    def reason(self, kind: str, name: str) -> str:
        """Why one of the links, devices or publishers is down, where it is."""
        found = self._conditions[kind].get(name)
        return found.reason if found is not None and not found.up else ""

    def well(self, kind: str) -> frozenset[str]:
        """Give the links, devices or publishers that are up."""
        return frozenset(name for name, state in tuple(self._conditions[kind].items()) if state.up)

    def commands(self, *, isolated: bool, reason: str = "") -> None:
        """Set whether commands are carried out; without a call they are off."""
        self._commands = {"state": "isolated", "reason": reason} if isolated else {"state": "on"}

    def beat(self) -> None:
        """Say that the event loop turns."""
        self._beat = time.monotonic()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._beat < STUCK_AFTER

    def report(self) -> dict[str, Any]:
        """Give the state as JSON-ready data."""
        problems = [
            f"{kind[:-1]} {name} is down: {condition.reason or 'no reason known'}"
            for kind, conditions in self._conditions.items()
            for name, condition in sorted(conditions.items())
            if not condition.up
        ]
        if self._configuration:
            problems.insert(0, self._configuration)
        commands = self._commands
        if commands["state"] == "isolated":
            problems.append(f"the gateway is isolated, nothing is written: {commands['reason']}")
        problems += filter(None, (self.clock(), self.journal()))
        status = "stuck" if not self.alive else "degraded" if problems else "ok"
        states = {
            kind: {name: condition.told() for name, condition in sorted(conditions.items())}
            for kind, conditions in self._conditions.items()
        }
        configuration = self._configuration
        return {
            "status": status, "problems": problems, "commands": commands, "configuration": configuration,
            "clock": self.clock(), **states
        }  # fmt: skip

    def _set(self, kind: str, name: str, up: bool, reason: str) -> bool:
        conditions = self._conditions[kind]
        before = conditions.get(name)
        if before is not None and before.up == up:
            if before.reason != reason:
                conditions[name] = Condition(up, before.since, reason)
            return False
        conditions[name] = Condition(up, time.time_ns(), reason)
        return True


def split_listen(text: str) -> tuple[str, int]:
    """Read host:port or [v6]:port. Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected host:port such as 127.0.0.1:9464 or [::1]:9464, got {text!r}")
    return host.strip("[]"), int(port)


class _QuietHandler(WSGIRequestHandler):
    timeout = 5.0

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server6(WSGIServer):
    address_family = socket.AF_INET6


def serve(listen: str, metrics: Metrics, health: Health) -> Callable[[], None]:
    """Serve /metrics and /healthz in a thread; give the function that ends it. Raises GatewayError."""
    host, port = split_listen(listen)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            start("200 OK", [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])
            return [metrics.text()]
        if path == "/healthz":
            status = "200 OK" if health.alive else "503 Service Unavailable"
            start(status, [("Content-Type", "application/json")])
            return [orjson.dumps(health.report(), option=orjson.OPT_INDENT_2)]
        start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"/metrics and /healthz are here\n"]

    try:
        server = make_server(
            host, port, answer, server_class=_Server6 if ":" in host else WSGIServer, handler_class=_QuietHandler
        )
    except OSError as error:
        raise GatewayError(
            f"cannot listen on {listen} for metrics: {error.strerror}; choose another address under `metrics: listen:`,"
            " or null to turn it off"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", kwargs={"poll_interval": 0.5}, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def notify(state: str) -> None:
    """Tell systemd, where it started us (sd_notify(3)): READY=1, WATCHDOG=1, STOPPING=1, STATUS=..."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        try:
            peer.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return  # a service manager that went away is no reason to end


async def heartbeat(health: Health) -> None:
    """Beat for /healthz and for systemd's watchdog until cancelled."""
    watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    pause = min(1.0, watchdog / 3) if watchdog else 1.0
    while True:
        health.beat()
        if watchdog:
            notify("WATCHDOG=1")
        await asyncio.sleep(pause)
