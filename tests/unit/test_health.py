"""Health, its HTTP page, and what systemd hears."""

from __future__ import annotations

import datetime
import json
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.health import Health, notify, serve, split_listen
from gateway.metrics import Metrics


@pytest.fixture
def page() -> Iterator[tuple[str, Health, Metrics]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    health, metrics = Health(), Metrics()
    stop = serve(listen, metrics, health)
    yield f"http://{listen}", health, metrics
    stop()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_prometheus_text(page: tuple[str, Health, Metrics]) -> None:
    url, _, metrics = page
    metrics.scans.labels("press", "default").inc(3)
    status, text = get(f"{url}/metrics")
    assert status == 200
    assert 'plantbridge_scans_total{device="press",group="default"} 3.0' in text


def test_a_silent_device_is_a_problem_but_no_reason_to_restart_the_daemon(page: tuple[str, Health, Metrics]) -> None:
    url, health, _ = page
    health.device("press", up=True)
    health.device("oven", up=False, reason="oven: no answer within 1 s from unit 7")
    status, text = get(f"{url}/healthz")
    body = json.loads(text)
    assert status == 200
    assert body["status"] == "degraded"
    assert body["problems"] == ["device oven is down: oven: no answer within 1 s from unit 7"]
    assert body["devices"]["press"]["up"]


def test_a_loop_that_does_not_turn_is_unhealthy(page: tuple[str, Health, Metrics]) -> None:
    url, health, _ = page
    health._beat -= 60
    assert get(f"{url}/healthz")[0] == 503
    health.beat()
    assert get(f"{url}/healthz")[0] == 200


def test_other_paths_say_where_to_look(page: tuple[str, Health, Metrics]) -> None:
    status, text = get(f"{page[0]}/")
    assert status == 404
    assert "/metrics" in text


def test_only_changes_are_changes() -> None:
    health = Health()
    assert health.link("line", up=False, reason="refused")
    assert not health.link("line", up=False, reason="timed out")
    assert health.report()["links"]["line"]["reason"] == "timed out"
    assert health.link("line", up=True)


def test_an_address_in_use_is_said_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(GatewayError, match="metrics: listen:"):
            serve(f"127.0.0.1:{taken.getsockname()[1]}", Metrics(), Health())


@pytest.mark.parametrize(
    ("text", "expected"), [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:80", ("::1", 80)), (":9000", ("", 9000))]
)
def test_listen_addresses_are_read(text: str, expected: tuple[str, int]) -> None:
    assert split_listen(text) == expected


@pytest.mark.parametrize("text", ["9464", "host", "host:", "host:99999", "host:abc"])
def test_a_listen_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_listen(text)


def test_systemd_hears_that_the_daemon_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(Path(directory) / "notify")
        manager.bind(path)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    notify("READY=1")


def test_since_when_is_told_as_a_time_that_people_read() -> None:
    health = Health()
    health.link("line", up=True)
    since = health.report()["links"]["line"]["since"]
    assert since.endswith("Z")
    assert abs(datetime.datetime.fromisoformat(since).timestamp() - time.time()) < 60


def test_a_journal_that_cannot_keep_what_is_read_is_a_problem(page: tuple[str, Health, Metrics]) -> None:
    """Devices and brokers may all be up while readings are lost."""
    url, health, _ = page
    health.link("line", up=True)
    health.journal = lambda: "the disk of /data is full"
    body = json.loads(get(f"{url}/healthz")[1])
    assert (body["status"], body["problems"]) == ("degraded", ["the disk of /data is full"])
