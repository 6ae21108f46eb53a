"""Tags as columns, options as plain values: how a compiled site goes from the process that read the YAML to the daemon.

A daemon looks at its tags when it plans and when a command comes, not while it polls, and 10,000 of them as objects
take 6 MB. `dump` pickles them as columns, one for each field, in which what all tags share is kept once; loaded again
they are a sequence that makes a tag when somebody asks for it.

Options have been checked by then, and the library of their models would take 7 MB: they come out as `Settings`, with
the values of the model's keys and of its properties. Methods are not there. A third party's models stay what they are.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from itertools import repeat
from typing import IO, Any, Final, NoReturn, Self, cast, overload

from gateway.model import Kind, Tag, TagTable


def dump(thing: Any, file: IO[bytes]) -> None:
    """Pickle `thing`, with the tags of all tables in it folded. To be read with `pickle.load`."""
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(thing)


def folded(table: TagTable) -> TagTable:
    """Give the same table with its tags as columns."""
    return _table(table.device, table.group, table.kind, len(table.tags), _fold(table.tags))


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is TagTable:
            return _table, (thing.device, thing.group, thing.kind, len(thing.tags), _fold(thing.tags))
        if _is_ours(type(thing)):
            return Settings, (type(thing).__name__, values(thing), _more(thing))
        return NotImplemented


_OURS: Final = ("gateway", "drivers")  # packages whose code asks options for values only


def _is_ours(kind: type[Any]) -> bool:
    return hasattr(kind, "model_fields") and kind.__module__.partition(".")[0] in _OURS


def values(options: Any) -> dict[str, Any]:
    """Give the keys of a model, or of what came of it, with their values."""
    if isinstance(options, Settings):
        return dict(options)
    return {name: getattr(options, name) for name in type(options).model_fields}


def _more(model: Any) -> dict[str, Any]:
    """Give what a model tells besides its keys."""
    own = (base for base in type(model).__mro__ if base.__module__.partition(".")[0] in _OURS)
    names = (name for base in own for name, it in vars(base).items() if isinstance(it, property | cached_property))
    return {"model_fields_set": model.model_fields_set, **{name: getattr(model, name) for name in names}}


class Settings:
    """What a model of YAML keys says, without the model. Immutable; equal to what says the same, model or not."""

    def __init__(self, kind: str, values: dict[str, Any], more: dict[str, Any]) -> None:
        """Take the name of the model, the values of its keys, and what else it tells."""
        vars(self).update(more, **values, _kind=kind, _keys=tuple(values), _more=more)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name} cannot be set: settings do not change")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((key, getattr(self, key)) for key in self._keys)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Settings):
            return self._kind == other._kind and dict(self) == dict(other)
        return _is_ours(type(other)) and self._kind == type(other).__name__ and dict(self) == values(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._kind}>"  # there are passwords inside

    def __reduce__(self) -> tuple[Any, ...]:
        return Settings, (self._kind, dict(self), self._more)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self._kind} has no {name}, or it is a method: the daemon has values only")

    def model_copy(self, update: dict[str, Any]) -> Self:
        """Give these settings with other values of some keys."""
        return type(self)(self._kind, {**dict(self), **update}, self._more)


def _table(device: str, group: str, kind: Kind, size: int, column: _Column) -> TagTable:
    return TagTable(device, group, kind, cast("tuple[Tag, ...]", _Tags(column, size)))


@dataclass(frozen=True, slots=True)
class _Same:
    """A column in which every row is this object."""

    value: Any

    def rows(self) -> Iterator[Any]:
        return repeat(self.value)

    def row(self, _index: int) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class _Each:
    """A column of its own object in each row."""

    values: list[Any]

    def rows(self) -> Iterator[Any]:
        return iter(self.values)

    def row(self, index: int) -> Any:
        return self.values[index]


@dataclass(frozen=True, slots=True)
class _Fields:
    """A column of objects of one dataclass: a column for each of its fields."""

    kind: type[Any]
    columns: tuple[_Column, ...]

    def rows(self) -> Iterator[Any]:
        return map(self.kind, *(column.rows() for column in self.columns))

    def row(self, index: int) -> Any:
        return self.kind(*(column.row(index) for column in self.columns))


_Column = _Same | _Each | _Fields


def _fold(rows: Sequence[Any]) -> _Column:
    first, kinds = rows[0], {type(row) for row in rows}
    if all(row is first for row in rows) or (kinds == {float} and len(set(map(float.hex, rows))) == 1):
        return _Same(first)
    if len(kinds) == 1 and is_dataclass(first) and all(field.init for field in fields(first)):
        columns = (_fold([getattr(row, field.name) for row in rows]) for field in fields(first))
        return _Fields(type(first), tuple(columns))
    return _Each([sys.intern(row) for row in rows] if kinds == {str} else list(rows))


@dataclass(frozen=True, slots=True)
class _Tags(Sequence[Tag]):
    column: _Column
    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Tag: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tag]: ...
    def __getitem__(self, index: int | slice) -> Tag | Sequence[Tag]:
        if isinstance(index, slice):
            return tuple(self.column.row(each) for each in range(*index.indices(self.size)))
        tag: Tag = self.column.row(range(self.size)[index])
        return tag

    def __iter__(self) -> Iterator[Tag]:
        return (tag for tag, _ in zip(self.column.rows(), range(self.size), strict=False))
