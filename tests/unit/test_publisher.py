"""The publisher's rules, with a real journal and a sink that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from gateway import codec, deadletters
from gateway.clock import Clock, Span
from gateway.contracts import Delivery, Record
from gateway.encoders import encoder_for
from gateway.errors import SinkUnavailable
from gateway.health import Health
from gateway.journal import Chunk, Journal
from gateway.metrics import Metrics
from gateway.model import Batch, Gap, Message, Tag, TagTable
from gateway.options import JournalOptions, PublisherOptions
from gateway.publisher import Publisher
from tests.native import table as table_of

TABLE = table_of(size=50)
QUICK = {"retry_first": "1 ms", "retry_longest": "5 ms", "settle": "0 s"}


class Told:
    """A sink that does as it is told: `answer` may wait, refuse, or raise."""

    def __init__(self, answer: Callable[[Message], Any] = lambda _: Delivery.ACCEPTED) -> None:
        self.answer = answer
        self.refusal = "told to refuse"
        self.accepted: list[Message] = []
        self.sessions = 0
        self.connected = False
        self.open = 0  # sends under way
        self.most_open = 0
        self.dead: asyncio.Event = asyncio.Event()
        self.refuse_connect = ""
        self.act = self.overrun = False
        self.largest = 0

    @property
    def peer(self) -> Told:
        return self

    @property
    def heard(self) -> float:
        return asyncio.get_running_loop().time()

    def ask(self) -> None: ...

    async def connect(self) -> None:
        assert not self.connected
        if self.refuse_connect:
            raise SinkUnavailable(self.refuse_connect)
        self.connected = True
        self.sessions += 1
        self.dead.clear()

    async def send(self, message: Message) -> Delivery:
        assert self.connected
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            result = self.answer(message)
            if asyncio.iscoroutine(result):
                result = await result
        finally:
            self.open -= 1
        if result is Delivery.ACCEPTED:
            self.accepted.append(message)
        return result

    async def ended(self) -> str:
        await self.dead.wait()
        return "the session was ended"

    async def close(self) -> None:
        self.connected = False


class Lines:
    """An encoder of one message per record: its sequence, and whether it is late."""

    def __init__(self) -> None:
        self.resets = 0
        self.max_message = 256_000

    def reset(self) -> None:
        self.resets += 1

    def encode(self, records: list[Record]) -> list[Message]:
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> Message:
        content = record.content
        if isinstance(content, Gap):
            return Message("gap", content.reason.encode(), record.sequence, record.sequence, 0)
        body = orjson.dumps([record.sequence, content.backfill])
        return Message("row", body, record.sequence, record.sequence, len(content), oldest=int(content.time.min()))


class Bench:
    """A journal, a sink and a publisher between them."""

    def __init__(self, directory: Path, journal: Journal, sink: Told, **more: Any) -> None:
        self.journal = journal
        self.sink = sink
        self.encoder: Any = more.pop("encoder", None) or Lines()
        self.metrics, self.health = Metrics(), Health()
        self.letters = directory / "dead"
        parts = more.pop("parts", {})
        options = PublisherOptions.model_validate({"url": "mqtt://b", **QUICK, **more})
        self.publisher = Publisher(
            "cloud", options, "demo", journal, sink, self.encoder, self.metrics, self.health, self.letters, **parts
        )
        self.number = journal.define(TABLE.fingerprint, TABLE.definition)
        self._task: asyncio.Task[None] | None = None

    def append(self, count: int, rows: int = 1) -> None:
        for _ in range(count):
            batch = Batch.full(TABLE, np.random.default_rng(1).random(50), 10**18).take(np.arange(rows))
            self.journal.append(codec.pack(batch, self.number), rows, 1, 2)

    def start(self) -> None:
        self._task = asyncio.create_task(self.publisher.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            (result,) = await asyncio.gather(self._task, return_exceptions=True)
            assert isinstance(result, asyncio.CancelledError), result
            self._task = None

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)
                assert self._task is None or not self._task.done(), self._task

    def sent(self) -> list[int]:
        return [message.first for message in self.sink.accepted]

    def late(self) -> list[int]:
        return [message.first for message in self.sink.accepted if message.payload.endswith(b"true]")]


@asynccontextmanager
async def bench(directory: Path, sink: Told | None = None, **more: Any) -> AsyncIterator[Bench]:
    options = JournalOptions(commit_interval="1 ms", durability="process")
    journal = await Journal.open(directory / "journal", options, ["cloud"], codec.pack_gap)
    made = Bench(directory, journal, sink or Told(), **more)
    try:
        yield made
    finally:
        await made.stop()
        await journal.close()


async def test_what_is_committed_is_sent_in_order_and_acknowledged(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.append(20)
        await b.journal.flush()
        b.start()
        await b.until(lambda: not b.journal.pending("cloud"))
        b.append(5, rows=7)
        await b.until(lambda: len(b.sent()) == 25 and not b.journal.pending("cloud"))
        assert b.sent() == list(range(1, 26))
        assert b.late() == []
        assert b.journal.totals().delivered == {"cloud": 20 + 35}
        text = b.metrics.text().decode()
        assert 'plantbridge_acknowledged_readings_total{publisher="cloud"} 55.0' in text
        assert 'plantbridge_latency_seconds_count{publisher="cloud"} 25.0' in text
        assert b.health.report()["problems"] == []


async def test_nothing_is_acknowledged_before_the_peer_has_it(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(_: Message) -> Delivery:
        await release.wait()
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(wait)) as b:
        b.append(3)
        b.start()
        await b.until(lambda: b.sink.open == 3)
        assert b.journal.pending("cloud") == [(1, 3)]
        release.set()
        await b.until(lambda: not b.journal.pending("cloud"))


async def test_a_lost_session_sends_again_what_was_not_acknowledged(tmp_path: Path) -> None:
    left = [30]

    def fail_at_times(message: Message) -> Delivery:
        left[0] -= 1
        if left[0] % 7 == 0 and left[0] > 0:
            raise SinkUnavailable("gone")
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(fail_at_times)) as b:
        b.append(40)
        b.start()
        await b.until(lambda: bool(b.sent()) and not b.journal.pending("cloud"))
        assert set(b.sent()) == set(range(1, 41))
        assert b.sink.sessions == b.encoder.resets > 1


async def test_the_window_bounds_what_is_under_way(tmp_path: Path) -> None:
    async def slowly(_: Message) -> Delivery:
        await asyncio.sleep(0.001)
        return Delivery.ACCEPTED

    for window in (1, 4):
        async with bench(tmp_path / str(window), Told(slowly), window=window) as b:
            b.append(60)
            b.start()
            await b.until(lambda b=b: bool(b.sent()) and not b.journal.pending("cloud"))  # type: ignore[misc]
            assert b.sink.most_open <= window


async def test_a_rejected_message_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    def refuse_some(message: Message) -> Delivery:
        return Delivery.REJECTED if message.first % 3 == 0 else Delivery.ACCEPTED

    async with bench(tmp_path, Told(refuse_some)) as b:
        with capture_logs() as logs:
            b.append(9, rows=2)
            b.start()
            await b.until(lambda: bool(b.sent()) and not b.journal.pending("cloud"))
        assert b.sent() == [1, 2, 4, 5, 7, 8]
        letters = deadletters.read(b.letters / "cloud")
        assert [(topic, orjson.loads(payload)[0], reason) for topic, payload, reason in letters] == [
            ("row", number, "told to refuse") for number in (3, 6, 9)
        ]
        assert b.journal.totals().delivered == {"cloud": 12}
        assert 'plantbridge_rejected_messages_total{publisher="cloud"} 3.0' in b.metrics.text().decode()
        assert [line["log_level"] for line in logs if line["log_level"] == "error"] == ["error"] * 3


async def test_new_data_does_not_wait_for_a_backlog(tmp_path: Path) -> None:
    """After an outage the operator wants to see now, and the hours before as they come."""
    gate = asyncio.Event()

    async def gated(message: Message) -> Delivery:
        if message.payload.endswith(b"true]"):
            await gate.wait()  # the backlog stands still
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(gated)) as b:
        b.append(4000, rows=50)
        await b.journal.flush()
        backlog = b.journal.committed
        b.start()
        await b.until(lambda: b.sink.open > 0)
        b.append(3)
        await b.until(lambda: len(b.sent()) == 3)
        assert b.sent() == [backlog + 1, backlog + 2, backlog + 3]
        gate.set()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert sorted(b.sent()) == list(range(1, backlog + 4))
        assert b.late() == list(range(1, backlog + 1))
        # how late a backlog is says nothing about the way of the data
        assert 'latency_seconds_count{publisher="cloud"} 3.0' in b.metrics.text().decode()


async def test_a_live_lane_that_cannot_follow_leaves_the_rest_behind(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def gated(_: Message) -> Delivery:
        await gate.wait()
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(gated), window=4) as b:
        b.start()
        b.append(4)
        await b.until(lambda: b.sink.open == 4)
        b.append(4000, rows=50)
        await b.journal.flush()
        gate.set()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert sorted(b.sent()) == list(range(1, 4005))
        assert len(b.late()) > 1000


async def test_a_record_that_cannot_be_read_is_declared_and_passed_by(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        with capture_logs() as logs:
            b.append(1)
            b.journal.append(b"\x01\x07 nonsense", 12, 5, 6)
            b.append(1)
            b.start()
            await b.until(lambda: any(message.topic == "gap" for message in b.sink.accepted))
            await b.until(lambda: not b.journal.pending("cloud"))
        assert b.sent()[:2] == [1, 3]
        assert b.journal.totals().dropped == 12
        assert [line["log_level"] for line in logs if line["log_level"] == "error"] == ["error"]


async def test_a_defect_in_a_format_costs_one_record(tmp_path: Path) -> None:
    class Failing(Lines):
        def encode(self, records: list[Record]) -> list[Message]:
            if any(record.sequence == 3 for record in records):
                raise ZeroDivisionError
            return super().encode(records)

    async with bench(tmp_path, encoder=Failing()) as b:
        with capture_logs():
            b.append(5)
            b.start()
            await b.until(lambda: len(b.sent()) >= 5 and not b.journal.pending("cloud"))
        assert b.sent()[:4] == [1, 2, 4, 5]
        assert b.sink.accepted[-1].payload == b"a damaged record"


async def test_a_peer_that_dies_of_large_messages_gets_smaller_ones(tmp_path: Path) -> None:
    sink = Told()

    def too_large(message: Message) -> Delivery:
        if len(message.payload) > 20_000:
            sink.connected = False
            raise SinkUnavailable("the connection was lost")
        return Delivery.ACCEPTED

    table = TagTable("d", "g", TABLE.kind, tuple(Tag(f"t{n}", "a") for n in range(10_000)))
    sink.answer = too_large
    async with bench(tmp_path, sink, max_message="100 kB") as b:
        options = PublisherOptions(url="mqtt://b", max_message="100 kB")
        encoder: Any = encoder_for(options, "demo", b.journal.id)
        b.publisher._extract.encoder = encoder
        number = b.journal.define(table.fingerprint, table.definition)
        batch = Batch.full(table, np.random.default_rng(1).random(10_000), 10**18)
        with capture_logs() as logs:
            b.journal.append(codec.pack(batch, number), 10_000, 1, 2)
            b.publisher._extract.encoder.know(number, table)
            encoder._told.add(number)
            encoder.reset = lambda: None  # the definition alone is larger than this peer takes
            b.start()
            await b.until(lambda: b.journal.totals().delivered == {"cloud": 10_000})
        assert any("smaller" in line["event"] for line in logs)


async def test_what_the_peer_answers_is_no_reason_for_smaller_messages(tmp_path: Path) -> None:
    """Nobody subscribed, a quota used up: the session is given up, but the messages are as good as ever."""
    refusing = [True]

    def full(_: Message) -> Delivery:
        if refusing[0]:
            raise SinkUnavailable("takes no more now")
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(full)) as b:
        b.append(3)
        b.start()
        await b.until(lambda: b.sink.sessions > 10)
        refusing[0] = False
        await b.until(lambda: b.sent() == [1, 2, 3])
        assert b.encoder.max_message == 256_000


async def test_transitions_are_logged_once(tmp_path: Path) -> None:
    sink = Told()
    sink.refuse_connect = "nothing listens there"
    async with bench(tmp_path, sink) as b:
        with capture_logs() as logs:
            b.start()
            await b.until(lambda: b.publisher._backoff.attempts > 5)
            assert b.health.report()["problems"] == ["publisher cloud is down: nothing listens there"]
            sink.refuse_connect = ""
            b.append(1)
            await b.until(lambda: b.sent() == [1])
            sink.dead.set()
            sink.refuse_connect = "again"
            await b.until(lambda: b.publisher._backoff.attempts > 5 and not sink.connected)
        levels = [(line["log_level"], line.get("reason")) for line in logs]
        assert levels == [("warning", "nothing listens there"), ("info", None), ("warning", "the session was ended")]


async def test_a_session_that_ends_over_one_record_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """mosquitto refuses a message and ends the session: what was under way beside it has not arrived."""
    sink = Told()

    def guilty(message: Message) -> Delivery:
        if sink.dead.is_set():
            raise SinkUnavailable("the session was ended")
        if message.first in (20, 70):
            sink.dead.set()
            return Delivery.REJECTED
        return Delivery.ACCEPTED

    async def send(message: Message) -> Delivery:
        await asyncio.sleep(0)
        return guilty(message)

    sink.answer = send
    async with bench(tmp_path, sink) as b:
        with capture_logs():
            b.append(100)
            await b.journal.flush()
            b.start()
            await b.until(lambda: not b.journal.pending("cloud"))
        assert set(b.sent()) == set(range(1, 101)) - {20, 70}
        assert {orjson.loads(payload)[0] for _, payload, _ in deadletters.read(b.letters / "cloud")} == {20, 70}


async def test_what_was_taken_just_before_a_session_broke_is_sent_once_more(tmp_path: Path) -> None:
    """mosquitto acknowledges before it saves: killed, it has forgotten what it had taken over."""
    async with bench(tmp_path, settle="1 h") as b:
        b.append(5)
        b.start()
        await b.until(lambda: len(b.sent()) == 5)
        assert b.journal.pending("cloud") == [(1, 5)]
        b.sink.dead.set()
        await b.until(lambda: len(b.sent()) == 10 and not b.journal.pending("cloud"))
        assert b.sent() == [*range(1, 6), *range(1, 6)]
        b.append(1)
        await b.journal.flush()
        await b.publisher.drain(60)  # our own end is no reason for doubt
        assert not b.journal.pending("cloud")


async def test_draining_sends_what_is_there_and_waits_for_no_peer_that_is_away(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.start()
        b.append(50)
        await b.journal.flush()
        await b.publisher.drain(60)
        assert not b.journal.pending("cloud")
    sink = Told()
    sink.refuse_connect = "away"
    async with bench(tmp_path, sink) as b:
        b.append(1)
        await b.journal.flush()
        b.start()
        async with asyncio.timeout(30):
            await b.publisher.drain(3600)


async def test_draining_ends_at_its_deadline(tmp_path: Path) -> None:
    async def never(_: Message) -> Delivery:
        await asyncio.Event().wait()
        raise AssertionError

    async with bench(tmp_path, Told(never)) as b:
        b.start()
        b.append(1)
        await b.until(lambda: b.sink.open == 1)
        await b.publisher.drain(0.05)
        assert b.journal.pending("cloud") == [(1, 1)]


async def test_the_published_definition_is_the_journalled_one_byte_by_byte(tmp_path: Path) -> None:
    """Its fingerprint names it: a definition that was read and written again might differ in a digit."""
    definition = orjson.dumps({**orjson.loads(TABLE.definition), "from": "a later version"})
    seen: list[bytes] = []

    class Looking(Lines):
        def encode(self, records: list[Record]) -> list[Message]:
            seen.extend(record.content.table.definition for record in records if isinstance(record.content, Batch))
            return super().encode(records)

    async with bench(tmp_path, encoder=Looking()) as b:
        b.number = b.journal.define(b"another", definition)
        b.append(1)
        b.start()
        await b.until(lambda: bool(seen))
        assert seen == [definition]


async def test_a_journal_that_fails_ends_the_task(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        task = asyncio.create_task(b.publisher.run())
        await b.until(lambda: b.sink.connected)
        await b.journal.close()
        with pytest.raises(Exception, match="closed"):
            async with asyncio.timeout(30):
                await task
        assert not b.sink.connected


# ------------------------------------------------------------------------------------------------ without a date


def _holding(first: int, last: int = 0) -> Clock:
    """Give a clock that has no date yet for these records."""
    dates = Clock(steady=lambda: 0, wall=lambda: 10**18, boot="this")
    dates.spans = (Span("this", first, last),)
    return dates


def _release(b: Bench, dates: Clock, first: int, last: int) -> None:
    dates.spans = (Span("this", first, last, 0, 10**18),)
    b.publisher.release(dates.release())


def _releasing(b: Bench, dates: Clock) -> Callable[[int, int, int], Awaitable[Chunk]]:
    """Read as the journal does, and let go of records 1 to 3 while that is under way."""
    read = b.journal.read

    async def reading(first: int, last: int, max_bytes: int) -> Chunk:
        if dates.holds:
            _release(b, dates, 1, 3)
        return await read(first, last, max_bytes)

    return reading


async def test_what_has_no_date_yet_is_held_and_what_comes_after_it_is_not_held_up(tmp_path: Path) -> None:
    dates = _holding(4, 6)
    async with bench(tmp_path, parts={"dates": dates}) as b:
        b.append(8)
        await b.journal.flush()
        b.start()
        await b.until(lambda: len(b.sent()) == 5)
        b.append(2)
        await b.until(lambda: len(b.sent()) == 7)
        assert b.sent() == [1, 2, 3, 7, 8, 9, 10]
        assert b.journal.pending("cloud") == [(4, 6)]
        await asyncio.wait_for(b.publisher.drain(60), 30)  # a stop does not wait for it
        _release(b, dates, 4, 6)
        await b.until(lambda: not b.journal.pending("cloud"))
        assert b.sent()[7:] == [4, 5, 6]
        assert b.late() == [4, 5, 6]


async def test_an_open_hold_lets_nothing_out_and_is_released_once(tmp_path: Path) -> None:
    dates = _holding(1)
    async with bench(tmp_path, parts={"dates": dates}) as b:
        b.append(3)
        b.start()
        await b.until(lambda: b.publisher.connected and b.journal.committed == 3)
        b.append(3)
        await b.journal.flush()
        b.sink.dead.set()  # another session
        await b.until(lambda: b.sink.sessions == 2 and b.publisher.connected)
        assert b.sent() == []
        _release(b, dates, 1, 6)
        b.append(2)
        await b.journal.flush()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert sorted(b.sent()) == list(range(1, 9))


async def test_what_is_released_while_what_follows_it_is_read_is_sent_in_the_same_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates = _holding(1, 3)
    async with bench(tmp_path, parts={"dates": dates}) as b:
        b.start()
        await b.until(lambda: b.publisher.connected)
        monkeypatch.setattr(b.journal, "read", _releasing(b, dates))
        b.append(5)  # committed as one
        await b.until(lambda: len(b.sent()) == 5, 30)
        assert sorted(b.sent()) == [1, 2, 3, 4, 5]


async def test_what_is_released_while_the_newest_of_the_backlog_is_read_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates = _holding(1, 3)
    async with bench(tmp_path, parts={"dates": dates}, backlog="newest") as b:
        b.append(6)
        await b.journal.flush()
        b.start()
        await b.until(lambda: len(b.sent()) == 3)
        monkeypatch.setattr(b.journal, "read", _releasing(b, dates))
        b.publisher._send_again([(4, 6)])
        await b.until(lambda: {*b.sent()} == {1, 2, 3, 4, 5, 6}, 30)
        await b.until(lambda: len(b.sent()) == 9, 30)
