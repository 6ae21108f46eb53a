"""What an engineer on site needs: who is on this line, and what do these registers mean."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from drivers.modbus.probe import meanings
from gateway.cli.read import read
from gateway.cli.scan import scan, unit_ids
from simulators.modbus import ModbusServer
from tests.modbus_links import link_of
from tests.modbus_rogue import Asked, Rogue


async def run(command: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


def plant() -> ModbusServer:
    devices = {
        "a": {"unit_id": 1, "tags": {"x": "holding:0 float32 CDAB"}},
        "b": {"unit_id": 7, "tags": {"y": "input:9"}},
    }
    return ModbusServer(link_of("tcp://127.0.0.1:1", devices))


@pytest.mark.parametrize("framing", ["mbap", "rtu"])
async def test_a_scan_finds_the_units_and_their_names(framing: str) -> None:
    async with plant() as server:
        port = await server.listen(framing=framing)
        url = f"{'tcp' if framing == 'mbap' else 'rtu+tcp'}://127.0.0.1:{port}"
        found = await run(scan, url, "--units", "5..8,1", "--timeout", "300 ms", "--pause", "1 ms", "--json")
        assert found.exit_code == 0, found.output
        import orjson

        body = orjson.loads(found.stdout)
        assert body["asked"] == 5
        assert [unit["unit"] for unit in body["units"]] == [7, 1]
        assert body["units"][0]["names"] == {"vendor": "PlantBridge", "product": "SIM", "revision": "1.0"}


async def test_a_scan_without_answer_exits_1_and_one_that_takes_too_long_ends() -> None:
    async with Rogue(lambda _: None) as rogue:
        found = await run(scan, rogue.url, "--units", "1..2", "--timeout", "50 ms")
        assert found.exit_code == 1
        assert "0 of 2 unit ids answer" in found.output
        found = await run(scan, rogue.url, "--units", "1..247", "--timeout", "60 s", "--longest", "200 ms")
        assert found.exit_code == 1
        assert "time is up" in found.output


async def test_a_device_that_hangs_up_over_other_unit_ids_is_found_all_the_same() -> None:
    """Some do so for every id but their own, and over the question for their identification too."""

    def behave(asked: Asked) -> None:
        asked.reply() if asked.unit == 3 and asked.pdu[0] == 3 else asked.close()

    async with Rogue(behave) as rogue:
        found = await run(scan, rogue.url, "--units", "1..5", "--pause", "0 ms")
        assert found.exit_code == 0, found.output
        assert "1 of 5 unit ids answer" in found.output
        assert "unit 2: the connection ended: the peer closed the connection" in found.output


async def test_a_unit_that_answers_too_late_for_a_scan_is_told() -> None:
    def behave(asked: Asked) -> None:
        if asked.unit == 2:
            asked.reply(unit=1)

    async with Rogue(behave, "rtu") as rogue:
        found = await run(scan, rogue.url, "--units", "1,2", "--timeout", "300 ms", "--pause", "0 ms")
        assert found.exit_code == 1
        assert "unit 2: an answer from unit 1 instead of 2 was dropped" in found.output


def test_unit_ids_are_ranges_or_lists() -> None:
    assert unit_ids("1..3,17", "rtu:///dev/x") == [1, 2, 3, 17]
    assert unit_ids(None, "rtu:///dev/x") == list(range(1, 248))
    assert unit_ids(None, "tcp://h")[-2:] == [255, 0]
    for wrong in ("a", "5..2", "1..300", ""):
        with pytest.raises(typer.BadParameter):
            unit_ids(wrong, "tcp://h")


async def test_a_register_is_shown_in_every_type_and_order_and_an_address_with_type_as_its_value() -> None:
    async with Rogue() as rogue:
        rogue.behave = lambda asked: asked.reply(
            b"\x03" + bytes((2 * asked.count,)) + bytes.fromhex("c000423a41420000")[: 2 * asked.count]
        )
        found = await run(read, rogue.url, "holding:100", "holding:100 float32 CDAB", "40101 uint16")
        assert found.exit_code == 0, found.output
        assert "c000 423a 4142 0000" in found.output
        assert "46.6875 *" in found.output
        assert "holding:100 float32 CDAB = 46.6875" in found.output
        assert "40101 uint16 = 49152\n" in found.output


async def test_what_is_not_read_says_why_and_exits_1() -> None:
    async with Rogue(lambda asked: asked.refuse(2)) as rogue:
        found = await run(read, rogue.url, "holding:100")
        assert found.exit_code == 1
        assert "holding:100: refused with exception 02, illegal address" in found.output
    async with Rogue(lambda _: None) as rogue:
        found = await run(read, rogue.url, "holding:100", "holding:100 int16", "--timeout", "50 ms")
        assert found.exit_code == 1
        assert "no answer within 0.05 s" in found.output


async def test_a_typed_address_waits_as_long_as_it_is_told_and_says_why_it_is_bad() -> None:
    async with Rogue(lambda _: None) as rogue:
        found = await run(read, rogue.url, "holding:100 int16", "--timeout", "50 ms")
        assert "did not answer within 0.05 s" in found.output
        rogue.behave = lambda asked: asked.refuse(2)
        found = await run(read, rogue.url, "holding:100 int16")
        assert found.exit_code == 1
        assert "holding:100 int16: BadConfigurationError: the device refuses the address" in found.output


async def test_a_coil_is_one_coil_unless_more_are_asked_for() -> None:
    async with Rogue() as rogue:
        assert (await run(read, rogue.url, "coil:5")).output == "coil:5 = True\n"
        assert (await run(read, rogue.url, "coil:5", "--count", "2")).output.splitlines() == [
            "coil:5[0] = True",
            "coil:5[1] = False",
        ]


async def test_a_duration_without_unit_is_a_usage_error() -> None:
    for command, arguments in ((read, ("tcp://h", "holding:1", "--timeout", "5")), (scan, ("tcp://h", "--pause", "1"))):
        found = await run(command, *arguments)
        assert found.exit_code == 2
        assert "expected a duration with a unit" in found.output


async def test_a_link_of_a_site_file_is_asked_with_all_its_keys(tmp_path: Path) -> None:
    """A TLS link, or one that needs a pause after connecting, cannot be asked by its URL alone."""
    async with Rogue(lambda asked: asked.reply(transaction=0)) as rogue:
        site = tmp_path / "site.yaml"
        site.write_text(
            f"gateway: g\nlinks: {{line: {{driver: modbus, url: '{rogue.url}', transactions: ignored,"
            " devices: {d: {tags: {t: 'holding:1'}}}}}\n",
            "utf-8",
        )
        found = await run(read, "line", "holding:7 uint16", "--site", str(site))
        assert found.output == "holding:7 uint16 = 7\n"
        found = await run(scan, "line", "--site", str(site), "--units", "1")
        assert "1 of 1 unit ids answer" in found.output
        found = await run(read, "lime", "holding:7 uint16", "--site", str(site))
        assert found.exit_code == 2
        assert "it has line" in " ".join(found.output.split())


async def test_an_address_or_url_that_is_none_is_a_usage_error() -> None:
    for arguments, fragment in ((("tcp://h", "hodling:1"), "holding"), (("tpc://h", "holding:1"), "tcp://")):
        found = await run(read, *arguments)
        assert found.exit_code == 2
        assert fragment in found.output


@pytest.mark.parametrize(
    ("data", "type_", "order", "value"),
    [
        (struct.pack(">f", 23.5), "float32", "ABCD", "23.5"),
        (struct.pack(">HH", 0x0000, 0x41BC), "float32", "CDAB", "23.5"),
        (struct.pack("<f", 23.5), "float32", "DCBA", "23.5"),
        (struct.pack(">i", -1500), "int32", "ABCD", "-1500"),
        (b"\x07\x00", "uint16", "BA", "7"),
        ((1764000000).to_bytes(4, "big"), "unix32", "ABCD", "2025-11-24T16:00:00Z"),
        (b"PUMP", "text", "AB", "'PUMP'"),
    ],
)
def test_the_right_meaning_is_among_the_plausible_ones(data: bytes, type_: str, order: str, value: str) -> None:
    found = [each for each in meanings(data) if each.plausible]
    assert (type_, order, value) in {(each.type, each.order, each.value) for each in found}
    assert len(found) <= 3


@pytest.mark.parametrize("value", [233.3125, 183.37, 0.021, 49.98, -12.5, 1480.25])
@pytest.mark.parametrize("order", ["ABCD", "CDAB"])
def test_a_plain_float_is_not_lost_among_stars(value: float, order: str) -> None:
    """Another float behind it, as in most lists, tells the order."""
    words = [struct.pack(">f", each) for each in (value, 21.7)]
    data = b"".join(each if order == "ABCD" else each[2:] + each[:2] for each in words)
    found = [each for each in meanings(data) if each.plausible]
    assert ("float32", order) in {(each.type, each.order) for each in found}
    assert len(found) <= 3
