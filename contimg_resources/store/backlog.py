"""What waits: observations that collect files, that are ready and not processed, and how long the oldest has waited.

The one definition for the gate, alerts, metrics and pages. An observation waits when it is ready for processing: before,
it collects files and nobody can do more; with an open dead letter it waits for a retry and not for its turn. These are
counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from contimg_resources.store.moment import Answers

BACKLOG = """
    SELECT count(*) FILTER (status = 'collecting') AS n_collecting,
        count(*) FILTER (status = 'ready' AND NOT has_letter) AS n_waiting,
        count(*) FILTER (status = 'ready' AND has_letter) AS n_failed,
        min(ready_at) FILTER (status = 'ready' AND NOT has_letter) AS oldest_at,
        arg_min(partition_key, ready_at) FILTER (status = 'ready' AND NOT has_letter) AS oldest_partition
    FROM (SELECT o.status, o.partition_key, coalesce(o.complete_at, o.first_seen_at) AS ready_at,
            EXISTS (SELECT 1 FROM dead_letter l WHERE l.partition_key = o.partition_key AND l.status <> 'resolved')
                AS has_letter
        FROM observation o WHERE o.status IN ('collecting', 'ready'))
"""
"""One row, for questions that ask for more than what `backlog` answers."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Observations that are not processed, by what they wait for."""

    n_collecting: int
    """Wait for files."""
    n_waiting: int
    """Are ready and wait for their turn."""
    n_failed: int
    """Are ready and have an open dead letter."""
    oldest_at: datetime | None
    """When the oldest of those that wait for their turn was complete, UTC without zone."""
    oldest_partition: str | None
    oldest_age_s: float
    """Since then; 0 when none waits."""


def backlog(store: Answers, *, now: datetime) -> Backlog:
    """Count what waits at a moment (UTC, without zone)."""
    row = store.query(BACKLOG).row(0, named=True)
    age_s = (now - row["oldest_at"]).total_seconds() if row["oldest_at"] is not None else 0.0
    return Backlog(**row, oldest_age_s=max(age_s, 0.0))
