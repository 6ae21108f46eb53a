"""The command line as a whole: every command helps, with an example, and shells complete it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli.app import COMMANDS, make_app


def leaves(command: Any, path: str = "") -> list[tuple[str, Any]]:
    """Give every command that does something, by its words."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [found for name, each in command.commands.items() for found in leaves(each, f"{path} {name}".strip())]


EVERY = leaves(typer.main.get_command(make_app()))


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_every_command_says_what_it_does_and_how_it_is_called(path: str, command: Any) -> None:
    text = command.help or ""
    assert len(text.partition("\n\n")[0]) > 15
    assert f"plantbridge {path}" in text
    assert "Example" in text
    missing = [each.name for each in command.params if each.name != "help" and not getattr(each, "help", "")]
    assert missing == []


@pytest.mark.parametrize(
    ("shell", "given", "wanted"),
    [
        ("bash", {"COMP_WORDS": "plantbridge pro", "COMP_CWORD": "1"}, "probe"),
        ("bash", {"COMP_WORDS": "plantbridge check --sar", "COMP_CWORD": "2"}, "--sarif"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "plantbridge acc"}, "account"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "plantbridge jour", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "journal"),
    ],
)
def test_shells_complete_commands_and_options(shell: str, given: dict[str, str], wanted: str, tmp_path: Path) -> None:
    environment = {
        **os.environ, **given, "_PLANTBRIDGE_COMPLETE": f"complete_{shell}", "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    program = "import sys; from gateway.__main__ import main; sys.argv[0] = 'plantbridge'; main()"
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert wanted in said.stdout, said.stderr


def test_completion_can_be_shown_for_a_shell(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(  # it looks which shell it was started from
        ["bash", "-c", f"{sys.executable} -m gateway --show-completion; exit $?"],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert said.returncode == 0
    assert "complete" in said.stdout


def test_every_command_has_a_line_in_the_list() -> None:
    assert {path.partition(" ")[0] for path, _ in EVERY} == set(COMMANDS)
