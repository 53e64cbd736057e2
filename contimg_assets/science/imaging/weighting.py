"""Imaging weights: natural, uniform and Briggs' compromise between them, and cuts in the length of baselines.

What belongs here: factors that multiply the statistical weights. Method: natural weights are the statistical weights
themselves, which give the lowest noise. For the others the statistical weights of all bands, and of their conjugates, are
summed on one grid of uv cells whose side is the reciprocal of the field of view; with W the sum in a datum's cell, its
weight is divided by W (uniform: every occupied cell counts the same) or by 1 + W f^2 (Briggs), where ::

    f^2 = (5 * 10^-robust)^2 / (sum over cells W^2 / sum over data w)

(D. Briggs, PhD thesis 1995, chapter 3). Robust -2 is uniform and +2 natural weighting, nearly. One grid for
all bands ("multi-frequency synthesis weights") gives the full band its best beam; per-band grids, the alternative,
would make the noise of the joint image worse.

Cuts are in wavelengths, not metres: the same angular scales are then missing at every frequency, and fluxes of
sub-bands stay comparable. What is cut has no weight at all, so that beam and expected noise follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.errors import NotEnoughDataError
from contimg_assets.science.threads import in_threads, slices


@numba.njit(cache=True, nogil=True)
def _uv_density(
    uvw_m: NDArray[np.float64],
    inverse_wavelength: NDArray[np.float64],
    weights: NDArray[np.float32],
    cells_per_wavelength: tuple[float, float],
    density: NDArray[np.float32],
) -> None:
    """Sum weights and those of the conjugates on the half plane v >= 0; shape of density (n_v + 1, 2 n_u + 1).

    The cells about v = 0 hold a datum or its conjugate, or both, whichever way a baseline is written.
    """
    n_u = density.shape[1] // 2
    for row in range(uvw_m.shape[0]):
        u, v = uvw_m[row, 0] * cells_per_wavelength[0], uvw_m[row, 1] * cells_per_wavelength[1]
        if v < 0:
            u, v = -u, -v
        for chan in range(inverse_wavelength.size):
            i = int(np.floor(u * inverse_wavelength[chan] + 0.5)) + n_u
            j = int(v * inverse_wavelength[chan] + 0.5)
            density[j, i] += weights[row, chan]
            if j == 0:
                density[0, 2 * n_u - i] += weights[row, chan]


@numba.njit(cache=True, nogil=True)
def _divide_by_density(
    uvw_m: NDArray[np.float64],
    inverse_wavelength: NDArray[np.float64],
    weights: NDArray[np.float32],
    cells_per_wavelength: tuple[float, float],
    density: NDArray[np.float32],
    f_squared: float,
    floor: float,
    out: NDArray[np.float32],
) -> None:
    """Divide weights by ``floor`` + density * ``f_squared``; 0 stays 0."""
    n_u = density.shape[1] // 2
    for row in range(uvw_m.shape[0]):
        u, v = uvw_m[row, 0] * cells_per_wavelength[0], uvw_m[row, 1] * cells_per_wavelength[1]
        if v < 0:
            u, v = -u, -v
        for chan in range(inverse_wavelength.size):
            i = int(np.floor(u * inverse_wavelength[chan] + 0.5)) + n_u
            j = int(v * inverse_wavelength[chan] + 0.5)
            divisor = floor + density[j, i] * f_squared
            out[row, chan] = weights[row, chan] / divisor if divisor > 0.0 else 0.0


def imaging_weights(
    uvw_m: NDArray[np.float64],
    frequency_hz: Sequence[NDArray[np.float64]],
    weights: Sequence[NDArray[np.float32]],
    *,
    weighting: str = "briggs",
    robust: float,
    field_rad: tuple[float, float],
    n_threads: int = 0,
) -> list[NDArray[np.float32]]:
    """Imaging weights of the visibilities of one or several bands, which share the density grid.

    Parameters
    ----------
    uvw_m : array of float, shape (n_row, 3)
        Baseline coordinates, m.
    frequency_hz : sequence of array of float, each of shape (n_chan,)
        Frequencies of each band, Hz.
    weights : sequence of array of float32, each of shape (n_row, n_chan)
        Statistical weights of each band, 0 = flagged.
    weighting : str
        briggs, natural or uniform.
    robust : float
        Robustness of Briggs weights, -2 to 2; the others have none.
    field_rad : tuple of float
        Field of view along RA and declination, rad: the reciprocal of the cell of the density grid.
    n_threads : int
        0 for all cores.

    Returns
    -------
    list of array of float32, each of shape (n_row, n_chan)
        Natural weights are the arrays given.
    """
    if weighting == "natural":
        return list(weights)
    scales = [np.asarray(frequency, dtype=np.float64) / SPEED_OF_LIGHT_M_S for frequency in frequency_hz]
    highest = max(scale.max() for scale in scales)
    reach = np.abs(uvw_m[:, :2]).max(axis=0) * highest * np.asarray(field_rad)
    density = np.zeros((int(reach[1]) + 3, 2 * (int(reach[0]) + 2) + 1), dtype=np.float32)
    for scale, band in zip(scales, weights, strict=True):
        _uv_density(uvw_m, scale, band, field_rad, density)
    floor, f_squared = (0.0, 1.0) if weighting == "uniform" else (1.0, _briggs_factor(weights, density, robust))
    factors = []
    for scale, band in zip(scales, weights, strict=True):
        out = np.empty_like(band)

        def divide(
            rows: slice,
            scale: NDArray[np.float64] = scale,
            band: NDArray[np.float32] = band,
            out: NDArray[np.float32] = out,
        ) -> None:
            _divide_by_density(uvw_m[rows], scale, band[rows], field_rad, density, f_squared, floor, out[rows])

        in_threads(divide, slices(len(uvw_m), n_threads), n_threads)
        factors.append(out)
    return factors


def _briggs_factor(weights: Sequence[NDArray[np.float32]], density: NDArray[np.float32], robust: float) -> float:
    """The f^2 of the module's formula."""
    total = sum(float(band.sum(dtype=np.float64)) for band in weights)
    squares: NDArray[np.float64] = np.sum(density**2, axis=1, dtype=np.float64)
    mean_density = float(squares[1:].sum() + 0.5 * squares[0]) / total
    return float((5.0 * 10.0**-robust) ** 2 / mean_density)


def cut_uv_range(
    uvw_m: NDArray[np.float64],
    frequency_hz: Sequence[NDArray[np.float64]],
    weights: Sequence[NDArray[np.float32]],
    uv_range_wavelengths: tuple[float, float],
) -> list[NDArray[np.float32]]:
    """Statistical weights of some bands, 0 where the projected baseline is outside a range (ends included).

    Parameters
    ----------
    uvw_m : array of float, shape (n_row, 3)
    frequency_hz : sequence of array of float, each of shape (n_chan,)
    weights : sequence of array of float32, each of shape (n_row, n_chan)
        Not changed.
    uv_range_wavelengths : tuple of float
        Shortest and longest baseline to keep.

    Raises
    ------
    NotEnoughDataError
        If the range leaves nothing of all bands.
    """
    shortest, longest = uv_range_wavelengths
    if shortest <= 0.0 and np.isinf(longest):
        return list(weights)
    length_m = np.hypot(uvw_m[:, 0], uvw_m[:, 1])
    cut = []
    for frequency, band in zip(frequency_hz, weights, strict=True):
        length = np.outer(length_m, frequency / SPEED_OF_LIGHT_M_S)
        cut.append(np.where((length >= shortest) & (length <= longest), band, np.float32(0.0)))
    if not any(band.any() for band in cut):
        low, high = (hz / SPEED_OF_LIGHT_M_S for hz in (frequency_hz[0][0], frequency_hz[-1][-1]))
        raise NotEnoughDataError(
            "imaging: no unflagged visibility is inside the uv range",
            got=f"a range of {shortest:g} to {longest:g} wavelengths",
            expected=f"some of the baselines of {length_m.min() * low:.4g} to {length_m.max() * high:.4g} wavelengths",
            remedy="Widen the uv range.",
            reason_code="empty_uv_range",
        )
    return cut
