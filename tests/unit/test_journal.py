"""The journal's promises, one by one, on real files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.clock import UNDATED
from gateway.errors import JournalError
from gateway.journal import Journal, file, survey
from gateway.journal.file import JournalFile, Outcome, Work
from gateway.metrics import Metrics
from gateway.model import Gap
from gateway.options import JournalOptions


def pack_gap(gap: Gap) -> bytes:
    return b"gap " + json.dumps([gap.reason, gap.start, gap.end, gap.readings]).encode()


@asynccontextmanager
async def opened(
    directory: Path, publishers: Iterable[str] = ("cloud",), metrics: Metrics | None = None, **more: Any
) -> AsyncIterator[Journal]:
    clock: Callable[[], int] = more.pop("clock", time.time_ns)
    dated = more.pop("dated", None)
    options = JournalOptions(**{"commit_interval": "10 ms", **more})
    journal = await Journal.open(directory, options, publishers, pack_gap, metrics, clock, dated)
    try:
        yield journal
    finally:
        await journal.close()


async def everything(journal: Journal, max_bytes: int = 1 << 20) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < journal.committed:
        chunk = await journal.read(at + 1, journal.committed, max_bytes)
        found.update(chunk.records)
        at = chunk.through
    return found


def gaps(records: dict[int, bytes]) -> list[list[Any]]:
    return [json.loads(record[4:]) for record in records.values() if record.startswith(b"gap ")]


async def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        first = journal.append(b"one", 1, 10, 20)
        assert journal.append(b"two", 2, 20, 30) == first + 1
        assert await journal.wait_committed(first) >= first + 1
        identity = journal.id
    async with opened(tmp_path) as journal:
        assert journal.id == identity
        assert await everything(journal) == {1: b"one", 2: b"two"}
        assert journal.pending("cloud") == [(1, 2)]
        assert journal.append(b"three", 1) == 3
        assert (journal.totals().appended, journal.totals().dropped) == (3, 0)
        assert 0 < journal.last_time <= time.time_ns()


async def test_nothing_can_be_read_before_it_is_committed(tmp_path: Path) -> None:
    """What a publisher sends must not change after a power cut: only what is on disk has its sequence for good."""
    async with opened(tmp_path, commit_interval="1 h") as journal:
        journal.append(b"one", 1)
        assert journal.committed == 0
        assert journal.pending("cloud") == []
        assert (await journal.read(1, 1, 100)).records == []
        await journal.flush()
        assert journal.pending("cloud") == [(1, 1)]


async def test_a_commit_that_lasts_holds_up_nobody_but_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that takes seconds to sync must not stop scans, nor the conversation with the broker."""
    began, disk = threading.Event(), threading.Event()
    commit = JournalFile.commit

    def slow(file: JournalFile, *arguments: Any) -> Outcome:
        began.set()
        assert disk.wait(60)
        return commit(file, *arguments)

    async with opened(tmp_path) as journal:
        monkeypatch.setattr(JournalFile, "commit", slow)
        first = journal.append(b"one", 1)
        while not began.is_set():  # the loop goes round while the writer writes
            await asyncio.sleep(0)
        second = journal.append(b"two", 1)
        assert journal.committed < first < second
        disk.set()
        await journal.flush()
        assert journal.committed == second
        assert await everything(journal) == {first: b"one", second: b"two"}


async def test_a_full_group_is_committed_before_its_interval_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path, commit_interval="1 h", commit_size="10 kB") as journal:
        for _ in range(11):
            journal.append(bytes(1000), 1)
        async with asyncio.timeout(20):
            assert await journal.wait_committed(0) >= 10


async def test_definitions_have_one_number_for_good(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        assert [journal.define(name, b"definition " + name) for name in (b"a", b"b", b"a")] == [1, 2, 1]
        journal.append(b"uses b", 1)
    async with opened(tmp_path) as journal:
        assert journal.definition(2) == b"definition b"
        assert journal.define(b"b", b"definition b") == 2
        assert journal.define(b"c", b"definition c") == 3
        with pytest.raises(LookupError):
            journal.definition(9)


async def test_a_second_start_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(JournalError, match=rf"in use by process {os.getpid()}\b"):
            await Journal.open(tmp_path, JournalOptions(), ["cloud"], pack_gap)
    async with opened(tmp_path):
        pass


async def test_acknowledged_records_are_removed_when_everybody_has_them(tmp_path: Path) -> None:
    async with opened(tmp_path, ["cloud", "plant"]) as journal:
        for n in range(1, 11):
            journal.append(b"%d" % n, 1)
        await journal.flush()
        journal.acknowledge("cloud", 1, 10, 10)
        journal.acknowledge("plant", 4, 6, 3)
        await journal.flush()
        assert journal.pending("cloud") == []
        assert journal.pending("plant") == [(1, 3), (7, 10)]
        assert len(await everything(journal)) == 10
        journal.acknowledge("plant", 1, 3, 3)
        await journal.flush()
        assert list(await everything(journal)) == [7, 8, 9, 10]
    async with opened(tmp_path, ["cloud", "plant"]) as journal:
        assert journal.pending("plant") == [(7, 10)]
        assert journal.totals().delivered == {"cloud": 10, "plant": 6}


async def test_acknowledgements_alone_are_written_too(tmp_path: Path) -> None:
    """An idle gateway must not send everything again after a power cut."""
    async with opened(tmp_path) as journal:
        journal.append(b"one", 1)
        await journal.wait_committed(0)
        journal.acknowledge("cloud", 1, 1, 1)
        async with asyncio.timeout(20):
            while survey(tmp_path).publishers[0].delivered_readings == 0:
                await asyncio.sleep(0.05)


async def test_a_publisher_that_is_not_configured_any_more_holds_nothing_back(tmp_path: Path) -> None:
    async with opened(tmp_path, ["cloud", "old"]) as journal:
        journal.append(b"one", 1)
        await journal.flush()
        journal.acknowledge("cloud", 1, 1, 1)
    with capture_logs() as logs:
        async with opened(tmp_path, ["cloud", "new"]) as journal:
            assert journal.pending("cloud") == []
            assert journal.pending("new") == [(1, 1)]  # what is still there, a new publisher gets
            journal.acknowledge("new", 1, 1, 1)
            await journal.flush()
            assert journal.totals().records == 0
    assert [(line["publisher"], line["records"]) for line in logs if line["log_level"] == "warning"] == [("old", 1)]


async def test_a_read_ends_at_its_size_and_says_how_far_it_speaks(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for _ in range(10):
            journal.append(bytes(100), 1)
        await journal.flush()
        chunk = await journal.read(3, 10, 350)
        assert ([sequence for sequence, _ in chunk.records], chunk.through) == ([3, 4, 5], 5)
        assert len((await journal.read(3, 10, 1)).records) == 1
        assert (await journal.read(9, 10, 1000)).through == 10


async def test_a_full_journal_drops_the_oldest_and_declares_the_gap(tmp_path: Path) -> None:
    metrics = Metrics()
    async with opened(tmp_path, metrics=metrics, max_size="100 kB") as journal:
        for n in range(300):
            journal.append(bytes(1000), 10, n * 100, n * 100 + 99)
            if n % 10 == 0:
                await journal.flush()
        await journal.flush()
        await journal.flush()  # and the gap record of the last loss
        found = await everything(journal)
        totals = journal.totals()
        assert totals.bytes <= 101_000
        assert totals.appended == 3000
        kept = [sequence for sequence, record in found.items() if not record.startswith(b"gap")]
        assert totals.dropped == 3000 - 10 * len(kept)
        declared = gaps(found)
        assert {reason for reason, *_ in declared} == {"journal full"}
        # gap records that were dropped themselves live on in the later ones
        assert sum(readings for *_, readings in declared) >= totals.dropped
        assert min(start for _, start, _, _ in declared) == 0
        assert journal.pending("cloud")[0][0] == min(found)
        assert 'dropped_readings_total{reason="journal full"}' in metrics.text().decode()


async def test_what_everybody_has_is_not_lost_when_it_gives_way(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size="100 kB", commit_interval="1 h") as journal:
        for _ in range(90):
            journal.append(bytes(1000), 1, 1, 2)
        await journal.flush()
        journal.acknowledge("cloud", 1, 90, 90)
        for _ in range(90):
            journal.append(bytes(1000), 1, 1, 2)
        await journal.flush()
        assert journal.totals().dropped == 0


async def test_records_beyond_their_age_give_way_without_new_ones_coming(tmp_path: Path) -> None:
    now = [10**18]
    async with opened(tmp_path, max_age="1 h", clock=lambda: now[0]) as journal:
        journal.append(b"old", 5, 10, 20)
        await journal.flush()
        now[0] += 1800 * 10**9
        journal.append(b"young", 1, 30, 40)
        await journal.flush()
        assert journal.totals().records == 2
        now[0] += 1801 * 10**9
        await journal.flush()
        await journal.flush()
        assert await everything(journal) == {2: b"young", 3: pack_gap(Gap("", "", 10, 20, "older than max_age", 5))}


async def test_the_age_of_undated_records_is_what_is_known_of_it_later(tmp_path: Path) -> None:
    """Readings of a boot in 1970 must not be dropped for fifty years of age when the clock is set."""
    undated, now, offset = -(1 << 62), [-(1 << 62)], 10**18
    known = [False]

    def dated(_sequence: int, at: int) -> int:
        return at if at > 0 else at - undated + offset if known[0] else 1 << 62

    async with opened(tmp_path, max_age="1 h", clock=lambda: now[0], dated=dated) as journal:
        for _ in range(2):
            journal.append(b"held", 1, undated, undated)
            await journal.flush()
            now[0] += 1800 * 10**9
        assert journal.last_time == undated + 1800 * 10**9
        known[0] = True
        now[0] = offset + 3500 * 10**9
        await journal.flush()
        await journal.flush()
        assert journal.totals().records == 2
        now[0] = offset + 3601 * 10**9
        await journal.flush()
        await journal.flush()
        assert journal.pending("cloud")[0][0] == 2  # the first is an hour old, the second is not


async def test_a_journal_that_holds_scans_has_room_again_when_publishers_made_some(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size="10 kB", when_full="hold-scans") as journal:
        while journal.room:
            journal.append(bytes(1000), 1)
            await journal.flush()
        waiting = asyncio.ensure_future(journal.wait_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert journal.totals().dropped == 0
        journal.acknowledge("cloud", 1, journal.committed, 10)
        async with asyncio.timeout(20):
            await waiting
        assert journal.room


async def test_the_file_does_not_grow_while_data_passes_through(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size="1 MB", durability="process") as journal:
        for _ in range(200):
            for _ in range(20):
                journal.append(os.urandom(5000), 1)
            await journal.flush()
            journal.acknowledge("cloud", 1, journal.committed, 20)
        assert survey(tmp_path).file_bytes < 5_000_000  # 20 MB have passed


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\x00" + bytes(5000)])
async def test_a_damaged_file_is_set_aside_and_the_loss_declared(tmp_path: Path, content: bytes) -> None:
    async with opened(tmp_path) as journal:
        old = journal.id
        journal.append(b"one", 1)
    (tmp_path / "journal.sqlite").write_bytes(content)
    with capture_logs() as logs:
        async with opened(tmp_path) as journal:
            assert journal.id != old
            await journal.flush()
            (reason, start, end, _), *_ = gaps(await everything(journal))
            assert "damaged" in reason
            assert start < end
    assert [line["log_level"] for line in logs] == ["error"]
    aside = [path for path in tmp_path.iterdir() if ".damaged-" in path.name]
    assert [path.read_bytes() for path in aside] == [content]


async def test_a_damaged_file_that_is_found_before_the_clock_is_known_is_declared_until_a_time_that_can_be_dated(
    tmp_path: Path,
) -> None:
    """A power cut that spoils the file is often followed by a boot in 1970."""
    read = 1_770_000_000 * 10**9
    async with opened(tmp_path) as journal:
        journal.append(b"held", 1, UNDATED + 7, UNDATED + 7)
        journal.append(b"dated", 1, read, read)
    (tmp_path / "journal.damaged").write_text("a page is torn")
    with capture_logs():
        async with opened(tmp_path, clock=lambda: UNDATED + 20 * 10**9) as journal:
            await journal.flush()
            ((_, start, end, _),) = gaps(await everything(journal))
    assert (start, end) == (read, UNDATED + 20 * 10**9)


async def test_a_loss_of_dated_and_of_undated_readings_is_declared_apart(tmp_path: Path) -> None:
    """One gap record could not be dated: each of its ends is one of the records at its ends."""
    dated = 1_770_000_000 * 10**9
    async with opened(tmp_path, max_size="1 MiB", when_full="drop-oldest") as journal:
        for number in range(5):
            journal.append(bytes(10_000), 1, dated + number, dated + number)
        for number in range(5):
            journal.append(bytes(10_000), 1, UNDATED + number, UNDATED + number)
        await journal.flush()
        journal.append(bytes(1_040_000), 1, UNDATED + 9, UNDATED + 9)
        await journal.flush()
        await journal.flush()
        found = [each[1:] for each in gaps(await everything(journal))]
    assert found == [[dated, dated + 4, 5], [UNDATED, UNDATED + 4, 5]]


async def test_a_power_cut_while_a_file_of_an_earlier_version_is_taken_over_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as journal:
        for number in range(1, 6):
            journal.append(b"%d" % number, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as old:
        old.execute("DELETE FROM records WHERE sequence = 3")
        old.execute("UPDATE journal SET records = 4, bytes = 4")
        old.execute("DROP TABLE holes")
        old.commit()
    with monkeypatch.context() as cut:
        cut.setattr(file, "_FIND_HOLES", "SELECT cut()")
        with pytest.raises(sqlite3.Error):
            JournalFile(tmp_path, JournalOptions())
    async with opened(tmp_path) as journal:
        assert list(await everything(journal)) == [1, 2, 4, 5]


async def test_a_database_of_another_program_is_set_aside(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.sqlite") as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    with capture_logs() as logs:
        async with opened(tmp_path) as journal:
            journal.append(b"one", 1)
    assert "not a journal" in logs[0]["reason"]


async def test_a_damaged_page_is_found_sooner_or_later_and_does_not_come_back(tmp_path: Path) -> None:
    """A damage that only shows at run time must not make the daemon fail at each start."""
    async with opened(tmp_path) as journal:
        for _ in range(200):
            journal.append(os.urandom(3000), 1)
    content = bytearray((tmp_path / "journal.sqlite").read_bytes())
    for page in range(10, len(content) // 4096):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    (tmp_path / "journal.sqlite").write_bytes(content)
    with capture_logs():
        try:
            async with opened(tmp_path) as journal:
                await everything(journal)
                journal.acknowledge("cloud", 1, journal.committed, 200)
                await journal.flush()
        except JournalError:
            async with opened(tmp_path) as journal:
                assert journal.append(b"one", 1) <= 2
                await journal.flush()


async def test_a_damaged_record_is_left_out_and_declared(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for n in range(5):
            journal.append(b"record %d" % n, 7, n, n + 1)
    with sqlite3.connect(tmp_path / "journal.sqlite") as other:
        other.execute("UPDATE records SET record = x'00' WHERE sequence = 3")
    other.close()
    with capture_logs() as logs:
        async with opened(tmp_path) as journal:
            assert list(await everything(journal)) == [1, 2, 4, 5]
            await journal.flush()
            await journal.flush()
            assert gaps(await everything(journal)) == [["a damaged record", 2, 3, 7]]
            assert journal.totals().dropped == 7
    assert [line["log_level"] for line in logs] == ["error"]


async def test_a_loss_is_declared_at_the_next_start_where_the_process_ended_before(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size="10 kB", commit_interval="1 h") as journal:
        for _ in range(12):
            journal.append(bytes(1000), 3, 50, 60)
            await journal.flush()
        # the last loss is on disk, its gap record only in memory; now the power fails
        for suffix in ("", "-wal"):
            (tmp_path / "copy").mkdir(exist_ok=True)
            path = tmp_path / f"journal.sqlite{suffix}"
            (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
        dropped = journal.totals().dropped
    async with opened(tmp_path / "copy", max_size="10 kB") as journal:
        await journal.flush()
        await journal.flush()
        assert sum(readings for *_, readings in gaps(await everything(journal))) >= dropped > 0


async def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        pass
    with pytest.raises(JournalError):
        journal.append(b"one", 1)
    with pytest.raises(JournalError):
        await journal.wait_committed(0)
    await journal.close()


async def test_who_changes_the_publishers_of_a_journal_that_ends_is_told(tmp_path: Path) -> None:
    """Nobody waits for ever for a writer that is gone."""
    async with opened(tmp_path) as journal:
        closing = asyncio.create_task(journal.close())
        await asyncio.sleep(0)
        journal._writer.join()
        with pytest.raises(JournalError, match="closed"):
            async with asyncio.timeout(30):
                await journal.publish_to(["cloud", "other"])
        await closing


async def test_a_mark_is_there_in_the_next_run_and_tells_of_no_more_than_was_committed(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        assert journal.marks == {}
        journal.append(b"one", 1)
        journal.mark("line", b"one was given")
        journal.mark("other", b"\0\xff")
        await journal.flush()
        assert kept(tmp_path) == {"line": b"one was given", "other": b"\0\xff"}
    async with opened(tmp_path) as journal:
        assert journal.marks == {"line": b"one was given", "other": b"\0\xff"}
        journal.append(b"two", 1)
        journal.mark("line", b"two was given")
    async with opened(tmp_path) as journal:  # closing commits what is left
        assert journal.marks["line"] == b"two was given"


async def test_a_mark_waits_for_all_that_was_appended_before_it(tmp_path: Path) -> None:
    """Else a crash between the two would take readings for given that are not in the journal."""
    async with opened(tmp_path, commit_size="1 kB", commit_interval="1 h") as journal:
        for _ in range(20):
            journal.append(b"x" * 300, 1)
        journal.mark("line", b"twenty")
        work = journal._take(500)
        assert len(work.entries) == 1
        assert work.marks == {}
        journal._put_back(work)
        work = journal._take(1 << 20)
        assert work.marks == {"line": b"twenty"}
        journal.mark("line", b"newer")
        journal._put_back(work)
        assert journal._take(1 << 20).marks == {"line": b"newer"}


async def test_a_mark_waits_for_what_a_full_disk_took_in_pieces_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut between two pieces would take readings for given that are not in the journal."""
    async with opened(tmp_path) as journal:
        commit, there = journal._file.commit, []

        def full_at_first(work: Work, full: str) -> Outcome:
            there.append((len(work.entries), dict(work.marks)))
            if len(there) == 1:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return commit(work, full)

        monkeypatch.setattr(journal._file, "commit", full_at_first)
        with journal._shared:  # nothing is committed before all is there
            for _ in range(4):
                journal.append(bytes(100_000), 1)
            journal.mark("line", b"four")
        await journal.flush()
        while (await journal.flush(), kept(tmp_path))[1] != {"line": b"four"}:
            await asyncio.sleep(0.01)
        assert there[0] == (4, {"line": b"four"})
        assert there[1] == (2, {})
        assert sum(entries for entries, _ in there[1:]) == 4
        assert [entries for entries, marks in there if marks] == [4, 2]


async def test_a_journal_of_a_version_without_marks_is_gone_on_with(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        journal.append(b"one", 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as connection:
        connection.execute("DROP TABLE marks")
        connection.commit()
    async with opened(tmp_path) as journal:
        assert journal.committed == 1
        assert journal.marks == {}


def kept(directory: Path) -> dict[str, bytes]:
    with contextlib.closing(sqlite3.connect(directory / "journal.sqlite")) as connection:
        return dict(connection.execute("SELECT name, mark FROM marks"))


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be made"):
        await Journal.open(tmp_path / "file" / "journal", JournalOptions(), [], pack_gap)


KILLED = """
    import asyncio, sys
    from pathlib import Path
    from gateway.journal import Journal
    from gateway.options import JournalOptions

    async def main():
        options = JournalOptions(commit_interval="2 ms")
        journal = await Journal.open(Path(sys.argv[1]), options, ["cloud"], lambda gap: b"gap")
        told, acknowledged = journal.committed, 0
        number = told
        while True:
            for _ in range(50):
                number += 1
                assert journal.append(number.to_bytes(8, "little") * (1 + number % 700), 1) == number
            told = await journal.wait_committed(told)
            print(told, acknowledged, flush=True)
            if told % 3 == 0:
                acknowledged = told - 20
                journal.acknowledge("cloud", 1, acknowledged, 0)

    asyncio.run(main())
"""


async def test_a_killed_process_has_lost_nothing_of_what_it_said_was_committed(tmp_path: Path) -> None:
    for round_ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10 + 30 * round_)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        told, _ = map(int, next(line for line in reversed(lines) if line.endswith("\n")).split())
        async with opened(tmp_path) as journal:
            assert journal.committed >= told
            first = journal.pending("cloud")[0][0]
            assert first <= told - 20 + 1  # what was acknowledged, at most
            found = await everything(journal)
            assert list(range(first, told + 1)) == [n for n in found if first <= n <= told]
            for number, record in found.items():
                assert record == number.to_bytes(8, "little") * (1 + number % 700)
