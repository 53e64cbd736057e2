"""The history of candidates: what changed between two evaluations, as rows of ``candidate_event``.

What belongs here: machine events (created, updated, verdict_changed, lost). What does not: people's reviews, which the
portal writes into the same table.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

import polars as pl

EVENT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "event_id": pl.String,
    "candidate_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "kind": pl.String,
    "by": pl.String,
    "reason": pl.String,
    "significance": pl.Float64,
}

MACHINE = "contimg"
"""Who writes these events."""

_MATERIAL_CHANGE = 0.5
"""Sigmas by which the significance has to change to be worth an event."""


def candidate_events(previous: pl.DataFrame, current: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Events that lead from one table of candidates to the next.

    Parameters
    ----------
    previous, current : polars.DataFrame
        Tables ``ese_candidate``; ``previous`` may be empty.
    at : datetime
        UTC of the newest observation behind ``current``: when the change happened, as far as the sky is concerned.

    Returns
    -------
    polars.DataFrame
        ``EVENT_SCHEMA``. ``event_id`` is a hash of the content, so that writing the same events twice adds nothing.
    """
    known = {row["candidate_id"]: row for row in previous.iter_rows(named=True)} if previous.height else {}
    events = []
    for row in current.iter_rows(named=True):
        old = known.get(row["candidate_id"])
        if old is None:
            events.append(_event(row, at, "created", f"{row['significance']:.1f} sigma, verdict {row['verdict']}"))
            continue
        if abs(row["significance"] - old["significance"]) >= _MATERIAL_CHANGE:
            change = f"significance from {old['significance']:.1f} to {row['significance']:.1f}"
            events.append(_event(row, at, "updated", change))
        if row["verdict"] != old["verdict"]:
            events.append(_event(row, at, "verdict_changed", f"verdict from {old['verdict']} to {row['verdict']}"))
    return pl.DataFrame(events, schema=EVENT_SCHEMA, orient="row")


def _event(row: dict[str, object], at: datetime, kind: str, reason: str) -> tuple[object, ...]:
    content = f"{row['candidate_id']}|{at}|{kind}|{reason}"
    event_id = hashlib.sha256(content.encode()).hexdigest()[:20]
    return (event_id, row["candidate_id"], at, kind, MACHINE, reason, row["significance"])
