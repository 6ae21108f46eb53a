"""Wrong configurations, and the exact words said about them: one folder a case in tests/cases/config.

input.yaml is checked as `plantbridge check` does it, with the folder as working directory; expected.txt has one line
per problem. PLANTBRIDGE_ACCEPT=1 writes what is said now: read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.kinds import check_file

CASES = Path(__file__).parents[1] / "cases" / "config"


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_a_configuration_is_answered_with_exactly_these_words(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that changes is a change for whoever has to mend a file with it."""
    monkeypatch.chdir(CASES / case)
    problems = check_file(Path("input.yaml")).problems
    said = "".join(f"{'' if each.severity == 'error' else each.severity + ': '}{each}\n" for each in problems)
    said = said.replace(str(CASES / case), "HERE")
    if os.environ.get("PLANTBRIDGE_ACCEPT"):
        Path("expected.txt").write_text(said, encoding="utf-8")
    assert said == Path("expected.txt").read_text(encoding="utf-8")
