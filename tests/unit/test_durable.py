"""Small files that must survive a power cut, and the lock that keeps a second process out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import durable


def test_a_file_is_written_anew_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "state.json"
    durable.write(path, b"old")
    durable.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    code = "import sys; from gateway import durable; file = open(sys.argv[1], 'a'); durable.lock(file); print('has it')"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with (tmp_path / "lock").open("a") as file:
        durable.lock(file)
        assert "BlockingIOError" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "has it\n"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.sync(tmp_path / "nothing")
