"""The guide on columns is the format's contract with strangers: what it shows is run, on what the encoder makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.contracts import Record
from gateway.encoders.columns import Columns
from gateway.model import Batch, Gap, Kind, Tag, TagTable
from tests.native import BAD, SAMPLES, T0, scan
from tests.native import table as table_of

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "formats" / "columns.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def readings() -> Callable[..., Any]:
    space: dict[str, Any] = {}
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(code, space)
    found: Callable[..., Any] = space["readings"]
    return found


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("whole", [True, False])
def test_the_ten_lines_of_the_guide_read_what_the_gateway_sends(
    readings: Callable[..., Any], kind: Kind, whole: bool
) -> None:
    one, other = table_of(kind), table_of(kind, device="meter-2", size=2)
    encoder = Columns("demo", "j1", "plantbridge/demo", 256_000)
    encoder.know(1, one)
    encoder.know(2, other)
    batches = [scan(one, T0, codes=[0, BAD, 0, 0]), scan(other, T0 + 1), scan(one, T0 + 1_000_000_000)]
    if not whole:
        batches[1] = batches[1].take(np.array([1]))
    messages = encoder.encode([Record(4711 + n, batch) for n, batch in enumerate(batches)])
    tables = {}
    found = []
    for message in messages:
        match message.topic.split("/"):
            case [*_, "tables", journal, number]:
                tables[journal, int(number)] = json.loads(message.payload)
            case [*_, "columns"]:
                found += list(readings(message.payload, tables))
    expected = [
        (batch.table.device, batch.table.tags[tag].name, value, quality, time)
        for batch in batches
        for tag, value, quality, time in zip(
            batch.tag.tolist(), batch.value.tolist(), batch.quality.tolist(), batch.time.tolist(), strict=True
        )
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert SAMPLES[kind][0] in [value for _, _, value, _, _ in found]


def test_the_json_of_the_guide_is_what_the_gateway_sends() -> None:
    header, table, gaps = (json.loads(block) for block in blocks("json"))
    tags = (
        Tag("pressure", "holding:100 float32 CDAB", type="float32", unit="bar"),
        Tag("mode", "holding:102 uint16", type="uint16", states=((1, "running"),)),
    )
    made = TagTable("press-1", "default", Kind.FLOAT, tags)
    assert json.loads(made.definition) == table
    encoder = Columns("demo", header["journal"], "p", 256_000)
    gap = Gap("press-1", "default", gaps["gaps"][0]["start"], gaps["gaps"][0]["end"], "a scan was skipped", 0, 1)
    assert json.loads(encoder.encode([Record(4713, gap)])[0].payload) == gaps
    encoder.know(1, made)
    batch = Batch.full(made, np.array([1.0, 2.0]), T0)
    import pyarrow as pa

    payload = encoder.encode([Record(4711, batch)])[-1].payload
    schema = pa.ipc.open_stream(pa.CompressedInputStream(pa.BufferReader(payload), "zstd")).schema
    assert json.loads(schema.metadata[b"plantbridge"]).keys() == header.keys()
