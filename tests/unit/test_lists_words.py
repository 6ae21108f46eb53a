"""How lists write addresses, types, orders and factors, one spelling a line."""

from __future__ import annotations

import pytest

from gateway.lists import words
from gateway.lists.addresses import area_of_function, survey
from gateway.lists.headings import key_of
from gateway.lists.sheets import decode


@pytest.mark.parametrize(
    ("cell", "area", "line"),
    [
        ("40001", "", "holding:0"),
        ("400001", "", "holding:0"),
        ("465536", "", "holding:65535"),
        ("4x0001", "", "holding:0"),
        ("3X12", "", "input:11"),
        ("00001", "", "coil:0"),
        ("10003", "", "discrete:2"),
        ("100", "input", "input:100"),
        ("0x0064", "holding", "holding:0x0064"),
        ("64H", "input", "input:0x0064"),
        ("&H64", "input", "input:0x0064"),
        ("HR100", "", "holding:100"),
        ("IR 5", "", "input:5"),
        ("保持寄存器100", "", "holding:100"),
        ("%MW100", "", "holding:100"),
        ("４０００１", "", "holding:0"),
    ],
)
def test_an_address_is_read_in_every_spelling(cell: str, area: str, line: str) -> None:
    notation = survey([(cell, area)], base=None, area="", hexadecimal=False)
    assert notation.read(cell, area).line == line


@pytest.mark.parametrize(
    ("cell", "line", "bits", "count"),
    [
        ("40010.3", "holding:9", (3, 3), 0),
        ("40010/12", "holding:9", (12, 12), 0),
        ("40010 bit 3", "holding:9", (3, 3), 0),
        ("40010.4..7", "holding:9", (4, 7), 0),
        ("40001-40002", "holding:0", None, 2),
        ("40001~40004", "holding:0", None, 4),
        ("40001/40002", "holding:0", None, 2),
    ],
)
def test_bits_and_ranges_are_told_apart(cell: str, line: str, bits: tuple[int, int] | None, count: int) -> None:
    read = survey([(cell, "")], base=None, area="", hexadecimal=False).read(cell)
    assert (read.line, read.bits, read.count) == (line, bits, count)


def test_the_base_moves_plain_numbers_and_is_named_where_it_is_a_guess() -> None:
    """Off by one is the commonest mistake with register lists: it must be decided by somebody, not by luck."""
    cells = [("100", "holding"), ("102", "holding")]
    guessed = survey(cells, base=None, area="", hexadecimal=False)
    assert guessed.read("100", "holding").line == "holding:100"
    assert "--base 1" in guessed.notes[0]
    said = survey(cells, base="1", area="", hexadecimal=False)
    assert (said.read("100", "holding").line, said.notes) == ("holding:99", [])
    proven = survey([("0", "holding"), *cells], base=None, area="", hexadecimal=False)
    assert proven.notes == []


def test_an_address_before_the_first_one_is_refused() -> None:
    with pytest.raises(ValueError, match="is not between 0 and 65535"):
        survey([("0", "holding")], base="1", area="", hexadecimal=False).read("0", "holding")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("3", "holding"), ("03H", "holding"), ("0x04", "input"), ("FC02", "discrete"), ("03/06/16", "holding"),
     ("03 06 10", "holding"), ("1,5,15", "coil"), ("读保持寄存器", "holding"), ("Read Input Registers", "input")],
)  # fmt: skip
def test_a_function_code_names_its_area(cell: str, expected: str) -> None:
    assert area_of_function(cell) == (expected, False)


def test_a_function_that_only_writes_is_known() -> None:
    assert area_of_function("10H") == ("holding", True)
    assert area_of_function("06") == ("holding", True)


@pytest.mark.parametrize(
    ("cell", "width", "name", "order"),
    [
        ("FLOAT32", None, "float32", ""), ("REAL", None, "float32", ""), ("浮点", None, "float32", ""),
        ("单精度浮点数", None, "float32", ""), ("32位浮点", None, "float32", ""), ("LREAL", None, "float64", ""),
        ("DWORD", None, "uint32", ""), ("UINT", None, "uint16", ""), ("ULONG", None, "uint32", ""),
        ("INT16U", None, "uint16", ""), ("无符号32位", None, "uint32", ""), ("16位无符号整数", None, "uint16", ""),
        ("signed 16 bit", None, "int16", ""), ("INT", 4, "int32", ""), ("无符号整型", 4, "uint32", ""),
        ("float", 8, "float64", ""), ("BCD", None, "bcd16", ""), ("BCD", 4, "bcd32", ""),
        ("float32 CDAB", None, "float32", "CDAB"), ("UINT32(CD AB)", None, "uint32", "CDAB"),
        ("Float (3412)", None, "float32", "CDAB"), ("HEX", None, "uint16", ""), ("布尔", None, "bool", ""),
    ],
)  # fmt: skip
def test_a_type_is_read_in_every_spelling(cell: str, width: int | None, name: str, order: str) -> None:
    typed = words.type_of(cell, width)
    assert (typed.name, typed.order) == (name, order)


def test_a_text_has_its_length_from_its_cell_or_from_the_column() -> None:
    assert words.type_of("String[20]", None) == words.Typed("text", "", 20)
    assert words.type_of("ASCII", 16) == words.Typed("text", "", 16)
    with pytest.raises(ValueError, match="needs its length"):
        words.type_of("string", None)


@pytest.mark.parametrize(
    ("cell", "order"),
    [("ABCD", "ABCD"), ("CD AB", "CDAB"), ("3412", "CDAB"), ("2-1-4-3", "BADC"), ("1032", "BADC"),
     ("Little endian byte swap", "CDAB"), ("big-endian", "ABCD"), ("小端", "DCBA"), ("低字在前", "CDAB"),
     ("大端(ABCD)", "ABCD"), ("word swap", "CDAB"), ("GHEFCDAB", "GHEFCDAB")],
)  # fmt: skip
def test_a_byte_order_is_read_in_every_spelling(cell: str, order: str) -> None:
    assert words.order_of(cell) == order


def test_a_byte_order_that_means_two_things_is_refused_with_both() -> None:
    with pytest.raises(ValueError, match="could be CDAB or DCBA"):
        words.order_of("低位在前")


@pytest.mark.parametrize(
    ("order", "type_", "written"),
    [("CDAB", "uint16", ""), ("BADC", "uint16", "BA"), ("DCBA", "int16", "BA"), ("CDAB", "float32", "CDAB"),
     ("CDAB", "int64", "CDAB"), ("ABCD", "float32", ""), ("CDAB", "int8", ""), ("BADC", "text", "BA")],
)  # fmt: skip
def test_an_order_is_written_as_the_width_wants_it(order: str, type_: str, written: str) -> None:
    """A list says CDAB in every row; for one register only the order of its two bytes means anything."""
    assert words.order_for(order, type_) == written


@pytest.mark.parametrize(
    ("cell", "scale", "offset"),
    [("0.1", 0.1, 0), ("×10", 10, 0), ("x10", 10, 0), ("/10", 0.1, 0), ("1/10", 0.1, 0), ("10^-1", 0.1, 0),
     ("1e-3", 0.001, 0), ("0.01 kWh", 0.01, 0), ("x*0.1-40", 0.1, -40), ("÷3", "1/3", 0), ("2/3", "2/3", 0),
     ("U=I*0.1", 0.1, 0), ("10^(-2)", 0.01, 0)],
)  # fmt: skip
def test_a_factor_is_read_exactly(cell: str, scale: object, offset: float) -> None:
    assert words.factor(cell) == (scale, offset)


@pytest.mark.parametrize("cell", ["abc", "0", "see note", "1/0"])
def test_what_is_no_factor_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="factor"):
        words.factor(cell)


def test_a_comma_is_decimal_where_the_separator_is_a_semicolon() -> None:
    assert words.number("0,1", comma=True) == 0.1
    assert words.number("1,000") == 1000
    assert words.number("1,000", comma=True) == 1
    assert words.number("1.234,5", comma=True) == 1234.5


@pytest.mark.parametrize(
    ("heading", "key"),
    [("地址", "address"), ("寄存器地址(十六进制)", "address"), ("Modbus Address", "address"), ("功能码", "function"),
     ("数据类型", "type"), ("字节序", "order"), ("倍率", "scale"), ("系数", "scale"),
     ("单位", "unit"), ("名称", "name"),
     ("读写", "access"), ("R/W", "access"), ("Slave ID", "unit_id"), ("备注", "description"),
     ("参数名称/Parameter", "name"),
     ("text_length", "length"), ("bit_range", "bits"), ("Bits", "width"), ("Colour", "")],
)  # fmt: skip
def test_a_heading_is_known_in_both_languages(heading: str, key: str) -> None:
    assert key_of(heading) == key


@pytest.mark.parametrize(
    ("text", "codec", "found"),
    [("名称,地址", "gb18030", "gb18030"), ("温度 °C", "utf-8", "utf-8"), ("Größe °C", "cp1252", "windows-1252"),
     ("名称", "utf-16", "utf-16"), ("a,b", "utf-16-le", "utf-16-le"), ("名称", "utf-8-sig", "utf-8")],
)  # fmt: skip
def test_the_encoding_is_found(text: str, codec: str, found: str) -> None:
    assert decode(text.encode(codec)) == (text, found)
