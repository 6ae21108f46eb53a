"""Requests and answers as bytes: MBAP, RTU and ASCII frames around a PDU.

    MBAP   transaction(2) 0(2) length(2) unit(1) pdu
    RTU    unit(1) pdu crc(2)
    ASCII  ":" hex(unit pdu lrc) CR LF

A framing finds the answer to one request in what has arrived. It gives back a PDU only where transaction, unit and
function are the request's, the checksum is right, and the PDU has the very length that the request asked for;
everything else is dropped and noted. Frames are built by pymodbus' framers, and checksums are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from pymodbus.framer import FramerAscii, FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

_DECODER: Final = DecodePDU(is_server=False)
_MBAP: Final = FramerSocket(_DECODER)
_RTU: Final = FramerRTU(_DECODER)
_ASCII: Final = FramerAscii(_DECODER)

DAMAGED: Final = "an answer with a wrong checksum was dropped"
EXTRA: Final = "bytes behind an answer were dropped"
RECENT: Final = 64  # transactions back whose late answers are reckoned with
EXCEPTIONS: Final = {
    0x01: "illegal function", 0x02: "illegal address", 0x03: "illegal value", 0x04: "device failure",
    0x05: "acknowledge", 0x06: "busy", 0x07: "negative acknowledge", 0x08: "memory parity error",
    0x0A: "gateway path unavailable", 0x0B: "no answer from the device behind the gateway",
}  # fmt: skip
READS: Final = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def exception_text(code: int) -> str:
    """Name a Modbus exception."""
    return f"exception {code:02X}, {EXCEPTIONS.get(code, 'no standard meaning')}"


@dataclass(frozen=True, slots=True)
class Request:
    """One read: `pdu` is what is sent, `size` how many bytes of data the answer must have.

    The data goes to `place` in the scan's buffer: registers as they are, bits as a byte each.
    """

    function: int
    address: int
    count: int
    place: int

    @property
    def pdu(self) -> bytes:
        return bytes((self.function, *self.address.to_bytes(2, "big"), *self.count.to_bytes(2, "big")))

    @property
    def size(self) -> int:
        return self.count * 2 if self.function > 2 else (self.count + 7) // 8

    @property
    def end(self) -> int:
        return self.address + self.count


class Garbage(Exception):
    """The stream is out of step: what arrived cannot be the beginning of a frame."""


def answers(request: bytes, pdu: bytes | bytearray) -> bool:
    """Say whether a PDU answers a request's PDU: its exception, or its function with the length asked for."""
    function = request[0]
    if pdu[0] == function | 0x80:
        return len(pdu) == 2
    if pdu[0] != function:
        return False
    length = answer_length(request, pdu)
    if length is None or length != len(pdu):
        return False
    if function in (5, 6, 22):
        return pdu == request
    if function in (15, 16):
        return pdu[1:5] == request[1:5]
    if function <= 4:
        count = int.from_bytes(request[3:5], "big")
        return pdu[1] == (count * 2 if function > 2 else (count + 7) // 8)
    return True


def answer_length(request: bytes, pdu: bytes | bytearray) -> int | None:
    """Give the length of the answer's PDU from its first bytes; None where more of them are needed."""
    function = request[0]
    if not pdu:
        return None
    if pdu[0] & 0x80:
        return 2
    if function in (5, 6, 15, 16):
        return 5
    if function == 22:
        return 7
    if function == 43:
        return _identification_length(pdu)
    return 2 + pdu[1] if len(pdu) > 1 else None  # 1 to 4, 17, 23: a byte count


def _identification_length(pdu: bytes | bytearray) -> int | None:
    """Walk the objects of a FC 43/14 answer: header of seven bytes, then id, length, bytes for each."""
    if len(pdu) < 7:
        return None
    at = 7
    for _ in range(pdu[6]):
        if len(pdu) < at + 2:
            return None
        at += 2 + pdu[at + 1]
    return at


class Framing(Protocol):
    """How PDUs travel."""

    def wrap(self, unit: int, transaction: int, pdu: bytes) -> bytes:
        """Give the frame of a request."""
        ...

    def find(self, buffer: bytearray, unit: int, transaction: int, pdu: bytes) -> tuple[bytes | None, str]:
        """Take the answer to `pdu` out of `buffer`, or None and why what was there is not it. Raises Garbage."""
        ...


_OTHERS: Final = (
    (b"HTTP/", "HTTP", "this is the port of a web page; Modbus mostly has 502"),
    (b"<", "HTTP", "this is the port of a web page; Modbus mostly has 502"),
    (b"SSH-", "SSH", "this is the port of a shell; Modbus mostly has 502"),
    (b"\x15\x03", "TLS", "write tls:// in the url, and the certificates under tls"),
)


class Mbap:
    """Modbus TCP. `checked` is off for devices that do not give the transaction back."""

    def __init__(self, checked: bool = True) -> None:
        self._checked = checked

    def wrap(self, unit: int, transaction: int, pdu: bytes) -> bytes:
        return _MBAP.encode(pdu, unit, transaction)

    def find(self, buffer: bytearray, unit: int, transaction: int, pdu: bytes) -> tuple[bytes | None, str]:
        note = ""
        while len(buffer) >= 6:
            length = int.from_bytes(buffer[4:6], "big")
            if buffer[2:4] != b"\0\0" or not 2 <= length <= 254:
                raise Garbage(_foreign(bytes(buffer[:12])))
            if len(buffer) < 6 + length:
                break
            frame = bytes(buffer[: 6 + length])
            del buffer[: 6 + length]
            got = int.from_bytes(frame[:2], "big")
            if self._checked and got != transaction:
                note = f"an answer with transaction {got} instead of {transaction} was dropped"
            elif frame[6] != unit:
                note = f"an answer from unit {frame[6]} instead of {unit} was dropped"
            elif not answers(pdu, frame[7:]):
                note = f"an answer that does not fit the request was dropped: {frame[7:19].hex(' ')}"
            else:
                if _swallowed(frame + buffer[:6], len(frame), transaction):
                    raise Garbage("the peer broke off an answer and began another one")
                if buffer and not _begins_frame(buffer):
                    buffer.clear()
                    note = EXTRA
                return frame[7:], note
        return None, note


def _foreign(data: bytes) -> str:
    """Say what a peer speaks that does not speak Modbus."""
    for begin, name, advice in _OTHERS:
        if data.startswith(begin):
            return f"the peer speaks {name}, not Modbus TCP: {advice}"
    return f"the peer sent {data.hex(' ')}, which begins no Modbus TCP frame"


def _begins_frame(data: bytes | bytearray) -> bool:
    """Say whether these bytes may be the beginning of a Modbus TCP frame (a late answer's)."""
    return len(data) >= 6 and data[2:4] == b"\0\0" and 2 <= int.from_bytes(data[4:6], "big") <= 254


def _swallowed(data: bytes, size: int, transaction: int) -> bool:
    """Say whether a frame of `size` bytes was cut short and filled up with a late answer to an earlier request.

    Its data then holds the header of a transaction of the recent past.
    """
    at = data.find(b"\0\0\0", 11)
    while 0 <= at < size + 2:
        past = (transaction - int.from_bytes(data[at - 2 : at], "big")) % 0xFFFF
        if past <= RECENT and _begins_frame(data[at - 2 : at + 4]):
            return True
        at = data.find(b"\0\0\0", at + 1)
    return False


class Rtu:
    """RTU frames, on a serial line or through a serial server. Noise before and after a frame is skipped."""

    def wrap(self, unit: int, transaction: int, pdu: bytes) -> bytes:
        return _RTU.encode(pdu, unit, 0)

    def find(self, buffer: bytearray, unit: int, transaction: int, pdu: bytes) -> tuple[bytes | None, str]:
        note = ""
        if len(buffer) > 3 and buffer[0] != unit and buffer[1] & 0x7F == pdu[0]:
            note = f"an answer from unit {buffer[0]} instead of {unit} was dropped"
        start = -1
        while 0 <= (start := buffer.find(unit, start + 1)) < len(buffer) - 3:
            if buffer[start + 1] & 0x7F != pdu[0]:
                continue
            length = answer_length(pdu, buffer[start + 1 :])
            if length is None or len(buffer) < start + 1 + length + 2:
                continue
            body = bytes(buffer[start : start + 1 + length])
            check = int.from_bytes(buffer[start + 1 + length : start + 3 + length], "big")
            if not FramerRTU.check_CRC(body, check):
                note = DAMAGED
            elif not answers(pdu, body[1:]):
                note = f"an answer that does not fit the request was dropped: {body[1:13].hex(' ')}"
            else:
                buffer.clear()
                return body[1:], note
        return None, note


class Ascii:
    """ASCII frames."""

    def wrap(self, unit: int, transaction: int, pdu: bytes) -> bytes:
        return _ASCII.encode(pdu, unit, 0)

    def find(self, buffer: bytearray, unit: int, transaction: int, pdu: bytes) -> tuple[bytes | None, str]:
        note = ""
        while (end := buffer.find(b"\r\n")) >= 0:
            line = bytes(buffer[: end + 2])
            del buffer[: end + 2]
            start = line.rfind(b":")
            try:
                frame = bytes.fromhex(line[start + 1 : -2].decode("ascii")) if start >= 0 else b""
            except ValueError:
                frame = b""
            if len(frame) < 4 or not FramerAscii.check_LRC(frame[:-1], frame[-1]):
                note = DAMAGED
            elif frame[0] != unit:
                note = f"an answer from unit {frame[0]} instead of {unit} was dropped"
            elif not answers(pdu, frame[1:-1]):
                note = f"an answer that does not fit the request was dropped: {frame[1:13].hex(' ')}"
            else:
                buffer.clear()
                return frame[1:-1], note
        return None, note
