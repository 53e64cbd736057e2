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
from contimg_resources.store.records import keep_rows
from contimg_resources.store.schema import TABLES

STATUS_AFTER = {"confirm": "confirmed", "reject": "rejected", "reopen": "detected"}
"""Status of a candidate after each kind of review."""

NEW_EVIDENCE_SIGMA = 1.0
"""A rejected candidate waits for review again once its significance exceeds that of the rejection by this much."""

MANUAL_PARTITION = "manual"
"""Partition of candidates that people have named; sorts after every day, so no day's run replaces them."""

_STATUS_SQL = """
    SELECT candidate_id, arg_max(kind, "at") AS kind, arg_max(event_id, "at") AS event_id, max("at") AS "at",
        arg_max(significance, "at") AS significance
    FROM candidate_event WHERE kind IN ('confirm', 'reject', 'reopen') GROUP BY candidate_id
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
    last review says, also when the row had been lost; a rejected candidate is reopened, by an event of its own, only
    when its significance has grown by ``NEW_EVIDENCE_SIGMA`` since.

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
        returned = _returned(connection.sql(_STATUS_SQL).pl(), found)
        insert(connection, log, fit_frame(log, returned), on_conflict="ignore")
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
        moved = connection.sql(
            "SELECT DISTINCT partition_key FROM ese_candidate WHERE list_contains(?::VARCHAR[], candidate_id)",
            params=[kept["candidate_id"].to_list()],
        ).pl()
        connection.execute(
            "DELETE FROM ese_candidate WHERE partition_key = ?"
            " AND NOT list_contains(?::VARCHAR[], candidate_id)"
            " AND NOT list_contains(?::VARCHAR[], candidate_id)",
            [partition_key, found["candidate_id"].to_list(), reviewed["candidate_id"].to_list()],
        )
        insert(connection, log, happened, on_conflict="ignore")
        n_written = insert(connection, table, kept.sort(table.key), on_conflict="update")
        keep_rows(connection, table.name, [partition_key, *moved["partition_key"]])
        return n_written


def _returned(reviewed: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Events that reopen rejected candidates for which there is new evidence; the same ones for the same rejection."""
    grown = reviewed.filter(kind="reject").join(
        found.select("candidate_id", now="significance"), on="candidate_id", how="inner"
    )
    grown = grown.filter(pl.col("now") >= pl.col("significance") + NEW_EVIDENCE_SIGMA)
    return grown.select(
        (pl.lit("reopen-") + pl.col("event_id")).alias("event_id"),
        "candidate_id",
        # Just after the rejection, whenever this is written: the order of events is that of their times.
        (pl.col("at") + pl.duration(microseconds=1)).alias("at"),
        pl.lit("reopen").alias("kind"),
        pl.lit("contimg").alias("by"),
        pl.format(
            "new evidence: significance {} after {}", pl.col("now").round(1), pl.col("significance").round(1)
        ).alias("reason"),
        pl.col("now").alias("significance"),
    )


def add_candidate(store: Store, frame: pl.DataFrame, *, by: str, reason: str, at: datetime) -> str:
    """Add a candidate that a person has seen, and say so in the log; return its id.

    Raises
    ------
    StoreError
        If reviewer or reason are blank (reason code ``wrong_review``), or the source has a candidate at
        that time (``known_candidate``).
    """
    table = TABLES["ese_candidate"]
    (row,) = fit_frame(
        table, frame.with_columns(partition_key=pl.lit(MANUAL_PARTITION), status=pl.lit("detected"))
    ).iter_rows(named=True)
    candidate_id = str(row["candidate_id"])
    if not by.strip() or not reason.strip():
        raise _incomplete(Review(candidate_id, "add", by, reason))
    with store.transaction() as connection:
        known = connection.execute(
            "SELECT candidate_id FROM ese_candidate WHERE candidate_id = ?"
            " OR (source_id = ? AND start_mjd < ? AND end_mjd > ?)",
            [candidate_id, row["source_id"], row["end_mjd"], row["start_mjd"]],
        ).fetchall()
        if known:
            raise StoreError(
                "There is such a candidate already",
                got=str(known[0][0]),
                expected="an event of this source that is not known",
                remedy=f"`contimg candidates show {known[0][0]}` shows it; confirm or reopen it.",
                reason_code="known_candidate",
            )
        insert(connection, table, fit_frame(table, pl.DataFrame([row], schema_overrides=dict(frame.schema))))
        _log(connection, Review(candidate_id, "added", by, reason), at, row["significance"])
    return candidate_id


def review_accuracy(store: Store) -> pl.DataFrame:
    """How reviewers judged the verdicts: candidates confirmed and rejected per verdict, and the fraction confirmed."""
    return store.query(
        """SELECT coalesce(verdict, 'none') AS verdict, count(*) FILTER (status = 'confirmed') AS n_confirmed,
            count(*) FILTER (status = 'rejected') AS n_rejected, count(*) FILTER (status = 'detected') AS n_waiting,
            n_confirmed / nullif(n_confirmed + n_rejected, 0) AS confirmed_fraction
        FROM ese_candidate GROUP BY 1 ORDER BY 1"""
    )


def review_candidate(store: Store, review: Review, *, at: datetime) -> str:
    """Record a decision and return the candidate's new status.

    Raises
    ------
    StoreError
        If the candidate does not exist (reason code ``unknown_candidate``), or kind, reviewer or reason are not usable
        (``wrong_review``).
    """
    if review.kind not in STATUS_AFTER or not review.by.strip() or not review.reason.strip():
        raise _incomplete(review)
    status = STATUS_AFTER[review.kind]
    with store.transaction() as connection:
        found = connection.execute(
            "UPDATE ese_candidate SET status = ? WHERE candidate_id = ? RETURNING significance, partition_key",
            [status, review.candidate_id],
        ).fetchall()
        if not found:
            raise unknown_candidate(review.candidate_id)
        keep_rows(connection, "ese_candidate", [found[0][1]])
        _log(connection, review, at, found[0][0])
    return status


def _log(connection: duckdb.DuckDBPyConnection, review: Review, at: datetime, significance: float) -> None:
    """Append what somebody did to the history of a candidate."""
    event = pl.DataFrame(
        {
            "event_id": [uuid.uuid4().hex],
            "candidate_id": [review.candidate_id],
            "at": [at.astimezone(UTC).replace(tzinfo=None)],
            "kind": [review.kind],
            "by": [review.by.strip()],
            "reason": [review.reason.strip()],
            "significance": [significance],
        }
    )
    insert(connection, TABLES["candidate_event"], fit_frame(TABLES["candidate_event"], event))


def _incomplete(review: Review) -> StoreError:
    return StoreError(
        f"Review of candidate {review.candidate_id} is not complete",
        got=f"kind {review.kind!r}, by {review.by!r}, reason {review.reason!r}",
        expected=f"kind one of {', '.join(STATUS_AFTER)}, a reviewer and a reason",
        remedy="Say who decides and why.",
        reason_code="wrong_review",
    )


def unknown_candidate(candidate_id: str) -> StoreError:
    """Error for an id that no candidate has."""
    return StoreError(
        "There is no such candidate",
        got=candidate_id,
        expected="the id of a candidate in the store",
        remedy="`contimg candidates list` shows them.",
        reason_code="unknown_candidate",
    )
