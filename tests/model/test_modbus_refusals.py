"""Any set of illegal addresses, changed on the way: the guilty tags are Bad, all others Good and right in every scan.

The model is a device that refuses what touches an illegal address, or is longer than it takes, and a clock that goes on
by less than the time between probes, or by more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.modbus.driver import ModbusDriver
from drivers.modbus.scan import PROBE_EVERY
from gateway import quality as q
from tests.modbus_links import link_to, rows, tables_of
from tests.modbus_rogue import Asked, Rogue

WIDTHS = {"uint16": 1, "uint32": 2, "uint64": 4}
SIZE = 48  # registers


@dataclass(frozen=True)
class Device:
    """What the device refuses from some scan on."""

    illegal: frozenset[int]
    longest: int


@st.composite
def tags(draw: st.DrawFn) -> dict[str, tuple[int, str]]:
    places = st.tuples(st.integers(0, SIZE - 4), st.sampled_from(sorted(WIDTHS)))
    return {f"t{n}": place for n, place in enumerate(draw(st.lists(places, min_size=1, max_size=25)))}


devices = st.builds(Device, st.frozensets(st.integers(0, SIZE), max_size=8), st.sampled_from([4, 12, 125]))
keys = st.fixed_dictionaries(
    {},
    optional={"max_registers": st.integers(4, 20), "one_request_per_tag": st.booleans(), "max_gap": st.integers(0, 9)},
)


async def play(places: dict[str, tuple[int, str]], phases: list[Device], options: dict[str, Any]) -> None:
    device = phases[0]
    now = 0

    def behave(asked: Asked) -> None:
        refused = device.illegal & set(range(asked.address, asked.address + asked.count))
        asked.refuse(2 if refused else 3) if refused or asked.count > device.longest else asked.reply()

    async with Rogue(behave) as rogue:
        link = link_to(rogue.url, {name: f"holding:{at} {kind}" for name, (at, kind) in places.items()}, **options)
        driver = ModbusDriver(link, lambda: now)
        plan = driver.plan(tables_of(link))
        await driver.connect()
        try:
            for device in phases:
                for scan in range(12):
                    # in the first scans of a phase, what the device did not refuse before may still be set aside
                    now += PROBE_EVERY + 1 if scan < 8 else 1_000_000_000
                    rogue.step = scan
                    found = rows(await driver.read(plan))
                    assert list(found) == [tag.name for table in plan.tables for tag in table.tags]
                    for name, (at, kind) in places.items():
                        value, quality = found[name]
                        registers = range(at, at + WIDTHS[kind])
                        bad = bool(device.illegal & set(registers))
                        if bad:
                            assert quality == q.BAD_CONFIGURATION_ERROR, (name, scan)
                        elif quality == q.GOOD:
                            data = b"".join((each + scan).to_bytes(2, "big") for each in registers)
                            assert value == int.from_bytes(data, "big"), (name, scan)
                        else:
                            assert quality == q.BAD_CONFIGURATION_ERROR
                            assert scan < 8, (name, scan)
                            assert device is not phases[0], (name, scan)
        finally:
            await driver.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(places=tags(), phases=st.lists(devices, min_size=1, max_size=3), options=keys)
def test_only_what_the_device_refuses_is_bad(
    places: dict[str, tuple[int, str]], phases: list[Device], options: dict[str, Any]
) -> None:
    asyncio.run(play(places, phases, options))
