"""Modbus frames as a server sees them: Modbus TCP, RTU and ASCII.

Each framing is a generator that takes complete request frames off a buffer and gives (unit, PDU, wrap), where wrap
makes an answer's PDU into the frame that answers this request.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

Frame = tuple[int, bytes, Callable[[bytes], bytes]]


def mbap(buffer: bytearray) -> Iterator[Frame]:
    """Modbus TCP: transaction, protocol 0, length, unit, PDU (Messaging Implementation Guide V1.0b, 3.1.3)."""
    while len(buffer) >= 8:
        transaction, protocol, length, unit = struct.unpack_from(">HHHB", buffer)
        if protocol != 0 or not 2 <= length <= 254:
            buffer.clear()  # not Modbus: there is no way back into step
            return
        if len(buffer) < 6 + length:
            return
        pdu = bytes(buffer[7 : 6 + length])
        del buffer[: 6 + length]
        yield unit, pdu, partial(_mbap_frame, transaction, unit)


def _mbap_frame(transaction: int, unit: int, answer: bytes) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(answer) + 1, unit) + answer


def rtu(buffer: bytearray) -> Iterator[Frame]:
    """RTU: unit, PDU, CRC. A request's length follows from its function; bytes that make no frame are dropped."""
    while len(buffer) >= 4:
        length = _rtu_length(buffer)
        if length is not None and len(buffer) < length:
            return
        if length is None or crc(buffer[: length - 2]) != bytes(buffer[length - 2 : length]):
            del buffer[0]
            continue
        unit, pdu = buffer[0], bytes(buffer[1 : length - 2])
        del buffer[:length]
        yield unit, pdu, partial(_rtu_frame, unit)


def _rtu_frame(unit: int, answer: bytes) -> bytes:
    frame = bytes((unit,)) + answer
    return frame + crc(frame)


def _rtu_length(buffer: bytearray) -> int | None:
    """Give the length of the request frame that begins here; None where none does."""
    function = buffer[1]
    if function in (1, 2, 3, 4, 5, 6):
        return 8
    if function in (15, 16):
        return 9 + buffer[6] if len(buffer) > 6 else 9
    if function == 22:
        return 10
    if function == 23:
        return 13 + buffer[10] if len(buffer) > 10 else 13
    return 7 if function == 43 else None


def ascii_(buffer: bytearray) -> Iterator[Frame]:
    """ASCII: a colon, hexadecimal digits of unit, PDU and LRC, CR LF."""
    while (end := buffer.find(b"\r\n")) >= 0:
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        try:
            octets = bytes.fromhex(line[line.index(b":") + 1 :].decode("ascii"))
        except ValueError:
            continue
        if len(octets) >= 3 and sum(octets) & 0xFF == 0:
            unit = octets[0]
            yield unit, octets[1:-1], partial(_ascii_frame, unit)


def _ascii_frame(unit: int, answer: bytes) -> bytes:
    octets = bytes((unit,)) + answer
    return b":" + (octets + bytes((-sum(octets) & 0xFF,))).hex().upper().encode() + b"\r\n"


FRAMES: Final[dict[str, Callable[[bytearray], Iterator[Frame]]]] = {"mbap": mbap, "rtu": rtu, "ascii": ascii_}


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC: Final = _crc_table()


def crc(octets: bytes | bytearray) -> bytes:
    """Give the two bytes of the CRC as they go over the line (Serial Line V1.02, 6.2.2)."""
    state = 0xFFFF
    for octet in octets:
        state = state >> 8 ^ _CRC[(state ^ octet) & 0xFF]
    return struct.pack("<H", state)
