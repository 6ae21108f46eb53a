"""Writing to a real server: the right type, exactly, read back; refusals are results."""

from __future__ import annotations

import dataclasses
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
        await (await running.add("Counts", [1, 2, 3], V.Int16)).set_writable()
        await (await running.add("Names", ["a", "b"], V.String)).set_writable()
        await (await running.add("Empty", [], V.Int32)).set_writable()
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
        ("Curve [2]", 1.0, 0x80370000),
        ("Curve text", "1", q.BAD_TYPE_MISMATCH),
        ("Curve text", '["a"]', q.BAD_TYPE_MISMATCH),
        ("Curve text", "[[1]]", q.BAD_TYPE_MISMATCH),
        ("Curve text", "[null]", q.BAD_TYPE_MISMATCH),
        ("Counts [0]", 40000.0, q.BAD_OUT_OF_RANGE),
        ("Double [0]", 1.0, q.BAD_TYPE_MISMATCH),
        ("Double #x", 1.0, q.BAD_NOT_SUPPORTED),
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


@pytest.mark.parametrize(
    ("address", "value", "before", "after", "stored"),
    [
        ("Counts [1]", -7.0, 2.0, -7.0, [1, -7, 3]),
        ("Names [0] text", "蒸汽", "a", "蒸汽", ["蒸汽", "b"]),
        ("Curve text", "[5, 0.1, 7]", "[1.0,2.0]", "[5.0,0.1,7.0]", [5.0, 0.1, 7.0]),
        ("Empty text", "[1]", "[]", "[1]", [1]),
        ("Curve text", "[]", "[5.0,0.1,7.0]", "[]", []),
    ],
)
async def test_an_element_or_a_whole_array_is_written_and_the_rest_stays(
    served: Plant, address: str, value: Any, before: Any, after: Any, stored: list[Any]
) -> None:
    """The library's server ignores an IndexRange: it would replace the array by the one element."""
    assert await write(served, address, value) == Written(before, after, q.GOOD)
    assert await served.nodes[address.split()[0]].read_value() == stored


async def test_an_element_is_written_alone_where_the_server_knows_index_ranges(
    served: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may write their elements of the same array meanwhile."""
    ranges: list[str] = []
    service = served.server.iserver.attribute_service
    read, put = type(service).read, type(service).write

    def read_range(self: Any, params: ua.ReadParameters) -> list[ua.DataValue]:
        found = read(self, params)
        for number, wanted in enumerate(params.NodesToRead):
            if wanted.IndexRange:
                inner = found[number].Value
                one = ua.Variant([inner.Value[int(wanted.IndexRange)]], inner.VariantType, is_array=True)
                found[number] = ua.DataValue(one)
        return found

    async def put_range(self: Any, params: ua.WriteParameters, **user: Any) -> list[ua.StatusCode]:
        for number, wanted in enumerate(params.NodesToWrite):
            if wanted.IndexRange:
                ranges.append(wanted.IndexRange)
                inner = self._aspace.read_attribute_value(wanted.NodeId, wanted.AttributeId).Value
                whole = list(inner.Value)
                whole[int(wanted.IndexRange)] = wanted.Value.Value.Value[0]
                value = ua.DataValue(ua.Variant(whole, inner.VariantType, is_array=True))
                params.NodesToWrite[number] = dataclasses.replace(wanted, Value=value)
        return list(await put(self, params, **user))

    monkeypatch.setattr(type(service), "read", read_range)
    monkeypatch.setattr(type(service), "write", put_range)
    before = await served.nodes["Counts"].read_value()
    assert await write(served, "Counts [2]", 9.0) == Written(float(before[2]), 9.0, q.GOOD)
    assert ranges == ["2"]
    assert await served.nodes["Counts"].read_value() == [*before[:2], 9]
