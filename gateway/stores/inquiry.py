"""Reading a DuckDB file that another process holds open: questions and answers over a Unix socket beside it.

The process that writes the file has a Desk, at `<database>.sock`, mode 0600: only its own user may ask. Anything
that changes something is refused, three times over: one SELECT (or EXPLAIN) only, in a read-only transaction, in a
database whose settings are locked and which may touch no other file.

Protocol, version 1. Everything is in frames: length as 4 bytes, big endian, then as many bytes.

    question    one frame: JSON {"sql": "SELECT ... $name", "parameters": {"name": value}}
    answer      frames that together are an Arrow IPC stream; a frame of length 0; a frame with JSON {} where all
                went well, else {"error": "..."}. An answer without this end was cut off.

One question per connection. `ask` is the other side; `read` asks where there is a desk and opens the file itself,
read-only, where there is none.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
import nanoarrow as na
import orjson
from nanoarrow.ipc import InputStream, StreamWriter

from gateway.errors import GatewayError, StoreUnavailable, first_line

LONGEST_QUESTION: Final = 1 << 20
FRAME: Final = 1 << 20
PATIENCE: Final = 30.0  # s that either side waits for the other to take or give the next bytes
MOST: Final = 4  # questions answered at once
STARTING: Final = 2.0  # s that a process which holds the file may take to open its desk
ENDING: Final = 10.0  # s that questions have to end when the desk is closed

_READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


class Refused(GatewayError):
    """The question is wrong, or asks for more than reading. Its text is for the person who asked."""


def socket_path(database: Path) -> Path:
    """Give the place of a database's desk."""
    return database.with_name(database.name + ".sock")


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give a name by which the socket can be bound or reached however long its path is (sun_path holds 108 bytes)."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


# ------------------------------------------------------------------------------------------------ the desk


class Desk:
    """Answers questions in threads of its own, over cursors of the connection given, until `close`."""

    def __init__(self, database: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._path = socket_path(database)
        self._free = threading.BoundedSemaphore(MOST)
        self._answers: dict[socket.socket, threading.Thread] = {}
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._closing = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self._socket.fileno(), 0o600)  # before bind, so that the file never has another mode
            self._path.unlink(missing_ok=True)  # of a process that was killed: the database's lock is ours now
            with _address(self._path) as address:
                self._socket.bind(address)
            self._socket.listen(16)
        except OSError:
            self._socket.close()
            raise
        self._acceptor = threading.Thread(target=self._accept, name="desk", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Take no more questions, cut those that are being answered, and wait for their threads: one that were still
        inside DuckDB when the interpreter ends would take the process down."""
        self._closing.set()
        self._path.unlink(missing_ok=True)
        _cut(self._socket)
        self._socket.close()
        deadline = time.monotonic() + ENDING
        while time.monotonic() < deadline and any(thread.is_alive() for thread in tuple(self._answers.values())):
            for cursor in tuple(self._cursors):
                cursor.interrupt()
            for peer, thread in tuple(self._answers.items()):
                _cut(peer)
                thread.join(0.05)
        self._acceptor.join(ENDING)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:  # closed
                return
            while not self._free.acquire(timeout=1.0):
                if self._closing.is_set():
                    peer.close()
                    return
            self._answers[peer] = threading.Thread(target=self._serve, args=(peer,), name="answer", daemon=True)
            self._answers[peer].start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # who asked may go away at any time
                peer.settimeout(PATIENCE)
                self._answer(peer)
        finally:
            self._answers.pop(peer, None)
            peer.close()
            self._free.release()

    def _answer(self, peer: socket.socket) -> None:
        end: dict[str, str] = {}
        try:
            sql, parameters = _question(_receive(peer, LONGEST_QUESTION))
            cursor = self._connection.cursor()
            self._cursors.add(cursor)
            try:
                out = io.BufferedWriter(_Frames(peer), FRAME)
                with StreamWriter.from_writable(out) as writer:
                    writer.write_stream(_select(cursor, sql, parameters))
                out.flush()
            finally:
                self._cursors.discard(cursor)
                cursor.close()
        except (Refused, duckdb.Error, RuntimeError, EOFError) as error:  # RuntimeError: nanoarrow's, met half-way
            end["error"] = str(error)
        peer.sendall(struct.pack(">I", 0))
        _send(peer, orjson.dumps(end))


def _cut(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)


def _question(frame: bytes) -> tuple[str, dict[str, Any]]:
    try:
        body = orjson.loads(frame)
        sql, parameters = body["sql"], body.get("parameters", {})
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"not a question: {error!r}") from error
    if not isinstance(sql, str) or not isinstance(parameters, dict):
        raise Refused("not a question: sql is to be text, parameters an object")
    return sql, parameters


def _select(cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
    """Begin a read-only transaction and give the answer as a stream. Raises Refused for anything but one SELECT."""
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type not in _READING:
        raise Refused("only one SELECT can be asked here; the store is written by ingest alone")
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    return cursor.sql(sql, params=dict(parameters) or None)


class _Frames(io.RawIOBase):
    """A file whose writes are frames on a socket."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view):
            _send(self._peer, view)
        return len(view)


# ------------------------------------------------------------------------------------------------ who asks


class _Answer(io.RawIOBase):
    """The Arrow stream inside an answer's frames, as a file."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._rest = 0
        self._over = False
        self.error = ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._over:
            (self._rest,) = struct.unpack(">I", _exactly(self._peer, 4))
            if not self._rest:
                self._over = True
                self.error = orjson.loads(_receive(self._peer, LONGEST_QUESTION)).get("error", "")
        view = memoryview(buffer)[: self._rest]
        if not len(view):
            return 0
        count = self._peer.recv_into(view)
        if not count:
            raise EOFError("the answer was cut off")
        self._rest -= count
        return count


@contextlib.contextmanager
def ask(database: Path, sql: str, parameters: Mapping[str, Any]) -> Iterator[na.ArrayStream]:
    """Ask the process that holds this database. Raises OSError where none answers, Refused where it says no.

    An error in the midst of a long answer shows at the end of the block.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with peer:
        with _address(socket_path(database)) as address:
            peer.connect(address)
        peer.settimeout(None)  # a question over years may take its time; a dead process closes the socket
        _send(peer, orjson.dumps({"sql": sql, "parameters": dict(parameters)}))
        raw = _Answer(peer)
        answer = io.BufferedReader(raw, FRAME)
        if not answer.peek(1):
            raise Refused(raw.error)
        yield na.ArrayStream(InputStream.from_readable(answer))
        answer.read()
        if raw.error:
            raise Refused(raw.error)


@contextlib.contextmanager
def read(database: Path, sql: str, parameters: Mapping[str, Any] | None = None) -> Iterator[na.ArrayStream]:
    """Give the answer to one SELECT as a stream of Arrow arrays, whether or not another process holds the file.

    Raises StoreUnavailable where there is no such file or it cannot be read, Refused where the question is wrong.
    """
    deadline = time.monotonic() + STARTING
    with contextlib.ExitStack() as stack:
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                answer = stack.enter_context(ask(database, sql, parameters or {}))
                break
            try:
                answer = _direct(stack, database, sql, parameters or {})
                break
            except StoreUnavailable:
                if time.monotonic() > deadline or not database.exists():
                    raise
            time.sleep(0.05)  # the process that holds it may be about to open its desk, or to end
        yield answer


def _direct(stack: contextlib.ExitStack, database: Path, sql: str, parameters: Mapping[str, Any]) -> na.ArrayStream:
    if not database.exists():
        raise StoreUnavailable(f"there is no database at {database}")
    try:
        connection = stack.enter_context(duckdb.connect(str(database), read_only=True))
    except duckdb.Error as error:
        raise StoreUnavailable(first_line(error)) from error
    try:
        return na.ArrayStream(_select(connection, sql, parameters))
    except duckdb.Error as error:
        raise Refused(str(error)) from error


# ------------------------------------------------------------------------------------------------ frames


def _send(peer: socket.socket, data: bytes | memoryview) -> None:
    peer.sendall(struct.pack(">I", len(data)))
    peer.sendall(data)


def _receive(peer: socket.socket, most: int) -> bytes:
    (size,) = struct.unpack(">I", _exactly(peer, 4))
    if size > most:
        raise Refused(f"a frame of {size} bytes is more than the {most} that are allowed here")
    return _exactly(peer, size)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise EOFError("the connection was closed in the midst of a frame")
        data += piece
    return bytes(data)
