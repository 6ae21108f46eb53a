"""The gateway's own clock, wrong and set: real processes, and a wall clock that the test sets (tests/clock)."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from gateway.clock import BACK, FORWARD
from gateway.local.client import ask
from tests.e2e import proof
from tests.e2e.conftest import prove
from tests.e2e.plant import Plant, environment, plant, wait_until

SECOND = 10**9
HOUR = 3600 * SECOND


class Wall:
    """The wall clock of one process."""

    def __init__(self, directory: Path, off: int) -> None:
        self.file = directory / "clock"
        self.file.write_bytes(bytes(8))
        self.set(off)

    def set(self, off: int) -> None:
        """Let the clock be off by so many ns."""
        with self.file.open("r+b") as file:
            file.write(struct.pack("<q", off))

    @property
    def environment(self) -> dict[str, str]:
        path = environment()["PYTHONPATH"]
        return {"PYTHONPATH": f"{Path(__file__).parents[1] / 'clock'}:{path}", "TEST_CLOCK": str(self.file)}


def more(site: Plant, readings: int = 60) -> None:
    """Wait until so many readings more are in the journal."""
    wanted = site.account().appended + readings
    wait_until(lambda: site.account().appended >= wanted, "more readings")


def test_a_boot_in_1970_costs_no_reading_and_no_date_even_when_it_is_killed(tmp_path: Path) -> None:
    """The broker is there, the time is not; a kill -9 in between; then NTP sets the clock."""
    wall = Wall(tmp_path, 100 * SECOND - time.time_ns())
    with plant(tmp_path, edge_environment=wall.environment) as site:
        wait_until(lambda: site.edge.said("The clock is not known"), "the clock to be doubted")
        wait_until(lambda: (tmp_path / "edge" / "journal" / "journal.sqlite").exists(), "a journal")
        more(site)
        status = ask(tmp_path / "edge", {"ask": "status", "over": 0.0})
        assert "readings are kept and dated when it is" in status["clock"]["trouble"]
        site.edge.kill()
        site.edge.start()
        more(site)
        wait_until(lambda: ask(tmp_path / "edge", {"ask": "status", "over": 0.0})["publishers"][0]["up"], "the broker")
        assert site.stored() == 0
        wall.set(0)
        wait_until(lambda: site.edge.said("The clock is known"), "the clock to be believed")
        held = site.account().appended
        wait_until(lambda: site.stored() > held, "what was held, and what is new")
        evidence = prove(site)
    assert not any(rows.time.min() < time.time_ns() - HOUR for rows in evidence.rows.values())
    assert {hole.reason for hole in evidence.holes} <= {"the gateway was not running", "skipped scan"}


def test_a_clock_that_is_set_by_an_hour_costs_no_scan_and_no_reading(tmp_path: Path) -> None:
    """An hour forward, back again, and some seconds more: those come twice, and are stored twice."""
    wall = Wall(tmp_path, 0)
    with plant(tmp_path, edge_environment=wall.environment) as site:
        wait_until(lambda: site.stored() > 100, "readings")
        for number, off in enumerate((HOUR, -3 * SECOND), 1):
            wall.set(off)
            wait_until(lambda number=number: site.edge.said("The clock was set.") == number, "the step to be told")  # type: ignore[misc]
            began, before = time.monotonic(), site.account().appended
            more(site, 70)
            # 17 tags in each quarter of a second, and what was not committed yet; a full report of what stands still
            assert site.account().appended - before < 17 * (4 * (time.monotonic() - began) + 12)
        site.down()
        evidence = site.evidence()
        account = site.account()
    assert evidence.count == account.appended - account.dropped > 0
    assert proof.duplicates(evidence) == 0
    assert proof.undeclared(evidence, site.site) == {}
    told = {hole.reason.removesuffix("3 s"): hole.end - hole.start for hole in evidence.holes if "clock" in hole.reason}
    assert told == {FORWARD: pytest.approx(HOUR, abs=2 * SECOND), f"{BACK} 360": 0}
    skipped = [hole for hole in evidence.holes if hole.reason == "skipped scan"]
    assert sum(hole.end - hole.start for hole in skipped) < HOUR / 2  # an hour that never was has no scans to miss
    now = time.time_ns()
    assert all((rows.time > now + HOUR // 2).any() for rows in evidence.rows.values())
    for rows in evidence.rows.values():  # of that hour: each reading is an hour ahead, and right but for that
        ahead = rows.time > now + HOUR // 2
        rows.value = [value for value, kept in zip(rows.value, ahead, strict=True) if kept]
        rows.time, rows.quality = rows.time[ahead] - HOUR, rows.quality[ahead]
    assert proof.wrong(evidence, site.site, 2.0) == []
