"""Recordings in the place of signals: what was recorded is what registers and nodes say, with timing and trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import ua

from gateway import quality as q
from gateway.cli.simulate import simulate
from gateway.config import Site, load_site
from gateway.model import Batch, TagTable
from gateway.trace import Trace, Writer, load
from simulators import opcua_space
from simulators.modbus import ModbusServer
from simulators.opcua import OpcuaServer
from simulators.playing import SILENCE, Playing
from simulators.signals import TICK
from simulators.site import expected
from tests import commands

ROOT = Path(__file__).resolve().parents[2]
START = 1_764_000_000_000_000_000 // TICK * TICK
RECORDED = START - 77 * 10**12
SECOND = 10**9


def recorded(folder: Path, batches: list[Batch]) -> Trace:
    with Writer(folder / "trace.arrows") as writer:
        for batch in batches:
            writer.write(batch)
    return load(folder / "trace.arrows")


def shown(site: Site, time: int) -> list[Batch]:
    """Give what the simulators make up at a time, in engineering units."""
    checks, found = expected(site), []
    for table in site.tables:
        values = [checks[table.device, tag.name].signal.value(np.array([time]))[0] for tag in table.tags]
        found.append(Batch.full(table, np.array([*values, None], object)[:-1].astype(table.kind.dtype), time))
    return found


def test_every_value_of_every_type_plays_as_it_was_recorded(tmp_path: Path) -> None:
    """Scales, offsets, powers, bit fields, flags, texts and times are undone and done again without an error."""
    site = load_site(ROOT / "config" / "demo" / "site.yaml")
    seconds = [0, 1, 7, 30]
    batches = [batch for second in seconds for batch in shown(site, RECORDED + second * SECOND)]
    playing = Playing(recorded(tmp_path, batches), START)
    checks = expected(site, TICK, playing)
    assert all(check.signal.track is not None for check in checks.values())
    for batch in batches:
        time = np.array([START + int(batch.time[0]) - RECORDED])
        for tag, value in zip(batch.table.tags, batch.value.tolist(), strict=True):
            assert checks[batch.table.device, tag.name].signal.value(time).tolist() == [value], tag.name


@pytest.mark.parametrize(("speed", "after"), [(1.0, 1.0), (10.0, 0.1), (0.5, 2.0)])
def test_time_runs_as_it_did_or_faster_and_begins_anew(tmp_path: Path, speed: float, after: float) -> None:
    table = _site(tmp_path).tables[0]
    rows = [
        Batch.full(table, np.array([value, value]), RECORDED + second * SECOND)
        for second, value in enumerate((1.0, 2.0, 3.0))
    ]
    playing = Playing(recorded(tmp_path, rows), START, speed)
    (track, *_) = (playing.track("press", tag) for tag in table.tags)
    assert track is not None
    at = [START + round(second * after * SECOND) for second in (0, 1, 2, 3)]
    assert track.count(np.array(at)).view(np.float64).tolist() == [1.0, 2.0, 3.0, 1.0]
    assert track.now(at[1])[1] == at[1]


SITE = """
gateway: g
links:
  line:
    driver: modbus
    url: tcp://127.0.0.1:1
    devices:
      press:
        tags:
          pressure: {address: holding:0 float32 ABCD, scale: 0.1}
          level: {address: "holding:2 uint16", scale: 0.5, not_available: [65535]}
"""


def _site(folder: Path, text: str = SITE) -> Site:
    (folder / "site.yaml").write_text(text + "publish: {cloud: {url: 'mqtt://127.0.0.1:1'}}\n")
    return load_site(folder / "site.yaml")


@pytest.mark.parametrize(
    ("status", "trouble"),
    [(q.BAD_TIMEOUT, SILENCE), (q.BAD_DEVICE_FAILURE, 4), (q.BAD_NO_COMMUNICATION, 0x0B), (q.BAD_SENSOR_FAILURE, 2)],
)
def test_a_bad_row_is_silence_or_an_exception_on_modbus(tmp_path: Path, status: int, trouble: int) -> None:
    site = _site(tmp_path)
    table = site.tables[0]
    codes = np.array([0, status], np.uint32)
    rows = [
        Batch.full(table, np.array([0.5, 3.5]), RECORDED),
        Batch.full(table, np.array([0.7, 0.0]), RECORDED + SECOND, codes),
    ]
    server = ModbusServer(site.links[0], playing=Playing(recorded(tmp_path, rows), START))
    server.registers.at(START)
    assert server.registers.trouble(1, "holding", 0, 3) == 0
    assert server.registers.read(1, "holding", 0, 3) == np.array([5.0], ">f4").tobytes() + b"\x00\x07"
    server.registers.at(START + SECOND)
    assert server.registers.trouble(1, "holding", 0, 2) == 0, "the neighbour is Good"
    assert server.registers.trouble(1, "holding", 0, 3) == trouble
    assert server.registers.read(1, "holding", 0, 2) == np.array([7.0], ">f4").tobytes()


def test_a_row_without_a_value_is_the_value_by_which_the_device_says_so(tmp_path: Path) -> None:
    site = _site(tmp_path)
    none = np.full(2, q.BAD_NO_DATA, np.uint32)
    rows = [Batch.full(site.tables[0], np.array([np.nan, np.nan]), RECORDED, none)]
    server = ModbusServer(site.links[0], playing=Playing(recorded(tmp_path, rows), START))
    server.registers.at(START)
    assert server.registers.trouble(1, "holding", 0, 3) == 0
    wire = server.registers.read(1, "holding", 0, 3)
    assert wire is not None
    assert np.isnan(np.frombuffer(wire[:4], ">f4")[0])
    assert wire[4:] == b"\xff\xff"


OPCUA = """
gateway: g
links:
  house:
    driver: opcua
    url: opc.tcp://127.0.0.1:1
    devices:
      boiler:
        tags:
          pressure: ns=2;s=Pressure double
          total: ns=2;s=Total uint64
          fuel: ns=2;s=Fuel text
"""


def test_an_opcua_node_has_the_status_and_the_source_time_of_the_row(tmp_path: Path) -> None:
    site = _site(tmp_path, OPCUA)
    status = 0x40900480

    def row(table: TagTable, value: Any, time: int, code: int) -> Batch:
        return Batch.full(table, np.array([value], table.kind.dtype), time, np.array([code], np.uint32))

    values: dict[str, tuple[Any, Any]] = {"float64": (0.1, -0.0), "uint64": (2**64 - 1, 7), "text": ("gas", "压力")}
    moved = RECORDED + SECOND // 2 + 123_400
    rows = [row(table, values[table.kind.value][0], RECORDED, 0) for table in site.tables]
    rows += [row(table, values[table.kind.value][1], moved, status) for table in site.tables]
    now = START
    playing = Playing(recorded(tmp_path, rows), START)
    server = OpcuaServer(site.links[0], clock=lambda: now, playing=playing)
    for place, (at, when, code) in enumerate(
        ((START, START, 0), (START + SECOND * 7 // 10, START + moved - RECORDED, status))
    ):
        now = at
        for variable in server.variables:
            data = server.read(variable)
            expected_value = values[variable.tag.kind.value][place]
            assert repr(data.Value.Value) == repr(expected_value)
            assert data.StatusCode == ua.StatusCode(code)
            assert round(data.SourceTimestamp.timestamp() * 1e6) == when // 1000
    assert all(variable.recorded for variable in opcua_space.variables(site.links[0], TICK, playing)[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("when,what\n", "the first line must name the columns"),
        ("time,series,value\n1,no-such-device/tag,1\n", "is a tag of the site"),
    ],
)
def test_a_recording_that_cannot_play_is_a_wrong_argument(tmp_path: Path, content: str | None, said: str) -> None:
    """As for every command: 2, and 1 is for what ran and found trouble."""
    trace = tmp_path / "trace.csv"
    if content is not None:
        trace.write_text(content)
    result = commands.ask(simulate, ROOT / "config" / "demo" / "site.yaml", "--replay", trace)
    assert result.exit_code == 2
    words = " ".join(result.stderr.replace("│", " ").split())
    assert "--replay" in words
    assert said in words
