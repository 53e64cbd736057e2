"""Questions about the register of sources as a whole: newest statistics, sources outside the catalogue, short histories.

What belongs here: frames with a row per source, which the portal keeps in memory and filters there (1e5 rows), and the
points of the few sources it shows. One source at a time is ``queries.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from contimg_resources.store.moment import Answers


def source_register(store: Answers, *, band: str = "full") -> pl.DataFrame:
    """Every source with its newest statistics in a band and how many candidates it has, the most variable first.

    Notes
    -----
    The newest row of each source is found by two hash aggregates; a window over all rows of all days takes several times as long.
    """
    return store.query(
        """WITH newest AS (SELECT source_id, max(as_of_mjd) AS as_of_mjd FROM variability_statistics
                        WHERE band = $band GROUP BY source_id),
        found AS (SELECT source_id, count(*) AS n_candidates FROM ese_candidate GROUP BY source_id)
        SELECT s.*, v.* EXCLUDE (source_id, band, partition_key, run_id, code_version),
               coalesce(f.n_candidates, 0) AS n_candidates
        FROM source s
        LEFT JOIN (SELECT v.* FROM variability_statistics v JOIN newest USING (source_id, as_of_mjd)
                   WHERE v.band = $band) v USING (source_id)
        LEFT JOIN found f USING (source_id) ORDER BY v.eta DESC NULLS LAST, s.source_id""",
        {"band": band},
    )


def statistics_bands(store: Answers) -> list[str]:
    """Bands of the images, the full band first: those that statistics may have."""
    answer = store.query("SELECT DISTINCT band FROM image ORDER BY band <> 'full', band")
    return [str(band) for band in answer["band"]]


def points_of(store: Answers, source_ids: Sequence[str], *, since_mjd: float = 0.0, band: str = "full") -> pl.DataFrame:
    """Points of some sources in one band: ``source_id, mjd, flux_jy, flux_err_jy`` in order of source and time.

    Notes
    -----
    Sources that are far apart in the list cost as much as all points since then: half a second for 1e8.
    """
    return store.query(
        """SELECT source_id, mjd, flux_jy, flux_err_jy FROM light_curve
        WHERE source_id IN (SELECT unnest(?::VARCHAR[])) AND mjd >= ? AND band = ? AND flux_jy IS NOT NULL
        ORDER BY source_id, mjd""",
        [list(source_ids), since_mjd, band],
    )


def blind_sources(store: Answers, *, limit: int, offset: int = 0) -> pl.DataFrame:
    """Sources found outside the catalogue, as last seen, the strongest first."""
    return store.query(
        """SELECT * FROM blind_source
        QUALIFY row_number() OVER (PARTITION BY source_id ORDER BY as_of_mjd DESC) = 1
        ORDER BY max_snr DESC NULLS LAST, source_id LIMIT ? OFFSET ?""",
        [limit, offset],
    )


def blind_source(store: Answers, source_id: str) -> dict[str, Any] | None:
    """One source outside the catalogue as last seen, or None."""
    found = store.query("SELECT * FROM blind_source WHERE source_id = ? ORDER BY as_of_mjd DESC LIMIT 1", [source_id])
    return found.row(0, named=True) if found.height else None


def blind_light_curve(store: Answers, source_id: str) -> pl.DataFrame:
    """Measurements of a source outside the catalogue, with the columns of a light curve."""
    return store.query(
        """SELECT source_id, band, mjd, frequency_hz, flux_jy, flux_err_jy, observation_id FROM blind_photometry
        WHERE source_id = ? ORDER BY band, mjd""",
        [source_id],
    )


def comments_on(store: Answers, source_id: str) -> pl.DataFrame:
    """What people wrote about a source, newest first."""
    return store.query('SELECT * FROM source_comment WHERE source_id = ? ORDER BY "at" DESC, comment_id', [source_id])
