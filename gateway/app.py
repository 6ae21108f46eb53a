"""The composition root: a checked configuration in, one TaskGroup out, and an ordered shutdown.

This is the one place where names become objects. Start: journal, then the declaration of the time the gateway was
away, then publishers, then pollers. Stop: pollers (no new readings), journal (all on disk), publishers (what is on
disk is sent within a few seconds, the rest waits for the next start), journal closed. An exception in a poller's
driver stays there; a JournalError ends the process, and the service manager starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Final

import structlog

from gateway import __version__, codec
from gateway.contracts import Driver, Encoder, Resuming, Sink
from gateway.control import Access, Control
from gateway.conversation import Conversation, Desk, FileMemory
from gateway.dialects.dialogue import Dialogue
from gateway.dialects.ingest import Accounted
from gateway.dialects.native import Native
from gateway.encoders import dialogue_for, encoder_for
from gateway.encoders.current import Current
from gateway.errors import ConfigError, Problem
from gateway.health import Health, heartbeat, notify, serve
from gateway.journal import Journal
from gateway.local.plant import Plant
from gateway.local.room import Room
from gateway.metrics import Metrics
from gateway.model import Batch, Gap, Group, Link, TagTable
from gateway.names import driver_spec
from gateway.options import PublisherOptions
from gateway.pipeline import Pipeline, Tap
from gateway.poller import Poller
from gateway.publisher import Publisher
from gateway.ranges import Range
from gateway.selection import Selection
from gateway.sinks import dialogue_sink, hearing_sink, sink_for
from gateway.site import Site
from gateway.statements import Summary

log = structlog.get_logger()

DRAIN: Final = 5.0  # s that publishers have on shutdown to send what is on disk
FLUSH: Final = 5.0  # s that a full disk may hold up the shutdown
LONGEST_SLOT: Final = 60 * 10**9  # ns


async def run(site: Site, stop: asyncio.Event) -> None:
    """Run the edge daemon until `stop` is set. Raises ConfigError before any I/O, JournalError, GatewayError."""
    metrics, health, tap, started = Metrics(), Health(), Tap(), time.time_ns()
    drivers, selections = _drivers(site), _selections(site)
    dialogues = _dialogues(site, selections)
    directory = site.data / site.journal.directory
    journal = await Journal.open(directory, site.journal, site.publishers, codec.pack_gap, metrics)
    health.journal = lambda: journal.trouble
    try:
        end_http = serve(site.metrics.listen, metrics, health) if site.metrics.listen else _nothing
        try:
            resumed = _recall(journal, drivers)
            _declare_absence(journal, site.links, resumed)
            current = Current()
            seen = current.take if dialogues else None
            pollers = {
                link.name: _poller(link, driver, journal, metrics, health, seen, tap) for link, driver in drivers
            }
            control = None
            if site.commands is not None:
                control = Control(site.commands, site.data, site.links, pollers, metrics, health)
                await control.open()
            publishers = _publishers(site, journal, metrics, health, dialogues, current, selections, control)
            room = Room(Plant(site, pollers, publishers, journal, metrics, health, tap, started))
            await room.open()
            try:
                await _live(list(pollers.values()), publishers, journal, health, control, stop)
            finally:
                await room.close()
        finally:
            end_http()
    finally:
        await journal.close()
        notify("STOPPING=1")


def _nothing() -> None:
    return


def _groups(links: Sequence[Link]) -> Iterator[Group]:
    return (group for link in links for device in link.devices for group in device.groups)


def _drivers(site: Site) -> list[tuple[Link, Driver]]:
    """Open every link's driver and try its plans, so that what cannot be planned is said before any I/O."""
    drivers: list[tuple[Link, Driver]] = []
    problems: list[Problem] = []
    for link in site.links:
        driver = driver_spec(link.driver).open(link)
        drivers.append((link, driver))
        for device in link.devices:
            for group in device.groups:
                try:
                    driver.plan(group.tables)
                except ConfigError as error:
                    problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return drivers


def _poller(
    link: Link,
    driver: Driver,
    journal: Journal,
    metrics: Metrics,
    health: Health,
    seen: Callable[[Batch], None] | None,
    tap: Tap,
) -> Poller:
    pipelines = {
        (group.device, group.name): Pipeline(group, journal, metrics, seen, tap)
        for device in link.devices
        for group in device.groups
    }
    return Poller(link, driver, pipelines, metrics, health, journal.wait_room, keep=journal.mark)


def _tables(site: Site) -> list[TagTable]:
    return [table for group in _groups(site.links) for table in group.tables]


def _selections(site: Site) -> dict[str, Selection]:
    """Make the selections of the publishers that do not tell everything."""
    tables = _tables(site)
    return {
        name: Selection(options.tags, tables) for name, options in site.publishers.items() if options.tags is not None
    }


def _dialogues(site: Site, selections: Mapping[str, Selection]) -> dict[str, Dialogue]:
    """Make the dialogues of the publishers whose formats are conversations. Raises ConfigError."""
    every = _tables(site)
    dialogues: dict[str, Dialogue] = {}
    problems: list[Problem] = []
    for name, options in site.publishers.items():
        memory = FileMemory(site.data / "publishers" / f"{name}.json")
        tables = selections[name].tables(every) if name in selections else every
        try:
            dialogue = dialogue_for(name, options, site.gateway, tables, memory, may_command(site, options))
        except ValueError as error:
            problems.append(Problem("", 0, 0, f"publish.{name}", str(error)))
            continue
        if dialogue is not None:
            dialogues[name] = dialogue
    if problems:
        raise ConfigError(problems)
    return dialogues


def may_command(site: Site, options: PublisherOptions) -> bool:
    """Whether values may be set through this publisher."""
    return site.commands is not None and options.commands == "on"


def _desk(site: Site, name: str, control: Control, selection: Selection | None) -> Desk:
    """Give the place where a publisher's commands go."""
    options = site.publishers[name]
    own = options.format in ("columns", "json")
    # several publishers of one broker hear the same command, where the topic is our own
    scope = " ".join((*options.url, options.prefix(site.gateway))) if own else name
    origin = selection.origin if selection is not None else lambda device, tag: (device, tag)
    access = Access(name, scope, own or options.format in ("sparkplug", "aws"), origin)
    largest = site.commands.largest if site.commands is not None else 0
    return Desk(
        functools.partial(control.execute, access),
        functools.partial(control.refused, access),
        functools.partial(control.answers, access),
        largest,
    )


def _publishers(
    site: Site,
    journal: Journal,
    metrics: Metrics,
    health: Health,
    dialogues: Mapping[str, Dialogue],
    current: Current,
    selections: Mapping[str, Selection],
    control: Control | None,
) -> list[Publisher]:
    letters, tables = site.data / "dead-letters", _tables(site)
    publishers: list[Publisher] = []
    for name, options in site.publishers.items():
        selection, talk, newest = selections.get(name), None, current.batches
        commanding = control is not None and may_command(site, options)
        desk = _desk(site, name, control, selection) if control is not None and commanding else None
        sink: Sink
        encoder: Encoder
        if (dialogue := dialogues.get(name)) is not None:
            sink = speaking = dialogue_sink(name, options, site.gateway, dialogue)
            encoder = dialogue
            if selection is not None:
                newest = functools.partial(_selected, current, selection)
            talk = Conversation(name, dialogue, speaking, newest, desk)
        elif desk is not None or options.format == "columns":
            native = Native(site.gateway, options.prefix(site.gateway), time.time_ns) if desk is not None else None
            speech: Accounted | Native
            if options.format == "columns":
                summary = functools.partial(_summary, site, name, journal)
                stored = functools.partial(_stored, publishers, len(publishers))
                hears = stored if options.acknowledge == "store" else None
                speech = Accounted(options.prefix(site.gateway), summary, options.key, native, hears)
            else:
                assert native is not None
                speech = native
            sink = hearing = hearing_sink(name, options, site.gateway, speech.subscriptions())
            encoder = encoder_for(options, site.gateway, journal.id, site.places)
            talk = Conversation(name, speech, hearing, newest, desk)
        else:
            sink = sink_for(name, options, site.gateway)
            encoder = encoder_for(options, site.gateway, journal.id, site.places)
        publishers.append(
            Publisher(
                name, options, site.gateway, journal, sink, encoder, metrics, health, letters,
                conversation=talk, selection=selection, tables=tables if options.widen > 1 else (),
                memory=FileMemory(site.data / "publishers" / f"{name}.budget.json") if options.budget else None,
            )
        )  # fmt: skip
    return publishers


def _summary(site: Site, name: str, journal: Journal) -> Summary:
    """Say what a publisher of the native format has settled of the journal."""
    options = site.publishers[name]
    complete = options.tags is None and options.widen == 1
    totals, waiting = journal.totals(), tuple(journal.pending(name))
    return Summary(
        site.gateway,
        journal.id,
        name,
        time.time_ns(),
        journal.committed,
        totals.appended,
        waiting,
        complete,
        __version__,
        options.acknowledge == "store",
    )


def _stored(publishers: Sequence[Publisher], number: int, runs: Sequence[Range]) -> None:
    publishers[number].stored(runs)


def _selected(current: Current, selection: Selection) -> list[Batch]:
    """Give the newest readings that a publisher may tell."""
    return selection.batches(current.batches())


def _recall(journal: Journal, drivers: Sequence[tuple[Link, Driver]]) -> set[tuple[str, str]]:
    """Give drivers the marks that the last run left; give the groups whose absence they see to themselves."""
    resumed: set[tuple[str, str]] = set()
    for link, driver in drivers:
        if isinstance(driver, Resuming) and link.name in journal.marks:
            resumed |= driver.recall(journal.marks[link.name])
    return resumed


def _declare_absence(journal: Journal, links: Sequence[Link], resumed: Set[tuple[str, str]] = frozenset()) -> None:
    """Say in the data that nothing was read between the last committed reading and now.

    The gap begins with the slot that was under way: of two devices on a line the second may have had no turn in it.
    Groups that are `resumed` have theirs filled, or declared, once their peer is there.
    """
    last, now = journal.last_time, time.time_ns()
    if not last:
        return
    slot = max((min(group.interval, LONGEST_SLOT) for group in _groups(links)), default=0)
    absent = [(group.device, group.name) for group in _groups(links)]
    for device, name in [("", "")] if not resumed else [each for each in absent if each not in resumed]:
        gap = Gap(device, name, min(last, now) - slot, now, "the gateway was not running")
        journal.append(codec.pack_gap(gap), 0, gap.start, gap.end)


async def _live(
    pollers: list[Poller],
    publishers: list[Publisher],
    journal: Journal,
    health: Health,
    control: Control | None,
    stop: asyncio.Event,
) -> None:
    async with asyncio.TaskGroup() as group:
        orders = [group.create_task(control.run(), name="control")] if control is not None else []
        beat = group.create_task(heartbeat(health), name="heartbeat")
        watch = group.create_task(_watch(journal), name="journal")
        north = [group.create_task(publisher.run(), name="publisher") for publisher in publishers]
        south = [group.create_task(poller.run(), name="poller") for poller in pollers]
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        await _end(south)
        with contextlib.suppress(TimeoutError):  # `close` tries for some seconds more, and says what is lost
            async with asyncio.timeout(FLUSH):
                await journal.flush()
        await asyncio.gather(*(publisher.drain(DRAIN) for publisher in publishers))
        await _end([*north, *orders, beat, watch])
        if control is not None:
            await control.close()


async def _watch(journal: Journal) -> None:
    """Notice that the journal has failed, also while devices and brokers are away and nobody asks it for anything."""
    while True:
        await journal.wait_committed(journal.committed)  # raises JournalError


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
