"""Sufficient statistics of visibilities against a model, per baseline, time cell, channel block and correlation.

What belongs here: the one pass over the data that every solve needs. What does not: the iteration (``solver``).

For gains that are constant within a cell, the least-squares problem ``sum w |V - g_i conj(g_j) M|^2`` depends on
the data only through ``cross = sum w V conj(M)`` and ``power = sum w |M|^2``: averaging this way is exact and never
decorrelates, however far the sources lie from the phase centre, because the model is divided out channel by channel.
The model is predicted integration by integration; no second array of the size of the data is made. Rejected:
averaging data and model separately, which smears off-centre sources.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.interpolation import gains_at, map_solutions
from contimg_assets.science.calibration.solutions import Solutions, SolveSettings, parallel_hands
from contimg_assets.science.errors import NotEnoughDataError
from contimg_assets.science.sky_model import (
    SkyModel,
    amplitudes,
    brightest,
    predict_rows,
    rows_by_time,
)
from contimg_assets.science.threads import in_threads, thread_count
from contimg_assets.science.visibilities import Visibilities


@dataclass(frozen=True, slots=True, eq=False)
class BaselineStatistics:
    """Sums over the data of each cell; axes (cell, baseline, block, corr), corr being the parallel hands."""

    cross: NDArray[np.complex64]
    """sum w V conj(M)."""
    power: NDArray[np.float32]
    """sum w |M|^2; 0 where all data of the cell are flagged."""
    antenna1: NDArray[np.int32]
    """Shape (n_baseline,)."""
    antenna2: NDArray[np.int32]
    correlations: tuple[str, ...]
    """The parallel hands."""


def accumulate_statistics(
    vis: Visibilities,
    model: SkyModel,
    settings: SolveSettings,
    *,
    cell_of_time: NDArray[np.int64],
    channels: NDArray[np.int64],
    block_of_channel: NDArray[np.int64],
    prior: Sequence[Solutions] = (),
) -> BaselineStatistics:
    """Sum the data against the model in one pass.

    Parameters
    ----------
    vis : Visibilities
    model : SkyModel
    settings : SolveSettings
        ``primary_beam``, ``flux_fraction``, ``min_baseline_m`` and ``n_threads`` are used.
    cell_of_time : array of int, shape (n_time,)
        Time cell of each distinct time of ``vis``, 0, 1, 2, ...
    channels : array of int, shape (n_used,)
        The channels to use.
    block_of_channel : array of int, shape (n_used,)
        Block of each of these channels, 0, 1, 2, ...
    prior : sequence of Solutions
        Gains known already: the model is multiplied by them; data they flag do not count.

    Returns
    -------
    BaselineStatistics

    Raises
    ------
    NotEnoughDataError
        If no datum is left or the model holds no flux.
    """
    if settings.flux_fraction < 1.0:
        model = brightest(model, vis, fraction=settings.flux_fraction)
    hands = np.array(parallel_hands(vis.correlations), dtype=np.int64)
    pairs = vis.antenna1.astype(np.int64) * vis.n_antennas + vis.antenna2
    baselines, slot = np.unique(pairs, return_inverse=True)
    shape = (int(cell_of_time.max()) + 1, len(baselines), int(block_of_channel.max()) + 1, len(hands))
    statistics = BaselineStatistics(
        cross=np.zeros(shape, dtype=np.complex64),
        power=np.zeros(shape, dtype=np.float32),
        antenna1=(baselines // vis.n_antennas).astype(np.int32),
        antenna2=(baselines % vis.n_antennas).astype(np.int32),
        correlations=tuple(vis.correlations[i] for i in hands),
    )
    frequency_hz = vis.frequency_hz[channels]
    mapped = map_solutions(prior, vis)
    long_enough = np.hypot(vis.uvw_m[:, 0], vis.uvw_m[:, 1]) >= settings.min_baseline_m
    n_threads = thread_count(settings.n_threads)
    # Each thread owns some baselines, so that no two ever add to the same cell.
    bounds = np.linspace(0, len(baselines), n_threads + 1).astype(np.int64)
    for (time_mjd, rows), cell in zip(rows_by_time(vis), cell_of_time, strict=True):
        amplitude_jy = amplitudes(model, vis, int(rows[0]), primary_beam=settings.primary_beam)[:, channels]
        gains = gains_at(mapped, vis, time_mjd)
        shares = [rows[(slot[rows] >= a) & (slot[rows] < b) & long_enough[rows]] for a, b in itertools.pairwise(bounds)]
        sums = (statistics.cross[cell], statistics.power[cell])

        def add(share: NDArray[np.int64]) -> None:
            predicted = predict_rows(model, vis, share, frequency_hz, amplitude_jy)  # noqa: B023
            data = (vis.vis, vis.flags, vis.weights, vis.antenna1, vis.antenna2)
            _accumulate(share, data, predicted, gains, (hands, slot, channels, block_of_channel), sums)  # noqa: B023

        in_threads(add, shares, n_threads)
    if not np.any(statistics.power > 0.0):
        raise NotEnoughDataError(
            f"no data to solve on in {vis.source_name or vis.field_name}",
            got=f"{float(np.mean(vis.flags)):.1%} of {vis.vis.size} visibilities flagged, or a model without flux",
            expected="unflagged visibilities with positive weight on baselines that are long enough",
            remedy="Look at the flags of this observation and at the position of the field.",
            reason_code="no_data_to_solve",
        )
    return statistics


@numba.njit(cache=True, nogil=True)
def _accumulate(rows, data, predicted, gains, index, sums):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add rows to the sums of one time cell.

    ``data`` is (vis, flags, weights, antenna1, antenna2), ``index`` is (hands, slot of each row, channels, block of
    each of these), ``sums`` is (cross, power) of shape (baseline, block, corr); ``gains`` (antenna, chan, corr) multiply
    the prediction. Kernels take tuples where numba cannot take dataclasses.
    """
    vis, flags, weights, antenna1, antenna2 = data
    hands, slot, channels, block_of_channel = index
    cross, power = sums
    for i in range(rows.shape[0]):
        row = rows[i]
        first, second, baseline = antenna1[row], antenna2[row], slot[row]
        for p in range(hands.shape[0]):
            corr = hands[p]
            weight = weights[row, corr]
            if weight <= 0.0:
                continue
            for k in range(channels.shape[0]):
                chan, block = channels[k], block_of_channel[k]
                if flags[row, chan, corr]:
                    continue
                model = predicted[i, k] * gains[first, chan, p] * np.conj(gains[second, chan, p])
                cross[baseline, block, p] += weight * vis[row, chan, corr] * np.conj(model)
                power[baseline, block, p] += weight * (model.real * model.real + model.imag * model.imag)
