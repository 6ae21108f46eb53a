"""Ending a listener without forgetting the client that it is just accepting.

A connection passes three turns of the event loop from accept() to its protocol. `Server.close()` in between (CPython
3.11) makes asyncio drop it: no protocol ever hears of it, nobody closes it, and its client waits until the garbage
collector comes by. So first nobody is accepted any more, then those under way arrive, then the server is closed.
"""

from __future__ import annotations

import asyncio
from typing import Final

ARRIVAL: Final = 5  # turns from accept() until the protocol, or the callback of start_server, has the connection


async def stop_listening(server: asyncio.Server) -> None:
    """Accept nobody any more; who was accepted is known to the protocol when this returns, and not cut by it."""
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(
            listening.fileno()
        )  # uvloop accepts in another way, has no such reader and needs none of this
    for _ in range(ARRIVAL):
        await asyncio.sleep(0)
    server.close()
