"""The JSON schema for editors: fresh, and never stricter than `plantbridge check`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from gateway.cli.schema import FileKind
from gateway.config.document import parse
from gateway.config.kinds import check_file
from gateway.config.references import References
from gateway.config.schema import NAMES, SchemaName, json_schema, written
from gateway.config.shipped import shipped

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "config"


class AsWritten(References):
    """Editors see references, not what they stand for."""

    def resolve(self, text: str, file: str) -> Any:
        return text, []


def complaints(file: Path, kind: SchemaName) -> list[str]:
    """Say what an editor would mark in a file."""
    data = parse(file.read_text(encoding="utf-8-sig"), file.name, [], AsWritten())
    validator = jsonschema.Draft7Validator(json.loads((shipped() / "schema" / f"{kind}.json").read_text()))
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(data)]


@pytest.mark.parametrize("kind", NAMES)
def test_the_committed_schema_is_the_models_own(kind: SchemaName) -> None:
    """An editor with a stale schema marks keys that exist and misses those that do not."""
    committed = (shipped() / "schema" / f"{kind}.json").read_text(encoding="utf-8")
    assert committed == written(json_schema(kind)), "run: plantbridge schema --into config/schema"


@pytest.mark.parametrize("kind", NAMES)
def test_a_schema_is_valid_and_explains_its_keys(kind: SchemaName) -> None:
    schema = json_schema(kind)
    jsonschema.Draft7Validator.check_schema(schema)
    models = [schema, *schema["$defs"].values()]
    described = [model for model in models if model.get("type") == "object"]
    assert described
    assert all(model.get("description") for model in described)


def test_the_command_offers_every_kind_of_file() -> None:
    assert {each.value for each in FileKind} == set(get_args(SchemaName))


def yaml_files() -> list[Path]:
    """All YAML files of the project that an integrator may begin from."""
    folders = [ROOT / "config", ROOT / "drivers", ROOT / "edge_deploy"]
    return sorted(
        file
        for folder in folders
        for file in folder.rglob("*.yaml")
        if "yaml-language-server" in file.read_text(encoding="utf-8").partition("\n")[0]
    )


@pytest.mark.parametrize("file", yaml_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_modeline_of_a_sample_names_a_schema_that_takes_it(file: Path) -> None:
    """A wrong relative path turns completion off without a word."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert match is not None
    schema = file.parent / match[1]
    kind: Any = schema.stem.removesuffix(".schema")
    if match[1].startswith("/"):
        assert schema.parent == Path("/etc/plantbridge")  # edge_deploy/install.sh puts them there
    else:
        assert schema.resolve() == (ROOT / "config" / "schema" / f"{kind}.json").resolve()
    assert complaints(file, kind) == []


def test_each_shipped_sample_has_a_modeline() -> None:
    named = {str(file.relative_to(ROOT)) for file in yaml_files()}
    assert {"config/sample.yaml", "config/cloud.yaml"} <= named


ACCEPTED = sorted(
    path.name for path in CASES.iterdir() if path.is_dir() and not (path / "expected.txt").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_editor_does_not_refuse_what_check_accepts(case: str) -> None:
    assert complaints(CASES / case / "input.yaml", "site") == []


LONG = """
gateway: g
include: []
links:
  line:
    driver: modbus
    url: tcp://${env:HOST}
    timeout: ${env:TIMEOUT}
    devices:
      bare: {tags: {a: 40101, b: holding:1, c: {address: 40102, deadband: 2 %, scale: 1/3, min: 0, max: 9}}}
      short: {unit_id: "${env:UNIT}", template: press}
      changed: {template: press, tags: {a: null, b: {deadband: 1}}, groups: {fast: {interval: 1 s}}}
      groups: {groups: {fast: {tags: {a: {address: coil:1, writable: true, states: {0: off, 1: on}}}}}}
publish: {c: {url: "${env:BROKER}", version: "3.1.1", tls: {}, password: "${file:x}"}}
metrics: {listen: null}
journal: {max_age: 7 d}
"""


def test_an_editor_takes_references_templates_and_short_forms(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(LONG)
    assert complaints(tmp_path / "site.yaml", "site") == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("gateway: g", "gatewy: g"),
        ("timeout: ${env:TIMEOUT}", "timeout: 5"),
        ("driver: modbus", "driver: modbsu"),
        ("deadband: 2 %, scale", "sclae"),
        ('{unit_id: "${env:UNIT}", template: press}', "{unit_id: 1}"),
        ("tags: {a: 40101, b: holding:1", "tags: {a: {unit: bar}, b: holding:1"),
        ("{c: {url", "{c: {format: xml, url"),
        ("max_age: 7 d", "max_age: 7"),
        ("{fast: {tags", "{fast: {interval: 5, tags"),
    ],
)
def test_an_editor_marks_what_check_refuses(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in LONG
    (tmp_path / "site.yaml").write_text(LONG.replace(right, wrong, 1))
    assert complaints(tmp_path / "site.yaml", "site")
    assert any(problem.severity == "error" for problem in check_file(tmp_path / "site.yaml").problems)
