"""Frames: whatever arrives, only the answer to the request at hand becomes a PDU."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus.frames import DAMAGED, Ascii, Framing, Garbage, Mbap, Rtu, answers

READ = bytes.fromhex("03 0064 0002")
ANSWER = bytes.fromhex("03 04 12345678")
FRAMINGS: list[Framing] = [Mbap(), Rtu(), Ascii()]
NAMES = ["mbap", "rtu", "ascii"]


def crc(data: bytes) -> bytes:
    """CRC-16 of Modbus by its definition, bit by bit."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
    return register.to_bytes(2, "little")


def framed(name: str, unit: int, transaction: int, pdu: bytes) -> bytes:
    """Frame an answer without the driver."""
    if name == "mbap":
        return transaction.to_bytes(2, "big") + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big") + bytes((unit,)) + pdu
    if name == "rtu":
        return bytes((unit,)) + pdu + crc(bytes((unit,)) + pdu)
    body = bytes((unit,)) + pdu
    return b":" + (body + bytes((-sum(body) & 0xFF,))).hex().upper().encode() + b"\r\n"


@pytest.fixture(params=range(3), ids=NAMES)
def framing(request: pytest.FixtureRequest) -> tuple[str, Framing]:
    return NAMES[request.param], FRAMINGS[request.param]


def test_a_request_is_framed_as_the_standard_says(framing: tuple[str, Framing]) -> None:
    name, frames = framing
    assert frames.wrap(17, 7, READ) == framed(name, 17, 7, READ)


def test_the_answer_is_found_when_it_is_complete(framing: tuple[str, Framing]) -> None:
    name, frames = framing
    whole, buffer = framed(name, 17, 7, ANSWER), bytearray()
    for byte in whole[:-1]:
        buffer.append(byte)
        assert frames.find(buffer, 17, 7, READ)[0] is None
    buffer.append(whole[-1])
    assert frames.find(buffer, 17, 7, READ) == (ANSWER, "")
    assert not buffer


def test_an_exception_is_an_answer(framing: tuple[str, Framing]) -> None:
    name, frames = framing
    assert frames.find(bytearray(framed(name, 17, 7, b"\x83\x02")), 17, 7, READ)[0] == b"\x83\x02"


@pytest.mark.parametrize(
    ("unit", "transaction", "pdu"),
    [
        (18, 7, ANSWER),  # another unit
        (17, 7, bytes.fromhex("04 04 12345678")),  # another function
        (17, 7, bytes.fromhex("03 02 1234")),  # fewer registers than asked for
        (17, 7, bytes.fromhex("03 06 123456789abc")),  # more
        (17, 7, b"\x84\x02"),  # another function's exception
    ],
)
def test_what_answers_something_else_is_dropped(
    framing: tuple[str, Framing], unit: int, transaction: int, pdu: bytes
) -> None:
    name, frames = framing
    assert frames.find(bytearray(framed(name, unit, transaction, pdu)), 17, 7, READ)[0] is None


def test_a_late_answer_is_told_by_its_transaction_and_the_right_one_behind_it_is_taken() -> None:
    buffer = bytearray(framed("mbap", 17, 6, bytes.fromhex("03 04 ffffffff")) + framed("mbap", 17, 7, ANSWER))
    pdu, note = Mbap().find(buffer, 17, 7, READ)
    assert pdu == ANSWER
    assert "transaction 6 instead of 7" in note


def test_a_wrong_checksum_is_damage(framing: tuple[str, Framing]) -> None:
    name, frames = framing
    if name == "mbap":
        return  # Modbus TCP has no checksum
    for at in range(2 if name == "rtu" else 6, 9 if name == "rtu" else 16):
        whole = bytearray(framed(name, 17, 7, ANSWER))
        whole[at] ^= 0x01
        pdu, note = frames.find(whole, 17, 7, READ)
        assert pdu is None
        if name == "ascii" or at > 2:  # a changed byte count makes an RTU frame of another length
            assert note == DAMAGED


def test_noise_around_an_rtu_frame_does_not_hide_it() -> None:
    for noise in (b"\0", b"\xff\xff", b"\x11", b"\x11\x03", b"\x11\x03\x04"):
        buffer = bytearray(noise + framed("rtu", 17, 7, ANSWER) + b"\xff\x00")
        assert Rtu().find(buffer, 17, 7, READ)[0] == ANSWER
        assert not buffer


def test_extra_bytes_behind_a_tcp_answer_are_dropped_but_not_the_next_frame() -> None:
    buffer = bytearray(framed("mbap", 17, 7, ANSWER) + b"\xde\xad")
    assert Mbap().find(buffer, 17, 7, READ)[0] == ANSWER
    assert not buffer
    late = framed("mbap", 17, 3, ANSWER)
    buffer = bytearray(framed("mbap", 17, 7, ANSWER) + late[:8])
    assert Mbap().find(buffer, 17, 7, READ)[0] == ANSWER
    assert buffer == late[:8]


@pytest.mark.parametrize("missing", range(1, 16))
def test_a_frame_cut_short_is_not_filled_up_with_a_late_answer(missing: int) -> None:
    """The header of the late answer would be stored as the values of the last registers."""
    request, answer = bytes.fromhex("03 0000 0008"), bytes((3, 16, *range(1, 17)))
    late = framed("mbap", 17, 5, answer)
    cut = framed("mbap", 17, 7, answer)[:-missing]
    with pytest.raises(Garbage):
        Mbap().find(bytearray(cut + late), 17, 7, request)


def test_registers_that_hold_small_numbers_are_no_headers() -> None:
    request = bytes.fromhex("03 0000 0008")
    answer = bytes.fromhex("03 10 0000 0000 0000 0005 0000 0004 0000 0001")
    assert Mbap().find(bytearray(framed("mbap", 17, 0x4321, answer)), 17, 0x4321, request)[0] == answer


@pytest.mark.parametrize("header", ["000700010005", "000700000001", "0007000000ff", "0007ffff0005"])
def test_what_begins_no_tcp_frame_is_garbage(header: str) -> None:
    """Out of step for good: only a new connection helps."""
    with pytest.raises(Garbage):
        Mbap().find(bytearray(bytes.fromhex(header) + ANSWER), 17, 7, READ)


@given(data=st.binary(max_size=300), which=st.integers(0, 2))
def test_arbitrary_bytes_never_raise_and_never_become_an_answer(data: bytes, which: int) -> None:
    buffer = bytearray(data)
    with suppress(Garbage):
        for _ in range(3):
            pdu, _ = FRAMINGS[which].find(buffer, 17, 7, READ)
            # what is taken for an answer must stand in the data as the very frame that answers
            assert pdu is None or framed(NAMES[which], 17, 7, pdu).lower() in data.lower()


@given(
    before=st.binary(max_size=20), after=st.binary(max_size=20), unit=st.sampled_from([16, 17]),
    transaction=st.sampled_from([6, 7]), pdu=st.one_of(st.binary(min_size=1, max_size=12), st.just(ANSWER)),
    which=st.integers(0, 2),
)  # fmt: skip
def test_frames_among_noise_are_taken_only_where_they_answer(
    before: bytes, after: bytes, unit: int, transaction: int, pdu: bytes, which: int
) -> None:
    name = NAMES[which]
    frame = framed(name, unit, transaction, pdu)
    right = unit == 17 and (transaction == 7 or name != "mbap") and answers(READ, pdu)
    buffer = bytearray(before + frame + after)
    with suppress(Garbage):
        found, _ = FRAMINGS[which].find(buffer, 17, 7, READ)
        if found is not None and not right:
            assert framed(name, 17, 7, found).lower() in (before + frame + after).lower()
        if not before:
            assert found == pdu or not right


@given(request=st.sampled_from(["010000000a", "0200000010", "0500640000", "060064abcd", "2b0e0100"]), data=st.binary())
def test_answers_of_any_function_are_checked_without_raising(request: str, data: bytes) -> None:
    if data:
        answers(bytes.fromhex(request), data)


@pytest.mark.parametrize(
    ("request_", "answer", "good"),
    [
        ("01 0000 000a", "01 02 ff03", True),
        ("01 0000 000a", "01 01 ff", False),
        ("05 0064 ff00", "05 0064 ff00", True),
        ("05 0064 ff00", "05 0064 0000", False),
        ("06 0064 1234", "06 0064 1235", False),
        ("10 0064 0002 04 12345678", "10 0064 0002", True),
        ("10 0064 0002 04 12345678", "10 0064 0001", False),
        ("16 0064 00ff 1200", "16 0064 00ff 1200", True),
        ("2b 0e 01 00", "2b 0e 01 01 00 00 01 00 03 41 42 43", True),
        ("2b 0e 01 00", "2b 0e 01 01 00 00 01 00 03 41 42", False),
    ],
)
def test_an_answer_repeats_what_was_asked(request_: str, answer: str, good: bool) -> None:
    assert answers(bytes.fromhex(request_), bytes.fromhex(answer)) is good


@pytest.mark.parametrize(
    ("sent", "named"), [(b"HTTP/1.1 400 Bad", "HTTP"), (b"<html><head>", "HTTP"), (b"\x15\x03\x01\0\x02\x02", "TLS")]
)
def test_a_peer_of_another_protocol_is_named(sent: bytes, named: str) -> None:
    """A wrong port is the commonest reason for nonsense."""
    with pytest.raises(Garbage, match=f"the peer speaks {named}, not Modbus TCP"):
        Mbap().find(bytearray(sent), 1, 1, b"\x03\0\0\0\1")
