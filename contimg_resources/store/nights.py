"""Questions about observations and how far each has come: what arrived, what was made of it, what stands in the way.

What belongs here: one row of facts per observation, and everything the store knows about a single one. What a fact means
(complete, partial, waiting, blocked, failed) is ``contimg_portal.stages``; sources and candidates are ``queries.py`` and
``register.py``. Facts come from tables with few rows per observation: counting photometry would read all of it.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from contimg_resources.store.moment import Answers

STAGE_ASSETS = ("measurement_set", "gain_table", "continuum_image", "forced_photometry")
"""Assets of one observation, in the order in which they are made."""

_WANTED = """
    ($from_mjd IS NULL OR o.start_mjd >= $from_mjd) AND ($to_mjd IS NULL OR o.start_mjd < $to_mjd)
    AND ($status IS NULL OR o.status = $status) AND ($named IS NULL OR contains(o.observation_id, $named))
"""
_FACTS = f"""
    WITH wanted AS (SELECT o.* FROM observation o WHERE {_WANTED}
                    ORDER BY o.start_mjd DESC, o.observation_id LIMIT $limit OFFSET $offset),
    keys AS (SELECT DISTINCT partition_key FROM wanted),
    made AS (SELECT partition_key, list(DISTINCT asset) AS made_assets FROM stage_timing
             SEMI JOIN keys USING (partition_key) WHERE stage = 'whole' GROUP BY partition_key),
    used AS (SELECT observation_id, list(fallback ORDER BY kind) AS fallbacks FROM calibration_use
             SEMI JOIN wanted USING (observation_id) GROUP BY observation_id),
    imaged AS (SELECT observation_id, count(*) AS n_images FROM image SEMI JOIN wanted USING (observation_id)
               GROUP BY observation_id),
    scaled AS (SELECT observation_id, count(factor) AS n_scaled FROM flux_scale SEMI JOIN wanted USING (observation_id)
               GROUP BY observation_id),
    refused AS (SELECT partition_key, list(DISTINCT asset) AS refused_assets FROM check_result
                SEMI JOIN keys USING (partition_key) WHERE NOT passed AND severity = 'ERROR' GROUP BY partition_key),
    lost AS (SELECT partition_key, list(DISTINCT asset) AS failed_assets FROM dead_letter
             SEMI JOIN keys USING (partition_key) WHERE status <> 'resolved' GROUP BY partition_key)
    SELECT w.*, m.made_assets, u.fallbacks, coalesce(i.n_images, 0) AS n_images, coalesce(s.n_scaled, 0) AS n_scaled,
           r.refused_assets, d.failed_assets
    FROM wanted w LEFT JOIN made m USING (partition_key) LEFT JOIN used u USING (observation_id)
    LEFT JOIN imaged i USING (observation_id) LEFT JOIN scaled s USING (observation_id)
    LEFT JOIN refused r USING (partition_key) LEFT JOIN lost d USING (partition_key)
    ORDER BY w.start_mjd DESC, w.observation_id
"""  # noqa: S608 (the condition above)


def observation_facts(
    store: Answers,
    *,
    limit: int,
    offset: int = 0,
    from_mjd: float | None = None,
    to_mjd: float | None = None,
    status: str | None = None,
    named: str | None = None,
) -> pl.DataFrame:
    """Observations, newest first, each with what was made of it.

    Parameters
    ----------
    store : Answers
    limit, offset : int
    from_mjd, to_mjd : float, optional
        Span of the start, the end exclusive.
    status : str, optional
    named : str, optional
        Part of the observation's name.

    Returns
    -------
    polars.DataFrame
        The columns of ``observation`` and ``made_assets``, ``fallbacks`` (of calibration tables, by kind), ``n_images``,
        ``n_scaled`` (bands with a flux scale), ``refused_assets`` (a blocking check failed), ``failed_assets`` (open
        dead letters).
    """
    asked = {"limit": limit, "offset": offset, "from_mjd": from_mjd, "to_mjd": to_mjd, "status": status, "named": named}
    return store.query(_FACTS, asked)


def observed_days(store: Answers, *, limit: int, offset: int = 0) -> list[str]:
    """UTC days with observations, newest first."""
    answer = store.query(
        "SELECT DISTINCT partition_key[:10] AS day FROM observation ORDER BY day DESC LIMIT $limit OFFSET $offset",
        {"limit": limit, "offset": offset},
    )
    return [str(day) for day in answer["day"]]


def observation_files(store: Answers, observation_id: str) -> pl.DataFrame:
    """Raw files of an observation by sub-band."""
    return store.query("SELECT * FROM raw_file WHERE observation_id = ? ORDER BY subband, path", [observation_id])


def observation_images(store: Answers, observation_id: str) -> pl.DataFrame:
    """Images of an observation, the full band first."""
    return store.query("SELECT * FROM image WHERE observation_id = ? ORDER BY band <> 'full', band", [observation_id])


def image_of(store: Answers, observation_id: str, band: str) -> dict[str, Any] | None:
    """One image as a mapping, or None."""
    found = store.query("SELECT * FROM image WHERE observation_id = ? AND band = ?", [observation_id, band])
    return found.row(0, named=True) if found.height else None


def calibration_of(store: Answers, observation_id: str) -> pl.DataFrame:
    """Calibration tables an observation used, with what is known of each."""
    return store.query(
        """SELECT u.kind, u.path, u.age_h, u.fallback, t.calibrator, t.solved_at_mjd, t.refant, t.snr_median,
        t.flagged_fraction, t.status FROM calibration_use u LEFT JOIN calibration_table t USING (path)
        WHERE u.observation_id = ? ORDER BY u.kind""",
        [observation_id],
    )


def flux_scales_of(store: Answers, observation_id: str) -> pl.DataFrame:
    """Flux scale of an observation by band, the full band first."""
    return store.query(
        "SELECT * FROM flux_scale WHERE observation_id = ? ORDER BY band <> 'full', band", [observation_id]
    )


def checks_of(store: Answers, partition_key: str) -> pl.DataFrame:
    """Results of the checks of one partition, the failed ones first."""
    return store.query(
        "SELECT * FROM check_result WHERE partition_key = ? ORDER BY passed, severity, asset, check_name",
        [partition_key],
    )


def timings_of(store: Answers, partition_key: str) -> pl.DataFrame:
    """Stages of one partition in the order in which they began."""
    return store.query(
        "SELECT * FROM stage_timing WHERE partition_key = ? ORDER BY started_at, asset, stage", [partition_key]
    )


def dead_letters_of(store: Answers, partition_key: str) -> pl.DataFrame:
    """What failed for good in one partition, newest first."""
    return store.query("SELECT * FROM dead_letter WHERE partition_key = ? ORDER BY last_at DESC", [partition_key])


def decisions_about(store: Answers, observation_id: str) -> pl.DataFrame:
    """What was decided about an observation's arrival, oldest first."""
    return store.query(
        'SELECT * EXCLUDE (files) FROM arrival_decision WHERE observation_id = ? ORDER BY "at", decision_id',
        [observation_id],
    )


def images_between(store: Answers, from_mjd: float, to_mjd: float, *, band: str = "full") -> pl.DataFrame:
    """Images of a band whose observations began in a span, oldest first, with their pointings."""
    return store.query(
        """SELECT i.observation_id, i.band, i.path, i.rms_jy_beam, o.start_mjd, o.duration_s, o.pointing_ra_deg,
        o.pointing_dec_deg FROM image i JOIN observation o USING (observation_id)
        WHERE o.start_mjd BETWEEN ? AND ? AND i.band = ? ORDER BY o.start_mjd""",
        [from_mjd, to_mjd, band],
    )
