"""What every driver promises (gateway.contracts.Driver), run against every driver: see driver_plants.PLANTS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext

import numpy as np
import pytest
from driver_plants import PLANTS, Plant

from gateway import quality as q
from gateway.contracts import Driver, Plan
from gateway.errors import DeviceError, NotConnected
from gateway.model import Batch

DEADLINE = 30.0  # s; far above what a driver needs, also on a busy machine


@pytest.fixture(params=list(PLANTS))
async def plant(request: pytest.FixtureRequest) -> AsyncIterator[Plant]:
    async with PLANTS[request.param]() as running:
        yield running


@pytest.fixture
async def driver(plant: Plant) -> AsyncIterator[Driver]:
    opened = plant.open()
    yield opened
    await opened.close()


def qualities(batches: list[Batch]) -> dict[str, int]:
    return {
        name: quality
        for batch in batches
        for name, quality in zip(batch.table.names, batch.quality.tolist(), strict=True)
    }


async def connected(driver: Driver, plant: Plant) -> Plan:
    plan = driver.plan(plant.tables)
    async with asyncio.timeout(DEADLINE):
        await driver.connect()
    return plan


async def test_a_plan_needs_no_connection_and_explains_its_requests(plant: Plant, driver: Driver) -> None:
    plan = driver.plan(plant.tables)
    assert isinstance(plan, Plan)
    assert plan.tables == plant.tables
    requests = plan.requests()
    assert requests
    for request in requests:
        assert request.text
        assert 0 < request.wanted <= request.fetched
        assert request.seconds >= 0


async def test_a_read_gives_one_row_per_tag_in_table_order(plant: Plant, driver: Driver) -> None:
    plan = await connected(driver, plant)
    batches = await driver.read(plan)
    assert [batch.table for batch in batches] == list(plant.tables)
    for batch in batches:
        size = len(batch.table)
        assert batch.tag.tolist() == list(range(size))
        assert batch.value.dtype == batch.table.kind.dtype
        assert len(batch.value) == len(batch.quality) == len(batch.time) == size
        assert batch.quality.dtype == np.uint32
        assert batch.time.dtype == np.int64
        assert (batch.time > 0).all()


async def test_a_refused_address_leaves_its_neighbours_good(plant: Plant, driver: Driver) -> None:
    """Elsewhere one illegal address loses a block, a device, or the whole line."""
    plan = await connected(driver, plant)
    for _ in range(3):
        found = qualities(await driver.read(plan))
        assert found.pop(plant.refused) >= q.BAD
        assert set(found.values()) == {q.GOOD}, found


async def test_a_bad_row_holds_no_value(plant: Plant, driver: Driver) -> None:
    """A value under a Bad quality would be drawn by somebody."""
    plan = await connected(driver, plant)
    for batch in await driver.read(plan):
        for value in batch.value[batch.quality >= q.BAD].tolist():
            assert value in (0, False, "") or value != value


async def test_reading_without_a_connection_raises(plant: Plant, driver: Driver) -> None:
    with pytest.raises(NotConnected):
        await driver.read(driver.plan(plant.tables))


async def test_a_cut_link_raises_within_the_deadline(plant: Plant, driver: Driver) -> None:
    plan = await connected(driver, plant)
    await driver.read(plan)
    await plant.cut()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(DeviceError):
            await driver.read(plan)


async def test_a_peer_that_comes_back_is_read_again_after_connecting(plant: Plant, driver: Driver) -> None:
    plan = await connected(driver, plant)
    await driver.read(plan)
    await plant.cut()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(DeviceError):
            await driver.read(plan)
    await driver.close()
    await plant.heal()
    async with asyncio.timeout(DEADLINE):
        await driver.connect()
        found = qualities(await driver.read(plan))
    found.pop(plant.refused)
    assert set(found.values()) == {q.GOOD}


async def test_a_silent_device_raises_within_the_deadline(plant: Plant, driver: Driver) -> None:
    if plant.silence is None:
        pytest.skip("this plant has no way to be silent")
    plan = await connected(driver, plant)
    await driver.read(plan)
    await plant.silence()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(DeviceError):
            await driver.read(plan)


async def test_cancelling_a_read_anywhere_leaves_the_driver_closable_and_fresh(plant: Plant, driver: Driver) -> None:
    """The daemon stops, or a supervisor gives up, in the middle of a scan."""
    plan = driver.plan(plant.tables)
    async with asyncio.timeout(4 * DEADLINE):
        finished = False
        for steps in (0, 1, 2, 3, 4, 5, 7, 9, 12, 16, 24, 40):
            await driver.connect()
            reading = asyncio.create_task(driver.read(plan))
            for _ in range(steps):
                await asyncio.sleep(0)
            finished = reading.done()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError) if not finished else nullcontext():
                await reading
            await driver.close()
        await driver.connect()
        found = qualities(await driver.read(plan))
    found.pop(plant.refused)
    assert set(found.values()) == {q.GOOD}


async def test_reading_goes_on_after_a_cancelled_read_on_the_same_connection(plant: Plant, driver: Driver) -> None:
    """What the cancelled read would have got must not be taken for an answer to the next one."""
    plan = await connected(driver, plant)
    reading = asyncio.create_task(driver.read(plan))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    async with asyncio.timeout(DEADLINE):
        found = qualities(await driver.read(plan))
    found.pop(plant.refused)
    assert set(found.values()) == {q.GOOD}


async def test_connecting_to_nobody_raises(plant: Plant, driver: Driver) -> None:
    await plant.cut()

    async def connect_and_read() -> None:
        await driver.connect()
        await driver.read(driver.plan(plant.tables))  # a datagram socket connects to anything

    async with asyncio.timeout(DEADLINE):
        with pytest.raises(DeviceError):
            await connect_and_read()


async def test_closing_twice_or_before_connecting_does_nothing(plant: Plant, driver: Driver) -> None:
    await driver.close()
    await connected(driver, plant)
    await driver.close()
    await driver.close()


async def test_closing_after_the_peer_is_gone_does_not_raise(plant: Plant, driver: Driver) -> None:
    plan = await connected(driver, plant)
    await driver.read(plan)
    await plant.cut()
    await driver.close()
