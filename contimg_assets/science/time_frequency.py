"""Robust normalisation of time-frequency planes, compiled: what a plane would be without outliers.

What belongs here: medians, the smooth bandpass, the level of each integration and the relative excess over them. What does
not: thresholds on the excess (``sum_threshold``).

Method. A plane (time, channel) of one positive quantity is divided by a smooth bandpass (medians of blocks of channels over
all times, joined by straight lines) and by its median in each integration, so that gains, bandpass and a source drifting
through the primary beam drop out and persistent narrow interference does not. Integrations that stand out against straight
lines through their neighbours are flagged whole. Rejected: medians per channel, which learn a carrier that stays on for
the whole observation; polynomials in time, which bend towards a burst.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA

_SPREAD_SAMPLES = 1500
"""Windows from which the scatter of their means is taken: 3 per cent accurate, a tenth of the cost of using all."""

_BLOCK_SAMPLES = 256
"""Samples, spread over all times, from which the level of one piece of the bandpass is taken."""

_ROLL_OFF = 0.75
"""Level at the end of the band, relative to its middle, below which the receiver's band is taken to end there."""

_LEVEL_SAMPLES = 384
"""Channels from which the level of one integration is taken."""

_MIN_PREDICTORS = 2
"""Pairs of neighbours needed to predict the level of an integration."""

_FEW = 24
"""Values of which the median is selected without narrowing the range first."""

_HALVINGS = 8
"""Times the range of many values is halved: what is left is a few per cent of them, or outliers reach very far."""

REORDERED = {"reassoc", "nnan", "nsz"}
"""Liberties the compiler needs for vector instructions in sums and maxima: no NaN gets there, order does not matter."""


@njit(cache=True, error_model="numpy", fastmath=REORDERED, nogil=True)
def _narrow(values: NDArray[np.float32], n: int, k: int) -> tuple[int, int]:
    """Keep, at the front of ``values``, those of the first ``n`` that may be the ``k``-th smallest: how many, and the new ``k``.

    Halves the range of values by counting, which takes vector instructions where the exchanges of a selection cannot.
    """
    low = values[0]
    high = values[0]
    for i in range(n):
        low = min(low, values[i])
        high = max(high, values[i])
    below = 0
    for _ in range(_HALVINGS):
        middle = np.float32(0.5) * low + np.float32(0.5) * high
        if not low < middle < high:
            break
        smaller = np.float32(0.0)  # exact up to 2^24, and as wide as what it counts
        for i in range(n):
            smaller += np.float32(1.0) if values[i] < middle else np.float32(0.0)
        if smaller <= k:
            low, below = middle, int(smaller)
        else:
            high = middle
    kept = 0
    for i in range(n):
        value = values[i]
        values[kept] = value
        kept += int(value >= low) & int(value <= high)
    return kept, k - below


@njit(cache=True, error_model="numpy", nogil=True)
def median_in_place(values: NDArray[np.float32], n: int) -> float:
    """Upper median of the first ``n`` values, which are lost; NaN for none."""
    if n == 0:
        return np.nan
    k = n // 2
    if n > _FEW:
        n, k = _narrow(values, n, k)
    left, right = 0, n - 1
    while left < right:
        pivot = values[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            break
    return values[k]


@njit(cache=True, error_model="numpy")
def _join(centre: NDArray[np.float64], level: NDArray[np.float64], line: NDArray[np.float32]) -> None:
    """Straight lines through points (ascending centres), the outer ones prolonged."""
    k = 0
    for f in range(line.size):
        while k + 2 < centre.size and f > centre[k + 1]:
            k += 1
        if centre.size == 1:
            line[f] = level[0]
        else:
            part = (f - centre[k]) / (centre[k + 1] - centre[k])
            line[f] = (1.0 - part) * level[k] + part * level[k + 1]


@njit(cache=True, error_model="numpy")
def _follow_edges(
    plane: NDArray[np.float32],
    bad: NDArray[np.bool_],
    width: int,
    smooth: NDArray[np.float32],
    scratch: NDArray[np.float32],
) -> None:
    """Replace the smooth level by each channel's median where the receiver's band ends, in its three outer blocks.

    Straight lines cannot follow a roll-off, and with a bright source their error stands far above the noise.
    """
    n_time, n_chan = plane.shape
    for side in range(2):
        outer = smooth[0] if side == 0 else smooth[n_chan - 1]
        if n_chan < 6 * width or outer > _ROLL_OFF * smooth[n_chan // 2]:
            continue
        for f in range(3 * width) if side == 0 else range(n_chan - 3 * width, n_chan):
            n = 0
            for t in range(n_time):
                if not bad[t, f]:
                    scratch[n] = plane[t, f]
                    n += 1
            value = median_in_place(scratch, n)
            if n > 0 and value > 0:
                smooth[f] = value


@njit(cache=True, error_model="numpy")
def _bandpass(
    plane: NDArray[np.float32], bad: NDArray[np.bool_], block: int, scratch: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Smooth level against channel: block medians joined by straight lines; NaN if nothing is good."""
    n_time, n_chan = plane.shape
    n_block = max(1, n_chan // block)
    centre = np.empty(n_block)
    level = np.empty(n_block)
    n_good = 0
    for k in range(n_block):
        low, high = k * n_chan // n_block, (k + 1) * n_chan // n_block
        thin = max(1, n_time * (high - low) // _BLOCK_SAMPLES)
        n = 0
        for t in range(n_time):
            for f in range(low + t % thin, high, thin):
                scratch[n] = plane[t, f]
                n += not bad[t, f]
        value = median_in_place(scratch, n)
        if n > 0 and value > 0:
            centre[n_good] = 0.5 * (low + high - 1)
            level[n_good] = value
            n_good += 1
    smooth = np.full(n_chan, np.nan, dtype=np.float32)
    if n_good > 0:
        _join(centre[:n_good], level[:n_good], smooth)
        for f in range(n_chan):
            smooth[f] = max(smooth[f], np.float32(0.1 * level[0]))
        _follow_edges(plane, bad, n_chan // n_block, smooth, scratch)
    return smooth


@njit(cache=True, error_model="numpy")
def _from_neighbours(series: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of straight lines through pairs of neighbours, for each value of a series; NaN where unknown."""
    n_time = series.size
    predicted = np.full(n_time, np.nan, dtype=np.float32)
    lines = np.empty(5, dtype=np.float32)
    for t in range(n_time):
        n = 0
        for k in range(1, 6):
            if t - k >= 0 and t + k < n_time:
                value = 0.5 * (series[t - k] + series[t + k])
            elif t + 2 * k < n_time:
                value = 2.0 * series[t + k] - series[t + 2 * k]
            elif t - 2 * k >= 0:
                value = 2.0 * series[t - k] - series[t - 2 * k]
            else:
                value = np.nan
            if np.isfinite(value):
                lines[n] = value
                n += 1
        if n >= _MIN_PREDICTORS:
            predicted[t] = median_in_place(lines, n)
    return predicted


@njit(cache=True, error_model="numpy")
def _flag_bursts(gain: NDArray[np.float32], sigma: float, floor: float) -> NDArray[np.bool_]:
    """Integrations whose level exceeds what their neighbours predict; ``gain`` NaN where unknown."""
    n_time = gain.size
    excess = _from_neighbours(gain)
    size = np.empty(n_time, dtype=np.float32)
    n = 0
    for t in range(n_time):
        excess[t] = gain[t] / excess[t] - np.float32(1.0)
        if np.isfinite(excess[t]):
            size[n] = abs(excess[t])
            n += 1
    burst = np.zeros(n_time, dtype=np.bool_)
    limit = max(floor, sigma * MAD_TO_SIGMA * median_in_place(size, n)) if n > 0 else np.inf
    for t in range(n_time):
        burst[t] = excess[t] > limit
    return burst


@njit(cache=True, error_model="numpy", nogil=True)
def _spread(sums: NDArray[np.float32], scratch: NDArray[np.float32]) -> float:
    """Robust standard deviation about zero of some of the values of a plane, those that are exactly zero left out."""
    n_line, n_value = sums.shape
    thin = max(1, n_line * n_value // _SPREAD_SAMPLES)
    n = 0
    for k in range(n_line):
        for i in range(k % thin, n_value, thin):
            scratch[n] = abs(sums[k, i])
            n += sums[k, i] != 0.0
    return MAD_TO_SIGMA * median_in_place(scratch, n) if n > 0 else 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def spreads_along_channels(
    plane: NDArray[np.float32], spreads: NDArray[np.float64], scratch: NDArray[np.float32]
) -> None:
    """Robust standard deviations of the sums of 1, 2, 4 ... channels, windows that do not overlap, into ``spreads``."""
    n_time, n_chan = plane.shape
    buffers = np.empty((2, n_time * n_chan), dtype=np.float32)
    spreads[0] = _spread(plane, scratch)
    finer = plane
    for level in range(1, spreads.size):
        n_sum = n_chan >> level
        sums = buffers[level % 2, : n_time * n_sum].reshape(n_time, n_sum)
        for t in range(n_time):
            source, target = finer[t], sums[t]
            for i in range(n_sum):
                target[i] = source[2 * i] + source[2 * i + 1]
        spreads[level] = _spread(sums, scratch)
        finer = sums


@njit(cache=True, error_model="numpy", nogil=True)
def spreads_along_time(plane: NDArray[np.float32], spreads: NDArray[np.float64], scratch: NDArray[np.float32]) -> None:
    """The same for windows of 1, 2, 4 ... integrations."""
    n_time, n_chan = plane.shape
    buffers = np.empty((2, n_time // 2, n_chan), dtype=np.float32)
    spreads[0] = _spread(plane, scratch)
    finer = plane
    for level in range(1, spreads.size):
        sums = buffers[level % 2, : n_time >> level]
        for t in range(n_time >> level):
            first, second, target = finer[2 * t], finer[2 * t + 1], sums[t]
            for f in range(n_chan):
                target[f] = first[f] + second[f]
        spreads[level] = _spread(sums, scratch)
        finer = sums


@njit(cache=True, error_model="numpy")
def _remove_colour(  # noqa: C901 - a compiled loop; calls would cost more than they explain
    plane: NDArray[np.float32], bad: NDArray[np.bool_], n_block: int, scratch: NDArray[np.float32]
) -> None:
    """Subtract the part of the excess that is smooth in frequency and changes slowly in time.

    A bright source leaving a primary beam that is narrower at higher frequencies is such a part; an isolated burst is
    not, since each integration is predicted from its neighbours.
    """
    n_time, n_chan = plane.shape
    n_block = min(n_block, n_chan)
    level = np.empty((n_block, n_time), dtype=np.float32)
    for k in range(n_block):
        for t in range(n_time):
            n = 0
            for f in range(k * n_chan // n_block, (k + 1) * n_chan // n_block):
                if not bad[t, f]:
                    scratch[n] = plane[t, f]
                    n += 1
            level[k, t] = median_in_place(scratch, n)
        # Element by element: assigning arrays costs five seconds of compilation.
        predicted = _from_neighbours(level[k])
        for t in range(n_time):
            level[k, t] = predicted[t]
    centre, points = np.empty(n_block), np.empty(n_block)
    line = np.empty(n_chan, dtype=np.float32)
    for t in range(n_time):
        n = 0
        for k in range(n_block):
            if np.isfinite(level[k, t]):
                centre[n] = 0.5 * (k * n_chan // n_block + (k + 1) * n_chan // n_block - 1)
                points[n] = level[k, t]
                n += 1
        if n > 0:
            _join(centre[:n], points[:n], line)
            for f in range(n_chan):
                if not bad[t, f]:
                    plane[t, f] -= line[f]


@njit(cache=True, error_model="numpy")
def normalise_plane(  # noqa: C901 - one compiled pass, see the comments
    plane: NDArray[np.float32],
    bad: NDArray[np.bool_],
    block: int,
    burst: tuple[float, float],
    n_colours: int,
    scratch: NDArray[np.float32],
) -> bool:
    """Turn a plane into its relative excess over bandpass and level (0 where bad), flagging bursts; False if empty."""
    n_time, n_chan = plane.shape
    smooth = _bandpass(plane, bad, block, scratch)
    if not np.isfinite(smooth[0]):
        return False
    zero, one = np.float32(0.0), np.float32(1.0)
    for f in range(n_chan):
        smooth[f] = one / smooth[f]
    gain = np.empty(n_time, dtype=np.float32)
    thin = max(1, n_chan // _LEVEL_SAMPLES)
    for t in range(n_time):
        n = 0
        for f in range(0, n_chan, thin):
            scratch[n] = plane[t, f] * smooth[f]
            n += not bad[t, f]
        gain[t] = median_in_place(scratch, n)
    is_burst = _flag_bursts(gain, burst[0], burst[1])
    for t in range(n_time):
        if is_burst[t]:
            bad[t, :] = True
        usable = gain[t] > 0 and not is_burst[t]
        scale = one / gain[t] if usable else zero
        shift = one if usable else zero
        excess, outlier = plane[t], bad[t]
        for f in range(n_chan):
            value = excess[f] * scale * smooth[f] - shift
            excess[f] = zero if outlier[f] else value
    if n_colours > 0:
        _remove_colour(plane, bad, n_colours, scratch)
    # The mean of positively skewed noise lies above its median; window means must be compared with the mean.
    limit = np.float32(3.0 * _spread(plane, scratch))
    total, n = zero, 0
    for t in range(n_time):
        for f in range(t % thin, n_chan, 2 * thin):
            counts = not bad[t, f] and abs(plane[t, f]) <= limit
            total += plane[t, f] if counts else zero
            n += counts
    offset = np.float32(total / max(n, 1))
    for t in range(n_time):
        excess, outlier = plane[t], bad[t]
        for f in range(n_chan):
            excess[f] -= zero if outlier[f] else offset
    return n > 0
