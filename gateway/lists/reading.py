"""Any file with registers in it to a RegisterList. The format is told by the content; it can be named instead.

xlsx and csv are tables (gateway.lists.rows), and so is Kepware's CSV export, whose headings give it away; TOML with
inputs.modbus or inputs.opcua is Telegraf's; JSON is Neuron's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.config.files import shown
from gateway.lists import kepware, neuron, telegraf
from gateway.lists.entries import ListError, RegisterList
from gateway.lists.headings import find_header, known_headings
from gateway.lists.rows import Reading, read_rows
from gateway.lists.sheets import Sheet, decode, is_workbook, read_csv, read_workbook

FORMATS: Final = ("table", "telegraf", "neuron", "kepware")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says about a file."""

    reading: Reading
    source: str = ""  # one of FORMATS; empty: by the content
    encoding: str | None = None
    sheets: tuple[str, ...] = ()
    device_per_sheet: bool = False


def read_list(path: Path, wanted: Wanted) -> RegisterList:
    """Read a file. Raises ListError where it is of no use at all; single rows are findings."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path} cannot be read: {error.strerror}") from None
    name = shown(path)
    if not data.strip():
        raise ListError(f"{name} is empty")
    if is_workbook(data):
        sheets = read_workbook(data, name)
        return _tables(_chosen(sheets, wanted, name), wanted, name)
    text, encoding = decode(data, wanted.encoding)
    source = wanted.source or _recognised(text)
    if source in ("neuron", "telegraf"):
        read = neuron.read if source == "neuron" else telegraf.read
        try:
            return read(text, name, wanted.reading)
        except (AttributeError, KeyError, TypeError) as error:  # a list where keys should be, and the like
            raise ListError(f"{name} is not built as {source} builds its files: {error}") from None
    listed = _tables([read_csv(text, name, known_headings)], wanted, name)
    if encoding not in ("utf-8", wanted.encoding):
        listed.notes.insert(0, f"{name} is read as {encoding}; --encoding says otherwise")
    return listed


def _recognised(text: str) -> str:
    start = text.lstrip()[:1]
    if start in ("{", "[") and '"' in text and re.search(r'"(tags|nodes|groups)"', text):
        return "neuron"
    if re.search(r"^\s*\[\[\s*inputs\.(modbus|opcua)", text, re.MULTILINE):
        return "telegraf"
    return ""


def _chosen(sheets: list[Sheet], wanted: Wanted, name: str) -> list[Sheet]:
    if not wanted.sheets:
        return sheets
    known = {sheet.name: sheet for sheet in sheets}
    for each in wanted.sheets:
        if each not in known:
            raise ListError(f"{name} has no sheet {each!r}; it has {', '.join(known)}")
    return [known[each] for each in wanted.sheets]


def _tables(sheets: list[Sheet], wanted: Wanted, name: str) -> RegisterList:
    listed = RegisterList()
    read = 0
    covered: set[str] = set()
    for sheet in sheets:
        header = find_header(sheet, wanted.reading.mapping)
        if header is None:
            if sheet.name and any(any(row) for row in sheet.rows):
                listed.note(f"{name}[{sheet.name}]: no row of headings with an address, left out")
            continue
        read += 1
        reading = wanted.reading
        if wanted.device_per_sheet and sheet.name:
            reading = replace(reading, device=re.sub(r"[\s/+#]+", "-", sheet.name))
            part = RegisterList(notes=listed.notes, findings=listed.findings)
        else:
            part = listed
        if wanted.source == "kepware" or (not wanted.source and kepware.is_export(sheet, header)):
            covered |= kepware.read_rows(sheet, header, reading, part)
        else:
            read_rows(sheet, header, reading, part)
            covered |= set(header.columns)
        if part is not listed:
            listed.devices += part.devices
    if not read:
        hint = "headings such as name, address, type (名称, 地址, 数据类型); or say which is which: --map mapping.yaml"
        raise ListError(f"{name}: no row of headings with an address was found; expected {hint}")
    listed.covers = covers(covered)
    once(listed)
    return listed


def covers(columns: set[str]) -> frozenset[str]:
    """Give the YAML keys that a table with these columns decides on."""
    also = {"range": {"min", "max"}, "divisor": {"scale"}, "decimals": {"scale"}}
    return frozenset(columns | {key for column in columns for key in also.get(column, ())})


def once(listed: RegisterList) -> None:
    """Leave out tags whose name another row of the device has."""
    for device in listed.devices:
        seen: dict[str, str] = {}
        kept = []
        for tag in device.tags:
            if tag.name in seen:
                place = tag.places.get("name", tag.place)
                listed.wrong(place, f"the name {tag.name} is taken by {seen[tag.name]}", "names are unique in a device")
            else:
                seen[tag.name] = tag.place
                kept.append(tag)
        device.tags = kept
    listed.devices = [device for device in listed.devices if device.tags]
