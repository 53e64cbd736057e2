"""The questions that portal and commands ask the store, each with a name and a frame for an answer.

Nothing is written here (``connection.py``, ``candidates.py``) and nothing is computed beyond joining and choosing rows:
a formula belongs to science.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from contimg_resources.store.moment import Answers

_CANDIDATES = """
    SELECT c.* EXCLUDE (evidence), s.ra_deg, s.dec_deg, s.catalogue_flux_jy
    FROM ese_candidate c LEFT JOIN source s USING (source_id)
    WHERE ($status IS NULL OR c.status = $status) AND ($verdict IS NULL OR c.verdict = $verdict)
"""


def counts(store: Answers) -> dict[str, int]:
    """How many observations, images, measurements, light-curve points, sources and candidates there are."""
    tables = ("observation", "image", "forced_photometry", "light_curve", "source", "ese_candidate")
    sums = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)  # noqa: S608 (names above)
    return {name: int(value) for name, value in store.query(f"SELECT {sums}").row(0, named=True).items()}


def observations(store: Answers, *, limit: int = 100, offset: int = 0, status: str | None = None) -> pl.DataFrame:
    """Observations, newest first."""
    return store.query(
        """SELECT * FROM observation WHERE $status IS NULL OR status = $status
        ORDER BY start_mjd DESC, observation_id LIMIT $limit OFFSET $offset""",
        {"limit": limit, "offset": offset, "status": status},
    )


def light_curve(store: Answers, source_id: str, *, limit: int | None = None, offset: int = 0) -> pl.DataFrame:
    """Light curve of a source in all bands, in order of band and time."""
    return store.query(
        "SELECT * FROM light_curve WHERE source_id = ? ORDER BY band, epoch_mjd LIMIT ? OFFSET ?",
        [source_id, limit, offset],
    )


def statistics_of(store: Answers, source_id: str) -> pl.DataFrame:
    """Newest statistics of a source in every band, the full band first."""
    return store.query(
        f"SELECT * FROM {store.newest_statistics} WHERE source_id = ? ORDER BY band <> 'full', band",  # noqa: S608 (a constant)
        [source_id],
    )


def source(store: Answers, source_id: str) -> dict[str, Any] | None:
    """One source as a mapping, or None."""
    found = store.query("SELECT * FROM source WHERE source_id = ?", [source_id])
    return found.row(0, named=True) if found.height else None


def ranked_sources(store: Answers, *, limit: int = 100, offset: int = 0, band: str = "full") -> pl.DataFrame:
    """Sources with their newest statistics, the most variable (largest eta) first."""
    return store.query(
        f"""SELECT s.*, v.* EXCLUDE (source_id, run_id, code_version) FROM source s
        LEFT JOIN (SELECT * FROM {store.newest_statistics} WHERE band = $band) v USING (source_id)
        ORDER BY v.eta DESC NULLS LAST, s.source_id LIMIT $limit OFFSET $offset""",  # noqa: S608 (a constant)
        {"limit": limit, "offset": offset, "band": band},
    )


def candidates(
    store: Answers, *, limit: int = 100, offset: int = 0, status: str | None = None, verdict: str | None = None
) -> pl.DataFrame:
    """Candidates with the position of their source, the most significant first; without the evidence."""
    return store.query(
        _CANDIDATES + " ORDER BY c.significance DESC, c.candidate_id LIMIT $limit OFFSET $offset",
        {"limit": limit, "offset": offset, "status": status, "verdict": verdict},
    )


def candidate(store: Answers, candidate_id: str) -> dict[str, Any] | None:
    """One candidate with its evidence (JSON text) and the position of its source, or None."""
    found = store.query(
        """SELECT c.*, s.ra_deg, s.dec_deg, s.catalogue_flux_jy
        FROM ese_candidate c LEFT JOIN source s USING (source_id) WHERE c.candidate_id = ?""",
        [candidate_id],
    )
    return found.row(0, named=True) if found.height else None


def candidate_events(store: Answers, candidate_id: str) -> pl.DataFrame:
    """What happened to a candidate, oldest first."""
    return store.query('SELECT * FROM candidate_event WHERE candidate_id = ? ORDER BY "at", event_id', [candidate_id])


def candidates_of_source(store: Answers, source_id: str) -> pl.DataFrame:
    """Candidates of a source, newest first."""
    return store.query(
        "SELECT * EXCLUDE (evidence) FROM ese_candidate WHERE source_id = ? ORDER BY peak_mjd DESC", [source_id]
    )


def last_light_curve_mjd(store: Answers) -> float | None:
    """Time of the newest light-curve point, MJD, or None."""
    # Not max(mjd), which reads every row: so DuckDB looks into the groups of rows that may have the newest only.
    newest = store.query("SELECT mjd FROM light_curve ORDER BY mjd DESC NULLS LAST LIMIT 1")
    return float(newest.item()) if newest.height else None
