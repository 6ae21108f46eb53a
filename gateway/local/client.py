"""The asker's side of the socket: for the command line, plain and blocking. See gateway.local for the language."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gateway.errors import GatewayError
from gateway.local.place import NAME, Unavailable, dial


class NotRunning(GatewayError):
    """No daemon answers for this data directory."""


def ask(data: Path, question: dict[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Ask the daemon of a data directory. Raises NotRunning, GatewayError with the daemon's own words."""
    with _connected(data, timeout) as sock:
        for line in _lines(sock, question, data):
            if "error" in line:
                raise GatewayError(str(line["error"]))
            answer: dict[str, Any] = line["answer"]
            return answer
    raise GatewayError(f"the daemon ended while it was asked; try again ({data / NAME})")


def stream(data: Path, question: dict[str, Any], until: float | None = None) -> Iterator[dict[str, Any]]:
    """Ask for what goes on; give line after line until the daemon ends. Raises NotRunning, GatewayError.

    Ends at `until`, by the monotonic clock.
    """
    with _connected(data, None) as sock, contextlib.ExitStack() as stack:
        if until is not None:
            timer = threading.Timer(max(0.0, until - time.monotonic()), _hang_up, [sock])
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        for line in _lines(sock, question, data):
            if "error" in line:
                raise GatewayError(str(line["error"]))
            yield line


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _connected(data: Path, timeout: float | None) -> Iterator[socket.socket]:
    path = data / NAME
    try:
        sock = dial(data)
    except Unavailable as error:
        raise NotRunning(str(error.strerror or error)) from None
    except PermissionError:
        raise GatewayError(
            f"you may not ask the daemon ({path}): do it as the user it runs as, or as a member of its group"
        ) from None
    except OSError:
        raise NotRunning(
            f"no daemon answers at {path}: it is not running, or runs with another data directory"
        ) from None
    with sock:
        sock.settimeout(timeout)
        yield sock


def _lines(sock: socket.socket, question: dict[str, Any], data: Path) -> Iterator[dict[str, Any]]:
    try:
        sock.sendall(orjson.dumps(question) + b"\n")
        with sock.makefile("rb") as answers:
            for line in answers:
                yield orjson.loads(line)
    except TimeoutError:
        raise GatewayError(
            f"the daemon does not answer ({data / NAME}): its event loop may be stuck, see its log"
        ) from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise GatewayError(f"the daemon's answer broke off: {error}") from None
