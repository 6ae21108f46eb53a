"""What VictoriaMetrics would lose without a word, and what a kill of it costs."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from store_places import victoria_gaps, victoria_options, victoria_readings

from gateway.errors import StoreUnavailable
from gateway.model import Gap, Kind
from gateway.options import VictoriametricsOptions
from gateway.stores import samples
from gateway.stores.lines import Lines
from gateway.stores.victoriametrics import VictoriametricsStore
from tests.native import SECOND, T0, block, scan, table
from tests.stores_servers import VictoriaMetrics


@dataclass
class Bench:
    server: VictoriaMetrics
    dead: list[tuple[str, bytes, str]] = field(default_factory=list)

    def store(self, settle: str = "0 s") -> VictoriametricsStore:
        return VictoriametricsStore(victoria_options(self.server.url, settle), lambda *letter: self.dead.append(letter))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with VictoriaMetrics(tmp_path / "victoria-metrics") as server:
        yield Bench(server)


async def test_the_consumption_of_a_counter_is_exact_where_the_value_is_rounded(bench: Bench) -> None:
    """An energy counter near 2^64 that rises by one is no change at all among floats."""
    of = table(Kind.UINT, 1, unit="W.h")
    store = bench.store()
    await store.write([block(scan(of, T0, [2**64 - 4]), scan(of, T0 + 60 * SECOND, [2**64 - 1]))])
    await store.close()
    bench.server.get("/internal/force_flush")
    assert {row.value for row in victoria_readings(bench.server)} == {2**64 - 4, 2**64 - 1}
    minute = 'sum({}{{tag="uint64-0"}} - {}{{tag="uint64-0"}} offset 1m)'
    exact = f"{minute.format('readings_high', 'readings_high')} * 1e9 + {minute.format('readings_low', 'readings_low')}"
    assert bench.server.ask(exact, T0 / SECOND + 61) == [3]
    assert bench.server.ask(minute.format("readings_value", "readings_value"), T0 / SECOND + 61) == [0]


async def test_a_time_two_days_ahead_goes_to_the_dead_letters_and_the_rest_is_stored(bench: Bench) -> None:
    """The server answers 204 and drops it: a device whose clock runs ahead would have no readings, and nobody knew."""
    ahead = time.time_ns() + 72 * 3600 * SECOND
    store = bench.store()
    report = await store.write([block(scan(table(size=3), ahead), scan(table(size=2), T0))])
    await store.close()
    assert report.stored == 2
    ((topic, payload, reason),) = bench.dead
    assert (topic, payload.count(b"\n")) == ("victoriametrics", 3)
    assert "47 hours ahead" in reason
    assert {row.tag for row in victoria_readings(bench.server)} == {"float64-0", "float64-1"}


async def test_texts_without_end_do_not_become_series_without_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag of serial numbers would make a series of each; its texts go to the dead letters, its quality is stored."""
    monkeypatch.setattr(samples, "MOST_TEXTS", 2)
    of = table(Kind.TEXT, 1, unit="1")
    store = bench.store()
    sent = block(
        *(scan(of, T0 + number * SECOND, [text]) for number, text in enumerate(["a", "b", "a", "c", "x" * 2000]))
    )
    report = await store.write([sent])
    await store.close()
    assert report.stored == 3
    assert [row.value for row in sorted(victoria_readings(bench.server))] == ["a", "b", "a", None, None]
    assert sorted(reason.split(":")[0] for _, _, reason in bench.dead) == [
        "a text of more than 1000 bytes",
        "more than 2 different texts of one tag",
    ]


async def test_a_write_returns_only_while_the_server_that_took_it_still_runs(bench: Bench) -> None:
    """The server answers before it has anything on its disk: a kill then takes what the broker was told is safe."""
    store = bench.store("2 s")
    writing = asyncio.create_task(store.write([block(scan(table(unit="bar"), T0))]))
    while not victoria_readings(bench.server):
        await asyncio.sleep(0.05)
    bench.server.stop(signal.SIGKILL)
    bench.server.start()
    with pytest.raises(StoreUnavailable, match="before the readings had settled"):
        await writing
    await store.close()


async def test_what_has_settled_survives_the_kill_of_the_server(bench: Bench) -> None:
    store = VictoriametricsStore(
        VictoriametricsOptions(type="victoriametrics", url=bench.server.url), lambda *_: pytest.fail("refused")
    )
    await store.write([block(scan(table(unit="bar"), T0), Gap("", "", T0, T0 + SECOND, "x"))])
    bench.server.stop(signal.SIGKILL)
    bench.server.start()
    assert len(victoria_readings(bench.server)) == 4
    assert len(victoria_gaps(bench.server)) == 1
    await store.close()


def test_long_texts_are_sent_in_requests_of_bounded_bytes() -> None:
    """Ten thousand lines of 64 kB would be a request of 640 MB, which any server refuses."""
    lines = Lines([b"h"] * 1000, [b"x" * 64_000] * 1000, [b"\n"] * 1000)
    requests = list(lines.requests(10_000))
    assert b"".join(piece.text() for piece in requests) == lines.text()
    assert max(len(piece.text()) for piece in requests) < 4_100_000
