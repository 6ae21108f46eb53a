"""From values to what a write sends: the registers or bits of one tag. The counterpart of decode, used by writes only.

Raises ValueError with a sentence for the operator where a value cannot be held.
"""

from __future__ import annotations

import math
import struct
from datetime import datetime
from typing import Final

from drivers.modbus.address import TYPES, ModbusSource

Value = float | int | bool | str
_STRUCT: Final = {"float16": ">e", "float32": ">f", "float64": ">d"}


def encode(source: ModbusSource, value: Value) -> bytes:
    """Give the bytes of a register tag's value in order of transmission (whole registers but for int8 and bits)."""
    if source.type == "text":
        return _text(source, value)
    if source.type in ("iec-time", "unix32", "bcd-time"):
        data = _time(source.type, value)
    elif source.type in _STRUCT:
        data = _float(source.type, value)
    else:
        number = whole(source, value)
        width = TYPES[source.type].width
        if source.type.startswith("bcd"):
            number = int(str(number), 16)
        data = number.to_bytes(width, "big", signed=number < 0)
    if not source.order:
        return data
    letters = "ABCDEFGH"[: len(source.order)]
    return bytes(data[letters.index(letter)] for letter in source.order)


def whole(source: ModbusSource, value: Value) -> int:
    """Give an integer value that the tag can hold. Raises ValueError."""
    if isinstance(value, str):
        raise ValueError(f"expected a number, got {value!r}")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"expected a whole number, got {value:g}")
    number = int(value)
    low, high = integer_range(source)
    if not low <= number <= high:
        raise ValueError(f"{number} does not fit into {source}: it holds {low} to {high}")
    return number


def integer_range(source: ModbusSource) -> tuple[int, int]:
    """Give the smallest and the largest raw number a tag can hold."""
    if source.in_bits:
        return 0, 1
    if source.bits:
        return 0, (1 << source.bits) - 1
    if source.type == "bcd16":
        return 0, 9999
    if source.type == "bcd32":
        return 0, 99_999_999
    bits = TYPES[source.type].width * 8
    return (0, (1 << bits) - 1) if source.type.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _float(kind: str, value: Value) -> bytes:
    if isinstance(value, str):
        raise ValueError(f"expected a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written")
    try:
        return struct.pack(_STRUCT[kind], value)
    except (OverflowError, struct.error) as error:
        raise ValueError(f"{value:g} does not fit into {kind}") from error


def _text(source: ModbusSource, value: Value) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r}")
    try:
        data = value.encode(source.encoding)
    except UnicodeEncodeError as error:
        raise ValueError(f"{value!r} cannot be written in {source.encoding}") from error
    if len(data) > source.length:
        raise ValueError(f"{value!r} has {len(data)} bytes, the tag holds {source.length}")
    data = data.ljust(source.length, b" " if source.padding == "space" else b"\0")
    if source.half:
        return b"".join(bytes((byte, 0)) if source.half == "high" else bytes((0, byte)) for byte in data)
    data = data.ljust(source.count * 2, b" " if source.padding == "space" else b"\0")
    if source.order == "BA":
        data = b"".join(data[at : at + 2][::-1] for at in range(0, len(data), 2))
    return data


def _time(kind: str, value: Value) -> bytes:
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ValueError(f"expected a time such as 2026-11-22T01:12:18, got {value!r}") from error
    if kind == "unix32":
        if instant.tzinfo is None:
            raise ValueError(f"expected a time with its zone, such as 2026-11-22T01:12:18Z, got {value!r}")
        seconds = int(instant.timestamp())
        if not 0 <= seconds < 1 << 32:
            raise ValueError(f"{value} does not fit into unix32")
        return seconds.to_bytes(4, "big")
    if not 2000 <= instant.year <= 2099:
        raise ValueError(f"{value} is not in the years 2000 to 2099 that {kind} holds")
    fields = (instant.year - 2000, instant.month, instant.day, instant.hour, instant.minute, instant.second)
    if kind == "bcd-time":
        return bytes(int(str(field), 16) for field in fields)
    milliseconds = instant.second * 1000 + instant.microsecond // 1000
    day = instant.isoweekday() << 5 | instant.day
    return bytes((0, fields[0], fields[1], day, fields[3], fields[4])) + milliseconds.to_bytes(2, "big")
