"""What one publisher may tell of the plant: its tags, under which names, and how much of their definitions.

It stands between the journal and the encoder, so it is the same for every format: tables, batches, gaps and the newest
readings of births pass through it. A table that is shown in part becomes a table of its own, with the allowed tags
only and indexes that count from 0; the indexes are compiled once per table. What is shown whole passes as it is.

- Globs are matched against DEVICE/TAG as the site file calls them, case by case; * goes across a slash. A glob without
  a slash means a device. An excluded tag stays out, whatever includes it.
- `hide` takes parts out of the definitions: address (with scale, offset), description, unit, limits, states, group.
- A gap tells how many readings are lost only where all tags it speaks of are shown. A gap of what is not shown is not
  told; nor is one of a group that this configuration does not have, unless its readings were shown.
- Refused: two tags that would bear one name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.model import Batch, Gap, Tag, TagTable

if TYPE_CHECKING:
    from gateway.options import TagSelection

_NOWHERE: Final = 0xFFFFFFFF
_GROUP: Final = "default"  # what a hidden group is called


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """How one table is shown."""

    shown: TagTable | None  # None: not at all
    rows: NDArray[np.uint32] | None  # the indexes that are shown, in order; None: all of them
    place: NDArray[np.uint32] | None  # by index of the table: the index shown, or _NOWHERE


class Selection:
    """One publisher's view of the tables. Raises ValueError where two tags of `tables` would bear one name."""

    def __init__(self, options: TagSelection, tables: Iterable[TagTable] = ()) -> None:
        self._allowed = matcher(options.include)
        self._refused = matcher(options.exclude)
        self._names = options.names
        self._hidden = frozenset(options.hide)
        self._views: dict[bytes, _View] = {}
        self._groups: dict[tuple[str, str], bool] = {}  # device and group that are shown, and whether as a whole
        self._origin: dict[tuple[str, str], tuple[str, str]] = {}
        for table in tables:
            for tag in table.tags:
                name = f"{table.device}/{tag.name}"
                if self.allows(name):
                    self._claim(self._renamed(table.device, tag.name), (table.device, tag.name))
            self._view(table)

    def allows(self, name: str) -> bool:
        """Whether this tag (DEVICE/TAG) is shown."""
        return self._allowed(name) and not self._refused(name)

    def origin(self, device: str, tag: str) -> tuple[str, str] | None:
        """Give device and tag of the configuration by the names shown; None for what is not shown."""
        return self._origin.get((device, tag))

    def table(self, table: TagTable) -> TagTable | None:
        """Give the table as it is shown; None where it is not."""
        return self._view(table).shown

    def tables(self, tables: Iterable[TagTable]) -> list[TagTable]:
        """Give the tables that are shown, as they are."""
        return [shown for table in tables if (shown := self.table(table)) is not None]

    def batch(self, batch: Batch) -> Batch | None:
        """Give the readings that are shown; None where there are none."""
        view = self._view(batch.table)
        shown = view.shown
        if shown is None:
            return None
        if shown is batch.table:
            return batch
        if view.rows is None or view.place is None:
            tag = shown.every if batch.tag is batch.table.every else batch.tag
            return Batch(shown, tag, batch.value, batch.quality, batch.time, batch.backfill)
        if len(batch) == len(batch.table) and (
            batch.tag is batch.table.every or np.array_equal(batch.tag, batch.table.every)
        ):
            rows: NDArray[Any] = view.rows
            return Batch(shown, shown.every, batch.value[rows], batch.quality[rows], batch.time[rows], batch.backfill)
        place = view.place[batch.tag]
        rows = np.flatnonzero(place != _NOWHERE)
        if not len(rows):
            return None
        return Batch(shown, place[rows], batch.value[rows], batch.quality[rows], batch.time[rows], batch.backfill)

    def batches(self, batches: Iterable[Batch]) -> list[Batch]:
        """Give of each batch what is shown."""
        return [shown for batch in batches if (shown := self.batch(batch)) is not None]

    def gap(self, gap: Gap) -> Gap | None:
        """Give the gap as it may be told; None where it concerns nothing that is shown."""
        if not gap.device:
            return replace(gap, readings=0) if gap.readings and not self.whole else gap
        there = {
            group: whole
            for (device, group), whole in self._groups.items()
            if device == gap.device and gap.group in ("", group)
        }
        if not there:
            return None
        device = self._names.get(gap.device, gap.device)
        group = _GROUP if gap.group and "group" in self._hidden else gap.group
        return replace(gap, device=device, group=group, readings=gap.readings if all(there.values()) else 0)

    @property
    def whole(self) -> bool:
        """Whether no tag of any table seen so far is left out."""
        return all(view.shown is not None and view.rows is None for view in self._views.values())

    # ------------------------------------------------------------------------------------------------ compiling

    def _view(self, table: TagTable) -> _View:
        view = self._views.get(table.fingerprint)
        if view is None:
            view = self._views[table.fingerprint] = self._compiled(table)
            place = table.device, table.group
            if view.shown is not None or place in self._groups:
                self._groups[place] = self._groups.get(place, True) and view.shown is not None and view.rows is None
        return view

    def _compiled(self, table: TagTable) -> _View:
        rows = [row for row, tag in enumerate(table.tags) if self.allows(f"{table.device}/{tag.name}")]
        if not rows:
            return _View(None, None, None)
        shown = self._masked(table, rows)
        if len(rows) == len(table):
            return _View(table if shown.definition == table.definition else shown, None, None)
        place = np.full(len(table), _NOWHERE, dtype=np.uint32)
        place[rows] = np.arange(len(rows), dtype=np.uint32)
        return _View(shown, np.array(rows, dtype=np.uint32), place)

    def _masked(self, table: TagTable, rows: Sequence[int]) -> TagTable:
        tags = tuple(self._mask(table.device, table.tags[row]) for row in rows)
        group = _GROUP if "group" in self._hidden else table.group
        shown = TagTable(self._names.get(table.device, table.device), group, table.kind, tags)
        if "address" in self._hidden:
            # scale and offset tell how the device holds the value; our formats need them for its digits
            body = orjson.loads(shown.definition)
            for tag in body["tags"]:
                tag.pop("scale", None)
                tag.pop("offset", None)
            shown.__dict__["definition"] = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
        # what is hidden may be all the difference between two tables, and encoders keep things by this name
        shown.__dict__["fingerprint"] = hashlib.blake2b(b"shown" + table.fingerprint, digest_size=16).digest()
        return shown

    def _mask(self, device: str, tag: Tag) -> Tag:
        changes: dict[str, Any] = {"name": self._renamed(device, tag.name)[1]}
        if "address" in self._hidden:
            changes |= {"address": "", "source": None}
        if "description" in self._hidden:
            changes["description"] = ""
        if "unit" in self._hidden:
            changes["unit"] = ""
        if "limits" in self._hidden:
            changes |= {"minimum": -np.inf, "maximum": np.inf}
        if "states" in self._hidden:
            changes["states"] = ()
        return replace(tag, **changes)

    def _renamed(self, device: str, tag: str) -> tuple[str, str]:
        return self._names.get(device, device), self._names.get(f"{device}/{tag}", tag)

    def _claim(self, name: tuple[str, str], origin: tuple[str, str]) -> None:
        other = self._origin.setdefault(name, origin)
        if other != origin:
            both = " and ".join("/".join(each) for each in (other, origin))
            raise ValueError(f"{both} would both be called {'/'.join(name)}")


def matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    """Make the test whether a tag (DEVICE/TAG) is matched by any of these globs."""
    forms = [translate(glob if "/" in glob or glob == "*" else f"{glob}/*") for glob in globs]
    if not forms:
        return lambda _: False
    pattern = re.compile("|".join(forms))
    return lambda name: pattern.match(name) is not None
