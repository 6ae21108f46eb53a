"""What every store promises, against real servers: durable, each reading once, exact, whatever the names."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from store_places import PLACES, Place, Stored, same_value

from gateway import quality
from gateway.contracts import Block, Store
from gateway.errors import StoreUnavailable
from gateway.model import Batch, Gap
from tests.native import BAD, SECOND, T0, block, scan, table


@pytest.fixture(params=sorted(PLACES))
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with PLACES[request.param](tmp_path) as made:
        yield made


async def store(place: Place, *blocks: Block) -> tuple[int, int, int]:
    """Write with a store of its own; what is seen afterwards was durable when `write` returned."""
    opened = place.open()
    await opened.open()
    try:
        report = await opened.write(blocks)
    finally:
        await opened.close()
    return report.stored, report.duplicates, report.gaps


def expected(place: Place, *blocks: Block) -> list[Stored]:
    """Give the rows of the blocks as the store is to show them."""
    rows = []
    for blocked in blocks:
        for batch in blocked.contents:
            if not isinstance(batch, Batch):
                continue
            for row, tag in enumerate(batch.tag.tolist()):
                code = int(batch.quality[row])
                value = None if quality.severity(code) == "Bad" else batch.value[row].item() if hasattr(
                    batch.value[row], "item") else batch.value[row]  # fmt: skip
                value = place.text(value) if isinstance(value, str) else value
                time = int(batch.time[row]) // place.resolution * place.resolution
                definition = batch.table.tags[tag]
                rows.append(
                    Stored(blocked.gateway, batch.table.device, definition.name, definition.unit, time, value, code)
                )
    return rows


def assert_holds(place: Place, *blocks: Block) -> None:
    def key(row: Stored) -> tuple[str, str, str, str, int]:
        return (row.gateway, row.device, row.tag, row.unit, row.time)

    want, got = sorted(expected(place, *blocks), key=key), sorted(place.readings(), key=key)
    assert [key(row) for row in got] == [key(row) for row in want]
    for one, other in zip(got, want, strict=True):
        assert one.quality == other.quality, (one, other)
        assert same_value(one.value, other.value, place.digits), (one, other)


async def test_every_kind_comes_back_exactly(place: Place) -> None:
    """A counter of energy or of parts that is rounded somewhere is wrong for ever."""
    blocks = [block(scan(table(kind, unit="1"), T0)) for kind in place.kinds]
    for sent in blocks:
        assert await store(place, sent) == (4, 0, 0)
    assert_holds(place, *blocks)


async def test_what_is_written_again_is_there_once(place: Place) -> None:
    """The broker delivers again what was not acknowledged before a restart: it may have been stored."""
    of = table(unit="bar")
    sent = block(scan(of, T0), scan(of, T0 + SECOND))
    assert (await store(place, sent))[0] == 8
    again = await store(place, sent, block(scan(of, T0 + 2 * SECOND), first=3))
    if place.counts:
        assert again == (4, 8, 0)
    assert_holds(place, sent, block(scan(of, T0 + 2 * SECOND)))


async def test_values_that_are_no_numbers_and_the_smallest_times_are_kept(place: Place) -> None:
    """A device that divides by zero reports infinity with Good quality: that it did is a reading too."""
    sent = block(scan(table(size=3, unit="1"), T0, [math.inf, -math.inf, math.nan]))
    assert await store(place, sent) == (3, 0, 0)
    rows = {row.tag: row.value for row in place.readings()}
    assert (rows["float64-0"], rows["float64-1"]) == (math.inf, -math.inf)
    assert math.isnan(rows["float64-2"])


async def test_a_store_that_is_away_takes_nothing_and_says_that_it_may_come_back(place: Place) -> None:
    """Ingest acknowledges when `write` returns: it must not return, and must not call the readings hopeless."""
    sent = block(scan(table(unit="bar"), T0))
    opened = place.open()
    with place.away():
        with pytest.raises(StoreUnavailable) as raised:
            await open_and_write(opened, sent)
        assert not raised.value.permanent
    await opened.open()
    assert (await opened.write([sent])).stored == 4
    await opened.close()
    assert_holds(place, sent)


async def open_and_write(opened: Store, sent: Block) -> None:
    await opened.open()
    await opened.write([sent])


async def test_a_message_that_comes_twice_in_one_write_is_there_once(place: Place) -> None:
    sent = block(scan(table(unit="bar"), T0))
    stored, duplicates, _ = await store(place, sent, sent)
    if place.counts:
        assert (stored, duplicates) == (4, 4)
    assert_holds(place, sent)


async def test_a_backlog_behind_live_data_is_stored_too(place: Place) -> None:
    """After an outage live data goes first: the older readings must not be taken for duplicates."""
    of = table(unit="bar")
    live = block(scan(of, T0 + 100 * SECOND), first=100)
    backlog = block(*(scan(of, T0 + number * SECOND) for number in range(5)), first=1)
    middle = block(scan(of, T0 + 50 * SECOND), scan(of, T0 + 40 * SECOND), first=50)
    await store(place, live)
    assert (await store(place, backlog, middle))[0] == 28
    assert_holds(place, live, backlog, middle)


async def test_a_bad_row_has_quality_and_time_and_no_value(place: Place) -> None:
    """The last good value repeated under Bad would be believed."""
    sent = block(*(scan(table(kind, unit="bar"), T0, codes=[BAD, 0x40940000, 0, BAD]) for kind in place.kinds))
    await store(place, sent)
    assert_holds(place, sent)


async def test_names_may_have_blanks_commas_quotes_and_chinese(place: Place) -> None:
    blocks = [
        block(scan(table(size=1, device=device, unit=unit), T0, [1.5]), gateway=gateway, first=number)
        for number, (gateway, device, unit) in enumerate(
            [
                ("厂 1", "压机-1", "°C"),
                ("a,b", 'say "hi"', "m s"),
                ("a=b", "x=y,z", "kg/h"),
                ("back\\slash", "tab\there", "%"),
                ("🏭", "'quoted'", "Ω·m"),
            ]
        )
    ]
    await store(place, *blocks)
    assert_holds(place, *blocks)


async def test_what_was_thinned_is_kept_as_a_gap_beside_what_was_not(place: Place) -> None:
    """A publisher that kept its budget tells how many readings it left out, with the sequence of a record it sent."""
    of = table()
    rest = scan(of, T0 + SECOND, [1.0, 2.0, 3.0, 4.0]).take(np.array([1, 2]))
    thinned = Gap(of.device, of.group, T0, T0 + SECOND, "thinned", readings=6)
    readings, told = block(scan(of, T0, [1.0, 2.0, 3.0, 4.0]), rest, first=4), block(thinned, first=5)
    assert await store(place, readings, told) == (6, 0, 1)
    await store(place, told, readings)
    assert_holds(place, readings)
    assert place.gaps() == [("demo", place.rounded(thinned))]


async def test_two_gateways_may_have_devices_of_the_same_name(place: Place) -> None:
    of = table(unit="bar")
    blocks = [block(scan(of, T0, [float(number)] * 4), gateway=f"gateway-{number}") for number in range(3)]
    await store(place, *blocks)
    assert_holds(place, *blocks)


async def test_gaps_are_kept_as_they_were_declared(place: Place) -> None:
    holes = [
        Gap("press-1", "fast", T0, T0 + SECOND, 'disk full, "really" \\ 磁盘已满', 500, 5),
        Gap("press-1", "", T0 + 1, T0 + 2, "x"),
        Gap("", "", T0 + 3, T0 + 9, "the gateway was not running"),
    ]
    sent = block(*holes, first=7)
    assert await store(place, sent) == (0, 0, 3)
    await store(place, sent)
    assert sorted(place.gaps(), key=repr) == sorted((("demo", place.rounded(gap)) for gap in holes), key=repr)


async def test_a_tag_whose_unit_or_type_changes_keeps_what_was_stored_before(place: Place) -> None:
    """An integrator corrects bar to kPa, or float to int64: history must keep its meaning."""
    before = block(scan(table(unit="bar", size=1), T0, [1.0]))
    after = block(scan(table(unit="kPa", size=1), T0 + SECOND, [100.0]), first=2)
    await store(place, before)
    await store(place, after)
    assert_holds(place, before, after)


async def test_an_empty_write_is_no_error(place: Place) -> None:
    assert await store(place) == (0, 0, 0)
    assert await store(place, block()) == (0, 0, 0)


async def test_large_writes_arrive_whole(place: Place) -> None:
    of = table(size=2_500, unit="bar")
    sent = block(*(scan(of, T0 + number * SECOND, [float(number)] * 2_500) for number in range(12)))
    assert (await store(place, sent))[0] == 30_000
    assert len(place.readings()) == 30_000


async def test_closing_twice_and_before_opening_is_no_error(place: Place) -> None:
    opened = place.open()
    await opened.close()
    await opened.close()
