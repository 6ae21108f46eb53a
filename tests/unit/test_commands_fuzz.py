"""Whatever arrives on a topic of commands, in any format: no exception, and nothing written that may not be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.sparkplug_objects import Payload
from gateway.commands import Cause, refusal
from gateway.commands import Refused as NotAllowed
from gateway.contracts import Write, Written
from gateway.control import Access, Control
from gateway.conversation import Conversation, Desk
from gateway.dialects import Refused
from gateway.dialects.native import Native
from gateway.encoders.cloud import Cloud
from gateway.encoders.opcua_json import OpcuaJson
from gateway.encoders.sparkplug import EdgeNode
from gateway.health import Health
from gateway.memory import Forgetful
from gateway.metrics import Metrics
from gateway.model import Device, Group, Kind, Link, Tag, split_by_kind
from gateway.mqtt import Arrived
from gateway.options import CommandOptions, OpcuaJsonOptions, SparkplugOptions, WriteRule
from tests.unit.test_control import FakeDriver
from tests.unit.test_format_clouds import aliyun, aws, azure, huawei, tencent, thingsboard

LIMITED = Tag("setpoint", "x", type="float64", writable=WriteRule(min=0, max=1))
TAGS = (LIMITED, Tag("speed", "x", type="int16"), Tag("lamp", "x", kind=Kind.BOOL, type="bool"))
TABLES = split_by_kind("press_1", "main", TAGS)
NAMES = st.sampled_from(["press_1", "meter_1", "setpoint", "speed", "lamp", "oven", "", "main"])
LEAF = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | NAMES
KEYS = st.text(max_size=10) | st.sampled_from(
    [
        "gateway", "id", "time", "device", "values", "expires", "isolate", "data", "method", "params", "services",
        "paras",
        "properties", "object_device_id", "command_name", "state", "timestamp", "version", "$version", "clientToken",
        "payload", "devices", "type", "press_1", "setpoint", "code", "result", "product_id", "device_name",
    ]
)  # fmt: skip
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5))


def dumped(value: object) -> bytes:
    import json

    return json.dumps(value).encode(errors="surrogatepass")


@st.composite
def protobufs(draw: st.DrawFn) -> bytes:
    """A Sparkplug payload whose metrics are of any type, perhaps cut off."""
    payload = Payload(timestamp=draw(st.integers(0, 2**64 - 1)))
    for _ in range(draw(st.integers(0, 4))):
        metric = payload.metrics.add()
        if draw(st.booleans()):
            metric.name = draw(NAMES | st.sampled_from(["Node Control/Rebirth", "PlantBridge/Isolate", "bdSeq"]))
        if draw(st.booleans()):
            metric.alias = draw(st.integers(0, 20) | st.integers(0, 2**64 - 1))
        if draw(st.booleans()):
            metric.datatype = draw(st.integers(0, 40))
        which = draw(st.integers(0, 6))
        if which == 0:
            metric.int_value = draw(st.integers(0, 2**32 - 1))
        elif which == 1:
            metric.long_value = draw(st.integers(0, 2**64 - 1))
        elif which == 2:
            metric.float_value = draw(st.floats(width=32))
        elif which == 3:
            metric.double_value = draw(st.floats())
        elif which == 4:
            metric.boolean_value = draw(st.booleans())
        elif which == 5:
            metric.string_value = draw(st.text(max_size=10))
    whole = payload.SerializeToString()
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


REQUESTS = st.fixed_dictionaries(  # of OPC UA: right in what keeps all others out
    {"MessageType": st.just("ua-action-request"), "PublisherId": st.just("gw1") | JSON,
     "Timestamp": st.builds(lambda: datetime.now(UTC).isoformat()) | JSON, "Messages": st.lists(
        st.fixed_dictionaries(
            {"DataSetWriterId": st.integers(0, 9), "RequestId": st.integers(-1, 70_000) | LEAF},
            optional={"Payload": JSON | st.dictionaries(NAMES, JSON, max_size=3), "ActionState": LEAF,
                      "ActionTargetId": LEAF, "MetaDataVersion": JSON},
        ), max_size=3) | JSON},
    optional={"ResponseAddress": JSON, "TimeoutHint": LEAF, "CorrelationData": LEAF, "RequestorId": LEAF},
)  # fmt: skip
PAYLOADS = st.binary(max_size=200) | JSON.map(dumped) | protobufs() | REQUESTS.map(dumped)


def native() -> Any:
    return Native("gw1", "plantbridge/gw1", time.time_ns)


def sparkplug() -> Any:
    node = EdgeNode(SparkplugOptions(group="G"), "gw1", TABLES, Forgetful(), commands=True)
    node.will()
    node.begin()
    return node


def opcua() -> Any:
    return OpcuaJson(OpcuaJsonOptions(), "gw1", TABLES, Forgetful(), commands=True)


def cloud(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        dialogue = Cloud(make().dialect, commands=True)
        dialogue.credentials()
        dialogue.begin()
        return dialogue

    return made


FORMATS = {
    "native": native, "sparkplug": sparkplug, "opcua-json": opcua, "thingsboard": cloud(thingsboard),
    "huawei": cloud(huawei), "aliyun": cloud(aliyun), "tencent": cloud(tencent), "aws": cloud(aws),
    "azure": cloud(azure),
}  # fmt: skip
TOPICS = st.sampled_from(
    [
        "spBv1.0/G/NCMD/gw1", "spBv1.0/G/DCMD/gw1/press_1", "/sys/subPK/press_1_cn/thing/service/property/set",
        "$thing/down/property/subPK/press_1_cn", "$iothub/methods/POST/set/?$rid=1", "$iothub/methods/POST/x",
        "$thing/down/action/subPK/press_1_cn", "/sys/subPK/press_1_cn/thing/service/write",
        "$iothub/twin/PATCH/properties/desired/?$version=3", "$iothub/twin/res/400/?$rid=1", "a/b", "",
    ]
)  # fmt: skip


class NotedLink:
    """A link that notes what is written to it."""

    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.values: list[Any] = []

    async def write(self, write: Write, permit: Callable[[], None]) -> Written:
        permit()
        self.values.append((write.tag.name, write.value))
        return Written(None, write.value, 0)


class Sink:
    """What a conversation needs of a sink; keeps what is said."""

    refusal = ""
    overflowed = 0
    connected = True

    @property
    def peer(self) -> Sink:
        return self

    def __init__(self) -> None:
        self.denied: list[str] = []
        self.arrivals: asyncio.Queue[tuple[Arrived, int]] = asyncio.Queue()
        self.acknowledged = 0

    async def subscribe(self, subscriptions: object) -> None: ...

    def acknowledge(self, message: Arrived) -> None:
        self.acknowledged += 1

    async def send(self, message: Any) -> Any:
        from gateway.contracts import Delivery

        assert isinstance(message.payload, bytes)
        return Delivery.ACCEPTED


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.mark.parametrize("form", FORMATS)
def test_no_payload_raises_and_none_writes_what_may_not_be_written(
    form: str, tmp_path: Path, runner: asyncio.Runner
) -> None:
    link = NotedLink()
    group = Group("press_1", "main", 10**9, 0, TABLES)
    links = [Link("line", "fake", None, (Device("press_1", None, (group,)),))]
    options = CommandOptions.model_validate({"tag_interval": "0 s", "rate": 1000})
    control = Control(options, tmp_path, links, {"line": link}, Metrics(), Health())
    runner.run(control.open())
    access = Access(form, form, form in ("native", "sparkplug", "opcua-json", "aws"), lambda device, tag: (device, tag))
    desk = Desk(
        lambda command: control.execute(access, command), lambda refused: control.refused(access, refused), lambda: True
    )
    dialogue = FORMATS[form]()
    # what the format itself listens to, with names that it knows in the place of wildcards
    mine = [
        each.filter.replace("#", "x/request_id=7").replace("+", "press_1") for each in dialogue.subscriptions()
    ] or ["x"]

    async def hear(topic: str, payload: bytes, retained: bool) -> None:
        sink = Sink()
        talk = Conversation(form, dialogue, sink, list, desk)
        sink.arrivals.put_nowait((Arrived(topic, payload, retained, False, 1, 1), time.time_ns()))
        task = asyncio.create_task(talk.run(0))
        while not sink.acknowledged and not task.done():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        from gateway.errors import SinkUnavailable

        assert isinstance(ended, asyncio.CancelledError | SinkUnavailable), ended

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(mine) | TOPICS, PAYLOADS, st.sampled_from([False, False, True]))
    def fuzz(topic: str, payload: bytes, retained: bool) -> None:
        control.switch.release()
        runner.run(hear(topic, payload, retained))

    fuzz()
    runner.run(control.close())
    assert all(name == "setpoint" and 0 <= value <= 1 for name, value in link.values), link.values


@pytest.mark.parametrize(
    ("retained", "padding", "cause"),
    [(False, 0, None), (True, 0, Cause.STALE), (False, 70_000, Cause.TOO_LARGE)],
)
async def test_what_is_retained_or_too_large_is_no_command(retained: bool, padding: int, cause: Cause | None) -> None:
    """A retained command would be carried out again at each connection, weeks later."""
    commands: list[Any] = []
    refused: list[Refused] = []

    async def execute(command: Any) -> list[Any]:
        commands.append(command)
        return [refusal(NotAllowed("enough"))]

    sink = Sink()
    talk = Conversation("cloud", native(), sink, list, Desk(execute, refused.append, lambda: True))
    body = {"gateway": "gw1", "id": "a", "time": 1795162500100, "device": "press_1", "values": {"setpoint": 1}}
    payload = orjson.dumps(body) + b" " * padding
    sink.arrivals.put_nowait((Arrived("plantbridge/gw1/commands", payload, retained, False, 1, 1), 5))
    task = asyncio.create_task(talk.run(0))
    while not sink.acknowledged:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [each.cause for each in refused] == ([cause] if cause else [])
    assert [each.arrived for each in commands] == ([] if cause else [5])


def test_a_number_that_sparkplug_sends_as_float32_is_the_decimal_that_was_meant() -> None:
    """0.1 in 32 bits is no multiple of 0.1: a set point in steps would be refused."""
    payload = Payload(timestamp=1)
    payload.metrics.add(name="setpoint", datatype=9).float_value = 0.1
    (command,) = sparkplug().received("spBv1.0/G/DCMD/gw1/press_1", payload.SerializeToString()).commands
    assert command.values == (("setpoint", 0.1),)


@given(JSON | st.dictionaries(KEYS, JSON))
def test_the_native_reader_takes_any_json(value: Any) -> None:
    heard = native().received("plantbridge/gw1/commands", dumped(value))
    for command in heard.commands:
        assert command.isolate or command.values


def test_a_native_command_is_read_in_full() -> None:
    body = {"gateway": "gw1", "id": "a", "time": "2026-11-22T08:15:00.5+01:00", "device": "press_1",
            "values": {"setpoint": 0.5}, "expires": 1795162500100, "by": "maria"}  # fmt: skip
    (command,) = native().received("plantbridge/gw1/commands", orjson.dumps(body)).commands
    assert (command.key, command.device, command.values) == ("a", "press_1", (("setpoint", 0.5),))
    assert (command.issued, command.expires) == (1795331700500 * 10**6, 1795162500100 * 10**6)
    assert command.by == "maria"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gateway": "gw2"}, "this is gw1"),
        ({"gateway": None}, "this is gw1"),
        ({"id": ""}, "'id' is empty"),
        ({"id": 7}, "'id' is missing"),
        ({"time": "2026-11-22T08:15:00"}, "'time' is not a time"),
        ({"time": 1e12}, "'time' is not a time"),
        ({"time": True}, "'time' is not a time"),
        ({"expires": "soon"}, "'expires' is not a time"),
        ({"expiry": 5}, "unknown key 'expiry'"),
        ({"values": {}}, "expected values"),
        ({"values": {"a": [1]}}, "is not a number"),
        ({"isolate": True}, "without values"),
        ({"device": 5}, "'device' is missing"),
    ],
)
def test_a_native_command_with_a_mistake_is_refused_with_it(change: dict[str, Any], reason: str) -> None:
    body = {"gateway": "gw1", "id": "a", "time": "2026-11-22T08:15:00Z", "device": "p", "values": {"s": 1}, **change}
    heard = native().received("plantbridge/gw1/commands", orjson.dumps(body))
    assert not heard.commands
    assert reason in heard.refused[0].reason
    assert bool(heard.send) == ("gw1" not in reason)  # what names another gateway is not answered


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"native"}))
def test_with_commands_off_no_topic_of_commands_is_listened_to(form: str) -> None:
    if form == "sparkplug":
        quiet: Any = EdgeNode(SparkplugOptions(group="G"), "gw1", TABLES, Forgetful())
        assert [each.filter for each in quiet.subscriptions()] == [
            "spBv1.0/G/NCMD/gw1"
        ]  # rebirth, which writes nothing
        return
    if form == "opcua-json":
        quiet = OpcuaJson(OpcuaJsonOptions(), "gw1", TABLES, Forgetful())
        assert quiet.subscriptions() == ()
        assert not [each.topic for each in quiet.begin() if "action" in each.topic]
        return
    makes = {"thingsboard": thingsboard, "huawei": huawei, "aliyun": aliyun, "tencent": tencent, "aws": aws}
    dialect = makes.get(form, azure)().dialect
    quiet = Cloud(dialect)
    asked = dialect.subscriptions()
    assert quiet.subscriptions() == tuple(each for each in asked if not each.commands)
    words = ("rpc", "set", "commands", "delta", "methods", "desired", "down/property")
    assert not [each.filter for each in quiet.subscriptions() if any(word in each.filter for word in words)]
