"""Problems as SARIF 2.1.0 (OASIS), which code hosts and editors show beside the lines that they are about.

One run of one tool. A rule is one kind of message: its id is made of the message's fixed words, so it is the same
for every file and language. Files are named as they were given; absolute ones as file: URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import gateway
from gateway.errors import Problem
from gateway.language import catalogue, say

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def report(problems: Iterable[Problem]) -> dict[str, Any]:
    """Give the log of one run."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for problem in problems:
        name, template = rule(problem.reason)
        rules.setdefault(name, {"id": name, "shortDescription": {"text": say(template)}})
        results.append(_result(problem, name, [*rules].index(name)))
    driver = {
        "name": "PlantBridge",
        "version": gateway.__version__,
        "rules": list(rules.values()),
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def rule(reason: str) -> tuple[str, str]:
    """Give the id of a message's kind, and the kind in words."""
    template = catalogue("zh").template(reason)
    if not template:
        return "configuration", "A problem of the configuration"
    plain = re.sub(r"\{s?\}", " ", template)
    return "-".join(re.findall(r"[a-z0-9]+", plain.lower())[:8]) or "configuration", template.replace("{s}", "s")


def _result(problem: Problem, name: str, index: int) -> dict[str, Any]:
    text = say(problem.reason)
    if problem.hint:
        text += f" ({say(problem.hint)})"
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(problem.file)}}
    if problem.line:
        place["region"] = {"startLine": problem.line, "startColumn": max(1, problem.column)}
    location: dict[str, Any] = {"physicalLocation": place}
    if problem.path:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.path}]
    level = "error" if problem.severity == "error" else "warning"
    return {"ruleId": name, "ruleIndex": index, "level": level, "message": {"text": text}, "locations": [location]}


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
