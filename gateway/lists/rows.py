"""From the rows of a sheet to tags: one row a tag, each cell read by what its heading says.

A row that cannot be read is a Finding and is left out; the others go on. Rows that are no tags (blank ones, titles over
a part of the list, headings repeated on each printed page, reserved registers) are left out too, and counted. A blank
function code, area, unit id or device takes the value above it, as merged cells do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from gateway.lists import words
from gateway.lists.addresses import OWN, Address, Base, Notation, area_of, area_of_function, survey
from gateway.lists.entries import ListedDevice, ListedTag, RegisterList
from gateway.lists.headings import Header, Vocabulary, key_of
from gateway.lists.sheets import Sheet

DOWN: Final = ("function", "area", "unit_id", "device")
"""Columns in which a blank cell means what stands above it."""

VERBATIM: Final = (
    "bits", "half", "encoding", "padding", "scale_power", "select", "out_of_range", "max_silence",
)  # fmt: skip
STRUCTURED: Final = ("absent", "flags", "not_available", "simulate")
"""Keys whose cells are YAML, as `export` writes them."""

RESERVED: Final = re.compile(
    r"(?i)\s*(reserved?|reserve[ds]?|spare|unused|not used|n/?a|-+|—+|保留|预留|备用|未使用|空)\s*\d*\s*"
)
_NODE: Final = re.compile(r"(?:ns=\d+;|nsu=[^;]+;)?[isgb]=.+|/.+")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table is to be read, where it does not say so itself."""

    device: str
    driver: str = ""  # empty: by its addresses
    base: Base | None = None
    area: str = ""
    order: str = ""
    writable: bool = False
    drivers: Mapping[str, str] = field(default_factory=dict)  # of devices that are known already
    mapping: Vocabulary = field(default_factory=Vocabulary)


def driver_of(sheet: Sheet, header: Header) -> str:
    """Tell OPC UA from Modbus by the addresses."""
    column = header.columns["address"]
    cells = [row[column] for row in sheet.rows[header.below :] if row[column]]
    nodes = sum(bool(_NODE.fullmatch(cell)) for cell in cells)
    return "opcua" if nodes * 2 > len(cells) else "modbus"


def read_rows(sheet: Sheet, header: Header, reading: Reading, into: RegisterList) -> int:
    """Add a sheet's tags to a register list; give how many rows were tags."""
    reader = _Rows(sheet, header, reading, into)
    count = sum(reader.row(index, cells) for index, cells in reader.rows())
    reader.conclude()
    return count


class _CellError(ValueError):
    """A cell that cannot be read, where another one was asked for."""

    def __init__(self, key: str, reason: object) -> None:
        self.key = key
        super().__init__(str(reason))


@dataclass(slots=True)
class _Rows:
    """One sheet on its way into a register list."""

    sheet: Sheet
    header: Header
    reading: Reading
    into: RegisterList
    driver: str = ""
    notation: Notation = field(default_factory=Notation)
    registers_are: int = 2  # bytes that one unit of the column of lengths stands for; 0: it counts bits
    skipped: dict[str, int] = field(default_factory=dict)
    writable_rows: int = 0
    whole_factors: int = 0
    broken_factors: int = 0

    def __post_init__(self) -> None:
        self.driver = self.reading.driver or driver_of(self.sheet, self.header)
        self._survey()
        if self.header.unknown:
            shown = ", ".join(each.replace("\n", " ") for each in self.header.unknown)
            self.into.note(f"{self.sheet.place(self.header.row)}: columns not used: {shown}")

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Give the cells of each row that is a tag, by key; blank cells are left out."""
        above: dict[str, str] = {}
        for index in range(self.header.below, len(self.sheet.rows)):
            row = self.sheet.rows[index]
            if not any(row):
                continue
            cells = {key: row[column] for key, column in self.header.columns.items() if row[column]}
            address = cells.get("address", "")
            distinct = {cell for cell in row if cell}
            if len(distinct) == 1 or not address:
                self._skip("without an address" if not address else "with titles")
                continue
            if key_of(address) == "address" or (not re.search(r"\d", address) and len(set(map(key_of, distinct))) > 2):
                self._skip("with the headings again")
                continue
            if not self._own(cells) and RESERVED.fullmatch(cells.get("name") or cells.get("description") or "x"):
                self._skip("with reserved registers")
                continue
            for key in DOWN:
                if key in cells:
                    above[key] = cells[key]
                elif key in above:
                    cells[key] = above[key]
            yield index, cells

    def _skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def place(self, index: int, key: str = "") -> str:
        return self.sheet.place(index, self.header.columns.get(key))

    # -------------------------------------------------------------------------------------------- the whole sheet

    def _survey(self) -> None:
        cells = []
        widths: list[tuple[int, int]] = []
        for _, row in self.rows():
            if self._driver(row) != "modbus":
                continue
            cells.append((row["address"], self._area_quietly(row)))
            given = row.get("count", "")
            if given.isdigit() and (width := self._type_width(row.get("type", ""))):
                widths.append((int(given), width))
        self.skipped.clear()
        area = self.reading.area or area_of(self.sheet.name)
        self.notation = survey(cells, base=self.reading.base, area=area, hexadecimal=self.header.hexadecimal)
        for note in self.notation.notes:
            self.into.note(note)
        for unit in (2, 1, 0):
            fits = sum(count * unit == width if unit else count == width * 8 for count, width in widths)
            if fits * 2 > len(widths):
                self.registers_are = unit
                return

    def _own(self, cells: Mapping[str, str]) -> bool:
        """Say whether a row is as `export` writes it, where nothing stands for "nothing"."""
        return self._driver(cells) != "modbus" or bool(OWN.fullmatch(cells.get("address", "")))

    def _driver(self, cells: Mapping[str, str]) -> str:
        return self.reading.drivers.get(cells.get("device") or self.reading.device, self.driver)

    def _type_width(self, cell: str) -> int:
        try:
            return (
                words.WIDTHS.get(words.type_of(cell, None, self.reading.mapping.types).name, 0)
                if re.search(r"32|64|16|(?i:float|real|浮点|double|dword|dint)", cell)
                else 0
            )
        except ValueError:
            return 0

    def _area_quietly(self, row: Mapping[str, str]) -> str:
        try:
            return self._area(row)[0]
        except ValueError:
            return ""

    def _area(self, row: Mapping[str, str]) -> tuple[str, bool]:
        """Give the area that a row says, and whether it can only be written."""
        if "function" in row:
            return area_of_function(row["function"])
        if "area" in row:
            if area := area_of(row["area"]):
                return area, False
            return area_of_function(row["area"])
        return area_of(row.get("type", "")) if "type" in row and not self._is_type(row["type"]) else "", False

    def _is_type(self, cell: str) -> bool:
        try:
            words.type_of(cell, 2, self.reading.mapping.types)
        except ValueError:
            return False
        return True

    def conclude(self) -> None:
        """Say what was left out or taken for granted."""
        where = f"{self.sheet.file}[{self.sheet.name}]" if self.sheet.name else self.sheet.file
        for why, count in self.skipped.items():
            self.into.note(f"{where}: {count} row{'s' if count > 1 else ''} {why}, left out")
        if self.writable_rows and not self.reading.writable:
            self.into.note(
                f"{where}: {self.writable_rows} tag(s) are writable in the list; tags stay read-only here unless you "
                "import with --writable"
            )
        if self.whole_factors and not self.broken_factors and "scale" in self.header.columns:
            heading = self.sheet.rows[self.header.row][self.header.columns["scale"]]
            self.into.note(
                f"{where}: factors such as 10 in {heading!r} are taken as value = raw × 10. If they mean raw / 10, map "
                f"the column as divisor: columns: {{divisor: {heading}}}"
            )

    # -------------------------------------------------------------------------------------------- one row

    def row(self, index: int, cells: dict[str, str]) -> bool:
        """Read one row into a tag of its device; what is wrong with it is a finding."""
        wrong = len(self.into.findings)
        tag = ListedTag("", {}, self.place(index), {key: self.place(index, key) for key in self.header.columns})
        where = self._device(index, cells)
        name = re.sub(r"\s+", " ", cells.get("name") or cells.get("description") or "").strip()
        tag.name = re.sub(r"[/+#\x00-\x1f\x7f]+", "-", name)[:128].strip()
        if not tag.name:
            self.into.wrong(tag.place, "this row has no name", "give it one, or map the column of the names")
        for key, read in (("address", self._address), ("scale", self._scale), ("access", self._access)):
            try:
                tag.keys.update(read(index, cells) or {})
            except ValueError as error:
                self.into.wrong(self.place(index, getattr(error, "key", key)), str(error))
        for key, value in self._plain(index, cells):
            tag.keys[key] = value
        tag.group, tag.interval = cells.get("group", ""), duration(cells.get("interval", ""))
        bad = any(each.severity == "error" for each in self.into.findings[wrong:])
        if bad or where is None or "address" not in tag.keys:
            return False
        line = tag.keys["address"]
        own = bool(OWN.fullmatch(cells["address"])) and len(cells["address"].split()) > 1
        tag.ordered = own or "order" in cells or bool(self.reading.order or re.search(r" [A-H]{2,8}$", str(line)))
        where.tags.append(tag)
        return True

    def _device(self, index: int, cells: Mapping[str, str]) -> ListedDevice | None:
        unit: int | None = None
        if given := cells.get("unit_id"):
            found = re.fullmatch(r"\D*?(\d{1,3})(?:\.0*)?|0x([0-9a-fA-F]{1,2})", given)
            if found is None:
                self.into.wrong(self.place(index, "unit_id"), f"expected a unit id from 0 to 255, got {given!r}")
                return None
            unit = int(found[1]) if found[1] else int(found[2], 16)
        name = re.sub(r"[\s/+#]+", "-", cells.get("device", "").strip())
        return device_named(self.into, name, unit, self.reading.device, self._driver(cells))

    def _address(self, index: int, cells: dict[str, str]) -> dict[str, Any]:
        text = cells["address"]
        if self._driver(cells) != "modbus":
            return {"address": text, **({"type": cells["type"].lower()} if "type" in cells else {})}
        if OWN.fullmatch(text) and len(text.split()) > 1:
            own: dict[str, Any] = {key: cells[key] for key in ("type", "order") if key in cells}
            bit = {"bit": int(cells["bit"])} if cells.get("bit", "").isdigit() else {}
            return {"address": text, **own, **bit, **({"length": int(cells["length"])} if "length" in cells else {})}
        if OWN.fullmatch(text):
            location = Address(text.split(":")[0], 0, text.partition(":")[2])
        else:
            try:
                area, only_writes = self._area(cells)
            except ValueError as error:
                raise _CellError("function" if "function" in cells else "area", error) from None
            if only_writes and "function" in cells:
                self.into.wrong(self.place(index, "function"), "this register is only written, not read", "", "warning")
            location = self.notation.read(text, area)
            self._rounded(index, text, location)
        return {"address": self._line(index, location, cells)}

    def _rounded(self, index: int, text: str, location: Address) -> None:
        column = self.header.columns["address"]
        if (index, column) in self.sheet.rounded and location.bits == (1, 1):
            reason = f"{text} is a number in the spreadsheet: bit 10 would look the same as bit 1"
            self.into.wrong(self.place(index, "address"), reason, "format the column as text", "warning")

    def _line(self, index: int, location: Address, cells: Mapping[str, str]) -> str:
        """Put an address line together: location, type, order, bits."""
        bits = location.bits
        if "bit" in cells:
            found = re.fullmatch(r"(?i)(?:bit|b|位)?\s*(\d{1,2})(?:\s*(?:-|~|\.\.)\s*(\d{1,2}))?", cells["bit"])
            if found is None:
                raise _CellError("bit", f"expected a bit such as 3, got {cells['bit']!r}")
            bits = (int(found[1]), int(found[2] or found[1]))
        if location.area in ("coil", "discrete"):
            return location.line
        typed = self._typed(index, cells, location, bits)
        if bits is not None:
            wide = f" {typed.name}" if typed is not None and typed.name in ("uint32", "uint64") else ""
            return (
                f"{location.line}{wide} bit {bits[0]}"
                if bits[0] == bits[1]
                else f"{location.line}{wide} bits {bits[0]}..{bits[1]}"
            )
        if typed is None:
            return location.line
        if typed.name == "bool":
            raise ValueError(f"a yes/no value of register {location.line} needs its bit, as in {cells['address']}.0")
        if typed.name == "text":
            return f"{location.line} text {typed.length}{' ' + typed.order if typed.order else ''}"
        order = words.order_for(typed.order or self._order(cells), typed.name)
        elements = f"[{typed.elements}]" if typed.elements else ""
        return f"{location.line} {typed.name}{elements}{' ' + order if order else ''}"

    def _order(self, cells: Mapping[str, str]) -> str:
        if "order" in cells and cells["order"] not in ("-", "/", "—"):
            try:
                return words.order_of(cells["order"], self.reading.mapping.orders)
            except ValueError as error:
                raise _CellError("order", error) from None
        return self.reading.order

    def _typed(
        self, index: int, cells: Mapping[str, str], location: Address, bits: tuple[int, int] | None
    ) -> words.Typed | None:
        width = self._width(cells, location)
        cell = cells.get("type", "")
        if not cell or (area_of(cell) and not self._is_type(cell)):
            if width is None or width == 2 or bits is not None:
                return None
            return words.Typed(words.of_width(width))
        try:
            typed = words.type_of(cell, width, self.reading.mapping.types)
        except ValueError as error:
            raise _CellError("type", error) from None
        given = words.WIDTHS.get(typed.name, 0)
        if width and given and typed.name not in ("int8", "uint8") and width != given * (typed.elements or 1):
            key = "count" if "count" in cells else "address"
            reason = f"{typed.name} takes {given // 2} register{'s' if given > 2 else ''}, the list says {width // 2}"
            self.into.wrong(self.place(index, key), reason, "", "warning")
        if typed.name == "text" and "order" in cells:
            return words.Typed("text", words.order_for(self._order(cells), "text"), typed.length)
        return typed

    def _width(self, cells: Mapping[str, str], location: Address) -> int | None:
        """Give the bytes of a value, where the list says them."""
        for key, unit in (("length", 1), ("bytes", 1), ("width", 0), ("count", self.registers_are)):
            found = re.match(r"\d+", cells.get(key, ""))
            if found:
                return int(found[0]) * unit if unit else max(int(found[0]) // 8, 2)
        return location.count * 2 if location.count else None

    def _scale(self, index: int, cells: Mapping[str, str]) -> dict[str, Any]:
        comma = self.sheet.decimal_comma
        value: Any = 1
        keys: dict[str, Any] = {}
        given = cells.get("scale", "")
        if given and given not in ("-", "—", "/", "无"):
            value, offset = words.factor(given, comma=comma)
            if offset:
                keys["offset"] = offset
        elif divisor := cells.get("divisor"):
            value = words.exact(1 / Fraction(str(words.number(divisor, comma=comma))))
        elif decimals := cells.get("decimals"):
            value = words.exact(Fraction(10) ** -int(words.number(decimals)))
        if value != 1:
            if isinstance(value, int):
                self.whole_factors += 1
            else:
                self.broken_factors += 1
            return {"scale": value, **keys}
        return keys

    def _access(self, index: int, cells: Mapping[str, str]) -> dict[str, Any]:
        if "writable" in cells:
            return {"writable": _yaml(cells["writable"])} if cells["writable"] != "false" else {}
        given = cells.get("access", "")
        if not given or given in ("-", "/", "—"):
            return {}
        what = words.rights(given)
        if what == "w":
            self.into.wrong(self.place(index, "access"), "this register can only be written, not read", "", "warning")
        if what == "r":
            return {}
        self.writable_rows += 1
        return {"writable": True} if self.reading.writable else {}

    def _plain(self, index: int, cells: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
        """Read the cells that stand for themselves."""
        comma = self.sheet.decimal_comma
        none = () if self._own(cells) else ("-", "/", "—", "无")
        if "unit" in cells and cells["unit"] not in none:
            yield "unit", cells["unit"]
        if "name" in cells and "description" in cells:
            yield "description", cells["description"]
        for key in ("offset", "min", "max", "range", "states", "deadband", *VERBATIM, *STRUCTURED):
            if key not in cells or cells[key] in none:
                continue
            try:
                if key == "range":
                    low, high = words.span(cells[key], comma=comma)
                    yield from (("min", low), ("max", high))
                elif key == "states":
                    yield key, _yaml(cells[key]) if cells[key].startswith("{") else words.states_of(cells[key])
                elif key == "deadband" and "%" in cells[key]:
                    yield key, cells[key]
                elif key in ("offset", "min", "max", "deadband"):
                    yield key, _number_or_fraction(cells[key], key, comma)
                else:
                    yield key, _yaml(cells[key]) if key in STRUCTURED else cells[key]
            except ValueError as error:
                # a range in prose ("see table 4") says nothing about the tag's place: told, and left out
                severity = "warning" if key in ("range", "states") else "error"
                self.into.wrong(self.place(index, key), str(error), "", severity)


def device_named(into: RegisterList, name: str, unit: int | None, otherwise: str, driver: str) -> ListedDevice:
    """Find or make a device: by its name, or by its unit id where the list has no names."""
    for device in into.devices:
        if (name and device.name == name) or (not name and device.keys.get("unit_id") == unit):
            if unit is not None and device.keys.setdefault("unit_id", unit) != unit:
                continue
            return device
    taken = {device.name for device in into.devices}
    wanted = name or otherwise
    if wanted in taken:
        wanted = f"{wanted}-{unit}" if unit is not None else f"{wanted}-{len(taken) + 1}"
    device = ListedDevice(wanted, driver, {} if unit is None else {"unit_id": unit})
    into.devices.append(device)
    return device


def _number_or_fraction(cell: str, key: str, comma: bool) -> int | float | str:
    if key == "offset" and re.fullmatch(r"-?\d+/\d+", cell):
        return cell
    return words.number(cell, comma=comma)


def _yaml(cell: str) -> Any:
    """Read a cell that holds YAML, as `export` writes it."""
    import yaml

    from gateway.config import document
    from gateway.config.references import References

    problems: list[Any] = []
    value = document.parse(cell, "", problems, References(needed=False))
    if problems or isinstance(value, yaml.YAMLError):
        raise ValueError(f"expected a value as in YAML, got {cell!r}")
    return _pure(value)


def _pure(value: Any) -> Any:
    """Give plain dictionaries and lists."""
    if isinstance(value, Mapping):
        return {int(key) if re.fullmatch(r"-?\d+", key) else key: _pure(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_pure(each) for each in value]
    return value


def duration(cell: str) -> str:
    """Read an interval; a bare number is taken as milliseconds, which is what scan rates are given in."""
    text = cell.strip()
    if re.fullmatch(r"\d+", text):
        return f"{int(text) // 1000} s" if int(text) % 1000 == 0 and int(text) else f"{text} ms"
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|毫秒|s|sec|秒|min|分钟|分|h|小时)", text, re.IGNORECASE)
    units = {"毫秒": "ms", "sec": "s", "秒": "s", "分钟": "min", "分": "min", "小时": "h"}
    return f"{found[1]} {units.get(found[2].lower(), found[2].lower())}" if found else text
