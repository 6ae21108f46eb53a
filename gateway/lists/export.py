"""Tags of a site or a template as a spreadsheet that `import` reads back without changing anything.

One row a tag as it is written, an array in one row; what a template says is filled in. The headings are YAML's own keys
(gateway.lists.headings.OWN), and only those that some tag has; a column for the device where there are several. Values
that are neither text nor number are written as YAML. csv is UTF-8 with a byte order mark, which spreadsheets need.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.config.files import Files
from gateway.config.kinds import check_file
from gateway.config.merge import begin_from_template
from gateway.config.references import References
from gateway.config.site import open_root
from gateway.errors import ConfigError
from gateway.lists import words
from gateway.lists.entries import ListError
from gateway.lists.headings import OWN, RENAMED
from gateway.lists.sheets import INSTALL
from gateway.lists.sites import links_of, plain_keys, tag_trees

_ILLEGAL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")

Row = dict[str, Any]


def rows_of(path: Path, devices: Sequence[str] = ()) -> list[Row]:
    """Give one row per tag of a site, of an included file or of a template. Raises ConfigError, ListError."""
    checked = check_file(path, secrets=False)
    errors = [problem for problem in checked.problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    if checked.kind == "cloud":
        raise ListError(f"{path} is a cloud file: it has no tags")
    if checked.kind == "template":
        files = Files(path.parent, References(needed=False))
        tree = open_root(path, files, "")
        return _device(path.stem, begin_from_template(tree, str(tree["driver"]), (), files))
    files, links = links_of(path)
    found = {
        name: begin_from_template(device, str(link["driver"]), (), files)
        for link in links.values()
        for name, device in link["devices"].items()
    }
    for name in devices:
        if name not in found:
            raise ListError(f"{path} has no device {name}; it has {', '.join(found)}")
    return [row for name in devices or found for row in _device(name, found[name])]


def _device(name: str, device: Mapping[str, Any]) -> list[Row]:
    rows = []
    groups = device.get("groups") or {}
    for group, tags in tag_trees(device):
        interval = (groups.get(group) or {}).get("interval") or device.get("interval") or ""
        for tag, value in tags.items():
            if value is not None:
                keys = plain_keys(value)
                for heading, key in RENAMED.items():
                    if key in keys:
                        keys[heading] = keys.pop(key)
                rows.append({"device": name, "group": group, "name": tag, "interval": interval, **keys})
    return rows


def table_of(rows: Sequence[Row]) -> list[list[Any]]:
    """Give headings and cells; columns that no tag needs are left out."""
    several = len({row["device"] for row in rows}) > 1
    used = {key for row in rows for key, value in row.items() if value != ""}
    known = [*(["device"] if several else []), *(key for key in OWN if key in used)]
    columns = known + sorted(used - set(known) - {"device"})
    return [columns, *([_cell(column, row.get(column, "")) for column in columns] for row in rows)]


def _cell(column: str, value: Any) -> Any:
    if column == "states" and isinstance(value, Mapping):
        states = {int(key): str(name) for key, name in value.items()}
        text = "; ".join(f"{key}={name}" for key, name in states.items())
        try:
            return text if words.states_of(text) == states else words.written(value)
        except ValueError:
            return words.written(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return words.written(value)
    return value


def as_csv(table: Sequence[Sequence[Any]]) -> bytes:
    """Write a table as CSV."""
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([[words.written(cell) for cell in row] for row in table])
    return stream.getvalue().encode("utf-8-sig")


def as_workbook(table: Sequence[Sequence[Any]], title: str) -> bytes:
    """Write a table as xlsx: headings that stay in view, a filter, addresses as text."""
    try:
        import openpyxl
        from openpyxl.styles import Font
        from openpyxl.utils import get_column_letter
    except ImportError:
        raise ListError(f"writing .xlsx needs the package openpyxl: {INSTALL}") from None
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = re.sub(r"[\[\]:*?/\\]", "-", title)[:31] or "tags"
    for number, row in enumerate(table, 1):
        for column, value in enumerate(row, 1):
            cell = sheet.cell(number, column)
            if isinstance(value, str) or _long(value):
                cell.value = _ILLEGAL.sub("", words.written(value))
                cell.data_type = "s"  # also what begins with "="
                cell.number_format = "@"
            else:
                cell.value = value
    for column, heading in enumerate(table[0], 1):
        sheet.cell(1, column).font = Font(bold=True)
        widest = max((len(str(row[column - 1])) for row in table), default=len(heading))
        sheet.column_dimensions[get_column_letter(column)].width = min(max(widest + 2, 8), 60)
    sheet.freeze_panes = "A2"
    sheet.auto_filter.ref = sheet.dimensions
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _long(value: int | float) -> bool:
    """Say whether a number has more digits than a spreadsheet keeps."""
    return float(f"{value:.15g}") != value
