"""A site file's links, simulated: where each stand-in is, and that the gateway's drivers read from it what is meant."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway import quality as q
from gateway.config import load_site
from gateway.names import driver_spec
from gateway.stages.normalise import normalise
from simulators.site import PortTaken, SiteSimulator, expected

LINKS = """
gateway: test
publish: {cloud: {url: "mqtt://127.0.0.1"}}
links:
  far: {driver: modbus, url: "tcp://192.0.2.7", devices: {plc: {tags: {a: "holding:0 float32 CDAB", b: "holding:9"}}}}
  name: {driver: modbus, url: "udp://plc.example", devices: {udp: {tags: {a: "holding:0"}}}}
  line: {driver: modbus, url: "rtu:///dev/ttyS9?baud=19200&parity=E&echo=1", devices: {drive: {tags: {a: "input:7"}}}}
  ascii: {driver: modbus, url: "ascii:///dev/ttyS8", devices: {meter: {tags: {a: "input:7"}}}}
  safe: {driver: modbus, url: "tls://192.0.2.8", tls: {verify: false}, devices: {rtu: {tags: {a: "coil:7"}}}}
  plain: {driver: modbus, url: "tls://192.0.2.9", devices: {rtu2: {tags: {a: "coil:7"}}}}
  house: {driver: opcua, url: "opc.tcp://192.0.2.7:4840/boiler", devices: {boiler: {tags: {t: "nsu=urn:b;s=T double"}}}}
"""


def site_of(folder: Path, text: str, **settings: Any) -> Any:
    path = folder / "site.yaml"
    path.write_text(text)
    return load_site(path, **settings)


async def test_links_of_far_addresses_are_simulated_here_and_read_by_their_drivers(tmp_path: Path) -> None:
    site = site_of(tmp_path, LINKS)
    checks = expected(site)
    async with asyncio.timeout(100), SiteSimulator(site) as simulator:
        schemes = {name: url.partition("://")[0] for name, url in simulator.urls.items()}
        assert schemes == {
            "far": "tcp", "name": "udp", "line": "rtu+tcp", "ascii": "ascii+tcp", "safe": "tls", "plain": "tcp",
            "house": "opc.tcp",
        }  # fmt: skip
        assert simulator.urls["line"].endswith("?baud=19200&parity=E")
        assert simulator.urls["house"].endswith("/boiler")
        for link in site_of(tmp_path, LINKS, links=simulator.urls).links:
            driver = driver_spec(link.driver).open(link)
            await driver.connect()
            batches = await driver.read(driver.plan(link.devices[0].groups[0].tables))
            await driver.close()
            for batch in batches:
                done = normalise(batch.table)(batch)
                assert set(done.quality.tolist()) == {q.GOOD}
                for row in range(len(done)):
                    check = checks[batch.table.device, batch.table.tags[done.tag[row]].name]
                    here = slice(row, row + 1)
                    assert check.signal.matches(done.time[here], done.value[here], check.tolerance).all()


async def test_a_loopback_address_of_the_site_file_is_used_and_one_in_use_is_told(tmp_path: Path) -> None:
    """Silently moving elsewhere would let `run` talk to whoever has the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = LINKS.splitlines()[1:4]
        url = f"tcp://127.0.0.1:{port}"
        link = f'  near: {{driver: modbus, url: "{url}", devices: {{plc: {{tags: {{a: "holding:0"}}}}}}}}'
        site = site_of(tmp_path, "\n".join([*text, link]))
        with pytest.raises(PortTaken, match=str(port)):
            await SiteSimulator(site).__aenter__()
        async with SiteSimulator(site, own_addresses=False) as elsewhere:
            assert elsewhere.urls["near"] != url
    async with SiteSimulator(site) as simulator:
        assert simulator.urls == {"near": url}


async def test_serial_lines_become_pseudo_terminals_if_asked(tmp_path: Path) -> None:
    text = "\n".join(line for line in LINKS.splitlines() if "192.0.2" not in line and "plc.example" not in line)
    site = site_of(tmp_path, text)
    async with asyncio.timeout(60), SiteSimulator(site, terminals=True) as simulator:
        assert simulator.urls["line"].startswith("rtu:///dev/pts/")
        link = site_of(tmp_path, text, links=simulator.urls).links[0]
        driver = driver_spec("modbus").open(link)
        await driver.connect()
        (batch,) = await driver.read(driver.plan(link.tables))
        await driver.close()
        check = expected(site)["drive", "a"]
        assert check.signal.matches(batch.time, batch.value, check.tolerance).all()


async def test_links_that_have_no_simulator_are_told(tmp_path: Path) -> None:
    link = "{driver: replay, url: replay:generated, devices: {d: {tags: {a: sine}}}}"
    text = f"gateway: g\npublish: {{c: {{url: mqtt://127.0.0.1}}}}\nlinks:\n  old: {link}\n"
    async with SiteSimulator(site_of(tmp_path, text)) as simulator:
        assert simulator.urls == {}
        assert simulator.links[0].note == "needs no device"


def test_times_of_the_source_are_compared_exactly_and_arrivals_within_the_time_out(tmp_path: Path) -> None:
    checks = expected(site_of(tmp_path, LINKS))
    assert checks["boiler", "t"].tolerance == 0
    assert checks["plc", "a"].tolerance == 10**9
    moment = np.array([1_764_000_000_000_000_000])
    assert checks["plc", "a"].signal.matches(moment, checks["plc", "a"].signal.value(moment - 10**9), 10**9).all()
