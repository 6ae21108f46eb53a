"""The documents: links lead somewhere, commands exist, samples pass their own check, Chinese pages say what the English
ones say, pictures parse."""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.cli.app import COMMANDS
from gateway.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("samples", ROOT / "docs" / "samples.py")
assert spec is not None
assert spec.loader is not None
samples = importlib.util.module_from_spec(spec)
spec.loader.exec_module(samples)
NAMES = [str(path.relative_to(ROOT)) for path in samples.pages()]


def yaml_blocks(page: Path) -> list[str]:
    found: list[str] = samples.yaml_blocks(page)
    return found


def slug(heading: str) -> str:
    """Give a heading's anchor, as code hosts make it."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Give where a link may lead: headings, and in a translation also the names that the original's headings have."""
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.M)} | set(
        re.findall(r'<a id="([^"]+)"></a>', text)
    )


def prose(page: Path) -> str:
    """The page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"^( {4}|\t).*$", "", text, flags=re.M)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.is_file(), f"{name}: {target}"
        assert found.is_relative_to(ROOT), f"{name}: {target} leads out of the repository"
        if anchor:
            assert anchor in anchors(found.read_text()), f"{name}: {target}"


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


SAMPLES = [(name, number) for name in NAMES for number in range(len(yaml_blocks(ROOT / name)))]


@pytest.mark.parametrize(("name", "number"), SAMPLES)
def test_a_sample_passes_check(name: str, number: int, tmp_path: Path) -> None:
    """Every fenced YAML of every page: as it stands where it is a whole file, else with what is around it."""
    assert samples.problems(yaml_blocks(ROOT / name)[number], tmp_path) == []


def test_a_sample_that_does_not_pass_check_is_named_with_its_page(tmp_path: Path) -> None:
    """`make docs` fails on it."""
    found = samples.problems("gateway: press-shop\nlinks: {}\npublsh: {}\n", tmp_path)
    assert any("site.yaml:3:1: publsh: unknown key publsh" in each for each in found)
    assert samples.problems("what: is this\n", tmp_path)[0].startswith("a sample that nobody checks")


# What a user needs, in Chinese too: README.zh-CN.md and so on.
TRANSLATED = (
    "README.md",
    *(f"docs/guide/{page}.md" for page in (
        "getting-started", "ten-minutes", "demo", "site-file", "field-guide", "prove", "simulator", "testbed",
        "mqtt", "register-lists", "writing-a-driver", "reference",
        "formats/README", "formats/json", "formats/sparkplug", "formats/opcua-json", "formats/thingsboard",
        "formats/huawei", "formats/aliyun", "formats/tencent", "formats/aws", "formats/azure",
        "operations", "troubleshooting", "commands", "security", "account", "report", "publishers", "mosquitto",
        "formats/columns", "stores",
    )),
    "docs/conformance/requirements.md",
    "docs/reliability.md",
    "drivers/modbus/README.md",
    "docs/scale.md",
    "drivers/opcua/README.md",
    "drivers/replay/README.md",
    "edge_deploy/README.md",
)  # fmt: skip


def uncommented(lines: Iterable[str]) -> list[str]:
    return [re.sub(r"\s+#.*$", "", line).rstrip() for line in lines]


def typed(page: Path) -> list[str]:
    """Give the commands that a page tells to type."""
    return uncommented(re.findall(r"^ {4}(?:plantbridge|make|curl|journalctl) .*$", page.read_text(), flags=re.M))


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_page_in_chinese_has_the_samples_and_commands_of_the_english_one(name: str) -> None:
    """Samples are the same, but for their comments. A command that only the English page has is behind, not wrong."""
    english = ROOT / name
    chinese = english.with_name(f"{english.stem}.zh-CN.md")
    both = [[uncommented(block.splitlines()) for block in yaml_blocks(page)] for page in (chinese, english)]
    assert both[0] == both[1]
    assert set(typed(chinese)) <= set(typed(english))
    assert f"]({chinese.name})" in english.read_text(), "the English page does not lead to the Chinese one"
    assert f"]({english.name})" in chinese.read_text(), "the Chinese page does not lead to the English one"


def test_every_chinese_page_is_compared_with_its_english_one() -> None:
    found = {name.replace(".zh-CN", "") for name in NAMES if name.endswith(".zh-CN.md")}
    assert found == set(TRANSLATED)


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
    words = json.loads(module.WORDS.read_text(encoding="utf-8"))
    assert module.CHINESE.read_text(encoding="utf-8") == module.chinese(module.reference(), words), "run make schema"


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
