"""Series ids of the DuckDB store: which row of `series` a tag's readings belong to.

A table of tags is resolved when its definition is first seen, or comes back after another one; after that it is an
array, tag index -> series id. Identity is (gateway, device, tag, kind, unit). The other columns of `series` follow
the newest definition, which is the one whose readings are newest: a backlog written under an old configuration does
not turn the descriptions back.

Lives in the store's thread and inside its transaction; after a rollback, `forget`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from gateway.model import Tag, TagTable
from gateway.stores.layout import SERIES_COLUMNS
from gateway.stores.once import NEVER, Marks

Wanted = tuple[str, TagTable, int]
"""A gateway, a table of its tags, and the time of the newest reading that came with it."""

_Identity = tuple[str, str, str, str, str]
_Key = tuple[str, bytes]

_VALUES: Final = ", ".join(f"unnest(${column})" for column in SERIES_COLUMNS[:-1])
_STATES: Final = "map(unnest($numbers)::BIGINT[], unnest($names)::VARCHAR[])"
_INSERT: Final = f"INSERT INTO series SELECT {_VALUES}, {_STATES}"
_KNOWN: Final = "SELECT * EXCLUDE (states), map_keys(states), map_values(states) FROM series WHERE gateway = ANY($1)"
_DROP: Final = "DELETE FROM series WHERE id = ANY($1)"


class Catalog:
    """The series of one file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, marks: Marks) -> None:
        self._connection = connection
        self._marks = marks
        self.forget()

    def forget(self) -> None:
        """Drop what is remembered, since the transaction that it came from was rolled back."""
        self._ids: dict[_Key, NDArray[np.uint32]] = {}
        self._of_device: defaultdict[tuple[str, str], list[_Key]] = defaultdict(list)
        self._outdated: set[_Key] = set()  # tables that describe their tags otherwise than `series` does
        found = self._connection.execute("SELECT coalesce(max(id) + 1, 0) FROM series").fetchone()
        self.size: int = found[0] if found else 0
        self._marks.reserve(self.size)

    def ids(self, gateway: str, table: TagTable) -> NDArray[np.uint32]:
        """Give the series of a resolved table's tags."""
        return self._ids[gateway, table.fingerprint]

    def resolve(self, wanted: Iterable[Wanted]) -> None:
        """Make sure that these tables have their series, in `series` too."""
        unknown = [entry for entry in wanted if not self._is_settled(*entry)]
        if not unknown:
            return
        known = self._load(sorted({gateway for gateway, _, _ in unknown}))
        changed: dict[int, list[Any]] = {}
        for gateway, table, newest in unknown:
            ids = np.empty(len(table), dtype=np.uint32)
            outdated = False
            for place, tag in enumerate(table.tags):
                identity = (gateway, table.device, tag.name, table.kind.value, tag.unit)
                described = _description(table, tag)
                row = known.get(identity)
                if row is None:
                    row = known[identity] = changed[self.size] = [self.size, *identity, *described]
                    self.size += 1
                elif row[6:] != described:
                    if newest > self._newest(np.array([row[0]], dtype=np.uint32)):
                        row[6:] = described
                        changed[row[0]] = row
                    else:
                        outdated = True
                ids[place] = row[0]
            self._marks.reserve(self.size)
            self._settle(gateway, table, ids, outdated)
        self._save(changed)

    def _newest(self, ids: NDArray[np.uint32]) -> int:
        return int(self._marks.newest(ids).max()) if len(ids) else NEVER

    def _is_settled(self, gateway: str, table: TagTable, newest: int) -> bool:
        """Whether there is nothing to look up, and nothing to be changed in `series` by these readings."""
        key = (gateway, table.fingerprint)
        ids = self._ids.get(key)
        return ids is not None and (key not in self._outdated or newest <= self._newest(ids))

    def _settle(self, gateway: str, table: TagTable, ids: NDArray[np.uint32], outdated: bool) -> None:
        """Remember a table; others of the same tags are to be looked at again when they bring newer readings."""
        key, siblings = (gateway, table.fingerprint), self._of_device[gateway, table.device]
        if key not in self._ids:
            siblings.append(key)
        self._ids[key] = ids
        self._outdated.discard(key)
        if outdated:
            self._outdated.add(key)
        else:
            self._outdated.update(other for other in siblings if other != key and np.isin(self._ids[other], ids).any())

    def _load(self, gateways: list[str]) -> dict[_Identity, list[Any]]:
        rows = self._connection.execute(_KNOWN, [gateways]).fetchall()
        return {
            (gateway, device, tag, kind, unit): [
                number, gateway, device, tag, kind, unit, *rest, dict(zip(states, names, strict=True))
            ]
            for number, gateway, device, tag, kind, unit, *rest, states, names in rows
        }  # fmt: skip

    def _save(self, changed: dict[int, list[Any]]) -> None:
        if not changed:
            return
        self._connection.execute(_DROP, [list(changed)])
        columns = dict(zip(SERIES_COLUMNS, zip(*changed.values(), strict=True), strict=True))
        states = columns.pop("states")
        parameters: dict[str, list[Any]] = {name: list(values) for name, values in columns.items()}
        parameters["numbers"] = [list(entry) for entry in states]
        parameters["names"] = [list(entry.values()) for entry in states]
        self._connection.execute(_INSERT, parameters)


def _description(table: TagTable, tag: Tag) -> list[Any]:
    """Give what may change without making another series, in the order of SERIES_COLUMNS."""
    return [
        table.group,
        tag.type,
        tag.description,
        tag.address,
        None if math.isinf(tag.minimum) else tag.minimum,
        None if math.isinf(tag.maximum) else tag.maximum,
        dict(tag.states),
    ]
