"""The audit log: a chain in which every change shows, and that a power cut does not break."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import AuditError, AuditLog, bounded, files, nanoseconds, read, recent, stamp, verify, write

LARGE = 10**9


def entries(directory: Path, count: int, **settings: int) -> None:
    for number in range(count):
        write(directory, [{"event": "test", "number": number, "time": stamp(number)}], LARGE, **settings)


def changed(path: Path, line: int, text: bytes | None) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line : line + 1] = [] if text is None else [text]
    path.write_bytes(b"".join(lines))


def test_a_log_that_nobody_touched_is_whole(tmp_path: Path) -> None:
    entries(tmp_path, 10)
    proof = verify(tmp_path)
    assert (proof.lines, proof.first, proof.last.sequence, proof.broken) == (10, 1, 10, None)
    assert [entry["number"] for entry in read(tmp_path)] == list(range(10))


def test_any_change_of_a_line_is_found_at_that_line(tmp_path: Path) -> None:
    entries(tmp_path, 5)
    (path,) = files(tmp_path)
    original = path.read_bytes()
    third = original.splitlines(keepends=True)[2]
    forged = orjson.loads(third)
    forged["number"] = 99
    for wrong in (
        third.replace(b'"number":2', b'"number":3'),
        third.replace(b'"test"', b'"tost"'),
        third.replace(b"{", b"{ "),
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        orjson.dumps(forged, option=orjson.OPT_SORT_KEYS) + b"\n",
    ):
        path.write_bytes(original)
        changed(path, 2, wrong)
        broken = verify(tmp_path).broken
        assert broken is not None
        assert (broken.file, broken.number) == (path, 3)


@pytest.mark.parametrize(("line", "text", "found"), [(2, None, 3), (0, None, 1), (2, b"twice", 4)])
def test_a_line_that_was_removed_or_inserted_is_found(
    tmp_path: Path, line: int, text: bytes | None, found: int
) -> None:
    entries(tmp_path, 5)
    (path,) = files(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    changed(path, line, text and lines[line] * 2)
    broken = verify(tmp_path).broken
    assert broken is not None
    assert broken.number == found


def test_the_chain_goes_on_from_file_to_file_and_says_what_was_removed(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path, [{"event": "test", "number": number, "text": "x" * 100}], 5000, 1000)
    there = files(tmp_path)
    assert len(there) > 2
    assert sum(path.stat().st_size for path in there) <= 5000
    proof = verify(tmp_path)
    assert proof.broken is None
    assert proof.first > 1
    there[0].unlink()  # more than was declared
    broken = verify(tmp_path).broken
    assert broken is not None
    assert "no line says that they were removed" in broken.reason


def test_a_missing_file_in_the_middle_is_found(tmp_path: Path) -> None:
    entries(tmp_path, 30, file_size=1000)
    there = files(tmp_path)
    assert len(there) > 3
    there[1].unlink()
    broken = verify(tmp_path).broken
    assert broken is not None
    assert broken.file == there[2]


def test_what_a_power_cut_tore_off_is_set_aside_and_the_chain_says_so(tmp_path: Path) -> None:
    entries(tmp_path, 3)
    (path,) = files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"event":"command","va')
    assert verify(tmp_path).broken is not None
    entries(tmp_path, 1)
    assert verify(tmp_path).broken is None
    assert [entry["event"] for entry in read(tmp_path)][3:] == ["torn", "test"]
    assert [torn.read_bytes() for torn in tmp_path.glob("torn-*")] == [b'{"event":"command","va']


def test_a_last_line_that_was_destroyed_does_not_stop_the_gateway_and_stays_visible(tmp_path: Path) -> None:
    entries(tmp_path, 3)
    (path,) = files(tmp_path)
    changed(path, 2, b"\x00\x00\x00\n")
    entries(tmp_path, 1)
    broken = verify(tmp_path).broken
    assert broken is not None
    assert broken.number == 3


async def test_two_writers_make_one_chain(tmp_path: Path) -> None:
    """The command line isolates while the daemon writes."""
    log = AuditLog(tmp_path, LARGE)
    lines = await asyncio.gather(*(log.append({"event": "daemon", "number": number}) for number in range(50)))
    entries(tmp_path, 3)
    more = await log.append({"event": "daemon"})
    await log.close()
    assert [line.sequence for line in lines] == list(range(1, 51))
    assert more.sequence == 54
    assert verify(tmp_path).broken is None


async def test_a_log_that_cannot_be_written_says_so_and_goes_on_when_it_can(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    directory.write_text("in the way")
    log = AuditLog(directory, LARGE)
    with pytest.raises(AuditError, match="cannot be written"):
        await log.append({"event": "test"})
    directory.unlink()
    assert (await log.append({"event": "test"})).sequence == 1
    await log.close()


def test_a_write_that_fails_half_way_leaves_no_half_line(tmp_path: Path) -> None:
    entries(tmp_path, 2)
    (path,) = files(tmp_path)
    before = path.read_bytes()
    with pytest.raises(AuditError):
        write(tmp_path, [{"event": object()}], LARGE)
    assert path.read_bytes() == before


def test_recent_entries_come_from_as_few_files_as_needed(tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path, [{"event": "test", "time": stamp(number * 10**9)}], LARGE, 1000)
    found = recent(tmp_path, 30 * 10**9)
    assert [nanoseconds(entry["time"]) for entry in found] == [number * 10**9 for number in range(30, 50)]


@given(st.integers(0, 2**62))
def test_a_time_is_read_as_it_was_written(time: int) -> None:
    assert nanoseconds(stamp(time)) == time


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))  # fmt: skip
def test_whatever_comes_from_outside_can_be_sealed_and_is_cut_to_size(value: object) -> None:
    cut = bounded({"value": value, "long": "x" * 10_000, "lone": "\ud800"})
    assert len(cut["long"]) == 200
    assert orjson.loads(orjson.dumps(cut)) is not None
