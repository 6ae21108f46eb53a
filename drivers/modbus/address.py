"""The address grammar: one line of text becomes a ModbusSource. Pure; imports no protocol library.

    LOCATION [TYPE] [ORDER] [bit N | bits A..B] [high | low] [LENGTH] [ENCODING]

    holding:100                  zero-based register 100, as it stands on the wire; uint16 where no type is given
    holding:0x2102  holding:2102H    the same in hexadecimal
    40101  400101                references of manuals: the first digit is the area, the rest counts from 1
    holding:100 float32 CDAB     type and byte order
    holding:100 uint16[8]        eight tags in a row
    holding:10 bit 3             one bit, 0 is the least significant
    holding:10 bits 4..7         an unsigned number made of these bits
    holding:10 int8 high         half a register
    holding:200 text 20 gbk BA   twenty bytes of text, GBK, the bytes of each register swapped
    coil:5  discrete:7           single bits

A byte order is letters: A is the most significant byte of the value, and they stand in the order in which the bytes
arrive. ABCD, CDAB, BADC, DCBA for 32 bits; eight letters for 64 bits, or four, which then means the same rule for the
whole value (CDAB: least significant register first, GHEFCDAB). What could mean two things is refused, with both.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, NoReturn

from gateway.model import Kind

Area = Literal["coil", "discrete", "input", "holding"]
AREAS: Final[tuple[Area, ...]] = ("coil", "discrete", "input", "holding")
_DIGITS: Final[dict[str, Area]] = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}
ORDERS: Final = ("ABCD", "CDAB", "BADC", "DCBA")  # those that devices have; in `orders` are all there could be
ENCODINGS: Final = ("ascii", "utf-8", "gbk", "latin-1")
LAST: Final = 65535  # the last address of every area


@dataclass(frozen=True, slots=True)
class Type:
    """A type at the source: its width in bytes, numpy's code for its big-endian form, and how batches hold it."""

    name: str
    width: int
    dtype: str
    kind: Kind


TYPES: Final = {
    each.name: each
    for each in (
        Type("bool", 0, "", Kind.BOOL),
        Type("int8", 1, "i1", Kind.FLOAT),
        Type("uint8", 1, "u1", Kind.FLOAT),
        Type("int16", 2, ">i2", Kind.FLOAT),
        Type("uint16", 2, ">u2", Kind.FLOAT),
        Type("int32", 4, ">i4", Kind.FLOAT),
        Type("uint32", 4, ">u4", Kind.FLOAT),
        Type("int64", 8, ">i8", Kind.INT),
        Type("uint64", 8, ">u8", Kind.UINT),
        Type("float16", 2, ">f2", Kind.FLOAT),
        Type("float32", 4, ">f4", Kind.FLOAT),
        Type("float64", 8, ">f8", Kind.FLOAT),
        Type("bcd16", 2, ">u2", Kind.FLOAT),
        Type("bcd32", 4, ">u4", Kind.FLOAT),
        Type("text", 0, "", Kind.TEXT),
        Type("iec-time", 8, ">u8", Kind.TEXT),
        Type("unix32", 4, ">u4", Kind.TEXT),
        Type("bcd-time", 6, "", Kind.TEXT),
    )
}

# What people write who come from a PLC, from C or from another gateway; refused with the word we use.
_MEANT: Final = {
    "float": "float32", "real": "float32", "double": "float64", "lreal": "float64", "int": "int16", "sint": "int8",
    "usint": "uint8", "uint": "uint16", "dint": "int32", "udint": "uint32", "lint": "int64", "ulint": "uint64",
    "word": "uint16", "dword": "uint32", "lword": "uint64", "short": "int16", "long": "int32", "string": "text",
    "str": "text", "char": "text", "boolean": "bool", "bcd": "bcd16", "u16": "uint16", "s16": "int16", "i16": "int16",
    "u32": "uint32", "s32": "int32", "i32": "int32", "u64": "uint64", "s64": "int64", "i64": "int64", "f16": "float16",
    "f32": "float32", "f64": "float64", "half": "float16", "byte": "uint8", "cp56time2a": "iec-time",
    "unix-time": "unix32", "utf8": "utf-8", "latin1": "latin-1", "gb2312": "gbk", "gb18030": "gbk",
    "big-endian": "ABCD", "little-endian": "DCBA", "be": "ABCD", "le": "DCBA", "word-swap": "CDAB",
    "byte-swap": "BADC", "coils": "coil", "discrete-input": "discrete", "discrete-inputs": "discrete",
    "input-register": "input", "holding-register": "holding", "inputs": "input", "registers": "holding",
    "register": "holding", "hr": "holding", "ir": "input", "di": "discrete", "co": "coil", "do": "coil",
    "big": "ABCD", "little": "DCBA",
}  # fmt: skip
_WORDS: Final = (*TYPES, "bit", "bits", "high", "low", *ENCODINGS)


@dataclass(frozen=True, slots=True)
class ModbusSource:
    """Where a tag's bytes are and what they mean. Addresses are zero-based, as on the wire.

    `count` is how many registers (bits, for coils and discrete inputs) hold it, from `address` on. `order` has one
    letter per byte of the value in order of arrival ("CDAB"); for text AB or BA. `bits` > 0 cuts that many bits out
    of the number, from `bit` up (0 is the least significant). `half` is "high" or "low" for eight-bit types and for
    text with one character per register. `absent` are bit patterns that mean "no value". `power` is the register
    whose content n scales the value by 10^n. `flags` name the bits of a flag word whose names make a text.
    """

    area: Area
    address: int
    count: int
    type: str
    order: str = ""
    bit: int = 0
    bits: int = 0
    half: str = ""
    length: int = 0  # bytes of a text
    encoding: str = ""
    padding: str = ""  # "nul" or "space": what fills a text that is written
    absent: tuple[int, ...] = ()
    power: ModbusSource | None = None
    flags: tuple[tuple[int, str], ...] = ()

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.address + self.count

    @property
    def in_bits(self) -> bool:
        """Whether the area is one of single bits."""
        return self.area in ("coil", "discrete")

    def __str__(self) -> str:
        words = [f"{self.area}:{self.address}", self.type if self.type != "bool" else ""]
        if self.type == "text":
            words += [str(self.length), self.encoding]
        default = "ABCDEFGH"[: len(self.order)]
        words += [self.order if self.order != default else "", self.half]
        if self.bits == 1:
            words.append(f"bit {self.bit}")
        elif self.bits:
            words.append(f"bits {self.bit}..{self.bit + self.bits - 1}")
        return " ".join(word for word in words if word)


@dataclass(slots=True)
class Words:
    """What an address line, or the long form's keys, say; None where nothing is said."""

    type: str | None = None
    elements: int | None = None
    order: str | None = None
    bits: tuple[int, int] | None = None  # first and last
    half: str | None = None
    length: int | None = None
    encoding: str | None = None

    def set(self, name: str, value: object, line: str) -> None:
        """Note what a word says. Raises ValueError where it was said before, and differently."""
        present = getattr(self, name)
        if present is not None and present != value:
            raise ValueError(f"{line!r} gives {name} twice: {present} and {value}")
        setattr(self, name, value)


def nearest(word: str, choices: tuple[str, ...]) -> str:
    """Give ", did you mean X?" or nothing."""
    meant = _MEANT.get(word.lower())
    if meant is not None and (meant in choices or meant.isupper()):
        return f", did you mean {meant}?"
    close = difflib.get_close_matches(word, choices, 1, 0.6) or difflib.get_close_matches(word.lower(), choices, 1, 0.6)
    return f", did you mean {close[0]}?" if close else ""


def parse(line: str) -> tuple[Area, int, Words]:
    """Read an address line: area, zero-based address, and the words after it. Raises ValueError."""
    tokens = line.split()
    if not tokens:
        raise ValueError("expected an address such as holding:100 float32 CDAB, got nothing")
    area, address = location(tokens[0])
    words = Words()
    rest = tokens[1:]
    while rest:
        rest = _word(rest, words, line)
    return area, address, words


def _word(rest: list[str], words: Words, line: str) -> list[str]:
    """Take one word (and its number) off the front of `rest`."""
    word, after = rest[0], rest[1:]
    if word in ("bit", "bits"):
        words.set("bits", bit_range(word, after[0] if after else ""), line)
        return after[1:]
    if match := re.fullmatch(r"([a-z][a-z0-9-]*)(?:\[(\d+)\])?", word):
        name, elements = match[1], match[2]
        if name in TYPES:
            words.set("type", name, line)
            if elements is not None:
                words.set("elements", int(elements), line)
            return after
        if elements is None and name in ("high", "low"):
            words.set("half", name, line)
            return after
        if elements is None and name in ENCODINGS:
            words.set("encoding", name, line)
            return after
    if re.fullmatch(r"[A-H]+", word):
        words.set("order", word, line)
        return after
    if word.isdigit():
        words.set("length", int(word), line)
        return after
    if re.fullmatch(r"[a-hA-H]{2,8}", word) and sorted(word.upper()) == list("ABCDEFGH"[: len(word)]):
        raise ValueError(f"unknown word {word!r} in {line!r}, did you mean {word.upper()}?")
    expected = (
        ", expected a type, a byte order such as CDAB, bit N, bits A..B, high, low, or a text's length and encoding"
    )
    raise ValueError(f"unknown word {word!r} in {line!r}{nearest(word.split('[')[0], _WORDS) or expected}")


def bit_range(word: str, text: str) -> tuple[int, int]:
    """Read "3" or "4..7" as first and last bit. Raises ValueError."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None or (word == "bit") == (match[2] is not None):
        example = "bit 3" if word == "bit" else "bits 4..7"
        raise ValueError(f"expected {example}, got {f'{word} {text}'.strip()!r}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"expected the lower bit first, got bits {text}: did you mean bits {last}..{first}?")
    return first, last


def location(text: str) -> tuple[Area, int]:
    """Read "holding:100", "holding:0x64", "input:2102H" or a reference such as 40101. Raises ValueError."""
    name, colon, number = text.partition(":")
    if not colon:
        return _reference(text)
    if name not in AREAS:
        raise ValueError(f"unknown area {name!r} in {text!r}{nearest(name, AREAS) or ', expected ' + ', '.join(AREAS)}")
    area: Area = name
    address = _number(number, text)
    if address > LAST:
        raise ValueError(f"{text!r} is beyond the last address, {area}:{LAST}")
    return area, address


def _number(number: str, text: str) -> int:
    if re.fullmatch(r"\d+", number):
        return int(number)
    if match := re.fullmatch(r"0[xX]([0-9A-Fa-f]+)|([0-9A-Fa-f]+)[hH]", number):
        return int(match[1] or match[2], 16)
    if re.fullmatch(r"[0-9A-Fa-f]+", number):
        raise ValueError(f"{text!r}: {number} looks hexadecimal: write 0x{number} or {number}H")
    raise ValueError(f"{text!r}: expected a number from 0 to {LAST} after the colon, decimal, 0x2102 or 2102H")


def _reference(text: str) -> tuple[Area, int]:
    """Read a reference of five or six digits: area digit, then a number from 1."""
    if not re.fullmatch(r"\d+", text):
        _refuse_bare(text)
    if len(text) not in (5, 6):
        number = int(text)
        raise ValueError(
            f"{text!r} could mean holding:{number} (zero-based) or holding:{max(number - 1, 0)} (counted from 1),"
            f" or an input or a coil: write the area, as in holding:{number}"
        )
    area = _DIGITS.get(text[0])
    number = int(text[1:])
    if area is None:
        raise ValueError(f"{text!r}: a reference begins with 0 (coil), 1 (discrete), 3 (input) or 4 (holding)")
    if number == 0:
        raise ValueError(
            f"{text!r} could mean {area}:0 (references count from 1: {text[:-1]}1) or {area}:{int(text)}"
            " (zero-based, as SunSpec writes its base): write the one that is meant"
        )
    if number > LAST + 1:
        raise ValueError(f"{text!r} is beyond the last reference, {text[0]}{LAST + 1}")
    return area, number - 1


def _refuse_bare(text: str) -> NoReturn:
    if match := re.fullmatch(r"0[xX]([0-9A-Fa-f]+)|([0-9A-Fa-f]+)[hH]", text):
        number = match[1] or match[2]
        raise ValueError(
            f"{text!r} could mean holding:0x{number} or input:0x{number}: a hexadecimal address needs its area"
        )
    if match := re.fullmatch(r"%?MW(\d+)", text, re.IGNORECASE):
        raise ValueError(f"{text!r}: write holding:{match[1]}")
    match = re.fullmatch(r"([A-Za-z-]+)[.#=/]?(\d+)", text)
    if match and (guess := nearest(match[1], AREAS)):
        raise ValueError(f"{text!r} is no address{guess.rstrip('?')}:{match[2]}?")
    raise ValueError(f"{text!r} is no address: expected AREA:NUMBER such as holding:100, or a reference such as 40101")


def orders(width: int) -> tuple[str, ...]:
    """Give the byte orders of a value of `width` bytes: swapped, or not, at each level of halves."""
    letters = "ABCDEFGH"[:width]
    if width == 6:
        return (letters, "EFCDAB", "BADCFE", "FEDCBA")
    found = []
    for swaps in product((False, True), repeat=width.bit_length() - 1):
        text = letters
        for level, swap in enumerate(swaps):
            size = 2 << level  # swap the halves of every group of this many bytes
            if swap:
                groups = [text[at : at + size] for at in range(0, width, size)]
                text = "".join(group[size // 2 :] + group[: size // 2] for group in groups)
        found.append(text)
    return tuple(found)


def full_order(order: str, width: int) -> str:
    """Give the order with one letter per byte: CDAB of eight bytes is GHEFCDAB. Raises ValueError."""
    if width == 1:
        return ""
    letters = "ABCDEFGH"[:width]
    short = {
        "AB": letters,
        "BA": "".join(letters[at + 1] + letters[at] for at in range(0, width, 2)),
        "ABCD": letters,
        "CDAB": "".join(letters[at : at + 2] for at in range(width - 2, -1, -2)),
        "BADC": "".join(letters[at + 1] + letters[at] for at in range(0, width, 2)),
        "DCBA": letters[::-1],
    }
    if len(order) == 4 and width != 4 and order in short:
        return short[order]
    if order in orders(width):
        return order
    known = " ".join(sorted(orders(width)))
    raise ValueError(f"{order!r} is no byte order of {width * 8} bits, expected one of {known}")


def in_order(data: bytes, order: str) -> bytes:
    """Put bytes that came in this order, with one letter per byte, into that of ABCD."""
    return bytes(data[order.index(letter)] for letter in sorted(order))
