"""A scenario: what goes wrong in a simulated site, when and for how long. A YAML file of its own, beside the site file.

    seed: 7                                # for times that are ranges; the same seed gives the same run
    steps:
    - {at: 30 s, for: 10 s, link: press-line, fault: drop}
    - {at: 20 s .. 60 s, for: 5 s, tag: boiler/pressure, fault: status, status: BadSensorFailure}
    - {at: 40 s, for: 20 s, tag: press-1/oil-pressure, fault: ramp, to: 400}

`at` counts from the start of the simulator. Without `for` a fault stays until the end (a restart: until it is over).
Each step names a link, a device (DEVICE) or a tag (DEVICE/TAG); FAULTS says which of them a fault goes with, which keys
it takes, and whose protocol knows it. What has ended is as it was before: a step that ends heals its own kind of fault
on its target, also where another step had begun the same.

All mistakes are found before anything starts. Nothing of a protocol is in here: `play` keeps the time and calls `begin`
with each step; what that gives is called when the step is over.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from gateway.config import Site
from gateway.config.document import Listing
from gateway.config.document import Mapping as Tree
from gateway.config.files import Files
from gateway.config.messages import Piece, check
from gateway.config.site import open_root
from gateway.errors import ConfigError
from gateway.model import Link
from gateway.options import Options, seconds

Heal = Callable[[], Awaitable[None]]
Name = Literal[
    "drop", "hang", "slow", "garble", "restart", "clock", "silence", "exception", "word-order", "freeze", "ramp",
    "status",
]  # fmt: skip
Target = Literal["link", "device", "tag"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What a fault goes with: targets, the protocols that know it (all where empty), keys that it needs or may take."""

    targets: tuple[Target, ...]
    drivers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


FAULTS: Final[dict[str, Fault]] = {
    "drop": Fault(("link",)),  # connections are reset, and refused
    "hang": Fault(("link",)),  # connections stay open, and nothing moves
    "slow": Fault(("link", "device", "tag"), needs=("delay",)),  # answers take longer
    "garble": Fault(("link",)),  # what the devices send is turned into nonsense
    "restart": Fault(("link",), takes=("reindex",)),  # refused meanwhile; what was written is forgotten
    "clock": Fault(("link",), ("opcua",), ("by",)),  # the server's clock, and so its times, is off
    "silence": Fault(("device",), ("modbus",)),  # requests stay unanswered
    "exception": Fault(("device",), ("modbus",), ("code",)),  # requests are answered with an exception
    "word-order": Fault(("device",), ("modbus",)),  # the registers of each value arrive the other way round
    "freeze": Fault(("device", "tag")),  # values stand still
    "ramp": Fault(("tag",), needs=("to",)),  # the value goes from where it is to another one
    "status": Fault(("device", "tag"), ("opcua",), ("status",)),  # another StatusCode than Good
}
PROXIED: Final = ("drop", "hang", "garble", "restart")
"""Faults of the connection, and `slow` where it is a link's: the simulator is put behind simulators.faults."""
STATUSES: Final = {
    "BadSensorFailure": 0x808C0000, "BadNotConnected": 0x808A0000, "BadDeviceFailure": 0x808B0000,
    "BadOutOfService": 0x808D0000, "BadCommunicationError": 0x80050000, "BadNoCommunication": 0x80310000,
    "BadConfigurationError": 0x80890000, "BadWaitingForInitialData": 0x80320000, "BadTimeout": 0x800A0000,
    "UncertainLastUsableValue": 0x40900000, "UncertainSensorNotAccurate": 0x40930000,
    "UncertainEngineeringUnitsExceeded": 0x40940000, "UncertainSubNormal": 0x40950000,
}  # fmt: skip
_PARAMETERS: Final = ("delay", "reindex", "by", "code", "to", "status")


def span(text: object) -> tuple[float, float]:
    """Read `30 s`, or a range such as `20 s .. 60 s`. Raises ValueError."""
    if isinstance(text, str) and ".." in text:
        low, _, high = text.partition("..")
        first, last = seconds(low), seconds(high)
        if first > last:
            raise ValueError(f"expected a range that begins with its smaller end, got {text!r}")
        return first, last
    return seconds(text), seconds(text)


def _signed(text: object) -> float:
    """Read `1 h` or `-1 h`. Raises ValueError."""
    if isinstance(text, str) and text.strip().startswith("-"):
        return -seconds(text.strip()[1:])
    return seconds(text)


def _status(text: object) -> int:
    """Read a StatusCode: its name, or its number. Raises ValueError."""
    if isinstance(text, str) and text in STATUSES:
        return STATUSES[text]
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text < 2**32:
        return text
    if isinstance(text, str) and re.fullmatch(r"0x[0-9A-Fa-f]{8}", text):
        return int(text, 16)
    raise ValueError(f"expected 0x808C0000, or one of {', '.join(STATUSES)}, got {text!r}")


class StepOptions(Options):
    """One step: when, what is hit, and how."""

    at: Annotated[tuple[float, float], BeforeValidator(span)]
    """Since the start of the simulator: 30 s, or 20 s .. 60 s."""
    lasts: Annotated[tuple[float, float] | None, BeforeValidator(span)] = Field(default=None, alias="for")
    """For how long; until the end where not given."""
    fault: Name
    link: str | None = None
    """A link's name."""
    device: str | None = None
    """A device's name."""
    tag: str | None = None
    """A tag's full name: DEVICE/TAG."""
    delay: Annotated[float, BeforeValidator(seconds)] | None = None
    """slow: how much longer an answer takes."""
    code: int | None = Field(default=None, ge=1, le=255)
    """exception: the exception code."""
    to: float | None = None
    """ramp: the value at its end, in engineering units."""
    status: Annotated[int, BeforeValidator(_status)] | None = None
    """status: the StatusCode."""
    by: Annotated[float, BeforeValidator(_signed)] | None = None
    """clock: how far ahead; with a minus behind."""
    reindex: bool | None = None
    """restart of an OPC UA server: give namespaces other indexes."""


class _Frame(Options):
    """The keys around the steps."""

    seed: int = 0
    """Where the times that are ranges come from."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step with its names looked up and its times drawn. `device` and `tag` are empty where it hits all of them."""

    at: float  # s
    lasts: float | None  # s; None: to the end
    fault: str
    link: str
    device: str
    tag: str
    options: StepOptions

    @property
    def proxied(self) -> bool:
        """Whether it is a fault of the connection."""
        return self.fault in PROXIED or (self.fault == "slow" and not self.device)

    def __str__(self) -> str:
        return f"{self.fault} {'/'.join(part for part in (self.device, self.tag) if part) or self.link}"


def load_scenario(path: Path, site: Site) -> tuple[Step, ...]:
    """Read a scenario for a site; give its steps in their order in time. Raises ConfigError with every problem."""
    files = Files(path.parent)
    tree = open_root(path, files, "a scenario has the key steps")
    frame, _ = check(_Frame, Piece(tree, (), tree.mark, ("steps",)), files)
    found = steps_of(tree, files, site, frame.seed if frame is not None else 0)
    if any(each.severity == "error" for each in files.problems):
        raise ConfigError(files.found())
    return found


def steps_of(tree: Tree, files: Files, site: Site, seed: int) -> tuple[Step, ...]:
    """Read the key `steps` of a file for a site; what is wrong goes to `files`."""
    chance = random.Random(seed)
    listed = tree.get("steps")
    found: list[Step] = []
    if not isinstance(listed, Listing):
        mark = tree.value_at("steps") if "steps" in tree else tree.mark
        files.report(mark, ("steps",), "expected a list of steps", "steps: [{at: 30 s, for: 10 s, link: NAME, ...}]")
        return ()
    for index, entry in enumerate(listed):
        place, mark = ("steps", index), listed.at(index)
        if not isinstance(entry, Tree):
            files.report(mark, place, "expected a step", "{at: 30 s, for: 10 s, link: NAME, fault: drop}")
            continue
        options, good = check(StepOptions, Piece(entry, place, mark), files)
        if options is None or not good:
            continue
        link, reason, hint = _fits(options, site)
        if link is None:
            files.report(mark, place, reason, hint)
        else:
            found.append(_drawn(options, link, chance))
    return tuple(sorted(found, key=lambda step: step.at))


def plain(steps: Sequence[Step]) -> dict[str, Any]:
    """Give a scenario of these steps, at the times that were drawn, as it is written in YAML."""
    return {"steps": [_plain(step) for step in steps]}


def _plain(step: Step) -> dict[str, Any]:
    given = step.options.model_dump(exclude_none=True, exclude={"at", "lasts"})
    for name in {"delay", "by"} & set(given):
        given[name] = f"{given[name]:.6f} s"
    times = {"at": f"{step.at:.6f} s", **({} if step.lasts is None else {"for": f"{step.lasts:.6f} s"})}
    return {**times, **given}


def _fits(options: StepOptions, site: Site) -> tuple[Link | None, str, str]:
    """Give the step's link; or None, what is wrong, and a hint."""
    fault = FAULTS[options.fault]
    targets = [name for name in ("link", "device", "tag") if getattr(options, name) is not None]
    if len(targets) != 1 or targets[0] not in fault.targets:
        return None, f"{options.fault} goes with {' or '.join(fault.targets)}", f"give one {fault.targets[0]}: NAME"
    for name in _PARAMETERS:
        given = getattr(options, name) is not None
        if given and name not in (*fault.needs, *fault.takes):
            return None, f"{name} has no meaning for {options.fault}", f"remove {name}"
        if not given and name in fault.needs:
            return None, f"{options.fault} needs the key {name}", ""
    link = _link_of(options, site)
    if link is None:
        return None, f"the site has no {targets[0]} {getattr(options, targets[0])}", "names are those of the site file"
    known = fault.drivers or ("modbus", "opcua")
    if link.driver not in known:
        return None, f"{options.fault} is for {' and '.join(known)}, and {link.name} is {link.driver}", ""
    if options.fault == "slow" and options.tag and link.driver != "opcua":
        return None, "a device answers for many tags at once", f"give device: {options.tag.partition('/')[0]}"
    if options.fault == "ramp" and options.lasts is None:
        return None, "ramp needs the key for", "the value gets there in the first half, and stays in the second"
    if options.reindex and link.driver != "opcua":
        return None, "reindex is for opcua", "remove reindex"
    by_datagrams = getattr(getattr(link.options, "endpoint", None), "transport", "") == "udp"
    if by_datagrams and targets == ["link"]:
        return None, f"{link.name} is UDP: it has no connection", "use silence with its devices"
    return link, "", ""


def _link_of(options: StepOptions, site: Site) -> Link | None:
    device, _, tag = (options.tag or "").partition("/")
    for link in site.links:
        if options.link is not None:
            if link.name == options.link:
                return link
            continue
        for each in link.devices:
            if options.device == each.name:
                return link
            if options.tag is not None and each.name == device:
                tags = (one.name for group in each.groups for table in group.tables for one in table.tags)
                return link if tag in tags else None
    return None


def _drawn(options: StepOptions, link: Link, chance: random.Random) -> Step:
    device, _, tag = (options.tag or "").partition("/")
    lasts = None if options.lasts is None else chance.uniform(*options.lasts)
    if options.fault == "restart" and lasts is None:
        lasts = 0.0
    return Step(chance.uniform(*options.at), lasts, options.fault, link.name, options.device or device, tag, options)


async def play(
    steps: Sequence[Step], begin: Callable[[Step], Awaitable[Heal]], say: Callable[[str], Any] = lambda _text: None
) -> None:
    """Carry out the steps at their times, the first clock being now; return when the last is over."""
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def carry_out(step: Step) -> None:
        await asyncio.sleep(start + step.at - loop.time())
        say(f"{step.at:g} s: {step}" + (f" for {step.lasts:g} s" if step.lasts else ""))
        heal = await begin(step)
        if step.lasts is not None:
            await asyncio.sleep(start + step.at + step.lasts - loop.time())
            await heal()
            say(f"{loop.time() - start:.1f} s: {step} is over")

    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(carry_out(step))
