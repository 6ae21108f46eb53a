"""The composition root: what is declared at a start, and what an ordered shutdown does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import app, codec
from gateway.clock import Clock
from gateway.config import Site, load_site
from gateway.errors import JournalError
from gateway.journal import Journal, survey
from gateway.model import Gap, TagTable

SITE = """
gateway: demo
data: ./data
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1
    retry_first: 20 ms
    devices:
      press:
        interval: 5 s
        tags: {pressure: holding:0 float32}
      oven:
        interval: 1 s
        unit_id: 2
        tags: {heat: holding:0 float32}
publish:
  cloud: {url: "mqtt://127.0.0.1:1"}
metrics: {listen: null}
"""
SECOND = 10**9


@pytest.fixture
def site(tmp_path: Path) -> Site:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return load_site(path)


@contextlib.asynccontextmanager
async def journal_of(site: Site) -> AsyncIterator[Journal]:
    opened = await Journal.open(site.data / site.journal.directory, site.journal, site.publishers, codec.pack_gap)
    try:
        yield opened
    finally:
        await opened.close()


async def gaps(journal: Journal) -> list[Gap]:
    def table(number: int) -> TagTable:
        raise LookupError(number)

    found = []
    chunk = await journal.read(1, journal.committed, 1 << 20)
    for _, record in chunk.records:
        with contextlib.suppress(ValueError):
            content = codec.unpack(record, table)
            assert isinstance(content, Gap)
            found.append(content)
    return found


async def ended(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    stop.set()
    async with asyncio.timeout(60):
        await task


async def some_records(site: Site) -> None:
    """Wait until the daemon, whose devices are all away, has journalled their Bad rows."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(JournalError):  # not there yet
                if survey(site.data / site.journal.directory).appended == 2:
                    return
            await asyncio.sleep(0.01)


async def test_an_absence_begins_with_the_slot_that_was_under_way(site: Site) -> None:
    """On a slow line the last committed row may be of one device, and the next one's turn of that slot never came."""
    async with journal_of(site) as journal:
        journal.append(codec.pack_gap(Gap("", "", 1, 2, "anything")), 0, 1, 2)
        await journal.flush()
        last = journal.last_time
    async with journal_of(site) as journal:
        app._declare_absence(journal, Clock(), site.links)
        await journal.flush()
        (gap,) = [gap for gap in await gaps(journal) if gap.reason == "the gateway was not running"]
    assert gap.start == last - 5 * SECOND
    assert gap.end > last


async def test_the_absence_of_a_group_that_its_driver_goes_on_with_is_left_to_the_driver(site: Site) -> None:
    """It will be filled from the server's history; a gap over it would say that it is missing."""
    async with journal_of(site) as journal:
        journal.append(codec.pack_gap(Gap("", "", 1, 2, "anything")), 0, 1, 2)
        await journal.flush()
    async with journal_of(site) as journal:
        app._declare_absence(journal, Clock(), site.links, {("press", "default")})
        await journal.flush()
        (gap,) = [gap for gap in await gaps(journal) if gap.reason == "the gateway was not running"]
    assert (gap.device, gap.group) == ("oven", "default")


async def test_the_first_start_declares_nothing(site: Site) -> None:
    async with journal_of(site) as journal:
        app._declare_absence(journal, Clock(), site.links)
        assert await gaps(journal) == []


async def test_a_stop_ends_although_neither_device_nor_broker_is_there(site: Site) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(app.run(site, stop))
    await some_records(site)
    await ended(task, stop)
    async with journal_of(site) as journal:
        assert journal.totals().appended == 2


async def test_a_stop_does_not_wait_for_a_disk_that_takes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd would end it with SIGKILL after a while, and in a container nobody would."""

    async def never(journal: Journal) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Journal, "flush", never)
    monkeypatch.setattr(app, "FLUSH", 0.05)
    stop = asyncio.Event()
    task = asyncio.create_task(app.run(site, stop))
    await some_records(site)
    await ended(task, stop)


async def test_a_driver_that_cannot_plan_a_group_is_a_problem_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback: somebody has to find the group."""
    from drivers.modbus.driver import ModbusDriver
    from gateway.app import run
    from gateway.config import load_site
    from gateway.config.plans import plan_links
    from gateway.errors import ConfigError

    def plan(*_arguments: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(ModbusDriver, "plan", plan)
    file = tmp_path / "site.yaml"
    file.write_text(
        "gateway: g\ndata: data\nlinks:\n  l:\n    driver: modbus\n    url: tcp://127.0.0.1:1\n    devices:\n"
        "      d:\n        tags: {t: holding:0}\npublish:\n  p: {url: 'mqtt://127.0.0.1:1'}\n"
    )
    site = load_site(file)
    with pytest.raises(ConfigError) as raised:
        await run(site, asyncio.Event())
    _, found = plan_links(site.links)
    for problem in (*raised.value.problems, *found):
        assert problem.path == "links.l.devices.d.groups.default"
        assert "KeyError" in problem.reason
        assert problem.line
    assert not (tmp_path / "data").exists()
