"""MQTT inside WebSocket frames (RFC 6455, MQTT 5 section 6), as a socket for paho.

The frames are those of the websockets library, which masks in C. A frame's end says nothing: MQTT is a stream of bytes
across them. What is sent is framed once; until the frame has left, `send` says that it would block, and is to be
called again with the same bytes.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from gateway.mqtt.places import Endpoint

_PIECE: Final = 1 << 16


class Unanswered(ConnectionError):
    """The server does not make a WebSocket of the connection."""


class WebSocket:
    """A WebSocket on a connected socket; `handshake` first, while the socket still blocks."""

    def __init__(self, sock: socket.socket, where: Endpoint) -> None:
        self._sock = sock
        host = f"[{where.host}]" if ":" in where.host else where.host
        uri = parse_uri(f"{where.scheme}://{host}:{where.port}{where.path}")
        self._protocol = ClientProtocol(uri, subprotocols=[Subprotocol("mqtt")], max_size=None)
        self._in = bytearray()  # MQTT bytes that arrived
        self._at = 0  # how many of them have been read
        self._out = bytearray()  # frames, or what is left of them
        self._owed = 0  # MQTT bytes in there

    def handshake(self) -> None:
        """Ask the server for a WebSocket. Raises Unanswered, OSError."""
        self._protocol.send_request(self._protocol.connect())
        self._sock.sendall(b"".join(self._protocol.data_to_send()))
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            data = self._sock.recv(_PIECE)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
                break
        if self._protocol.state is not State.OPEN:
            error = self._protocol.handshake_exc
            raise Unanswered(str(error) if isinstance(error, InvalidHandshake) else "no WebSocket's answer") from error
        self._take(self._protocol.events_received())

    def recv(self, size: int) -> bytes:
        """Give up to `size` bytes; nothing at the end of the connection. Raises BlockingIOError, OSError."""
        if self._at == len(self._in) and not self._fill():
            return b""
        data = bytes(self._in[self._at : self._at + size])
        self._at += len(data)
        if self._at == len(self._in):
            self._in.clear()
            self._at = 0
        return data

    def _fill(self) -> bool:
        """Read from the socket; False at its end. Raises BlockingIOError where there is nothing for MQTT in it."""
        data = self._sock.recv(_PIECE)
        if not data:
            return False
        self._protocol.receive_data(data)
        self._take(self._protocol.events_received())
        for reply in self._protocol.data_to_send():  # PONG, CLOSE
            self._out += reply
        if self._protocol.state is not State.OPEN and self._at == len(self._in):
            return False
        if self._out and not self._owed:
            self._flush()
        if self._at == len(self._in):
            raise BlockingIOError
        return True

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._in += event.data

    def send(self, data: bytes | bytearray) -> int:
        """Send all of it in one frame. Raises OSError, of these BlockingIOError to be called again with the same."""
        if not self._owed:
            self._protocol.send_binary(bytes(data))
            self._out += b"".join(self._protocol.data_to_send())
            self._owed = len(data)
        self._flush()
        if self._out:
            raise BlockingIOError  # with 0 paho would drop the packet
        sent, self._owed = self._owed, 0
        return sent

    def _flush(self) -> None:
        sent = self._sock.send(self._out)
        del self._out[:sent]

    def pending(self) -> int:
        """How much is here that makes no socket readable."""
        below = getattr(self._sock, "pending", None)
        return len(self._in) - self._at + (below() if below is not None else 0)

    def getpeername(self) -> Any:
        return self._sock.getpeername()

    def fileno(self) -> int:
        return self._sock.fileno()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._sock.setsockopt(level, option, value)

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def close(self) -> None:
        self._sock.close()
