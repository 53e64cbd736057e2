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
def scan_baselines(  # noqa: C901 - everything that one pass over the data can give
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
    n_chan, n_corr = vis.shape[1], vis.shape[2]
    scratch = np.empty(n_time * (n_chan // thin + 1), dtype=np.float32)
    for b in range(n_baseline):
        for c in range(n_corr):
            n, n_good, n_all, pairs = 0, 0, 0, 0
            real, imag, power = 0.0, 0.0, 0.0
            for t in range(n_time):
                row = rows[b, t]
                if row < 0:
                    continue
                n_all += n_chan
                was_good = False
                last = np.complex64(0.0)
                for f in range(n_chan):
                    value = vis[row, f, c]
                    size = value.real * value.real + value.imag * value.imag
                    if not (size > 0.0 and size < np.inf):
                        flags[row, f, c] = True
                    good = not flags[row, f, c]
                    if good:
                        n_good += 1
                        power += size
                        if was_good:
                            real += last.real * value.real + last.imag * value.imag
                            imag += last.imag * value.real - last.real * value.imag
                            pairs += 1
                        if f % thin == 0:
                            scratch[n] = size
                            n += 1
                    was_good, last = good, value
            level[b, c] = np.sqrt(median_in_place(scratch, n))
            good_fraction[b, c] = n_good / max(n_all, 1)
            n_pairs[b, c] = pairs
            if pairs > 0 and power > 0.0:
                mean_power = power / n_good
                coherence[b, c] = (real * real + imag * imag) / (pairs * mean_power) ** 2 - 1.0 / pairs


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
