"""What PostgreSQL promises beside the store contract: after a kill, with several ingests, and to who may not write."""

from __future__ import annotations

import asyncio
import signal
import uuid
from typing import Any

import psycopg
import pytest
from store_places import postgres_server

from gateway.errors import StoreUnavailable
from gateway.model import Kind
from gateway.options import PostgresOptions
from gateway.stores.postgres import PostgresStore
from tests.native import SECOND, T0, block, scan, table


@pytest.fixture
def schema() -> str:
    return f"s{uuid.uuid4().hex}"


def store(schema: str, **changed: str) -> PostgresStore:
    keys = {"type": "postgres", "url": postgres_server().url, "schema": schema} | changed
    return PostgresStore(PostgresOptions.model_validate(keys))


def ask(schema: str, question: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(postgres_server().url) as connection:
        connection.execute(f"SET search_path TO {schema}")  # type: ignore[arg-type]
        return connection.execute(question).fetchall()  # type: ignore[arg-type]


async def test_what_was_written_is_there_after_a_kill_of_the_server_and_the_store_goes_on(schema: str) -> None:
    opened, of = store(schema), table(unit="bar")
    await opened.write([block(scan(of, T0))])
    postgres_server().stop(signal.SIGQUIT)  # ends at once, without writing anything
    with pytest.raises(StoreUnavailable):
        await opened.write([block(scan(of, T0 + SECOND), first=2)])
    postgres_server().start()
    report = await opened.write([block(scan(of, T0), scan(of, T0 + SECOND))])
    await opened.close()
    assert (report.stored, report.duplicates) == (4, 4)


async def test_ingests_that_store_the_same_at_once_store_it_once(schema: str) -> None:
    """After a worker's death its messages go to another: both may have them in hand, each in its own order."""
    of, stores = table(size=200, unit="bar"), [store(schema) for _ in range(3)]
    scans = [scan(of, T0 + number * SECOND) for number in range(6)]
    orders = [scans, scans[::-1], scans[3:] + scans[:3]]
    reports = await asyncio.gather(
        *(opened.write([block(*order)]) for opened, order in zip(stores, orders, strict=True))
    )
    await asyncio.gather(*(opened.close() for opened in stores))
    assert sum(report.stored for report in reports) == 1200
    assert ask(schema, "SELECT count(*), count(DISTINCT series) FROM samples") == [(1200, 200)]


async def test_a_backlog_under_an_old_configuration_does_not_turn_descriptions_back(schema: str) -> None:
    old, new = (table(size=1, unit="bar", description=text) for text in ("old", "new"))
    opened = store(schema)
    for batch in (scan(old, T0), scan(new, T0 + 9 * SECOND), scan(old, T0 + SECOND)):
        await opened.write([block(batch)])
    assert ask(schema, "SELECT description FROM series") == [("new",)]
    await opened.write([block(scan(old, T0 + 10 * SECOND))])
    await opened.close()
    assert ask(schema, "SELECT description FROM series") == [("old",)]


async def test_a_text_with_nul_and_a_named_state_are_kept(schema: str) -> None:
    texts, states = table(Kind.TEXT, 1, unit="1"), table(size=1, unit="1", states=((1, "运行"),))
    opened = store(schema)
    await opened.write([block(scan(texts, T0, ["a\0b"]), scan(states, T0, [1.0]))])
    await opened.close()
    assert sorted(ask(schema, "SELECT text FROM readings")) == [("a␀b",), ("运行",)]


async def test_a_database_that_is_not_there_is_named_without_its_password(schema: str) -> None:
    url = postgres_server().url.replace("/postgres", "/nowhere").replace("plant@", "plant:secret@")
    opened = store(schema, url=url)
    with pytest.raises(StoreUnavailable, match=r'database nowhere: .*"nowhere" does not exist') as raised:
        await opened.open()
    await opened.close()
    assert not raised.value.permanent
    assert "secret" not in str(raised.value)
