"""Light-curve tables as arrays: one time series per source and band, and which of them to search.

What belongs here: sorting, cutting, scaling. What does not: searching (``detect``).

The series searched is the band ``full`` where it exists: its sub-bands hold the same photons, and are kept for the
test of chromaticity. Without it, bands within a factor 1.5 in frequency are averaged epoch by epoch, and bands
further apart (2.25 and 8.3 GHz) are searched each on its own, which counts as more trials.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA

FULL_BAND = "full"

SAME_BAND_RATIO = 1.5
"""Frequencies closer than this show nearly the same event and are searched together."""

CONDITIONS = ("primary_beam", "separation_from_centre_deg", "n_antennas", "calibration_fallback")
"""Columns that say how a point was observed; a table may lack any of them."""

_POINTS_FOR_OUTLIERS = 8
_ERROR_OF_DIFFERENCE = 1.2
"""Error of a point minus the median of four, in units of the point's error."""

_OUTLIER_SIGMA = 5.0
_NEIGHBOUR_SIGMA = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One light curve, ascending in time."""

    source_id: str
    band: str
    frequency_hz: float
    """NaN if the table does not say."""

    time_mjd: NDArray[np.float64]
    value: NDArray[np.float64]
    """Flux density over ``median_jy``."""

    error: NDArray[np.float64]
    """One sigma, statistical and systematic, over ``median_jy``; without the floor of the settings."""

    median_jy: float

    conditions: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """How each point was observed, by name of ``CONDITIONS``; NaN where it is not known."""

    def select(self, keep: NDArray[np.bool_]) -> Series:
        """The same series with some points left out."""
        return replace(
            self,
            time_mjd=self.time_mjd[keep],
            value=self.value[keep],
            error=self.error[keep],
            conditions={name: known[keep] for name, known in self.conditions.items()},
        )

    def with_floor(self, floor: float) -> NDArray[np.float64]:
        """Errors with a fractional floor added in quadrature, contiguous."""
        return np.hypot(self.error, floor)


def usable_rows(light_curve: pl.DataFrame, as_of_mjd: float) -> pl.DataFrame:
    """Rows with a finite flux density and a positive error up to a time, sorted by source, band and time.

    Optional columns get their neutral value: band ``full``, frequency NULL, no systematic error. Those of ``CONDITIONS``
    are passed on where they exist.
    """
    defaults = {"band": pl.lit(FULL_BAND), "frequency_hz": pl.lit(None, pl.Float64), "flux_sys_err_jy": pl.lit(0.0)}
    missing = [value.alias(name) for name, value in defaults.items() if name not in light_curve.columns]
    return (
        light_curve.with_columns(missing)
        .select(
            pl.col("source_id").cast(pl.String),
            pl.col("band").cast(pl.String),
            pl.col("frequency_hz").cast(pl.Float64),
            *[pl.col(name).cast(pl.Float64) for name in ("mjd", "flux_jy", "flux_err_jy")],
            pl.col("flux_sys_err_jy").cast(pl.Float64).fill_null(0.0).fill_nan(0.0),
            *[pl.col(name).cast(pl.Float64) for name in CONDITIONS if name in light_curve.columns],
        )
        .filter(
            pl.col("mjd").is_finite()
            & pl.col("flux_jy").is_finite()
            & pl.col("flux_err_jy").is_finite()
            & (pl.col("flux_err_jy") > 0.0)
            & (pl.col("mjd") <= as_of_mjd)
        )
        .sort("source_id", "band", "mjd", "flux_jy")
    )


def source_series(rows: pl.DataFrame) -> list[list[Series]]:
    """The series of each source, from rows of ``usable_rows``; without those whose median flux density is not positive."""
    groups = rows.group_by("source_id", "band", maintain_order=True).agg(
        pl.len().alias("n"), pl.col("flux_jy").median(), pl.col("frequency_hz").median()
    )
    # Read-only arrays would make numba compile everything a second time.
    flux, time = rows["flux_jy"].to_numpy(), rows["mjd"].to_numpy(writable=True)
    error = np.hypot(rows["flux_err_jy"].to_numpy(), rows["flux_sys_err_jy"].to_numpy())
    conditions = {name: rows[name].fill_null(np.nan).to_numpy() for name in CONDITIONS if name in rows.columns}
    found: dict[str, list[Series]] = {}
    end = 0
    for source_id, band, n, median, frequency in groups.iter_rows():
        start, end = end, end + n
        if median > 0.0:
            part = slice(start, end)
            known = float("nan") if frequency is None else frequency
            series = Series(
                source_id,
                band,
                known,
                time[part],
                flux[part] / median,
                error[part] / median,
                median,
                {name: column[part] for name, column in conditions.items()},
            )
            found.setdefault(source_id, []).append(series)
    return list(found.values())


def split_bands(bands: list[Series]) -> tuple[list[Series], list[Series]]:
    """The series to search and the series that tell a chromatic event from an achromatic one."""
    full = [series for series in bands if series.band == FULL_BAND]
    others = sorted((s for s in bands if s.band != FULL_BAND), key=lambda s: (s.frequency_hz, s.band))
    if full:
        return full, [s for s in others if np.isfinite(s.frequency_hz)]
    groups: list[list[Series]] = []
    for series in others:
        if groups and series.frequency_hz < SAME_BAND_RATIO * groups[-1][0].frequency_hz:
            groups[-1].append(series)
        else:
            groups.append([series])
    return [_average(group) for group in groups], [s for s in others if np.isfinite(s.frequency_hz)]


def _average(group: list[Series]) -> Series:
    """Inverse-variance mean of the relative flux densities at equal times."""
    if len(group) == 1:
        return group[0]
    time = np.concatenate([s.time_mjd for s in group])
    value = np.concatenate([s.value for s in group])
    weight = np.concatenate([s.error for s in group]) ** -2
    epochs, epoch = np.unique(np.round(time, 3), return_inverse=True)
    total = np.bincount(epoch, weight)
    mean = np.bincount(epoch, weight * value) / total
    frequency = float(np.mean([s.frequency_hz for s in group]))
    median = float(np.median([s.median_jy for s in group]))
    conditions = {
        name: np.bincount(epoch, weight * np.concatenate([s.conditions[name] for s in group])) / total
        for name in group[0].conditions
    }
    return Series(group[0].source_id, "combined", frequency, epochs, mean, 1.0 / np.sqrt(total), median, conditions)


def without_outliers(series: Series, floor: float) -> Series:
    """Leave out single points far from both neighbours while the neighbours agree: glitches, not events.

    Each point is compared with the median of the two points before and the two after; the scatter of these differences
    (MAD, but at least the errors) is the yardstick. Nothing is left out of fewer than eight points.
    """
    if series.value.size < _POINTS_FOR_OUTLIERS:
        return series
    difference = _differences(series.value)
    scatter = MAD_TO_SIGMA * float(np.partition(difference, difference.size // 2)[difference.size // 2])
    ratio = difference / np.maximum(_ERROR_OF_DIFFERENCE * series.with_floor(floor), scatter)
    far = ratio > _OUTLIER_SIGMA
    if not far.any():
        return series
    quiet = np.concatenate([[True], ratio < _NEIGHBOUR_SIGMA, [True]])
    return series.select(~(far & quiet[:-2] & quiet[2:]))


@numba.njit(cache=True)
def _differences(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each of at least five points from the median of its two neighbours on either side."""
    n = value.size
    difference = np.empty(n)
    for i in range(n):
        # At the ends the missing neighbours are replaced by the next ones inwards.
        a = value[i - 2] if i > 1 else value[i + 3]
        b = value[i - 1] if i > 0 else value[i + 4]
        c = value[i + 1] if i < n - 1 else value[i - 4]
        d = value[i + 2] if i < n - 2 else value[i - 3]
        low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))  # noqa: PLW3301 (numba compiles these faster)
        difference[i] = abs(value[i] - 0.5 * (a + b + c + d - low - high))
    return difference
