"""Who may import whom (pyproject.toml, import-linter): kept now, and noticed when it is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(directory: Path) -> tuple[int, str]:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-logo", "--no-cache"], cwd=directory, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_every_module_imports_only_what_its_place_allows() -> None:
    """A driver that reaches into the journal, or a sink that knows Modbus, cannot be replaced or tested alone."""
    code, text = lint_imports(ROOT)
    assert code == 0, text


@pytest.mark.parametrize(
    ("module", "line", "named"),
    [
        ("drivers/rogue/driver.py", "from gateway.metrics import Metrics", "drivers.rogue.driver -> gateway.metrics"),
        ("drivers/rogue/driver.py", "import drivers.modbus.address", "drivers.rogue is not allowed to import"),
        ("gateway/sinks/rogue.py", "import pymodbus", "gateway.sinks.rogue -> pymodbus"),
        ("gateway/stages/rogue.py", "import gateway.poller", "gateway.stages is not allowed to import gateway.poller"),
        ("gateway/rogue.py", "", "gateway.rogue"),
    ],
)
def test_an_import_out_of_place_is_named(tmp_path: Path, module: str, line: str, named: str) -> None:
    """Rules that let everything pass look the same as rules that are kept."""
    for package in ("gateway", "drivers", "simulators"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    rogue = tmp_path / module
    rogue.parent.mkdir(parents=True, exist_ok=True)
    rogue.parent.joinpath("__init__.py").touch()
    rogue.write_text(line + "\n")
    code, text = lint_imports(tmp_path)
    assert code == 1, text
    assert named in text
