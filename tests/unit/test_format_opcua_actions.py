"""Commands in OPC UA PubSub JSON, from a Requestor that knows the standard and what is published, and no more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from gateway import quality as q
from gateway.commands import Cause, Result
from gateway.dialects import SECOND, Command, Heard
from gateway.encoders.opcua_json import OpcuaJson
from gateway.memory import Forgetful
from gateway.model import Kind, Tag, TagTable, split_by_kind
from gateway.options import OpcuaJsonOptions, WriteRule
from tests.fakes.opcua_reader import Reader, Response

START = 1_735_689_600 * SECOND
TAGS = (
    Tag("setpoint", "x", type="float32", unit="bar", maximum=100.0, minimum=0.0, writable=WriteRule(min=0, max=10)),
    Tag("mode", "x", type="uint16", states=((0, "stopped"), (1, "manual")), writable=WriteRule()),
    Tag("pressure", "x", type="float32"),
    Tag("count", "x", kind=Kind.INT, type="int64", writable=WriteRule()),
    Tag("lamp", "x", kind=Kind.BOOL, type="bool", writable=WriteRule()),
    Tag("order", "x", kind=Kind.TEXT, type="text", writable=WriteRule()),
)
TABLES = (
    *split_by_kind("press 1", "main", TAGS),
    *split_by_kind("press 1", "set", (Tag("slow", "x", type="float32", writable=WriteRule()),)),
    *split_by_kind("meter", "main", (Tag("energy", "x", type="float64"),)),
)
encodings = pytest.mark.parametrize("encoding", ["plain", "reversible", "compact"])


class Plant:
    """A publisher that takes commands, and a subscriber of it."""

    def __init__(
        self, encoding: str = "plain", tables: Sequence[TagTable] = TABLES, state: dict[str, Any] | None = None
    ) -> None:
        self.memory = Forgetful(state)
        options = OpcuaJsonOptions(encoding=encoding)  # type: ignore[arg-type]
        self.publisher = OpcuaJson(options, "gw01", tables, self.memory, commands=True, clock=lambda: START)
        self.reader = Reader("opcua", "gw01", "data-value", encoding)
        self.reader.take(self.publisher.begin())

    def asks(self, group: str, name: str, values: dict[str, Any], *rest: Any, **more: Any) -> Command:
        heard = self.publisher.received(*self.reader.request(group, name, values, *rest, **more))
        assert not heard.refused
        (command,) = heard.commands
        return command

    def answers(self, command: Command, *results: Result) -> Response:
        self.reader.take(self.publisher.answer(command, results))
        return self.reader.responses[-1]

    def hears(self, change: Callable[[Any], None]) -> Heard:
        topic, payload = self.reader.request("press 1", "set", {"setpoint": 4.5})
        body = orjson.loads(payload)
        change(body)
        heard = self.publisher.received(topic, orjson.dumps(body))
        self.reader.take(heard.send)
        return heard


def test_what_may_be_set_is_published_with_its_types_and_limits() -> None:
    reader = Plant().reader
    assert sorted(reader.offered.values()) == [("gateway", "isolate"), ("press 1", "set")]
    assert set(reader.offered) == set(reader.actions)
    (number,) = (each for each, (_, name) in reader.offered.items() if name == "set")
    fields = {field["Name"]: field for field in reader.actions[number]["Request"]["Fields"]}
    assert {name: field["BuiltInType"] for name, field in fields.items()} == {
        "setpoint": 10, "mode": 5, "count": 8, "lamp": 1, "order": 12, "slow": 10,
    }  # fmt: skip
    assert fields["setpoint"]["Properties"][1]["Value"]["Value"] == {"Low": 0.0, "High": 10.0}, "limits of writing"
    numbers = [body["DataSetWriterId"] for body in reader.metadata.values()]
    assert len({*numbers, *reader.actions}) == len(numbers) + 2, "writers and actions share their numbers"


@encodings
def test_a_request_becomes_a_command_and_its_response_says_what_was_before_and_is_now(encoding: str) -> None:
    plant = Plant(encoding)
    command = plant.asks("press 1", "set", {"setpoint": 4.5, "count": str(2**53 + 1)}, 7, CorrelationData="AQI=")
    assert (command.device, command.values) == ("press 1", (("setpoint", 4.5), ("count", 2**53 + 1)))
    assert (command.issued, command.expires, command.by) == (START, 0, "scada")
    done = Result(4.0, 4.5, 0, "", "41:9c1e"), Result(0, 2**53 + 1, q.UNCERTAIN, "")
    response = plant.answers(command, *done)
    assert response.topic == "opcua/json/action-response/gw01/press 1"
    assert response.number == 7
    assert response.head == {"RequestorId": "scada", "CorrelationData": "AQI="}
    assert response.status == q.UNCERTAIN
    assert response.values == {
        "setpoint": 4.5, "setpoint.before": 4.0, "setpoint.status": 0,
        "count": 2**53 + 1, "count.before": 0, "count.status": q.UNCERTAIN,
        "reason": "count: Uncertain", "audit": "41:9c1e",
    }  # fmt: skip


def test_a_value_may_come_in_any_form_that_the_standard_has() -> None:
    plant = Plant()
    for content in (4.5, {"UaType": 11, "Value": 4.5}, {"Type": 11, "Body": 4.5}, {"Value": {"Type": 11, "Body": 4.5}}):
        assert plant.asks("press 1", "set", {"setpoint": content}).values == (("setpoint", 4.5),)
    assert plant.asks("press 1", "set", {"mode": "manual"}).values == (("mode", "manual"),)
    assert plant.asks("press 1", "set", {"order": "12"}).values == (("order", "12"),), "a text stays one"


def test_a_timeout_hint_is_when_the_command_expires() -> None:
    assert Plant().asks("press 1", "set", {"lamp": True}, TimeoutHint=1500.0).expires == START + 3 * SECOND // 2


def test_isolation_is_an_action_of_the_gateway() -> None:
    plant = Plant()
    command = plant.asks("gateway", "isolate", {"reason": "drill"})
    assert (command.isolate, command.values, command.reason) == (True, (), "drill")
    assert plant.answers(command).values == {"isolated": True}


def test_a_repetition_has_the_same_key_and_another_request_has_not() -> None:
    plant = Plant()
    later = "2025-01-01T00:00:09Z"
    keys = [
        [plant.asks("press 1", "set", {"setpoint": 1}, *rest, **more).key for rest, more in pair]
        for pair in (
            [((1,), {}), ((1,), {})],
            [((1,), {"CorrelationData": "AQI="}), ((1, later), {"CorrelationData": "AQI="})],
            [((2,), {}), ((2,), {})],
            [((1, later), {}), ((1, later), {})],
            [((1,), {"CorrelationData": "AQM="}), ((1,), {"CorrelationData": "AQM="})],
        )
    ]
    assert all(one == other for one, other in keys)
    assert len({one for one, _ in keys}) == 5


def test_several_requests_of_one_message_are_answered_each() -> None:
    plant = Plant()
    heard = plant.hears(lambda body: body["Messages"].append({**body["Messages"][0], "RequestId": 2}))
    assert len(heard.commands) == 2
    for command in heard.commands:
        plant.answers(command, Result(4.0, 4.5, 0, ""))
    assert [each.number for each in plant.reader.responses] == [1, 2]


def test_who_asks_may_choose_where_the_response_goes_below_its_own_topic_only() -> None:
    plant = Plant()
    mine = "opcua/json/action-response/scada"
    assert (
        plant.answers(plant.asks("press 1", "set", {"lamp": True}, ResponseAddress=mine), Result(0, 1, 0, "")).topic
        == mine
    )
    for address in ("opcua/json/data/gw01/press 1", "opcua/json/action-response/#", "plantbridge/gw01/commands", 5):
        heard = plant.hears(lambda body, address=address: body.update(ResponseAddress=address))  # type: ignore[misc]
        assert not heard.commands
        assert "ResponseAddress" in heard.refused[0].reason
        assert plant.reader.responses[-1].topic == "opcua/json/action-response/gw01/press 1"


@pytest.mark.parametrize(
    ("change", "reason", "answered"),
    [
        (lambda body: body.update(PublisherId="other"), "is for the publisher 'other'", False),
        (lambda body: body.update(MessageType="ua-data"), "ua-action-request", False),
        (lambda body: body.pop("Timestamp"), "'Timestamp' is missing", False),
        (lambda body: body.update(Timestamp="yesterday"), "is not a time", False),
        (lambda body: body.update(TimeoutHint=-1), "TimeoutHint", False),
        (lambda body: body.update(CorrelationData="?"), "not base64", False),
        (lambda body: body.update(Messages=[5]), "not an object", False),
        (lambda body: body["Messages"][0].update(DataSetWriterId=999), "no action of this group", False),
        (lambda body: body["Messages"][0].update(ActionTargetId=2), "no action of this group", False),
        (lambda body: body["Messages"][0].update(RequestId=65536), "RequestId", False),
        (lambda body: body["Messages"][0].update(MetaDataVersion={"MajorVersion": 1}), "action-metadata again", False),
        (lambda body: body["Messages"][0].update(Payload={}), "names no value", True),
        (lambda body: body["Messages"][0].update(Payload={"setpoint": [1]}), "not a number", True),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_its_reason(
    change: Callable[[Any], None], reason: str, answered: bool
) -> None:
    plant = Plant()
    heard = plant.hears(change)
    assert not heard.commands
    assert reason in heard.refused[0].reason
    assert (heard.refused[0].cause is Cause.FOREIGN) == ("publisher" in reason)
    assert [each.status for each in plant.reader.responses] == ([q.BAD_DECODING_ERROR] if answered else [])


def test_a_request_that_ends_an_execution_is_nothing() -> None:
    heard = Plant().hears(lambda body: body["Messages"][0].update(ActionState=0))
    assert heard == Heard()


def test_numbers_and_versions_of_actions_stay_over_a_restart_and_change_with_their_fields() -> None:
    before = Plant()
    again = Plant(state=before.memory.load())
    assert again.reader.offered == before.reader.offered
    (number,) = (each for each, place in before.reader.offered.items() if place == ("press 1", "set"))
    versions = [plant.reader.actions[number]["Request"]["ConfigurationVersion"] for plant in (before, again)]
    assert versions[0] == versions[1]
    fewer = Plant(tables=TABLES[:2], state=before.memory.load())
    assert fewer.reader.actions[number]["Request"]["ConfigurationVersion"] != versions[0]


def test_a_tag_that_is_called_as_the_response_names_its_reason_is_read_as_the_tag() -> None:
    tags = (Tag("reason", "x", type="float32", writable=WriteRule()),)
    plant = Plant(tables=split_by_kind("press 1", "main", tags))
    command = plant.asks("press 1", "set", {"reason": 2.5})
    assert plant.answers(command, Result(1.0, 2.5, q.UNCERTAIN, "it holds something else")).values["reason"] == 2.5


def test_every_message_has_an_id_of_its_own() -> None:
    """The reader refuses one that occurs twice; here it is shown that it looks."""
    numbers = itertools.repeat("same")
    publisher = OpcuaJson(
        OpcuaJsonOptions(), "gw01", TABLES, Forgetful(), commands=True, identify=lambda: next(numbers)
    )
    with pytest.raises(AssertionError):
        Reader("opcua", "gw01", "data-value", "plain").take(publisher.begin())
