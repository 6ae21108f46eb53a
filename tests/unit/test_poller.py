"""The runtime owns time and trouble: what it does with a driver that is silent, cut off, slow or broken.

The driver here is our own fake of our own contract; its clock is the real one, with scans every few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from gateway import quality as q
from gateway.contracts import PlannedRequest, Said, Write, Written
from gateway.errors import JournalError, NoAnswer, NotConnected
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Batch, Device, Gap, Group, Kind, Link, Tag, TagTable
from gateway.options import DeviceOptions, LinkOptions
from gateway.pipeline import Pipeline
from gateway.poller import Poller
from tests.memory_journal import MemoryJournal

MS = 1_000_000


@dataclass(frozen=True)
class FakePlan:
    tables: tuple[TagTable, ...]

    def requests(self) -> Sequence[PlannedRequest]:
        return [PlannedRequest("all", 1, 1, 0.001)]


@dataclass
class FakeDriver:
    """Answers unless told otherwise; notes who was asked."""

    silent: set[str] = field(default_factory=set)
    cut: bool = False
    refuse: bool = False
    broken: bool = False
    slow: float = 0.0
    silence_costs: float = 0.002
    asked: list[str] = field(default_factory=list)
    connects: int = 0
    closes: int = 0
    failing: BaseException | None = None  # what connect or close raises
    where: str = "connect"
    hangs: bool = False  # connect or close does not come back
    stubborn: bool = False  # not even when it is cancelled

    async def misbehave(self, where: str) -> None:
        if where != self.where:
            return
        if self.failing is not None:
            raise self.failing
        while self.hangs:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise

    def plan(self, tables: Sequence[TagTable]) -> FakePlan:
        return FakePlan(tuple(tables))

    async def connect(self) -> None:
        self.connects += 1
        await self.misbehave("connect")
        if self.refuse:
            raise NotConnected("connection refused by 127.0.0.1:502")

    async def read(self, plan: FakePlan) -> list[Batch]:
        device = plan.tables[0].device
        self.asked.append(device)
        await self.misbehave("read")
        if self.broken:
            raise ZeroDivisionError("a driver's defect")
        if self.cut:
            raise NotConnected("connection reset")
        if device in self.silent:
            await asyncio.sleep(self.silence_costs)
            raise NoAnswer("no answer within 2 ms", device)
        if self.slow:
            await asyncio.sleep(self.slow)
        return [Batch.full(table, np.ones(len(table)), time.time_ns()) for table in plan.tables]

    async def close(self) -> None:
        self.closes += 1
        await self.misbehave("close")


@dataclass
class FakeSubscriber(FakeDriver):
    """Reports the group "g1" itself, from a queue; the others are polled."""

    news: asyncio.Queue[float] = field(default_factory=asyncio.Queue)

    def subscribes(self, plan: FakePlan) -> bool:
        return plan.tables[0].group == "g1"

    async def changes(self, plans: Sequence[FakePlan]) -> AsyncIterator[Batch]:
        (table,) = plans[0].tables
        yield Batch.full(table, np.zeros(len(table)), time.time_ns())
        while True:
            value = await self.news.get()
            if value < 0:
                raise NotConnected("the session timed out")
            yield Batch(
                table,
                np.array([1], dtype=np.uint32),
                np.array([value]),
                np.zeros(1, dtype=np.uint32),
                np.array([time.time_ns()]),
            )


@dataclass
class Plant:
    driver: FakeDriver
    journal: MemoryJournal
    metrics: Metrics
    health: Health
    poller: Poller
    task: asyncio.Task[None] | None = None


def plant(
    *devices: str,
    interval: int = 10 * MS,
    groups: int = 1,
    longest: str = "60 ms",
    make: Callable[[], FakeDriver] = FakeDriver,
) -> Plant:
    options = LinkOptions.model_validate(
        {"driver": "fake", "retry_first": "5 ms", "retry_longest": longest, "timeout": "10 ms"}
    )
    made = []
    for name in devices:
        names = ["default", *(f"g{number}" for number in range(1, groups))]
        made.append(
            Device(
                name,
                DeviceOptions.model_validate({"retries": 0}),
                tuple(
                    Group(
                        name, group, interval, 0, (TagTable(name, group, Kind.FLOAT, (Tag("x", "a"), Tag("y", "b"))),)
                    )
                    for group in names
                ),
            )
        )
    link = Link("line", "fake", options, tuple(made))
    driver, metrics, health = make(), Metrics(), Health()
    journal = MemoryJournal(list(link.tables))
    pipelines = {
        (group.device, group.name): Pipeline(group, journal, metrics) for device in made for group in device.groups
    }

    async def room() -> None:
        return

    return Plant(driver, journal, metrics, health, Poller(link, driver, pipelines, metrics, health, room))


@dataclass
class FakeDescriber(FakeDriver):
    """Has something to say of its tags, or fails to."""

    said: list[Said] = field(default_factory=list)
    trouble: Exception | None = None

    async def describe(self, _plans: Sequence[FakePlan]) -> list[Said]:
        if self.trouble is not None:
            raise self.trouble
        return self.said


@contextlib.asynccontextmanager
async def running(made: Plant) -> AsyncIterator[Plant]:
    made.task = asyncio.create_task(made.poller.run())
    try:
        yield made
    finally:
        made.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, JournalError):
            await made.task


async def until(condition: Callable[[], bool], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.001)


async def test_every_scan_gives_one_row_per_tag() -> None:
    async with running(plant("press")) as made:
        await until(lambda: made.journal.good("press") >= 5)
    assert all(len(batch) == 2 for batch in made.journal.batches("press"))


async def test_a_silent_device_gets_one_bad_row_per_tag_and_its_neighbours_go_on() -> None:
    made = plant("press", "oven")
    made.driver.silent.add("oven")
    async with running(made):
        await until(lambda: made.journal.good("press") >= 10)
    assert made.journal.bad("oven") == 1
    assert made.journal.good("oven") == 0
    assert made.driver.asked.count("oven") < made.driver.asked.count("press")
    assert not made.health.report()["devices"]["oven"]["up"]


async def test_a_device_that_comes_back_is_reported_in_full_for_all_its_groups() -> None:
    made = plant("press", "oven", groups=3)
    made.driver.silent.add("oven")
    async with running(made):
        await until(lambda: made.journal.bad("oven") == 3)
        made.driver.silent.clear()
        await until(lambda: made.journal.good_groups("oven") == {"default", "g1", "g2"})
    assert made.health.report()["devices"]["oven"]["up"]


async def test_a_cut_link_gives_each_tag_one_bad_row_and_recovers_by_itself() -> None:
    made = plant("press", "oven")
    async with running(made):
        await until(lambda: made.journal.good("press") > 0 and made.journal.good("oven") > 0)
        made.driver.cut = True
        await until(lambda: made.driver.connects >= 4)
        assert made.journal.bad("press") == 1
        assert made.journal.bad("oven") == 1
        made.driver.cut = False
        before = made.journal.good("oven")
        await until(lambda: made.journal.good("oven") > before + 2)
    assert made.journal.bad("press") == 1
    assert made.driver.closes >= made.driver.connects


async def test_a_link_that_was_never_there_is_bad_from_the_start_and_tried_for_ever() -> None:
    """A PLC that is off when the gateway starts must be read as soon as it is on."""
    made = plant("press")
    made.driver.refuse = True
    async with running(made):
        await until(lambda: made.driver.connects >= 5)
        assert made.journal.bad("press") == 1
        assert "refused" in made.health.report()["problems"][0] + made.health.report()["problems"][-1]
        made.driver.refuse = False
        await until(lambda: made.journal.good("press") >= 3)


async def test_a_link_whose_devices_are_all_silent_is_connected_anew() -> None:
    """A half-open connection looks just like that."""
    made = plant("press", "oven")
    async with running(made):
        await until(lambda: made.journal.good("oven") > 0)
        made.driver.silent.update(("press", "oven"))
        await until(lambda: made.driver.connects >= 3)
        assert made.journal.bad("press") == 1
        made.driver.silent.clear()
        before = made.journal.good("press")
        await until(lambda: made.journal.good("press") > before)


async def test_a_defect_in_a_driver_restarts_its_link_and_not_the_daemon() -> None:
    made = plant("press")
    made.driver.broken = True
    async with running(made):
        await until(lambda: made.driver.connects >= 3)
        made.driver.broken = False
        await until(lambda: made.journal.good("press") >= 3)
    assert made.journal.bad("press") == 1


class OddError(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("where", ["connect", "close"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("not a number"),
        OddError("odd"),
        asyncio.CancelledError(),
        SystemExit(3),
        ExceptionGroup("", [OSError()]),
    ],
)
async def test_a_driver_that_raises_anything_in_connect_or_close_costs_its_link_a_restart(
    where: str, error: BaseException
) -> None:
    made = plant("press")
    made.driver.failing, made.driver.where = error, where
    made.driver.cut = where == "close"
    async with running(made):
        await until(lambda: made.driver.connects >= 3)
        assert made.task is not None
        assert not made.task.done()
        assert made.journal.bad("press") == 1
        made.driver.failing, made.driver.cut = None, False
        await until(lambda: made.journal.good("press") >= 3)
    assert made.task.cancelled()  # and it ends when it is asked to


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("where", ["connect", "close"])
async def test_a_driver_that_hangs_in_connect_or_close_costs_its_link_a_restart(
    where: str, stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.poller.LET_GO", 0.02)
    made = plant("press")
    made.poller.connecting = made.poller.closing = 0.05
    made.driver.hangs, made.driver.stubborn, made.driver.where = True, stubborn, where
    made.driver.cut = where == "close"
    async with running(made):
        await until(lambda: made.driver.connects >= 3)
        if where == "connect":
            assert made.journal.bad("press") == 1
            assert "did not come back from connect" in str(made.health.report())
        made.driver.hangs, made.driver.cut = False, False
        made.driver.where = ""
        await until(lambda: made.journal.good("press") >= 3)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("driver "):
                task.cancel()  # the stubborn ones that were left behind


async def test_a_driver_that_swallows_its_cancellation_in_read_costs_its_link_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And when the call that was left behind comes back after all, it does not scan beside the new session."""
    monkeypatch.setattr("gateway.poller.LET_GO", 0.02)
    made = plant("press")
    made.poller.closing = 0.05
    for turn in made.poller._turns:
        turn.deadline = 0.05
    made.driver.hangs, made.driver.stubborn, made.driver.where = True, True, "read"
    async with running(made):
        await until(lambda: made.driver.connects >= 3)
        assert made.journal.bad("press") == 1
        assert "did not come back in time" in str(made.health.report())
        left = [task for task in asyncio.all_tasks() if task.get_name().endswith(" scans")]
        assert len(left) > 1
        made.driver.hangs, made.driver.where = False, ""
        await until(lambda: made.journal.good("press") >= 3)
        for task in left:
            task.cancel()
        await until(lambda: sum(not task.done() for task in left) <= 1)


async def test_scans_that_come_too_late_are_skipped_counted_and_declared() -> None:
    """Every scan instant has its rows or a gap; none is made up later in a bunch."""
    made = plant("press", interval=10 * MS)
    made.driver.slow = 0.035
    async with running(made):
        await until(lambda: len(made.journal.gaps()) >= 5)
    scans = sum(gap.scans for gap in made.journal.gaps())
    assert scans == made.metrics.skipped.labels("press", "default")._value.get()
    for gap in made.journal.gaps():
        assert gap.end - gap.start == gap.scans * 10 * MS
        assert gap.start % (10 * MS) == 0
        assert gap.reason == "skipped scan"


async def test_a_start_that_takes_longer_than_an_interval_declares_the_scans_that_it_missed() -> None:
    """The absence of the last run is declared until the journal was opened; planning and connecting come after that."""
    made = plant("press", interval=3600 * 1000 * MS)
    hour = 3600 * 1000 * MS
    began = time.time_ns() - 2 * hour
    made.poller.owe_since(began)
    async with running(made):
        await until(lambda: made.journal.good("press") > 0)
    (gap,) = made.journal.gaps()
    assert (gap.start, gap.end) == (began // hour * hour, (began // hour + 2) * hour)
    assert (gap.scans, gap.reason) == (2, "skipped scan")


async def test_every_instant_between_two_scans_is_covered_by_a_scan_or_a_gap() -> None:
    made = plant("press", interval=10 * MS)
    made.driver.slow = 0.025
    async with running(made):
        await until(lambda: made.journal.good("press") >= 8)
    instants = 0
    for content in made.journal.contents:
        instants += content.scans if isinstance(content, Gap) else 1
    first, last = (made.journal.batches("press")[place].time[0] for place in (0, -1))
    assert abs(instants - ((last - first) / (10 * MS) + 1)) <= 4


async def test_what_a_peer_reports_itself_is_taken_while_other_groups_are_polled() -> None:
    made = plant("boiler", groups=2, make=FakeSubscriber)
    assert isinstance(made.driver, FakeSubscriber)
    async with running(made):
        await until(lambda: made.journal.good_groups("boiler") == {"default", "g1"})
        before = made.journal.good("boiler")
        made.driver.news.put_nowait(42.0)
        await until(lambda: any(batch.value[-1] == 42.0 for batch in made.journal.batches("boiler")))
        await until(lambda: made.journal.good("boiler") > before + 3)
    assert {gap.group for gap in made.journal.gaps()} <= {"default"}


async def test_a_subscription_that_breaks_makes_its_tags_bad_and_is_made_again() -> None:
    made = plant("boiler", groups=2, make=FakeSubscriber)
    assert isinstance(made.driver, FakeSubscriber)
    async with running(made):
        await until(lambda: made.journal.good_groups("boiler") == {"default", "g1"})
        made.driver.news.put_nowait(-1.0)
        await until(lambda: made.journal.bad("boiler") == 2)
        await until(lambda: made.driver.connects == 2)
        made.driver.news.put_nowait(7.0)
        await until(lambda: any(batch.value[-1] == 7.0 for batch in made.journal.batches("boiler")))
    assert made.journal.bad("boiler") == 2


async def test_a_journal_that_cannot_be_written_ends_the_poller() -> None:
    """Reading on without a journal would promise what cannot be kept."""
    made = plant("press")
    async with running(made):
        await until(lambda: made.journal.good("press") > 0)
        made.journal.broken = True
        assert made.task is not None
        with pytest.raises(JournalError):
            await asyncio.wait_for(made.task, 20)


@pytest.mark.parametrize("by", [-3600_000_000_000, 3600_000_000_000, 3600_003_000_000])
async def test_a_clock_that_is_set_holds_up_neither_scans_nor_probes_and_skips_none(by: int) -> None:
    """A gateway without a battery gets its time from the net, hours off, after it has begun to scan."""
    made = plant("press", "oven")
    made.driver.silent.add("oven")
    off = 0
    made.poller._clock = lambda: time.time_ns() + off
    async with running(made):
        await until(lambda: made.journal.bad("oven") == 1 and made.journal.good("press") > 0)
        off = by
        made.poller.moved(by)
        made.driver.silent.clear()
        before, asked, began = made.journal.good("press"), len(made.driver.asked), time.monotonic()
        await until(lambda: made.journal.good("press") > before + 2)
        await until(lambda: made.journal.good("oven") > 2)
        scans = len(made.driver.asked) - asked
        interval = made.poller._turns[0].group.interval / 1e9
        assert scans <= 2 * (time.monotonic() - began) / interval + 6  # two devices, and no burst
    assert all(gap.end - gap.start < 60_000 * MS for gap in made.journal.gaps())


async def test_a_clock_that_is_set_during_a_scan_does_not_put_off_the_next() -> None:
    made = plant("press")
    made.driver.slow = 0.05
    off = 0
    made.poller._clock = lambda: time.time_ns() + off
    async with running(made):
        await until(lambda: made.journal.good("press") > 0)
        asked = len(made.driver.asked)
        await until(lambda: len(made.driver.asked) > asked)
        off = -3600_000 * MS
        made.poller.moved(off)
        before = made.journal.good("press")
        await until(lambda: made.journal.good("press") > before + 2)


# ------------------------------------------------------------------------------------------------ writes


@dataclass
class FakeWriter(FakeDriver):
    """Can be written to; notes what was read and written, in order, and whether two calls were under way at once."""

    busy: bool = False
    overlaps: int = 0
    breaks: Exception | None = None
    written: list[float] = field(default_factory=list)

    async def read(self, plan: FakePlan) -> list[Batch]:
        self.overlaps += self.busy
        self.busy = True
        try:
            return await super().read(plan)
        finally:
            self.busy = False

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        self.overlaps += self.busy
        self.busy = True
        try:
            await asyncio.sleep(0.001)
            if self.breaks is not None:
                raise self.breaks
            self.written.append(float(writes[0].value))
            return [Written(0.0, writes[0].value, 0)]
        finally:
            self.busy = False


def allowed() -> None:
    return


def wish(value: float, device: str = "a") -> Write:
    return Write(device, Tag("x", "a"), value)


async def test_writes_go_between_scans_in_order_and_hold_nobody_up() -> None:
    """A driver is never called twice at once, and a flood of writes does not keep the plant from being read."""
    made = plant("a", make=FakeWriter)
    made.driver.slow = 0.002
    assert isinstance(made.driver, FakeWriter)
    async with running(made):
        await until(lambda: len(made.driver.asked) > 2)
        before = len(made.driver.asked)
        await asyncio.gather(*(made.poller.write(wish(number), allowed) for number in range(100)))
        assert made.driver.written == [float(number) for number in range(100)]
        assert len(made.driver.asked) - before >= 5
        assert made.driver.overlaps == 0


async def test_a_write_does_not_wait_for_the_next_scan() -> None:
    made = plant("a", interval=3600 * 1000 * MS, make=FakeWriter)
    async with running(made):
        await until(lambda: len(made.driver.asked) == 1)
        async with asyncio.timeout(20):
            assert (await made.poller.write(wish(1), allowed)).after == 1


async def test_nothing_waits_for_a_link_that_is_down_or_a_device_that_is_silent() -> None:
    """A value that was meant for now must not be written when the link comes back in an hour."""
    made = plant("a", "b", make=FakeWriter)
    with pytest.raises(NotConnected):
        await made.poller.write(wish(1), allowed)
    made.driver.silent = {"b"}
    async with running(made):
        await until(lambda: made.health.report()["devices"].get("b", {}).get("up") is False)
        with pytest.raises(NotConnected, match="does not answer"):
            await made.poller.write(wish(1, "b"), allowed)
        made.driver.cut = True
        made.driver.refuse = True
        await until(lambda: not made.health.report()["links"]["line"]["up"])
        with pytest.raises(NotConnected, match="down"):
            await made.poller.write(wish(1), allowed)
    assert isinstance(made.driver, FakeWriter)
    assert made.driver.written == []


@pytest.mark.parametrize("error", [NotConnected("reset"), NoAnswer("silent", "a"), ZeroDivisionError("defect")])
async def test_a_write_that_breaks_is_answered_as_unknown_and_never_repeated(error: Exception) -> None:
    made = plant("a", make=FakeWriter)
    assert isinstance(made.driver, FakeWriter)
    async with running(made):
        await until(lambda: len(made.driver.asked) > 2)
        made.driver.breaks = error
        written = await made.poller.write(wish(1), allowed)
        assert written.quality >= q.BAD
        assert "may or may not have happened" in written.reason
        made.driver.breaks = None
        before = len(made.driver.asked)
        await until(lambda: len(made.driver.asked) > before + 2)
    assert made.driver.written == []


async def test_a_write_that_is_not_permitted_any_more_is_not_done() -> None:
    made = plant("a", make=FakeWriter)
    assert isinstance(made.driver, FakeWriter)

    def forbidden() -> None:
        raise PermissionError("isolated")

    async with running(made):
        await until(lambda: len(made.driver.asked) > 2)
        with pytest.raises(PermissionError):
            await made.poller.write(wish(1), forbidden)
        assert (await made.poller.write(wish(2), allowed)).after == 2
    assert made.driver.written == [2.0]


async def test_writes_go_on_while_a_full_journal_holds_the_scans() -> None:
    made = plant("a", make=FakeWriter)
    held = asyncio.Event()
    async with running(made):
        await until(lambda: len(made.driver.asked) > 2)
        made.poller._room = held.wait  # type: ignore[assignment]
        scans = -1
        while scans != (scans := len(made.driver.asked)):
            await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            assert (await made.poller.write(wish(3), allowed)).after == 3
        held.set()


@pytest.mark.parametrize("trouble", [NoAnswer("BadServiceUnsupported"), ZeroDivisionError("a driver's defect"), None])
async def test_a_peer_that_fails_to_say_what_its_tags_are_is_polled_all_the_same(trouble: Exception | None) -> None:
    async with running(plant("a", make=lambda: FakeDescriber(trouble=trouble))) as made:
        await until(lambda: len(made.driver.asked) > 3)
        assert made.driver.connects == 1


async def test_nothing_is_read_before_what_the_peer_says_is_learned() -> None:
    """The poller that asked is ended, and another one begins with the new definition."""
    said, heard = [Said("a", "x", "a", "bar")], list[Sequence[Said]]()
    made = plant("a", make=lambda: FakeDescriber(said=said))

    def learn(found: Sequence[Said]) -> bool:
        heard.append(found)
        return True

    made.poller._learn = learn
    async with running(made):
        await until(lambda: bool(heard))
        for _ in range(50):
            await asyncio.sleep(0)
        assert heard == [said]
        assert not made.driver.asked
