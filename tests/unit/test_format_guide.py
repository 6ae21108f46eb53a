"""The guide's pages about formats: each format has one, with a sample (test_deploy_docs.py checks them)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from gateway.options import Format

GUIDE = Path(__file__).parents[2] / "docs/guide"
PAGES = {form: GUIDE / "formats" / f"{form}.md" for form in get_args(Format)}


def samples() -> list[tuple[str, str]]:
    found = []
    for form, page in PAGES.items():
        blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
        found += [(form, block) for block in blocks if re.search(r"^publish:", block, re.MULTILINE)]
    return found


@pytest.mark.parametrize("form", [form for form in PAGES if form != "columns"])
def test_each_format_has_a_page_with_a_sample(form: str) -> None:
    assert any(f"format: {form}" in block for which, block in samples() if which == form)
