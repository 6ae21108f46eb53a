"""The history of configurations: what is kept, and the way back over the command line."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.app import make_app
from gateway.config import load_site
from gateway.versions import APPLIED, KEPT, PROBATION, ROLLED_BACK, Versions

SITE = """# the press shop
gateway: gw1
include: [lines/*.yaml]
publish:
  cloud: {{url: mqtt://127.0.0.1:1, username: me, password: "${{file:secret}}"}}
log: {{level: {level}}}
"""
LINE = """links:
  {name}:   # keep this comment
    driver: modbus
    url: tcp://127.0.0.1:1
    devices: {{{name}-1: {{tags: {{a: holding:0}}}}}}
"""


def write(folder: Path, level: str = "info", *lines: str) -> Path:
    (folder / "lines").mkdir(exist_ok=True)
    (folder / "secret").write_text("hunter22")
    for name in lines:
        (folder / "lines" / f"{name}.yaml").write_text(LINE.format(name=name))
    path = folder / "site.yaml"
    path.write_text(SITE.format(level=level))
    return path


def record(path: Path, by: str, outcome: str = APPLIED) -> int:
    site = load_site(path)
    return Versions(site.data).record(site.sources, by, outcome, 1).number


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), arguments)
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_the_last_twenty_are_kept_byte_by_byte_without_secrets_and_for_the_owner_alone(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "data")
    for number in range(KEPT + 3):
        path = write(tmp_path, "info", "a")
        path.write_text(path.read_text() + f"# {number}\r\n")
        assert record(path, "reload") == number + 1
    kept = versions.all()
    assert [version.number for version in kept] == list(range(4, KEPT + 4))
    texts = versions.texts(kept[-1])
    assert texts == {each.resolve(): each.read_bytes() for each in (path, tmp_path / "lines" / "a.yaml")}
    everything = b"".join(each.read_bytes() for each in versions.directory.rglob("*") if each.is_file())
    assert b"hunter22" not in everything
    assert stat.S_IMODE(versions.directory.stat().st_mode) == 0o700


def test_equal_files_make_no_new_version_unless_the_last_was_taken_back(tmp_path: Path) -> None:
    path = write(tmp_path, "info", "a")
    assert record(path, "start") == 1
    assert record(path, "start") == 1
    versions = Versions(tmp_path / "data")
    write(tmp_path, "debug")
    assert record(path, "reload", PROBATION) == 2
    versions.settle(versions.all()[-1], ROLLED_BACK, "press did not answer")
    running = versions.running()
    assert running is not None
    assert running.number == 1
    assert record(path, "start") == 3, "a restart runs it all the same"


def test_shipped_templates_are_no_part_of_a_version(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        "gateway: g\nlinks: {l: {driver: modbus, url: tcp://127.0.0.1:1, devices: {m: {template: eastron-sdm630}}}}\n"
    )
    site = load_site(path)
    assert len(site.files) > 1
    assert {name: zlib.decompress(text) for name, text in site.sources.items()} == {path.resolve(): path.read_bytes()}


def test_rollback_writes_the_files_back_and_sets_aside_what_came_later(tmp_path: Path) -> None:
    path = write(tmp_path, "info", "a")
    record(path, "start")
    before = path.read_bytes()
    write(tmp_path, "debug", "b")
    record(path, "reload")
    code, said = run("config", "history", str(path))
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == ["1", "2"]
    code, said = run("config", "diff", str(path), "1", "2")
    assert code == 1
    assert "-log: {level: info}\n+log: {level: debug}\n" in said
    assert "+  b:   # keep this comment" in said
    assert run("config", "diff", str(path))[0] == 0, "the files are what runs"
    code, said = run("config", "rollback", str(path), "1", "--yes")
    assert code == 0, said
    assert "does not run" in said
    assert path.read_bytes() == before
    assert sorted(each.name for each in (tmp_path / "lines").iterdir()) == ["a.yaml", "b.yaml.set-aside"]
    assert b"debug" in (tmp_path / "site.yaml.set-aside").read_bytes()
    assert load_site(path).log.level == "info"


def test_rollback_mends_a_file_that_does_not_even_parse(tmp_path: Path) -> None:
    """That is when it is needed."""
    path = write(tmp_path, "info", "a")
    record(path, "start")
    good = path.read_bytes()
    path.write_text("gateway: [")
    code, said = run("config", "rollback", str(path), "1", "--yes", "--data", str(tmp_path / "data"))
    assert code == 0, said
    assert path.read_bytes() == good


def test_a_version_that_does_not_check_any_more_is_not_left_behind(tmp_path: Path) -> None:
    path = write(tmp_path, "info", "a")
    record(path, "start")
    place = Versions(tmp_path / "data").directory / "1" / "1-site.yaml"
    place.write_text("gateway: gw1\nnonsense: 1\n")
    now = path.read_bytes()
    code, said = run("config", "rollback", str(path), "1", "--yes")
    assert code == 1
    assert "nonsense" in said
    assert path.read_bytes() == now


def test_rollback_asks_and_a_no_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "info", "a")
    record(path, "start")
    write(tmp_path, "debug")
    now = path.read_bytes()
    result = CliRunner().invoke(make_app(), ["config", "rollback", str(path), "1"], input="n\n")
    assert result.exit_code == 1
    assert path.read_bytes() == now


def test_an_unknown_version_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, "info", "a")
    record(path, "start")
    assert "there is no version 7; there are 1" in run("config", "rollback", str(path), "7")[1]


@pytest.mark.parametrize("command", ["history", "diff"])
def test_a_file_that_is_broken_has_its_history_all_the_same(tmp_path: Path, command: str) -> None:
    path = write(tmp_path, "info", "a")
    record(path, "start")
    path.write_text(path.read_text() + "nonsense: [1\n")
    code, said = run("config", command, str(path), "--data", str(tmp_path / "data"))
    assert code == (1 if command == "diff" else 0), said
