"""Interference that many baselines share: in the autocorrelations and in the average over baselines.

What belongs here: the reduction of all baselines to a few time-frequency planes, and the way their flags go back to the rows.
What does not: the search for outliers in a plane (``sum_threshold``) and the order of the tests (``flagging``).

Method: amplitudes relative to each baseline's level, clipped, are averaged per antenna; the median over antennas is what
the array agrees on. It is flagged on the baselines of those that receive it: antennas without a share of a strong excess
keep their data. Rejected: the plain mean over all baselines, where one interfering antenna weighs as much as its
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
from contimg_assets.science.threads import in_threads, slices
from contimg_assets.science.visibilities import Visibilities

_MAX_INTEGRATIONS = 32
"""Integrations of one block: interference and gains are compared over minutes, and memory stays small."""

_CLIP = 6.0
"""Amplitude, relative to the baseline's level, beyond which a datum counts no more."""

_PIECE = 384
"""Samples of a row that are added to the sums of all antennas at a time."""

_BLOCK_CHANNELS = 16
"""Channels of one piece of the averaged bandpass, whose noise allows finer steps than a single baseline's."""

_COLOURS = 4
"""Pieces of the band whose levels may drift apart: the primary beam is narrower at higher frequencies."""

_STRONG = 0.3
"""Relative excess of an antenna's mean above which it is asked who receives the interference, and who does not."""

_DEAF_SHARE = 0.2
"""Share of the strongest antennas' excess below which an antenna does not receive it."""

_RELATIVE_SCATTER = 0.52
"""Standard deviation of noise amplitudes over their mean (Rayleigh)."""

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
    n_time, (n_row, n_chan, n_corr) = block.rows.shape[1], vis.shape
    total = np.zeros((n_time, antennas.size, n_chan * n_corr), dtype=np.float32)
    count = np.zeros(total.shape, dtype=np.float32)
    ends = np.searchsorted(antennas, block.antenna1), np.searchsorted(antennas, block.antenna2)
    cells, cell_flags = vis.reshape(n_row, -1), flags.reshape(n_row, -1)
    in_threads(
        lambda t: _sum_by_antenna(cells, cell_flags, block.rows[:, t], level, ends, total[t], count[t]),
        range(n_time),
        n_threads,
    )
    return np.moveaxis(total.reshape(n_time, antennas.size, n_chan, n_corr), 1, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_by_antenna(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    rows: NDArray[np.int64],
    level: NDArray[np.float32],
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    total: NDArray[np.float32],
    count: NDArray[np.float32],
) -> None:
    """Average the clipped relative amplitudes of one integration over the baselines of each antenna, into ``total``.

    Channels and correlations, the second axis of ``vis``, are taken piece by piece: the sums of all antennas must stay in
    the processor's cache.
    """
    n_corr, n_cell = level.shape[1], vis.shape[1]
    width = n_corr * max(1, _PIECE // n_corr)
    scale = np.empty(width, dtype=np.float32)
    for low in range(0, n_cell, width):
        high = min(low + width, n_cell)
        for b in range(rows.size):
            row = rows[b]
            if row >= 0:
                for c in range(n_corr):
                    scale[c::n_corr] = 1.0 / level[b, c] if level[b, c] > 0 else 0.0
                one, two = ends[0][b], ends[1][b]
                _add_amplitudes(
                    vis[row, low:high], flags[row, low:high], scale,
                    total[one, low:high], total[two, low:high], count[one, low:high], count[two, low:high],
                )  # fmt: skip
        total[:, low:high] /= count[:, low:high]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_amplitudes(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    scale: NDArray[np.float32],
    total1: NDArray[np.float32],
    total2: NDArray[np.float32],
    count1: NDArray[np.float32],
    count2: NDArray[np.float32],
) -> None:
    clip, zero, one = np.float32(_CLIP), np.float32(0.0), np.float32(1.0)
    for k in range(vis.size):
        size = np.sqrt(vis[k].real * vis[k].real + vis[k].imag * vis[k].imag) * scale[k]
        size = min(clip, size)
        size = zero if flags[k] else size
        good = zero if flags[k] else one
        total1[k] += size
        total2[k] += size
        count1[k] += good
        count2[k] += good


def flag_common(
    flags: NDArray[np.bool_],
    block: TimeBlock,
    means: NDArray[np.float32],
    antennas: NDArray[np.int32],
    window_sigma: NDArray[np.float64],
    min_scatter: float,
    burst: tuple[float, float],
) -> None:
    """Flag the times and channels at which most antennas show an excess, on all baselines of those that receive it.

    Parameters
    ----------
    flags : array of bool, shape (n_row, n_chan, n_corr)
    block : TimeBlock
    means : array of float, shape (n_antenna, n_time, n_chan, n_corr)
        From ``antenna_means``.
    antennas : array of int, shape (n_antenna,)
    window_sigma, min_scatter, burst
        See ``sum_threshold.flag_plane``. Bursts are looked for in a second pass, when narrower interference is gone.
    """
    ends = np.searchsorted(antennas, block.antenna1), np.searchsorted(antennas, block.antenna2)
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
    usual = _usual(means, bad)
    for t in np.flatnonzero(bad.any(axis=1)):
        for channels in _runs(bad[t]):
            deaf = _deaf(means[:, t, channels], usual[:, channels])
            rows = block.rows[~(deaf[ends[0]] | deaf[ends[1]]), t]
            flags[rows[rows >= 0], channels] = True


def _usual(means: NDArray[np.float32], bad: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean over the integrations without interference, shape (n_antenna, n_chan, n_corr), NaN where there are none."""
    usable = np.isfinite(means) & ~bad[None, :, :, None]
    with np.errstate(invalid="ignore"):
        usual: NDArray[np.float32] = np.where(usable, means, np.float32(0.0)).sum(axis=1) / usable.sum(axis=1)
    return usual


def _runs(bad: NDArray[np.bool_]) -> list[slice]:
    """Channels that are bad, in runs without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    return [slice(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _deaf(means: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Antennas that do not receive what the others do in one run of channels; arrays have shape (n_antenna, n, n_corr).

    Their excess is certainly a small share of that of the strongest. Nobody is deaf if the interference is too weak to tell.
    """
    with np.errstate(invalid="ignore"):
        ratio = means / usual - np.float32(1.0)
    known = np.isfinite(ratio)
    n_known = known.sum(axis=(1, 2))
    present = n_known > 0
    deaf = np.zeros(len(means), dtype=np.bool_)
    if not present.any():
        return deaf
    excess = np.where(known, ratio, np.float32(0.0)).sum(axis=(1, 2))[present] / n_known[present]
    noise = _RELATIVE_SCATTER / np.sqrt(n_known[present] * max(int(present.sum()) - 1, 1))
    strongest = float(np.quantile(excess, 0.9))
    if strongest > max(_STRONG, 10.0 * float(noise.max())):
        deaf[present] = excess + 3.0 * noise < _DEAF_SHARE * strongest
    return deaf


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
    slot = np.full(vis.n_antennas, -1)
    slot[active] = np.arange(active.size)
    cell_flags = vis.flags.reshape(vis.flags.shape[0], -1)
    for block in blocks:
        part = autos[block.first_integration : block.first_integration + block.rows.shape[1]]
        marks = _mark_powers(part, window_sigma * _SHARED_SCALE, min_scatter, n_threads)
        _flag_marked(cell_flags, block, marks, slot, n_threads)


def _mark_powers(
    power: NDArray[np.float32], window_sigma: NDArray[np.float64], min_scatter: float, n_threads: int
) -> NDArray[np.bool_]:
    """Outliers of every antenna's power, shape (n_time, n_antenna + 1, n_chan, n_corr); the last are those of most antennas."""
    bad = np.zeros(power.shape, dtype=np.bool_)
    in_threads(
        lambda these: _flag_powers(power[:, these], bad[:, these], window_sigma, min_scatter),
        slices(power.shape[1], n_threads),
        n_threads,
    )
    everywhere = (bad.mean(axis=1) > 0.5)[:, None]
    return np.concatenate([bad | everywhere, everywhere], axis=1)


def _flag_marked(
    flags: NDArray[np.bool_], block: TimeBlock, marks: NDArray[np.bool_], slot: NDArray[np.int64], n_threads: int
) -> None:
    """Flag what is marked for either antenna; those without power of their own have slot -1, the last."""
    first, second = slot[block.antenna1], slot[block.antenna2]
    marks = marks.reshape(*marks.shape[:2], -1)
    in_threads(
        lambda t: _flag_from_antennas(flags, block.rows[:, t], first, second, marks[t]),
        np.flatnonzero(marks.any(axis=(1, 2))),
        n_threads,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _flag_powers(
    power: NDArray[np.float32], bad: NDArray[np.bool_], window_sigma: NDArray[np.float64], min_scatter: float
) -> None:
    """Mark outliers of each antenna's power, axes (time, antenna, chan, corr), in ``bad``; absent power is not one."""
    n_time, n_antenna, n_chan, n_corr = power.shape
    plane = np.empty((n_time, n_chan), dtype=np.float32)
    outlier = np.empty((n_time, n_chan), dtype=np.bool_)
    for antenna in range(n_antenna):
        for c in range(n_corr):
            for t in range(n_time):
                for f in range(n_chan):
                    value = power[t, antenna, f, c]
                    outlier[t, f] = not (value > 0.0 and value < np.inf)
                    plane[t, f] = np.float32(0.0) if outlier[t, f] else value
            flag_plane(plane, outlier, _BLOCK_CHANNELS, window_sigma, min_scatter, (np.inf, np.inf), _COLOURS)
            for t in range(n_time):
                for f in range(n_chan):
                    bad[t, antenna, f, c] = outlier[t, f] and power[t, antenna, f, c] > 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _flag_from_antennas(
    flags: NDArray[np.bool_],
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    marks: NDArray[np.bool_],
) -> None:
    """Flag, in the rows of one integration, what is marked for either antenna (``marks``: antenna, chan and corr)."""
    for index in range(rows.size):
        if rows[index] >= 0:
            cell, mark1, mark2 = flags[rows[index]], marks[first[index]], marks[second[index]]
            for k in range(cell.size):
                cell[k] |= mark1[k] | mark2[k]
