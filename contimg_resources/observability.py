"""Logging: one way to log for every process, events with fields, and whose run each line belongs to.

Assets and resources log with ``structlog.get_logger(__name__)`` and nothing else. Outside a run a line goes to stderr. Inside a
stage (``run_logging``) it goes to Dagster's log view with the ids of its run, and from there, with Dagster's own lines,
through ``RunLogHandler`` (named in ``dagster.yaml``) to stdout: as text or one JSON object a line, each with
``observation_id, run_id, asset, partition, trace_id`` (null where there is none yet). Secrets are masked in all of them.

What does not belong here: numbers worth keeping (asset metadata), spans (``tracing.py``), metrics (the portal derives them).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

import stamina.instrumentation
import structlog
from pydantic import SecretStr

from contimg_resources.settings import Settings, load_settings

RUN_IDS = ("observation_id", "run_id", "asset", "partition", "trace_id")
"""What every line of a run carries."""
OBSERVATION_TAG = "contimg/observation"
TRACE_TAG = "contimg/traceparent"
"""Tags of a run: its observation, and the W3C trace context that its spans continue."""

_QUIET_RETRIES = 3
_HIDDEN = "***"
_SECRET_NAME = re.compile(r"token|passw|secret|authorization|api_?key|credential|cookie", re.IGNORECASE)
_SECRET_TEXT = (
    (re.compile(r"(\b[\w+.-]+://)[^\s/@]+@"), rf"\1{_HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {_HIDDEN}"),
    (re.compile(r"(?i)\b((?:token|password|secret|api_?key)\s*[=:]\s*)[^\s,;&]+"), rf"\1{_HIDDEN}"),
)


@dataclass(frozen=True, slots=True)
class _Style:
    """What the settings say about lines."""

    is_json: bool = False
    level: int = logging.INFO
    levels: Mapping[str, int] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def threshold(self, name: str) -> int:
        """Level of the longest package name that a logger's name begins with."""
        parts = name.split(".")
        names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((self.levels[known] for known in names if known in self.levels), self.level)

    def masked(self, value: Any, name: str = "") -> Any:
        """A value without what must not be read: by the name of its field, by its form, and by what the settings hold."""
        if name and _SECRET_NAME.search(name) and value is not None:
            return _HIDDEN
        if isinstance(value, Mapping):
            return {key: self.masked(item, str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.masked(item) for item in value]
        if not isinstance(value, str):
            return value
        for secret in self.secrets:
            value = value.replace(secret, _HIDDEN)
        for pattern, replacement in _SECRET_TEXT:
            value = pattern.sub(replacement, value)
        return value

    def write(self, fields: Mapping[str, Any], stream: TextIO) -> None:
        """One line, in one call, so that lines of threads do not mix."""
        line = json.dumps(fields, default=str) if self.is_json else as_text(fields)
        stream.write(line + "\n")
        stream.flush()


_style = _Style()
_RUN_LOG: ContextVar[logging.Logger | None] = ContextVar("run_log", default=None)
_ids_of_run: dict[str, dict[str, str | None]] = {}
"""Ids that the newest stage of this process's run knew: Dagster's lines between stages carry them too."""


class _Line:
    """Where structlog hands its events: Dagster's log inside a stage, stderr elsewhere."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def _write(self, **fields: Any) -> None:
        run_log = _RUN_LOG.get()
        if run_log is None:
            _style.write(fields, sys.stderr)
        else:
            shown = {name: value for name, value in fields.items() if name not in {"timestamp", "level"}}
            level = getattr(logging, fields["level"].upper())
            text, extra = as_text(shown), {"contimg_fields": fields}
            # What is dropped has been decided; the log's own level is that of Dagster's console.
            run_log.handle(run_log.makeRecord(self.name, level, self.name, 0, text, (), None, extra=extra))

    debug = info = warning = error = critical = exception = _write


def _drop_by_package(logger: _Line, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    level = logging.ERROR if method == "exception" else getattr(logging, method.upper(), logging.INFO)
    if level < _style.threshold(logger.name):
        raise structlog.DropEvent
    return fields


def _add_logger_name(logger: _Line, _: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**fields, "logger": logger.name}


def _mask_secrets(_: _Line, __: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    masked: dict[str, Any] = _style.masked(fields)
    return masked


def as_text(fields: Mapping[str, Any]) -> str:
    """A line for people: time, level, event, then ``name=value``."""
    head = [str(fields[name]) for name in ("timestamp", "level", "event") if fields.get(name) is not None]
    rest = {
        name: value
        for name, value in fields.items()
        if name not in {"timestamp", "level", "event"} and value is not None
    }
    words = [f"{name}={value if ' ' not in str(value) else json.dumps(str(value))}" for name, value in rest.items()]
    return " ".join([*head, *words])


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


def _secrets_of(settings: Settings) -> Iterator[str]:
    for value in dict(settings).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, SecretStr) and item.get_secret_value():
                yield item.get_secret_value()


def configure_logging(settings: Settings) -> None:
    """Set up logging of this process; the newest settings win.

    Parameters
    ----------
    settings : Settings
        ``log_format``, ``log_level``, ``log_levels``, and the secrets that no line may show. Dagster's own lines are the
        package ``dagster``; all of them are shown unless ``log_levels`` says otherwise.
    """
    global _style  # noqa: PLW0603 (one set-up per process is the point)
    levels = {"dagster": "debug", **settings.log_levels}
    _style = _Style(
        is_json=settings.log_format == "json",
        level=getattr(logging, settings.log_level.upper()),
        levels={name: getattr(logging, level.upper()) for name, level in levels.items()},
        secrets=tuple(sorted(_secrets_of(settings), key=len, reverse=True)),
    )
    structlog.configure(
        processors=[
            _drop_by_package,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask_secrets,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min(_style.level, *_style.levels.values())),
        logger_factory=_Line,
    )
    stamina.instrumentation.set_on_retry_hooks([_log_waiting])


@contextmanager
def run_logging(run_log: logging.Logger, **ids: str | None) -> Iterator[None]:
    """Send what is logged in the block to a run's log, each line with these ids.

    Parameters
    ----------
    run_log : logging.Logger
        ``context.log`` of the step.
    **ids
        Values of `RUN_IDS`.
    """
    _ids_of_run.clear()  # one run at a time in a process
    _ids_of_run[ids.get("run_id") or ""] = {name: ids.get(name) for name in ("observation_id", "trace_id")}
    run_log.setLevel(logging.DEBUG)  # dagster.yaml silences Dagster's console by the level of all run logs
    token = _RUN_LOG.set(run_log)
    try:
        with structlog.contextvars.bound_contextvars(**{name: ids.get(name) for name in RUN_IDS}):
            yield
    finally:
        _RUN_LOG.reset(token)


class RunLogHandler(logging.Handler):
    """Writes every line of a run to stdout; named in ``dagster.yaml``, so that Dagster's lines come here too."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        configure_logging(load_settings())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        fields = getattr(record, "contimg_fields", None) or self._dagster_fields(record)
        if fields is not None:
            _style.write({**_ids(record), **fields}, sys.stdout)

    def _dagster_fields(self, record: logging.LogRecord) -> dict[str, Any] | None:
        """Fields of a line that Dagster wrote, or None when such lines are not wanted."""
        if record.levelno < _style.threshold("dagster"):
            return None
        meta: Mapping[str, Any] = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        error = getattr(event.event_specific_data, "error", None) if event else None
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": event.event_type_value.lower().replace("pipeline_", "run_") if event else "message",
            "message": meta.get("orig_message") or record.getMessage(),
            "logger": "dagster",
        }
        if error is not None:
            fields["error"] = error.to_string()
        masked: dict[str, Any] = _style.masked(fields)
        return masked


def _ids(record: logging.LogRecord) -> dict[str, str | None]:
    """Ids of a line of Dagster's: from the run's tags, and what its stages knew."""
    meta: Mapping[str, Any] = getattr(record, "dagster_meta", {})
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    known = _ids_of_run.get(meta.get("run_id") or "", {})
    traceparent = tags.get(TRACE_TAG, "").split("-")
    return {
        "observation_id": known.get("observation_id") or tags.get(OBSERVATION_TAG),
        "run_id": meta.get("run_id"),
        "asset": meta.get("step_key"),
        "partition": tags.get("dagster/partition"),
        "trace_id": known.get("trace_id") or (traceparent[1] if len(traceparent) == 4 else None),
    }
