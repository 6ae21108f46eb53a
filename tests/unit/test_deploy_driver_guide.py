"""docs/guide/writing-a-driver.md: its code is a driver that keeps the contract's main promises."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway import names
from gateway import quality as q
from gateway.config import load_site
from gateway.contracts import Driver
from gateway.errors import ConfigError, NoAnswer, NotConnected, ProtocolError
from gateway.model import Link

GUIDE = Path(__file__).resolve().parents[2] / "docs/guide/writing-a-driver.md"
DEADLINE = 30.0

SITE = """
gateway: lab
links:
  bench:
    driver: lines
    url: lines://127.0.0.1:{port}
    timeout: 500 ms
    devices:
      press:
        tags: {{pressure: {{address: pressure, unit: bar}}, broken: nonsense, temperature: temperature}}
publish: {{cloud: {{url: mqtt://127.0.0.1:1883}}}}
"""


@pytest.fixture(autouse=True)
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's two modules, as an installed package would have them."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.M | re.S)
    package = tmp_path / "lines"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    for name, block in zip(("spec", "driver"), blocks, strict=True):
        package.joinpath(f"{name}.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(names.DRIVERS, "lines", "lines.spec")
    names.driver_spec.cache_clear()
    yield
    names.driver_spec.cache_clear()
    for module in [name for name in sys.modules if name.split(".")[0] == "lines"]:
        del sys.modules[module]


class Instrument:
    """The instrument: one line for one line."""

    def __init__(self) -> None:
        self.answers = {"pressure": "4.25", "temperature": "-3"}
        self.silent = False
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if not self.silent:
                writer.write(self.answers.get(line.decode().split()[1], "?").encode() + b"\n")
        writer.close()


@pytest.fixture
async def instrument() -> AsyncIterator[Instrument]:
    found = Instrument()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


def link(tmp_path: Path, port: int) -> Link:
    site = tmp_path / "site.yaml"
    site.write_text(SITE.format(port=port))
    return load_site(site).links[0]


async def opened(tmp_path: Path, instrument: Instrument) -> tuple[Driver, Link]:
    found = link(tmp_path, instrument.port)
    driver = names.driver_spec("lines").open(found)
    await driver.connect()
    return driver, found


async def test_the_guides_driver_reads_and_a_refused_tag_leaves_its_neighbours_good(
    tmp_path: Path, instrument: Instrument
) -> None:
    driver, found = await opened(tmp_path, instrument)
    assert isinstance(driver, Driver)
    async with asyncio.timeout(DEADLINE):
        (batch,) = await driver.read(driver.plan(found.tables))
    np.testing.assert_array_equal(batch.value, [4.25, np.nan, -3.0])
    assert batch.quality.tolist() == [q.GOOD, q.BAD_NODE_ID_UNKNOWN, q.GOOD]
    assert driver.plan(found.tables).requests()[0].text == "READ pressure"
    await driver.close()
    await driver.close()


async def test_the_guides_driver_says_what_happened(tmp_path: Path, instrument: Instrument) -> None:
    driver, found = await opened(tmp_path, instrument)
    plan = driver.plan(found.tables)
    async with asyncio.timeout(DEADLINE):
        instrument.silent = True
        with pytest.raises(NoAnswer, match="press: no answer"):
            await driver.read(plan)
        instrument.silent = False
        with pytest.raises(NotConnected):
            await driver.read(plan)
        await driver.connect()
        assert (await driver.read(plan))[0].value[0] == 4.25
        instrument.answers["pressure"] = "hello"
        with pytest.raises(ProtocolError):
            await driver.read(plan)
    await driver.close()
    nobody = names.driver_spec("lines").open(link(tmp_path, 1))
    with pytest.raises(NotConnected, match="cannot connect"):
        await nobody.connect()


def test_the_guides_driver_refuses_a_bad_address_with_its_place(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE.format(port=1).replace("broken: nonsense", "broken: two words"))
    with pytest.raises(ConfigError, match=r"site\.yaml:10:\d+: .*expected the name of a quantity such as pressure"):
        load_site(site)
