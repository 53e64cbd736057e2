"""Candidates: what the daily search writes and what reviewers decide, kept apart so that neither destroys the other.

``candidate_event`` is append-only and is the truth of every decision; ``ese_candidate.status`` follows from it. A
re-run of a day replaces that day's rows, not what people said about them. How candidates are found is science; the
pages that show them are the portal's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import polars as pl

from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.schema import TABLES

STATUS_AFTER = {"confirm": "confirmed", "reject": "rejected", "reopen": "detected"}
"""Status of a candidate after each kind of review."""

_KNOWN_SQL = """
    SELECT candidate_id, partition_key AS known_partition_key, first_at, latency_s AS known_latency_s
    FROM ese_candidate FULL JOIN (
        SELECT candidate_id, min("at") AS first_at FROM candidate_event WHERE kind = 'detected' GROUP BY candidate_id
    ) USING (candidate_id)
"""
_STATUS_SQL = """
    SELECT candidate_id, arg_max(kind, "at") AS kind FROM candidate_event
    WHERE kind IN ('confirm', 'reject', 'reopen') GROUP BY candidate_id
"""


@dataclass(frozen=True, slots=True)
class Review:
    """One decision about a candidate."""

    candidate_id: str
    kind: str
    """confirm, reject or reopen."""
    by: str
    """Who decided."""
    reason: str


def record_candidates(store: Store, frame: pl.DataFrame, *, partition_key: str, at: datetime) -> int:
    """Make these the candidates of a day, keeping reviews, first detection times and newer days' versions.

    A candidate that is still there on a later day moves to that day; re-running an earlier day then changes nothing of
    it. A candidate of this day that is no longer found is removed, unless somebody has reviewed it. Every first
    detection and every later significance goes to ``candidate_event`` under an identity that a re-run repeats.

    Parameters
    ----------
    store : Store
    frame : polars.DataFrame
        Columns of ``ese_candidate``; ``status``, ``partition_key``, ``detected_at`` are filled in when absent.
    partition_key : str
        The day.
    at : datetime
        When we learned it (aware); kept from the first time for a candidate already known.

    Returns
    -------
    int
        Number of candidates that were new.
    """
    table = TABLES["ese_candidate"]
    learned_at = at.astimezone(UTC).replace(tzinfo=None)
    given = frame.with_columns(partition_key=pl.lit(partition_key), status=pl.lit("detected"))
    if "detected_at" not in given.columns:
        given = given.with_columns(detected_at=pl.lit(learned_at))
    fitted = fit_frame(table, given)
    with store.transaction() as connection:
        known = connection.sql(_KNOWN_SQL).pl()
        reviewed = connection.sql(_STATUS_SQL).pl()
        merged = _merge(fitted, known, reviewed, partition_key)
        connection.execute(
            "DELETE FROM ese_candidate WHERE partition_key = ? AND status = 'detected'"
            " AND NOT list_contains(?::VARCHAR[], candidate_id)",
            [partition_key, fitted["candidate_id"].to_list()],
        )
        insert(connection, table, merged, on_conflict="update")
        _log_detections(connection, fitted, partition_key, learned_at)
    return fitted.join(known, on="candidate_id", how="anti").height


def _merge(fitted: pl.DataFrame, known: pl.DataFrame, reviewed: pl.DataFrame, partition_key: str) -> pl.DataFrame:
    columns = fitted.columns
    status = reviewed.select("candidate_id", decided=pl.col("kind").replace(STATUS_AFTER))
    return (
        fitted.join(known, on="candidate_id", how="left")
        .join(status, on="candidate_id", how="left")
        .filter(pl.col("known_partition_key").is_null() | (pl.col("known_partition_key") <= partition_key))
        .with_columns(
            status=pl.coalesce("decided", "status"),
            detected_at=pl.coalesce("first_at", "detected_at"),
            latency_s=pl.coalesce("known_latency_s", "latency_s"),
        )
        .select(columns)
        .sort("candidate_id")
    )


def _log_detections(
    connection: duckdb.DuckDBPyConnection, fitted: pl.DataFrame, partition_key: str, learned_at: datetime
) -> None:
    events = fitted.select(
        event_id=pl.col("candidate_id") + f":detected:{partition_key}",
        candidate_id="candidate_id",
        at=pl.lit(learned_at),
        kind=pl.lit("detected"),
        by=pl.lit("search"),
        reason=pl.lit(f"found in the search of {partition_key}"),
        significance="significance",
    )
    table = TABLES["candidate_event"]
    insert(connection, table, fit_frame(table, events), on_conflict="ignore")


def review_candidate(store: Store, review: Review, *, at: datetime) -> str:
    """Record a decision and return the candidate's new status.

    Raises
    ------
    StoreError
        If the candidate does not exist (reason code ``unknown_candidate``), or kind, reviewer or reason are not usable
        (``wrong_review``).
    """
    if review.kind not in STATUS_AFTER or not review.by.strip() or not review.reason.strip():
        raise StoreError(
            f"Review of candidate {review.candidate_id} is not complete",
            got=f"kind {review.kind!r}, by {review.by!r}, reason {review.reason!r}",
            expected=f"kind one of {', '.join(STATUS_AFTER)}, a reviewer and a reason",
            remedy="Say who decides and why.",
            reason_code="wrong_review",
        )
    status = STATUS_AFTER[review.kind]
    with store.transaction() as connection:
        found = connection.execute(
            "UPDATE ese_candidate SET status = ? WHERE candidate_id = ? RETURNING significance",
            [status, review.candidate_id],
        ).fetchall()
        if not found:
            raise unknown_candidate(review.candidate_id)
        event = pl.DataFrame(
            {
                "event_id": [uuid.uuid4().hex],
                "candidate_id": [review.candidate_id],
                "at": [at.astimezone(UTC).replace(tzinfo=None)],
                "kind": [review.kind],
                "by": [review.by.strip()],
                "reason": [review.reason.strip()],
                "significance": [found[0][0]],
            }
        )
        table = TABLES["candidate_event"]
        insert(connection, table, fit_frame(table, event))
    return status


def unknown_candidate(candidate_id: str) -> StoreError:
    """Error for an id that no candidate has."""
    return StoreError(
        "There is no such candidate",
        got=candidate_id,
        expected="the id of a candidate in the store",
        remedy="`contimg candidates list` shows them.",
        reason_code="unknown_candidate",
    )
