"""Candidates of a table of light curves, as rows of the table ``ese_candidate``.

What belongs here: the rows and their identity. What does not: the search (``scan``), the history of a candidate
(``events``).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from contimg_assets.science.errors import DataError
from contimg_assets.science.ese.chromaticity import ChromaticFit, fit_chromaticity
from contimg_assets.science.ese.conditions import best_condition
from contimg_assets.science.ese.scan import Find, scan
from contimg_assets.science.ese.series import Series, source_series, split_bands, usable_rows
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.templates import template_bank
from contimg_assets.science.ese.verdict import (
    Surroundings,
    common_mode_depth,
    judge,
    low_points_elsewhere,
    recurs_yearly,
    systematic_cause,
)

CANDIDATE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "candidate_id": pl.String,
    "source_id": pl.String,
    "status": pl.String,
    "start_mjd": pl.Float64,
    "end_mjd": pl.Float64,
    "peak_mjd": pl.Float64,
    "significance": pl.Float64,
    "tier": pl.String,
    "false_alarm_probability": pl.Float64,
    "depth": pl.Float64,
    "duration_d": pl.Float64,
    "lens_alpha": pl.Float64,
    "lens_width_d": pl.Float64,
    "chromaticity": pl.Float64,
    "verdict": pl.String,
    "detected_at": pl.Datetime("us", "UTC"),
    "latency_s": pl.Float64,
    "evidence": pl.String,
}
"""Columns of ``ese_candidate`` that science fills; fluxes and depths are relative to the quiescent level."""

IDENTITY_BIN_D = 60.0
"""A new candidate is named after its source and the bin of this length its peak falls in."""

COMPARED = 200
"""Sources a dip is compared with, to see whether it is ours: their median depth is then good to a tenth of the scatter of
one source, whatever the size of the catalogue."""

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


def tier(significance: float) -> str:
    """``high`` above 7 sigma, ``medium`` from 5, ``low`` below."""
    return "high" if significance > 7.0 else "medium" if significance >= 5.0 else "low"


def find_candidates(
    light_curve: pl.DataFrame,
    as_of_mjd: float,
    rng: np.random.Generator,
    settings: SearchSettings | None = None,
    previous: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Search every source of a table for lensing events.

    Parameters
    ----------
    light_curve : polars.DataFrame
        ``source_id``, ``mjd``, ``flux_jy``, ``flux_err_jy``; optional ``band``, ``frequency_hz``, ``flux_sys_err_jy``
        and the ``series.CONDITIONS``. Rows may be in any order.
    as_of_mjd : float
        Later points are not looked at.
    rng : numpy.random.Generator
        For the noise that calibrates false alarms; the same seed gives the same table.
    settings : SearchSettings, optional
        Limits of the search.
    previous : polars.DataFrame, optional
        Candidates known so far: an event that overlaps one of the same source keeps its ``candidate_id`` and
        ``detected_at``.

    Returns
    -------
    polars.DataFrame
        ``CANDIDATE_SCHEMA``, most significant first; ``latency_s`` is NULL, the caller knows when the data arrived.

    Notes
    -----
    ``detected_at`` is the time of the newest point used, never the wall clock. ``verdict`` is NULL where the bands do
    not tell a lens from an achromatic dip.
    """
    limits = settings or SearchSettings()
    searched, found = scan(usable_rows(light_curve, as_of_mjd), rng, limits)
    compared = set(sample_of({item.source_id for item in searched}, COMPARED))
    return candidate_rows(found, [item.clean for item in searched if item.source_id in compared], limits, previous)


def sample_of(source_ids: Iterable[str], n: int) -> list[str]:
    """At most so many sources, the same ones for the same names: the first in the order of a checksum of the name."""
    return sorted(source_ids, key=lambda name: (zlib.crc32(name.encode()), name))[:n]


def candidate_rows(
    found: list[Find], compared: list[Series], settings: SearchSettings, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Describe what was found.

    Parameters
    ----------
    found : list of Find
        Of all sources.
    compared : list of Series
        The searched series of at most ``COMPARED`` sources, which tell whether a dip is everybody's.
    settings : SearchSettings
        Limits of the search.
    previous : polars.DataFrame, optional
        As for ``find_candidates``, with the same result.
    """
    in_order = sorted(found, key=lambda f: (-f.dip.significance, f.source_id, f.dip.peak_mjd))
    records = [_record(find, in_order, compared, settings) for find in in_order]
    table = pl.DataFrame(records, schema=CANDIDATE_SCHEMA, orient="row")
    return _keep_identity(table, previous).sort(["significance", "candidate_id"], descending=[True, False])


def measured_candidate(light_curve: pl.DataFrame, start_mjd: float, end_mjd: float) -> pl.DataFrame:
    """The candidate a person sees between two times in the light curve of one source, measured without a model.

    Parameters
    ----------
    light_curve : polars.DataFrame
        Rows of one source, as for ``find_candidates``.
    start_mjd, end_mjd : float
        The event.

    Returns
    -------
    polars.DataFrame
        One row of ``CANDIDATE_SCHEMA``: depth and significance from the weighted means inside and outside; no verdict.

    Raises
    ------
    DataError
        If fewer than two usable points lie inside or outside.
    """
    (bands,) = source_series(usable_rows(light_curve, np.inf)) or [[]]
    series = split_bands(bands)[0][0] if bands else None
    inside = (series.time_mjd >= start_mjd) & (series.time_mjd <= end_mjd) if series else np.zeros(0, dtype=np.bool_)
    if series is None or inside.sum() < 2 or (~inside).sum() < 2:
        raise DataError(
            "no event can be measured",
            got=f"{int(inside.sum())} points from MJD {start_mjd} to {end_mjd}, {int((~inside).sum())} at other times",
            expected="at least two usable points inside and outside",
            remedy="Correct the times, or wait for more observations.",
            reason_code="not_enough_points",
        )
    means, errors = [], []
    for chosen in (inside, ~inside):
        weight = series.error[chosen] ** -2.0
        means.append(float(np.average(series.value[chosen], weights=weight)))
        errors.append(float(weight.sum() ** -0.5))
    significance = abs(means[1] - means[0]) / float(np.hypot(errors[0], errors[1]))
    peak = 0.5 * (start_mjd + end_mjd)
    known = {
        "candidate_id": f"{series.source_id}-{int(peak // IDENTITY_BIN_D)}",
        "source_id": series.source_id,
        "status": "detected",
        "start_mjd": start_mjd,
        "end_mjd": end_mjd,
        "peak_mjd": peak,
        "significance": significance,
        "tier": tier(significance),
        "depth": 1.0 - means[0] / means[1],
        "duration_d": end_mjd - start_mjd,
        "detected_at": _MJD_EPOCH + timedelta(seconds=round(float(series.time_mjd[-1]) * 86_400.0)),
    }
    return pl.DataFrame([{name: known.get(name) for name in CANDIDATE_SCHEMA}], schema=CANDIDATE_SCHEMA)


def _record(find: Find, found: list[Find], compared: list[Series], settings: SearchSettings) -> tuple[object, ...]:
    """One row of the table, in the order of ``CANDIDATE_SCHEMA``."""
    dip, series, bands = find.dip, find.searched.clean, find.searched.bands
    common_error = float(np.hypot(settings.fractional_error_floor, dip.red_rms))
    fit = fit_chromaticity(bands, dip, series.frequency_hz, common_error)
    own = [f.dip for f in found if f.source_id == find.source_id]
    others = [other for other in compared if other.source_id != find.source_id]
    around = Surroundings(
        *common_mode_depth(others, dip),
        recurs_yearly(dip, own),
        *low_points_elsewhere(find.searched.raw, series, own, dip),
        best_condition(series, dip, settings.fractional_error_floor),
    )
    bank = template_bank(fine=True)
    alpha = fit.alpha if fit else float(bank.alpha[dip.shape])
    width = fit.lens_width_d if fit else dip.fwhm_d / float(bank.lens_radii_per_fwhm[dip.shape])
    newest = max(s.time_mjd[-1] for s in [series, *bands])
    return (
        f"{series.source_id}-{int(dip.peak_mjd // IDENTITY_BIN_D)}",
        series.source_id,
        "detected",
        dip.peak_mjd - 0.5 * dip.fwhm_d,
        dip.peak_mjd + 0.5 * dip.fwhm_d,
        dip.peak_mjd,
        dip.significance,
        tier(dip.significance),
        find.false_alarm_probability,
        dip.depth,
        dip.fwhm_d,
        _or_null(alpha),
        _or_null(width),
        fit.chromaticity if fit else None,
        judge(dip, fit, around, settings),
        _MJD_EPOCH + timedelta(seconds=round(float(newest) * 86_400.0)),
        None,
        _evidence(find, fit, around),
    )


def _or_null(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _evidence(find: Find, fit: ChromaticFit | None, around: Surroundings) -> str:
    """Snapshot of what the verdict rests on, as JSON without NaN."""
    series, bands = find.searched.clean, find.searched.bands
    snapshot = {
        "searched_band": series.band,
        "searched_frequency_hz": series.frequency_hz,
        "quiescent_flux_jy": find.dip.level * series.median_jy,
        "dip": asdict(find.dip),
        "lens_fit": asdict(fit) if fit else None,
        "surroundings": asdict(around),
        "systematic_cause": systematic_cause(find.dip, around),
        "points": [_points(s) for s in {s.band: s for s in [series, *bands]}.values()],
    }
    return json.dumps(_without_nan(snapshot), sort_keys=True)


def _points(series: Series) -> dict[str, object]:
    return {
        "band": series.band,
        "frequency_hz": series.frequency_hz,
        "mjd": np.round(series.time_mjd, 6).tolist(),
        "flux_jy": (series.value * series.median_jy).tolist(),
        "flux_err_jy": (series.error * series.median_jy).tolist(),
    }


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def _keep_identity(table: pl.DataFrame, previous: pl.DataFrame | None) -> pl.DataFrame:
    """Give events that overlap a known one of the same source its name and its time of detection; keep names unique."""
    known = (
        previous.select("source_id", "start_mjd", "end_mjd", "candidate_id", "detected_at").rows()
        if previous is not None
        else []
    )
    taken: set[str] = set()
    names, times = [], []
    for row in table.iter_rows(named=True):
        name, when = row["candidate_id"], row["detected_at"]
        for source_id, start, end, old_name, old_time in known:
            margin = 0.5 * row["duration_d"]
            if (
                source_id == row["source_id"]
                and start - margin < row["peak_mjd"] < end + margin
                and old_name not in taken
            ):
                name, when = old_name, min(old_time, when)
                break
        serial, unique = 1, name
        while unique in taken:
            serial += 1
            unique = f"{name}-{serial}"
        taken.add(unique)
        names.append(unique)
        times.append(when)
    return table.with_columns(
        pl.Series("candidate_id", names, pl.String), pl.Series("detected_at", times, CANDIDATE_SCHEMA["detected_at"])
    )
