"""Candidates: what the daily search writes and what reviewers decide, kept apart so that neither destroys the other.

``candidate_event`` is append-only and is the truth of every decision; ``ese_candidate.status`` follows from it. A
re-run of a day replaces that day's rows, not what people said about them. How candidates are found is science; the
pages that show them are the portal's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.schema import TABLES

STATUS_AFTER = {"confirm": "confirmed", "reject": "rejected", "reopen": "detected"}
"""Status of a candidate after each kind of review."""

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


def record_candidates(store: Store, frame: pl.DataFrame, events: pl.DataFrame, *, partition_key: str) -> int:
    """Make these the candidates of a day and add what happened to them to the log, in one transaction.

    A candidate that is still there on a later day belongs to that day; re-running an earlier day then leaves it alone.
    A candidate of this day that is no longer found is removed, unless somebody has reviewed it. The status is what the
    last review says, also when the row had been lost.

    Parameters
    ----------
    store : Store
    frame : polars.DataFrame
        Columns of ``ese_candidate``; ``status`` and ``partition_key`` are set here.
    events : polars.DataFrame
        Rows for ``candidate_event``; those whose ``event_id`` exists are ignored.
    partition_key : str
        The day.

    Returns
    -------
    int
        Number of candidates written.
    """
    table, log = TABLES["ese_candidate"], TABLES["candidate_event"]
    found = fit_frame(table, frame.with_columns(partition_key=pl.lit(partition_key), status=pl.lit("detected")))
    happened = fit_frame(log, events)
    with store.transaction() as connection:
        reviewed = connection.sql(_STATUS_SQL).pl()
        newer = connection.sql(
            "SELECT candidate_id FROM ese_candidate WHERE partition_key > ?", params=[partition_key]
        ).pl()
        decided = reviewed.select("candidate_id", decided=pl.col("kind").replace(STATUS_AFTER))
        kept = (
            found.join(newer, on="candidate_id", how="anti")
            .join(decided, on="candidate_id", how="left")
            .with_columns(status=pl.coalesce("decided", "status"))
            .select(found.columns)
        )
        connection.execute(
            "DELETE FROM ese_candidate WHERE partition_key = ?"
            " AND NOT list_contains(?::VARCHAR[], candidate_id)"
            " AND NOT list_contains(?::VARCHAR[], candidate_id)",
            [partition_key, found["candidate_id"].to_list(), reviewed["candidate_id"].to_list()],
        )
        insert(connection, log, happened, on_conflict="ignore")
        return insert(connection, table, kept.sort(table.key), on_conflict="update")


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
