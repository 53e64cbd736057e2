"""Which receptors are dead, uncorrelated or far from the others, from statistics of raw visibilities.

What belongs here: per-baseline statistics of uncalibrated data and what they say about single receptors. What does not:
interference (``sum_threshold``) and gains (``calibration``).

Method: amplitudes of raw visibilities factorise by receptor, so a receptor's median log amplitude over its baselines is
its gain; far below the others it is dead, far above it is broken. A receptor that gives a healthy level of its own noise is
found by coherence: products of adjacent channels, sum V(f) conj(V(f+1)), average to zero for noise and not for any
sky, whatever the phases (delays change slowly from channel to channel). With 10^4 samples a baseline that sees a field of
half a jansky is told from one that does not. Rejected: judging by closure phases or by gain solutions, which need a
calibrator in the field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.time_frequency import median_in_place

_MIN_RECEPTORS = 5
"""Receptors needed before one can be called different from the others."""


@dataclass(frozen=True, slots=True, eq=False)
class BaselineStatistics:
    """What one pass over the data says about each baseline; axes (baseline, corr)."""

    level: NDArray[np.float32]
    """Median amplitude, NaN without good data."""
    coherence: NDArray[np.float64]
    """Excess of |sum V(f) conj(V(f+1))|^2 over noise, relative to total power squared; 0 for noise."""
    good_fraction: NDArray[np.float64]
    """Fraction of samples neither flagged, zero nor non-finite."""
    n_pairs: NDArray[np.float64]
    """Products of adjacent channels that went into the coherence."""


@njit(cache=True, nogil=True, error_model="numpy")
def scan_baselines(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    rows: NDArray[np.int64],
    thin: int,
    level: NDArray[np.float32],
    coherence: NDArray[np.float64],
    good_fraction: NDArray[np.float64],
    n_pairs: NDArray[np.float64],
) -> None:
    """Flag zero and non-finite data of some baselines and fill their statistics (rows of the four last arrays).

    ``rows`` has shape (n_baseline, n_time); the median takes every ``thin``-th channel. Releases the GIL.
    """
    n_baseline, n_time = rows.shape
    n_row, n_chan, n_corr = vis.shape
    n_cell = n_chan * n_corr
    cells, cell_flags = vis.reshape(n_row, n_cell), flags.reshape(n_row, n_cell)
    scratch = np.empty((n_corr, n_time * (n_chan // thin + 1)), dtype=np.float32)
    cell = np.empty((3, n_cell + n_corr), dtype=np.float32)
    sums = np.empty((5, n_cell), dtype=np.float32)
    for b in range(n_baseline):
        sums[:] = 0.0
        n_all, n_used = 0, np.zeros(n_corr, dtype=np.int64)
        for t in range(n_time):
            row = rows[b, t]
            if row < 0:
                continue
            n_all += n_chan
            _load_cell(cells[row], cell_flags[row], cell, sums[0])
            _add_products(cell, n_corr, sums)
            for c in range(n_corr):
                n = n_used[c]
                for k in range(c, n_cell, thin * n_corr):
                    scratch[c, n] = cell[0, k] * cell[0, k] + cell[1, k] * cell[1, k]
                    n += cell[2, k] > 0.0
                n_used[c] = n
        for c in range(n_corr):
            power, n_good, real, imag, pairs = _totals(sums, c, n_corr)
            level[b, c] = np.sqrt(median_in_place(scratch[c], n_used[c]))
            good_fraction[b, c] = n_good / max(n_all, 1)
            n_pairs[b, c] = pairs
            if pairs > 0 and power > 0.0:
                mean_power = power / n_good
                coherence[b, c] = (real * real + imag * imag) / (pairs * mean_power) ** 2 - 1.0 / pairs


@njit(cache=True, nogil=True, error_model="numpy")
def _load_cell(
    vis: NDArray[np.complex64], flags: NDArray[np.bool_], cell: NDArray[np.float32], power: NDArray[np.float32]
) -> None:
    """Flag zero and non-finite data of one row; real and imaginary part and goodness (1 or 0) go to ``cell``, 0 for bad data.

    The squares are added to ``power``.
    """
    real, imag, good = cell[0], cell[1], cell[2]
    zero, one = np.float32(0.0), np.float32(1.0)
    for k in range(vis.size):
        size = vis[k].real * vis[k].real + vis[k].imag * vis[k].imag
        usable = (size > zero) & (size < np.float32(np.inf))
        flags[k] |= not usable
        usable = not flags[k]
        real[k] = vis[k].real if usable else zero
        imag[k] = vis[k].imag if usable else zero
        good[k] = one if usable else zero
        power[k] += size if usable else zero
    cell[:, vis.size :] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _add_products(cell: NDArray[np.float32], n_corr: int, sums: NDArray[np.float32]) -> None:
    """Add the number of good samples, V(f) conj(V(f+1)) and the number of such pairs to rows 1 to 4 of ``sums``."""
    n_good, real, imag, pairs = sums[1], sums[2], sums[3], sums[4]
    x, y, good = cell[0], cell[1], cell[2]
    next_x, next_y, next_good = x[n_corr:], y[n_corr:], good[n_corr:]
    for k in range(n_good.size):
        n_good[k] += good[k]
        real[k] += x[k] * next_x[k] + y[k] * next_y[k]
        imag[k] += y[k] * next_x[k] - x[k] * next_y[k]
        pairs[k] += good[k] * next_good[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _totals(sums: NDArray[np.float32], corr: int, n_corr: int) -> tuple[float, float, float, float, float]:
    """Sums over the channels of one correlation, in double precision."""
    power, n_good, real, imag, pairs = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(corr, sums.shape[1], n_corr):
        power += sums[0, k]
        n_good += sums[1, k]
        real += sums[2, k]
        imag += sums[3, k]
        pairs += sums[4, k]
    return power, n_good, real, imag, pairs


def receptor_levels(
    statistics: BaselineStatistics,
    antenna1: NDArray[np.int32],
    antenna2: NDArray[np.int32],
    antennas: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Median log amplitude of every receptor over its baselines, shape (n_antenna, n_corr), NaN without data."""
    with np.errstate(divide="ignore"):
        log_level = np.log(np.where(statistics.level > 0, statistics.level, np.nan).astype(np.float64))
    return _over_baselines(log_level, antenna1, antenna2, antennas)


def uncorrelated_receptors(
    statistics: BaselineStatistics,
    antenna1: NDArray[np.int32],
    antenna2: NDArray[np.int32],
    antennas: NDArray[np.int32],
    *,
    least_share: float,
    least_significance: float,
) -> NDArray[np.bool_]:
    """Receptors whose signal has nothing in common with the others', shape (n_antenna, n_corr).

    Parameters
    ----------
    statistics : BaselineStatistics
    antenna1, antenna2 : array of int, shape (n_baseline,)
    antennas : array of int, shape (n_antenna,)
        Antennas in the data.
    least_share : float
        Fraction of the typical receptor's coherence below which one is called uncorrelated.
    least_significance : float
        Typical coherence, in standard deviations of noise, below which nothing is said (an empty field).
    """
    found = np.zeros((antennas.size, statistics.level.shape[1]), dtype=np.bool_)
    coherence = np.where(statistics.n_pairs > 0, statistics.coherence, np.nan)
    shared = _over_baselines(coherence, antenna1, antenna2, antennas)
    for corr in range(found.shape[1]):
        known = np.isfinite(shared[:, corr])
        if known.sum() < _MIN_RECEPTORS:
            continue
        typical = float(np.median(shared[known, corr]))
        pairs = float(np.median(statistics.n_pairs[statistics.n_pairs[:, corr] > 0, corr]))
        noise = 1.25 / (pairs * np.sqrt(known.sum()))
        if typical > least_significance * noise:
            found[known, corr] = shared[known, corr] < least_share * typical
    return found


def outlying_receptors(
    log_level: NDArray[np.float64], *, sigma: float, least_ratio: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Receptors far below and far above the median level, each shape (n_antenna, n_corr).

    ``least_ratio`` (> 1) is the smallest factor that counts however small the scatter, ``sigma`` the distance in robust
    standard deviations.
    """
    below, above = np.zeros(log_level.shape, dtype=np.bool_), np.zeros(log_level.shape, dtype=np.bool_)
    for corr in range(log_level.shape[1]):
        known = np.isfinite(log_level[:, corr])
        if known.sum() < _MIN_RECEPTORS:
            continue
        offset = log_level[:, corr] - np.median(log_level[known, corr])
        limit = max(sigma * MAD_TO_SIGMA * float(np.median(np.abs(offset[known]))), float(np.log(least_ratio)))
        below[known, corr] = offset[known] < -limit
        above[known, corr] = offset[known] > limit
    return below, above


def _over_baselines(
    values: NDArray[np.float64], antenna1: NDArray[np.int32], antenna2: NDArray[np.int32], antennas: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Median over the baselines of each antenna, shape (n_antenna, n_corr), NaN where there is nothing."""
    medians = np.full((antennas.size, values.shape[1]), np.nan)
    for index, antenna in enumerate(antennas):
        mine = values[(antenna1 == antenna) | (antenna2 == antenna)]
        for corr in range(values.shape[1]):
            known = mine[np.isfinite(mine[:, corr]), corr]
            if known.size:
                medians[index, corr] = np.median(known)
    return medians
