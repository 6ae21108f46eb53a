"""Eight units on a serial line of 9600 baud, one of them silent: what it costs the other seven.

The line is a pseudo terminal; every answer takes as long as its characters do at 9600 baud. Real driver, real poller.
"""

from __future__ import annotations

import asyncio
import time

from simulators.modbus import ModbusServer
from tests.memory_journal import MemoryJournal
from tests.modbus_links import link_of
from tests.polling import polling

UNITS = range(1, 9)
SILENT = 5
REGISTERS = 20
ON_THE_LINE = (8 + 5 + 2 * REGISTERS + 7) * 11 / 9600  # s, request and answer
SECONDS = 45.0


async def until(condition, within: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_silent_unit_of_eight_costs_the_others_less_than_5_percent_of_their_scans() -> None:
    tags = {f"t{number}": f"holding:{number}" for number in range(REGISTERS)}
    devices = {f"unit-{unit}": {"unit_id": unit, "tags": tags} for unit in UNITS}
    async with ModbusServer(link_of("rtu:///dev/null", devices)) as server:
        terminal = server.listen_terminal()
        for unit in UNITS:
            server.faults[unit].delay = ON_THE_LINE
        server.faults[SILENT].silent = True
        link = link_of(f"rtu://{terminal}?baud=9600", devices, timeout="300 ms")
        journal = MemoryJournal(list(link.tables))
        async with polling(link, journal):
            started = time.monotonic()
            silent = f"unit-{SILENT}"
            await until(lambda: journal.bad(silent) == 1)
            others = [f"unit-{unit}" for unit in UNITS if unit != SILENT]
            assert max(journal.good(name) for name in others) <= 3, "shown Bad within three scans"
            await until(lambda: time.monotonic() - started > SECONDS, within=SECONDS + 30)
            skipped = sum(gap.scans for gap in journal.gaps() if gap.device != silent)
            scans = sum(journal.good(name) for name in others)
            print(f"scans of the other seven: {scans}, skipped: {skipped}, {skipped / (scans + skipped):.1%}")
            assert scans > len(others) * SECONDS * 0.8
            assert skipped < 0.05 * (scans + skipped)
            assert all(journal.bad(name) == 0 for name in others)
            server.faults[SILENT].silent = False
            await until(lambda: journal.good(silent) >= 2)
