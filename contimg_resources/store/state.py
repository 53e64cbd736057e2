"""Questions about the state of the telescope and the platform as a whole: what is newest, what waits, what is wrong.

What belongs here: the answers of the overview. What waits is ``backlog.py``, single observations are ``nights.py``, sources
and candidates ``queries.py``. What counts as too old or too many is a setting.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from contimg_resources.store.backlog import BACKLOG
from contimg_resources.store.moment import Answers

_SEVERITIES = "['critical', 'error', 'warning', 'info']"


def pointings_since(store: Answers, since_mjd: float) -> pl.DataFrame:
    """Where the telescope looked since a time, oldest first."""
    return store.query(
        """SELECT observation_id, start_mjd, duration_s, pointing_ra_deg, pointing_dec_deg, status, n_subbands
        FROM observation WHERE start_mjd >= ? ORDER BY start_mjd""",
        [since_mjd],
    )


def newest_observation(store: Answers) -> dict[str, Any] | None:
    """The observation that began last, or None."""
    found = store.query("SELECT * FROM observation ORDER BY start_mjd DESC LIMIT 1")
    return found.row(0, named=True) if found.height else None


def trouble_counts(store: Answers) -> dict[str, Any]:
    """What is set aside: ``n_quarantined`` observations, ``n_dead_letters`` (open).

    Returns
    -------
    dict
        These, and ``touched_at`` (UTC or None): when the register last learned of an observation.
    """
    return store.query(
        """SELECT count(*) FILTER (status = 'quarantined') AS n_quarantined, max(first_seen_at) AS touched_at,
        (SELECT count(*) FROM dead_letter WHERE status <> 'resolved') AS n_dead_letters FROM observation"""
    ).row(0, named=True)


def asset_freshness(store: Answers) -> pl.DataFrame:
    """Of each asset: how often it was made, the newest partition, when it was last made and how long that took."""
    return store.query(
        """SELECT asset, count(DISTINCT partition_key) AS n_partitions, max(partition_key) AS newest_partition,
        max(started_at + to_microseconds(CAST(duration_s * 1e6 AS BIGINT))) AS made_at,
        arg_max(duration_s, started_at) AS duration_s, arg_max(run_id, started_at) AS run_id
        FROM stage_timing WHERE stage = 'whole' GROUP BY asset ORDER BY asset"""
    )


def newest_candidates(store: Answers, *, limit: int) -> pl.DataFrame:
    """Candidates, the latest found first."""
    return store.query(
        "SELECT * EXCLUDE (evidence) FROM ese_candidate ORDER BY detected_at DESC NULLS LAST, significance DESC LIMIT ?",
        [limit],
    )


def open_alerts(store: Answers, *, limit: int) -> pl.DataFrame:
    """Alerts that are not resolved, the most severe and newest first."""
    return store.query(
        f"""SELECT * FROM alert WHERE status <> 'resolved'
        ORDER BY list_position({_SEVERITIES}, severity) NULLS LAST, last_at DESC LIMIT ?""",  # noqa: S608 (a constant)
        [limit],
    )


def newest_calibration(store: Answers, kind: str) -> dict[str, Any] | None:
    """The active calibration table of a kind (B, G) solved last, or None."""
    found = store.query(
        "SELECT * FROM calibration_table WHERE kind = ? AND status = 'active' ORDER BY solved_at_mjd DESC LIMIT 1",
        [kind],
    )
    return found.row(0, named=True) if found.height else None


def site_summary(store: Answers) -> dict[str, Any]:
    """One line about a store, to compare sites by."""
    row: dict[str, datetime | float | int | None] = store.query(
        f"""SELECT (SELECT count(*) FROM observation) AS n_observations, (SELECT max(start_mjd) FROM observation) AS newest_mjd,
        (SELECT n_waiting FROM ({BACKLOG})) AS n_waiting,
        (SELECT count(*) FROM observation WHERE status = 'quarantined') AS n_quarantined,
        (SELECT median(rms_jy_beam) FROM image WHERE band = 'full') AS median_rms_jy_beam,
        (SELECT count(*) FROM source) AS n_sources, (SELECT count(*) FROM ese_candidate) AS n_candidates,
        (SELECT count(*) FROM alert WHERE status <> 'resolved') AS n_alerts"""  # noqa: S608 (a constant)
    ).row(0, named=True)
    return row
