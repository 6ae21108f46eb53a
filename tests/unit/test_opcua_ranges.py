"""Elements by IndexRange are the elements that cutting the whole array gives, whatever the server makes of a range."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary
from hypothesis import given
from hypothesis import strategies as st

from drivers.opcua import ranges, rows, wire
from drivers.opcua.address import parse
from drivers.opcua.decode import Columns, decode
from drivers.opcua.names import Limits
from drivers.opcua.plan import OpcuaPlan, plan
from drivers.opcua.session import Refused
from gateway.model import Tag, split_by_kind

NO_DATA, INVALID = 0x80370000, 0x80360000
NODE = ua.NodeId("Curve", 2)


def answer(values: Sequence[float] | float, status: int = 0) -> Columns:
    """A DataValue as it comes: an array, a scalar, or a status alone."""
    columns = Columns.empty(1)
    if status:
        body = b"\x02" + struct.pack("<I", status)
    elif isinstance(values, Sequence):
        body = b"\x01" + struct.pack(f"<Bi{len(values)}d", wire.DOUBLE | wire.ARRAY, len(values), *values)
    else:
        body = b"\x01" + struct.pack("<Bd", wire.DOUBLE, values)
    decode(body, 0, columns, 0, 1)
    return columns


def part_of(values: Sequence[float], text: str, *, heeds: bool) -> Columns:
    """What a server makes of an IndexRange."""
    if not text or not heeds:
        return answer(values)
    first, _, last = text.partition(":")
    some = values[int(first) : int(last or first) + 1]
    return answer(some) if some else answer(0.0, NO_DATA)


class Server:
    """Answers reads as the session does."""

    def __init__(self, values: Sequence[float], kind: str) -> None:
        self.values_, self.kind = values, kind

    async def values(self, nodes: Sequence[bytes], _most: int = 1, texts: Sequence[str] | None = None) -> Columns:
        (text,) = texts or [""]
        assert nodes == [nodeid_to_binary(NODE)]
        if text and self.kind == "fails":
            raise Refused("no ranges", status=INVALID)
        if text and self.kind == "refuses":
            return answer(0.0, INVALID)
        return part_of(self.values_, text, heeds=self.kind.startswith("heeds"))


def planned(elements: Sequence[int]) -> OpcuaPlan:
    tags = [
        Tag(f"t{number}", "", parse(f"ns=2;s=Curve [{element}]").sources()[0][0])
        for number, element in enumerate(elements)
    ]
    return plan(split_by_kind("d", "g", tags))


def cells(made: OpcuaPlan, columns: Columns, cut: ranges.Cut | None) -> list[tuple[str, int]]:
    (part,) = made.parts
    batch = rows.batch(part, columns, np.zeros(len(part.node), np.intp), part.table.every, 1, "source", cut)
    return [(repr(value), quality) for value, quality in zip(batch.value.tolist(), batch.quality.tolist(), strict=True)]


def learnt(made: OpcuaPlan, server: Any) -> ranges.Cut:
    return asyncio.run(ranges.learn(server, made, [NODE], Limits()))


lengths = st.integers(0, 12)
KINDS = ("heeds", "heeds reads only", "ignores", "refuses", "fails")


@given(
    st.sampled_from(KINDS), lengths, st.lists(st.integers(0, 14), min_size=1, max_size=5), st.lists(lengths, max_size=4)
)
def test_a_part_gives_what_cutting_the_whole_gives(
    kind: str, length: int, elements: list[int], later: list[int]
) -> None:
    """Read and subscribed; the array grows and shrinks later as it likes."""
    made = planned(elements)
    server = Server([float(n) for n in range(length)], kind)
    for subscribed in (False, True):
        cut = learnt(made, server)
        heeds = kind == "heeds" or (kind == "heeds reads only" and not subscribed)
        for turn, size in enumerate([length, *later]):
            now = [1000.0 * turn + number for number in range(size)]
            came = part_of(now, cut.range(0), heeds=heeds)
            if subscribed and 0 in cut.unsure:
                cut.measure(0, came, 0)
            assert cells(made, came, cut) == cells(made, answer(now), None)


def test_only_less_than_the_array_is_asked_for_and_only_where_nobody_wants_it_whole() -> None:
    server = Server([0.0] * 10, "heeds")
    assert learnt(planned([3]), server).range(0) == "3"
    assert learnt(planned([3, 7, 5]), server).range(0) == "3:7"
    assert learnt(planned([0, 9]), server).range(0) == ""
    assert learnt(planned([9, 12]), server).range(0) == "9:12"
    tags = [
        Tag(name, "", parse(f"ns=2;s=Curve {rest}").sources()[0][0]) for name, rest in (("a", "[3]"), ("b", "#field"))
    ]
    assert learnt(plan(split_by_kind("d", "g", tags)), server).range(0) == ""


def test_a_scalar_an_array_of_two_dimensions_and_an_absent_node_are_taken_whole() -> None:
    made = planned([1])

    class Odd(Server):
        async def values(self, *_arguments: Any) -> Columns:
            return self.columns

        columns = answer(1.0)

    assert learnt(made, Odd([], "")).range(0) == ""
    two = Odd([], "")
    two.columns = Columns.empty(1)
    body = b"\x01" + struct.pack("<Bi4diii", wire.DOUBLE | wire.ARRAY | wire.DIMENSIONS, 4, 1, 2, 3, 4, 2, 2, 2)
    decode(body, 0, two.columns, 0, 1)
    assert learnt(made, two).range(0) == ""
    assert asyncio.run(ranges.learn(two, made, [0x80340000], Limits())).range(0) == ""  # type: ignore[arg-type]


def test_what_could_be_the_part_or_the_whole_has_no_value() -> None:
    """The array has changed its length right behind the look at it, and what came is neither."""
    made = planned([2, 5])
    cut = learnt(made, Server([0.0] * 10, "heeds"))
    assert cut.unsure == {0: (4, 10)}
    came = answer([0.0, 1.0, 2.0])
    cut.measure(0, came, 0)
    assert {quality for _, quality in cells(made, came, cut)} == {NO_DATA}
    came = answer([float(number) for number in range(9)])  # more than was asked for: the whole
    cut.measure(0, came, 0)
    assert cells(made, came, cut) == [("2.0", 0), ("5.0", 0)]
    assert cut.range(0) == ""
