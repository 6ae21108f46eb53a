"""The guide's pages about formats: each sample is checked as a site file, and each format has a page."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import get_args

import pytest

from gateway.config.kinds import check_file
from gateway.options import Format

GUIDE = Path(__file__).parents[2] / "docs/guide"
PAGES = {form: GUIDE / "formats" / f"{form}.md" for form in get_args(Format)} | {"columns": GUIDE / "columns.md"}
SITE = """
gateway: press-shop
links:
  line:
    driver: replay
    url: replay:generated
    devices:
      press-1: {tags: {pressure: sine float32}}
      meter-1: {tags: {energy: counter int64}}
"""


def samples() -> list[tuple[str, str]]:
    found = []
    for form, page in PAGES.items():
        blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
        found += [(form, block) for block in blocks if re.search(r"^publish:", block, re.MULTILINE)]
    return found


@pytest.mark.parametrize("form", [form for form in PAGES if form != "columns"])
def test_each_format_has_a_page_with_a_sample(form: str) -> None:
    assert any(f"format: {form}" in block for which, block in samples() if which == form)


@pytest.mark.parametrize(("form", "block"), samples())
def test_each_sample_passes_check(form: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\$\{env:([^}]*)\}", block):
        monkeypatch.setenv(name, base64.b64encode(b"a secret").decode())
    for path in re.findall(r"\$\{file:([^}]*)\}", block):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("a secret")
    whole = block if re.search(r"^links:", block, re.MULTILINE) else SITE + block
    if not re.search(r"^gateway:", whole, re.MULTILINE):
        whole = "gateway: press-shop\n" + whole
    (tmp_path / "site.yaml").write_text(whole)
    checked = check_file(tmp_path / "site.yaml")
    assert [str(problem) for problem in checked.problems if "there is no file" not in str(problem)] == []
    assert checked.kind == "site"
