"""Whatever is done to a site file, the answer is a Site or a ConfigError with places that exist."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import load_cloud, load_site
from gateway.config.kinds import check_file
from gateway.errors import ConfigError

SITE = """\
gateway: demo
data: ./data
include: [lines/*.yaml]
links:
  line: &line
    driver: modbus
    url: tcp://127.0.0.1:1502
    timeout: 1 s
    devices:
      press-1:
        unit_id: 1
        interval: 1 s
        deadband: 0.5
        max_silence: 1 min
        tags:
          pressure: holding:100 float32 CDAB
          temperature: {address: holding:102 int16, scale: 0.1, unit: °C, deadband: 2 %, min: -40, max: 200}
          mode: {address: holding:103, states: {0: off, 1: on}, writable: {min: 0, max: 1}, not_available: [65535]}
          serial: holding:200 text 16
        groups:
          fast: {interval: 100 ms, phase: 10 ms, tags: {force: "holding:120 float32[3]", running: coil:5}}
      press-2: {template: press, unit_id: 2, tags: {pressure: {deadband: 1}, extra: coil:9}}
  boilers:
    driver: opcua
    url: opc.tcp://127.0.0.1:4840
    devices:
      boiler: {namespace: urn:plant, tags: {steam: s=Steam float32, curve: "ns=2;s=Curve [0:3]"}}
  made-up:
    driver: replay
    url: replay:generated
    devices: {oven: {tags: {heat: sine}}}
publish:
  cloud: {url: mqtt://127.0.0.1:1883, format: json, topic: "a/{device}", window: 3, tls: {ca: ca.pem}}
journal: {durability: power, max_size: 64 MB}
metrics: {listen: 127.0.0.1:9464}
log: {level: info}
"""
TEMPLATE = "driver: modbus\nunit_id: 3\ntags: {pressure: holding:1 int16, parts: {address: holding:5 uint32}}\n"

NASTY = [
    "", " ", "\t", "\n", ":", ": ", "- ", ",", "{", "}", "[", "]", '"', "'", "#", "&a ", "*a", "*line", "!x ",
    "<<: *line",
    "|", ">", "%", "@", "`", "?", "? ", "---\n", "...", "null", "~", "true", "yes", "0", "-1", "1e999", ".nan", ".inf",
    "0x", "9" * 400, "1e9999999", "1/0", "${env:NO}", "${file:secret}", "${file:.}", "${file:\x01}", "${", "$",
    "：", "，", "\u00a0", "\u3000", "\ufeff", "\U0001f600", "\u0085", "\u2028", "\x07",
    "press-1", "line", "tags", "template: press",
    "address: holding:1", "{a: 1}", "[1, 2]", "interval: 1 s", "holding:1 text 300", "2 %", "999999999999 d", "0 s",
    "include: [.]", "include: ['**']", "include: ['../*', '[']", "template: .", "template: ../..", "driver: opcua",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "templates").mkdir()
    (folder / "templates" / "press.yaml").write_text(TEMPLATE)
    (folder / "secret").write_text("hunter2: swordfish\nsecond line: of it\n")
    (folder / "site.yaml").write_text(SITE)
    assert load_site(folder / "site.yaml").gateway == "demo"  # the seed is right, so that mutations matter
    return folder


def mutated(text: str, seed: int, count: int) -> str:
    """Cut, double, swap and insert at places of interest."""
    chance = random.Random(seed)
    for _ in range(count):
        at, to = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
        to = min(to, at + chance.choice((1, 5, 40)))
        lines = text.split("\n")
        line = chance.randrange(len(lines))
        match chance.randrange(7):
            case 0:
                text = text[:at] + chance.choice(NASTY) + text[at:]
            case 1:
                text = text[:at] + chance.choice(NASTY) + text[to:]
            case 2:
                text = text[:at] + text[to:]
            case 3:
                lines.insert(chance.randrange(len(lines)), lines[line])
                text = "\n".join(lines)
            case 4:
                lines[line] = " " * chance.randrange(9) + lines[line].strip()
                text = "\n".join(lines)
            case 5:
                del lines[line]
                text = "\n".join(lines)
            case _:
                key, colon, _ = lines[line].partition(":")
                lines[line] = key + colon + " " + chance.choice(NASTY)
                text = "\n".join(lines)
    return text


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6))
def test_a_mutated_site_file_is_either_loaded_or_refused_with_places(folder: Path, seed: int, count: int) -> None:
    """A traceback instead of a message leaves the integrator alone with it."""
    file = folder / "mutated.yaml"
    text = mutated(SITE, seed, count)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        load_site(file)
    for problem in check_file(file).problems:
        assert problem.reason
        assert "hunter2" not in str(problem)
        assert "swordfish" not in str(problem)
        assert "Input should" not in problem.reason, "pydantic's words are not a plant engineer's"
        lines = Path(problem.file).read_text(encoding="utf-8", errors="replace").split("\n")
        assert 1 <= problem.line <= len(lines) + 1
        assert problem.column >= 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_bytes_of_any_kind_are_refused_not_died_of(folder: Path, data: bytes) -> None:
    file = folder / "bytes.yaml"
    file.write_bytes(data)
    for load in (load_site, load_cloud):
        with pytest.raises(ConfigError):
            load(file)
