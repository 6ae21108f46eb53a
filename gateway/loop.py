"""Start an event loop for a daemon: uvloop where it exists, signals that ask for an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


def run_until_signal(body: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `body(stop)`; SIGINT or SIGTERM sets `stop`, a second one ends at once.

    Raises what body raises; of an ExceptionGroup the first exception, so that the command line can name it.
    """

    async def main() -> None:
        stop = asyncio.Event()
        _listen(stop)
        await body(stop)

    try:
        _runner()(main())
    except* Exception as group:  # noqa: BLE001  re-raised, unpacked
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _listen(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, asked, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda caught, _frame: loop.call_soon_threadsafe(asked, caught))


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    with contextlib.suppress(ImportError):
        import uvloop  # not on Windows

        run: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
        return run
    return asyncio.run
