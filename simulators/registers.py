"""The registers and bits of a simulated Modbus link at a moment, as they go over the wire.

The encoding is the definition taken literally: bytes are cut out of a number by shifting and put where the letter of
the byte order says. It shares nothing with the gateway's decoding, so that an error on either side shows.

Each area of a unit reaches from its first to its last mapped address. Addresses in between that no tag has read as 0,
or are refused where `holes` is off; addresses outside are refused. The image is computed when it is asked for and the
tick has changed: a tick that nobody reads costs nothing. What was written stays until `release`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulators.modbus_map import Entry, Place, identity, place
from simulators.signals import Bank, floats

Pattern = NDArray[np.uint64]


@dataclass(slots=True)
class Area:
    """One area of one unit: addresses first..first+size-1, in the image from `base` on."""

    first: int
    size: int
    base: int


@dataclass(slots=True, eq=False)
class _Numbers:
    """Signals of one encoding: their rows in the bank, and the container, shift and mask of each."""

    encoding: str
    rows: NDArray[np.intp]
    container: NDArray[np.intp]
    shift: Pattern
    mask: Pattern


class Registers:
    """The image of all units of one link."""

    def __init__(self, entries: Sequence[Entry], tick: int, *, holes: bool = True) -> None:
        self.tick = tick
        self.holes = holes
        self.areas: dict[tuple[int, str], Area] = {}
        self._now = -1
        self._make_areas(entries)
        filling = [entry for entry in entries if entry.fills and entry.signal is not None]
        self.bank = Bank([entry.signal for entry in filling if entry.signal is not None])
        rows = {(entry.unit, identity(entry.source)): row for row, entry in enumerate(filling)}
        self.rows = {  # of the tags that show a signal
            (entry.device, entry.tag.name): rows[entry.unit, identity(entry.source)]
            for entry in entries
            if entry.tag is not None and entry.signal is not None
        }
        self.swapped: set[int] = set()  # units whose values arrive with their registers the other way round
        self._make_bits(filling)
        self._make_numbers(filling)
        self._make_texts(filling)
        self._played = [
            (entry, self._first(entry), entry.signal.track)
            for entry in filling
            if entry.signal is not None and entry.signal.track is not None
        ]

    def at(self, time: int) -> None:
        """Bring the image to this time (ns)."""
        if (now := time // self.tick) != self._now:
            self._now = now
            self._show(time)

    def read(self, unit: int, area: str, address: int, count: int) -> bytes | None:
        """Give registers, or bits packed, as on the wire; None where some of them are not there."""
        start = self._start(unit, area, address, count)
        if start is None:
            return None
        mapped = self._mapped_bits if area in ("coil", "discrete") else self._mapped
        if not self.holes and not mapped[start : start + count].all():
            return None
        if area in ("coil", "discrete"):
            return np.packbits(self._bits[start : start + count], bitorder="little").tobytes()
        return self._wire[2 * start : 2 * (start + count)]

    def trouble(self, unit: int, area: str, address: int, count: int) -> int:
        """Give the exception with which a recording has these registers refused now; 0 where they are answered."""
        start = self._start(unit, area, address, count)
        if start is None or not self._played:
            return 0
        troubles = self._bit_trouble if area in ("coil", "discrete") else self._trouble
        return int(troubles[start : start + count].max(initial=0))

    def write(self, unit: int, area: str, address: int, content: bytes | Sequence[bool]) -> bool:
        """Put registers (bytes) or bits in the place of signals. False where some of them are not there."""
        count = len(content) // 2 if isinstance(content, bytes) else len(content)
        start = self._start(unit, area, address, count)
        if start is None:
            return False
        if isinstance(content, bytes):
            self._forced[2 * start : 2 * (start + count)] = np.frombuffer(content, np.uint8)
        else:
            self._forced_bits[start : start + count] = content
        self._force()
        return True

    def release(self) -> None:
        """Let the signals show again where something was written."""
        self._forced[:] = -1
        self._forced_bits[:] = -1
        self.look_again()

    def look_again(self) -> None:
        """Make the image anew when it is next asked for, also within the same tick."""
        self._now = -1

    # ------------------------------------------------------------------------------------------- building

    def _make_areas(self, entries: Sequence[Entry]) -> None:
        ends: dict[tuple[int, str], tuple[int, int]] = {}
        for entry in entries:
            key = entry.unit, entry.source.area
            first, end = ends.get(key, (entry.source.address, entry.source.end))
            ends[key] = min(first, entry.source.address), max(end, entry.source.end)
        sizes = [0, 0]  # registers, bits
        for key, (first, end) in sorted(ends.items()):
            space = int(key[1] in ("coil", "discrete"))
            self.areas[key] = Area(first, end - first, sizes[space])
            sizes[space] += end - first
        self._mapped = np.zeros(sizes[0], np.bool_)
        self._mapped_bits = np.zeros(sizes[1], np.bool_)
        for entry in entries:
            start = self._first(entry)
            mapped = self._mapped_bits if entry.source.in_bits else self._mapped
            mapped[start : start + entry.source.count] = True
        self._text = np.zeros(2 * sizes[0], np.uint8)
        self._image = np.zeros(2 * sizes[0], np.uint8)
        self._bits = np.zeros(sizes[1], np.uint8)
        self._forced = np.full(2 * sizes[0], -1, np.int16)
        self._forced_bits = np.full(sizes[1], -1, np.int8)
        self._wire = b""
        self._trouble = np.zeros(sizes[0], np.uint8)
        self._bit_trouble = np.zeros(sizes[1], np.uint8)

    def _first(self, entry: Entry) -> int:
        area = self.areas[entry.unit, entry.source.area]
        return int(area.base + entry.source.address - area.first)

    def _start(self, unit: int, area: str, address: int, count: int) -> int | None:
        found = self.areas.get((unit, area))
        if found is None or address < found.first or address + count > found.first + found.size:
            return None
        return found.base + address - found.first

    def _make_bits(self, filling: Sequence[Entry]) -> None:
        rows = [row for row, entry in enumerate(filling) if entry.source.in_bits]
        self._bit_rows = np.array(rows, np.intp)
        self._bit_places = np.array([self._first(filling[row]) for row in rows], np.intp)

    def _make_numbers(self, filling: Sequence[Entry]) -> None:
        containers: dict[tuple[int, int, str], int] = {}  # (first byte, octets, order) -> index
        parts: dict[str, list[tuple[int, int, Place]]] = defaultdict(list)
        self._coded: list[tuple[int, int, int, tuple[int, ...]]] = []  # row, container, shift, codes
        for row, entry in enumerate(filling):
            if entry.source.in_bits or entry.source.type == "text":
                continue
            field = place(entry.source)
            key = 2 * self._first(entry), field.octets, field.order
            container = containers.setdefault(key, len(containers))
            if entry.codes:
                self._coded.append((row, container, field.shift, entry.codes))
            else:
                parts[_encoding(entry)].append((row, container, field))
        self._numbers = [
            _Numbers(
                encoding,
                np.array([row for row, _, _ in fields], np.intp),
                np.array([container for _, container, _ in fields], np.intp),
                np.array([field.shift for _, _, field in fields], np.uint64),
                np.array([2**field.width - 1 for _, _, field in fields], np.uint64),
            )
            for encoding, fields in parts.items()
        ]
        self._containers = len(containers)
        units = {2 * self._first(entry): entry.unit for entry in filling if not entry.source.in_bits}
        swaps: dict[int, list[tuple[int, int]]] = defaultdict(list)  # unit -> byte, and the byte that it takes
        for byte, octets, _ in containers:
            for back in range(0, octets, 2):
                swaps[units[byte]] += [(byte + octets - 2 - back + low, byte + back + low) for low in range(2)]
        self._swaps = {unit: np.array(pairs, np.intp).T for unit, pairs in swaps.items()}
        forms: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        for (byte, octets, order), index in containers.items():
            forms[octets, order].append((byte, index))
        self._moves: list[tuple[NDArray[np.intp], np.uint64, NDArray[np.intp]]] = []  # containers, shift, bytes
        for (octets, order), places in forms.items():
            bytes_ = np.array([byte for byte, _ in places], np.intp)
            indexes = np.array([index for _, index in places], np.intp)
            for arrival, letter in enumerate(order):
                shift = np.uint64(8 * (octets - 1 - (ord(letter) - ord("A"))))
                self._moves.append((indexes, shift, bytes_ + arrival))

    def _make_texts(self, filling: Sequence[Entry]) -> None:
        self._texts: list[tuple[int, NDArray[np.intp], list[bytes]]] = []  # row, bytes, contents
        for row, entry in enumerate(filling):
            source, signal = entry.source, entry.signal
            if source.type == "text" and not source.in_bits and signal is not None:
                where = 2 * self._first(entry) + _text_order(source)
                fill = b" " if source.padding == "space" else b"\0"
                contents = [str(text).encode(source.encoding).ljust(len(where), fill) for text in signal.table]
                self._texts.append((row, where, contents))
        self._text_shown = [-1] * len(self._texts)

    # -------------------------------------------------------------------------------------------- showing

    def _show(self, time: int) -> None:
        counts = self.bank.count(time)
        numbers = self.bank.number(counts)
        patterns = np.zeros(self._containers, np.uint64)
        for part in self._numbers:
            encoded = _encode(part.encoding, numbers[part.rows], self.bank.quantum[part.rows])
            np.bitwise_or.at(patterns, part.container, (encoded & part.mask) << part.shift)
        for row, container, shift, codes in self._coded:
            patterns[container] |= np.uint64(codes[int(counts[row])] << shift)
        for index, (row, where, contents) in enumerate(self._texts):
            if (shown := int(counts[row])) != self._text_shown[index]:
                self._text_shown[index] = shown
                self._text[where] = np.frombuffer(contents[shown], np.uint8)
        self._image[:] = self._text
        for containers, down, bytes_ in self._moves:
            self._image[bytes_] |= ((patterns[containers] >> down) & np.uint64(0xFF)).astype(np.uint8)
        for unit in self.swapped:
            if (swap := self._swaps.get(unit)) is not None:
                self._image[swap[0]] = self._image[swap[1]]
        if self._played:
            self._trouble[:], self._bit_trouble[:] = 0, 0
        for entry, first, track in self._played:
            troubles = self._bit_trouble if entry.source.in_bits else self._trouble
            places = slice(first, first + entry.source.count)
            code = track.trouble(time // self.tick * self.tick)
            troubles[places] = np.maximum(troubles[places], code)
        self._bits[self._bit_places] = (numbers[self._bit_rows] & np.uint64(1)).astype(np.uint8)
        self._force()

    def _force(self) -> None:
        forced = self._forced >= 0
        self._image[forced] = self._forced[forced]
        forced_bits = self._forced_bits >= 0
        self._bits[forced_bits] = self._forced_bits[forced_bits]
        self._wire = self._image.tobytes()


def _encoding(entry: Entry) -> str:
    """Give the routine that makes the entry's bit pattern: integer, bcd, or a float's name."""
    type_ = str(entry.source.type)
    return type_ if type_.startswith("float") else "bcd" if type_.startswith("bcd") else "integer"


def _encode(encoding: str, numbers: Pattern, quantum: NDArray[np.float64]) -> Pattern:
    """Turn whole numbers (64-bit patterns) into the bit patterns of a type."""
    if encoding == "integer":
        return numbers
    if encoding == "bcd":
        digits = np.zeros_like(numbers)
        for digit in range(8):
            digits |= numbers // np.uint64(10**digit) % np.uint64(10) << np.uint64(4 * digit)
        return digits
    values = floats(numbers, quantum)
    if encoding == "float16":
        return values.astype(np.float16).view(np.uint16).astype(np.uint64)
    if encoding == "float32":
        return values.astype(np.float32).view(np.uint32).astype(np.uint64)
    pattern: Pattern = values.view(np.uint64)
    return pattern


def _text_order(source: Any) -> NDArray[np.intp]:
    """Give the byte offsets, from the first register on, at which a text's bytes are, in reading order."""
    if source.half:
        return np.arange(source.count) * 2 + (0 if source.half == "high" else 1)
    offsets = np.arange(source.count * 2)
    return offsets ^ 1 if source.order == "BA" else offsets
