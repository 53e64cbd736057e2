"""What alert rules can measure of the data: arrivals, backlog, calibration, images, candidates, completeness.

Each function is a metric under its own name; its docstring says what the number is. Windows are counted in
observations, not by the clock, so that old data processed anew are judged like new ones. What the machinery does is
``platform_measurements``.
"""

from __future__ import annotations

from datetime import UTC, datetime

from contimg_resources.alerts.probe import Probe, Reading, measurement
from contimg_resources.store.backlog import BACKLOG

NEWEST_OBSERVATIONS = 12
"""One hour of them: what "the newest" means for calibration and usability."""
NEWEST_IMAGES = 6
FEWEST_OBSERVATIONS = 4
_DAYS_BEFORE = 7


@measurement
def observation_age_min(probe: Probe) -> list[Reading]:
    """Minutes without an observation: between the arrival of the newest and the last sign of life of the site.

    The site lives as long as an agent there sends heartbeats; where none does, by the clock. A season that has ended is
    not waited for.
    """
    season_end = probe.settings.season_end
    if season_end is not None and probe.now.date() > season_end:
        return []
    ((arrived,),) = probe.rows("SELECT max(first_seen_at) FROM observation") or [(None,)]
    if arrived is None:
        return []
    ((alive,),) = probe.rows("SELECT max(last_at) FROM heartbeat WHERE kind = 'agent'")
    until: datetime = alive.replace(tzinfo=UTC) if alive is not None else probe.now
    age_min = max(0.0, (until - arrived.replace(tzinfo=UTC)).total_seconds() / 60.0)
    return [Reading(age_min, detail=f"the last one arrived {arrived:%Y-%m-%d %H:%M} UTC")]


@measurement
def backlog_observations(probe: Probe) -> list[Reading]:
    """Observations that are complete and wait for their turn."""
    ((n_waiting, oldest),) = probe.rows(f"SELECT n_waiting, oldest_partition FROM ({BACKLOG})") or [(0, None)]  # noqa: S608
    return [Reading(n_waiting, detail=f"{n_waiting} waiting" + (f", oldest {oldest}" if oldest else ""))]


@measurement
def quarantined_fraction(probe: Probe) -> list[Reading]:
    """Fraction of the newest twelve observations that are quarantined; of at least four."""
    rows = probe.rows(
        "SELECT status = 'quarantined', reason_code FROM observation WHERE status IN ('ready', 'processed', 'quarantined')"
        " ORDER BY start_mjd DESC LIMIT $1",
        NEWEST_OBSERVATIONS,
    )
    if len(rows) < FEWEST_OBSERVATIONS:
        return []
    reasons = [reason for is_quarantined, reason in rows if is_quarantined]
    detail = f"{len(reasons)} of {len(rows)}: {', '.join(sorted({r or 'unknown' for r in reasons}))}"
    return [Reading(len(reasons) / len(rows), detail=detail if reasons else f"none of {len(rows)}")]


@measurement
def bandpass_age_h(probe: Probe) -> list[Reading]:
    """Hours from the solution of the last active bandpass to the newest observation that is ready or processed."""
    ((start_mjd, solved_mjd),) = probe.rows(
        """SELECT o.start_mjd, (SELECT max(solved_at_mjd) FROM calibration_table
            WHERE kind = 'B' AND status = 'active' AND solved_at_mjd <= o.start_mjd + 1)
        FROM (SELECT max(start_mjd) AS start_mjd FROM observation WHERE status IN ('ready', 'processed')) o"""
    ) or [(None, None)]
    if start_mjd is None or solved_mjd is None:
        return []
    age_h = (start_mjd - solved_mjd) * 24.0
    return [Reading(age_h, detail=f"bandpass {age_h:.1f} h older than the newest observation")]


@measurement
def calibration_checks_failed_fraction(probe: Probe) -> list[Reading]:
    """Fraction of failed checks of the newest bandpass, and of the gains of the newest six observations, by asset."""
    rows = probe.rows(
        """WITH judged AS (
            SELECT asset, passed, check_name, dense_rank() OVER (PARTITION BY asset ORDER BY partition_key DESC) AS nth
            FROM check_result WHERE asset IN ('bandpass_table', 'gain_table'))
        SELECT asset, count(*) FILTER (NOT passed), count(*),
            string_agg(DISTINCT check_name, ', ' ORDER BY check_name) FILTER (NOT passed)
        FROM judged WHERE nth <= CASE asset WHEN 'bandpass_table' THEN 1 ELSE $1 END GROUP BY asset ORDER BY asset""",
        NEWEST_IMAGES,
    )
    return [
        Reading(n_failed / n_checks, asset, f"{n_failed} of {n_checks} checks failed" + (f": {names}" if names else ""))
        for asset, n_failed, n_checks, names in rows
    ]


@measurement
def calibration_fallback_fraction(probe: Probe) -> list[Reading]:
    """Fraction of the newest twelve calibrated observations that fell back on other tables; of at least four."""
    rows = probe.rows(
        "SELECT bool_or(fallback <> 'none'), string_agg(DISTINCT fallback, ', ') FROM calibration_use"
        " GROUP BY observation_id ORDER BY observation_id DESC LIMIT $1",
        NEWEST_OBSERVATIONS,
    )
    if len(rows) < FEWEST_OBSERVATIONS:
        return []
    n_fallen = sum(is_fallback for is_fallback, _ in rows)
    return [Reading(n_fallen / len(rows), detail=f"{n_fallen} of {len(rows)} observations")]


@measurement
def image_rms_over_thermal(probe: Probe) -> list[Reading]:
    """Median, over the newest six full-band images, of rms over thermal rms; of at least four."""
    rows = probe.rows(
        "SELECT rms_jy_beam / thermal_rms_jy_beam FROM image WHERE band = 'full' AND thermal_rms_jy_beam > 0"
        " AND rms_jy_beam IS NOT NULL ORDER BY observation_id DESC LIMIT $1",
        NEWEST_IMAGES,
    )
    ratios = sorted(float(ratio) for (ratio,) in rows)
    if len(ratios) < FEWEST_OBSERVATIONS:
        return []
    median = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
    return [Reading(median, detail=f"{median:.2f} times thermal over {len(ratios)} images")]


@measurement
def candidate_significance(probe: Probe) -> list[Reading]:
    """Significance (sigma) of every candidate with verdict ese that waits for review, by candidate."""
    rows = probe.rows(
        "SELECT candidate_id, significance, source_id, depth FROM ese_candidate"
        " WHERE status = 'detected' AND verdict = 'ese' ORDER BY candidate_id"
    )
    return [
        Reading(sigma, name, f"{source_id}, {sigma:.1f} sigma" + (f", {depth:.0%} deep" if depth is not None else ""))
        for name, sigma, source_id, depth in rows
    ]


@measurement
def completeness_drop(probe: Probe) -> list[Reading]:
    """Recovered fraction of injected events: median of up to seven days before, minus the newest day's."""
    rows = probe.rows(
        "SELECT as_of, sum(n_recovered) / sum(n_injected) FROM injection_recovery GROUP BY as_of"
        " HAVING sum(n_injected) > 0 ORDER BY as_of DESC LIMIT $1",
        _DAYS_BEFORE + 1,
    )
    if len(rows) < 2:
        return []
    (day, newest), *earlier = rows
    before = sorted(float(value) for _, value in earlier)
    median = (before[(len(before) - 1) // 2] + before[len(before) // 2]) / 2
    return [Reading(median - float(newest), detail=f"{newest:.0%} on {day}, {median:.0%} before")]
