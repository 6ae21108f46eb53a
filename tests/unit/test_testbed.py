"""The testbed: what is well passes, each kind of trouble fails the requirement that names it, the rest is idle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway import quality as q
from gateway.errors import ConfigError
from gateway.testbed import report
from gateway.testbed.arrivals import Arrivals, Hole, Name, Rows
from gateway.testbed.requirements import REQUIREMENTS, Run, Verdict, judge
from gateway.testbed.run import _ages
from gateway.testbed.scenario import WatchOptions, load
from gateway.testbed.truth import Shown, Spell, read_log, truth
from gateway.testbed.watch import decoded

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "config" / "testbed"
SECOND = 10**9
BEGIN = 1_764_000_000_000_000_000
END = BEGIN + 40 * SECOND


def scenario(folder: Path, steps: str = "[]", more: str = "") -> Path:
    path = folder / "scenario.yaml"
    path.write_text(f"site: {SHIPPED / 'press-shop.yaml'}\nlasts: 40 s\nsteps: {steps}\n{more}")
    return path


def spells_of(path: Path) -> tuple[Spell, ...]:
    """Let the steps happen to the nanosecond."""
    return tuple(
        Spell(step, BEGIN + round(step.at * SECOND), BEGIN + round((step.at + (step.lasts or 1000)) * SECOND))
        for step in load(path).steps
    )


def scanned(shown: Shown, unreadable: tuple[str, ...] = ("drop", "hang", "silence", "exception")) -> Rows:
    """Give a tag's rows as a gateway without a fault has them: each scan, one Bad row where it cannot be read."""
    rows: list[tuple[int, Any, int]] = []
    away = False
    for time in range(BEGIN + SECOND // 4, END, shown.group.interval):
        now = np.array([time])
        lost = any(spell.during(now)[0] for spell in shown.of(*unreadable))
        if lost:
            rows += [] if away else [(time, None, q.BAD_NO_COMMUNICATION)]
        else:
            code = next((s.step.options.status or 0 for s in shown.of("status") if s.during(now)[0]), 0)
            stamp = time // shown.tick * shown.tick if shown.exact else time
            value = shown.value(np.array([stamp]))[0]
            if shown.tag.kind.value == "float64" and not shown.tag.minimum <= value <= shown.tag.maximum:
                code = q.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED
            rows.append((stamp, value, code))
        away = lost
    return Rows.of(shown.tag.kind, rows)


def well(folder: Path, steps: str = "[]", more: str = "") -> Run:
    """Give a run of a gateway that makes no mistake."""
    path = scenario(folder, steps, more)
    loaded, spells = load(path), spells_of(path)
    shown = truth(loaded.site, spells)
    arrivals = Arrivals({name: scanned(each) for name, each in shown.items()})
    return Run(loaded.site, shown, arrivals, BEGIN, END, loaded.allowed, spells, appended=arrivals.total)


def changed(run: Run, name: Name, keep: Any = None, **columns: Any) -> Run:
    """Give the run with a tag's rows changed, and only those that `keep` marks."""
    rows = replace(run.arrivals.rows[name], **columns)
    if keep is not None:
        rows = Rows(rows.time[keep], rows.value[keep], rows.quality[keep])
    return replace(run, arrivals=replace(run.arrivals, rows={**run.arrivals.rows, name: rows}), appended=None)


def failed(run: Run) -> set[str]:
    return {each.id for each in judge(run) if each.outcome == "failed"}


def outcomes(run: Run) -> dict[str, str]:
    return {each.id: each.outcome for each in judge(run)}


PRESSURE, TOTAL, PARTS = ("press-1", "oil-pressure"), ("boiler", "total"), ("press-1", "parts")
TROUBLE = """
- {at: 4 s, for: 6 s, link: press-line, fault: drop}
- {at: 4 s, for: 6 s, tag: boiler/pressure, fault: status, status: BadSensorFailure}
- {at: 22 s, for: 6 s, device: press-2, fault: silence}
- {at: 22 s, for: 8 s, tag: press-1/oil-pressure, fault: ramp, to: 400}
- {at: 32 s, for: 4 s, tag: boiler/total, fault: freeze}
"""
QUICK = "allow: {late: 1 s, recover: 5 s}\n"


def test_a_gateway_without_a_fault_passes_what_the_scenario_exercises_and_nothing_else(tmp_path: Path) -> None:
    quiet = outcomes(well(tmp_path))
    assert {id_ for id_, outcome in quiet.items() if outcome == "passed"} == {
        "PB-DATA-01", "PB-DATA-02", "PB-DATA-03", "PB-DATA-04", "PB-TIME-01", "PB-TIME-02"
    }  # fmt: skip
    assert set(quiet.values()) == {"passed", "not exercised"}
    verdicts = judge(well(tmp_path, TROUBLE, QUICK))
    assert [each.failures for each in verdicts if each.outcome == "failed"] == []
    trouble = {each.id: each.outcome for each in verdicts}
    for exercised in ("PB-QUAL-01", "PB-QUAL-02", "PB-FAULT-01", "PB-FAULT-02"):
        assert trouble[exercised] == "passed", exercised


def test_a_lost_reading_is_noticed_also_where_nobody_counts(tmp_path: Path) -> None:
    """Three scans of a counter that is always moving: the rows hold a value that the device has long left."""
    run = well(tmp_path, more="allow: {late: 500 ms}\n")
    rows = run.arrivals.rows[PARTS]
    hole = (rows.time < BEGIN + 20 * SECOND) | (rows.time > BEGIN + 22 * SECOND)
    assert failed(changed(run, PARTS, hole)) == {"PB-DATA-03"}
    lossy = changed(run, PARTS, hole)
    declared = Hole("press-1", "default", BEGIN + 20 * SECOND, BEGIN + 22 * SECOND)
    assert failed(replace(lossy, arrivals=replace(lossy.arrivals, gaps=(declared,)))) == set()


def test_a_tag_that_never_arrives_is_noticed(tmp_path: Path) -> None:
    run = well(tmp_path)
    assert failed(changed(run, PARTS, np.zeros(len(run.arrivals.rows[PARTS].time), bool))) == {"PB-DATA-03"}


def test_what_the_journal_has_and_the_store_has_not_is_missing(tmp_path: Path) -> None:
    run = well(tmp_path)
    assert failed(replace(run, appended=run.arrivals.total + 1)) == {"PB-DATA-01"}


@pytest.mark.parametrize("name", [PRESSURE, TOTAL, PARTS])
def test_one_distorted_value_is_a_wrong_value(tmp_path: Path, name: Name) -> None:
    run = well(tmp_path)
    value = run.arrivals.rows[name].value.copy()
    value[7] += 12_345
    assert "PB-DATA-02" in failed(changed(run, name, value=value))


def test_a_right_value_at_a_wrong_time_is_a_wrong_time(tmp_path: Path) -> None:
    run = well(tmp_path, more="allow: {late: 6 s}\n")
    assert failed(changed(run, TOTAL, time=run.arrivals.rows[TOTAL].time + 3 * SECOND)) == {"PB-TIME-01"}


def test_a_reading_that_is_there_twice_is_noticed(tmp_path: Path) -> None:
    run = well(tmp_path)
    twice = np.sort(np.r_[np.arange(len(run.arrivals.rows[TOTAL].time)), 5])
    assert failed(changed(run, TOTAL, twice)) == {"PB-DATA-04"}


def test_a_tag_that_is_silent_for_longer_than_max_silence_is_noticed(tmp_path: Path) -> None:
    run = well(tmp_path, "[{at: 1 s, for: 38 s, device: press-1, fault: freeze}]")
    rows = run.arrivals.rows["press-1", "guard-closed"]
    keep = (rows.time < BEGIN + 10 * SECOND) | (rows.time > BEGIN + 25 * SECOND)
    assert failed(changed(run, ("press-1", "guard-closed"), keep)) == {"PB-TIME-02"}


def test_a_status_that_is_dropped_and_a_value_past_its_limit_that_is_called_good_are_noticed(tmp_path: Path) -> None:
    run = well(tmp_path, TROUBLE, QUICK)
    rows = run.arrivals.rows["boiler", "pressure"]
    good = np.where(rows.quality == 0x808C0000, 0, rows.quality).astype(np.uint32)
    value = run.truth["boiler", "pressure"].value(rows.time)
    assert failed(changed(run, ("boiler", "pressure"), quality=good, value=value)) == {"PB-QUAL-01"}
    good = np.zeros(len(run.arrivals.rows[PRESSURE].time), np.uint32)
    good[run.arrivals.rows[PRESSURE].bad] = q.BAD_NO_COMMUNICATION
    assert failed(changed(run, PRESSURE, quality=good)) == {"PB-QUAL-02"}


def test_a_gateway_that_repeats_the_last_value_while_the_link_is_down_fails(tmp_path: Path) -> None:
    """The old sin: the last good value under a new time."""
    run = well(tmp_path, "[{at: 10 s, for: 10 s, link: press-line, fault: drop}]", QUICK)
    rows = run.arrivals.rows[PRESSURE]
    lost = int(np.flatnonzero(rows.bad)[0])
    stale = [(BEGIN + second * SECOND, rows.value[lost - 1], q.GOOD) for second in range(13, 20)]
    every = [*zip(rows.time.tolist(), rows.value.tolist(), rows.quality.tolist(), strict=True), *stale]
    repeated = Rows.of(run.truth[PRESSURE].tag.kind, every)
    run = replace(run, arrivals=replace(run.arrivals, rows={**run.arrivals.rows, PRESSURE: repeated}), appended=None)
    assert "PB-FAULT-01" in failed(run)
    assert any("nobody could read" in text for each in judge(run) for text in each.failures)


@pytest.mark.parametrize("change", ["no bad row", "two bad rows", "never back"])
def test_a_lost_link_that_is_not_told_or_not_recovered_from_fails(tmp_path: Path, change: str) -> None:
    run = well(tmp_path, "[{at: 10 s, for: 10 s, link: press-line, fault: drop}]", QUICK)
    rows = run.arrivals.rows[PRESSURE]
    lost = int(np.flatnonzero(rows.bad)[0])
    keep = {
        "no bad row": ~rows.bad,
        "two bad rows": np.sort(np.r_[np.arange(len(rows.time)), lost]),
        "never back": rows.time < BEGIN + 20 * SECOND,
    }[change]
    assert "PB-FAULT-01" in failed(changed(run, PRESSURE, keep))


def test_a_neighbour_that_suffers_from_a_silent_device_fails(tmp_path: Path) -> None:
    run = well(tmp_path, TROUBLE, QUICK)
    rows = run.arrivals.rows[PARTS]
    within = (rows.time > BEGIN + 24 * SECOND) & (rows.time < BEGIN + 25 * SECOND)
    code = np.where(within, q.BAD_TIMEOUT, rows.quality).astype(np.uint32)
    assert failed(changed(run, PARTS, quality=code)) == {"PB-FAULT-02"}


def test_what_an_outage_of_the_broker_swallowed_is_noticed(tmp_path: Path) -> None:
    run = replace(well(tmp_path, more=QUICK), outages=[(BEGIN + 10 * SECOND, BEGIN + 15 * SECOND)])
    assert outcomes(run)["PB-FAULT-03"] == "passed"
    rows = run.arrivals.rows[PARTS]
    keep = (rows.time < BEGIN + 10 * SECOND) | (rows.time > BEGIN + 15 * SECOND)
    assert failed(changed(run, PARTS, keep)) == {"PB-DATA-03", "PB-FAULT-03"}


def test_a_gateway_that_falls_behind_is_noticed_but_not_for_an_outage(tmp_path: Path) -> None:
    late = [(BEGIN + 10 * SECOND, 9 * SECOND)]
    run = replace(well(tmp_path), ages=late)
    assert failed(run) == {"PB-LAT-01"}
    assert outcomes(replace(run, outages=[(BEGIN + 5 * SECOND, BEGIN + 9 * SECOND)]))["PB-LAT-01"] == "not exercised"


def test_an_expected_requirement_without_an_occasion_is_no_success(tmp_path: Path) -> None:
    idle = next(each for each in judge(well(tmp_path), ["PB-FAULT-01"]) if each.id == "PB-FAULT-01")
    assert (idle.outcome, idle.off) == ("not exercised", True)
    assert report.summary([idle]) == (
        False, "0 passed, 0 failed, 1 not exercised; expected and not exercised: PB-FAULT-01"
    )  # fmt: skip


def test_the_same_seed_gives_the_same_faults_and_stalls(tmp_path: Path) -> None:
    path = scenario(
        tmp_path, "[{at: 5 s .. 20 s, for: 2 s .. 4 s, link: press-line, fault: drop}]",
        "seed: 5\nnetwork: lossy-wifi\nbroker: [{at: 10 s .. 20 s, for: 3 s, fault: drop}]\n",
    )  # fmt: skip
    one, two = load(path), load(path)
    assert one.disturbances() == two.disturbances()
    assert [(step.at, step.lasts) for step in one.steps] == [(step.at, step.lasts) for step in two.steps]
    assert {"down", "up", "mode", "delay", "bandwidth"} == {each.word for each in one.disturbances()}
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    assert load(path).disturbances() != one.disturbances()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("expect: [PB-DATA-10]\n", "there is no requirement 'PB-DATA-10'; did you mean PB-DATA-0"),
        ("network: 6g\n", "network"),
        ("broker: [{at: 5 s, fault: drop}]\n", "for"),
        ("lates: 3\n", "lates"),
    ],
)
def test_mistakes_in_a_scenario_are_told_with_their_place(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(scenario(tmp_path, more=more))
    assert any(message in str(each) and ":4:" in str(each) for each in caught.value.problems), caught.value


@pytest.mark.parametrize("name", ["line-trouble", "satellite"])
def test_shipped_scenarios_are_in_order(name: str) -> None:
    loaded = load(SHIPPED / f"{name}.yaml")
    assert loaded.options.expect
    assert max((step.at + (step.lasts or 0) for step in loaded.steps), default=0) < loaded.options.lasts


def test_the_real_times_of_steps_are_those_of_the_log(tmp_path: Path) -> None:
    steps = load(scenario(tmp_path, TROUBLE)).steps
    (tmp_path / "log").write_text('{"step": 1, "begin": 7}\n{"step": 0, "begin": 5}\n{"step": 1, "end": 9}\n')
    found = read_log(tmp_path / "log", steps)
    assert [(each.step, each.begin) for each in found] == [(steps[0], 5), (steps[1], 7)]
    assert found[1].end == 9
    assert found[0].end > END


def test_the_reports_say_what_failed_and_on_which_scenario(tmp_path: Path) -> None:
    from gateway.acceptance.report import About

    about = About("press-shop", "trouble.yaml (site.yaml)", "now", "Li", "bench", "1.0")
    verdicts = [
        Verdict("PB-DATA-02", "No <value> differs", "failed", 9, tuple(f"press-1/a|b is {n}" for n in range(30))),
        Verdict("PB-QUAL-01", "A StatusCode", "not exercised", 0),
    ]
    page = report.html(about, "site: <x>", verdicts)
    assert "<h1>Testbed report: trouble.yaml</h1>" in page
    assert '<tr class="idle"><td class=tag>PB-QUAL-01' in page, "what nobody looked at is not shown as fine"
    assert 'class="result fail"' in page
    assert "No &lt;value&gt; differs" in page
    assert "and 10 more" in page
    assert "site: &lt;x&gt;" in page
    text = report.markdown(about, "site: x", verdicts)
    assert "| PB-DATA-02 | No <value> differs | failed | 9 | 30 |" in text
    assert "- press-1/a|b is 0" in text


def test_the_page_of_requirements_names_each_of_them_and_no_other() -> None:
    """docs/conformance/requirements.md is what people read; it and the code hold each other."""
    for name in ("requirements.md", "requirements.zh-CN.md"):
        text = (ROOT / "docs" / "conformance" / name).read_text(encoding="utf-8")
        assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `PB-")] == list(REQUIREMENTS)


# ------------------------------------------------------------------------------------------------ other gateways

KEYS = WatchOptions.model_validate({"device": "topic 2", "tag": "keys", "value": "values", "time": "ts"})


def messages(run: Run, distort: Any = lambda name, place, value: value) -> list[tuple[int, str, bytes]]:
    """Give what a gateway would publish that sends an object of tags for each device and scan, times in ms."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for (device, tag), rows in run.arrivals.rows.items():
        columns = (rows.time.tolist(), rows.value.tolist(), rows.quality.tolist())
        for place, (time, value, code) in enumerate(zip(*columns, strict=True)):
            sent = distort((device, tag), place, None if code >= q.BAD else value)
            if sent is not Ellipsis:
                found.setdefault((device, time), {})[tag] = sent
    return [
        (time + SECOND // 20, f"plant/{device}", json.dumps({"ts": time // 10**6, "values": values}).encode())
        for (device, time), values in sorted(found.items(), key=lambda item: item[0][1])
    ]


def watched(run: Run, sent: list[tuple[int, str, bytes]], options: WatchOptions = KEYS) -> Run:
    shown = {name: replace(each, strange=True) for name, each in run.truth.items()}
    arrivals = decoded(sent, options, shown)
    ages = _ages(arrivals, run.begin, run.end)
    return replace(run, truth=shown, arrivals=arrivals, ages=ages, appended=None, whole=False)


def test_another_gateway_that_does_well_passes_by_its_messages_alone(tmp_path: Path) -> None:
    run = well(tmp_path, "[{at: 10 s, for: 6 s, link: press-line, fault: drop}]", QUICK)
    seen = watched(run, messages(run))
    assert [each for each in judge(seen) if each.outcome == "failed"] == []
    found = outcomes(seen)
    assert found["PB-DATA-01"] == "not exercised", "nobody can look into its journal"
    assert {found[id_] for id_ in ("PB-DATA-02", "PB-DATA-03", "PB-FAULT-01", "PB-LAT-01")} == {"passed"}


def test_another_gateway_that_loses_and_distorts_readings_fails_what_it_breaks(tmp_path: Path) -> None:
    run = well(tmp_path, more="allow: {late: 500 ms}\n")

    def lose(name: Name, place: int, value: Any) -> Any:
        return Ellipsis if name == PARTS and 20 <= place < 26 else value

    def distort(name: Name, place: int, value: Any) -> Any:
        return value + 1000 if name == PRESSURE and place == 30 else value

    assert failed(watched(run, messages(run, lose))) == {"PB-DATA-03"}
    assert failed(watched(run, messages(run, distort))) == {"PB-DATA-02"}


def test_another_gateway_that_sends_no_quality_calls_good_what_is_not(tmp_path: Path) -> None:
    run = well(tmp_path, TROUBLE, QUICK)
    assert "PB-QUAL-02" in failed(watched(run, messages(run)))


@pytest.mark.parametrize(
    ("options", "topic", "body"),
    [
        ({"device": "topic 1", "tag": "topic 3"}, "press-1/v/oil-pressure", {"value": 1.5}),
        ({"device": "d", "tag": "n", "value": "v.x", "time": "t"}, "x",
         {"d": "press-1", "n": "oil-pressure", "v": {"x": 1.5}, "t": BEGIN // 10**9}),
        ({"device": "=press-1", "tag": "name", "readings": "list", "time": "t", "quality": "q"}, "x",
         {"list": [{"name": "oil-pressure", "value": 1.5, "t": "2025-11-24T16:00:00.000000Z", "q": 192}]}),
    ],
)  # fmt: skip
def test_messages_of_many_shapes_are_read(tmp_path: Path, options: dict[str, str], topic: str, body: Any) -> None:
    shown = truth(load(scenario(tmp_path)).site)
    found = decoded([(BEGIN, topic, json.dumps(body).encode())], WatchOptions.model_validate(options), shown)
    rows = found.rows[PRESSURE]
    assert (rows.value.tolist(), rows.quality.tolist(), rows.time.tolist()) == ([1.5], [0], [BEGIN])


def test_messages_that_are_none_are_counted_with_an_example(tmp_path: Path) -> None:
    shown = truth(load(scenario(tmp_path)).site)
    found = decoded([(BEGIN, "plant/press-1", b"\xff{"), (BEGIN, "plant/x", b'{"ts":1,"values":{"a":1}}')], KEYS, shown)
    assert (found.total, found.others, len(found.examples)) == (0, 2, 2)
