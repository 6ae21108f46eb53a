"""Readings for tests of the cloud side, and messages of them in the native format, written with pyarrow.

Written from the format's description and not with our encoder, so that a mistake in both does not go unseen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import zstandard
from numpy.typing import NDArray

from gateway import quality
from gateway.contracts import Block
from gateway.model import Batch, Gap, Kind, Tag, TagTable

T0 = 1_700_000_000_123_456_789  # a time with all nine digits
SECOND = 1_000_000_000

ARROW = {
    Kind.FLOAT: pa.float64(),
    Kind.INT: pa.int64(),
    Kind.UINT: pa.uint64(),
    Kind.BOOL: pa.bool_(),
    Kind.TEXT: pa.string(),
}

SAMPLES: dict[Kind, list[Any]] = {
    Kind.FLOAT: [0.1, -0.0, 1.7976931348623157e308, 5e-324],
    Kind.INT: [-(2**63), 2**63 - 1, 2**53 + 1, -1],
    Kind.UINT: [0, 2**64 - 1, 2**63, 2**53 + 1],
    Kind.BOOL: [True, False, True, True],
    Kind.TEXT: ["", "压机 一号, 运行=1", 'quote " back \\ slash', "two\nlines"],
}
"""Four values of each kind that are easily damaged on the way."""


def table(kind: Kind = Kind.FLOAT, size: int = 4, device: str = "press-1", **settings: Any) -> TagTable:
    """Make a table of `size` tags named after their kind."""
    group = settings.pop("group", "default")
    tags = tuple(Tag(f"{kind.value}-{number}", f"a:{number}", kind=kind, **settings) for number in range(size))
    return TagTable(device, group, kind, tags)


def column(kind: Kind, values: Sequence[Any]) -> NDArray[Any]:
    """Give values as a batch's column."""
    made = np.empty(len(values), dtype=kind.dtype)
    made[:] = values
    return made


def scan(of: TagTable, time: int, values: Sequence[Any] | None = None, codes: Sequence[int] | None = None) -> Batch:
    """Read every tag once."""
    value = column(of.kind, (SAMPLES[of.kind] * len(of))[: len(of)] if values is None else values)
    return Batch.full(of, value, time, None if codes is None else np.array(codes, dtype=np.uint32))


def block(*contents: Batch | Gap, first: int = 1, gateway: str = "demo", journal: str = "j1") -> Block:
    """Put contents into a block with consecutive sequences."""
    return Block(gateway, journal, tuple(range(first, first + len(contents))), contents)


def columns_message(
    blocked: Block, numbers: dict[bytes, int], narrow: bool = False, backfill: bool = False, **header: Any
) -> bytes:
    """Encode a block of batches of one kind; `numbers` maps fingerprints to table ids, and grows."""
    batches = [content for content in blocked.contents if isinstance(content, Batch)]
    kind = batches[0].table.kind
    records = [
        [sequence, numbers.setdefault(batch.table.fingerprint, len(numbers)), len(batch)]
        for sequence, batch in zip(blocked.sequences, batches, strict=True)
    ]
    body = {
        "v": 1, "gateway": blocked.gateway, "journal": blocked.journal, "records": records, "backfill": backfill,
        **header,
    }  # fmt: skip
    values = np.concatenate([batch.value for batch in batches])
    arrays = [
        pa.array(np.concatenate([batch.tag for batch in batches]), pa.uint32()),
        pa.array(values.astype(np.float32), pa.float32()) if narrow else pa.array(values.tolist(), ARROW[kind]),
        pa.array(np.concatenate([batch.quality for batch in batches]), pa.uint32()),
        pa.array(np.concatenate([batch.time for batch in batches]), pa.timestamp("ns", "UTC")),
    ]
    made = pa.record_batch(arrays, names=["tag", "value", "quality", "time"])
    return arrow_message(made.replace_schema_metadata({"plantbridge": orjson.dumps(body)}))


def arrow_message(batch: pa.RecordBatch) -> bytes:
    """Put a record batch into a zstd frame around an Arrow stream."""
    raw = io.BytesIO()
    with pa.ipc.new_stream(raw, batch.schema) as writer:
        writer.write_batch(batch)
    return zstandard.ZstdCompressor(write_checksum=True).compress(raw.getvalue())


def gaps_message(blocked: Block) -> bytes:
    """Encode a block of gaps."""
    entries = [
        {
            "sequence": sequence, "device": gap.device, "group": gap.group, "start": gap.start, "end": gap.end,
            "reason": gap.reason, "readings": gap.readings, "scans": gap.scans,
        }
        for sequence, gap in zip(blocked.sequences, blocked.contents, strict=True)
        if isinstance(gap, Gap)
    ]  # fmt: skip
    return orjson.dumps({"v": 1, "gateway": blocked.gateway, "journal": blocked.journal, "gaps": entries})


def same(one: Batch, other: Batch) -> bool:
    """Compare two batches bit by bit, NaN and negative zero included."""
    if one.table.definition != other.table.definition or one.value.dtype != other.value.dtype:
        return False
    value = (
        one.value.tolist() == other.value.tolist()
        if one.table.kind is Kind.TEXT
        else one.value.tobytes() == other.value.tobytes()
    )
    pairs = ((one.tag, other.tag), (one.quality, other.quality), (one.time, other.time))
    return value and all(np.array_equal(left, right) for left, right in pairs)


BAD = quality.BAD_NOT_CONNECTED
