"""The documents: links lead somewhere, commands exist, site files in them pass their own check, pictures parse."""

from __future__ import annotations

import importlib.util
import keyword
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from gateway.cli.app import COMMANDS
from gateway.config.kinds import check_file
from gateway.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "edge_deploy/**/*.md", "drivers/**/*.md", "config/**/*.md", "bench/**/*.md")
    for page in ROOT.glob(pattern)
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def slug(heading: str) -> str:
    """Give a heading's anchor, as code hosts make it."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")


def prose(page: Path) -> str:
    """The page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"^( {4}|\t).*$", "", text, flags=re.M)


def yaml_blocks(page: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{name}: {target}"
        assert found.is_relative_to(ROOT), f"{name}: {target} leads out of the repository"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.M)
            assert anchor in {slug(heading) for heading in headings}, f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    """A page that tells to type a command that is not there costs its reader the trust in the rest."""
    text = (ROOT / name).read_text()
    for command in re.findall(r"(?:^ {4}|`|bin/|^sudo )plantbridge ([a-z-]+)\b", text, flags=re.M):
        assert command in COMMANDS, f"{name}: plantbridge {command}"
        module = f"{command}_" if keyword.iskeyword(command) else command.replace("-", "_")  # import_
        assert importlib.util.find_spec(f"gateway.cli.{module}"), f"{name}: plantbridge {command}"
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for target in re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, flags=re.M):
        assert target in targets, f"{name}: make {target}"


@pytest.mark.parametrize("name", NAMES)
def test_site_and_cloud_files_in_the_text_pass_the_check(name: str, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines/one.yaml").write_text(
        "links: {line: {driver: modbus, url: tcp://192.168.1.20, devices: {press: {tags: {level: holding:0}}}}}\n"
    )
    for number, block in enumerate(yaml_blocks(ROOT / name)):
        file = tmp_path / f"block-{number}.yaml"
        file.write_text(block)
        if {"gateway", "broker"} & yaml.safe_load(block).keys():
            checked = check_file(file)
            assert not checked.problems, f"{name}: {checked.problems[0]}"


def test_the_readmes_site_file_has_ten_lines_in_both_languages() -> None:
    english, chinese = (yaml_blocks(ROOT / name) for name in ("README.md", "README.zh-CN.md"))
    assert english == chinese
    assert len(english[0].splitlines()) == 10


def test_the_reference_is_what_the_models_say() -> None:
    """`make schema` was forgotten where this fails."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.reference(), "run make schema"


@pytest.mark.parametrize("picture", sorted(path.name for path in ROOT.glob("docs/*.svg")))
def test_a_picture_can_be_read_by_those_who_do_not_see_it(picture: str) -> None:
    root = ElementTree.parse(ROOT / "docs" / picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title") is not None
    assert root.find(f"{space}desc") is not None
    assert "prefers-color-scheme: dark" in (ROOT / "docs" / picture).read_text()


@pytest.mark.parametrize("name", [path.name for path in sorted(ROOT.glob("docs/adr/[0-9]*.md"))])
def test_a_decision_has_its_three_parts_and_is_listed(name: str) -> None:
    text = (ROOT / "docs/adr" / name).read_text()
    assert re.findall(r"^## (.*)$", text, flags=re.M) == ["Context", "Decision", "Consequences"]
    assert f"({name})" in (ROOT / "docs/adr/README.md").read_text()
    assert len(text.splitlines()) < 70, "one page"


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs/guide/operations.md").read_text()
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}" in text, name
    known = {family.name for family in Metrics().registry.collect()}
    for name in re.findall(r"`(plantbridge_\w+)", text):
        assert name.removesuffix("_total") in known, f"{name} does not exist"
