"""Light-curve points out of the store: all of them up to a time, or those of some sources.

What belongs here: these two questions, in one fixed order of rows. Writing is ``connection.py``; what people ask one
source at a time is ``queries.py``.
"""

from __future__ import annotations

import polars as pl

from contimg_resources.store.connection import Store

_COLUMNS = "source_id, epoch_mjd, band, mjd, frequency_hz, flux_jy, flux_err_jy, flux_sys_err_jy, n_observations, flags"
_ORDER = "ORDER BY source_id, band, epoch_mjd"


def points_until(store: Store, before_mjd: float) -> pl.DataFrame:
    """Points of every source before a time, sorted by source, band and epoch."""
    return store.query(f"SELECT {_COLUMNS} FROM light_curve WHERE mjd < ? {_ORDER}", [before_mjd])  # noqa: S608 (constants)


def points_of_sources(store: Store, source_ids: list[str], before_mjd: float) -> pl.DataFrame:
    """Points of some sources before a time, in the same order.

    A semi-join against the list, not one question per source: DuckDB reads the identifiers once, and the other columns
    only where one of them matches.
    """
    return store.query(
        f"SELECT {_COLUMNS} FROM light_curve WHERE mjd < ? AND source_id IN (SELECT unnest(?::VARCHAR[])) {_ORDER}",  # noqa: S608
        [before_mjd, source_ids],
    )
