"""Where the socket is, and how to reach it also where its path is longer than the 107 bytes a socket's may have."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NAME: Final = "local.sock"
MODE: Final = 0o660
LONGEST: Final = 100  # bytes of a path that every system's sockets take


class Unavailable(OSError):
    """There can be no such socket here, and why."""


def listen(data: Path) -> socket.socket:
    """Make the socket of a data directory. One left by a daemon that was killed is replaced. Raises OSError.

    The caller holds the journal's lock, so that no other daemon of this site runs; should one of another site share the
    directory, it keeps its socket.
    """
    _there_are_sockets()
    if answered(data):
        raise Unavailable(f"another daemon answers questions in {data}: give each site a data directory of its own")
    with _reachable(data) as path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(sock.fileno(), MODE)  # what Linux gives the file, so that it is never open to more
            sock.bind(path)
            os.chmod(path, MODE)
            sock.listen(8)
        except BaseException:
            sock.close()
            raise
    sock.setblocking(False)
    return sock


def dial(data: Path, timeout: float = 10.0) -> socket.socket:
    """Connect to the daemon of a data directory. Raises OSError."""
    _there_are_sockets()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with _reachable(data) as path:
            sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def answered(data: Path) -> bool:
    """Whether somebody answers at the socket of a data directory."""
    try:
        dial(data).close()
    except OSError:
        return False
    return True


def remove(data: Path) -> None:
    """Take the socket away at the daemon's end."""
    with contextlib.suppress(OSError):
        (data / NAME).unlink()


def _there_are_sockets() -> None:
    if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
        raise Unavailable("asking the running daemon needs Unix sockets, which Windows does not have here")


@contextlib.contextmanager
def _reachable(data: Path) -> Iterator[str]:
    """Give a path of the socket that is short enough: its own, or one by way of the open directory (Linux)."""
    path = str(data / NAME)
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    directory = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{directory}"
        if not os.path.isdir(short):
            raise Unavailable(errno.ENAMETOOLONG, f"{path} is too long for a socket: choose a shorter data directory")
        yield f"{short}/{NAME}"
    finally:
        os.close(directory)
