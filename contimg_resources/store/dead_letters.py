"""Dead letters: what failed for good, one letter per asset and partition, and everything that happened to it.

What belongs here: the states of a letter and its history. Who notices failures and starts retries is
``contimg_sensors.failures``; whether a retry can help is ``contimg_assets.failures``. Asking for a retry writes a wish
into the store, and the sensor starts the run: the command, the portal and the growing delays all go the same way, it
works while Dagster is down, and the run is one of the code that is loaded then.

========  =====================================================================================
pending   failed; retried at ``next_retry_at``, or waits for a person where that is empty
retrying  a retry was asked for or is under way
failed    a retry failed and none follows by itself; a person may still ask for one
resolved  the partition was made after all, or a person closed the letter with a reason
========  =====================================================================================
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.records import keep_rows
from contimg_resources.store.schema import TABLES

STATUSES = ("pending", "retrying", "failed", "resolved")
DAGSTER = "dagster"
"""Who acts when nobody does."""


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often and when letters are retried without a hand."""

    max_attempts: int
    base_delay_s: float
    growth: float
    longest_delay_s: float

    def delay(self, n_attempts: int) -> timedelta:
        """Time until the retry after so many failed runs."""
        return timedelta(seconds=min(self.base_delay_s * self.growth ** (n_attempts - 1), self.longest_delay_s))


@dataclass(frozen=True, slots=True)
class StageFailure:
    """One partition of an asset that a run failed to make."""

    asset: str
    partition_key: str
    """Empty for an asset without partitions."""
    run_id: str
    job_name: str
    at: datetime
    """UTC, without zone."""
    error_class: str
    reason_code: str
    message: str
    remedy: str
    retry_helps: bool
    """Whether a retry can help without anybody doing anything."""
    is_platform: bool
    """Whether it says something about the platform rather than about one observation."""
    is_retry: bool = False
    """Whether the run was itself a retry of an earlier one."""
    dagster_retries: bool = False
    """Whether Dagster starts the run again by itself (lost processes)."""

    @property
    def letter_id(self) -> str:
        """The letter that this failure belongs to."""
        return letter_id(self.asset, self.partition_key)


def letter_id(asset: str, partition_key: str) -> str:
    """Name of the letter of an asset and partition."""
    return f"{asset}@{partition_key or 'all'}"


def record_failure(connection: duckdb.DuckDBPyConnection, failure: StageFailure, rules: RetryRules) -> bool:
    """Write or update the letter of a failure, inside a transaction; False if this failure is known already."""
    event_id = f"{failure.run_id}:{failure.asset}"
    if connection.execute("SELECT 1 FROM dead_letter_event WHERE event_id = ?", [event_id]).fetchall():
        return False
    found = connection.execute(
        "SELECT status, n_attempts, first_at FROM dead_letter WHERE letter_id = ?", [failure.letter_id]
    ).fetchall()
    is_open = bool(found) and found[0][0] != "resolved"
    n_attempts = found[0][1] + 1 if is_open else 1
    status, next_retry_at = _after_failure(failure, n_attempts, rules)
    _upsert(
        connection,
        {
            "letter_id": failure.letter_id,
            "asset": failure.asset,
            "partition_key": failure.partition_key or None,
            "run_id": failure.run_id,
            "job_name": failure.job_name,
            "first_at": found[0][2] if is_open else failure.at,
            "last_at": failure.at,
            "error_class": failure.error_class,
            "reason_code": failure.reason_code,
            "message": failure.message,
            "remedy": failure.remedy,
            "n_attempts": n_attempts,
            "status": status,
            "next_retry_at": next_retry_at,
            "retry_run_id": None,
            "resolved_at": None,
            "resolved_by": None,
            "resolution": None,
            "is_platform": failure.is_platform,
        },
    )
    connection.execute(
        'INSERT INTO dead_letter_event (event_id, letter_id, "at", kind, "by", run_id, detail, reason_code)'
        " VALUES (?, ?, ?, 'failed', ?, ?, ?, ?)",
        [event_id, failure.letter_id, failure.at, DAGSTER, failure.run_id, failure.message[:500], failure.reason_code],
    )
    keep_rows(connection, "dead_letter_event", [failure.at.isoformat()])
    return True


def _after_failure(failure: StageFailure, n_attempts: int, rules: RetryRules) -> tuple[str, datetime | None]:
    if failure.dagster_retries:
        return "retrying", None
    if failure.retry_helps and n_attempts < rules.max_attempts:
        return "pending", failure.at + rules.delay(n_attempts)
    return ("pending" if n_attempts == 1 and not failure.retry_helps else "failed"), None


def record_success(
    connection: duckdb.DuckDBPyConnection, asset: str, partition_key: str, run_id: str, at: datetime
) -> bool:
    """Resolve the open letter of a partition that was made after it failed; False when there is none."""
    letter = letter_id(asset, partition_key)
    if not connection.execute(
        "UPDATE dead_letter SET status = 'resolved', next_retry_at = NULL, resolved_at = ?, resolved_by = ?,"
        " resolution = 'made' WHERE letter_id = ? AND status <> 'resolved' AND last_at <= ? RETURNING letter_id",
        [at, DAGSTER, letter, at],
    ).fetchall():
        return False
    _log(connection, letter, at, "resolved", DAGSTER, "the partition was made", run_id)
    return True


def request_retry(store: Store, letter: str, *, by: str, reason: str, at: datetime) -> dict[str, Any]:
    """Ask for a retry of an open letter; the running Dagster starts it at its next tick. Return the letter.

    Raises
    ------
    StoreError
        Reason code ``unknown_letter``, ``letter_is_resolved``, ``letter_is_retrying`` or ``wrong_review``.
    """
    _require_named(by, reason)
    with store.transaction() as connection:
        status = _status(connection, letter)
        if status in {"resolved", "retrying"}:
            raise StoreError(
                f"Dead letter {letter} cannot be retried", got=status, expected="pending or failed",
                remedy="Nothing is to be done." if status == "resolved" else "Its retry is under way: wait for it.",
                reason_code=f"letter_is_{status}",
            )  # fmt: skip
        connection.execute(
            "UPDATE dead_letter SET status = 'retrying', next_retry_at = ?, retry_run_id = NULL WHERE letter_id = ?",
            [at, letter],
        )
        _log(connection, letter, at, "retry_requested", by, reason)
    return _existing(store, letter)


def resolve(store: Store, letter: str, *, by: str, reason: str, at: datetime) -> dict[str, Any]:
    """Close a letter by hand: whoever closes it says why. Return the letter.

    Raises
    ------
    StoreError
        Reason code ``unknown_letter``, ``letter_is_resolved`` or ``wrong_review``.
    """
    _require_named(by, reason)
    with store.transaction() as connection:
        if _status(connection, letter) == "resolved":
            raise StoreError(
                f"Dead letter {letter} is closed already", got="resolved", expected="an open letter",
                remedy="Nothing is to be done.", reason_code="letter_is_resolved",
            )  # fmt: skip
        connection.execute(
            "UPDATE dead_letter SET status = 'resolved', next_retry_at = NULL, resolved_at = ?, resolved_by = ?,"
            " resolution = ? WHERE letter_id = ?",
            [at, by.strip(), reason.strip(), letter],
        )
        _log(connection, letter, at, "resolved", by, reason)
    return _existing(store, letter)


def letters(
    store: Store, *, status: str | None = None, asset: str | None = None, limit: int = 100, offset: int = 0
) -> pl.DataFrame:
    """Letters, those that failed last first; ``status='open'`` leaves out resolved ones."""
    return store.query(
        """SELECT * FROM dead_letter WHERE ($asset IS NULL OR asset = $asset)
        AND ($status IS NULL OR status = $status OR ($status = 'open' AND status <> 'resolved'))
        ORDER BY last_at DESC, letter_id LIMIT $limit OFFSET $offset""",
        {"status": status, "asset": asset, "limit": limit, "offset": offset},
    )


def letter(store: Store, name: str) -> dict[str, Any] | None:
    """One letter as a mapping, or None."""
    found = store.query("SELECT * FROM dead_letter WHERE letter_id = ?", [name])
    return found.row(0, named=True) if found.height else None


def letter_events(store: Store, name: str) -> pl.DataFrame:
    """What happened to a letter, oldest first."""
    return store.query('SELECT * FROM dead_letter_event WHERE letter_id = ? ORDER BY "at", event_id', [name])


def failure_summary(store: Store, *, since: datetime) -> pl.DataFrame:
    """Failures since a moment by stage and cause: how many, of how many partitions, how many of these are still open."""
    return store.query(
        """SELECT l.asset AS stage, coalesce(e.reason_code, l.reason_code) AS reason_code, count(*) AS n_failures,
            count(DISTINCT e.letter_id) AS n_partitions,
            count(DISTINCT e.letter_id) FILTER (l.status <> 'resolved') AS n_open, max(e."at") AS last_at
        FROM dead_letter_event e JOIN dead_letter l USING (letter_id) WHERE e.kind = 'failed' AND e."at" >= ?
        GROUP BY 1, 2 ORDER BY n_failures DESC, stage, reason_code""",
        [since],
    )


def due_letters(store: Store, *, now: datetime, limit: int) -> pl.DataFrame:
    """Letters whose retry is asked for or whose time has come, in the order of their partitions."""
    return store.query(
        "SELECT * FROM dead_letter WHERE status IN ('pending', 'retrying') AND next_retry_at <= ?"
        " ORDER BY partition_key, letter_id LIMIT ?",
        [now, limit],
    )


def oldest_of_platform(store: Store, asset: str) -> pl.DataFrame:
    """The open letter of a stage with the oldest partition that can probe whether the stage works, if there is one."""
    return store.query(
        "SELECT * FROM dead_letter WHERE asset = ? AND status IN ('pending', 'failed') AND is_platform"
        " ORDER BY partition_key, letter_id LIMIT 1",
        [asset],
    )


def last_event_at(connection: duckdb.DuckDBPyConnection, name: str) -> datetime:
    """When anything last happened to a letter."""
    (found,) = connection.execute('SELECT max("at") FROM dead_letter_event WHERE letter_id = ?', [name]).fetchall()
    at: datetime = found[0]
    return at


def note_started(store: Store, name: str, *, at: datetime, detail: str) -> None:
    """Remember that the retry of a letter was handed to Dagster."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE dead_letter SET status = 'retrying', next_retry_at = NULL, retry_run_id = NULL WHERE letter_id = ?",
            [name],
        )
        _log(connection, name, at, "retry_started", DAGSTER, detail)


def note_retry_run(connection: duckdb.DuckDBPyConnection, name: str, run_id: str) -> None:
    """Remember which run retries a letter."""
    connection.execute("UPDATE dead_letter SET retry_run_id = ? WHERE letter_id = ?", [run_id, name])
    _keep_letter(connection, name)


def return_to_pending(
    connection: duckdb.DuckDBPyConnection, name: str, *, at: datetime, why: str, retry_at: datetime | None = None
) -> None:
    """Take a letter back whose retry came to nothing."""
    connection.execute(
        "UPDATE dead_letter SET status = 'pending', next_retry_at = ?, retry_run_id = NULL WHERE letter_id = ?",
        [retry_at, name],
    )
    _log(connection, name, at, "returned", DAGSTER, why)


def release(connection: duckdb.DuckDBPyConnection, asset: str, *, at: datetime) -> int:
    """Let the letters of a repaired stage be retried now: those whose failures were the platform's. Return how many."""
    released = connection.execute(
        "UPDATE dead_letter SET status = 'pending', next_retry_at = ?"
        " WHERE asset = ? AND status IN ('pending', 'failed') AND is_platform RETURNING letter_id",
        [at, asset],
    ).fetchall()
    for (name,) in released:
        _log(connection, name, at, "released", DAGSTER, f"{asset} works again")
    return len(released)


def unknown_letter(name: str) -> StoreError:
    """Error for an id that no letter has."""
    return StoreError(
        "There is no such dead letter", got=name, expected="the id of a letter in the store",
        remedy="`contimg dead-letters list` shows them.", reason_code="unknown_letter",
    )  # fmt: skip


def _existing(store: Store, name: str) -> dict[str, Any]:
    found = letter(store, name)
    if found is None:
        raise unknown_letter(name)
    return found


def _status(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    found = connection.execute("SELECT status FROM dead_letter WHERE letter_id = ?", [name]).fetchall()
    if not found:
        raise unknown_letter(name)
    return str(found[0][0])


def _require_named(by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise StoreError(
            "A decision about a dead letter is not complete", got=f"by {by!r}, reason {reason!r}",
            expected="who decides and why", remedy="Give both.", reason_code="wrong_review",
        )  # fmt: skip


def _upsert(connection: duckdb.DuckDBPyConnection, row: dict[str, Any]) -> None:
    table = TABLES["dead_letter"]
    types = {column.name: pl.Datetime("us") for column in table.columns if column.sql_type == "TIMESTAMP"}
    insert(connection, table, fit_frame(table, pl.DataFrame([row], schema_overrides=types)), on_conflict="update")


def _log(
    connection: duckdb.DuckDBPyConnection, name: str, at: datetime, kind: str, by: str, detail: str,
    run_id: str | None = None,
) -> None:  # fmt: skip
    """Append to the history of a letter, which has just changed."""
    connection.execute(
        'INSERT INTO dead_letter_event (event_id, letter_id, "at", kind, "by", run_id, detail)'
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [uuid.uuid4().hex, name, at, kind, by.strip(), run_id, detail.strip()],
    )
    _keep_letter(connection, name)
    keep_rows(connection, "dead_letter_event", [at.isoformat()])


def _keep_letter(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    partition_key = name.partition("@")[2]
    keep_rows(connection, "dead_letter", ["" if partition_key == "all" else partition_key])
