"""Imaging weights: natural, uniform and Briggs' compromise between them.

What belongs here: factors that multiply the statistical weights. Method: the statistical weights of all bands are
summed on one grid of uv cells whose side is the reciprocal of the field of view; with W the sum in a datum's cell,
its weight is divided by 1 + W f^2, where ::

    f^2 = (5 * 10^-robust)^2 / (sum over cells W^2 / sum over data w)

(D. Briggs, PhD thesis 1995, chapter 3). Robust -2 is uniform and +2 natural weighting, nearly. One grid for
all bands ("multi-frequency synthesis weights") gives the full band its best beam; per-band grids, the alternative,
would make the noise of the joint image worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.threads import in_threads, slices


@numba.njit(cache=True, nogil=True)
def _uv_density(
    uvw_m: NDArray[np.float64],
    inverse_wavelength: NDArray[np.float64],
    weights: NDArray[np.float32],
    cells_per_wavelength: tuple[float, float],
    density: NDArray[np.float32],
) -> None:
    """Sum weights on the half plane v >= 0; shape of density (n_v + 1, 2 n_u + 1)."""
    n_u = density.shape[1] // 2
    for row in range(uvw_m.shape[0]):
        u, v = uvw_m[row, 0] * cells_per_wavelength[0], uvw_m[row, 1] * cells_per_wavelength[1]
        if v < 0:
            u, v = -u, -v
        for chan in range(inverse_wavelength.size):
            i = int(np.floor(u * inverse_wavelength[chan] + 0.5)) + n_u
            j = int(v * inverse_wavelength[chan] + 0.5)
            density[j, i] += weights[row, chan]


@numba.njit(cache=True, nogil=True)
def _divide_by_density(
    uvw_m: NDArray[np.float64],
    inverse_wavelength: NDArray[np.float64],
    weights: NDArray[np.float32],
    cells_per_wavelength: tuple[float, float],
    density: NDArray[np.float32],
    f_squared: float,
    out: NDArray[np.float32],
) -> None:
    n_u = density.shape[1] // 2
    for row in range(uvw_m.shape[0]):
        u, v = uvw_m[row, 0] * cells_per_wavelength[0], uvw_m[row, 1] * cells_per_wavelength[1]
        if v < 0:
            u, v = -u, -v
        for chan in range(inverse_wavelength.size):
            i = int(np.floor(u * inverse_wavelength[chan] + 0.5)) + n_u
            j = int(v * inverse_wavelength[chan] + 0.5)
            out[row, chan] = weights[row, chan] / (1.0 + density[j, i] * f_squared)


def imaging_weights(
    uvw_m: NDArray[np.float64],
    frequency_hz: Sequence[NDArray[np.float64]],
    weights: Sequence[NDArray[np.float32]],
    *,
    robust: float,
    field_rad: tuple[float, float],
    n_threads: int = 0,
) -> list[NDArray[np.float32]]:
    """Briggs weights of the visibilities of one or several bands, which share the density grid.

    Parameters
    ----------
    uvw_m : array of float, shape (n_row, 3)
        Baseline coordinates, m.
    frequency_hz : sequence of array of float, each of shape (n_chan,)
        Frequencies of each band, Hz.
    weights : sequence of array of float32, each of shape (n_row, n_chan)
        Statistical weights of each band, 0 = flagged.
    robust : float
        Robustness, -2 to 2.
    field_rad : tuple of float
        Field of view along RA and declination, rad: the reciprocal of the cell of the density grid.
    n_threads : int
        0 for all cores.

    Returns
    -------
    list of array of float32, each of shape (n_row, n_chan)
    """
    scales = [np.asarray(frequency, dtype=np.float64) / SPEED_OF_LIGHT_M_S for frequency in frequency_hz]
    highest = max(scale.max() for scale in scales)
    reach = np.abs(uvw_m[:, :2]).max(axis=0) * highest * np.asarray(field_rad)
    density = np.zeros((int(reach[1]) + 3, 2 * (int(reach[0]) + 2) + 1), dtype=np.float32)
    for scale, band in zip(scales, weights, strict=True):
        _uv_density(uvw_m, scale, band, field_rad, density)
    total = sum(float(band.sum(dtype=np.float64)) for band in weights)
    mean_density = float(np.sum(density**2, dtype=np.float64)) / total
    f_squared = (5.0 * 10.0**-robust) ** 2 / mean_density
    factors = []
    for scale, band in zip(scales, weights, strict=True):
        out = np.empty_like(band)

        def divide(
            rows: slice,
            scale: NDArray[np.float64] = scale,
            band: NDArray[np.float32] = band,
            out: NDArray[np.float32] = out,
        ) -> None:
            _divide_by_density(uvw_m[rows], scale, band[rows], field_rad, density, f_squared, out[rows])

        in_threads(divide, slices(len(uvw_m), n_threads), n_threads)
        factors.append(out)
    return factors
