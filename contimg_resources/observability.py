"""Logging: one set-up for every process, events with fields, on stderr.

Run metrics and alerts join it later; numbers worth keeping are asset metadata, not log lines.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import stamina.instrumentation
import structlog

_QUIET_RETRIES = 3


def _log_waiting(details: stamina.instrumentation.RetryDetails) -> None:
    """Make waiting visible without a line for each of the first quick attempts, which are normal."""
    if details.retry_num > _QUIET_RETRIES:
        structlog.get_logger(__name__).info(
            "waiting_to_retry",
            what=details.name,
            attempt=details.retry_num,
            waited_s=round(details.waited_so_far, 2),
            cause=str(details.caused_by)[:200],
        )


def configure_logging(log_format: Literal["console", "json"] = "console", *, level: int = logging.INFO) -> None:
    """Set up structlog for this process.

    Parameters
    ----------
    log_format : {"console", "json"}
        Lines for people, or one JSON object per line for machines.
    level : int
        Events below it are dropped.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stamina.instrumentation.set_on_retry_hooks([_log_waiting])
