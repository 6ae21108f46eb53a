"""The tasks of a session with a stream: each runs for the session's whole life, and none may end unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def start(end: Callable[[str], None], *works: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """Begin them; where one ends by a defect, `end` the session with the reason, rather than stand still."""

    def over(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            end(f"{type(error).__name__}: {error}")

    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(over)
    return tasks
