"""What an MQTT sink remembers from one session to the next.

- A session begins with the first broker of the list. Only where the last one was of no use (it ended within a
  minute, and nothing was taken) does the next begin with the broker after that one: a broker that lets us in and no
  more must not keep us from one that works.
- Sessions that are cut off soon after they began, again and again, have a likely cause: another client with our client
  id. MQTT 5 has a word for it that not every broker says, and 3.1.1 has none.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.mqtt import Connection

_SOON: Final = 60.0  # s
_OFTEN: Final = 3


class Sessions:
    """The sessions of one sink, one after the other."""

    def __init__(self) -> None:
        self.first = 0  # the broker of the list to begin with
        self._began = 0.0
        self._useful = False
        self._innocent = True
        self._short = 0  # sessions in a row that were cut off soon
        self._counted: Connection | None = None

    def began(self) -> None:
        """Take note of a session that was made just now."""
        self._began = asyncio.get_running_loop().time()
        self._useful = False
        self._innocent = True

    def sent(self, *, refused: bool = False) -> None:
        """Take note of a message that is under way, or was refused: its end of the session may have this cause."""
        self._innocent = self._useful and not refused

    def took(self) -> None:
        """Take note that the broker took a message."""
        self._useful = self._innocent = True

    def over(self, connection: Connection, *, elsewhere: bool = False) -> None:
        """Take note of a session's end. `elsewhere`: the next is to begin with the broker after this one."""
        if not self._began:
            return
        vain = not self._useful and asyncio.get_running_loop().time() - self._began < _SOON
        self.first = connection.number + 1 if elsewhere or vain else 0
        self._count(connection)
        self._began = 0.0

    def reason(self, connection: Connection) -> str:
        """Say why the session ended."""
        self._count(connection)
        if not self._suspicious:
            return connection.reason
        return (
            f"{connection.reason}, {self._short} times in a row within a minute of connecting. Is another client"
            f" connected with the client id {connection.client_id}: a second gateway with a copy of this file?"
        )

    def act(self, connection: Connection) -> bool:
        """Say whether the end is one that will not pass by itself."""
        return connection.act or self._suspicious

    @property
    def _suspicious(self) -> bool:
        return self._short >= _OFTEN

    def _count(self, connection: Connection) -> None:
        if self._began and connection.lost.is_set() and connection is not self._counted:
            self._counted = connection
            soon = asyncio.get_running_loop().time() - self._began < _SOON
            self._short = self._short + 1 if connection.cut and soon and self._innocent else 0
