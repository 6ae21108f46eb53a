"""What the connection needs of paho, sockets and threads, without any state of a session."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

_T = TypeVar("_T")
_QUICK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)  # Linux


class SocketClient(Client):
    """Paho's client on a socket that we have made."""

    def __init__(self, sock: Any, **settings: Any) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, reconnect_on_failure=False, manual_ack=True, **settings)
        self.max_inflight_messages = 65535  # paho is to queue nothing: the connection does
        self._made = sock

    def _create_socket(self) -> Any:
        return self._made

    def ping(self) -> None:
        """Send PINGREQ, which paho does on its own only when the keep-alive is over."""
        self._send_pingreq()


async def on_a_thread(work: Callable[[], _T], abandoned: Callable[[_T], None]) -> _T:
    """Run blocking work on a daemon thread, which a hanging name server cannot make the daemon's shutdown wait for.

    Where the wait is cancelled, `abandoned` gets the result when it comes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            if error is None:
                abandoned(result)  # type: ignore[arg-type]
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  handed over to the loop as it is
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    return await future


def forget(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0:
        loop.remove_reader(sock)
        loop.remove_writer(sock)


def remove_writer(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    if sock.fileno() >= 0:
        loop.remove_writer(sock)


def got_it(sock: Any) -> None:
    """Acknowledge what was read to the peer's kernel now, where Linux would wait up to 40 ms for something to say.

    A broker that lets its kernel gather small messages (Nagle) sends no command while our acknowledgement of the last
    PUBACK is missing.
    """
    if _QUICK is not None and sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICK, 1)


def drop(client: Client) -> None:
    """Close the socket under a client that is not used any more."""
    for name in ("on_connect", "on_disconnect", "on_publish", "on_subscribe", "on_message"):
        setattr(client, name, None)
    client.on_socket_close = client.on_socket_register_write = client.on_socket_unregister_write = None
    sock = client.socket()
    if sock is not None:
        sock.close()


def close(sock: Any) -> None:
    sock.close()
