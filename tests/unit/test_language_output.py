"""What commands show in Chinese is Chinese: each is run on a sample, and its output is searched for English words."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gateway.cli.app import make_app
from gateway.fleet import Fleet
from gateway.ledger import Ledger
from gateway.statements import Summary, write_summary
from gateway.stores.duckdb import DuckdbStore
from tests.local_plant import SITE, Local, running
from tests.native import T0, block, scan, table

SECOND = 10**9

NAMES = """
    cloud demo press pressure temperature state parts line default stopped running site yaml links json map meter csv
    gamma alpha device tag order oven flow opening
"""  # of the sample: what its files call things
UNITS = "ms us min kB MB GB bar rpm kWh"
FORMATS = """
    float16 float32 float64 uint16 uint32 uint64 int16 int32 int64 bcd16 bcd32 unix32 text hex ABCD CDAB BADC DCBA FC3
    holding input coil modbus html md duckdb min max scale unit address deadband max_silence nan inf
"""  # what the file and the wire call things: keys, types, orders
TERMS = "MQTT PUBACK Python CPU PlantBridge plantbridge SIM LIST UTC"
KNOWN = {word for words in (NAMES, UNITS, FORMATS, TERMS) for word in words.split()}
NOT_WORDS = re.compile(
    r"`[^`]*`"  # keys of YAML, as a sentence quotes them
    r"|\b(?:plantbridge|systemctl|df) [\w .*'/:-]*"  # commands
    r"|\w+://[\w.:/\[\]-]*|[\w.-]*/[\w./*-]*"  # URLs, paths, tags
    r"|--?[\w-]+"  # options
    r"|'[^'\n]*'"  # what a device says
    r"|\b(?:Good|Uncertain|Bad)[A-Za-z]*"  # names of qualities (OPC UA)
    r"|\b[0-9a-f]{2,}\b|\b[0-9a-f ]{4,}\b|(?<![A-Za-z0-9])\d+(?:\.\d+)?(?:e[+-]\d+)?"  # bytes, numbers
    r"|\b\w+-\w+-\w+\b"  # ids
)


def english(text: str, *known: str) -> list[str]:
    """Give the English words of an output that are no names, units, formats or commands."""
    found = re.findall(
        r"[A-Za-z][A-Za-z0-9_]+", NOT_WORDS.sub(" ", re.sub(rf"\b(?:{'|'.join(known) or ' '})\b", " ", text))
    )
    return sorted({word for word in found if word not in KNOWN and word not in known})


@pytest.fixture(autouse=True)
def _in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTBRIDGE_LANG", "zh")
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    async with running(tmp_path) as found:
        await found.until(lambda answer: answer["publishers"][0]["up"] is False, ask="status", over=0)
        yield found


def run(*words: Any) -> str:
    found = CliRunner().invoke(make_app([str(words[0])]), [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return re.sub(r"^\d{4}-\d\d-\d\d [\d:]+ \[.*\n", "", found.output, flags=re.MULTILINE)  # the daemon's log


async def apart(*words: Any) -> str:
    return await asyncio.to_thread(run, *words)


def told(outputs: dict[str, str], *known: str) -> None:
    """See that these outputs, by command, hold no English."""
    left = {command: english(said, *known) for command, said in outputs.items()}
    shown = "\n".join(f"{words} in {command}:\n{outputs[command]}" for command, words in left.items() if words)
    assert not shown, shown
    assert all(outputs.values())


async def test_commands_that_ask_the_daemon_speak_chinese(local: Local) -> None:
    await local.until(lambda answer: answer["passed"]["sequence"], ask="explain", tag="press/temperature")
    commands = (
        ("status", local.path, "--over", "100 ms"), ("tail", local.path, "--for", "300 ms"),
        ("explain", local.path, "press/temperature"), ("explain", local.path, "press/pressure"),
        ("explain", local.path, "press/state"), ("journal", local.path), ("check", local.path), ("plan", local.path),
        ("plan", local.path, "--online"), ("probe", local.path),
        ("read", "line", "holding:0", "--site", local.path), ("scan", "line", "--site", local.path, "--units", "1,2"),
    )  # fmt: skip
    told({str(words): await apart(*words) for words in commands})


async def test_what_is_wrong_with_a_device_is_told_in_chinese(tmp_path: Path) -> None:
    steady = SITE.replace("deadband: 0}", "deadband: 0, simulate: {signal: constant, low: 87.5, high: 87.5}}")
    wrong = steady.replace("holding:0 float32 ABCD", "holding:0 float32 CDAB").replace("1: running}, sim", "7: x}, sim")
    async with running(tmp_path, steady) as local:
        local.path.write_text(wrong.replace("tcp://127.0.0.1:1\n", f"{local.site.links[0].options.url}\n"))
        local.server.faults[1].refused.add(("holding", 8))
        for name in ("report.html", "report.md"):
            said = await apart("probe", local.path, "--report", tmp_path / name)
            written = (tmp_path / name).read_text()
            page = re.sub(
                r"<style>.*?</style>|<(?!wbr)[^>]*>|&\w+;", " ", written.replace("<wbr>", ""), flags=re.DOTALL
            )
            assert "字序" in said
            assert "字序" in written
            told({"probe": said, name: page}, *_machine())
        local.server.faults[1].silent = True
        await local.until(lambda answer: answer["links"][0]["devices"][0]["up"] is False, ask="status", over=0)
        commands = (("status", local.path), ("explain", local.path, "press/pressure"), ("probe", local.path))
        told({str(words): await apart(*words) for words in commands})


def _machine() -> list[str]:
    import getpass
    import platform

    return re.findall(
        r"[A-Za-z]+\w*", f"{platform.node()} {platform.system()} {platform.machine()} {getpass.getuser()}"
    )


async def test_without_a_daemon_chinese_is_spoken_too(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    commands = (("status", path), ("explain", path, "press/pressure"), ("probe", path))
    told({str(words): await apart(*words) for words in commands})


def test_the_cloud_sides_commands_speak_chinese(tmp_path: Path) -> None:
    data = tmp_path / "data"
    cloud = tmp_path / "cloud.yaml"
    cloud.write_text("data: ./data\nbroker: {url: 'mqtt://127.0.0.1:1'}\nstore: {type: duckdb, path: plant.duckdb}\n")
    now = time.time_ns()
    fleet = Fleet(data / "fleet.sqlite")
    late = Summary(
        gateway="gamma", journal="j1", publisher="cloud", at=now, committed=5000, readings=50_000,
        waiting=[(1, 4000)], version="1.2",
    )  # fmt: skip
    fleet.hear("p/gamma/status", b'{"online": true, "version": "1.2", "since": "2026-11-22T05:00:00Z"}', live=True)
    fleet.hear("p/alpha/status", b'{"online": false}', live=True, now=now)
    fleet.hear("p/gamma/account/cloud", write_summary(late, None), live=True)
    fleet.save()
    fleet.close()
    ledger = Ledger(data / "account.sqlite")
    for number in (5, 8):
        ledger.note([block(scan(table(size=10), T0 + number * SECOND), first=number)])
    ledger.hear([late])
    ledger.close()

    async def fill() -> None:
        store = DuckdbStore(data / "plant.duckdb")
        await store.open()
        await store.write([block(scan(table(size=2, unit="bar"), T0), first=1)])
        await store.close()

    asyncio.run(fill())
    every = ["press-1", "t0", "t1", "j1", "tag0", "tag1"]
    commands = (
        ("fleet", cloud), ("account", cloud), ("account", cloud, "--since", "1 h"), ("query", cloud),
        ("query", cloud, "--since", "1 s"), ("check", cloud),
        ("query", cloud, "--from", "2023-11-14T22:00Z", "--to", "2023-11-15T00:00Z", "--every", "1 h"),
    )  # fmt: skip
    told({str(words): run(*words) for words in commands}, *every)


def test_what_programs_read_stays_english(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    found = run("plan", path, "--json") + run("query", _database(tmp_path), "--format", "csv")
    assert '"interval"' in found
    assert "time,gateway,device,tag,value,text,unit,quality,status" in found


def _database(folder: Path) -> Path:
    async def fill() -> None:
        store = DuckdbStore(folder / "plant.duckdb")
        await store.open()
        await store.close()

    asyncio.run(fill())
    return folder / "plant.duckdb"


def test_the_demonstrations_tables_are_chinese(tmp_path: Path) -> None:
    from gateway.cli.demo import account_table
    from gateway.cli.demo_screen import Screen
    from gateway.config import load_site
    from gateway.testbed.account import Account
    from gateway.testbed.processes import Usage

    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    console = Console(width=200)
    screen = Screen(load_site(path), tmp_path / "none.duckdb")
    with console.capture() as picture:
        console.print(screen.draw({}, {}, Usage(), 40))
    account = Account(1, 1, 1, 1, 1, 1, 1, 1, 1, ("press/parts at 5: 3",))
    with console.capture() as closing:
        console.print(account_table(account))
    told({"screen": picture.get(), "account": closing.get()})
