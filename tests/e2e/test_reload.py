"""The daemon process and its command line while somebody works on the configuration: nobody else misses a scan."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from gateway.config import load_site
from gateway.errors import GatewayError
from gateway.local.client import ask
from simulators.modbus import ModbusServer
from tests.contract.test_reload import Bench, assert_nothing_missed, contents
from tests.e2e.plant import PLANTBRIDGE, Process, environment
from tests.modbus_links import link_of


async def plantbridge(*arguments: str) -> tuple[int, str]:
    """Run a command; give its exit code and what it said."""
    child = await asyncio.create_subprocess_exec(
        *PLANTBRIDGE, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
    )
    said, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, said.decode()


async def until_known(bench: Bench, tag: str) -> None:
    """Wait until the daemon has a tag."""

    def known() -> bool:
        try:
            ask(bench.folder / "data", {"ask": "explain", "tag": tag})
        except GatewayError:
            return False
        return True

    async with asyncio.timeout(60):
        while not await asyncio.to_thread(known):
            await asyncio.sleep(0.05)


async def test_an_afternoon_of_changes_costs_the_other_devices_nothing(tmp_path: Path) -> None:
    tags = {f"t{number}": f"holding:{number} uint16" for number in range(20)}
    units = {f"unit-{unit}": {"unit_id": unit, "tags": tags} for unit in (1, 2)}
    pump = {"pump": {"tags": tags}}
    async with (
        ModbusServer(link_of("tcp://127.0.0.1:1", units)) as line_1,
        ModbusServer(link_of("tcp://127.0.0.1:1", pump)) as line_2,
    ):
        await line_1.listen()
        await line_2.listen()
        bench = Bench(tmp_path, line_1, line_2)
        bench.write(probation="1500 ms")
        site, first = str(bench.path), bench.path.read_bytes()
        edge = Process("run", [*PLANTBRIDGE, "run", site], tmp_path)
        edge.start()
        try:
            await bench.until_up("press", "oven", "pump")
            await change_and_change_again(bench, edge, site, first)
            assert await asyncio.to_thread(edge.stop) == 0
        except BaseException:
            print(edge.output.read_text())
            raise
        finally:
            if edge.running:
                edge.kill()
    assert_nothing_missed(await contents(load_site(bench.path)), "oven", "pump")


async def change_and_change_again(bench: Bench, edge: Process, site: str, first: bytes) -> None:
    assert edge.popen is not None
    bench.write(press="{pressure: holding:0 float32, level: holding:3 uint16}")
    os.kill(edge.popen.pid, signal.SIGHUP)
    await until_known(bench, "press/level")
    code, said = await plantbridge("reload", site)
    assert (code, said) == (0, "Nothing differs from what runs.\n")

    good = bench.path.read_bytes()
    bench.write(press="{pressure: holding:0 flaot32}")
    code, said = await plantbridge("reload", site)
    assert code == 2
    assert "site.yaml:13:" in said
    os.kill(edge.popen.pid, signal.SIGHUP)  # nobody looks at it first
    async with asyncio.timeout(60):
        while not edge.said("The new configuration is refused, the old one stays."):
            await asyncio.sleep(0.05)

    bench.path.write_bytes(good)
    bench.write(unit=9, press="{pressure: holding:0 float32, level: holding:3 uint16}")
    code, said = await plantbridge("reload", site)
    assert code == 1
    assert "rolled back" in said
    assert "press: " in said
    await bench.until_up("press")

    code, said = await plantbridge("config", "history", site)
    assert [line.split()[0] for line in said.splitlines()] == ["1", "2", "3"]
    assert "rolled back" in said.splitlines()[-1]
    code, said = await plantbridge("config", "rollback", site, "1", "--yes")
    assert code == 0, said
    assert "device press: changed" in said
    assert bench.path.read_bytes() == first

    bench.write(unit=1, extra="watch: true\n")
    assert (await plantbridge("reload", site))[0] == 0
    bench.write(press="{pressure: holding:0 float32, watched: holding:5 uint16}")
    await until_known(bench, "press/watched")
    bench.write(press="{pressure: holding:0 float32, again: holding:6 uint16}")
    await until_known(bench, "press/again")
