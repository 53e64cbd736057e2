"""The noise an image should have.

What belongs here: the radiometer equation, and the propagation of the visibilities' own noise through the imaging
weights. The noise an image *has* is measured in ``noise``.

Radiometer: sigma = SEFD / (eta sqrt(N (N - 1) n_pol B t)) for N antennas, natural weights (Thompson, Moran & Swenson
2017, eq. 6.62). Weights: with sigma_k^2 the variance of the real part of visibility k and W_k its imaging
weight, sigma^2 = sum W_k^2 sigma_k^2 / (sum W_k)^2. The variance is taken as s / w_k, where the scale s comes from the
median of |residual|^2 w, so that weights known only up to a factor serve too and interference does not disturb.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def radiometer_rms_jy(
    sefd_jy: float,
    *,
    n_antennas: int,
    n_polarisations: int,
    bandwidth_hz: float,
    duration_s: float,
    efficiency: float = 1.0,
) -> float:
    """Thermal rms of a naturally weighted Stokes I image, Jy/beam.

    Parameters
    ----------
    sefd_jy : float
        System equivalent flux density of one antenna and polarisation, Jy.
    n_antennas, n_polarisations : int
    bandwidth_hz, duration_s : float
        Unflagged bandwidth and integration time.
    efficiency : float
        Of the correlator, 0 to 1.

    Returns
    -------
    float

    Examples
    --------
    >>> rms_jy = radiometer_rms_jy(5800, n_antennas=96, n_polarisations=2, bandwidth_hz=187.5e6, duration_s=309)
    >>> round(1e3 * rms_jy, 3)
    0.178
    """
    samples = n_antennas * (n_antennas - 1) * n_polarisations * bandwidth_hz * duration_s
    return float(sefd_jy / (efficiency * np.sqrt(samples)))


@numba.njit(cache=True, nogil=True)
def _weight_sums(imaging: NDArray[np.float32], statistical: NDArray[np.float32]) -> tuple[float, float]:
    total, variance = 0.0, 0.0
    for row in range(imaging.shape[0]):
        for chan in range(imaging.shape[1]):
            if statistical[row, chan] > 0:
                total += imaging[row, chan]
                variance += imaging[row, chan] ** 2 / statistical[row, chan]
    return total, variance


def propagated_rms_jy(imaging_weights: NDArray[np.float32], weights: NDArray[np.float32], scale: float) -> float:
    """Rms of an image from its visibilities' noise, Jy/beam; NaN without weight.

    Parameters
    ----------
    imaging_weights, weights : array of float32, shape (n_row, n_chan)
        Imaging weights and statistical weights.
    scale : float
        Variance of the real part times the statistical weight, see ``noise_scale``; 1 for true 1/sigma^2.
    """
    total, variance = _weight_sums(imaging_weights, weights)
    return float(np.sqrt(scale * variance) / total) if total > 0 else float("nan")


def noise_scale(residual_vis: NDArray[np.complex64], weights: NDArray[np.float32], max_samples: int = 400_000) -> float:
    """Variance of the real part of visibilities in units of 1 / weight; NaN if all flagged.

    Taken from differences of neighbouring channels, in which what is left of the sky cancels, where there are two.

    Parameters
    ----------
    residual_vis : array of complex64, shape (n_row, n_chan)
        Visibilities without the sky.
    weights : array of float32, shape (n_row, n_chan)
        Statistical weights, 0 = flagged.
    max_samples : int
        Rows are left out evenly to use about this many data.
    """
    stride = max(1, residual_vis.shape[0] * residual_vis.shape[1] // max_samples)
    vis, weight = residual_vis[::stride], weights[::stride]
    if vis.shape[1] > 1:
        vis = vis[:, 1:] - vis[:, :-1]
        pair_sum = weight[:, 1:] + weight[:, :-1]
        weight = weight[:, 1:] * weight[:, :-1] / np.where(pair_sum > 0, pair_sum, 1.0)
    power = (np.abs(vis) ** 2 * weight)[weight > 0]
    # |noise|^2 is exponential with mean 2 sigma^2, so its median is 2 ln 2 sigma^2.
    return float(np.median(power) / (2.0 * np.log(2.0))) if power.size else float("nan")
