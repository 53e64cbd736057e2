"""What waits: observations that are ready and not processed, and how long the oldest has waited.

Observations with an open dead letter wait for a retry and not for their turn: they are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from contimg_resources.store.connection import Store

_WAITING = """
    SELECT count(*) FILTER (NOT has_letter) AS n_waiting, count(*) FILTER (has_letter) AS n_failed,
        min(complete_at) FILTER (NOT has_letter) AS oldest_at,
        arg_min(partition_key, complete_at) FILTER (NOT has_letter) AS oldest_partition
    FROM (SELECT o.partition_key, o.complete_at,
            EXISTS (SELECT 1 FROM dead_letter l WHERE l.partition_key = o.partition_key AND l.status <> 'resolved')
                AS has_letter
        FROM observation o WHERE o.status = 'ready')
"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Observations that are ready and not processed."""

    n_waiting: int
    n_failed: int
    """With an open dead letter."""
    oldest_partition: str | None
    """Of those that wait."""
    oldest_age_s: float
    """Since it was complete; 0 when none waits."""


def backlog(store: Store, *, now: datetime) -> Backlog:
    """Count what waits at a moment (UTC, without zone)."""
    row = store.query(_WAITING).row(0, named=True)
    age_s = (now - row["oldest_at"]).total_seconds() if row["oldest_at"] is not None else 0.0
    return Backlog(row["n_waiting"], row["n_failed"], row["oldest_partition"], max(age_s, 0.0))
