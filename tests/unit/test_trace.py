"""Traces: what is recorded comes back to the bit from every kind of file, and through a gateway into a store."""

from __future__ import annotations

import asyncio
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway import codec
from gateway import quality as q
from gateway.cli.app import make_app
from gateway.config import load_site
from gateway.contracts import Block
from gateway.model import Batch, Kind, Tag, TagTable
from gateway.recording import Recorder, playing, poll
from gateway.stores.duckdb import DuckdbStore
from gateway.stores.inquiry import read
from gateway.stores.layout import TABLES
from gateway.trace import FORMS, Trace, Writer, load
from simulators.modbus import ModbusServer
from tests.local_plant import SITE, running

FIRST = 1_793_520_000_123_456_789
QUALITIES = (0, 0, 0, q.BAD_TIMEOUT, q.UNCERTAIN_LAST_USABLE_VALUE, 0x00000480, 0x808C0001)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.FLOAT: st.floats(allow_nan=False),
    Kind.INT: st.integers(-(2**63), 2**63 - 1),
    Kind.UINT: st.integers(0, 2**64 - 1),
    Kind.BOOL: st.booleans(),
    Kind.TEXT: st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8),
}


def table_of(kind: Kind, tags: int = 2, device: str = "press-1") -> TagTable:
    return TagTable(device, "default", kind, tuple(Tag(f"{kind.value}-{n}", "", kind=kind) for n in range(tags)))


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    found = []
    for kind in Kind:
        values = draw(st.lists(VALUES[kind], min_size=2, max_size=6))
        size, table = len(values), table_of(kind)
        code = np.array([draw(st.sampled_from(QUALITIES)) for _ in values], np.uint32)
        value = np.array([*values, None], object)[:-1].astype(kind.dtype)
        value[code >= q.BAD] = kind.nothing
        time = FIRST + np.cumsum(np.array([draw(st.integers(1, 10**9)) for _ in values], np.int64))
        found.append(Batch(table, np.arange(size, dtype=np.uint32) % 2, value, code, time))
    return found


def written(path: Path, batches: list[Batch]) -> Trace:
    with Writer(path) as writer:
        for batch in batches:
            writer.write(batch)
    return load(path)


def rows(batches: list[Batch]) -> list[tuple[str, str, int, int, bytes | str]]:
    """Give (series, kind, time, quality, the value's bits) of all rows in order."""
    return sorted(
        (f"{batch.table.device}/{batch.table.tags[tag].name}", batch.table.kind.value, time, code, bits(value))
        for batch in batches
        for tag, time, code, value in zip(
            batch.tag.tolist(), batch.time.tolist(), batch.quality.tolist(), batch.value, strict=True
        )
    )


def trace_rows(trace: Trace) -> list[tuple[str, str, int, int, bytes | str]]:
    return sorted(
        (name, each.kind.value if each.kind else "", time, code, bits(value))
        for name, each in trace.series.items()
        for time, code, value in zip(each.time.tolist(), each.quality.tolist(), each.value, strict=True)
    )


def bits(value: Any) -> bytes | str:
    return value if isinstance(value, str) else np.asarray(value).tobytes()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=15, deadline=None)
@given(made=batches())
def test_every_bit_comes_back_from_every_form(
    tmp_path_factory: pytest.TempPathFactory, form: str, made: list[Batch]
) -> None:
    path = tmp_path_factory.mktemp("trace") / f"trace{form}"
    assert trace_rows(written(path, made)) == rows(made)


def test_a_historians_csv_needs_neither_types_nor_qualities_and_keeps_nine_digits(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text(
        "series,time,value\npressure,2026-11-01T08:00:00.123456789+01:00,4.5\npressure,1793520000000000001,x\n"
    )
    series = load(path).series["pressure"]
    assert series.time.tolist() == [1_793_516_400_123_456_789, 1_793_520_000_000_000_001]
    value, quality = series.values(Kind.FLOAT)
    assert value[0] == 4.5
    assert quality.tolist() == [q.GOOD, q.BAD_TYPE_MISMATCH]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,value\n", "must name the columns"),
        ("time,series,value\n", "there are no rows"),
        ("time,series,value\n2026-11-01T08:00:00,a,1\n", "x.csv:2: the time .* has no zone"),
        ("time,series,value,quality\n1,a,1,Splendid\n", "x.csv:2: unknown quality 'Splendid'"),
        ("time,series,value,quality\n1,a,1,0x100000000\n", "x.csv:2: .* no StatusCode of 32 bits"),
        ("time,series,type,value\n1,a,text,1\n2,a,bool,1\n", "x.csv:3: a has another type than before"),
    ],
)
def test_a_csv_that_makes_no_sense_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "x.csv")


@pytest.mark.parametrize("form", [".arrows", ".parquet"])
def test_a_file_of_another_kind_is_told(tmp_path: Path, form: str) -> None:
    (tmp_path / f"x{form}").write_bytes(b"PK\x03\x04 this is a spreadsheet")
    with pytest.raises(ValueError, match=r"x\.|Arrow"):
        load(tmp_path / f"x{form}")


def test_what_was_recorded_before_a_power_cut_can_be_replayed(tmp_path: Path) -> None:
    """An .arrows file is whole up to its last record batch; it needs no end."""
    writer = Writer(tmp_path / "cut.arrows")
    writer.write(Batch.full(table_of(Kind.FLOAT), np.array([1.5, 2.5]), FIRST))
    writer.flush()
    assert load(tmp_path / "cut.arrows").series["press-1/float64-1"].value.tolist() == [2.5]
    writer.close()


@pytest.mark.parametrize("form", FORMS)
async def test_replay_through_a_gateway_into_a_store_gives_the_trace_bit_for_bit(tmp_path: Path, form: str) -> None:
    """Value, quality and time of each row, of every kind: nothing thinned, rounded, moved or added."""
    made = []
    for place, kind in enumerate(Kind):
        values = {
            Kind.FLOAT: [0.1, -0.0, 1e-308, 5e-324], Kind.INT: [-(2**63), 2**63 - 1, 0, 0],
            Kind.UINT: [2**64 - 1, 2**53 + 1, 0, 7], Kind.BOOL: [True, True, False, True],
            Kind.TEXT: ["", "00420", "压力, \"bar\"\nx", "x"],
        }[kind]  # fmt: skip
        time = np.array([FIRST + place, FIRST + 10**6 + place, FIRST + 10**6 + place + 1, FIRST + 2 * 10**8], np.int64)
        code = np.array([0, q.UNCERTAIN_LAST_USABLE_VALUE, 0x00000480, 0x808C0001], np.uint32)
        value = np.array([*values, None], object)[:-1].astype(kind.dtype)
        value[3] = kind.nothing
        tags = np.array([0, 1, 0, 1], np.uint32)
        made.append(Batch(table_of(kind), tags, value, code, time))
    trace = written(tmp_path / f"trace{form}", made)
    (tmp_path / "site.yaml").write_text(_site_of(made, tmp_path / f"trace{form}"))
    stored = await _through_a_gateway(tmp_path, len(rows(made)))
    assert stored == [(name, kind, time, code, value) for name, kind, time, code, value in trace_rows(trace)]


def _site_of(made: list[Batch], trace: Path) -> str:
    """Write the site file that `record --play` writes, for devices that are only known from their batches."""
    from gateway.model import Device, Group, Link

    groups = (Group("press-1", "default", 10**9, 0, tuple(batch.table for batch in made)),)
    device = Device("press-1", None, groups)
    return playing("demo", [(Link("line", "modbus", None, (device,)), [device])], Path(trace.name))


async def _through_a_gateway(folder: Path, expected: int) -> list[tuple[str, str, int, int, bytes | str]]:
    """Poll the site of a folder with the gateway's own path, store what it would journal, and read the store."""
    from gateway.health import Health
    from gateway.metrics import Metrics
    from gateway.names import driver_spec
    from gateway.pipeline import Pipeline
    from gateway.poller import Poller

    (link,) = load_site(folder / "site.yaml").links
    records: list[bytes] = []
    tables: dict[int, TagTable] = {}

    class Memory:
        def define(self, fingerprint: bytes, definition: bytes) -> int:
            tables[len(tables) + 1] = TagTable.from_definition(definition)
            return len(tables)

        def append(self, record: bytes, readings: int, start: int = 0, end: int = 0) -> int:
            records.append(record)
            return len(records)

    async def room() -> None:
        return

    metrics = Metrics()
    lines = {(g.device, g.name): Pipeline(g, Memory(), metrics) for device in link.devices for g in device.groups}
    poller = Poller(link, driver_spec("replay").open(link), lines, metrics, Health(), room)
    task = asyncio.create_task(poller.run())
    async with asyncio.timeout(30):
        while sum(len(batch) for batch in _unpacked(records, tables)) < expected:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    contents = tuple(codec.unpack(record, tables.__getitem__) for record in records)
    store = DuckdbStore(folder / "store.duckdb", desk=False)
    await store.open()
    await store.write([Block("demo-replay", "j", tuple(range(1, len(contents) + 1)), contents)])
    await store.close()
    return sorted(_stored(folder / "store.duckdb"))


def _unpacked(records: list[bytes], tables: dict[int, TagTable]) -> list[Batch]:
    contents = [codec.unpack(record, tables.__getitem__) for record in records]
    assert all(isinstance(each, Batch) for each in contents), "a gap was declared"
    return [each for each in contents if isinstance(each, Batch)]


def _stored(database: Path) -> list[tuple[str, str, int, int, bytes | str]]:
    found = []
    for kind in Kind:
        sql = f"""SELECT s.device || '/' || s.tag, epoch_ns(r.time), r.quality, r.value
                  FROM {TABLES[kind][0]} r JOIN series s ON s.id = r.series"""
        with read(database, sql) as stream:
            answer = stream.read_all()
            columns = [answer.child(number).to_pylist() for number in range(4)]
        for name, time, code, value in zip(*columns, strict=True):
            exact = np.array([kind.nothing if value is None else value], kind.dtype)[0]
            found.append((name, kind.value, time, code, bits(exact)))
    return found


async def test_devices_are_recorded_without_a_daemon(tmp_path: Path) -> None:
    """Every reading with its own time; a CSV shows what a person would look for."""
    (tmp_path / "site.yaml").write_text(SITE)
    async with ModbusServer(load_site(tmp_path / "site.yaml").links[0]) as server:
        site = load_site(tmp_path / "site.yaml", links={"line": f"tcp://127.0.0.1:{await server.listen()}"})
        path = tmp_path / "trace.csv"
        with Writer(path) as writer:
            recorder, stop = Recorder(writer), asyncio.Event()
            task = asyncio.create_task(poll([(link, link.devices) for link in site.links], recorder, stop))
            async with asyncio.timeout(30):
                while recorder.rows < 3 * sum(map(len, site.tables)):
                    await asyncio.sleep(0.05)
            stop.set()
            await task
        trace = load(path)
        names = {f"{table.device}/{tag}" for table in site.tables for tag in table.names}
        assert set(trace.series) == names
        assert trace.series["press/parts"].kind is Kind.UINT
        assert recorder.good == {"press"}
        with path.open(newline="") as file:
            assert next(csv.reader(file)) == ["time", "series", "type", "value", "quality"]


async def test_a_running_daemon_is_recorded_and_the_device_gets_no_second_session(tmp_path: Path) -> None:
    async with running(tmp_path) as local:
        await local.until(lambda answer: answer["links"][0]["up"], ask="status", over=0)
        sessions = local.server.connections
        path, play = tmp_path / "trace.parquet", tmp_path / "play.yaml"
        words = ["record", local.path, "press", "--for", "1500 ms", "--into", path, "--play", play]
        result = await asyncio.to_thread(CliRunner().invoke, make_app(["record"]), [str(word) for word in words])
        assert result.exit_code == 0, result.output
        assert "from the running daemon" in result.output
        assert local.server.connections == sessions
        trace = load(path)
        assert trace.series["press/parts"].kind is Kind.UINT
        assert load_site(play, secrets=False).links[0].options.rows == "all"


def test_a_parquet_file_that_cannot_be_made_leaves_the_readings_and_says_where(tmp_path: Path) -> None:
    path, table = tmp_path / "t.parquet", table_of(Kind.INT, 1)
    writer = Writer(path)
    row = np.zeros(1, np.uint32), np.array([7], np.int64), np.zeros(1, np.uint32), np.array([FIRST], np.int64)
    writer.write(Batch(table, *row))
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"^(?!.*cannot be written: ).*; the readings are in .*t\.parquet\.part$"):
        writer.close()
    kept = tmp_path / "t.arrows"
    (tmp_path / "t.parquet.part").rename(kept)
    assert load(kept).series["press-1/int64-0"].value.tolist() == [7]


async def test_a_device_that_is_not_there_is_said_and_is_no_success(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "gateway: g\nlinks: {line: {driver: modbus, url: 'tcp://127.0.0.1:1',"
        " devices: {press: {unit_id: 1, tags: {a: 'holding:0 uint16'}}}}}\n"
    )
    words = [sys.executable, "-m", "gateway", "record", str(site), "--for", "3 s", "--into", "trace.csv"]
    process = await asyncio.create_subprocess_exec(*words, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert "no value came from press" in said.decode()
    assert load(tmp_path / "trace.csv").series["press/a"].quality[0] >= q.BAD
