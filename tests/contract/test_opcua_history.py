"""After an interruption that the server's subscription did not outlive, its history fills the gap."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from opcua_server import NAMESPACE, Proxy, driver, plant

from gateway.errors import NotConnected
from gateway.model import Batch, Gap

OPTIONS: dict[str, Any] = {
    "mode": "subscribe", "publishing_interval": "50 ms", "sampling_interval": "0 s", "fill_gaps": True,
}  # fmt: skip


async def take(opened: Any, plan: Any, batches: list[Batch], value: float, gaps: list[Gap]) -> None:
    """Listen until a value has come."""
    async with asyncio.timeout(30):
        async for batch in opened.changes([plan]):
            if isinstance(batch, Gap):
                assert "history" in batch.reason  # B and Missing have none
                gaps.append(batch)
                continue
            batches.append(batch)
            if value in batch.value.tolist() and not batch.backfill:
                return


async def test_a_long_interruption_is_filled_from_history_without_duplicates() -> None:
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

    def at(second: int) -> datetime.datetime:
        return start + datetime.timedelta(milliseconds=second)

    async with plant() as served:
        for name in ("A", "B"):
            node = await served.add(name, 0.0)
            await served.change(name, 0.0, moment=at(0))
            if name == "A":
                await served.server.historize_node_data_change(node, count=1000)
        service = served.server.iserver.subscription_service
        its_own = set(service.subscriptions)
        addresses: list[Any] = [f"nsu={NAMESPACE};s=A", f"nsu={NAMESPACE};s=B", f"nsu={NAMESPACE};s=Missing"]
        async with Proxy(served.port) as proxy, driver(proxy.url, addresses, device=OPTIONS) as (opened, plan):
            before: list[Batch] = []
            gaps: list[Gap] = []
            await served.change("A", 1.0, moment=at(1))
            await served.change("B", 1.0, moment=at(1))
            await take(opened, plan, before, 1.0, gaps)
            proxy.cut()
            with pytest.raises(NotConnected):
                await take(opened, plan, before, 99.0, gaps)
            await opened.close()
            await service.delete_subscriptions([each for each in service.subscriptions if each not in its_own])
            for number in range(2, 40):
                await served.change("A", float(number), moment=at(number))
                kept = served.server.iserver.history_manager.storage._datachanges[served.nodes["A"].nodeid]
                async with asyncio.timeout(30):  # its history listens as a subscriber, and would skip
                    while not kept or kept[-1].Value.Value != number:
                        await asyncio.sleep(0.001)
            await opened.connect()
            after: list[Batch] = []
            await take(opened, plan, after, 39.0, gaps)
    assert len(gaps) == 1
    filled = [
        (value, time)
        for batch in after
        if batch.backfill
        for value, time in zip(batch.value.tolist(), batch.time.tolist(), strict=True)
    ]
    assert [value for value, _ in filled] == [float(number) for number in range(2, 40)]
    assert [time for _, time in filled] == [round(at(n).timestamp() * 1000) * 10**6 for n in range(2, 40)]
