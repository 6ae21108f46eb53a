"""The daemon, from a site file through a real broker to each cloud platform, with an outage in between.

A second publisher of the same daemon speaks `columns` to a broker that never goes away; what pyarrow reads there is the
truth that each platform's own store is compared with: every reading, with its value and time, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from gateway.config import load_site
from gateway.dialects import SECOND, Limits
from tests.fakes.front import Front
from tests.in_process import daemon, listening, until
from tests.servers import Certificates, Mosquitto, certificates
from tests.unit.test_format_clouds import KEY, aliyun, aws, azure, huawei, tencent, thingsboard

SITE = """
gateway: gw01
data: ./data
links:
  recorded:
    driver: replay
    url: replay:plant.csv
    speed: 1
    at_end: repeat
    devices:
      press_1:
        interval: {interval}
        tags: {{pressure: pressure float32, lamp: lamp bool, order: order text}}
  made-up:
    driver: replay
    url: replay:generated
    devices:
      meter_1:
        interval: {interval}
        tags: {{energy: counter int64, level: sine float64}}
publish:
  cloud:
    url: {scheme}://127.0.0.1:{port}
    format: {form}
    retry_first: 20 ms
    retry_longest: 200 ms
    {form}: {settings}
    {tls}
  truth: {{url: "{truth}", format: columns}}
journal: {{durability: process, commit_interval: 20 ms}}
metrics: {{listen: null}}
"""
PLANT = """time,series,value,quality
2026-11-01T08:00:00.000Z,pressure,4.25,Good
2026-11-01T08:00:00.000Z,lamp,true,Good
2026-11-01T08:00:00.000Z,order,压机 甲,Good
2026-11-01T08:00:00.500Z,pressure,,BadTimeout
2026-11-01T08:00:00.500Z,lamp,false,Good
2026-11-01T08:00:00.700Z,pressure,0.1,Good
2026-11-01T08:00:01.000Z,order,,BadTimeout
2026-11-01T08:00:01.300Z,order,A-2,Good
"""
DEVICES = (
    "{press_1: {product: subPK, name: press_1_cn, secret: secret-press_1},"
    " meter_1: {product: subPK, name: meter_1_cn, secret: '${env:METER_SECRET}'}}"
)
SETTINGS = {
    "thingsboard": "{token: '${file:token}'}",
    "huawei": "{device_id: PID01_gw001, secret: '${env:HUAWEI_SECRET}', devices: {meter_1: M-77}, service: '{group}'}",
    "aliyun": f"{{product: a1PK, name: gw01, secret: secret123, devices: {DEVICES}}}",
    "tencent": f"{{product: PRODUCT001, name: dev01, secret: '{KEY}', devices: {DEVICES}}}",
    "aws": "{thing: gw01}",
    "azure": f"{{hub: contoso.azure-devices.net, device_id: gw01, key: '{KEY}', validity: 62 s}}",
}
CASES: dict[str, Callable[[], Any]] = {
    "thingsboard": thingsboard, "huawei": huawei, "aliyun": lambda: aliyun(tls=False), "tencent": tencent,
    "aws": aws, "azure": azure,
}  # fmt: skip
Reading = tuple[str, str, str, int, Any]  # device, group, tag, ms, value


class Truth:
    """What a reader of the native format, made of pyarrow alone, gets."""

    def __init__(self) -> None:
        self.good: set[Reading] = set()
        self.bad = 0
        self._tables: dict[int, Any] = {}

    def take(self, topic: str, payload: bytes) -> None:
        if "/tables/" in topic:
            self._tables[int(topic.rpartition("/")[2])] = json.loads(payload)
        elif topic.endswith("/columns"):
            with pa.ipc.open_stream(zstandard.ZstdDecompressor().decompress(payload, 1 << 26)) as stream:
                batch = stream.read_all()
            records = json.loads(batch.schema.metadata[b"plantbridge"])["records"]
            whole = [row for _, _, count in records for row in range(count)]
            tags = batch["tag"].to_pylist() if "tag" in batch.column_names else whole
            tables = [self._tables[number] for _, number, count in records for _ in range(count)]
            times = batch["time"].cast(pa.int64()).to_pylist()
            columns = zip(tables, tags, batch["value"].to_pylist(), batch["quality"].to_pylist(), times, strict=True)
            for table, tag, value, quality, when in columns:
                self._row(table, table["tags"][tag], value, quality, when // 1_000_000)

    def _row(self, table: Any, tag: Any, value: Any, quality: int, ms: int) -> None:
        if quality:
            self.bad += 1
            return
        shortest = float(str(np.float32(value))) if tag["type"] == "float32" else value
        self.good.add((table["device"], table["group"], tag["name"], ms, shortest))


@contextlib.asynccontextmanager
async def true_readings(broker: Mosquitto) -> AsyncIterator[Truth]:
    truth = Truth()
    async with listening(broker, "plantbridge/#", lambda message: truth.take(message.topic, message.payload)):
        yield truth


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


def door(keys: Certificates) -> ssl.SSLContext:
    """TLS as AWS and Azure have it; AWS knows a gateway by its certificate only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.certificate, keys.key)
    context.load_verify_locations(keys.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextlib.asynccontextmanager
async def plant(form: str, front: Front, truth: str, directory: Path, keys: Certificates) -> AsyncIterator[None]:
    secure = form in ("aws", "azure")
    tls = f"tls: {{ca: {keys.ca}, certificate: {keys.client_certificate}, key: {keys.client_key}}}" if secure else ""
    text = SITE.format(
        scheme="mqtts" if secure else "mqtt",
        port=front.port,
        interval="100 ms" if form not in ("aliyun", "tencent") else "400 ms",
        form=form,
        settings=SETTINGS[form],
        tls=tls,
        truth=truth,
    )
    (directory / "plant.csv").write_text(PLANT)
    (directory / "token").write_text("T0K3N\n")
    (directory / "site.yaml").write_text(text)
    async with daemon(load_site(directory / "site.yaml")):
        yield


@pytest.mark.parametrize("form", CASES)
async def test_a_platform_gets_every_reading_once_its_own_way_also_those_of_an_outage(
    form: str, tmp_path: Path, keys: Certificates, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUAWEI_SECRET", "12345678abcdef")
    monkeypatch.setenv("METER_SECRET", "secret-meter_1")
    case = CASES[form]()
    limits: Limits = case.dialect.limits
    platform = case.platform
    tls = door(keys) if limits.tls else None
    with Mosquitto(tmp_path / "cloud") as cloud, Mosquitto(tmp_path / "here") as here:
        async with true_readings(here) as truth, Front(cloud.url, platform, tls) as front:
            front.will, front.keep_alive = limits.will, limits.keep_alive
            platform.window = 8 * SECOND // 10  # a loaded machine delivers late what left in time
            async with plant(form, front, here.url, tmp_path, keys):
                await until(lambda: platform.readings, f"nothing arrives: {front.broken}")
                await until(lambda: len(truth.good) > 30)
                front.cut()
                before, outage = len(truth.good), time.time_ns() // 1_000_000
                await until(lambda: len(truth.good) > before + 20, "the plant stands still")
                mended = time.time_ns() // 1_000_000
                await front.mend()
                await until(lambda: front.sessions > 1)
                if "validity" in SETTINGS[form]:
                    await until(lambda: front.sessions > 2, "the credentials are not renewed")
                await until(lambda: any(each[3] > mended for each in truth.good))
                assert truth.bad
                await until(lambda: seen_by(case, truth) <= stored(platform), "readings are missing")
            wanted = seen_by(case, truth)
            await until(lambda: wanted <= stored(platform), "readings of the end are missing")
            assert stored(platform) == wanted
            assert front.broken == []
            assert any(outage < ms < mended for *_, ms, _ in wanted)
    marked = {"aliyun": lambda: platform.history, "aws": lambda: late(platform), "azure": lambda: late(platform)}
    assert marked.get(form, lambda: True)()
    log = capfd.readouterr().err
    for secret in ("12345678abcdef", "secret-meter_1", "secret123", KEY, "T0K3N"):
        assert secret not in log


def seen_by(case: Any, truth: Truth) -> set[tuple[str, str, int, Any]]:
    """The truth in the platform's own names."""
    return {(case.device(d), case.property(g, t), ms, value) for d, g, t, ms, value in truth.good}


def stored(platform: Any) -> set[tuple[str, str, int, Any]]:
    """What the platform keeps of plain readings; ThingsBoard's qualities stand beside them."""
    found = platform.readings.items()
    return {(d, t, ms, value) for (d, t), rows in found if not t.endswith(".quality") for ms, value in rows}


def late(platform: Any) -> list[Any]:
    return [row for row in platform.rows if row.get("history")]
