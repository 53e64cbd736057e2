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

Left out: a search of each baseline's mean excess of XX and YY (Stokes I before calibration). At equal loss of clean samples
(16 antennas, 4 to 6 seeds) it finds 2 to 5 per cent more of the samples with unpolarised interference of 1 to 5 sigma that a
quarter of the antennas or one baseline hears, 1 to 2 per cent if both receptors have side lobes of their own; 0.1 to 0.3 per
cent less of what all hear, which is found in the average over baselines; above 5 sigma at most 0.3 per cent more. It costs 25
per cent of the flagger. The coherent sum of XX and YY has no common phase before calibration. In the average over baselines
of 90 antennas Stokes I finds less than 1 per cent more: there ``min_scatter``, not noise, is the limit (one seed).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.time_frequency import (
    REORDERED,
    normalise_plane,
    spreads_along_channels,
    spreads_along_time,
)

WINDOW_SIGMA = np.array([4.5, 4.66, 4.68, 4.73, 4.83, 4.88, 5.1])
"""Thresholds for windows of 1, 2, 4, 8, 16, 32, 64 samples, in robust standard deviations of the window's mean."""


@njit(cache=True, error_model="numpy", fastmath=REORDERED, nogil=True)
def _double(sums: NDArray[np.float32], window: int, n_sum: int, doubled: NDArray[np.float32]) -> float:
    """Sums over ``2 window`` samples from the ``n_sum + window`` sums over ``window``; the largest is returned."""
    ahead = sums[window:]
    largest = np.float32(-np.inf)
    for f in range(n_sum):
        value = sums[f] + ahead[f]
        doubled[f] = value
        largest = max(largest, value)
    return float(largest)


@njit(cache=True, error_model="numpy", fastmath=REORDERED, nogil=True)
def _largest(values: NDArray[np.float32]) -> float:
    largest = np.float32(-np.inf)
    for value in values:
        largest = max(largest, value)
    return float(largest)


@njit(cache=True, error_model="numpy", nogil=True)
def _flag_along_channels(plane: NDArray[np.float32], bad: NDArray[np.bool_], limits: NDArray[np.float32]) -> None:
    """Flag every window of 1, 2, 4 ... adjacent channels whose sum exceeds its limit.

    Flagged samples become 0, the level of no excess: counted once, they do not drag their neighbours along at the next
    length. Sums of each length come from those of half of it, together with their largest: most rows end there.
    """
    n_time, n_chan = plane.shape
    buffers = np.empty((2, n_chan), dtype=np.float32)
    for t in range(n_time):
        sums, largest = plane[t], _largest(plane[t])
        for level in range(limits.size):
            window = 1 << level
            if 2 * window > n_chan and window > 1:
                break
            if level > 0:
                doubled = buffers[level % 2]
                largest = _double(sums, window // 2, n_chan - window + 1, doubled)
                sums = doubled
            if largest > limits[level]:
                _flag_windows(sums[: n_chan - window + 1], window, limits[level], bad[t], plane[t])
                if level > 0:
                    sums = plane[t]
                    for finer in range(1, level + 1):
                        _double(sums, 1 << (finer - 1), n_chan - (1 << finer) + 1, buffers[finer % 2])
                        sums = buffers[finer % 2]


@njit(cache=True, error_model="numpy", nogil=True)
def _flag_windows(
    sums: NDArray[np.float32], window: int, limit: float, bad: NDArray[np.bool_], excess: NDArray[np.float32]
) -> None:
    # Sums of single samples are the samples themselves: a value that is taken out is never looked at again.
    for f in range(sums.size):
        if sums[f] > limit:
            for ahead in range(window):
                bad[f + ahead] = True
                excess[f + ahead] = 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def _flag_along_time(plane: NDArray[np.float32], bad: NDArray[np.bool_], window: int, limit: float) -> None:
    """Flag every window of successive integrations whose sum exceeds ``limit``, as ``_flag_along_channels`` does."""
    n_time, n_chan = plane.shape
    total = np.zeros(n_chan, dtype=np.float32)
    found = False
    for t in range(n_time):
        largest = _slide(total, plane[t], plane[t - window] if t >= window else np.zeros_like(total))
        if t >= window - 1 and largest > limit:
            found = True
            for f in range(n_chan):
                if total[f] > limit:
                    for back in range(window):
                        bad[t - back, f] = True
    if found:
        for t in range(n_time):
            for f in range(n_chan):
                if bad[t, f]:
                    plane[t, f] = 0.0


@njit(cache=True, error_model="numpy", fastmath=REORDERED, nogil=True)
def _slide(total: NDArray[np.float32], entering: NDArray[np.float32], leaving: NDArray[np.float32]) -> float:
    """Move sums by one integration, in place; the largest is returned."""
    largest = np.float32(-np.inf)
    for f in range(total.size):
        value = total[f] + (entering[f] - leaving[f])
        total[f] = value
        largest = max(largest, value)
    return float(largest)


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
    n_level = window_sigma.size
    spreads = np.empty(n_level)
    spreads_along_channels(plane, spreads, scratch)
    single = max(spreads[0], min_scatter)
    limits = np.empty(n_level, dtype=np.float32)
    for level in range(n_level):
        limits[level] = window_sigma[level] * max(single * np.sqrt(1 << level), spreads[level])
    _flag_along_channels(plane, bad, limits)
    spreads_along_time(plane, spreads, scratch)
    for level in range(1, n_level):
        if 2 << level <= n_time:
            spread = max(single * np.sqrt(1 << level), spreads[level])
            _flag_along_time(plane, bad, 1 << level, window_sigma[level] * spread)


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
    n_row, n_chan, n_corr = vis.shape
    cells, cell_flags = vis.reshape(n_row, n_chan * n_corr), flags.reshape(n_row, n_chan * n_corr)
    planes = np.empty((n_corr, n_time, n_chan), dtype=np.float32)
    bad = np.empty((n_corr, n_time, n_chan), dtype=np.bool_)
    amplitude = np.empty(n_chan * n_corr, dtype=np.float32)
    for b in range(n_baseline):
        for t in range(n_time):
            row = rows[b, t]
            if row < 0:
                bad[:, t] = True
                continue
            cell = cells[row]
            for k in range(amplitude.size):
                amplitude[k] = np.sqrt(cell[k].real * cell[k].real + cell[k].imag * cell[k].imag)
            for c in range(n_corr):
                _pick(amplitude, c, n_corr, planes[c, t])
                _pick(cell_flags[row], c, n_corr, bad[c, t])
        for c in range(n_corr):
            flag_plane(planes[c], bad[c], block, window_sigma, min_scatter, burst, n_colours)
        for t in range(n_time):
            row = rows[b, t]
            for c in range(n_corr):
                if row >= 0 and bad[c, t].any():
                    cell_flags[row, c::n_corr] = bad[c, t]


@njit(cache=True, error_model="numpy", nogil=True)
def _pick(cell: NDArray[Any], corr: int, n_corr: int, channels: NDArray[Any]) -> None:
    """One of the correlations that alternate in ``cell``."""
    if n_corr == 2:
        for f in range(channels.size):
            channels[f] = cell[2 * f + corr]
    else:
        for f in range(channels.size):
            channels[f] = cell[n_corr * f + corr]
