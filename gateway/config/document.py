"""One YAML file as plain data in which every key and value knows its place.

Mappings and lists are `dict` and `list` subclasses that carry libyaml's marks (file, line, column), so that merging
files keeps the places and a message can point at the very character. Built from the parser's events without
recursion: libyaml's own composer dies on a file of a hundred thousand brackets.

Plain words are read as in YAML 1.2, which is what editors check: `on`, `off`, `yes`, `no`, 1:30 and dates are text,
0x1F is a number. Keys are always text. Every fault becomes a Problem, and reading goes on after it where it can; only
a syntax error ends the file. References such as ${env:NAME} are resolved here (gateway.config.references).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs forget it

from gateway.config import syntax
from gateway.config.references import Missing, References
from gateway.errors import Problem

DEEPEST: Final = 40
"""Levels of nesting; a site file has nine."""

LARGEST: Final = 3_000_000
"""Values in one file with its aliases followed: a few lines of aliases can stand for more than any memory holds."""

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER_STARTS: Final = frozenset("+-.0123456789")
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Mark(Protocol):
    """A place as libyaml gives it; line and column count from 0."""

    name: str
    line: int
    column: int


class Mapping(dict[str, Any]):
    """Keys and values of one YAML mapping. `at` has the places of each key and of its value."""

    __slots__ = ("at", "mark")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.at: dict[str, tuple[Mark, Mark]] = {}

    def put(self, key: str, value: Any, source: Mapping) -> None:
        """Set a key with the places it has in another mapping."""
        self[key] = value
        self.at[key] = source.at[key]

    def copy(self) -> Mapping:
        """Give a mapping with the same values that can be changed."""
        copy = Mapping(self.mark)
        copy.update(self)
        copy.at.update(self.at)
        return copy


class Listing(list[Any]):
    """Items of one YAML sequence. `at` has the place of each."""

    __slots__ = ("at", "mark")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.at: list[Mark] = []


@dataclass(slots=True)
class _Frame:
    """A collection that is being read; `key` waits for its value."""

    into: Mapping | Listing
    key: str | None = None
    key_mark: Any = None
    merges: list[tuple[Any, Any]] = field(default_factory=list)
    anchor: str | None = None
    size: int = 1


def text_of(data: bytes, file: str, problems: list[Problem]) -> str | None:
    """Decode a file, or report why it cannot be read as text."""
    found = syntax.encoding_problem(data, file)
    if found is None:
        text = data.decode("utf-8-sig")
        found = syntax.character_problem(text, file)
        if found is None:
            return text
    problems.append(found)
    return None


def parse(text: str, file: str, problems: list[Problem], references: References) -> Any:
    """Read a YAML document: a Mapping, a Listing, a scalar, or None where it is empty or cannot be read."""
    stream = io.BytesIO(text.encode())
    stream.name = file  # libyaml writes it into every mark
    try:
        return _Reader(file, problems, references).read(CParser(stream))
    except yaml.YAMLError as error:
        problems.append(syntax.syntax_problem(error, text, file))
    except _TooLargeError as error:
        problems.append(Problem(file, error.line, error.column, "", error.reason, "such a file is not a configuration"))
    return None


class _TooLargeError(Exception):
    def __init__(self, mark: Any, reason: str) -> None:
        self.line, self.column, self.reason = mark.line + 1, mark.column + 1, reason


class _Reader:
    """From events to data; holds what is open while reading one file."""

    def __init__(self, file: str, problems: list[Problem], references: References) -> None:
        self.file = file
        self.problems = problems
        self.references = references
        self.frames: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.size = 0

    def problem(self, mark: Any, path: str, reason: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, mark.line + 1, mark.column + 1, path, reason, hint))

    def path(self) -> str:
        """Where in the document the reader is."""
        parts = []
        for frame in self.frames:
            if isinstance(frame.into, Listing):
                parts.append(f"[{len(frame.into)}]")
            elif frame.key is not None:
                parts.append(frame.key)
        return ".".join(parts).replace(".[", "[")

    def read(self, parser: Any) -> Any:
        """Take all events; give the document's data."""
        result: Any = None
        documents = 0
        while (event := parser.get_event()) is not None:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                frame = self.frames[-1] if self.frames else None
                if frame is not None and frame.key is None and type(frame.into) is Mapping:
                    self.key(frame, event)
                    continue
                value = self.scalar(event)
                if event.anchor is not None:
                    self.anchors[event.anchor] = (value, 1)
                result = self.value(value, event.start_mark) if frame else value
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self.open(event, Mapping if kind is yaml.MappingStartEvent else Listing)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                result = self.close()
            elif kind is yaml.AliasEvent:
                self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self.problem(event.start_mark, "", "a second document begins here", "remove the line with ---")
                    break
        return result

    def key(self, frame: _Frame, event: Any) -> None:
        frame.key, frame.key_mark = event.value, event.start_mark

    def scalar(self, event: Any) -> Any:
        """Give a scalar's value; references in it are resolved."""
        text: str = event.value
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(event.start_mark, self.path(), f"the YAML tag {tag} is not used here", "remove it")
        elif not event.style and event.tag is None:
            value = plain(text)
            if value is not text:
                return value
        if "${" in text:
            resolved, faults = self.references.resolve(text, self.file)
            for reason, hint in faults:
                self.problem(event.start_mark, self.path(), reason, hint)
            return resolved
        return text

    def value(self, value: Any, mark: Any, size: int = 1) -> Any:
        """Put a value where it belongs: into the innermost open collection."""
        frame = self.frames[-1]
        frame.size += size
        into = frame.into
        if type(into) is Listing:
            into.append(value)
            into.at.append(mark)
        elif type(into) is Mapping:
            key = frame.key
            if key is None:  # a collection or an alias where a key should be
                self.problem(mark, self.path(), "a key must be text", "put text with { or [ in quotes")
                frame.key, frame.key_mark = "", None
                return value
            if frame.key_mark is None:
                pass  # the value of such a key
            elif key == "<<":
                frame.merges.append((value, mark))
            elif key in into:
                first = into.at[key][0]
                self.problem(
                    frame.key_mark, self.path(), f"the key {key} is given twice", f"first in line {first.line + 1}"
                )
            else:
                into[key] = value
                into.at[key] = (frame.key_mark, mark)
            frame.key = None
        return value

    def open(self, event: Any, kind: type[Mapping] | type[Listing]) -> None:
        mark = event.start_mark
        if len(self.frames) >= DEEPEST:
            raise _TooLargeError(mark, f"nested more than {DEEPEST} levels deep")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self.problem(mark, self.path(), f"the YAML tag {event.tag} is not used here", "remove it")
        self.frames.append(_Frame(kind(mark), anchor=event.anchor))

    def close(self) -> Any:
        frame = self.frames.pop()
        into = frame.into
        if type(into) is Mapping:
            for source, mark in frame.merges:
                self.merge(into, source, mark)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (into, frame.size)
        if self.frames:
            self.value(into, into.mark, size=frame.size)
        return into

    def merge(self, into: Mapping, source: Any, mark: Any) -> None:
        """Follow `<<`: keys of another mapping, or of a list of them, that this one does not have itself."""
        for mapping in source if isinstance(source, list) else [source]:
            if not isinstance(mapping, Mapping):
                self.problem(mark, self.path(), "<< must be given a mapping", "write <<: *name")
                continue
            for key, value in mapping.items():
                if key not in into:
                    into.put(key, value, mapping)

    def alias(self, event: Any) -> None:
        name = event.anchor
        value, size = self.anchors.get(name, (Missing(), 1))
        if name not in self.anchors:
            inside = any(frame.anchor == name for frame in self.frames)
            reason = f"*{name} stands inside &{name} itself" if inside else f"there is no &{name} above this *{name}"
            self.problem(event.start_mark, self.path(), reason)
        self.size += size
        if self.size > LARGEST:
            raise _TooLargeError(event.start_mark, f"its aliases stand for more than {LARGEST} values")
        if self.frames:
            self.value(value, event.start_mark, size=size)


def plain(text: str) -> Any:
    """Read a plain word as YAML 1.2 does; text itself (the same object) where it is none of the other types."""
    if text[:1] in _NUMBER_STARTS and text:
        if _INTEGER.fullmatch(text):
            return int(text, 0) if text[1:2] in ("o", "x") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text
    if text in _NULL:
        return None
    return _BOOL.get(text, text)


def locate(root: Any, path: Sequence[str | int]) -> tuple[Any, Any]:
    """Give the marks of a path's key and of its value; those of the innermost known part where it ends early."""
    key = value = getattr(root, "mark", None)
    for part in path:
        if isinstance(root, Mapping) and isinstance(part, str) and part in root:
            key, value = root.at[part]
            root = root[part]
        elif isinstance(root, Listing) and isinstance(part, int) and 0 <= part < len(root):
            key = value = root.at[part]
            root = root[part]
        else:
            break
    return key, value
