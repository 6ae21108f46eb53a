"""Planning: fewest seconds on the line within every limit, and nothing torn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modbus.driver import ModbusDriver
from drivers.modbus.plan import ModbusPlan, Span, spans_of
from gateway.config import load_site
from gateway.config.plans import plan_links
from gateway.errors import ConfigError
from tests.modbus_links import link_to, tables_of

SERIAL = "rtu:///dev/ttyS0?baud=9600&parity=E"
WIDTHS = {"uint16": 1, "float32": 2, "float64": 4, "text 20": 10, "uint16 bit 3": 1}


def plan_of(url: str, tags: dict[str, object], **device: object) -> ModbusPlan:
    link = link_to(url, tags, **device)
    return ModbusDriver(link).plan(tables_of(link))


def texts(plan: ModbusPlan) -> list[str]:
    return [request.text for request in plan.requests()]


def test_tags_side_by_side_are_one_request_and_areas_are_not_mixed() -> None:
    tags = {
        "a": "holding:0 float32",
        "b": "holding:2 uint16",
        "c": "input:3",
        "d": "coil:0",
        "e": "coil:9",
        "f": "discrete:4",
    }
    plan = plan_of("tcp://h", tags)
    assert texts(plan) == ["FC1 coil 0..9", "FC2 discrete 4", "FC3 holding 0..2", "FC4 input 3"]
    assert [(request.wanted, request.fetched) for request in plan.requests()] == [(2, 10), (1, 1), (3, 3), (1, 1)]


def test_a_gap_is_fetched_where_that_is_cheaper_than_a_request() -> None:
    """On TCP a round trip outweighs any gap; at 9600 baud 30 registers are 69 ms."""
    tags = {"a": "holding:0", "b": "holding:60"}
    assert texts(plan_of("tcp://h", tags)) == ["FC3 holding 0..60"]
    assert texts(plan_of(SERIAL, tags)) == ["FC3 holding 0", "FC3 holding 60"]
    near = {"a": "holding:0", "b": "holding:8"}
    assert texts(plan_of(SERIAL, near)) == ["FC3 holding 0..8"]
    assert texts(plan_of("tcp://h", tags, max_gap=20)) == ["FC3 holding 0", "FC3 holding 60"]


def test_a_value_read_twice_is_fetched_once() -> None:
    tags = {"a": "holding:10 bit 0", "b": "holding:10 bit 1", "c": "holding:10", "d": "holding:9 uint32"}
    (request,) = plan_of("tcp://h", tags).requests()
    assert (request.text, request.wanted, request.fetched) == ("FC3 holding 9..10", 2, 2)


def test_a_scale_factors_register_is_read_with_its_tag() -> None:
    plan = plan_of("tcp://h", {"a": {"address": "holding:10 int16", "scale_power": "holding:14"}})
    assert texts(plan) == ["FC3 holding 10..14"]


def test_boundaries_are_not_read_across() -> None:
    tags = {f"t{address}": f"holding:{address}" for address in range(90, 110)}
    assert texts(plan_of("tcp://h", tags, no_read_across=[100])) == ["FC3 holding 90..99", "FC3 holding 100..109"]


def test_one_request_per_tag_is_just_that() -> None:
    tags = {f"t{address}": f"holding:{address}" for address in range(5)}
    assert len(plan_of("tcp://h", tags, one_request_per_tag=True).requests()) == 5


@pytest.mark.parametrize(
    ("tag", "settings_", "reason"),
    [
        ("holding:99 float32", {"no_read_across": [100]}, "torn"),
        ("holding:0 text 60", {"max_registers": 16}, "30 registers are more than max_registers"),
    ],
)
def test_a_value_that_would_be_torn_is_a_configuration_error(
    tag: str, settings_: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of("tcp://h", {"t": tag}, **settings_)


def test_the_broadcast_of_a_serial_line_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="broadcast"):
        plan_of(SERIAL, {"t": "holding:0"}, unit_id=0)
    assert plan_of("tcp://h", {"t": "holding:0"}, unit_id=0).pace.unit == 0


def test_ten_thousand_tags_need_no_more_requests_than_their_registers_do() -> None:
    tags = {f"t{number}": f"holding:{2 * number} float32" for number in range(10_000)}
    plan = plan_of("tcp://h", tags)
    assert len(plan.requests()) == -(-20_000 // 124)


def test_a_serial_scan_is_estimated_from_its_characters() -> None:
    """At 9600 baud 8E1: 11 bits a character, 8 asked, 5 + 20 answered, twice 3.5 of silence, and the device's time."""
    (request,) = plan_of(SERIAL, {f"t{address}": f"holding:{address}" for address in range(10)}).requests()
    assert request.seconds == pytest.approx((8 + 5 + 20 + 7) * 11 / 9600 + 0.010)


@settings(max_examples=150, deadline=None)
@given(
    tags=st.lists(
        st.tuples(st.sampled_from(["holding", "input"]), st.integers(0, 300), st.sampled_from(list(WIDTHS))),
        min_size=1, max_size=60,
    ),
    url=st.sampled_from(["tcp://h", SERIAL, "ascii:///dev/ttyS0"]),
    max_registers=st.integers(10, 125), max_gap=st.none() | st.integers(0, 40), boundary=st.integers(0, 320),
)  # fmt: skip
def test_every_plan_reads_every_value_whole_within_the_limits(
    tags: list[tuple[str, int, str]], url: str, max_registers: int, max_gap: int | None, boundary: int
) -> None:
    named = {
        f"t{number}": f"{area}:{address} {words}"
        for number, (area, address, words) in enumerate(tags)
        if not address < boundary < address + WIDTHS[words]
    }
    keys = {"max_registers": max_registers, "no_read_across": [boundary]}
    link = link_to(url, named, **keys, **({} if max_gap is None else {"max_gap": max_gap}))
    plan = ModbusDriver(link).plan(tables_of(link))
    wanted = {span for table in plan.tables for tag in table.tags for span in spans_of(tag.source)}
    assert set(plan.spans) == wanted
    assert sorted(index for block in plan.blocks for index in block.spans) == list(range(len(plan.spans)))
    for block in plan.blocks:
        request, spans = block.request, [plan.spans[index] for index in block.spans]
        assert request.count <= max_registers
        assert not request.address < boundary < request.end
        assert request.address == spans[0].address
        assert request.end == max(span.end for span in spans)
        assert all(span.function == request.function and request.address <= span.address for span in spans)
        for before, after in pairwise(spans):
            assert max_gap is None or after.address - max(s.end for s in spans if s <= before) <= max_gap
    total = sum(request.seconds for request in plan.requests())
    assert total <= sum(plan.limits.seconds(span.function, span.count) for span in plan.spans) + 1e-9


def test_places_in_the_buffer_do_not_overlap_between_blocks() -> None:
    tags = {f"t{number}": f"holding:{number * 7} float64" for number in range(50)} | {"c": "coil:3", "d": "coil:90"}
    plan = plan_of("tcp://h", tags, max_registers=30)
    taken: set[int] = set()
    for block in plan.blocks:
        request = block.request
        octets = set(range(request.place, request.place + request.count * (2 if request.function > 2 else 1)))
        assert not taken & octets
        taken |= octets
    assert taken == set(range(plan.size))
    assert plan.places[plan.spans.index(Span(1, 90, 1))] == 87


def test_two_devices_with_one_unit_id_are_a_warning(tmp_path: Path) -> None:
    """A copied block whose unit_id nobody changed reads the same meter twice, with nothing to be seen in the data."""
    device = "{unit_id: 5, tags: {t: 'holding:1'}}"
    site = tmp_path / "site.yaml"
    site.write_text(
        f"gateway: g\nlinks: {{line: {{driver: modbus, url: 'tcp://h', devices: {{m1: {device}, m2: {device},"
        " m3: {unit_id: 6, tags: {t: 'holding:1'}}}}}\n",
        "utf-8",
    )
    _, (problem,) = plan_links(load_site(site).links)
    assert problem.severity == "warning"
    assert problem.path == "links.line.devices.m2"
    assert problem.reason == "m1 has the same unit id 5 on this link"
