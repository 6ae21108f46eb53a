"""Logging: structlog to standard error, JSON for machines or lines for a terminal. Normal running logs nothing."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from gateway.options import LogOptions


class Threshold:
    """Lets pass what is at least as grave as `level`, which may change while loggers are in use."""

    def __init__(self, level: str) -> None:
        self.set(level)

    def set(self, level: str) -> None:
        """Change the level: debug, info, warning or error."""
        self._least = logging.getLevelNamesMapping()[level.upper()]

    def __call__(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if logging.getLevelNamesMapping()[event["level"].upper()] < self._least:
            raise structlog.DropEvent
        return event


def configure(options: LogOptions) -> Threshold:
    """Set up structlog, and give what changes its level; set the libraries' own loggers to warnings only."""
    console = options.format == "console" or (options.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        final: list[structlog.typing.Processor] = [renderer]
    else:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    threshold = Threshold(options.level)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            threshold,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *final,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("asyncua", "pymodbus"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what they log, our drivers raise
    return threshold
