"""The table of gateways, and the commands that show it and the account."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from gateway import fleet
from gateway.cli.app import make_app
from gateway.fleet import SECOND, Fleet
from gateway.ledger import Ledger
from gateway.model import Gap
from gateway.statements import Summary, write_summary
from tests.native import T0, block, scan, table

NOW = 1_800_000_000 * SECOND
KEY = "a key of sixteen or more"


def status(online: bool = True, since: str = "2026-11-22T05:00:00Z") -> bytes:
    return orjson.dumps({"online": online, "version": "1.2", **({"since": since} if online else {})})


def summary(gateway: str = "demo", **more: Any) -> Summary:
    settings = {"at": NOW, "committed": 100, "readings": 1000, "waiting": [(91, 100)], "version": "1.2"} | more
    return Summary(gateway=gateway, journal="j1", publisher="cloud", **settings)


def test_what_gateways_tell_is_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "fleet.sqlite"
    made = Fleet(path)
    made.hear("plantbridge/demo/status", status(), live=True, now=NOW)
    made.hear("plantbridge/demo/account/cloud", write_summary(summary(at=NOW + 7 * SECOND), KEY), live=True, now=NOW)
    made.close()
    (found,) = fleet.read(tmp_path)
    assert (found.gateway, found.online, found.version, found.births) == ("demo", True, "1.2", 1)
    assert (found.waiting, found.offset, found.contact) == (10, 7 * SECOND, NOW)
    again = Fleet(path)
    again.hear("plantbridge/demo/status", status(), live=False, now=NOW)  # the same birth, retained
    again.hear("plantbridge/demo/status", status(since="2026-11-22T06:00:00Z"), live=True, now=NOW + 1)
    again.close()
    assert fleet.read(tmp_path)[0].births == 2


def test_a_save_that_fails_does_not_keep_the_next_one_from_the_disk(tmp_path: Path) -> None:
    """Else a disk that was full once would leave the table as it was until ingest is started again."""
    made = Fleet(tmp_path / "fleet.sqlite")
    made._connection.execute("CREATE TRIGGER no BEFORE INSERT ON gateways BEGIN SELECT RAISE(ABORT, 'full'); END")
    made.met(["p/demo"], NOW)
    with pytest.raises(sqlite3.Error, match="full"):
        made.save()
    made._connection.execute("DROP TRIGGER no")
    made.met(["p/demo"], NOW + 1)
    made.save()
    (found,) = fleet.read(tmp_path)
    assert (found.gateway, found.contact) == ("demo", NOW + 1)
    made.close()


def test_what_the_broker_had_retained_is_no_contact_and_tells_no_clock(tmp_path: Path) -> None:
    """An ingest that starts hears all old statuses at once: a gateway dead for a week must not look alive."""
    made = Fleet(tmp_path / "fleet.sqlite")
    made.hear("p/demo/status", status(), live=False, now=NOW)
    made.hear("p/demo/account/cloud", write_summary(summary(at=NOW - 9 * SECOND), None), live=False, now=NOW)
    made.hear("p/gone/status", status(online=False), live=True, now=NOW)  # the broker spoke, not the gateway
    made.close()
    demo, gone = fleet.read(tmp_path)
    assert (demo.contact, demo.offset, demo.summed) == (0, None, NOW - 9 * SECOND)
    assert demo.trouble(NOW) == ["never heard live"]
    assert (gone.contact, gone.online) == (0, False)


def test_of_several_workers_the_newest_counts(tmp_path: Path) -> None:
    """Workers that share the readings hear parts of them: the contact of one may be old where another's is new."""
    for worker, when in (("a", NOW), ("b", NOW + SECOND)):
        made = Fleet(tmp_path / f"fleet-{worker}.sqlite")
        made.hear("p/demo/status", status(), live=True, now=NOW)
        if worker == "a":
            made.hear("p/demo/account/cloud", write_summary(summary(), None), live=True, now=NOW)
        made.met(["p/demo"], when)
        made.close()
    (found,) = fleet.read(tmp_path)
    assert (found.contact, found.waiting, found.births) == (NOW + SECOND, 10, 1)


@pytest.mark.parametrize(
    "payload", [b"[]", b"{", b'{"at": 1}', b'{"at": 1, "waiting": [3]}', b'{"at": 1e30, "waiting": []}']
)
def test_nonsense_is_refused_and_changes_nothing(tmp_path: Path, payload: bytes) -> None:
    made = Fleet(tmp_path / "fleet.sqlite")
    with pytest.raises(ValueError, match=r"."):
        made.hear("p/demo/account/cloud", payload, live=True, now=NOW)
    made.close()
    assert [each.summed for each in fleet.read(tmp_path)] in ([], [0])


def cloud(directory: Path) -> Path:
    path = directory / "cloud.yaml"
    path.write_text("data: ./data\nbroker: {url: 'mqtt://127.0.0.1:1'}\n")
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


def test_fleet_shows_those_in_trouble_first_and_says_so_by_its_exit_code(tmp_path: Path) -> None:
    now = time.time_ns()
    made = Fleet(tmp_path / "data" / "fleet.sqlite")
    for name in ("alpha", "beta", "gamma"):
        made.hear(f"p/{name}/status", status(), live=True, now=now)
    path = cloud(tmp_path)
    made.save()
    assert run("fleet", path).exit_code == 0
    made.hear("p/gamma/account/cloud", write_summary(summary("gamma", at=now, waiting=[(1, 5000)]), None), live=True)
    made.close()
    found = run("fleet", path)
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["gamma", "alpha", "beta"]
    assert "5000 records wait" in lines[1]
    assert lines[-1] == "3 gateways, 1 in trouble"
    as_json = orjson.loads(run("fleet", path, "--json").stdout)
    assert [(each["gateway"], each["trouble"]) for each in as_json][:2] == [
        ("gamma", ["5000 records wait"]),
        ("alpha", []),
    ]


def ledger(directory: Path, name: str, records: range, waiting: tuple[tuple[int, int], ...] = ()) -> None:
    made = Ledger(directory / "data" / name)
    of = table(size=10)
    for number in records:
        made.note([block(scan(of, T0 + number * SECOND), first=number)])
    made.hear([summary(committed=20, readings=200, waiting=waiting)])
    made.close()


def test_account_is_whole_where_everything_is_stored(tmp_path: Path) -> None:
    ledger(tmp_path, "account.sqlite", range(1, 21))
    found = run("account", cloud(tmp_path), "--json")
    assert found.exit_code == 0
    own, device = orjson.loads(found.stdout)
    assert (own["appended"], own["stored"], own["undeclared"], own["waiting"]) == (200, 200, 0, 0)
    assert (device["device"], device["stored"]) == ("press-1", 200)


def test_account_says_which_records_are_lost_and_when(tmp_path: Path) -> None:
    made = Ledger(tmp_path / "data" / "account.sqlite")
    of = table(size=10)
    for number in (1, 2, 8, 9):
        made.note([block(scan(of, T0 + number * 3600 * SECOND), first=number)])
    made.note([block(Gap("press-1", "", T0, T0 + 1, "journal full", 10, 1, 3, 4), first=10)])
    made.hear([summary(committed=20, readings=200, waiting=[(11, 20)])])
    made.close()
    found = run("account", cloud(tmp_path))
    assert found.exit_code == 1
    assert "records 5 to 7 of journal j1 are lost, after 20" in found.stdout
    (own, *_) = orjson.loads(run("account", cloud(tmp_path), "--json").stdout)
    assert (own["undeclared"], own["gaps"], own["waiting"], own["stored"]) == (3, 1, 10, 40)
    assert run("account", cloud(tmp_path), "--since", "2026-01-01").exit_code == 0  # it is long past
    (early, *_) = orjson.loads(run("account", cloud(tmp_path), "--until", "2023-11-15T01:00+00:00", "--json").stdout)
    assert early["stored"] == 20


def test_what_one_worker_misses_and_another_has_is_not_lost(tmp_path: Path) -> None:
    """A worker hears of the others' records a moment later; the account puts all of them together."""
    ledger(tmp_path, "account-a.sqlite", range(1, 11))
    ledger(tmp_path, "account-b.sqlite", range(8, 18))
    (own, *_) = orjson.loads(run("account", cloud(tmp_path), "--json").stdout)
    (lost,) = own["lost"]
    assert (lost["first"], lost["last"], own["undeclared"]) == (18, 20, 3)


def test_without_ingest_there_is_nothing_to_show(tmp_path: Path) -> None:
    for command in ("fleet", "account"):
        found = run(command, cloud(tmp_path))
        assert found.exit_code != 0
        assert "has ingest run" in str(found.exception)
    ledger(tmp_path, "account.sqlite", range(1, 3))
    assert "no gateway nobody" in str(run("account", cloud(tmp_path), "--gateway", "nobody").exception)
