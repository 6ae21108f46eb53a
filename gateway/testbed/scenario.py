"""A testbed's scenario: which site is run, for how long, what goes wrong, and which requirements must be shown.

    site: site.yaml                        # relative to this file
    lasts: 40 s
    seed: 7                                # for times that are ranges, and for the stalls of a network
    network: satellite                     # between the gateway and its broker: a name of NETWORKS
    steps:                                 # as `simulate --scenario` takes them; `at` counts from when all is up
    - {at: 10 s, for: 8 s, link: press-line, fault: drop}
    broker:                                # what happens to the broker: drop (refused), hang (nothing moves)
    - {at: 25 s, for: 5 s, fault: drop}
    expect: [PB-DATA-01, PB-FAULT-01]      # must be passed: "not exercised" is then a failure
    allow: {late: 2 s, recover: 20 s, age: 5 s}
    watch: {...}                           # how another gateway's messages are read (gateway.testbed.watch)

The site file's own publishers are left out: one in format columns goes to the testbed's broker. All mistakes are found
before anything starts.
"""

from __future__ import annotations

import difflib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator

from gateway.config import Site, load_site
from gateway.config.files import Files
from gateway.config.messages import Piece, check
from gateway.config.site import open_root
from gateway.errors import ConfigError
from gateway.options import Duration, Options
from gateway.testbed.requirements import REQUIREMENTS, Allowed
from simulators.scenario import Step, span, steps_of


@dataclass(frozen=True, slots=True)
class Network:
    """What a network does to a connection. TCP hides loss: what a user sees of it is stalls."""

    delay: float  # s, each way
    bandwidth: int  # bytes/s, each way
    stall_every: float = 0.0  # s, on average; 0: never
    stall: float = 0.0  # s, at most


NETWORKS: Final = {
    "5g": Network(0.008, 6_000_000),
    "4g": Network(0.030, 1_250_000, 15.0, 0.4),
    "satellite": Network(0.300, 125_000),
    "lossy-wifi": Network(0.005, 1_500_000, 2.0, 0.8),
}
"""Presets: 5G SA, 4G, a geostationary satellite, a crowded wireless LAN in a hall. Round figures, not measurements."""


class AllowOptions(Options):
    """How much time a gateway has."""

    late: Duration = 2.0
    """Beyond a tag's interval, until a change is there."""
    recover: Duration = 20.0
    """After a fault, until all is as before."""
    age: Duration = 5.0
    """How old the newest reading may be."""


class BrokerOptions(Options):
    """Something that happens to the broker's connection."""

    at: Annotated[tuple[float, float], BeforeValidator(span)]
    """Since all was up: 25 s, or 20 s .. 30 s."""
    lasts: Annotated[tuple[float, float], BeforeValidator(span)] = Field(alias="for")
    """For how long."""
    fault: Literal["drop", "hang"]
    """drop: connections are reset and refused. hang: nothing moves."""


class WatchOptions(Options):
    """Where a message has what: `topic N` (level N of the topic, from 1), `=TEXT`, or a path of keys such as data.v."""

    device: str = "topic 1"
    """The device's name."""
    tag: str = "tag"
    """The tag's name; `keys`: each key of the object at `value` is a tag's."""
    value: str = "value"
    """The value; with `tag: keys` the object of them, and `.` the message itself."""
    time: str | None = None
    """Seconds to nanoseconds since 1970, or ISO 8601; where not given, when the message came."""
    quality: str | None = None
    """A StatusCode, an OPC DA quality, Good/Uncertain/Bad, or true/false; where not given, Good with a value."""
    readings: str | None = None
    """A list of readings in the message."""


class ScenarioOptions(Options):
    """The keys of a scenario, without its steps."""

    site: str
    """The site file, relative to this file."""
    lasts: Duration
    """How long it runs."""
    seed: int = 0
    """Where the times that are ranges come from."""
    network: Literal["5g", "4g", "satellite", "lossy-wifi"] | None = None
    """What is between the gateway and its broker."""
    broker: tuple[BrokerOptions, ...] = ()
    """What happens to the broker."""
    expect: tuple[str, ...] = ()
    """Requirements that must be passed."""
    allow: AllowOptions = AllowOptions()
    watch: WatchOptions = WatchOptions()

    @field_validator("expect")
    @classmethod
    def _are_known(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        for each in ids:
            if each not in REQUIREMENTS:
                near = difflib.get_close_matches(each, REQUIREMENTS, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(REQUIREMENTS)}"
                raise ValueError(f"there is no requirement {each!r}; {hint}")
        return ids


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A word for the proxy in front of the broker, and when (s)."""

    at: float
    word: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario with its site loaded, its names looked up and its times drawn."""

    path: Path
    site_path: Path
    site: Site
    options: ScenarioOptions
    steps: tuple[Step, ...]
    outages: tuple[tuple[float, float, str], ...]  # begin, end (s), fault

    @property
    def allowed(self) -> Allowed:
        allow = self.options.allow
        return Allowed(allow.late, allow.recover, allow.age)

    def disturbances(self) -> list[Disturbance]:
        """Give what the proxy in front of the broker is told, in order; the same for the same seed."""
        found = []
        network = NETWORKS.get(self.options.network or "")
        if network is not None:
            found += [
                Disturbance(0.0, "delay", str(network.delay)),
                Disturbance(0.0, "bandwidth", str(network.bandwidth)),
            ]
            chance = random.Random(self.options.seed)
            at = chance.expovariate(1 / network.stall_every) if network.stall_every else self.options.lasts
            while at < self.options.lasts:
                length = chance.uniform(network.stall / 4, network.stall)
                if not any(begin < at + length and end > at for begin, end, _ in self.outages):
                    found += [Disturbance(at, "mode", "hold"), Disturbance(at + length, "mode", "forward")]
                at += length + chance.expovariate(1 / network.stall_every)
        for begin, end, fault in self.outages:
            if fault == "drop":
                found += [Disturbance(begin, "down"), Disturbance(end, "up")]
            else:
                found += [Disturbance(begin, "mode", "hold"), Disturbance(end, "mode", "forward")]
        return sorted(found, key=lambda each: each.at)


def load(path: Path) -> Scenario:
    """Read a scenario and its site. Raises ConfigError with every problem."""
    files = Files(path.parent)
    tree = open_root(path, files, "a scenario has the keys site, lasts, steps")
    options, good = check(ScenarioOptions, Piece(tree, (), tree.mark, ("steps",)), files)
    if options is None or not good:
        raise ConfigError(files.found())
    site_path = path.parent / options.site
    site = load_site(site_path, secrets=False)
    steps = steps_of(tree, files, site, options.seed) if "steps" in tree else ()
    if any(each.severity == "error" for each in files.problems):
        raise ConfigError(files.found())
    chance = random.Random(options.seed + 1)
    drawn = [(chance.uniform(*each.at), chance.uniform(*each.lasts), each.fault) for each in options.broker]
    outages = tuple(sorted((at, at + lasts, fault) for at, lasts, fault in drawn))
    return Scenario(path, site_path, site, options, steps, outages)
