"""Any sequence of misbehaviour: a Good row holds its own register of this very scan, and the driver recovers.

The model is one line: register a holds a + step, and the step is raised between scans. A late answer, another unit's,
another block's or a damaged one would all show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.modbus.driver import ModbusDriver
from gateway import quality as q
from gateway.errors import NoAnswer, NotConnected
from tests.modbus_links import link_to, rows, tables_of
from tests.modbus_rogue import Asked, Rogue

TIMEOUT = 0.06
LATE = 1.5 * TIMEOUT
TAGS = {f"t{address}": f"holding:{address}" for address in range(40)}  # four requests of ten registers


def twice(asked: Asked) -> None:
    asked.raw(asked.frame(asked.truth()) * 2)


def pieces(asked: Asked) -> None:
    frame = asked.frame(asked.truth())
    asked.raw(frame[:5])
    asked.later(0.01, frame[5:])


def damaged(asked: Asked) -> None:
    frame = bytearray(asked.frame(asked.truth()))
    if asked.rogue.framing == "rtu":  # on TCP a changed value is what the device said
        frame[7] ^= 0x10
    asked.raw(bytes(frame))


BEHAVIOURS: dict[str, Callable[[Asked], None]] = {
    "right": Asked.reply,
    "silent": lambda _: None,
    "late": lambda asked: asked.later(LATE, asked.frame(asked.truth())),
    "other transaction": lambda asked: asked.reply(transaction=asked.transaction ^ 0x0100),
    "other unit": lambda asked: asked.reply(unit=2),
    "fewer": lambda asked: asked.reply(pdu=bytes((3, 4)) + asked.truth()[2:6]),
    "cut": lambda asked: asked.raw(asked.frame(asked.truth())[:-6]),
    "noise behind": lambda asked: asked.raw(asked.frame(asked.truth()) + b"\xff\xfe\xff"),
    "noise": lambda asked: asked.raw(b"\x55\xaa" * 12),
    "busy": lambda asked: asked.refuse(6),
    "failing": lambda asked: asked.refuse(4),
    "close": Asked.close,
    "abort": Asked.abort,
    "answer and close": lambda asked: (asked.reply(), asked.close()),  # type: ignore[func-returns-value, return-value]
    "twice": twice,
    "pieces": pieces,
    "damaged": damaged,
}


async def play(names: list[str], framing: str) -> None:
    async with Rogue(framing=framing) as rogue:
        rogue.behave = lambda asked: BEHAVIOURS[names[asked.number] if asked.number < len(names) else "right"](asked)
        keys = {"max_registers": 10, "timeout": f"{TIMEOUT * 1000:g} ms"}
        link = link_to(rogue.url, TAGS, **keys)
        driver = ModbusDriver(link, lambda: rogue.step * 1_000_000)  # a second from scan to scan: what failed may rest
        plan = driver.plan(tables_of(link))
        connected, clean = False, 0
        try:
            for rogue.step in range(1000, 1000 * (len(names) + 40), 1000):
                try:
                    if not connected:
                        await driver.connect()
                        connected = True
                    found = rows(await driver.read(plan))
                except NoAnswer:
                    continue
                except NotConnected:
                    connected = False
                    await driver.close()
                    continue
                assert list(found) == list(TAGS)
                good = [name for name, (_, quality) in found.items() if quality == q.GOOD]
                for name in good:
                    assert found[name][0] == int(name[1:]) + rogue.step, (name, names)
                clean = clean + 1 if len(good) == len(TAGS) and len(rogue.asked) >= len(names) else 0
                if clean == 2:
                    return
            raise AssertionError(f"did not recover after {names}")
        finally:
            await driver.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(st.sampled_from(sorted(BEHAVIOURS)), min_size=1, max_size=8))
def test_on_tcp_no_misbehaviour_makes_a_wrong_value(names: list[str]) -> None:
    asyncio.run(play(names, "mbap"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(st.sampled_from(sorted(BEHAVIOURS)), min_size=1, max_size=6))
def test_on_a_serial_server_no_misbehaviour_makes_a_wrong_value(names: list[str]) -> None:
    asyncio.run(play(names, "rtu"))
