"""Visibilities reduced to what an imager needs: Stokes I, fewer channels, one weight each.

What belongs here: the average of the parallel hands and of neighbouring channels. Imaging weights are in
``weighting``.

Stokes I of an unpolarised sky is the weighted mean of whichever parallel hands are unflagged, so one good hand
is enough. Neighbouring channels are averaged only within a band, never across a gap, by a factor for which the loss
of amplitude at the edge of the field stays under a limit (``geometry``). The full-size (row, chan, corr) array is
read once and not copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.errors import NotEnoughDataError
from contimg_assets.science.threads import in_threads, slices
from contimg_assets.science.visibilities import Visibilities

_PARALLEL_HANDS = ("XX", "YY", "RR", "LL", "I")


@dataclass(frozen=True, slots=True, eq=False)
class BandVisibilities:
    """Averaged visibilities of one band; a datum without unflagged input has weight 0 and value 0."""

    name: str
    """"band0", "band1"... in ascending frequency."""
    vis: NDArray[np.complex64]
    """Shape (n_row, n_group), Jy."""
    weights: NDArray[np.float32]
    """1/sigma^2 of the real (or imaginary) part as far as the input weights are, shape (n_row, n_group)."""
    frequency_hz: NDArray[np.float64]
    """Centres of the channel groups, ascending, shape (n_group,)."""
    bandwidth_hz: float
    """Sum of the widths of the channels."""
    spread_hz2: float
    """Mean square distance of the channels' centres from the centre of their group, Hz^2: it smears sources off centre."""


def channel_groups(
    frequency_hz: NDArray[np.float64], channel_width_hz: float, n_bands: int, factor: int
) -> list[NDArray[np.int64]]:
    """Channels to average, per band: group g is channels starts[g] to starts[g + 1] - 1, never across a gap."""
    n_chan = frequency_hz.size
    edges = np.round(np.linspace(0, n_chan, min(n_bands, n_chan) + 1)).astype(np.int64)
    gaps = np.flatnonzero(np.diff(frequency_hz) > 1.5 * channel_width_hz) + 1
    groups = []
    for first, last in pairwise(edges):
        runs = np.concatenate([[first], gaps[(gaps > first) & (gaps < last)], [last]])
        starts = [np.arange(a, b, factor) for a, b in pairwise(runs)]
        groups.append(np.concatenate([*starts, [last]]).astype(np.int64))
    return groups


@numba.njit(cache=True, nogil=True)
def _average(
    vis: NDArray[np.complex64],
    flags: NDArray[np.bool_],
    weights: NDArray[np.float32],
    hands: NDArray[np.int64],
    starts: NDArray[np.int64],
    out_vis: NDArray[np.complex64],
    out_weights: NDArray[np.float32],
) -> None:
    for row in range(vis.shape[0]):
        for group in range(starts.size - 1):
            total, weight_sum = 0j, 0.0
            for chan in range(starts[group], starts[group + 1]):
                for corr in hands:
                    weight = weights[row, corr]
                    datum = vis[row, chan, corr]
                    if not flags[row, chan, corr] and weight > 0 and np.isfinite(datum.real + datum.imag):
                        total += weight * datum
                        weight_sum += weight
            if weight_sum > 0:
                out_vis[row, group] = total / weight_sum
                out_weights[row, group] = weight_sum


def average_to_stokes_i(
    vis: Visibilities, *, n_bands: int, factor: int, n_threads: int = 0
) -> tuple[BandVisibilities, ...]:
    """Average parallel hands and groups of channels.

    Parameters
    ----------
    vis : Visibilities
        Not changed.
    n_bands : int
        Bands of equal numbers of channels.
    factor : int
        Channels per group.
    n_threads : int
        0 for all cores.

    Returns
    -------
    tuple of BandVisibilities
        Bands without any unflagged visibility are left out; the others keep their names.

    Raises
    ------
    NotEnoughDataError
        If nothing is unflagged.
    """
    hands = parallel_hands(vis)
    bands = []
    for index, starts in enumerate(channel_groups(vis.frequency_hz, vis.channel_width_hz, n_bands, factor)):
        shape = (vis.vis.shape[0], starts.size - 1)
        out_vis, out_weights = np.zeros(shape, dtype=np.complex64), np.zeros(shape, dtype=np.float32)

        def average(
            rows: slice, starts: NDArray[np.int64] = starts, out: tuple[NDArray[Any], ...] = (out_vis, out_weights)
        ) -> None:
            _average(vis.vis[rows], vis.flags[rows], vis.weights[rows], hands, starts, out[0][rows], out[1][rows])

        in_threads(average, slices(shape[0], n_threads), n_threads)
        if out_weights.any():
            channels = vis.frequency_hz[starts[0] : starts[-1]]
            centres = np.add.reduceat(channels, starts[:-1] - starts[0]) / np.diff(starts)
            width_hz = channels.size * vis.channel_width_hz
            spread_hz2 = float(np.mean((channels - np.repeat(centres, np.diff(starts))) ** 2))
            bands.append(BandVisibilities(f"band{index}", out_vis, out_weights, centres, width_hz, spread_hz2))
    if not bands:
        raise all_flagged(vis)
    return tuple(bands)


def all_flagged(vis: Visibilities) -> NotEnoughDataError:
    """The error of an observation of which nothing is left."""
    return NotEnoughDataError(
        f"imaging {vis.source_name or vis.field_name}: every visibility is flagged",
        got="0 unflagged visibilities",
        expected="at least some",
        remedy="Look at the flagging of this observation.",
        reason_code="all_flagged",
    )


def parallel_hands(vis: Visibilities) -> NDArray[np.int64]:
    """Indices of the correlations that add up to Stokes I."""
    hands = [k for k, name in enumerate(vis.correlations) if name in _PARALLEL_HANDS]
    if not hands:
        raise NotEnoughDataError(
            f"imaging {vis.source_name or vis.field_name}: no parallel-hand correlation",
            got=", ".join(vis.correlations),
            expected="XX, YY, RR or LL",
            remedy="Convert the observation with its parallel hands.",
            reason_code="no_parallel_hands",
        )
    return np.array(hands, dtype=np.int64)
