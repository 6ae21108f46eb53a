"""Kepware's (KEPServerEX, ThingWorx Kepware Server) CSV export of a device's tags, for its Modbus drivers.

    Tag Name,Address,Data Type,Respect Data Type,Client Access,Scan Rate,Scaling,Raw Low,Raw High,Scaled Low,
    Scaled High,Scaled Data Type,Clamp Low,Clamp High,Eng Units,Description,Negate Value

    40001  400001       references, from 1           H40001      the part after the area's digit is hexadecimal
    400001.3            a bit                         400100.20H  a text of 20 bytes; L: low byte first
    400001[10]          an array

The export does not say which word of a 32-bit value comes first. Kepware's own default is the low one (CDAB), which is
taken here, and told. A scan rate is in milliseconds; linear scaling becomes scale and offset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from gateway.lists import words
from gateway.lists.addresses import LAST
from gateway.lists.entries import ListedTag, RegisterList
from gateway.lists.headings import Header, plain
from gateway.lists.rows import Reading, device_named, duration
from gateway.lists.sheets import Sheet

TYPES: Final = {
    "boolean": "bool", "char": "int8", "byte": "uint8", "short": "int16", "word": "uint16", "long": "int32",
    "dword": "uint32", "float": "float32", "double": "float64", "llong": "int64", "qword": "uint64", "bcd": "bcd16",
    "lbcd": "bcd32", "string": "text", "default": "",
}  # fmt: skip
COVERS: Final = frozenset({"address", "description", "unit", "scale", "offset", "min", "max", "out_of_range"})

_AREAS: Final = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}
_ADDRESS: Final = re.compile(
    r"(?P<hex>H)?(?P<area>[0134])(?P<number>[0-9A-F]{4,5})(?:\.(?P<rest>\d+)(?P<bytes>[HL])?)?(?:\s*\[(?P<size>\d+)\])?",
    re.IGNORECASE,
)


def is_export(sheet: Sheet, header: Header) -> bool:
    """Say whether a table is Kepware's."""
    return {"tagname", "respectdatatype"} <= {plain(cell) for cell in sheet.rows[header.row]}


def read_rows(sheet: Sheet, header: Header, reading: Reading, into: RegisterList) -> set[str]:
    """Add the tags of a Kepware export to a register list; give the keys it decides on."""
    columns = {plain(cell): index for index, cell in enumerate(sheet.rows[header.row])}
    order = reading.order
    wide = False
    for index in range(header.row + 1, len(sheet.rows)):
        row = sheet.rows[index]
        if not any(row):
            continue
        cells = {key: row[column] for key, column in columns.items() if row[column]}
        place = sheet.place(index)
        places = {key: sheet.place(index, columns[name]) for key, name in _COLUMNS.items() if name in columns}
        tag = ListedTag(re.sub(r"[/+#]+", "-", cells.get("tagname", "")), {}, place, places)
        if not tag.name:
            into.wrong(place, "this row has no name")
            continue
        try:
            line, is_wide = _line(cells, order or "CDAB")
            tag.keys["address"] = line
            wide |= is_wide
            tag.keys.update(_scaling(cells))
        except ValueError as error:
            into.wrong(places.get("address", place), str(error))
            continue
        for key, name in (("unit", "engunits"), ("description", "description")):
            if name in cells:
                tag.keys[key] = cells[name]
        if "w" in cells.get("clientaccess", "").lower() and reading.writable and line.startswith(("coil", "holding")):
            tag.keys["writable"] = True
        if cells.get("scanrate", "").isdigit():
            tag.interval = duration(cells["scanrate"])
        device_named(into, "", None, reading.device, "modbus").tags.append(tag)
    if wide and not order:
        into.note(
            "Kepware's export does not say the word order; its default, the low word first (CDAB), is taken. "
            "If the device is set otherwise, import with --order ABCD."
        )
    return set(COVERS)


_COLUMNS: Final = {"name": "tagname", "address": "address", "type": "datatype", "unit": "engunits", "scale": "scaling"}


def _line(cells: Mapping[str, str], order: str) -> tuple[str, bool]:
    """Give an address line, and whether its word order is a guess."""
    text = cells.get("address", "").strip()
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no Modbus address of Kepware, such as 400001")
    area = _AREAS[found["area"]]
    try:
        number = int(found["number"], 16 if found["hex"] else 10) - 1
    except ValueError:
        raise ValueError(f"{text!r} has letters; a hexadecimal address begins with H") from None
    if not 0 <= number <= LAST:
        raise ValueError(f"{text!r} is not between 1 and {LAST + 1}")
    location = f"{area}:{number}"
    given = cells.get("datatype", "Default").lower().removesuffix(" array").strip()
    if given not in TYPES:
        raise ValueError(f"the data type {cells['datatype']!r} has no counterpart here")
    type_ = TYPES[given]
    if area in ("coil", "discrete"):
        return location + (f" bool[{found['size']}]" if found["size"] else ""), False
    if type_ == "text":
        if not found["rest"]:
            raise ValueError(f"a string needs its length, as in {text}.20H")
        return f"{location} text {int(found['rest'])}{' BA' if (found['bytes'] or 'H').upper() == 'L' else ''}", False
    if found["rest"]:
        return f"{location} bit {int(found['rest'])}", False
    if type_ == "bool":
        raise ValueError(f"a Boolean of a register needs its bit, as in {text}.0")
    line = f"{location} {type_ or 'uint16'}" + (f"[{found['size']}]" if found["size"] else "")
    swapped = words.order_for(order, type_)
    return f"{line} {swapped}" if swapped else line, words.WIDTHS.get(type_, 0) > 2


def _scaling(cells: Mapping[str, str]) -> dict[str, Any]:
    kind = cells.get("scaling", "").lower()
    if kind in ("", "none"):
        return {}
    if kind != "linear":
        raise ValueError(f"{cells['scaling']} scaling has no counterpart here")
    try:
        raw_low, raw_high, low, high = (
            Fraction(str(words.number(cells[key]))) for key in ("rawlow", "rawhigh", "scaledlow", "scaledhigh")
        )
    except KeyError as missing:
        raise ValueError(f"linear scaling without {missing}") from None
    if raw_low == raw_high:
        raise ValueError("linear scaling from a range without width")
    scale = (high - low) / (raw_high - raw_low)
    if cells.get("negatevalue") == "1":
        scale, low, high = -scale, -low, -high
    keys: dict[str, Any] = {"scale": words.exact(scale), "offset": words.exact(low - raw_low * scale)}
    if cells.get("clamplow") == "1" and cells.get("clamphigh") == "1":
        low, high = sorted((low, high))
        keys |= {"min": _limit(low), "max": _limit(high), "out_of_range": "clamp"}
    return {key: value for key, value in keys.items() if (key, value) not in (("scale", 1), ("offset", 0))}


def _limit(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
