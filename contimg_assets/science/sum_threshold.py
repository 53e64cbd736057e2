"""SumThreshold: outliers of time-frequency planes, compiled.

What belongs here: planes (time, channel) of one positive quantity (an amplitude, a power) in, flags out. What does not:
their normalisation (``time_frequency``), which planes to look at and what the flags mean (``flagging``).

Method: the relative excess over bandpass and level goes through SumThreshold (Offringa et al. 2010, MNRAS 405, 155,
doi:10.1111/j.1365-2966.2010.16471.x): the mean over windows of 1, 2, 4 ... samples in frequency and in time against a
threshold that falls with the length. Unlike the original, the threshold of each length is set by the robust scatter of window
means *in this plane*, not by that of single samples over sqrt(N): white noise gives the same number, while fringes of
bright sources, whose means do not average down, raise their own threshold. Thresholds in units of that scatter
are the quantiles of Rayleigh noise at which each length flags about one sample in 10^4. Only excesses are flagged.
Rejected: flagging on phases, which are not calibrated yet.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.time_frequency import normalise_plane, spread_of_sums

WINDOW_SIGMA = np.array([4.5, 4.66, 4.68, 4.73, 4.83, 4.88, 5.1])
"""Thresholds for windows of 1, 2, 4, 8, 16, 32, 64 samples, in robust standard deviations of the window's mean."""


@njit(cache=True, error_model="numpy")
def _flag_along_channels(  # noqa: C901 - a compiled loop; calls would cost more than they explain
    plane: NDArray[np.float32], bad: NDArray[np.bool_], limits: NDArray[np.float32]
) -> None:
    """Flag every window of 1, 2, 4 ... adjacent channels whose sum exceeds its limit.

    Flagged samples become 0, the level of no excess: counted once, they do not drag their neighbours along at the next
    length.
    """
    n_time, n_chan = plane.shape
    sums = np.zeros(n_chan + 1, dtype=np.float32)
    for t in range(n_time):
        found = 1
        for level in range(limits.size):
            window = 1 << level
            if 2 * window > n_chan and window > 1:
                break
            if found > 0:
                for f in range(n_chan):
                    sums[f + 1] = sums[f] + plane[t, f]
            limit = limits[level]
            ends = sums[window:]  # a view: indices the compiler knows to be positive let it use vector instructions
            found = 0
            for f in range(ends.size):
                found += ends[f] - sums[f] > limit
            if found > 0:
                for f in range(ends.size):
                    if ends[f] - sums[f] > limit:
                        for ahead in range(window):
                            bad[t, f + ahead] = True
                            plane[t, f + ahead] = 0.0


@njit(cache=True, error_model="numpy")
def _flag_along_time(  # noqa: C901 - a compiled loop
    plane: NDArray[np.float32], bad: NDArray[np.bool_], window: int, limit: float
) -> None:
    """Flag every window of successive integrations whose sum exceeds ``limit``, as ``_flag_along_channels`` does."""
    n_time, n_chan = plane.shape
    total = np.zeros(n_chan, dtype=np.float32)
    for t in range(n_time):
        found = 0
        for f in range(n_chan):
            total[f] += plane[t, f]
            found += total[f] > limit
        if t >= window - 1:
            if found > 0:
                for f in range(n_chan):
                    if total[f] > limit:
                        for back in range(window):
                            bad[t - back, f] = True
            for f in range(n_chan):
                total[f] -= plane[t - window + 1, f]
    for t in range(n_time):
        for f in range(n_chan):
            if bad[t, f]:
                plane[t, f] = 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def flag_plane(
    plane: NDArray[np.float32],
    bad: NDArray[np.bool_],
    block: int,
    window_sigma: NDArray[np.float64],
    min_scatter: float,
    burst: tuple[float, float],
    n_colours: int,
) -> None:
    """Flag one plane in place.

    Parameters
    ----------
    plane : array of float32, shape (n_time, n_chan)
        Positive quantity; destroyed.
    bad : array of bool, shape (n_time, n_chan)
        True = not to be used; outliers are added.
    block : int
        Channels of one piece of the bandpass.
    window_sigma : array of float
        Thresholds, see ``WINDOW_SIGMA``.
    min_scatter : float
        Smallest relative scatter of one sample that is believed.
    burst : (float, float)
        Robust standard deviations, and least relative excess, at which a whole integration is flagged.
    n_colours : int
        Pieces of the band between which the level may drift apart; 0 if it does not.
    """
    n_time, n_chan = plane.shape
    scratch = np.empty(n_time * n_chan, dtype=np.float32)
    if not normalise_plane(plane, bad, block, burst, n_colours, scratch):
        return
    # Typed numbers: for literal ones the compiler makes a copy of the function each.
    along_time, along_channels = np.int64(0), np.int64(1)
    single = max(spread_of_sums(plane, np.int64(1), along_channels, scratch), min_scatter)
    limits = np.empty(window_sigma.size, dtype=np.float32)
    for level in range(window_sigma.size):
        window = 1 << level
        spread = max(single * np.sqrt(window), spread_of_sums(plane, window, along_channels, scratch))
        limits[level] = window_sigma[level] * spread
    _flag_along_channels(plane, bad, limits)
    for level in range(1, window_sigma.size):
        window = 1 << level
        if 2 * window <= n_time:
            spread = max(single * np.sqrt(window), spread_of_sums(plane, window, along_time, scratch))
            _flag_along_time(plane, bad, window, window_sigma[level] * spread)


@njit(cache=True, error_model="numpy", nogil=True)
def flag_baselines(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    rows: NDArray[np.int64],
    block: int,
    window_sigma: NDArray[np.float64],
    min_scatter: float,
    burst: tuple[float, float],
    n_colours: int,
) -> None:
    """Flag the amplitudes of some baselines, every correlation, in place; releases the GIL.

    Parameters
    ----------
    vis, flags : arrays, shape (n_row, n_chan, n_corr)
    rows : array of int, shape (n_baseline, n_time)
        Row of each baseline and integration, -1 where there is none.
    block, window_sigma, min_scatter, burst, n_colours
        See ``flag_plane``.
    """
    n_baseline, n_time = rows.shape
    n_chan, n_corr = vis.shape[1], vis.shape[2]
    plane = np.empty((n_time, n_chan), dtype=np.float32)
    bad = np.empty((n_time, n_chan), dtype=np.bool_)
    for b in range(n_baseline):
        for c in range(n_corr):
            for t in range(n_time):
                row = rows[b, t]
                for f in range(n_chan):
                    bad[t, f] = row < 0 or flags[row, f, c]
                    if not bad[t, f]:
                        value = vis[row, f, c]
                        plane[t, f] = np.sqrt(value.real * value.real + value.imag * value.imag)
            flag_plane(plane, bad, block, window_sigma, min_scatter, burst, n_colours)
            for t in range(n_time):
                row = rows[b, t]
                if row >= 0:
                    for f in range(n_chan):
                        flags[row, f, c] |= bad[t, f]
