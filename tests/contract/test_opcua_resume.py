"""The whole edge daemon, stopped and started again: what an OPC UA server's history holds is no gap."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from opcua_server import NAMESPACE
from test_opcua_history import archive

from drivers.opcua import missed
from gateway import app, codec
from gateway.clock import MARK
from gateway.config import Site, load_site
from gateway.errors import JournalError
from gateway.journal import Journal
from gateway.journal.file import connect_to_read
from gateway.model import Batch, Gap, TagTable
from tests.in_process import daemon

SITE = """
gateway: g
data: ./data
links:
  house:
    driver: opcua
    url: {url}
    devices:
      boiler:
        namespace: {namespace}
        interval: 50 ms
        sampling_interval: 0 s
        queue_size: 100
        fill_gaps: true
        tags: {{a: s=A, b: s=B}}
        groups:
          unfilled: {{fill_gaps: false, tags: {{c: s=A}}}}
publish: {{cloud: {{url: "mqtt://127.0.0.1:1"}}}}
metrics: {{listen: null}}
"""


def contents(site: Site) -> list[Batch | Gap]:
    """Read what is in the journal beside the daemon."""
    tables = {table.fingerprint: table for link in site.links for table in link.tables}
    path = site.data / site.journal.directory / "journal.sqlite"
    if not path.exists():
        return []
    with contextlib.closing(connect_to_read(path)) as connection:
        known: dict[int, TagTable] = {
            number: tables[fingerprint]
            for number, fingerprint in connection.execute("SELECT id, fingerprint FROM definitions")
        }
        records = [record for (record,) in connection.execute("SELECT record FROM records ORDER BY sequence")]
    return [codec.unpack(record, lambda number: known[number]) for record in records]


def good(site: Site, name: str) -> list[tuple[int, float, bool]]:
    return [
        (int(moment), float(value), batch.backfill)
        for batch in contents(site)
        if isinstance(batch, Batch)
        for tag, value, status, moment in zip(batch.tag, batch.value, batch.quality, batch.time, strict=True)
        if batch.table.names[tag] == name and status == 0
    ]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(JournalError, sqlite3.OperationalError):  # it is being made just now
                if condition():
                    return
            await asyncio.sleep(0.05)


async def test_a_restart_of_the_gateway_is_filled_from_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed, "SETTLE", 0.2)
    monkeypatch.setattr(app, "DRAIN", 0.1)
    async with archive() as made:
        path = tmp_path / "site.yaml"
        path.write_text(SITE.format(url=made.served.url, namespace=NAMESPACE))
        site = load_site(path)
        await made.tell_all(1, 1)
        async with daemon(site):
            await until(lambda: {value for _, value, _ in good(site, "a")} == {1.0})
            await made.tell("A", 2)
            await until(lambda: len(good(site, "a")) == 2 and len(good(site, "b")) == 1 and len(good(site, "c")) == 2)
        await made.tell_all(3, 12)
        journal = await Journal.open(site.data / "journal", site.journal, site.publishers, codec.pack_gap)
        assert set(journal.marks) - {MARK} == {"house"}
        await journal.close()
        async with daemon(site):
            await until(lambda: len([row for row in good(site, "a") if row[2]]) == 9)
            await made.tell("A", 13)
            await until(lambda: good(site, "a")[-1][1] == 13.0)
        assert sorted(good(site, "a"))[1:] == [  # the first has its time of before
            *((made.ns(2), 2.0, False),),
            *((made.ns(number), float(number), True) for number in range(3, 12)),
            (made.ns(12), 12.0, False),
            (made.ns(13), 13.0, False),
        ]
        gaps = [gap for gap in contents(site) if isinstance(gap, Gap) and gap.reason == "the gateway was not running"]
        assert [(gap.device, gap.group) for gap in gaps] == [("boiler", "unfilled")]
