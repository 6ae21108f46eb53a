"""The daemon's side of the socket: takes a question, gives the answer, on the event loop. See gateway.local.

Whatever an asker does, the daemon goes on: a question that is none, or that fails, is answered with a sentence; one
that does not come within some seconds, or is one too many, ends its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
import structlog

from gateway.local import place
from gateway.local.plant import Plant, explain, status
from gateway.local.tail import Watch, Watches, refuse

log = structlog.get_logger()

ASKERS: Final = 16  # connections at a time
PATIENCE: Final = 10.0  # s for a question to come, and for an answer to be taken
LONGEST: Final = 64 << 10  # bytes of a question
OVER: Final = 60.0  # s; the longest time over which rates are measured


class Room:
    """The socket of one daemon, while it runs."""

    def __init__(self, plant: Plant, reload: Callable[[], Awaitable[dict[str, Any]]] | None = None) -> None:
        """Prepare. `reload` has the site's files loaded, and says what became of it."""
        self._plant = plant
        self._reload = reload
        self._watches = Watches(plant)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to answer; where that cannot be it is said in the log, and the daemon runs without."""
        try:
            sock = place.listen(self._plant.site.data)
        except OSError as error:
            log.warning("The daemon cannot be asked (status, tail, explain).", reason=str(error))
            return
        self._server = await asyncio.start_unix_server(self._called, sock=sock, limit=LONGEST)

    async def close(self) -> None:
        """End all conversations, and take the socket away."""
        if self._server is None:
            return
        place.remove(self._plant.site.data)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > ASKERS:
                await _say(writer, {"error": f"{ASKERS} others ask already"})
                return
            await self._converse(reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            return  # who asked is gone, or does not speak this language
        except asyncio.CancelledError:
            if task.cancelling():  # `close` asked for it
                return
            raise
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(PATIENCE):
            line = await reader.readuntil(b"\n")
        try:
            question = orjson.loads(line)
            ask = question["ask"]
            if ask == "tail":
                watch = self._watch(question)
            else:
                answer = await self._answers()[ask](question)
        except LookupError as error:
            said = error.args[0] if isinstance(error.args[0], str) and " " in error.args[0] else "an unknown question"
            await _say(writer, {"error": said})
            return
        except (orjson.JSONDecodeError, TypeError, ValueError):
            await _say(writer, {"error": "not a question: expected a line of JSON with `ask`"})
            return
        except Exception as error:
            log.exception("A question could not be answered.")
            await _say(writer, {"error": f"a defect in the gateway: {error!r}; please report it with the log"})
            return
        if ask == "tail":
            await self._tail(watch, journalled=bool(question.get("journalled")), reader=reader, writer=writer)
        else:
            await _say(writer, {"answer": answer})

    def _answers(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]:
        return {"status": self._status, "explain": self._explain, "reload": self._load}

    async def _load(self, _question: dict[str, Any]) -> dict[str, Any]:
        if self._reload is None:
            raise LookupError("this daemon cannot load its files again")
        return await self._reload()

    async def _status(self, question: dict[str, Any]) -> dict[str, Any]:
        seconds = min(max(float(question.get("over", 1.0)), 0.0), OVER)
        before, loop = self._plant.counts(), asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(seconds)
        return status(self._plant, before, loop.time() - began)

    async def _explain(self, question: dict[str, Any]) -> dict[str, Any]:
        return explain(self._plant, str(question.get("tag", "")))

    def _watch(self, question: dict[str, Any]) -> Watch:
        globs = [str(each) for each in question.get("tags", [])]
        if said := refuse(globs, self._plant.site.tables):
            raise LookupError(said)
        return Watch(globs)

    async def _tail(
        self, watch: Watch, *, journalled: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Hand out readings until the asker hangs up."""
        self._watches.add(watch, journalled=journalled)
        pump = asyncio.create_task(_pump(watch, writer), name="tail")
        left = asyncio.create_task(reader.read(1), name="tail left")
        try:
            await asyncio.wait([pump, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._watches.remove(watch)
            for task in (pump, left):
                task.cancel()
            await asyncio.gather(pump, left, return_exceptions=True)


async def _pump(watch: Watch, writer: asyncio.StreamWriter) -> None:
    async with contextlib.aclosing(watch.lines()) as lines:
        async for line in lines:
            writer.write(line)
            await writer.drain()


async def _say(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    writer.write(orjson.dumps(body) + b"\n")
    async with asyncio.timeout(PATIENCE):
        await writer.drain()
