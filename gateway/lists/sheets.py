"""A spreadsheet or CSV file as sheets: rows of text that know where they stand in the file.

xlsx: every sheet that is not hidden; the cells of a merged range all have its value; numbers are written as people do
(40001, 0.1), with the leading zeros that the cell's format shows. csv: the encoding is found (a byte order mark, UTF-8,
GB18030, UTF-16 without a mark, else Windows-1252) and so is the separator: the one of comma, semicolon, tab and bar
under which the most headings are known. A semicolon makes 0,1 a decimal number. Rows and columns count from 1; a
column of a spreadsheet is named by its letters, as its program shows it.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, time
from typing import Any, Final

from gateway.lists.entries import ListError

MOST_ROWS: Final = 100_000
"""Of one sheet; a gateway has at most a few ten thousand tags."""

_SEPARATORS: Final = (",", ";", "\t", "|")
_BOMS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip
_HIGH: Final = re.compile(rb"[\x80-\xff]+")
INSTALL: Final = "pip install 'plantbridge[tools]'"


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of text; all are equally long. `numbers` are the rows' numbers in the file, `rounded` cells that are numbers
    with a fraction, of which a spreadsheet drops the zeros at the end."""

    file: str
    name: str  # empty for csv
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    decimal_comma: bool = False
    rounded: frozenset[tuple[int, int]] = frozenset()

    def place(self, row: int, column: int | None = None) -> str:
        """Name a row, or a cell of it, as file:row:column."""
        file = f"{self.file}[{self.name}]" if self.name else self.file
        where = f"{file}:{self.numbers[row]}"
        return where if column is None else f"{where}:{letters(column) if self.name else column + 1}"


def letters(column: int) -> str:
    """Name a column as spreadsheets do: A to Z, AA, ..."""
    text = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        text = chr(65 + rest) + text
    return text


def is_workbook(data: bytes) -> bool:
    """Say whether a file is a spreadsheet in the xlsx format. Raises ListError for formats that cannot be read."""
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise ListError("this is an old .xls file (or one with a password): save it as .xlsx or .csv")
    if data.startswith(b"%PDF"):
        raise ListError("this is a PDF: copy its table into a spreadsheet and save that as .xlsx or .csv")
    if data.startswith(b"PK\x03\x04"):
        if b"mimetypeapplication/vnd.oasis" in data[:200]:
            raise ListError("this is an OpenDocument file: save it as .xlsx or .csv")
        return True
    return False


# ------------------------------------------------------------------------------------------------ xlsx


def read_workbook(data: bytes, file: str) -> list[Sheet]:
    """Read every visible sheet of an xlsx file."""
    try:
        import openpyxl
    except ImportError:
        raise ListError(f"reading .xlsx needs the package openpyxl: {INSTALL}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about drawings and validations, which nobody asked for
        try:
            book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
        except Exception as error:  # whatever a damaged archive makes of its parts
            raise ListError(f"{file} cannot be read as a spreadsheet: {error}") from error
        return [_sheet(sheet, file) for sheet in book.worksheets if sheet.sheet_state == "visible"]


def _sheet(sheet: Any, file: str) -> Sheet:
    if sheet.max_row > MOST_ROWS:
        raise ListError(f"{file}: the sheet {sheet.title} has {sheet.max_row} rows; at most {MOST_ROWS} are read")
    rows: list[list[str]] = []
    rounded: set[tuple[int, int]] = set()
    for index, cells in enumerate(sheet.iter_rows()):
        rows.append([_cell_text(cell) for cell in cells])
        rounded.update((index, at) for at, cell in enumerate(cells) if type(cell.value) is float and cell.value % 1)
    for merged in sheet.merged_cells.ranges:
        value = rows[merged.min_row - 1][merged.min_col - 1]
        for row in rows[merged.min_row - 1 : merged.max_row]:
            row[merged.min_col - 1 : merged.max_col] = [value] * (merged.max_col - merged.min_col + 1)
    numbers = tuple(range(1, len(rows) + 1))
    return Sheet(file, sheet.title, tuple(map(tuple, rows)), numbers, rounded=frozenset(rounded))


def _cell_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        text = str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.15g}"
        zeros = re.fullmatch(r"0+", cell.number_format or "")
        return text.zfill(len(zeros[0])) if zeros else text
    if isinstance(value, date | time):  # datetime is a date
        return f"{value.isoformat()} (a date)"
    return str(value).strip()


# ------------------------------------------------------------------------------------------------ csv


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Give a file's text and its encoding. Raises ListError where the given one does not fit."""
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), encoding
        except (UnicodeDecodeError, LookupError) as error:
            raise ListError(f"the file is not {encoding}: {error}") from None
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _decoded(data, name), name.removesuffix("-sig")
    if data[:200].count(0) > len(data[:200]) // 4:
        name = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
        return _decoded(data, name), name
    for name in ("utf-8", "gb18030") if _looks_chinese(data) else ("utf-8",):
        try:
            return data.decode(name), name
        except UnicodeDecodeError:
            continue
    return data.decode("cp1252", errors="replace"), "windows-1252"


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise ListError(f"the file begins as {name} and is not: {error}") from None


def _looks_chinese(data: bytes) -> bool:
    """Say whether most bytes above 127 come in pairs, as in GB2312; a degree sign or umlaut of Europe stands alone."""
    runs = _HIGH.findall(data)
    return sum(len(run) % 2 == 0 for run in runs) * 2 > len(runs)


def read_csv(text: str, file: str, known: Callable[[Sheet], int]) -> Sheet:
    """Split a text into rows by the separator under which `known` finds the most headings."""
    lines = text.split("\n", 1)
    given = re.fullmatch(r"sep=(.)\r?", lines[0])  # Excel's own line
    body = lines[1] if given and len(lines) > 1 else text
    sheets = [_split(body, file, sep, 1 if given else 0) for sep in ((given[1],) if given else _SEPARATORS)]
    return max(sheets, key=known)


def _split(text: str, file: str, separator: str, first: int) -> Sheet:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[Sequence[str]] = []
    numbers = []
    start = first + 1
    try:
        for row in reader:
            rows.append([cell.strip() for cell in row])
            numbers.append(start)
            start = first + reader.line_num + 1
            if len(rows) > MOST_ROWS:
                raise ListError(f"{file} has more than {MOST_ROWS} rows")
    except csv.Error as error:
        raise ListError(f"{file}:{first + reader.line_num}: {error}") from None
    width = max(map(len, rows), default=0)
    padded = tuple((*row, *[""] * (width - len(row))) for row in rows)
    return Sheet(file, "", padded, tuple(numbers), decimal_comma=separator == ";")
