"""The simulated Modbus device: registers as pymodbus reads them hold what the signals say."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient, AsyncModbusUdpClient

from drivers.modbus.spec import SPEC, ModbusDevice, ModbusLink, ModbusTag
from gateway.model import Device, Group, Link, Tag, split_by_kind
from simulators.modbus import ModbusServer
from simulators.modbus_map import exponent, signals
from simulators.signals import TICK

NOW = 1_764_000_000_000_000_000


def link_of(devices: dict[str, dict[str, Any]], url: str = "tcp://127.0.0.1:502") -> Link:
    """Compile a link as the gateway's configuration would."""
    options = ModbusLink.model_validate({"driver": "modbus", "url": url})
    built = []
    for name, keys in devices.items():
        tags = keys.pop("tags")
        device = ModbusDevice.model_validate(keys)
        compiled = []
        for tag_name, given in tags.items():
            tag = ModbusTag.model_validate(given)
            for found in SPEC.resolve(tag, device, options):
                compiled.append(
                    Tag(
                        tag_name + found.suffix, tag.address, found.source, found.kind, found.type,
                        scale=tag.scale, offset=tag.offset, simulate=tag.simulate,
                        states=tuple(tag.states.items()), not_available=tag.not_available,
                    )
                )  # fmt: skip
        group = Group(name, "default", 10**9, 0, split_by_kind(name, "default", compiled))
        built.append(Device(name, device, (group,)))
    return Link("line", "modbus", options, tuple(built))


def one(tags: dict[str, Any], **keys: Any) -> Link:
    return link_of({"press": {**keys, "tags": tags}})


def server_of(link: Link, **settings: Any) -> ModbusServer:
    return ModbusServer(link, clock=lambda: NOW, **settings)


def raw(link: Link, tag: str, device: str = "press") -> Any:
    signal = signals(link)[device, tag]
    assert signal is not None
    return signal.raw(np.array([NOW]))[0]


def shuffled(octets: bytes, order: str) -> bytes:
    """Undo a byte order, spelt out for each of the four."""
    words = [octets[at : at + 2] for at in range(0, len(octets), 2)]
    if order in ("CDAB", "DCBA"):
        words.reverse()
    if order in ("BADC", "DCBA"):
        words = [word[::-1] for word in words]
    return b"".join(words)


FORMATS = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q", "float16": ">e",
    "float32": ">f", "float64": ">d",
}  # fmt: skip


@pytest.mark.parametrize("order", ["ABCD", "CDAB", "BADC", "DCBA"])
@pytest.mark.parametrize("type_", sorted(FORMATS))
def test_every_type_and_byte_order_is_on_the_wire_as_the_definition_says(type_: str, order: str) -> None:
    link = one({f"t{number}": f"holding:{100 + 4 * number} {type_}" for number in range(8)}, order=order)
    server = server_of(link)
    server.registers.at(NOW)
    for number in range(8):
        octets = server.registers.read(1, "holding", 100 + 4 * number, struct.calcsize(FORMATS[type_]) // 2)
        assert octets is not None
        assert struct.unpack(FORMATS[type_], shuffled(octets, order))[0] == raw(link, f"t{number}")


def test_bcd_text_bits_and_half_registers_are_on_the_wire_as_the_definition_says() -> None:
    link = one(
        {
            "bcd": "holding:0 bcd32 CDAB",
            "text": "holding:10 text 7 BA",
            "chinese": "holding:20 text 8 gbk",
            "narrow": "holding:30 text 4 low",
            "bit": "holding:40 bit 3",
            "nibble": "holding:40 bits 8..11",
            "wide": "holding:42 uint32 CDAB bits 12..20",
            "high": "holding:44 int8 high",
            "low": "holding:44 uint8 low",
            "coil": "coil:9",
            "contact": "discrete:2",
        }
    )
    server = server_of(link)
    server.registers.at(NOW)

    def read(address: int, count: int, area: str = "holding") -> bytes:
        octets = server.registers.read(1, area, address, count)
        assert octets is not None
        return octets

    low, high = struct.unpack(">HH", read(0, 2))
    assert int(f"{high:04x}{low:04x}") == raw(link, "bcd")
    assert shuffled(read(10, 4), "BADC")[:7].rstrip(b"\0").decode() == raw(link, "text")
    assert read(20, 4).rstrip(b"\0").decode("gbk") == raw(link, "chinese")
    assert read(30, 4)[1::2].rstrip(b"\0").decode() == raw(link, "narrow")
    (word,) = struct.unpack(">H", read(40, 1))
    assert (bool(word >> 3 & 1), word >> 8 & 15) == (raw(link, "bit"), raw(link, "nibble"))
    low, high = struct.unpack(">HH", read(42, 2))
    assert (high << 16 | low) >> 12 & 0x1FF == raw(link, "wide")
    assert struct.unpack(">bB", read(44, 1)) == (raw(link, "high"), raw(link, "low"))
    assert read(9, 1, "coil") == bytes([raw(link, "coil")])
    assert read(2, 1, "discrete") == bytes([raw(link, "contact")])


def test_registers_that_two_tags_read_as_one_show_one_signal_and_overlaps_show_the_first() -> None:
    """Two tags on one register cannot both have their way; the check must not call the second one wrong."""
    link = one({"a": "holding:0 int32", "again": {"address": "holding:0 int32", "scale": 0.1}, "half": "holding:1"})
    shown = signals(link)
    assert shown["press", "half"] is None
    first, second = shown["press", "a"], shown["press", "again"]
    assert first is not None
    assert second is not None
    assert first.value(np.array([NOW]))[0] / 10 == pytest.approx(second.value(np.array([NOW]))[0])


def test_a_register_that_holds_a_power_of_ten_scales_its_tags() -> None:
    link = one({"power": {"address": "holding:10 int16", "scale_power": "holding:12"}, "sf": "holding:12 int16"})
    power = exponent(1, link.devices[0].groups[0].tables[0].tags[0].source.power)
    signal = signals(link)["press", "power"]
    assert signal is not None
    assert raw(link, "sf") == power
    assert signal.value(np.array([NOW]))[0] == pytest.approx(signal.raw(np.array([NOW]))[0] * 10.0**power)


async def read_with(client: Any, unit: int = 1) -> list[int]:
    async with asyncio.timeout(30):
        assert await client.connect()
        response = await client.read_holding_registers(100, count=2, device_id=unit)
        client.close()
        return [] if response.isError() else list(response.registers)


@pytest.mark.parametrize("transport", ["tcp", "rtu+tcp", "ascii+tcp", "udp", "rtu", "ascii"])
async def test_pymodbus_reads_it_over_every_transport(transport: str) -> None:
    link = one({"value": "holding:100 float32"})
    async with server_of(link) as server:
        framing = {"tcp": "mbap", "udp": "mbap", "rtu+tcp": "rtu", "rtu": "rtu"}.get(transport, "ascii")
        framer = {"mbap": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}[framing]
        client: Any
        if transport == "udp":
            client = AsyncModbusUdpClient("127.0.0.1", port=await server.listen_udp(), timeout=10)
        elif "tcp" in transport:
            port = await server.listen(framing=framing)
            client = AsyncModbusTcpClient("127.0.0.1", port=port, framer=framer, timeout=10)
        else:
            client = AsyncModbusSerialClient(server.listen_terminal(framing), framer=framer, timeout=10)
        registers = await read_with(client)
        assert struct.unpack(">f", struct.pack(">HH", *registers))[0] == raw(link, "value")


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize("turns", range(5))  # of the event loop, between its connecting and the end
async def test_a_client_that_is_just_accepted_is_cut_too(turns: int) -> None:
    server = ModbusServer(link_of({}))
    port = await server.listen()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(20)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
        with suppress(ConnectionError):
            assert client.recv(1) == b""


async def exchange(port: int, *requests: bytes) -> bytes:
    """Send requests at once, end the sending, and give all that comes back."""
    async with connection(port) as (reader, writer):
        writer.write(b"".join(requests))
        answers = b""
        for _ in requests:
            head = await reader.readexactly(6)
            answers += head + await reader.readexactly(struct.unpack(">H", head[4:])[0])
        return answers


def request(transaction: int, unit: int, *pdu: int) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + bytes(pdu)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with server_of(one({"value": "holding:0"})) as server:
        answers = await exchange(await server.listen(), *(request(number, 1, 3, 0, 0, 0, 1) for number in range(50)))
        assert [struct.unpack(">H", answers[at : at + 2])[0] for at in range(0, len(answers), 11)] == list(range(50))


async def test_addresses_outside_are_refused_and_holes_read_as_zero_unless_told() -> None:
    tags = {"a": "holding:10", "b": "holding:14"}
    across = request(1, 1, 3, 0, 10, 0, 5)
    beyond = request(2, 1, 3, 0, 10, 0, 6)
    other_area = request(3, 1, 4, 0, 10, 0, 1)
    other_unit = request(4, 9, 3, 0, 10, 0, 1)
    function = request(5, 1, 99, 0)
    async with server_of(one(tags)) as server:
        port = await server.listen()
        assert (await exchange(port, across))[7:9] == b"\x03\x0a"
        codes = [(await exchange(port, each))[7:] for each in (beyond, other_area, other_unit, function)]
        assert codes == [b"\x83\x02", b"\x84\x02", b"\x83\x0b", b"\xe3\x01"]
    async with server_of(one(tags), holes=False) as strict:
        assert (await exchange(await strict.listen(), across))[7:] == b"\x83\x02"


async def test_writes_stay_in_the_place_of_the_signal_until_released() -> None:
    link = one({"set": "holding:0 uint16", "on": "coil:0", "off": "coil:1", "mask": "holding:1"})
    async with server_of(link) as server:
        client = AsyncModbusTcpClient("127.0.0.1", port=await server.listen(), timeout=10)
        async with asyncio.timeout(30):
            await client.connect()
            await client.write_registers(0, [4711, 0x0F0F], device_id=1)
            await client.write_coils(0, [True, False], device_id=1)
            await client.mask_write_register(address=1, and_mask=0xFF00, or_mask=0x00AA, device_id=1)
            server.registers.at(NOW + 50 * TICK)
            assert (await client.read_holding_registers(0, count=2, device_id=1)).registers == [4711, 0x0FAA]
            assert (await client.read_coils(0, count=2, device_id=1)).bits[:2] == [True, False]
            server.registers.release()
            assert (await client.read_holding_registers(0, count=1, device_id=1)).registers == [raw(link, "set")]
            client.close()


async def test_a_unit_can_be_silent_slow_refusing_or_hang_up_while_its_neighbour_answers() -> None:
    link = link_of(
        {"press": {"unit_id": 1, "tags": {"a": "holding:0"}}, "saw": {"unit_id": 2, "tags": {"a": "holding:0"}}}
    )
    async with server_of(link) as server:
        port = await server.listen()
        server.faults[1].silent = True
        answers = await exchange_first(port, request(1, 1, 3, 0, 0, 0, 1), request(2, 2, 3, 0, 0, 0, 1))
        assert answers[:2] == b"\x00\x02"
        server.faults[1].silent = False
        server.faults[1].delay = 0.05
        answers = await exchange(port, request(1, 1, 3, 0, 0, 0, 1), request(2, 2, 3, 0, 0, 0, 1))
        assert [answers[0:2], answers[11:13]] == [b"\x00\x02", b"\x00\x01"]
        server.faults[1].exception = 4
        assert (await exchange(port, request(1, 1, 3, 0, 0, 0, 1)))[7:] == b"\x83\x04"
        server.faults[1].exception = 0
        server.faults[1].refused.add(("holding", 0))
        assert (await exchange(port, request(1, 1, 3, 0, 0, 0, 1)))[7:] == b"\x83\x02"
        server.faults[1].hang_up = True
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await exchange(port, request(1, 1, 3, 0, 0, 0, 1))


async def exchange_first(port: int, *requests: bytes) -> bytes:
    async with connection(port) as (reader, writer):
        writer.write(b"".join(requests))
        return await reader.readexactly(11)


async def test_values_move_with_the_clock() -> None:
    now = NOW
    link = one(
        {"ramp": {"address": "holding:0", "simulate": {"signal": "ramp", "low": 0, "high": 1000, "period": "10 s"}}}
    )
    async with ModbusServer(link, clock=lambda: now) as server:
        port = await server.listen()
        first = await exchange(port, request(1, 1, 3, 0, 0, 0, 1))
        now += TICK
        assert await exchange(port, request(1, 1, 3, 0, 0, 0, 1)) != first
