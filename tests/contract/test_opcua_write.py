"""Writing to a real server: the right type, exactly, read back; refusals are results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from opcua_server import NAMESPACE, Plant, driver, plant

from gateway import quality as q
from gateway.contracts import Writable, Write, Written

pytestmark = pytest.mark.asyncio(loop_scope="module")
V = ua.VariantType


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        for kind, value in (
            (V.Boolean, False), (V.Int16, 1), (V.UInt64, 1), (V.Int64, 1), (V.Float, 1.0), (V.Double, 1.0),
            (V.String, "a"), (V.LocalizedText, ua.LocalizedText("a")), (V.DateTime, ua.get_win_epoch()),
        ):  # fmt: skip
            await (await running.add(kind.name, value, kind)).set_writable()
        await running.add("Fixed", 1.0, V.Double)
        await (await running.add("Curve", [1.0, 2.0], V.Double)).set_writable()
        yield running


async def write(served: Plant, address: str, value: Any) -> Written:
    wanted: dict[str, Any] = {"address": f"nsu={NAMESPACE};s={address}", "writable": True}
    async with driver(served.url, [wanted]) as (opened, plan):
        assert isinstance(opened, Writable)
        (written,) = await opened.write([Write("dev", plan.tables[0].tags[0], value)])
        return written


@pytest.mark.parametrize(
    ("address", "value", "before"),
    [
        ("Boolean bool", True, False), ("Int16 int16", -7.0, 1.0), ("Int64 int64", 2**53 + 1, 1),
        ("UInt64 uint64", 2**64 - 1, 1), ("Float", 2.5, 1.0), ("Double", 0.1, 1.0), ("String text", "蒸汽", "a"),
        ("LocalizedText text", "an", "a"),
    ],
)  # fmt: skip
async def test_a_value_is_written_in_the_node_s_own_type_and_read_back(
    served: Plant, address: str, value: Any, before: Any
) -> None:
    assert await write(served, address, value) == Written(before, value, q.GOOD)
    name = address.split()[0]
    stored = await served.nodes[name].read_data_value()
    assert stored.Value.VariantType.name == name


@pytest.mark.parametrize(
    ("address", "value", "status"),
    [
        ("Int16", 40000.0, q.BAD_OUT_OF_RANGE),
        ("Int16", 1.5, q.BAD_TYPE_MISMATCH),
        ("Float", 1e39, q.BAD_OUT_OF_RANGE),
        ("Boolean bool", 2, q.BAD_TYPE_MISMATCH),
        ("DateTime datetime", "2026-01-01", q.BAD_NOT_SUPPORTED),
        ("Curve [0]", 1.0, q.BAD_NOT_SUPPORTED),
        ("Curve text", "[1]", q.BAD_NOT_SUPPORTED),
        ("Missing", 1.0, 0x80340000),
    ],
)
async def test_what_cannot_be_written_is_refused_and_nothing_changes(
    served: Plant, address: str, value: Any, status: int
) -> None:
    """A number cut to fit a smaller type would set another set point than the one that was asked for."""
    written = await write(served, address, value)
    if address == "Missing":
        assert written.quality >= q.BAD
        return
    assert written.quality == status
    assert written.reason
    assert written.before == written.after


async def test_the_server_s_refusal_is_told(served: Plant) -> None:
    written = await write(served, "Fixed", 2.0)
    assert written.quality == ua.StatusCodes.BadUserAccessDenied
    assert "BadUserAccessDenied" in written.reason
    assert (written.before, written.after) == (1.0, 1.0)
