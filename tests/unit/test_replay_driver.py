"""The replay driver: what a recording says at a moment, with its times and qualities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers.replay.driver import ReplayDriver
from gateway import quality as q
from gateway.config import load_site
from gateway.errors import ConfigError, NotConnected, ProtocolError
from gateway.model import Batch, Link
from gateway.trace import load

START = 1_764_000_000_000_000_000
SECOND = 10**9
RECORDING = """time,series,value,quality
2026-11-01T08:00:00Z,pressure,4.25,Good
2026-11-01T09:00:02+01:00,pressure,,BadTimeout
2026-11-01T08:00:04Z,pressure,5.5,0x40000000
2026-11-01T08:00:01Z,parts,18446744073709551615,
2026-11-01T08:00:00Z,name,00417,
2026-11-01T08:00:00Z,running,true,
2026-11-01T08:00:03Z,running,false,
2026-11-01T08:00:00Z,words,seven,
"""
TAGS = "{pressure: pressure, parts: parts uint64, name: name text, running: running bool, words: words, none: nothing}"
FIRST = 1_793_520_000 * SECOND


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "press.csv").write_text(RECORDING)
    return tmp_path


def link_of(folder: Path, url: str = "replay:press.csv", tags: str = TAGS, **keys: Any) -> Link:
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    (folder / "site.yaml").write_text(
        f"gateway: g\nlinks:\n  old: {{driver: replay, url: {url!r}{more}, devices: {{press: {{tags: {tags}}}}}}}\n"
    )
    return load_site(folder / "site.yaml").links[0]


class Player:
    """A driver with a clock of its own."""

    def __init__(self, link: Link) -> None:
        self.now = START
        self.link = link
        self.driver = ReplayDriver(link, clock=lambda: self.now)
        self.plan = self.driver.plan(link.tables)

    async def at(self, seconds: float) -> dict[str, tuple[Any, int, int]]:
        self.now = START + round(seconds * SECOND)
        return rows(await self.driver.read(self.plan))


def rows(batches: list[Batch]) -> dict[str, tuple[Any, int, int]]:
    return {
        batch.table.tags[tag].name: (value, quality, time)
        for batch in batches
        for tag, value, quality, time in zip(
            batch.tag.tolist(), batch.value.tolist(), batch.quality.tolist(), batch.time.tolist(), strict=True
        )
    }  # fmt: skip


async def played(folder: Path, **keys: Any) -> Player:
    player = Player(link_of(folder, **keys))
    await player.driver.connect()
    return player


async def test_a_scan_shows_the_newest_row_of_each_series(folder: Path) -> None:
    player = await played(folder)
    first = await player.at(0)
    assert first["pressure"][:2] == (4.25, q.GOOD)
    assert first["parts"][:2] == (0, q.BAD_WAITING_FOR_INITIAL_DATA)
    assert first["name"][:2] == ("00417", q.GOOD)
    assert first["words"][1] == q.BAD_TYPE_MISMATCH
    assert first["none"][1] == q.BAD_NODE_ID_UNKNOWN
    assert (await player.at(1))["parts"][:2] == (2**64 - 1, q.GOOD)
    later = await player.at(3.9)
    assert later["pressure"][1] == q.BAD_TIMEOUT
    assert np.isnan(later["pressure"][0])
    assert later["running"][:2] == (False, q.GOOD)
    assert (await player.at(4))["pressure"][:2] == (5.5, q.UNCERTAIN)


async def test_readings_carry_the_time_of_the_scan_the_recording_or_the_recording_moved_to_now(folder: Path) -> None:
    at = 2.5
    scan = await (await played(folder)).at(at)
    assert scan["pressure"][2] == scan["running"][2] == START + round(at * SECOND)
    stored = await (await played(folder, times="stored")).at(at)
    assert (stored["pressure"][2], stored["running"][2]) == (FIRST + 2 * SECOND, FIRST)
    shifted = await (await played(folder, times="shifted")).at(at)
    assert (shifted["pressure"][2], shifted["running"][2]) == (START + 2 * SECOND, START)


async def test_a_recording_plays_faster_and_begins_again(folder: Path) -> None:
    """The last moment lasts as long as the one before it: five seconds in all, two and a half at double speed."""
    player = await played(folder, speed=2, times="shifted")
    assert (await player.at(2))["pressure"] == (5.5, q.UNCERTAIN, START + 2 * SECOND)
    assert (await player.at(2.5))["pressure"] == (4.25, q.GOOD, START + 5 * SECOND // 2)
    assert (await player.at(5 + 1.5))["parts"][2] == START + round(5.5 * SECOND)


async def test_a_recording_that_does_not_repeat_ends_as_a_device_that_goes(folder: Path) -> None:
    player = await played(folder, at_end="stop")
    await player.at(4.9)
    with pytest.raises(NotConnected, match="end"):
        await player.at(5)


async def test_a_missing_or_broken_recording_is_told_with_its_place(folder: Path) -> None:
    player = Player(link_of(folder, url="replay:other.csv"))
    with pytest.raises(NotConnected, match="No such file"):
        await player.driver.connect()
    broken = {
        "time,series,value\nnow,a,1\n": "press.csv:2: Invalid isoformat",
        "time,series,value\n2026-11-01T08:00:00,a,1\n": "has no zone",
        "time,series,value,quality\n1,a,1,Gut\n": "unknown quality 'Gut'",
        "a,b\n": "must name the columns",
        "time,series,value\n": "no rows",
    }
    for text, reason in broken.items():
        (folder / "press.csv").write_text(text)
        with pytest.raises(ProtocolError, match=reason):
            await Player(link_of(folder)).driver.connect()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("sinus", "there is no pattern 'sinus', did you mean sine"), ("x float32", "expected one of sine, walk")],
)
def test_a_pattern_that_does_not_exist_is_a_mistake_in_the_configuration(
    tmp_path: Path, address: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        link_of(tmp_path, "replay:generated", f"{{a: {address}}}")


def test_an_url_that_is_no_replay_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected replay:FILE.csv or replay:generated, got 'tcp://x'"):
        link_of(tmp_path, "tcp://x")


async def test_patterns_fit_their_types_and_depend_on_time_alone(tmp_path: Path) -> None:
    tags = ", ".join(
        f"{pattern}-{type_}: {pattern} {type_}"
        for pattern in ("sine", "walk", "counter", "noise", "on-off", "constant")
        for type_ in ("float64", "float32", "int64", "uint64", "bool", "text")
    )
    player = Player(link_of(tmp_path, "replay:generated", f"{{{tags}}}"))
    await player.driver.connect()
    for batch in await player.driver.read(player.plan):
        assert batch.value.dtype == batch.table.kind.dtype
        assert set(batch.quality.tolist()) == {q.GOOD}
    first = await player.at(100)
    assert (await player.at(101))["counter-uint64"][0] == first["counter-uint64"][0] + 10
    assert await player.at(100) == first
    assert float(np.float32(first["noise-float32"][0])) == first["noise-float32"][0]


async def test_the_shipped_sample_plays(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "drivers" / "replay" / "sample.yaml"
    for link in load_site(sample).links:
        player = Player(link)
        await player.driver.connect()
        assert {row[1] for row in (await player.at(0)).values()} == {q.GOOD}


def test_the_recording_lasts_one_step_beyond_its_last_row(folder: Path) -> None:
    recording = load(folder / "press.csv")
    assert (recording.first, recording.length) == (FIRST, 5 * SECOND)
