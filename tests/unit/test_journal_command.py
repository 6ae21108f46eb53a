"""`plantbridge journal`, beside a journal that is open and on one that is closed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.clock import UNDATED
from gateway.journal import Journal
from gateway.options import JournalOptions

SITE = """
gateway: demo
data: ./data
links:
  line:
    driver: replay
    url: "replay:generated"
    devices:
      press-1:
        tags: {pressure: sine float32}
publish:
  cloud: {url: "mqtt://127.0.0.1:1883"}
"""


def command(site: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "journal", str(site), *more], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


async def open_beside(site: Path, **more: str) -> Journal:
    options = JournalOptions(**more)
    return await Journal.open(site.parent / "data" / "journal", options, ["cloud", "plant"], lambda _: b"gap")


async def test_it_tells_what_is_there_while_the_daemon_runs(site: Path) -> None:
    journal = await open_beside(site)
    for n in range(10):
        journal.append(bytes(1000), 60, n * 10**9, n * 10**9 + 5)
    await journal.flush()
    journal.acknowledge("cloud", 1, 4, 240)
    await journal.flush()
    done = command(site, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["records"], found["readings"], found["bytes"], found["appended"]) == (10, 600, 10_000, 600)
    assert found["id"] == journal.id
    assert [(p["name"], p["delivered_readings"], p["pending_records"]) for p in found["publishers"]] == [
        ("cloud", 240, 6),
        ("plant", 0, 10),
    ]
    assert found["publishers"][0]["oldest"] == 4 * 10**9
    journal.append(b"more", 1)  # the daemon was not disturbed
    await journal.close()
    text = command(site)
    assert text.returncode == 0
    assert "361 readings in 7 records" in text.stdout
    assert "plant" in text.stdout


async def test_it_warns_of_dropped_readings_by_its_exit_code(site: Path) -> None:
    journal = await open_beside(site, max_size="5 kB")
    for _ in range(10):
        journal.append(bytes(1000), 60)
        await journal.flush()
    await journal.close()
    done = command(site)
    assert done.returncode == 1
    assert "dropped" in done.stdout


def test_no_journal_is_said(site: Path) -> None:
    done = command(site)
    assert done.returncode == 1
    assert "there is no journal" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_journal_is_said(site: Path) -> None:
    (site.parent / "data" / "journal").mkdir(parents=True)
    (site.parent / "data" / "journal" / "journal.sqlite").write_bytes(b"nonsense" * 1000)
    done = command(site)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr


async def test_what_was_taken_while_the_clock_was_not_known_is_counted_apart(site: Path) -> None:
    """Else the oldest reading would be one of 1823."""
    journal = await open_beside(site)
    journal.append(b"1", 1, 10**18, 10**18)
    journal.append(b"2", 1, UNDATED, UNDATED + 5)
    await journal.close()
    found = json.loads(command(site, "--json").stdout)
    assert (found["undated"], found["oldest"], found["newest"]) == (1, 10**18, 10**18)
    assert {each["oldest"] for each in found["publishers"]} == {10**18}
    assert "1823" not in command(site).stdout
    assert "undated" in command(site).stdout
