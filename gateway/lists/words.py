"""The cells of a register list in their many spellings: types, byte orders, factors, rights, states. Pure text.

Each function gives what a cell means, or raises ValueError with a sentence for whoever wrote it. What really could
mean two things (低位在前: the low word, or the low byte) is refused with both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final

WIDTHS: Final = {
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bcd16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "bcd32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
"""Bytes of our types; text and bool have none of their own."""

_AS_IT_IS: Final = frozenset((*WIDTHS, "bool", "iec-time", "unix32", "bcd-time"))
_SIGNED: Final = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}
_UNSIGNED: Final = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
_FLOATS: Final = {2: "float16", 4: "float32", 8: "float64"}
_BCD: Final = {2: "bcd16", 4: "bcd32"}

_TYPES: Final = {
    "float32": (
        "float float32 real single f32 ieee754 ieee float32ieee ieee754float32 ieeefloat floatieee "
        "floatingpoint fp32 浮点 浮点数 浮点型 单精度 单精度浮点 单精度浮点数 单精度浮点型 flt fl"
    ),
    "float64": "double lreal float64 f64 float64ieee doublefloat 双精度 双精度浮点 双精度浮点数 双精度浮点型 dbl",
    "float16": "half float16 f16 半精度",
    "int16": "short int16 i16 s16 sint16 shortint signedshort signedword 短整型 有符号短整型 有符号字",
    "uint16": (
        "word uint16 u16 ushort unsignedshort unsignedword hex 字 无符号短整型 无符号字 十六进制 bitmap "
        "bitmask bitfield enum16 enum 枚举 位图"
    ),
    "int32": "dint int32 i32 s32 sint32 longint long signedlong slong 长整型 有符号长整型 有符号双字 双整型 双整数",
    "uint32": "udint dword uint32 u32 ulong unsignedlong doubleword 双字 无符号长整型 无符号双字 unsigneddword",
    "int64": "lint int64 i64 s64 sint64 longlong llong",
    "uint64": "ulint lword qword uint64 u64 ulonglong quadword 四字",
    "int8": "int8 sint i8 s8 schar signedchar",
    "uint8": "byte uint8 usint u8 uchar unsignedchar 字节",
    "bool": "bool boolean bit digital binary switch 布尔 布尔型 布尔量 位 开关 开关量 线圈 遥信",
    "bcd16": "bcd16 bcd4",
    "bcd32": "bcd32 bcd8 lbcd",
}
_TYPE_WORDS: Final = {word: name for name, words in _TYPES.items() for word in words.split()}

_SIZED: Final = {  # families whose width is said elsewhere, in the cell or in the column of lengths
    "int": (
        _SIGNED,
        "int integer signed signedint signedinteger sint 整型 整数 有符号 有符号数 有符号整型 有符号整数 带符号 "
        "带符号整数",
    ),
    "uint": (_UNSIGNED, "uint unsigned unsignedint unsignedinteger 无符号 无符号数 无符号整型 无符号整数 正整数"),
    "float": (_FLOATS, "float real floating 浮点 浮点数 浮点型"),
    "bcd": (_BCD, "bcd bcd码"),
}
_FAMILIES: Final = {word: family for family, (_, words) in _SIZED.items() for word in words.split()}
_TEXT_WORDS: Final = (
    "string", "str", "text", "ascii", "char", "chars", "character", "characters", "varchar", "字符串", "字符", "文本",
    "字符型", "ascii码",
)  # fmt: skip
_ORDER_WORDS: Final = {
    "ABCD": (
        "abcd 1234 0123 big bigendian be motorola msbfirst mswfirst highwordfirst normal 大端 大端模式 "
        "高字在前 高字节在前 大端序 高位字在前 hilo msb msw mswbe"
    ),
    "CDAB": (
        "cdab 3412 2301 littleendianbyteswap littleswap littleswapped midlittle midlittleendian wordswap "
        "wordswapped swapped swap lowwordfirst lswfirst bigendianwordswap 低字在前 字交换 低位字在前 "
        "小端字节交换 字反转 lsw lswbe lohi inverse"
    ),
    "BADC": (
        "badc 2143 1032 bigendianbyteswap bigswap bigswapped midbig midbigendian byteswap byteswapped "
        "字节交换 大端字节交换 mswle"
    ),
    "DCBA": "dcba 4321 3210 little littleendian le intel lsbfirst 小端 小端模式 小端序 低字节在前 lswle",
}
_ORDERS: Final = {word: order for order, words in _ORDER_WORDS.items() for word in words.split()}
_TWO_MEANINGS: Final = {
    "低位在前": "CDAB or DCBA",
    "高位在后": "CDAB or DCBA",
    "lowfirst": "CDAB or DCBA",
    "高位在前": "ABCD or BADC",
}


NONE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Typed:
    """A type, and what else its cell says; length is the bytes of a text."""

    name: str
    order: str = ""
    length: int = 0
    elements: int = 0


def compact(text: str) -> str:
    """Give a word without what does not matter in it."""
    return re.sub(r"[\s_\-./:]+", "", unicodedata.normalize("NFKC", text).lower())


# ------------------------------------------------------------------------------------------------ types


def type_of(cell: str, width: int | None, own: Mapping[str, str] = NONE) -> Typed:
    """Read a type; `width` is its bytes where the list says them elsewhere. Raises ValueError."""
    if cell in own:
        cell = own[cell]
    text = unicodedata.normalize("NFKC", cell).lower().strip()
    if text in _AS_IT_IS:
        return Typed(text)
    order = ""
    found = re.search(r"[\s(,]+((?:[a-h][\s-]?){2,8}|[0-4]{4})\)?$", text)
    if found and (read := _letters(found[1])):
        text, order = text[: found.start()].strip(" ("), read
    elements = 0
    if found := re.fullmatch(r"(.+?)\s*\[(\d+)\]", text):
        text, elements = found[1], int(found[2])
    word = compact(text)
    name, bits = _bits_in(word)
    if base := _text_length(word):
        length = base[1] or elements or width or 0
        if not length:
            raise ValueError(f"the type {cell!r} needs its length")
        return Typed("text", _bytes_of(order), length)
    if bits:
        width = bits // 8
    if name in _FAMILIES and (bits or (width and not (name in _TYPE_WORDS and width == 4))):
        table = _SIZED[_FAMILIES[name]][0]
        if width not in table:
            raise ValueError(f"there is no {cell!r} of {(width or 0) * 8} bits")
        return Typed(table[width], order, elements=elements)
    if name in _TYPE_WORDS and not bits:
        return Typed(_TYPE_WORDS[name], order, elements=elements)
    if name in _FAMILIES:
        return Typed(_SIZED[_FAMILIES[name]][0][2], order, elements=elements)
    if word in _TYPE_WORDS:
        return Typed(_TYPE_WORDS[word], order, elements=elements)
    raise ValueError(f"the type {cell!r} is not known; name it in a mapping file under types")


def _bits_in(word: str) -> tuple[str, int]:
    """Take a number of bits out of a word: int16u, 32bitfloat, 无符号32位, uint32."""
    found = re.fullmatch(r"(8|16|32|64)(?:bits?|位)?(\D+)|(\D+?)(8|16|32|64)(?:bits?|位)?([us]?)", word)
    if found is None:
        return word, 0
    family, bits = (found[2], found[1]) if found[1] else (found[3], found[4])
    family = {"u": "uint", "s": "int", "i": "int", "f": "float"}.get(family, family)
    family = re.sub(r"(?:ieee754?|ieee|hex)$", "", family) or family
    if found[5]:
        family = "uint" if found[5] == "u" else "int"
    if family in _FAMILIES:
        return family, int(bits)
    return word, 0


def _text_length(word: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(\D+?)\(?(\d+)?\)?(?:bytes?|chars?|字节|字符)?", word)
    if found is None or found[1] not in _TEXT_WORDS:
        return None
    return found[1], int(found[2] or 0)


def of_width(width: int) -> str:
    """Name the unsigned type of a width, for a list that says nothing else. Raises ValueError where that is a guess."""
    if width == 2:
        return "uint16"
    names = ", ".join(name for name, size in WIDTHS.items() if size == width and not name.startswith("bcd"))
    if not names:
        raise ValueError(f"no type is given, and nothing has {width // 2} registers but text")
    raise ValueError(f"no type is given, and {width // 2} registers could be {names}")


# ------------------------------------------------------------------------------------------------ byte orders


def order_of(cell: str, own: Mapping[str, str] = NONE) -> str:
    """Read a byte order: ABCD, CDAB, BADC, DCBA, AB, BA or eight letters. Raises ValueError."""
    if cell in own:
        cell = own[cell]
    inside = re.search(r"\(([^)]+)\)", unicodedata.normalize("NFKC", cell))
    found = _letters(cell) or (_letters(inside[1]) if inside else "")
    if found:
        return found
    word = compact(cell).replace("(", "").replace(")", "").replace(",", "")
    if word in _TWO_MEANINGS:
        raise ValueError(
            f"the byte order {cell!r} could be {_TWO_MEANINGS[word]}; name it in a mapping file under orders"
        )
    if word in _ORDERS:
        return _ORDERS[word]
    raise ValueError(f"the byte order {cell!r} is not known; expected ABCD, CDAB, BADC or DCBA")


def _letters(text: str) -> str:
    """Read letters or figures in the order of arrival: "AB CD", 3412, 2-1-4-3, 12 34 56 78."""
    word = re.sub(r"[\s\-,_.>]+", "", unicodedata.normalize("NFKC", text).upper())
    if re.fullmatch(r"\d+", word):
        first = "0" if "0" in word else "1"
        word = "".join("ABCDEFGH"[ord(figure) - ord(first)] if ord(figure) - ord(first) < 8 else "?" for figure in word)
    valid = len(word) in (2, 4, 8) and sorted(word) == list("ABCDEFGH"[: len(word)])
    return word if valid else ""


def order_for(order: str, type_: str) -> str:
    """Give an order as an address line writes it behind a type; empty where it is the usual one."""
    width = WIDTHS.get(type_, 0)
    if not order or width == 1:
        return ""
    if type_ == "text" or width == 2:
        return _bytes_of(order)
    if order in ("AB", "BA"):
        return {"AB": "", "BA": "BADC"}[order]
    return "" if order == "ABCDEFGH"[: len(order)] else order


def _bytes_of(order: str) -> str:
    """What an order means for two bytes: BA where those of each register are swapped."""
    return "BA" if order[:2] in ("BA", "DC", "HG", "FE") else ""


# ------------------------------------------------------------------------------------------------ numbers


def number(cell: str, *, comma: bool = False) -> int | float:
    """Read a number: 0.1, 1e-3, 1 000; with `comma` 0,1 too. Raises ValueError."""
    text = unicodedata.normalize("NFKC", cell).replace("−", "-").replace(" ", "").strip()
    if re.fullmatch(r"[-+]?\d+,\d+", text) and (comma or not re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", text)):
        text = text.replace(",", ".")
    elif comma and re.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+(,\d+)?", text):
        text = text.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"expected a number, got {cell!r}") from None
    if not value.is_finite() or abs(value.adjusted()) > 400:
        raise ValueError(f"expected a number, got {cell!r}")
    return int(value) if value == value.to_integral_value() else float(value)


_FACTOR: Final = re.compile(
    r"(?:(?P<is>[a-z]{0,4}\s*=)?\s*(?P<raw>[a-z]{1,5}\s*(?=[*×x/÷]))?\s*)?(?P<sign>[*×x/÷])?\s*"
    r"(?P<number>-?[\d.]+\s*/\s*[\d.]+|[-+]?[\d.,]+(?:e[-+]?\d+)?|10\s*\^\s*\(?-?\d+\)?)"
    r"(?:\s*(?P<offset>[-+]\s*[\d.,]+))?\s*(?P<unit>[^\d\s*/^][^\d*^]*)?"
)


def factor(cell: str, *, comma: bool = False) -> tuple[int | float | str, int | float]:
    """Read a factor and an offset: 0.1, ×10, /10, 1/10, 10^-1, "0.01 kWh", x*0.1-40. Raises ValueError.

    The factor is a number, or a fraction as text where no number is exact.
    """
    text = unicodedata.normalize("NFKC", cell).lower().replace("−", "-").strip().removeprefix("raw").strip()
    found = _FACTOR.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a factor such as 0.1, ×10 or /10, got {cell!r}")
    digits = re.sub(r"[\s()]", "", found["number"])
    if digits.startswith("10^"):
        value = Fraction(10) ** int(digits[3:])
    elif "/" in digits:
        above, _, below = digits.partition("/")
        if not Fraction(below):
            raise ValueError(f"expected a factor such as 0.1, ×10 or /10, got {cell!r}")
        value = Fraction(above) / Fraction(below)
    else:
        value = Fraction(str(number(digits, comma=comma)))
    if value == 0:
        raise ValueError(f"a factor of 0 makes every value 0: {cell!r}")
    if found["sign"] in ("/", "÷"):
        value = 1 / value
    offset = number(found["offset"], comma=comma) if found["offset"] else 0
    return exact(value), offset


def exact(value: Fraction) -> int | float | str:
    """Give a fraction as the number that YAML writes, or as text such as 1/3."""
    if value.denominator == 1:
        return int(value)
    return float(value) if Fraction(repr(float(value))) == value else str(value)


def span(cell: str, *, comma: bool = False) -> tuple[int | float, int | float]:
    """Read a range: 0~100, -40 .. 85, 0 to 10, 0-100. Raises ValueError."""
    text = unicodedata.normalize("NFKC", cell).replace("−", "-").strip().strip("[]()")
    found = re.fullmatch(
        r"([-+]?[\d.,]*\d)\s*[^\d\s.,~-]{0,4}\s*(?:~|～|\.{2,3}|…|至|到|to|-|–|,)\s*([-+]?[\d.,]*\d)\s*\D{0,8}", text
    )
    if found is None:
        raise ValueError(f"expected a range such as 0..100, got {cell!r}")
    return number(found[1], comma=comma), number(found[2], comma=comma)


# ------------------------------------------------------------------------------------------------ rights and states


def rights(cell: str) -> str:
    """Read what may be done: r, rw or w. Raises ValueError."""
    word = compact(cell).replace(",", "").replace("、", "").replace("&", "")
    if word in ("rw", "wr", "readwrite", "读写", "可读写", "可读可写", "读写型", "readandwrite", "r+w", "3", "遥调"):
        return "rw"
    if word in ("r", "ro", "read", "readonly", "只读", "读", "可读", "1", "遥测", "遥信"):
        return "r"
    if word in ("w", "wo", "write", "writeonly", "只写", "写", "可写", "2", "遥控"):
        return "w"
    raise ValueError(f"expected R, R/W or W, got {cell!r}")


_STATE: Final = re.compile(
    r"(-?\d+)\s*(?:=>|->|[:=.、\-])\s*(.+?)\s*(?=$|[;,\n/|、]\s*-?\d+\s*[:=.、\-]|\s-?\d+\s*[:=、\-])", re.DOTALL
)


def states_of(cell: str) -> dict[int, str]:
    """Read the names of values: 0:停止,1:运行 or 0=off; 1=on. Raises ValueError."""
    text = unicodedata.normalize("NFKC", cell).strip()
    found = {int(match[1]): match[2].strip(" ;,/|、") for match in _STATE.finditer(text)}
    if not found:
        raise ValueError(f"expected values and their names such as 0=stopped; 1=running, got {cell!r}")
    return found


def written(value: Any) -> str:
    """Write a YAML value into one cell, so that `read_written` gives it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    import json

    return json.dumps(value, ensure_ascii=False)
