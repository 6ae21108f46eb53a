"""Which column of a register list is what: headings in Chinese and English, and a mapping file for odd ones.

The row of headings is the one, among the first fifty, in which the most are known; it must have an address and one
more. Headings may take two rows. Blanks, case, full-width forms and what stands in brackets do not matter, but "(hex)"
behind an address is noticed. The keys of YAML themselves are headings too: that is what `export` writes.

    # mapping.yaml: what this list calls things
    columns: {name: 参数, address: B, type: Data Format}      # our word: its heading, or its column's letters
    header: 3                          # the row of the headings, where it is not found by itself
    types: {F: float32, "2": uint16}   # this list's words for types and byte orders
    orders: {X: CDAB}
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from gateway.config.files import Files
from gateway.config.messages import Piece, check
from gateway.config.site import open_root
from gateway.errors import ConfigError
from gateway.lists.entries import ListError
from gateway.lists.sheets import Sheet, letters
from gateway.options import Options

HEADINGS: Final[dict[str, str]] = {
    "name": (
        "name tag tagname pointname parameter parameters parametername variable variablename signal item "
        "channel symbol designation measurement measuredvalue registername content 名称 参数 参数名称 参数名 "
        "变量 变量名 变量名称 信号 信号名称 测点 测点名称 点名 点位 点位名称 数据项 数据名称 项目 内容 "
        "寄存器名称 标签 标签名 数据内容 参量"
    ),
    "description": (
        "description comment comments remark remarks note notes explanation meaning details 描述 说明 "
        "备注 注释 参数说明 含义 定义 功能说明 数据说明"
    ),
    "address": (
        "address addr register registers registeraddress registernumber registerno regaddr reg "
        "modbusaddress modbusregister dataaddress startaddress startingaddress startregister plcaddress "
        "pointaddress nodeid node location registerstart modbusaddr addressregister protocoladdress 地址 寄存器 "
        "寄存器地址 起始地址 数据地址 寄存器号 寄存器起始地址 modbus地址 plc地址 参数地址 点位地址 变量地址 "
        "寄存器编号 协议地址 偏移地址 节点 节点地址 通信地址"
    ),
    "function": (
        "function functioncode fc fcn func code fun modbusfunction 功能码 功能 功能代码 读功能码 命令码 modbus功能码"
    ),
    "area": (
        "area registertype objecttype table memoryarea datatable registerarea 寄存器类型 区域 数据区 存储区 "
        "寄存器区 地址类型 寄存器种类"
    ),
    "type": (
        "type datatype dataformat format vartype valuetype representation 类型 数据类型 数据格式 格式 变量类型 值类型"
    ),
    "order": (
        "order byteorder wordorder endian endianness byteswap swap 字节序 字节顺序 字序 字节次序 高低位 "
        "存储顺序 大小端 解析顺序 字节顺序abcd"
    ),
    "count": "length len count size quantity qty words numberofregisters noofregisters registercount regs datalength "
    "wordcount 长度 数量 寄存器数 寄存器数量 寄存器个数 个数 字数 数据长度 寄存器长度",
    "bytes": "bytes numberofbytes bytecount 字节数 字节长度",
    "width": "bits numberofbits bitlength 位数 位长",
    "bit": "bit bitno bitnumber bitposition 位 位号 位序号 比特位",
    "scale": (
        "scale scaling scalefactor factor multiplier gain resolution ratio coefficient mult lsb 倍率 系数 "
        "比例 比例系数 缩放 缩放系数 倍数 乘数 分辨率 精度 变比 换算 换算系数 换算关系 计算公式"
    ),
    "divisor": "divisor divide divider dividedby 除数",
    "decimals": "decimals decimalplaces decimalpoint 小数位 小数位数 小数点",
    "offset": "offset valueoffset bias 偏移 偏移量 偏置",
    "unit": "unit units engunits engineeringunit engineeringunits uom eu 单位 工程单位 量纲",
    "min": "min minimum low lowerlimit rangemin 最小值 下限 最小 量程下限",
    "max": "max maximum high upperlimit rangemax 最大值 上限 最大 量程上限",
    "range": "range valuerange span 范围 量程 取值范围 数值范围 测量范围",
    "access": (
        "access rw r/w readwrite read/write rights attribute clientaccess permission mode 读写 读/写 权限 "
        "读写属性 属性 读写权限 操作 访问 读写方式 读写类型"
    ),
    "states": "states enum enumeration values valuelist 枚举 取值 状态 取值说明 枚举值 状态说明",
    "deadband": "deadband threshold 死区 变化阈值",
    "group": "group pollgroup scangroup 组 分组 采集组 组名",
    "interval": "interval scanrate pollinterval cycle period 周期 采集周期 轮询周期 采集间隔 扫描周期",
    "device": "device devicename equipment 设备 设备名称 设备名",
    "unit_id": (
        "unitid slave slaveid slaveaddress station stationnumber deviceid modbusid 站号 从站 从站号 "
        "从站地址 设备地址 设备号 从机 从机地址 通讯站号 通讯地址"
    ),
}
"""Our word, and what lists call it, most common first; written without blanks."""

OWN: Final = (
    "name", "group", "interval", "address", "type", "order", "bit", "bit_range", "half", "text_length", "encoding",
    "padding", "absent", "scale_power", "flags", "select", "unit", "description", "scale", "offset", "min", "max",
    "out_of_range", "deadband", "max_silence", "not_available", "states", "writable", "simulate",
)  # fmt: skip
"""The headings that `export` writes: the keys of YAML, but for those in RENAMED."""

RENAMED: Final = {"text_length": "length", "bit_range": "bits"}
"""Headings and their keys in YAML: what other lists call length and bits is a number of registers and of bits."""

DEEPEST: Final = 50
"""Rows in which headings are looked for."""

_CATALOGUE: Final = {word: key for key, words in reversed(HEADINGS.items()) for word in words.split()}
_IN_BRACKETS: Final = re.compile(r"\([^)]*\)|\[[^\]]*\]|<[^>]*>")


class Vocabulary(Options):
    """What one list calls things."""

    columns: dict[str, str | int] = Field(default_factory=dict)
    """Our word, and the heading of its column, or the column's letters or number."""
    header: int | None = Field(default=None, ge=1)
    """The row of the headings."""
    types: dict[str, str] = Field(default_factory=dict)
    """This list's words for types, and ours."""
    orders: dict[str, str] = Field(default_factory=dict)
    """This list's words for byte orders, and ours."""


@dataclass(frozen=True, slots=True)
class Header:
    """Where the headings are, and which column each key has. Rows from `below` on are data."""

    row: int
    below: int
    columns: Mapping[str, int]
    hexadecimal: bool = False  # the address's heading says so
    unknown: tuple[str, ...] = ()


def load_mapping(path: Path | None) -> Vocabulary:
    """Read a mapping file. Raises ConfigError with every problem."""
    if path is None:
        return Vocabulary()
    files = Files(path.parent)
    tree = open_root(path, files, "a mapping file has the keys columns, header, types and orders")
    mapping, _ = check(Vocabulary, Piece(tree, (), tree.mark), files)
    if mapping is not None:
        for key in mapping.columns:
            if key not in HEADINGS and key not in OWN:
                hint = f"words: {', '.join(dict.fromkeys([*HEADINGS, *OWN]))}"
                files.report(tree["columns"].key_at(key), ("columns", key), f"there is no column {key}", hint)
    problems = files.found()
    if mapping is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return mapping


def plain(text: str) -> str:
    """Give a heading without what does not matter in it."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"[\s_\-.:*#、。]+", "", text)


def key_of(heading: str) -> str:
    """Say what a column is by its heading; empty where that is not known."""
    for text in (plain(heading), plain(_IN_BRACKETS.sub("", unicodedata.normalize("NFKC", heading)))):
        own = next((key for key in OWN if plain(key) == text), "")
        if own:
            return RENAMED.get(own, own)
        if text in _CATALOGUE:
            return _CATALOGUE[text]
    # 参数名称/Parameter name: either half
    halves = re.split(r"[/\n|]", unicodedata.normalize("NFKC", heading))
    found = [_CATALOGUE[plain(half)] for half in halves if plain(half) in _CATALOGUE]
    return found[0] if found and len(set(found)) == 1 else ""


def find_header(sheet: Sheet, mapping: Vocabulary) -> Header | None:
    """Find the headings of a sheet; None where it has none. Raises ListError for a mapping that does not fit it."""
    if mapping.header is not None:
        rows = [index for index, number in enumerate(sheet.numbers) if number == mapping.header]
        if not rows:
            raise ListError(
                f"{sheet.file} has no row {mapping.header}, which the mapping names as that of the headings"
            )
        return _all_named(_header(sheet, rows[0], 1, mapping), sheet, mapping)
    best: Header | None = None
    for row in range(min(DEEPEST, len(sheet.rows))):
        for height in (1, 2):
            if row + height <= len(sheet.rows) and len(set(sheet.rows[row]) - {""}) >= 2:
                found = _header(sheet, row, height, mapping)
                better = best is None or len(found.columns) > len(best.columns) + (height - 1)
                if "address" in found.columns and len(found.columns) >= 2 and better:
                    best = found
    return None if best is None else _all_named(best, sheet, mapping)


def _all_named(header: Header, sheet: Sheet, mapping: Vocabulary) -> Header:
    for key, wanted in mapping.columns.items():
        if RENAMED.get(key, key) not in header.columns:
            row = sheet.numbers[header.row]
            raise ListError(f"{sheet.file} has no column {str(wanted)!r} in its row of headings, which is row {row}")
    return header


def known_headings(sheet: Sheet) -> int:
    """Count the headings that are known in the best row: how well a text was split into columns."""
    header = find_header(sheet, Vocabulary())
    columns = len(header.columns) if header else 0
    return columns * 1000 + min(max(map(len, sheet.rows), default=0), 999)


def _header(sheet: Sheet, row: int, height: int, mapping: Vocabulary) -> Header:
    headings = [_joined(parts) for parts in zip(*sheet.rows[row : row + height], strict=True)]
    columns: dict[str, int] = {}
    unknown = []
    for key, wanted in mapping.columns.items():
        named = _named(wanted, headings)
        if named is not None:
            columns[RENAMED.get(key, key)] = named
    for column, heading in enumerate(headings):
        key = key_of(heading)
        if key == "description" and key in columns and "name" not in columns:
            key = ""
        if key and key not in columns and column not in columns.values():
            columns[key] = column
        elif heading and column not in columns.values():
            unknown.append(heading)
    at = columns.get("address")
    text = plain(headings[at]) if at is not None else ""
    hexadecimal = bool(re.search(r"hex|十六进制|16进制", text)) and not re.search(
        r"dec|十进制\b", text.replace("hexadec", "")
    )
    return Header(row, row + height, columns, hexadecimal, tuple(dict.fromkeys(unknown)))


def _joined(parts: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(part for part in parts if part))


def _named(wanted: str | int, headings: Sequence[str]) -> int | None:
    """Find the column that a mapping names: by heading, letters or number."""
    text = str(wanted)
    for column, heading in enumerate(headings):
        if plain(heading) == plain(text):
            return column
    for column in range(len(headings)):
        if text.upper() == letters(column) or text == str(column + 1):
            return column
    return None
