"""`plantbridge check`, `plan` and `schema` as somebody at a prompt meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from gateway import names
from gateway.cli.check import check, pointed, shown
from gateway.cli.plan import lasting, plan
from gateway.cli.schema import schema
from gateway.contracts import DriverSpec, PlannedRequest, Resolved
from gateway.errors import ConfigError, Problem
from gateway.model import Batch, Kind, Link, TagTable
from gateway.options import DeviceOptions, LinkOptions, TagOptions


@dataclass(frozen=True, slots=True)
class ToyPlan:
    tables: tuple[TagTable, ...]
    cost: float

    def requests(self) -> Sequence[PlannedRequest]:
        return [PlannedRequest(f"GET {tag.name}", 1, 2, self.cost) for table in self.tables for tag in table.tags]


class ToyDriver:
    """A driver whose url is the seconds that a tag takes."""

    def __init__(self, link: Link) -> None:
        self.cost = float(link.options.url)

    def plan(self, tables: Sequence[TagTable]) -> ToyPlan:
        for tag in (tag for table in tables for tag in table.tags):
            if tag.address == "impossible":
                where = tag.where
                raise ConfigError([Problem(where.file, where.line, where.column, tag.name, "cannot be asked for")])
        return ToyPlan(tuple(tables), self.cost)

    async def connect(self) -> None:
        raise AssertionError("planning connects to nothing")

    async def read(self, plan: Any) -> list[Batch]:
        raise AssertionError("planning reads nothing")

    async def close(self) -> None: ...


class ToyTag(TagOptions):
    """A tag of the toy."""


def resolve(tag: Any, device: Any, link: Any) -> Sequence[Resolved]:
    return [Resolved(tag.address, Kind.FLOAT, "float64")]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module: Any = ModuleType("toy_driver_spec")
    module.SPEC = DriverSpec("toy", LinkOptions, DeviceOptions, ToyTag, resolve, ToyDriver)
    monkeypatch.setitem(sys.modules, "toy_driver_spec", module)
    monkeypatch.setitem(names.DRIVERS, "toy", "toy_driver_spec")
    names.driver_spec.cache_clear()
    yield
    names.driver_spec.cache_clear()


def run(command: Any, *arguments: str | Path) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def toy_site(folder: Path, tags: str = "{a: x, b: y}", cost: str = "0.1", interval: str = "1 s") -> Path:
    file = folder / "site.yaml"
    file.write_text(
        f"gateway: g\nlinks:\n  line:\n    driver: toy\n    url: '{cost}'\n    devices:\n"
        f"      dev: {{interval: {interval}, tags: {tags}}}\npublish: {{c: {{url: mqtt://h}}}}\n"
    )
    return file


# ------------------------------------------------------------------------------------------------ check


@pytest.mark.usefixtures("toy")
def test_a_right_file_is_told_in_one_line(tmp_path: Path) -> None:
    result = run(check, toy_site(tmp_path))
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'site.yaml'}: 1 link, 1 device, 2 tags: no problems\n"


def test_a_problem_is_shown_with_its_line_and_a_caret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("site.yaml").write_text(
        "gateway: g\nlinks:\n  line:\n    driver: modbus\n    url: tcp://h\n    tiemout: 1 s\n"
        "    devices: {压机: {tags: {压力: holding:99999}}}\n"
    )
    result = run(check, "site.yaml")
    assert result.exit_code == 2
    assert result.stdout == (
        "site.yaml:1:1: this site publishes nothing (add publish: {cloud: {url: mqtt://HOST}}; "
        "without it readings stay in the journal) [warning]\n"
        "    1 | gateway: g\n"
        "      | ^\n"
        "site.yaml:6:5: links.line.tiemout: unknown key tiemout (did you mean timeout?)\n"
        "    6 |     tiemout: 1 s\n"
        "      |     ^\n"
        "site.yaml:7:31: links.line.devices.压机.tags.压力: 'holding:99999' is beyond the last address, holding:65535\n"
        "    7 |     devices: {压机: {tags: {压力: holding:99999}}}\n"
        "      |                                   ^\n"
        "site.yaml: 2 errors, 1 warning\n"
    )


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    """A check before deployment must not stop at advice."""
    file = tmp_path / "site.yaml"
    file.write_text("gateway: g\nlinks: {l: {driver: modbus, url: 'tcp://h', devices: {d: {tags: {a: coil:1}}}}}\n")
    result = run(check, file)
    assert result.exit_code == 0
    assert result.stdout.endswith(": 1 link, 1 device, 1 tag: 1 warning\n")


def test_the_caret_stands_under_the_place_behind_wide_characters() -> None:
    line, caret = pointed("温度: xyz", 7, 5)
    assert line == "    7 | 温度: xyz"
    assert caret == "      |       ^"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  password: hunter2", "  password: *******"),
        ("c: {url: mqtt://h, password: hunter2, fromat: x}", "c: {url: mqtt://h, password: *******, fromat: x}"),
        ("store: {token: 'ab cd'}", "store: {token: *******}"),
        ("{password: 'a,b}c', x: 1}", "{password: *******, x: 1}"),
        ("  password: ${env:MQTT}", "  password: ${env:MQTT}"),
        ("  password: '${file:secrets/mqtt}'", "  password: '${file:secrets/mqtt}'"),
    ],
)
def test_a_secret_in_the_line_is_not_shown(line: str, shown: str) -> None:
    """What check prints ends up in the logs of build servers."""
    assert pointed(line, 1, 1)[0] == f"    1 | {shown}"


def test_problems_are_given_as_json(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("gatewy: g\nlinks: {}\n")
    result = run(check, file, "--json")
    assert result.exit_code == 2
    body = json.loads(result.stdout)
    assert (body["errors"], body["warnings"]) == (3, 1)
    first = next(each for each in body["problems"] if each["path"] == "gatewy")
    assert (first["line"], first["column"], first["severity"]) == (1, 1, "error")
    assert first["hint"] == "did you mean gateway?"


def test_a_file_that_is_not_there_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        result = run(check, path)
        assert result.exit_code == 2
        assert "cannot be read" in result.stdout


def test_cloud_files_and_templates_are_checked_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "cloud.yaml").write_text("broker: {url: mqtt://h}\n")
    (tmp_path / "press.yaml").write_text("driver: modbus\ntags: {a: holding:1, b: 'holding:2 int16[4]'}\n")
    (tmp_path / "line.yaml").write_text(
        "links: {l: {driver: modbus, url: 'tcp://h', devices: {d: {tags: {a: coil:1}}}}}\n"
    )
    assert run(check, tmp_path / "line.yaml").stdout.endswith(
        "line.yaml: an included file with 1 link, 1 device, 1 tag: no problems\n"
    )
    assert run(check, tmp_path / "cloud.yaml").stdout.endswith("cloud.yaml: store duckdb: no problems\n")
    assert run(check, tmp_path / "press.yaml").stdout.endswith("press.yaml: 5 tags: no problems\n")


def test_secrets_that_are_elsewhere_do_not_stop_a_build_server_or_a_plan(tmp_path: Path) -> None:
    """Who reviews or simulates a site has no passwords of the plant."""
    file = tmp_path / "site.yaml"
    file.write_text(
        "gateway: g\nlinks: {l: {driver: modbus, url: 'tcp://h', devices: {d: {tags: {a: coil:1}}}}}\n"
        "publish:\n  a: {url: mqtt://h, password: '${env:PLANTBRIDGE_NOT_SET}'}\n"
        "  b: {url: '${env:PLANTBRIDGE_NOT_SET}'}\n"
    )
    assert run(check, file).exit_code == 2
    result = run(check, file, "--no-secrets")
    assert result.exit_code == 0
    assert result.stdout.endswith("1 link, 1 device, 1 tag: 2 warnings\n")
    assert run(plan, file).exit_code == 0


@pytest.mark.usefixtures("toy")
def test_what_a_driver_finds_while_planning_is_a_problem_of_the_tag(tmp_path: Path) -> None:
    result = run(check, toy_site(tmp_path, tags="{a: x, b: impossible}"))
    assert result.exit_code == 2
    assert "site.yaml:7:41: links.line.devices.dev: b: cannot be asked for" in result.stdout


@pytest.mark.usefixtures("toy")
def test_an_overbooked_link_is_a_warning(tmp_path: Path) -> None:
    file = toy_site(tmp_path, cost="0.3")
    text = file.read_text()
    file.write_text(text.replace("publish:", "      dev2: {interval: 1 s, tags: {a: x, b: y}}\npublish:"))
    result = run(check, file)
    assert result.exit_code == 0
    assert "links.line: the link is overbooked: its scans need about 120% of the time there is" in result.stdout


@pytest.mark.usefixtures("toy")
def test_an_interval_that_the_line_cannot_keep_is_a_warning_at_the_interval(tmp_path: Path) -> None:
    result = run(check, toy_site(tmp_path, cost="0.6"))
    assert result.exit_code == 0
    assert "site.yaml:7:23: links.line.devices.dev: a scan takes about 1.2 s, and the interval is 1 s" in result.stdout
    assert "overbooked" not in result.stdout


# ------------------------------------------------------------------------------------------------ plan


@pytest.mark.usefixtures("toy")
def test_a_plan_shows_requests_times_and_load(tmp_path: Path) -> None:
    result = run(plan, toy_site(tmp_path))
    assert result.exit_code == 0
    for words in ("line (toy), load 20.0%", "dev / default", "2 tags in 2 requests", "GET a", "200 ms"):
        assert words in result.stdout


@pytest.mark.usefixtures("toy")
def test_the_summary_of_a_plan_leaves_the_requests_out(tmp_path: Path) -> None:
    result = run(plan, toy_site(tmp_path), "--summary")
    assert "GET a" not in result.stdout
    assert "dev / default" in result.stdout


@pytest.mark.usefixtures("toy")
def test_a_plan_without_time_for_it_says_so(tmp_path: Path) -> None:
    """Intervals that cannot be kept are found before going live, not after."""
    result = run(plan, toy_site(tmp_path, interval="100 ms"))
    assert result.exit_code == 1
    assert "The link line is overbooked: its scans need 200% of the time." in result.stdout


@pytest.mark.usefixtures("toy")
def test_a_plan_is_given_as_json(tmp_path: Path) -> None:
    result = run(plan, toy_site(tmp_path), "--json")
    (link,) = json.loads(result.stdout)["links"]
    assert (link["link"], link["overbooked"]) == ("line", False)
    assert link["load"] == pytest.approx(0.2)
    (group,) = link["groups"]
    assert (group["device"], group["group"], group["interval"], group["tags"]) == ("dev", "default", 1.0, 2)
    assert group["requests"][0] == {"text": "GET a", "wanted": 1, "fetched": 2, "seconds": 0.1}


def test_the_shipped_sample_is_planned_by_the_real_drivers() -> None:
    from gateway.config.shipped import shipped

    result = run(plan, shipped() / "sample.yaml")
    assert result.exit_code == 0, result.stdout
    for words in ("press-line (modbus)", "boiler-house (opcua)", "FC3 holding"):
        assert words in result.stdout


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0 us"), (4e-7, "0.4 us"), (0.0032, "3.2 ms"), (12.5, "12.5 s")])
def test_durations_are_written_with_a_unit(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


# ------------------------------------------------------------------------------------------------ schema


def test_the_schema_is_printed_and_written(tmp_path: Path) -> None:
    result = run(schema, "cloud")
    assert json.loads(result.stdout)["title"] == "PlantBridge cloud file"
    assert run(schema, "--into", tmp_path).exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "cloud.json", "fragment.json", "site.json", "template.json"
    ]  # fmt: skip


def test_a_file_is_read_once_however_many_problems_it_has(tmp_path: Path) -> None:
    """A list of 20,000 tags with a doubtful unit was read 40,000 times: a minute for what takes seconds."""
    file = tmp_path / "site.yaml"
    file.write_text("gateway: plant\nlinks: {}\n")
    texts = shown([Problem(str(file), line, 1, "", "odd") for line in (1, 2, 3)])
    assert next(texts).endswith("    1 | gateway: plant\n      | ^")
    file.unlink()
    assert next(texts).endswith("    2 | links: {}\n      | ^")
    assert next(texts) == f"{file}:3:1: odd"
