"""Breakers: whether each stage is asked for, what led to it, in tables ``breaker`` and ``breaker_event``.

What belongs here: the three states and what moves a stage from one to the next. Who reads the event log is
``contimg_sensors.failures``, who holds requests back ``contimg_sensors.gates``.

* closed: asked for. So many failures in a row, of the platform and of different runs, open it.
* open: not asked for until the cool-down is over.
* half-open: one request, the probe, is let through. Its success closes the breaker, its failure opens it again.

Only failures that say something about the platform count (``contimg_assets.failures``): five truncated observations in a
row are five bad observations. A success in any state closes: the stage works. The state is a row of the store, so a
restart of everything changes nothing. Calls to the outside have breakers of their own (``contimg_resources.outside``).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from contimg_resources.store.connection import Store

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"
_STATES = "SELECT stage, state, n_failures, changed_at, opened_at, probe_run_id, reason FROM breaker"
_CLAIMED = "requested"
"""Probe that was let through and whose run is not known yet."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of one stage."""

    stage: str
    state: str
    n_failures: int
    changed_at: datetime
    opened_at: datetime | None
    probe_run_id: str | None
    """Run of the probe, ``requested`` until it is known; None while none is under way."""
    reason: str | None


def breakers(store: Store) -> list[Breaker]:
    """Every stage that ever failed, by name."""
    if not store.path.exists():
        return []
    return [Breaker(**row) for row in store.query(f"{_STATES} ORDER BY stage").iter_rows(named=True)]


def breaker_events(store: Store, stage: str | None = None, *, limit: int = 100) -> pl.DataFrame:
    """Changes of state, newest first."""
    return store.query(
        'SELECT * FROM breaker_event WHERE $stage IS NULL OR stage = $stage ORDER BY "at" DESC LIMIT $limit',
        {"stage": stage, "limit": limit},
    )


def count_failure(
    connection: duckdb.DuckDBPyConnection, stage: str, at: datetime, *, run_id: str, reason: str, threshold: int,
    is_retry: bool = False,
) -> str:  # fmt: skip
    """Count a failure of the platform, inside a transaction; return the state after it.

    A retry of a failure that was counted counts only as a probe's answer: one bad partition tried five times is no
    broken stage.
    """
    known = _find(connection, stage)
    if known is None:
        _insert(connection, stage, at)
        known = Breaker(stage, CLOSED, 0, at, None, None, None)
    if known.state == HALF_OPEN:
        _change(connection, known, OPEN, at, run_id, f"the probe failed: {reason}", n_failures=known.n_failures + 1)
        return OPEN
    if is_retry:
        return known.state
    n_failures = known.n_failures + 1
    if known.state == CLOSED and n_failures >= threshold:
        _change(connection, known, OPEN, at, run_id, f"{n_failures} failures in a row, the last: {reason}", n_failures)
        return OPEN
    connection.execute("UPDATE breaker SET n_failures = ?, reason = ? WHERE stage = ?", [n_failures, reason, stage])
    return known.state


def count_success(connection: duckdb.DuckDBPyConnection, stage: str, at: datetime, *, run_id: str) -> bool:
    """Take note that a stage made something, inside a transaction; True when that closed its breaker."""
    known = _find(connection, stage)
    if known is None or (known.state == CLOSED and known.n_failures == 0):
        return False
    if known.state == CLOSED:
        connection.execute("UPDATE breaker SET n_failures = 0, reason = NULL WHERE stage = ?", [stage])
        return False
    _change(connection, known, CLOSED, at, run_id, "the stage works again", n_failures=0)
    return True


def cool_down(connection: duckdb.DuckDBPyConnection, now: datetime, cool_down_s: float) -> list[str]:
    """Half-open the breakers whose cool-down is over, inside a transaction; return their stages."""
    rows = connection.execute(
        f"{_STATES} WHERE state = 'open' AND opened_at <= ?", [now - timedelta(seconds=cool_down_s)]
    ).fetchall()
    for row in rows:
        known = Breaker(*row)
        _change(connection, known, HALF_OPEN, now, None, f"{cool_down_s:g} s have passed", known.n_failures)
    return [row[0] for row in rows]


def claim_probe(store: Store, stage: str, now: datetime) -> bool:
    """Take the one probe of a half-open breaker; False when it is out already or the breaker is not half-open."""
    with store.transaction() as connection:
        claimed = connection.execute(
            "UPDATE breaker SET probe_run_id = ?, changed_at = ?"
            " WHERE stage = ? AND state = 'half-open' AND probe_run_id IS NULL RETURNING stage",
            [_CLAIMED, now, stage],
        ).fetchall()
    return bool(claimed)


def note_probe(connection: duckdb.DuckDBPyConnection, stage: str, run_id: str | None) -> None:
    """Remember the run of a probe, or with None that it came to nothing and another may go."""
    connection.execute("UPDATE breaker SET probe_run_id = ? WHERE stage = ? AND state = 'half-open'", [run_id, stage])


def is_closed(connection: duckdb.DuckDBPyConnection, stage: str) -> bool:
    """Whether a stage is asked for, inside a transaction."""
    known = _find(connection, stage)
    return known is None or known.state == CLOSED


def _find(connection: duckdb.DuckDBPyConnection, stage: str) -> Breaker | None:
    rows = connection.execute(f"{_STATES} WHERE stage = ?", [stage]).fetchall()
    return Breaker(*rows[0]) if rows else None


def _insert(connection: duckdb.DuckDBPyConnection, stage: str, at: datetime) -> None:
    connection.execute(
        "INSERT INTO breaker (stage, state, n_failures, changed_at) VALUES (?, ?, 0, ?)", [stage, CLOSED, at]
    )


def _change(
    connection: duckdb.DuckDBPyConnection, known: Breaker, to_state: str, at: datetime, run_id: str | None, reason: str,
    n_failures: int,
) -> None:  # fmt: skip
    opened_at: Any = at if to_state == OPEN else known.opened_at
    connection.execute(
        "UPDATE breaker SET state = ?, n_failures = ?, changed_at = ?, opened_at = ?, probe_run_id = NULL, reason = ?"
        " WHERE stage = ?",
        [to_state, n_failures, at, opened_at, reason, known.stage],
    )
    connection.execute(
        'INSERT INTO breaker_event (event_id, stage, "at", from_state, to_state, run_id, reason) VALUES (?, ?, ?, ?, ?, ?, ?)',
        [uuid.uuid4().hex, known.stage, at, known.state, to_state, run_id, reason],
    )
