"""Interference that many baselines share: in the autocorrelations and in the average over baselines.

What belongs here: the reduction of all baselines to a few time-frequency planes, and the way their flags go back to the rows.
What does not: the search for outliers in a plane (``sum_threshold``) and the order of the tests (``flagging``).

Method: amplitudes relative to each baseline's level, clipped, are averaged per antenna; the median over antennas is what
the array agrees on. Rejected: the plain mean over all baselines, where one interfering antenna weighs as much as its
strength; taking out what antennas with an excess of their own add to everybody's mean, which is right for one
antenna and hides interference that all receive with different gains (recall of a 90 Jy burst fell from 1.0 to 0.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.sum_threshold import flag_plane
from contimg_assets.science.threads import in_threads
from contimg_assets.science.visibilities import Visibilities

_MAX_INTEGRATIONS = 32
"""Integrations of one block: interference and gains are compared over minutes, and memory stays small."""

_CLIP = 6.0
"""Amplitude, relative to the baseline's level, beyond which a datum counts no more."""

_BLOCK_CHANNELS = 16
"""Channels of one piece of the averaged bandpass, whose noise allows finer steps than a single baseline's."""

_COLOURS = 4
"""Pieces of the band whose levels may drift apart: the primary beam is narrower at higher frequencies."""

_SHARED_SCALE = 1.25
"""Thresholds are raised by this where one false alarm flags many baselines."""


@dataclass(frozen=True, slots=True, eq=False)
class TimeBlock:
    """Consecutive integrations of all baselines."""

    rows: NDArray[np.int64]
    """Row of each baseline and integration, shape (n_baseline, n_time), -1 where there is none."""
    first_integration: int
    """Position of the block's first integration among all."""
    antenna1: NDArray[np.int32]
    """Shape (n_baseline,)."""
    antenna2: NDArray[np.int32]
    """Shape (n_baseline,)."""


def split_times(
    time_mjd: NDArray[np.float64], antenna1: NDArray[np.int32], antenna2: NDArray[np.int32], n_antennas: int
) -> list[TimeBlock]:
    """Arrange rows by baseline and integration, in blocks of at most 32 integrations of nearly equal length."""
    instants, when = np.unique(time_mjd, return_inverse=True)
    pairs, baseline = np.unique(antenna1.astype(np.int64) * n_antennas + antenna2, return_inverse=True)
    rows = np.full((pairs.size, instants.size), -1, dtype=np.int64)
    rows[baseline, when] = np.arange(time_mjd.size)
    first, second = (pairs // n_antennas).astype(np.int32), (pairs % n_antennas).astype(np.int32)
    n_block = -(-instants.size // _MAX_INTEGRATIONS)
    edges = np.linspace(0, instants.size, n_block + 1).astype(int)
    return [TimeBlock(np.ascontiguousarray(rows[:, a:b]), int(a), first, second) for a, b in pairwise(edges)]


def antenna_means(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    block: TimeBlock,
    level: NDArray[np.float32],
    antennas: NDArray[np.int32],
    n_threads: int,
) -> NDArray[np.float32]:
    """Mean relative amplitude of each antenna's baselines, shape (n_antenna, n_time, n_chan, n_corr), NaN if none."""
    n_time, (_, n_chan, n_corr) = block.rows.shape[1], vis.shape
    total = np.zeros((n_time, antennas.size, n_chan, n_corr), dtype=np.float32)
    count = np.zeros(total.shape, dtype=np.float32)
    first, second = np.searchsorted(antennas, block.antenna1), np.searchsorted(antennas, block.antenna2)
    in_threads(
        lambda t: _sum_by_antenna(vis, flags, block.rows[:, t], level, first, second, total[t], count[t]),
        range(n_time),
        n_threads,
    )
    with np.errstate(invalid="ignore"):
        total /= count
    return np.moveaxis(total, 1, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_by_antenna(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    rows: NDArray[np.int64],
    level: NDArray[np.float32],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    total: NDArray[np.float32],
    count: NDArray[np.float32],
) -> None:
    """Add the clipped relative amplitudes of one integration to both antennas of each baseline."""
    n_chan, n_corr = vis.shape[1], vis.shape[2]
    scale = np.empty(n_corr, dtype=np.float32)
    for b in range(rows.size):
        row = rows[b]
        if row < 0:
            continue
        for c in range(n_corr):
            scale[c] = 1.0 / level[b, c] if level[b, c] > 0 else 0.0
        for f in range(n_chan):
            for c in range(n_corr):
                if not flags[row, f, c]:
                    value = vis[row, f, c]
                    size = min(np.sqrt(value.real * value.real + value.imag * value.imag) * scale[c], np.float32(_CLIP))
                    total[first[b], f, c] += size
                    total[second[b], f, c] += size
                    count[first[b], f, c] += np.float32(1.0)
                    count[second[b], f, c] += np.float32(1.0)


def flag_common(
    flags: NDArray[np.bool_],
    block: TimeBlock,
    means: NDArray[np.float32],
    window_sigma: NDArray[np.float64],
    min_scatter: float,
    burst: tuple[float, float],
) -> None:
    """Flag, on every baseline and correlation, the times and channels at which most antennas show an excess.

    Parameters
    ----------
    flags : array of bool, shape (n_row, n_chan, n_corr)
    block : TimeBlock
    means : array of float, shape (n_antenna, n_time, n_chan, n_corr)
        From ``antenna_means``.
    window_sigma, min_scatter, burst
        See ``sum_threshold.flag_plane``. Bursts are looked for in a second pass, when narrower interference is gone.
    """
    shared = _median(means)
    n_time, n_chan, n_corr = shared.shape
    bad = np.zeros((n_time, n_chan), dtype=np.bool_)
    for corr in range(n_corr):
        plane = np.ascontiguousarray(shared[:, :, corr])
        outlier = ~np.isfinite(plane)
        missing = outlier.copy()
        for test in ((np.inf, np.inf), burst):
            flag_plane(
                np.where(outlier, np.float32(0.0), plane), outlier, _BLOCK_CHANNELS, window_sigma * _SHARED_SCALE,
                min_scatter, test, _COLOURS,
            )  # fmt: skip
        bad |= outlier & ~missing
    for t in np.flatnonzero(bad.any(axis=1)):
        rows = block.rows[:, t]
        flags[np.ix_(rows[rows >= 0], np.flatnonzero(bad[t]))] = True


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median along the first axis of what is finite, NaN where nothing is."""
    ordered = np.sort(values, axis=0)  # NaN last
    n_known = np.isfinite(values).sum(axis=0)
    pair = np.stack([np.maximum(n_known - 1, 0) // 2, np.minimum(n_known // 2, values.shape[0] - 1)])
    median = np.take_along_axis(ordered, pair, axis=0).mean(axis=0)
    return np.where(n_known > 0, median, np.float32(np.nan))


def flag_from_autos(
    vis: Visibilities,
    blocks: list[TimeBlock],
    autos: NDArray[np.float32],
    active: NDArray[np.int32],
    window_sigma: NDArray[np.float64],
    min_scatter: float,
    n_threads: int,
) -> None:
    """Flag times and channels in which an antenna's own power, or that of most antennas, is out of line.

    ``autos`` has shape (n_time, n_active, n_chan, n_corr), ``active`` the antenna index of its second axis.
    """
    n_corr = autos.shape[3]
    slot = np.full(vis.n_antennas, -1)
    slot[active] = np.arange(active.size)
    for block in blocks:
        part = autos[block.first_integration : block.first_integration + block.rows.shape[1]]
        bad = np.zeros(part.shape, dtype=np.bool_)

        def search(antenna: int, part: NDArray[np.float32] = part, bad: NDArray[np.bool_] = bad) -> None:
            for corr in range(n_corr):
                plane = np.ascontiguousarray(part[:, antenna, :, corr], dtype=np.float32)
                missing = ~(np.isfinite(plane) & (plane > 0))
                plane[missing] = 0.0
                outlier = missing.copy()
                flag_plane(
                    plane,
                    outlier,
                    _BLOCK_CHANNELS,
                    window_sigma * _SHARED_SCALE,
                    min_scatter,
                    (np.inf, np.inf),
                    _COLOURS,
                )
                bad[:, antenna, :, corr] = outlier & ~missing

        in_threads(search, range(active.size), n_threads)
        everywhere = bad.mean(axis=1) > 0.5
        for t in range(block.rows.shape[1]):
            if not bad[t].any():
                continue
            rows = block.rows[:, t]
            there = rows >= 0
            _flag_from_antennas(
                vis.flags, rows[there], slot[block.antenna1[there]], slot[block.antenna2[there]], bad[t], everywhere[t]
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _flag_from_antennas(
    flags: NDArray[np.bool_],
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    bad: NDArray[np.bool_],
    everywhere: NDArray[np.bool_],
) -> None:
    """Flag the rows of one integration where either antenna is bad (``bad``: antenna, chan, corr), or everyone is."""
    for index in range(rows.size):
        for f in range(everywhere.shape[0]):
            for c in range(everywhere.shape[1]):
                if (
                    everywhere[f, c]
                    or (first[index] >= 0 and bad[first[index], f, c])
                    or (second[index] >= 0 and bad[second[index], f, c])
                ):
                    flags[rows[index], f, c] = True
