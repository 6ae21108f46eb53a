"""From a scan's buffer to values: one gather of bytes and one view per type and table, no number per register.

A byte order is a permutation, folded into the gather's indexes when the plan is made. What numpy has no view for (BCD,
bits, times, text) starts from the same gathered bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from drivers.modbus.address import TYPES, ModbusSource
from gateway import quality as q
from gateway.model import Kind, TagTable

Bytes = NDArray[np.uint8]
UNSIGNED: Final = {1: "u1", 2: ">u2", 4: ">u4", 8: ">u8"}
LARGEST_POWER: Final = 22  # 10^22 is the last power of ten that float64 holds exactly
_POWERS: Final = np.array([10.0**n for n in range(LARGEST_POWER + 1)])


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Rows of a table that decode alike. `rows` is None where they are all rows of the table, in order."""

    rows: NDArray[np.intp] | None
    gather: NDArray[np.intp]  # one line of byte positions per row, most significant byte first
    straight: slice | None  # the same as a slice of the buffer, where the bytes lie in order
    dtype: np.dtype[Any]
    number: Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[np.bool_] | None]] | None
    absent: NDArray[Any] | None  # patterns that mean no value, one line per row, padded by repetition

    def read(self, buffer: Bytes) -> tuple[NDArray[Any], NDArray[np.uint32] | None]:
        """Give the values of these rows and, where not all are Good, their qualities."""
        data = buffer[self.straight] if self.straight is not None else buffer[self.gather].reshape(-1)
        raw = data.view(self.dtype)
        quality: NDArray[np.uint32] | None = None
        values: NDArray[Any] = raw
        if self.number is not None:
            values, wrong = self.number(raw)
            if wrong is not None and wrong.any():
                quality = np.where(wrong, np.uint32(q.BAD_DECODING_ERROR), np.uint32(q.GOOD)).astype(np.uint32)
        if self.absent is not None:
            pattern = data.view(UNSIGNED[self.dtype.itemsize])
            none = (pattern[:, None] == self.absent).any(axis=1)
            if none.any():
                quality = np.zeros(len(values), np.uint32) if quality is None else quality
                quality[none] = q.BAD_NO_DATA
        return values, quality


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Rows whose values are made one by one: text, times, flag words."""

    rows: NDArray[np.intp]
    gather: tuple[NDArray[np.intp], ...]
    make: tuple[Callable[[bytes], str | None], ...]
    absent: tuple[tuple[int, ...], ...]

    def read(self, buffer: Bytes) -> tuple[list[str], NDArray[np.uint32]]:
        """Give texts and qualities; a text that cannot be decoded is Bad."""
        values = []
        quality = np.zeros(len(self.rows), np.uint32)
        for row, (gather, make, absent) in enumerate(zip(self.gather, self.make, self.absent, strict=True)):
            data = buffer[gather].tobytes()
            value = make(data)
            if absent and int.from_bytes(data, "big") in absent:
                value, quality[row] = None, q.BAD_NO_DATA
            elif value is None:
                quality[row] = q.BAD_DECODING_ERROR
            values.append(value or "")
        return values, quality


@dataclass(frozen=True, slots=True, eq=False)
class Powers:
    """Rows whose value is scaled by 10^n, n from another register."""

    rows: NDArray[np.intp]
    gather: NDArray[np.intp]

    def apply(self, buffer: Bytes, values: NDArray[Any], quality: NDArray[np.uint32]) -> None:
        """Scale in place; a power that is absent (-32768) or absurd makes the row Bad."""
        powers = buffer[self.gather].reshape(-1).view(">i2").astype(np.intp)
        known = np.abs(powers) <= LARGEST_POWER
        factor = _POWERS[np.where(known, np.abs(powers), 0)]
        raw = values[self.rows]
        values[self.rows] = np.where(powers < 0, raw / factor, raw * factor)
        quality[self.rows[~known]] = np.where(powers[~known] == -32768, q.BAD_NO_DATA, q.BAD_DECODING_ERROR)


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Decodes one table."""

    table: TagTable
    columns: tuple[Columns, ...]
    objects: Objects | None
    powers: Powers | None

    def decode(self, buffer: Bytes) -> tuple[NDArray[Any], NDArray[np.uint32] | None]:
        """Give the table's values, and its qualities where not all are Good."""
        table = self.table
        size, dtype = len(table), table.kind.dtype
        if len(self.columns) == 1 and self.columns[0].rows is None and self.powers is None:
            values, quality = self.columns[0].read(buffer)
            return values.astype(dtype), quality
        values = np.empty(size, dtype)
        quality = np.zeros(size, np.uint32)
        for columns in self.columns:
            rows = slice(None) if columns.rows is None else columns.rows
            part, state = columns.read(buffer)
            values[rows] = part
            if state is not None:
                quality[rows] = state
        if self.objects is not None:
            texts, state = self.objects.read(buffer)
            values[self.objects.rows] = texts
            quality[self.objects.rows] = state
        if self.powers is not None:
            self.powers.apply(buffer, values, quality)
        return values, quality if quality.any() else None


def make_decoder(table: TagTable, sources: Sequence[ModbusSource], place: Callable[[ModbusSource], int]) -> Decoder:
    """Compile a table with its tags' sources; `place` gives where in the buffer a source's first byte is."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    texts: list[int] = []
    for row, source in enumerate(sources):
        if table.kind is Kind.TEXT:
            texts.append(row)
        else:
            alike.setdefault((source.type, source.bit, source.bits, bool(source.absent)), []).append(row)
    columns = tuple(_columns(rows, sources, place) for rows in alike.values())
    objects = None
    if texts:
        gathers = tuple(np.array(positions(sources[row], place(sources[row])), np.intp) for row in texts)
        makers = tuple(text_maker(sources[row]) for row in texts)
        objects = Objects(np.array(texts, np.intp), gathers, makers, tuple(sources[row].absent for row in texts))
    scaled = {row: source.power for row, source in enumerate(sources) if source.power is not None}
    powers = None
    if scaled:
        gather = [positions(power, place(power)) for power in scaled.values()]
        powers = Powers(np.array(list(scaled), np.intp), np.array(gather, np.intp))
    return Decoder(table, columns, objects, powers)


def _columns(rows: list[int], sources: Sequence[ModbusSource], place: Callable[[ModbusSource], int]) -> Columns:
    first = sources[rows[0]]
    patterns: dict[tuple[str, str], int] = {}  # a few byte orders and halves serve all rows
    which = [patterns.setdefault((sources[row].order, sources[row].half), len(patterns)) for row in rows]
    orders = [positions(replace(first, order=order, half=half), 0) for order, half in patterns]
    places = np.array([place(sources[row]) for row in rows], np.intp)
    gather = places[:, None] + np.array(orders, np.intp)[which]
    flat = gather.reshape(-1)
    straight = slice(int(flat[0]), int(flat[-1]) + 1) if (np.diff(flat) == 1).all() else None
    absent = None
    if first.absent:
        most = max(len(sources[row].absent) for row in rows)
        padded = [(sources[row].absent * most)[:most] for row in rows]
        absent = np.array(padded, np.uint64).astype(UNSIGNED[gather.shape[1]])
    return Columns(
        None if rows == list(range(len(sources))) else np.array(rows, np.intp),
        gather,
        straight,
        np.dtype(TYPES[first.type].dtype or "u1"),
        number_maker(first),
        absent,
    )


def positions(source: ModbusSource, place: int) -> list[int]:
    """Give the buffer positions of a source's bytes, most significant first (text: first character first)."""
    if source.in_bits:
        return [place]
    if source.type == "text":
        if source.half:
            return [place + 2 * index + (source.half == "low") for index in range(source.length)]
        swap = source.order == "BA"
        return [place + (index ^ 1 if swap else index) for index in range(source.length)]
    if source.type in ("int8", "uint8"):
        return [place + (source.half == "low")]
    return [place + source.order.index(letter) for letter in "ABCDEFGH"[: len(source.order)]]


Number = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[np.bool_] | None]]


def number_maker(source: ModbusSource) -> Number | None:
    """Give what turns the viewed numbers into values, and marks those that are none; None where they are values."""
    if source.type == "bool":
        return lambda raw: (raw != 0, None)
    if source.type in ("bcd16", "bcd32"):
        return lambda raw: bcd(raw, 4 if source.type == "bcd16" else 8)
    if source.bits == 1:
        return lambda raw: ((raw >> source.bit) & 1 != 0, None)
    if source.bits:
        return lambda raw: ((raw >> source.bit) & ((1 << source.bits) - 1), None)
    return None


def bcd(raw: NDArray[Any], digits: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Decode binary coded decimals; mark those with a digit above nine."""
    left = raw.astype(np.uint64)
    value = np.zeros(len(raw))
    wrong = np.zeros(len(raw), np.bool_)
    for digit in range(digits):
        nibble = (left >> np.uint64(4 * digit)) & np.uint64(15)
        wrong |= nibble > 9
        value += nibble * 10.0**digit
    return value, wrong


def text_maker(source: ModbusSource) -> Callable[[bytes], str | None]:
    """Give what turns a text tag's bytes into text; None for bytes that are none."""
    if source.flags:
        return lambda data: flag_text(source, data)
    if source.type == "text":
        return lambda data: text(data, source.encoding)
    return {"iec-time": iec_time, "unix32": unix_time, "bcd-time": bcd_time}[source.type]


def text(data: bytes, encoding: str) -> str | None:
    """Decode text up to the first NUL, without the blanks behind it."""
    try:
        return data.split(b"\0", 1)[0].decode(encoding).rstrip(" ")
    except UnicodeDecodeError:
        return None


def flag_text(source: ModbusSource, data: bytes) -> str | None:
    """Name the bits that are set; a bit without a name is shown by its number."""
    word = int.from_bytes(data, "big")
    if source.bits:
        word = (word >> source.bit) & ((1 << source.bits) - 1)
    names = dict(source.flags)
    return ", ".join(names.get(bit, f"bit {bit}") for bit in range(word.bit_length()) if word >> bit & 1)


def iec_time(data: bytes) -> str | None:
    """Decode a time of IEC 60870-5-4 (CP56Time2a, most significant byte first: 0, year, ..., milliseconds).

    The clock's own time, whatever zone it keeps; None where the device marks it invalid.
    """
    year, month, day, hour, minute = data[1] & 0x7F, data[2] & 0x0F, data[3] & 0x1F, data[4] & 0x1F, data[5] & 0x3F
    milliseconds = int.from_bytes(data[6:8], "big")
    if data[5] & 0x80:
        return None
    return _instant(2000 + year, month, day, hour, minute, milliseconds // 1000, milliseconds % 1000)


def bcd_time(data: bytes) -> str | None:
    """Decode six BCD bytes: year, month, day, hour, minute, second."""
    if any(byte >> 4 > 9 or byte & 15 > 9 for byte in data):
        return None
    year, month, day, hour, minute, second = ((byte >> 4) * 10 + (byte & 15) for byte in data)
    return _instant(2000 + year, month, day, hour, minute, second)


def unix_time(data: bytes) -> str | None:
    """Decode seconds since 1970, UTC."""
    instant = datetime.fromtimestamp(int.from_bytes(data, "big"), UTC)
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def _instant(year: int, month: int, day: int, hour: int, minute: int, second: int, ms: int | None = None) -> str | None:
    try:
        instant = datetime(year, month, day, hour, minute, second, (ms or 0) * 1000)
    except ValueError:
        return None
    return instant.isoformat(timespec="seconds" if ms is None else "milliseconds")
