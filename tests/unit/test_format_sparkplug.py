"""The Sparkplug edge node before a host that notes every broken rule. Time is passed in; there is no broker here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.sparkplug_objects import Payload
from gateway import quality as q
from gateway.commands import Result
from gateway.contracts import Record
from gateway.dialects import SECOND
from gateway.dialects.dialogue import Dialogue
from gateway.encoders.sparkplug import PATIENCE, EdgeNode
from gateway.encoders.sparkplug_payload import DataType
from gateway.memory import Forgetful
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import SparkplugOptions, WriteRule
from tests.fakes.sparkplug_host import Host, proves

START = 1_735_689_600 * SECOND
HOST = "spBv1.0/STATE/scada"


def tag(name: str, type_: str = "float32", kind: Kind = Kind.FLOAT, **more: Any) -> Tag:
    return Tag(name, "x", kind=kind, type=type_, **more)


PRESS = TagTable(
    "press-1",
    "default",
    Kind.FLOAT,
    (
        tag("pressure", unit="bar", minimum=0.0, maximum=10.0, description="hydraulics"),
        tag("speed", "int16", states=((0, "stopped"), (1, "running"))),
        tag("setpoint", "float64", writable=WriteRule(min=0, max=10)),
    ),
)
LAMPS = TagTable("press-1", "default", Kind.BOOL, (tag("lamp", "bool", Kind.BOOL, writable=WriteRule()),))
METER = TagTable("meter-1", "slow", Kind.INT, (tag("energy", "int64", Kind.INT),))
NAMES = TagTable("meter-1", "slow", Kind.TEXT, (tag("serial", "text", Kind.TEXT),))
TABLES = (PRESS, LAMPS, METER, NAMES)


class Plant:
    """A node, a host that watches it, a clock, and a journal that is a counter."""

    def __init__(self, tables: Sequence[TagTable] = TABLES, state: dict[str, Any] | None = None, **settings: Any):
        options = {name: settings.pop(name) for name in ("primary_host", "datatype_in_data") if name in settings}
        self.memory = Forgetful(state)
        self.now = START
        self.sequence = 0
        self.node = EdgeNode(
            SparkplugOptions(group="Plant1", node="gw1", **options), "gw1", tables, self.memory,
            clock=lambda: self.now, **settings,
        )  # fmt: skip
        self.host = Host("Plant1", "gw1", self.node.will())

    def begin(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        return self.heard(self.node.begin(current, upto))

    def heard(self, messages: Sequence[Message]) -> list[Message]:
        self.host.take(messages)
        return list(messages)

    def reconnect(self, current: Sequence[Batch] = (), upto: int = 0) -> list[Message]:
        self.host.connect(self.node.will())
        return self.begin(current, upto)

    def records(self, *contents: Batch | Gap) -> list[Record]:
        first = self.sequence + 1
        self.sequence += len(contents)
        return [Record(first + index, content) for index, content in enumerate(contents)]

    def send(self, *contents: Batch | Gap) -> list[Message]:
        self.now += SECOND
        return self.heard(self.node.encode(self.records(*contents)))

    def state(self, online: object, timestamp: object, topic: str = HOST) -> Any:
        heard = self.node.received(topic, orjson.dumps({"online": online, "timestamp": timestamp}))
        self.heard(heard.send)
        return heard

    def read(self, table: TagTable, *values: Any, later: int = 0) -> Batch:
        return Batch.full(table, np.array(values, dtype=table.kind.dtype), self.now + later)

    def lose(self, *tables: TagTable) -> list[Batch]:
        return [Batch.bad(table, q.BAD_NOT_CONNECTED, self.now) for table in tables]

    def kept(self) -> None:
        assert self.host.broken == []


def payload(message: Message) -> Any:
    return Payload.FromString(message.payload)


def command(*metrics: tuple[Any, int | None, Any], timestamp: int | None = 5) -> bytes:
    """A host's command: (name or alias, type, value) each."""
    message = Payload()
    if timestamp is not None:
        message.timestamp = timestamp
    for who, kind, value in metrics:
        metric = message.metrics.add(**({"name": who} if isinstance(who, str) else {"alias": who}))
        if kind is not None:
            metric.datatype = kind
        if isinstance(value, bool):
            metric.boolean_value = value
        elif isinstance(value, float):
            metric.double_value = value
        elif isinstance(value, str):
            metric.string_value = value
        elif kind in (DataType.INT64, DataType.UINT64):
            metric.long_value = value & 0xFFFFFFFFFFFFFFFF
        else:
            metric.int_value = value & 0xFFFFFFFF
    return bytes(message.SerializeToString())


REBIRTH = command(("Node Control/Rebirth", DataType.BOOLEAN, True))


# ------------------------------------------------------------------------------------------------ session


@proves(
    "topics-nbirth-topic", "topics-nbirth-seq-num", "topics-nbirth-timestamp", "topics-nbirth-bdseq-included",
    "topics-nbirth-bdseq-matching", "topics-nbirth-rebirth-metric", "topics-nbirth-metrics",
    "topics-nbirth-metric-reqs", "topics-dbirth-topic", "topics-dbirth-seq", "topics-dbirth-timestamp",
    "topics-dbirth-metrics", "topics-dbirth-metric-reqs",
    "principles-birth-certificates-order", "message-flow-edge-node-birth-publish-connect",
    "message-flow-edge-node-birth-publish-nbirth-topic", "message-flow-edge-node-birth-publish-nbirth-payload",
    "message-flow-edge-node-birth-publish-nbirth-payload-bdSeq",
    "message-flow-edge-node-birth-publish-nbirth-payload-seq", "message-flow-edge-node-birth-publish-nbirth-retained",
    "message-flow-device-birth-publish-nbirth-wait", "message-flow-device-birth-publish-dbirth-topic",
    "message-flow-device-birth-publish-dbirth-match-edge-node-topic",
    "message-flow-device-birth-publish-dbirth-payload", "message-flow-device-birth-publish-dbirth-payload-seq",
    "message-flow-device-birth-publish-dbirth-retained",
    "payloads-nbirth-timestamp", "payloads-nbirth-seq", "payloads-nbirth-bdseq", "payloads-nbirth-bdseq-repeat",
    "payloads-nbirth-rebirth-req", "payloads-nbirth-retain", "payloads-dbirth-timestamp", "payloads-dbirth-seq",
    "payloads-dbirth-seq-inc", "payloads-dbirth-order", "payloads-dbirth-retain", "payloads-sequence-num-req-nbirth",
    "payloads-timestamp-in-UTC", "payloads-name-birth-data-requirement", "payloads-name-requirement",
    "payloads-metric-datatype-req", "payloads-metric-datatype-value", "payloads-alias-uniqueness",
    "payloads-alias-birth-requirement", "operational-behavior-data-publish-nbirth",
    "operational-behavior-data-publish-dbirth", "operational-behavior-data-commands-rebirth-name",
    "operational-behavior-data-commands-rebirth-name-aliases", "operational-behavior-data-commands-rebirth-datatype",
    "operational-behavior-data-commands-rebirth-value", "topic-structure", "topic-structure-namespace-a",
    "topic-structure-namespace-device-id-associated-message-types",
    "topic-structure-namespace-device-id-non-associated-message-types", "topic-structure-namespace-unique-device-id",
)  # fmt: skip
def test_a_session_begins_with_the_nodes_birth_and_then_each_devices() -> None:
    """A host builds its tree from the births; what they lack does not exist for it."""
    plant = Plant()
    births = plant.begin()
    plant.kept()
    assert [message.topic for message in births] == [
        "spBv1.0/Plant1/NBIRTH/gw1",
        "spBv1.0/Plant1/DBIRTH/gw1/press-1",
        "spBv1.0/Plant1/DBIRTH/gw1/meter-1",
    ]
    assert [payload(message).seq for message in births] == [0, 1, 2]
    assert {payload(message).timestamp for message in births} == {START // 1_000_000}
    assert set(plant.host.devices["press-1"]) == {"pressure", "speed", "setpoint", "lamp"}
    assert set(plant.host.devices["meter-1"]) == {"energy", "serial"}
    assert {"bdSeq", "Node Control/Rebirth", "PlantBridge/Gap"} <= set(plant.host.node_metrics)
    assert isinstance(plant.node, Dialogue)


@proves(
    "topics-nbirth-mqtt", "topics-dbirth-mqtt", "topics-ndata-mqtt", "topics-ddata-mqtt", "topics-ddeath-mqtt",
    "message-flow-edge-node-birth-publish-nbirth-qos", "message-flow-device-birth-publish-dbirth-qos",
    "payloads-nbirth-qos", "payloads-dbirth-qos", "payloads-ndata-qos", "payloads-ddata-qos", "payloads-ndata-retain",
    "payloads-ddata-retain",
)  # fmt: skip
def test_everything_is_quality_of_service_0_and_nothing_is_retained() -> None:
    plant = Plant()
    messages = [
        *plant.begin(), *plant.send(plant.read(PRESS, 1, 1, 1), Gap("", "", START, START + 1, "restart")),
        *plant.send(*plant.lose(PRESS, LAMPS)), *plant.heard(plant.node.end()),
    ]  # fmt: skip
    assert plant.node.limits.qos == 0
    assert not any(message.retain for message in messages)
    assert plant.host.words[3:] == ["NDATA", "DDATA", "DDATA", "DDEATH", "NDEATH"]
    plant.kept()


@proves(
    "topics-ndeath-topic", "topics-ndeath-payload", "topics-ndeath-seq", "topics-nbirth-bdseq-increment",
    "message-flow-edge-node-birth-publish-will-message", "message-flow-edge-node-birth-publish-will-message-topic",
    "message-flow-edge-node-birth-publish-will-message-payload",
    "message-flow-edge-node-birth-publish-will-message-payload-bdSeq",
    "message-flow-edge-node-birth-publish-will-message-qos",
    "message-flow-edge-node-birth-publish-will-message-will-retained", "payloads-ndeath-seq",
    "payloads-ndeath-will-message", "payloads-ndeath-will-message-qos", "payloads-ndeath-will-message-retain",
    "payloads-ndeath-bdseq",
)  # fmt: skip
def test_each_connect_has_a_will_with_the_next_bdseq_over_restarts_and_round() -> None:
    """A host that cannot tell an old death from a new birth shows a living node as dead."""
    plant = Plant()
    numbers = [plant.host.bdseq]
    for _ in range(257):
        plant.reconnect()
        numbers.append(plant.host.bdseq)
    assert numbers == [index % 256 for index in range(258)]
    plant.kept()
    restarted = Plant(state=plant.memory.state)
    assert restarted.host.bdseq == 2


def test_a_memory_that_makes_no_sense_begins_again() -> None:
    assert Plant(state={"bdSeq": "nonsense"}).host.bdseq == 0


@proves(
    "operational-behavior-edge-node-intentional-disconnect-ndeath", "payloads-ndeath-will-message-publisher",
    "payloads-ndeath-will-message-publisher-disconnect-mqtt311",
)  # fmt: skip
def test_an_intended_end_publishes_the_death_of_the_will() -> None:
    plant = Plant()
    plant.begin()
    (death,) = plant.heard(plant.node.end())
    assert death.payload == plant.host.will.payload
    assert plant.node.end() == []
    plant.kept()


@proves(
    "message-flow-edge-node-ncmd-subscribe", "message-flow-device-dcmd-subscribe", "topics-ncmd-topic",
    "topics-dcmd-topic",
)  # fmt: skip
def test_it_subscribes_to_commands_of_the_node_and_of_devices_that_can_be_written() -> None:
    plain = [(each.filter, each.qos) for each in Plant().node.subscriptions()]
    assert plain == [("spBv1.0/Plant1/NCMD/gw1", 1)]
    full = Plant(commands=True, primary_host="scada").node.subscriptions()
    assert [(each.filter, each.qos) for each in full] == [
        ("spBv1.0/Plant1/NCMD/gw1", 1),
        ("spBv1.0/Plant1/DCMD/gw1/press-1", 1),
        (HOST, 1),
    ]


@pytest.mark.parametrize("name", ["a/b", "a+b", "#", ""])
@proves(
    "intro-group-id-chars", "intro-edge-node-id-chars", "intro-device-id-chars",
    "topic-structure-namespace-valid-group-id", "topic-structure-namespace-valid-edge-node-id",
    "topic-structure-namespace-valid-device-id",
)  # fmt: skip
def test_an_id_that_cannot_be_in_a_topic_is_refused(name: str) -> None:
    device = TagTable(name, "g", Kind.FLOAT, (tag("x"),))
    for options, tables in (
        (SparkplugOptions(group=name, node="n"), ()),
        (SparkplugOptions(group="g", node=name or None), ()),
        (SparkplugOptions(group="g", node="n"), (device,)),
    ):
        if options.node is None:
            continue
        with pytest.raises(ValueError, match="a Sparkplug id must not"):
            EdgeNode(options, "gw", tables, Forgetful())


@proves(
    "intro-group-id-string", "intro-edge-node-id-string", "intro-device-id-string", "case-sensitivity-sparkplug-ids",
    "case-sensitivity-metric-names",
)  # fmt: skip
def test_chinese_ids_are_fine_and_names_that_differ_in_case_only_are_said() -> None:
    table = TagTable("一号压机", "g", Kind.FLOAT, (tag("压力"), tag("Speed"), tag("speed")))
    other = TagTable("PRESS", "g", Kind.FLOAT, (tag("x"),))
    plant = Plant((table, other, TagTable("press", "g", Kind.FLOAT, (tag("x"),))))
    assert plant.begin()[1].topic == "spBv1.0/Plant1/DBIRTH/gw1/一号压机"
    troubles = plant.node.tick().troubles
    assert ["'press'" in troubles[0], "'speed'" in troubles[1], len(troubles)] == [True, True, 2]
    assert plant.node.tick().troubles == ()
    plant.kept()


# ------------------------------------------------------------------------------------------------ births


@proves("operational-behavior-data-publish-nbirth-values", "operational-behavior-data-publish-dbirth-values")
def test_a_birth_shows_what_is_so_now_and_null_where_nothing_is_known() -> None:
    """A host shows a birth's value at once: one from before the outage would look like the present."""
    plant = Plant()
    plant.begin([plant.read(PRESS, 4.5, 1, 7.25), plant.read(METER, 2**60 + 1)])
    press, meter = plant.host.devices["press-1"], plant.host.devices["meter-1"]
    assert [(press[name].value, press[name].quality) for name in press] == [
        (4.5, 192), (1, 192), (7.25, 192), (None, 0)
    ]  # fmt: skip
    assert meter["energy"].value == 2**60 + 1
    assert meter["serial"].value is None
    assert press["pressure"].time == START // 1_000_000
    plant.kept()


@proves(
    "payloads-propertyset-keys-array-size", "payloads-propertyset-values-array-size",
    "payloads-metric-propertyvalue-type-req", "payloads-metric-propertyvalue-type-value",
    "payloads-metric-propertyvalue-type-type", "payloads-metric-datatype-value-type",
)  # fmt: skip
def test_a_birth_tells_unit_range_states_and_whether_a_metric_can_be_written() -> None:
    plant = Plant(commands=True)
    plant.begin()
    press = plant.host.devices["press-1"]
    pressure = press["pressure"].properties
    assert pressure["engUnit"] == "bar"
    assert (pressure["engLow"], pressure["engHigh"]) == (0.0, 10.0)
    assert (pressure["documentation"], pressure["readOnly"]) == ("hydraulics", True)
    assert orjson.loads(press["speed"].properties["states"]) == {"0": "stopped", "1": "running"}
    assert press["setpoint"].properties["readOnly"] is False
    assert press["pressure"].kind == DataType.FLOAT
    plant.kept()


def test_without_commands_nothing_looks_writable() -> None:
    plant = Plant()
    plant.begin()
    assert all(shown.properties["readOnly"] for shown in plant.host.devices["press-1"].values())


# ------------------------------------------------------------------------------------------------ data


@proves(
    "topics-ddata-topic", "topics-ddata-seq-num", "topics-ddata-timestamp", "topics-ddata-payload",
    "payloads-ddata-timestamp", "payloads-ddata-seq", "payloads-ddata-seq-inc", "payloads-ddata-order",
    "payloads-alias-data-cmd-requirement", "payloads-metric-datatype-not-req", "payloads-metric-timestamp-in-UTC",
    "payloads-sequence-num-always-included", "payloads-sequence-num-incrementing",
)  # fmt: skip
def test_data_have_aliases_their_own_times_and_the_next_seq_round_255() -> None:
    plant = Plant()
    plant.begin()
    for turn in range(300):
        (message,) = plant.send(plant.read(PRESS, turn, 1, turn / 2))
        assert payload(message).timestamp == plant.now // 1_000_000
        assert payload(message).metrics[0].timestamp == (plant.now - SECOND) // 1_000_000
        assert not any(metric.HasField("datatype") for metric in payload(message).metrics)
    plant.kept()
    assert plant.host.devices["press-1"]["pressure"].value == 299
    assert plant.host.devices["press-1"]["pressure"].history == []


def test_a_reader_that_needs_types_gets_them_when_asked_for() -> None:
    plant = Plant(datatype_in_data=True)
    plant.begin()
    (message,) = plant.send(plant.read(PRESS, 1, 1, 1))
    types = [metric.datatype for metric in payload(message).metrics]
    assert types == [DataType.FLOAT, DataType.INT32, DataType.DOUBLE]


@proves("payloads-propertyset-quality-value-type", "payloads-propertyset-quality-value-value")
def test_a_reading_that_is_not_good_says_so_and_a_bad_one_has_no_value() -> None:
    plant = Plant()
    plant.begin()
    batch = plant.read(PRESS, 12, 1, 5)
    batch.quality = np.array([q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED, 0, q.BAD_TIMEOUT], dtype=np.uint32)
    plant.send(batch)
    press = plant.host.devices["press-1"]
    assert [(each.value, each.quality) for each in press.values()] == [(12, 500), (1, 192), (None, 0), (None, 0)]
    plant.kept()


def test_records_of_one_device_share_a_message_that_tells_their_sequences() -> None:
    """A cursor that moved past a record with a part still under way would lose that part in a crash."""
    plant = Plant()
    plant.begin()
    messages = plant.send(
        plant.read(PRESS, 1, 1, 1), plant.read(METER, 7), plant.read(LAMPS, True), plant.read(NAMES, "x")
    )
    assert [message.topic.rsplit("/")[-1] for message in messages] == ["press-1", "meter-1"]
    assert [(message.first, message.last) for message in messages] == [(1, 3), (2, 4)]
    assert [message.readings for message in messages] == [4, 2]
    assert messages[0].oldest == START
    plant.kept()


@proves(
    "operational-behavior-data-publish-nbirth-order", "operational-behavior-data-publish-dbirth-order",
)  # fmt: skip
def test_live_metrics_are_in_the_order_of_time_within_a_message() -> None:
    """OPC UA readings of one notification have each its own time, in any order."""
    plant = Plant()
    plant.begin()
    mixed = Batch(
        PRESS,
        np.array([0, 1, 2, 0], dtype=np.uint32),
        np.array([1.0, 2.0, 3.0, 4.0]),
        np.zeros(4, np.uint32),
        np.array([30, 20, 10, 40]) * 1_000_000 + START,
    )
    earlier = plant.read(LAMPS, True, later=-5_000_000)
    messages = plant.send(mixed, earlier)
    assert len(messages) == 2
    assert plant.host.devices["press-1"]["pressure"].value == 4
    plant.kept()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), limit=st.integers(120, 900))
def test_messages_stay_within_the_limit_and_lose_nothing(count: int, limit: int) -> None:
    tags = tuple(tag(f"t{index}", ("float32", "float64", "int16")[index % 3]) for index in range(count))
    table = TagTable("d", "g", Kind.FLOAT, tags)
    plant = Plant((table,), max_message=limit)
    plant.begin()
    messages = plant.send(*[plant.read(table, *range(count)) for _ in range(3)])
    assert max(len(message.payload) for message in messages) <= limit
    assert sum(message.readings for message in messages) == 3 * count
    plant.kept()


@proves(
    "topics-ndata-topic", "topics-ndata-seq-num", "topics-ndata-timestamp", "topics-ndata-payload",
    "payloads-ndata-timestamp", "payloads-ndata-seq", "payloads-ndata-seq-inc", "payloads-ndata-order",
)  # fmt: skip
def test_a_gap_is_told_as_a_metric_of_the_node() -> None:
    plant = Plant()
    plant.begin()
    (message,) = plant.send(Gap("press-1", "default", START, START + SECOND, "the disk was full", 12, 3))
    assert message.topic == "spBv1.0/Plant1/NDATA/gw1"
    shown = plant.host.node_metrics["PlantBridge/Gap"]
    assert orjson.loads(shown.value)["reason"] == "the disk was full"
    plant.kept()


@proves("principles-rbe-recommended", "operational-behavior-data-publish-nbirth-change",
        "operational-behavior-data-publish-dbirth-change")  # fmt: skip
def test_nothing_is_sent_that_is_not_in_a_record() -> None:
    """What changed is decided before the journal; here nothing is repeated on a timer."""
    plant = Plant()
    plant.begin()
    plant.send(plant.read(PRESS, 1, 1, 1))
    for _ in range(100):
        plant.now += SECOND
        assert plant.node.tick().send == ()
    assert plant.node.encode([]) == []


# ------------------------------------------------------------------------------------------------ backlog


def test_after_an_outage_births_show_the_present_then_history_then_live() -> None:
    """A host must not take an hour's backlog for what the machine does now."""
    plant = Plant()
    plant.begin()
    plant.send(plant.read(PRESS, 1, 1, 1))
    backlog, batches = [], []
    for value in (2, 3, 4):
        plant.now += SECOND
        batches.append(plant.read(PRESS, value, 1, 1))
        backlog += plant.records(batches[-1])
    plant.reconnect([batches[-1]], upto=plant.sequence)
    assert plant.host.devices["press-1"]["pressure"].value == 4
    plant.heard(plant.node.encode(backlog))
    pressure = plant.host.devices["press-1"]["pressure"]
    assert [value for _, value in pressure.history] == [2, 3, 4]
    assert [time for time, _ in pressure.history] == [int(batch.time[0]) // 1_000_000 for batch in batches]
    assert pressure.value == 4
    plant.send(plant.read(PRESS, 5, 1, 1))
    assert pressure.value == 5
    plant.kept()


def test_a_live_reading_with_an_earlier_time_is_live() -> None:
    """A PLC whose clock was set back an hour must not be an hour of history."""
    plant = Plant()
    plant.begin([plant.read(PRESS, 1, 1, 1)], upto=7)
    plant.sequence = 7
    plant.send(plant.read(PRESS, 2, 1, 1, later=-3600 * SECOND))
    assert plant.host.devices["press-1"]["pressure"].value == 2
    plant.kept()


def test_readings_fetched_after_the_fact_are_history() -> None:
    plant = Plant()
    plant.begin()
    batch = plant.read(PRESS, 9, 1, 1)
    batch.backfill = True
    plant.send(batch)
    pressure = plant.host.devices["press-1"]["pressure"]
    assert (pressure.value, pressure.history) == (None, [(START // 1_000_000, 9)])


def test_history_of_a_metric_that_is_not_born_any_more_is_not_sent_and_said_once() -> None:
    """Hosts drop the whole message when they meet an alias they do not know."""
    old = TagTable("press-1", "default", Kind.FLOAT, (tag("pressure", unit="kPa"), tag("gone"), tag("speed")))
    away = TagTable("sold", "default", Kind.FLOAT, (tag("x"),))
    plant = Plant()
    plant.begin()
    messages = plant.send(plant.read(old, 1, 2, 3), plant.read(away, 1), plant.read(old, 1, 2, 3))
    assert [message.readings for message in messages] == [2]  # speed is of another type now
    assert plant.host.devices["press-1"]["pressure"].history == [(START // 1_000_000, 1)] * 2
    assert len(plant.node.tick().troubles) == 2
    plant.kept()


# ------------------------------------------------------------------------------------------------ devices come and go


@proves(
    "topics-ddeath-topic", "topics-ddeath-seq-num", "operational-behavior-device-ddeath", "payloads-ddeath-timestamp",
    "payloads-ddeath-seq", "payloads-ddeath-seq-inc", "payloads-ddeath-seq-number",
)  # fmt: skip
def test_a_lost_device_dies_and_its_next_reading_gives_birth_to_it() -> None:
    plant = Plant()
    plant.begin()
    plant.send(plant.read(PRESS, 1, 1, 1), plant.read(LAMPS, True))
    plant.send(*plant.lose(PRESS, LAMPS))
    assert plant.host.dead == {"press-1"}
    assert plant.send(*plant.lose(PRESS, LAMPS)) == []
    plant.send(plant.read(METER, 5))
    plant.send(plant.read(PRESS, 2, 1, 1))
    assert plant.host.dead == set()
    press = plant.host.devices["press-1"]
    assert (press["pressure"].value, press["lamp"].value, press["lamp"].quality) == (2, None, 0)
    assert plant.host.words[-3:] == ["DDEATH", "DDATA", "DBIRTH"]
    plant.kept()


def test_one_silent_poll_group_is_not_a_lost_device() -> None:
    plant = Plant()
    plant.begin()
    plant.send(*plant.lose(PRESS))
    assert plant.host.dead == set()
    assert plant.host.devices["press-1"]["pressure"].quality == 0
    plant.kept()


def test_a_device_that_is_lost_at_the_beginning_is_not_born() -> None:
    plant = Plant()
    plant.begin(plant.lose(METER, NAMES), upto=2)
    assert plant.host.words == ["NBIRTH", "DBIRTH"]
    plant.kept()


def test_a_lost_device_lives_for_its_backlog_and_dies_again() -> None:
    """Its backlog is data like any other, and no host takes data of a dead device."""
    plant = Plant()
    good, bad = plant.read(METER, 7), plant.lose(METER, NAMES)
    backlog = plant.records(good, *bad)
    plant.begin(bad, upto=plant.sequence)
    plant.heard(plant.node.encode(backlog))
    assert plant.host.words[2:] == ["DBIRTH", "DDATA"]
    assert plant.host.devices["meter-1"]["energy"].history == [(START // 1_000_000, 7), (START // 1_000_000, None)]
    plant.now += 4 * SECOND
    assert plant.node.tick().send == ()
    plant.now += SECOND
    plant.heard(plant.node.tick().send)
    assert plant.host.dead == {"meter-1"}
    assert plant.node.tick().send == ()
    plant.kept()


# ------------------------------------------------------------------------------------------------ rebirth


@proves(
    "operational-behavior-data-commands-rebirth-action-1", "operational-behavior-data-commands-rebirth-action-2",
    "operational-behavior-data-commands-rebirth-action-3",
)  # fmt: skip
def test_a_rebirth_sends_all_births_again_with_the_same_bdseq() -> None:
    plant = Plant()
    plant.begin()
    plant.send(plant.read(PRESS, 1, 1, 1))
    plant.send(*plant.lose(METER, NAMES))
    heard = plant.node.received("spBv1.0/Plant1/NCMD/gw1", REBIRTH)
    plant.heard(heard.send)
    assert plant.host.words[-2:] == ["NBIRTH", "DBIRTH"]
    assert plant.host.devices["press-1"]["pressure"].value == 1
    plant.send(plant.read(PRESS, 2, 1, 1))
    plant.kept()
    assert heard.refused == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (command(("Node Control/Reboot", DataType.BOOLEAN, True)), "the node has no command 'Node Control/Reboot'"),
        (command((99, DataType.BOOLEAN, True)), "the node has no command 99"),
        (command(("Node Control/Rebirth", DataType.INT32, 1)), "the node has no command 'Node Control/Rebirth'"),
        (b"\x0a\x05", "not a Sparkplug payload: the payload is cut short"),
        (b"\xff" * 20, "not a Sparkplug payload"),
    ],
)
def test_a_command_that_the_node_does_not_have_is_refused(content: bytes, reason: str) -> None:
    plant = Plant()
    plant.begin()
    heard = plant.node.received("spBv1.0/Plant1/NCMD/gw1", content)
    assert (heard.send, heard.commands) == ((), ())
    assert heard.refused[0].reason.startswith(reason)


def test_a_rebirth_that_says_false_is_nothing() -> None:
    plant = Plant()
    plant.begin()
    heard = plant.node.received("spBv1.0/Plant1/NCMD/gw1", command(("Node Control/Rebirth", DataType.BOOLEAN, False)))
    assert (heard.send, heard.refused) == ((), ())


# ------------------------------------------------------------------------------------------------ primary host


@proves(
    "message-flow-edge-node-birth-publish-phid-wait", "message-flow-edge-node-birth-publish-phid-wait-id",
    "message-flow-edge-node-birth-publish-phid-wait-online", "operational-behavior-edge-node-birth-sequence-wait",
)  # fmt: skip
def test_births_wait_until_the_primary_host_is_online() -> None:
    """Data sent to nobody are lost to the host; they stay in the journal until it is there."""
    plant = Plant(primary_host="scada")
    assert plant.begin() == []
    assert not plant.node.ready
    with pytest.raises(RuntimeError):
        plant.send(plant.read(PRESS, 3, 1, 1))
    assert plant.state(True, 5, topic="spBv1.0/STATE/another").refused
    assert plant.state(False, 6).leave == ""
    assert not plant.node.ready
    plant.state(True, 7)
    assert plant.node.ready
    assert plant.host.words == ["NBIRTH", "DBIRTH", "DBIRTH"]
    assert plant.state(True, 8).send == ()
    plant.kept()


@proves("message-flow-edge-node-birth-publish-phid-wait-timestamp")
def test_an_online_that_is_older_than_an_offline_is_ignored() -> None:
    plant = Plant(primary_host="scada")
    plant.begin()
    plant.state(False, 10)
    plant.state(True, 9)
    assert not plant.node.ready
    plant.state(True, 10)
    assert plant.node.ready


@proves(
    "message-flow-edge-node-birth-publish-phid-offline", "operational-behavior-edge-node-termination-host-offline",
    "operational-behavior-edge-node-termination-host-offline-reconnect",
    "operational-behavior-edge-node-termination-host-offline-timestamp",
    "operational-behavior-primary-application-state-with-multiple-servers-walk",
)  # fmt: skip
def test_an_offline_host_ends_the_session_with_a_death_unless_the_message_is_old() -> None:
    plant = Plant(primary_host="scada", brokers=2)
    plant.begin()
    plant.state(True, 10)
    assert plant.state(False, 9).leave == ""
    heard = plant.state(False, 10)
    assert heard.leave == "the primary host scada is offline"
    assert [message.topic for message in heard.send] == ["spBv1.0/Plant1/NDEATH/gw1"]
    assert not plant.node.ready
    assert plant.state(True, 11).send == ()  # the session is given up
    plant.reconnect()
    plant.state(True, 3)  # another broker's host has another time
    assert plant.node.ready
    plant.kept()


def test_with_another_broker_to_go_to_an_offline_host_is_not_waited_for() -> None:
    plant = Plant(primary_host="scada", brokers=2)
    plant.begin()
    heard = plant.state(False, 10)
    assert (heard.leave, heard.send) == ("the primary host scada is offline", ())


def test_a_host_of_which_nothing_is_heard_is_looked_for_at_the_next_broker() -> None:
    plant = Plant(primary_host="scada", brokers=2)
    plant.begin()
    plant.now += PATIENCE - SECOND
    assert plant.node.tick().leave == ""
    plant.now += SECOND
    assert plant.node.tick().leave == "this broker has no STATE of the primary host scada"
    plant.reconnect()  # to the next, with time of its own
    assert plant.node.tick().leave == ""
    plant.state(True, 3)
    plant.now += PATIENCE
    assert plant.node.tick().leave == ""
    assert plant.node.ready


def test_with_one_broker_a_host_of_which_nothing_is_heard_is_waited_for() -> None:
    plant = Plant(primary_host="scada")
    plant.begin()
    plant.now += 100 * PATIENCE
    assert plant.node.tick().leave == ""
    plant.state(True, 3)
    assert plant.node.ready


def test_with_one_broker_an_offline_host_means_death_and_then_waiting() -> None:
    plant = Plant(primary_host="scada")
    plant.begin()
    plant.state(True, 10)
    assert plant.state(False, 11).leave
    plant.reconnect()
    assert plant.state(False, 11).leave == ""
    plant.state(True, 12)
    assert plant.node.ready
    plant.kept()


@pytest.mark.parametrize(
    "content", [b"ONLINE", b"{}", b"[]", b'{"online":1,"timestamp":5}', b'{"online":true,"timestamp":"5"}',
                b'{"online":true,"timestamp":true}', b"\xff"],
)  # fmt: skip
def test_a_state_that_is_not_one_is_a_trouble_and_decides_nothing(content: bytes) -> None:
    plant = Plant(primary_host="scada")
    plant.begin()
    heard = plant.node.received(HOST, content)
    assert heard.troubles
    assert not plant.node.ready


def test_a_host_may_send_the_node_to_the_next_server() -> None:
    plant = Plant(brokers=2)
    plant.begin()
    assert "Node Control/Next Server" in plant.host.node_metrics
    heard = plant.node.received(
        "spBv1.0/Plant1/NCMD/gw1", command(("Node Control/Next Server", DataType.BOOLEAN, True))
    )
    plant.heard(heard.send)
    assert heard.leave
    assert plant.host.words[-1] == "NDEATH"
    plant.kept()


# ------------------------------------------------------------------------------------------------ device commands


def alias_of(plant: Plant, name: str) -> int:
    return next(alias for alias, (_, metric) in plant.host.aliases.items() if metric == name)


def test_a_device_command_names_metrics_by_name_or_alias() -> None:
    plant = Plant(commands=True)
    plant.begin()
    content = command(
        ("setpoint", DataType.DOUBLE, 7.5),
        (alias_of(plant, "lamp"), DataType.BOOLEAN, True),
        (alias_of(plant, "speed"), None, -3),
        timestamp=1_735_689_600_123,
    )
    heard = plant.node.received("spBv1.0/Plant1/DCMD/gw1/press-1", content)
    (found,) = heard.commands
    assert found.device == "press-1"
    assert found.values == (("setpoint", 7.5), ("lamp", True), ("speed", -3))
    assert found.issued == 1_735_689_600_123_000_000
    assert found.key
    assert plant.node.received("spBv1.0/Plant1/DCMD/gw1/press-1", content).commands[0].key == found.key


def test_a_command_without_a_time_is_never_a_repetition() -> None:
    plant = Plant(commands=True)
    plant.begin()
    content = command(("setpoint", DataType.DOUBLE, 7.5), timestamp=None)
    assert plant.node.received("spBv1.0/Plant1/DCMD/gw1/press-1", content).commands[0].key == ""


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ([("setpoint", DataType.STRING, "7")], "setpoint: a Double is needed"),
        ([("lamp", DataType.INT32, 1)], "lamp: a Boolean is needed"),
        ([("speed", DataType.DOUBLE, 1.5)], "speed: a whole number is needed"),
        ([("speed", DataType.INT64, 2**40)], "speed: 1099511627776 does not fit its type"),
        ([("nothing", DataType.DOUBLE, 1.0)], "there is no metric 'nothing'"),
        ([(999, DataType.DOUBLE, 1.0)], "there is no metric 999"),
        ([], "the command names no metric"),
    ],
)
def test_a_command_that_does_not_fit_is_refused_whole(metrics: list[Any], reason: str) -> None:
    plant = Plant(commands=True)
    plant.begin()
    heard = plant.node.received(
        "spBv1.0/Plant1/DCMD/gw1/press-1", command(("lamp", 11, True), *metrics) if metrics else command()
    )
    assert heard.commands == ()
    assert [(each.reason, each.device) for each in heard.refused] == [(reason, "press-1")]


def test_a_command_without_a_value_or_for_nobody_is_refused() -> None:
    plant = Plant(commands=True)
    plant.begin()
    empty = Payload(timestamp=5)
    empty.metrics.add(name="setpoint", datatype=DataType.DOUBLE, is_null=True)
    heard = plant.node.received("spBv1.0/Plant1/DCMD/gw1/press-1", empty.SerializeToString())
    assert heard.refused[0].reason == "setpoint: the command has no value"
    assert (
        plant.node.received("spBv1.0/Plant1/DCMD/gw1/nobody", command()).refused[0].reason == "there is no such device"
    )
    assert plant.node.received("spBv1.0/Plant2/DCMD/gw1/press-1", command()).refused


def test_an_answer_tells_what_was_read_back_in_the_order_of_seq() -> None:
    plant = Plant(commands=True)
    plant.begin()
    (found,) = plant.node.received(
        "spBv1.0/Plant1/DCMD/gw1/press-1", command(("setpoint", 10, 7.5), ("lamp", 11, True))
    ).commands
    results = [Result(5.0, 7.5, q.GOOD, ""), Result(None, None, q.BAD_TIMEOUT, "silent")]
    plant.heard(plant.node.answer(found, results))
    press = plant.host.devices["press-1"]
    assert (press["setpoint"].value, press["lamp"].value) == (7.5, None)
    plant.send(plant.read(LAMPS, True))
    plant.kept()
    assert plant.node.answer(found, [results[1], results[1]]) == []


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=80),
    where=st.sampled_from(["NCMD/gw1", "DCMD/gw1/press-1", "DCMD/gw1", "STATE/scada", ""]),
)
def test_no_incoming_bytes_move_the_node(content: bytes, where: str) -> None:
    """One malformed command from anywhere must not stop a plant's data."""
    plant = Plant(commands=True, primary_host="scada")
    plant.begin()
    topic = "spBv1.0/STATE/scada" if where.startswith("STATE") else f"spBv1.0/Plant1/{where}"
    heard = plant.node.received(topic, content)
    assert not heard.commands or content
