"""An OPC UA server for one link of a site: the nodes of simulators.opcua_space, showing the link's signals.

A value's source time is the beginning of its tick: a device that stamps each of its cycles, changed or not. Reads are
answered with the value of that moment; subscriptions get what changed, in prepared bytes (simulators.opcua_publish);
HistoryRead gives what was shown since the start (simulators.opcua_history). A value that was written stays until a
restart. Users, policies and certificates are those that the link asks for (simulators.opcua_security).
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from asyncua import Server, ua
from asyncua.common.callback import CallbackType

from gateway.model import Link
from simulators import opcua_security
from simulators.listening import stop_listening
from simulators.opcua_history import EPOCH, History
from simulators.opcua_publish import Publication
from simulators.opcua_reads import Reads
from simulators.opcua_space import SPECIAL, TYPES, Space, Variable, signals, variables
from simulators.playing import Playing
from simulators.signals import TICK, Bank, floats

__all__ = ["OpcuaServer", "signals", "variables"]
NAMESPACE: Final = "urn:plantbridge:simulator"


class OpcuaServer:
    """The server of one link. `start` builds and listens; `async with` closes it."""

    def __init__(
        self,
        link: Link,
        *,
        tick: int = TICK,
        clock: Callable[[], int] = time.time_ns,
        pki: Path | None = None,
        playing: Playing | None = None,
    ) -> None:
        self.link = link
        self.variables, rows, self.signals = variables(link, tick, playing)
        self.bank = Bank(rows)
        self.tick = tick
        self.clock = clock
        self.pki = pki
        self.port = 0
        self.began = 0  # ns; when the first tick was shown
        self.skew = 0  # ns; how far the server's clock is ahead
        self.delays: dict[int, float] = {}  # variable -> seconds that reading it takes longer
        self.spoilt = np.zeros(len(self.variables), np.uint32)  # statuses that faults give; 0 where they give none
        self.status = self.spoilt.copy()  # what is shown
        self._tracks = [
            (variable.index, [track for row in variable.rows if row >= 0 and (track := rows[row].track) is not None])
            for variable in self.variables
            if variable.recorded
        ]
        self.history = History(self)
        self._where = "127.0.0.1", 0, ""
        self._before = 0
        self._now = -1
        self._at = 0  # ns, when the values were looked at
        self._counts: list[int] = []
        self._numbers: list[int] = []
        self._floats: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, path: str = "") -> int:
        """Build the address space and listen; give the port."""
        self._where = host, port, path
        self.server = server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://{host}:{port}{path}")
        server.set_server_name("PlantBridge simulator")
        await opcua_security.secure(server, self.link.options, self.pki, NAMESPACE)
        self.refresh()
        self.began = self.began or self._at
        ids = await Space(server, self.variables, self._before).build(self._value, self.read)
        self.index = {node_id: index for index, node_id in enumerate(ids)}
        self._publication = Publication(self)
        self.history.serve(server)
        self.reads = Reads(self, self._publication.written)
        self.reads.serve(server)
        server.subscribe_server_callback(CallbackType.PreRead, self._hesitate)
        hand_over_wholly(server)
        await server.start()
        listening = server.bserver._server
        self.port = listening.sockets[0].getsockname()[1]
        self._task = asyncio.create_task(self._push())
        return self.port

    async def restart(self, *, reindex: bool = False) -> None:
        """Stop and begin anew at the same port: sessions, subscriptions and what was written are gone.

        With `reindex` the namespaces that addresses name by URI get other indexes.
        """
        host, _, path = self._where
        await self.close()
        self._before += reindex
        await self.start(host, self.port, path)

    async def close(self) -> None:
        """Stop, and cut what is connected."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await stop_listening(self.server.bserver._server)
            await self.server.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def spoil(self, node: str, status: int) -> None:
        """Give a node (as its address says it) another status than Good; 0 heals it."""
        for index, variable in enumerate(self.variables):
            if str(variable.name) == node:
                self.spoilt[index] = status
                self.look_again()
                return
        raise KeyError(node)

    async def _hesitate(self, event: Any, _service: Any) -> None:
        """Take the time that the slowest of the nodes takes."""
        if self.delays and event.is_external:
            asked = (self.index.get(each.NodeId) for each in event.request_params.NodesToRead)
            slowest = max((self.delays.get(index, 0.0) for index in asked if index is not None), default=0.0)
            await asyncio.sleep(slowest)

    # -------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        """Look at the signals anew, where their tick is over."""
        now = self._at = self.clock()
        if now // self.tick == self._now:
            return
        self._now = now // self.tick
        counts = self.bank.count(now)
        self.patterns = self.bank.number(counts)
        self._counts = counts.tolist()
        self._numbers = self.patterns.tolist()
        self._floats = floats(self.patterns, self.bank.quantum).tolist()
        self.sources = np.full(len(self.variables), self.moment + self.skew, np.int64)
        self.status = self.spoilt.copy()
        for index, tracks in self._tracks:
            status, stamp = max(track.now(self.moment) for track in tracks)
            self.sources[index] = stamp + self.skew
            self.status[index] = self.spoilt[index] or status

    def look_again(self) -> None:
        """Show anew within the same tick: something was changed about the signals."""
        self._now = -1
        self.refresh()

    @property
    def moment(self) -> int:
        """The beginning of the tick that is shown, in ns."""
        return self._now * self.tick

    @property
    def stamp(self) -> int:
        """The server's time of what is shown, in ns."""
        return self._at + self.skew

    def read(self, variable: Variable) -> ua.DataValue:
        """Give what a variable shows now."""
        self.refresh()
        return ua.DataValue(
            ua.Variant(self._value(variable), TYPES[variable.type], is_array=variable.array),
            ua.StatusCode(int(self.status[variable.index])),
            SourceTimestamp=EPOCH + timedelta(microseconds=int(self.sources[variable.index]) // 1000),
            ServerTimestamp=EPOCH + timedelta(microseconds=self.stamp // 1000),
        )

    def _value(self, variable: Variable) -> Any:
        values = [self._element(variable.type, row) for row in variable.rows]
        return values if variable.array else values[0]

    def _element(self, type_: str, row: int) -> Any:
        if type_.startswith("float"):
            return self._floats[row] if row >= 0 else 0.0
        if type_ == "bool":
            return row >= 0 and bool(self._numbers[row])
        if type_ in ("text", *SPECIAL):
            table = self.bank.signals[row].table if row >= 0 else ("",)
            return _special(type_, str(table[self._counts[row]] if row >= 0 else ""))
        number = self._numbers[row] if row >= 0 else 0
        return number - 2**64 if type_.startswith("int") and number >= 2**63 else number

    async def _push(self) -> None:
        """Tell subscriptions, at each tick, what changed."""
        while True:
            await asyncio.sleep((self.tick - self.clock() % self.tick) / 1e9)
            self.refresh()
            self._publication.collect()


def hand_over_wholly(server: Server) -> None:
    """Let TransferSubscriptions take the new session's Publish requests too: asyncua 2.1.0 stays with the old ones.

    The new session drops such answers, or takes them for answers to requests of its own that have the same number.
    """
    service = server.iserver.subscription_service
    transfer = service.transfer_subscriptions

    async def transfer_wholly(params: Any, session_id: Any, callback: Any) -> Any:
        results = await transfer(params, session_id, callback)
        for number in params.SubscriptionIds:
            if int(number) in service.subscriptions:
                service.subscriptions[int(number)].pub_request_callback = callback.__self__.get_publish_request
        return results

    service.transfer_subscriptions = transfer_wholly


def _special(type_: str, text: str) -> Any:
    """Turn a text into the value of its type that the text stands for."""
    if type_ == "datetime":
        return datetime.fromisoformat(text) if text else datetime(1970, 1, 1, tzinfo=UTC)
    if type_ == "guid":
        return uuid.UUID(text or SPECIAL["guid"][0])
    return base64.b64decode(text) if type_ == "bytestring" else text
