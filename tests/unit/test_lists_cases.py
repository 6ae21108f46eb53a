"""Register lists as plants have them, and what becomes of them: one folder a case in tests/cases/import.

command.txt is run with a copy of the folder as working directory; expected.txt is its exit code and what it says,
expected.yaml the file that it writes. input.sheets.yaml describes a workbook, which is made from it: sheets with rows,
and merged ranges. PLANTBRIDGE_ACCEPT=1 writes what comes out now: read the difference before committing it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import openpyxl
import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli.app import make_app
from gateway.config.kinds import check_file
from gateway.errors import ConfigError

CASES = Path(__file__).parents[1] / "cases" / "import"


def make_workbook(described: Path, file: Path) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for sheet in yaml.safe_load(described.read_text(encoding="utf-8")):
        made = book.create_sheet(sheet["name"])
        for row in sheet["rows"]:
            made.append(row)
        for merged in sheet.get("merged", ()):
            made.merge_cells(merged)
    book.save(file)


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_a_list_becomes_exactly_this(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports a list relies on each row: a changed address, type or factor is a wrong reading in the plant."""
    folder = tmp_path / "case"
    shutil.copytree(CASES / case, folder)
    monkeypatch.chdir(folder)
    if Path("input.sheets.yaml").exists():
        make_workbook(Path("input.sheets.yaml"), Path("input.xlsx"))
    command = shlex.split(Path("command.txt").read_text(encoding="utf-8"))
    result = CliRunner().invoke(make_app(), command)
    said = result.stderr
    if isinstance(result.exception, ConfigError):  # `main` prints it so
        said, code = f"{said}{result.exception}\n", 2
    else:
        code = result.exit_code
    said = f"exit {code}\n{said}"
    target = Path(command[command.index("--into" if "--into" in command else "-o") + 1])
    text = target.read_text(encoding="utf-8") if target.exists() else ""
    if os.environ.get("PLANTBRIDGE_ACCEPT"):
        (CASES / case / "expected.txt").write_text(said, encoding="utf-8")
        (CASES / case / "expected.yaml").write_text(text, encoding="utf-8")
    assert said == (CASES / case / "expected.txt").read_text(encoding="utf-8")
    assert text == (CASES / case / "expected.yaml").read_text(encoding="utf-8")
    if text and code != 2:
        assert not [str(each) for each in check_file(target).problems if each.severity == "error"]
