"""A publisher on a link that costs money: rates, budgets, thinning, platform limits, and the order of a backlog."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from gateway import codec, deadletters, publisher, valve
from gateway.contracts import Delivery, Record
from gateway.dialects import Limits
from gateway.meter import on_the_wire
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from tests.unit.test_meter import Kept
from tests.unit.test_publisher import Bench, Lines, Told, bench

DAY = 86_400
MIDNIGHT = datetime.datetime(2026, 11, 22).timestamp()
TABLE = TagTable("d", "g", Kind.FLOAT, tuple(Tag(f"t{n}", "a", deadband=0.5) for n in range(4)))


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> int:
        return round(self.now * 1e9)


class Bulky(Lines):
    """Messages of about 10 kB, and gaps in full."""

    def _one(self, record: Record) -> Message:
        content = record.content
        if isinstance(content, Gap):
            body = orjson.dumps([content.device, content.group, content.reason, content.readings])
            return Message("gap", body, record.sequence, record.sequence, 0)
        body = orjson.dumps([record.sequence, "x" * 10_000, content.backfill])
        return Message("row", body, record.sequence, record.sequence, len(content), oldest=int(content.time.min()))


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valve, "NAP", 0.005)


def metered(clock: Clock, kept: Kept | None = None, **more: Any) -> dict[str, Any]:
    parts = {"clock": clock, "memory": kept or Kept(), "tables": (TABLE,)}
    return {"budget": "1 MB/day", "keep_alive": "3600 s", "encoder": Bulky(), "parts": parts, **more}


def put(b: Bench, values: list[float], time: float = MIDNIGHT) -> int:
    number = b.journal.define(TABLE.fingerprint, TABLE.definition)
    batch = Batch.full(TABLE, np.array(values), round(time * 1e9))
    return b.journal.append(codec.pack(batch, number), len(values), 1, 2)


def sent(b: Bench) -> int:
    return sum(on_the_wire(message.topic, len(message.payload)) for message in b.sink.accepted)


async def test_a_budget_that_is_used_up_holds_everything_until_it_resets(tmp_path: Path) -> None:
    clock, kept = Clock(MIDNIGHT + DAY / 2), Kept()
    async with bench(tmp_path, **metered(clock, kept)) as b:
        b.start()
        with capture_logs() as logs:
            for _ in range(130):
                b.append(1)
                await b.journal.flush()
            await b.until(lambda: bool(b.health.report()["problems"]))
            said = "publisher cloud is down: the budget of 1 MB/day is used up; it goes on at 2026-11-23 00:00"
            assert b.health.report()["problems"] == [said]
            assert 900_000 < sent(b) <= 1_000_000
            assert kept.state["spent"] <= 1_001_000
            held = b.journal.pending("cloud")
            assert held
            clock.now = MIDNIGHT + DAY + 60
            await b.until(lambda: not b.health.report()["problems"])
            clock.now = MIDNIGHT + 2 * DAY - 1  # late enough for any backlog
            await b.until(lambda: not b.journal.pending("cloud"))
        assert sorted(set(b.sent())) == list(range(1, 131))
        assert b.metrics.registry.get_sample_value("plantbridge_budget_spent_bytes", {"publisher": "cloud"})
    warned = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert warned == ["The budget is used up; the journal keeps what is to be sent."]


async def test_what_was_spent_holds_the_next_run_too(tmp_path: Path) -> None:
    clock, kept = Clock(MIDNIGHT + DAY / 2), Kept()
    async with bench(tmp_path, **metered(clock, kept)) as b:
        b.start()
        for _ in range(100):
            b.append(1)
            await b.journal.flush()
        await b.until(lambda: bool(b.health.report()["problems"]))
    async with bench(tmp_path, **metered(clock, kept)) as b:
        b.start()
        await b.until(lambda: bool(b.health.report()["problems"]) and b.publisher._valve.spent)
        assert b.sink.accepted == []


async def test_a_backlog_waits_for_its_share_while_new_data_goes(tmp_path: Path) -> None:
    clock = Clock(MIDNIGHT)
    async with bench(tmp_path, **metered(clock)) as b:
        b.append(4000, rows=50)  # more than a second's worth: a backlog of 40 MB
        await b.journal.flush()
        b.start()
        await b.until(lambda: len(b.late()) >= 1)
        for _ in range(10):
            b.append(1)
            await b.journal.flush()
        await b.until(lambda: {*range(4001, 4011)} <= set(b.sent()))
        assert sent(b) < 150_000  # a hundredth, and what is new
        clock.now = MIDNIGHT + DAY / 2
        await b.until(lambda: sent(b) > 450_000)
        assert sent(b) < 560_000
        assert b.health.report()["problems"] == []


async def test_what_is_thinned_is_declared_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_DECLARE", 0.3)
    clock, kept = Clock(MIDNIGHT + DAY / 2), Kept()
    kept.state = {"begin": MIDNIGHT, "spent": 850_000}
    closed = asyncio.Event()

    async def hold_gaps(message: Message) -> Delivery:
        if message.topic == "gap":
            await closed.wait()
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(hold_gaps), **metered(clock, kept, widen=4)) as b:
        b.start()
        put(b, [1.0, 1.0, 1.0, 1.0])
        await b.until(lambda: b.sent() == [1] and not b.journal.pending("cloud"))
        put(b, [1.6, 1.0, 1.0, 1.0], MIDNIGHT + 1)
        put(b, [1.9, 9.0, 1.0, 1.0], MIDNIGHT + 2)
        put(b, [1.9, 9.0, 1.0, 1.0], MIDNIGHT + 3)
        await b.until(lambda: b.sink.open == 1)
        assert b.journal.pending("cloud") == [(2, 4)]  # not before the store can know
        closed.set()
        await b.until(lambda: not b.journal.pending("cloud"))
        gaps = [orjson.loads(message.payload) for message in b.sink.accepted if message.topic == "gap"]
        rows = sum(message.readings for message in b.sink.accepted)
        assert {(device, group, reason) for device, group, reason, _ in gaps} == {("d", "g", "thinned")}
        assert rows + sum(readings for *_, readings in gaps) == 16
        assert (
            b.metrics.registry.get_sample_value("plantbridge_thinned_readings_total", {"publisher": "cloud"})
            == 16 - rows
        )


async def test_what_was_thinned_and_not_declared_comes_again_after_a_break(tmp_path: Path) -> None:
    clock, kept = Clock(MIDNIGHT + DAY / 2), Kept()
    kept.state = {"begin": MIDNIGHT, "spent": 850_000}
    async with bench(tmp_path, **metered(clock, kept, widen=4)) as b:
        b.start()
        put(b, [1.0, 1.0, 1.0, 1.0])
        put(b, [1.1, 1.0, 1.0, 1.0])
        await b.until(lambda: b.publisher._session is not None and bool(b.publisher._session.undeclared))
        assert b.journal.pending("cloud")[-1] == (2, 2) or b.journal.pending("cloud") == [(1, 2)]
        kept.state["spent"] = 0  # the next session may spend again
        b.publisher._valve._account.spent = 0  # type: ignore[union-attr]
        b.sink.dead.set()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert 2 in b.sent()


async def test_a_shutdown_declares_what_was_thinned_at_once(tmp_path: Path) -> None:
    clock, kept = Clock(MIDNIGHT + DAY / 2), Kept()
    kept.state = {"begin": MIDNIGHT, "spent": 850_000}
    async with bench(tmp_path, **metered(clock, kept, widen=4)) as b:
        b.start()
        put(b, [1.0, 1.0, 1.0, 1.0])
        put(b, [1.1, 1.0, 1.0, 1.0])
        await b.until(lambda: b.publisher._session is not None and bool(b.publisher._session.undeclared))
        await b.publisher.drain(30)
        assert not b.journal.pending("cloud")
        assert any(message.topic == "gap" for message in b.sink.accepted)


async def test_without_widen_nothing_is_left_out(tmp_path: Path) -> None:
    clock, kept = Clock(MIDNIGHT + DAY / 2), Kept()
    kept.state = {"begin": MIDNIGHT, "spent": 850_000}
    async with bench(tmp_path, **metered(clock, kept)) as b:
        b.start()
        for _ in range(3):
            put(b, [1.0, 1.0, 1.0, 1.0])
        await b.until(lambda: len(b.sent()) == 3 and not b.journal.pending("cloud"))
        assert sum(message.readings for message in b.sink.accepted) == 12


async def test_a_rate_paces_a_backlog_and_lets_new_data_pass(tmp_path: Path) -> None:
    """At 200 kB/s a backlog of 4 MB takes 20 s; what is new is there in the meantime."""
    async with bench(tmp_path, rate="200 kB/s", encoder=Bulky()) as b:
        b.append(400, rows=50)
        await b.journal.flush()
        b.publisher._leave_behind = _always(b)  # type: ignore[method-assign]
        loop = asyncio.get_running_loop()
        began = loop.time()
        b.start()
        await b.until(lambda: len(b.late()) > 3)
        for _ in range(5):
            number = b.journal.committed + 1
            b.append(1)
            await b.until(lambda number=number: number in b.sent())  # type: ignore[misc]
            assert len(b.sent()) < 400
        assert sent(b) <= 200_000 * (loop.time() - began) + 200_000 + 20_000


def _always(b: Bench) -> Any:
    """Leave to the backlog what was there at the beginning of the session."""

    def leave(session: Any) -> None:
        if session.live:
            session.backlog.extend(session.live)
            session.live.clear()
            session.changed()

    return leave


async def test_the_messages_a_second_of_a_platform_are_kept(tmp_path: Path) -> None:
    class Platform(Lines):
        limits = Limits(payload=1000, messages=50.0)

    async with bench(tmp_path, encoder=Platform()) as b:
        b.append(120)
        await b.journal.flush()
        loop = asyncio.get_running_loop()
        began = loop.time()
        b.start()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert len(b.sent()) == 120
        assert 50 + 50 * (loop.time() - began) + 1 >= 120  # one second's worth at once, the rest at the rate


async def test_a_record_that_is_too_large_for_the_platform_is_set_aside_unsent(tmp_path: Path) -> None:
    class Platform(Lines):
        limits = Limits(payload=1000)

        def _one(self, record: Record) -> Message:
            made = super()._one(record)
            return Message("row", b"x" * 1001, 2, 2, 1) if record.sequence == 2 else made

    async with bench(tmp_path, encoder=Platform()) as b:
        with capture_logs() as logs:
            b.append(3)
            await b.journal.flush()
            b.start()
            await b.until(lambda: not b.journal.pending("cloud"))
        assert b.sent() == [1, 3]
        ((_, payload, reason),) = deadletters.read(b.letters / "cloud")
        assert len(payload) == 1001
        assert reason == "1001 bytes in one message, and the peer takes 1000"
    assert [line["log_level"] for line in logs if line["log_level"] == "error"] == ["error"]


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_a_backlog_goes_in_the_order_that_was_asked_for(tmp_path: Path, order: str) -> None:
    gate = asyncio.Event()

    async def one_by_one(_: Message) -> Delivery:
        await gate.wait()
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(one_by_one), backlog=order, window=2) as b:
        b.append(4000, rows=50)
        await b.journal.flush()
        b.start()
        await b.until(lambda: b.sink.open > 0)
        gate.set()
        await b.until(lambda: not b.journal.pending("cloud"))
        order_of = b.late()
    assert sorted(order_of) == list(range(1, 4001))
    middle = [np.mean(order_of[start : start + 500]) for start in range(0, 4000, 500)]
    assert middle == sorted(middle, reverse=order == "newest")


async def test_a_newest_first_backlog_survives_a_break_without_loss(tmp_path: Path) -> None:
    left = [1500]

    def fail_once(_: Message) -> Delivery:
        left[0] -= 1
        if left[0] in (700, 0):
            b.sink.dead.set()
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(fail_once), backlog="newest") as b:
        b.append(4000, rows=50)
        await b.journal.flush()
        b.start()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert set(b.sent()) == set(range(1, 4001))
        assert b.sink.sessions >= 2


async def test_at_few_messages_a_second_what_is_old_is_left_behind_early(tmp_path: Path) -> None:
    """A live lane that worked off a minute of messages first would make all that is new a minute late."""
    async with bench(tmp_path, rate="60 messages/s", encoder=Bulky()) as b:
        b.append(15)
        b.start()
        await b.until(lambda: len(b.sent()) == 15)
        b.append(400)
        await b.journal.flush()
        await b.until(lambda: b.publisher._session is not None and bool(b.publisher._session.backlog), 15)
        b.append(1)
        await b.until(lambda: 416 in b.sent(), 30)
        assert len(b.sent()) < 200
