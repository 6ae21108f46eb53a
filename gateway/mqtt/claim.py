"""One connection a client id and broker on this machine.

A broker ends the older of two sessions with one client id; two daemons that share one (a copied site file, a second
start by hand) then throw each other out for ever. A claim is a listening socket in Linux's abstract namespace, named
after the broker's address and the client id: it needs no directory both daemons may write to, ends with the process
whatever ends it, and tells who holds it. Elsewhere than on Linux nothing is claimed; a session that is taken over says
so all the same (reason code 0x8E). A container with a network of its own has claims of its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import struct
import sys
from typing import Any


class Claimed(ConnectionError):
    """Somebody on this machine is connected to this broker with this client id."""


def claim(broker: Any, client_id: str) -> socket.socket | None:
    """Claim a client id at a broker's address (that of `getpeername`) until the socket is closed. Raises Claimed."""
    if sys.platform != "linux":
        return None
    digest = hashlib.sha256(f"{broker[0]}\n{broker[1]}\n{client_id}".encode()).hexdigest()[:32]
    name = f"\0plantbridge-mqtt-{digest}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(name)
        sock.listen(8)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise Claimed(_holder(name)) from None
    return sock


def _holder(name: str) -> str:
    """Say who holds a claim."""
    process = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.setblocking(False)
        probe.connect(name)
        packed = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process = struct.unpack("3i", packed)[0]
    if process == os.getpid():
        return "another connection of this gateway"
    return f"process {process}" if process else "another process"
