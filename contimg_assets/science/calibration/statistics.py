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
from typing import Any

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
    channel_step: int,
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
    channel_step : int
        Every so many channels are used, from the first.
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
    used = slice(0, None, channel_step)
    frequency_hz = vis.frequency_hz[used]
    mapped = map_solutions(prior, vis)
    long_enough = np.hypot(vis.uvw_m[:, 0], vis.uvw_m[:, 1]) >= settings.min_baseline_m
    n_threads = thread_count(settings.n_threads)
    # Each thread owns some baselines, so that no two ever add to the same cell.
    bounds = np.linspace(0, len(baselines), n_threads + 1).astype(np.int64)
    for (time_mjd, rows), cell in zip(rows_by_time(vis), cell_of_time, strict=True):
        amplitude_jy = amplitudes(model, vis, int(rows[0]), primary_beam=settings.primary_beam)[:, used]
        known = gains_at(mapped, vis, time_mjd)[:, used].swapaxes(1, 2)
        gains = np.stack([known.real, known.imag], axis=2)
        shares = [rows[(slot[rows] >= a) & (slot[rows] < b) & long_enough[rows]] for a, b in itertools.pairwise(bounds)]
        sums = (statistics.cross[cell], statistics.power[cell])

        def add(share: NDArray[np.int64]) -> None:
            predicted = predict_rows(model, vis, share, frequency_hz, amplitude_jy)  # noqa: B023
            data = (vis.vis, vis.flags, vis.weights, vis.antenna1, vis.antenna2)
            _accumulate(share, data, predicted, gains, (hands, slot, channel_step, block_of_channel), sums)  # noqa: B023

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


_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": {"contract", "nsz"}}


@numba.njit(**_OPTIONS)
def _accumulate(rows, data, predicted, gains, index, sums):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add rows to the sums of one time cell.

    ``data`` is (vis, flags, weights, antenna1, antenna2), ``index`` is (hands, slot of each row, step of the channels,
    block of each of these), ``sums`` is (cross, power) of shape (baseline, block, corr); ``gains`` (antenna, corr,
    real and imaginary, chan) multiply the prediction. Kernels take tuples where numba cannot take dataclasses.
    """
    vis, flags, weights, antenna1, antenna2 = data
    hands, slot, step, block_of_channel = index
    cross, power = sums
    work = np.empty((3, predicted.shape[1]), dtype=np.float32)
    for i in range(rows.shape[0]):
        row = rows[i]
        first, second, baseline = antenna1[row], antenna2[row], slot[row]
        for p in range(hands.shape[0]):
            corr = hands[p]
            weight = weights[row, corr]
            if weight > 0.0:
                _take(vis[row, ::step, corr], flags[row, ::step, corr], weight, work)
                _compare(predicted[i], gains[first, p], gains[second, p], work)
                _add_blocks(block_of_channel, work, cross[baseline, :, p], power[baseline, :, p])


@numba.njit(**_OPTIONS)
def _take(vis: NDArray[np.complex64], flags: NDArray[np.bool_], weight: np.float32, work: NDArray[np.float32]) -> None:
    """Real part, imaginary part and weight of each channel, all 0 where flagged."""
    real, imag, weights = work[0], work[1], work[2]
    for k in range(real.shape[0]):
        is_bad = flags[k]
        real[k] = np.float32(0.0) if is_bad else vis[k].real
        imag[k] = np.float32(0.0) if is_bad else vis[k].imag
        weights[k] = np.float32(0.0) if is_bad else weight


@numba.njit(**_OPTIONS)
def _compare(
    predicted: NDArray[np.complex64],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    work: NDArray[np.float32],
) -> None:
    """Turn data and weights into w V conj(M) and w |M|^2; the model is the prediction times g_1 conj(g_2)."""
    first_real, first_imag, second_real, second_imag = first[0], first[1], second[0], second[1]
    real, imag, weights = work[0], work[1], work[2]
    for k in range(predicted.shape[0]):
        gain_real = first_real[k] * second_real[k] + first_imag[k] * second_imag[k]
        gain_imag = first_imag[k] * second_real[k] - first_real[k] * second_imag[k]
        model_real = predicted[k].real * gain_real - predicted[k].imag * gain_imag
        model_imag = predicted[k].real * gain_imag + predicted[k].imag * gain_real
        x, y, weight = real[k], imag[k], weights[k]
        real[k] = weight * (x * model_real + y * model_imag)
        imag[k] = weight * (y * model_real - x * model_imag)
        weights[k] = weight * (model_real * model_real + model_imag * model_imag)


@numba.njit(**_OPTIONS)
def _add_blocks(
    block_of_channel: NDArray[np.int64],
    work: NDArray[np.float32],
    cross: NDArray[np.complex64],
    power: NDArray[np.float32],
) -> None:
    """Add channels to their blocks, one after the other."""
    if cross.shape[0] == block_of_channel.shape[0]:
        for k in range(cross.shape[0]):
            cross[k] += complex(work[0, k], work[1, k])
            power[k] += work[2, k]
        return
    for k in range(block_of_channel.shape[0]):
        block = block_of_channel[k]
        cross[block] += complex(work[0, k], work[1, k])
        power[block] += work[2, k]
