"""The demonstration's account: it must notice what is missing, doubled or wrong, of every kind of value."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway import codec
from gateway import quality as q
from gateway.config import Site, load_site
from gateway.contracts import Block
from gateway.journal import Journal
from gateway.model import Batch, Gap, Kind, TagTable
from gateway.stores.duckdb import DuckdbStore
from gateway.testbed.account import Account, take
from simulators.signals import TICK
from simulators.site import expected

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_764_000_000_000_000_000 // TICK * TICK
SCANS = 5


@pytest.fixture
def site(tmp_path: Path) -> Site:
    text = (ROOT / "config" / "demo" / "site.yaml").read_text()
    (tmp_path / "site.yaml").write_text(text.replace("data: ../../demo-data", "data: ."))
    return load_site(tmp_path / "site.yaml")


def batches(site: Site) -> list[Batch]:
    """Give what the simulators show at some scans, as a gateway that makes no mistake would store it."""
    checks = expected(site)
    found = []
    for scan in range(SCANS):
        time = NOW + scan * 10**9
        for table in (table for link in site.links for table in link.tables):
            values = [checks[table.device, tag.name].signal.value(np.array([time]))[0] for tag in table.tags]
            found.append(Batch.full(table, np.array(values, table.kind.dtype), time))
    return found


async def account_of(site: Site, stored: list[Batch], appended: list[Batch] | None = None) -> Account:
    """Put readings into a journal and a store, and draw up the account."""
    journal = await Journal.open(site.data / "journal", site.journal, site.publishers, codec.pack_gap)
    for batch in stored if appended is None else appended:
        sequence = journal.append(b"record", len(batch))
        journal.acknowledge("cloud", sequence, sequence, len(batch))
    await journal.close()
    database = site.data / "plantbridge.duckdb"
    database.unlink(missing_ok=True)
    shutil.rmtree(site.data / "wal", ignore_errors=True)
    store = DuckdbStore(database, desk=False)
    await store.open()
    gap = Gap("press-1", "fast", NOW, NOW + 1, "test")
    contents = (*stored, gap)
    await store.write([Block("demo", "j", tuple(range(1, len(contents) + 1)), contents)])
    await store.close()
    return take(site, database)


def changed(stored: list[Batch], kind: Kind, change: Callable[[Any], Any]) -> list[Batch]:
    """Change one value of this kind."""
    for place, batch in enumerate(stored):
        if batch.table.kind is kind:
            value = batch.value.copy()
            value[0] = change(value[0])
            return [*stored[:place], replace(batch, value=value), *stored[place + 1 :]]
    raise AssertionError(kind)


async def test_everything_stored_as_it_was_shown_is_a_clean_account(site: Site) -> None:
    right = batches(site)
    account = await account_of(site, right)
    readings = sum(map(len, right))
    assert (account.appended, account.delivered, account.stored) == (readings, readings, readings)
    assert (account.missing, account.duplicates, account.wrong, account.gaps) == (0, 0, 0, 1)
    assert account.unknown == 0, "a tag of the demonstration that nothing compares"
    assert account.clean


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Kind.FLOAT, lambda value: np.nextafter(value, np.inf)),
        (Kind.INT, lambda value: value + 1),
        (Kind.UINT, lambda value: np.uint64(float(value))),  # what a gateway does that counts in floats
        (Kind.BOOL, lambda value: not value),
        (Kind.TEXT, lambda value: value + " "),
    ],
)
async def test_one_wrong_value_of_any_kind_is_noticed(site: Site, kind: Kind, change: Callable[[Any], Any]) -> None:
    right = batches(site)
    wrong = changed(right, kind, change)
    account = await account_of(site, wrong)
    assert account.wrong == 1
    assert len(account.examples) == 1
    assert not account.clean


async def test_a_reading_that_was_journalled_and_not_stored_is_missing(site: Site) -> None:
    right = batches(site)
    account = await account_of(site, right[1:], appended=right)
    assert account.missing == len(right[0])
    assert not account.clean


async def test_bad_rows_have_no_value_to_be_wrong(site: Site) -> None:
    table: TagTable = site.links[0].tables[0]
    account = await account_of(site, [*batches(site), Batch.bad(table, q.BAD_TIMEOUT, NOW + 60 * 10**9)])
    assert (account.wrong, account.bad) == (0, len(table))
    assert account.clean


async def test_nothing_stored_is_no_success(site: Site) -> None:
    account = await account_of(site, [])
    assert (account.stored, account.missing) == (0, 0)
    assert not account.clean
