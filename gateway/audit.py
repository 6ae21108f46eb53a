"""The audit log: who asked for what to be written, what became of it, and proof that no line was changed.

    DATA/audit/audit-000000000001.jsonl     named by the sequence of its first line; the highest number is written to
    {"cause":…,"event":…,"hash":"…","previous":"…","sequence":7,"time":"2026-11-22T04:15:00.123456789Z",…}

- One JSON object a line, in canonical form: keys sorted, no blanks, UTF-8. `hash` is the SHA-256, in hexadecimal, of
  the line without it; `previous` is the hash of the line before, 64 zeros for the first of all. A change, a removal or
  an insertion breaks the chain at that line; only whoever rewrites all that follows, too, leaves none, so note a hash
  elsewhere now and then (replies to commands carry one).
- Lines are appended and nothing else. A file that is full is followed by another; the oldest go when all together are
  larger than allowed, and the chain says so (event "removed"). A line that was cut off by a power cut is set aside into
  a file of its own, and the chain says so ("torn"): it was never on the disk, so nothing was done because of it.
- `append` returns when the line is on the disk (fsync). Several processes may write: each takes a lock for one write.
- What cannot be written is an AuditError, and a write to a device that cannot be audited is not done.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from gateway import durable
from gateway.errors import GatewayError

BEGINNING: Final = "0" * 64
FILE_SIZE: Final = 10_000_000  # bytes after which another file is begun
_TEXT: Final = 200  # characters that a text from outside may take
_CANONICAL: Final = orjson.OPT_SORT_KEYS

Entry = Mapping[str, Any]


class AuditError(GatewayError):
    """The audit log cannot be written or read."""


@dataclass(frozen=True, slots=True)
class Line:
    """Where an entry stands in the chain."""

    sequence: int
    hash: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Broken:
    """The first line at which the chain is broken."""

    file: Path
    number: int  # counts from 1
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of a check of the chain."""

    lines: int
    first: int  # sequence of the first line that is there
    last: Line
    broken: Broken | None


def stamp(ns: int) -> str:
    """Give a time as the log writes it, to the nanosecond."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def nanoseconds(text: str) -> int:
    """Read a time that `stamp` wrote. Raises ValueError."""
    moment, _, fraction = text.removesuffix("Z").partition(".")
    return round(datetime.fromisoformat(moment + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)


def bounded(value: Any) -> Any:
    """Cut what came from outside to a size that a log can bear: texts, and lists and objects of many members."""
    if isinstance(value, str):
        text = value.encode(errors="replace").decode()
        return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
    if isinstance(value, Mapping):
        return {bounded(str(key)): bounded(each) for key, each in list(value.items())[:_TEXT]}
    if isinstance(value, list | tuple):
        return [bounded(each) for each in value[:_TEXT]]
    return value


def files(directory: Path) -> list[Path]:
    """Give the log's files, the oldest first."""
    return sorted(directory.glob("audit-*.jsonl"))


def _sealed(entry: Entry, sequence: int, previous: str) -> tuple[bytes, str]:
    body = {**entry, "sequence": sequence, "previous": previous}
    digest = hashlib.sha256(orjson.dumps(body, option=_CANONICAL)).hexdigest()
    return orjson.dumps({**body, "hash": digest}, option=_CANONICAL) + b"\n", digest


def write(directory: Path, entries: Sequence[Entry], largest: int, file_size: int = FILE_SIZE) -> list[Line]:
    """Append entries; they are on the disk when this returns. `largest`: bytes of all files. Raises AuditError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            return _write(directory, entries, largest, file_size)
    except (OSError, ValueError, TypeError) as error:
        raise AuditError(f"the audit log in {directory} cannot be written: {error}") from error


def _write(directory: Path, entries: Sequence[Entry], largest: int, file_size: int) -> list[Line]:
    there = files(directory)
    path = there[-1] if there else directory / "audit-000000000001.jsonl"
    last, notes = _tail(directory, there)
    old: list[Path] = []
    if there and path.stat().st_size >= file_size:
        path = directory / f"audit-{last.sequence + 1:012d}.jsonl"
        old = _too_much(there, largest - file_size)
        if old:
            notes.append(_note("removed", through=int(there[len(old)].stem.removeprefix("audit-")) - 1))
    lines: list[Line] = []
    text = b""
    for entry in [*notes, *entries]:
        sealed, digest = _sealed(entry, last.sequence + 1, last.hash)
        last = Line(last.sequence + 1, digest)
        lines.append(last)
        text += sealed
    _append(path, text)
    for each in old:
        each.unlink()
    return lines[len(notes) :]


def _append(path: Path, text: bytes) -> None:
    """Write and sync; leave the file as it was where that fails."""
    fresh = not path.exists()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
    if fresh:
        _like_its_directory(path)
        with contextlib.suppress(OSError):
            durable.sync(path.parent)


def _like_its_directory(path: Path) -> None:
    """Give a file that root made to the directory's owner: the daemon must be able to go on in it."""
    owner = path.parent.stat()
    path.chmod(0o640)
    if hasattr(os, "geteuid") and os.geteuid() == 0 and owner.st_uid:
        os.chown(path, owner.st_uid, owner.st_gid)


def _tail(directory: Path, there: Sequence[Path]) -> tuple[Line, list[Entry]]:
    """Give the last line, and what is to be noted first: what was torn off behind it, or that it makes no sense."""
    notes: list[Entry] = []
    for path in reversed(there):
        with path.open("rb+") as file:
            text, size = _last_line(file)
            if text and not text.endswith(b"\n"):
                notes.append(_set_aside(directory, file, text, size))
                text, size = _last_line(file)
        if not text:
            continue
        try:
            body = orjson.loads(text)
            return Line(int(body["sequence"]), str(body["hash"])), notes
        except (ValueError, KeyError, TypeError):
            number = int(path.stem.removeprefix("audit-")) + path.read_bytes().count(b"\n") - 1
            reason = f"the last line of {path.name} was none"
            return Line(number, hashlib.sha256(text).hexdigest()), [*notes, _note("broken", reason=reason)]
    return Line(0, BEGINNING), notes


def _last_line(file: BinaryIO) -> tuple[bytes, int]:
    """Give the last line, whole or torn, and the file's size."""
    size = file.seek(0, os.SEEK_END)
    step = 4096
    while True:
        begin = max(0, size - step)
        file.seek(begin)
        text = file.read(size - begin)
        at = text.rfind(b"\n", 0, len(text) - 1)
        if at >= 0 or not begin:
            return text[at + 1 :], size
        step *= 4


def _set_aside(directory: Path, file: BinaryIO, text: bytes, size: int) -> Entry:
    name = f"torn-{time.time_ns()}"
    (directory / name).write_bytes(text)
    file.truncate(size - len(text))
    os.fsync(file.fileno())
    return _note("torn", bytes=len(text), file=name, sha256=hashlib.sha256(text).hexdigest())


def _too_much(there: Sequence[Path], largest: int) -> list[Path]:
    """Give the oldest files that must go so that the rest is not too large; the newest stays."""
    sizes = [path.stat().st_size for path in there]
    old = 0
    while old < len(there) - 1 and sum(sizes[old:]) > largest:
        old += 1
    return list(there[:old])


def _note(event: str, **more: Any) -> Entry:
    return {"event": event, "time": stamp(time.time_ns()), **more}


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("ab") as file:
        try:
            import fcntl
        except ImportError:  # Windows: one process only
            yield
            return
        _like_its_directory(directory / "lock")
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------------------------------------ reading


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Give the entries of a file, or of all files of a directory, the oldest first; passes over what is none."""
    for file in files(path) if path.is_dir() else [path]:
        with file.open("rb") as lines:
            for text in lines:
                with contextlib.suppress(ValueError):
                    body = orjson.loads(text)
                    if isinstance(body, dict):
                        yield body


def recent(directory: Path, since: int) -> list[dict[str, Any]]:
    """Give the entries from `since` (ns) on, the oldest first, reading no more files than needed."""
    gathered: list[dict[str, Any]] = []
    border = stamp(since)
    for path in reversed(files(directory)):
        entries = list(read(path))
        gathered = [entry for entry in entries if str(entry.get("time", "")) >= border] + gathered
        if entries and str(entries[0].get("time", "")) < border:
            break
    return gathered


def verify(path: Path) -> Proof:
    """Check the chain of a directory's files, or of one file. Raises AuditError where there is none."""
    there = files(path) if path.is_dir() else [path]
    if not there or not there[0].exists():
        raise AuditError(f"there is no audit log in {path}")
    chain = _Chain()
    for file in there:
        with file.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                if reason := chain.follow(text):
                    return chain.proof(Broken(file, number, reason))
    if path.is_dir() and chain.first > 1 and chain.removed < chain.first - 1:
        reason = f"lines 1 to {chain.first - 1} are missing, and no line says that they were removed"
        return chain.proof(Broken(there[0], 1, reason))
    return chain.proof(None)


class _Chain:
    """The chain as far as it was followed."""

    def __init__(self) -> None:
        self.lines = self.first = self.removed = 0
        self.last = Line(0, BEGINNING)

    def proof(self, broken: Broken | None) -> Proof:
        return Proof(self.lines, self.first, self.last, broken)

    def follow(self, text: bytes) -> str:
        """Take the next line; give what is wrong with it."""
        if not text.endswith(b"\n"):
            return "the line is not finished: a power cut while it was written, or something cut it off"
        try:
            body = orjson.loads(text)
            digest, sequence, previous = str(body.pop("hash")), int(body["sequence"]), str(body["previous"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return "this is no line of an audit log"
        if hashlib.sha256(orjson.dumps(body, option=_CANONICAL)).hexdigest() != digest:
            return "the line was changed: its hash is not that of its content"
        if orjson.dumps({**body, "hash": digest}, option=_CANONICAL) + b"\n" != text:
            return "the line was changed: it is not in canonical form"
        if self.lines and sequence != self.last.sequence + 1:
            return f"line {sequence} follows line {self.last.sequence}: lines were removed or inserted"
        if (self.lines or sequence == 1) and previous != self.last.hash:
            return "the line does not follow the one before: that one was changed, removed or inserted"
        self.first = self.first or sequence
        if body.get("event") == "removed":
            self.removed = max(self.removed, int(body.get("through", 0)))
        self.lines += 1
        self.last = Line(sequence, digest)
        return ""


# ------------------------------------------------------------------------------------------------ the daemon's


class AuditLog:
    """The daemon's end of the log: entries that come together share one write and one fsync, on a thread."""

    def __init__(self, directory: Path, largest: int, file_size: int = FILE_SIZE) -> None:
        self.directory = directory
        self._largest = largest
        self._file_size = min(file_size, max(10_000, largest // 4))
        self._waiting: list[tuple[Entry, asyncio.Future[Line]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "audit")

    async def append(self, entry: Entry) -> Line:
        """Append an entry, dated now; it is on the disk when this returns. Raises AuditError."""
        future: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._waiting.append(({"time": stamp(time.time_ns()), **bounded(entry)}, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="audit")
        return await future

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                entries = [entry for entry, _ in batch]
                try:
                    lines = await loop.run_in_executor(
                        self._thread, write, self.directory, entries, self._largest, self._file_size
                    )
                except AuditError as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                            future.exception()  # whoever asked may be gone
                    continue
                for (_, future), line in zip(batch, lines, strict=True):
                    if not future.done():
                        future.set_result(line)
        finally:
            self._writing = None

    async def close(self) -> None:
        """Write what waits, and end the thread."""
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()
