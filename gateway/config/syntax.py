"""Faults below the meaning of a file: its encoding, its characters, its YAML grammar; told in a plant engineer's words.

libyaml stops at the first fault of grammar and says where its scanner stood, which is often a line later than the
mistake. What is said here is the place where something was opened or begun, and what usually causes it.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import Problem

_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CHINESE: Final = re.compile("[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]")


_QUOTES: Final = "put the text in quotes"
_RARE: Final = (
    ("mapping keys are not allowed", "text cannot begin with ?", _QUOTES),
    ("alphabetic or numeric character", "& and * begin the name of an anchor or alias", _QUOTES),
    ("unexpected ':'", "a colon inside text in braces or brackets", _QUOTES),
    ("block sequence entries are not allowed", "a list item beginning with - cannot stand here", _QUOTES),
    ("expected comment or line break", "text cannot begin with | or >", _QUOTES),
    ("directive", "a line cannot begin with %", _QUOTES),
)
"""What libyaml says, and what we say."""

_NOT_A_KEY: Final = "this line is not key: value"


@dataclass(frozen=True, slots=True)
class _Place:
    line: int
    column: int


def indent(line: str) -> int:
    """Give the number of blanks that a line begins with."""
    return len(line) - len(line.lstrip(" "))


def encoding_problem(data: bytes, file: str) -> Problem | None:
    """Say why bytes are not UTF-8, and what they probably are."""
    for mark, name in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if data.startswith(mark):
            return Problem(file, 1, 1, "", f"the file is {name}, not UTF-8", "save it as UTF-8")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        guess = _guess(data)
        return Problem(
            file,
            line,
            column,
            "",
            f"the file is not UTF-8{guess}",
            "save it as UTF-8; in an editor: Save with Encoding",
        )
    return None


def _guess(data: bytes) -> str:
    """Tell GB18030, the usual encoding of Chinese Windows, from other things."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return f": byte 0x{next(byte for byte in data if byte > 127):02X}"
    strange = [character for character in text if ord(character) > 127]
    if 2 * sum(_common(character) for character in strange) > len(strange):
        return "; it looks like GB18030 (GBK)"
    return f": byte 0x{next(byte for byte in data if byte > 127):02X}"


def _common(character: str) -> bool:
    """Whether a character is Chinese and in daily use: Latin-1 read as GB18030 gives Chinese too, but rare ones."""
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return bool(_CHINESE.match(character))


def character_problem(text: str, file: str) -> Problem | None:
    """Find a character that YAML does not allow, such as a control character."""
    found = _UNPRINTABLE.search(text)
    if found is None:
        return None
    line = text.count("\n", 0, found.start()) + 1
    column = found.start() - text.rfind("\n", 0, found.start())
    return Problem(
        file, line, column, "", f"a control character (U+{ord(found[0]):04X}) is not allowed in YAML", "delete it"
    )


def syntax_problem(error: Any, text: str, file: str) -> Problem:
    """Turn libyaml's complaint into a Problem at the place of the mistake."""
    mark = getattr(error, "problem_mark", None)
    begun = getattr(error, "context_mark", None) or mark
    if mark is None:
        return Problem(file, 0, 0, "", f"not YAML: {error}")
    lines = text.splitlines() or [""]
    mark, reason, hint = _explain(str(error.problem or ""), str(error.context or ""), mark, begun, lines)
    line = lines[min(mark.line, len(lines) - 1)]
    return Problem(file, mark.line + 1, mark.column + 1, "", reason, look_alike(line) or hint)


def _explain(problem: str, context: str, mark: Any, begun: Any, lines: list[str]) -> tuple[Any, str, str]:
    """Give the place, the reason and a hint for each kind of complaint that libyaml has."""
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "tab" in problem or line[: mark.column + 1].strip(" ") == "\t" or line[mark.column : mark.column + 1] == "\t":
        return mark, "a tab is used for indentation", "indent with blanks; YAML does not allow tabs"
    if "cannot start any token" in problem:
        character = line[mark.column : mark.column + 1]
        return mark, f"text cannot begin with {character}", "put the text in quotes"
    if "quoted scalar" in context and "escape" in problem:
        return mark, "unknown \\ escape in double quotes", "use single quotes, or write \\\\ for a backslash"
    if "quoted scalar" in context:
        return begun, "this quote is never closed", "add the closing quote"
    if "flow mapping" in context or "flow sequence" in context:
        bracket = "{" if "mapping" in context else "["
        close = "}" if "mapping" in context else "]"
        return (
            begun,
            f"the {bracket} opened here is not continued with a comma or closed with {close}",
            (
                f"look at line {min(mark.line + 1, len(lines))}: "
                f"a comma, a closing {close}, or quotes around text are missing"
            ),
        )
    if "node content" in problem:
        return mark, "a value is missing here", "remove the extra comma or bracket, or write the value"
    if "could not find expected ':'" in problem:
        return begun, _NOT_A_KEY, "a key needs a colon and a blank after it"
    if "mapping values are not allowed" in problem:
        if ":" in line[: mark.column] or not mark.line:
            return mark, "a second colon in one line", 'put a value that contains ": " in quotes'
        above = next(index for index in range(mark.line - 1, -1, -1) if lines[index].strip() or not index)
        return _Place(above, indent(lines[above])), _NOT_A_KEY, "a key needs a colon and a blank after it"
    if "block collection" in context:
        return mark, "expected a list item beginning with - here", "indent the line under its key, or add -"
    for words, reason, hint in _RARE:
        if words in problem:
            return mark, reason, hint
    if "expected key" in problem or "<document start>" in problem or "block mapping" in context:
        return mark, "the indentation of this line fits no line above", "align it with the keys it belongs to"
    return mark, f"not YAML: {problem}", ""


def look_alike(line: str) -> str:
    """Say so where a line holds characters that only look like YAML's own."""
    for wrong, right in (("：", ":"), ("，", ","), ("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("\u3000", "blank")):
        if wrong in line:
            name = "an ideographic space" if wrong == "\u3000" else f"a full-width {wrong}"
            return f"the line has {name}; use an ASCII {right}"
    if "\u00a0" in line:
        return "the line has a no-break space; use an ordinary blank"
    return ""
