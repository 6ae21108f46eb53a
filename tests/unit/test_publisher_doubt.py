"""What a publisher makes of a session that breaks soon after messages were taken: doubt, but of these only."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

from structlog.testing import capture_logs

from gateway.contracts import Delivery
from gateway.model import Message
from tests.unit.test_publisher import Bench, Told, bench


def _sent(b: Bench, numbers: list[int]) -> bool:
    return b.sent() == numbers


async def test_what_a_broken_session_did_not_take_is_believed_no_sooner_than_anything_else(tmp_path: Path) -> None:
    """A record that was under way when the broker died is new to the broker that comes back, whatever came after it."""
    held: list[int] = []

    async def all_but_the_second(message: Message) -> Delivery:
        if message.first == 2 and not held:
            held.append(message.first)
            await asyncio.Event().wait()
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(all_but_the_second), settle="1 h") as b:
        b.start()
        for there in ([1], [1], [1, 3], [1, 3, 4]):
            b.append(1)
            await b.journal.flush()
            await b.until(partial(_sent, b, there))
            await b.until(lambda: b.sink.open == len(held))
        b.sink.dead.set()
        await b.until(lambda: Counter(b.sent()) == {1: 2, 2: 1, 3: 2, 4: 2})
        assert b.journal.pending("cloud") == [(2, 2)]


async def test_sessions_that_break_again_and_again_cost_one_repetition_of_each_record(tmp_path: Path) -> None:
    """On a bad line no session may ever live for as long as `settle`: the journal has to be emptied all the same."""
    async with bench(tmp_path, settle="1 h") as b:
        b.start()
        b.append(3)
        sent = [1, 2, 3]
        await b.until(partial(_sent, b, sent))
        for first in range(4, 20, 3):
            b.sink.refuse_connect = "away"
            b.sink.dead.set()
            await b.until(lambda: not b.sink.connected)
            b.append(3)
            await b.journal.flush()
            b.sink.refuse_connect = ""
            sent += range(first - 3, first + 3)
            await b.until(partial(_sent, b, sent))
            assert b.journal.pending("cloud") == [(first, first + 2)]


class Heard(Told):
    """A sink whose peer gives signs of life as it is told."""

    heard = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1


async def test_what_was_taken_is_believed_at_a_later_sign_of_life_and_not_by_time_alone(tmp_path: Path) -> None:
    """A broker that was killed right after its PUBACK may not have it, however long it takes to notice."""
    sink = Heard()
    async with bench(tmp_path, sink, settle="10 ms") as b:
        b.append(2)
        b.start()
        await b.until(lambda: sink.asked >= 2)
        assert b.journal.pending("cloud") == [(1, 2)]
        sink.dead.set()
        await b.until(partial(_sent, b, [1, 2, 1, 2]))
        await b.until(lambda: not b.journal.pending("cloud"))  # taken twice
        b.append(1)
        await b.until(partial(_sent, b, [1, 2, 1, 2, 3]))
        asked = sink.asked
        await b.until(lambda: sink.asked > asked)
        assert b.journal.pending("cloud") == [(3, 3)]
        sink.heard = asyncio.get_running_loop().time()
        await b.until(lambda: not b.journal.pending("cloud"))
        assert b.sent() == [1, 2, 1, 2, 3]


async def test_a_defect_in_a_sink_or_a_format_restarts_that_publisher_and_is_loud(tmp_path: Path) -> None:
    """One publisher's defect must cost neither the daemon nor what the other publishers send."""
    failures = [KeyError("first"), TypeError("second")]

    def fail_twice(_: Message) -> Delivery:
        if failures:
            raise failures.pop(0)
        return Delivery.ACCEPTED

    async with bench(tmp_path, Told(fail_twice)) as b:
        with capture_logs() as logs:
            b.append(2)
            b.start()
            await b.until(lambda: b.sink.sessions >= 2)
            await b.until(lambda: set(b.sent()) == {1, 2} and not b.journal.pending("cloud"))
        loud = [entry for entry in logs if entry["log_level"] == "error"]
        assert loud
        assert "defect" in loud[0]["event"]
        assert any("KeyError" in str(entry.get("reason", "")) for entry in logs)
