"""Where events come from: records of Dagster's event log and rows of the store's append-only tables, in one shape.

What belongs here: the kinds of events, and how a record or row becomes one. The order across sources, cursors and pages
are ``events``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterEventType, EventRecordsFilter

from contimg_resources.store.connection import Store

KINDS = {
    "observation_arrived": "all files of an observation have arrived (raw_visibilities)",
    "measurement_set_made": "an observation is converted and flagged",
    "calibration_solved": "a bandpass or gain table is solved",
    "image_made": "the images of an observation",
    "mosaic_made": "the mosaic of an hour",
    "catalogue_made": "the reference catalogue",
    "photometry_done": "every catalogue source in an observation is measured",
    "flux_scale_found": "the flux scale of an observation",
    "light_curves_made": "light curves of a day",
    "statistics_made": "variability statistics of a day",
    "candidates_searched": "the search for events of a day has ended",
    "sources_searched": "the search for sources outside the catalogue has ended",
    "completeness_measured": "injections of a day are searched",
    "report_made": "the quality report of a day",
    "asset_made": "an asset that is not named above",
    "check_failed": "an asset check failed",
    "stage_failed": "an asset of a run failed",
    "run_failed": "a run failed",
    "candidate_detected": "a candidate is seen for the first time, or added by a person",
    "candidate_changed": "significance or verdict of a candidate changed",
    "candidate_confirmed": "a reviewer confirmed a candidate",
    "candidate_rejected": "a reviewer rejected a candidate",
    "candidate_reopened": "a candidate waits for review again",
    "alert_opened": "an alert rule fired",
    "alert_acknowledged": "somebody has taken an alert on",
    "alert_resolved": "an alert is over",
    "alert_delivery_failed": "a channel could not be told of an alert",
    "dead_letter": "something happened to a dead letter; the message says what",
    "breaker_changed": "the breaker of a stage opened or closed",
}
"""Every kind of event and what it means."""

_KIND_OF_ASSET = {
    "raw_visibilities": "observation_arrived",
    "measurement_set": "measurement_set_made",
    "bandpass_table": "calibration_solved",
    "gain_table": "calibration_solved",
    "continuum_image": "image_made",
    "mosaic": "mosaic_made",
    "reference_catalogue": "catalogue_made",
    "forced_photometry": "photometry_done",
    "flux_scale": "flux_scale_found",
    "light_curves": "light_curves_made",
    "variability_statistics": "statistics_made",
    "ese_candidates": "candidates_searched",
    "blind_detections": "sources_searched",
    "blind_sources": "sources_searched",
    "injection_recovery": "completeness_measured",
    "quality_report": "report_made",
}
_KIND_OF_REVIEW = {
    "created": "candidate_detected",
    "added": "candidate_detected",
    "confirm": "candidate_confirmed",
    "reject": "candidate_rejected",
    "reopen": "candidate_reopened",
}
_KIND_OF_HISTORY = {
    "opened": "alert_opened",
    "reopened": "alert_opened",
    "acknowledged": "alert_acknowledged",
    "resolved": "alert_resolved",
    "settled": "alert_resolved",
    "delivery_failed": "alert_delivery_failed",
}
KINDS_OF_TYPE = {
    DagsterEventType.ASSET_MATERIALIZATION: {*_KIND_OF_ASSET.values(), "asset_made"},
    DagsterEventType.ASSET_CHECK_EVALUATION: {"check_failed"},
    DagsterEventType.STEP_FAILURE: {"stage_failed"},
    DagsterEventType.RUN_FAILURE: {"run_failed"},
}
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    id: str
    """The same whenever and by whichever way it is read."""
    kind: str
    at: datetime
    """UTC; of a candidate, the time of the newest observation behind it."""
    subject: str
    """What it is about: asset, candidate, alert rule, stage."""
    partition_key: str | None
    run_id: str | None
    message: str
    detail: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {"at": self.at.astimezone(UTC).isoformat()}


TABLES_OF_EVENTS: dict[str, tuple[set[str], str]] = {
    "candidate_event": (
        {*_KIND_OF_REVIEW.values(), "candidate_changed"},
        """SELECT rowid, event_id, "at", kind, candidate_id AS subject, NULL AS run_id, reason AS message,
            struct_pack("by" := "by", significance := significance) AS detail FROM candidate_event""",
    ),
    "alert_history": (
        set(_KIND_OF_HISTORY.values()),
        """SELECT rowid, event_id, "at", kind,
            (SELECT rule FROM alert WHERE alert.alert_id = alert_history.alert_id) AS subject, NULL AS run_id, detail AS message,
            struct_pack(alert_id := alert_id, "by" := "by", channel := channel) AS detail FROM alert_history""",
    ),
    "dead_letter_event": (
        {"dead_letter"},
        """SELECT rowid, event_id, "at", kind, letter_id AS subject, run_id,
            kind || coalesce(': ' || detail, '') AS message, struct_pack("by" := "by", change := kind) AS detail
        FROM dead_letter_event""",
    ),
    "breaker_event": (
        {"breaker_changed"},
        """SELECT rowid, event_id, "at", 'breaker' AS kind, stage AS subject, run_id, reason AS message,
            struct_pack(from_state := from_state, to_state := to_state) AS detail FROM breaker_event""",
    ),
}
"""Append-only tables of the store: the kinds they hold, and their rows in the shape of an event."""

Found = tuple[int, Event]
"""Position in the source, and the event."""


def from_dagster(instance: dg.DagsterInstance | None, start: int, wanted: set[str], limit: int) -> list[Found]:
    """Records from a position on, of the types that hold wanted kinds, in the order of the log."""
    if instance is None:
        return []
    batches = [
        instance.event_log_storage.get_event_records(
            EventRecordsFilter(event_type, after_cursor=start - 1 if start else None), limit=limit, ascending=True
        )
        for event_type, kinds in KINDS_OF_TYPE.items()
        if kinds & wanted
    ]
    # Behind the end of a batch that is full, records of its type may be missing: others must not overtake them.
    horizon = min((batch[-1].storage_id for batch in batches if len(batch) == limit), default=None)
    records = sorted(itertools.chain.from_iterable(batches), key=lambda record: record.storage_id)
    return [
        (record.storage_id, _dagster_event(record))
        for record in records
        if horizon is None or record.storage_id <= horizon
    ]


def _dagster_event(record: dg.EventLogRecord) -> Event:
    entry = record.event_log_entry
    event = entry.get_dagster_event()
    told = {
        DagsterEventType.ASSET_MATERIALIZATION: _made,
        DagsterEventType.ASSET_CHECK_EVALUATION: _judged,
        DagsterEventType.STEP_FAILURE: _stage_failed,
        DagsterEventType.RUN_FAILURE: _run_failed,
    }[event.event_type](event)
    return Event(
        id=f"dagster-{record.storage_id}",
        kind=told.kind,
        at=datetime.fromtimestamp(entry.timestamp, UTC),
        subject=told.subject,
        partition_key=told.partition_key,
        run_id=entry.run_id or None,
        message=told.message.strip()[:_LONGEST_TEXT],
        detail=told.detail,
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """What one record of Dagster says; without a kind it is passed over."""

    kind: str
    subject: str
    partition_key: str | None
    message: str
    detail: dict[str, Any]


def _made(event: dg.DagsterEvent) -> _Told:
    made = event.step_materialization_data.materialization
    name = made.asset_key.to_user_string()
    message = f"{name} made" + (f" for {made.partition}" if made.partition else "")
    return _Told(_KIND_OF_ASSET.get(name, "asset_made"), name, made.partition, message, _plain(made.metadata))


def _judged(event: dg.DagsterEvent) -> _Told:
    judged = event.asset_check_evaluation_data
    message = f"{judged.check_name} failed" + (f": {judged.description}" if judged.description else "")
    detail = _plain(judged.metadata) | {"check": judged.check_name, "severity": judged.severity.value}
    name = judged.asset_key.to_user_string()
    return _Told("" if judged.passed else "check_failed", name, judged.partition, message, detail)


def _stage_failed(event: dg.DagsterEvent) -> _Told:
    failure = event.step_failure_data
    user = failure.user_failure_data
    message = (user.description if user is not None else None) or (failure.error.message if failure.error else "")
    detail = _plain(user.metadata) if user is not None else {}
    partition_key = str(detail.pop("partition", "")) or None
    return _Told("stage_failed", event.step_key or "unknown stage", partition_key, message, detail)


def _run_failed(event: dg.DagsterEvent) -> _Told:
    return _Told("run_failed", event.job_name or "run", None, event.message or "", {})


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, truths and short texts of metadata; pictures and tables stay where they are."""
    values = {name: getattr(value, "value", None) for name, value in metadata.items()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)
    }


def from_store(store: Store, position: Mapping[str, int], wanted: set[str], limit: int) -> dict[str, list[Found]]:
    """Rows of each append-only table from a position on."""
    if not store.path.exists():
        return {}
    found = {}
    with store.reading() as connection:
        for table, (kinds, question) in TABLES_OF_EVENTS.items():
            if not kinds & wanted:
                continue
            sql = f"{question} WHERE rowid >= ? ORDER BY rowid LIMIT ?"
            rows = connection.sql(sql, params=[position[table], limit]).pl().iter_rows(named=True)
            found[table] = [(row["rowid"], _store_event(table, row)) for row in rows]
    return found


def _store_event(table: str, row: dict[str, Any]) -> Event:
    kind = {
        "candidate_event": _KIND_OF_REVIEW.get(row["kind"], "candidate_changed"),
        "alert_history": _KIND_OF_HISTORY.get(row["kind"], ""),
        "dead_letter_event": "dead_letter",
        "breaker_event": "breaker_changed",
    }[table]
    return Event(
        id=f"{table}-{row['event_id']}",
        kind=kind,
        at=row["at"].replace(tzinfo=UTC),
        subject=row["subject"] or "",
        partition_key=None,
        run_id=row["run_id"],
        message=(row["message"] or "")[:_LONGEST_TEXT],
        detail={name: value for name, value in row["detail"].items() if value is not None},
    )
