"""Each cloud dialect before a small fake of its platform, through the one encoder that serves them all."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import quality as q
from gateway.commands import Result
from gateway.config.selected import ONLY_3_1_1
from gateway.dialects import ENVELOPE, SECOND, Dialect, Section
from gateway.dialects.aliyun import Aliyun, sign
from gateway.dialects.aws import Aws
from gateway.dialects.azure import Azure, token
from gateway.dialects.dialogue import Dialogue
from gateway.dialects.huawei import Huawei, event_time
from gateway.dialects.tencent import Tencent, password
from gateway.dialects.thingsboard import Thingsboard
from gateway.encoders.cloud import Cloud
from gateway.model import Batch, Gap, Kind, Message, Tag, TagTable
from gateway.options import (
    AliyunOptions,
    AwsOptions,
    AzureOptions,
    DeviceIdentity,
    HuaweiOptions,
    TencentOptions,
    ThingsboardOptions,
)
from tests.fakes.aliyun import FakeAliyun
from tests.fakes.aws import FakeAws
from tests.fakes.azure import FakeAzure
from tests.fakes.cloud import Refuses, Session
from tests.fakes.huawei import FakeHuawei
from tests.fakes.tencent import FakeTencent
from tests.fakes.thingsboard import FakeThingsboard

START = 1_735_689_600 * SECOND
MS = START // 1_000_000
KEY = base64.b64encode(b"0123456789abcdef").decode()
DEVICES = ("press_1", "meter_1")


def tag(name: str, type_: str = "float64", kind: Kind = Kind.FLOAT) -> Tag:
    return Tag(name, "x", kind=kind, type=type_)


PRESS = TagTable("press_1", "main", Kind.FLOAT, (tag("pressure", "float32"), tag("speed", "uint16"), tag("setpoint")))
LAMPS = TagTable("press_1", "main", Kind.BOOL, (tag("lamp", "bool", Kind.BOOL),))
METER = TagTable("meter_1", "slow", Kind.INT, (tag("energy", "int64", Kind.INT),))
NAMES = TagTable("meter_1", "slow", Kind.TEXT, (tag("serial", "text", Kind.TEXT),))


@dataclass
class Case:
    """A dialect, its fake, and what the platform calls our devices and tags."""

    dialect: Dialect
    platform: Any
    device: Callable[[str], str] = lambda name: name
    property: Callable[[str, str], str] = lambda group, name: name
    presence: bool = True


def identities() -> dict[str, DeviceIdentity]:
    return {name: DeviceIdentity(product="subPK", name=f"{name}_cn", secret=f"secret-{name}") for name in DEVICES}


def thingsboard() -> Case:
    return Case(Thingsboard(ThingsboardOptions(token="T0K3N"), "gw01"), FakeThingsboard("T0K3N"))


def huawei(**more: Any) -> Case:
    options = HuaweiOptions(device_id="PID01_gw001", secret="12345678abcdef", devices={"meter_1": "M-77"}, **more)
    return Case(
        Huawei(options),
        FakeHuawei("PID01_gw001", "12345678abcdef", options.check_time),
        lambda name: "M-77" if name == "meter_1" else name,
        lambda group, name: f"{group}.{name}",
    )


def aliyun(tls: bool = True) -> Case:
    options = AliyunOptions(product="a1PK", name="gw01", secret="secret123", devices=identities())
    secrets = {f"subPK/{name}_cn": f"secret-{name}" for name in DEVICES}
    platform = FakeAliyun("a1PK", "gw01", "secret123", secrets)
    platform.floats = {"pressure", "setpoint"}
    return Case(Aliyun(options, tls), platform, lambda name: f"subPK/{name}_cn")


def tencent(**more: Any) -> Case:
    options = TencentOptions(product="PRODUCT001", name="dev01", secret=KEY, devices=identities(), **more)
    platform = FakeTencent("PRODUCT001", "dev01", KEY, [f"subPK/{name}_cn" for name in DEVICES])
    return Case(Tencent(options), platform, lambda name: f"subPK/{name}_cn")


def aws(**more: Any) -> Case:
    return Case(Aws(AwsOptions(thing="gw01", **more)), FakeAws("gw01", more.get("rule")), presence=False)


def azure(**more: Any) -> Case:
    options = AzureOptions(hub="contoso.azure-devices.net", device_id="gw01", key=KEY, **more)
    return Case(Azure(options), FakeAzure(options.hub, "gw01", KEY), presence=False)


CASES = {
    "thingsboard": thingsboard, "huawei": huawei, "aliyun": aliyun, "tencent": tencent, "aws": aws, "azure": azure,
}  # fmt: skip
each = pytest.mark.parametrize("name", CASES)


def session(case: Case, **settings: Any) -> Session:
    clock = [START]
    return Session(Cloud(case.dialect, clock=lambda: clock[0], **settings), case.platform, clock)


def scan(table: TagTable, *values: Any, time: int = START) -> Batch:
    return Batch.full(table, np.array(values, dtype=table.kind.dtype), time)


# ------------------------------------------------------------------------------------------------ all of them


@each
def test_every_reading_arrives_with_its_value_and_time(name: str) -> None:
    case = CASES[name]()
    here = session(case)
    here.connect()
    messages = here.send(
        scan(PRESS, np.float32(0.1), 1500, 10.0),
        scan(LAMPS, True),
        scan(METER, 2**53 + 1),
        scan(NAMES, "压机 \"A\""),
        scan(PRESS, 0.5, 1501, -1e-7, time=START + SECOND),
    )  # fmt: skip
    stored = case.platform.readings
    press, meter = case.device("press_1"), case.device("meter_1")
    assert stored[press, case.property("main", "pressure")] == [(MS, 0.1), (MS + 1000, 0.5)]
    assert stored[press, case.property("main", "speed")] == [(MS, 1500), (MS + 1000, 1501)]
    assert stored[press, case.property("main", "setpoint")] == [(MS, 10.0), (MS + 1000, -1e-7)]
    assert stored[press, case.property("main", "lamp")] == [(MS, True)]
    assert stored[meter, case.property("slow", "energy")] == [(MS, 2**53 + 1)]
    assert stored[meter, case.property("slow", "serial")] == [(MS, '压机 "A"')]
    assert sum(message.readings for message in messages) == 9
    assert here.troubles == here.refused == []
    assert isinstance(here.cloud, Dialogue)


@each
def test_a_backlog_arrives_with_its_own_times(name: str) -> None:
    """History that bore the time of its delivery would be worse than none."""
    case = CASES[name]()
    here = session(case)
    here.connect(upto=50)
    backlog = [scan(METER, value, time=START - (50 - value) * 60 * SECOND) for value in range(50)]
    here.send(*backlog)
    here.send(scan(METER, 99), first=51)
    found = case.platform.readings[case.device("meter_1"), case.property("slow", "energy")]
    assert found == [*((MS - (50 - value) * 60_000, value) for value in range(50)), (MS, 99)]


@each
def test_a_tag_that_occurs_twice_in_a_millisecond_arrives_twice(name: str) -> None:
    case = CASES[name]()
    here = session(case)
    here.connect()
    twice = Batch(
        PRESS, np.array([0, 1, 0], np.uint32), np.array([1.0, 2.0, 3.0]), np.zeros(3, np.uint32),
        np.array([START, START, START + 10]),
    )  # fmt: skip
    here.send(twice)
    found = case.platform.readings[case.device("press_1"), case.property("main", "pressure")]
    assert found == [(MS, 1.0), (MS, 3.0)]


@each
def test_a_bad_reading_never_shows_as_a_value(name: str) -> None:
    case = CASES[name]()
    here = session(case)
    here.connect()
    batch = scan(PRESS, 7.0, 8, 9.0)
    batch.quality = np.array([q.BAD_TIMEOUT, 0, q.UNCERTAIN], dtype=np.uint32)
    here.send(batch)
    stored = case.platform.readings
    press = case.device("press_1")
    assert (press, case.property("main", "pressure")) not in stored
    assert stored[press, case.property("main", "setpoint")] == [(MS, 9.0)]
    assert (here.cloud.passed_over == 0) is case.dialect.quality


@each
def test_a_lost_device_goes_and_comes_back_with_its_next_reading(name: str) -> None:
    case = CASES[name]()
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1), scan(METER, 1)], upto=2)
    here.send(*[Batch.bad(table, q.BAD_NOT_CONNECTED, START) for table in (METER,)], first=3)
    meter = case.device("meter_1")
    if case.presence:
        assert case.platform.online == {case.device("press_1"): True, meter: False}
        assert here.send(Batch.bad(METER, q.BAD_NOT_CONNECTED, START + 1), first=4) == []
    here.send(scan(METER, 7, time=START + SECOND), first=5)
    assert case.platform.readings[meter, case.property("slow", "energy")] == [(MS + 1000, 7)]
    if case.presence:
        assert case.platform.online[meter]
        here.publish(here.cloud.end())
        assert not any(case.platform.online.values())


@each
def test_a_lost_device_is_online_for_its_backlog_and_goes_again(name: str) -> None:
    case = CASES[name]()
    here = session(case)
    lost = Batch.bad(METER, q.BAD_NOT_CONNECTED, START)
    here.connect([lost], upto=2)
    assert not case.platform.online
    here.send(scan(METER, 7, time=START - SECOND), lost)
    assert case.platform.readings[case.device("meter_1"), case.property("slow", "energy")] == [(MS - 1000, 7)]
    here.clock[0] += 6 * SECOND
    here.tick()
    assert not any(case.platform.online.values())


@each
def test_ten_thousand_tags_stay_within_the_limits(name: str) -> None:
    """The fake counts bytes, readings, sub-devices and messages a second."""
    case = CASES[name]()
    here = session(case)
    here.connect()
    kinds = ("float32", "uint16", "float64")
    table = TagTable("press_1", "main", Kind.FLOAT, tuple(tag(f"tag_{i:05}", kinds[i % 3]) for i in range(10_000)))
    values = np.random.default_rng(1).normal(200, 20, 10_000).round()
    times = START + (np.arange(10_000) // 100) * 1_000_000  # 100 requests, one after the other
    here.send(Batch(table, table.every, values, np.zeros(10_000, np.uint32), times))
    found = {key: stored for key, stored in case.platform.readings.items() if "tag_" in key[1]}
    assert len(found) == 10_000
    index = 7777
    assert found[case.device("press_1"), case.property("main", f"tag_{index:05}")] == [
        (MS + index // 100, values[index])
    ]


@each
def test_faster_than_the_platform_allows_is_refused_by_the_fake(name: str) -> None:
    """The fakes must be strict for the tests above to mean anything."""
    case = CASES[name]()
    here = session(case)
    here.connect()
    topic = here.send(scan(PRESS, 1, 1, 1))[0].topic
    with pytest.raises(Refuses):
        here.platform.publish(Message(topic, b"x" * 300_000, 0, 0, 0), here.clock[0])
    with pytest.raises(Refuses):
        here.platform.publish(Message(topic, b"[]", 0, 0, 0), here.clock[0], qos=2)
    if not here.platform.retain:
        with pytest.raises(Refuses):
            here.platform.publish(Message(topic, b"[]", 0, 0, 0, retain=True), here.clock[0])
    for _ in range(here.platform.most_messages):
        here.clock[0] += 1
        with contextlib.suppress(Refuses):
            here.platform.count(here.clock[0])
    if here.platform.most_messages:
        with pytest.raises(Refuses, match="too many"):
            here.platform.count(here.clock[0])


@each
def test_a_wrong_secret_is_refused_by_the_fake(name: str) -> None:
    case = CASES[name]()
    platform = case.platform
    for field in ("_token", "_secret", "_key", "_thing"):
        if hasattr(platform, field):
            setattr(platform, field, base64.b64encode(b"another").decode())
    with pytest.raises(Refuses):
        session(case).connect()


@each
def test_declared_limits_are_those_the_fake_enforces(name: str) -> None:
    case = CASES[name]()
    limits, platform = case.dialect.limits, case.platform
    assert limits.payload == platform.most_bytes
    assert (limits.messages == platform.most_messages) or not platform.most_messages
    assert limits.qos <= platform.most_qos
    assert limits.retain <= (platform.retain or name == "thingsboard")


@each
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_room_is_never_less_than_what_a_section_takes(name: str, data: st.DataObject) -> None:
    """Messages are filled by `room`; one that is too small makes a message that the platform cuts off."""
    dialect = CASES[name]().dialect
    count = data.draw(st.integers(1, 30))
    names = [b',"t%d":' % index for index in range(count)]
    values = [str(data.draw(st.floats(allow_nan=False, allow_infinity=False))).encode() for _ in range(count)]
    statuses = data.draw(st.lists(st.sampled_from([0, q.BAD_TIMEOUT, 0x80AB0000, q.UNCERTAIN_LAST_USABLE_VALUE]),
                                  min_size=count, max_size=count)) if dialect.quality else []  # fmt: skip
    size = sum(map(len, names)) + sum(map(len, values))
    section = Section("press_1", "main", MS, names, values, statuses, data.draw(st.booleans()), size)
    for sections in ([section], [section, section]):
        _, payload = dialect.report(sections, START)
        assert len(payload) <= sum(map(dialect.room, sections)) + ENVELOPE
        if name != "tencent" or len(sections) == 1:
            orjson.loads(payload)


@each
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_incoming_bytes_move_the_dialect(name: str, data: st.DataObject) -> None:
    """What the network sends is a command, a refusal or a trouble; never an exception in the daemon."""
    case = CASES[name]()
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1)], upto=1)
    topics = [each.filter.replace("#", "x").replace("+", "x") for each in here.cloud.subscriptions()]
    topics += here.platform.subscribed
    content = data.draw(
        st.one_of(st.binary(max_size=60), st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                st.sampled_from(["params", "data", "device", "id", "state", "services", "paras", "payload", "devices",
                                 "code", "values", "method", "properties", "timestamp", "type", "result"]),
                inner, max_size=4),
            max_leaves=12,
        ).map(lambda value: orjson.dumps(value) if _fits(value) else b"{}"))
    )  # fmt: skip
    heard = here.cloud.received(data.draw(st.sampled_from([*topics, "elsewhere"])), content)
    for command in heard.commands:
        assert command.values


def _fits(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def test_devices_and_names_that_the_platform_does_not_have_are_said_once_and_passed_over() -> None:
    case = aliyun()
    here = session(case)
    here.connect()
    stranger = TagTable("sold", "g", Kind.FLOAT, (tag("x"),))
    odd = TagTable("press_1", "g", Kind.FLOAT, (tag("fine"), tag("压力"), tag("9lives")))
    here.send(scan(stranger, 1.0), scan(odd, 1.0, 2.0, 3.0), scan(stranger, 1.0), scan(odd, 1.0, 2.0, 3.0))
    assert here.cloud.passed_over == 6
    here.tick()
    assert [trouble.split(" ")[0].rstrip(":") for trouble in here.troubles] == [
        "sold", "press_1/压力", "press_1/9lives"
    ]  # fmt: skip
    here.tick()
    assert len(here.troubles) == 3


# ------------------------------------------------------------------------------------------------ signatures


def test_alibabas_own_example_signs_as_printed() -> None:
    fields = {"clientId": "12345", "deviceName": "device", "productKey": "pk", "timestamp": "789"}
    assert sign("secret", fields, "sha1") == "fafd82a3d602b37fb0fa8b7892f24a477f851a14"
    tutorial = {
        "clientId": "SN1928339", "deviceName": "light1983432", "productKey": "a14Xib5kdYd",
        "timestamp": "1539421321846",
    }  # fmt: skip
    assert sign("oLyaKqVxtRvjH284LdhqVgVUx1UPy6zq", tutorial, "sha1") == "b2488041f64f425016b467ee1c94959ebd592ad1"
    own = {"clientId": "gw01", "deviceName": "gw01", "productKey": "a1ABCDEFGHI", "timestamp": "1700000000000"}
    assert sign("secret123", own) == "7f08132ca75cbe3b120cba5000a0ab50ac3700129a7f802e53ed432fdfe31a9f"


def test_huaweis_hour_signs_as_its_sdk_does() -> None:
    credentials = huawei().dialect.credentials(START)
    assert credentials is not None
    assert credentials.client_id == "PID01_gw001_0_0_2025010100"
    assert credentials.password == "a0d4a059ef631d9d30f9dbdef81a6d8f5ce96568d13f95b68bef2c9d3b227dd0"
    assert "password" not in repr(credentials)


def test_tencents_user_name_signs_with_the_decoded_key() -> None:
    signed = password("MDEyMzQ1Njc4OWFiY2RlZg==", "PRODUCT001dev01;21010406;abcde;1700000000")
    assert signed == "a2cb8fc30d18949254418d6486726087f696624f824d6af7c814b0db0c4fdbe8;hmacsha256"


def test_azures_token_is_url_encoded_where_it_must_be() -> None:
    key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    assert token(key, "contoso.azure-devices.net/devices/dev01", 1_700_003_600) == (
        "SharedAccessSignature sr=contoso.azure-devices.net%2Fdevices%2Fdev01"
        "&sig=ZC9SuMoAlKXvFQMzPHu3o7OsSJOWRq7MITy8wE5Ycxw%3D&se=1700003600"
    )


def test_a_secret_that_is_not_base64_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="not base64"):
        Tencent(TencentOptions(product="p", name="n", secret="not base64!"))
    with pytest.raises(ValueError, match="not base64"):
        Azure(AzureOptions(hub="h", device_id="d", key="not base64!"))


@pytest.mark.parametrize("make", [tencent, azure])
def test_a_session_is_given_up_before_its_credentials_expire(make: Callable[..., Case]) -> None:
    """A hub drops the connection at the second of expiry; leaving before loses nothing and says why."""
    case = make(validity="10 min")
    here = session(case)
    here.connect()
    here.clock[0] = START + 8 * 60 * SECOND
    here.tick()
    assert here.leave == ""
    here.clock[0] = START + 9 * 60 * SECOND + 1
    here.tick()
    assert here.leave == "the credentials of this session expire"
    here.leave = ""
    here.connect()
    here.tick()
    assert here.leave == ""


def test_a_gateway_with_a_wrong_clock_may_still_sign_in() -> None:
    """Type 0 signatures are not compared with the platform's hour; type 1 are, when asked for."""
    for check_time in (False, True):
        case = huawei(check_time=check_time)
        clock = [START + 86400 * SECOND]
        cloud = Cloud(case.dialect, clock=lambda now=clock: now[0])  # type: ignore[misc]
        credentials = cloud.credentials()
        if check_time:
            with pytest.raises(Refuses, match="hour"):
                case.platform.connect(credentials, START)
        else:
            case.platform.connect(credentials, START)


def test_a_certificate_needs_no_token() -> None:
    dialect = Azure(AzureOptions(hub="h.azure-devices.net", device_id="d"))
    credentials = dialect.credentials(START)
    assert credentials is not None
    assert (credentials.username, credentials.password) == ("h.azure-devices.net/d/?api-version=2021-04-12", None)


def test_without_a_token_the_publishers_own_user_name_counts() -> None:
    assert Thingsboard(ThingsboardOptions(), "gw01").credentials(START) is None


# ------------------------------------------------------------------------------------------------ logins


@pytest.mark.parametrize("make", [aliyun, tencent])
def test_readings_wait_until_the_platform_answered_the_login(make: Callable[..., Case]) -> None:
    case = make()
    case.platform.silent = True
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1)], upto=1)
    assert not here.cloud.ready
    here.clock[0] += 5 * SECOND
    here.tick()
    assert here.leave == ""
    here.clock[0] += 6 * SECOND
    here.tick()
    assert "does not" in here.leave
    case.platform.silent = False
    here.connect([scan(PRESS, 1, 1, 1)], upto=1)
    assert here.cloud.ready


def test_a_device_that_may_not_log_in_does_not_keep_the_others_out() -> None:
    case = aliyun()
    case.platform._devices = {"subPK/press_1_cn": "secret-press_1"}
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1), scan(METER, 1)], upto=2)
    assert here.cloud.ready
    assert here.troubles == ["meter_1 may not log in on Alibaba's platform: code 6100 device not found"]
    here.send(scan(PRESS, 2, 2, 2), scan(METER, 2), first=3)
    assert list(case.platform.online) == ["subPK/press_1_cn"]
    assert here.cloud.passed_over == 1


def test_a_device_that_tencent_does_not_know_does_not_keep_the_others_out() -> None:
    case = tencent()
    case.platform._devices = ["subPK/press_1_cn"]
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1), scan(METER, 1)], upto=2)
    assert here.cloud.ready
    assert here.troubles == ["meter_1 may not come online on Tencent's platform: result -1"]


def test_a_report_that_the_platform_refuses_is_said() -> None:
    here = session(tencent())
    here.connect([scan(PRESS, 1, 1, 1)], upto=1)
    body = {"method": "report_reply", "clientToken": "r-1", "code": 429, "status": "Fail, reach max limit"}
    heard = here.hear("$thing/down/property/subPK/press_1_cn", orjson.dumps(body))
    assert heard.troubles == ("Tencent's platform refused readings of press_1: code 429 Fail, reach max limit",)
    other = session(aliyun())
    other.connect()
    reply = orjson.dumps({"id": "1", "code": 6207, "message": "parse error"})
    heard = other.hear("/sys/a1PK/gw01/thing/event/property/pack/post_reply", reply)
    assert heard.troubles == ("Alibaba's platform refused readings: code 6207 parse error",)


def test_without_tls_alibabas_client_id_says_so() -> None:
    credentials = aliyun(tls=False).dialect.credentials(START)
    assert credentials is not None
    assert "securemode=3" in credentials.client_id


# ------------------------------------------------------------------------------------------------ forms


def test_doubtful_readings_say_why_where_there_is_room_for_it() -> None:
    batch = scan(PRESS, 7.0, 8, 9.0)
    batch.quality = np.array([q.BAD_TIMEOUT, 0, q.UNCERTAIN], dtype=np.uint32)
    case = thingsboard()
    here = session(case)
    here.connect()
    here.send(batch)
    assert case.platform.readings["press_1", "pressure.quality"] == [(MS, "BadTimeout")]
    assert case.platform.readings["press_1", "setpoint.quality"] == [(MS, "Uncertain")]
    free = aws()
    there = session(free)
    there.connect()
    there.send(batch)
    assert free.platform.rows[0]["quality"] == {"pressure": "BadTimeout", "setpoint": "Uncertain"}


def test_a_backlog_is_marked_or_takes_its_own_way() -> None:
    case = aliyun()
    here = session(case)
    here.connect(upto=1)
    here.send(scan(METER, 1, time=START - SECOND))
    here.send(scan(METER, 2), first=2)
    assert case.platform.history == ["subPK/meter_1_cn"]
    free = azure()
    there = session(free)
    there.connect(upto=1)
    there.send(scan(METER, 1, time=START - SECOND))
    there.send(scan(METER, 2), first=2)
    assert [row.get("history") for row in free.platform.rows] == [True, None]


def test_a_gap_is_told_where_the_platform_has_a_place_for_it() -> None:
    gap = Gap("press_1", "main", START, START + SECOND, "the disk was full", 12)
    told = {}
    for name, make in CASES.items():
        case = make()
        here = session(case)
        here.connect()
        messages = here.send(gap)
        told[name] = len(messages)
        if name == "thingsboard":
            assert case.platform.gaps[0]["reason"] == "the disk was full"
        if name in ("aws", "azure"):
            assert case.platform.rows[0]["gap"]["readings"] == 12
    assert told == {"thingsboard": 1, "huawei": 0, "aliyun": 0, "tencent": 0, "aws": 1, "azure": 1}


def test_huaweis_time_has_the_one_form_that_is_not_silently_replaced() -> None:
    assert event_time(1_735_689_600_007) == "2025-01-01T00:00:00.007Z"


def test_a_topic_that_aws_does_not_take_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="7 slashes"):
        Aws(AwsOptions(thing="gw01", topic="a/b/c/d/e/f/g/h/{device}"))
    with pytest.raises(ValueError, match="must not contain"):
        Aws(AwsOptions(thing="gw01", topic="a/+/{device}"))
    case = aws(rule="plant")
    here = session(case)
    here.connect()
    assert here.send(scan(METER, 1))[0].topic == "$aws/rules/plant/plantbridge/gw01/meter_1"


# ------------------------------------------------------------------------------------------------ commands


GOOD = Result(5.0, 7.5, q.GOOD, "")
LATE = Result(5.0, None, q.BAD_TIMEOUT, "the device is silent")
WISH = {"setpoint": 7.5, "lamp": True}
VALUES = (("setpoint", 7.5), ("lamp", True))


def commanded(name: str) -> tuple[Session, Any]:
    case = CASES[name]()
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1)], upto=1)
    platform = case.platform
    incoming = {
        "thingsboard": lambda: platform.rpc("press_1", 7, "set", WISH),
        "huawei": lambda: platform.set("9f2", {"object_device_id": "press_1", "services": [
            {"service_id": "main", "properties": WISH}]}),
        "aliyun": lambda: platform.set("subPK/press_1_cn", "77", WISH),
        "tencent": lambda: platform.control("subPK/press_1_cn", "t-1", WISH),
        "aws": lambda: platform.wish({"press_1": WISH}, START),
        "azure": lambda: platform.method("set", "r1", {"device": "press_1", "values": WISH}),
    }[name]()  # fmt: skip
    here.hear(*incoming)
    return here, case.platform


@each
def test_check_knows_which_platforms_speak_no_mqtt_5(name: str) -> None:
    assert (name in ONLY_3_1_1) == ("5" not in CASES[name]().dialect.limits.versions)


@each
def test_a_command_is_read_and_answered_in_the_platforms_own_form(name: str) -> None:
    here, platform = commanded(name)
    (command,) = here.commands
    assert (command.device, command.values) == ("press_1", VALUES)
    assert command.key
    here.publish(here.cloud.answer(command, [GOOD, Result(False, True, q.GOOD, "")]))
    if name == "aws":
        became = [(each["tag"], each["before"], each["after"]) for each in platform.reported["plantbridge"]["values"]]
        assert became == [("setpoint", 5.0, 7.5), ("lamp", False, True)]
        assert platform.desired == {}
        here.hear(*platform.wish({"press_1": WISH}, START))  # changed at the machine, and wished for again
        assert len(here.commands) == 2
        assert command.issued == START
        return
    ((_, said),) = platform.replies
    wanted = {
        "thingsboard": lambda: said["data"]["success"] is True and said["id"] == 7,
        "huawei": lambda: said == {"result_code": 0, "result_desc": "success"},
        "aliyun": lambda: said == {"id": "77", "code": 200, "data": {}},
        "tencent": lambda: said["code"] == 0 and said["clientToken"] == "t-1",
        "azure": lambda: said[0] == 200 and said[1]["values"]["setpoint"]["after"] == 7.5,
    }
    assert wanted[name]()


@each
def test_a_command_that_failed_says_which_value_and_why(name: str) -> None:
    here, platform = commanded(name)
    (command,) = here.commands
    here.publish(here.cloud.answer(command, [GOOD, LATE]))
    if name == "aws":
        assert platform.reported["plantbridge"]["values"][1]["reason"] == "the device is silent"
        assert platform.desired == {}
        return
    ((_, said),) = platform.replies
    assert b"lamp: the device is silent" in orjson.dumps(said)
    assert b"setpoint: " not in orjson.dumps(said)


def test_huaweis_commands_name_tags_in_their_parameters() -> None:
    case = huawei()
    here = session(case)
    here.connect()
    body = {"object_device_id": "M-77", "service_id": "s", "command_name": "SET", "paras": {"setpoint": 3}}
    here.hear(*case.platform.set("c1", body, "commands"))
    (command,) = here.commands
    assert (command.device, command.values) == ("meter_1", (("setpoint", 3),))
    here.publish(here.cloud.answer(command, [GOOD]))
    ((request, said),) = case.platform.replies
    assert (request, said["result_code"], said["response_name"]) == ("c1", 0, "SET")


@pytest.mark.parametrize("name", ["aliyun", "tencent"])
def test_services_and_actions_are_answered_with_what_became_of_each_value(name: str) -> None:
    here, platform = commanded(name)
    who = "subPK/press_1_cn"
    ask = {
        "aliyun": lambda what, params: platform.call(who, "78", {"set": "write"}.get(what, what), params),
        "tencent": lambda what, params: platform.act(who, "t-2", what, params),
    }[name]
    here.hear(*ask("set", WISH))
    command = here.commands[-1]
    assert (command.device, command.values) == ("press_1", VALUES)
    assert command.key != here.commands[0].key
    here.publish(here.cloud.answer(command, [GOOD, LATE]))
    (_, said) = platform.replies[-1]
    assert said["code"] == {"aliyun": 400, "tencent": 1}[name]
    results = orjson.loads(said["data" if name == "aliyun" else "response"]["results"])
    assert (results["setpoint"]["before"], results["setpoint"]["after"]) == (5.0, 7.5)
    assert results["lamp"] == {"before": 5.0, "after": None, "quality": "BadTimeout", "reason": "the device is silent"}
    here.hear(*ask("isolate", {}))
    assert here.commands[-1].isolate
    here.publish(here.cloud.answer(here.commands[-1], []))
    assert platform.replies[-1][1]["code"] == {"aliyun": 200, "tencent": 0}[name]
    here.hear(*ask("set", []))
    assert platform.replies[-1][1]["code"] == {"aliyun": 400, "tencent": 1}[name]
    assert len(here.commands) == 3


def test_a_shadow_can_ask_for_isolation_again_and_again_and_not_for_its_end() -> None:
    case = aws()
    here = session(case)
    here.connect()
    for _ in range(2):
        here.hear(*case.platform.wish({"isolate": True}, START))
        assert here.commands[-1].isolate
        here.publish(here.cloud.answer(here.commands[-1], []))
        assert case.platform.desired == {}
        assert case.platform.reported["plantbridge"]["isolated"] is True
    here.hear(*case.platform.wish({"isolate": False, "press_1": WISH}, START))
    assert len(here.commands) == 3
    assert "off at the gateway only" in here.refused[0]
    here.publish(here.cloud.answer(here.commands[-1], [GOOD, GOOD]))
    assert case.platform.desired == {}
    assert "isolated" not in case.platform.reported["plantbridge"]


def test_a_wish_from_before_an_outage_does_not_become_new_with_the_next_one() -> None:
    """The delta has both, and bears the time of the second."""
    case = aws()
    here = session(case)
    here.connect()
    case.platform.wish({"press_1": {"setpoint": 7.5}}, START - 3600 * SECOND)
    here.hear(*case.platform.wish({"press_1": {"lamp": True}}, START))
    asked = {(each.issued, each.device, each.values) for each in here.commands}
    assert asked == {
        (START - 3600 * SECOND, "press_1", (("setpoint", 7.5),)), (START, "press_1", (("lamp", True),)),
    }  # fmt: skip
    assert len({each.key for each in here.commands}) == 2


def test_azures_wishes_are_reported_as_plug_and_play_does() -> None:
    case = azure()
    here = session(case)
    here.connect()
    here.hear(*case.platform.wish({"press_1": {"setpoint": 7.5}, "meter_1": None}, 4))
    (command,) = here.commands
    assert (command.key, command.device) == ("twin/4/press_1", "press_1")
    here.publish(here.cloud.answer(command, [GOOD]))
    assert case.platform.reported == {"press_1": {"setpoint": {"value": 7.5, "ac": 200, "av": 4, "ad": ""}}}
    assert here.hear("$iothub/twin/res/429/?$rid=9", b"").troubles == ("the twin refused a report: 429",)


@pytest.mark.parametrize(
    ("name", "incoming", "reason"),
    [
        ("thingsboard", lambda p: p.rpc("press_1", 1, "reboot", {}), "there is no method 'reboot', only set"),
        ("thingsboard", lambda p: p.rpc("press_1", 1, "set", []), "expected values by tag name"),
        ("thingsboard", lambda p: p.rpc("press_1", 1, "set", {"a": [1]}), "the value of 'a' is not a number"),
        ("thingsboard", lambda p: ("v1/gateway/rpc", b"{"), "the payload is not JSON"),
        ("thingsboard", lambda p: ("v1/gateway/rpc", b"[]"), "the payload is not a JSON object"),
        ("huawei", lambda p: p.set("1", {"object_device_id": "PID01_gw001", "services": []}), "there is no sub-device"),
        ("huawei", lambda p: p.set("1", {"object_device_id": "x", "services": 5}), "'services' is missing"),
        ("huawei", lambda p: p.set("1", {"object_device_id": "x", "services": [5]}), "a service is not an object"),
        ("aliyun", lambda p: p.set("subPK/sold", "1", {"a": 1}), "there is no sub-device 'subPK/sold'"),
        ("aliyun", lambda p: p.set("subPK/press_1_cn", "1", None), "'params' is missing or not an object"),
        ("tencent", lambda p: p.control("subPK/press_1_cn", "t", {}), "expected values by tag name"),
        ("tencent", lambda p: p.control("subPK/sold", "t", {"a": 1}), "nothing is expected on this topic"),
        ("tencent", lambda p: p.act("subPK/press_1_cn", "t", "reboot", {}), "there is no action 'reboot', only set"),
        ("aliyun", lambda p: p.call("subPK/press_1_cn", "1", "reboot", {}), "nothing is expected on this topic"),
        ("aws", lambda p: p.wish({"press_1": 5}, START), "expected values by tag name"),
        ("aws", lambda p: ("$aws/things/gw01/shadow/update/delta", b"{}"), "'state' is missing or not an object"),
        ("azure", lambda p: p.method("reboot", "1", {}), "there is no method 'reboot', only set"),
        ("azure", lambda p: p.method("set", "1", {"values": {}}), "'device' is missing or not a text"),
        ("azure", lambda p: p.wish({"press_1": 5}, 1), "expected values by tag name"),
    ],
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_refused_with_its_reason(
    name: str, incoming: Callable[[Any], tuple[str, bytes]], reason: str
) -> None:
    case = CASES[name]()
    here = session(case)
    here.connect([scan(PRESS, 1, 1, 1)], upto=1)
    if name == "aliyun":
        case.platform.online["subPK/sold"] = True
    here.hear(*incoming(case.platform))
    assert here.commands == []
    assert here.refused[0].startswith(reason)


def test_a_repetition_has_the_same_key_and_another_command_has_not() -> None:
    for name in CASES:
        here, platform = commanded(name)
        first = here.commands[0].key
        if name == "thingsboard":
            here.hear(*platform.rpc("press_1", 7, "set", WISH))
            here.hear(*platform.rpc("press_1", 7, "set", {"setpoint": 8}))
            assert here.commands[1].key == first
            assert here.commands[2].key != first
        if name == "aliyun":
            here.hear(*platform.set("subPK/press_1_cn", "78", WISH))
            assert here.commands[1].key != first
