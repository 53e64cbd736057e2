"""A stage as operators see it: whose observation it works on, its log lines, its span in the trace, and what it cost.

What belongs here: the one context manager that ``failures.dagster_failures`` enters around every asset, and the first span
of an observation, which begins with the arrival of its last file. How lines and spans leave the process is
``contimg_resources.observability`` and ``tracing``.

An observation's stage belongs to the observation. A stage of an hour or a day carries on the observations that came in since
it last ran: its span stands in the trace of the newest of them, and each other one gets a span of the same time that links
there, so that every observation's trace reaches from its files to its candidates.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import structlog

from contimg_assets.partitions import day_window_range, hour_window_range
from contimg_resources.errors import StoreError
from contimg_resources.observability import OBSERVATION_TAG, TRACE_TAG, run_logging
from contimg_resources.process_usage import ProcessUsage, measured_usage
from contimg_resources.store.connection import Store
from contimg_resources.tracing import (
    TraceIdentity,
    is_tracing,
    parse_traceparent,
    record_first_span,
    stage_span,
    trace_of,
)

_LOG = structlog.get_logger(__name__)

_MOST_SHARED = 300
"""A day has 280 windows: more observations than these are not carried on by one stage."""
_DAY_KEY_LENGTH = len("2026-01-01")
_NEW_SINCE = """
    SELECT o.observation_id, o.partition_key FROM observation o
    JOIN stage_timing t ON t.partition_key = o.partition_key AND t.asset = $upstream AND t.stage = 'whole'
    WHERE o.partition_key >= $first AND o.partition_key < $after
      AND t.started_at + to_microseconds(CAST(t.duration_s * 1e6 AS BIGINT)) > coalesce(
          (SELECT max(started_at) FROM stage_timing WHERE asset = $asset AND partition_key = $key), TIMESTAMP '1970-01-01')
    ORDER BY o.start_mjd DESC LIMIT $most
"""


@dataclass(frozen=True)
class _Subject:
    """What a stage works on."""

    observation_id: str | None
    trace: TraceIdentity | None
    others: Sequence[TraceIdentity] = ()
    """Traces of further observations that the stage carries on."""


@contextmanager
def observed_stage(context: dg.AssetExecutionContext, store: Store) -> Iterator[ProcessUsage]:
    """Log lines with ids, a span, and the measured cost of one asset's work on one partition.

    Yields
    ------
    ProcessUsage
        Complete after the block.
    """
    asset, run_id = context.asset_key.to_user_string(), context.run.run_id
    partition_key = context.partition_key if context.has_partition_key else None
    subject = _subject(context, store, asset, partition_key)
    attributes = {"observation_id": subject.observation_id, "run_id": run_id, "partition": partition_key}
    ids = {**attributes, "asset": asset, "trace_id": subject.trace.trace_hex if subject.trace else None}
    with (
        run_logging(context.log, **ids),
        stage_span(asset, subject.trace, attributes, also_in=subject.others),
        measured_usage() as usage,
    ):
        yield usage
        _LOG.info("stage_done")


def _subject(context: dg.AssetExecutionContext, store: Store, asset: str, partition_key: str | None) -> _Subject:
    """Observation and trace of a stage: from the run's tags, else from its partition."""
    tags = context.run.tags
    tagged, parent = tags.get(OBSERVATION_TAG), parse_traceparent(tags.get(TRACE_TAG, ""))
    if partition_key is None:
        return _Subject(tagged, parent)
    if partition_key[_DAY_KEY_LENGTH : _DAY_KEY_LENGTH + 1] == "T":
        return _Subject(tagged or _observation_in(store, partition_key), parent or trace_of(partition_key))
    if parent is not None:
        return _Subject(tagged, parent)
    found = _observations_since(store, asset, partition_key)
    if not found:
        return _Subject(tagged, None)
    return _Subject(found[0][0], trace_of(found[0][1]), [trace_of(window) for _, window in found[1:]])


def _observation_in(store: Store, partition_key: str) -> str | None:
    rows = _ask(store, "SELECT observation_id FROM observation WHERE partition_key = $key", {"key": partition_key})
    return rows[0][0] if rows else None


def _observations_since(store: Store, asset: str, partition_key: str) -> list[tuple[str, str]]:
    """Observations of a day or hour that came in since an asset last worked on it, the newest first."""
    is_day = len(partition_key) == _DAY_KEY_LENGTH
    first, after = day_window_range(partition_key) if is_day else hour_window_range(partition_key)
    upstream = {"bandpass_table": "measurement_set"}.get(asset, "flux_scale" if is_day else "continuum_image")
    given = {"upstream": upstream, "first": first, "after": after, "asset": asset, "key": partition_key}
    return _ask(store, _NEW_SINCE, {**given, "most": _MOST_SHARED})


def _ask(store: Store, sql: str, parameters: dict[str, str | int]) -> list[tuple[str, str]]:
    """Rows, or none when the store cannot tell: a stage does not fail for the name of its observation."""
    try:
        return store.query(sql, parameters).rows()
    except StoreError:
        return []


def trace_arrivals(store: Store, partition_keys: Sequence[str]) -> None:
    """Begin the trace of observations that became ready: from the arrival of the last file until now."""
    if not is_tracing():
        return
    for partition_key in partition_keys:
        rows = store.query(
            "SELECT o.observation_id, f.path FROM observation o JOIN raw_file f USING (observation_id)"
            " WHERE o.partition_key = ? AND f.status = 'usable'",
            [partition_key],
        )
        paths = [path for path in map(Path, rows["path"]) if path.exists()]
        now = datetime.now(UTC)
        # A file that was moved into place arrived when its name did, whenever it was written.
        arrived = max((datetime.fromtimestamp(path.stat().st_ctime, UTC) for path in paths), default=now)
        attributes = {"partition": partition_key, "n_files": len(paths)}
        attributes |= {"observation_id": rows["observation_id"][0]} if rows.height else {}
        record_first_span(trace_of(partition_key), "observation", arrived, now, attributes)
