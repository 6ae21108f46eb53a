"""What may be commanded from outside, what is refused and why, and that nothing is written twice or unaudited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway import dialects
from gateway import quality as q
from gateway.audit import files, read, verify
from gateway.commands import Cause, Result
from gateway.contracts import Plan, Write, Written
from gateway.control import DIRECTORY, Access, Control
from gateway.dialects import Command
from gateway.errors import NotConnected
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Batch, Device, Group, Kind, Link, Tag, TagTable, split_by_kind
from gateway.options import CommandOptions, TagSelection, WriteRule
from gateway.selection import Selection

SECOND = 10**9


class FakeDriver:
    """Holds what was written; our own fake of our own contract."""

    def plan(self, tables: Sequence[TagTable]) -> Plan:
        raise NotImplementedError

    async def connect(self) -> None: ...

    async def read(self, plan: Plan) -> list[Batch]:
        raise NotImplementedError

    async def close(self) -> None: ...

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        raise AssertionError("it is the poller that writes")


@dataclass
class FakeLink:
    """A poller's end of writing."""

    driver: FakeDriver = field(default_factory=FakeDriver)
    values: dict[str, Any] = field(default_factory=dict)
    written: list[tuple[str, Any]] = field(default_factory=list)
    fails: Exception | None = None
    answer: Callable[[Write], Written] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, write: Write, permit: Callable[[], None]) -> Written:
        await self.gate.wait()
        if self.fails:
            raise self.fails
        permit()
        self.written.append((write.tag.name, write.value))
        if self.answer:
            return self.answer(write)
        before = self.values.get(write.tag.name)
        self.values[write.tag.name] = write.value
        return Written(before, write.value, q.GOOD)


TAGS = (
    Tag("setpoint", "holding:0", type="float32", writable=WriteRule(min=0, max=10)),
    Tag("speed", "holding:2", type="int16", writable=WriteRule(interval="1 h")),
    Tag("mode", "holding:3", type="uint16", states=((0, "stop"), (1, "run")), writable=WriteRule()),
    Tag("open", "coil:1", kind=Kind.BOOL, type="bool", writable=WriteRule()),
    Tag("order", "holding:9", kind=Kind.TEXT, type="text", writable=WriteRule()),
    Tag("pressure", "holding:20", type="float32"),
)


@dataclass
class Desk:
    control: Control
    link: FakeLink
    access: Access
    data: Path
    metrics: Metrics
    health: Health
    key: int = 0

    async def ask(self, device: str = "press", **values: Any) -> Sequence[Result]:
        return await self.send(Command("", device, tuple(values.items())))

    async def send(self, command: Command, **changes: Any) -> Sequence[Result]:
        self.key += 1
        filled = replace(command, key=command.key or f"k{self.key}", issued=command.issued or time.time_ns())
        return await self.control.execute(self.access, replace(filled, **changes))

    def events(self, name: str = "") -> list[dict[str, Any]]:
        return [each for each in read(self.data / DIRECTORY) if not name or each["event"] == name]


@asynccontextmanager
async def desk(data: Path, link: FakeLink | None = None, **settings: Any) -> AsyncIterator[Desk]:
    options = CommandOptions.model_validate({"tag_interval": "0 s", "rate": 1000, **settings})
    group = Group("press", "default", SECOND, 0, split_by_kind("press", "default", TAGS))
    link = link or FakeLink()
    link.gate.set()
    metrics, health = Metrics(), Health()
    links = [Link("line", "fake", None, (Device("press", None, (group,)),))]
    control = Control(options, data, links, {"line": link}, metrics, health)
    await control.open()
    access = Access("cloud", "cloud", True, lambda device, tag: (device, tag))
    try:
        yield Desk(control, link, access, data, metrics, health)
    finally:
        await control.close()
        assert verify(data / DIRECTORY).broken is None or link.fails is not None


async def test_a_command_is_written_and_its_result_told(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        results = await at.ask(setpoint=4.5, mode="run", open=True, order="A-1")
        assert at.link.written == [("setpoint", 4.5), ("mode", 1), ("open", True), ("order", "A-1")]
        assert [(each.after, each.quality) for each in results] == [(4.5, 0), (1, 0), (True, 0), ("A-1", 0)]
        (command,), (outcome,) = at.events("command"), at.events("outcome")
        assert outcome["of"] == command["sequence"]
        assert results[0].audit == f"{outcome['sequence']}:{outcome['hash']}"
        assert at.metrics.registry.get_sample_value(
            "plantbridge_commands_total", {"publisher": "cloud", "outcome": "written"}
        )


NOW = time.time_ns


@pytest.mark.parametrize(
    ("values", "changes", "cause", "reason"),
    [
        ({"nothing": 1}, {}, Cause.UNKNOWN, "no tag press/nothing"),
        ({"setpoint": 1}, {"device": "oven"}, Cause.UNKNOWN, "no tag oven/setpoint"),
        ({"pressure": 1}, {}, Cause.READ_ONLY, "not writable"),
        ({"setpoint": 10.1}, {}, Cause.RANGE, "from 0 to 10"),
        ({"setpoint": -1}, {}, Cause.RANGE, "from 0 to 10"),
        ({"mode": 7}, {}, Cause.RANGE, "no state 7"),
        ({"speed": 1.5}, {}, Cause.RANGE, "steps of 1"),
        ({"setpoint": "5"}, {}, Cause.TYPE, "expected a number"),
        ({"setpoint": True}, {}, Cause.TYPE, "expected a number"),
        ({"setpoint": float("nan")}, {}, Cause.TYPE, "expected a number"),
        ({"setpoint": float("inf")}, {}, Cause.TYPE, "expected a number"),
        ({"mode": "fly"}, {}, Cause.TYPE, "expected a number"),
        ({"open": 2}, {}, Cause.TYPE, "true or false"),
        ({"open": "true"}, {}, Cause.TYPE, "true or false"),
        ({"order": 5}, {}, Cause.TYPE, "expected a text"),
        ({}, {}, Cause.MALFORMED, "no value"),
        ({"setpoint": 1}, {"values": (("setpoint", 1), ("setpoint", 2))}, Cause.MALFORMED, "twice"),
        ({"setpoint": 1}, {"issued": 0}, Cause.MALFORMED, "says no time"),
        ({"setpoint": 1}, {"issued": NOW() - 3600 * SECOND}, Cause.STALE, "old by this gateway's clock"),
        ({"setpoint": 1}, {"issued": NOW() + 3600 * SECOND}, Cause.FUTURE, "from the future|in the future"),
        ({"setpoint": 1}, {"expires": NOW() - 10 * SECOND}, Cause.STALE, "old by this gateway's clock"),
    ],
)
async def test_what_may_not_be_written_is_refused_with_its_reason_and_audited(
    tmp_path: Path, values: dict[str, Any], changes: dict[str, Any], cause: Cause, reason: str
) -> None:
    import re

    async with desk(tmp_path) as at:
        await at.send(Command("", "press", tuple(values.items())), **changes)
        assert at.link.written == []
        (refused,) = at.events("refused")
        assert refused["cause"] == cause
        assert re.search(reason, refused["reason"])
        assert at.events("command") == []


async def test_one_wrong_value_keeps_all_others_from_being_written(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        results = await at.ask(setpoint=5, mode="run", pressure=1)
        assert at.link.written == []
        assert all(each.quality >= q.BAD and each.refused for each in results)


async def test_too_many_values_too_soon_too_fast(tmp_path: Path) -> None:
    async with desk(tmp_path, rate=3, values=2, tag_interval="0 s") as at:
        assert "at most 2" in (await at.ask(setpoint=1, mode=1, speed=1))[0].reason
        assert (await at.ask(speed=1))[0].quality == 0
        assert "every 3600 s only" in (await at.ask(speed=2))[0].reason
        assert (await at.ask(setpoint=1, mode=1))[0].quality == 0
        assert "more than 3 values a second" in (await at.ask(setpoint=2, open=True))[0].reason
        assert [name for name, _ in at.link.written] == ["speed", "setpoint", "mode"]


async def test_a_tag_that_the_publisher_does_not_show_is_no_tag_to_it(tmp_path: Path) -> None:
    tables = split_by_kind("press", "default", TAGS)
    chosen = TagSelection.model_validate({"include": ["press/setpoint"], "as": {"press": "machine"}})
    async with desk(tmp_path) as at:
        partner = replace(at.access, origin=Selection(chosen, tables).origin)
        for device, tag, good in (
            ("machine", "setpoint", True),
            ("press", "setpoint", False),
            ("machine", "mode", False),
        ):
            command = Command(f"{device}{tag}", device, ((tag, 1),), issued=time.time_ns())
            (result,) = await at.control.execute(partner, command)
            assert (result.quality == 0) == good, result
        assert at.link.written == [("setpoint", 1)]
        assert {each["cause"] for each in at.events("refused")} == {Cause.UNKNOWN}


async def test_a_repetition_is_answered_and_not_written(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        one = Command("a", "press", (("setpoint", 5.0),))
        first = await at.send(one)
        assert await at.send(one) == first
        assert await at.send(one, issued=1) == first  # also when it has become too old meanwhile
        assert "used before" in (await at.send(replace(one, values=(("setpoint", 6.0),))))[0].reason
        assert at.link.written == [("setpoint", 5.0)]


async def test_a_repetition_while_it_is_under_way_waits_for_the_result(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.link.gate.clear()
        one = Command("a", "press", (("setpoint", 5.0),))
        first, second = asyncio.create_task(at.send(one)), asyncio.create_task(at.send(one))
        await asyncio.sleep(0)
        at.link.gate.set()
        assert await first == await second
        assert len(at.link.written) == 1


async def test_what_was_done_is_remembered_over_a_restart(tmp_path: Path) -> None:
    one = Command("a", "press", (("setpoint", 5.0), ("mode", "run")))
    async with desk(tmp_path) as at:
        first = await at.send(one)
    async with desk(tmp_path) as at:
        assert await at.send(one) == first
        assert at.link.written == []


async def test_a_command_that_comes_again_after_the_clock_was_set_is_not_done_again(tmp_path: Path) -> None:
    """A broker delivers twice; where commands bear no time, only that it was seen tells."""
    async with desk(tmp_path) as at:
        at.access = replace(at.access, dated=False)
        command = Command("one", "press", (("setpoint", 3),))
        await at.send(command)
        at.control._clock = lambda: time.time_ns() + 7200 * SECOND
        at.control._look()
        await at.control.execute(at.access, replace(command, key="one"))
        assert at.link.written == [("setpoint", 3)]
        labels = {"publisher": "cloud", "outcome": "repeated"}
        assert at.metrics.registry.get_sample_value("plantbridge_commands_total", labels) == 1


async def test_what_a_power_cut_interrupted_is_not_done_again_and_nobody_says_it_was_done(tmp_path: Path) -> None:
    """The line before the write is on the disk, the one after is not: the write may have happened."""
    one = Command("a", "press", (("setpoint", 5.0),))
    async with desk(tmp_path) as at:
        await at.send(one)
    (path,) = files(tmp_path / DIRECTORY)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: next(i for i, line in enumerate(lines) if b'"outcome"' in line)]))
    async with desk(tmp_path) as at:
        (result,) = await at.send(one)
        assert result.quality == q.UNCERTAIN
        assert "may or may not" in result.reason
        assert at.link.written == []
        assert len(at.events("interrupted")) == 1


async def test_a_command_is_finished_and_audited_when_whoever_asked_is_gone(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.link.gate.clear()
        task = asyncio.create_task(at.send(Command("a", "press", (("setpoint", 5.0),))))
        while not at.events("command"):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        at.link.gate.set()
    assert [each["results"][0]["after"] for each in at.events("outcome")] == [5.0]


async def test_the_rest_is_not_tried_after_a_failure(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.link.answer = lambda write: Written(1, 1, q.BAD_DEVICE_FAILURE, "the device refused")
        results = await at.ask(setpoint=5, mode=1)
        assert [each.reason for each in results] == ["the device refused", "not tried, for setpoint failed"]
        assert len(at.link.written) == 1


async def test_a_link_that_is_down_is_said_and_audited(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.link.fails = NotConnected("the link is down", "press")
        (result,) = await at.ask(setpoint=5)
        assert result.quality == q.BAD_NOT_CONNECTED
        assert "nothing was written" in result.reason
        assert at.events("outcome")[0]["results"][0]["quality"] == "BadNotConnected"


async def test_nothing_is_written_that_cannot_be_audited(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        (tmp_path / DIRECTORY).rename(tmp_path / "gone")
        (tmp_path / DIRECTORY).write_text("in the way")
        (result,) = await at.ask(setpoint=5)
        assert "audit log" in result.reason
        assert at.link.written == []
        (tmp_path / DIRECTORY).unlink()
        assert (await at.ask(setpoint=5))[0].quality == 0  # as soon as it can be written again


async def test_a_log_that_cannot_be_written_at_the_start_costs_the_commands_only(tmp_path: Path) -> None:
    """A full disk must not keep the gateway from reading."""
    (tmp_path / DIRECTORY).write_text("in the way")
    async with desk(tmp_path) as at:
        (result,) = await at.ask(setpoint=5)
        assert "audit log" in result.reason
        assert at.link.written == []
        assert (at.metrics.registry.get_sample_value("plantbridge_audit_failures_total") or 0) >= 2
        (tmp_path / DIRECTORY).unlink()


async def test_isolation_is_looked_at_before_each_value(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:

        def isolates(write: Write) -> Written:
            at.control.switch.isolate("somebody", "", time.time_ns())
            return Written(0, write.value, q.GOOD)

        at.link.answer = isolates
        results = await at.ask(setpoint=5, mode=1)
        assert [name for name, _ in at.link.written] == ["setpoint"]
        assert "isolated" in results[1].reason
        assert (await at.ask(setpoint=6))[0].quality == q.BAD_OUT_OF_SERVICE


async def test_isolation_from_outside_needs_no_right_clock_and_stays(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        assert await at.send(Command("i", "", (), issued=1, isolate=True, by="maria", reason="drill")) == ()
        assert at.health.report()["commands"]["state"] == "isolated"
        assert at.metrics.registry.get_sample_value("plantbridge_isolated") == 1
        assert at.events("isolated")[0]["by"] == "maria"
    async with desk(tmp_path) as at:
        assert (await at.ask(setpoint=5))[0].quality == q.BAD_OUT_OF_SERVICE
        at.control.switch.release()
        assert (await at.ask(setpoint=5))[0].quality == 0


async def test_a_flood_of_refusals_costs_a_few_lines_and_is_counted(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        before = len(at.events())
        for number in range(2000):
            await at.control.execute(at.access, Command("", f"d{number}", (("x", 1),), issued=time.time_ns()))
            refused = dialects.Refused("a/b", f"nonsense {number}", device=f"e{number}")
            at.control.refused(at.access, refused)
        assert len(at.events()) - before < 10
        assert sum(at.control.answers(at.access) for _ in range(2000)) <= 30
    more = {each["cause"]: each["count"] for each in at.events("refused more")}
    assert more == {"unknown tag": 1999, "malformed": 1999}


async def test_a_command_waits_no_longer_than_it_is_valid(tmp_path: Path) -> None:
    async with desk(tmp_path, expires="50 ms", clock_skew="0 s") as at:
        at.link.gate.clear()
        task = asyncio.create_task(at.ask(setpoint=5))
        await asyncio.sleep(0.1)  # longer than it may wait for its turn on the link
        at.link.gate.set()
        (result,) = await task
        assert "expired" in result.reason or "old by" in result.reason
        assert at.link.written == []
