"""Writing: the value is in the device, its neighbours are as they were, and a refusal says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from drivers.modbus.driver import ModbusDriver
from gateway import quality as q
from gateway.cli.write import write
from gateway.commands import Refused
from gateway.contracts import Writable, Write, Written
from gateway.model import Link, Tag
from simulators.modbus import ModbusServer
from tests.modbus_links import link_to, rows, tables_of
from tests.modbus_rogue import Asked, Rogue

TAGS: dict[str, Any] = {
    name: {"address": address, "writable": True}
    for name, address in {
        "coil": "coil:5", "int16": "holding:100 int16", "float32": "holding:101 float32 CDAB",
        "uint64": "holding:103 uint64", "bit": "holding:107 bit 3", "bits": "holding:107 bits 4..7",
        "swapped": "holding:108 uint16 BA bit 0", "high": "holding:109 int8 high", "low": "holding:109 uint8 low",
        "text": "holding:110 text 8", "bcd": "holding:114 bcd16", "far": "holding:115 uint32 CDAB bit 20",
        "time": "holding:117 bcd-time", "float64": "holding:120 float64 HGFEDCBA",
    }.items()
}  # fmt: skip


def tag_of(link: Link, name: str) -> Tag:
    return next(tag for table in tables_of(link) for tag in table.tags if tag.name == name)


@asynccontextmanager
async def simulated(**device: Any) -> AsyncIterator[tuple[ModbusServer, Link, ModbusDriver]]:
    async with ModbusServer(link_to("tcp://127.0.0.1:1", TAGS)) as server:
        port = await server.listen()
        link = link_to(f"tcp://127.0.0.1:{port}", TAGS, **device)
        driver = ModbusDriver(link)
        await driver.connect()
        try:
            yield server, link, driver
        finally:
            await driver.close()


async def put(driver: ModbusDriver, link: Link, name: str, value: Any) -> Written:
    (written,) = await driver.write([Write("press", tag_of(link, name), value)])
    return written


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("coil", [True, False, True]), ("int16", [-32768, 1234]), ("float32", [2.5, -1048576.0]),
        ("uint64", [2**64 - 1, 2**53 + 1]), ("bit", [True, False]), ("bits", [9, 0]), ("swapped", [True, False]),
        ("high", [-128, 5]), ("low", [255, 1]), ("text", ["PRESS-1", ""]), ("bcd", [9999, 12]), ("far", [True, False]),
        ("time", ["2026-11-22T01:12:18"]), ("float64", [1e-300]),
    ],
)  # fmt: skip
async def test_what_is_written_is_read_back_and_nothing_beside_it_changes(name: str, values: list[Any]) -> None:
    async with simulated() as (_, link, driver):
        assert isinstance(driver, Writable)
        for other in TAGS:  # written values stay; simulated ones move with time
            if other not in ("coil", "bit", "bits", "swapped", "far"):
                await put(driver, link, other, {"text": "abc", "time": "2024-02-29T12:00:00"}.get(other, 7))
            else:
                await put(driver, link, other, True)
        plan = driver.plan(tables_of(link))
        before = rows(await driver.read(plan))
        previous = before[name][0]
        for value in values:
            written = await put(driver, link, name, value)
            assert (written.before, written.after, written.quality, written.reason) == (previous, value, q.GOOD, "")
            previous = value
        after = rows(await driver.read(plan))
        assert after.pop(name) == (values[-1], q.GOOD)
        before.pop(name)
        assert after == before


async def test_float32_reads_back_as_the_float32_that_it_is() -> None:
    async with simulated() as (_, link, driver):
        written = await put(driver, link, "float32", 0.1)
        assert written.quality == q.GOOD
        assert written.after == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("int16", 40000, "40000 does not fit into holding:100 int16: it holds -32768 to 32767"),
        ("int16", 1.5, "expected a whole number, got 1.5"),
        ("bits", 16, "16 does not fit into holding:107 uint16 bits 4..7: it holds 0 to 15"),
        ("text", "far too long", "'far too long' has 12 bytes, the tag holds 8"),
        ("text", "压力", "'压力' cannot be written in ascii"),
        ("bcd", 10000, "10000 does not fit into holding:114 bcd16: it holds 0 to 9999"),
        ("float32", 1e300, "1e+300 does not fit into float32"),
        ("time", "tomorrow", "expected a time such as 2026-11-22T01:12:18, got 'tomorrow'"),
    ],
)
async def test_a_value_that_does_not_fit_is_refused_before_anything_is_sent(name: str, value: Any, reason: str) -> None:
    async with simulated() as (server, link, driver):
        written = await put(driver, link, name, value)
        assert (written.quality, written.reason) == (q.BAD_OUT_OF_RANGE, reason)
        assert server.requests == 0


async def test_a_device_that_refuses_is_quoted() -> None:
    async with simulated() as (server, link, driver):
        server.faults[1].refused = {("holding", 100)}
        written = await put(driver, link, "int16", 5)
        assert written.quality == q.BAD_NOT_WRITABLE
        assert "exception 02" in written.reason


class Memory:
    """A device with one register, some of whose functions are missing."""

    def __init__(self, *missing: int, silent: int = 0) -> None:
        self.missing, self.silent, self.word, self.writes = missing, silent, 0x00FF, []  # type: ignore[var-annotated]

    def __call__(self, asked: Asked) -> None:
        function = asked.pdu[0]
        if function in self.missing:
            asked.refuse(1)
            return
        if function in (1, 3):
            asked.reply(bytes((3, 2)) + self.word.to_bytes(2, "big") if function == 3 else bytes((1, 1, self.word & 1)))
            return
        self.writes.append(function)
        if function in (6, 16):
            self.word = int.from_bytes(asked.pdu[-2:], "big")
        if function in (5, 15):
            self.word = int(asked.pdu[3] == 0xFF or asked.pdu[-1] == 1)
        if function != self.silent:
            asked.reply(asked.pdu[:5])


@pytest.mark.parametrize(
    ("address", "value", "missing", "writes"),
    [("holding:0", 5, (), [6]), ("holding:0", 5, (6,), [16]), ("coil:0", True, (), [5]), ("coil:0", True, (5,), [15])],
)
async def test_a_device_without_the_single_write_is_given_the_multiple_one(
    address: str, value: Any, missing: tuple[int, ...], writes: list[int]
) -> None:
    memory = Memory(*missing)
    with_tag = {"t": {"address": address, "writable": True}}
    async with Rogue(memory) as rogue:
        link = link_to(rogue.url, with_tag)
        driver = ModbusDriver(link)
        await driver.connect()
        written = await put(driver, link, "t", value)
        await driver.close()
        assert (written.after, written.quality, memory.writes) == (value, q.GOOD, writes)


async def test_a_bit_is_only_written_by_reading_where_the_device_is_said_to_need_it() -> None:
    """Between reading and writing the PLC may change the word; nobody should get that unasked."""
    for keys, quality, writes in (({}, q.BAD_NOT_SUPPORTED, []), ({"bit_writes": "read-modify-write"}, q.GOOD, [6])):
        memory = Memory(22)
        async with Rogue(memory) as rogue:
            link = link_to(rogue.url, {"t": {"address": "holding:0 bit 9", "writable": True}}, **keys)
            driver = ModbusDriver(link)
            await driver.connect()
            written = await put(driver, link, "t", True)
            await driver.close()
        assert (written.quality, memory.writes) == (quality, writes)
        assert memory.word == (0x02FF if writes else 0x00FF)
        assert writes or "bit_writes" in written.reason


async def test_a_write_that_is_not_answered_is_not_repeated_and_what_came_of_it_is_told() -> None:
    memory = Memory(silent=6)
    async with Rogue(memory) as rogue:
        link = link_to(rogue.url, {"t": {"address": "holding:0", "writable": True}}, timeout="300 ms")
        driver = ModbusDriver(link)
        await driver.connect()
        written = await put(driver, link, "t", 5)
        await driver.close()
    assert memory.writes == [6]
    assert (written.before, written.after, written.quality) == (255, 5, q.BAD_TIMEOUT)
    assert "not repeated" in written.reason


SITE = """
gateway: test
data: ./data
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:{port}
    devices:
      press:
        tags:
          pressure: holding:100 uint16
          set-point: {{address: holding:101 uint16, scale: 0.1, unit: bar, writable: {{min: 0, max: 12}}}}
          parts: {{address: holding:103 uint16, writable: true}}
          mode: {{address: holding:102 uint16, states: {{0: manual, 1: automatic}}, writable: true}}
publish: {{cloud: {{url: mqtt://127.0.0.1:1}}}}
"""


async def test_the_command_says_what_was_there_and_refuses_with_the_reason(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(write)
    tags = {"pressure": "holding:100", "set-point": "holding:101", "mode": "holding:102"}
    async with ModbusServer(link_to("tcp://127.0.0.1:1", tags)) as server:
        site = tmp_path / "site.yaml"
        site.write_text(SITE.format(port=await server.listen()))

        async def run(*arguments: str) -> Any:
            return await asyncio.to_thread(CliRunner().invoke, app, [str(site), "press", *arguments])

        first = await run("set-point=4.5")
        assert first.exit_code == 0, first.output
        second = await run("set-point=5", "mode=automatic")
        assert second.exit_code == 0, second.output
        assert "press/set-point: was 4.5 bar, is 5 bar" in second.output
        assert ", is 1 (automatic)" in second.output
        before = server.requests
        for argument, reason in (
            ("set-point=12.1", "set-point may be set from 0 to 12 bar, not to 12.1; nothing was written"),
            (
                "pressure=1",
                "pressure is not writable (its tag needs the key writable, with limits); nothing was written",
            ),
            (
                "mode=70000",
                "mode has no state 70000: it has {0: 'manual', 1: 'automatic'}; nothing was written",
            ),
            ("set-pont=1", "press has no tag set-pont, did you mean set-point?"),
        ):
            refused = await run(argument)
            assert isinstance(refused.exception, Refused)
            assert str(refused.exception) == reason
        # all are checked before the first is written, the limits of their types too
        refused = await run("set-point=6", "parts=70000")
        assert isinstance(refused.exception, Refused)
        assert "70000 does not fit into holding:103 uint16: it holds 0 to 65535; nothing was written" in str(
            refused.exception
        )
        assert server.requests == before
