"""A Modbus driver among misbehaving peers: no wrong value, no lost neighbours, and a reason in words."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drivers.modbus.driver import ModbusDriver
from drivers.modbus.plan import ModbusPlan
from drivers.modbus.scan import PROBE_EVERY
from gateway import quality as q
from gateway.config import load_site
from gateway.errors import NoAnswer, NotConnected, ProtocolError
from gateway.model import Link
from simulators.modbus import ModbusServer
from tests.modbus_links import link_of, link_to, rows, tables_of
from tests.modbus_rogue import Asked, Rogue, crc
from tests.servers import certificates

TAGS = {f"t{address}": f"holding:{address}" for address in range(40)}
SHORT = "250 ms"  # for peers that do not answer; those that do have 2 s


@asynccontextmanager
async def opened(
    link: Link, clock: Callable[[], int] | None = None, interval: float | None = None
) -> AsyncIterator[ModbusDriver]:
    if interval is not None:
        groups = [replace(group, interval=int(interval * 1e9)) for group in link.devices[0].groups]
        link = replace(link, devices=(replace(link.devices[0], groups=tuple(groups)),))
    driver = ModbusDriver(link) if clock is None else ModbusDriver(link, clock)
    try:
        await driver.connect()
        yield driver
    finally:
        await driver.close()


async def read(driver: ModbusDriver, plan: ModbusPlan) -> dict[str, tuple[Any, int]]:
    return rows(await driver.read(plan))


def check(found: dict[str, tuple[Any, int]], step: int = 0) -> set[str]:
    """No good row may hold anything but its register; give the names of the good ones."""
    good = {name for name, (_, quality) in found.items() if quality == q.GOOD}
    for name in good:
        assert found[name][0] == int(name[1:]) + step, name
    return good


async def left(rogue: Rogue) -> None:
    """Wait until nobody is connected."""
    async with asyncio.timeout(20):
        while any(each.open for each in rogue.connections):
            await asyncio.sleep(0.005)


async def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    """Elsewhere transactions stay one answer behind from then on, and every tag shows another's value."""

    def behave(asked: Asked) -> None:
        if asked.number == 1:
            asked.later(0.4, asked.frame(asked.truth()))  # comes while the next request waits
        elif asked.number == 2:
            asked.later(0.2, asked.frame(asked.truth()))
        else:
            asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout="300 ms", retries=0)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            found = await read(driver, plan)
            assert {name for name in TAGS if 10 <= int(name[1:]) < 20}.isdisjoint(check(found))
            rogue.behave = Asked.reply
            rogue.step = 1000
            assert check(await read(driver, plan), 1000) == set(TAGS)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda asked: asked.reply(transaction=asked.transaction + 1 & 0xFFFF), "transaction"),
        (lambda asked: asked.reply(unit=9), "unit 9 instead of 1"),
        (lambda asked: asked.reply(pdu=b"\x04" + asked.truth()[1:]), "does not fit"),
        (lambda asked: asked.reply(pdu=asked.truth()[:-2]), "does not fit"),
        (lambda asked: asked.reply(pdu=bytes((3, 2)) + b"\xff\xff"), "does not fit"),
        (lambda asked: asked.raw(asked.frame(asked.truth())[:-3]), "did not answer within 0.25 s"),
        (lambda asked: None, "did not answer within 0.25 s"),
    ],
    ids=["transaction", "unit", "function", "length", "count", "cut", "silence"],
)
async def test_what_does_not_answer_the_request_is_no_answer(wrong: Callable[[Asked], None], reason: str) -> None:
    async with Rogue(wrong) as rogue:
        link = link_to(rogue.url, TAGS, timeout=SHORT)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            with pytest.raises(NoAnswer, match=reason):
                await driver.read(plan)


async def test_a_frame_cut_short_costs_its_tags_and_at_most_the_connection() -> None:
    def behave(asked: Asked) -> None:
        if asked.number == 1:
            asked.raw(asked.frame(asked.truth())[:-5])
        else:
            asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT, retries=0)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            with pytest.raises(ProtocolError):
                check(await read(driver, plan))
            await driver.connect()
            assert check(await read(driver, plan)) == set(TAGS)


async def test_a_frame_cut_short_is_not_filled_up_with_a_late_answer_in_the_same_segment() -> None:
    """Its header and length are right, and it arrives in one piece; only what is inside gives it away."""
    late = b""

    def behave(asked: Asked) -> None:
        nonlocal late
        frame = asked.frame(asked.truth())
        if asked.number == 1:
            late = frame
        elif asked.number == 2:
            asked.raw(frame[: -len(late)] + late)
        else:
            asked.reply()

    async with Rogue(behave) as rogue:
        tags = {"t0": "holding:0", "t20": "holding:20", **{f"t{a}": f"holding:{a}" for a in range(40, 60)}}
        link = link_to(rogue.url, tags, max_gap=0, timeout=SHORT)
        async with opened(link, interval=60) as driver:
            found = await read(driver, driver.plan(tables_of(link)))
            assert check(found) == set(tags)
            assert len(rogue.connections) == 2


async def test_a_frame_cut_short_costs_nothing_where_the_connection_may_be_made_again() -> None:
    def behave(asked: Asked) -> None:
        if asked.number == 1:
            asked.raw(asked.frame(asked.truth())[:-5])
        else:
            asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT)
        async with opened(link) as driver:
            assert check(await read(driver, driver.plan(tables_of(link)))) == set(TAGS)
            assert len(rogue.connections) == 2


async def test_a_peer_that_spoils_every_connection_is_given_up_after_its_retries() -> None:
    answered: list[Asked] = []

    def spoil(asked: Asked) -> None:
        """Answer the first request of each connection only."""
        if len(answered) < len(rogue.connections):
            answered.append(asked)
            asked.reply()
        else:
            asked.raw(b"\xff" * 12)

    async with Rogue(spoil) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=5, timeout=SHORT, retries=2)
        async with opened(link) as driver:
            with pytest.raises(ProtocolError):
                await read(driver, driver.plan(tables_of(link)))
            assert len(rogue.connections) == 3


async def test_extra_bytes_behind_every_answer_are_survived() -> None:
    def behave(asked: Asked) -> None:
        asked.raw(asked.frame(asked.truth()) + b"\0\0\xbe\xef\0\0")

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            for _ in range(3):
                assert check(await read(driver, plan)) == set(TAGS)


async def test_garbage_in_the_stream_ends_the_connection() -> None:
    async with Rogue(lambda asked: asked.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as rogue:
        link = link_to(rogue.url, TAGS)
        async with opened(link) as driver:
            with pytest.raises(ProtocolError, match="the peer speaks HTTP"):
                await driver.read(driver.plan(tables_of(link)))


async def test_an_answer_in_pieces_is_one_answer() -> None:
    def behave(asked: Asked) -> None:
        frame = asked.frame(asked.truth())
        for number, at in enumerate(range(0, len(frame), 7)):
            asked.later(0.01 * number, frame[at : at + 7])

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS)
        async with opened(link) as driver:
            assert check(await read(driver, driver.plan(tables_of(link)))) == set(TAGS)


@pytest.mark.parametrize("how", [Asked.close, Asked.abort])
async def test_a_device_that_closes_after_each_answer_is_read_in_full(how: Callable[[Asked], None]) -> None:
    """Small gateways do that; a session per request is slow, but every scan is complete."""

    def behave(asked: Asked) -> None:
        asked.reply()
        asyncio.get_running_loop().call_later(0.02, how, asked)

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, pause_between_requests="50 ms")
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            for _ in range(2):
                assert check(await read(driver, plan)) == set(TAGS)
            assert len(rogue.connections) >= 8


async def test_a_connection_that_ends_before_any_answer_is_not_connected() -> None:
    async with Rogue(Asked.close) as rogue:
        link = link_to(rogue.url, TAGS)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            with pytest.raises(NotConnected):
                await driver.read(plan)
            assert len(rogue.asked) == 1


async def test_a_device_for_one_client_is_left_when_idle_so_that_others_can_come() -> None:
    async with Rogue() as rogue:
        rogue.one_client = True
        link = link_to(rogue.url, TAGS, link={"close_after_idle": "20 ms"})
        async with opened(link) as first:
            plan = first.plan(tables_of(link))
            assert check(await read(first, plan)) == set(TAGS)
            await left(rogue)
            async with opened(link) as second:
                assert check(await read(second, second.plan(tables_of(link)))) == set(TAGS)
                await left(rogue)
                assert check(await read(first, plan)) == set(TAGS)  # connects again by itself


async def test_a_device_for_one_client_that_is_taken_is_not_connected() -> None:
    async with Rogue() as rogue:
        rogue.one_client = True
        link = link_to(rogue.url, TAGS)
        async with opened(link) as first:
            assert check(await read(first, first.plan(tables_of(link)))) == set(TAGS)
            second = ModbusDriver(link)
            plan = second.plan(tables_of(link))

            async def try_it() -> None:
                await second.connect()
                await second.read(plan)

            with pytest.raises(NotConnected):
                await try_it()
            await second.close()


async def test_a_half_open_connection_raises_within_the_timeout() -> None:
    async with Rogue(lambda _: None) as rogue:
        link = link_to(rogue.url, TAGS, timeout=SHORT)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            async with asyncio.timeout(20):
                with pytest.raises(NoAnswer):
                    await driver.read(plan)
            assert len(rogue.asked) == 1  # one request, not one per block


@pytest.mark.parametrize("framing", ["mbap", "rtu"])
async def test_a_silent_unit_does_not_disturb_its_neighbours(framing: str) -> None:
    def behave(asked: Asked) -> None:
        if asked.unit != 2:
            asked.reply()

    async with Rogue(behave, framing) as rogue:
        devices = {f"d{unit}": {"unit_id": unit, "timeout": SHORT, "tags": TAGS} for unit in (1, 2, 3)}
        link = link_of(rogue.url, devices)
        async with opened(link) as driver:
            plans = [driver.plan(tables_of(link, number)) for number in range(3)]
            for _ in range(2):
                assert check(await read(driver, plans[0])) == set(TAGS)
                with pytest.raises(NoAnswer, match="d2"):
                    await driver.read(plans[1])
                assert check(await read(driver, plans[2])) == set(TAGS)


async def test_a_request_without_answer_costs_its_tags_and_two_in_a_row_end_the_scan() -> None:
    def behave(asked: Asked) -> None:
        if asked.address not in silent:
            asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT, retries=0)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            silent = {10}
            found = await read(driver, plan)
            assert check(found) == {name for name in TAGS if not 10 <= int(name[1:]) < 20}
            assert found["t10"][1] == q.BAD_TIMEOUT
            silent = {10, 20}
            before = len(rogue.asked)
            found = await read(driver, plan)
            assert check(found) == {name for name in TAGS if int(name[1:]) < 10}
            assert found["t35"][1] == q.BAD_TIMEOUT
            assert len(rogue.asked) - before == 3


@pytest.mark.parametrize("late", [0.3, 0.4, 0.45])
async def test_on_a_serial_line_late_answers_are_drained_before_the_next_request(late: float) -> None:
    """RTU answers carry neither address nor transaction: a late one would be taken for the next."""

    def behave(asked: Asked) -> None:
        if asked.number == 1:
            asked.later(late, asked.frame(asked.truth()))
        else:
            asked.reply()

    async with Rogue(behave, "rtu") as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT, retries=0)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            found = await read(driver, plan)
            assert check(found) == {name for name in TAGS if not 10 <= int(name[1:]) < 20}
            rogue.step = 1000
            assert check(await read(driver, plan), 1000) == set(TAGS)


async def test_a_wrong_checksum_costs_its_tags_and_not_the_timeout() -> None:
    def behave(asked: Asked) -> None:
        frame = asked.frame(asked.truth())
        asked.raw(frame[:-1] + bytes((frame[-1] ^ 1,)) if asked.number == 1 else frame)

    async with Rogue(behave, "rtu") as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout="60 s", retries=0)
        async with opened(link) as driver:
            async with asyncio.timeout(30):  # half of the timeout
                found = await read(driver, driver.plan(tables_of(link)))
            assert check(found) == {name for name in TAGS if not 10 <= int(name[1:]) < 20}


@pytest.mark.parametrize("how", ["silent", "damaged", "busy", "late"])
@pytest.mark.parametrize("framing", ["mbap", "rtu"])
async def test_what_is_lost_in_the_middle_of_a_scan_is_asked_again_in_the_same_scan(how: str, framing: str) -> None:
    """Interference on a line costs a few answers an hour; none of them should be missing from the data."""

    def behave(asked: Asked) -> None:
        if asked.number != 1:
            asked.reply()
        elif how == "busy":
            asked.refuse(6)
        elif how == "damaged":
            asked.raw(asked.frame(asked.truth())[:-1] + b"\x00" if framing == "rtu" else b"")
        elif how == "late":
            asked.later(0.3, asked.frame(asked.truth()))

    async with Rogue(behave, framing) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT)
        async with opened(link, interval=60) as driver:
            found = await read(driver, driver.plan(tables_of(link)))
            assert check(found) == set(TAGS)
            assert [asked.address for asked in rogue.asked] == [0, 10, 20, 30, 10]


async def test_what_is_lost_scan_after_scan_is_asked_once_a_scan() -> None:
    """Some devices do not answer illegal addresses; asking them twice each time would take the line from the others."""

    def behave(asked: Asked) -> None:
        if asked.address != 10:
            asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT, retries=2)
        async with opened(link, interval=60) as driver:
            plan = driver.plan(tables_of(link))
            for asked in (4 + 2, 4, 4):
                before = len(rogue.asked)
                found = await read(driver, plan)
                assert found["t10"][1] == q.BAD_TIMEOUT
                assert check(found) == {name for name in TAGS if not 10 <= int(name[1:]) < 20}
                assert len(rogue.asked) - before == asked


async def test_there_is_no_second_try_where_the_next_scan_would_have_to_wait_for_it() -> None:
    def behave(asked: Asked) -> None:
        if asked.address != 10:
            asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT)
        async with opened(link, interval=0.2) as driver:
            found = await read(driver, driver.plan(tables_of(link)))
            assert found["t10"][1] == q.BAD_TIMEOUT
            assert len(rogue.asked) == 4


async def test_a_request_that_ends_every_connection_costs_its_own_tags() -> None:
    """Small devices hang up where others answer 02."""

    def behave(asked: Asked) -> None:
        asked.abort() if asked.address == 10 else asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, timeout=SHORT)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            found = await read(driver, plan)
            assert found["t10"][1] == q.BAD_COMMUNICATION_ERROR
            assert check(found) == {name for name in TAGS if not 10 <= int(name[1:]) < 20}


async def test_a_serial_adapter_that_echoes_is_heard_through() -> None:
    """RS-485 adapters without direction control send back what they are sent."""

    def behave(asked: Asked) -> None:
        body = bytes((asked.unit,)) + asked.pdu
        asked.raw(body + crc(body))
        asked.later(0.01, asked.frame(asked.truth()))

    async with Rogue(behave, "rtu") as rogue:
        link = link_to(rogue.url + "&echo=1", TAGS, max_registers=10)
        async with opened(link) as driver:
            assert check(await read(driver, driver.plan(tables_of(link)))) == set(TAGS)


# ---------------------------------------------------------------------------------------- exceptions


async def test_illegal_addresses_are_found_by_halves_and_their_neighbours_miss_no_scan() -> None:
    illegal = {7, 21}

    def behave(asked: Asked) -> None:
        if illegal & set(range(asked.address, asked.address + asked.count)):
            asked.refuse(2)
        else:
            asked.reply()

    now = 0
    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS)
        async with opened(link, lambda: now) as driver:
            plan = driver.plan(tables_of(link))
            found = await read(driver, plan)  # the very first scan
            assert check(found) == set(TAGS) - {"t7", "t21"}
            assert found["t7"][1] == found["t21"][1] == q.BAD_CONFIGURATION_ERROR
            before = len(rogue.asked)
            for rogue.step in (1, 2):
                assert check(await read(driver, plan), rogue.step) == set(TAGS) - {"t7", "t21"}
            assert len(rogue.asked) - before == 2 * 3  # 0..6, 8..20, 22..39, and no more trying
            now = PROBE_EVERY - 1
            await read(driver, plan)
            assert len(rogue.asked) - before == 3 * 3
            now = PROBE_EVERY + 1
            found = await read(driver, plan)  # tried again, in vain
            assert check(found, 2) == set(TAGS) - {"t7", "t21"}
            assert len(rogue.asked) - before == 3 * 3 + 5
            illegal.clear()  # somebody configured the device
            now = 3 * PROBE_EVERY
            assert check(await read(driver, plan), 2) == set(TAGS)
            before = len(rogue.asked)
            assert check(await read(driver, plan), 2) == set(TAGS)
            assert len(rogue.asked) - before == 1  # one block again


async def test_a_device_that_takes_fewer_registers_than_allowed_is_read_in_smaller_pieces() -> None:
    """Drives allow 12 or 16 registers; their manuals hide it well."""

    def behave(asked: Asked) -> None:
        asked.refuse(3) if asked.count > 12 else asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            assert check(await read(driver, plan)) == set(TAGS)
            before = len(rogue.asked)
            assert check(await read(driver, plan)) == set(TAGS)
            assert len(rogue.asked) - before == 4


async def test_a_hole_between_tags_is_left_out_from_then_on() -> None:
    def behave(asked: Asked) -> None:
        hole = set(range(asked.address, asked.address + asked.count)) & {15}
        asked.refuse(2) if hole else asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, {"t10": "holding:10", "t20": "holding:20"})
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            assert len(plan.blocks) == 1
            assert check(await read(driver, plan)) == {"t10", "t20"}
            before = len(rogue.asked)
            assert check(await read(driver, plan)) == {"t10", "t20"}
            assert len(rogue.asked) - before == 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0x01, q.BAD_CONFIGURATION_ERROR), (0x02, q.BAD_CONFIGURATION_ERROR), (0x03, q.BAD_CONFIGURATION_ERROR),
        (0x04, q.BAD_DEVICE_FAILURE), (0x05, q.BAD_RESOURCE_UNAVAILABLE), (0x06, q.BAD_RESOURCE_UNAVAILABLE),
        (0x07, q.BAD_DEVICE_FAILURE), (0x08, q.BAD_DEVICE_FAILURE), (0x0B, q.BAD_TIMEOUT), (0x44, q.BAD_TIMEOUT),
        (0x63, q.BAD_COMMUNICATION_ERROR),
    ],
)  # fmt: skip
async def test_an_exception_concerns_its_tags_only(code: int, status: int) -> None:
    def behave(asked: Asked) -> None:
        asked.refuse(code) if asked.pdu[0] == 4 else asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, {**TAGS, "t100": "input:100"})
        now = 0
        async with opened(link, lambda: now) as driver:
            plan = driver.plan(tables_of(link))
            for _ in range(2):
                found = await read(driver, plan)
                assert check(found) == set(TAGS)
                assert found["t100"][1] == status
            asked = sum(each.pdu[0] == 4 for each in rogue.asked)
            once = status in (q.BAD_CONFIGURATION_ERROR, q.BAD_DEVICE_FAILURE)  # set aside; backed off
            assert asked == (1 if once else 2 if code == 0x63 else 3)  # busy and silent: again, in the first scan


async def test_a_block_the_device_fails_at_is_asked_in_growing_pauses_until_it_answers() -> None:
    def behave(asked: Asked) -> None:
        asked.refuse(4) if asked.pdu[0] == 4 else asked.reply()

    now = 0
    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, {**TAGS, "t100": "input:100"})
        async with opened(link, lambda: now) as driver:
            plan = driver.plan(tables_of(link))
            scans = []
            for scan in range(100):
                now = scan * 1_000_000_000
                found = await read(driver, plan)
                assert check(found) == set(TAGS)
                assert found["t100"][1] == q.BAD_DEVICE_FAILURE
                if rogue.asked[-1].pdu[0] == 4:
                    scans.append(scan)
            assert scans == [0, 1, 2, 4, 8, 16, 32, 62, 92]  # 0.5 s doubled, at most 30 s
            rogue.behave = Asked.reply
            now += 30_000_000_000
            for _ in range(2):
                assert check(await read(driver, plan)) == {*TAGS, "t100"}


async def test_a_device_that_refuses_everything_does_not_hold_up_its_line() -> None:
    """After a change of firmware hundreds of requests would be needed to find that out at once."""
    tags = {f"t{address}": f"holding:{address}" for address in range(125)}

    async with Rogue(lambda asked: asked.refuse(2)) as rogue:
        link = link_to(rogue.url, tags)
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            for _ in range(6):
                before = len(rogue.asked)
                found = await read(driver, plan)
                assert {quality for _, quality in found.values()} == {q.BAD_CONFIGURATION_ERROR}
                assert len(rogue.asked) - before < 200
            assert len(rogue.asked) == before  # nothing is left to be asked


@pytest.mark.parametrize(("code", "status"), [(0x04, q.BAD_DEVICE_FAILURE), (0x0B, q.BAD_NO_COMMUNICATION)])
async def test_a_device_that_only_fails_is_taken_out_of_the_rotation(code: int, status: int) -> None:
    async with Rogue(lambda asked: asked.refuse(code)) as rogue:
        link = link_to(rogue.url, TAGS)
        async with opened(link) as driver:
            with pytest.raises(NoAnswer) as failure:
                await driver.read(driver.plan(tables_of(link)))
            assert failure.value.status == status


async def test_a_gateway_without_its_serial_line_is_one_alarm_for_all_units() -> None:
    async with Rogue(lambda asked: asked.refuse(0x0A)) as rogue:
        link = link_of(rogue.url, {f"d{unit}": {"unit_id": unit, "tags": TAGS} for unit in (1, 2, 3)})
        async with opened(link) as driver:
            plans = [driver.plan(tables_of(link, number)) for number in range(3)]
            with pytest.raises(NotConnected, match="no path"):
                await driver.read(plans[0])


async def test_a_gateway_without_one_of_its_serial_lines_keeps_the_units_of_the_other() -> None:
    def behave(asked: Asked) -> None:
        asked.refuse(0x0A) if asked.unit < 3 else asked.reply()

    async with Rogue(behave) as rogue:
        link = link_of(rogue.url, {f"d{unit}": {"unit_id": unit, "tags": TAGS} for unit in (1, 2, 3)})
        async with opened(link) as driver:
            plans = [driver.plan(tables_of(link, number)) for number in range(3)]
            for number in (0, 1):
                with pytest.raises(NoAnswer, match="no path"):
                    await driver.read(plans[number])
            assert check(await read(driver, plans[2])) == set(TAGS)


# ------------------------------------------------------------------------------------------ settings


async def test_pauses_are_kept_after_connecting_and_between_requests() -> None:
    async with Rogue() as rogue:
        link = link_to(
            rogue.url, TAGS, max_registers=10, pause_between_requests="50 ms", link={"pause_after_connect": "80 ms"}
        )
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with opened(link) as driver:
            plan = driver.plan(tables_of(link))
            assert check(await read(driver, plan)) == set(TAGS)
            assert check(await read(driver, plan)) == set(TAGS)
        assert rogue.times[0] - started >= 0.079
        gaps = [after - before for before, after in zip(rogue.times, rogue.times[1:], strict=False)]
        assert len(gaps) == 7
        assert min(gaps) >= 0.049


async def test_devices_that_echo_no_transaction_are_read_when_told_so() -> None:
    async with Rogue(lambda asked: asked.reply(transaction=0)) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=10, link={"transactions": "ignored"})
        async with opened(link) as driver:
            assert check(await read(driver, driver.plan(tables_of(link)))) == set(TAGS)


async def test_a_connection_leaves_from_the_address_it_is_told_to() -> None:
    async with Rogue() as rogue:
        link = link_to(rogue.url, TAGS, link={"local_address": "127.0.0.9"})
        async with opened(link) as driver:
            assert check(await read(driver, driver.plan(tables_of(link)))) == set(TAGS)
            assert rogue.connections[0].transport.get_extra_info("peername")[0] == "127.0.0.9"


async def test_each_answer_has_the_time_of_its_own_arrival() -> None:
    """Two blocks stamped alike would hide that one of them waited."""

    def behave(asked: Asked) -> None:
        asked.later(0.05, asked.frame(asked.truth()))

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, TAGS, max_registers=20)
        async with opened(link) as driver:
            (batch,) = await driver.read(driver.plan(tables_of(link)))
            assert batch.time[39] - batch.time[0] >= 45_000_000
            assert (batch.time[:20] == batch.time[0]).all()


# ------------------------------------------------------------------------------------------ other transports


async def test_ipv6_is_an_address_like_any_other() -> None:
    async with ModbusServer(link_to("tcp://[::1]:1", TAGS)) as server:
        port = await server.listen(host="::1")
        link = link_to(f"tcp://[::1]:{port}", TAGS)
        async with opened(link) as driver:
            found = await read(driver, driver.plan(tables_of(link)))
            assert {quality for _, quality in found.values()} == {q.GOOD}


async def test_a_certificate_of_somebody_else_is_refused_with_the_reason(tmp_path: Path) -> None:
    """An encrypted line to nobody knows whom is no protection; verify: false has to be asked for."""
    made, other = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    async with ModbusServer(link_to("tcp://h", TAGS)) as server:
        port = await server.listen(tls=context)
        for tls, good in (
            ({"ca": made.ca}, True),
            ({"ca": other.ca}, False),
            ({"ca": made.ca, "server_name": "plc.example"}, False),
            ({"ca": other.ca, "verify": False}, True),
            ({"ca": str(tmp_path / "none.pem")}, False),
        ):
            link = link_to(f"tls://127.0.0.1:{port}", TAGS, link={"tls": tls})
            if good:
                async with opened(link) as driver:
                    found = await read(driver, driver.plan(tables_of(link)))
                    assert {quality for _, quality in found.values()} == {q.GOOD}
            else:
                reason = "none.pem" if "none.pem" in tls["ca"] else "certificate verify failed"
                with pytest.raises(NotConnected, match=rf"cannot connect to 127\.0\.0\.1.*{reason}"):
                    await ModbusDriver(link).connect()


def test_certificates_lie_beside_the_site_file(tmp_path: Path) -> None:
    """Elsewhere they are looked for where the daemon was started: at a prompt it works, as a service it does not."""
    site = tmp_path / "site.yaml"
    tls = "{ca: pki/ca.pem, certificate: pki/own.pem, key: /etc/own.key}"
    devices = "{d: {tags: {t: 'holding:1'}}}"
    site.write_text(
        f"gateway: g\nlinks: {{l: {{driver: modbus, url: 'tls://h', tls: {tls}, devices: {devices}}}}}\n", "utf-8"
    )
    options = load_site(site).links[0].options.tls
    assert (options.ca, options.certificate) == (str(tmp_path / "pki/ca.pem"), str(tmp_path / "pki/own.pem"))
    assert options.key == "/etc/own.key"


class Datagrams(asyncio.DatagramProtocol):
    """A device that answers each datagram with several."""

    def __init__(self, answers: Callable[[bytes], list[bytes]]) -> None:
        self.answers = answers

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for answer in self.answers(data):
            self.transport.sendto(answer, addr)


async def test_datagrams_that_do_not_answer_are_dropped_one_by_one() -> None:
    def answers(request: bytes) -> list[bytes]:
        start, count = int.from_bytes(request[8:10], "big"), int.from_bytes(request[10:12], "big")
        data = b"".join(address.to_bytes(2, "big") for address in range(start, start + count))
        right = request[:4] + (3 + len(data)).to_bytes(2, "big") + request[6:8] + bytes((len(data),)) + data
        late = bytes((request[0] ^ 0x55,)) + right[1:9] + bytes(len(data))
        other = right[:6] + b"\x09" + right[7:9] + bytes(len(data))
        return [b"", b"\xff" * 300, late, other, right[:-1], right[:9] + bytes(len(data) - 1), right, right]

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Datagrams(answers), local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    link = link_to(f"udp://127.0.0.1:{port}", TAGS, max_registers=10)
    async with opened(link) as driver:
        plan = driver.plan(tables_of(link))
        for _ in range(3):
            assert check(await read(driver, plan)) == set(TAGS)
    transport.close()


async def test_a_serial_port_that_is_not_there_says_so() -> None:
    link = link_to("rtu:///dev/ttyNOBODY?baud=9600", TAGS)
    with pytest.raises(NotConnected, match="/dev/ttyNOBODY 9600 8N1"):
        await ModbusDriver(link).connect()


async def test_a_serial_port_is_opened_by_one_gateway_only() -> None:
    """Two masters on one line destroy each other's frames."""
    async with ModbusServer(link_to("rtu:///dev/null", TAGS)) as server:
        link = link_to(f"rtu://{server.listen_terminal()}?baud=115200", TAGS)
        async with opened(link) as driver:
            with pytest.raises(NotConnected, match="lock"):
                await ModbusDriver(link).connect()
            found = await read(driver, driver.plan(tables_of(link)))
            assert {quality for _, quality in found.values()} == {q.GOOD}
