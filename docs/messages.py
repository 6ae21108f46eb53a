"""The messages of the code, and which of them have no translation: `python docs/messages.py`.

A message is a sentence in the code of a room that people read from (ROOMS), or the help of a command. It is found by
its look: a literal or f-string with two words in it, that is not a docstring, a log entry, SQL or HTML. Values
become `{}`, and the s of a plural `{s}`: the template, which gateway/language/zh.json translates.

    python docs/messages.py            list what lacks a translation, and what translates nothing any more
    python docs/messages.py --tidy     write zh.json sorted, without what translates nothing
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CATALOGUE: Final = ROOT / "gateway" / "language" / "zh.json"
ROOMS: Final = ("gateway", "drivers", "simulators/scenario.py", "simulators/site.py")
SILENT: Final = (
    "gateway/codec.py",  # what it says of bytes goes to the log
    "gateway/arrow.py",
    "gateway/folded.py",
    "gateway/metrics.py",  # help of metrics, for Prometheus
    "gateway/encoders/sparkplug_payload.py",
    "gateway/log.py",
    "gateway/stores/rollups.py",  # it speaks SQL
    "gateway/language",
    "gateway/inventory/words.py",  # has both languages itself
    "gateway/inventory/stored.py",  # SQL
)
"""Their sentences reach the log, the wire or a programmer."""

_SENTENCE: Final = re.compile(r"(?:[A-Za-z]{2,}|\{\})[,;:']?s? (?:[a-z(]|\{\})")
_WORDS: Final = re.compile(r"[A-Za-z]{2,}")
_SQL: Final = re.compile(
    r"^\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|ALTER|DROP|WITH|ATTACH|COPY|FROM|WHERE|JOIN|ORDER|BEGIN|EXPLAIN)\b"
)
_MARKUP: Final = re.compile(r"</?[a-z]+[0-9]?( [a-z]+=|>)|^\s*:root")
_FORMATTED: Final = re.compile(r"\{\{(?:note|client_id|elsewhere)\}\}")
"""What str.format fills, later than an f-string does."""
_LOGGERS: Final = ("log", "_log", "logger", "structlog")
_LOGS: Final = ("debug", "info", "warning", "error", "exception", "critical")
_NO_MESSAGE: Final = (
    "Field", "WithJsonSchema", "Counter", "Gauge", "Histogram", "compile", "execute", "executemany", "fullmatch",
    "TypeVar", "NewType", "getLogger", "RuntimeError", "AssertionError", "NotImplementedError", "TypeError",
)  # fmt: skip


def template(node: ast.AST) -> str | None:
    """Give the template of a literal or f-string; None where it is neither."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value.replace("{", "{{").replace("}", "}}")
        return _FORMATTED.sub("{}", text)
    if not isinstance(node, ast.JoinedStr):
        return None
    text = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
        else:
            assert isinstance(part, ast.FormattedValue)
            text += "{s}" if _is_plural(part.value) else "{}"
    return text


def _is_plural(value: ast.expr) -> bool:
    ends = (value.body, value.orelse) if isinstance(value, ast.IfExp) else ()
    said = {each.value for each in ends if isinstance(each, ast.Constant)}
    return said in ({"", "s"}, {"is", "are"}, {"was", "were"})


def is_message(text: str) -> bool:
    """Say whether a text looks like something said to a person."""
    if _SQL.match(text) or _MARKUP.search(text):
        return False
    return bool(_SENTENCE.search(text) and _WORDS.search(re.sub(r"\{s?\}", "", text)))


def messages_of(path: Path) -> Iterator[tuple[str, int]]:
    """Give the templates in one file, with their lines."""
    yield from _messages(ast.parse(path.read_text(encoding="utf-8")), "cli" in path.parts)


def _messages(node: ast.AST, command: bool) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call) and _is_silent(node.func):
        return
    if isinstance(node, ast.Subscript | ast.AnnAssign) and not command:
        if node.value is not None:
            yield from _messages(node.value, command)
        return
    text = template(node)
    if text is not None:
        if is_message(text):
            yield text, getattr(node, "lineno", 0)
        if isinstance(node, ast.JoinedStr):
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from _messages(part.value, command)
        return
    for child in ast.iter_child_nodes(node):
        yield from _messages(child, command)


def _is_silent(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in _NO_MESSAGE
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value
    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return function.attr in _NO_MESSAGE or (function.attr in _LOGS and name in _LOGGERS)


def helps() -> Iterator[str]:
    """Give the help of every command, argument and option."""
    import typer

    from gateway.cli.app import make_app

    yield from helps_of(typer.main.get_command(make_app()))


def helps_of(command: object) -> Iterator[str]:
    """Give the helps of one command and of those below it, as typer shows them."""
    text = getattr(command, "help", None)
    if text:
        yield text.replace("{", "{{").replace("}", "}}")
    for parameter in getattr(command, "params", []):
        if getattr(parameter, "help", None):
            yield parameter.help.replace("{", "{{").replace("}", "}}")
    for below in getattr(command, "commands", {}).values():
        yield from helps_of(below)


def words() -> Iterator[tuple[str, str]]:
    """Give the headings, verdicts and states that commands show, and where: what `table` and `word` are called with.

    What is called HEADINGS, and the values of a `Verdict`, are such words too.
    """
    for room in ("gateway/cli", "gateway/acceptance"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for each in _said_in(node):
                    yield each, f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 0)}"


def _said_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for given in node.args if name in ("table", "word") else ():
            yield from _literals(given)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(each, ast.Name) and each.id.endswith("HEADINGS") for each in targets) and node.value:
            yield from _literals(node.value)
    elif isinstance(node, ast.ClassDef) and node.name == "Verdict":
        for each in node.body:
            if isinstance(each, ast.Assign):
                yield from _literals(each.value)


def _literals(node: ast.expr) -> Iterator[str]:
    """Give the texts that an expression may be: one, a choice of two, or a tuple of them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*_literals(node.body), *_literals(node.orelse))
    elif isinstance(node, ast.Tuple):
        for each in node.elts:
            yield from _literals(each)
    elif isinstance(node, ast.Starred):
        yield from _literals(node.value)


def required() -> Iterator[str]:
    """Give what is said of each key that must be given: the first sentence of its description."""
    from gateway.config import schema
    from gateway.config.messages import described
    from gateway.options import Options

    schema.json_schema("site")  # which imports the models of every driver
    import_module("gateway.testbed.scenario")  # and simulators.scenario with it
    every = [Options]
    for model in every:
        every += model.__subclasses__()
        if not model.__module__.startswith(("gateway.", "drivers.", "simulators.")):
            continue  # somebody's own driver, as tests have it
        for name, field in model.model_fields.items():
            if field.is_required() and (text := described(model, field.alias or name)):
                yield text.replace("{", "{{").replace("}", "}}")


def collected() -> dict[str, str]:
    """Give every template, and where it stands first."""
    found: dict[str, str] = {}
    for room in ROOMS:
        start = ROOT / room
        for path in sorted(start.rglob("*.py")) if start.is_dir() else [start]:
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(SILENT):
                continue
            for text, line in messages_of(path):
                found.setdefault(text, f"{name}:{line}")
    for text in helps():
        found.setdefault(text, "--help")
    for text in required():
        found.setdefault(text, "the description of a key that must be given")
    return found


def main() -> None:
    """Compare code and catalogue."""
    body = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    found, known = collected(), body["messages"]
    for text, place in found.items():
        if text not in known:
            print(f"{place}: not translated: {json.dumps(text, ensure_ascii=False)}")
    stale = [text for text in known if text not in found]
    for text in stale:
        print(f"translates nothing: {json.dumps(text, ensure_ascii=False)}")
    if "--tidy" in sys.argv:
        body["messages"] = {text: known[text] for text in sorted(known) if text in found}
        CATALOGUE.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
