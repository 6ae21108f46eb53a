"""The short way through an unsecured channel does what asyncua's own does, byte for byte, and leaves the rest to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asyncua import ua
from asyncua.client.ua_client import UASocketProtocol
from asyncua.crypto.security_policies import SecurityPolicyNone

from drivers.opcua import frames


def protocol(sequence: int = 7) -> Any:
    made = UASocketProtocol(security_policy=SecurityPolicyNone())
    connection = made._connection
    connection.security_token = ua.ChannelSecurityToken(ChannelId=5, TokenId=9)
    connection._sequence_number = sequence
    connection._peer_sequence_number = 40
    return made


@pytest.mark.parametrize("sequence", [0, 7, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("size", [0, 1, 1000, 64_975, 64_976, 64_977, 65_536, 200_000])
def test_a_request_is_framed_as_asyncua_frames_it(size: int, sequence: int) -> None:
    ours, theirs = protocol(sequence), protocol(sequence)
    if not size:  # asyncua makes no chunk of nothing; there is no request without a type
        return
    body = bytes(number % 251 for number in range(size))
    assert frames.framed(ours, body, 77) == theirs._connection.message_to_binary(body, request_id=77)
    assert ours._connection._sequence_number == theirs._connection._sequence_number


def chunk(body: bytes, number: int, sequence: int = 41, channel: int = 5, token: int = 9) -> bytes:
    return frames._CHUNK.pack(b"MSGF", 24 + len(body), channel, token, sequence, number) + body


async def test_an_answer_reaches_its_request_whole_split_or_beside_another() -> None:
    """A scan whose answer came in two segments must not wait for it for ever."""
    for cuts in ((), (3,), (20, 30), (34,)):
        made = protocol()
        frames.shorten(made)
        first, second = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
        made._callbackmap |= {1: first, 2: second}
        data = chunk(b"first-body", 1) + chunk(b"second", 2, 42)
        for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            made.data_received(data[start:end])
        assert (bytes(first.result()), bytes(second.result())) == (b"first-body", b"second")
        assert made._connection._peer_sequence_number == 42


@pytest.mark.parametrize("wrong", [{"sequence": 43}, {"sequence": 41, "channel": 6}, {"sequence": 41, "token": 10}])
async def test_a_chunk_out_of_turn_is_given_to_nobody(wrong: dict[str, int]) -> None:
    """A replayed or foreign message must not become a reading."""
    made = protocol()
    frames.shorten(made)
    waiting = asyncio.get_running_loop().create_future()
    made._callbackmap[1] = waiting
    made.data_received(chunk(b"body", 1, **wrong))
    assert not waiting.done()
    assert made._connection._peer_sequence_number == 40
