"""Traces: one per observation, from the arrival of its last file to its candidates, across runs and processes.

The identity of an observation's trace is computed, not handed around: trace id and the id of its first span are hashes of
the observation's partition key. So the sensor, a run forked by the daemon, a backfill of next year and the run of the day
continue the same trace without a message between them; run tags carry the same as ``contimg/traceparent`` (W3C) for
others to read. Rejected: a trace context kept in the store, one more thing to lose.

Off unless ``CONTIMG_OTLP_ENDPOINT`` is set. Spans are exported in batches by a thread of each process (a forked process
makes its own), with short timeouts: a collector that is down costs lost spans, never a waiting stage. Science knows nothing
of this; spans stand in assets and resources.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link

EXPORT_TIMEOUT_S = 2.0
"""A request to the collector is given up after this."""
_FLUSH_TIMEOUT_S = 3.0
"""A process that ends waits this long for its last spans."""
_SAMPLED = 1
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class TraceIdentity:
    """A trace and the span that others hang under."""

    trace_id: int
    span_id: int

    @property
    def trace_hex(self) -> str:
        """Trace id as collectors show it."""
        return f"{self.trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """W3C trace context."""
        return f"00-{self.trace_hex}-{self.span_id:016x}-{_SAMPLED:02x}"


def trace_of(partition_key: str) -> TraceIdentity:
    """Trace of the observation in a window, whoever asks and whenever."""
    digest = hashlib.sha256(f"contimg observation {partition_key}".encode()).digest()
    return TraceIdentity(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]))


def parse_traceparent(text: str) -> TraceIdentity | None:
    """Read a W3C trace context; None when it is none."""
    parts = text.split("-")
    lengths = [len(part) for part in parts]
    if lengths != [2, 32, 16, 2] or any(set(part) - set("0123456789abcdef") for part in parts):
        return None
    return TraceIdentity(int(parts[1], 16), int(parts[2], 16))


@dataclass(slots=True)
class _Process:
    """Tracing of one process; a fork must not use its parent's."""

    pid: int = 0
    endpoint: str | None = None
    provider: TracerProvider | None = None


_process = _Process()
_lock = threading.Lock()
_forced = threading.local()
"""Ids that the next root span of this thread takes."""


def configure_tracing(endpoint: str | None) -> None:
    """Say where spans of this process go; nothing is loaded or started before the first span."""
    with _lock:
        if (endpoint, os.getpid()) != (_process.endpoint, _process.pid):
            _process.endpoint, _process.pid, _process.provider = endpoint, os.getpid(), None


def is_tracing() -> bool:
    """Whether spans of this process go anywhere."""
    return _process.endpoint is not None


def _provider() -> TracerProvider | None:
    if _process.endpoint is None:
        return None
    with _lock:
        if _process.provider is None or _process.pid != os.getpid():
            _process.provider, _process.pid = _make_provider(_process.endpoint), os.getpid()
            atexit.register(finish_tracing)
        return _process.provider


def _make_provider(endpoint: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Random ids, but those of an observation where its first span is made."""

        def generate_trace_id(self) -> int:
            identity: TraceIdentity | None = getattr(_forced, "identity", None)
            return super().generate_trace_id() if identity is None else identity.trace_id

        def generate_span_id(self) -> int:
            identity: TraceIdentity | None = getattr(_forced, "identity", None)
            return super().generate_span_id() if identity is None else identity.span_id

    url = endpoint.rstrip("/")
    url = url if url.endswith("/v1/traces") else f"{url}/v1/traces"
    provider = TracerProvider(
        id_generator=Ids(),
        resource=Resource.create({"service.name": "contimg", "process.pid": os.getpid()}),
        shutdown_on_exit=False,  # that waits for half a minute; see finish_tracing
    )
    exporter = OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=1000, export_timeout_millis=1000 * EXPORT_TIMEOUT_S)
    )
    return provider


def finish_tracing(timeout_s: float = _FLUSH_TIMEOUT_S) -> None:
    """Send what is left, waiting no longer than this; for processes that end."""
    with _lock:
        provider, pid = _process.provider, _process.pid
        _process.provider = None
    if provider is not None and pid == os.getpid():
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(timeout_s)


def _under(parent: TraceIdentity) -> Context:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    context = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(_SAMPLED))
    return set_span_in_context(NonRecordingSpan(context))


@contextmanager
def stage_span(
    name: str,
    parent: TraceIdentity | None,
    attributes: Mapping[str, Any],
    *,
    also_in: Sequence[TraceIdentity] = (),
) -> Iterator[None]:
    """Span of one stage of a run.

    Parameters
    ----------
    name : str
    parent : TraceIdentity, optional
        Trace it continues; None begins one.
    attributes : mapping
        Values that are None are left out.
    also_in : sequence of TraceIdentity
        Other observations that this stage carries on: each gets a span of the same time that links to the real one.
    """
    provider = _provider()
    if provider is None:
        yield
        return
    from opentelemetry.context import Context

    tracer = provider.get_tracer("contimg")
    given = _given(attributes)
    context = Context() if parent is None else _under(parent)
    shared = [
        tracer.start_span(name, context=_under(other), attributes=given, links=_links(parent)) for other in also_in
    ]
    try:
        with tracer.start_as_current_span(name, context=context, attributes=given):
            yield
    finally:
        for span in shared:
            span.end()


def _links(to: TraceIdentity | None) -> list[Link]:
    from opentelemetry.trace import Link, SpanContext

    return [] if to is None else [Link(SpanContext(to.trace_id, to.span_id, is_remote=True))]


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"contimg.{name}": value for name, value in attributes.items() if value is not None}


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[None]:
    """Span of a part of a stage; nothing outside a stage, and nothing while tracing is off."""
    provider = _provider()
    if provider is None:
        yield
        return
    from opentelemetry.trace import get_current_span

    if not get_current_span().is_recording():
        yield
        return
    with provider.get_tracer("contimg").start_as_current_span(name, attributes=_given(attributes)):
        yield


def traced(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Give every call of a function a span of this name."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def inside_span(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with span(name):
                return function(*args, **kwargs)

        return inside_span

    return decorate


def record_first_span(
    identity: TraceIdentity, name: str, start: datetime, end: datetime, attributes: Mapping[str, Any]
) -> None:
    """Make the span that an observation's trace begins with; all its stages hang under it.

    Parameters
    ----------
    identity : TraceIdentity
        Ids the span gets.
    start, end : datetime
        Aware.
    """
    provider = _provider()
    if provider is None:
        return
    from opentelemetry.context import Context

    _forced.identity = identity
    try:
        first = provider.get_tracer("contimg").start_span(
            name, context=Context(), attributes=_given(attributes), start_time=_nanoseconds(start)
        )
    finally:
        _forced.identity = None
    first.end(end_time=_nanoseconds(end))


def _nanoseconds(when: datetime) -> int:
    return int(when.timestamp() * 1e9)
