"""What a plasma lens's strength and crossing time may be, given its event in several bands: values with errors.

What belongs here: the posterior of one event's lens on a grid. What does not: whether it is a lens (``chromaticity``).

Method. On a grid of strength, source size and crossing time the likelihood of all bands is computed with the level of
each band at its best; the compact fraction is integrated over 0 to 1 (Gaussian in its neighbourhood). Peak times
are fixed: the dip is symmetric, so they tell nothing about the rest. The priors are flat in ln alpha, source size,
ln (crossing time) and compact fraction. The grid is laid
several times, each over what the last one left likely. Strength,
source size and compact fraction trade against each other along a curved valley, which makes the covariance of a
fit (the rejected alternative) useless; a Markov chain would need a seed and a convergence test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.templates import GRID_POSITION, gain_table, interpolated_gain

LOG_ALPHA_RANGE = (-1.0, 3.6)
SOURCE_FWHM_RANGE = (0.3, 1.8)
"""Priors: strength 0.37 to 37, as lenses of the literature have; source in lens radii."""

_WIDTH_SIGMAS = 6.0
_WIDTH_MARGIN = (0.2, 0.8)
"""Widths are tried this many times 1 / significance to either side of the fitted one, within these limits of ln."""

_NODES = (16, 6, 11)
"""Of ln alpha, source size and ln width."""

_NEGLIGIBLE = 9.0
"""Log-posterior below the highest at which a node is left out of the next grid,"""

_STEPPED_OVER = (0.6, 0.15, 0.03, 0.0)
"""and times significance^2 more, grid by grid: a coarse grid may step over the peak by this much."""

_FRACTION_MAX = 1.3
_QUANTILES = (0.025, 0.1587, 0.5, 0.8413, 0.975)


@dataclass(frozen=True, slots=True)
class Measured:
    """A median and the half-length of the central 68 per cent, with its ends and those of the central 95 per cent."""

    value: float
    error: float
    low: float
    high: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True, eq=False)
class BandPoints:
    """Every point of every band near an event; arrays of shape (n,)."""

    time: NDArray[np.float64]
    value: NDArray[np.float64]
    error: NDArray[np.float64]
    band: NDArray[np.int64]
    epoch: NDArray[np.int64]
    """Numbers from 0."""

    log_wavelength2: NDArray[np.float64]
    """ln of (reference frequency / frequency)^2."""

    common_error: float
    """Relative error shared by all bands at an epoch."""


def lens_posterior(
    points: BandPoints, peak_mjd: float, fwhm_d: float, depth: float, significance: float, chi2_scale: float
) -> tuple[Measured, Measured]:
    """Strength at the reference frequency and crossing time of one lens radius.

    Parameters
    ----------
    points : BandPoints
        The event.
    peak_mjd, fwhm_d, depth : float
        Of the dip as fitted.
    significance : float
        Sigmas of the dip: how well its width is known.
    chi2_scale : float
        Chi-squares are divided by this: the reduced one of the best fit where it exceeds one.

    Returns
    -------
    alpha, lens_width_d : Measured
        Marginal posteriors.
    """
    margin = float(np.clip(_WIDTH_SIGMAS / max(significance, 1.0), *_WIDTH_MARGIN))
    axes = [
        np.linspace(*LOG_ALPHA_RANGE, _NODES[0]),
        np.linspace(*SOURCE_FWHM_RANGE, _NODES[1]),
        np.linspace(-margin, margin, _NODES[2]),
    ]
    log_p = _on_grid(points, axes, peak_mjd, fwhm_d, depth, significance, chi2_scale)
    for share in _STEPPED_OVER:
        negligible = _NEGLIGIBLE + share * significance**2
        axes = [_likely_part(axis, log_p, k, negligible) for k, axis in enumerate(axes)]
        log_p = _on_grid(points, axes, peak_mjd, fwhm_d, depth, significance, chi2_scale)
    weight = np.exp(log_p - log_p.max())
    strength = np.broadcast_to(axes[0][:, None, None], weight.shape)
    radii = np.array([[math.log(_dip_fwhm(a, b)) for b in axes[1]] for a in axes[0]])
    log_width = math.log(fwhm_d) + axes[2][None, None, :] - radii[:, :, None]
    return _measured(strength, weight, axes[0]), _measured(log_width, weight, axes[2])


def _on_grid(
    points: BandPoints,
    axes: list[NDArray[np.float64]],
    peak_mjd: float,
    fwhm_d: float,
    depth: float,
    significance: float,
    chi2_scale: float,
) -> NDArray[np.float64]:
    """Log-posterior on the grid of the axes, shape (n_alpha, n_source_fwhm, n_width), but for a constant."""
    log_p = np.empty([axis.size for axis in axes])
    for a, log_alpha in enumerate(axes[0]):
        for b, source_fwhm in enumerate(axes[1]):
            width = fwhm_d * np.exp(axes[2]) / _dip_fwhm(log_alpha, source_fwhm)
            log_p[a, b] = _along_width(
                gain_table(),
                (points.time - peak_mjd, points.value, points.error, points.band, points.epoch),
                log_alpha + points.log_wavelength2,
                float(source_fwhm),
                width,
                (depth, significance, points.common_error, chi2_scale),
            )
    return log_p


def _likely_part(
    axis: NDArray[np.float64], log_p: NDArray[np.float64], k: int, negligible: float
) -> NDArray[np.float64]:
    """As many nodes over the part of an axis that is not negligible, and a step beyond."""
    profile = log_p.max(axis=tuple(other for other in range(3) if other != k))
    likely = np.flatnonzero(profile > profile.max() - negligible)
    return np.linspace(axis[max(likely[0] - 1, 0)], axis[min(likely[-1] + 1, axis.size - 1)], axis.size)


@lru_cache(maxsize=4096)
def _dip_fwhm(log_alpha: float, source_fwhm: float) -> float:
    """FWHM of the dip in lens radii, of the tabulated gain."""
    position = np.linspace(0.0, GRID_POSITION[1], GRID_POSITION[2])
    loss = 1.0 - interpolated_gain(gain_table(), position, np.full(position.size, log_alpha), source_fwhm)
    first = int(np.argmax(loss < 0.5 * loss[0]))
    part = (loss[first - 1] - 0.5 * loss[0]) / (loss[first - 1] - loss[first])
    return float(2.0 * (position[first - 1] + part * (position[1] - position[0])))


def _measured(log_value: NDArray[np.float64], weight: NDArray[np.float64], axis: NDArray[np.float64]) -> Measured:
    """Median and central intervals of a positive parameter; each node is spread evenly over a step of its axis."""
    step = float(axis[1] - axis[0])
    order = np.argsort(log_value, axis=None, kind="stable")
    x, p = log_value.ravel()[order], weight.ravel()[order]
    nodes = np.linspace(x[0] - 0.5 * step, x[-1] + 0.5 * step, 801)
    # Share of each node's step below each place, summed: a piecewise linear distribution function.
    below = np.concatenate([[0.0], np.cumsum(p)])
    moment = np.concatenate([[0.0], np.cumsum(p * x)])
    low = np.searchsorted(x, nodes - 0.5 * step)
    high = np.searchsorted(x, nodes + 0.5 * step)
    partly = (nodes / step + 0.5) * (below[high] - below[low]) - (moment[high] - moment[low]) / step
    share = (below[low] + partly) / below[-1]
    lowest, first, middle, last, highest = (float(v) for v in np.exp(np.interp(_QUANTILES, share, nodes)))
    return Measured(middle, 0.5 * (last - first), first, last, lowest, highest)


@numba.njit(cache=True)
def _chi2(
    fraction: float,
    change: NDArray[np.float64],
    points: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]],
    common_error: float,
    work: NDArray[np.float64],
) -> float:
    """Chi-square of all bands with the best level of each, what an epoch's bands share being absorbed.

    ``work`` has rows for sums per band (0, 1) and per epoch (2, 3).
    """
    _, value, error, band, epoch = points
    work[:] = 0.0
    for i in range(value.size):
        gain, weight = 1.0 + fraction * change[i], 1.0 / (error[i] * error[i])
        work[0, band[i]] += weight * gain * value[i]
        work[1, band[i]] += weight * gain * gain
    total = 0.0
    for i in range(value.size):
        weight = 1.0 / (error[i] * error[i])
        rest = value[i] - (1.0 + fraction * change[i]) * work[0, band[i]] / work[1, band[i]]
        work[2, epoch[i]] += rest * weight
        work[3, epoch[i]] += weight
        total += rest * rest * weight
    # Woodbury: a common error c of an epoch takes c^2 S^2 / (1 + c^2 W) off, S and W being its weighted sums.
    variance = common_error * common_error
    for k in range(work.shape[1]):
        total -= variance * work[2, k] ** 2 / (1.0 + variance * work[3, k])
    return total


@numba.njit(cache=True)
def _along_width(
    table: NDArray[np.float64],
    points: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]],
    log_alpha: NDArray[np.float64],
    source_fwhm: float,
    width: NDArray[np.float64],
    known: tuple[float, float, float, float],
) -> NDArray[np.float64]:
    """Log-posterior at each crossing time, the compact fraction integrated from 0 to 1."""
    depth, significance, common_error, chi2_scale = known
    offset, epoch, band = points[0], points[4], points[3]
    work = np.empty((4, max(int(epoch.max()), int(band.max())) + 1))
    log_p = np.empty(width.size)
    lost = 1.0 - interpolated_gain(table, np.zeros(1), np.array([log_alpha.mean()]), source_fwhm)[0]
    for k in range(width.size):
        change = interpolated_gain(table, offset / width[k], log_alpha, source_fwhm) - 1.0
        best = min(max(depth / lost, 0.05), 1.0)
        middle, curvature, height = 0.0, 1.0, best * min(0.3, 2.0 / significance)
        for _ in range(2):
            middle = _chi2(best, change, points, common_error, work)
            below = _chi2(best - height, change, points, common_error, work)
            above = _chi2(best + height, change, points, common_error, work)
            curvature = max((below + above - 2.0 * middle) / height**2, 1e-3)
            best = min(max(best - 0.5 * (above - below) / height / curvature, 0.05), _FRACTION_MAX)
        middle = _chi2(best, change, points, common_error, work)
        root = math.sqrt(0.25 * curvature / chi2_scale)
        share = math.erf((1.0 - best) * root) + math.erf(best * root)
        log_p[k] = -0.5 * middle / chi2_scale + math.log(max(share, 1e-300) / root)
    return log_p
