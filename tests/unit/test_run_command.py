"""`plantbridge run` as a process: signals, exit codes, one gateway to a journal."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.errors import JournalError
from gateway.journal import survey

PATIENCE = 60.0
Start = Callable[..., "subprocess.Popen[str]"]
SITE = """
gateway: demo
data: ./data
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1
    retry_first: 20 ms
    retry_longest: 50 ms
    devices: {press: {tags: {pressure: holding:0 float32}}}
publish:
  cloud: {url: "mqtt://127.0.0.1:1", retry_first: 20 ms, retry_longest: 50 ms}
metrics: {listen: null}
"""
STUBBORN = """
import asyncio
from gateway.loop import run_until_signal

async def body(stop):
    print("up", flush=True)
    await stop.wait()
    print("asked", flush=True)
    await asyncio.Event().wait()

run_until_signal(body)
"""
FAILING = """
import os, sqlite3, sys, tempfile
from pathlib import Path
from gateway.config import load_site
from gateway.daemon import main
from gateway.folded import dump
from gateway.journal.file import JournalFile

whole = JournalFile.commit

def commit(self, work, *rest):
    if work.entries:
        raise sqlite3.OperationalError("disk I/O error")
    return whole(self, work, *rest)

JournalFile.commit = commit
site = tempfile.TemporaryFile()
dump(load_site(Path("site.yaml")), site)
site.flush()
os.lseek(site.fileno(), 0, os.SEEK_SET)
sys.argv = ["daemon", str(site.fileno())]
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text(SITE)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python in the folder; what still runs in the end is killed."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, *arguments]
            process = subprocess.Popen(command, cwd=folder, text=True, stdout=pipe, stderr=pipe, env=environment)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def appended(folder: Path) -> int:
    try:
        return survey(folder / "data" / "journal").appended
    except JournalError:  # not there yet
        return 0


def test_a_second_start_is_refused_with_the_pid_of_the_first_which_goes_on(folder: Path, start: Start) -> None:
    first = start("-m", "gateway", "run", "site.yaml")
    until(lambda: appended(folder) > 0)
    second = start("-m", "gateway", "run", "site.yaml")
    _, said = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert f"in use by process {first.pid}" in said
    assert "Traceback" not in said
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    assert first.wait(PATIENCE) == 0


def test_a_journal_that_fails_ends_the_process_with_a_sentence(start: Start) -> None:
    """Reading on without a journal would promise what cannot be kept; the service manager starts it again."""
    process = start("-c", FAILING)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert "plantbridge: the journal in " in said
    assert "disk I/O error" in said
    assert "Traceback" not in said


def test_a_wrong_site_file_exits_2_before_anything_is_opened(folder: Path, start: Start) -> None:
    (folder / "site.yaml").write_text(SITE.replace("holding:0", "hulding:0"))
    process = start("-m", "gateway", "run", "site.yaml")
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, said
    assert "hulding" in said
    assert not (folder / "data").exists()


def test_a_second_signal_ends_at_once_what_does_not_end_in_order(start: Start) -> None:
    process = start("-c", STUBBORN)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == -signal.SIGINT
