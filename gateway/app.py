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
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final

from gateway import codec
from gateway import quality as q
from gateway.changes import Changes
from gateway.clock import LOOK, MARK, Clock
from gateway.contracts import Adaptable, Driver, Resuming
from gateway.control import Control
from gateway.encoders.current import Current
from gateway.errors import ConfigError, JournalError, Problem
from gateway.health import Health, heartbeat, notify, serve
from gateway.journal import Journal
from gateway.learned import Learned
from gateway.local.plant import Plant
from gateway.local.room import Room
from gateway.log import Threshold
from gateway.memory import FileMemory, Forgetful, Memory
from gateway.metrics import Metrics
from gateway.model import Gap, Group, Link
from gateway.names import open_driver
from gateway.northbound import Ground, Voices, publisher, voices
from gateway.pipeline import Pipeline, Tap
from gateway.poller import Learn, Poller, forgets
from gateway.publisher import Publisher
from gateway.reload import Reload, on_hangup
from gateway.site import Site

DRAIN: Final = 5.0  # s that publishers have on shutdown to send what is on disk
HANDOVER: Final = 2.0  # s that a publisher has to send what is on disk before a reload starts it again
FLUSH: Final = 5.0  # s that a full disk may hold up the shutdown
LONGEST_SLOT: Final = 60 * 10**9  # ns


async def run(site: Site, stop: asyncio.Event, threshold: Threshold | None = None) -> None:
    """Run the edge daemon until `stop` is set. Raises ConfigError before any I/O, JournalError, GatewayError.

    `threshold` is that of the log, for a reload to change.
    """
    metrics, health, tap, clock = Metrics(), Health(), Tap(), Clock(site.clock.wait)
    learned = Learned(FileMemory(site.data / "learned.json"))
    site = learned.fill(site)
    drivers, made = _drivers(site), voices(site, site.publishers)
    directory = site.data / site.journal.directory
    told: list[Gap] = []
    journal = await Journal.open(
        directory, site.journal, site.publishers, codec.pack_gap, metrics, clock.stamp, clock.aged,
        lambda journal: told.extend(_recall_clock(journal, clock)),
    )  # fmt: skip
    health.journal, health.clock = (lambda: journal.trouble), (lambda: clock.trouble)
    try:
        end_http = serve(site.metrics.listen, metrics, health) if site.metrics.listen else _nothing
        try:
            resumed = _recall(journal, drivers)
            await _keep_clock(journal, clock, told)
            clock.release()
            back = _declare_absence(journal, clock, site.links, resumed)
            plant = Plant(site, {}, [], journal, metrics, health, tap, clock.now(), clock)
            _count_equipment(plant)
            gateway = Gateway(plant, threshold)
            await gateway.build(drivers, made, back)
            reload = Reload(gateway, health, learned=learned)
            gateway.learn = reload.learn
            room = Room(plant, functools.partial(_reloaded, reload))
            await room.open()
            try:
                await _live(gateway, reload, stop)
            finally:
                await room.close()
        finally:
            end_http()
    finally:
        await journal.close()
        notify("STOPPING=1")


class Gateway:
    """What runs: a poller for each link, a publisher for each broker, and the journal between them.

    A reload changes it in place, and only what differs (gateway.changes): the others do not notice.
    """

    def __init__(self, plant: Plant, threshold: Threshold | None) -> None:
        self.plant = plant
        self._threshold = threshold
        self._current = Current()
        self.learn: Learn = forgets  # what devices say of their tags
        self.control: Control | None = None
        self._talking = False  # whether anybody needs `_current`
        self._pipelines: dict[tuple[str, str], Pipeline] = {}
        self._tasks: dict[Poller | Publisher, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def build(self, drivers: Sequence[tuple[Link, Driver]], made: Voices, back: int | None = None) -> None:
        """Make everything, before `start`. No scan is accounted for yet from `back` (ns) on."""
        plant, site = self.plant, self.plant.site
        self._talk(bool(made.dialogues))
        self._pipelines = self._lines(site.links, {})
        plant.pollers.update((link.name, self._poller(link, driver)) for link, driver in drivers)
        if back is not None:
            for poller in plant.pollers.values():
                poller.owe_since(back)
        if site.commands is not None:
            self.control = Control(site.commands, site.data, site.links, plant.pollers, plant.metrics, plant.health)
            await self.control.open()
        plant.publishers.extend(publisher(self._ground, site, name, made) for name in site.publishers)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to publish and to poll."""
        self._group = group
        for each in self.plant.publishers:
            self._begin(each)
        for poller in self.plant.pollers.values():
            self._begin(poller)

    async def stop(self) -> None:
        """End in order: no more readings, all of them on disk, and sent as far as that is quickly done."""
        journal = self.plant.journal
        await self._end(self.plant.pollers.values())
        with contextlib.suppress(TimeoutError):  # `close` tries for some seconds more, and says what is lost
            async with asyncio.timeout(FLUSH):
                await journal.flush()
        await self._silence(self.plant.publishers, DRAIN)

    # ------------------------------------------------------------------------------------------------ the clock

    async def mind_the_clock(self) -> None:
        """Look at the system's clock now and then, until cancelled. Raises JournalError."""
        plant = self.plant
        clock, journal, metrics = plant.clock, plant.journal, plant.metrics
        metrics.clock_known.set(clock.known)
        while True:
            await asyncio.sleep(LOOK)
            steps = clock.steps
            change = clock.look(journal.following, reachable=any(each.connected for each in plant.publishers))
            if change is None:
                continue
            for poller in plant.pollers.values():
                poller.moved(change.shift)
            plant.started += change.shift
            if not change.news:
                continue
            for line in self._pipelines.values():
                line.stepped()
            metrics.clock_known.set(clock.known)
            metrics.clock_steps.inc(clock.steps - steps)
            metrics.clock_step.set(clock.last_step[1] / 1e9)
            await _keep_clock(journal, clock, change.gaps)
            released = clock.release()
            for each in plant.publishers:
                each.renew("the clock was set")
                each.release(released)

    # ------------------------------------------------------------------------------------------------ a reload

    @property
    def site(self) -> Site:
        """The configuration that runs."""
        return self.plant.site

    @site.setter
    def site(self, site: Site) -> None:
        self.plant.site = site

    @property
    def answering(self) -> set[str]:
        """The devices that have answered since they were last changed, and have not been lost since."""
        return {name for poller in self.plant.pollers.values() for name in poller.answering}

    async def change(self, site: Site, changes: Changes) -> None:
        """Run `site` instead, of which what has not changed is the same objects. Raises GatewayError, nothing done."""
        plant, before = self.plant, {link.name: link for link in self.site.links}
        touched = [link for link in site.links if before.get(link.name) is not link]
        fresh = [link for link in touched if not self._adapts(link, changes)]
        drivers = [(link, open_driver(link)) for link in fresh]
        again = (*changes.publishers.added, *changes.publishers.changed, *changes.renewed)
        voices(site, again, _copied)  # whether they can be made; for good once those before them have ended
        if changes.publishers.added:
            await plant.journal.publish_to({**self.site.publishers, **site.publishers})
        self._talk(any(options.format not in ("columns", "json") for options in site.publishers.values()))
        old, self._pipelines = self._pipelines, self._lines(site.links, self._pipelines)
        await self._change_links(site, touched, drivers)
        self._retire(site, {key: line for key, line in old.items() if self._pipelines.get(key) is not line})
        if self.control is not None:
            self.control.adopt(site.links, plant.pollers)
        await self._change_publishers(site, {*again, *changes.publishers.removed}, again)
        self._forget(changes, {*old} - {*self._pipelines})
        if changes.level and self._threshold is not None:
            self._threshold.set(changes.level)
        self.site = site

    def _adapts(self, link: Link, changes: Changes) -> bool:
        """Whether a link can have other devices within its session."""
        poller = self.plant.pollers.get(link.name)
        return poller is not None and link.name not in changes.links.changed and isinstance(poller.driver, Adaptable)

    async def _change_links(self, site: Site, touched: Sequence[Link], drivers: Sequence[tuple[Link, Driver]]) -> None:
        pollers, fresh = self.plant.pollers, {link.name for link, _ in drivers}
        names = {link.name for link in site.links}
        ended = {name: poller for name, poller in pollers.items() if name in fresh or name not in names}
        await self._end(ended.values())
        kept = [link for link in touched if link.name not in fresh]
        try:
            await asyncio.gather(*(pollers[link.name].adapt(link, self._pipelines) for link in kept))
        except ConfigError as error:  # gateway.compile has made the same plans
            raise RuntimeError(f"the driver planned it before and does not now: {error}") from error
        made = {link.name: self._poller(link, driver, ended.get(link.name)) for link, driver in drivers}
        for name in ended:
            del pollers[name]
        pollers.update(made)
        for poller in made.values():
            self._begin(poller)

    async def _change_publishers(self, site: Site, ending: Set[str], again: Sequence[str]) -> None:
        plant = self.plant
        await self._silence([each for each in plant.publishers if each.name in ending], HANDOVER)
        self._current.keep(site.tables)
        made = voices(site, again)
        there = {each.name: each for each in plant.publishers if each.name not in ending}
        there |= {name: publisher(self._ground, site, name, made) for name in again}
        plant.publishers[:] = [there[name] for name in site.publishers]
        if {*site.publishers} != {*self.site.publishers}:
            with contextlib.suppress(JournalError):  # a full disk: those that are gone are forgotten at the next start
                await plant.journal.publish_to(site.publishers)
        for name in again:
            self._begin(there[name])

    def _retire(self, site: Site, lines: Mapping[tuple[str, str], Pipeline]) -> None:
        """Let the tags that are not configured any more end with a Bad row each."""
        names: dict[str, set[str]] = {}
        for table in site.tables:
            names.setdefault(table.device, set()).update(table.names)
        now = self.plant.clock.now()
        for (device, _), line in lines.items():
            line.retire(names.get(device, set()), now)

    def _forget(self, changes: Changes, groups: Set[tuple[str, str]]) -> None:
        """Take what is gone out of health and metrics."""
        health, metrics = self.plant.health, self.plant.metrics
        for kind, named in (("link", changes.links), ("device", changes.devices), ("publisher", changes.publishers)):
            for name in named.removed:
                health.forget(f"{kind}s", name)
                metrics.forget(**{kind: name})
        for device, group in groups:
            metrics.forget(device=device, group=group)

    # ------------------------------------------------------------------------------------------------ its parts

    @property
    def _ground(self) -> Ground:
        plant = self.plant
        return Ground(plant.journal, plant.metrics, plant.health, self._current, self.control, plant.clock)

    def _lines(
        self, links: Sequence[Link], there: Mapping[tuple[str, str], Pipeline]
    ) -> dict[tuple[str, str], Pipeline]:
        """Give the pipelines of all groups: those that are there for groups that are the same, else new ones."""
        plant, seen = self.plant, self._current.take if self._talking else None
        lines: dict[tuple[str, str], Pipeline] = {}
        for group in _groups(links):
            line = there.get((group.device, group.name))
            if line is None or line.group is not group:
                line = Pipeline(group, plant.journal, plant.metrics, seen, plant.tap, plant.clock)
            lines[group.device, group.name] = line
        return lines

    def _poller(self, link: Link, driver: Driver, before: Poller | None = None) -> Poller:
        """Make the poller of a link, to go on where another one of it has ended."""
        plant = self.plant
        poller = Poller(
            link, driver, self._pipelines, plant.metrics, plant.health, plant.journal.wait_room,
            clock=plant.clock.now, keep=plant.journal.mark, learn=lambda said: self.learn(said),
        )  # fmt: skip
        if before is None:
            return poller
        poller.resume(before.dues)
        resumed: Set[tuple[str, str]] = frozenset()
        if isinstance(driver, Resuming) and isinstance(before.driver, Resuming) and (mark := before.driver.mark()):
            resumed = driver.recall(mark)
        for key in before.subscribed - resumed:
            if key in self._pipelines:  # what the peer reports meanwhile is not heard
                self._pipelines[key].bad(q.BAD_NOT_CONNECTED, plant.clock.now())
        return poller

    def _talk(self, talking: bool) -> None:
        """Keep the newest readings from now on, where births need them and did not before."""
        if talking and not self._talking:
            for line in self._pipelines.values():
                line.seen = self._current.take
                line.forget()
        self._talking = self._talking or talking

    def _begin(self, part: Poller | Publisher) -> None:
        assert self._group is not None
        name = "poller" if isinstance(part, Poller) else "publisher"
        self._tasks[part] = self._group.create_task(part.run(), name=name)

    async def _silence(self, publishers: Sequence[Publisher], drain: float) -> None:
        """Let publishers send what is on disk for some seconds, and end them."""
        await asyncio.gather(*(each.drain(drain) for each in publishers))
        await self._end(publishers)

    async def _end(self, parts: Iterable[Poller | Publisher]) -> None:
        await _cancelled([self._tasks.pop(part) for part in list(parts) if part in self._tasks])


def _copied(path: Path) -> Memory:
    """Give a memory for trying: what is kept there, and nothing is kept."""
    return Forgetful(FileMemory(path).load())


async def _reloaded(reload: Reload) -> dict[str, Any]:
    """Answer `plantbridge reload`."""
    result = await reload.ask("reload")
    return {"outcome": result.outcome, "lines": list(result.lines)}


def _nothing() -> None:
    return


def _count_equipment(plant: Plant) -> None:
    """Have both halves of the connection rate counted whenever somebody looks at the metrics."""

    def counted() -> set[str]:
        return {each.name for each in plant.site.inventory if each.counted}

    plant.metrics.listed.set_function(lambda: len(counted()))
    plant.metrics.answering.set_function(lambda: len(counted() & plant.health.well("devices")))


def _groups(links: Sequence[Link]) -> Iterator[Group]:
    return (group for link in links for device in link.devices for group in device.groups)


def _drivers(site: Site) -> list[tuple[Link, Driver]]:
    """Open every link's driver and try its plans, so that what cannot be planned is said before any I/O."""
    drivers: list[tuple[Link, Driver]] = []
    problems: list[Problem] = []
    for link in site.links:
        driver = open_driver(link)
        drivers.append((link, driver))
        for device in link.devices:
            for group in device.groups:
                try:
                    driver.plan(group.tables)
                except ConfigError as error:
                    problems.extend(error.problems)
                except Exception as error:  # noqa: BLE001  a third party's driver may raise anything
                    place = (link.where.file, link.where.line, link.where.column)
                    path = f"links.{link.name}.devices.{group.device}.groups.{group.name}"
                    reason = f"a defect in the driver {link.driver}: it cannot plan this group: {error!r}"
                    problems.append(Problem(*place, path, reason, "leave the group out, and report it to its maker"))
    if problems:
        raise ConfigError(problems)
    return drivers


def _recall(journal: Journal, drivers: Sequence[tuple[Link, Driver]]) -> set[tuple[str, str]]:
    """Give drivers the marks that the last run left; give the groups whose absence they see to themselves."""
    resumed: set[tuple[str, str]] = set()
    for link, driver in drivers:
        if isinstance(driver, Resuming) and link.name in journal.marks:
            resumed |= driver.recall(journal.marks[link.name])
    return resumed


def _recall_clock(journal: Journal, clock: Clock) -> list[Gap]:
    """Let the clock go on from the last run, before it is first asked; give what is to be declared."""
    return clock.recall(journal.marks.get(MARK), journal.last_time, journal.first, journal.following)


async def _keep_clock(journal: Journal, clock: Clock, told: Iterable[Gap]) -> None:
    """Write down how the clock is, before anything is dated by it. Raises JournalError."""
    for gap in told:
        journal.append(codec.pack_gap(gap), 0, gap.start, gap.end)
    journal.mark(MARK, clock.mark())
    with contextlib.suppress(TimeoutError):  # a full disk: it must not hold up what would empty it
        async with asyncio.timeout(FLUSH):
            await journal.flush()


def _declare_absence(
    journal: Journal, clock: Clock, links: Sequence[Link], resumed: Set[tuple[str, str]] = frozenset()
) -> int | None:
    """Say in the data that nothing was read between the last committed reading and now; give now, if so (ns).

    The gap begins with the slot that was under way: of two devices on a line the second may have had no turn in it.
    Groups that are `resumed` have theirs filled, or declared, once their peer is there.
    """
    if not journal.last_time:
        return None
    back, (last, now) = clock.now(), clock.absence(journal.last_time, journal.committed)
    slot = max((min(group.interval, LONGEST_SLOT) for group in _groups(links)), default=0)
    absent = [(group.device, group.name) for group in _groups(links)]
    for device, name in [("", "")] if not resumed else [each for each in absent if each not in resumed]:
        gap = Gap(device, name, last - slot, now, "the gateway was not running")
        journal.append(codec.pack_gap(gap), 0, gap.start, gap.end)
    return back


async def _live(gateway: Gateway, reload: Reload, stop: asyncio.Event) -> None:
    journal, health, control = gateway.plant.journal, gateway.plant.health, gateway.control
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(control.run(), name="control")] if control is not None else []
        tasks.append(group.create_task(heartbeat(health), name="heartbeat"))
        tasks.append(group.create_task(_watch(journal), name="journal"))
        tasks.append(group.create_task(gateway.mind_the_clock(), name="clock"))
        gateway.start(group)
        changing = [group.create_task(reload.run(), name="reload"), group.create_task(reload.watch(), name="watch")]
        deaf = on_hangup(lambda: reload.ask("SIGHUP"), stop.set)
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        deaf()
        await _cancelled(changing)
        await gateway.stop()
        await _cancelled(tasks)
        if control is not None:
            await control.close()


async def _watch(journal: Journal) -> None:
    """Notice that the journal has failed, also while devices and brokers are away and nobody asks it for anything."""
    while True:
        await journal.wait_committed(journal.committed)  # raises JournalError


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
