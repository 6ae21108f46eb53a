"""InfluxDB's refusals and silences, with the real engine behind a v2 front that can be told to misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.errors import StoreUnavailable
from gateway.options import InfluxdbOptions
from gateway.stores.influxdb import InfluxdbStore
from tests.influx_proxy import InfluxProxy
from tests.native import SECOND, T0, block, scan, table
from tests.servers import free_port
from tests.stores_servers import InfluxDB


@dataclass
class Bucket:
    engine: InfluxDB
    proxy: InfluxProxy
    dead: list[tuple[str, bytes, str]] = field(default_factory=list)

    def store(self, **changed: str) -> InfluxdbStore:
        keys = {"url": self.proxy.url, "bucket": "plant", "org": "acme", "token": "secret", "timeout": "5 s"} | changed
        return InfluxdbStore(InfluxdbOptions(type="influxdb", **keys), lambda *letter: self.dead.append(letter))

    def count(self) -> int:
        rows = self.engine.query("plant", "SELECT count(quality) FROM readings")
        return int(rows[0]["count"]) if rows else 0


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with InfluxDB(tmp_path / "influxdb") as engine, InfluxProxy(engine.url) as proxy:
        engine.create("plant")
        yield Bucket(engine, proxy)


async def test_lines_of_the_wrong_type_are_set_aside_and_the_rest_is_stored(bucket: Bucket) -> None:
    """Somebody wrote a text into `value` before us: the server refuses our numbers of this shard, and only those."""
    store = bucket.store()
    await store.open()
    store._api.write(
        "plant", "acme", b'readings,gateway=demo,device=press-1,tag=float64-2 value="x",quality=0i %d' % T0
    )
    report = await store.write([block(scan(table(size=1000, unit="bar"), T0 + SECOND))])
    await store.close()
    assert report.stored + sum(payload.count(b"\n") for _, payload, _ in bucket.dead) == 1000
    assert bucket.dead
    assert all("field type conflict" in reason for _, _, reason in bucket.dead)
    assert {topic for topic, _, _ in bucket.dead} == {"influxdb:plant"}
    assert bucket.proxy.requests < 40, "all were guilty, and each was tried"


async def test_one_bad_line_among_ten_thousand_is_found(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """InfluxDB stores nothing of a request that it cannot parse (400): one line must not cost the others."""
    from gateway.stores.lines import LineProtocol, Lines

    made = LineProtocol.lines

    def broken(self: LineProtocol, blocks: object) -> Lines:
        lines = made(self, blocks)  # type: ignore[arg-type]
        lines.values[4321] = b"not-a-number"
        return lines

    monkeypatch.setattr(LineProtocol, "lines", broken)
    store = bucket.store()
    report = await store.write([block(scan(table(size=10_000, unit="bar"), T0))])
    await store.close()
    assert report.stored == 9_999
    assert bucket.count() == 9_999
    ((_, payload, reason),) = bucket.dead
    assert b"tag=float64-4321," in payload
    assert payload.count(b"\n") == 1
    assert "not-a-number" in reason


async def test_a_request_that_is_too_large_is_halved(bucket: Bucket) -> None:
    bucket.proxy.failing = [413]
    store = bucket.store()
    assert (await store.write([block(scan(table(size=100, unit="bar"), T0))])).stored == 100
    await store.close()
    assert bucket.count() == 100
    assert bucket.proxy.requests == 3
    assert not bucket.dead


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "token"), (403, "token"), (404, "bucket"), (429, "overloaded"), (503, "overloaded"), (500, "500")],
)
async def test_what_an_operator_must_mend_or_what_passes_loses_nothing(bucket: Bucket, status: int, words: str) -> None:
    bucket.proxy.failing = [status]
    store = bucket.store()
    sent = [block(scan(table(unit="bar"), T0))]
    with pytest.raises(StoreUnavailable, match=words) as raised:
        await store.write(sent)
    assert not raised.value.permanent
    assert (await store.write(sent)).stored == 4
    await store.close()
    assert bucket.count() == 4
    assert not bucket.dead


async def test_a_wrong_token_and_a_missing_bucket_are_named(bucket: Bucket) -> None:
    sent = [block(scan(table(unit="bar"), T0))]
    for changed, words in (({"token": "wrong"}, "store.token"), ({"bucket": "nowhere"}, "store.url, bucket and org")):
        store = bucket.store(**changed)
        with pytest.raises(StoreUnavailable, match=words):
            await store.write(sent)
        await store.close()


async def test_a_server_that_is_away_loses_nothing(bucket: Bucket) -> None:
    store = bucket.store(url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match="not reached"):
        await store.write([block(scan(table(), T0))])
    await store.close()


async def test_an_answer_that_is_lost_makes_no_duplicates(bucket: Bucket) -> None:
    """The server had stored it when the connection broke: it is written again and must be there once."""
    bucket.proxy.lost = 1
    store = bucket.store()
    sent = [block(scan(table(unit="bar"), T0))]
    with pytest.raises(StoreUnavailable):
        await store.write(sent)
    assert bucket.count() == 4
    await store.write(sent)
    await store.close()
    assert bucket.count() == 4


async def test_what_is_stored_survives_the_kill_of_the_server(bucket: Bucket) -> None:
    import signal

    store = bucket.store()
    await store.write([block(scan(table(unit="bar"), T0))])
    await store.close()
    bucket.engine.stop(signal.SIGKILL)
    bucket.engine.start()
    assert bucket.count() == 4


async def test_states_stand_as_text_beside_the_number(bucket: Bucket) -> None:
    of = table(size=2, unit="1", states=((0, "停"), (1, "运行")))
    store = bucket.store()
    await store.write([block(scan(of, T0, [1.0, 5.0]))])
    await store.close()
    rows = bucket.engine.query("plant", 'SELECT value, state FROM readings GROUP BY "tag"')
    assert [(row["value"], row["state"]) for row in rows] == [(1, "运行"), (5, None)]


async def test_infinity_is_kept_as_text(bucket: Bucket) -> None:
    store = bucket.store()
    report = await store.write([block(scan(table(size=3, unit="1"), T0, [float("inf"), float("nan"), 1.0]))])
    await store.close()
    rows = bucket.engine.query("plant", 'SELECT value, value_text FROM readings GROUP BY "tag"')
    assert [(row["value"], row["value_text"]) for row in rows] == [(None, "inf"), (None, "nan"), (1, None)]
    assert report.stored == 3
