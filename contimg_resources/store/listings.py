"""Lists that the API gives of the store's tables: which rows, in which order, page by page.

What belongs here: conditions and order of each list. Values that come from outside are parameters of the question,
never part of its text; names of tables and columns are constants of this module. Questions of pages are ``queries.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from contimg_resources.store.connection import Store


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Which sources; None asks for nothing."""

    band: str = "full"
    name: str | None = None
    """Part of the name, in any case."""
    ra_deg: float | None = None
    dec_deg: float | None = None
    radius_deg: float = 0.1
    """Cone about the position, when both coordinates are given."""
    min_eta: float | None = None
    min_modulation_index: float | None = None
    min_flux_jy: float | None = None
    is_reference: bool | None = None


_ORDER = {
    "observation": "start_mjd DESC, observation_id",
    "raw_file": "observation_id DESC, subband, path",
    "image": "observation_id DESC, band <> 'full', band",
    "check_result": '"at" DESC, asset, check_name, partition_key',
    "stage_timing": "started_at DESC, asset, partition_key, stage",
    "calibration_table": "solved_at_mjd DESC, path",
    "calibration_use": "observation_id DESC, kind",
    "flux_scale": "observation_id DESC, band",
    "forced_photometry": "observation_id DESC, source_id, band",
    "light_curve": "source_id, band, epoch_mjd",
    "variability_statistics": "source_id, band, as_of_mjd DESC",
    "candidate_event": '"at", event_id',
    "injection_recovery": "as_of DESC, depth_bin, duration_bin",
    "image_injection": "as_of DESC, snr_bin",
    "dead_letter": "last_at DESC, letter_id",
    "dead_letter_event": '"at", event_id',
    "breaker": "stage",
    "breaker_event": '"at" DESC, event_id',
    "alert": "last_at DESC, alert_id",
    "alert_history": '"at" DESC, event_id',
    "heartbeat": "name",
    "mosaic": "partition_key DESC",
    "archived_product": "archived_at DESC, path",
    "arrival_decision": '"at" DESC, decision_id',
}
"""Order of each list; what is newest first where there is time."""


def rows(
    store: Store, table: str, *, limit: int, offset: int = 0, where: Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """Rows of a table with these values, in the table's order.

    Parameters
    ----------
    store : Store
    table : str
        One of those that have an order.
    limit, offset : int
    where : mapping of column to value
        Columns are constants of whoever asks; None asks for nothing.
    """
    wanted = {name: value for name, value in (where or {}).items() if value is not None}
    conditions = " AND ".join(f'"{name}" = ${name}' for name in wanted) or "true"
    return store.query(
        f'SELECT * FROM "{table}" WHERE {conditions} ORDER BY {_ORDER[table]} LIMIT $limit OFFSET $offset',  # noqa: S608
        {**wanted, "limit": limit, "offset": offset},
    )


def sources(store: Store, wanted: SourceFilter, *, limit: int, offset: int = 0) -> pl.DataFrame:
    """Sources with their newest statistics in a band, the most variable first; with a position, the nearest first."""
    has_cone = wanted.ra_deg is not None and wanted.dec_deg is not None
    conditions = {
        "contains(lower(s.source_id), lower($name))": wanted.name,
        "v.eta >= $min_eta": wanted.min_eta,
        "v.modulation_index >= $min_modulation_index": wanted.min_modulation_index,
        "v.weighted_mean_flux_jy >= $min_flux_jy": wanted.min_flux_jy,
        "s.is_reference = $is_reference": wanted.is_reference,
        # A strip of declination is quick to find; the angle is exact (haversine), also near poles and zero hours.
        "s.dec_deg BETWEEN $dec_deg - $radius_deg AND $dec_deg + $radius_deg AND separation_deg <= $radius_deg": (
            True if has_cone else None
        ),
    }
    where = " AND ".join(condition for condition, value in conditions.items() if value is not None) or "true"
    separation = (
        """degrees(2 * asin(least(1, sqrt(sin(radians(s.dec_deg - $dec_deg) / 2) ** 2
        + cos(radians(s.dec_deg)) * cos(radians($dec_deg)) * sin(radians(s.ra_deg - $ra_deg) / 2) ** 2))))"""
        if has_cone
        else "NULL::DOUBLE"
    )
    order = "separation_deg, s.source_id" if has_cone else "v.eta DESC NULLS LAST, s.source_id"
    sql = f"""SELECT s.*, v.* EXCLUDE (source_id, run_id, code_version, partition_key), {separation} AS separation_deg
        FROM source s LEFT JOIN (SELECT * FROM {store.newest_statistics} WHERE band = $band) v USING (source_id)
        WHERE {where} ORDER BY {order} LIMIT $limit OFFSET $offset"""  # noqa: S608 (constants of this module)
    values = {
        "band": wanted.band,
        "name": wanted.name,
        "ra_deg": wanted.ra_deg,
        "dec_deg": wanted.dec_deg,
        "radius_deg": wanted.radius_deg,
        "min_eta": wanted.min_eta,
        "min_modulation_index": wanted.min_modulation_index,
        "min_flux_jy": wanted.min_flux_jy,
        "is_reference": wanted.is_reference,
        "limit": limit,
        "offset": offset,
    }
    return store.query(sql, {name: value for name, value in values.items() if f"${name}" in sql})


def light_curve(
    store: Store,
    source_id: str,
    *,
    band: str | None = None,
    start_mjd: float | None = None,
    end_mjd: float | None = None,
    limit: int,
    offset: int = 0,
) -> pl.DataFrame:
    """Light curve of a source in order of band and time, of a band and a span of time if given."""
    return store.query(
        """SELECT * FROM light_curve WHERE source_id = $source_id AND ($band IS NULL OR band = $band)
        AND ($start_mjd IS NULL OR mjd >= $start_mjd) AND ($end_mjd IS NULL OR mjd < $end_mjd)
        ORDER BY band, epoch_mjd LIMIT $limit OFFSET $offset""",
        {
            "source_id": source_id,
            "band": band,
            "start_mjd": start_mjd,
            "end_mjd": end_mjd,
            "limit": limit,
            "offset": offset,
        },
    )


def light_curves_of(store: Store, source_ids: list[str], *, limit: int) -> pl.DataFrame:
    """Points of some sources, for what is computed on demand."""
    return store.query(
        """SELECT source_id, band, mjd, frequency_hz, flux_jy, flux_err_jy, flux_sys_err_jy FROM light_curve
        WHERE source_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY source_id, band, epoch_mjd LIMIT ?""",
        [source_ids, limit],
    )


def timing_summary(store: Store, since: datetime) -> pl.DataFrame:
    """Half and 95 % of the times of each stage since a moment, in seconds, and its largest memory."""
    return store.query(
        """SELECT asset, stage, count(*) AS n_runs, quantile_cont(duration_s, 0.5) AS p50_s,
            quantile_cont(duration_s, 0.95) AS p95_s, max(duration_s) AS max_s, max(peak_memory_mb) AS peak_memory_mb,
            sum(cpu_s) AS cpu_s, max(started_at) AS newest_at
        FROM stage_timing WHERE started_at >= ? GROUP BY asset, stage ORDER BY p95_s DESC, asset, stage""",
        [since],
    )


def calibration_trend(store: Store, *, limit: int) -> pl.DataFrame:
    """Newest calibration tables with what tells how good they are, oldest first."""
    return store.query(
        """SELECT kind, solved_at_mjd, snr_median, flagged_fraction, quality, calibrator, status
        FROM (SELECT * FROM calibration_table ORDER BY solved_at_mjd DESC, path LIMIT ?) ORDER BY solved_at_mjd, kind""",
        [limit],
    )


def completeness(store: Store, as_of: str | None = None) -> pl.DataFrame:
    """Completeness by depth and duration of a day, of the newest one when none is given."""
    return store.query(
        """SELECT * FROM injection_recovery WHERE as_of = coalesce(?, (SELECT max(as_of) FROM injection_recovery))
        ORDER BY duration_bin, depth_bin""",
        [as_of],
    )
