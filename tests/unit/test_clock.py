"""The gateway's clock: a boot in 1970, one at the time of the last shutdown, boots that end too soon, steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import quality as q
from gateway.clock import BACK, EARLIEST, FORWARD, NOT_KNOWN, UNDATED, Clock, Span
from gateway.metrics import Metrics
from gateway.model import Batch, Gap, Group
from gateway.pipeline import Pipeline
from tests.memory_journal import MemoryJournal
from tests.native import table

S = 1_000_000_000
HOUR = 3600 * S
NOON = 1_790_000_000 * S
TABLE = table(size=3)


@dataclass
class Machine:
    """A computer without a clock of its own: `true` is the time that it would like to know."""

    true: int = NOON
    boots: int = 0
    began: int = 0  # the true time at which this kernel began
    offset: int = 0  # the system's clock less the steady one
    vouched: bool = False
    named: bool = True
    mark: bytes | None = None
    last_time: int = 0
    next: int = 1
    wait: float = 3600.0
    stamps: list[tuple[int, int, int]] = field(default_factory=list)  # sequence, stamp, true time
    told: list[Gap] = field(default_factory=list)

    @property
    def steady(self) -> int:
        return self.true - self.began

    @property
    def wall(self) -> int:
        return self.steady + self.offset

    def boot(self, shows: int, after: int = 10 * S) -> None:
        """Start a kernel, `after` ns after the last one ended; its clock shows `shows`."""
        self.true += after
        self.boots, self.began, self.offset = self.boots + 1, self.true, shows

    def start(self, first: int = 1) -> Clock:
        """Start the gateway."""
        boot = f"boot {self.boots}" if self.named else ""
        self.clock = Clock(self.wait, lambda: self.wall, lambda: self.steady, boot, lambda _: self.vouched)
        self.told += self.clock.recall(self.mark, self.last_time, first, self.next)
        self.saved()
        return self.clock

    def saved(self) -> None:
        self.mark = self.clock.mark()
        self.clock.release()

    def passes(self, ns: int, *, reachable: bool = True) -> None:
        self.true += ns
        change = self.clock.look(self.next, reachable=reachable)
        if change is not None:
            self.told += change.gaps
            self.saved()

    def read(self) -> int:
        """Take a reading; give its stamp."""
        stamp = self.clock.stamp()
        self.stamps.append((self.next, stamp, self.true))
        self.last_time, self.next = stamp, self.next + 1
        return stamp

    def errors(self) -> list[int]:
        """By how much the times of all that may be sent are wrong (ns)."""
        return [
            self.clock.moment(sequence, stamp) - true
            for sequence, stamp, true in self.stamps
            if self.clock.free(sequence, sequence)
        ]


def batch(*times: int) -> Batch:
    return Batch(
        TABLE, np.arange(len(times), dtype=np.uint32), np.zeros(len(times)), np.zeros(len(times), np.uint32),
        np.array(times, np.int64),
    )  # fmt: skip


def test_a_clock_that_can_be_right_is_believed_at_the_first_start() -> None:
    machine = Machine()
    machine.boot(NOON)
    assert machine.start().known
    assert machine.read() == machine.true - 10 * S
    assert not machine.clock.holds
    assert machine.clock.trouble == ""


def test_a_boot_in_1970_is_dated_when_the_clock_is_set() -> None:
    machine = Machine()
    machine.boot(0)
    clock = machine.start()
    assert not clock.known
    assert "readings are kept and dated when it is" in clock.trouble
    for _ in range(3):
        assert machine.read() == UNDATED + machine.steady
        machine.passes(S)
    assert clock.free(1, 9) == []
    machine.offset = machine.began
    machine.passes(S)
    assert clock.known
    assert clock.free(1, 9) == [(1, 9)]
    machine.read()
    assert machine.errors() == [0, 0, 0, 0]
    assert machine.told == []


def test_a_source_that_knows_the_time_is_not_moved() -> None:
    """An OPC UA server stamps its values itself; what it leaves to the gateway bears the gateway's 1970."""
    machine = Machine()
    machine.boot(0)
    clock = machine.start()
    machine.passes(60 * S)
    machine.read()
    mixed = clock.own(batch(NOON, machine.wall - S, 946_684_800 * S))  # a server of 2026, the gateway, one of 2000
    assert mixed.time.tolist() == [NOON, UNDATED + machine.steady - S, 946_684_800 * S]
    machine.offset = machine.began
    machine.passes(S)
    dated = clock.date(1, mixed)
    assert isinstance(dated, Batch)
    assert dated.time.tolist() == [NOON, machine.true - 2 * S, 946_684_800 * S]
    assert not dated.quality.any()


def test_a_stamp_of_before_the_correction_that_comes_in_after_it_is_put_right() -> None:
    machine = Machine()
    machine.boot(0)
    clock = machine.start()
    machine.passes(60 * S)
    stamped, true = machine.wall, machine.true
    machine.offset = machine.began
    machine.passes(S)
    assert clock.own(batch(stamped)).time.tolist() == [true]
    assert clock.instant(stamped) == true
    assert clock.own(batch(machine.true)).time.tolist() == [machine.true]
    machine.passes(3600 * S)
    assert clock.instant(machine.true) == machine.true
    clock.own(batch(machine.true))
    assert not clock.doubtful  # and costs nothing from here on


def test_a_restart_in_the_same_boot_goes_on_with_the_same_span() -> None:
    machine = Machine()
    machine.boot(0)
    machine.start()
    machine.read()
    machine.passes(S)
    machine.true += 5 * S
    clock = machine.start()  # after a kill -9
    machine.read()
    assert len(clock.spans) == 1
    machine.offset = machine.began
    machine.true += S
    clock = machine.start()  # corrected while the gateway was not running
    assert clock.known
    machine.read()
    assert machine.errors() == [0, 0, 0]


def test_the_time_of_the_last_shutdown_is_not_believed() -> None:
    """fake-hwclock: the clock begins where it stood at the last shutdown, or an hour before a power cut."""
    for behind in (1800 * S, 0, -20 * S):
        machine = Machine()
        machine.boot(NOON)
        machine.start()
        last = machine.read()
        machine.boot(last - behind, after=8 * HOUR)
        clock = machine.start()
        assert not clock.known
        machine.read()
        machine.passes(2 * HOUR, reachable=False)
        assert not clock.known  # that it runs on does not make it right
        machine.offset = machine.began
        machine.passes(S)
        assert clock.known
        assert machine.errors()[-1] == 0


def test_a_clock_that_ran_on_through_a_reboot_is_believed_and_so_is_what_others_vouch_for() -> None:
    machine = Machine()
    machine.boot(NOON)
    machine.start()
    machine.read()
    machine.boot(machine.wall + 90 * S, after=90 * S)
    assert machine.start().known
    machine.read()
    machine.boot(machine.wall + 10 * S)
    assert not machine.start().known
    machine.vouched = True
    machine.passes(S)
    assert machine.clock.known
    assert machine.start().known


def test_a_clock_that_is_set_right_after_a_quick_reboot_is_believed() -> None:
    """A reboot of a Raspberry Pi takes 20 s: NTP corrects just that, and nobody else vouches for it."""
    machine = Machine()
    machine.boot(NOON + 10 * S)
    machine.start()
    last = machine.read()
    machine.boot(last, after=20 * S)
    machine.start()
    machine.read()
    assert not machine.clock.known
    machine.offset = machine.began
    machine.passes(S)
    assert machine.clock.known
    assert machine.errors() == [0, 0]


def test_without_a_boot_id_the_steady_clock_tells_a_restart_from_a_reboot() -> None:
    """A service that may not look into /proc/sys must not take each restart for a boot."""
    machine = Machine(named=False)
    machine.boot(NOON)
    machine.start()
    machine.passes(60 * S)
    machine.read()
    machine.true += 5 * S
    assert machine.start().known
    machine.boot(machine.wall, after=10 * S)
    assert not machine.start().known
    machine.passes(10 * S)
    machine.read()
    machine.true += 5 * S
    assert not machine.start().known
    assert len(machine.clock.spans) == 1


def test_an_earlier_year_that_somebody_has_set_is_believed_once_ntp_says_so() -> None:
    """A gateway that was commissioned with a clock in the future must not wait until that has come."""
    machine = Machine()
    machine.boot(NOON + 9000 * HOUR)
    machine.start()
    machine.read()
    machine.boot(NOON)
    machine.vouched = True
    assert machine.start().known


def test_a_boot_that_ended_before_its_clock_was_known_is_dated_at_the_latest() -> None:
    machine = Machine()
    machine.boot(NOON)
    machine.start()
    known = machine.read()
    machine.boot(0, after=HOUR)  # the power comes, and goes again, twice
    machine.start()
    machine.read()
    machine.passes(600 * S)
    machine.read()
    machine.boot(5 * S, after=HOUR)
    machine.start()
    machine.read()
    machine.boot(0, after=HOUR)
    clock = machine.start()
    machine.read()
    assert len(machine.errors()) == 1  # the rest is held
    machine.offset = machine.began
    machine.passes(S)
    assert machine.errors()[0] == -10 * S
    begun = machine.clock.moment(2, UNDATED)  # the first of the two, as if the power had come back at once
    early, late, second, own = machine.errors()[1:]
    assert early == late == 2 * HOUR
    assert second == HOUR
    assert own == 0
    (gap,) = machine.told
    assert gap.reason == f"{NOT_KNOWN}, at most {(begun - known) // S} s too late"
    assert gap.start == gap.end == begun  # nothing is missing: no extent
    said = clock.date(2, batch(machine.stamps[1][1], NOON))
    assert isinstance(said, Batch)
    assert said.quality.tolist() == [q.UNCERTAIN, q.GOOD]
    bad = batch(machine.stamps[1][1])
    bad.quality[:] = q.BAD_NO_DATA
    assert clock.date(2, bad).quality.tolist() == [q.BAD_NO_DATA]  # type: ignore[union-attr]


def test_where_nobody_sets_the_clock_the_best_guess_goes_out_while_a_broker_is_there() -> None:
    machine = Machine(wait=600.0)
    machine.boot(NOON)
    machine.start()
    known = machine.read()
    machine.boot(0, after=HOUR)
    clock = machine.start()
    machine.read()
    machine.passes(10 * HOUR, reachable=False)
    assert clock.holds
    machine.passes(300 * S)
    assert clock.holds
    machine.passes(301 * S)
    assert not clock.holds
    assert not clock.known
    assert "as Uncertain" in clock.trouble
    assert machine.told[-1].reason == NOT_KNOWN
    assert clock.moment(2, machine.stamps[1][1]) == known  # this boot as if it had followed at once
    machine.read()
    assert machine.clock.free(3, 3) == [(3, 3)]
    clock = machine.start()
    assert not clock.holds  # over a restart too
    machine.offset = machine.began
    machine.passes(S)
    assert clock.known
    assert clock.moment(2, machine.stamps[1][1]) == known  # what was sent keeps its date
    machine.read()
    assert machine.errors()[-1] == 0


def test_a_plant_in_which_nobody_sets_the_clock_is_held_up_once_and_not_at_each_boot() -> None:
    machine = Machine(wait=60.0)
    machine.boot(NOON)
    machine.start()
    machine.boot(machine.read() - HOUR)
    machine.start()
    machine.passes(61 * S)
    assert not machine.clock.holds
    machine.passes(HOUR)
    machine.read()
    machine.boot(machine.wall)
    assert machine.start().known


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_known_clock_that_is_set_is_told_once_and_believed(by: int) -> None:
    machine = Machine()
    machine.boot(NOON)
    clock = machine.start()
    machine.passes(60 * S)
    before = machine.wall
    machine.offset += by
    assert clock.now() == before  # no step before the look
    machine.passes(0)
    machine.passes(S)
    (gap,) = machine.told
    assert gap.reason == (FORWARD if by > 0 else f"{BACK} 3600 s")
    assert (gap.start, gap.end) == (min(before, before + by), before + by)
    assert clock.now() == machine.wall
    assert clock.account() | {"trouble": ""} == {
        "known": True, "trouble": "", "steps": 1, "stepped_at": before + by, "step": by,
    }  # fmt: skip


def test_a_step_while_the_gateway_was_not_running_is_told_too() -> None:
    machine = Machine()
    machine.boot(NOON)
    machine.start()
    machine.offset += HOUR
    clock = machine.start()
    assert [gap.reason for gap in machine.told] == [FORWARD]
    assert clock.known


def test_a_small_correction_is_followed_without_a_word() -> None:
    machine = Machine()
    machine.boot(NOON)
    clock = machine.start()
    machine.offset += S // 2
    change = clock.look(1, reachable=True)
    assert change is not None
    assert (change.shift, change.gaps, change.news) == (S // 2, (), False)
    assert clock.look(1, reachable=True) is None


def test_a_running_clock_that_falls_into_1970_holds_until_it_is_back() -> None:
    machine = Machine()
    machine.boot(NOON - 10 * S)
    clock = machine.start()
    machine.read()
    machine.offset = 0
    machine.passes(S)
    assert not clock.known
    machine.read()
    assert clock.free(1, 9) == [(1, 1)]
    machine.offset = machine.began
    machine.passes(S)
    machine.read()
    assert clock.known
    assert [abs(error) < 60 * S for error in machine.errors()] == [True] * 3
    assert machine.errors()[1:] == [0, 0]


def test_a_driver_that_remembers_1970_misses_nothing_of_the_last_fifty_years() -> None:
    """An OPC UA session is gone on with in the next run, from the gateway's time at which it was heard last."""
    machine = Machine()
    machine.boot(0)
    machine.start()
    machine.read()
    heard = machine.wall
    machine.offset = machine.began
    machine.passes(10 * S)
    assert machine.clock.missed(heard, machine.wall) == (machine.true - 10 * S, machine.true)
    machine.read()
    last = machine.true
    machine.passes(HOUR)
    clock = machine.start()
    assert clock.missed(heard, machine.wall) == (last, machine.true)
    assert clock.missed(last - S, machine.wall) == (last - S, machine.true)


def test_what_is_held_is_left_out_of_what_may_be_sent() -> None:
    clock = Clock(boot="b", steady=lambda: 0, wall=lambda: NOON)
    clock.spans = (Span("a", 3, 5), Span("b", 9))
    assert clock.free(1, 20) == [(1, 2), (6, 8)]
    assert clock.free(4, 5) == []
    assert clock.free(5, 6) == [(6, 6)]
    assert clock.free(9, 10) == []


def test_a_held_record_has_no_age() -> None:
    """max_age must not take readings of a boot in 1970 for fifty years old."""
    machine = Machine()
    machine.boot(0)
    clock = machine.start()
    stamp = machine.read()
    assert clock.aged(1, stamp) > machine.true
    machine.offset = machine.began
    machine.passes(S)
    assert clock.aged(1, stamp) == machine.true - S


def test_a_gap_of_lost_records_is_dated_by_those_records() -> None:
    machine = Machine()
    machine.boot(0)
    machine.start()
    lost = machine.read()
    machine.offset = machine.began
    machine.passes(S)
    gap = machine.clock.date(7, Gap("", "", lost, lost + 5, "journal full", 9, 0, 1, 1))
    assert isinstance(gap, Gap)
    assert (gap.start, gap.end) == (machine.true - S, machine.true - S + 5)


def test_a_gap_of_lost_records_is_dated_by_them_though_the_journal_begins_after_them_in_a_later_boot() -> None:
    machine = Machine()
    machine.boot(0)
    machine.start()
    lost, when = machine.read(), machine.true
    machine.offset = machine.began
    machine.passes(S)
    machine.read()
    machine.boot(machine.true, after=24 * HOUR)
    machine.offset = machine.began
    machine.start(first=2)
    gap = machine.clock.date(2, Gap("", "", lost, lost + 5, "journal full", 9, 0, 1, 1))
    assert isinstance(gap, Gap)
    assert (gap.start, gap.end) == (when, when + 5)


def test_a_scan_that_is_skipped_right_after_a_boot_is_missed_since_that_boot_whatever_the_clock_showed() -> None:
    """The slot of that scan began before the kernel did, at a time that no record was taken at."""
    machine = Machine()
    machine.boot(HOUR + 40 * S)
    clock = machine.start()
    machine.passes(30 * S)
    journal = MemoryJournal([TABLE])
    line = Pipeline(Group("press", "fast", 60 * S, 0, (TABLE,)), journal, Metrics(), clock=clock)
    line.gap(HOUR, HOUR + 60 * S, "skipped scan", scans=1)
    machine.offset = machine.began
    machine.passes(S)
    gap = clock.date(1, journal.contents[0])
    assert isinstance(gap, Gap)
    assert (gap.start, gap.end) == (machine.began, machine.began + 20 * S)


def test_the_absence_of_the_gateway_is_from_the_last_record_to_now_whatever_the_clock_says() -> None:
    machine = Machine()
    machine.boot(NOON)
    clock = machine.start()
    known = machine.read()
    machine.passes(S)
    assert clock.absence(known, 1) == (known, known + S)
    machine.boot(0, after=HOUR)
    clock = machine.start()
    assert clock.absence(known, 1) == (known, UNDATED)  # to be dated
    stamp = machine.read()
    machine.passes(5 * S)
    assert machine.start().absence(stamp, 2) == (stamp, stamp + 5 * S)
    machine.boot(0, after=HOUR)
    machine.passes(S)
    assert machine.start().absence(stamp, 2)[0] == UNDATED  # this kernel's begin
    machine.offset = machine.began
    machine.passes(S)
    assert machine.clock.absence(stamp, 2)[0] == machine.began  # as late as it can be


def test_a_mark_that_makes_no_sense_is_none() -> None:
    machine = Machine()
    machine.boot(NOON)
    machine.mark = b'{"spans": [1]}'
    assert machine.start().known


EVENTS = st.lists(st.sampled_from(["read", "pass", "restart", "reboot", "power cut", "ntp"]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_whatever_happens_a_date_is_right_or_is_said_to_be_an_estimate(events: list[str], random: object) -> None:
    """In a boot whose clock became known dates are exact; else not before the true time, and in order."""
    choose = random.choice  # type: ignore[attr-defined]
    machine = Machine()
    machine.boot(NOON + 10 * S)
    machine.start()
    for event in events:
        if event == "read":
            machine.read()
        elif event == "pass":
            machine.passes(choose([S, 60 * S, HOUR]), reachable=False)
        elif event == "restart":
            machine.true += S
            machine.start()
        elif event == "ntp":
            machine.offset = machine.began
            machine.passes(S)
        else:
            machine.boot(0, after=choose([10 * S, HOUR]))
            if event == "reboot":  # of a machine whose clock goes on without power
                machine.offset = machine.began
            machine.start()
    machine.offset = machine.began
    machine.vouched = True
    machine.passes(S)
    assert machine.clock.known
    errors = machine.errors()
    assert len(errors) == len(machine.stamps)
    times = [machine.clock.moment(sequence, stamp) for sequence, stamp, _ in machine.stamps]
    assert times == sorted(times)
    for (sequence, _, _), error in zip(machine.stamps, errors, strict=True):
        estimated = any(span.has(sequence) and span.estimated for span in machine.clock.spans)
        assert error >= 0 if estimated else error == 0
    assert all(time >= EARLIEST for time in times)
