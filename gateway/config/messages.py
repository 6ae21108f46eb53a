"""What pydantic says about a value, said to a plant engineer: what was expected, what is there, what to do.

`check` validates one piece of a tree (a link's keys, a tag) and reports every fault at its place. Faults of a union's
members are told as one: "expected a number or text". A key that is unknown here gets the nearest known one as a hint,
or the level where it belongs. Values of secrets, and whatever a reference stands for, are not shown.
"""

from __future__ import annotations

import difflib
import os.path
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gateway.config.document import Mapping as Tree
from gateway.config.document import locate
from gateway.config.files import Files
from gateway.config.references import Missing, Referenced
from gateway.config.syntax import look_alike
from gateway.model import Where

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_SECRETS: Final = (("password",), ("token",), ("secret",))
_LONGEST: Final = 60

_MEANT: Final = {
    "slave": "unit_id", "slave_id": "unit_id", "unit": "unit_id", "id": "unit_id", "station": "unit_id",
    "host": "url", "endpoint": "url", "server": "url", "broker": "url", "ip": "url", "scan_rate": "interval",
    "poll": "interval", "period": "interval", "cycle": "interval", "rate": "interval", "polling_interval": "interval",
    "register": "address", "node": "address", "node_id": "address", "nodeid": "address", "protocol": "driver",
    "type": "driver", "plugin": "driver", "factor": "scale", "multiplier": "scale", "gain": "scale", "minimum": "min",
    "maximum": "max", "low": "min", "high": "max", "units": "unit", "user": "username", "byte_order": "order",
    "word_order": "order", "enum": "states", "values": "states", "points": "tags", "signals": "tags",
    "nodes": "tags", "registers": "tags", "datapoints": "tags", "name": "description",
}  # fmt: skip
"""What other gateways call things."""

_EXPECTED: Final = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "dict": "keys and values",
    "mapping": "keys and values", "model": "keys and values", "list": "a list such as [a, b]",
    "tuple": "a list such as [a, b]", "number": "a number", "finite": "a number that is not infinite",
}  # fmt: skip
"""By the first word of pydantic's error types: string_type, int_parsing, ..."""

_DURATIONS: Final = {
    "us": "us", "µs": "us", "μs": "us", "usec": "us", "ms": "ms", "msec": "ms", "millis": "ms", "s": "s", "sec": "s",
    "secs": "s", "second": "s", "seconds": "s", "m": "min", "mins": "min", "min": "min", "minute": "min",
    "minutes": "min", "h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "d": "d", "day": "d", "days": "d",
}  # fmt: skip
_SIZES: Final = {
    "b": "B", "byte": "B", "bytes": "B", "k": "kB", "kb": "kB", "m": "MB", "mb": "MB", "g": "GB", "gb": "GB",
    "kib": "KiB", "mib": "MiB", "gib": "GiB",
}  # fmt: skip
"""Units as people write them, and as we do."""

_BOUNDS: Final = {
    "greater_than_equal": ("at least", "ge"), "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"), "less_than": ("less than", "lt"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One complaint: its place in the data, whether the place is a member of a union, and pydantic's words."""

    path: Path
    union: bool
    type: str
    context: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A mapping that is validated on its own: its place, and what else is known about keys around it."""

    tree: Tree
    path: Path
    mark: Where  # where the mapping is named: its own key
    apart: Sequence[str] = ()  # keys that are checked on their own
    elsewhere: Mapping[str, str] | None = None  # keys of other levels, and whose they are


def check(model: type[Model], piece: Piece, files: Files) -> tuple[Model | None, bool]:
    """Validate a piece, report its faults, and give what can be used of it.

    The second value says whether all was well. Where it was not, the wrong keys are left out and the rest is used, so
    that what depends on it can be checked all the same; None where too much is missing.
    """
    data = {key: value for key, value in piece.tree.items() if key not in piece.apart}
    context = {"directory": os.path.dirname(piece.tree.mark.file)}
    faults = list(_numbers_not_booleans(model, data))
    if not faults:
        try:
            return model.model_validate(data, context=context), True
        except ValidationError as error:
            faults = list(_faults(error, data))
    else:
        try:
            model.model_validate(data, context=context)
        except ValidationError as error:
            faults += _faults(error, data)
    for path, members in _by_place(faults):
        _report(path, members, model, piece, files)
    wrong = {fault.path[0] for fault in faults if fault.path}
    try:
        return model.model_validate({key: data[key] for key in data if key not in wrong}, context=context), False
    except ValidationError:
        return None, False


# ------------------------------------------------------------------------------------------------ collecting


def _numbers_not_booleans(model: type[BaseModel], data: Mapping[str, Any]) -> Iterator[Fault]:
    """Find booleans where a number is expected: pydantic would read true as 1."""
    for key, value in data.items():
        if (value is True or value is False) and key in _numbers(model):
            yield Fault((key,), False, "number_type", {}, "")


@cache
def _numbers(model: type[BaseModel]) -> frozenset[str]:
    """Give the keys that take numbers and no booleans."""

    def mentions(annotation: Any) -> Iterator[Any]:
        yield annotation
        for part in get_args(annotation):
            yield from mentions(part)

    found = set()
    for name, field in model.model_fields.items():
        parts = list(mentions(field.annotation))
        if (int in parts or float in parts) and bool not in parts and not any(part is True for part in parts):
            found.add(field.alias or name)
    return frozenset(found)


def _faults(error: ValidationError, data: Any) -> Iterator[Fault]:
    """Give pydantic's errors with places that exist in the data: names of union members are taken out."""
    for each in error.errors(include_url=False, include_input=False):
        path: list[str | int] = []
        union = False
        here = data
        last = len(each["loc"]) - 1
        for index, part in enumerate(each["loc"]):
            if _has(here, part):
                here = here[part]
                path.append(part)
            elif index == last and each["type"] == "missing":
                path.append(part)
            elif part != "[key]":
                union = True
        kind = "key_" + each["type"] if each["loc"] and each["loc"][-1] == "[key]" else each["type"]
        yield Fault(tuple(path), union, kind, each.get("ctx", {}), each["msg"])


def _has(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, dict) and part in here


def _by_place(faults: Sequence[Fault]) -> Iterator[tuple[Path, list[Fault]]]:
    """Group faults by place; those of a union are left out where another member got further into the data."""
    groups: dict[Path, list[Fault]] = {}
    for fault in faults:
        deeper = (other.path for other in faults if len(other.path) > len(fault.path))
        if not (fault.union and any(path[: len(fault.path)] == fault.path for path in deeper)):
            groups.setdefault(fault.path, []).append(fault)
    yield from groups.items()


# ------------------------------------------------------------------------------------------------ telling


def _report(path: Path, faults: list[Fault], model: type[BaseModel], piece: Piece, files: Files) -> None:
    """Report the faults at one place as one problem."""
    key_mark, value_mark = locate(piece.tree, path)
    fault = faults[0]
    if not path or (fault.type == "missing" and len(path) == 1):
        key_mark = value_mark = piece.mark
    full = (*piece.path, *path)
    if fault.type == "extra_forbidden":
        hint = _known(str(path[-1]), keys_of(_model_at(model, path[:-1])), piece if len(path) == 1 else None)
        files.report(key_mark, full, f"unknown key {path[-1]}", hint)
    elif fault.type == "missing":
        about = described(_model_at(model, path[:-1]), str(path[-1]))
        files.report(key_mark, full[:-1], f"the key {path[-1]} is missing", about)
    elif fault.type.startswith("key_"):
        files.report(key_mark, full, f"the key must be {_expected(fault)}, got {path[-1]}")
    else:
        value = _value(piece.tree, path)
        if isinstance(value, Missing):
            return
        reason, hint = explain(faults, value, secret=path[-1:] in _SECRETS or path[-2:] == ("azure", "key"))
        files.report(value_mark, full, reason, hint)


def explain(faults: Sequence[Fault], value: Any, *, secret: bool = False) -> tuple[str, str]:
    """Give reason and hint for a wrong value."""
    fault = faults[0]
    sections = ("dict", "model", "mapping", "list", "tuple")
    if value is None and fault.type.split("_")[0] in sections:
        return "this key is empty", "give it keys, indented below it, or remove it"
    if value is None:
        return f"this key has no value, expected {_expected_all(faults)}", "give it one or remove the key"
    got = "a value that is not shown" if secret else shown(value)
    hidden = secret or isinstance(value, Referenced)
    if fault.type in ("value_error", "assertion_error"):
        text = _own_words(str(fault.context.get("error", fault.text)), value, got, hidden=hidden)
        return text, "" if hidden else _unit_meant(value, text) or hint_for(value)
    if fault.type == "string_type" and type(value) in (int, float) and not secret:
        got = f"the number {got}"
    reason = f"expected {_expected_all(faults)}, got {got}"
    if hidden:
        return reason, "put it in quotes" if fault.type == "string_type" else ""
    return reason, _choice_meant(value, [choice for each in faults for choice in _choices(each)], fault.type)


def _own_words(text: str, value: Any, got: str, *, hidden: bool) -> str:
    """Give a validator's own message; what it says of the value is replaced where that cannot be shown as it is."""
    if isinstance(value, str) and not hidden:
        return text
    expected, comma, _ = text.partition(", got ")
    if comma:
        return f"{expected}, got {got}"
    return f"the value {got} cannot be used here" if hidden else text


def _choice_meant(value: Any, choices: Sequence[str], kind: str) -> str:
    if isinstance(value, int | float) and (str(value) in choices or kind == "string_type"):
        return f'put it in quotes: "{shown(value)}"'
    if isinstance(value, str) and choices:
        if "true" in choices and value.lower() in ("yes", "on", "y"):
            return "write true"
        close = difflib.get_close_matches(value.strip().lower(), choices, 1, 0.5)
        if close:
            return f"did you mean {close[0]}?"
    return hint_for(value)


def _unit_meant(value: Any, text: str) -> str:
    """Guess the duration or size that was meant."""
    units, default = (_DURATIONS, "s") if "a duration" in text else (_SIZES, "MB") if "a size" in text else ({}, "")
    match = re.fullmatch(r"([0-9]+(?:[.,][0-9]+)?)\s*([a-zA-Zµμ]*)", str(value).strip())
    if match is None or isinstance(value, bool) or not units:
        return ""
    unit = units.get(match[2].lower(), match[2]) or default
    if unit not in units.values():
        return ""
    return f"did you mean {match[1].replace(',', '.')} {unit}?"


def hint_for(value: Any) -> str:
    """Say what usually leads to a wrong text: a comma at its end, a full-width sign."""
    if not isinstance(value, str):
        return ""
    if value.rstrip().endswith((",", ";")):
        return f"remove the {value.rstrip()[-1]} at the end"
    return look_alike(value)


def shown(value: Any) -> str:
    """Write a value as it may stand in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Referenced):
        return value.written
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST else value[:_LONGEST] + "…")
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list):
        return "a list"
    return f"{value!s:.{_LONGEST}}"


def _value(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _expected_all(faults: Sequence[Fault]) -> str:
    return " or ".join(dict.fromkeys(_expected(fault) for fault in faults))


def _expected(fault: Fault) -> str:
    choices = _choices(fault)
    if choices:
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if fault.type in _BOUNDS:
        words, key = _BOUNDS[fault.type]
        return f"{words} {fault.context[key]}"
    if fault.type in ("value_error", "assertion_error"):
        return re.sub(r"^expected |, got .*", "", str(fault.context.get("error", fault.text)))
    known = _EXPECTED.get(fault.type.removeprefix("key_").split("_")[0])
    if known is not None and not fault.type.endswith(("_short", "_long", "_mismatch")):
        return known
    return re.sub(r"^Input should (have|be) ", "", fault.text) or "something else"


def _choices(fault: Fault) -> list[str]:
    if fault.type == "literal_error":
        return re.findall(r"'([^']*)'", fault.context["expected"]) or [fault.context["expected"].lower()]
    if fault.type == "union_tag_invalid":
        return re.findall(r"'([^']*)'", fault.context["expected_tags"])
    return []


# ------------------------------------------------------------------------------------------------ known keys


@cache
def keys_of(model: type[BaseModel] | None) -> tuple[str, ...]:
    """Give the keys a model knows, as YAML writes them."""
    return tuple(field.alias or name for name, field in model.model_fields.items()) if model else ()


def _known(key: str, known: Sequence[str], piece: Piece | None) -> str:
    """Say what an unknown key was probably meant to be."""
    plain = key.strip().lower().replace("-", "_").replace(" ", "_")
    if piece is not None:
        known = (*known, *piece.apart)
        if plain not in known and _MEANT.get(plain) not in known and piece.elsewhere and plain in piece.elsewhere:
            return f"{plain} belongs to {piece.elsewhere[plain]}"
    if plain not in known and _MEANT.get(plain) in known:
        return f"did you mean {_MEANT[plain]}?"
    close = difflib.get_close_matches(plain, known, 1, 0.6)
    if close:
        return f"did you mean {close[0]}?"
    return look_alike(key) or "known here: " + ", ".join(dict.fromkeys(known))


def _model_at(model: type[BaseModel] | None, path: Path) -> type[BaseModel] | None:
    """Find the model of the mapping at a path."""
    for part in path:
        if model is None:
            return None
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:
            model = next(_models_in(fields[part].annotation), None)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, dict, list, tuple):
        for part in get_args(annotation):
            yield from _models_in(part)


def described(model: type[BaseModel] | None, key: str) -> str:
    """Give the first sentence about a key."""
    for name, field in (model.model_fields if model else {}).items():
        if key == (field.alias or name) and field.description:
            return re.split(r"(?<=[.:])\s", " ".join(field.description.split()))[0].rstrip(".:")
    return ""
