"""Messages that nobody takes are kept, in bounded room, with their reason."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.deadletters import DeadLetters, read
from gateway.metrics import Metrics


def test_what_is_set_aside_can_be_read_again(tmp_path: Path) -> None:
    metrics = Metrics()
    letters = DeadLetters(tmp_path / "dead", metrics)
    letters.put("plantbridge/厂/columns", b"\x00\xff", "不对")
    letters.put("b", b"", "why")
    assert read(tmp_path / "dead") == [("plantbridge/厂/columns", b"\x00\xff", "不对"), ("b", b"", "why")]
    assert metrics.registry.get_sample_value("plantbridge_dead_letters_total") == 2
    line = orjson.loads((tmp_path / "dead" / "dead-letters.jsonl").read_bytes().splitlines()[0])
    assert sorted(line) == ["payload", "reason", "time", "topic"]


def test_the_oldest_give_way_when_the_room_is_used_up(tmp_path: Path) -> None:
    """A gateway that sends rubbish for a month must not fill the disk."""
    letters = DeadLetters(tmp_path, Metrics(), file_size=2_000, files=3)
    for number in range(200):
        letters.put("t", b"x" * 100, str(number))
    kept = [int(reason) for _, _, reason in read(tmp_path)]
    assert kept == list(range(kept[0], 200))
    assert len(list(tmp_path.iterdir())) == 3
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 6_000


def test_one_that_is_larger_than_a_file_is_kept_all_the_same(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path, Metrics(), file_size=1_000, files=2)
    letters.put("t", b"x" * 5_000, "large")
    letters.put("t", b"y", "small")
    assert [len(payload) for _, payload, _ in read(tmp_path)] == [5_000, 1]


def test_several_threads_may_set_aside_at_once(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path, Metrics())
    threads = [
        threading.Thread(target=lambda: [letters.put("t", b"x" * 1000, "r") for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path)) == 80


def test_a_disk_that_does_not_take_them_is_said_loudly_and_stops_nothing(tmp_path: Path) -> None:
    """A publisher meets a refused message and a full disk at once: the daemon must not die of the two."""
    (tmp_path / "dead").write_text("a file where the directory should be")
    metrics = Metrics()
    with capture_logs() as logs:
        DeadLetters(tmp_path / "dead", metrics).put("t", b"x", "refused")
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert metrics.registry.get_sample_value("plantbridge_dead_letters_total") == 1


def test_half_a_line_on_a_full_disk_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = DeadLetters(tmp_path, Metrics())
    letters.put("t", b"one", "first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        letters.put("t", b"two", "second")
    letters.put("t", b"three", "third")
    assert [payload for _, payload, _ in read(tmp_path)] == [b"one", b"three"]
