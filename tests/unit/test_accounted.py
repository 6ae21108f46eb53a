"""What gateways and ingest tell each other of what is stored: who is believed, and what is an alarm."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import accounting
from gateway.accounting import Account
from gateway.dialects.ingest import FIRST, INTERVAL, Accounted
from gateway.health import Health
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.ranges import Range
from gateway.sealed import seal, unseal
from gateway.statements import Summary, read_stored, read_summary, write_stored, write_summary
from tests.unit.test_ledger import block

KEY, OTHER = "k" * 16, "o" * 16
SUMMARY = Summary("g", "j", "cloud", 5, 10, 20, ((7, 8),), True, "1.0", True)


def test_what_is_said_is_what_is_heard() -> None:
    for key in (None, KEY):
        heard = read_summary(write_summary(SUMMARY, key), key)
        assert heard == SUMMARY
        assert read_stored(write_stored("g", "j", [(1, 4), (9, 9)], key), key) == ("g", "j", [(1, 4), (9, 9)])


def test_who_has_a_key_believes_only_what_it_has_signed() -> None:
    """A false `stored` would make a gateway forget what nobody has."""
    signed, plain = write_stored("g", "j", [(1, 4)], KEY), write_stored("g", "j", [(1, 4)], None)
    with pytest.raises(ValueError, match="not signed"):
        read_stored(plain, KEY)
    with pytest.raises(ValueError, match="not by the key"):
        read_stored(signed, OTHER)
    with pytest.raises(ValueError, match="not by the key"):
        read_stored(signed.replace(b"[1,4]", b"[1,9]"), KEY)
    assert read_stored(signed, None) == ("g", "j", [(1, 4)])


NAMES = ["v", "gateway", "journal", "stored", "waiting", "publisher", "at", "committed", "readings", "signature"]
JSON = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.sampled_from(NAMES), x),
)


@given(st.binary() | JSON.map(orjson.dumps))
def test_whatever_comes_over_the_net_is_read_or_refused(payload: bytes) -> None:
    for read in (read_stored, read_summary):
        for key in (None, KEY):
            with contextlib.suppress(ValueError):  # and nothing else
                read(payload, key)


@given(st.dictionaries(st.text(min_size=1), st.integers(-(2**62), 2**62) | st.text(), min_size=1), st.text(min_size=1))
def test_a_seal_opens_with_its_key_whatever_is_inside(body: dict[str, Any], key: str) -> None:
    assert unseal(seal(body, key), key) == body


def talk(heard: list[Range], key: str | None = None) -> Accounted:
    return Accounted("p/g", ("g", "j"), lambda: SUMMARY, key, None, heard.extend)


def test_a_gateway_hears_of_its_own_journal_only() -> None:
    heard: list[Range] = []
    spoken = talk(heard)
    spoken.received("p/g/stored/w", write_stored("g", "j", [(1, 4)], None))
    spoken.received("p/g/stored/w", write_stored("g", "of-before", [(1, 99)], None))
    spoken.received("p/g/stored/w", write_stored("h", "j", [(1, 99)], None))
    assert heard == [(1, 4)]
    assert "not a JSON" in spoken.received("p/g/stored/w", b"[]").troubles[0]


def sums_up(spoken: Accounted, ticks: int) -> int:
    return sum(bool(spoken.tick().send) for _ in range(ticks))


def test_it_sums_up_soon_each_minute_and_when_it_goes() -> None:
    spoken = talk([])
    assert spoken.begin() == []
    assert sums_up(spoken, FIRST) == 1
    assert sums_up(spoken, INTERVAL) == 1
    (last,) = spoken.end()
    assert (last.topic, last.retain) == ("p/g/account/cloud", True)
    assert read_summary(last.payload, None) == SUMMARY


def test_a_broker_that_ends_sessions_over_a_summary_gets_none_from_then_on() -> None:
    """mosquitto does that over what its ACL forbids: the readings must go on."""
    spoken = talk([])
    for _ in range(2):
        spoken.begin()
        assert sums_up(spoken, FIRST) == 1
    spoken.begin()
    ticks = [spoken.tick() for _ in range(FIRST)]
    assert not any(each.send for each in ticks)
    assert "sums up no more" in ticks[-1].troubles[0]
    assert spoken.end() == []


def test_a_session_that_ends_for_another_reason_costs_no_summary() -> None:
    spoken = talk([])
    for _ in range(5):
        spoken.begin()
        assert sums_up(spoken, FIRST + 1) == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(accounting.time, "monotonic", lambda: now[0])
    return now


def account(tmp_path: Path, **more: bool) -> tuple[Account, Metrics, Health]:
    metrics, health = Metrics(), Health()
    return Account(Ledger(tmp_path / "account.sqlite"), "w", None, metrics, health, **more), metrics, health


def test_a_loss_is_an_alarm_once_it_cannot_be_on_its_way_any_more(tmp_path: Path, clock: list[float]) -> None:
    one, metrics, health = account(tmp_path)
    one.note([("p/g", block(1, 2, 5))])
    told = [("p/g/account/cloud", write_summary(Summary("g", "j", "cloud", 0, 6, 12, ()), None))]

    def lost() -> float | None:
        one.hear(told)
        return metrics.registry.get_sample_value("plantbridge_undeclared_records", {"gateway": "g"})

    assert lost() is None
    clock[0] = accounting.PATIENCE
    assert lost() == 2, "3 and 4: 5 has come since; 6 may wait in the broker"
    assert any("2 records were acknowledged" in str(problem) for problem in health.report()["problems"])
    clock[0] = accounting.LONG
    assert lost() == 3
    one.note([("p/g", block(3, 4, 6))])
    assert lost() == 0
    assert health.report()["problems"] == []


def test_only_who_waits_is_told_what_is_stored_but_workers_tell_each_other_all(tmp_path: Path) -> None:
    one, *_ = account(tmp_path)
    one.note([("p/g", block(1))])
    assert one.news() == []
    one.hear([("p/g/account/cloud", write_summary(SUMMARY, None))])
    ((topic, payload),) = one.news()
    assert (topic, read_stored(payload, None)) == ("p/g/stored/w", ("g", "j", [(1, 1)]))
    one.note([("p/g", block(2))])
    assert read_stored(one.news()[0][1], None)[2] == [(1, 2)]
    assert one.news() == []
    shared, *_ = account(tmp_path / "other", shared=True)
    shared.note([("p/g", block(4))])
    assert read_stored(shared.news()[0][1], None)[2] == [(4, 4)]


def test_what_makes_no_sense_is_given_back_with_why_and_the_rest_is_heard(tmp_path: Path) -> None:
    one, *_ = account(tmp_path, shared=True)
    good = ("p/g/stored/other", write_stored("g", "j", [(1, 3)], None))
    senseless = one.hear([("p/g/account/cloud", b"{}"), good, ("p/g/stored/w", b"our own, whatever it is")])
    assert [(topic, payload) for topic, payload, _ in senseless] == [("p/g/account/cloud", b"{}")]
    one.note([("p/g", block(4))])
    assert read_stored(one.news()[0][1], None)[2] == [(1, 4)]
