"""The ways people write a Modbus address, turned into the one way of this gateway: area:number, zero-based.

    40001  400001        a reference: the area's digit, then a number from 1
    4x0001  3x12         the same, as HMIs write it
    100                  a number in the area that a function code, a column or an option says
    0x0064  64H  &H64    the same in hexadecimal; so are 001E and all its neighbours where the column says "hex", or
                         where one of them has a letter
    HR100  IR 5  保持寄存器100  %MW100    the area in words
    40010.3  100:3  100 bit 3             one bit
    40001-40002  100~101                  the registers of one value: the first counts
    1!40001                               behind the number of its unit

A plain number counts from 0, as on the wire, unless the base is said to be 1; a reference always from 1, unless the
base is said to be 0. Where a function code stands beside numbers such as 40001, they are references if all of them are;
the base "wire" takes every number as it stands. `Notation.notes` says what was taken for granted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Base = Literal["0", "1", "wire"]
LAST: Final = 65535

AREAS: Final = {
    "coil": "coil coils co do doutput outputcoil digitaloutput 线圈 线圈状态 输出线圈 继电器 0x 0区 %m %q",
    "discrete": (
        "discrete discretes discreteinput discreteinputs di digitalinput inputstatus inputcontact "
        "离散输入 离散量 离散量输入 输入状态 离散输入寄存器 开关量输入 1x 1区 %i"
    ),
    "input": "input inputs inputregister inputregisters ir ai inputreg analoginput 输入寄存器 模拟量输入 3x 3区 %iw",
    "holding": (
        "holding holdings holdingregister holdingregisters hr ao holdingreg register registers 保持寄存器 "
        "保持 4x 4区 保存寄存器 读写寄存器 %mw mw"
    ),
}
_AREA_WORDS: Final = {word: area for area, words in AREAS.items() for word in words.split()}
_DIGITS: Final = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}
_FUNCTIONS: Final = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
_WRITES: Final = {5: "coil", 15: "coil", 6: "holding", 16: "holding", 22: "holding", 23: "holding"}

OWN: Final = re.compile(
    r"(?:coil|discrete|input|holding):(?:\d+|0[xX][0-9A-Fa-f]+|[0-9A-Fa-f]+[hH])\b.*"
    r"|\d{5,6} (?:bool|u?int\d+|float\d\d|bcd|text|iec-time|unix32|bit|high\b|low\b|[A-H]{2,8}\b).*",
    re.DOTALL,
)
"""An address line of this gateway itself: as it stands."""

_HEX: Final = re.compile(r"0x([0-9a-f]+)|([0-9a-f]+)h|(?:16#|&h|\$)([0-9a-f]+)", re.IGNORECASE)
_BIT: Final = re.compile(
    r"(?P<rest>.*[0-9a-fh\])])\s*(?:[.:]\s*(?:bit|b)?|/\s*(?:bit|b)?|\s+(?:bit|b)\s*|第)\s*(?P<first>\d{1,2})"
    r"(?:\s*(?:-|~|\.\.)\s*(?:bit|b)?(?P<last>\d{1,2}))?\s*位?",
    re.IGNORECASE,
)
_RANGE: Final = re.compile(
    r"(.*?[0-9a-fh])\s*(?:-|~|–|—|至|到|\bto\b|\.\.|,|;|、|/|\s)\s*([^\s]*[0-9a-fh])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a device. `shown` is its number as an address line has it; count is 0 where the list does not say."""

    area: str
    number: int
    shown: str
    bits: tuple[int, int] | None = None
    count: int = 0
    unit: int | None = None

    @property
    def line(self) -> str:
        """The address as YAML has it."""
        return f"{self.area}:{self.shown}"


@dataclass(slots=True)
class Notation:
    """How one list writes its addresses, found from all of them."""

    base: Base | None = None
    area: str = ""  # where the list itself does not say
    hexadecimal: bool = False  # numbers without a mark
    digits_before_x: bool = False  # 0x0001 is a coil
    references: frozenset[str] = frozenset()  # areas whose plain numbers are references
    notes: list[str] = field(default_factory=list)

    def read(self, cell: str, area: str = "") -> Address:
        """Read one address; `area` is what its row says. Raises ValueError."""
        text = unicodedata.normalize("NFKC", cell).strip()
        if text.endswith("(a date)"):
            raise ValueError(
                f"{text.split('T')[0]}: the spreadsheet took the address for a date; format the cell as text"
            )
        unit = None
        if found := re.match(r"(\d{1,3})\s*!\s*", text):
            unit, text = int(found[1]), text[found.end() :]
        text, bits, count = self._parts(text)
        found_area, number, shown = self._location(text, area or self.area, cell)
        if not 0 <= number <= LAST:
            raise ValueError(f"the address {cell!r} is not between 0 and {LAST} on the wire")
        return Address(found_area, number, shown, bits, count, unit)

    def _parts(self, text: str) -> tuple[str, tuple[int, int] | None, int]:
        """Take bits, or the end of a range, off an address."""
        if found := _RANGE.fullmatch(text):
            first, last = _digits(found[1]), _digits(found[2])
            if (
                first is not None
                and last is not None
                and first < last < first + 126
                and len(found[2]) >= len(str(first)) - 1
            ):
                return found[1], None, last - first + 1
        if (found := _BIT.fullmatch(text)) and not _HEX.fullmatch(text):
            first, last = int(found["first"]), int(found["last"] or found["first"])
            if max(first, last) > 63:
                raise ValueError(f"{text!r}: a register has bits 0 to 15")
            return found["rest"], (min(first, last), max(first, last)), 0
        return text, None, 0

    def _location(self, text: str, area: str, cell: str) -> tuple[str, int, str]:
        found = re.fullmatch(r"([0134])x\s*(\d{1,6})", text, re.IGNORECASE)
        if found and (found[1] != "0" or self.digits_before_x):
            digits = found[2]
            if len(digits) >= 5 and digits[0] == found[1]:
                digits = digits[1:]
            return self._counted(_DIGITS[found[1]], int(digits), "0" if self.base == "0" else "1")
        if found := _HEX.fullmatch(text):
            number = int(found[1] or found[2] or found[3], 16)
            return self._hex(self._known(area, cell), number)
        if re.fullmatch(r"[0-9A-Fa-f]+", text) and self.hexadecimal:
            return self._hex(self._known(area, cell), int(text, 16))
        if re.fullmatch(r"\d+", text):
            return self._plain(text, area, cell)
        found = re.fullmatch(
            r"(%?[^\d\W][^\d]*?|[0134][x区])[\s.\-#=:/\[(]*(0x[0-9a-f]+|[0-9a-f]+h|\d+)[\])]?", text, re.I
        )
        word = re.sub(r"[\s._-]+", "", found[1].lower()) if found else ""
        if found and word in _AREA_WORDS:
            named = _AREA_WORDS[word]
            if hexadecimal := _HEX.fullmatch(found[2]):
                return self._hex(named, int(hexadecimal[1] or hexadecimal[2], 16))
            if word in ("mw", "%mw", "%m", "%iw", "%i", "%q"):
                return named, int(found[2]), found[2].lstrip("0") or "0"  # IEC names count from 0
            return self._counted(named, int(found[2]), self.base if self.base in ("0", "1") else "0")
        raise ValueError(f"{cell!r} is no address; expected forms such as 40001, 100, 0x0064, HR100 or holding:100")

    def _known(self, area: str, cell: str) -> str:
        if not area:
            raise ValueError(f"{cell!r}: nothing says whether this is a holding register, an input register or a bit")
        return area

    def _hex(self, area: str, number: int) -> tuple[str, int, str]:
        number -= self.base == "1"
        return area, number, f"0x{max(number, 0):04X}"

    def _plain(self, text: str, area: str, cell: str) -> tuple[str, int, str]:
        named = _reference_area(text)
        if named and self.base != "wire" and (not area or (area in self.references and named == area)):
            return self._counted(named, int(text[1:]), "0" if self.base == "0" else "1")
        return self._counted(self._known(area, cell), int(text), "1" if self.base == "1" else "0")

    @staticmethod
    def _counted(area: str, number: int, base: str) -> tuple[str, int, str]:
        number -= base == "1"
        return area, number, str(number)


def _digits(text: str) -> int | None:
    """Give the number of one end of a range."""
    if found := _HEX.fullmatch(text.strip()):
        return int(found[1] or found[2] or found[3], 16)
    found = re.fullmatch(r"\D*?(\d+)", text.strip())
    return int(found[1]) if found else None


def _reference_area(text: str) -> str:
    """Say which area a number would be a reference to; empty where it is none."""
    if len(text) not in (5, 6) or text[0] not in _DIGITS or not 0 <= int(text[1:]) <= LAST + 1:
        return ""
    return _DIGITS[text[0]]


def area_of(cell: str) -> str:
    """Read an area by its name; empty where it is none."""
    word = re.sub(r"[\s._-]+", "", unicodedata.normalize("NFKC", cell).lower())
    return _AREA_WORDS.get(word) or _AREA_WORDS.get(re.sub(r"\(.*?\)", "", word), "")


def area_of_function(cell: str) -> tuple[str, bool]:
    """Read a function code: the area it reads, and whether it only writes. Raises ValueError."""
    text = unicodedata.normalize("NFKC", cell).strip()
    found = [
        int(match[1], 16) if match[2] or match[0].lower().startswith("0x") else int(match[1])
        for match in re.finditer(
            r"(?:0x)?([0-9a-f]{1,2})(h?)(?![0-9a-f])", re.sub(r"(?i)f(c|un)?\s*(?=\d)", " ", text), re.I
        )
        if match[1][0].isdigit()
    ]
    if "10" in re.findall(r"(?<![0-9])10(?![0-9])", text) and 10 in found:
        found[found.index(10)] = 16  # 03/10 means hexadecimal 10; there is no function 10
    for code in found:
        if code in _FUNCTIONS:
            return _FUNCTIONS[code], False
    for code in found:
        if code in _WRITES:
            return _WRITES[code], True
    if area := area_of(text.replace("读", "").replace("read", "").replace("Read", "")):
        return area, False
    raise ValueError(f"expected a Modbus function code from 1 to 4, got {cell!r}")


def survey(cells: Sequence[tuple[str, str]], *, base: Base | None, area: str, hexadecimal: bool) -> Notation:
    """Find out how a list writes addresses: `cells` are all of them, each with the area that its row says."""
    notation = Notation(base, area, hexadecimal)
    texts = [(unicodedata.normalize("NFKC", text).strip(), named or area) for text, named in cells if text]
    notation.digits_before_x = any(re.fullmatch(r"[134][xX]\s*\d{1,6}", text) for text, _ in texts)
    coils = [text for text, _ in texts if re.fullmatch(r"0[xX]\s*\d{1,6}", text)]
    if notation.digits_before_x and coils:
        notation.notes.append(f"Addresses such as {coils[0]} are coils, since the list writes others as 4x or 1x.")
    if not hexadecimal and _hex_without_mark(text for text, _ in texts):
        notation.hexadecimal = True
        notation.notes.append("Addresses are read as hexadecimal, because some have letters.")
    if notation.hexadecimal:
        return notation
    _find_references(texts, notation)
    _note_base(texts, notation)
    return notation


def _hex_without_mark(texts: Iterable[str]) -> bool:
    """A column of 001E and its like: equally long, or enough of them with a letter behind a figure to be no slip."""
    bare = [text for text in texts if re.fullmatch(r"[0-9A-Fa-f]{2,5}", text)]
    lettered = [text for text in bare if not text.isdigit()]
    if not lettered or len(lettered) == len(bare) == 1:
        return False
    if len({len(text) for text in bare}) == 1 and len(bare[0]) == 4:
        return True
    return all(text[0].isdigit() for text in lettered) and len(lettered) * 10 >= len(bare)


def _start(text: str) -> str:
    """The figures that an address begins with."""
    found = re.match(r"(?:\d{1,3}\s*!\s*)?(\d+)(?![\dxX!])", text)
    return found[1] if found and not _HEX.fullmatch(text) else ""


def _find_references(texts: Sequence[tuple[str, str]], notation: Notation) -> None:
    """Find the areas in which plain numbers are references although the area is said, too."""
    if notation.base in ("1", "wire"):
        return
    by_area: dict[str, list[str]] = {}
    for text, area in texts:
        if area and (number := _start(text)):
            by_area.setdefault(area, []).append(number)
    found = frozenset(
        area for area, numbers in by_area.items() if all(_reference_area(each) == area for each in numbers)
    )
    if found:
        notation.references = found
        first = min(found)
        example = by_area[first][0]
        wire = int(example[1:]) - (notation.base != "0")
        notation.notes.append(
            f"Addresses such as {example} are taken as references ({first}:{wire}). If they are the numbers on the "
            "wire, import with --base wire."
        )


def _note_base(texts: Sequence[tuple[str, str]], notation: Notation) -> None:
    """Say that plain numbers are taken as zero-based, where nothing proves it."""
    plain = [
        (number, area)
        for text, area in texts
        if area and area not in notation.references and (number := _start(text)) and not OWN.fullmatch(text)
    ]
    words = [text for text, _ in texts if re.match(r"(?i)\s*(hr|ir|di|co|holding|input)[^:]*\d", text)]
    if notation.base is not None or not (plain or words) or any(int(number) == 0 for number, _ in plain):
        return
    example = f"{plain[0][0]} is {plain[0][1]}:{int(plain[0][0])}" if plain else f"{words[0]} counts from 0"
    notation.notes.append(
        f"Numbers are taken as they stand on the wire ({example}). If the manual counts from 1, import with --base 1."
    )
