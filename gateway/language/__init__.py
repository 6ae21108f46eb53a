"""Messages in the language of whoever reads them. The code says everything in plain English, where it happens; here a
finished English text becomes Chinese just before it is shown to a person.

`LANGUAGE.json` beside this module maps templates to translations. A template is the f-string as it stands in the code,
with `{}` for each value and `{s}` for what only a plural changes (s, are); a translation takes the values in order, or
by number: {1} before {0}; `{0w}` is a value that is itself a word of ours (a tag, a device), looked up under "words".
What a value holds is translated too, so that a reason inside a sentence is in the same language. Under "others" stand
texts that are put together or come from the system, which docs/messages.py does not find in the code. A translation
that is its template says that there is nothing to translate.

A text that no template fits stays as it is. Logs are never translated: programs read them. The daemon loads this only
to say on a terminal why it ended.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

VARIABLE: Final = "PLANTBRIDGE_LANG"
LANGUAGES: Final = ("en", "zh")

_TOKEN: Final = re.compile(r"(\{\{|\}\}|\{s?\})")
_PLACE: Final = re.compile(r"\{\{|\}\}|\{(\d*)(w?)\}")
_DEEPEST: Final = 6  # texts within texts
_JOINTS: Final = (("\n", "\n"), (": ", "："), ("; ", "；"), (", ", "，"))  # and how they are written in Chinese


@dataclass(frozen=True, slots=True)
class Message:
    """One template and its translation."""

    template: str
    translation: str
    mark: str  # its longest literal piece: a text without it cannot be this message
    weight: int  # letters of literal text: of two that fit, the one with more is meant


class Catalogue:
    """The messages of one language."""

    def __init__(self, messages: Mapping[str, str], words: Mapping[str, str]) -> None:
        every = {each: text for each, text in messages.items() if text != each}
        self._exact = {literal(each): text for each, text in every.items() if not holes(each)}
        self._words = words
        made = (_message(each, text) for each, text in every.items() if holes(each) or "{s}" in each)
        self._templates = sorted(made, key=lambda each: -each.weight)

    def say(self, text: str) -> str:
        """Give the text in this language; as it is where nothing fits."""
        return self._say(text, _DEEPEST)

    def word(self, text: str) -> str:
        """Give a word of ours, or a text; as it is where it is neither."""
        return self._words.get(text) or self.say(text)

    def template(self, text: str) -> str:
        """Give the template that a text was made from; nothing where that is not known."""
        if text in self._exact:
            return text
        return next((each.template for each in self._templates if each.mark in text and _fit(each, text)), "")

    def _say(self, text: str, deep: int) -> str:
        if not deep or not text:
            return text
        found = self._exact.get(text)
        if found is not None:
            return _filled(found, ())
        for each in self._templates:
            match = _fit(each, text) if each.mark in text else None
            if match is not None:
                return _filled(each.translation, tuple(self._value(part, deep - 1) for part in match.groups()))
        return self._parts(text, deep)

    def _value(self, text: str, deep: int) -> tuple[str, str]:
        """Give a value as it is said, and as a word."""
        return self._say(text, deep), self._words.get(text, text)

    def _parts(self, text: str, deep: int) -> str:
        """Translate what a text that is no message was put together from."""
        if text.endswith(".") and (whole := self._say(text[:-1], deep - 1)) != text[:-1]:
            return f"{whole}。"  # a reason that was ended as a sentence
        for joint, ours in _JOINTS:
            if joint in text:
                parts = text.split(joint)
                said = [self._say(part, deep - 1) for part in parts]
                return text if said == parts else ours.join(said)
        opened = text.find(" (")
        if text.endswith(")") and opened > 0:
            return f"{self._say(text[:opened], deep - 1)} ({self._say(text[opened + 2 : -1], deep - 1)})"
        return text


def holes(template: str) -> int:
    """Count the values of a template."""
    return sum(token == "{}" for token in _TOKEN.findall(template))


def places(translation: str) -> list[int]:
    """Give the numbers of the values that a translation shows."""
    found = [match for match in _PLACE.finditer(translation) if match[0] not in ("{{", "}}")]
    return [int(match[1]) if match[1] else index for index, match in enumerate(found)]


def literal(template: str) -> str:
    """Give the text of a template without values."""
    return template.replace("{{", "{").replace("}}", "}")


def _message(template: str, translation: str) -> Message:
    pieces = [literal(piece) for piece in re.split(r"(?<!\{)\{s?\}(?!\})", template)]
    return Message(template, translation, max(pieces, key=len), sum(map(len, pieces)))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    how = {"{{": r"\{", "}}": r"\}", "{}": "(.*?)", "{s}": "(?:s|is|are|was|were)?"}
    return re.compile("".join(how.get(part) or re.escape(part) for part in _TOKEN.split(template)), re.DOTALL)


def _fit(message: Message, text: str) -> re.Match[str] | None:
    return _pattern(message.template).fullmatch(text)


def _filled(translation: str, values: tuple[tuple[str, str], ...]) -> str:
    count = iter(range(len(values)))

    def fill(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        said, word = values[int(match[1]) if match[1] else next(count)]
        return word if match[2] else said

    return _PLACE.sub(fill, translation)


# ------------------------------------------------------------------------------------------------ the language in use


def language(environment: Mapping[str, str] = os.environ) -> str:
    """Give the language: as PLANTBRIDGE_LANG says, else as the locale does; English where neither is known."""
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        wanted = environment.get(name, "").lower()
        if wanted:
            return next((each for each in LANGUAGES if re.match(rf"{each}(?![a-z])", wanted)), "en")
    return "en"


@cache
def catalogue(wanted: str) -> Catalogue:
    """Load the messages of a language. English has none: it is what the code says."""
    if wanted == "en":
        return Catalogue({}, {})
    import orjson

    body = orjson.loads((files("gateway.language") / f"{wanted}.json").read_bytes())
    return Catalogue({**body["others"], **body["messages"]}, body["words"])


def say(text: str) -> str:
    """Give a text in the language in use."""
    wanted = language()
    return text if wanted == "en" else catalogue(wanted).say(text)


def word(text: str) -> str:
    """Give a word of ours, such as a heading, a state or a severity, in the language in use."""
    wanted = language()
    return text if wanted == "en" else catalogue(wanted).word(text)
