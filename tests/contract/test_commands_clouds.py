"""A command on its whole way: from a platform through the daemon into a device, and back in the platform's words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.sparkplug_objects import Payload
from gateway.audit import read, verify
from gateway.config import load_site
from gateway.dialects import SECOND
from gateway.model import Message
from gateway.mqtt import Arrived, Connection
from simulators.modbus import ModbusServer
from tests.contract.test_formats_clouds_app import CASES, SETTINGS, door, keys
from tests.fakes.front import Front
from tests.fakes.opcua_reader import Reader
from tests.in_process import daemon, listening, until
from tests.servers import Certificates, Mosquitto

__all__ = ["keys"]

SITE = """
gateway: gw01
data: ./data
commands: {{tag_interval: 10 ms, rate: 100}}
links:
  line:
    driver: modbus
    url: {device}
    devices:
      press_1:
        interval: 200 ms
        tags:
          setpoint:
            address: holding:10 float32
            writable: {{min: 0, max: 10}}
            simulate: {{signal: constant, low: 4, high: 4}}
  made-up: {{driver: replay, url: "replay:generated", devices: {{meter_1: {{interval: 1 s, tags: {{energy: counter int64}}}}}}}}
publish:
  cloud: {{url: "{url}", format: {form}, retry_first: 20 ms, {key}: {settings}, {tls}}}
journal: {{durability: process, commit_interval: 20 ms}}
metrics: {{listen: null}}
"""  # noqa: E501


@contextlib.asynccontextmanager
async def plant(directory: Path, **words: str) -> AsyncIterator[None]:
    path = directory / "site.yaml"
    words["key"] = words["form"].replace("-", "_")
    path.write_text(SITE.format(device="tcp://127.0.0.1:1", **words))
    async with ModbusServer(load_site(path).links[0]) as server:
        path.write_text(SITE.format(device=f"tcp://127.0.0.1:{await server.listen()}", **words))
        async with daemon(load_site(path)):
            yield
    assert verify(directory / "data" / "audit").broken is None


def outcomes(directory: Path) -> list[bool]:
    """Give what the audit log says of each command: whether it was refused."""
    return [entry["event"] == "refused" for entry in read(directory / "data" / "audit") if "values" in entry]


ORDERS: dict[str, Callable[[Any, float], tuple[str, bytes]]] = {
    "thingsboard": lambda p, value: p.rpc("press_1", round(value), "set", {"setpoint": value}),
    "huawei": lambda p, value: p.set(f"r{round(value)}", {"object_device_id": "press_1", "services": [
        {"service_id": "default", "properties": {"setpoint": value}}]}),
    "aliyun": lambda p, value: p.set("subPK/press_1_cn", f"{round(value)}", {"setpoint": value}),
    "tencent": lambda p, value: p.control("subPK/press_1_cn", f"t-{round(value)}", {"setpoint": value}),
    "aws": lambda p, value: p.wish({"press_1": {"setpoint": value}}, time.time_ns() + SECOND),
    "azure": lambda p, value: p.method("set", f"r{round(value)}", {
        "device": "press_1", "values": {"setpoint": value}}),
}  # fmt: skip
DONE: dict[str, Callable[[Any], bool]] = {
    "thingsboard": lambda said: said["data"]["success"] is True,
    "huawei": lambda said: said["result_code"] == 0,
    "aliyun": lambda said: said["code"] == 200,
    "tencent": lambda said: said["code"] == 0,
    "azure": lambda said: said[0] == 200 and said[1]["values"]["setpoint"]["after"] == 7.5,
}


@pytest.mark.parametrize("form", CASES)
async def test_a_platforms_command_is_carried_out_and_answered_in_its_own_words(
    form: str, tmp_path: Path, keys: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUAWEI_SECRET", "12345678abcdef")
    monkeypatch.setenv("METER_SECRET", "secret-meter_1")
    (tmp_path / "token").write_text("T0K3N\n")
    case = CASES[form]()
    platform, limits = case.platform, case.dialect.limits
    platform.window = 8 * SECOND // 10
    settings = SETTINGS[form].replace(", validity: 62 s", "")
    tls = f"tls: {{ca: {keys.ca}, certificate: {keys.client_certificate}, key: {keys.client_key}}}"
    with Mosquitto(tmp_path / "broker") as broker:
        async with Front(broker.url, platform, door(keys) if limits.tls else None) as front:
            front.will, front.keep_alive = limits.will, limits.keep_alive
            url = f"{'mqtts' if limits.tls else 'mqtt'}://127.0.0.1:{front.port}"
            if not limits.tls:
                tls = "commands: on"
            async with plant(tmp_path, url=url, form=form, settings=settings, tls=tls):
                seen = case.device("press_1"), case.property("default", "setpoint")
                await until(lambda: platform.readings.get(seen), f"nothing arrives: {front.broken}")
                front.say(ORDERS[form](platform, 7.5))
                await until(lambda: platform.readings[seen][-1][1] == 7.5, f"the device keeps its value {front.broken}")
                if form == "aws":
                    await until(lambda: platform.reported, "nothing is reported")
                    (became,) = platform.reported["plantbridge"]["values"]
                    assert (became["before"], became["after"], became["quality"]) == (4.0, 7.5, "Good")
                    await until(lambda: platform.desired == {}, "the wish stays")
                else:
                    await until(lambda: platform.replies, f"no answer {front.broken}")
                    assert DONE[form](platform.replies[-1][1])
                front.say(ORDERS[form](platform, 11.0))
                if form == "aws":
                    await until(lambda: len(outcomes(tmp_path)) > 1, "the second command is not in the log")
                    await until(lambda: platform.desired == {}, "the wish that was refused stays")
                    assert "from 0 to 10" in platform.reported["plantbridge"]["values"][0]["reason"]
                else:
                    await until(lambda: len(platform.replies) == 2, f"no refusal {front.broken}")
                    assert not DONE[form](platform.replies[-1][1])
                    assert b"from 0 to 10" in orjson.dumps(platform.replies[-1])
                assert {value for _, value in platform.readings[seen]} == {4.0, 7.5}
            assert front.broken == []
    assert outcomes(tmp_path)[-1]


async def test_a_sparkplug_hosts_command_is_carried_out_and_told_in_the_devices_data(tmp_path: Path) -> None:
    told: list[float] = []
    aliases: set[int] = set()

    def take(message: Arrived) -> None:
        if message.topic.split("/")[2] in ("DBIRTH", "DDATA"):
            for metric in Payload.FromString(message.payload).metrics:
                if metric.name == "setpoint":
                    aliases.add(metric.alias)
                if metric.alias in aliases and not metric.is_null:
                    told.append(metric.float_value)

    async def ask(host: Connection, value: float) -> None:
        asked = Payload(timestamp=time.time_ns() // 1_000_000)
        asked.metrics.add(name="setpoint", datatype=9).float_value = value
        await host.publish("spBv1.0/P/DCMD/gw01/press_1", asked.SerializeToString(), timeout=20)

    with Mosquitto(tmp_path / "broker") as broker:
        settings = {"form": "sparkplug", "settings": "{group: P}", "tls": "commands: on"}
        async with listening(broker, "spBv1.0/P/#", take) as host, plant(tmp_path, url=broker.url, **settings):
            await until(lambda: told and told[-1] == 4.0, "no data")
            await ask(host, 7.5)
            await until(lambda: told[-1] == 7.5, "the value is not told")
            await ask(host, 11.0)
            await until(lambda: len(outcomes(tmp_path)) > 1 and outcomes(tmp_path)[-1], "the refusal is not in the log")
            asked = Payload(timestamp=time.time_ns() // 1_000_000)
            asked.metrics.add(name="PlantBridge/Isolate", datatype=11).boolean_value = True
            await host.publish("spBv1.0/P/NCMD/gw01", asked.SerializeToString(), timeout=20)
            audit = tmp_path / "data" / "audit"
            await until(lambda: any(entry["event"] == "isolated" for entry in read(audit)), "no isolation")
            before = len(outcomes(tmp_path))
            await ask(host, 5.0)
            await until(lambda: len(outcomes(tmp_path)) > before, "the command after the isolation is not in the log")
            assert set(told) == {4.0, 7.5}


async def test_an_opc_ua_requestors_action_is_carried_out_and_answered(tmp_path: Path) -> None:
    """It knows what the broker keeps for it, and no more."""
    reader = Reader("opcua", "gw01", "data-value", "compact")

    def take(message: Arrived) -> None:
        if "/action-request/" not in message.topic:
            retain = not ("/data/" in message.topic or "/action-response/" in message.topic)
            reader.take([Message(message.topic, message.payload, 0, 0, 0, retain)])

    def now() -> str:
        return datetime.now(UTC).isoformat()

    with Mosquitto(tmp_path / "broker") as broker:
        words = {"form": "opcua-json", "settings": "{encoding: compact}", "tls": "commands: on"}
        async with listening(broker, "opcua/#", take) as host, plant(tmp_path, url=broker.url, **words):
            await until(lambda: any(key[2] == "setpoint" for key in reader.values), "no data")
            (data,) = (key for key in reader.values if key[2] == "setpoint")
            await until(lambda: len(reader.actions) == 2, "no action-metadata")
            await host.publish(*reader.request("press_1", "set", {"setpoint": 7.5}, 1, now()), timeout=20)
            await until(lambda: reader.responses, "no response")
            done = reader.responses[-1]
            assert (done.number, done.status, done.head["RequestorId"]) == (1, 0, "scada")
            assert (done.values["setpoint.before"], done.values["setpoint"]) == (4.0, 7.5)
            await until(lambda: reader.values[data][-1][0] == 7.5, "the value is not told")
            await host.publish(*reader.request("press_1", "set", {"setpoint": 11.0}, 2, now()), timeout=20)
            await until(lambda: len(reader.responses) == 2, "no refusal")
            assert "from 0 to 10" in reader.responses[-1].values["reason"]
            old = "2025-01-01T00:00:00Z"
            await host.publish(*reader.request("press_1", "set", {"setpoint": 1.0}, 3, old), timeout=20)
            await until(lambda: len(reader.responses) == 3, "no refusal of what is old")
            assert "s old" in reader.responses[-1].values["reason"]
            await host.publish(*reader.request("gateway", "isolate", {"reason": "drill"}, 4, now()), timeout=20)
            await until(lambda: len(reader.responses) == 4, "no isolation")
            await host.publish(*reader.request("press_1", "set", {"setpoint": 2.0}, 5, now()), timeout=20)
            await until(lambda: len(reader.responses) == 5, "no refusal after the isolation")
            assert "isolated" in reader.responses[-1].values["reason"]
            assert {value for value, _, _ in reader.values[data]} == {4.0, 7.5}
    assert outcomes(tmp_path) == [False, True, True, False, True], "set, too high, too old, isolated, isolated"
