"""How much a light curve varies: the field's statistics, each with its usual definition.

What belongs here: statistics per source and band. What does not: looking for a kind of event (``ese``).

Definitions (f_i flux density, e_i its error, w_i = 1/e_i^2, N points, m mean, m_w weighted mean): modulation index V =
s / m with s the sample standard deviation (ddof 1); debiased modulation index sign(B) sqrt(abs(B) / N) / m with B =
sum (f_i - m)^2 - sum e_i^2; eta = sum w_i (f_i - m_w)^2 / (N - 1); its p-value from chi-square with N - 1 degrees of
freedom; von Neumann ratio sum (f_{i+1} - f_i)^2 / sum (f_i - m)^2; pairs t = (f_a - f_b) / hypot(e_a, e_b) and 2 (f_a
- f_b) / (f_a + f_b), of which, as in VAST, among pairs with abs(t) >= 4.3 that of the largest modulation index is
reported, 0 if there is none (Mooley et al. 2016, ApJ 818, 105; Murphy et al. 2021, PASA 38, e054); largest deviation
of a point from the weighted mean of *all others* in sigma, since a point that takes part in its own mean cannot
exceed (N - 1) / sqrt(N); Stetson J and K of d_i = sqrt(N / (N - 1)) (f_i - m_w) / e_i (Stetson 1996, PASP 108, 851,
doi:10.1086/133808): J = mean of sgn(P) sqrt(abs(P)) over consecutive points, P = d_i d_{i+1}; K = mean abs(d) / rms d,
0.798 for Gaussian noise, 0.900 for a sinusoid, small for single outliers.

Errors are statistical and systematic in quadrature: with formal errors alone every bright source is variable.
Computed in two passes over the points, which loses no digits; running sums of squares lose all of them at a
signal-to-noise of 1e6.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import chi2

from contimg_assets.science.ese.series import usable_rows

PAIR_T_MIN = 4.3
"""Pairs less significant than this do not count (Mooley et al. 2016)."""

PAIR_MODULATION_MAX = 2.0
"""Largest pair modulation index of two flux densities above zero; forced ones below zero are not allowed to exceed
it."""

_STATISTICS = (
    "mean_flux_jy",
    "weighted_mean_flux_jy",
    "modulation_index",
    "debiased_modulation_index",
    "eta",
    "chi2",
    "von_neumann",
    "max_pair_t_statistic",
    "max_pair_modulation_index",
    "max_deviation_sigma",
    "stetson_j",
    "stetson_k",
)

VARIABILITY_SCHEMA = {
    "source_id": pl.String,
    "band": pl.String,
    "as_of_mjd": pl.Float64,
    "n_epochs": pl.Int32,
    "mean_flux_jy": pl.Float64,
    "weighted_mean_flux_jy": pl.Float64,
    "modulation_index": pl.Float64,
    "debiased_modulation_index": pl.Float64,
    "eta": pl.Float64,
    "chi2_p_value": pl.Float64,
    "von_neumann": pl.Float64,
    "max_pair_t_statistic": pl.Float64,
    "max_pair_modulation_index": pl.Float64,
    "max_deviation_sigma": pl.Float64,
    "stetson_j": pl.Float64,
    "stetson_k": pl.Float64,
    "first_mjd": pl.Float64,
    "last_mjd": pl.Float64,
}
"""Columns of the table ``variability_statistics``."""


def variability_statistics(light_curve: pl.DataFrame, as_of_mjd: float) -> pl.DataFrame:
    """Statistics of every source and band.

    Parameters
    ----------
    light_curve : polars.DataFrame
        ``source_id``, ``mjd``, ``flux_jy``, ``flux_err_jy``; optional ``band`` and ``flux_sys_err_jy``. In any order.
    as_of_mjd : float
        Later points are left out.

    Returns
    -------
    polars.DataFrame
        ``VARIABILITY_SCHEMA``, sorted by source and band; NULL where a statistic is undefined (fewer than two points,
        mean of zero).
    """
    rows = usable_rows(light_curve, as_of_mjd)
    groups = rows.group_by("source_id", "band", maintain_order=True).agg(
        pl.len().cast(pl.Int32).alias("n_epochs"),
        pl.col("mjd").min().alias("first_mjd"),
        pl.col("mjd").max().alias("last_mjd"),
    )
    error = np.hypot(rows["flux_err_jy"].to_numpy(), rows["flux_sys_err_jy"].to_numpy())
    offsets = np.concatenate([[0], np.cumsum(groups["n_epochs"].to_numpy().astype(np.int64))])
    values = group_statistics(np.ascontiguousarray(rows["flux_jy"].to_numpy()), error, offsets)
    table = groups.with_columns(pl.Series(name, values[:, k]) for k, name in enumerate(_STATISTICS))
    degrees = table["n_epochs"].to_numpy() - 1
    p_value = chi2.sf(table["chi2"].to_numpy(), np.maximum(degrees, 1))
    return (
        table.with_columns(pl.Series("chi2_p_value", p_value), pl.lit(as_of_mjd).alias("as_of_mjd"))
        .with_columns(pl.selectors.float().fill_nan(None))
        .select(pl.col(name).cast(kind) for name, kind in VARIABILITY_SCHEMA.items())
    )


@numba.njit(cache=True)
def group_statistics(
    flux: NDArray[np.float64], error: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Statistics of many light curves.

    Parameters
    ----------
    flux, error : array of float, shape (n,)
        Light curves one after the other, each in order of time.
    offsets : array of int, shape (n_group + 1,)
        Light curve k is ``flux[offsets[k]:offsets[k + 1]]``.

    Returns
    -------
    array of float, shape (n_group, 12)
        Mean, weighted mean, modulation index, debiased modulation index, eta, chi-square, von Neumann ratio, pair t
        statistic, pair modulation index, largest deviation, Stetson J and K; NaN where undefined.
    """
    out = np.full((offsets.size - 1, 12), np.nan)
    for g in range(offsets.size - 1):
        if offsets[g + 1] > offsets[g]:
            _statistics_of_one(flux[offsets[g] : offsets[g + 1]], error[offsets[g] : offsets[g + 1]], out[g])
    return out


@numba.njit(cache=True)
def _statistics_of_one(flux: NDArray[np.float64], error: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Fill in the statistics of one light curve of at least one point."""
    n = flux.size
    total, weights, weighted = 0.0, 0.0, 0.0
    for i in range(n):
        # About the first value, so that digits are not lost to a large mean.
        total += flux[i] - flux[0]
        weights += error[i] ** -2
        weighted += (flux[i] - flux[0]) * error[i] ** -2
    mean, weighted_mean = flux[0] + total / n, flux[0] + weighted / weights
    out[0], out[1] = mean, weighted_mean
    if n < 2:
        return
    square, noise, chi_square, steps, deviation = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        weight = error[i] ** -2
        off = flux[i] - weighted_mean
        square += (flux[i] - mean) ** 2
        noise += error[i] ** 2
        chi_square += weight * off * off
        if i > 0:
            steps += (flux[i] - flux[i - 1]) ** 2
        # f_i minus the mean of the others is off * W / (W - w), its variance e_i^2 + 1 / (W - w).
        others = weights - weight
        if others > 0.0:
            deviation = max(deviation, abs(off) * weights / others / math.sqrt(error[i] ** 2 + 1.0 / others))
    excess = (square - noise) / n
    if mean != 0.0:
        out[2] = math.sqrt(square / (n - 1)) / mean
        out[3] = math.copysign(math.sqrt(abs(excess)), excess) / mean
    out[4], out[5] = chi_square / (n - 1), chi_square
    if square > 0.0:
        out[6] = steps / square
    out[7], out[8] = _extreme_pair(flux, error)
    out[9] = deviation
    out[10], out[11] = _stetson(flux, error, weighted_mean)


@numba.njit(cache=True)
def _stetson(flux: NDArray[np.float64], error: NDArray[np.float64], mean: float) -> tuple[float, float]:
    """Stetson J of consecutive points and K; K is NaN if all points are equal."""
    n = flux.size
    scale = math.sqrt(n / (n - 1.0))
    pairs, absolute, square, last = 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        d = scale * (flux[i] - mean) / error[i]
        absolute += abs(d)
        square += d * d
        if i > 0:
            pairs += math.copysign(math.sqrt(abs(d * last)), d * last)
        last = d
    return pairs / (n - 1), absolute / math.sqrt(n * square) if square > 0.0 else math.nan


@numba.njit(cache=True)
def _extreme_pair(flux: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[float, float]:
    """Absolute t statistic and modulation index of the significant pair with the largest modulation index."""
    best_t, best_m = 0.0, 0.0
    for i in range(flux.size):
        for j in range(i + 1, flux.size):
            difference, total = abs(flux[i] - flux[j]), flux[i] + flux[j]
            if total <= 0.0:
                continue
            t = difference / math.sqrt(error[i] ** 2 + error[j] ** 2)
            m = min(2.0 * difference / total, PAIR_MODULATION_MAX)
            if t >= PAIR_T_MIN and (m > best_m or (m == best_m and t > best_t)):
                best_t, best_m = t, m
    return best_t, best_m
