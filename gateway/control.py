"""The way of a command from outside to a device, one for all formats, and its way into the audit log.

    publisher ──Command──▶ admit ──▶ audit (on the disk) ──▶ write, read back ──▶ audit ──▶ reply
                              └── refused: audit, reply

- Admitted is what was not seen before (its key), is neither too old nor from the future, names tags that this
  publisher sees, that are `writable`, with values of their type and inside their limits, and comes slowly enough, while
  nobody has isolated the gateway. Of a command of which one value is refused nothing is written.
- Nothing is written that is not in the audit log first. Values go one after the other; after one that failed the rest
  is not tried. Age and isolation are looked at again right before each value.
- A command that was begun is finished and audited, whatever becomes of the session it came from. Its result is kept for
  a repetition; over a restart, a power cut too, the audit log is what it is remembered by. One that was cut off by
  the end of the process is not done again: its repetition is told that nobody knows.
- From outside, isolation can only be switched on, by whoever may command; a clock that is wrong is no hindrance to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog

from gateway import dialects
from gateway import quality as q
from gateway.audit import AuditError, AuditLog, Line, nanoseconds, recent, stamp
from gateway.commands import Cause, Refused, Result, as_text, prepare, refusal, result_of
from gateway.contracts import Driver, Write, Written
from gateway.dialects import Command, achieved
from gateway.errors import NotConnected
from gateway.health import Health
from gateway.isolation import Switch
from gateway.metrics import Metrics
from gateway.model import Link, Tag
from gateway.refusals import Allowance, Tally

if TYPE_CHECKING:
    from gateway.options import CommandOptions

log = structlog.get_logger()

SECOND: Final = 1_000_000_000
DIRECTORY: Final = "audit"  # below the data directory
_KEY: Final = 100  # characters of a key; a longer one is replaced by its hash
_LOOK: Final = 1.0  # s between looks at the switch, for metrics and the audit log

Origin = Callable[[str, str], tuple[str, str] | None]
"""Gives a tag's device and name in the site file by those that a publisher shows; None for what it does not show."""


class Writer(Protocol):
    """A link that values can be written to: gateway.poller.Poller."""

    @property
    def driver(self) -> Driver: ...

    async def write(self, write: Write, permit: Callable[[], None]) -> Written: ...


@dataclass(frozen=True, slots=True)
class _Step:
    """One value of a command, ready to be written."""

    tag: Tag
    write: Write
    writer: Writer


@dataclass(slots=True, eq=False)
class _Seen:
    """A command that was begun: what it said, and its results when it is done."""

    digest: str
    at: float  # s, of the loop's clock
    tags: tuple[str, ...]
    results: tuple[Result, ...] | None = None
    task: asyncio.Task[tuple[Result, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What one publisher may command. `scope` is where keys are unique: its own name, or shared with others."""

    publisher: str
    scope: str
    dated: bool  # whether its commands bear a time
    origin: Origin
    replies: Allowance = field(default_factory=lambda: Allowance(20.0), compare=False)  # to what is refused


class Control:
    """All commands of one gateway."""

    def __init__(
        self,
        options: CommandOptions,
        data: Path,
        links: Sequence[Link],
        writers: Mapping[str, Writer],
        metrics: Metrics,
        health: Health,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._options = options
        self.adopt(links, writers)
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self.switch = Switch(data)
        self._audit = AuditLog(data / DIRECTORY, options.audit)
        self._isolated = False  # also where the switch could not be written
        self._told: bool | None = None  # what the audit log and the metrics were last told of the switch
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._written: dict[tuple[str, str], float] = {}  # by device and tag, of the loop's clock
        self._allowance = Allowance(options.rate)
        self._tally = Tally()
        self._tasks: set[asyncio.Task[Any]] = set()

    def adopt(self, links: Sequence[Link], writers: Mapping[str, Writer]) -> None:
        """Let these tags be commanded, over these links."""
        self._writable: dict[tuple[str, str], tuple[Tag, Writer]] = {}
        self._names: dict[str, set[str]] = {}  # by device: all tags, of which names are enough
        for link, table in ((each, table) for each in links for table in each.tables):
            names = self._names.setdefault(table.device, set())
            for tag in table.tags:
                names.add(tag.name)
                if tag.writable is not None:
                    self._writable[table.device, tag.name] = tag, writers[link.name]

    # ------------------------------------------------------------------------------------------------ life

    async def open(self) -> None:
        """Remember what was commanded lately. A log that fails costs the commands, not the readings: never raises."""
        window = round(self._options.window * SECOND)
        try:
            entries = await asyncio.to_thread(recent, self._audit.directory, self._clock() - window)
        except OSError as error:
            entries = []
            self._unaudited(AuditError(f"the audit log cannot be read: {error}"))
        interrupted = self._recall(entries)
        for sequence in interrupted:
            await self._try_append({"event": "interrupted", "of": sequence})
        await self._try_append({"event": "started", "isolated": self.isolated, "interrupted": len(interrupted)})
        self._tell_switch()

    async def run(self) -> None:
        """Watch the switch, and write what was counted, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            self._look()

    async def close(self) -> None:
        """Finish what was begun, write what was counted."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in self._tally.due(float("inf")):
            self._post(entry)
        self._post({"event": "ended"})
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._audit.close()

    def _look(self) -> None:
        self._tell_switch()
        for entry in self._tally.due(asyncio.get_running_loop().time()):
            self._post(entry)
        border = asyncio.get_running_loop().time() - self._options.window
        while self._seen and next(iter(self._seen.values())).at < border:
            key = next(iter(self._seen))
            if self._seen[key].results is None:
                break
            del self._seen[key]

    def _recall(self, entries: Iterable[Mapping[str, Any]]) -> list[int]:
        """Take what was begun from the audit log; give the lines of what was never finished."""
        begun: dict[int, _Seen] = {}
        for entry in entries:
            try:
                if entry["event"] == "command":
                    age = max(0.0, (self._clock() - nanoseconds(entry["time"])) / SECOND)
                    at = asyncio.get_running_loop().time() - age
                    seen = _Seen(entry["digest"], at, tuple(entry["values"]))
                    begun[entry["sequence"]] = seen
                    if entry["key"]:
                        self._seen[entry["scope"], entry["key"]] = seen
                elif entry["event"] == "outcome" and (found := begun.pop(entry["of"], None)) is not None:
                    line = f"{entry['sequence']}:{entry['hash']}"
                    found.results = tuple(_result(each, line) for each in entry["results"])
            except (KeyError, TypeError, ValueError):
                continue  # `plantbridge audit-log verify` says what is wrong with it
        unknown = "the gateway ended while this was under way: it may or may not have been written, and is not repeated"
        for seen in begun.values():
            seen.results = tuple(Result(None, None, q.UNCERTAIN, unknown) for _ in seen.tags)
        return list(begun)

    # ------------------------------------------------------------------------------------------------ the switch

    @property
    def isolated(self) -> bool:
        """Whether all writes are stopped, now."""
        return self._isolated or self.switch.on

    def _tell_switch(self) -> None:
        """Tell health, metrics, log and audit log where the switch was set."""
        isolated = self.isolated
        said = self.switch.read()
        self._health.commands(isolated=isolated, reason=str(said) if said is not None else "")
        self._metrics.isolated.set(isolated)
        if isolated == self._told:
            return
        first, self._told = self._told is None, isolated
        if isolated:
            log.warning("All writes are stopped: the gateway is isolated.", reason=str(said) if said else "")
        elif not first:
            log.warning("Writes are allowed again: the gateway is not isolated any more.")
        if not first:
            self._post({"event": "isolation seen", "on": isolated, "by": said.by if said else ""})

    async def _isolate(self, access: Access, command: Command) -> None:
        """Stop all writes, now and over restarts."""
        if self.isolated:
            self._note(access, Cause.REPEATED, {"event": "repeated", **_about(access, command)}, "")
            return
        self._isolated = True
        by = f"{command.by or 'somebody'} through publisher {access.publisher}"
        try:
            await asyncio.to_thread(self.switch.isolate, by[:200], command.reason[:200], self._clock())
            self._isolated = False  # from here on the file says it
        except OSError as error:
            log.error("The gateway is isolated until it ends: the switch cannot be written.", error=str(error))  # noqa: TRY400
        self._tell_switch()
        await self._try_append({"event": "isolated", **_about(access, command), "reason": command.reason})

    # ------------------------------------------------------------------------------------------------ commands

    async def execute(self, access: Access, command: Command) -> Sequence[Result]:
        """Carry out a command, or refuse it: one result per value, in order. Never raises."""
        began = asyncio.get_running_loop().time()
        if len(command.key) > _KEY:
            command = replace(command, key=hashlib.sha256(command.key.encode(errors="replace")).hexdigest())
        try:
            if command.isolate:
                await self._isolate(access, command)
                results: Sequence[Result] = ()
                outcome = "isolated"
            else:
                outcome, results = await self._values(access, command)
        except Refused as refused:
            line = await self._refuse(access, command, refused)
            results = [refusal(refused, line)] * len(command.values)
            outcome = "refused"
        except Exception as error:
            log.exception("A command met a defect.", publisher=access.publisher)
            results = [Result(None, None, q.BAD_INTERNAL_ERROR, f"a defect in the gateway: {error!r}")] * len(
                command.values
            )
            outcome = "failed"
        self._metrics.commands.labels(access.publisher, outcome).inc()
        self._metrics.command_seconds.observe(asyncio.get_running_loop().time() - began)
        return results

    async def _values(self, access: Access, command: Command) -> tuple[str, Sequence[Result]]:
        key, digest = (access.scope, command.key), _digest(command)
        known = self._seen.get(key) if command.key else None
        if known is not None:
            return "repeated", await self._repeated(access, command, known, digest)
        steps, deadline = self._admit(access, command)
        seen = _Seen(digest, asyncio.get_running_loop().time(), tuple(tag for tag, _ in command.values))
        if command.key:
            self._seen[key] = seen
        seen.task = self._spawn(self._carry_out(access, command, seen, steps, deadline))
        results = await asyncio.shield(seen.task)
        return ("written" if all(map(achieved, results)) else "failed"), results

    async def _repeated(self, access: Access, command: Command, known: _Seen, digest: str) -> Sequence[Result]:
        if known.digest != digest:
            raise Refused("its id was used before, for another command", Cause.REPEATED)
        self._note(access, Cause.REPEATED, {"event": "repeated", **_about(access, command)}, command.device)
        if known.results is None and known.task is not None:
            return await asyncio.shield(known.task)
        return known.results or ()

    def _admit(self, access: Access, command: Command) -> tuple[list[_Step], float]:
        """Give what is to be written, and until when it may be begun (the loop's clock). Raises Refused."""
        if self.isolated:
            raise Refused("the gateway is isolated: nothing is written until somebody allows it there", Cause.ISOLATED)
        if not command.values:
            raise Refused("the command names no value", Cause.MALFORMED)
        if len(command.values) > self._options.values:
            raise Refused(f"{len(command.values)} values; at most {self._options.values} at once", Cause.TOO_LARGE)
        names = [tag for tag, _ in command.values]
        if len(set(names)) < len(names):
            raise Refused("the command names a tag twice", Cause.MALFORMED)
        left = self._fresh(access, command)
        steps = [self._step(access, command.device, tag, value) for tag, value in command.values]
        self._pace(steps)
        return steps, asyncio.get_running_loop().time() + left

    def _fresh(self, access: Access, command: Command) -> float:
        """Give how long the command may still be begun, in seconds. Raises Refused."""
        now, skew = self._clock(), self._options.clock_skew
        issued = command.issued or (0 if access.dated else command.arrived or now)
        if not issued:
            raise Refused("the command says no time: it could be any age", Cause.MALFORMED)
        age = (now - issued) / SECOND
        here = f"by this gateway's clock ({stamp(now)[:19]}Z)"
        if age < -skew:
            raise Refused(f"the command is from {-age:.1f} s in the future {here}: a clock is wrong", Cause.FUTURE)
        left = self._options.expires + skew - age
        if command.expires:
            left = min(left, (command.expires - now) / SECOND + skew)
        if left <= 0:
            most = f"commands expire after {self._options.expires:g} s"
            raise Refused(f"the command is {age:.1f} s old {here}; {most}, or when they say so", Cause.STALE)
        return left

    def _step(self, access: Access, device: str, name: str, value: object) -> _Step:
        origin = access.origin(device, name)
        if origin is None or origin[1] not in self._names.get(origin[0], ()):
            raise Refused(f"there is no tag {device}/{name}", Cause.UNKNOWN)
        found = self._writable.get(origin)
        if found is None:
            raise Refused(f"{name} is not writable", Cause.READ_ONLY)
        tag, writer = found
        return _Step(tag, prepare(writer.driver, origin[0], tag, as_text(tag, value)), writer)

    def _pace(self, steps: Sequence[_Step]) -> None:
        """Raise Refused where this comes too soon; otherwise it counts."""
        now = asyncio.get_running_loop().time()
        for step in steps:
            own = step.tag.writable.interval
            pause = self._options.tag_interval if own is None else own
            last = self._written.get((step.write.device, step.tag.name))
            if last is not None and now < last + pause:
                raise Refused(f"{step.tag.name} may be set every {pause:g} s only", Cause.TOO_FAST)
        if not self._allowance.take(now, len(steps)):
            raise Refused(f"more than {self._options.rate:g} values a second", Cause.TOO_FAST)
        for step in steps:
            self._written[step.write.device, step.tag.name] = now

    async def _carry_out(
        self, access: Access, command: Command, seen: _Seen, steps: Sequence[_Step], deadline: float
    ) -> tuple[Result, ...]:
        """Audit, write, audit. Never raises."""
        entry = {"event": "command", **_about(access, command), "scope": access.scope, "digest": seen.digest}
        try:
            line = await self._audit.append(entry)
        except AuditError as error:
            self._unaudited(error)
            self._seen.pop((access.scope, command.key), None)
            refused = Refused(f"nothing was written: {error}", Cause.UNAUDITED)
            seen.results = tuple(refusal(refused) for _ in steps)
            return seen.results
        results = await self._write_all(steps, deadline)
        said = [{**each, "tag": tag} for each, (tag, _) in zip(map(_said, results), command.values, strict=True)]
        mark = ""
        try:
            done = await self._audit.append({"event": "outcome", "of": line.sequence, "results": said})
            mark = str(done)
        except AuditError as error:
            self._unaudited(error, outcome=said)
        seen.results = tuple(Result(each.before, each.after, each.quality, each.reason, mark) for each in results)
        seen.task = None
        return seen.results

    async def _write_all(self, steps: Sequence[_Step], deadline: float) -> list[Result]:
        results: list[Result] = []
        for step in steps:
            results.append(await self._write(step, deadline))
            if not achieved(results[-1]):
                rest = Result(None, None, q.BAD_NO_DATA, f"not tried, for {step.tag.name} failed")
                return results + [rest] * (len(steps) - len(results))
        return results

    async def _write(self, step: _Step, deadline: float) -> Result:
        loop = asyncio.get_running_loop()

        def permit() -> None:
            if self.isolated:
                raise Refused("the gateway is isolated: nothing was written", Cause.ISOLATED)
            if loop.time() > deadline:
                raise Refused("it expired while it waited for the link: nothing was written", Cause.STALE)

        try:
            return result_of(step.tag, await step.writer.write(step.write, permit))
        except Refused as refused:
            return refusal(refused)
        except NotConnected as error:
            return Result(None, None, error.status, f"{error}; nothing was written")
        except Exception as error:
            log.exception("A command met a defect.", device=step.write.device)
            return Result(None, None, q.BAD_INTERNAL_ERROR, f"a defect in the gateway: {error!r}")

    # ------------------------------------------------------------------------------------------------ refusals

    async def _refuse(self, access: Access, command: Command, refused: Refused) -> str:
        """Audit a refusal; give its line where it has one of its own."""
        entry = {"event": "refused", "cause": refused.cause, "reason": str(refused), **_about(access, command)}
        if not self._count(access, refused.cause, command.device, 1):
            return ""
        try:
            line: Line = await self._audit.append(entry)
        except AuditError as error:
            self._unaudited(error)
            return ""
        return str(line)

    def refused(self, access: Access, refused: dialects.Refused) -> None:
        """Audit what never became a command."""
        entry = {
            "event": "refused", "cause": refused.cause, "reason": refused.reason, "publisher": access.publisher,
            "topic": refused.topic, "key": refused.key, "device": refused.device, "count": refused.count,
        }  # fmt: skip
        self._metrics.commands.labels(access.publisher, "refused").inc(refused.count)
        self._note(access, refused.cause, entry, refused.device, refused.count)

    def _note(self, access: Access, cause: Cause, entry: Mapping[str, Any], device: str, count: int = 1) -> None:
        if self._count(access, cause, device, count):
            self._post(entry)

    def _count(self, access: Access, cause: Cause, device: str, count: int) -> bool:
        self._metrics.refused.labels(access.publisher, cause.value).inc(count)
        device = device if device in self._names else ""  # names that somebody made up are no kinds of their own
        return self._tally.note(access.publisher, cause.value, device, asyncio.get_running_loop().time(), count)

    def answers(self, access: Access) -> bool:
        """Whether one more reply to what was refused may go out."""
        return access.replies.take(asyncio.get_running_loop().time())

    def _post(self, entry: Mapping[str, Any]) -> None:
        self._spawn(self._try_append(entry))

    async def _try_append(self, entry: Mapping[str, Any]) -> None:
        try:
            await self._audit.append(entry)
        except AuditError as error:
            self._unaudited(error)

    def _unaudited(self, error: AuditError, **lost: Any) -> None:
        self._metrics.audit_failures.inc()
        log.error("The audit log cannot be written: commands are refused until it can.", reason=str(error), **lost)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name="command")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _about(access: Access, command: Command) -> dict[str, Any]:
    """Give what the audit log says of every command."""
    about: dict[str, Any] = {
        "publisher": access.publisher, "topic": command.topic, "key": command.key, "device": command.device,
        "values": dict(command.values), "by": command.by, "issued": stamp(command.issued) if command.issued else "",
        "arrived": stamp(command.arrived) if command.arrived else "",
    }  # fmt: skip
    return about


def _digest(command: Command) -> str:
    body = orjson.dumps([command.device, command.values])
    return hashlib.sha256(body).hexdigest()[:32]


def _said(result: Result) -> dict[str, Any]:
    return {"before": result.before, "after": result.after, "quality": q.name(result.quality), "status": result.quality,
            "reason": result.reason}  # fmt: skip


def _result(said: Mapping[str, Any], line: str) -> Result:
    return Result(said["before"], said["after"], int(said["status"]), str(said["reason"]), line)
