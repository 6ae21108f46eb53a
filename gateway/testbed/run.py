"""Running a scenario: the whole path, or simulators and another gateway's messages; what comes of it is a Run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gateway.config import Site, load_site
from gateway.errors import GatewayError
from gateway.folded import dump
from gateway.journal.survey import survey
from gateway.options import LogOptions, MetricsOptions, PublisherOptions
from gateway.testbed.arrivals import Arrivals, newest, stored
from gateway.testbed.processes import Chain, Plan
from gateway.testbed.requirements import SECOND, Run
from gateway.testbed.scenario import Disturbance, Scenario
from gateway.testbed.truth import Spell, read_log, truth
from simulators.scenario import plain

LOOK: Final = 0.5  # s between looks at how old the newest reading is
Say = Callable[[str], Any]


def path_of(scenario: Scenario, data: Path) -> Chain:
    """Give the processes of a scenario's whole path, below a directory."""
    words = (*_simulated(scenario, data), "--free-ports")
    plan = Plan(scenario.site_path, _write, lambda chain: _edge(scenario, chain), words, True)
    return Chain(data, plan)


def run(scenario: Scenario, chain: Chain, say: Say) -> Run:
    """Run the whole path for the scenario's time, and end it in order. Raises GatewayError."""
    chain.start()
    _begin(chain.data)
    begin = time.time_ns()
    ages: list[tuple[int, int]] = []

    def look() -> None:
        chain.watch()  # raises where a process has ended by itself
        with contextlib.suppress(GatewayError, OSError, EOFError):
            seen = newest(chain.database, scenario.site.gateway)
            now = time.time_ns()
            ages.append((now, now - (seen or begin)))

    outages = _wait(scenario, chain, look, say)
    end = time.time_ns()
    say("Ending in order: edge daemon, ingest, broker, simulators")
    chain.stop()
    site = _site(scenario, chain)
    spells = _spells(scenario, chain.data)
    return Run(
        site=scenario.site,
        truth=truth(scenario.site, spells),
        arrivals=stored(chain.database, scenario.site.gateway),
        begin=begin,
        end=end,
        spells=spells,
        outages=outages,
        allowed=scenario.allowed,
        appended=survey(site.data / site.journal.directory).appended,
        ages=ages,
    )


def watched(scenario: Scenario, data: Path, url: str, patience: float, say: Say) -> Run:
    """Simulate the site's devices for another gateway, and take its messages for what arrived. Raises GatewayError."""
    from gateway.testbed.watch import Watcher, decoded

    chain = Chain(
        data, Plan(scenario.site_path, lambda _chain: None, lambda _chain: ((), None), _simulated(scenario, data))
    )
    chain.logs.mkdir(parents=True, exist_ok=True)
    chain.links.unlink(missing_ok=True)
    try:
        with Watcher(url) as watcher:
            chain.simulate()
            chain.await_simulators()
            for link, address in json.loads(chain.links.read_text()).items():
                say(f"{link} is simulated at {address}")
            say(f"Waiting for the first message on {watcher.topic}")
            if not watcher.wait(patience):
                raise GatewayError(f"no message came on {watcher.topic} within {patience:g} s: does the gateway run?")
            _begin(data)
            begin = time.time_ns()
            _wait(scenario, None, watcher.check, say)
            end = time.time_ns()
            messages = watcher.messages
    finally:
        chain.stop()
    spells = _spells(scenario, data)
    shown = {name: replace(each, strange=True) for name, each in truth(scenario.site, spells).items()}
    arrivals = decoded(messages, scenario.options.watch, shown)
    if not arrivals.total:
        example = arrivals.examples[0] if arrivals.examples else ""
        raise GatewayError(f"no message could be read as readings of this site's tags; look at `watch:` ({example})")
    return Run(
        site=scenario.site,
        truth=shown,
        arrivals=arrivals,
        begin=begin,
        end=end,
        spells=spells,
        allowed=scenario.allowed,
        ages=_ages(arrivals, begin, end),
        whole=False,
    )


def _ages(arrivals: Arrivals, begin: int, end: int) -> list[tuple[int, int]]:
    """Give how old the newest reading was that had arrived, at moments LOOK apart."""
    came = sorted(
        (at, at_source)
        for rows in arrivals.rows.values()
        if rows.arrived is not None
        for at, at_source in zip(rows.arrived.tolist(), rows.time.tolist(), strict=True)
    )
    found, place, newest_ = [], 0, 0
    for now in range(begin + SECOND, end, round(LOOK * SECOND)):
        while place < len(came) and came[place][0] <= now:
            newest_ = max(newest_, came[place][1])
            place += 1
        found.append((now, now - (newest_ or begin)))
    return found


def _wait(scenario: Scenario, chain: Chain | None, look: Callable[[], Any], say: Say) -> list[tuple[int, int]]:
    """Let the scenario's time pass, and the broker suffer; give when it could not be reached (ns)."""
    started = time.monotonic()
    waiting: list[Disturbance] = scenario.disturbances() if chain is not None else []
    outages: list[tuple[int, int]] = []
    down: int | None = None
    hung = {begin: end for begin, end, fault in scenario.outages if fault == "hang"}
    while (passed := time.monotonic() - started) < scenario.options.lasts:
        while chain is not None and waiting and waiting[0].at <= passed:
            each = waiting.pop(0)
            chain.disturb(each.word, each.argument)
            if each.word == "down" or each.at in hung:
                down = time.time_ns()
                say(f"{each.at:.1f} s: the broker cannot be reached")
            elif down is not None and (each.word == "up" or each.at in hung.values()):
                outages.append((down, time.time_ns()))
                down = None
                say(f"{each.at:.1f} s: the broker is back")
        look()
        next_ = waiting[0].at if waiting else scenario.options.lasts
        time.sleep(max(0.0, min(LOOK, next_ - passed, scenario.options.lasts - passed)))
    if chain is not None:
        for each in waiting:
            chain.disturb(each.word, each.argument)
    return [*outages, *([(down, time.time_ns())] if down is not None else [])]


# ------------------------------------------------------------------------------------------------ files


def _simulated(scenario: Scenario, data: Path) -> Sequence[str]:
    """Write the steps, and give the simulators' arguments for them."""
    data.mkdir(parents=True, exist_ok=True)
    log, begin, steps = data / "steps.jsonl", data / "begin", data / "steps.yaml"
    begin.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    words = ["--log", str(log), "--when", str(begin), "--pki", str(data / "simulator-pki")]
    if scenario.steps:
        steps.write_text(json.dumps(plain(scenario.steps), indent=1) + "\n", encoding="utf-8")
        words += ["--scenario", str(steps)]
    return words


def _begin(data: Path) -> None:
    """Let the scenario's steps begin."""
    (data / "begin").touch()


def _spells(scenario: Scenario, data: Path) -> tuple[Spell, ...]:
    return read_log(data / "steps.jsonl", scenario.steps)


def _site(scenario: Scenario, chain: Chain) -> Site:
    """Give the site as the edge daemon runs it: with simulated links, and this path's broker and directory."""
    urls = json.loads(chain.links.read_text())
    site = load_site(scenario.site_path, links=urls, secrets=False)
    publisher = PublisherOptions.model_validate(
        {"url": f"mqtt://127.0.0.1:{chain.proxy_port or chain.broker_port}", "version": "3.1.1", "retry_longest": "5 s"}
    )
    return replace(
        site,
        data=chain.data / "edge",
        publishers={"testbed": publisher},
        metrics=MetricsOptions(listen=f"127.0.0.1:{chain.edge_port}"),
        log=LogOptions(),
        commands=None,
        watch=False,
    )


def _edge(scenario: Scenario, chain: Chain) -> tuple[Sequence[str], Path]:
    """Compile the site for the edge daemon, which takes it from a file that it inherits."""
    compiled = chain.data / "site.pickle"
    with compiled.open("wb") as file:
        dump(_site(scenario, chain), file)
    return ("-m", "gateway.daemon", "{}", str(scenario.site_path)), compiled


def _write(chain: Chain) -> None:
    """Write the cloud side's file."""
    cloud = {
        "data": "cloud",
        "broker": {"url": f"mqtt://127.0.0.1:{chain.broker_port}", "version": "3.1.1"},
        "store": {"type": "duckdb", "path": "plantbridge.duckdb"},
        "metrics": {"listen": f"127.0.0.1:{chain.ingest_port}"},
    }
    chain.cloud.write_text(json.dumps(cloud, indent=1) + "\n", encoding="utf-8")
