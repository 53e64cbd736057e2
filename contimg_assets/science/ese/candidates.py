"""Candidates of a table of light curves, as rows of the table ``ese_candidate``.

What belongs here: running the search over sources, and the rows. What does not: the history of a candidate (``events``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from contimg_assets.science.ese.chromaticity import ChromaticFit, fit_chromaticity
from contimg_assets.science.ese.detect import Dip, find_dip, points_required, screen_series, search_widths
from contimg_assets.science.ese.false_alarms import effective_trials, false_alarm_probability, threshold
from contimg_assets.science.ese.series import Series, source_series, split_bands, usable_rows, without_outliers
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.templates import template_bank
from contimg_assets.science.ese.verdict import Surroundings, common_mode_depth, judge, low_points_elsewhere, recurs_yearly

CANDIDATE_SCHEMA = {
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

_LOOKS_PER_EVENT = 2
"""Glitches that look significant are cut out too; this bounds how many."""

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Searched:
    """One series to search, as observed and without glitches, and the bands that tell colours."""

    raw: Series
    clean: Series
    bands: list[Series]
    n_searched: int
    """Series of this source that are searched: each is a trial."""


@dataclass(frozen=True, slots=True)
class _Find:
    """A dip with everything known about it."""

    dip: Dip
    searched: _Searched
    false_alarm_probability: float

    @property
    def source_id(self) -> str:
        return self.searched.raw.source_id


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
        ``source_id``, ``mjd``, ``flux_jy``, ``flux_err_jy``; optional ``band``, ``frequency_hz``, ``flux_sys_err_jy``.
        Rows may be in any order.
    as_of_mjd : float
        Later points are not looked at.
    rng : numpy.random.Generator
        For the noise that calibrates false alarms; the same seed gives the same table.
    settings : SearchSettings, optional
        Limits of the search.
    previous : polars.DataFrame, optional
        Candidates known so far: an event that overlaps one of the same source keeps its ``candidate_id`` and ``detected_at``.

    Returns
    -------
    polars.DataFrame
        ``CANDIDATE_SCHEMA``, most significant first; ``latency_s`` is NULL, the caller knows when the data arrived.

    Notes
    -----
    ``detected_at`` is the time of the newest point used, never the wall clock. ``verdict`` is NULL where the bands do not
    tell a lens from an achromatic dip.
    """
    limits = settings or SearchSettings()
    searched = _to_search(usable_rows(light_curve, as_of_mjd), limits)
    long_enough = [item for item in searched if item.clean.time_mjd.size >= limits.n_epochs_min]
    best = screen_series([item.clean for item in long_enough], limits)
    quiet_below = threshold(1.0, limits.false_alarm_probability_max)
    found: list[_Find] = []
    trials: dict[tuple[int, float, float], float] = {}
    for item, z in zip(long_enough, best, strict=True):
        if z >= quiet_below:
            found += _search(item, limits, trials, rng)
    found = _one_per_event(found)
    records = [_record(find, found, searched, limits) for find in found]
    table = pl.DataFrame(records, schema=CANDIDATE_SCHEMA, orient="row")
    return _keep_identity(table, previous).sort(["significance", "candidate_id"], descending=[True, False])


def _to_search(rows: pl.DataFrame, settings: SearchSettings) -> list[_Searched]:
    """Every series to search, with the bands it is compared in."""
    searched = []
    for bands in source_series(rows):
        clean_bands = [without_outliers(series, settings.fractional_error_floor) for series in bands]
        clean, to_compare = split_bands(clean_bands)
        raw = split_bands(bands)[0]
        searched += [_Searched(r, c, to_compare, len(clean)) for r, c in zip(raw, clean, strict=True)]
    return searched


def _search(
    item: _Searched,
    settings: SearchSettings,
    trials: dict[tuple[int, float, float], float],
    rng: np.random.Generator,
) -> list[_Find]:
    """Dips of one series that noise does not make, strongest first; each is cut out before the next is sought."""
    found: list[_Find] = []
    remaining = item.clean
    for _ in range(_LOOKS_PER_EVENT * settings.events_per_source_max):
        dip = find_dip(remaining, settings)
        if dip is None:
            break
        n_trials = item.n_searched * _trials(item.clean, settings, trials, rng)
        probability = false_alarm_probability(dip.significance, n_trials)
        if probability > settings.false_alarm_probability_max or len(found) == settings.events_per_source_max:
            break
        if dip.is_credible:
            found.append(_Find(dip, item, probability))
        remaining = remaining.select(np.abs(remaining.time_mjd - dip.peak_mjd) > 1.5 * dip.fwhm_d)
    return found


def _trials(
    series: Series,
    settings: SearchSettings,
    known: dict[tuple[int, float, float], float],
    rng: np.random.Generator,
) -> float:
    """Effective trials of a series; the same for series of the same length, span and spacing."""
    time = series.time_mjd
    key = (time.size, round(float(time[-1] - time[0])), round(float(np.median(np.diff(time))), 2))
    if key not in known:
        widths, n_core_min = search_widths(time, settings), points_required(time.size, settings)
        known[key] = effective_trials(time, series.with_floor(settings.fractional_error_floor), widths, n_core_min, rng)
    return known[key]


def _one_per_event(found: list[_Find]) -> list[_Find]:
    """Of dips of one source that overlap in time (seen in two bands), the most significant."""
    kept: list[_Find] = []
    for find in sorted(found, key=lambda f: (-f.dip.significance, f.source_id, f.dip.peak_mjd)):
        if not any(
            other.source_id == find.source_id
            and abs(other.dip.peak_mjd - find.dip.peak_mjd) < 0.5 * (other.dip.fwhm_d + find.dip.fwhm_d)
            for other in kept
        ):
            kept.append(find)
    return kept


def _record(
    find: _Find, found: list[_Find], searched: list[_Searched], settings: SearchSettings
) -> tuple[object, ...]:
    """One row of the table, in the order of ``CANDIDATE_SCHEMA``."""
    dip, series, bands = find.dip, find.searched.clean, find.searched.bands
    common_error = float(np.hypot(settings.fractional_error_floor, dip.red_rms))
    fit = fit_chromaticity(bands, dip, series.frequency_hz, common_error)
    own = [f.dip for f in found if f.source_id == find.source_id]
    neighbours = [item.clean for item in searched if item.clean.source_id != find.source_id]
    around = Surroundings(
        *common_mode_depth(neighbours, dip),
        recurs_yearly(dip, own),
        *low_points_elsewhere(find.searched.raw, series, own, dip),
    )
    bank = template_bank()
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


def _evidence(find: _Find, fit: ChromaticFit | None, around: Surroundings) -> str:
    """Snapshot of what the verdict rests on, as JSON without NaN."""
    series, bands = find.searched.clean, find.searched.bands
    snapshot = {
        "searched_band": series.band,
        "searched_frequency_hz": series.frequency_hz,
        "quiescent_flux_jy": find.dip.level * series.median_jy,
        "dip": asdict(find.dip),
        "lens_fit": asdict(fit) if fit else None,
        "surroundings": asdict(around),
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
    known = previous.select("source_id", "start_mjd", "end_mjd", "candidate_id", "detected_at").rows() if previous is not None else []
    taken: set[str] = set()
    names, times = [], []
    for row in table.iter_rows(named=True):
        name, when = row["candidate_id"], row["detected_at"]
        for source_id, start, end, old_name, old_time in known:
            margin = 0.5 * row["duration_d"]
            if source_id == row["source_id"] and start - margin < row["peak_mjd"] < end + margin and old_name not in taken:
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
