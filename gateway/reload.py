"""A new configuration while the old one runs: check it, change what differs, watch it prove itself, or go back.

    asked ──compile (another process)──▶ differs? ──change──▶ on probation ──all came up──▶ applied
                 └▶ refused                └▶ unchanged            └──not within `probation`──▶ the old one returns

- Asked by SIGHUP, by `plantbridge reload`, or, with `watch`, by a change of the files that has come to rest.
- On probation are devices that answered before and are read in another way now. One that does not answer in time takes
  the whole change back: ERROR in the log, a problem in /healthz, exit 1 of `plantbridge reload`. What was read in the
  meantime stays in the journal.
- To ask again during a probation ends it: the next change is then held against what ran before both.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import orjson
import structlog

from gateway.changes import Changes, compare, watched
from gateway.contracts import Said
from gateway.errors import GatewayError, JournalError
from gateway.health import Health
from gateway.learned import Learned
from gateway.memory import Forgetful
from gateway.site import Site
from gateway.versions import APPLIED, PROBATION, REPLACED, ROLLED_BACK, Version, Versions

log = structlog.get_logger()

COMPILE: Final = 300.0  # s that reading and checking may take
LOOK: Final = 0.1  # s between looks at devices on probation
WATCH: Final = 1.0  # s between looks at the files

_T = TypeVar("_T")
_Looks = dict[str, tuple[int, ...]]

UNCHANGED: Final = "unchanged"
REFUSED: Final = "refused"
RESTART: Final = "needs a restart"
EXIT: Final = {APPLIED: 0, UNCHANGED: 0, REFUSED: 2, RESTART: 1, ROLLED_BACK: 1}
"""What `plantbridge reload` exits with."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a reload: one of the keys of EXIT, and lines for people."""

    outcome: str
    lines: tuple[str, ...] = ()


class Running(Protocol):
    """What runs: gateway.app.Gateway."""

    site: Site

    @property
    def answering(self) -> set[str]:
        """The devices that answer, as they are defined now."""
        ...

    async def change(self, site: Site, changes: Changes) -> None:
        """Run `site` instead. Raises GatewayError with nothing done."""
        ...


class Reload:
    """The configuration of one running gateway."""

    def __init__(
        self, running: Running, health: Health, clock: Callable[[], int] = time.time_ns, learned: Learned | None = None
    ) -> None:
        self._running = running
        self._health = health
        self._clock = clock
        self._learned = learned if learned is not None else Learned(Forgetful())
        self._news = False  # a device has said what its tags are, and that is not in what runs
        self._versions = Versions(running.site.data)
        self._asked = asyncio.Event()
        self._by = ""
        self._waiting: list[asyncio.Future[Result]] = []
        self._proven = running.site  # what to go back to
        self._version: Version | None = None  # that is on probation
        self._known: _Looks = {}  # how the files looked when they were loaded last
        self._answered: set[str] = set()  # the devices that answered when it was left

    def ask(self, by: str) -> asyncio.Future[Result]:
        """Have the files loaded; asked again meanwhile, they are loaded once more. Gives what becomes of it."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._by = by
        self._waiting.append(done)
        self._asked.set()
        return done

    def learn(self, said: Sequence[Said]) -> bool:
        """Take what a device says of its tags; true where it is new: the link is then started again with it."""
        try:
            news = self._learned.take(said)
        except OSError as error:
            log.warning("What a device says of its tags cannot be kept; it is asked again.", error=str(error))
            return False
        if news:
            self._news = True
            self._asked.set()
        return news

    async def run(self) -> None:
        """Load when asked to, until cancelled. Raises JournalError."""
        await self._record(self._running.site, "start", APPLIED)
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            if self._news:
                await self._contained(self._retell())
            if waiting:
                result = await self._contained(self._load(self._by))
                for done in waiting:
                    if not done.done():
                        done.set_result(result)
            if self._on_probation and not self._asked.is_set():  # what ran before a refused one is so still
                await self._contained(self._prove(Result(APPLIED)))

    async def _contained(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Let a defect cost the reload, not the daemon. Raises JournalError."""
        try:
            return await work
        except JournalError:
            raise
        except Exception as error:
            log.exception("A reload met a defect; what runs may be part old, part new: restart the gateway.")
            self._health.configuration(f"a reload met a defect ({error!r}): restart the gateway")
            self._proven = self._running.site
            return Result(RESTART, (f"a defect in the gateway: {error!r}; please report it with the log",))

    @property
    def _on_probation(self) -> bool:
        return self._proven is not self._running.site

    # ------------------------------------------------------------------------------------------------ one reload

    async def _load(self, by: str) -> Result:
        old = self._running.site
        self._known = await asyncio.to_thread(_looks, old)
        try:
            fresh = self._learned.fill(await compiled(old))
            changes, new = await asyncio.to_thread(compare, old, fresh)
            if changes.restart:
                return self._needs_restart(changes)
            answering = self._running.answering
            if changes:
                await self._running.change(new, changes)
        except GatewayError as error:
            return self._refused(error)
        if not changes:
            self._running.site = new
            if self._proven is old:
                return await self._unchanged(new, by)
        elif self._proven is old:
            self._answered = answering
        lines = tuple(changes.told())
        self._health.configuration("")
        if changes:
            log.info("A new configuration is applied.", changes=lines, by=by)
        await self._settle(REPLACED)
        self._version = await self._record(new, by, PROBATION)
        return await self._prove(Result(APPLIED, lines))

    async def _retell(self) -> Result:
        """Run with what devices have said of their tags; the files are not looked at."""
        self._news, old = False, self._running.site
        changes, new = await asyncio.to_thread(lambda: compare(old, self._learned.fill(old)))
        if changes:
            try:
                await self._running.change(new, changes)
            except GatewayError as error:
                log.warning("Units and ranges of devices cannot be taken.", error=str(error))
                return Result(REFUSED)
            log.info("Units and ranges are taken from devices.", devices=changes.devices.changed)
        if self._proven is old:
            self._proven = self._running.site
        return Result(APPLIED)

    async def _prove(self, result: Result) -> Result:
        """Wait until every device on probation answers; go back where one does not."""
        site = self._running.site
        wanted = await asyncio.to_thread(watched, self._proven, site) & self._answered if site.probation else set()
        deadline = asyncio.get_running_loop().time() + site.probation
        while silent := wanted - self._running.answering:
            if self._news:
                self._asked.clear()
                await self._retell()
                if self._waiting:
                    self._asked.set()
            if self._asked.is_set():
                note = f"its probation was ended by another reload before {', '.join(sorted(silent))} answered"
                return Result(APPLIED, (*result.lines, note))
            if asyncio.get_running_loop().time() >= deadline:
                return await self._return(silent)
            await asyncio.sleep(LOOK)
        self._proven = self._running.site
        await self._settle(APPLIED)
        return result

    async def _return(self, silent: set[str]) -> Result:
        """Let the old definition return, loudly."""
        home = {device.name: link.name for link in self._running.site.links for device in link.devices}
        why = "; ".join(
            f"{name}: {self._health.reason('devices', name) or self._health.reason('links', home[name]) or 'no answer'}"
            for name in sorted(silent)
        )
        reason = f"not up within {self._running.site.probation:g} s: {why}"
        changes, old = await asyncio.to_thread(compare, self._running.site, self._learned.fill(self._proven))
        await self._running.change(old, changes)
        self._proven = self._running.site
        log.error("The new configuration was taken back, the old one runs again.", reason=reason)
        self._health.configuration(
            f"the configuration in the files was taken back and the one before it runs ({reason}): mend the files and"
            " reload, or `plantbridge config rollback`"
        )
        await self._settle(ROLLED_BACK, reason)
        return Result(ROLLED_BACK, (reason, "the configuration before it runs again"))

    def _refused(self, error: GatewayError) -> Result:
        lines = tuple(str(error).splitlines())
        log.error("The new configuration is refused, the old one stays.", problems=lines)
        self._health.configuration(f"the configuration in the files is refused, the one before it runs: {lines[0]}")
        return Result(REFUSED, lines)

    def _needs_restart(self, changes: Changes) -> Result:
        keys = ", ".join(changes.restart)
        log.error("The new configuration needs a restart of the gateway; nothing of it is applied.", keys=keys)
        self._health.configuration(f"the configuration in the files waits for a restart of the gateway: {keys}")
        return Result(RESTART, (f"only a restart of the gateway changes {keys}; nothing is applied",))

    async def _unchanged(self, new: Site, by: str) -> Result:
        """The files say what runs already; their text may have changed."""
        self._proven = new
        self._health.configuration("")
        await self._record(new, by, APPLIED)
        return Result(UNCHANGED)

    # ------------------------------------------------------------------------------------------------ what is kept

    async def _record(self, site: Site, by: str, outcome: str) -> Version | None:
        return await self._on_disk(lambda: self._versions.record(site.sources, by, outcome, self._clock()))

    async def _settle(self, outcome: str, reason: str = "") -> None:
        version, self._version = self._version, None
        if version is not None:
            await self._on_disk(lambda: self._versions.settle(version, outcome, reason))

    async def _on_disk(self, work: Callable[[], _T]) -> _T | None:
        """Write something that a full disk costs, and nothing else."""
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            log.warning("The history of configurations cannot be written.", error=str(error))
            return None

    # ------------------------------------------------------------------------------------------------ asking

    async def watch(self) -> None:
        """Ask when the files have changed and then stood still for a look, until cancelled. Off while `watch` is."""
        self._known = seen = await asyncio.to_thread(_looks, self._running.site)
        while True:
            await asyncio.sleep(WATCH)
            if not self._running.site.watch:
                continue
            last, seen = seen, await asyncio.to_thread(_looks, self._running.site)
            if seen == last and seen != self._known:
                self._known = seen
                self.ask("watch")


def _looks(site: Site) -> _Looks:
    """Give what changes when somebody writes one of the site's files, or puts a YAML file beside them."""
    paths = {*map(str, site.files)}
    for folder in {path.parent for path in site.sources}:
        try:
            with os.scandir(folder) as entries:
                paths |= {entry.path for entry in entries if entry.name.endswith((".yaml", ".yml"))}
        except OSError:
            continue
    found: _Looks = {}
    for path in paths:
        try:
            stat = os.stat(path)
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            found[path] = ()
    return found


async def compiled(site: Site) -> Site:
    """Read, check and compile the files of a site in another process. Raises ConfigError, GatewayError."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "gateway.compile", str(site.path),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(COMPILE):
            out, said = await child.communicate(orjson.dumps(dict(site.urls)))
    except TimeoutError as error:
        raise GatewayError(f"reading the configuration took more than {COMPILE:g} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        text = said.decode(errors="replace").strip() or f"reading the configuration ended with {child.returncode}"
        raise GatewayError(text)
    made: Site = await asyncio.to_thread(pickle.loads, out)
    return made


def on_hangup(ask: Callable[[], object], end: Callable[[], object]) -> Callable[[], object]:
    """Call `ask` on SIGHUP, and `end` where it says that our terminal is gone; give the function that ends this."""
    if not hasattr(signal, "SIGHUP"):
        return bool
    loop, terminal = asyncio.get_running_loop(), os.isatty(2)
    try:
        loop.add_signal_handler(signal.SIGHUP, lambda: ask() if os.isatty(2) == terminal else end())
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread: somebody else has the signals
        return bool
    return lambda: loop.remove_signal_handler(signal.SIGHUP)
