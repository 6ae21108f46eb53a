"""The short way through an unsecured channel: a message that is one chunk, without an object for each of its headers.

A secure message's chunk (Part 6, 6.7.2), all little-endian:

    "MSG" "F"  size uint32  channel uint32  token uint32  sequence uint32  request uint32  body

asyncua stays the owner of the channel: its tokens, sequence numbers and table of requests are used and kept up here.
What is not exactly such a chunk of exactly the expected channel, token and sequence number (a secured channel, several
chunks, an error, a renewal under way, half a message) goes asyncua's own way, which also says what is wrong with it.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import CryptographyNone

_CHUNK: Final = struct.Struct("<4sIIIII")
_SMALL: Final = 65_000  # bytes of a body that fit the smallest chunk that is used here


def _is_plain(connection: Any) -> bool:
    return type(connection.security_policy.symmetric_cryptography) is CryptographyNone


def framed(protocol: UASocketProtocol, body: bytes, number: int) -> bytes:
    """Give a request's body as message of the channel, under its next sequence number."""
    connection = protocol._connection
    size = _CHUNK.size + len(body)
    sequence = connection._sequence_number + 1
    limits = connection._limits
    if size > min(_SMALL, limits.max_send_buffer) or sequence >= 2**32 or not _is_plain(connection):
        whole: bytes = connection.message_to_binary(body, request_id=number)
        return whole
    connection._sequence_number = sequence
    token = connection.security_token
    return _CHUNK.pack(b"MSGF", size, token.ChannelId, token.TokenId, sequence, number) + body


def shorten(protocol: UASocketProtocol) -> None:
    """Let whole chunks that come in take the short way."""
    ordinary = protocol.data_received

    def data_received(data: bytes) -> None:
        if protocol.receive_buffer or not _taken(protocol, data):
            ordinary(data)

    protocol.data_received = data_received


def _taken(protocol: UASocketProtocol, data: bytes) -> bool:
    """Take data that is one whole message, as expected; False where it is anything else, and nothing was touched."""
    if len(data) < _CHUNK.size:
        return False
    kind, size, channel, token, sequence, number = _CHUNK.unpack_from(data)
    connection = protocol._connection
    expected = connection.security_token
    if (
        kind != b"MSGF"
        or size != len(data)
        or size > connection._limits.max_recv_buffer
        or channel != expected.ChannelId
        or token != expected.TokenId
        or connection._peer_sequence_number is None
        or sequence != connection._peer_sequence_number + 1
        or connection._incoming_parts
        or not connection._limits.is_msg_size_within_limit(size - _CHUNK.size)
        or not _is_plain(connection)
    ):
        return False
    connection._peer_sequence_number = sequence
    protocol._call_callback(number, Buffer(data, _CHUNK.size))
    return True
