"""What `plantbridge check` gives to editors and build servers; what other commands say of the wrong kind of file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli.check import check
from gateway.config import load_cloud, load_site
from gateway.errors import ConfigError

SITE = """\
gateway: g
links: {l: {driver: modbus, url: 'tcp://h', devices: {d: {tags: {a: {address: 'holding:1', unit: barr}}}}}}
publish: {c: {url: mqtt://h}}
"""

# What SARIF 2.1.0 demands of the parts that are used here (OASIS, sections 3.13, 3.14, 3.18, 3.27, 3.28, 3.29, 3.30,
# 3.49), and no properties beside those that it knows.
SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/run"}},
    },
    "$defs": {
        "text": {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {"text": {"type": "string", "minLength": 1}},
        },
        "run": {
            "type": "object",
            "required": ["tool", "results"],
            "additionalProperties": False,
            "properties": {
                "tool": {
                    "type": "object",
                    "required": ["driver"],
                    "additionalProperties": False,
                    "properties": {"driver": {"$ref": "#/$defs/driver"}},
                },
                "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
            },
        },
        "driver": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "rules": {
                    "type": "array",
                    "uniqueItems": True,
                    "items": {
                        "type": "object",
                        "required": ["id"],
                        "additionalProperties": False,
                        "properties": {
                            "id": {"type": "string", "minLength": 1},
                            "shortDescription": {"$ref": "#/$defs/text"},
                        },
                    },
                },
            },
        },
        "result": {
            "type": "object",
            "required": ["message"],
            "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "level": {"enum": ["none", "note", "warning", "error"]},
                "message": {"$ref": "#/$defs/text"},
                "locations": {"type": "array", "items": {"$ref": "#/$defs/location"}},
            },
        },
        "location": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "physicalLocation": {
                    "type": "object",
                    "required": ["artifactLocation"],
                    "additionalProperties": False,
                    "properties": {
                        "artifactLocation": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"uri": {"type": "string", "pattern": "^[^ \\\\]+$"}},
                        },
                        "region": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "startLine": {"type": "integer", "minimum": 1},
                                "startColumn": {"type": "integer", "minimum": 1},
                            },
                        },
                    },
                },
                "logicalLocations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"fullyQualifiedName": {"type": "string"}},
                    },
                },
            },
        },
    },
}


def run(*arguments: str | Path) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(check)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_sarif_names_rule_level_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my site.yaml").write_text(SITE.replace("gateway: g", "gateway: g\ngatewy: h"))
    result = run("my site.yaml", "--sarif")
    assert result.exit_code == 2
    body = json.loads(result.stdout)
    jsonschema.Draft202012Validator(SARIF).validate(body)
    unknown, unit = body["runs"][0]["results"]
    rules = [rule["id"] for rule in body["runs"][0]["tool"]["driver"]["rules"]]
    assert [each["level"] for each in (unknown, unit)] == ["error", "warning"]
    assert [rules[each["ruleIndex"]] for each in (unknown, unit)] == [unknown["ruleId"], unit["ruleId"]]
    assert unknown["message"]["text"] == "unknown key gatewy (did you mean gateway?)"
    place = unknown["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my%20site.yaml"
    assert place["region"] == {"startLine": 2, "startColumn": 1}
    assert unit["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "links.l.devices.d.tags.a.unit"}]


def test_sarif_of_a_right_file_has_no_results(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("barr", "bar"))
    result = run(tmp_path / "site.yaml", "--sarif")
    assert result.exit_code == 0
    body = json.loads(result.stdout)
    jsonschema.Draft202012Validator(SARIF).validate(body)
    assert body["runs"][0]["results"] == []


def test_sarif_of_a_file_that_is_not_there_is_valid_too(tmp_path: Path) -> None:
    result = run(tmp_path / "none.yaml", "--sarif")
    assert result.exit_code == 2
    jsonschema.Draft202012Validator(SARIF).validate(json.loads(result.stdout))


def test_two_forms_at_once_are_refused(tmp_path: Path) -> None:
    assert run(tmp_path / "site.yaml", "--sarif", "--json").exit_code == 2


def test_warnings_fail_a_strict_check_only(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(SITE)
    assert run(file).exit_code == 0
    assert run(file, "--strict").exit_code == 1
    file.write_text(SITE.replace("barr", "bar"))
    assert run(file, "--strict").exit_code == 0
    file.write_text("gateway: [g\n")
    assert run(file, "--strict").exit_code == 2


def test_two_gateways_of_one_name_at_one_broker_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their readers would take the readings of one for the other's."""
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(SITE.replace("barr", "bar"))
    Path("b.yaml").write_text(SITE.replace("barr", "bar"))
    result = run("a.yaml", "b.yaml")
    assert result.exit_code == 0
    assert "b.yaml:1:10: publish.c: a.yaml publishes under plantbridge/g at mqtt://h too" in result.stdout
    assert run("a.yaml", "b.yaml", "--strict").exit_code == 1
    body = json.loads(run("a.yaml", "b.yaml", "--json").stdout)
    assert [each["warnings"] for each in body["files"]] == [0, 0]
    assert body["between"]["warnings"] == 1
    Path("b.yaml").write_text(SITE.replace("barr", "bar").replace("gateway: g", "gateway: other"))
    assert run("a.yaml", "b.yaml", "--strict").exit_code == 0
    assert run("a.yaml", "a.yaml", "--strict").exit_code == 0


@pytest.mark.parametrize(
    ("text", "what", "command"),
    [
        ("broker: {url: mqtt://h}\nstore: {type: duckdb}\n", "this is a cloud file", "plantbridge ingest"),
        ("driver: modbus\ntags: {a: holding:1}\n", "this is a device template", "template: NAME"),
    ],
)
def test_a_command_for_a_site_says_what_takes_another_file(tmp_path: Path, text: str, what: str, command: str) -> None:
    """A list of unknown keys would send the reader on a search for misspellings."""
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_site(file)
    (problem,) = caught.value.problems
    assert problem.reason == f"{what}; this command takes a site file"
    assert command in problem.hint


def test_a_command_for_the_cloud_says_what_takes_a_site(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(SITE)
    with pytest.raises(ConfigError) as caught:
        load_cloud(file)
    (problem,) = caught.value.problems
    assert problem.reason == "this is a site file; this command takes a cloud file"
    assert "plantbridge run" in problem.hint


def test_every_command_shows_the_line_of_a_problem(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("gateway: g", "gatewy: g"))
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "plan", "site.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 2
    assert "    1 | gatewy: g\n      | ^\n" in done.stderr
    assert done.stderr.endswith(" problems in the configuration.\n")
