"""docs/conformance/sparkplug.md and the tests say the same of each rule."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/conformance/sparkplug.md"
ROW = re.compile(r"^\| `([a-zA-Z0-9-]+)` \| (.+) \|$", re.MULTILINE)


def rows(heading: str) -> dict[str, str]:
    """Give the rows of one table of the page: rule, what is said of it."""
    section = PAGE.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = ROW.findall(section)
    assert len(found) == len(dict(found)), "a rule is listed twice"
    return dict(found)


def proofs() -> dict[str, set[str]]:
    """Give the tests of each rule, from the tests' own decorators."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "tests").glob("**/test_*sparkplug*.py")):
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "proves":
                    for rule in call.args:
                        assert isinstance(rule, ast.Constant)
                        found.setdefault(str(rule.value), set()).add(node.name)
    return found


def test_the_page_names_for_each_rule_the_tests_that_prove_it() -> None:
    """A page that claims more than is tested is worse than none."""
    told = {rule: set(re.findall(r"`(test_\w+)`", said)) for rule, said in rows("Proven").items()}
    assert told == proofs()
    assert len(told) > 130


def test_a_rule_is_proven_or_has_a_reason_not_both() -> None:
    proven, reasons = rows("Proven"), rows("Not proven by a test, and why")
    assert not proven.keys() & reasons.keys()
    assert all(len(reason) > 10 for reason in reasons.values())
