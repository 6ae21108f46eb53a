"""What integrators write of events, and the times under which events are given."""

from __future__ import annotations

import datetime
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.opcua.address import FIELDS, NodeName, field_name, parse
from drivers.opcua.events import REMEMBERED, Told
from gateway.config import load_site
from gateway.config.plans import plan_links
from gateway.errors import ConfigError
from gateway.model import Batch, Kind, Tag, split_by_kind

SAMPLE = Path(__file__).parents[2] / "drivers" / "opcua" / "sample-alarms.yaml"
MOMENT = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
SITE = """gateway: g
links:
  l:
    driver: opcua
    url: opc.tcp://127.0.0.1:4840
    devices:
      d:
        deadband: 0.5
        max_silence: 10 s
        groups:
          alarms:
            events: {}
            tags:
              severity: SEVERITY
"""


@pytest.mark.parametrize(
    ("text", "path", "type_name", "kind"),
    [
        ("event:Severity", ((0, "Severity"),), "uint16", Kind.FLOAT),
        ("event:Severity uint32", ((0, "Severity"),), "uint32", Kind.FLOAT),
        ("event:ActiveState/Id", ((0, "ActiveState"), (0, "Id")), "bool", Kind.BOOL),
        ("event:Message", ((0, "Message"),), "text", Kind.TEXT),
        ("event:2:Batch/2:Number int32", ((2, "Batch"), (2, "Number")), "int32", Kind.FLOAT),
        ("event:nsu=urn:p;Batch/0:Id", (("urn:p", "Batch"), (0, "Id")), "text", Kind.TEXT),
    ],
)
def test_a_field_of_events_is_a_path_with_a_type(text: str, path: object, type_name: str, kind: Kind) -> None:
    address = parse(text)
    assert (address.node, address.type, address.kind) == (NodeName(0, "event", path), type_name, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["event:", "event:/Severity", "event:Severty", "event:Severity [0]", "event:Seve bol"])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"event|field|misspelt"):
        parse(text)


@pytest.mark.parametrize("name", FIELDS)
def test_a_fields_address_reads_as_it_is_written(name: str) -> None:
    assert parse(str(parse(f"event:{name}").node)) == parse(f"event:{name}")


def test_the_sample_is_right_and_planned() -> None:
    site = load_site(SAMPLE)
    plans, problems = plan_links(site.links)
    assert [each for each in problems if each.severity == "error"] == []
    assert "Events of i=2253 of type i=2915" in plans[0].groups[1].requests[0].text


def test_an_inherited_deadband_does_not_hold_events_back(tmp_path: Path) -> None:
    """Two alarms of the same severity are two rows."""
    (tmp_path / "site.yaml").write_text(SITE.replace("SEVERITY", "event:Severity"))
    (tag,) = load_site(tmp_path / "site.yaml").links[0].tables[0].tags
    assert math.isnan(tag.deadband)
    assert tag.max_silence == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{address: event:Severity, deadband: 1}", "deadband belongs to values"),
        ("{address: event:Severity, writable: true}", "cannot be written"),
    ],
)
def test_keys_that_events_do_not_have_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("SEVERITY", text))
    with pytest.raises(ConfigError, match=reason):
        load_site(tmp_path / "site.yaml")


def test_events_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        SITE.replace("SEVERITY", "event:Severity").replace("events: {}", "events: {}\n            mode: read")
    )
    with pytest.raises(ConfigError, match="events are reported, not read"):
        load_site(tmp_path / "site.yaml")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=80))
def test_no_two_events_have_one_time_and_none_changes_it(events: list[tuple[int, int]]) -> None:
    """Each event keeps its time; times differ; those of one Time keep their order."""
    told = Told()
    given: dict[bytes, tuple[int, int]] = {}
    for number, at in events:
        event = f"{number}".encode()
        moment = told.moment(event, given.get(event, (at, 0))[0])
        assert given.setdefault(event, (at, moment))[1] == moment
        assert moment >= given[event][0]
    moments = [moment for _, moment in given.values()]
    assert len(set(moments)) == len(moments)
    for at in {at for at, _ in given.values()}:
        same = [moment for own, moment in given.values() if own == at]
        assert same == sorted(same)


def test_a_burst_of_one_time_costs_little_and_memory_is_bounded() -> None:
    told = Told()
    moments = [told.moment(f"{number}".encode(), 10**18) for number in range(REMEMBERED + 5000)]
    assert moments == list(range(10**18, 10**18 + REMEMBERED + 5000))
    assert len(told._by_event) == REMEMBERED
    assert len(told._taken) == REMEMBERED


def test_what_the_server_says_of_a_selected_field_is_the_quality_of_its_rows() -> None:
    """EventFilterResult (Part 4, 7.22.3): a field that this server has no event type for."""
    from asyncua import ua
    from asyncua.ua.ua_binary import extensionobject_to_binary

    from drivers.opcua import plan
    from drivers.opcua.events import Item, select
    from drivers.opcua.items import Watched, Wish

    address = parse("event:2:Batch")
    tag = Tag("batch", "event:2:Batch", address.sources()[0][0], address.kind, address.type)
    wish = plan.EventWish(NodeName(0, "i", 2253), 1, ())
    planned = plan.plan(split_by_kind("d", "g", [tag]), wish)
    asked = select(planned, [ua.NodeId(2253)], ["", "", "urn:p"], Told())
    item = Item(Watched(planned, Wish(1.0, 0.0), [], {}, events=asked), 0)
    refused = ua.StatusCode(ua.StatusCodes.BadNoMatch)
    result = ua.EventFilterResult(SelectClauseResults=[ua.StatusCode()] * 6 + [refused])
    item.made(0, 10, extensionobject_to_binary(result), 0)
    assert item.fields == (0, 0, 0, 0, 0, 0, ua.StatusCodes.BadNoMatch)


def notified(clock: str, count: int = 1) -> list[Batch]:
    """Give the batches of events as a server sends them: one a second, received 100 ms later."""
    from asyncua import ua
    from asyncua.ua.ua_binary import struct_to_binary

    from drivers.opcua import plan
    from drivers.opcua.events import Events, select
    from drivers.opcua.items import Watched, Wish

    tags = []
    for name in ("Severity", "Message", "ActiveState/Id"):
        address = parse(f"event:{name}")
        tags.append(Tag(name, f"event:{name}", address.sources()[0][0], address.kind, address.type))
    planned = plan.plan(split_by_kind("d", "g", tags), plan.EventWish(NodeName(0, "i", 2253), 1, ()))
    fields = {"Severity": ua.Variant(500, ua.VariantType.UInt16), "ActiveState/Id": ua.Variant(True)}
    told = ua.EventNotificationList()
    for number in range(count):
        at = MOMENT + datetime.timedelta(seconds=number)
        fields["Message"] = ua.Variant(ua.LocalizedText(f"alarm {number}"))
        event = ua.EventFieldList(ClientHandle=0)
        event.EventFields = [
            ua.Variant(str(number).encode()), ua.Variant(ua.NodeId(2915)), ua.Variant(at),
            ua.Variant(at + datetime.timedelta(milliseconds=100)), fields["Severity"], ua.Variant(None),
            *(fields[field_name(node)] for node in planned.nodes),
        ]  # fmt: skip
        told.Events.append(event)
    asked = select(planned, [ua.NodeId(2253)], [""], Told())
    listening = Events([Watched(planned, Wish(1.0, 0.0, clock=clock), [], {}, events=asked)], 0)
    news = listening.notified(struct_to_binary(told), 0, False)
    return [each for each in news if isinstance(each, Batch)]


def test_a_device_s_time_says_whose_time_an_event_has() -> None:
    at = round(MOMENT.timestamp()) * 10**9
    assert {int(batch.time[0]) for batch in notified("source")} == {at}
    assert {int(batch.time[0]) for batch in notified("server")} == {at + 10**8}  # ReceiveTime
    before = time.time_ns()
    assert {before <= int(batch.time[0]) <= time.time_ns() for batch in notified("arrival")} == {True}


def test_an_event_is_one_json_message() -> None:
    """Whoever takes alarms from a topic has each with all of its fields, and none mixed with the next."""
    import orjson

    from gateway.contracts import Record
    from gateway.encoders.json import Json

    records = [Record(number, batch) for number, batch in enumerate(notified("source", 3), 1)]
    found = [orjson.loads(each.payload) for each in Json("g", "t/{device}", 100_000).encode(records)]
    assert [each["values"] for each in found] == [
        {"Severity": 500, "Message": f"alarm {number}", "ActiveState/Id": True} for number in range(3)
    ]
    assert all("times" not in each for each in found)
