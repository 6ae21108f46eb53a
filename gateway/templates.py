"""Templates of topics and of JSON bodies: text with {placeholders}, checked when the configuration is read.

    topic   "{enterprise}/{site}/{area}/{line}/{device}/{tag}"
    body    {value: "{value}", where: "{line}: {device}", meta: {unit: "{unit}", source: plantbridge}}

- A topic's placeholders are names. A level whose placeholders are all empty is left out: a device without a cell has no
  level for it. What a topic cannot hold becomes "_".
- A body is a mapping of keys to placeholders, plain values and further mappings. A text that is one placeholder becomes
  a JSON value of its own type; amid other text only names can stand. A member with nothing to say is left out.
- A body is compiled once for each device, group or tag: what is always the same is bytes from then on.
- Refused: unknown placeholders, braces alone, topics that MQTT cannot publish to. Nothing is computed here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

NAMES: Final = ("gateway", "device", "group")
"""What topics and texts of every message may name, beside the levels of `location`."""
TAG_NAMES: Final = (*NAMES, "tag", "unit", "description")
SCAN_VALUES: Final = ("sequence", "time", "timestamp", "values", "states", "quality", "times", "backfill")
TAG_VALUES: Final = ("sequence", "time", "timestamp", "value", "state", "quality", "code", "backfill")

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")

Fault = tuple[tuple[str, ...], str, str]
"""Keys below the template that lead to the place, what is wrong there, and what to do."""
Members = tuple[tuple[bytes, "str | Members | None"], ...]
"""A compiled object: a key with its colon and the value to come, or key and value (None)."""


def names_for(per: str) -> tuple[str, ...]:
    """Give the names that a topic may have beside levels; `per` as in JsonOptions."""
    return (*NAMES, "tag") if per == "tag" else NAMES


def topic_faults(topic: str, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give reason and hint for whatever is wrong with a topic template."""
    known = tuple(known)
    names = ", ".join(f"{{{name}}}" for name in known)
    for match in _PLACEHOLDER.finditer(topic):
        if match[1] not in known:
            where = f"at character {match.start() + 1} of the topic"
            yield f"unknown placeholder {match[0]} {where}", _meant(match[1], known) or f"this format knows {names}"
    rest = _PLACEHOLDER.sub("", topic)
    if "{" in rest or "}" in rest:
        yield "a brace in the topic is not closed", f"placeholders are {names}"
    if not topic or any(sign in topic for sign in "+#\x00") or topic.startswith(("$", "/")):
        yield "the topic cannot be published to", "no + or #, no $ or / at the start"


def topic_of(template: str, names: Mapping[str, str]) -> str:
    """Fill a topic template; levels of which nothing is left are dropped."""
    levels = []
    for level in template.split("/"):
        filled = _PLACEHOLDER.sub(lambda match: re.sub(r"[+#\0]", "_", names.get(match[1], "")), level)
        if filled or not _PLACEHOLDER.search(level):
            levels.append(filled)
    return "/".join(levels)


def body_faults(body: Any, names: Iterable[str], values: Iterable[str], path: tuple[str, ...] = ()) -> Iterator[Fault]:
    """Give whatever is wrong with a body template."""
    names, values = tuple(names), tuple(values)
    if isinstance(body, Mapping):
        if not body:
            yield path, "this object is empty", "give it keys"
        for key, value in body.items():
            yield from body_faults(value, names, values, (*path, str(key)))
    elif isinstance(body, str):
        yield from ((path, *fault) for fault in _text_faults(body, names, values))
    elif isinstance(body, int) and not -(2**63) <= body < 2**64:
        yield path, "the number has more than 64 bits", "put it in quotes"
    elif isinstance(body, list):
        yield path, "a list cannot stand in a body", "give keys and values"


def _text_faults(text: str, names: tuple[str, ...], values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    known = (*names, *values)
    for match in _PLACEHOLDER.finditer(text):
        where = "" if match[0] == text else f" at character {match.start() + 1}"
        if match[1] not in known:
            hint = _meant(match[1], known) or f"known here: {', '.join(known)}"
            yield f"unknown placeholder {match[0]}{where}", hint
        elif match[1] in values and match[0] != text:
            yield f"{match[0]} must stand alone, for it is not a name", f'write KEY: "{match[0]}"'
    rest = _PLACEHOLDER.sub("", text)
    if "{" in rest or "}" in rest:
        yield "a brace is not closed", 'write "{device}" with both'


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.strip().lower(), list(known), 1, 0.6)
    return f"did you mean {{{close[0]}}}?" if close else ""


def compiled(body: Mapping[str, Any], names: Mapping[str, str], values: Iterable[str]) -> Members:
    """Compile a body without faults: `names` are known now, `values` come with each message."""
    later = frozenset(values)
    members: list[tuple[bytes, str | Members | None]] = []
    for key, value in body.items():
        head = orjson.dumps(str(key)) + b":"
        if isinstance(value, Mapping):
            members.append((head, compiled(value, names, later)))
        elif not isinstance(value, str):
            members.append((head + orjson.dumps(value), None))
        elif (match := _PLACEHOLDER.fullmatch(value)) and match[1] in later:
            members.append((head, match[1]))
        elif text := _PLACEHOLDER.sub(lambda match: names.get(match[1], ""), value):
            members.append((head + orjson.dumps(text), None))
    return tuple(members)


def rendered(members: Members, values: Mapping[str, bytes]) -> bytes:
    """Write an object; members whose value is not there are left out."""
    parts = []
    for head, content in members:
        if content is None:
            parts.append(head)
        elif isinstance(content, tuple):
            parts.append(head + rendered(content, values))
        elif (value := values.get(content)) is not None:
            parts.append(head + value)
    return b"{" + b",".join(parts) + b"}"
