"""`plantbridge report` against a real store: every number is one that can be counted by hand."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import Result

from gateway.cli.report import report
from gateway.clock import BACK, NOT_KNOWN
from gateway.config import load_site
from gateway.contracts import Block
from gateway.errors import GatewayError
from gateway.model import Batch, Gap, TagTable
from gateway.stores.duckdb import DuckdbStore
from tests import commands
from tests.native import BAD, SECOND, scan, table

CASES = Path(__file__).parents[1] / "cases" / "report"
SITE = CASES / "site.yaml"
MINUTE = 60 * SECOND
EIGHT = round(datetime.fromisoformat("2026-11-20T08:00:00+08:00").timestamp()) * SECOND
LATE = SECOND // 50  # the readings are that much later than their instant


@pytest.fixture(autouse=True)
def _in_china(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def contents() -> list[Batch | Gap]:
    """What the gateway told of its morning: rows of [07:30, 10:00)."""
    tables: dict[tuple[str, str], TagTable] = {}
    for each in load_site(SITE).tables:
        tables[each.device, each.group] = each
    found: list[Batch | Gap] = []

    def rows(device: str, minutes: range, code: int = 0) -> None:
        of = tables[device, "default"]
        rowed = [0] if device == "press-1" else None  # of press-1 the force alone
        for minute in minutes:
            batch = scan(of, EIGHT + minute * MINUTE + LATE, [float(minute)] * len(of), [code] * len(of))
            found.append(batch if rowed is None else batch.take([0]))

    found.append(scan(tables["press-1", "default"], EIGHT - 200 * MINUTE, [1.0, 2.0]))
    rows("press-1", range(-30, 120))
    rows("press-2", range(-30, 60))
    rows("press-2", range(60, 61), BAD)
    rows("oven-1", range(-30, 10))
    rows("oven-1", range(20, 120))
    found.append(Gap("oven-1", "default", EIGHT + 10 * MINUTE, EIGHT + 20 * MINUTE, "skipped scan", 0, 10))
    rows("lathe-1", range(-20, 120, 25))  # a value that stands still, told again by max_silence
    rows("saw-1", range(120))
    rows("mixer-1", range(50, 120))  # began at 08:50
    rows("mixer-2", range(-30, 120))
    rows("meter-1", range(120))
    found.append(scan(table(device="ghost"), EIGHT + MINUTE))  # of no file
    return found


async def fill(store: DuckdbStore) -> None:
    await store.open()
    every = contents()
    await store.write([Block("press-shop", "j1", tuple(range(1, len(every) + 1)), tuple(every))])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "plant.duckdb"

    async def made() -> None:
        store = DuckdbStore(path)
        await fill(store)
        await store.close()

    asyncio.run(made())
    return path


def ask(*arguments: object) -> Result:
    return commands.ask(report, *arguments)


def told(*arguments: object) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(ask(*arguments, "--json").stdout)
    return body


MORNING = ("--from", "2026-11-20T08:00", "--to", "2026-11-20T10:00")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_csv_files_are_these(
    language: str, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are handed in with the self-assessment: a change of one is a change for who reads them."""
    monkeypatch.setenv("PLANTBRIDGE_LANG", language)
    result = ask(SITE, "--store", database, *MORNING, "--csv", tmp_path)
    assert result.exit_code == 1, "mixer-3 is listed as connected, and nothing came of it"
    for name in ("rates.csv", "devices.csv", "processes.csv", "completeness.csv"):
        made, golden = (tmp_path / name).read_bytes(), CASES / language / name
        if os.environ.get("PLANTBRIDGE_ACCEPT"):
            golden.parent.mkdir(exist_ok=True)
            golden.write_bytes(made)
        assert made == golden.read_bytes(), name


def test_seven_of_ten_are_connected_and_it_is_said_which(database: Path) -> None:
    rates = {each["rate"]: each for each in told(SITE, "--store", database, *MORNING)["rates"]}
    measured, configured = rates["measured"], rates["configured"]
    assert (measured["numerator"], measured["denominator"], measured["value"]) == (7, 10, 0.7)
    assert measured["rest"] == ["mixer-3", "grinder-1", "hammer-1"]
    assert (configured["numerator"], configured["rest"]) == (8, ["grinder-1", "hammer-1"]), "never mixed"
    assert "ghost" not in measured["counted"], "what is not listed does not count"
    assert "meter-1" not in measured["counted"] + measured["rest"], "a meter is no production equipment"


def test_a_device_that_fell_silent_leaves_the_rate_with_the_next_window(database: Path) -> None:
    window = ("--from", "2026-11-20T09:01", "--to", "2026-11-20T10:00")
    (measured,) = [each for each in told(SITE, "--store", database, *window)["rates"] if each["rate"] == "measured"]
    assert measured["value"] == 0.6
    assert "press-2" in measured["rest"]


def test_three_of_four_key_processes_are_numerically_controlled_and_named(database: Path) -> None:
    body = told(SITE, "--store", database, *MORNING)
    (rate,) = [each for each in body["rates"] if each["rate"] == "processes"]
    assert (rate["value"], rate["counted"], rate["rest"]) == (0.75, ["stamping", "hardening", "turning"], ["sawing"])
    good = {each["device"]: each["last_good"] for each in body["devices"] if each["process"] and "last_good" in each}
    assert good["press-2"] == EIGHT + 59 * MINUTE + LATE, "evidence is the last good sample of each"


def counts(body: dict[str, Any], device: str) -> dict[str, int]:
    (found,) = [each for each in body["devices"] if each["device"] == device]
    total: dict[str, int] = found["total"]
    assert all(sum(hour[name] for hour in found["hours"]) == total[name] for name in total), (
        "the hours add up to the whole"
    )
    return {name: total[name] for name in ("expected", "good", "bad", "gap", "unknown")}


def test_completeness_counts_instants_and_says_what_is_missing_and_why(database: Path) -> None:
    body = told(SITE, "--store", database, *MORNING)

    def found(device: str) -> tuple[int, ...]:
        return tuple(counts(body, device).values())

    assert found("press-1") == (240, 240, 0, 0, 0), "the mode that stands still is known all the time"
    assert found("press-2") == (120, 60, 60, 0, 0)
    assert found("oven-1") == (120, 110, 0, 10, 0)
    assert found("lathe-1") == (120, 120, 0, 0, 0), "told again within max_silence"
    assert found("mixer-1") == (120, 70, 0, 0, 50)
    assert found("mixer-3") == (120, 0, 0, 0, 120)


def test_a_value_is_not_believed_beyond_its_max_silence(database: Path) -> None:
    """lathe-1 was due to say something by 10:05 + 30 min; what came of others later says nothing of it."""
    (newest,) = [each for each in told(SITE, "--store", database, *MORNING)["devices"] if each["device"] == "lathe-1"]
    assert newest["last_good"] == EIGHT + 105 * MINUTE + LATE


def test_after_the_last_sign_of_the_gateway_nothing_is_known(database: Path) -> None:
    body = told(SITE, "--store", database, "--from", "2026-11-20T08:00", "--to", "2026-11-20T12:00")
    # the newest row is of 09:59: press-1's mode would hold for ever, and is not taken to
    assert counts(body, "press-1") == {"expected": 480, "good": 240, "bad": 0, "gap": 0, "unknown": 240}


def test_lost_records_end_what_was_known(tmp_path: Path) -> None:
    """The good value of before the loss may have become Bad in it."""
    path = tmp_path / "plant.duckdb"

    async def made() -> None:
        store = DuckdbStore(path)
        await fill(store)
        gap = Gap("", "", EIGHT + 30 * MINUTE, EIGHT + 40 * MINUTE, "disk full", 500)
        await store.write([Block("press-shop", "j1", (5000,), (gap,))])
        await store.close()

    asyncio.run(made())
    found = counts(told(SITE, "--store", path, *MORNING), "press-1")
    assert found == {"expected": 240, "good": 30 + 30 + 80, "bad": 0, "gap": 20, "unknown": 80}


def test_a_clock_that_was_set_back_or_not_known_makes_no_hole(tmp_path: Path) -> None:
    """Such a gap record says of times that they are not to be relied on, not that rows are missing."""
    path = tmp_path / "plant.duckdb"

    async def made() -> None:
        store = DuckdbStore(path)
        await fill(store)
        set_back = Gap("", "", EIGHT + 30 * MINUTE, EIGHT + 31 * MINUTE, BACK)
        estimated = Gap("", "", EIGHT - 90 * MINUTE, EIGHT + 50 * MINUTE, NOT_KNOWN)
        await store.write([Block("press-shop", "j1", (5000, 5001), (set_back, estimated))])
        await store.close()

    asyncio.run(made())
    assert counts(told(SITE, "--store", path, *MORNING), "press-1")["good"] == 240


def test_it_can_be_asked_while_ingest_writes(tmp_path: Path) -> None:
    path = tmp_path / "plant.duckdb"
    store = DuckdbStore(path)
    with asyncio.Runner() as runner:
        runner.run(fill(store))
        assert counts(told(SITE, "--store", path, *MORNING), "oven-1")["good"] == 110
        runner.run(store.close())


def test_the_page_has_its_plots_and_loads_nothing(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for language, title in (("en", "Connection and data completeness"), ("zh", "设备联网与数据完整性报告")):
        monkeypatch.setenv("PLANTBRIDGE_LANG", language)
        page, text = tmp_path / f"{language}.html", tmp_path / f"{language}.md"
        ask(SITE, "--store", database, *MORNING, "--html", page, "--markdown", text)
        html = page.read_text(encoding="utf-8")
        assert f'<html lang="{language}">' in html
        assert title in html
        assert "7 / 10 = 70.00 %" in html
        assert html.count("<svg") == 2
        assert html.count("<title>press-2 ") == 2, "a cell for each hour"
        assert not re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?!#)\w+', html), "a page without a network"
        assert "| 70.00 % |" in text.read_text(encoding="utf-8")


def test_without_a_store_nothing_is_said_to_be_measured() -> None:
    body = told(SITE)
    assert [each["rate"] for each in body["rates"]] == ["configured", "processes", "equipment"]
    assert ask(SITE).exit_code == 0


def test_a_gateway_that_has_no_stores_installed_reports_what_runs_there() -> None:
    """DuckDB is in the extra `cloud`; --live is for the machine at the plant, which has none of it."""
    program = (
        "import sys; sys.modules['duckdb'] = None; sys.argv[0] = 'plantbridge'; "
        "from gateway.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, "report", str(SITE)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert len(orjson.loads(done.stdout)["rates"]) == 3
    asked = subprocess.run([*command, "--store", "x.duckdb"], capture_output=True, text=True, timeout=100, check=False)
    assert (asked.returncode, asked.stderr) == (2, "duckdb is not installed: pip install 'plantbridge[cloud]'\n")


def test_one_gateway_in_two_files_is_refused() -> None:
    with pytest.raises(GatewayError, match="both of the gateway press-shop"):
        ask(SITE, SITE.parent / ".." / "report" / "site.yaml")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--last", "1 h", "--from", "2026-11-20"), "give one of them"),
        (("--from", "2026-11-20T09:00", "--to", "2026-11-20T08:00"), "ends before it begins"),
        (("--last", "often"), "a duration"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(arguments: tuple[str, ...], why: str) -> None:
    result = ask(SITE, *arguments)
    assert result.exit_code == 2
    assert why in " ".join(result.output.replace("│", " ").split())
