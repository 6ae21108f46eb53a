"""Fields of structures that a server defines itself, read and subscribed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from opcua_server import NAMESPACE, Plant, driver, plant, rows

from gateway import quality as q
from gateway.model import Kind

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Plant]:
    async with plant() as running:
        server, index = running.server, running.index
        await new_enum(server, index, "DriveState", ["Stopped", "Running"])
        speed, _ = await new_struct(
            server, index, "DriveSpeed",
            [new_struct_field("actual", ua.VariantType.Float), new_struct_field("count", ua.VariantType.Int64)],
        )  # fmt: skip
        await new_struct(
            server, index, "Drive",
            [new_struct_field("speed", speed), new_struct_field("name", ua.VariantType.String),
             new_struct_field("on", ua.VariantType.Boolean)],
        )  # fmt: skip
        await server.load_data_type_definitions()
        drive = ua.Drive(speed=ua.DriveSpeed(actual=1.5, count=2**60 + 1), name="M1", on=True)
        await running.add("Drive", drive)
        await running.add("State", 1, ua.VariantType.Int32)
        yield running


async def test_a_field_of_a_structure_is_a_tag(served: Plant) -> None:
    node = f"nsu={NAMESPACE};s=Drive"
    addresses: list[Any] = [
        f"{node} #speed.actual float", f"{node} #speed.count int64", f"{node} #name text", f"{node} #on bool",
        f"{node} #speed.count", f"{node} #speed.nothing", f"{node} #speed text", f"{node} text",
        f"nsu={NAMESPACE};s=State #x",
    ]  # fmt: skip
    async with driver(served.url, addresses) as (opened, plan):
        await opened.read(plan)  # the first scan also asks whether the text is that of an enumeration
        served.reads.clear()
        batches = await opened.read(plan)
        assert served.reads == [2]
        found = rows(batches)
        assert [found[f"t{n}"][0] for n in range(4)] == [1.5, 2**60 + 1, "M1", True]
        assert found["t4"][1] == q.BAD_TYPE_MISMATCH
        assert found["t5"][1] == 0x806F0000
        assert found["t6"][0] == '{"actual":1.5,"count":1152921504606846977}'
        assert '"name":"M1"' in found["t7"][0]
        assert found["t8"][1] == 0x806F0000
        assert {batch.table.kind for batch in batches} == {Kind.FLOAT, Kind.INT, Kind.TEXT, Kind.BOOL}
