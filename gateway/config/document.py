"""One YAML file as plain data in which every key and value knows its place.

Mappings and lists are `dict` and `list` subclasses that keep the file, line and column of what is in them, so that
merging files keeps the places and a message can point at the very character. Built from the parser's events without
recursion: libyaml's own composer dies on a file of a hundred thousand brackets.

Plain words are read as in YAML 1.2, which is what editors check: `on`, `off`, `yes`, `no`, 1:30 and dates are text,
0x1F is a number. A number with a leading zero is text: 00101 is a Modbus reference. Keys are always text. Every fault
becomes a Problem, and reading goes on after it where it can; only a syntax error ends the file. References such as
${env:NAME} are resolved here (gateway.config.references).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs forget it

from gateway.config import syntax
from gateway.config.references import Missing, References
from gateway.errors import Problem
from gateway.model import Where

DEEPEST: Final = 40
"""Levels of nesting; a site file has nine."""

LARGEST: Final = 3_000_000
"""Values in one file with its aliases followed: a few lines of aliases can stand for more than any memory holds."""

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER_STARTS: Final = frozenset("+-.0123456789")
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,299})|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_FLOAT: Final = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class Mapping(dict[str, Any]):
    """Keys and values of one YAML mapping, and where each stands.

    Places are kept as packed numbers: as objects they would weigh three times what they belong to.
    """

    __slots__ = ("elsewhere", "file", "places", "start")

    def __init__(self, file: str, start: int) -> None:
        self.file = file
        self.start = start
        self.places: dict[str, int] = {}  # of the key and, below it, of the value
        self.elsewhere: dict[str, str] = {}  # keys that come from another file

    @property
    def mark(self) -> Where:
        """Where the mapping begins."""
        return _where(self.file, self.start)

    def key_at(self, key: str) -> Where:
        return _where(self.elsewhere.get(key, self.file), self.places[key] >> _BITS)

    def value_at(self, key: str) -> Where:
        return _where(self.elsewhere.get(key, self.file), self.places[key] & _MASK)

    def at(self, key: str) -> tuple[Where, Where]:
        """Give the places of a key and of its value."""
        return self.key_at(key), self.value_at(key)

    def put(self, key: str, value: Any, source: Mapping, origin: str = "") -> None:
        """Set a key with the places it has in another mapping, or that `origin` has there."""
        origin = origin or key
        self[key] = value
        self.places[key] = source.places[origin]
        file = source.elsewhere.get(origin, source.file)
        if file != self.file:
            self.elsewhere[key] = file
        else:
            self.elsewhere.pop(key, None)

    def put_here(self, key: str, value: Any) -> None:
        """Set a key that no file has, with the place where the mapping begins."""
        self[key] = value
        self.places[key] = self.start << _BITS | self.start

    def new(self) -> Mapping:
        """Give an empty mapping at the same place."""
        return Mapping(self.file, self.start)

    def copy(self) -> Mapping:
        """Give a mapping with the same values that can be changed."""
        copy = self.new()
        copy.update(self)
        copy.places.update(self.places)
        copy.elsewhere.update(self.elsewhere)
        return copy


class Listing(list[Any]):
    """Items of one YAML sequence, and where each stands."""

    __slots__ = ("file", "places", "start")

    def __init__(self, file: str, start: int) -> None:
        self.file = file
        self.start = start
        self.places: list[int] = []

    @property
    def mark(self) -> Where:
        """Where the sequence begins."""
        return _where(self.file, self.start)

    def at(self, index: int) -> Where:
        return _where(self.file, self.places[index])


_BITS: Final = 40  # of a packed place: 24 for the line, 16 for the column
_MASK: Final = (1 << _BITS) - 1


def _pack(mark: Any) -> int:
    """Pack a place of libyaml's, which counts from 0."""
    column: int = mark.column
    place: int = mark.line << 16 | (column if column < 0xFFFF else 0xFFFF)
    return place


def _where(file: str, packed: int) -> Where:
    return Where(file, (packed >> 16) + 1, (packed & 0xFFFF) + 1)


@dataclass(slots=True)
class _Frame:
    """A collection that is being read; `key` waits for its value."""

    into: Mapping | Listing
    key: str | None = None
    key_at: int = -1  # packed; -1: the key is none, and its value is dropped
    merges: list[tuple[Any, int]] = field(default_factory=list)
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
        self.words: dict[str, str] = {}  # a key that occurs ten thousand times is one object
        self.size = 0

    def problem(self, place: int, path: str, reason: str, hint: str = "", severity: str = "error") -> None:
        at = _where(self.file, place)
        self.problems.append(Problem(at.file, at.line, at.column, path, reason, hint, severity))

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
                result = self.value(value, _pack(event.start_mark)) if frame else value
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self.open(event, Mapping if kind is yaml.MappingStartEvent else Listing)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                result = self.close()
            elif kind is yaml.AliasEvent:
                self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self.problem(
                        _pack(event.start_mark), "", "a second document begins here", "remove the line with ---"
                    )
                    break
        return result

    def key(self, frame: _Frame, event: Any) -> None:
        frame.key, frame.key_at = self.words.setdefault(event.value, event.value), _pack(event.start_mark)

    def scalar(self, event: Any) -> Any:
        """Give a scalar's value; references in it are resolved."""
        text: str = event.value
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(_pack(event.start_mark), self.path(), f"the YAML tag {tag} is not used here", "remove it")
        elif not event.style and event.tag is None:
            value = plain(text)
            if value is not text:
                return value
        if "${" in text:
            resolved, faults = self.references.resolve(text, self.file)
            for reason, hint in faults:
                self.problem(_pack(event.start_mark), self.path(), reason, hint, self.references.severity)
            return resolved
        return text

    def value(self, value: Any, place: int, size: int = 1) -> Any:
        """Put a value where it belongs: into the innermost open collection."""
        frame = self.frames[-1]
        frame.size += size
        into = frame.into
        if type(into) is Listing:
            into.append(value)
            into.places.append(place)
        elif type(into) is Mapping:
            key = frame.key
            if key is None:  # a collection or an alias where a key should be
                self.problem(place, self.path(), "a key must be text", "put text with { or [ in quotes")
                frame.key, frame.key_at = "", -1
                return value
            if frame.key_at < 0:
                pass  # the value of such a key
            elif key == "<<":
                frame.merges.append((value, place))
            elif key in into:
                hint = f"first in line {into.key_at(key).line}"
                self.problem(frame.key_at, self.path(), f"the key {key} is given twice", hint)
            else:
                into[key] = value
                into.places[key] = frame.key_at << _BITS | place
            frame.key = None
        return value

    def open(self, event: Any, kind: type[Mapping] | type[Listing]) -> None:
        mark = event.start_mark
        if len(self.frames) >= DEEPEST:
            raise _TooLargeError(mark, f"nested more than {DEEPEST} levels deep")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self.problem(_pack(mark), self.path(), f"the YAML tag {event.tag} is not used here", "remove it")
        self.frames.append(_Frame(kind(self.file, _pack(mark)), anchor=event.anchor))

    def close(self) -> Any:
        frame = self.frames.pop()
        into = frame.into
        if type(into) is Mapping:
            for source, place in frame.merges:
                self.merge(into, source, place)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (into, frame.size)
        if self.frames:
            self.value(into, into.start, size=frame.size)
        return into

    def merge(self, into: Mapping, source: Any, place: int) -> None:
        """Follow `<<`: keys of another mapping, or of a list of them, that this one does not have itself."""
        for mapping in source if isinstance(source, list) else [source]:
            if not isinstance(mapping, Mapping):
                self.problem(place, self.path(), "<< must be given a mapping", "write <<: *name")
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
            self.problem(_pack(event.start_mark), self.path(), reason)
        self.size += size
        if self.size > LARGEST:
            raise _TooLargeError(event.start_mark, f"its aliases stand for more than {LARGEST} values")
        if self.frames:
            self.value(value, _pack(event.start_mark), size=size)


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


def locate(root: Any, path: Sequence[str | int]) -> tuple[Where, Where]:
    """Give the places of a path's key and of its value; those of the innermost known part where it ends early."""
    key = value = root.mark
    for part in path:
        if isinstance(root, Mapping) and isinstance(part, str) and part in root:
            key, value = root.at(part)
            root = root[part]
        elif isinstance(root, Listing) and isinstance(part, int) and 0 <= part < len(root):
            key = value = root.at(part)
            root = root[part]
        else:
            break
    return key, value
