"""The questions that assets, portal and commands ask the store, each with a name and a frame for an answer.

Nothing is written here (``connection.py``, ``candidates.py``) and nothing is computed beyond joining and choosing rows:
a formula belongs to science. Days are UTC, ``YYYY-MM-DD``; an observation belongs to the day its partition key names.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from contimg_resources.store.connection import Store

_LATEST_STATISTICS = """
    SELECT * FROM variability_statistics
    WHERE band = $band AND ($day IS NULL OR partition_key <= $day)
    QUALIFY row_number() OVER (PARTITION BY source_id ORDER BY as_of_mjd DESC) = 1
"""
_CANDIDATES = """
    SELECT c.* EXCLUDE (evidence), s.ra_deg, s.dec_deg, s.catalogue_flux_jy
    FROM ese_candidate c LEFT JOIN source s USING (source_id)
    WHERE ($status IS NULL OR c.status = $status) AND ($verdict IS NULL OR c.verdict = $verdict)
"""


def counts(store: Store) -> dict[str, int]:
    """How many observations, images, measurements, light-curve points, sources and candidates there are."""
    tables = ("observation", "image", "forced_photometry", "light_curve", "source", "ese_candidate")
    sums = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)  # noqa: S608 (names above)
    return {name: int(value) for name, value in store.query(f"SELECT {sums}").row(0, named=True).items()}


def observations(store: Store, *, limit: int = 100, offset: int = 0, status: str | None = None) -> pl.DataFrame:
    """Observations, newest first."""
    return store.query(
        """SELECT * FROM observation WHERE $status IS NULL OR status = $status
        ORDER BY start_mjd DESC, observation_id LIMIT $limit OFFSET $offset""",
        {"limit": limit, "offset": offset, "status": status},
    )


def observations_of_day(store: Store, day: str) -> pl.DataFrame:
    """Observations of a UTC day in order of time."""
    return store.query(
        "SELECT * FROM observation WHERE partition_key[:10] = ? ORDER BY start_mjd, observation_id", [day]
    )


def observation_of_partition(store: Store, partition_key: str) -> dict[str, Any] | None:
    """Observation of a 5-minute window as a mapping, or None."""
    found = store.query("SELECT * FROM observation WHERE partition_key = ? ORDER BY start_mjd", [partition_key])
    return found.row(0, named=True) if found.height else None


def raw_files(store: Store, observation_id: str) -> pl.DataFrame:
    """Raw files of an observation in order of sub-band."""
    return store.query("SELECT * FROM raw_file WHERE observation_id = ? ORDER BY subband, path", [observation_id])


def calibration_candidates(store: Store, *, kind: str, mjd: float) -> pl.DataFrame:
    """Active calibration tables of a kind, those solved nearest in time first.

    Returns
    -------
    polars.DataFrame
        Columns of ``calibration_table``, plus ``age_h`` (absolute distance in time, h) and ``is_valid`` (whether
        ``mjd`` lies in the table's validity).
    """
    return store.query(
        """SELECT *, abs($mjd - solved_at_mjd) * 24 AS age_h, $mjd BETWEEN valid_from_mjd AND valid_to_mjd AS is_valid
        FROM calibration_table WHERE kind = $kind AND status = 'active' ORDER BY age_h, path""",
        {"kind": kind, "mjd": mjd},
    )


def calibration_used(store: Store, observation_id: str) -> pl.DataFrame:
    """Calibration tables an observation was imaged with, their age and fallback."""
    return store.query("SELECT * FROM calibration_use WHERE observation_id = ? ORDER BY kind", [observation_id])


def images_of(store: Store, observation_id: str) -> pl.DataFrame:
    """Images of an observation, one row per band."""
    return store.query("SELECT * FROM image WHERE observation_id = ? ORDER BY frequency_hz, band", [observation_id])


def photometry_of_day(store: Store, day: str) -> pl.DataFrame:
    """Forced photometry of a UTC day with the flux scale of each observation and band.

    Returns
    -------
    polars.DataFrame
        Columns of ``forced_photometry``, plus ``factor`` and ``factor_err`` (NULL when that observation and band has no
        flux scale).
    """
    return store.query(
        """SELECT p.*, f.factor, f.factor_err FROM forced_photometry p
        LEFT JOIN flux_scale f USING (observation_id, band)
        WHERE p.partition_key[:10] = ? ORDER BY source_id, band, mjd""",
        [day],
    )


def light_curve(store: Store, source_id: str, *, limit: int | None = None, offset: int = 0) -> pl.DataFrame:
    """Light curve of a source in all bands, in order of band and time."""
    return store.query(
        "SELECT * FROM light_curve WHERE source_id = ? ORDER BY band, epoch_mjd LIMIT ? OFFSET ?",
        [source_id, limit, offset],
    )


def light_curves_until(store: Store, day: str) -> pl.DataFrame:
    """Light curves of all sources and bands up to and including a UTC day."""
    return store.query("SELECT * FROM light_curve WHERE partition_key <= ? ORDER BY source_id, band, epoch_mjd", [day])


def latest_statistics(store: Store, *, band: str = "full", day: str | None = None) -> pl.DataFrame:
    """Newest statistics of every source in a band, up to a UTC day when given."""
    return store.query(_LATEST_STATISTICS + " ORDER BY source_id", {"band": band, "day": day})


def statistics_of(store: Store, source_id: str) -> pl.DataFrame:
    """Newest statistics of a source in every band, the full band first."""
    return store.query(
        """SELECT * FROM variability_statistics WHERE source_id = ?
        QUALIFY row_number() OVER (PARTITION BY band ORDER BY as_of_mjd DESC) = 1 ORDER BY band <> 'full', band""",
        [source_id],
    )


def sources(store: Store) -> pl.DataFrame:
    """Every source, in order of its id."""
    return store.query("SELECT * FROM source ORDER BY source_id")


def source(store: Store, source_id: str) -> dict[str, Any] | None:
    """One source as a mapping, or None."""
    found = store.query("SELECT * FROM source WHERE source_id = ?", [source_id])
    return found.row(0, named=True) if found.height else None


def ranked_sources(store: Store, *, limit: int = 100, offset: int = 0, band: str = "full") -> pl.DataFrame:
    """Sources with their newest statistics, the most variable (largest eta) first."""
    return store.query(
        f"""SELECT s.*, v.* EXCLUDE (source_id, run_id, code_version) FROM source s
        LEFT JOIN ({_LATEST_STATISTICS}) v USING (source_id)
        ORDER BY v.eta DESC NULLS LAST, s.source_id LIMIT $limit OFFSET $offset""",  # noqa: S608 (a constant)
        {"limit": limit, "offset": offset, "band": band, "day": None},
    )


def candidates(
    store: Store, *, limit: int = 100, offset: int = 0, status: str | None = None, verdict: str | None = None
) -> pl.DataFrame:
    """Candidates with the position of their source, the most significant first; without the evidence."""
    return store.query(
        _CANDIDATES + " ORDER BY c.significance DESC, c.candidate_id LIMIT $limit OFFSET $offset",
        {"limit": limit, "offset": offset, "status": status, "verdict": verdict},
    )


def candidate(store: Store, candidate_id: str) -> dict[str, Any] | None:
    """One candidate with its evidence (JSON text) and the position of its source, or None."""
    found = store.query(
        """SELECT c.*, s.ra_deg, s.dec_deg, s.catalogue_flux_jy
        FROM ese_candidate c LEFT JOIN source s USING (source_id) WHERE c.candidate_id = ?""",
        [candidate_id],
    )
    return found.row(0, named=True) if found.height else None


def candidate_events(store: Store, candidate_id: str) -> pl.DataFrame:
    """What happened to a candidate, oldest first."""
    return store.query('SELECT * FROM candidate_event WHERE candidate_id = ? ORDER BY "at", event_id', [candidate_id])


def candidates_of_source(store: Store, source_id: str) -> pl.DataFrame:
    """Candidates of a source, newest first."""
    return store.query(
        "SELECT * EXCLUDE (evidence) FROM ese_candidate WHERE source_id = ? ORDER BY peak_mjd DESC", [source_id]
    )


def last_light_curve_mjd(store: Store) -> float | None:
    """Time of the newest light-curve point, MJD, or None."""
    newest = store.query("SELECT max(mjd) FROM light_curve").item()
    return None if newest is None else float(newest)
